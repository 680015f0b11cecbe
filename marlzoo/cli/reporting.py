"""``marlzoo report``: one HTML file from result rows."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse


@dataclass
class Options:
    """Write one HTML file: tables, curves, profiles, ranks, compute and provenance; it opens without a network."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders that hold rows.csv, or such files; several are put together"""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("report.html")
    """file to write, ending in .html"""
    title: str = ""
    """title of the page (default: the paths)"""
    reference: str = ""
    """method that the others' probability of improvement is over (default: the first)"""


def run(arguments: Sequence[str]) -> int:
    """Write the report."""
    options = parse(Options, "report", arguments)
    from marlzoo.benchmarks.report import report

    command = shlex.join(["marlzoo", "report", *arguments])
    print(
        report(
            *options.paths,
            out=options.out,
            title=options.title,
            reference=options.reference,
            command=command,
        )
    )
    return 0
