"""A pickle machine that imports and calls nothing on a file's behalf; see :mod:`marlzoo.system.unpickle`."""

from __future__ import annotations

import pickletools
import re
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.errors import DataError
from marlzoo.system._pickle_values import (
    CLASSES,
    FRESH,
    FUNCTIONS,
    KEYS,
    STORAGES,
    Name,
    NumpyType,
    Stored,
    dtype_of,
    require_size,
)

MAX_STEPS = 4_000_000  # opcodes of one pickle, each at most one small object; episodes have some 100 000
MAX_DIGITS = 256  # bytes or digits of one integer

# What damaged input raises in the code below.
FAULTS = (
    *(IndexError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError, struct.error),
)
_FLOATS = re.compile(b"(?:G.{8})+", re.DOTALL)
_FLOAT = np.dtype([("opcode", "u1"), ("number", ">f8")])

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
        self.data = data
        self.place = start
        self.storage = storage
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget = 8 * len(data) + (1 << 20)

    def run(self) -> Any:
        data = self.data
        table = _OPCODES
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
        begin = self.place
        self.place += count
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
            if not isinstance(key, KEYS):
                raise DataError(f"the pickle has a dictionary key of type {type(key).__name__}")
            target[key] = value

    def extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not list:
            raise DataError("the pickle appends to what is not a list")
        target.extend(items)

    def reduce(self) -> None:
        arguments = self.stack.pop()
        function = self.stack.pop()
        if not isinstance(function, Name) or (function.module, function.name) not in FUNCTIONS:
            raise DataError(f"the pickle calls {function if isinstance(function, Name) else 'an object'}")
        if not isinstance(arguments, tuple):
            raise DataError("the pickle calls a function without a list of arguments")
        self.stack.append(FUNCTIONS[function.module, function.name](self, *arguments))

    def build(self) -> None:
        """Complete an array or a type with its state."""
        state = self.stack.pop()
        target = self.stack[-1]
        if isinstance(target, NumpyType):
            if (
                not isinstance(state, tuple)
                or state[1] not in ("<", ">", "|", "=")
                or any(part is not None for part in state[2:5])
            ):
                raise DataError("the pickle has a numpy type that is not a plain number")
            target.order = state[1]
        elif type(target) is np.ndarray and target.dtype == FRESH and isinstance(state, tuple):
            _, shape, kind, fortran, raw = state
            if not isinstance(raw, bytes):
                raise DataError("the pickle has an array that does not consist of numbers")
            require_size(len(raw), dtype_of(kind), shape)
            self.charge(len(raw))
            # numpy's stubs ask for a numpy bool here, numpy itself for a Python one
            target.__setstate__((1, shape, dtype_of(kind), bool(fortran), raw))  # type: ignore[arg-type]
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
        found = Name(str(module)[:100], str(name)[:100])
        if (found.module, found.name) not in FUNCTIONS and found not in CLASSES:
            raise DataError(f"the pickle names {found}, which is not admitted; nothing of it was executed")
        self.stack.append(found)

    def persistent(self) -> None:
        """A tensor's storage: ``('storage', type, key, location, entries, ...)``."""
        tag, kind, key, _, count = self.stack.pop()[:5]
        if tag not in ("storage", b"storage") or self.storage is None or not isinstance(kind, Name):
            raise DataError("the pickle refers to something outside itself")
        if type(count) is not int or type(key) is not str or kind not in STORAGES:
            raise DataError(f"the pickle has a storage of an unknown kind ({kind})")
        self.stack.append(Stored(self.storage(key, STORAGES[kind], count)))


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
