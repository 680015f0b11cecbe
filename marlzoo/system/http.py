"""A file over HTTP that may take several attempts; what arrived stays and is gone on from."""

from __future__ import annotations

import http.client
import os
import shutil
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from marlzoo.errors import DataError, OutputError
from marlzoo.system.files import flush, output_error

TIMEOUT = 30.0  # seconds without a byte
ATTEMPTS = 5
PAUSE = 1.0  # seconds before the second attempt, doubled for each further one
CHUNK = 1 << 20

Progress = Callable[[int, int], None]


def fetch(url: str, target: Path, size: int, version: str, progress: Progress | None = None) -> Path:
    """The ``size`` bytes at ``url`` as the file ``target``, which is there whole or not at all.

    What an interrupted call left (``.<target>.<version>.part``) is gone on from.

    Args:
        url: where it is; redirections are followed.
        target: the file; an older one is replaced in one step.
        size: bytes that the file has.
        version: distinguishes contents, so that a changed file is not glued to an older part.
        progress: called with the bytes fetched and the total.

    Raises:
        DataError: the server does not send that many bytes within :data:`ATTEMPTS` attempts without progress.
        OutputError: the file cannot be written, or the disk has no room for it.
    """
    part = target.with_name(f".{target.name}.{version}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.touch()
    except OSError as error:
        raise output_error(part, error) from error
    free = shutil.disk_usage(target.parent).free
    if free < size - part.stat().st_size:
        raise OutputError(
            f"cannot write {target}: it has {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free there; free some "
            "space, or let MARLZOO_HOME name a larger place"
        )
    failures = 0
    fault = ""
    while (done := part.stat().st_size) < size:
        if failures == ATTEMPTS:
            raise DataError(f"{fault}; {done} of {size} bytes have arrived")
        if failures:
            time.sleep(PAUSE * 2 ** (failures - 1))
        fault = _attempt(url, part, size, progress)
        failures = 0 if part.stat().st_size > done and fault else failures + 1
    if done > size:
        part.unlink()
        raise DataError(f"the server sends more than the {size} bytes that it announced")
    try:
        flush(part)
        os.replace(part, target)
    except OSError as error:
        raise output_error(target, error) from error
    return target


def _attempt(url: str, part: Path, size: int, progress: Progress | None) -> str:
    """Append the response to the file; returns the error, if any."""
    done = part.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
            again = done > 0 and answer.status != 206  # the server starts from the beginning
            return _append(answer, part, "wb" if again else "ab", size, progress)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no answer'}"


def _append(
    answer: http.client.HTTPResponse, part: Path, mode: str, size: int, progress: Progress | None
) -> str:
    try:
        file = open(part, mode)  # noqa: SIM115 - closed below
    except OSError as error:
        raise output_error(part, error) from error
    with file:
        while file.tell() <= size:
            piece = answer.read1(CHUNK)  # whatever has arrived, so that nothing of it is lost
            if not piece:
                break
            try:
                file.write(piece)
                file.flush()
            except OSError as error:
                raise output_error(part, error) from error
            if progress is not None:
                progress(min(file.tell(), size), size)
        return "" if file.tell() >= size else "the server closed the connection early"
