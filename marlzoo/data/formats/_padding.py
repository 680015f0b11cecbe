"""Observations of agents that see less than others, padded to one size."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import pieces
from marlzoo.data.formats._steps import require


def unpadded(obs: NDArray[Any], notes: list[str]) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Observations with zeros for trailing columns of minus infinity, and each agent's true size.

    Args:
        obs: ``[T, N, O]``, changed in place.
        notes: list to which a note on the padding is added.

    Raises:
        DataError: an agent's observations are padding alone.
    """
    padding = np.ones(obs.shape[1:], np.bool_)
    for _, piece in pieces(obs):
        padding &= np.isneginf(piece).all(axis=0)
    sizes = tuple(int(n) for n in obs.shape[2] - np.argmin(padding[:, ::-1], axis=1))
    for agent, size in enumerate(sizes):
        if padding[agent].any():
            require(not padding[agent].all(), f"agent {agent} observes nothing but minus infinity")
            obs[:, agent, size:] = 0
            notes.append(f"agent {agent} observes {size} entries; minus infinity behind them became zeros")
    return obs[:, :, : max(sizes)], sizes


def cut(obs: NDArray[Any], sizes: tuple[int, ...], notes: list[str]) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Observations of known sizes, with zeros behind them.

    Args:
        obs: ``[T, N, O]``, changed in place.
        sizes: entries of each agent's observation.
        notes: list to which a note on the padding is added.

    Raises:
        DataError: the sizes do not fit, or what stands behind them is no constant.
    """
    _, agents, width = obs.shape
    fits = len(sizes) == agents and all(1 <= size <= width for size in sizes)
    require(fits, f"obs_sizes must be {agents} numbers from 1 to {width}, got {list(sizes)}")
    for agent, size in enumerate(sizes):
        behind = obs[:, agent, size:]
        moving = np.flatnonzero((behind != behind[0]).any(axis=0))
        require(
            not len(moving),
            f"entry {size + moving[:1].sum()} of agent {agent}'s observations changes, so it is no padding behind "
            f"{size} entries; change the option obs_sizes",
        )
        behind[:] = 0
    if any(size < width for size in sizes):
        notes.append(
            f"agents observe {', '.join(map(str, sizes))} entries; constants behind them became zeros"
        )
    return obs[:, :, : max(sizes)], sizes
