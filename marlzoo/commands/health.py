"""``marlzoo doctor`` and ``marlzoo results`` from Python."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from marlzoo.commands.diagnosis import Finding, diagnose
from marlzoo.errors import require_lists

if TYPE_CHECKING:
    from marlzoo.benchmarks.compared import Compared
    from marlzoo.benchmarks.migrate import Migrated
    from marlzoo.commands.verification import Checked


def doctor() -> list[Finding]:
    """What is installed, what is missing, and the command that fixes it."""
    return diagnose()


def doctor_verify(folders: Sequence[str | os.PathLike[str]] = ()) -> list[Checked]:
    """Compare everything that carries a checksum with it, as ``marlzoo doctor --verify`` does.

    Args:
        folders: of results; default: ``results``, if it is there.

    Raises:
        ConfigError: there is no such folder, or a single one instead of a list.
    """
    from marlzoo.commands.verification import verify

    require_lists(folders=folders)
    usual = [path for path in [Path("results")] if path.is_dir()]
    return list(verify([Path(folder) for folder in folders] or usual))


def results_compare(first: str | os.PathLike[str], second: str | os.PathLike[str]) -> Compared:
    """Compare two results line by line, as ``marlzoo results compare`` does.

    Args:
        first: folder that holds ``rows.csv``, or such a file.
        second: the one that is compared with it.

    Returns:
        One line per dataset and learner (``lines``), and in what else the two differ (``notes``).

    Raises:
        DataError: one has no results, they are broken, or no run of either has one.
    """
    from marlzoo.benchmarks.compared import compare
    from marlzoo.benchmarks.summary import read

    return compare(read([Path(first)]), read([Path(second)]))


def results_migrate(folder: str | os.PathLike[str]) -> list[Migrated]:
    """Bring the rows.csv in a folder, and in the folders below it, to the columns of this version.

    Returns:
        The files that were rewritten, with the numbers of their rows.

    Raises:
        DataError: there is no such folder, or its rows cannot be read.
    """
    from marlzoo.benchmarks.migrate import migrate

    rewritten: list[Migrated] = migrate(Path(folder))
    return rewritten


def results_compress(folder: str | os.PathLike[str], *, undo: bool = False) -> list[Path]:
    """Compress rows.csv and episodes.csv in a folder, and in the folders below it.

    Args:
        folder: of results; everything reads both forms.
        undo: bring compressed files back into plain ones.

    Returns:
        The files that were written.
    """
    from marlzoo.benchmarks.results import compress

    written: list[Path] = compress(Path(folder), not undo)
    return written


def results_borrow(
    suite: str | os.PathLike[str],
    folders: Sequence[str | os.PathLike[str]],
    *,
    out: str | os.PathLike[str] = "results",
) -> int:
    """Copy the runs that a suite has in common with others, as ``marlzoo results borrow`` does.

    Args:
        suite: name of a built-in suite, or a file ending in .toml.
        folders: of results that have them, each with its ``rows.csv``.
        out: folder of the results, which go to ``out/SUITE``.

    Returns:
        How many runs were copied.

    Raises:
        DataError: a folder has no results.
        ConfigError: a single folder instead of a list.
        MarlzooError: no such suite.
    """
    from marlzoo.benchmarks.borrow import borrow
    from marlzoo.benchmarks.suites import find_suite

    require_lists(folders=folders)
    copied: int = borrow(find_suite(os.fspath(suite)), Path(out), [Path(folder) for folder in folders])
    return copied
