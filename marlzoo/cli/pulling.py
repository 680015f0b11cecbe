"""``marlzoo pull``: fetch a policy or a dataset from a repository of a Hugging Face hub."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse
from marlzoo.cli._progress import closing


@dataclass
class Options:
    """Fetch what marlzoo push published and compare it with its checksum; needs no account, executes nothing."""

    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """USER/NAME"""
    file: str = ""
    """which of its files; may be left out where it has one"""
    revision: str = ""
    """branch, tag or commit (default: the newest state)"""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """file to write (default: below $MARLZOO_HOME/hub)"""
    force: bool = False
    """replace another file at OUT"""


def run(arguments: Sequence[str]) -> int:
    """Pull and print the file's name."""
    started = time.monotonic()
    options = parse(Options, "pull", arguments)
    from marlzoo.sharing.pull import pull

    file = pull(
        options.repository, options.file, revision=options.revision, out=options.out, force=options.force
    )
    print(file)
    follows = "marlzoo eval" if file.suffix == ".npz" else "marlzoo data inspect"
    closing("Fetched and verified", started, f"{follows} {shlex.quote(str(file))}")
    return 0
