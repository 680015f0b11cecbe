"""Existing results of a suite: the runs that are reused, their dates, and whether their code has changed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from marlzoo.errors import UnknownNameError
from marlzoo.registry import code_hash, find_method

from .plan import Group, Run, finished, groups, runs_of
from .results import ResultsFile, Row
from .sources import Source
from .storage import Storage
from .suites import Suite


@dataclass(frozen=True)
class Found:
    """What a suite has to do.

    Attributes:
        done: runs that have their last row, with it.
        missing: runs that have to be trained.
    """

    done: tuple[tuple[Run, Row], ...]
    missing: tuple[Run, ...]


def find_done(
    suite: Suite, sources: Sequence[Source], results: ResultsFile, rerun: Collection[str] = ()
) -> Found:
    """Look for the runs of a suite among the rows.

    Args:
        suite: that is run.
        sources: its datasets.
        results: rows that are there.
        rerun: methods whose runs all count as missing.

    Raises:
        UnknownNameError: ``rerun`` names a method that is not in the suite.
        DataError: the rows are broken.
    """
    known = {learner.method for learner in suite.learners}
    for method in rerun:
        if method not in known:
            raise UnknownNameError(f"method of suite {suite.name!r}", method, known)
    runs = runs_of(suite, sources)
    done = [
        (run, row) for run, row in finished(suite, runs, results.rows()) if run.learner.method not in rerun
    ]
    keys = {run.key(suite) for run, _ in done}
    return Found(tuple(done), tuple(run for run in runs if run.key(suite) not in keys))


def forget(
    suite: Suite,
    found: Found,
    results: ResultsFile,
    rerun: Collection[str],
    folder: Path,
    max_replicas: int,
    storage: Storage | None = None,
) -> None:
    """Make the runs of some methods start from nothing: their checkpoints, metrics and rows go.

    The rows are kept in ``replaced.csv`` beside the others.

    Raises:
        DataError: another process is just writing such rows.
        OutputError: a file cannot be written.
    """
    names = {run.name(suite) for run in found.missing if run.learner.method in rerun}
    if not names:  # taking none out would read all rows
        return
    results.require_written(lambda row: row.run in names)  # before what another process goes on from is gone
    for group in groups(suite, found.missing, max_replicas):
        if group.learner.method in rerun:
            left = files(group, folder, suite)
            for path in left:
                path.unlink(missing_ok=True)
            if storage is not None:
                storage.remove(folder, *left)
    results.remove(lambda row: row.run in names)


def files(group: Group, folder: Path, suite: Suite) -> tuple[Path, Path]:
    """Checkpoint and metrics of a group."""
    checkpoint = group.checkpoint(folder / "checkpoints", suite)
    return checkpoint, folder / "metrics" / f"{checkpoint.stem}.csv"


def reuse_line(found: Found) -> str:
    """One line: how many runs were there, and since when."""
    total = len(found.done) + len(found.missing)
    left = f"{len(found.missing)} to train" if found.missing else "nothing trained"
    if not found.done:
        these = "this run" if total == 1 else f"these {total} runs"
        return f"No existing results for {these}; {left}."
    return f"{len(found.done)} of {total} runs already have results{_when([row for _, row in found.done])}; {left}."


def warnings(found: Found, remedy: str = "--rerun {method}") -> list[str]:
    """A line for every method whose runs were made by other code than there is now, or by unknown code.

    Args:
        found: what there is.
        remedy: the option that trains a ``{method}`` again.
    """
    told = []
    for method in dict.fromkeys(run.learner.method for run, _ in found.done):
        rows = [row for run, row in found.done if run.learner.method == method]
        now = code_hash(find_method(method))
        changed = [row for row in rows if row.code not in ("", now)]
        unknown = [row for row in rows if not row.code]
        again = f"to train them again: {remedy.format(method=method)}"
        if changed:
            told.append(
                f"warning: the code of {method} changed after {len(changed)} of its runs{_when(changed)}; {again}"
            )
        if unknown:
            told.append(f"warning: {len(unknown)} runs of {method} do not say which code made them; {again}")
    return told


def _when(rows: Sequence[Row]) -> str:
    days = sorted({row.date[:10] for row in rows if row.date})
    if not days:
        return ", made at an unknown date"
    return f", made on {days[0]}" if len(days) == 1 else f", made from {days[0]} to {days[-1]}"
