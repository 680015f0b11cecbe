"""Cache for one command: a dataset read for its description is not read again when it is loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.spec import Spec
from marlzoo.system.machine import memory_limit

Description = tuple[Spec, Card]
Identity = tuple[Any, ...]


@dataclass
class _Known:
    """Descriptions that were read, and datasets that were read for theirs and not loaded yet."""

    described: dict[Identity, Description] = field(default_factory=dict)
    waiting: dict[Identity, Dataset] = field(default_factory=dict)


_known: ContextVar[_Known | None] = ContextVar("known", default=None)


@contextlib.contextmanager
def reading_once() -> Iterator[None]:
    """Let :func:`describe_once` and :func:`load_once` remember until the (outermost) block ends."""
    if _known.get() is not None:
        yield
        return
    token = _known.set(_Known())
    try:
        yield
    finally:
        _known.reset(token)


def identity(source: str | os.PathLike[str], options: Mapping[str, Any], computed: bool) -> Identity:
    """Cache key of a file's present content, read with these options."""
    settings = repr(sorted(options.items()))
    if computed:
        return os.fspath(source), settings
    place = Path(source)
    files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    return str(place.resolve()), settings, stamps


def describe_once(
    key: Identity, header: Callable[[], Description | None], read: Callable[[], Dataset]
) -> Description:
    """Spec and card of a dataset: from its header, or, where there is none, by reading it.

    Args:
        key: see :func:`identity`.
        header: reads the header; None where there is none.
        read: reads the dataset.
    """
    known = _known.get()
    if known is not None and key in known.described:
        return known.described[key]
    found = header()
    if found is None:
        dataset = read()
        found = dataset.spec, dataset.card
        if known is not None:
            _keep(known.waiting, key, dataset)
    if known is not None:
        known.described[key] = found
    return found


def load_once(key: Identity, read: Callable[[], Dataset]) -> Dataset:
    """The dataset that was read for its description, which is then no longer kept, or else a new reading."""
    known = _known.get()
    waiting = None if known is None else known.waiting.pop(key, None)
    return read() if waiting is None else waiting


def _keep(waiting: dict[Identity, Dataset], key: Identity, dataset: Dataset) -> None:
    """Keep a dataset; the oldest ones are given up where all together need more than a quarter of the memory."""
    waiting[key] = dataset
    while len(waiting) > 1 and sum(map(_bytes, waiting.values())) > memory_limit() / 4:
        del waiting[next(iter(waiting))]


def _bytes(dataset: Dataset) -> int:
    return sum(array.nbytes for array in vars(dataset).values() if isinstance(array, np.ndarray))
