"""``marlzoo plot``: figures from result rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse
from marlzoo.errors import ConfigError


@dataclass
class Options:
    """Draw learning curves (the default), performance profiles or bars of final returns, with 95 % intervals."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders that hold rows.csv, or such files; several are put together"""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """file to write, ending in .pdf, .png or .svg"""
    curves: bool = False
    """mean return over updates, a panel per dataset"""
    profile: bool = False
    """share of runs that reach each normalized score"""
    bars: bool = False
    """mean return of the last checkpoint, a panel per dataset"""
    columns: int = 3
    """panels side by side"""


def run(arguments: Sequence[str]) -> int:
    """Draw and write the figure."""
    options = parse(Options, "plot", arguments)
    kinds = [kind for kind in ("curves", "profile", "bars") if getattr(options, kind)]
    if len(kinds) > 1:
        raise ConfigError(f"choose one of --{' and --'.join(kinds)}; each makes a figure of its own")
    from marlzoo.benchmarks.figures import plot

    plot(*options.paths, kind=kinds[0] if kinds else "curves", out=options.out, columns=options.columns)
    print(options.out)
    return 0
