"""Padding of observations of different sizes, found by its minus infinity or stated by an option."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from marlzoo.data.formats._padding import cut, unpadded
from marlzoo.errors import DataError


def observations() -> NDArray[np.float32]:
    """Five steps of two agents with five entries each."""
    return np.random.default_rng(0).normal(size=(5, 2, 5)).astype(np.float32)


def test_minus_infinity_behind_the_entries_is_padding() -> None:
    obs, notes = observations(), list[str]()
    obs[:, 0, 4:] = -np.inf
    obs[:, 1, 2:] = -np.inf
    obs[0, 1, 1] = -np.inf  # in one step only: no padding
    before = obs.copy()
    found, sizes = unpadded(obs, notes)
    assert sizes == (4, 2)
    assert found.shape == (5, 2, 4)
    np.testing.assert_array_equal(found[:, 0], before[:, 0, :4])
    np.testing.assert_array_equal(found[:, 1, :2], before[:, 1, :2])
    assert not found[:, 1, 2:].any()
    assert notes[1] == "agent 1 observes 2 entries; minus infinity behind them became zeros"
    obs[:, 1] = -np.inf
    with pytest.raises(DataError, match="agent 1 observes nothing but minus infinity"):
        unpadded(obs, [])


def test_constants_behind_a_stated_size_are_padding() -> None:
    obs, notes = observations(), list[str]()
    obs[:, 0, 4], obs[:, 1, 3:] = 1.0, 7.0
    before = obs.copy()
    found, sizes = cut(obs, (4, 3), notes)
    assert sizes == (4, 3)
    assert found.shape == (5, 2, 4)
    np.testing.assert_array_equal(found[:, 0], before[:, 0, :4])
    np.testing.assert_array_equal(found[:, 1, :3], before[:, 1, :3])
    assert not found[:, 1, 3].any()
    assert notes == ["agents observe 4, 3 entries; constants behind them became zeros"]
    whole = list[str]()
    assert cut(observations(), (5, 5), whole)[0].shape == (5, 2, 5)
    assert whole == []


@pytest.mark.parametrize(
    ("sizes", "text"),
    [
        ((5,), "must be 2 numbers from 1 to 5"),
        ((5, 0), "must be 2 numbers from 1 to 5"),
        ((5, 6), "must be 2 numbers from 1 to 5"),
        ((5, 3), "entry 3 of agent 1's observations changes, so it is no padding behind 3 entries"),
    ],
)
def test_sizes_that_do_not_fit(sizes: tuple[int, ...], text: str) -> None:
    with pytest.raises(DataError, match=text):
        cut(observations(), sizes, [])
