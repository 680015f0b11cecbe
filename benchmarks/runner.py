"""Runs a suite: makes data, trains what is missing in lockstep groups, appends rows, writes the tables.

Everything on the way is kept: rows after each evaluation, checkpoints in between. The same command after an
interruption, or a kill, resumes; when nothing is missing it prints the table at once.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from marlzoo.console import console as plain_console
from marlzoo.data.once import reading_once

from . import reuse, tables
from .commands import note_command
from .launchers import Place, make_launcher
from .membership import left_out, rows_of
from .plan import Group, expanded, groups, runs_of, validate
from .plan import finished as finished_runs
from .progress import Display, WorkItem, last_lines
from .results import ResultsFile
from .sources import Source, is_missing, obtain
from .split import Split, cluster_split, default_split, group_size, require_replicas
from .storage import Storage
from .styles import terminal
from .suites import Suite
from .trainer import Trainer, require_playable, require_trainable

IN_THIS_PROCESS = Split()
HERE = Place()


@dataclass(frozen=True)
class Finished:
    """How a suite ended.

    Attributes:
        folder: with ``rows.csv``, ``episodes.csv``, ``metrics``, ``checkpoints`` and the tables.
        trained: runs that were trained now.
        there: runs that were there.
        failures: why groups failed, a line each.
        runs: names of the suite's runs, as in the column ``run``.
        checkpoints: of these runs, those that are there. The folder may hold others, of runs with other settings.
    """

    folder: Path
    trained: int
    there: int
    failures: tuple[str, ...] = ()
    runs: frozenset[str] = frozenset()
    checkpoints: tuple[Path, ...] = ()


def run_suite(
    suite: Suite,
    *,
    out: Path = Path("results"),
    device: str = "cpu",
    max_replicas: int = 20,
    check_data: bool = True,
    split: Split | None = IN_THIS_PROCESS,
    place: Place = HERE,
    rerun: Collection[str] = (),
    force: bool = False,
    log: Sequence[str] = (),
    command: str = "",
    remedy: str = "--rerun {method}",
    console: Console | None = None,
    whole: Suite | None = None,
) -> Finished:
    """Run what is missing of a suite and print its tables.

    Args:
        suite: what to compare.
        out: folder; results go to ``out/<suite>``, regenerated data to ``out/data``.
        device: where to train.
        max_replicas: most replicas trained in one lockstep group.
        check_data: compare data and simulator before training.
        split: how groups are spread over processes; None: see
            :func:`marlzoo.benchmarks.split.default_split` (on a GPU: not at all).
        place: where to train; on a cluster only the threads of ``split`` count, as those of each group.
        rerun: methods that are trained again although they have results; these move to ``replaced.csv``.
        force: all methods are.
        log: names of further loggers.
        command: named below the table as what made it.
        remedy: the option with which this command trains a ``{method}`` again, told where its code has changed.
        console: where to print.
        whole: the suite that ``suite`` is a part of: the tables hold its rows too, as far as they are there.

    Raises:
        MarlzooError: wrong names or settings, missing or broken data, a disk that cannot be written.
    """
    require_replicas(max_replicas)
    console = console or plain_console()
    suite = expanded(suite)
    started = time.monotonic()
    validate(suite)
    _require_loggers(log)
    launcher = make_launcher(place, device)
    storage = Storage(place.storage, suite.name) if place.storage else None
    if storage is not None:
        storage.require()
    folder = out / suite.name
    results = ResultsFile(folder / "rows.csv")
    results.rows()  # a broken file is found before any work
    again = {learner.method for learner in suite.learners} if force else set(rerun)
    with reading_once(), Display(console, f"suite {suite.name}") as display:
        sources, made = _obtain_all(suite, out / "data", display)
        found = reuse.find_done(suite, sources, results, again)
        if place.on != "local":
            split = cluster_split(suite, runs_of(suite, sources), max_replicas, device, split)
        elif split is None:
            split = default_split(suite, found.missing, max_replicas) if device == "cpu" else Split()
        size = group_size(suite, sources, split, max_replicas)
        todo = groups(suite, found.missing, size)
        require_trainable(suite, todo)
        if place.on == "local":  # other machines have other memory, and look for themselves
            require_playable(suite, todo)
        reuse.forget(suite, found, results, again, folder, size, storage)
        for line in (reuse.reuse_line(found), *reuse.warnings(found, remedy)):
            display.log(line)
        stages = [_stage(group) for group in todo]
        display.plan([*made, *stages], min(split.processes, max(len(todo), 1)))
        trainer = Trainer(suite, folder, device, check_data, log, storage)
        failures = launcher.run(trainer, list(zip(todo, stages, strict=True)), split, display)
    results.publish()
    note_command(folder, command)
    _show(results, folder, expanded(whole or suite), sources, command, console)
    trained = len(found.missing)
    if failures:  # what other processes did not finish has no row of a last update
        trained = len(finished_runs(suite, found.missing, results.rows()))
    there = len(found.done)
    seconds = time.monotonic() - started
    for line in last_lines(folder, trained, there, failures, seconds):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    runs = runs_of(suite, sources)
    names = frozenset(run.name(suite) for run in runs)
    kept = _kept(suite, todo or groups(suite, runs, size), folder)
    return Finished(folder, trained, there, tuple(failures), names, kept)


def _kept(suite: Suite, trained: Sequence[Group], folder: Path) -> tuple[Path, ...]:
    """The checkpoints of groups that are there."""
    paths = [reuse.files(group, folder, suite)[0] for group in trained]
    return tuple(path for path in paths if path.exists())


def _require_loggers(names: Sequence[str]) -> None:
    """Find a logger that is missing before any work."""
    if names:  # loading torch takes seconds, which printing tables of what is there should not
        from marlzoo.training.more_loggers import find_logger

        for name in names:
            find_logger(name)


def _show(
    results: ResultsFile,
    folder: Path,
    suite: Suite,
    sources: Sequence[Source],
    command: str,
    console: Console,
) -> None:
    """Write and print the tables of the suite's rows, if there are any."""
    if not results.exists():
        return
    everything = results.read()
    rows = rows_of(everything, suite, sources)
    if left := left_out(everything, rows):
        all_of_them = f"marlzoo table {shlex.quote(str(folder))}"
        line = f"Left out here: {left}; {all_of_them} shows all"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not rows.empty:
        for sheet in tables.write(rows, folder, f"Suite {suite.name}", command):
            if not sheet.long:  # table.md has them all
                console.print(terminal(sheet), soft_wrap=True)


def _obtain_all(suite: Suite, folder: Path, display: Display) -> tuple[list[Source], list[WorkItem]]:
    """All datasets of the suite; missing ones are made and listed."""
    stages = {}
    for k, data in enumerate(suite.data):
        if is_missing(data, folder):
            stages[k] = WorkItem(f"data/{data.task}", f"data: {data.task} {data.quality}", data.transitions)
    display.plan(list(stages.values()))
    sources: dict[int, Source] = {}
    # Those that are there, or have to be, come first: one that is missing is told before any is made.
    for k in sorted(range(len(suite.data)), key=lambda k: k in stages):
        part = display.begin(stages[k]) if k in stages else None
        sources[k] = obtain(suite.data[k], folder, lambda done, total: part.advance(done) if part else None)  # noqa: B023
        if part:
            part.finish()
            part.log(f"{stages[k].label}: mean return {sources[k].behavior:.1f}")
    return [sources[k] for k in range(len(suite.data))], list(stages.values())


def _stage(group: Group) -> WorkItem:
    # In units of updates of one agent's networks, so that tasks of different size cost about the same each.
    unit = float(group.spec.n_agents)
    amount = group.updates * len(group.runs) * unit
    return WorkItem(f"train/{group.learner.method}/{group.task}", group.label, amount, unit=unit)
