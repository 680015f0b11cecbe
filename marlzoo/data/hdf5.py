"""HDF5 access in which every fault of a file is one :class:`DataError`, and a full disk an error."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import CHUNK_BYTES
from marlzoo.errors import DataError, MarlzooError
from marlzoo.system.interrupts import interrupts_held

SIGNATURE = b"\x89HDF\r\n\x1a\n"
# What h5py raises on files that are cut, flipped or made to harm. Only calls into h5py are guarded with all of
# them, so that a fault of ours is not taken for one of the file.
_FAULTS = (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, IndexError, MemoryError)
# Deflate cannot reach more; a file that claims it declares data that it does not hold.
_MOST_COMPRESSION = 1100
# Pieces that are read, compared and converted while they are in the processor's cache.
_STREAM_BYTES = 1 << 20
# Arrays of native files begin at multiples of it, so that they can be mapped.
_ALIGNMENT = 64
_SPILL_BYTES = 64 << 20  # smaller arrays stay in memory

_spill_folder: ContextVar[Path | None] = ContextVar("spill_folder", default=None)


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
        if not os.path.isfile(path):  # opening a pipe would wait for its writer
            return False
        with open(path, "rb") as file:
            return file.read(len(SIGNATURE)) == SIGNATURE
    except OSError:
        return False


def user_block(path: str | os.PathLike[str]) -> int:
    """Bytes before the signature of an HDF5 file that has a user block (512, 1024, ...); 0 for other files."""
    try:
        if not os.path.isfile(path):
            return 0
        size = os.path.getsize(path)
        place = 512
        with open(path, "rb") as file:
            while place < size:
                file.seek(place)
                if file.read(len(SIGNATURE)) == SIGNATURE:
                    return place
                place *= 2
    except OSError:
        pass
    return 0


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
    """Consecutive rows of about a mebibyte; of compressed arrays more, in whole storage chunks."""
    row = max(1, array.nbytes // max(1, len(array)))
    unit, size = (array.chunks[0], CHUNK_BYTES) if array.chunks else (1, _STREAM_BYTES)
    step = max(1, size // (row * unit)) * unit
    for begin in range(0, len(array), step):
        yield slice(begin, min(begin + step, len(array)))


@contextlib.contextmanager
def spill(folder: Path) -> Iterator[None]:
    """Inside the block, :func:`allocate` keeps large arrays in unnamed files in ``folder``, not in memory."""
    token = _spill_folder.set(folder)
    try:
        yield
    finally:
        _spill_folder.reset(token)


def allocate(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Memory for an array, or room in a file inside :func:`spill`.

    Raises:
        DataError: there is not enough.
    """
    need = int(np.prod(shape, dtype=object)) * np.dtype(dtype).itemsize
    folder = _spill_folder.get()
    try:
        if folder is not None and need > _SPILL_BYTES:
            with tempfile.TemporaryFile(dir=folder) as file:
                # Reserved now: a full disk would otherwise end the process when a page is written.
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, need)
                return np.asarray(np.memmap(file, dtype, "r+", shape=shape))
        return np.empty(shape, dtype)
    except (MemoryError, OSError, ValueError) as error:
        where = "memory" if folder is None else f"memory or into {folder}"
        remedy = (
            "use a machine with more, or write a native file with marlzoo data convert, which is then mapped"
        )
        raise DataError(f"an array of {need / 1e9:.1f} GB does not fit into {where}; {remedy}") from error


def read_array(array: h5py.Dataset, dtype: type[np.generic]) -> NDArray[Any]:
    """A whole array, converted piece by piece into one copy of ``dtype``."""
    out = allocate(array.shape, dtype)
    read = row_reader(array)
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # too large numbers become infinite; checks then name them
        for rows in row_slices(array):
            out[rows] = read(rows)
    return out


def read_rows(array: h5py.Dataset, rows: slice, dtype: type[np.generic]) -> NDArray[Any]:
    """Some rows as ``dtype``; numbers too large become infinite, which the dataset's checks then name."""
    with _guarded(), np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array[rows]).astype(dtype, copy=False)


def row_reader(array: h5py.Dataset) -> Callable[[slice], NDArray[Any]]:
    """A function that reads some rows in the file's own type; its result is valid until the next call.

    Arrays that lie in one piece and in this machine's number format are read past the HDF5 library into one
    small buffer, which is several times faster.
    """
    offset = _offset(array)
    if offset is None or not array.size or array.dtype.kind == "b" or not hasattr(os, "preadv"):

        def read(rows: slice) -> NDArray[Any]:
            with _guarded():
                return np.asarray(array[rows])

        return read

    file = array.file.id.get_vfd_handle()
    row = array.nbytes // len(array)
    buffer = np.empty(0, array.dtype)

    def read_directly(rows: slice) -> NDArray[Any]:
        nonlocal buffer
        count = rows.stop - rows.start
        if len(buffer) < count:
            buffer = np.empty((count, *array.shape[1:]), array.dtype)
        part = buffer[:count]
        with _guarded():
            missing = part.reshape(-1).view(np.uint8).data
            place = offset + rows.start * row
            while missing:
                got = os.preadv(file, [missing], place)
                if got == 0:
                    raise OSError("it ends inside an array")
                missing = missing[got:]
                place += got
        return part

    return read_directly


def _offset(array: h5py.Dataset) -> int | None:
    """An array's offset in its file, if it is stored contiguously in numpy's layout."""
    with _guarded():
        plain = array.id.get_type().equal(h5py.h5t.py_create(array.dtype, logical=True))
        return (
            array.id.get_offset() if plain and array.dtype.isnative and array.file.driver == "sec2" else None
        )


def map_array(array: h5py.Dataset) -> NDArray[Any]:
    """A whole array without reading it: the file's pages, read-only, brought in when they are touched.

    Raises:
        DataError: it does not lie in the file in one aligned piece as numpy would hold it.
    """
    offset = _offset(array)
    if offset is None or offset % array.dtype.itemsize:
        raise DataError(
            f"{array.name.lstrip('/')} cannot be mapped into memory (compressed, unaligned or of another number "
            "format); write an uncompressed native file with: marlzoo data convert FILE NEW.hdf5"
        )
    with _guarded():
        return np.asarray(np.memmap(array.file.filename, array.dtype, "r", offset, array.shape))


class _Sink(io.RawIOBase):
    """A file that HDF5 writes into and that seems never to fail; ``fault`` keeps the first failure.

    The HDF5 library crashes the process when it cannot write its buffers out on closing. Here it finishes its
    work into nothing, and the failure is raised afterwards.
    """

    def __init__(self, path: Path) -> None:
        self._file = open(path, "w+b", buffering=0)  # noqa: SIM115 - closed by close()
        self.fault: OSError | None = None

    def give_up(self) -> None:
        """Write no more: nobody will want the file."""
        self.fault = self.fault or InterruptedError(errno.EINTR, "interrupted")

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        try:
            while done < len(view) and not self.fault:
                done += self._file.write(view[done:])
        except OSError as error:
            self.fault = error
        return len(view)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        done = 0
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
    """Open a new HDF5 file for writing; use it inside :func:`marlzoo.system.files.atomic_write`.

    Raises:
        OSError: the file cannot be written (from the end of the block).
    """
    sink = _Sink(Path(path))
    # An interruption in one of the library's calls of the sink would be lost, or become another error.
    with interrupts_held(sink.give_up):
        try:
            with h5py.File(
                sink,
                "w",
                libver=("earliest", "v110"),
                alignment_threshold=_ALIGNMENT,
                alignment_interval=_ALIGNMENT,
            ) as file:
                yield file
        except Exception as error:
            # The library stumbles over what it reads back of its own tables, which were not written.
            if sink.fault:
                raise sink.fault from error
            raise
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
    if begin != SIGNATURE and (size := user_block(path)):
        raise DataError(
            f"{path}: has a user block of {size} bytes before its content, which is not read; remove it with: "
            "h5unjam -i FILE -o NEW.h5"
        )
    if begin != SIGNATURE:
        what = "is empty" if not begin else "is not an HDF5 file (it does not begin with HDF5's signature)"
        raise DataError(f"{path}: {what}; fetch or make it again")


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().strip("'\"").splitlines()
    return lines[0] if lines else type(error).__name__


def _kind_names(kinds: str) -> str:
    names = {"f": "floats", "i": "integers", "u": "unsigned integers", "b": "booleans"}
    return " or ".join(names[kind] for kind in kinds)
