"""``marlzoo new-method``: a skeleton that works and passes the battery, in the checkout or as a package."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse


@dataclass
class Options:
    """Write a small method that works, to be rewritten: one file in the checkout, or a package of its own."""

    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """name of the method and of its file: lower-case letters, digits and single underscores"""
    baseline: bool = False
    """in the checkout: into baselines/ instead of algorithms/"""
    package: Path | None = None
    """write an installable package into this new folder instead"""


def run(arguments: Sequence[str]) -> int:
    """Write the files and print the next commands."""
    options = parse(Options, "new-method", arguments)
    from marlzoo.commands.new_method import new_method
    from marlzoo.registry import find_methods

    name = options.name
    print(new_method(name, baseline=options.baseline, package=options.package))
    if options.package is not None:
        package = shlex.quote(str(options.package))
        print(
            f"Next: {shlex.quote(sys.executable)} -m pip install --no-build-isolation -e {package}; "
            f"then pytest {package}; marlzoo train {name} --help"
        )
    elif name in find_methods().modules:
        print(f"It works as it is: pytest tests/test_battery.py -k {name}; marlzoo train {name} --help")
    else:
        print(
            "The marlzoo that runs here is not this checkout's; there: make install, then .venv/bin/marlzoo"
        )
    return 0
