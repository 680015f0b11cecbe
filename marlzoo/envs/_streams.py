"""Random numbers that a copy's seed and its number of episodes decide, for all copies at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Seeds = NDArray[np.uint64]


def uniform(seeds: Seeds, episode: Seeds) -> NDArray[np.float64]:
    """Numbers ``[E]`` uniform on [0, 1): SplitMix64's finaliser (Steele et al. 2014), twice."""
    return _fraction(_mix(_mix(seeds) + episode))


def uniforms(seeds: Seeds, episode: Seeds, count: int) -> NDArray[np.float64]:
    """Numbers ``[count, E]`` uniform on [0, 1), independent of each other."""
    keys = _mix(_mix(seeds) + episode)
    return _fraction(_mix(keys + _mix(np.arange(count, dtype=np.uint64))[:, None]))


def _fraction(bits: Seeds) -> NDArray[np.float64]:
    return np.asarray((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mix(x: Seeds) -> Seeds:
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
