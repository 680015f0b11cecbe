"""Scripted teams on the Reacher: both senses reach the target, mixed they miss; data of one team after the other."""

from __future__ import annotations

import numpy as np
import pytest
from marlzoo.benchmarks import reacher

from marlzoo.envs import moma
from marlzoo.errors import UnknownNameError

TASK = "moma/reacher-2x1_full"


def tip(angles: np.ndarray) -> np.ndarray:
    shoulder, both = angles[:, 0], angles.sum(1)
    return np.stack(
        (
            reacher.UPPER * np.cos(shoulder) + reacher.LOWER * np.cos(both),
            reacher.UPPER * np.sin(shoulder) + reacher.LOWER * np.sin(both),
        ),
        axis=1,
    )


def test_both_solutions_reach_the_target_and_their_mixture_misses_it() -> None:
    rng = np.random.default_rng(0)
    angle, radius = rng.uniform(-np.pi, np.pi, 50), rng.uniform(0.05, 0.2, 50)
    target = radius[:, None] * np.stack((np.cos(angle), np.sin(angle)), axis=1)
    one, other = (reacher.solution(target, sense) for sense in (1, -1))
    np.testing.assert_allclose(tip(one), target, atol=1e-9)
    np.testing.assert_allclose(tip(other), target, atol=1e-9)
    assert (one[:, 1] > 0).all()
    np.testing.assert_allclose(one[:, 1] + other[:, 1], 0.0, atol=1e-12)  # the mean elbow is straight
    crossed = tip(np.stack((one[:, 0], other[:, 1]), axis=1))
    assert np.linalg.norm(crossed - target, axis=1).mean() > 0.05


def test_both_teams_are_equally_good_and_bend_the_elbow_to_opposite_sides() -> None:
    c, d = (reacher.dataset(TASK, quality) for quality in ("expert-c", "expert-d"))
    for data, sense in ((c, 1.0), (d, -1.0)):
        assert -5.0 < data.returns.mean() < -4.0
        assert moma.score("reacher-2x1_full", float(data.returns.mean())) > 0.85
        last = data.starts + 49
        assert (sense * reacher.angles(data.state[last])[:, 1] > 0).mean() > 0.95
        assert np.abs(data.action).max() <= 1.0
    gap = c.returns - d.returns  # from the same starts
    assert abs(gap.mean()) < 3 * gap.std() / np.sqrt(len(gap))


def test_the_mixture_is_one_team_after_the_other_in_whole_episodes() -> None:
    c, d, mix = (
        reacher.dataset(TASK, quality, episodes=6, seed=2) for quality in ("expert-c", "expert-d", "mix")
    )
    assert mix.episodes == 12
    np.testing.assert_array_equal(mix.action, np.concatenate((c.action, d.action)))
    np.testing.assert_array_equal(mix.state, np.concatenate((c.state, d.state)))
    np.testing.assert_array_equal(mix.starts, 51 * np.arange(12))
    ends = np.flatnonzero(mix.truncated)
    np.testing.assert_array_equal(
        ends, mix.starts + 49
    )  # also the last episode before the other team's first
    assert not mix.terminal.any()
    assert not np.array_equal(mix.state[51 * 6 - 1], mix.state[51 * 6])


def test_the_same_arguments_give_the_same_data_for_every_team() -> None:
    one, same, other = (reacher.dataset(TASK, "mix", episodes=4, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.obs, same.obs)
    assert not np.array_equal(one.obs, other.obs)
    blind = reacher.dataset("moma/reacher-2x1first_0", "mix", episodes=4)
    np.testing.assert_array_equal(one.action, blind.action)  # teams do not depend on what agents are shown
    assert blind.obs.shape[-1] == 8
    with pytest.raises(UnknownNameError, match="expert-x"):
        reacher.dataset(TASK, "expert-x")
