"""The study that asks whose state it is: states that tell, states that do not, and what it takes from data."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from marlzoo.data import games as game_data
from tests.study_scripts import script

makers = script("makers")
OPTIONS = makers.Options(seeds=(0, 1), updates=150)


def made(state: NDArray[np.float64], episodes: int = 50, steps: int = 20) -> object:
    """Steps of a policy whose every fifth episode is held out."""
    episode, step = np.divmod(np.arange(episodes * steps), steps)
    return makers.States(state.astype(np.float32), step, episode % makers.HELD_OUT == 0)


def test_states_that_differ_tell_their_maker_from_the_step_on_from_which_they_differ() -> None:
    """First states are those of a reset, equal for both; a share of a wrong part of the steps would show."""
    rng = np.random.default_rng(0)
    late = np.tile(np.arange(20) >= 10, 50)[:, None]
    two = [made(rng.normal(size=(1000, 3)) + sign * 5.0 * late) for sign in (-1, 1)]
    found = dict(zip(makers.PARTS, makers.shares(two, OPTIONS).T, strict=True))
    np.testing.assert_allclose(found["first"], 0.5, atol=0.25)
    np.testing.assert_allclose(found["2 to 10"], 0.5, atol=0.1)
    np.testing.assert_array_less(0.99, found["11 to 50"])
    assert np.isnan(found["later"]).all()
    np.testing.assert_allclose(found["all"], 0.75, atol=0.07)


def test_what_a_classifier_can_only_remember_does_not_count() -> None:
    """Every episode has a mark of its own: known by heart, it says nothing of episodes that were not seen."""
    rng = np.random.default_rng(1)
    two = [made(np.repeat(3.0 * rng.normal(size=(50, 8)), 20, axis=0)) for _ in makers.MAKERS]
    told = makers.shares(two, OPTIONS)[:, -1]
    np.testing.assert_allclose(told, 0.5, atol=0.25)


def test_makers_count_alike() -> None:
    """A maker of four times as many states, and a classifier that always names it: half of the shares are right."""
    rng = np.random.default_rng(2)
    two = [made(rng.normal(size=(20 * n, 2)), n) for n in (200, 50)]
    told = makers.shares(two, makers.Options(seeds=(0, 1), updates=400))[:, -1]
    np.testing.assert_allclose(told, 0.5, atol=0.06)


@pytest.mark.parametrize(("game", "quality"), [("bridge", "optimal"), ("xor", "D1")])
def test_steps_are_numbered_within_their_episodes(game: str, quality: str) -> None:
    """Final observations are no steps."""
    data = game_data.dataset(game, quality)
    found = makers.states(data)
    assert len(found.state) == len(found.step) == data.transitions
    firsts = np.flatnonzero(found.step == 0)
    np.testing.assert_array_equal(np.diff([*firsts, data.transitions]), data.lengths)
    np.testing.assert_array_equal(found.state[firsts], data.state[data.starts])
    whole = np.repeat(np.arange(data.episodes) % 5 == 0, data.lengths)
    np.testing.assert_array_equal(found.held_out, whole)
