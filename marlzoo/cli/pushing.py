"""``marlzoo push``: publish a policy or a dataset in a repository of a Hugging Face hub."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse
from marlzoo.cli._progress import closing


@dataclass
class Options:
    """Publish a trained policy or a dataset on a Hugging Face hub, with a card; needs an account (hf auth login)."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """checkpoint ending in .npz, folder of a run that has one, or a dataset's name or .hdf5 file"""
    repository: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="USER/NAME")]
    """USER/NAME; made if it is missing"""
    name: str = ""
    """name of the file there (default: made of method and task, or of the dataset's name)"""
    license: str = ""
    """as the hub calls it, for instance apache-2.0 (default: the one in a dataset's card)"""
    private: bool = False
    """let a repository that is made be seen by its owners alone"""
    message: str = ""
    """message of the commit"""


def run(arguments: Sequence[str]) -> int:
    """Push and print the commit's address."""
    started = time.monotonic()
    options = parse(Options, "push", arguments)
    from marlzoo.sharing.push import push

    address = push(
        options.path,
        options.repository,
        name=options.name,
        license=options.license,
        private=options.private,
        message=options.message,
    )
    print(address)
    closing("Published", started, f"marlzoo pull {options.repository}")
    return 0
