"""LOMAQ: neighborhoods, shared rewards, and that values are local."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from marlzoo.algorithms.lomaq import LocalMixers, neighborhoods

import marlzoo
from marlzoo.replicas import Init
from marlzoo.spec import Spec
from tests.test_studies import script

FOUR = Spec(4, 2, 3, "discrete", 2, 5)


def learner(**settings: Any) -> Any:
    return marlzoo.make("lomaq", FOUR, hidden=8, batch_size=4, dtype=torch.float64, **settings)


def test_neighborhoods() -> None:
    assert neighborhoods("line", 4, 1)[0].tolist() == [1, 1, 0, 0]
    assert neighborhoods("line", 4, 1)[1].tolist() == [1, 1, 1, 0]
    assert neighborhoods("ring", 4, 1)[0].tolist() == [1, 1, 0, 1]
    assert neighborhoods("complete", 4, 1).min() == 1
    for graph in ("line", "ring", "complete"):
        assert torch.equal(neighborhoods(graph, 4, 0), torch.eye(4, dtype=torch.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reward", "local"), [((1, 0, 0, 0), (1 / 2, 1 / 2, 0, 0)), ((0, 1, 0, 0), (1 / 3, 1 / 3, 1 / 3, 0))]
)
def test_rewards_are_shared_out(reward: tuple[int, ...], local: tuple[float, ...]) -> None:
    """On a line and over distance 1: an end agent's among two, an inner one's among three."""
    found = learner(reward_reach=1).shares @ torch.tensor(reward, dtype=torch.float64)
    torch.testing.assert_close(found, torch.tensor(local, dtype=torch.float64))


def test_values_see_their_neighborhood_only_and_rise_with_it() -> None:
    mixers = LocalMixers(Init((0,), dtype=torch.float64), FOUR, neighborhoods("line", 4, 1), 8, 8)
    utilities = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    state, near = torch.randn(1, 6, 3, dtype=torch.float64), neighborhoods("line", 4, 1)
    for i in range(4):
        (slope,) = torch.autograd.grad(mixers(utilities, state)[..., i].sum(), utilities)
        assert ((slope != 0).flatten(0, 1).any(0) == near[i].bool()).all()
        assert (slope >= 0).all()


def test_an_agents_error_reaches_its_own_mixer_only() -> None:
    mixers = LocalMixers(Init((0,), dtype=torch.float64), FOUR, neighborhoods("line", 4, 1), 8, 8)
    q = mixers(torch.randn(1, 6, 4, dtype=torch.float64), torch.randn(1, 6, 3, dtype=torch.float64))
    gradients = torch.autograd.grad(q[..., 2].sum(), list(mixers.parameters()))
    for gradient in gradients:
        assert (gradient != 0).flatten(2).any(-1).flatten().tolist() == [False, False, True, False]


def test_the_line_game_of_the_study() -> None:
    """An agent's reward is 1 where its action is its bit, plus noise of its own; the team's is their mean."""
    data = script("lomaq").line_game(n_agents=5, transitions=400, seed=0)
    right = data.action[data.sources] == data.obs[data.sources][..., 0]
    noise = data.reward[data.sources] - right
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(1.0, abs=0.1)
    assert right.mean() == pytest.approx(0.5, abs=0.05)
    assert data.spec.reward_per_agent
