"""Runs a suite: makes data, trains what is missing in lockstep groups, appends rows, writes the tables.

Everything on the way is kept: rows after each evaluation, checkpoints in between. The same command after an
interruption, or a kill, goes on; when nothing is missing it prints the table at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from marlzoo.console import console as plain_console
from marlzoo.console import visible

from . import tables
from .plan import Group, Source, expanded, groups, obtain, pending, recipe_file, validate
from .progress import Display, Stage
from .results import Results
from .split import Split, find_split, group_size, torch_threads, train_side_by_side
from .styles import terminal
from .suites import Suite
from .trainer import Trainer

if TYPE_CHECKING:
    pass

IN_THIS_PROCESS = Split()


def run_suite(
    suite: Suite,
    *,
    out: Path = Path("results"),
    device: str = "cpu",
    max_replicas: int = 20,
    check_data: bool = True,
    split: Split | None = IN_THIS_PROCESS,
    command: str = "",
    console: Console | None = None,
) -> Path:
    """Run what is missing of a suite and print its tables.

    Args:
        suite: what to compare.
        out: folder; results go to ``out/<suite>``, regenerated data to ``out/data``.
        device: where to train.
        max_replicas: most replicas trained in one lockstep group.
        check_data: compare data and simulator before training.
        split: how groups are spread over processes; None: as it was for this folder, or else measures best (on a
            GPU: not at all).
        command: named below the table as what made it.
        console: where to print.

    Returns:
        The folder with ``rows.csv``, ``table.csv``, ``table.md`` and ``table.tex``.

    Raises:
        MarlzooError: wrong names or settings, missing or broken data, a disk that cannot be written.
    """
    console, suite = console or plain_console(), expanded(suite)
    validate(suite)
    folder = out / suite.name
    results = Results(folder / "rows.csv")
    results.rows()  # a broken file is found before any work
    with Display(console, f"suite {suite.name}") as display:
        sources, made = _obtain_all(suite, out / "data", display)
        missing = pending(suite, sources, results)
        if split is None and device != "cpu":
            split = Split()
        elif split is None:
            split = find_split(suite, missing, sources, folder / "checkpoints", max_replicas, display.log)
        todo = groups(missing, group_size(suite, sources, split, max_replicas))
        stages = [_stage(group, suite) for group in todo]
        display.plan([*made, *stages], min(split.processes, max(len(todo), 1)))
        trainer = Trainer(suite, folder, device, check_data)
        if split.processes == 1:
            with torch_threads(split.threads):
                for group, stage in zip(todo, stages, strict=True):
                    part = display.begin(stage)
                    trainer.train(group, part)
                    part.finish()
        else:
            train_side_by_side(trainer, list(zip(todo, stages, strict=True)), split, display)
    everything = tables.read([folder])
    rows = everything[everything["data_hash"].isin([source.hash for source in sources])]
    if len(rows) < len(everything):
        console.print(
            f"{len(everything) - len(rows)} rows are of other data (regenerated on another processor, or by another "
            f"version) and left out here; marlzoo table {folder} shows all",
            highlight=False,
        )
    comparison, _, *others = tables.write(rows, folder, f"Suite {suite.name}", command)
    for sheet in (comparison, *others):
        console.print(terminal(sheet))
    console.print(f"Rows and tables: {visible(folder)}", highlight=False, markup=False)
    return folder


def _obtain_all(suite: Suite, folder: Path, display: Display) -> tuple[list[Source], list[Stage]]:
    """Every dataset of the suite, made where it is missing, and what was made."""
    stages = {}
    for k, data in enumerate(suite.data):
        file = recipe_file(data, folder)
        if file is not None and not file.exists():
            stages[k] = Stage(f"data/{data.task}", f"data: {data.task} {data.quality}", data.transitions)
    display.plan(list(stages.values()))
    sources = []
    for k, data in enumerate(suite.data):
        part = display.begin(stages[k]) if k in stages else None
        sources.append(obtain(data, folder, lambda done, total: part.advance(done) if part else None))  # noqa: B023
        if part:
            part.finish()
            part.log(f"{stages[k].label}: mean return {sources[-1].behavior:.1f}")
    return sources, list(stages.values())


def _stage(group: Group, suite: Suite) -> Stage:
    # In units of updates of one agent's networks, so that tasks of different size cost about the same each.
    amount = float(suite.updates * len(group.runs) * group.spec.n_agents)
    return Stage(f"train/{group.learner.method}/{group.task}", group.label, amount)
