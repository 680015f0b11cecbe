"""Scripted teams on spread: what each does, what a shared coin changes, and that data repeat."""

from __future__ import annotations

import numpy as np
import pytest
from marlzoo.benchmarks import spread

from marlzoo.errors import UnknownNameError

FINAL = 25  # row of an episode after its last action


def goals(data: object, agent: int) -> np.ndarray:
    """Which landmark is nearest to an agent at the end of every episode."""
    seen = spread.landmarks(data.obs[data.starts + FINAL])  # type: ignore[attr-defined]
    return np.asarray(np.linalg.norm(seen[:, agent], axis=-1).argmin(-1))


def test_agents_stop_where_their_convention_says() -> None:
    one = spread.dataset("one", episodes=100)
    for agent in range(3):
        assert (goals(one, agent) == agent).mean() > 0.95
    agreed = spread.dataset("agreed", episodes=100, seed=3)
    coin = spread.coins("agreed", 100, 3)
    for agent in range(3):
        assert (goals(agreed, agent) == (agent + coin[:, agent]) % 3).mean() > 0.95


def test_a_shared_coin_differs_from_own_ones_only_together() -> None:
    agreed, split = (spread.coins(quality, 4000, 0) for quality in ("agreed", "split"))
    for coin in (agreed, split):  # alone each agent goes either way equally often
        np.testing.assert_allclose(coin.mean(0), 0.5, atol=0.03)
    assert (agreed == agreed[:, :1]).all()
    np.testing.assert_allclose((split == split[:, :1]).all(1).mean(), 0.25, atol=0.03)
    assert not spread.coins("one", 10, 0).any()


def test_who_agrees_covers_all_landmarks_and_who_does_not_leaves_some() -> None:
    agreed, split = (spread.dataset(quality, episodes=200) for quality in ("agreed", "split"))
    share = [spread.covered(data.obs[data.starts + FINAL]).mean() for data in (agreed, split)]
    assert share[0] > 0.95
    assert 0.15 < share[1] < 0.4  # a fourth tosses the same, and some land near each other
    assert agreed.returns.mean() > split.returns.mean() + 100


def test_all_landmarks_are_covered_only_where_each_has_an_agent() -> None:
    obs = np.zeros((3, 3, 18), np.float32)
    rel = np.full((3, 3, 3, 2), 1.0)
    rel[0, range(3), [2, 0, 1]] = (0.1, 0.1)  # each landmark has another agent
    rel[1, range(3), [0, 0, 1]] = 0.0  # two agents share one
    rel[2, range(3), [2, 0, 1]] = (0.11, 0.11)  # beyond the agents' radius
    obs[..., spread.LANDMARKS] = rel.reshape(3, 3, 6)
    assert spread.covered(obs).tolist() == [True, False, False]


def test_the_same_arguments_give_the_same_data() -> None:
    one, same, other = (spread.dataset("split", episodes=4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.action, same.action)
    starts = [data.obs[data.starts, 0, 2:4] for data in (one, other)]  # where the first agent begins
    assert (
        len(np.unique(np.concatenate(starts), axis=0)) == 8
    )  # elsewhere in every episode, and for every seed
    assert not np.array_equal(one.action, other.action)
    np.testing.assert_array_equal(one.starts, 26 * np.arange(4))
    assert np.abs(one.action).max() <= 1.0
    assert (np.abs(one.action) == 1.0).mean() < 0.02
    assert one.card is not None
    assert one.card.recipe["command"] == "marlzoo.benchmarks.spread.dataset('split', episodes=4, seed=0)"
    with pytest.raises(UnknownNameError, match="all of them"):
        spread.dataset("all of them")
