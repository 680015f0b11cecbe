"""OMAR against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from marlzoo.algorithms.omar import OMAR
from torch import Tensor, nn

import marlzoo
from marlzoo.batch import Batch
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import MLP, with_agent_id
from marlzoo.modules.teams import LinearMixer
from marlzoo.spec import ActionKind
from tests.fixed_nets import OBS, set_mixer, set_table, spec_of, transitions


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def learner(
    kind: ActionKind = "continuous", n: int = 2, actions: int = 2, size: int = 4, **more: Any
) -> OMAR:
    settings = {"hidden": 8, "mixer_hidden": 4, "batch_size": size, **more}
    algorithm = marlzoo.make("omar", spec_of(n, actions, kind), seeds=[0], dtype=torch.float64, **settings)
    assert isinstance(algorithm, OMAR)
    return algorithm


def batch_for(algorithm: OMAR, action: Any, seed: int = 1, **fields: Any) -> Batch:
    source = torch.Generator().manual_seed(seed)
    noise = {
        name: torch.rand(shape, generator=source)
        if kind == "uniform"
        else torch.randn(shape, generator=source)
        for name, (kind, shape) in algorithm.noise().items()
    }
    return transitions(action, noise=noise, seed=seed, **fields)


class Known(nn.Module):
    """Twin critics with known functions of the action, ``[R, 2, ..., N, 1]``."""

    def __init__(self, *functions: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.functions = functions

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        values = [torch.as_tensor(f(action), dtype=action.dtype) for f in self.functions]
        return torch.stack([v.expand(action.shape[:-1]) for v in values], 1).unsqueeze(-1)

    def first(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.forward(obs, action)[:, 0]


class Constant(nn.Module):
    """A policy that acts the same everywhere."""

    def __init__(self, value: float, actions: int) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((actions,), value, dtype=torch.float64))

    def forward(self, obs: Tensor, batch: bool = False) -> Tensor:
        return self.value.expand(*obs.shape[:-1], len(self.value))


def inert(algorithm: OMAR) -> dict[str, Tensor]:
    """Let updates take their losses only; returns where they are put."""
    losses: dict[str, Tensor] = {}

    def record(**given: Tensor) -> dict[str, Tensor]:
        losses.update(given)
        return {}

    algorithm.step = record  # type: ignore[method-assign]
    algorithm.soft_update = lambda *_: None  # type: ignore[method-assign]
    return losses


@pytest.mark.parametrize(
    ("mask", "mixed", "expected"), [(1, False, 3.97), (0, False, 1.0), (1, True, 8.6725)]
)
def test_target(mask: float, mixed: bool, expected: float) -> None:
    algorithm = learner(mixed=mixed)
    inert(algorithm)
    algorithm.target_q = Known(lambda a: 4.0, lambda a: 3.0)  # type: ignore[assignment]
    if mixed:
        assert isinstance(algorithm.target_mixer, LinearMixer)
        set_mixer(algorithm.target_mixer, (0.5, 2.0), 0.25)
    fields = {
        "reward": torch.ones(4),
        "agent_reward": torch.ones(4, 2),
        "mask": torch.full((4,), float(mask)),
    }
    metrics = algorithm.update(batch_for(algorithm, torch.zeros(4, 2, 2), **fields))
    assert float(metrics["critic/target"]) == pytest.approx(expected)


@pytest.mark.parametrize("mixed", [False, True])
def test_penalty_of_constant_values(mixed: bool) -> None:
    """Ten uniform samples, two dimensions: log 10 + 2 log 2 for each of two critics (and agents)."""
    algorithm = learner(policy_samples=False, mixed=mixed)
    inert(algorithm)
    algorithm.q = Known(lambda a: 5.0, lambda a: -2.0)  # type: ignore[assignment]
    metrics = algorithm.update(batch_for(algorithm, torch.zeros(4, 2, 2)))
    assert float(metrics["critic/penalty"]) == pytest.approx(4 * 3.688879, abs=1e-5)


def always_found(action: float, *shape: int) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """A search that finds the same action everywhere and thinks it the best."""
    found = torch.full(shape, action).double(), torch.full(shape[:-1], torch.inf).double()
    return lambda obs, noise: found


def test_policy_loss() -> None:
    """pi = .3, found .5, c = .9, Q = 2: .9 * .04 - .1 * 2 + .001 * .09."""
    algorithm = learner(n=1, actions=1, omar_coe=0.9)
    losses = inert(algorithm)
    algorithm.actor = Constant(0.3, 1)
    algorithm.q = Known(lambda a: 2.0, lambda a: 1.0)  # type: ignore[assignment]
    algorithm._search = always_found(0.5, 1, 4, 1, 1)  # type: ignore[method-assign]
    algorithm.update(batch_for(algorithm, torch.zeros(4, 1, 1)))
    assert float(losses["policy"].detach()) == pytest.approx(-0.16391, abs=1e-9)


@pytest.mark.parametrize("coe", [0.0, 1.0])
def test_weight_switches_between_gradient_and_search(coe: float) -> None:
    algorithm = learner(n=1, actions=1, omar_coe=coe, action_penalty=0.0)
    losses = inert(algorithm)
    actor = algorithm.actor = Constant(0.3, 1)
    algorithm.q = Known(lambda a: 7 * a[..., 0], lambda a: 0.0)  # type: ignore[assignment]
    algorithm._search = always_found(0.5, 1, 4, 1, 1)  # type: ignore[method-assign]
    algorithm.update(batch_for(algorithm, torch.zeros(4, 1, 1)))
    (gradient,) = torch.autograd.grad(losses["policy"].sum(), actor.value)
    assert float(gradient) == pytest.approx(2 * (0.3 - 0.5) if coe else -7.0)


@pytest.mark.parametrize("search", ["cem", "softmax"])
def test_search_finds_the_best_action_and_its_value(search: str) -> None:
    settings = {"search": search, "search_rounds": 3, "size": 64}
    algorithm = learner(n=1, actions=1, **settings)
    batch = batch_for(algorithm, torch.zeros(64, 1, 1))
    obs = with_agent_id(batch.obs)
    for peak in (0.5, -0.9, 0.123456):
        center = torch.tensor(peak)
        algorithm.q = Known(lambda a: -(a[..., 0] - center).square(), lambda a: 0.0)  # type: ignore # noqa: B023
        found, value = algorithm._search(obs, batch.noise["search"])
        assert float((found - peak).abs().mean()) < 0.15
        torch.testing.assert_close(value, -(found[..., 0] - peak).square())
        assert not found.requires_grad


def test_penalty_and_critic_do_not_reach_the_policy() -> None:
    moved = []
    for alpha in (0.0, 10.0):
        algorithm = learner(cql_alpha=alpha, omar_coe=1.0)
        algorithm._search = always_found(0.0, 1, 4, 2, 2)  # type: ignore[method-assign]
        algorithm.update(batch_for(algorithm, torch.full((4, 2, 2), 0.5)))
        moved.append([p.detach().clone() for p in algorithm.actor.parameters()])
    for a, b in zip(*moved, strict=True):
        torch.testing.assert_close(a, b)


def test_agents_are_independent_unless_mixed() -> None:
    for mixed in (False, True):
        found = []
        for value in (0.5, -0.5):
            algorithm = learner(mixed=mixed)
            action = torch.full((4, 2, 2), 0.5)
            action[:, 1] = value
            batch = batch_for(algorithm, action, reward=torch.ones(4), agent_reward=torch.ones(4, 2))
            batch.obs[:, :, 1] = value
            algorithm.update(batch)
            obs = with_agent_id(batch.obs)[:, :, :1].expand(1, 4, 2, OBS + 2)
            found.append(algorithm.q(obs, torch.zeros(1, 4, 2, 2).double())[..., 0, 0].detach())
        same = torch.allclose(found[0], found[1], atol=1e-4)
        assert same != mixed


def test_acting_uses_running_statistics() -> None:
    """A deployed policy's action does not depend on what else is in its batch."""
    algorithm = learner(input_norm="batch")
    for seed in range(5):
        algorithm.update(batch_for(algorithm, torch.full((4, 2, 2), 0.5), seed=seed))
    obs = torch.randn(1, 6, 2, OBS, generator=torch.Generator().manual_seed(0)).double()
    together, alone = algorithm.policy().act(obs), algorithm.policy().act(obs[:, :1])
    torch.testing.assert_close(together[:, :1], alone)


def test_learns_where_the_reward_is() -> None:
    """Uniform actions, reward -(a - .5)^2, one step: the policy goes to .5."""
    algorithm = learner(n=1, actions=1, size=64, hidden=32, lr=3e-3, cql_alpha=0.1)
    source = torch.Generator().manual_seed(0)
    for k in range(200):
        action = 2 * torch.rand(64, 1, 1, generator=source) - 1
        reward = -4 * (action[..., 0] - 0.5).square()
        algorithm.update(batch_for(algorithm, action, seed=k, agent_reward=reward, mask=torch.zeros(64)))
    acted = algorithm.policy().act(torch.randn(1, 20, 1, OBS, generator=source).double())
    assert abs(float(acted.detach().mean()) - 0.5) < 0.2


def discrete(**more: Any) -> OMAR:
    algorithm = learner("discrete", n=1, actions=3, size=1, **more)
    for network, values in (
        (algorithm.team.agents.network, (1.0, 2.0, 100.0)),
        (algorithm.target_team.agents.network, (10.0, 20.0, 30.0)),
        (algorithm.actor_net.network, (0.0, 0.0, 5.0)),
    ):
        assert isinstance(network, MLP)
        set_table(network, (values,))
    return algorithm


LEGAL = torch.tensor([[[True, True, False]]])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"omar_coe": 1.0}, math.log(2)),
        ({"omar_coe": 0.0}, -1.5),
        ({"omar_coe": 1.0, "imitation": "mse"}, (0.25 + 0.25) / 3),
        ({"omar_coe": 0.0, "policy_gradient": "coma"}, math.log(2) * (1.0 - 1.5)),
    ],
)
def test_discrete_policy_loss_leaves_illegal_actions_out(settings: dict[str, Any], expected: float) -> None:
    algorithm = discrete(**settings)
    losses = inert(algorithm)
    metrics = algorithm.update(transitions([[0]], actions=3, action_mask=LEGAL, next_action_mask=LEGAL))
    assert float(losses["policy"].detach()) == pytest.approx(expected)
    assert float(metrics["critic/target"]) == pytest.approx(0.99 * 20)
    assert float(metrics["critic/penalty"]) == pytest.approx(math.log(math.e + math.e**2) - 1)


def test_more_elites_than_samples_is_an_error() -> None:
    with pytest.raises(ConfigError, match="search_elites"):
        learner(search_samples=3)


def test_batch_norm_judges_each_class_of_actions_apart() -> None:
    """Theirs pass the critics one after another, so that one class's statistics do not change another's values."""
    algorithm = learner(input_norm="batch", cql_samples=3)
    batch = batch_for(algorithm, torch.full((4, 2, 2), 0.5))
    seen: list[int] = []
    members = algorithm.q._members

    def spying(parts: tuple[torch.Tensor, ...], first: bool) -> torch.Tensor:
        seen.append(parts[1].shape[1] if parts[1].ndim == 5 else 0)
        return members(parts, first)

    algorithm.q._members = spying  # type: ignore[method-assign]
    algorithm.update(batch)
    rounds = [algorithm.config.search_samples] * 2
    # The data, three classes of the penalty, the policy, the search's rounds.
    assert seen == [0, 3, 3, 3, 0, *rounds]


@pytest.mark.parametrize(("peak", "pulled"), [(0.3, False), (0.5, True)])
def test_a_policy_that_beats_the_search_is_not_pulled(peak: float, pulled: bool) -> None:
    """At the critic's peak nothing that a search finds is better, so that the policy's own action is kept."""
    algorithm = learner(n=1, actions=1, omar_coe=1.0, action_penalty=0.0)
    losses = inert(algorithm)
    actor = algorithm.actor = Constant(0.3, 1)
    algorithm.q = Known(lambda a: -(a[..., 0] - peak).square(), lambda a: 0.0)  # type: ignore[assignment]
    algorithm.update(batch_for(algorithm, torch.zeros(4, 1, 1)))
    (gradient,) = torch.autograd.grad(losses["policy"].sum(), actor.value)
    assert (float(losses["policy"].detach()) > 0.0) == pulled
    assert (float(gradient) < 0.0) == pulled
    assert pulled or float(gradient) == 0.0
