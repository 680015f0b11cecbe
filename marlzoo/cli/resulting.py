"""``marlzoo results migrate``: bring result rows of older versions to this one's columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from marlzoo.cli._parse import first_argument, parse


@dataclass
class Migrate:
    """Bring the rows.csv in a folder, and in the folders below it, to the columns of this version."""

    folder: Annotated[Path, tyro.conf.Positional]
    """folder of results"""


def run(arguments: Sequence[str]) -> int:
    """Run the sub-command that the arguments name."""
    about = "migrate: bring result rows of older versions to this one's columns"
    if first_argument("action", "results", arguments, {"migrate": Migrate}, about) is None:
        return 0
    options = parse(Migrate, "results migrate", arguments[1:])
    from marlzoo.benchmarks.migrate import migrate

    done = migrate(options.folder)
    for file in done:
        print(f"{file.path}: {file.rows} rows migrated, {file.known} of today's configurations")
    if not done:
        print(f"{options.folder}: nothing to migrate")
    return 0
