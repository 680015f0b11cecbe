"""Entry points: the door through which methods, environments, formats of datasets and loggers are found."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

METHODS = "marlzoo.plugins"  # an entry names a package; its modules are methods
ENVIRONMENTS = "marlzoo.environments"  # an entry ``family = "module"``
FORMATS = (
    "marlzoo.formats"  # an entry ``name = "module"`` with ``sniff`` and ``read``, see marlzoo.data.readers
)
LOGGERS = "marlzoo.loggers"  # an entry ``name = "module:factory"``, see marlzoo.training.more_loggers


def entries(group: str) -> list[EntryPoint]:
    """All entry points of a group, sorted; two distributions that declare the same one count once."""
    # Every method and task that is made asks; reading the metadata of all packages each time would take longer.
    return list(_entries(entry_points, group, tuple((path, _changed(path)) for path in sys.path)))


@lru_cache(maxsize=16)
def _entries(
    read: Callable[..., Any], group: str, path: tuple[tuple[str, int], ...]
) -> tuple[EntryPoint, ...]:
    unique = {(entry.name, entry.value): entry for entry in read(group=group)}
    return tuple(unique[key] for key in sorted(unique))


def _changed(path: str) -> int:
    """When a folder of the search path last got or lost an entry, such as a package's metadata."""
    try:
        return os.stat(path or ".").st_mtime_ns
    except OSError:
        return 0
