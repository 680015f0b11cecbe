"""MABCQ: the two factors' known numbers, the table in two steps, and that an agent learns from its own data alone."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import numpy as np
import pytest
import torch
from marlzoo.baselines.mabcq import MABCQ, _counted
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch
from marlzoo.data import games as game_data
from marlzoo.data.check import check
from marlzoo.data.decentralized import decentralized
from marlzoo.envs import games
from marlzoo.envs._differential import VALUES, Differential
from marlzoo.errors import ConfigError, DataError
from marlzoo.spec import ActionKind
from tests.toys import toy_spec

FORMS = {"plain": (0.0, 0.0), "deviation": (1.0, 0.0), "normalization": (0.0, 1.0), "both": (1.0, 1.0)}
OPEN = {"weight_min": 0.0, "weight_max": 1e9}


def learner(forms: Any, kind: ActionKind = "discrete", **more: Any) -> MABCQ:
    strengths = {"deviation": [d for d, _ in forms], "normalization": [t for _, t in forms]}
    made = marlzoo.make(
        "mabcq",
        toy_spec(kind, 2),
        seeds=range(len(forms)),
        hidden=8,
        dtype=torch.float64,
        **strengths,
        **OPEN,
        **more,
    )
    return cast(MABCQ, made)


def corrected(values: list[float], shares: list[int], form: str | MABCQ) -> tuple[list[float], float]:
    """Weights of next states with these values, in rows in these shares, and the weighted mean of the values."""
    made = learner([FORMS[form]]) if isinstance(form, str) else form
    v = (
        torch.tensor([x for x, k in zip(values, shares, strict=True) for _ in range(k)])
        .double()
        .view(1, -1, 1)
    )
    number = (
        torch.tensor([k for k, share in enumerate(shares) for _ in range(share)]).double().view(1, -1, 1, 1)
    )
    log_p = _counted(torch.zeros_like(number), number)
    weight, _ = made._weights(v, v.mean(1, keepdim=True).expand_as(v), log_p)
    ends = np.cumsum(shares) - 1
    return weight[0, ends, 0].tolist(), float((weight * v).mean())


@pytest.mark.parametrize(
    ("values", "shares", "form", "weights", "mean"),
    [
        ([2.0, 0.0], [2, 2], "deviation", [2.0, 0.0], 2.0),
        ([2.0, 0.0], [1, 3], "deviation", [4.0, 0.0], 2.0),
        ([-1.0, 0.0], [2, 2], "deviation", [0.0, 2.0], 0.0),
        ([-4.0, -2.0], [1, 3], "deviation", [0.4, 1.2], -2.2),
        ([-4.0, -2.0], [1, 3], "both", [1.0, 1.0], -2.5),
        ([3.0, 1.0], [1, 9], "plain", [1.0, 1.0], 1.2),
        ([3.0, 1.0], [1, 9], "deviation", [2.5, 7.5 / 9], 1.5),
        ([3.0, 1.0], [1, 9], "normalization", [5.0, 5.0 / 9], 2.0),
        ([3.0, 1.0], [1, 9], "both", [7.5, 2.5 / 9], 2.5),
    ],
)
def test_known_numbers(
    values: list[float], shares: list[int], form: str, weights: list[float], mean: float
) -> None:
    """Weights are relative to their mean, which is 1 before any clipping; the guard of the deviation is 1 %."""
    found, value = corrected(values, shares, form)
    assert value == pytest.approx(mean, abs=0.03)
    if form == "both" and values[0] < 0:
        found = [w * s for w, s in zip(found, shares, strict=True)]  # the altered distribution (1/4, 3/4)
        weights = [1.0, 3.0]
    assert found == pytest.approx(weights, abs=0.06)


@pytest.mark.parametrize(
    ("form", "q1", "q2", "joint"),
    [
        ("plain", (3.8, 0.5), (3.6, 2.3), (0, 0)),
        ("deviation", (3.895, 5.0), (4.0, 2.652), (1, 0)),
        ("normalization", (3.0, 2.5), (2.0, 3.5), (0, 1)),
        ("both", (3.333, 5.0), (4.0, 4.143), (1, 1)),
    ],
)
def test_the_table(form: str, q1: Any, q2: Any, joint: tuple[int, int]) -> None:
    """Each factor alone moves one agent to the better state; both together move the team there."""
    table = np.array(VALUES)
    for wanted, rows, own in ((q1, table, joint[0]), (q2, table.T, joint[1])):
        found = [corrected(list(row), [9, 1], form)[1] for row in rows]
        assert found == pytest.approx(wanted, rel=0.03)  # the guard of the deviation
        assert int(np.argmax(found)) == own


def test_deviations_weights_sum_to_one_before_anything_is_divided() -> None:
    """1 + (V - M) / |M| has mean 1 where M is the mean of V, whatever the values' sign; each agent's by itself."""
    source = torch.Generator().manual_seed(0)
    v = (
        torch.rand(1, 40, 6, generator=source).double()
        + torch.tensor([0.5, -1.5, 3.0, -4.0, 1.0, -2.0]).double()
    )
    mean = v.mean(1, keepdim=True)
    guarded = mean.abs() + 0.01 * v.std(1, keepdim=True)
    expected = 1.0 + (v - mean) / guarded
    assert (expected > 0).all()
    torch.testing.assert_close(expected.mean(1), torch.ones_like(expected[:, 0]))
    found, size = learner([FORMS["deviation"]])._weights(v, mean.expand_as(v), torch.zeros_like(v))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(size, (expected - 1.0).abs())


@pytest.mark.parametrize(("form", "row"), [("deviation", 1), ("both", 1), ("opposite", 0)])
def test_the_deviations_sign_moves_the_first_agent_to_the_better_row(form: str, row: int) -> None:
    """By hand with the other sign: (4, 2) in shares .9 and .1 is worth 3.705, (0, 5) nothing."""
    strength = -1.0 if form == "opposite" else 1.0
    made = learner([FORMS["deviation" if form == "opposite" else form]])
    made._settings["deviation"] = torch.tensor([strength], dtype=torch.float64)
    found = [corrected(list(values), [9, 1], made)[1] for values in np.array(VALUES)]
    assert int(np.argmax(found)) == row
    if form == "opposite":
        assert found == pytest.approx([3.705, 0.0], abs=0.03)


def test_agents_with_other_partners_agree_where_both_factors_work() -> None:
    """The same next states in other shares: the values' mean square over their mean; with one factor they differ."""
    values, shares = [3.0, 1.0, 2.0], ([1, 6, 3], [5, 2, 3])
    both, alone = ([corrected(values, each, form)[1] for each in shares] for form in ("both", "deviation"))
    assert both == pytest.approx([14.0 / 6.0] * 2, abs=0.02)
    assert abs(alone[0] - alone[1]) > 0.3


def test_certain_transitions_leave_the_weights_alone() -> None:
    v = torch.linspace(-1.0, 2.0, 8).double().view(1, 8, 1)
    weight, size = learner([(1.0, 1.0)])._weights(v, v, torch.zeros_like(v))
    torch.testing.assert_close(weight, torch.ones_like(v))
    assert float(size.sum()) == 0.0


def test_counts_are_of_equal_observations_and_actions() -> None:
    condition = torch.tensor([0, 0, 0, 1, 1.0]).view(1, 5, 1, 1)
    following = torch.tensor([0, 0, 1, 1, 1.0]).view(1, 5, 1, 1)
    shares = _counted(condition, following).exp().flatten()
    torch.testing.assert_close(shares, torch.tensor([2 / 3, 2 / 3, 1 / 3, 1.0, 1.0]))


def test_counts_see_the_action() -> None:
    """One observation, and an action that decides the next one: nothing is rare, so all weights are alike."""
    made = learner([(0.0, 1.0)], density="counts", batch_size=12)
    batch = own_batch(made, torch.Generator().manual_seed(0), made.spec.n_agents, 0.0)
    batch.obs = torch.zeros_like(batch.obs)
    batch.next_obs = batch.action.unsqueeze(-1).expand_as(batch.obs).to(batch.obs.dtype)
    assert 0.0 < batch.action.double().mean() < 1.0
    assert float(made.update(batch)["weight/ess"]) == pytest.approx(1.0)


@pytest.mark.parametrize(("kind", "density"), [("continuous", "vae"), ("discrete", "counts")])
def test_an_agent_learns_from_its_own_data_alone(kind: ActionKind, density: str) -> None:
    def trained(others: float) -> dict[str, Tensor]:
        made = learner([(1.0, 1.0)], kind, density=density, batch_size=12)
        source, spec = torch.Generator().manual_seed(0), made.spec
        for _ in range(3):
            made.update(own_batch(made, source, spec.n_agents, others))
        return {
            name: p.detach()[..., :1, :, :] if p.ndim > 3 else p.detach()[:, :1]
            for name, p in made.named_parameters()
        }

    for (name, value), other in zip(trained(0.0).items(), trained(7.0).values(), strict=True):
        assert torch.equal(value, other), name


def own_batch(made: MABCQ, source: torch.Generator, n: int, others: float) -> Batch:
    """Random transitions; ``others`` is added to all that the second agent sees, does and earns."""
    spec, size = made.spec, made.config.batch_size

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, size, *shape, generator=source, dtype=torch.float64)

    fields = {name: normal(n, spec.obs_size) for name in ("obs", "next_obs")}
    fields |= {
        "agent_reward": normal(n),
        "mask": torch.ones(1, size).double(),
        "action": normal(n, spec.action_size),
    }
    fields["action"] = fields["action"].clamp(-1.0, 1.0)
    for name in ("obs", "next_obs", "agent_reward"):
        fields[name][:, :, 1] += others
    if spec.discrete:
        fields["action"] = (fields["action"][..., 0] > 0).long()
        fields["action"][:, :, 1] = (fields["action"][:, :, 1] + int(others)) % 2
        for name in ("action_mask", "next_action_mask"):
            fields[name] = torch.ones(1, size, n, spec.action_size, dtype=torch.bool)
    else:
        fields["action"][:, :, 1] *= 1.0 - 0.1 * others
    noise = {
        name: torch.randn(1, *shape, generator=source, dtype=torch.float64)
        for name, (_, shape) in made.noise().items()
    }
    return Batch.of(noise, **fields)


# ---- its games and data --------------------------------------------------------------------------------


def test_rewards_of_the_differential_game() -> None:
    """Distances l = |x| with two agents: the peak's top, its foot, the ring's top and edges, and between."""
    rules = Differential(2)
    distance = np.array([0.0, 0.06, 0.12, 0.5, 0.6, 0.8, 0.99, 1.0, 1.2])
    points = np.stack((distance, np.zeros(9)), axis=1)
    expected = [1.0, 0.5, 0.0, 0.0, 0.15 * (np.cos(3.0) + 1), 0.3, 0.15 * (np.cos(2.85) + 1), 0.0, 0.0]
    np.testing.assert_allclose(rules.reward(points), expected, atol=1e-12)
    env = games.make("differential-3", 2)
    before = env.reset().state
    step = env.step(np.array([[[1.0], [-1.0], [0.5]]] * 2))
    np.testing.assert_allclose(step.state, np.clip(before + np.array([0.1, -0.1, 0.05]), -1, 1), atol=1e-6)
    np.testing.assert_allclose(step.reward[:, 0], Differential(3).reward(before.astype(float)), rtol=1e-6)
    assert step.reward.shape == (2, 3)


def test_agents_apart_recorded_each_its_own_partners() -> None:
    data = game_data.dataset("two-steps", "decentralized", episodes=200)
    first = data.starts
    for agent in range(2):
        own = data.action[first, agent]
        assert own.mean() == 0.5
        reached = data.obs[first + 1, agent].argmax(-1) - 1
        mine, partner = (reached // 2, reached % 2) if agent == 0 else (reached % 2, reached // 2)
        np.testing.assert_array_equal(mine, own)
        assert partner.mean() == pytest.approx(0.1)
        np.testing.assert_array_equal(data.reward[first + 1, agent], np.ravel(VALUES)[reached])
    assert (data.obs[first + 1, 0] != data.obs[first + 1, 1]).any()
    assert not data.state.any()
    report = check(data, games.make("two-steps", 2))
    assert report.agrees
    assert "recorded apart" in report.notes[-1]


def test_data_that_cannot_be_put_side_by_side() -> None:
    data = game_data.dataset("differential-2", "random", episodes=3)
    with pytest.raises(DataError, match="1 datasets are given; it takes 2 datasets, one per agent"):
        decentralized([data])
    shorter = game_data.dataset("differential-2", "random", episodes=2)
    with pytest.raises(DataError, match="differ in shape or in the lengths"):
        decentralized([data, shorter])
    assert dataclasses.replace(data.spec) == decentralized([data, data]).spec


def test_a_batch_of_one_transition_has_no_spread() -> None:
    with pytest.raises(ConfigError, match=r"batch_size is 1, but weights compare .* take at least two"):
        marlzoo.make("mabcq", toy_spec("discrete", 2), hidden=8, batch_size=1)
