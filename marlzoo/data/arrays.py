"""Walking over large arrays in pieces, so that temporary masks stay small."""

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
    """The file mapping that an array lies in, if it is mapped."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    return base if isinstance(base, mmap.mmap) else None
