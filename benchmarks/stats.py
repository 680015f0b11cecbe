"""What tables say about several seeds: interquartile mean, bootstrap intervals, probability of improvement.

Definitions follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(NeurIPS 2021); the resampling is scipy's. Every interval uses a fixed random state, so it repeats exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95


def iqm(values: Any, axis: int = -1) -> Any:
    """Mean of the middle half of ``values``: a quarter (rounded down) is cut at each end.

    With fewer than four values nothing is cut and it is the mean.
    """
    return stats.trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis)


def pooled_iqm(*samples: Floats, axis: int = -1) -> Any:
    """Interquartile mean over all samples together (for instance all datasets' runs of one method)."""
    return iqm(np.concatenate(samples, axis=axis), axis=axis)


def interval(samples: Sequence[Floats], statistic: Callable[..., Any] = pooled_iqm) -> tuple[float, float]:
    """95 % percentile bootstrap interval of ``statistic(*samples, axis=...)``.

    Each sample is resampled by itself (stratified bootstrap, as rliable does over tasks).

    Returns:
        Low and high end; both NaN where a sample has fewer than two values or one is not finite.
    """
    if not samples or any(len(sample) < 2 or not np.isfinite(sample).all() for sample in samples):
        return float("nan"), float("nan")
    found = stats.bootstrap(
        tuple(np.asarray(sample, dtype=np.float64) for sample in samples),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def probability(x: Floats, y: Floats) -> Any:
    """Probability that a value of ``x [..., n]`` exceeds one of ``y [..., m]``; a tie counts one half."""
    higher, lower = x[..., :, None], y[..., None, :]
    return (np.mean(higher > lower, axis=(-2, -1)) + np.mean(higher >= lower, axis=(-2, -1))) / 2


def improvement(pairs: Sequence[tuple[Floats, Floats]]) -> tuple[float, float, float]:
    """Probability that the first method beats the second, averaged over datasets, with its interval.

    Args:
        pairs: per dataset, the runs' scores of the first method ``[n]`` and of the second ``[m]``.

    Returns:
        Probability, low end, high end.
    """
    samples = [sample for pair in pairs for sample in pair]

    def average(*drawn: Floats, axis: int = -1) -> Any:
        each = [probability(drawn[k], drawn[k + 1]) for k in range(0, len(drawn), 2)]
        return np.mean(each, axis=0)

    return (float(average(*samples)), *interval(samples, average))
