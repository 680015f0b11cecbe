"""The small task that methods are tested on: what its data and its environment promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marlzoo.testing.toys import HORIZON, ToyEnv, toy_dataset, toy_spec


def test_sizes() -> None:
    assert toy_spec().action_sizes == (2, 1, 2)
    assert toy_spec(n_agents=2).action_sizes == (2, 1)
    assert toy_spec("discrete").action_sizes == (4, 4, 4)
    assert (toy_spec().obs_size, toy_spec().state_size, toy_spec().horizon) == (5, 7, 12)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_episodes_end_in_every_way(kind: Any) -> None:
    data = toy_dataset(kind, episodes=200)
    assert set(data.lengths.tolist()) == set(range(4, HORIZON + 1))
    last = data.starts + data.lengths - 1
    assert not data.terminal[last[0]]
    assert not data.truncated[last[0]]  # the first one is cut
    np.testing.assert_array_equal(data.truncated[last[1:]], data.lengths[1:] == HORIZON)
    np.testing.assert_array_equal(data.terminal[last[1:]], data.lengths[1:] < HORIZON)
    assert int(data.terminal.sum() + data.truncated.sum()) == 199


def test_discrete_actions_are_legal_and_not_always_the_first() -> None:
    data = toy_dataset("discrete", episodes=200)
    assert data.action_mask is not None
    assert np.take_along_axis(data.action_mask, data.action[..., None].astype(int), -1)[data.sources].all()
    assert data.action_mask.any(-1).all()
    assert 0.65 < data.action_mask[..., 0].mean() < 0.75
    assert set(np.unique(data.action[data.sources])) == {0, 1, 2, 3}


def test_continuous_actions_fill_what_an_agent_has() -> None:
    data = toy_dataset(episodes=50)
    taken = data.action[data.sources]
    assert not taken[:, 1, 1].any()
    assert np.abs(taken[:, [0, 2]]).min() > 0
    assert np.abs(taken).max() <= 1


def test_broken_rows_are_those_from_the_given_one_on() -> None:
    data = toy_dataset(nan_row=20)
    assert np.isfinite(data.obs[:20]).all()
    assert np.isnan(data.obs[20:]).all()


def test_continuous_rewards_moves_and_limits() -> None:
    env = ToyEnv(2)
    seen = env.reset()
    assert not env.can_win
    np.testing.assert_array_equal(
        seen.obs[0], np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    )
    np.testing.assert_array_equal(
        seen.obs[1], np.random.default_rng(1).normal(size=(3, 5)).astype(np.float32)
    )
    np.testing.assert_array_equal(seen.state, seen.obs.reshape(2, 15)[:, :7])
    action = np.full((2, 3, 2), 0.5, np.float32)
    step = env.step(action, np.array([1]))
    assert step.reward.tolist() == pytest.approx([0.0, -np.square(0.5 - seen.obs[1, :, :2]).mean()])
    np.testing.assert_array_equal(step.obs[0], seen.obs[0])
    np.testing.assert_array_equal(step.obs[1], np.roll(seen.obs[1], 1, axis=1))
    ends = [env.step(action).truncated.tolist() for _ in range(HORIZON)]
    assert ends[-3:] == [[False, False], [False, True], [True, True]]
    env.reset(np.array([0]))
    assert env.step(action).truncated.tolist() == [False, True]
    with pytest.raises(AssertionError):
        env.step(np.array([[[0, 0], [0, 0], [0, 1.5]]] * 2, np.float32))


def test_discrete_rewards_masks_and_wins() -> None:
    env = ToyEnv(2, "discrete")
    seen = env.reset()
    assert env.can_win
    wanted = np.abs(seen.obs[..., :4]) < 1
    wanted[..., 0] |= ~wanted.any(-1)
    assert seen.action_mask is not None
    np.testing.assert_array_equal(seen.action_mask, wanted)
    action = wanted.argmax(-1)
    step = env.step(action)
    np.testing.assert_allclose(step.reward, -np.abs(action - 1.0).mean(-1), rtol=1e-6)
    assert not step.info["win"].any()
    other = ToyEnv(2, "discrete")
    other.reset()
    other._obs[:] = 0
    paid = other.step(np.ones((2, 3), int))
    assert paid.reward.tolist() == [0, 0]
    assert not paid.info["win"].any()  # no episode is over
    for _ in range(HORIZON - 1):
        assert step.action_mask is not None
        step = env.step(step.action_mask.argmax(-1))
    np.testing.assert_array_equal(step.info["win"], step.reward > -1)
    env.reset()
    mask = env._legal()
    assert mask is not None
    wrong = mask.argmax(-1)
    wrong[1, 2] = mask[1, 2].argmin()  # one agent of one copy
    with pytest.raises(AssertionError, match="an illegal action was taken"):
        env.step(wrong)
    env.step(wrong, np.array([0]))
