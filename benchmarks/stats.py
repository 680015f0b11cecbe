"""Statistics over seeds: interquartile mean, bootstrap intervals, ties, ranks, performance profiles.

Definitions follow Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(NeurIPS 2021); the resampling is scipy's. Every interval uses a fixed random state, so it repeats exactly, and is
given only where every sample has at least three values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import scipy  # whose parts load when they are asked for: scipy.stats takes a second
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
LEAST = 3  # values of a sample; fewer say nothing about their spread
LOWEST = -float(np.finfo(np.float64).max)
KEPT = 4096  # intervals; a suite's tables ask for each of theirs several times
NOTHING = (float("nan"), float("nan"))


def iqm(values: Any, axis: int = -1) -> Any:
    """Mean of the middle half of ``values``: a quarter (rounded down) is cut at each end.

    With fewer than four values nothing is cut and it is the mean.
    """
    return scipy.stats.trim_mean(np.asarray(values, dtype=np.float64), 0.25, axis=axis)


def pooled_iqm(*samples: Floats, axis: int = -1) -> Any:
    """Interquartile mean over all samples together (for instance all datasets' runs of one method).

    Every sample counts alike, also where one has more values than another. Samples of one size make it :func:`iqm` of
    all values; otherwise a value weighs one over the size of its sample, and at each end the share of the weight is
    cut that :func:`iqm` would cut.
    """
    rows = [np.moveaxis(np.asarray(sample, dtype=np.float64), axis, -1) for sample in samples]
    values = np.concatenate(rows, axis=-1)
    if len({sample.shape[-1] for sample in rows}) == 1:
        return iqm(values)
    count = values.shape[-1]
    share = np.concatenate([np.full(n, 1.0 / (n * len(rows))) for n in (sample.shape[-1] for sample in rows)])
    order = np.argsort(values, axis=-1)
    upper = np.cumsum(share[order], axis=-1)
    cut = int(0.25 * count) / count
    kept = np.clip(upper, cut, 1.0 - cut) - np.clip(upper - share[order], cut, 1.0 - cut)
    return (np.take_along_axis(values, order, axis=-1) * kept).sum(-1) / kept.sum(-1)


def interval(samples: Sequence[Floats], statistic: Callable[..., Any] = pooled_iqm) -> tuple[float, float]:
    """95 % percentile bootstrap interval of ``statistic(*samples, axis=...)``.

    Each sample is resampled by itself (stratified bootstrap, as rliable does over tasks). An interval that was found
    before is not found anew; only that of the same function and the same values in the same order is the same.

    Returns:
        Low and high end; both NaN where a sample has fewer than ``LEAST`` values or one is not finite.
    """
    if not samples or any(len(sample) < LEAST or not np.isfinite(sample).all() for sample in samples):
        return NOTHING
    return _interval(statistic, tuple(np.asarray(sample, dtype=np.float64).tobytes() for sample in samples))


@lru_cache(KEPT)
def _interval(statistic: Callable[..., Any], samples: tuple[bytes, ...]) -> tuple[float, float]:
    """:func:`interval` of samples by their bytes."""
    found = scipy.stats.bootstrap(
        tuple(np.frombuffer(sample) for sample in samples),
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        axis=-1,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def bands(values: Floats) -> tuple[Floats, Floats]:
    """95 % percentile bootstrap intervals of the means of ``values [K, n]``, row by row as :func:`interval` has them.

    Returns:
        Low and high ends ``[K]``; NaN where there are fewer than ``LEAST`` values or one is not finite.
    """
    low, high = np.full((2, len(values)), np.nan)
    complete = np.isfinite(values).all(-1) & (values.shape[-1] >= LEAST)
    if complete.any():
        found = scipy.stats.bootstrap(
            (values[complete],),
            np.mean,
            n_resamples=RESAMPLES,
            confidence_level=LEVEL,
            method="percentile",
            vectorized=True,
            axis=-1,
            rng=np.random.default_rng(0),
        ).confidence_interval
        low[complete] = found.low
        high[complete] = found.high
    return low, high


def probability(x: Floats, y: Floats) -> Any:
    """Probability that a value of ``x [..., n]`` exceeds one of ``y [..., m]``; a tie counts one half."""
    higher = x[..., :, None]
    lower = y[..., None, :]
    return (np.mean(higher > lower, axis=(-2, -1)) + np.mean(higher >= lower, axis=(-2, -1))) / 2


def improvement(pairs: Sequence[tuple[Floats, Floats]]) -> tuple[float, float, float]:
    """Probability that the first method beats the second, averaged over datasets, with its interval.

    A score that is not finite is below all that are.

    Args:
        pairs: per dataset, the runs' scores of the first method ``[n]`` and of the second ``[m]``.

    Returns:
        Probability, low end, high end.
    """
    # Only the order counts, so that a finite number can stand for it.
    samples = [np.where(np.isfinite(sample), sample, LOWEST) for pair in pairs for sample in pair]
    return (float(_average(*samples)), *interval(samples, _average))


def _average(*drawn: Floats, axis: int = -1) -> Any:
    """:func:`probability` of pairs of samples, one after another, averaged over the pairs."""
    each = [probability(drawn[k], drawn[k + 1]) for k in range(0, len(drawn), 2)]
    return np.mean(each, axis=0)


def difference(x: Floats, y: Floats) -> tuple[float, float]:
    """95 % bootstrap interval of ``mean(x) - mean(y)``, the samples resampled independently; NaN as for intervals."""
    return interval([x, y], _gap)


def _gap(first: Floats, second: Floats, axis: int = -1) -> Any:
    return first.mean(axis=axis) - second.mean(axis=axis)


def top(samples: Mapping[str, Floats]) -> set[str]:
    """The sample with the highest mean and all that cannot be told from it.

    These are the samples whose :func:`difference` from the best one has an interval that contains 0. Where either
    has fewer than ``LEAST`` values there is no interval, and only an equal mean counts as equal. Samples with a value
    that is not finite are never among them.
    """
    means = {name: float(sample.mean()) for name, sample in samples.items() if np.isfinite(sample).all()}
    if not means:
        return set()
    best = max(means, key=lambda name: means[name])
    equal = {name for name, mean in means.items() if mean == means[best]}
    for name in means.keys() - equal:
        low, high = difference(samples[best], samples[name])
        if low <= 0.0 <= high:
            equal.add(name)
    return equal


def mean_ranks(datasets: Sequence[Sequence[Floats]]) -> list[tuple[float, float, float]]:
    """Rank of every method by its mean, averaged over datasets, with its interval; 1 is the best.

    Equal means share the average of their ranks. A method with a value that is not finite ranks last.

    Args:
        datasets: for each dataset the runs' scores of every method, ``[n]`` each, methods in the same order.

    Returns:
        For every method its mean rank, and the low and high end of the 95 % bootstrap interval over runs (stratified
        by dataset and method); NaN where a sample has fewer than ``LEAST`` values.
    """
    count = len(datasets[0])
    worst = [[np.where(np.isfinite(sample), sample, -np.inf) for sample in methods] for methods in datasets]
    found = np.mean([_ranks(np.array([sample.mean() for sample in methods])) for methods in worst], axis=0)
    if any(len(sample) < LEAST for methods in datasets for sample in methods):
        return [(float(rank), *NOTHING) for rank in found]
    rng = np.random.default_rng(0)
    drawn = np.mean([_ranks(_resampled(methods, rng)) for methods in worst], axis=0)
    tail = 100.0 * (1.0 - LEVEL) / 2.0
    low, high = np.percentile(drawn, [tail, 100.0 - tail], axis=0)
    return [(float(found[k]), float(low[k]), float(high[k])) for k in range(count)]


def profile(samples: Sequence[Floats], threshold: float) -> tuple[float, float, float]:
    """Share of runs with a score of at least ``threshold``, averaged over datasets, with its interval.

    A run whose score is not finite reaches no threshold.

    Args:
        samples: scores of the runs, ``[n]`` for each dataset.
        threshold: in the scores' unit.

    Returns:
        Share in [0, 1], low end, high end; see :func:`interval`.
    """
    reached = [(np.nan_to_num(sample, nan=-np.inf) >= threshold).astype(np.float64) for sample in samples]
    return (float(_share(*reached)), *interval(reached, _share))


def _share(*drawn: Floats, axis: int = -1) -> Any:
    return np.mean([sample.mean(axis=axis) for sample in drawn], axis=0)


def _ranks(means: Floats) -> Floats:
    """Ranks over the last axis, 1 for the largest."""
    ranks: Floats = scipy.stats.rankdata(-means, axis=-1)
    return ranks


def _resampled(samples: Sequence[Floats], rng: np.random.Generator) -> Floats:
    """Means of resampled samples, ``[RESAMPLES, methods]``."""
    columns = [
        sample[rng.integers(len(sample), size=(RESAMPLES, len(sample)))].mean(-1) for sample in samples
    ]
    return np.stack(columns, axis=-1)
