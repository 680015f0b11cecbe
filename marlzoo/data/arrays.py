"""Large arrays in pieces, so that temporary masks stay small: walked over, compared and hashed."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 8 << 20


def pieces(array: NDArray[Any]) -> Iterator[tuple[int, NDArray[Any]]]:
    """Views of consecutive rows of about ``CHUNK_BYTES``, each with the number of its first row.

    Pages of a mapped array are handed back behind each piece, so that a pass over a large file stays small.
    """
    step = max(1, CHUNK_BYTES // max(1, array[:1].nbytes))
    pages = mapping(array)
    for begin in range(0, len(array), step):
        yield begin, array[begin : begin + step]
        if pages is not None and hasattr(mmap, "MADV_DONTNEED"):
            pages.madvise(mmap.MADV_DONTNEED)


def mapping(array: NDArray[Any]) -> mmap.mmap | None:
    """The memory map behind an array, if there is one."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None


def feed(digest: Any, name: str, array: NDArray[Any] | None) -> None:
    """Let a hash of :mod:`hashlib` take in an array with its name and shape, in pieces and in one byte order."""
    digest.update(f"\n{name} {None if array is None else array.shape}\n".encode())
    for _, piece in pieces(array) if array is not None else ():
        digest.update(np.ascontiguousarray(piece, dtype=piece.dtype.newbyteorder("<")).data)


def same_numbers(state: NDArray[Any], obs: NDArray[Any]) -> bool:
    """Whether states ``[T, S]`` hold the numbers of observations ``[T, N, O]``; arrays that share memory do."""
    if state.size != obs.size or len(state) != len(obs) or not len(obs):
        return False
    flat = obs.reshape(len(obs), -1)
    if state.__array_interface__["data"][0] == obs.__array_interface__["data"][0]:
        return True
    other = state.reshape(len(obs), -1)
    return all(np.array_equal(piece, other[i : i + len(piece)]) for i, piece in pieces(flat))
