"""``marlzoo results``: bring result rows to this version's columns, into small files, or into another suite."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import first_argument, parse


@dataclass
class Migrate:
    """Bring the rows.csv in a folder, and in the folders below it, to the columns of this version."""

    folder: Annotated[Path, tyro.conf.Positional]
    """folder of results"""


@dataclass
class Compress:
    """Compress rows.csv and episodes.csv in a folder, and in the folders below it; every command reads both forms."""

    folder: Annotated[Path, tyro.conf.Positional]
    """folder of results"""
    undo: bool = False
    """bring compressed files back into plain ones"""


@dataclass
class Borrow:
    """Copy the runs that a suite has in common with others: same data, method, settings, seed and protocol."""

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """name of a built-in suite (marlzoo list suites) or a file ending in .toml"""
    folders: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="RESULTS")]
    """folders of results that have them, each with its rows.csv"""
    out: Path = Path("results")
    """folder of the results, which go to OUT/SUITE"""


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command that the arguments name."""
    about = (
        "Actions:\n  migrate   bring result rows of older versions to this one's columns\n"
        "  compress  bring rows.csv and episodes.csv into compressed files, or back\n"
        "  borrow    copy the runs that a suite has in common with others"
    )
    actions = {"migrate": Migrate, "compress": Compress, "borrow": Borrow}
    action = first_argument("action", "results", arguments, actions, about)
    if action == "migrate":
        _migrate(parse(Migrate, "results migrate", arguments[1:]))
    elif action == "compress":
        _compress(parse(Compress, "results compress", arguments[1:]))
    elif action == "borrow":
        _borrow(parse(Borrow, "results borrow", arguments[1:]))
    return 0


def _borrow(options: Borrow) -> None:
    from marlzoo.commands.health import results_borrow
    from marlzoo.console import counted

    copied = results_borrow(options.suite, options.folders, out=options.out)
    print(
        f"{counted(copied, 'run')} copied; see what is missing with: marlzoo bench {options.suite} --dry-run"
    )


def _compress(options: Compress) -> None:
    from marlzoo.commands.health import results_compress

    done = results_compress(options.folder, undo=options.undo)
    print(
        "\n".join(map(str, done))
        or f"{options.folder}: nothing to {'unpack' if options.undo else 'compress'}"
    )


def _migrate(options: Migrate) -> None:
    from marlzoo.commands.health import results_migrate

    done = results_migrate(options.folder)
    for file in done:
        print(f"{file.path}: {file.rows} rows migrated, {file.known} of today's configurations")
    if not done:
        print(f"{options.folder}: nothing to migrate")
