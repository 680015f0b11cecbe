"""A pickle machine that imports and calls nothing on a file's behalf; see :mod:`marlzoo.system.unpickle`."""

from __future__ import annotations

import math
import pickletools
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.errors import DataError

MAX_STEPS = 4_000_000  # opcodes of one pickle, each at most one small object; episodes have some 100 000
MAX_DIGITS = 256  # bytes or digits of one integer
MAX_RANK = 32  # dimensions of an array

# What damaged input raises in the code below.
FAULTS = (
    *(IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, struct.error),
)
_FRESH = np.dtype("V1")  # of an array whose state is still to come; no pickle can ask for it
_FLOATS, _FLOAT = re.compile(b"(?:G.{8})+", re.DOTALL), np.dtype([("opcode", "u1"), ("number", ">f8")])
_KEYS = (str, int, float, bytes, type(None))  # hashing these cannot recurse


@dataclass(frozen=True)
class _Name:
    """A function or class that a pickle names; never looked up outside this module's table."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class _Type:
    """A numpy type under construction: its code arrives before its byte order."""

    code: str
    order: str = "<"

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.order + self.code)


# Loads a tensor's numbers: (key, type, number of entries) -> array.
Storage = Callable[[str, np.dtype[Any], int], NDArray[Any]]


# ---- the machine -----------------------------------------------------------------------------------------


def run(data: memoryview, start: int, storage: Storage | None = None) -> tuple[Any, int]:
    """Object of the pickle that begins at ``start``, and where it ends."""
    machine = _Machine(data, start, storage)
    try:
        return machine.run(), machine.place
    except DataError:
        raise
    except FAULTS as error:
        raise DataError(
            f"the pickle is cut off or damaged at byte {machine.place} ({reason(error)}); fetch it again"
        ) from error


class _Machine:
    """Stack, marks and memo of one pickle; see the module's text for what is admitted."""

    def __init__(self, data: memoryview, start: int, storage: Storage | None) -> None:
        self.data, self.place, self.storage = data, start, storage
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget = 8 * len(data) + (1 << 20)

    def run(self) -> Any:
        data, table = self.data, _OPCODES
        for _ in range(MAX_STEPS):
            code = data[self.place]
            self.place += 1
            action = table[code]
            if action is None:
                if code == 0x2E:  # STOP
                    return self.stack.pop()
                name = _names().get(code, "unknown")
                raise DataError(f"the pickle uses {name} at byte {self.place - 1}, which is not admitted")
            action(self)
        raise DataError(f"the pickle has more than {MAX_STEPS} steps")

    def take(self, count: int) -> memoryview:
        """The next bytes of the pickle, which must be there."""
        begin, self.place = self.place, self.place + count
        if count < 0 or self.place > len(self.data):
            raise DataError(f"the pickle is cut off: {count} bytes are announced at byte {begin}")
        return self.data[begin : self.place]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> bytes:
        begin = self.place
        piece = bytes(self.data[begin : begin + 4096])
        end = piece.index(b"\n")
        self.place = begin + end + 1
        return piece[:end]

    def since_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def charge(self, count: int) -> None:
        """Account for memory that is not a slice of the pickle."""
        self.budget -= count
        if count < 0 or self.budget < 0:
            raise DataError("the pickle asks for more memory than its size justifies")

    def fill(self, items: list[Any]) -> None:
        """Put pairs into the dictionary on top of the stack."""
        target = self.stack[-1]
        if type(target) is not dict or len(items) % 2:
            raise DataError("the pickle fills what is not a dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, _KEYS):
                raise DataError(f"the pickle has a dictionary key of type {type(key).__name__}")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise DataError("the pickle appends to what is not a list")
        target.extend(items)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Name) or (function.module, function.name) not in _FUNCTIONS:
            raise DataError(f"the pickle calls {function if isinstance(function, _Name) else 'an object'}")
        if not isinstance(arguments, tuple):
            raise DataError("the pickle calls a function without a list of arguments")
        self.stack.append(_FUNCTIONS[function.module, function.name](self, *arguments))

    def build(self) -> None:
        """Complete an array or a type with its state."""
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Type):
            if (
                not isinstance(state, tuple)
                or state[1] not in ("<", ">", "|", "=")
                or any(part is not None for part in state[2:5])
            ):
                raise DataError("the pickle has a numpy type that is not a plain number")
            target.order = state[1]
        elif type(target) is np.ndarray and target.dtype == _FRESH and isinstance(state, tuple):
            _, shape, kind, fortran, raw = state
            if not isinstance(raw, bytes):
                raise DataError("the pickle has an array that does not consist of numbers")
            _require_size(len(raw), _dtype(kind), shape)
            self.charge(len(raw))
            # numpy's stubs ask for a numpy bool here, numpy itself for a Python one
            target.__setstate__((1, shape, _dtype(kind), bool(fortran), raw))  # type: ignore[arg-type]
        else:
            raise DataError(
                "the pickle gives attributes to what is neither an array nor a type, as a network's checkpoint does; "
                "that is not admitted, and nothing of it was executed"
            )

    def floats(self) -> None:
        """A run of floating-point numbers, of which lists of them consist, at once."""
        run = _FLOATS.match(self.data, self.place - 1)
        if run is None:
            raise DataError(f"the pickle is cut off in a number at byte {self.place}")
        self.place = run.end()
        self.stack.extend(np.frombuffer(run[0], _FLOAT)["number"].tolist())

    def name(self, module: Any, name: Any) -> None:
        found = _Name(str(module)[:100], str(name)[:100])
        if (found.module, found.name) not in _FUNCTIONS and found not in _CLASSES:
            raise DataError(f"the pickle names {found}, which is not admitted; nothing of it was executed")
        self.stack.append(found)

    def persistent(self) -> None:
        """A tensor's storage: ``('storage', type, key, location, entries, ...)``."""
        tag, kind, key, _, count = self.stack.pop()[:5]
        if tag not in ("storage", b"storage") or self.storage is None or not isinstance(kind, _Name):
            raise DataError("the pickle refers to something outside itself")
        if type(count) is not int or type(key) is not str or kind not in _STORAGES:
            raise DataError(f"the pickle has a storage of an unknown kind ({kind})")
        self.stack.append(_Stored(self.storage(key, _STORAGES[kind], count)))


@dataclass(frozen=True)
class _Stored:
    """A tensor's storage, which only :func:`_tensor` takes; never part of a result."""

    numbers: NDArray[Any]


# ---- what a pickle may call ------------------------------------------------------------------------------


def _dtype(kind: Any) -> np.dtype[Any]:
    if not isinstance(kind, _Type):
        raise DataError("the pickle has an array without a type")
    return kind.dtype


def _require_size(count: int, dtype: np.dtype[Any], shape: Any) -> None:
    good = (
        isinstance(shape, tuple) and len(shape) <= MAX_RANK and all(type(n) is int and n >= 0 for n in shape)
    )
    if not good or math.prod(shape) * dtype.itemsize != count:
        raise DataError(f"the pickle has an array of shape {str(shape)[:80]}, type {dtype} and {count} bytes")


def numbers(raw: bytes, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
    if len(raw) != count * dtype.itemsize:
        raise DataError(f"a storage of {count} entries of {dtype} has {len(raw)} bytes")
    return np.frombuffer(raw, dtype)


def _make_type(_: _Machine, code: Any, *__: Any) -> _Type:
    if not isinstance(code, str) or code not in _CODES:
        raise DataError(
            f"the pickle has numbers of the type {str(code)[:20]!r}; plain numbers are admitted only"
        )
    return _Type(code)


def _reconstruct(_: _Machine, kind: Any, *__: Any) -> NDArray[Any]:
    if kind != _Name("numpy", "ndarray"):
        raise DataError("the pickle makes an array of an unknown class")
    return np.empty(0, _FRESH)


def _from_buffer(machine: _Machine, raw: Any, kind: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(raw, bytes) or order not in ("C", "F"):
        raise DataError("the pickle has an array that does not consist of numbers")
    dtype = _dtype(kind)
    _require_size(len(raw), dtype, shape)
    return np.frombuffer(raw, dtype).reshape(shape, order=order)


def _scalar(_: _Machine, kind: Any, raw: Any) -> Any:
    dtype = _dtype(kind)
    if not isinstance(raw, bytes) or len(raw) != dtype.itemsize:
        raise DataError("the pickle has a number of another size than its type")
    return np.frombuffer(raw, dtype)[0].item()


def _encode(machine: _Machine, text: Any, coding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or coding not in ("latin1", "latin-1"):
        raise DataError("the pickle encodes what is not text")
    machine.charge(len(text))
    return text.encode("latin1")


def _ordered(machine: _Machine, pairs: Any = ()) -> dict[Any, Any]:
    if not isinstance(pairs, list | tuple) or any(
        not isinstance(p, list | tuple) or len(p) != 2 for p in pairs
    ):
        raise DataError("the pickle makes a dictionary of what are no pairs")
    machine.charge(100 * len(pairs))
    if not all(isinstance(key, _KEYS) for key, _ in pairs):
        raise DataError("the pickle has a dictionary key that is neither text nor number")
    return dict(pairs)


def _empty_bytes(_: _Machine) -> bytes:
    return b""


def _tensor(_: _Machine, stored: Any, offset: Any, shape: Any, strides: Any, *__: Any) -> NDArray[Any]:
    """A view of a storage; it never reaches beyond it or repeats its entries."""
    if not isinstance(stored, _Stored):
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
_FUNCTIONS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): _make_type,
    ("_codecs", "encode"): _encode,
    ("collections", "OrderedDict"): _ordered,
    ("builtins", "bytes"): _empty_bytes,
    ("__builtin__", "bytes"): _empty_bytes,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
}
for _core in ("numpy.core", "numpy._core"):
    _FUNCTIONS[f"{_core}.multiarray", "_reconstruct"] = _reconstruct
    _FUNCTIONS[f"{_core}.multiarray", "scalar"] = _scalar
    _FUNCTIONS[f"{_core}.numeric", "_frombuffer"] = _from_buffer
_STORAGES = {
    _Name("torch", f"{name}Storage"): np.dtype(kind)
    for name, kind in {
        **{"Float": "<f4", "Double": "<f8", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2"},
        **{"Char": "i1", "Byte": "u1", "Bool": "?"},
    }.items()
}
_CLASSES = frozenset((_Name("numpy", "ndarray"), *_STORAGES))


# ---- opcodes ---------------------------------------------------------------------------------------------


def _opcodes() -> list[Callable[[_Machine], None] | None]:
    """What each admitted opcode does, by its byte."""
    table: dict[bytes, Callable[[_Machine], None]] = _constants() | _containers() | _memory()
    table |= {
        b"R": _Machine.reduce,
        b"b": _Machine.build,
        b"G": _Machine.floats,
        b"Q": _Machine.persistent,
        b"c": lambda m: m.name(m.line().decode(), m.line().decode()),
        b"\x93": lambda m: m.name(*reversed((m.stack.pop(), m.stack.pop()))),
        b"\x80": lambda m: _require_protocol(m.number(1)),
        b"\x95": lambda m: _skip(m.number(8)),  # FRAME: its length is only a hint for reading ahead
    }
    return [table.get(bytes([code])) for code in range(256)]


def _push(read: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.stack.append(read(machine))


def _constants() -> dict[bytes, Callable[[_Machine], None]]:
    def text(m: _Machine, size: int) -> str:
        return str(m.take(m.number(size)), "utf-8", "surrogatepass")

    def signed(m: _Machine, size: int) -> int:
        if size > MAX_DIGITS:
            raise DataError(f"the pickle has an integer of {size} bytes")
        return int.from_bytes(m.take(size), "little", signed=True)

    def integer(m: _Machine) -> int | bool:
        line = m.line().removesuffix(b"L")
        if len(line) > MAX_DIGITS:
            raise DataError(f"the pickle has an integer of {len(line)} digits")
        return line == b"01" if line in (b"00", b"01") else int(line)

    read: dict[bytes, Callable[[_Machine], Any]] = {
        b"N": lambda m: None,
        b"\x88": lambda m: True,
        b"\x89": lambda m: False,
        b"I": integer,
        b"L": integer,
        b"F": lambda m: float(m.line()),
        b"J": lambda m: signed(m, 4),
        b"K": lambda m: m.number(1),
        b"M": lambda m: m.number(2),
        b"\x8a": lambda m: signed(m, m.number(1)),
        b"\x8b": lambda m: signed(m, m.number(4)),
        b"V": lambda m: m.line().decode("raw-unicode-escape"),
        b"X": lambda m: text(m, 4),
        b"\x8c": lambda m: text(m, 1),
        b"\x8d": lambda m: text(m, 8),
        b"T": lambda m: bytes(m.take(m.number(4))),  # strings of Python 2 are bytes
        b"U": lambda m: bytes(m.take(m.number(1))),
        b"B": lambda m: bytes(m.take(m.number(4))),
        b"C": lambda m: bytes(m.take(m.number(1))),
        b"\x8e": lambda m: bytes(m.take(m.number(8))),
        b"\x96": lambda m: bytes(m.take(m.number(8))),
    }
    return {code: _push(function) for code, function in read.items()}


def _containers() -> dict[bytes, Callable[[_Machine], None]]:
    def last(count: int) -> Callable[[_Machine], Any]:
        def pack(m: _Machine) -> tuple[Any, ...]:
            if len(m.stack) < count:
                raise DataError("the pickle takes from an empty stack")
            items = tuple(m.stack[-count:])
            del m.stack[-count:]
            return items

        return pack

    def pairs(items: list[Any], m: _Machine) -> None:
        m.stack.append({})
        m.fill(items)

    return {
        b"(": lambda m: m.marks.append(len(m.stack)),
        b"0": lambda m: m.stack.__delitem__(-1),
        b"1": lambda m: _skip(m.since_mark()),
        b"]": _push(lambda m: []),
        b"}": _push(lambda m: {}),
        b")": _push(lambda m: ()),
        b"l": _push(_Machine.since_mark),
        b"t": _push(lambda m: tuple(m.since_mark())),
        b"d": lambda m: pairs(m.since_mark(), m),
        b"\x85": _push(last(1)),
        b"\x86": _push(last(2)),
        b"\x87": _push(last(3)),
        b"a": lambda m: m.extend([m.stack.pop()]),
        b"e": lambda m: m.extend(m.since_mark()),
        b"s": lambda m: m.fill(list(last(2)(m))),
        b"u": lambda m: m.fill(m.since_mark()),
    }


def _memory() -> dict[bytes, Callable[[_Machine], None]]:
    def put(m: _Machine, index: int) -> None:
        m.memo[index] = m.stack[-1]

    return {
        b"p": lambda m: put(m, int(m.line())),
        b"q": lambda m: put(m, m.number(1)),
        b"r": lambda m: put(m, m.number(4)),
        b"\x94": lambda m: put(m, len(m.memo)),
        b"g": _push(lambda m: m.memo[int(m.line())]),
        b"h": _push(lambda m: m.memo[m.number(1)]),
        b"j": _push(lambda m: m.memo[m.number(4)]),
    }


def _skip(_: object) -> None:
    """Read and not used."""


def _require_protocol(version: int) -> None:
    if version > 5:
        raise DataError(f"the pickle has protocol {version}; up to 5 is known")


def _names() -> dict[int, str]:
    return {ord(opcode.code): opcode.name for opcode in pickletools.opcodes}


_OPCODES = _opcodes()


def reason(error: BaseException) -> str:
    """The first line of an error that a damaged file caused, short enough for a line of ours."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:120]}" if text else type(error).__name__
