"""``marlzoo table``: tables from result rows."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse
from marlzoo.errors import ConfigError

if TYPE_CHECKING:
    from marlzoo.benchmarks.sheet import Sheet


@dataclass
class Options:
    """Derive tables from result rows: last checkpoint, mean, interquartile mean, probability of improvement."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders that hold rows.csv, or such files; several are put together"""
    format: Literal["terminal", "markdown", "latex", "csv"] = "terminal"
    """how to print it"""
    title: str = ""
    """title of the table (default: the paths)"""
    reference: str = ""
    """learner that the others' probability of improvement is over (default: the first)"""
    details: bool = False
    """on a terminal also the details per dataset and learner, and performance profiles"""
    json: bool = False
    """print the numbers per dataset and learner as JSON"""
    write: Path | None = None
    """folder to write the tables and all their numbers into, instead of printing"""


def run(arguments: Sequence[str]) -> int:
    """Print or write the tables."""
    options = parse(Options, "table", arguments)
    numbers = options.write is None and (options.json or options.format == "csv")
    if numbers and options.reference:
        raise ConfigError(
            "--reference: numbers per dataset and learner, which --json and --format csv print, are over no other "
            "learner; leave it out, or write all numbers into a folder with --write FOLDER"
        )
    from marlzoo.benchmarks import tables

    rows = tables.read(options.paths)
    title = options.title or ", ".join(map(str, options.paths))
    command = shlex.join(["marlzoo", "table", *arguments])
    if options.write is not None:
        tables.write(rows, options.write, title, command, options.reference)
        print(options.write)
    elif numbers:
        from marlzoo.benchmarks.analysis import Results, records

        found = Results.of(rows).table()
        print(
            json.dumps(records(found), indent=2) if options.json else found.to_csv(index=False).rstrip("\n")
        )
    else:
        _show(tables.sheets(rows, title, command, options.reference), options)
    return 0


def _show(sheets: Sequence[Sheet], options: Options) -> None:
    """Print tables in the form that was asked for."""
    from marlzoo.benchmarks import styles

    if options.format == "latex":
        print("\n".join(styles.latex(sheet) for sheet in sheets if options.details or not sheet.long), end="")
    elif options.format == "markdown":
        print("\n".join(map(styles.markdown, sheets)), end="")
    else:
        from marlzoo.console import console

        for sheet in sheets:
            if options.details or not sheet.long:
                console().print(styles.terminal(sheet), soft_wrap=True)
