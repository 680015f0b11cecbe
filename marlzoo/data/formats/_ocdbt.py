"""The arrays of a Flashbax Vault: zarr chunks in an ocdbt store, decoded here within known bounds.

``tensorstore`` (extra ``vault``) finds keys and values in the store and does nothing else. What a chunk may
unpack to follows from the array's description, which is checked first.
"""

from __future__ import annotations

import itertools
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import CHUNK_BYTES
from marlzoo.data.formats._steps import require
from marlzoo.data.hdf5 import allocate
from marlzoo.errors import DataError, MissingExtraError

# Deflate cannot reach more; a store that claims it declares data that it does not hold.
_MOST_COMPRESSION = 1100
_MOST_CHUNK = 1 << 30
_MOST_ROWS = 2**31 - 1
_BLOSC_HEADER = 16
_BLOSC_COPIED = 2


@dataclass(frozen=True)
class _Array:
    """Description of one array: sizes of the array and of its chunks, type, and how chunks are packed."""

    name: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    packing: str
    separator: str


class OcdbtArray:
    """The arrays of one vault folder, of which the first ``length`` entries of the time axis count."""

    def __init__(self, folder: Path) -> None:
        """Open a folder with ``manifest.ocdbt``.

        Raises:
            MissingExtraError: tensorstore is not installed.
            DataError: no such store, or a damaged one.
        """
        try:
            import tensorstore
        except ImportError as error:
            raise MissingExtraError("tensorstore", "vault", "reading a Flashbax Vault") from error
        require((folder / "manifest.ocdbt").is_file(), "has no manifest.ocdbt; give the folder that does")
        self.size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{folder.absolute()}/"}}
        try:
            self._store = tensorstore.KvStore.open(spec).result()
            found = {bytes(key) for key in self._store.list().result()}
        except Exception as error:  # tensorstore raises several kinds for damaged files
            raise DataError("its store is cut off or damaged; fetch it again") from error
        self.names = sorted(
            key.removesuffix(b"/.zarray").decode("ascii", "replace")
            for key in found
            if key.endswith(b"/.zarray")
        )
        require("vault_index" in self.names, "its store has no vault_index; fetch it again")
        index = self._describe("vault_index")
        require(index.shape == (1,) and index.dtype.kind in "iu", "its vault_index is not one whole number")
        self.length = int(self._chunk(index, (0,))[0])
        require(
            0 < self.length <= _MOST_ROWS, f"its vault_index is {self.length}; it holds no recorded steps"
        )

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape ``[B, length, ...]`` of the recorded part of an array.

        Raises:
            DataError: no such array, or too large for what the store holds.
        """
        array = self._described(name)
        return (array.shape[0], self.length, *array.shape[2:])

    def dtype(self, name: str) -> np.dtype[Any]:
        """Type of an array."""
        return self._described(name).dtype

    def read(self, name: str) -> NDArray[Any]:
        """The recorded part ``[B, length, ...]`` of an array.

        Raises:
            DataError: no such array, damaged, or too large for what the store holds.
        """
        array = self._described(name)
        out = allocate(self.shape(name), array.dtype.type)
        for place in itertools.product(*self._places(array, out.shape)):
            inside = tuple(
                slice(k * chunk, min((k + 1) * chunk, size))
                for k, chunk, size in zip(place, array.chunks, out.shape, strict=True)
            )
            piece = self._chunk(array, place)
            out[inside] = piece[tuple(slice(0, part.stop - part.start) for part in inside)]
        return out

    def _places(self, array: _Array, shape: tuple[int, ...]) -> Iterator[range]:
        return (range(-(-size // chunk)) for size, chunk in zip(shape, array.chunks, strict=True))

    def _described(self, name: str) -> _Array:
        require(name in self.names, f"has no array {name}; it has {', '.join(self.names)}")
        array = self._describe(name)
        require(len(array.shape) >= 3, f"its array {name} has shape {array.shape}, expected (B, T, N, ...)")
        need = math.prod((array.shape[0], self.length, *array.shape[2:])) * array.dtype.itemsize
        require(
            array.shape[1] >= self.length and need <= max(CHUNK_BYTES, _MOST_COMPRESSION * self.size),
            f"its array {name} declares {need} bytes, which its {self.size} bytes cannot hold",
        )
        return array

    def _describe(self, name: str) -> _Array:
        text = self._value(f"{name}/.zarray")
        try:
            values = json.loads(text or b"")
            shape = tuple(values["shape"])
            chunks = tuple(values["chunks"])
            dtype = np.dtype(str(values["dtype"]))
            packing = values["compressor"]
            plain = values["zarr_format"] == 2 and values["order"] == "C" and not values["filters"]
            empty = values["fill_value"] in (None, 0, False)
            packing = packing["id"] if packing else ""
            separator = values.get("dimension_separator", ".")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"the description of its array {name} is damaged; fetch it again") from error
        whole = all(type(n) is int and n > 0 for n in (*shape, *chunks)) and len(shape) == len(chunks)
        known = packing in ("", "gzip", "zlib", "blosc") and separator in (".", "/")
        if not (whole and plain and empty and known and dtype.kind in "fiub" and dtype.itemsize <= 8):
            raise DataError(f"its array {name} is stored in a way that Flashbax does not use")
        require(
            math.prod(chunks) * dtype.itemsize <= _MOST_CHUNK, f"the chunks of its array {name} are too large"
        )
        return _Array(name, shape, chunks, dtype, packing, separator)

    def _chunk(self, array: _Array, place: tuple[int, ...]) -> NDArray[Any]:
        raw = self._value(f"{array.name}/{array.separator.join(map(str, place))}")
        if raw is None:  # tensorstore does not store chunks of zeros
            return np.zeros(array.chunks, array.dtype)
        size = math.prod(array.chunks) * array.dtype.itemsize
        data = _unpack(raw, array.packing, size)
        require(len(data) == size, f"a chunk of its array {array.name} is cut off or damaged; fetch it again")
        return np.frombuffer(data, array.dtype).reshape(array.chunks)

    def _value(self, key: str) -> bytes | None:
        try:
            result = self._store.read(key.encode()).result()
        except Exception as error:  # see above
            raise DataError(f"its store is cut off or damaged at {key}; fetch it again") from error
        return bytes(result.value) if result.state == "value" else None


def _unpack(raw: bytes, packing: str, size: int) -> bytes:
    """At most ``size + 1`` bytes; fewer or more than ``size`` for damaged chunks."""
    if not packing:
        return raw
    if packing == "blosc":  # only as it stores a few bytes: uncompressed behind its header
        copied = len(raw) >= _BLOSC_HEADER and raw[2] & _BLOSC_COPIED
        require(bool(copied), "it is packed with blosc, which is not read; save it with Flashbax's default")
        return raw[_BLOSC_HEADER:]
    try:
        unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 32)
        data = unpacker.decompress(raw, size + 1)
        data += unpacker.decompress(unpacker.unconsumed_tail, 1)  # compares the checksum at the end
        return data if unpacker.eof else b""
    except zlib.error:
        return b""
