"""The same suite trained twice, on different machines: do its numbers come again?

    python benchmarks/studies/replication.py [--folders results/mujoco-small results/mpe]

``marlzoo bench`` keeps rows that were trained anew in ``replaced.csv``. Runs of both files that have the same task,
quality, method, settings and seeds are compared: mean returns of the last checkpoints, and the 95 % bootstrap
interval of their difference over seeds. Data are regenerated on each machine by the same recipe and seed, and differ
in the last digits of the physics; arithmetic, the processor and torch's version differ, too. An interval that
contains 0 says that the two cannot be told apart, not that they are equal.
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
from marlzoo.benchmarks.results import REPLACED, ResultsFile
from marlzoo.benchmarks.stats import difference

from marlzoo.errors import DataError
from marlzoo.task import TaskName

ABOUT = ["task", "quality", "method", "variant"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to compare."""

    folders: tuple[Path, ...] = (Path("results/mujoco-small"), Path("results/mpe"))  # of results


def finished(path: Path) -> pd.DataFrame:
    """The rows of the runs that reached the most updates that any run of the file has, and their final episodes.

    Raises:
        DataError: the file is missing or broken.
    """
    rows: pd.DataFrame = ResultsFile(path).read()
    if not len(rows):
        raise DataError(f"{path}: no rows; give folders of results in which runs were trained again")
    last = (rows["updates"] == rows["updates"].max()) & (rows["episodes"] == rows["episodes"].max())
    found: pd.DataFrame = rows[last]
    return found


def lines(folders: Sequence[Path]) -> pd.DataFrame:
    """One line for every run: what it is, ``first`` or ``again``, its return, and where it was trained."""
    parts = []
    for folder in folders:
        for trained, name in (("first", REPLACED), ("again", "rows.csv")):
            rows = finished(folder / name)
            parts.append(rows[[*ABOUT, "seed", "mean_return", "device", "machine"]].assign(trained=trained))
    found = pd.concat(parts, ignore_index=True)
    counts = found.groupby([*ABOUT, "seed"])["trained"].nunique()
    both = counts[counts == 2].index
    return found[pd.MultiIndex.from_frame(found[[*ABOUT, "seed"]]).isin(both)].reset_index(drop=True)


def report(numbers: pd.DataFrame) -> study.Study:
    """A line for every method on every dataset, the differences as plot."""
    body = []
    drawn = []
    apart = 0
    for key, part in numbers.groupby(ABOUT, sort=False):
        returns = {trained: rows["mean_return"].to_numpy() for trained, rows in part.groupby("trained")}
        first = returns["first"]
        again = returns["again"]
        low, high = difference(again, first)
        gap = again.mean() - first.mean()
        apart += not low <= 0 <= high
        task, quality, method, variant = map(str, key)
        learner = f"{method} ({variant.removeprefix('variant=')})" if variant else method
        cells = [f"{values.mean():.1f} ± {values.std(ddof=1):.1f}" for values in (first, again)]
        body.append([f"{task} {quality}", learner, *cells, f"{gap:+.1f} [{low:.1f}, {high:.1f}]"])
        drawn.append((f"{TaskName.parse(task).name} {quality}\n{learner}", gap, low, high, abs(first.mean())))
    machines = numbers.drop_duplicates(["trained", "device", "machine"])
    places = {
        trained: "; ".join(f"{line.device}, {line.machine}" for line in part.itertuples())
        for trained, part in machines.groupby("trained")
    }
    notes = [
        f"Mean return ± sample standard deviation (n - 1) over {numbers['seed'].nunique()} seeds of the last "
        "checkpoints, and the difference of the means with its 95 % bootstrap interval over seeds.",
        f"{apart} of {len(body)} intervals do not contain 0.",
        f"First: {places['first']}. Again: {places['again']}.",
        f"Made by `{study.command('replication')}`.",
    ]
    header = ["dataset", "learner", "first", "again", "difference"]
    sheet = study.plain_sheet("The same runs on two machines", header, body, notes)

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for place, (_, gap, low, high, scale) in enumerate(reversed(drawn)):
            ax.plot(np.array([low, high]) / scale, [place, place], color="C0")
            ax.plot(gap / scale, place, "o", color="C0")
        ax.axvline(0, color="gray", linewidth=0.8)
        ax.set_yticks(range(len(drawn)), [name for name, *_ in reversed(drawn)], fontsize=7)
        ax.set_xlabel("difference, as a share of the first mean")

    return study.Study("replication", sheet, numbers, draw, (7.0, 1.0 + 0.42 * len(body)))


def main(options: Options) -> int:
    """Run the study."""
    study.write_study(report(lines(options.folders)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
