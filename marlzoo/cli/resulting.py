"""``marlzoo results``: compare result rows, bring them to this version's columns, into small files, or elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

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


@dataclass
class Compare:
    """Compare two results line by line: returns equal, not told apart, higher or lower, and what else differs."""

    first: Annotated[Path, tyro.conf.Positional]
    """folder that holds rows.csv, or such a file"""
    second: Annotated[Path, tyro.conf.Positional]
    """the one that is compared with it"""
    format: Literal["terminal", "markdown", "csv"] = "terminal"
    """how to print it; CSV has all lines and numbers"""


ACTIONS = {"compare": Compare, "migrate": Migrate, "compress": Compress, "borrow": Borrow}


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command that the arguments name."""
    about = (
        "Actions:\n  compare   compare two results line by line\n"
        "  migrate   bring result rows of older versions to this one's columns\n"
        "  compress  bring rows.csv and episodes.csv into compressed files, or back\n"
        "  borrow    copy the runs that a suite has in common with others"
    )
    action = first_argument("action", "results", arguments, ACTIONS, about)
    if action == "compare":
        _compare(parse(Compare, "results compare", arguments[1:]))
    elif action == "migrate":
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
    suite = shlex.quote(str(options.suite))
    print(f"{counted(copied, 'run')} copied; see what is missing with: marlzoo bench {suite} --dry-run")


def _compare(options: Compare) -> None:
    from marlzoo.benchmarks import styles
    from marlzoo.commands.health import results_compare
    from marlzoo.console import console

    found = results_compare(options.first, options.second)
    sheet = found.sheet(str(options.first), str(options.second))
    if options.format == "csv":
        print(found.lines.to_csv(index=False), end="")
    elif options.format == "markdown":
        print(styles.markdown(sheet), end="")
    else:
        console().print(styles.terminal(sheet), soft_wrap=True)


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
