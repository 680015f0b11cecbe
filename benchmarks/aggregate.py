"""Statistics over several datasets for the learners of one execution class: scores, ranks, profiles, improvement."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import pandas as pd

from .labels import labels_of
from .stats import Floats, improvement, interval, mean_ranks, pooled_iqm, profile
from .summary import CELL, outcomes, scores_of

THRESHOLDS = tuple(range(0, 125, 5))  # of normalized scores in a performance profile
Estimate = tuple[float, float, float]
"""Value, low end and high end of its 95 % interval; NaN for what is not known."""

UNKNOWN: Estimate = (math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Runs:
    """The last checkpoints of the learners of one class on some datasets, those of unfinished runs left out.

    Attributes:
        learners: their names.
        datasets: names of the datasets.
        returns: ``returns[learner][dataset]``, ``[n]`` one per run; a pair that was not run is missing.
        scores: the same, normalized; NaN where a task has no reference.
    """

    learners: tuple[str, ...]
    datasets: tuple[str, ...]
    returns: dict[str, dict[str, Floats]] = field(repr=False)
    scores: dict[str, dict[str, Floats]] = field(repr=False)

    def complete(self) -> tuple[str, ...]:
        """Learners that ran on every dataset, which alone can be compared over all of them."""
        return tuple(name for name in self.learners if len(self.returns[name]) == len(self.datasets))

    def over(self, kept: Sequence[str]) -> Runs:
        """The same on some of the datasets; learners that ran on none of them are left out."""
        parts = [
            {name: {d: found[d] for d in kept if d in found} for name, found in whole.items()}
            for whole in (self.returns, self.scores)
        ]
        learners = tuple(name for name in self.learners if parts[0][name])
        return Runs(learners, tuple(kept), *parts)


def select_runs(rows: pd.DataFrame, cells: pd.DataFrame) -> Runs:
    """The runs behind some lines of a summary, under the names that these have.

    Args:
        rows: of results.
        cells: lines of :func:`marlzoo.benchmarks.summary.summary` of these rows, with the columns ``learner`` and
            ``dataset``.
    """
    final = outcomes(rows)
    final = final[final["finished"]]
    returns: dict[str, dict[str, Floats]] = {name: {} for name in dict.fromkeys(cells["learner"])}
    scores: dict[str, dict[str, Floats]] = {name: {} for name in returns}
    keys = [name for name in CELL if name != "execution"]
    groups = dict(iter(final.groupby(keys, sort=False, dropna=False)))
    for line in cells.to_dict("records"):
        part = groups.get(tuple(line[name] for name in keys))
        if part is not None:
            returns[line["learner"]][line["dataset"]] = part["mean_return"].to_numpy(dtype=np.float64)
            scores[line["learner"]][line["dataset"]] = scores_of(part)
    learners = tuple(name for name in returns if returns[name])
    return Runs(learners, tuple(dict.fromkeys(cells["dataset"])), returns, scores)


def interquartile_score(runs: Runs, learner: str) -> Estimate:
    """Interquartile mean of all runs' normalized scores, every dataset counting alike, resampled within each."""
    found = runs.scores[learner]
    samples = [found[name] for name in sorted(found)]  # so that the same draws stand in every table
    if not samples or not all(np.isfinite(sample).all() for sample in samples):
        return UNKNOWN
    return (float(pooled_iqm(*samples)), *interval(samples))


def ranks(runs: Runs) -> dict[str, Estimate]:
    """Mean rank over datasets of every complete learner, among the complete learners; none of one alone."""
    learners = runs.complete()
    if len(learners) < 2:
        return {}
    found = mean_ranks([[runs.returns[name][d] for name in learners] for d in runs.datasets])
    return dict(zip(learners, found, strict=True))


def better(runs: Runs, learner: str, than: str) -> Estimate:
    """Probability that a run of one learner has a higher return than one of another, over the datasets of both."""
    first = runs.returns[learner]
    second = runs.returns[than]
    shared = [dataset for dataset in runs.datasets if dataset in first and dataset in second]
    return improvement([(first[d], second[d]) for d in shared]) if shared else UNKNOWN


@dataclass(frozen=True)
class Statistic:
    """A column of the tables over several datasets.

    Args:
        name: as the caption calls it; ``{than}`` stands for the reference learner.
        meaning: what it is, for the caption.
        of: its value for learners, by name, from the runs and the reference learner; those it says nothing about are
            left out.
        digits: decimal places that are shown.
        suffix: what the column's head says beside the name.
    """

    name: str
    meaning: str
    of: Callable[[Runs, str], Mapping[str, Estimate]]
    digits: int
    suffix: str = ""

    def head(self, than: str = "") -> str:
        """Of the column."""
        return f"{self.name}{self.suffix}".format(than=than)

    def caption(self, than: str = "") -> str:
        """Name and meaning."""
        return f"{self.name}: {self.meaning}".format(than=than)


SCORE = Statistic(
    "score",
    "interquartile mean of the runs' normalized scores, every dataset counting alike",
    lambda runs, than: {name: interquartile_score(runs, name) for name in runs.complete()},
    digits=1,
    suffix=" (IQM)",
)
RANK = Statistic(
    "rank", "by mean return, averaged over datasets, 1 is best", lambda runs, than: ranks(runs), digits=1
)
BETTER = Statistic(
    "P(> {than})",
    "probability that a run's return is higher than one of {than}, averaged over datasets",
    lambda runs, than: {name: better(runs, name, than) for name in runs.learners if name != than},
    digits=2,
)
STATISTICS = (SCORE, RANK, BETTER)  # in the order of the tables' columns


def improvements(runs: Runs) -> pd.DataFrame:
    """:func:`better` for all pairs of learners, with the number of datasets that both ran on."""
    lines = []
    for learner, than in permutations(runs.learners, 2):
        shared = runs.returns[learner].keys() & runs.returns[than].keys()
        if shared:
            lines.append((learner, than, *better(runs, learner, than), len(shared)))
    return pd.DataFrame(lines, columns=["learner", "than", "probability", "low", "high", "datasets"])


def profiles(runs: Runs, thresholds: Sequence[float] = THRESHOLDS) -> pd.DataFrame:
    """Share of each complete learner's runs that reach each normalized score; empty without references."""
    lines = []
    for learner in runs.complete():
        samples = list(runs.scores[learner].values())
        if any(np.isnan(sample).all() for sample in samples):
            continue
        for threshold in thresholds:
            lines.append((learner, threshold, *profile(samples, threshold)))
    numbers = ["score", "share", "low", "high"]
    # An empty table, joined to one with lines, would make objects of its numbers.
    return pd.DataFrame(lines, columns=["learner", *numbers]).astype(dict.fromkeys(numbers, float))


def named(cells: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A summary with the columns ``learner`` and ``dataset``, and the notes that go with these names."""
    labels = labels_of(cells)
    return cells.assign(learner=labels.learners, dataset=labels.datasets), labels.notes
