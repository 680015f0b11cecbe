"""A disk that is full, as far as this process and those that it starts can tell: a limit on the size of files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from marlzoo.errors import OutputError


@contextlib.contextmanager
def full_disk(target: Path, size: int = 100) -> Iterator[None]:
    """What is written to ``target`` inside must end in one clear error, and leave the older file as it was.

    Args:
        target: in a folder of its own.
        size: bytes that a file may have.
    """
    resource = pytest.importorskip("resource", reason="no limits on file sizes here")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    target.write_text("older")
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"^cannot write \S+: .+; nothing was left behind, ") as found:
            yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(found.value)
    assert target.read_text() == "older"
    assert [file.name for file in target.parent.iterdir()] == [target.name]
