"""What the data cover, and what each method makes of it: the runs of committed suites.

    python benchmarks/studies/coverage.py [--folders results/mujoco-small results/mpe]

Every dataset of the suites is made again by its recipe, and measured:

* ``recombined``: the share of joint actions, put together from what agents did in similar states, that lie as near to
  the data as held-out ones do. A method that improves agent by agent proposes such actions.
* ``uniform``: the same for random joint actions: how much of the whole box is covered.
* ``spread``: standard deviation of the episodes' returns, in units of the score. Without it nothing is there to
  choose from.
* ``score``: of the data themselves.

A method's gain is its mean score less that of behavior cloning on the same data. Spearman's rank correlation over
datasets says whether a method gains more where more is covered; its 95 % interval is bootstrapped over datasets.
"""

from __future__ import annotations

import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.analysis import Results
from marlzoo.benchmarks.references import normalized_score
from marlzoo.benchmarks.sources import obtain
from marlzoo.benchmarks.stats import Floats
from marlzoo.benchmarks.suites import Data
from scipy.stats import spearmanr

from marlzoo.data.diagnostics import coverage
from marlzoo.data.load import load_dataset

MEASURES = ("recombined", "uniform", "spread", "score")
CLONING = "bc"
FEWEST = 5  # datasets of a correlation
RESAMPLES = 2000


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to read."""

    folders: tuple[Path, ...] = (Path("results/mujoco-small"), Path("results/mpe"))  # of results
    data: Path = Path("runs/data")  # where datasets are, or are made


def measured(data: Data, folder: Path) -> dict[str, float]:
    """The measures of one dataset."""
    source = obtain(data, folder, lambda name, mean: None)
    dataset = load_dataset(source.path, **source.options)
    found = coverage(dataset)
    returns = dataset.returns
    low, high = (
        normalized_score(data.task, value, data.quality, data.source)
        for value in (returns.mean(), returns.mean() + returns.std())
    )
    known = (found.recombined, found.uniform, None if low is None or high is None else high - low, low)
    return {name: np.nan if value is None else value for name, value in zip(MEASURES, known, strict=True)}


def lines(options: Options) -> pd.DataFrame:
    """One line per dataset and learner: its mean score, its gain over cloning, and the dataset's measures."""
    results = Results(*options.folders)
    keys = ["suite", "task", "quality", "learner"]
    scores = results.table()[[*keys, "score"]].rename(columns={"score": "reached"})
    cloning = scores[scores["learner"] == CLONING].set_index(keys[:3])["reached"]
    scores = scores.join(cloning.rename("cloning"), on=keys[:3])
    scores["gain"] = scores["reached"] - scores["cloning"]
    amounts = results.frame().drop_duplicates(keys[1:3])[["task", "quality", "data_transitions"]]
    parts = [
        {
            "task": line.task,
            "quality": line.quality,
            **measured(
                Data(task=line.task, quality=line.quality, transitions=int(line.data_transitions)),
                options.data,
            ),
        }
        for line in amounts.itertuples()
    ]
    found: pd.DataFrame = scores.merge(pd.DataFrame(parts), on=["task", "quality"])
    return found


def correlation(measure: Floats, gain: Floats) -> tuple[float, float, float]:
    """Spearman's correlation and its 95 % interval over datasets; NaN where there are too few."""
    known = np.isfinite(measure) & np.isfinite(gain)
    if known.sum() < FEWEST:
        return np.nan, np.nan, np.nan
    x = measure[known]
    y = gain[known]
    rng = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a resample may hold one dataset only
        found = [spearmanr(x[k], y[k]).statistic for k in rng.integers(0, len(x), (RESAMPLES, len(x)))]
        low, high = np.nanquantile(found, (0.025, 0.975))
        return float(spearmanr(x, y).statistic), float(low), float(high)


def correlations(numbers: pd.DataFrame) -> dict[str, list[tuple[float, float, float]]]:
    """Of every learner but cloning with every measure."""
    return {
        str(learner): [correlation(part[name].to_numpy(), part["gain"].to_numpy()) for name in MEASURES]
        for learner, part in numbers.groupby("learner", sort=False)
        if learner != CLONING
    }


def report(numbers: pd.DataFrame) -> study.Study:
    """A line for every learner; the measures of the datasets below; gains over coverage as plot."""
    found = correlations(numbers)
    counts = numbers[np.isfinite(numbers["gain"])].groupby("learner").size()
    body = []
    for learner, values in found.items():
        cells = [
            "–" if np.isnan(value) else f"{value:+.2f} [{low:+.2f}, {high:+.2f}]"
            for value, low, high in values
        ]
        body.append([learner, str(counts.get(learner, 0)), *cells])
    ends = np.array([(low, high) for values in found.values() for _, low, high in values if np.isfinite(low)])
    clear = np.sum((ends[:, 0] > 0) | (ends[:, 1] < 0))
    of_data = numbers.drop_duplicates(["task", "quality"])
    ranges = (f"{name} {of_data[name].min():.2f} to {of_data[name].max():.2f}" for name in MEASURES)
    notes = [
        "Rank correlation over datasets of a learner's gain over behavior cloning (mean normalized score, last "
        "checkpoint) with measures of the data, and its 95 % bootstrap interval over datasets.",
        f"Over the {len(of_data)} datasets the measures reach from ... to: {', '.join(ranges)}.",
        f"{clear} of {len(ends)} intervals do not contain 0; by chance one in twenty would not, and they were not "
        "corrected for their number.",
        f"Made by `{study.command('coverage')}`.",
    ]
    sheet = study.plain_sheet(
        "Coverage of the data and gain over cloning", ["learner", "datasets", *MEASURES], body, notes
    )
    return study.Study("coverage", sheet, numbers, lambda figure: draw(figure, numbers), (9.0, 4.5))


def draw(figure: Any, numbers: pd.DataFrame) -> None:
    """Gains over two measures, a mark for every dataset."""
    axes = figure.subplots(1, 2, sharey=True)
    for ax, name in zip(axes, ("recombined", "spread"), strict=True):
        for learner, part in numbers[numbers["learner"] != CLONING].groupby("learner", sort=False):
            ax.plot(part[name], part["gain"], "o", alpha=0.6, markersize=4, label=str(learner))
        ax.axhline(0, lw=0.8, color="gray")
        ax.set_xlabel(name)
    axes[0].set_ylabel("score less cloning's")
    axes[1].legend(fontsize=6, loc="center left", bbox_to_anchor=(1, 0.5))


def main(options: Options) -> int:
    """Run the study."""
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
