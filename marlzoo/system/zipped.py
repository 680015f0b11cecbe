"""Arrays in zip files (``.npz``), read without unpickling and without believing what a damaged file declares."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.errors import DataError

# What numpy raises on damaged npy files and headers.
NPY_FAULTS = (
    *(OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError),
    *(EOFError, SyntaxError, RecursionError, tokenize.TokenError),
)
# What zipfile raises on damaged zip files.
ZIP_FAULTS = (*NPY_FAULTS, RuntimeError, zipfile.BadZipFile, zlib.error)

Allocate = Callable[[tuple[int, ...], type[np.generic]], NDArray[Any]]

_MOST_COMPRESSION = 1100
_MOST_HEADER = 10_000  # bytes of an array's description in its member
_READ = 1 << 20  # bytes at a time


def read_member(
    archive: zipfile.ZipFile,
    name: str,
    size: int,
    *,
    kinds: str = "fiu",
    any_order: bool = False,
    allocate: Allocate = np.empty,
) -> NDArray[Any]:
    """One array of an npz file; declared and stored sizes are compared before memory is allocated.

    Args:
        archive: the opened file.
        name: of the array.
        size: of the file, in bytes.
        kinds: numpy kinds that are allowed.
        any_order: take an array that is stored column by column, too.
        allocate: gives the array's memory.

    Raises:
        DataError: it is of another kind, or claims what it cannot hold.
    """
    info = archive.getinfo(f"{name}.npy")
    if info.compress_size > size or info.file_size > _MOST_COMPRESSION * (1 + info.compress_size):
        raise DataError(f"{name} claims to unpack to more than it can hold")
    with archive.open(info) as member:
        shape, fortran, dtype = _described(member, name)
        if dtype.kind not in kinds or any(n < 0 for n in shape):
            wanted = "bytes (uint8)" if kinds == "u" else "plain numbers"
            raise DataError(f"{name} has the type {dtype}; save it as {wanted} (objects are never unpickled)")
        need = math.prod(shape) * dtype.itemsize
        if need > info.file_size:
            raise DataError(f"{name} declares {need} bytes, but stores {info.file_size}")
        columns = fortran and len(shape) > 1
        if columns and not any_order:
            raise DataError(f"{name} is stored column by column; save it in C order")
        out = allocate(shape[::-1] if columns else shape, np.uint8 if dtype.kind == "b" else dtype.type)
        out = out.view(dtype.newbyteorder("=")) if dtype.kind == "b" else out.view(dtype)
        _fill(out, member, name)
    out = out.T if columns else out
    return out if out.dtype.isnative else out.astype(out.dtype.newbyteorder("="))


def _described(member: Any, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether it is stored column by column, and type of an array."""
    version = np.lib.format.read_magic(member)
    if version not in ((1, 0), (2, 0)):
        raise DataError(f"{name} has an unknown version of the npy format")
    read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    return read(member, max_header_size=_MOST_HEADER)


def _fill(out: NDArray[Any], member: Any, name: str) -> None:
    """Read a member to its end, which also compares the zip file's checksum."""
    flat = out.reshape(-1).view(np.uint8)
    place = 0
    while place < len(flat):
        piece = member.read(min(_READ, len(flat) - place))
        if not piece:
            raise DataError(f"{name} is cut off; fetch or make it again")
        flat[place : place + len(piece)] = np.frombuffer(piece, np.uint8)
        place += len(piece)
    if member.read(1):
        raise DataError(f"{name} stores more than its shape says")
