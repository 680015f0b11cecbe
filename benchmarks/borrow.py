"""Runs that two suites have in common: copied from the one that trained them into the results of the other.

A run is the same where task, data, method, configuration and seed are, and where it was trained and evaluated as the
other suite asks: as many updates, as many episodes of the last checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from marlzoo.errors import DataError

from .plan import Run, expanded, runs_of, validate
from .results import ResultsFile, Row, RowEpisodes
from .sources import Source, is_missing, named, obtain
from .suites import Data, Suite

Identity = tuple[str, str, str, str, int, str]
"""Task, source, quality, method, seed, and hash of the configuration."""


def borrow(suite: Suite, out: Path, folders: Sequence[Path]) -> int:
    """Copy the runs of a suite that other results have, with their rows on the way and their episodes.

    Of data that are there the contents must be the same; data that were not made yet are known by their names.

    Args:
        suite: whose results are filled.
        out: folder of results; those of the suite are in ``out/SUITE``, data in ``out/data``.
        folders: of other results, each with its ``rows.csv``; where several have a run the first counts.

    Returns:
        How many runs were copied.

    Raises:
        DataError: a folder has no results, or they are broken.
        MarlzooError: the suite names what does not exist.
        OutputError: the rows cannot be written.
    """
    suite = expanded(suite)
    validate(suite)
    others = [ResultsFile(folder / "rows.csv") for folder in folders]
    for folder, each in zip(folders, others, strict=True):
        if not each.exists():
            raise DataError(f"no results at {folder}; name a folder that holds rows.csv")
    results = ResultsFile(out / suite.name / "rows.csv")
    wanted = _wanted(suite, out / "data")
    for run, _ in list(_finished(suite, wanted, results.rows())):
        wanted.pop(_identity(run), None)
    copied = 0
    for each in others:
        rows = each.rows()
        taken: dict[str, tuple[Run, int]] = {}
        for run, last in list(_finished(suite, wanted, rows)):
            if wanted.pop(_identity(run), None) is not None:
                taken[last.run] = run, last.updates
        _copy(suite, taken, rows, each, results)
        copied += len(taken)
    results.publish()
    results.close()
    return copied


def _copy(
    suite: Suite,
    taken: Mapping[str, tuple[Run, int]],
    rows: Sequence[Row],
    source: ResultsFile,
    results: ResultsFile,
) -> None:
    """Add the rows of some runs, to the updates that they end with, and their episodes."""
    played = source.episodes() if taken else {}
    found: list[Row] = []
    episodes: list[RowEpisodes] = []
    for row in rows:
        run, updates = taken.get(row.run, (None, 0))
        if run is None or row.updates > updates:
            continue
        ours = replace(row, suite=suite.name, variant=run.learner.variant, tuning=run.learner.tuning)
        found.append(ours)
        if (row.run, row.updates) in played:
            episodes.append(replace(played[row.run, row.updates], run=ours.run))
    results.append(found, episodes)


def _wanted(suite: Suite, folder: Path) -> dict[Identity, Run]:
    """All runs of a suite; its data are looked up in a folder, and not made."""
    sources = [_source(data, folder) for data in suite.data]
    return {_identity(run): run for run in runs_of(suite, sources)}


def _source(data: Data, folder: Path) -> Source:
    """A dataset, or the names of one that was not made yet."""
    if is_missing(data, folder):
        return named(data)
    return obtain(data, folder, lambda done, total: None)


def _identity(run: Run) -> Identity:
    source = run.source
    return source.task, source.source, source.quality, run.learner.method, run.seed, run.config_hash


def _finished(suite: Suite, wanted: dict[Identity, Run], rows: Sequence[Row]) -> Iterator[tuple[Run, Row]]:
    """The rows with which runs of a suite end, whatever suite they were trained for."""
    for row in rows:
        run = wanted.get((row.task, row.source, row.quality, row.method, row.seed, row.config_hash))
        if run is None or row.error or run.source.hash not in ("", row.data_hash):
            continue
        ends = suite.updates_on(run.source.entry), suite.final_episodes or suite.episodes
        if (row.updates, row.episodes) == ends:
            yield run, row
