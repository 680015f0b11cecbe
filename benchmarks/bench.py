"""``marlzoo.bench``: run a suite from Python."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from marlzoo.config import Precision
from marlzoo.console import console as plain_console
from marlzoo.errors import ConfigError, DataError, UnknownNameError, require_lists

from .analysis import Results
from .estimate import Cost, costs, left_out, require_hours, suite_within
from .launchers import Place, job_states
from .membership import whole
from .plan import expanded, validate
from .results import ResultsFile
from .runner import run_suite
from .sources import task_of
from .split import Split, require_replicas, split_on
from .status import GroupStatus, status
from .suites import Data, Suite, find_suite


def bench(
    suite: str | os.PathLike[str] | Suite,
    *,
    out: str | os.PathLike[str] = "results",
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    qualities: Sequence[str] = (),
    updates: int = 0,
    device: str = "cpu",
    precision: Precision | None = None,
    max_replicas: int = 20,
    processes: int = 1,
    threads: int = 0,
    check_data: bool = True,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - the option's name
    hours: float = 0.0,
    rerun: Collection[str] = (),
    force: bool = False,
    log: Sequence[str] = (),
    quiet: bool = False,
    on: str = "local",
    address: str = "",
    gpus: float | None = None,
    array: int = 0,
    partition: str = "",
    time: str = "",
    storage: str = "",
) -> Results:
    """Run a suite, or its missing part; the options are those of ``marlzoo bench``.

    The options of the command that train nothing are functions: :func:`bench_show`, :func:`bench_dry_run` and
    :func:`bench_status`.

    Args:
        suite: name of a built-in suite, a file ending in .toml, or a suite.
        out: folder of the results, which go to ``out/SUITE``.
        seeds: instead of the suite's.
        methods: only these of the suite's methods.
        tasks: only the suite's data of these tasks.
        qualities: only the suite's data of these qualities.
        updates: instead of the suite's.
        device: where to train.
        precision: of matrix products while training, instead of the suite's.
        max_replicas: largest number of replicas that train together.
        processes: number of training processes; 0: one per core for large suites. More than one needs a program
            whose main module may be imported (``if __name__ == "__main__":``).
        threads: of torch in each process; 0: cores / processes, or for one process as torch is set.
        check_data: compare data and simulator before training.
        set: other fields of the suite, for instance ``{"config.hidden": 32}``.
        hours: train only the datasets, cheapest first, that are estimated to fit in so many hours; 0: all.
        rerun: train these methods again.
        force: train all methods again.
        log: further loggers beside the CSV files, see :mod:`marlzoo.training.more_loggers`.
        quiet: print nothing.
        on: ``local``, ``ray`` or ``slurm``; this and what follows as in :class:`marlzoo.benchmarks.launchers.Place`.
            On a cluster ``threads`` are the CPUs of each group.
        address: of a Ray cluster.
        gpus: for each group on a cluster.
        array: most groups at a time on a cluster.
        partition: of SLURM.
        time: limit of a SLURM job.
        storage: folder or URL that checkpoints are copied to.

    Returns:
        The results of the folder ``out/SUITE``.

    Raises:
        DataError: every run failed before it had a row.
        MarlzooError: wrong names or settings, missing or broken data, a disk that cannot be written.
    """
    require_hours(hours)
    require_lists(rerun=rerun, log=log)
    require_replicas(max_replicas)
    split = Split(1, threads) if processes == 1 else split_on(on, processes, threads)
    place = Place(on, address, gpus, array, partition, time, storage)
    found = suite if isinstance(suite, Suite) else find_suite(os.fspath(suite), dict(set or {}))
    chosen = expanded(select(found, seeds, methods, updates, precision, tasks, qualities))
    base = found if isinstance(suite, Suite) else find_suite(os.fspath(suite))
    console = plain_console(quiet=quiet)
    if hours:
        again = {learner.method for learner in chosen.learners} if force else rerun
        found_costs = costs(_valid(chosen), Path(out), console.print, rerun=again)
        chosen, left = suite_within(chosen, found_costs, hours)
        for line in left_out(left):
            console.print(line, highlight=False)
    finished = run_suite(
        chosen,
        out=Path(out),
        device=device,
        max_replicas=max_replicas,
        check_data=check_data,
        split=split,
        place=place,
        rerun=rerun,
        force=force,
        log=log,
        console=console,
        whole=whole(base, select(found, updates=updates, precision=precision)),
    )
    if finished.failures and not ResultsFile(finished.folder / "rows.csv").exists():
        raise DataError(f"no run of suite {chosen.name} finished: {finished.failures[0]}")
    return Results(finished.folder)


def bench_show(
    suite: str | os.PathLike[str] | Suite,
    *,
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
    tasks: Sequence[str] = (),
    qualities: Sequence[str] = (),
    updates: int = 0,
    precision: Precision | None = None,
    set: Mapping[str, Any] | None = None,  # noqa: A002 - the option's name
) -> Suite:
    """A suite with its bases and these options resolved; nothing is trained.

    Args:
        suite: as in :func:`bench`, and so the options.
        seeds: instead of the suite's.
        methods: only these.
        tasks: only data of these.
        qualities: only data of these.
        updates: instead of the suite's.
        precision: instead of the suite's.
        set: other fields of the suite.

    Returns:
        The suite; :func:`marlzoo.benchmarks.suite_toml.suite_toml` writes it as ``marlzoo bench --show`` does.

    Raises:
        MarlzooError: unknown names, or a wrong file.
    """
    found = suite if isinstance(suite, Suite) else find_suite(os.fspath(suite), dict(set or {}))
    return select(found, seeds, methods, updates, precision, tasks, qualities)


def bench_dry_run(
    suite: str | os.PathLike[str] | Suite,
    *,
    out: str | os.PathLike[str] = "results",
    rerun: Collection[str] = (),
    **options: Any,
) -> list[Cost]:
    """What a suite still costs: runs, data, disk and hours, from a short measurement; nothing is trained.

    Args:
        suite: as in :func:`bench`.
        out: folder of the results, whose rows are not trained again.
        rerun: methods that are trained again.
        options: of :func:`bench_show`.

    Returns:
        A cost for each dataset, in the suite's order.

    Raises:
        MarlzooError: wrong names, or data that are broken or do not fit their task.
    """
    require_lists(rerun=rerun)
    chosen = _valid(expanded(bench_show(suite, **options)))
    return costs(chosen, Path(out), rerun=rerun)


def bench_status(
    suite: str | os.PathLike[str] | Suite, *, out: str | os.PathLike[str] = "results"
) -> list[GroupStatus]:
    """Which groups of a suite are queued, running, done or failed.

    Args:
        suite: as in :func:`bench`.
        out: folder of the results.

    Raises:
        DataError: no command has trained the suite there.
    """
    return status(Path(out) / bench_show(suite).name, job_states)


def _valid(suite: Suite) -> Suite:
    validate(suite)
    return suite


def select(
    suite: Suite,
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
    updates: int = 0,
    precision: Precision | None = None,
    tasks: Sequence[str] = (),
    qualities: Sequence[str] = (),
) -> Suite:
    """A suite with the given fields replaced; see :func:`bench`.

    Raises:
        UnknownNameError: a method, task or quality that the suite does not have.
        ConfigError: it has no data of these tasks and qualities, or a single value where a list belongs.
    """
    require_lists(seeds=seeds, methods=methods, tasks=tasks, qualities=qualities)
    if methods:
        suite = expanded(suite)
        known = [learner.method for learner in suite.learners]
        for method in methods:
            if method not in known:
                raise UnknownNameError(f"method of suite {suite.name!r}", method, known)
        learners = tuple(learner for learner in suite.learners if learner.method in methods)
        suite = replace(suite, learners=learners)
    if tasks or qualities:
        suite = replace(suite, data=_data_of(suite, tasks, qualities))
    if seeds:
        suite = replace(suite, seeds=tuple(seeds))
    if updates:
        data = tuple(replace(entry, updates=0) for entry in suite.data)
        suite = replace(suite, updates=updates, data=data)
    if precision:
        suite = replace(suite, precision=precision)
    return suite


def _data_of(suite: Suite, tasks: Sequence[str], qualities: Sequence[str]) -> tuple[Data, ...]:
    """The datasets of a suite that have one of the tasks and one of the qualities; none given: any."""
    names = [(entry, task_of(entry) if tasks else "", entry.quality) for entry in suite.data]
    for kind, asked, known in (
        ("task", tasks, {task for _, task, _ in names}),
        ("quality", qualities, {quality for _, _, quality in names}),
    ):
        for name in asked:
            if name not in known:
                raise UnknownNameError(f"{kind} of suite {suite.name!r}", name, known)
    chosen = tuple(
        entry
        for entry, task, quality in names
        if (not tasks or task in tasks) and (not qualities or quality in qualities)
    )
    if not chosen:
        raise ConfigError(
            f"suite {suite.name!r} has no data of {' or '.join(tasks)} with quality {' or '.join(qualities)}; "
            f"marlzoo bench {suite.name} --show lists what it has"
        )
    return chosen
