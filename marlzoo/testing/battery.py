"""Checks that every registered method passes; see :func:`battery`.

A failed check raises ``AssertionError`` (or what the method itself raised).
"""

from __future__ import annotations

import ast
import dataclasses
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.config import Config, is_numeric
from marlzoo.data.sampler import Sampler
from marlzoo.deployment.step import PolicyStep, example_inputs, hides_state, next_inputs
from marlzoo.errors import ConfigError, ExportError, SpecError
from marlzoo.modules.policies import Policy
from marlzoo.registry import find_method, make, unread_settings
from marlzoo.replicas import GivenRandom, Kind, ReplicaRandom
from marlzoo.spec import ActionKind
from marlzoo.testing.cases import SMALL, UPDATES, Case, cases, own_sizes, updated_by_hand
from marlzoo.testing.compile_checks import update_is_one_graph
from marlzoo.testing.online_checks import (
    online_lockstep_equals_single_runs,
    online_nan_stays_in_its_replica,
    online_resumes_exactly,
)
from marlzoo.testing.states import assert_equal_state, assert_same_replica, assert_same_rows
from marlzoo.testing.toys import TOYS, Toys
from marlzoo.training import checkpoint
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import make_sampler, train


@dataclass(frozen=True)
class Check:
    """One check of one method: call it with a folder that it may write to."""

    name: str
    run: Callable[[Path], None]

    def __str__(self) -> str:
        return self.name

    def __call__(self, folder: Path) -> None:
        """Raises ``AssertionError`` where the method fails."""
        self.run(folder)


def battery(method: str, toys: Toys = TOYS, sizes: Mapping[str, Any] = SMALL) -> list[Check]:
    """All checks of a method: each of its forms on each of its action kinds, and what holds for it as a whole.

    Args:
        method: its name; it must be registered.
        toys: task and data.
        sizes: settings that keep the learner small.
    """
    whole = [Check(f"{c.__name__}-{method}", partial(_whole, c, method, toys, sizes)) for c in METHOD_CHECKS]
    own = ONLINE_CHECKS if find_method(method).sampling == "online" else OFFLINE_CHECKS
    forms = [
        Check(f"{check.__name__}-{case}", partial(check, case))
        for check in (*CASE_CHECKS, *own)
        for case in cases(method, toys, sizes)
    ]
    return [*forms, *whole]


def learns_acts_and_resumes(case: Case, folder: Path) -> None:
    """Three updates move everything and stay finite; the policy acts legally; a stopped run resumes bit for bit."""
    whole = _learned(case)
    _check_padding(case, whole)
    returns = _returns(case, whole)
    data = case.dataset()
    file = folder / f"{case}.npz"
    train(case.learner((3, 4), dtype=torch.float32), data, updates=UPDATES - 1, checkpoint=file)
    resumed = case.learner((3, 4), dtype=torch.float32)
    train(resumed, data, updates=UPDATES, checkpoint=file)
    loaded = checkpoint.load_learner(file)
    assert loaded.updates == UPDATES
    assert_equal_state(whole, resumed)
    assert_equal_state(whole, loaded)
    np.testing.assert_array_equal(returns, _returns(case, loaded))
    _check_policy_parameters(case, whole, returns)


def learns_and_acts(case: Case, folder: Path) -> None:
    """Three rounds move everything and stay finite; the policy acts legally."""
    algorithm = _learned(case)
    _check_padding(case, algorithm)
    _check_policy_parameters(case, algorithm, _returns(case, algorithm))


def _learned(case: Case) -> Algorithm:
    """After some updates metrics and parameters are finite, and every parameter of every replica has moved."""
    algorithm = case.learner((3, 4), dtype=torch.float32)
    before = {k: v.detach().clone() for k, v in algorithm.named_parameters() if v.requires_grad}
    metrics = case.updated(algorithm, UPDATES)
    assert metrics
    for key, value in metrics.items():
        assert value.shape == (2,), key
        assert torch.isfinite(value).all(), key
        assert not value.requires_grad, key
    assert algorithm.finite().all()
    for key, value in algorithm.named_parameters():
        if value.requires_grad:
            changed = (value != before[key]).flatten(1).any(1)
            assert changed.all(), f"{key} did not move"
    return algorithm


def _returns(case: Case, algorithm: Algorithm) -> np.ndarray:
    """Three episodes of each replica; the environment asserts that actions are legal and within their bounds."""
    returns = evaluate(algorithm.policy(), case.toys.env(6, case.kind), seeds=[0, 1]).returns
    assert returns.shape == (2, 3)
    assert np.isfinite(returns).all()
    return returns


@torch.no_grad()
def _check_padding(case: Case, algorithm: Algorithm) -> None:
    """Acting with and without noise leaves zeros in the action dimensions that smaller agents lack."""
    if case.kind == "discrete":
        return
    policy = algorithm.policy()
    padding = algorithm.action_dimensions == 0
    obs = ReplicaRandom([0, 1], "observations").normal(4, algorithm.spec.n_agents, algorithm.spec.obs_size)
    for random in (None, ReplicaRandom([0, 1], "padding")):
        policy.reset(4)
        action = policy.act(obs.to(algorithm.device), None, random)
        assert not action[:, :, padding].any(), (
            "numbers in action dimensions that an agent does not have; give the policy used=self.action_dimensions"
        )


def _check_policy_parameters(case: Case, algorithm: Algorithm, returns: np.ndarray) -> None:
    """The policy's own parameters, loaded into a fresh learner's policy, give the same returns."""
    fresh = case.learner((2, 3), dtype=torch.float32)
    fresh.policy().load_state_dict(algorithm.policy().state_dict())
    np.testing.assert_array_equal(returns, _returns(case, fresh))


def lockstep_equals_single_runs(case: Case, folder: Path) -> None:
    """Two replicas that differ in seed, all settings and data equal two runs: start, rows, noise, 3 updates."""
    data = [case.dataset(seed=1), case.dataset(seed=2, episodes=20)]
    seeds = (7, 1)
    settings = _differing(case)
    together = case.learner(seeds, **settings)
    alone = [
        case.learner((seed,), **{k: v[row] for k, v in settings.items()}) for row, seed in enumerate(seeds)
    ]
    for row, single in enumerate(alone):
        assert_same_replica(together, row, single, rtol=0)
    if together.sampling == "sequence":
        assert len({int(d.lengths.max()) for d in data}) == 1  # windows are as long as the longest episode
    drawn = _second_batch(make_sampler(together, data))
    for row, single in enumerate(alone):
        own = _second_batch(make_sampler(single, [data[row]]))
        assert own.keys() == drawn.keys()
        for key, value in own.items():
            assert torch.equal(drawn[key][row], value[0]), key
    updated_by_hand(together, data, UPDATES)
    for row, single in enumerate(alone):
        updated_by_hand(single, data[row], UPDATES)
        assert_same_replica(together, row, single, rtol=1e-6)


def _differing(case: Case) -> dict[str, list[float]]:
    """For every setting that replicas need not share the case's own value, and another one that it allows.

    Settings that the method does not read have no other one.
    """
    method = find_method(case.method)
    cls = method.config_class
    unread = unread_settings(method)
    config = case.learner().config
    found = {}
    for name in (f.name for f in dataclasses.fields(cls) if is_numeric(cls, f.name) and f.name not in unread):
        own = getattr(config, name)
        for other in (0.7 * own, own + 0.05, 1.0):
            if other != own and _allowed(config, name, other):
                found[name] = [own, other]
                break
    return found


def _allowed(config: Config, name: str, value: float) -> bool:
    other: dict[str, Any] = {name: value}
    try:
        dataclasses.replace(config, **other)
    except ConfigError:
        return False
    return True


def nan_stays_in_its_replica(case: Case, folder: Path) -> None:
    """A replica whose data are NaN is marked as diverged and leaves its neighbors untouched."""
    clean = case.dataset()
    broken = case.dataset(nan_row=0)
    mixed = case.learner((0, 1))
    whole = case.learner((0, 1))
    updated_by_hand(mixed, [broken, clean], UPDATES)
    updated_by_hand(whole, [clean, clean], UPDATES)
    assert mixed.finite().tolist() == [False, True]
    assert_same_rows(mixed, whole, [1])


def evaluation_does_not_depend_on_neighbors(case: Case, folder: Path) -> None:
    """A replica's returns are those that it has when evaluated alone, whatever settings its neighbor has."""
    settings = _differing(case)
    together = case.learner((4, 8), **settings)
    alone = case.learner((8,), **{name: values[1] for name, values in settings.items()})
    both = evaluate(together.policy(), case.toys.env(6, case.kind), seeds=[4, 8], dtype=torch.float64)
    one = evaluate(alone.policy(), case.toys.env(3, case.kind), seeds=[8], dtype=torch.float64)
    np.testing.assert_allclose(both.returns[1], one.returns[0], rtol=1e-6)


def acts_as_an_exported_step(case: Case, folder: Path) -> None:
    """The policy as a pure function with hidden state and noise as inputs, as ``marlzoo export`` writes it."""
    algorithm = case.learner((0,), dtype=torch.float32)
    case.updated(algorithm, 1)
    policy = algorithm.policy()
    if hides_state(policy):
        _refuses_to_be_a_step(policy, algorithm)
        return
    step = PolicyStep(policy, algorithm.spec)
    generator = torch.Generator().manual_seed(0)
    inputs = example_inputs(step, 3, generator)
    episode = []
    with torch.no_grad():
        for _ in range(3):
            outputs = step(inputs)
            episode.append((inputs, outputs["action"]))
            inputs = next_inputs(step, outputs, generator)
        policy.reset(3)
        for given, action in episode:
            mask = given["action_mask"].unsqueeze(0) if algorithm.spec.discrete else None
            random: Any = GivenRandom([given[p.name].unsqueeze(0) for p in step.inputs if p.noise])
            acted = policy.act(given["obs"].unsqueeze(0), mask, random if policy.stochastic else None)
            torch.testing.assert_close(acted[0], action)


def new_episodes_forget_the_last(case: Case, folder: Path) -> None:
    """A copy whose episode begins anew acts as in its first step, the others as if nothing had happened."""
    algorithm = case.learner((0, 1))
    case.updated(algorithm, 1)
    spec = algorithm.spec
    obs = torch.randn(3, 2, 4, spec.n_agents, spec.obs_size, generator=torch.Generator().manual_seed(0))
    obs[2] = obs[0]  # so that the third step is a first step again
    every = torch.ones(2, 4, spec.n_agents, spec.action_size, dtype=torch.bool) if spec.discrete else None

    def acted(begun: Tensor | None) -> tuple[Tensor, Tensor]:
        policy = algorithm.policy()
        policy.reset(4)
        found = []
        for t in range(3):
            if t == 2 and begun is not None:
                policy.reset(4, begun)
            found.append(policy.act(obs[t].double(), every, _Even() if policy.stochastic else None))
            policy.receive(torch.full((2, 4), 0.5, dtype=torch.float64))
        return found[0], found[2]

    with torch.no_grad():
        first, later = acted(None)
        mask = torch.tensor([[False, True, False, False], [True, False, True, False]])
        for begun in (torch.tensor([1, 3]), mask):
            chosen = torch.zeros(2, 4, dtype=torch.bool)
            chosen[begun if begun.dtype == torch.bool else (slice(None), begun)] = True
            _, found = acted(begun)
            torch.testing.assert_close(found[chosen], first[chosen])
            torch.testing.assert_close(found[~chosen], later[~chosen])


class _Even(ReplicaRandom):
    """The same numbers at every call and for every copy."""

    def __init__(self) -> None:
        super().__init__((0, 1), "even", dtype=torch.float64)

    def draw(self, kind: Kind, *shape: int) -> Tensor:
        """Numbers that differ along the last axis only."""
        size = shape[-1]
        return ((torch.arange(size, dtype=torch.float64) + 0.5) / size).expand(self.replicas, *shape).clone()


def _refuses_to_be_a_step(policy: Policy, algorithm: Algorithm) -> None:
    try:
        PolicyStep(policy, algorithm.spec)
    except ExportError as error:
        assert "memory" in str(error)  # noqa: PT017 - the package does not need pytest
    else:
        raise AssertionError("a policy with a hidden memory was taken for a function")


def wrong_action_kind_is_one_clear_error(method: str, toys: Toys, sizes: Mapping[str, Any]) -> None:
    """A task of a kind that the method does not handle is refused when the learner is made."""
    for kind in {"continuous", "discrete"} - set(find_method(method).actions):
        try:
            make(method, toys.spec(cast("ActionKind", kind)))
        except SpecError as error:
            assert f"{method} handles" in str(error)  # noqa: PT017 - the package does not need pytest
        else:
            raise AssertionError(f"a task with {kind} actions was taken")


def presets_are_valid(method: str, toys: Toys, sizes: Mapping[str, Any]) -> None:
    """A learner can be made from every preset."""
    cls = find_method(method)
    for preset in cls.presets:
        for kind in cls.actions:
            make(method, toys.spec(kind), preset=preset, **own_sizes(method, sizes))


def _commented(text: str) -> set[str]:
    """Settings with a comment in their statement, or on the line above it."""
    lines = text.splitlines()
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            own = lines[node.lineno - 1 : node.end_lineno]
            if any("#" in line for line in own) or lines[node.lineno - 2].strip().startswith("#"):
                found.add(node.target.id)
    return found


def documented(method: str, toys: Toys, sizes: Mapping[str, Any]) -> None:
    """The module tells the paper's equations, the class points to it, every setting has its comment."""
    cls = find_method(method)
    module = sys.modules[cls.__module__]
    assert len(module.__doc__ or "") > 400, "the module's text must give the paper, its equations, departures"
    assert cls.__doc__
    commented = _commented(Path(str(module.__file__)).read_text(encoding="utf-8"))
    for setting in dataclasses.fields(cls.config_class):
        if setting.name in vars(cls.config_class).get("__annotations__", {}):
            assert setting.name in commented, f"setting {setting.name} has no comment"


CASE_CHECKS: tuple[Callable[[Case, Path], None], ...] = (
    evaluation_does_not_depend_on_neighbors,
    acts_as_an_exported_step,
    new_episodes_forget_the_last,
)
OFFLINE_CHECKS: tuple[Callable[[Case, Path], None], ...] = (
    lockstep_equals_single_runs,
    nan_stays_in_its_replica,
    learns_acts_and_resumes,
    update_is_one_graph,
)
ONLINE_CHECKS: tuple[Callable[[Case, Path], None], ...] = (
    online_lockstep_equals_single_runs,
    online_nan_stays_in_its_replica,
    online_resumes_exactly,
    learns_and_acts,
)
METHOD_CHECKS: tuple[Callable[[str, Toys, Mapping[str, Any]], None], ...] = (
    wrong_action_kind_is_one_clear_error,
    presets_are_valid,
    documented,
)


def _whole(
    check: Callable[[str, Toys, Mapping[str, Any]], None],
    method: str,
    toys: Toys,
    sizes: Mapping[str, Any],
    folder: Path,
) -> None:
    check(method, toys, sizes)


def _second_batch(sampler: Sampler) -> dict[str, Tensor]:
    """Fields and noise of the second batch, ``[R, ...]`` each."""
    sampler.next()
    batch = sampler.next()
    names = [*sampler.fields, *(("filled",) if batch.has("filled") else ())]
    return {**{n: getattr(batch, n) for n in names}, **{f"noise {n}": v for n, v in batch.noise.items()}}
