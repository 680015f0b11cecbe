"""Reading pickles without executing them: a small machine of its own that knows arrays and plain containers.

``pickle.load`` and ``torch.load`` call whatever a file names. Here nothing is imported or called on a file's
behalf: the names that arrays and tensors need are looked up in a fixed table (see ``_pickle_values.py``),
every other name, and every opcode that builds objects, is refused. What comes out consists of lists, tuples,
dictionaries, strings, bytes, numbers, booleans, None and numpy arrays (also for tensors) only.

Memory and time stay in proportion to the file: sizes are compared with the bytes that are there before
anything is taken, the memo is a dictionary (an index of 2**32 costs one entry), what a file makes repeatedly
from the same bytes is charged to a budget, and cyclic or deeply nested containers are refused.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from marlzoo.errors import DataError
from marlzoo.system._pickle_machine import FAULTS, reason, run
from marlzoo.system._pickle_values import numbers

MAX_BYTES = 1 << 30  # of one file; the episode files of the literature have a few MB
MAX_DEPTH = 32

TORCH_ZIP = b"PK\x03\x04"
# A protocol-2 pickle of torch's magic number, with which its older files begin.
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_LEGACY_PROTOCOL = 1001

_ORDERS: dict[bytes, Literal["<", ">"]] = {b"little": "<", b"big": ">"}
_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, OSError, RuntimeError, EOFError, *FAULTS)
_PLAIN = {str, int, float, bytes, bool, type(None)}


def load_pickle(data: bytes) -> Any:
    """The plain containers and arrays of a pickle.

    Raises:
        DataError: it is damaged, asks for anything else, or for more memory than its size justifies.
    """
    result, _ = run(memoryview(data), 0)
    _require_plain(result)
    return result


def load_torch(path: str | os.PathLike[str]) -> Any:
    """What a file written by ``torch.save`` holds, tensors as numpy arrays; both of torch's layouts.

    Raises:
        DataError: missing, damaged, or holding more than arrays and plain containers.
    """
    path = Path(path)
    try:
        data = _read_file(path)
        if data[: len(TORCH_ZIP)] == TORCH_ZIP:
            result = _load_zip(path, len(data))
        elif data[: len(TORCH_LEGACY)] == TORCH_LEGACY:
            result = _load_legacy(memoryview(data))
        else:
            raise DataError("is not a file of torch.save; fetch or make it again")
        _require_plain(result)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    return result


def is_torch(path: str | os.PathLike[str]) -> bool:
    """Whether a file begins like one of ``torch.save``; never raises."""
    try:
        with open(path, "rb") as file:
            begin = file.read(len(TORCH_LEGACY))
        if begin == TORCH_LEGACY:
            return True
        if begin[: len(TORCH_ZIP)] != TORCH_ZIP:
            return False
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except _ZIP_FAULTS:
        return False


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(
                f"has more than {MAX_BYTES >> 20} MB, which no pickled dataset of the literature has"
            )
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror}); check the path") from error


# ---- torch's two layouts ---------------------------------------------------------------------------------


def _load_zip(path: Path, size: int) -> Any:
    """Members ``NAME/data.pkl`` and ``NAME/data/KEY``, all stored uncompressed."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename: info for info in archive.infolist()}
            roots = [name for name in members if name.endswith("/data.pkl") and name.count("/") == 1]
            if len(roots) != 1:
                raise DataError("is a zip file without exactly one data.pkl; it is not of torch.save")
            root = roots[0].removesuffix("data.pkl")
            left = size

            def member(name: str) -> bytes:
                nonlocal left
                info = members.get(root + name)
                if info is None or info.compress_type != zipfile.ZIP_STORED or info.file_size > left:
                    raise DataError(f"its member {name} is missing, compressed or larger than the file")
                left -= info.file_size
                return archive.read(info)

            order = member("byteorder") if f"{root}byteorder" in members else b"little"
            sign = _ORDERS[order]
            cache: dict[str, NDArray[Any]] = {}

            def storage(key: str, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
                if key not in cache:
                    cache[key] = numbers(member(f"data/{key}"), dtype.newbyteorder(sign), count)
                if len(cache[key]) != count or cache[key].dtype != dtype.newbyteorder(sign):
                    raise DataError(f"storage {key} is asked for with two sizes or types")
                return cache[key]

            return run(memoryview(member("data.pkl")), 0, storage)[0]
    except DataError:
        raise
    except _ZIP_FAULTS as error:
        raise DataError(f"is cut off or damaged ({reason(error)}); fetch it again") from error


def _load_legacy(data: memoryview) -> Any:
    """Pickles of magic number, protocol, system and object, then the list of storages and their numbers."""
    found: dict[str, NDArray[Any]] = {}
    left = len(data)

    def storage(key: str, dtype: np.dtype[Any], count: int) -> NDArray[Any]:
        nonlocal left
        if key not in found:
            left -= count * dtype.itemsize
            if count < 0 or left < 0:
                raise DataError(f"storage {key} has {count} entries, more than the file holds")
            found[key] = np.zeros(count, dtype)  # filled below; tensors are views of it
        if len(found[key]) != count or found[key].dtype != dtype:
            raise DataError(f"storage {key} is asked for with two sizes or types")
        return found[key]

    _, place = run(data, 0)
    protocol, place = run(data, place)
    system, place = run(data, place)
    if (
        protocol != _LEGACY_PROTOCOL
        or not isinstance(system, dict)
        or system.get("little_endian") is not True
    ):
        raise DataError("is of an unknown version of torch's older layout")
    result, place = run(data, place, storage)
    keys, place = run(data, place)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(found):
        raise DataError("its list of storages does not fit its tensors")
    for key in keys:
        array = found[str(key)]
        count = int.from_bytes(data[place : place + 8], "little")
        place += 8 + array.nbytes
        if count != len(array) or place > len(data):
            raise DataError(f"storage {key} is cut off or has another size than its tensors say")
        array[:] = np.frombuffer(data[place - array.nbytes : place], array.dtype)
    return result


# ---- what comes out --------------------------------------------------------------------------------------


def _require_plain(result: Any) -> None:
    """Refuse cycles, deep nesting, and references that were never completed.

    Every container is entered once, however often it occurs.
    """
    depth: dict[int, int] = {}  # of finished containers; 0 while one is open
    open_: list[tuple[Any, list[Any], Iterator[Any]]] = []  # container, containers in it, those to come
    item = result
    pending = _container(result)
    while pending or open_:
        if pending:
            inside = _children(item)
            depth[id(item)] = 0 if inside else 1
            if inside:
                open_.append((item, inside, iter(inside)))
            _require_shallow(len(open_))
            pending = False
            continue
        parent, inside, rest = open_[-1]
        item = next(rest, _END)
        if item is _END:
            depth[id(parent)] = 1 + max(depth[id(child)] for child in inside)
            _require_shallow(depth[id(parent)])
            open_.pop()
        elif id(item) not in depth:
            pending = True
        elif depth[id(item)] == 0:
            raise DataError("the pickle has a container that contains itself")


_END = object()


def _require_shallow(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise DataError(f"the pickle nests containers deeper than {MAX_DEPTH}")


def _container(item: Any) -> bool:
    """Whether an object holds others; refuses what is neither plain nor an array."""
    if type(item) in (list, tuple, dict):
        return True
    if type(item) in _PLAIN or (type(item) is np.ndarray and item.dtype.kind in "biuf"):
        return False
    raise DataError(f"the pickle leaves a {type(item).__name__.strip('_').lower()} unfinished")


def _children(item: Any) -> list[Any]:
    """The containers in a container; most hold numbers only, which are looked at by their types at once."""
    values = item.values() if type(item) is dict else item
    if _PLAIN.issuperset(map(type, values)):
        return []
    return [value for value in values if _container(value)]
