"""What a pickle may name and call: numpy's arrays and numbers, torch's tensors, plain dictionaries.

Nothing here is looked up by a name of the file's choice: :data:`FUNCTIONS`, :data:`STORAGES` and :data:`CLASSES` are
fixed tables of our own functions and of names. The machine that uses them is in ``_pickle_machine.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from marlzoo.errors import DataError

MAX_RANK = 32  # dimensions of an array
FRESH = np.dtype("V1")  # of an array whose state is still to come; no pickle can ask for it
KEYS = (str, int, float, bytes, type(None))  # hashing these cannot recurse


class Budget(Protocol):
    """Keeps account of the memory that a pickle asks for."""

    def charge(self, count: int) -> None:
        """Account for memory that is not a slice of the pickle; raises beyond what its size justifies."""


@dataclass(frozen=True)
class Name:
    """A function or class that a pickle names; never looked up outside this module's table."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class NumpyType:
    """A numpy type under construction: its code arrives before its byte order."""

    code: str
    order: str = "<"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


@dataclass(frozen=True)
class Stored:
    """A tensor's storage, which only :func:`_tensor` takes; never part of a result."""

    numbers: NDArray[Any]


def dtype_of(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, NumpyType):
        raise DataError("the pickle has an array without a type")
    return kind.dtype


def require_size(count: int, dtype: np.dtype[Any], shape: Any) -> None:
    good = (
        isinstance(shape, tuple) and len(shape) <= MAX_RANK and all(type(n) is int and n >= 0 for n in shape)
    )
    if not good or math.prod(shape) * dtype.itemsize != count:
        raise DataError(f"the pickle has an array of shape {str(shape)[:80]}, type {dtype} and {count} bytes")


def numbers(raw: bytes, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if len(raw) != count * dtype.itemsize:
        raise DataError(f"a storage of {count} entries of {dtype} has {len(raw)} bytes")
    return np.frombuffer(raw, dtype)


def _make_type(_: Budget, code: Any, *__: Any) -> NumpyType:
    if not isinstance(code, str) or code not in _CODES:
        raise DataError(
            f"the pickle has numbers of the type {str(code)[:20]!r}; plain numbers are admitted only"
        )
    return NumpyType(code)


def _reconstruct(_: Budget, kind: Any, *__: Any) -> NDArray[Any]:
    if kind != Name("numpy", "ndarray"):
        raise DataError("the pickle makes an array of an unknown class")
    return np.empty(0, FRESH)


def _from_buffer(machine: Budget, raw: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(raw, bytes) or order not in ("C", "F"):
        raise DataError("the pickle has an array that does not consist of numbers")
    dtype = dtype_of(kind)
    require_size(len(raw), dtype, shape)
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _scalar(_: Budget, kind: Any, raw: Any) -> Any:
    dtype = dtype_of(kind)
    if not isinstance(raw, bytes) or len(raw) != dtype.itemsize:
        raise DataError("the pickle has a number of another size than its type")
    return np.frombuffer(raw, dtype)[0].item()


def _encode(machine: Budget, text: Any, coding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise DataError("the pickle encodes what is not text")
    machine.charge(len(text))
    return text.encode("latin1")


def _ordered(machine: Budget, pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, list | tuple) or any(
        not isinstance(p, list | tuple) or len(p) != 2 for p in pairs
    ):
        raise DataError("the pickle makes a dictionary of what are no pairs")
    machine.charge(100 * len(pairs))
    if not all(isinstance(key, KEYS) for key, _ in pairs):
        raise DataError("the pickle has a dictionary key that is neither text nor number")
    return dict(pairs)


def _empty_bytes(_: Budget) -> bytes:
    return b""


def _tensor(_: Budget, stored: Any, offset: Any, shape: Any, strides: Any, *__: Any) -> NDArray[Any]:
    """A view of a storage; it never reaches beyond it or repeats its entries."""
    if not isinstance(stored, Stored):
        raise DataError("the pickle has a tensor without a storage")
    plain = all(isinstance(part, tuple) and len(part) <= MAX_RANK for part in (shape, strides))
    if (
        not plain
        or len(shape) != len(strides)
        or any(type(n) is not int or n < 0 for n in (offset, *shape, *strides))
    ):
        raise DataError("the pickle has a tensor of a broken shape")
    numbers = stored.numbers
    size = math.prod(shape)
    last = offset + sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if size else 0
    if size > len(numbers) or last >= max(1, len(numbers)):
        raise DataError("the pickle has a tensor that is larger than its storage")
    if not size:
        return np.empty(shape, numbers.dtype)
    width = numbers.dtype.itemsize
    return np.lib.stride_tricks.as_strided(
        numbers[offset:], shape, tuple(step * width for step in strides), writeable=False
    )


_CODES = frozenset(
    f"{kind}{size}"
    for kind, sizes in {"f": "248", "i": "1248", "u": "1248", "b": "1"}.items()
    for size in sizes
)
FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _make_type,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
    ("builtins", "bytes"): _empty_bytes,
    ("__builtin__", "bytes"): _empty_bytes,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
}
for _core in ("numpy.core", "numpy._core"):
    FUNCTIONS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    FUNCTIONS[f"{_core}.multiarray", "scalar"] = _scalar
    FUNCTIONS[f"{_core}.numeric", "_frombuffer"] = _from_buffer
STORAGES = {
    Name("torch", f"{name}Storage"): np.dtype(kind)
    for name, kind in {
        **{"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2"},
        **{"Char": "i1", "Byte": "u1", "Bool": "?"},
    }.items()
}
CLASSES = frozenset((Name("numpy", "ndarray"), *STORAGES))
