"""How far trainings came that were stopped before they made a teacher worth shipping: the rows of ``reached.csv``.

``python -m marlzoo.teachers.reached TASK OPTIONS``, with the options of the training, measures its last snapshot,
as when data are recorded, and writes the task's row.
"""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import tyro

from marlzoo.checkpoint import load_arrays
from marlzoo.errors import DataError
from marlzoo.files import write_text_atomic
from marlzoo.teachers.make import Options, learner_of, measure, run_folder
from marlzoo.teachers.store import FOLDER

FILE = "reached.csv"


@dataclass(frozen=True)
class Reached:
    """One training that was stopped.

    Args:
        task: full task name.
        steps: team steps behind the measured snapshot.
        steps_per_second: of the training, up to its last checkpoint.
        episodes: number of episodes measured.
        return_mean: their mean return.
        return_std: standard deviation.
        win_rate: share of them that were won; None where the task cannot be won.
        command: that trained.
    """

    task: str
    steps: int
    steps_per_second: float
    episodes: int
    return_mean: float
    return_std: float
    win_rate: float | None
    command: str


def read_reached(folder: Path = FOLDER) -> dict[str, Reached]:
    """All rows by task."""
    path = folder / FILE
    if not path.is_file():
        return {}
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    return {row["task"]: _reached(row) for row in rows}


def measure_reached(task: str, options: Options) -> Reached:
    """Measure the last snapshot of an unfinished training.

    Raises:
        DataError: there is no such training, or it has no snapshot.
        CheckpointError: its checkpoint is damaged.
    """
    learner = learner_of(task, options)
    run = run_folder(learner, task, options)
    if not (run / "training.npz").is_file():
        raise DataError(
            f"{run}: no training lies there; give the options and the folder --work of the training"
        )
    curve = load_arrays(run / "training.npz")[1]["curve"]
    done = max(int(path.stem) for path in run.glob("[0-9]*.npz"))
    policy = load_arrays(run / f"{done:06d}.npz")[0]
    (found,) = measure(learner, task, [policy], [done], options.episodes)
    return Reached(
        task=task,
        steps=found.steps,
        steps_per_second=round(curve[-1]["steps"] / curve[-1]["seconds"], 1),
        episodes=found.episodes,
        return_mean=round(found.return_mean, 4),
        return_std=round(found.return_std, 4),
        win_rate=None if found.win_rate is None else round(found.win_rate, 4),
        command=options.command(task),
    )


def write_reached(row: Reached, folder: Path = FOLDER) -> Path:
    """Write a row in place of the task's older one; returns the file."""
    rows = read_reached(folder) | {row.task: row}
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Reached)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(rows[task]) for task in sorted(rows))
    write_text_atomic(folder / FILE, text.getvalue())
    return folder / FILE


def _reached(row: dict[str, str]) -> Reached:
    return Reached(
        task=row["task"],
        steps=int(row["steps"]),
        steps_per_second=float(row["steps_per_second"]),
        episodes=int(row["episodes"]),
        return_mean=float(row["return_mean"]),
        return_std=float(row["return_std"]),
        win_rate=float(row["win_rate"]) if row["win_rate"] else None,
        command=row["command"],
    )


def main(task: tyro.conf.Positional[str], options: tyro.conf.OmitArgPrefixes[Options]) -> None:
    """Measure how far a stopped training came, and write its row.

    Args:
        task: full task name.
        options: of the training; the row goes into its folder ``out``.
    """
    print(write_reached(measure_reached(task, options), options.out))


if __name__ == "__main__":
    tyro.cli(main)
