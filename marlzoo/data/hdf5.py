"""HDF5 without surprises: a fault of a file becomes one :class:`DataError`, a full disk an error at all."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from marlzoo.data.validation import CHUNK_BYTES
from marlzoo.errors import DataError, MarlzooError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What h5py raises on files that are cut, flipped or made to harm. Only calls into h5py are guarded with all of
# them, so that a fault of ours is not taken for one of the file.
_FAULTS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, IndexError, MemoryError)
# Deflate cannot reach more; a file that claims it declares data that it does not hold.
_MOST_COMPRESSION = 1100


@contextlib.contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open an HDF5 file for reading; errors of the block carry the file's path.

    Raises:
        DataError: no such file, not HDF5, cut off, or damaged where the block reads.
    """
    path = Path(path)
    _require_hdf5(path)
    try:
        with _guarded((OSError, RuntimeError)), h5py.File(path, "r") as file:
            yield file
    except DataError as error:
        raise type(error)(f"{path}: {error}") from error


@contextlib.contextmanager
def _guarded(faults: tuple[type[Exception], ...] = _FAULTS) -> Iterator[None]:
    try:
        yield
    except MarlzooError:
        raise
    except faults as error:
        raise DataError(
            f"the HDF5 file is cut off or damaged ({_first_line(error)}); fetch or make it again"
        ) from error


def keys(file: h5py.Group) -> list[str]:
    """Names in a file or group, sorted."""
    with _guarded():
        return sorted(file)


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like HDF5 (user blocks before the signature are not supported)."""
    try:
        with open(path, "rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def group(parent: h5py.Group, name: str) -> h5py.Group:
    """The group ``name`` of a file or group.

    Raises:
        DataError: no such group, or one that is stored in another file.
    """
    with _guarded():
        found = parent.get(name)
        if not isinstance(found, h5py.Group) or found.file.filename != parent.file.filename:
            raise DataError(f"the group {name!r} is missing in {parent.name}")
        return found


def column(file: h5py.Group, name: str, kinds: str) -> h5py.Dataset:
    """The array ``name`` of a file or group, checked before anything of it is read.

    Args:
        file: an open file, or a group of it.
        name: key of a dataset in it.
        kinds: numpy kinds that are allowed, for instance ``"f"`` or ``"iub"``.

    Raises:
        DataError: no such key, no array of these kinds, stored outside the file, or larger than what the file
            can hold.
    """
    if name not in keys(file):
        raise DataError(f"the key {name!r} is missing; the file has {', '.join(keys(file)) or 'no keys'}")
    with _guarded():
        found = file[name]
        if not isinstance(found, h5py.Dataset) or found.shape is None or found.dtype.kind not in kinds:
            raise DataError(f"{name} is not an array of {_kind_names(kinds)}")
        if found.is_virtual or found.external or found.file.filename != file.file.filename:
            raise DataError(f"{name} is stored in another file; copy it into this one")
        stored = found.id.get_storage_size()
        chunk = np.prod(found.chunks, dtype=float) * found.dtype.itemsize if found.chunks else 0.0
    if max(float(found.nbytes), chunk) > max(CHUNK_BYTES, _MOST_COMPRESSION * stored):
        raise DataError(f"{name} declares {found.nbytes} bytes, but the file stores only {stored} of them")
    return found


def row_slices(array: h5py.Dataset) -> Iterator[slice]:
    """Consecutive rows of about ``CHUNK_BYTES``, in whole storage chunks."""
    row = max(1, array.nbytes // max(1, len(array)))
    unit = array.chunks[0] if array.chunks else 1
    step = max(1, CHUNK_BYTES // (row * unit)) * unit
    for begin in range(0, len(array), step):
        yield slice(begin, min(begin + step, len(array)))


def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Memory for an array.

    Raises:
        DataError: there is not enough.
    """
    try:
        return np.empty(shape, dtype)
    except MemoryError as error:
        need = np.prod(shape, dtype=float) * np.dtype(dtype).itemsize / 1e9
        raise DataError(
            f"an array of {need:.1f} GB does not fit into memory; use a machine with more"
        ) from error


def read_array(array: h5py.Dataset, dtype: type[np.generic]) -> NDArray[Any]:
    """A whole array, converted piece by piece into one copy of ``dtype``."""
    out = allocate(array.shape, dtype)
    for rows in row_slices(array):
        out[rows] = read_rows(array, rows, dtype)
    return out


def read_rows(array: h5py.Dataset, rows: slice, dtype: type[np.generic]) -> NDArray[Any]:
    """Some rows as ``dtype``; numbers too large become infinite, which the dataset's checks then name."""
    with _guarded(), np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array[rows]).astype(dtype, copy=False)


class _Sink(io.RawIOBase):
    """A file that HDF5 writes into and that seems never to fail; ``fault`` keeps the first failure.

    The HDF5 library crashes the process when it cannot write its buffers out on closing. Here it finishes its
    work into nothing, and the failure is raised afterwards.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed by close()
        self.fault: OSError | None = None

    def write(self, data: Any) -> int:
        view, done = memoryview(data).cast("B"), 0
        try:
            while done < len(view) and not self.fault:
                done += self._file.write(view[done:])
        except OSError as error:
            self.fault = error
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view, done = memoryview(buffer).cast("B"), 0
        while done < len(view):
            count = self._file.readinto(view[done:])
            if not count:  # behind what could be written; the content no longer matters
                view[done:] = bytes(len(view) - done)
                break
            done += count
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.fault = self.fault or error
            return size or 0

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


@contextlib.contextmanager
def create_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open a new HDF5 file for writing; use it inside :func:`marlzoo.files.atomic_write`.

    Raises:
        OSError: the file cannot be written (from the end of the block).
    """
    sink = _Sink(Path(path))
    try:
        with h5py.File(sink, "w", libver=("earliest", "v110")) as file:
            yield file
    finally:
        sink.close()
    if sink.fault:
        raise sink.fault


def _require_hdf5(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path")
    if not path.is_file():
        raise DataError(f"{path}: is not a file; give the path of an HDF5 file")
    try:
        with open(path, "rb") as file:
            begin = file.read(len(SIGNATURE))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if begin != SIGNATURE:
        what = "is empty" if not begin else "is not an HDF5 file (it does not begin with HDF5's signature)"
        raise DataError(f"{path}: {what}; fetch or make it again")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().strip("'\"").splitlines()
    return lines[0] if lines else type(error).__name__


def _kind_names(kinds: str) -> str:
    names = {"f": "floats", "i": "integers", "u": "unsigned integers", "b": "booleans"}
    return " or ".join(names[kind] for kind in kinds)
