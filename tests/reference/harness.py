"""Runs a learner beside its reference and compares them; see the package's text for how to write a reference."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.registry import find_method
from marlzoo.spec import ActionKind, Spec
from marlzoo.training.trainer import make_sampler

UPDATES = 5
SEEDS = (3, 4)
# What marlzoo.objectives reports of every learner; it has tests of its own.
DIAGNOSTICS = (
    "value/data_mean",
    "weight/ess",
    "weight/exponent_q",
    "policy/data_log_prob",
    "policy/saturation",
)
RELATIVE = 1e-9
# Of metrics, and of parameters: Adam divides by the gradient's size, so where a gradient is nearly zero its rounding
# (1e-17) moves the parameter by lr 1e-17 / 1e-8.
ABSOLUTE, ABSOLUTE_STEP = 1e-11, 1e-9
DOUBLE = torch.float64

# Small networks, and settings that differ between the two replicas: steps large enough to show, one replica whose
# gradients are clipped and one whose are not. Settings that a method does not have are left out.
SETTINGS: Mapping[str, Any] = {
    **{"batch_size": 6, "hidden": 8, "mixer_hidden": 5, "mixer_embed": 4, "critic_hidden": 7},
    **{"gamma": [0.97, 0.8], "lr": [3e-3, 1e-2], "tau": [0.05, 0.3], "grad_clip": [0.2, 1e3]},
}


@dataclass(frozen=True)
class Case:
    """One form of a method.

    Args:
        kind: of the actions.
        settings: by name; a list gives each replica its own value.
        scale: factors of the parameters of modules, such as ``{"actor": 4.0}``, so that bounds are met.
        shift: what is added to them, after that.
        agent_rewards: every agent has a reward of its own; the team's is their mean.
        all_terminal: no episode of the data is cut or ends at the time limit.
    """

    kind: ActionKind
    settings: Mapping[str, Any] = field(default_factory=dict)
    scale: Mapping[str, float] = field(default_factory=dict)
    shift: Mapping[str, float] = field(default_factory=dict)
    agent_rewards: bool = True
    all_terminal: bool = False

    def __str__(self) -> str:
        return "-".join((self.kind, *(f"{name}={value}" for name, value in self.settings.items())))


# ---- task and data ---------------------------------------------------------------------------------------


def task(case: Case) -> Spec:
    """Three agents that differ in observation and action size, episodes of at most five steps."""
    sizes = (2, 1, 3) if case.kind == "continuous" else (4, 2, 3)
    return Spec(
        n_agents=3,
        obs_size=5,
        state_size=6,
        action_kind=case.kind,
        action_size=max(sizes),
        horizon=5,
        obs_sizes=(5, 3, 4),
        action_sizes=sizes,
        reward_per_agent=case.agent_rewards,
    )


@functools.cache
def random_data(spec: Spec, seed: int, episodes: int = 12, all_terminal: bool = False) -> Dataset:
    """Episodes of one to five steps: terminal, at the time limit, or cut; actions on the bounds; illegal actions.

    Final rows, which are also what sequences are padded with, hold a large reward and a random action: whatever
    counts them shows. Some states repeat wholly or in part.
    """
    rng, n = np.random.default_rng(seed), spec.n_agents
    lengths = np.concatenate(((1, 2, 5, 5), rng.integers(1, 6, episodes - 4)))
    starts = np.concatenate(([0], np.cumsum(lengths + 1)[:-1]))
    rows = int((lengths + 1).sum())
    ends = starts + lengths
    terminal, truncated = np.zeros(rows, bool), np.zeros(rows, bool)
    if all_terminal:
        terminal[ends - 1] = True
    else:  # every second; one in four is a time limit, and one in four is cut without a flag
        terminal[ends[::2] - 1], truncated[ends[3::4] - 1] = True, True
    obs = rng.normal(size=(rows, n, spec.obs_size)) * sizes_mask(spec.obs_sizes, spec.obs_size)
    used = sizes_mask(spec.action_sizes, spec.action_size)
    action_mask = None
    action: Any
    if spec.discrete:
        action_mask = (rng.random((rows, n, spec.action_size)) < 0.6) & used
        action_mask[..., 0] |= ~action_mask.any(-1)
        action = np.where(action_mask, rng.random(action_mask.shape), -1.0).argmax(-1)
    else:
        action = np.clip(rng.normal(scale=0.7, size=(rows, n, spec.action_size)), -1.0, 1.0) * used
        action[rng.random(action.shape) < 0.05] = 1.0
        action = action * used
    state = rng.normal(size=(rows, spec.state_size))
    repeats = [row for row in range(1, rows) if row not in starts]  # of the state before, wholly or in part
    state[repeats[::5]] = state[[row - 1 for row in repeats[::5]]]
    state[repeats[2::5], 1:] = state[[row - 1 for row in repeats[2::5]], 1:]
    rewards = rng.normal(size=(rows, n) if spec.reward_per_agent else rows)
    data = Dataset.create(
        spec,
        obs=obs,
        state=state,
        action=action,
        reward=rewards,
        terminal=terminal,
        truncated=truncated,
        starts=starts,
        action_mask=action_mask,
        card=Card(task="toy/reference", source="test"),
    )
    data.reward[ends] = 50.0
    data.action[ends] = np.roll(action, 7, axis=0)[ends]
    return data


def sizes_mask(sizes: Sequence[int], largest: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """``[N, largest]``: True for entries that an agent has."""
    return np.arange(largest) < np.array(sizes)[:, None]


# ---- the reference's side: parameters and how they move ----------------------------------------------------


class Adam:
    """Adam (Kingma and Ba 2015, algorithm 1) with betas 0.9 and 0.999."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        self.values, self.count = list(values), 0
        self.first = [torch.zeros_like(value) for value in values]
        self.second = [torch.zeros_like(value) for value in values]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor], lr: float, eps: float = 1e-8) -> None:
        """One step down these gradients."""
        self.count += 1
        for value, gradient, m, v in zip(self.values, gradients, self.first, self.second, strict=True):
            m.copy_(0.9 * m + 0.1 * gradient)
            v.copy_(0.999 * v + 0.001 * gradient**2)
            m_hat = m / (1.0 - 0.9**self.count)
            v_hat = v / (1.0 - 0.999**self.count)
            value -= lr * m_hat / (v_hat.sqrt() + eps)


def clipped(gradients: Sequence[Tensor], bound: float) -> tuple[list[Tensor], float]:
    """Gradients scaled so that their joint norm is at most ``bound``, and that norm before."""
    norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
    factor = min(1.0, bound / (norm + 1e-6))
    return [factor * gradient for gradient in gradients], norm


class Replica:
    """One replica of a learner as the reference sees it.

    Attributes:
        spec: the task's shape.
        config: this replica's settings.
        values: parameters and buffers by their name in the learner, without the replica axis.
        optimizers: by group.
        memory: whatever a reference wants to keep from update to update.
    """

    def __init__(self, learner: Algorithm, r: int) -> None:
        self.spec = learner.spec
        self.config: Any = learner.configs[r]
        whole = learner.state_dict()
        shared: dict[int, Tensor] = {}  # a parameter that has several names is one here too
        self.values = {
            name: shared.setdefault(whole[name].data_ptr(), value.clone())
            for name, value in row_of(whole, r).items()
        }
        for name, _ in learner.named_parameters():
            self.values[name].requires_grad_()
        self.optimizers: dict[str, Adam] = {}
        self.memory: dict[str, Any] = {}
        self._named: dict[tuple[int, tuple[str, ...]], list[str]] = {}

    def named(self, *modules: str) -> list[str]:
        """Names of the parameters of modules, in the learner's order; a parameter may be named itself."""
        key = len(self.values), modules  # asked for every layer of every sample
        if key not in self._named:
            self._named[key] = [
                name
                for module in modules
                for name, value in self.values.items()
                if value.requires_grad and (name == module or name.startswith(f"{module}."))
            ]
        return self._named[key]

    def layers(self, module: str, *member: int) -> list[tuple[Tensor, Tensor]]:
        """``(weight [in, out], bias [out])`` of every linear layer of a module; ``member``: of a stack's axes."""
        weights = [name for name in self.named(module) if name.endswith(".weight")]
        pairs = []
        for name in weights:
            weight = self.values[name][member]
            bias = self.values.get(name.removesuffix("weight") + "bias")
            offset = torch.zeros(1, weight.shape[-1], dtype=DOUBLE) if bias is None else bias[member]
            assert weight.ndim == 2, f"{name} is a stack {list(weight.shape)}; say which member"
            pairs.append((weight, offset.squeeze(0)))
        assert pairs, f"no layer in {module!r}; there are {sorted({n.split('.')[0] for n in self.values})}"
        return pairs

    def gradients(self, loss: Tensor, *modules: str) -> list[Tensor]:
        """Of a loss with respect to the parameters of modules (zero where it does not depend on one)."""
        values = [self.values[name] for name in self.named(*modules)]
        found = torch.autograd.grad(loss, values, retain_graph=True, allow_unused=True)
        return [torch.zeros_like(v) if g is None else g for v, g in zip(values, found, strict=True)]

    def step(
        self,
        lr: Mapping[str, float] | None = None,
        eps: float = 1e-8,
        moves: bool = True,
        **losses: tuple[Any, ...],
    ) -> dict[str, float]:
        """Take all gradients, then clip each group's to ``grad_clip`` and let its Adam step.

        Args:
            lr: of groups whose step size is not the setting ``lr``.
            eps: Adam's.
            moves: False: only report the norms, as learners do that take a step in some updates only.
            losses: ``group=(loss, module, ...)``, the modules that this loss trains.

        Returns:
            Norms before clipping, ``grad_norm/<group>``.
        """
        found = {group: self.gradients(loss, *modules) for group, (loss, *modules) in losses.items()}
        norms = {}
        for group, (_, *modules) in losses.items():
            gradients, norms[f"grad_norm/{group}"] = clipped(found[group], self.config.grad_clip)
            if moves:
                self.adam(group, *modules).step(gradients, (lr or {}).get(group, self.config.lr), eps)
        return norms

    def adam(self, group: str, *modules: str) -> Adam:
        """The optimizer of a group, made at its first use."""
        if group not in self.optimizers:
            self.optimizers[group] = Adam([self.values[name] for name in self.named(*modules)])
        return self.optimizers[group]

    @torch.no_grad()
    def soft_update(self, target: str, online: str, tau: float) -> None:
        """``target <- tau online + (1 - tau) target``."""
        for old, new in zip(self.named(target), self.named(online), strict=True):
            self.values[old].copy_(tau * self.values[new] + (1.0 - tau) * self.values[old])

    def hard_update(self, target: str, online: str) -> None:
        """``target <- online``."""
        self.soft_update(target, online, 1.0)


# ---- the learner's side ------------------------------------------------------------------------------------


def make_learner(method: str, case: Case) -> Algorithm:
    """Two replicas with random parameters; targets differ from the online networks from the start."""
    known = setting_names(method)
    settings = {name: value for name, value in SETTINGS.items() if name in known} | dict(case.settings)
    learner = marlzoo.make(method, task(case), seeds=list(SEEDS), dtype=DOUBLE, **settings)
    source = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, value in learner.named_parameters():
            value.add_(0.2 * torch.randn(value.shape, generator=source, dtype=DOUBLE))
            value.mul_(named_in(case.scale, name, 1.0))
            value.add_(named_in(case.shift, name, 0.0))
    return learner


def named_in(numbers: Mapping[str, float], name: str, otherwise: float) -> float:
    """The number given for the module that a parameter belongs to."""
    given = [x for module, x in numbers.items() if name == module or name.startswith(f"{module}.")]
    return given[0] if given else otherwise


@functools.cache
def setting_names(method: str) -> frozenset[str]:
    """Of a method's configuration."""
    return frozenset(setting.name for setting in dataclasses.fields(find_method(method).config_class))


def logged_batches(learner: Algorithm, data: Sequence[Dataset]) -> Iterator[Batch]:
    """What the trainer's sampler draws, replica r from ``data[r]``."""
    sampler = make_sampler(learner, data)
    while True:
        yield sampler.next()


def row_of(tensors: Mapping[str, Tensor], r: int) -> dict[str, Tensor]:
    """Replica r's part; what has no replica axis is shared."""
    rows = len(SEEDS)
    return {k: v.detach()[r] if v.ndim and len(v) == rows else v.detach() for k, v in tensors.items()}


def batch_of(batch: Batch, r: int) -> SimpleNamespace:
    """Replica r's part of a batch: its fields, and ``noise`` by name."""
    names = [name for cls in type(batch).__mro__ for name in getattr(cls, "__slots__", ())]
    fields = {name: getattr(batch, name) for name in names if name != "noise" and hasattr(batch, name)}
    return SimpleNamespace(**row_of(fields, r), noise=row_of(batch.noise, r))


@dataclass
class Seen:
    """One step of an episode in which a policy acts.

    Attributes:
        obs: ``[N, O]``.
        action_mask: ``[N, A]`` bool where actions are discrete.
        action: what was done, ``[N, A]`` or ``[N]``; None in the last step, whose action is asked for.
    """

    obs: Tensor
    action_mask: Tensor | None
    action: Tensor | None = None


# ---- the comparison ----------------------------------------------------------------------------------------


def compare(method: str, reference: ModuleType, case: Case) -> None:
    """Five updates of learner and reference.

    Raises:
        AssertionError: with the update, the replica and the place of the first differences.
    """
    learner = make_learner(method, case)
    replicas = range(len(SEEDS))
    data = [random_data(learner.spec, seed, all_terminal=case.all_terminal) for seed in SEEDS]
    own = [Replica(learner, r) for r in replicas]
    if hasattr(reference, "make_batches"):
        batches = iter(reference.make_batches(learner, UPDATES))
    else:
        batches = logged_batches(learner, data)
    learner.prepare(data, logged_batches(learner, data))
    if hasattr(reference, "prepare"):
        for r in replicas:
            drawn = (batch_of(batch, r) for batch in logged_batches(learner, data))
            reference.prepare(own[r], data[r], drawn)
    for update in range(1, UPDATES + 1):
        batch = next(batches)
        given = [batch_of(batch, r) for r in replicas]  # before the learner sees it: it must not matter
        metrics = learner.update(batch)
        learner.updates += 1
        found = []
        for r in replicas:
            expected = scalars(reference.update(own[r], given[r]))
            found += differences(f"replica {r}: metric", row_of(metrics, r), expected)
            found += differences(
                f"replica {r}:", row_of(learner.state_dict(), r), own[r].values, ABSOLUTE_STEP
            )
        assert not found, f"{method}, {case}: after update {update}\n" + "\n".join(found)
    if hasattr(reference, "act"):
        compare_actions(learner, reference, own, data)


def compare_actions(
    learner: Algorithm, reference: ModuleType, own: Sequence[Replica], data: Sequence[Dataset]
) -> None:
    """What the deployed policy does in three steps of two episodes, without noise."""
    policy, steps, envs = learner.policy(), 3, 2
    policy.reset(envs)
    past: list[list[list[Seen]]] = [[[] for _ in range(envs)] for _ in own]
    for t in range(steps):
        rows = np.arange(envs) * steps + t
        obs = torch.stack([torch.from_numpy(d.obs[rows]).to(DOUBLE) for d in data])
        masks = [torch.from_numpy(d.action_mask[rows]) for d in data if d.action_mask is not None]
        action_mask = torch.stack(masks) if masks else None
        action = policy.act(obs, action_mask).detach()
        for r, replica in enumerate(own):
            for e in range(envs):
                past[r][e].append(Seen(obs[r, e], None if action_mask is None else action_mask[r, e]))
                with torch.no_grad():
                    expected = torch.stack([torch.as_tensor(a) for a in reference.act(replica, past[r][e])])
                if (
                    not learner.spec.discrete
                ):  # a reference may give whole outputs; actions are padded with zeros
                    sizes = torch.tensor(learner.spec.action_sizes).unsqueeze(-1)
                    expected[torch.arange(expected.shape[-1]) >= sizes] = 0.0
                found = differences(f"step {t}, replica {r}:", {"action": action[r, e]}, {"action": expected})
                assert not found, "the policy differs\n" + "\n".join(found)
                past[r][e][-1].action = action[r, e]


def scalars(metrics: Mapping[str, Tensor | float]) -> dict[str, Tensor]:
    """Metrics as float64 tensors without axes."""
    return {name: torch.as_tensor(value, dtype=DOUBLE) for name, value in metrics.items()}


def differences(
    place: str,
    learner: Mapping[str, Tensor],
    reference: Mapping[str, Tensor],
    absolute: float = ABSOLUTE,
) -> list[str]:
    """One line for each name that is on one side only or whose numbers differ."""
    # Diagnostics have closed forms of their own, in tests/test_diagnostics.py.
    lacking = {name for name in learner.keys() - reference.keys() if not name.startswith(DIAGNOSTICS)}
    found = [f"{place} {name} is missing in the reference" for name in lacking]
    found += [f"{place} {name} is missing in the learner" for name in reference.keys() - learner.keys()]
    both = sorted(learner.keys() & reference.keys())
    if not found and all(learner[name].shape == reference[name].shape for name in both):
        mine, theirs = (
            torch.cat([side[name].detach().flatten() for name in both]) for side in (learner, reference)
        )
        if torch.allclose(mine.to(DOUBLE), theirs.to(DOUBLE), RELATIVE, absolute):
            return []
    for name in both:
        mine, theirs = learner[name].detach(), reference[name].detach()
        if mine.shape != theirs.shape:
            found.append(f"{place} {name}: learner {list(mine.shape)}, reference {list(theirs.shape)}")
            continue
        mine, theirs = mine.to(DOUBLE), theirs.to(DOUBLE)
        wrong = ~torch.isclose(mine, theirs, rtol=RELATIVE, atol=absolute, equal_nan=False)
        if wrong.any():
            index = tuple(int(i) for i in wrong.nonzero()[0])
            a, b = float(mine[index]), float(theirs[index])
            found.append(
                f"{place} {name}{list(index) or ''}: learner {a!r}, reference {b!r} (difference {a - b:.2e}, "
                f"{int(wrong.sum())} of {wrong.numel()} entries differ)"
            )
    return sorted(found)
