"""What learners make of mixed data: a mixture of two qualities against either part alone, from committed rows.

    python benchmarks/studies/mixtures.py [--folders results/mujoco-small]

Medium-expert data are half medium and half expert, of as many transitions as either alone; SMAX has good-poor,
good-medium and medium-poor. A learner that imitates gains nothing from a mixture: it can be expected to land near the
mean of what it makes of the parts. One that tells good actions from poor ones should land near the better part, or
above. So for every learner, by scores of the last checkpoints:

* ``over the mean``: score on the mixture less the mean of its scores on the parts;
* ``over the better``: the same less the better of its two means;
* ``over the data``: score on the mixture less that of the data themselves.

Intervals are bootstrapped over seeds, those of all tasks together with every task counting alike. Which part is the
better is chosen by the means of all seeds, not anew in each resample.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.analysis import Results
from marlzoo.benchmarks.references import normalized_score
from marlzoo.benchmarks.stats import Floats, interval

from marlzoo.errors import DataError
from marlzoo.task import TaskName

NAME = "mixtures"
PARTS = {
    "medium-expert": ("medium", "expert"),
    "good-poor": ("good", "poor"),
    "good-medium": ("good", "medium"),
    "medium-poor": ("medium", "poor"),
}
KINDS = ("over the mean", "over the better", "over the data")
COLUMNS = ["task", "quality", "learner", "part", "seed", "score"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to read."""

    folders: tuple[Path, ...] = (Path("results/mujoco-small"), Path("results/smax"))  # of results


def lines(rows: pd.DataFrame) -> pd.DataFrame:
    """One line for every run on a mixture (``part`` is ``mixture``) and on its parts, and two for the data's scores.

    Args:
        rows: with the columns of ``rows.csv`` and ``learner``. Only learners that have runs on the mixture and on
            both parts are kept; the last rows of runs that reached their suite's updates count.

    Raises:
        DataError: no learner has.
    """
    last = rows[rows["updates"] == rows.groupby("suite")["updates"].transform("max")]
    found = []
    for (task, learner), runs in last.groupby(["task", "learner"], sort=False):
        by_quality: dict[Any, pd.DataFrame] = dict(iter(runs.groupby("quality")))
        for mixed, parts in PARTS.items():
            if {mixed, *parts} <= set(by_quality):
                found += [
                    (
                        task,
                        mixed,
                        learner,
                        "mixture" if quality == mixed else quality,
                        line.seed,
                        line.normalized_score,
                    )
                    for quality in (mixed, *parts)
                    for line in by_quality[quality].itertuples()
                ]
                behavior = float(by_quality[mixed]["behavior_return"].iloc[0])
                found.append((task, mixed, learner, "data", -1, normalized_score(task, behavior)))
    if not found:
        raise DataError("no learner has finished runs on a mixture and on both of its parts")
    return pd.DataFrame(found, columns=COLUMNS)


def samples(numbers: pd.DataFrame, kind: str) -> tuple[list[Floats], Floats]:
    """Scores and their weights in a gain: ``gain = sum of weight * mean(score)``.

    Args:
        numbers: of one learner, on one mixture or several, which count alike.
        kind: one of :data:`KINDS`.
    """
    scores: list[Floats] = []
    weights: list[float] = []
    cells = numbers.groupby(["task", "quality"], sort=False)
    for (_, quality), cell in cells:
        of = {part: group["score"].to_numpy(np.float64) for part, group in cell.groupby("part")}
        first, second = (of[part] for part in PARTS[str(quality)])
        better = max(first, second, key=np.mean)
        less: list[tuple[Floats, float]] = {
            "over the mean": [(first, -0.5), (second, -0.5)],
            "over the better": [(better, -1.0)],
            "over the data": [(np.repeat(of["data"], len(of["mixture"])), -1.0)],
        }[kind]
        for values, weight in ((of["mixture"], 1.0), *less):
            scores.append(values)
            weights.append(weight / cells.ngroups)
    return scores, np.array(weights)


def gain(numbers: pd.DataFrame, kind: str) -> tuple[float, float, float]:
    """A learner's gain, mean over mixtures, and its 95 % interval over seeds."""
    scores, weights = samples(numbers, kind)

    def total(*values: Floats, axis: int = -1) -> Any:
        return sum(weight * sample.mean(axis) for weight, sample in zip(weights, values, strict=True))

    return (float(total(*scores)), *interval(scores, total))


def text(found: Sequence[float]) -> str:
    """A gain with its interval, where it has one."""
    value, low, high = found
    return f"{value:+.1f}" if np.isnan(low) else f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def report(numbers: pd.DataFrame) -> study.Study:
    """A line for every learner, those with most mixtures first; gains of all tasks together as plot."""
    parts = {str(learner): part for learner, part in numbers.groupby("learner", sort=False)}
    counts = {learner: len(part.groupby(["task", "quality"])) for learner, part in parts.items()}
    learners = sorted(parts, key=lambda learner: (-counts[learner], -gain(parts[learner], KINDS[0])[0]))
    mixtures = list(numbers[["task", "quality"]].drop_duplicates().itertuples(index=False, name=None))
    body = []
    for learner in learners:
        part = parts[learner]
        single = [part[(part["task"] == task) & (part["quality"] == quality)] for task, quality in mixtures]
        cells = [text(gain(cell, KINDS[0])) if len(cell) else "–" for cell in single]
        body.append([learner, str(counts[learner]), *cells, *(text(gain(part, kind)) for kind in KINDS)])
    names = [f"{TaskName.parse(task).name} {quality}" for task, quality in mixtures]
    notes = [
        "Normalized scores of last checkpoints. For every mixture the score less the mean of those on its two parts; "
        "then, over the learner's mixtures, the same, the score less that on the better part, and less the data's. "
        "95 % bootstrap intervals over seeds.",
        f"Made by `{study.command(NAME)}`.",
    ]
    sheet = study.plain_sheet(
        "Mixed data against their parts", ["learner", "mixtures", *names, *KINDS], body, notes
    )
    return study.Study(
        NAME, sheet, numbers, lambda figure: draw(figure, [(k, parts[k]) for k in learners]), (8.0, 4.5)
    )


def draw(figure: Any, learners: Sequence[tuple[str, pd.DataFrame]]) -> None:
    """Gain over the mean of the parts and over the better one, with intervals."""
    ax = figure.subplots()
    for shift, kind in enumerate(KINDS[:2]):
        found = np.array([gain(part, kind) for _, part in learners])
        at = np.arange(len(found)) + 0.2 * shift
        bars = np.nan_to_num(np.abs(found[:, 1:] - found[:, :1]).T)
        ax.errorbar(at, found[:, 0], yerr=bars, fmt="o", markersize=4, label=kind)
    ax.axhline(0, lw=0.8, color="gray")
    ax.set_xticks(range(len(learners)), [name for name, _ in learners], fontsize=6, rotation=45, ha="right")
    ax.set_ylabel("score")
    ax.legend()


def main(options: Options) -> int:
    """Run the study."""
    rows = pd.concat([Results(folder).named_rows() for folder in options.folders], ignore_index=True)
    study.write_study(report(lines(rows)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
