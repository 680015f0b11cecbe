"""Writing files so that a reader sees the old file or the new one, never half of one."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import io
import json
import os
import platform
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import filelock

from marlzoo.errors import ConfigError, DataError, MarlzooError, OutputError
from marlzoo.system.processes import alive

if sys.platform != "win32":
    import fcntl

SEAL = "seal"


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it there when the block ends without an error.

    The temporary file keeps the suffix of ``path`` (numpy and matplotlib choose formats by it), is flushed to
    the disk before the move, and is removed on any error, interruption included; what a killed process left
    behind is removed by the next write. Missing parent folders are made.

    Raises:
        OutputError: the file cannot be written (full or read-only disk, no permission, path is a folder).
    """
    target = Path(path)
    temporary = temporary_beside(target)
    try:
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target)
        temporary.touch(exist_ok=False)  # fails early, and under the user's umask
        yield temporary
        flush(temporary)
        os.replace(temporary, target)
    except MarlzooError:
        _discard(temporary)
        raise
    except OSError as error:
        _discard(temporary)
        raise output_error(target, error) from error
    except BaseException:
        _discard(temporary)
        raise
    # The rename itself becomes durable with the folder; some file systems refuse to flush one.
    with contextlib.suppress(OSError):
        flush(target.parent)


def temporary_beside(target: Path) -> Path:
    """A new name beside ``target`` that names the machine and process that write, for :func:`remove_stale`."""
    mark = f"{platform.node()}-{os.getpid()}-{secrets.token_hex(4)}"
    return target.with_name(f".{target.stem}.{mark}.tmp{target.suffix}")


def write_text_atomic(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (UTF-8, line ends as given) to ``path`` as one step.

    Raises:
        OutputError: the file cannot be written; an older file of that name is left as it was.
    """
    with atomic_write(path) as temporary, open(temporary, "w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_figure(path: str | os.PathLike[str], figure: Any, **options: Any) -> None:
    """Write a matplotlib figure to ``path`` as one step, in the format of its suffix.

    Args:
        path: file to write.
        figure: has matplotlib's ``savefig``.
        options: for ``savefig``.

    Raises:
        OutputError: the file cannot be written; an older file of that name is left as it was.
    """
    with atomic_write(path) as temporary:
        # In memory first: the writer of PDF that meets a full disk ends with an error that is not of the disk.
        drawn = io.BytesIO()
        figure.savefig(drawn, format=temporary.suffix[1:], **options)
        temporary.write_bytes(drawn.getvalue())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``, which other processes wait for; it ends with the process.

    A hidden file beside ``path`` carries it.

    Raises:
        OutputError: the folder cannot be written.
    """
    lock = filelock.FileLock(path.parent / f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError) as error:
        raise output_error(path, error) from error
    try:
        yield
    finally:
        lock.release()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values with the hash of all of them under ``seal``, for files in which no changed bit may pass."""
    plain: dict[str, Any] = json.loads(json.dumps(values))  # as it will be read
    return {**plain, SEAL: _seal(plain)}


def unsealed(values: dict[str, Any], what: str) -> dict[str, Any]:
    """Inverse of :func:`sealed`; values without a seal (of files written before there was one) pass.

    Raises:
        DataError: they were changed after ``what`` was written.
    """
    found = {name: value for name, value in values.items() if name != SEAL}
    if SEAL in values and values[SEAL] != _seal(found):
        raise DataError(f"{what} was changed or damaged after it was written (its hash is another)")
    return found


def _seal(values: Mapping[str, Any]) -> str:
    return sha256_text(json.dumps(values, sort_keys=True))


def try_lock(file: IO[Any]) -> bool:
    """Lock an open file until it is closed; False if another process holds the lock."""
    if sys.platform == "win32":  # no such lock there
        return True
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def output_error(path: str | os.PathLike[str], error: BaseException) -> OutputError:
    """The user's error for a failed write to ``path``: cause, place and remedy in one line."""
    cause = getattr(error, "strerror", None) or str(error) or type(error).__name__
    remedy = {
        errno.ENOSPC: "free some space or choose another folder",
        errno.EDQUOT: "free some space or choose another folder",
        errno.EISDIR: "name a file, not a folder",
        errno.ENOTDIR: "a part of the path is a file; choose another folder",
        errno.EEXIST: "a part of the path is a file; choose another folder",  # of a folder to be made
    }.get(getattr(error, "errno", None) or 0, "check that the folder is writable and has space")
    return OutputError(f"cannot write {os.fspath(path)}: {cause}; nothing was left behind, {remedy}")


def require_folder_name(name: str) -> None:
    """Refuse a name that would lead out of the folder in which it names another.

    Raises:
        ConfigError: it is empty, hidden, or holds more than letters, digits, ``-``, ``_``, ``+``, ``.`` and brackets.
    """
    if not re.fullmatch(r"[\w(\[][\w.+()\[\]=,-]*", name):
        raise ConfigError(
            f"{name!r}: the name becomes a folder; use letters, digits, '-', '_' and '.', no path"
        )


def sha256_file(path: str | os.PathLike[str], chunk: int = 1 << 20) -> str:
    """Hexadecimal SHA-256 of a file's bytes, read in pieces of ``chunk`` bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(chunk):
            digest.update(piece)
    return digest.hexdigest()


def sha256_text(text: str) -> str:
    """Hexadecimal SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def flush(path: Path) -> None:
    """Bring a file's (or, where the system can, a folder's) content to the disk.

    Raises:
        OSError: it cannot be flushed.
    """
    # Windows flushes only what is open for writing; a folder can only be opened for reading.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_stale(target: Path) -> None:
    """Remove temporary files and folders of ``target`` whose writer, a process of this machine, was killed."""
    node = platform.node()
    for left in target.parent.glob(f".{glob.escape(target.stem)}.{glob.escape(node)}-*.tmp{target.suffix}"):
        writer = left.name.removeprefix(f".{target.stem}.{node}-").partition("-")[0]
        if writer.isdigit() and not alive(int(writer)):
            _discard(left)


def _discard(path: Path) -> None:
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
