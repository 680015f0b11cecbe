"""Logged data of the coordination games: shares, parts and seeds, and what each recipe does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from marlzoo.data import games as game_data
from marlzoo.envs import games


def recorded(name: str, quality: str, **options: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Actions ``[T, N, ...]`` of all steps, and where each lies in its episode."""
    data = game_data.dataset(name, quality, **options)
    return data.action[data.sources], data.sources - np.repeat(data.starts, data.lengths)


def test_shares_are_as_near_as_whole_episodes_allow_and_in_random_order() -> None:
    drawn = game_data._shares(np.array([1.0, 2.0, 1.0]), 10, np.random.default_rng(0))
    assert np.bincount(drawn).tolist() == [2, 6, 2]
    assert (np.diff(drawn) < 0).any()


def test_boxes_modes_and_signs_in_equal_shares() -> None:
    anywhere = recorded("sign-agreement", "uniform")[0]
    assert np.histogram(anywhere, 4, (-1, 1))[0] / anywhere.size == pytest.approx([0.25] * 4, abs=0.02)
    agree = recorded("sign-agreement", "agree")[0][..., 0]
    assert (np.abs(agree) >= 0.5).all()
    assert (agree[:, 0] > 0).mean() == (agree[:, 1] > 0).mean() == 0.5
    assert (np.sign(agree[:, 0]) == np.sign(agree[:, 1])).all()
    opposite = recorded("sign-agreement", "opposite")[0][..., 0]
    assert (opposite[:, 0] >= 0).all()
    assert (opposite[:, 1] <= 0).all()
    modes = recorded("modes-4", "modes")[0]
    assert (modes == modes[:, :1]).all()
    assert modes.mean() == 0.5
    sides = recorded("signs-4", "modes", episodes=2000)[0]
    assert np.median(np.abs(sides)) == pytest.approx(0.8, abs=0.02)
    assert (np.abs(sides).min(1) < 0.3).mean() == pytest.approx(0.05 * (1 - 0.7**4), abs=0.015)
    assert recorded("xor-two-state", "optimal")[0].sum(1).tolist() == [3] * 5000
    assert recorded("coordination-2x2", "optimal")[0].tolist() == [[0, 0]] * 5000


def test_parts_of_a_mixture_and_seeds_differ() -> None:
    data = game_data.dataset("bridge", "mix", episodes=20)
    assert data.episodes == 40
    assert len(np.unique(data.returns[:20].round(4))) < 4 < len(np.unique(data.returns[20:].round(4)))
    for quality, first in (("left", -1.0), ("right", 1.0)):
        actions, time = recorded("iterated-coordination", quality, episodes=30)
        assert (actions[time == 0] == first).all()
        late = actions[time == time.max()]  # there they stay, but for the noise
        assert np.abs(late).std() < 0.4
    one, other = (game_data.dataset("iterated-coordination", "mix", episodes=30, seed=s) for s in (0, 1))
    assert not np.array_equal(one.obs[one.starts], other.obs[other.starts])
    assert len(np.unique(one.obs[one.starts], axis=0)) == 30
    goals, both = (game_data.dataset("goals", quality, episodes=20) for quality in ("noisy", "mix"))
    assert not np.array_equal(both.obs[both.starts[:20]], both.obs[both.starts[20:]])
    assert goals.returns.mean() > both.returns[20:].mean() + 5.0


def test_walks_to_the_center_and_half_right_answers() -> None:
    env = games.make("differential-3", 400)
    env.seed(list(range(400)))
    env.reset()
    rng = np.random.default_rng(0)
    home = np.clip(-env.current / 0.1, -1.0, 1.0)
    for noise, share in ((0.0, 1.0), (0.25, 0.75)):
        taken = game_data._to_center(noise)(env, rng)(env, 0)[..., 0]
        assert (taken == home).mean() == pytest.approx(share, abs=0.05)
    apart = game_data._with_random_partners(1)(env, rng)(env, 0)[..., 0]
    right = (apart == home).mean(0)
    assert right[[0, 2]].tolist() == [0.0, 0.0]
    assert right[1] == pytest.approx(0.25, abs=0.07)  # half of the episodes, half of their steps
    cells = games.make("cells", 400)
    cells.seed(list(range(400)))
    cells.reset()
    taken = game_data._half_right(cells, rng)(cells, 0)
    assert (taken == cells.current).mean() == pytest.approx(0.5 + 0.5 / 5, abs=0.05)


@pytest.mark.parametrize("agent", [0, 1])
def test_a_stubborn_partner_takes_its_first_action_in_nine_of_ten_first_steps(agent: int) -> None:
    env = games.make("two-steps", 400)
    act = game_data._with_stubborn_partner(agent)(env, np.random.default_rng(0))
    assert (act(env, 0) == 0).mean(0)[[agent, 1 - agent]] == pytest.approx([0.5, 0.9])
    assert (act(env, 1) == 0).mean() == pytest.approx(0.5, abs=0.07)


def test_each_agents_part_is_of_its_own_episodes() -> None:
    """Its partners moved at random in them, so that only its own moves lead to the center."""
    data = game_data.dataset("differential-2", "decentralized", episodes=200)
    where, moved = data.obs[data.sources], data.action[data.sources][..., 0]
    toward = [float((np.sign(moved[:, i]) == -np.sign(where[:, i, i])).mean()) for i in range(2)]
    assert min(toward) > 0.55
