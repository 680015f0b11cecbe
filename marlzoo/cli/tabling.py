"""``marlzoo table``: tables from result rows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from marlzoo.cli._parse import parse


@dataclass
class Options:
    """Derive tables from result rows: last checkpoint, mean, interquartile mean, probability of improvement."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders that hold rows.csv, or such files; several are put together"""
    format: Literal["terminal", "markdown", "latex", "csv"] = "terminal"
    """how to print it"""
    title: str = ""
    """of the table (default: the paths)"""
    write: Path | None = None
    """folder to write table.csv, table.md and table.tex into, instead of printing"""


def run(arguments: Sequence[str]) -> int:
    """Print or write the tables."""
    options = parse(Options, "table", arguments)
    from marlzoo.benchmarks import styles, tables

    rows = tables.read(options.paths)
    title = options.title or ", ".join(map(str, options.paths))
    command = shlex.join(["marlzoo", "table", *arguments])
    if options.write is not None:
        tables.write(rows, options.write, title, command)
        print(options.write)
    elif options.format == "csv":
        print(tables.summary(rows).to_csv(index=False), end="")
    elif options.format == "latex":
        print(styles.latex(tables.sheets(rows, title, command)[0]), end="")
    elif options.format == "markdown":
        print("\n".join(map(styles.markdown, tables.sheets(rows, title, command))), end="")
    else:
        from marlzoo.console import console

        for sheet in tables.sheets(rows, title, command):
            console().print(styles.terminal(sheet))
    return 0
