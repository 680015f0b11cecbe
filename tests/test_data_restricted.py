"""Pickles are read without being executed: what is admitted, hostile ones of many kinds, memory, damage."""

from __future__ import annotations

import collections
import io
import os
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from marlzoo.errors import DataError
from marlzoo.system.unpickle import is_torch, load_pickle, load_torch
from tests.format_files import damaging

RNG = np.random.default_rng(0)
PLAIN: dict[str, Any] = {
    "numbers": [0, 1, -1, 255, 256, 65536, -(2**40), 2**200, 1.5, float("inf"), True, False, None],
    "floats": RNG.standard_normal(20).tolist(),
    "texts": ["", "a", "ä", "x" * 300, b"", b"\x00\xff", (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), ()],
    "arrays": [
        RNG.standard_normal((2, 3)),
        np.asfortranarray(RNG.standard_normal((2, 3))),
        np.arange(4, dtype=">i2"),
        np.array(2.5, np.float16),
        np.array([True, False]),
        np.zeros((0, 3), np.uint8),
    ],
    "ordered": collections.OrderedDict([("a", 1), (2, [3])]),
}
TENSORS = {
    "a": torch.arange(12.0).reshape(3, 4).T,
    "b": [torch.ones(3, dtype=torch.bool), torch.arange(5)[2:], torch.zeros(0, 2), torch.tensor(2.0)],
    "list": PLAIN["floats"],
}


def same(a: Any, b: Any) -> bool:
    if isinstance(b, torch.Tensor):
        b = b.numpy()
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.shape == b.shape and bool((a == b).all())
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and bool(a == b)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_objects_and_arrays_of_every_protocol(protocol: int) -> None:
    assert same(load_pickle(pickle.dumps(PLAIN, protocol)), PLAIN)
    assert load_pickle(pickle.dumps(np.float32(2.5), protocol)) == 2.5


@pytest.mark.parametrize("zipped", [True, False])
def test_files_of_torch_in_both_layouts(tmp_path: Path, zipped: bool) -> None:
    torch.save([PLAIN, TENSORS], tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert is_torch(tmp_path / "a.pt")
    assert same(load_torch(tmp_path / "a.pt"), [PLAIN, TENSORS])


def test_shared_objects_stay_shared() -> None:
    row = [1.0, 2.0]
    loaded = load_pickle(pickle.dumps([row, row]))
    assert loaded[0] is loaded[1]


# ---- hostile pickles -------------------------------------------------------------------------------------


class Call:
    """Pickles as a call of ``function``."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def marker() -> str:
    """A command that leaves a file behind if anything executes it."""
    return "touch executed"


def memo_cycle() -> bytes:
    cycle: list[Any] = []
    cycle.append(cycle)
    return pickle.dumps(cycle)


def laughs(levels: int) -> Any:
    nested: Any = [1.0]
    for _ in range(levels):
        nested = [nested] * 10
    return nested


def shared_depth(levels: int) -> Any:
    """A list of lists each of which holds the one before, so that every one is met at a shallow place first."""
    chain: list[Any] = [[]]
    for _ in range(levels):
        chain.append([chain[-1]])
    return chain


def nested_tuples(depth: int) -> bytes:
    return b"\x80\x02)" + b"\x85" * depth + b"."


U4 = struct.Struct("<I").pack
HOSTILE: dict[str, bytes] = {
    "os.system": pickle.dumps(Call(os.system, marker())),
    "os.system, protocol 0": pickle.dumps(Call(os.system, marker()), 0),
    "builtins.eval": pickle.dumps(Call(eval, "__import__('os').system('touch executed')")),
    "builtins.exec": pickle.dumps(Call(exec, "open('executed', 'w')")),
    "nested in a list": pickle.dumps([[1, {"a": (Call(os.system, marker()),)}]]),
    "nested in an argument": pickle.dumps(Call(collections.OrderedDict, [["a", Call(os.system, marker())]])),
    "as a dictionary's key": b"\x80\x02}(c" + b"os\nsystem\nX\x01\x00\x00\x00aK\x01u.",
    "getattr of an admitted module": b"cnumpy\nload\n(S'executed'\ntR.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0ectypeslib.load\x93.",
    "pickle in pickle": pickle.dumps(Call(pickle.loads, pickle.dumps(Call(os.system, marker())))),
    "memoised function": b"cos\nsystem\np0\n0g0\n(S'touch executed'\ntR.",
    "INST": b"(S'touch executed'\nios\nsystem\n.",
    "OBJ": b"(cos\nsystem\nS'touch executed'\no.",
    "NEWOBJ": b"\x80\x02cos\nsystem\n(X\x01\x00\x00\x00at\x81.",
    "extension registry": b"\x80\x02\x82\x01.",
    "persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "BUILD on a dictionary": b"\x80\x02}}X\x01\x00\x00\x00aK\x01sb.",
    "BUILD on a type twice with objects": b"cnumpy\ndtype\n(X\x02\x00\x00\x00O8I0\nI1\ntR.",
    "array of objects": pickle.dumps(np.array([{}, []], dtype=object)),
    "array of texts": pickle.dumps(np.array(["a"])),
    "array of structures": pickle.dumps(np.zeros(2, [("a", "i4")])),
    "unfinished array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR.",
    "a class by itself": b"cnumpy\nndarray\n.",
    "unfinished type": pickle.dumps(np.dtype("f8")),
    "a set": pickle.dumps({1, 2}),
    "a complex number": pickle.dumps(1j),
    "a range": pickle.dumps(range(3)),
    "a path": pickle.dumps(Path("a")),
    "a tensor outside torch's files": pickle.dumps(torch.ones(2)),
    "cycle": memo_cycle(),
    "deep lists": b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "deep tuples": nested_tuples(100_000),
    "deep tuple as a key": b"\x80\x02}" + nested_tuples(100_000)[2:-1] + b"K\x01s.",
    "deep by shared containers": pickle.dumps(shared_depth(40)),
    "huge bytes": b"\x80\x04\x8e" + struct.pack("<Q", 1 << 60) + b"abc.",
    "huge text": b"\x80\x02X" + U4(0xFFFFFFFF) + b"abc.",
    "huge integer": b"\x80\x02\x8b" + U4(0x7FFFFFFF) + b"abc.",
    "integer of many digits": b"I" + b"9" * 4000 + b"\n.",
    "huge array": pickle.dumps(np.zeros(3), 2).replace(b"K\x03\x85", b"J\xff\xff\xff\x7f\x85"),
    "negative array": pickle.dumps(np.zeros(3), 2).replace(b"K\x03\x85", b"J\xfd\xff\xff\xff\x85"),
    "encoding the same text often": b"\x80\x02c_codecs\nencode\nq\x00X"
    + U4(1 << 16) + b"a" * (1 << 16) + b"X\x06\x00\x00\x00latin1\x86q\x010]" + b"h\x00h\x01Ra" * 10_000 + b".",
    "unknown memo": b"\x80\x02h\x07.",
    "no stop": b"\x80\x02K\x01",
    "stop on an empty stack": b"\x80\x02.",
    "mark without a stack": b"\x80\x02t.",
    "tuple of an empty stack": b"\x80\x02\x87.",
    "append to a number": b"\x80\x02K\x01K\x02a.",
    "frame": b"\x80\x04\x95" + b"\xff" * 8 + b"K",
    "protocol of the future": b"\x80\x09K\x01.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "nothing": b"",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_not_executed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tracemalloc.start()
    with pytest.raises(DataError, match=r"\A[^\n]*\Z"):
        load_pickle(HOSTILE[name])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 * len(HOSTILE[name]) + (4 << 20)
    archive = tmp_path / "a.pt"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a/data.pkl", HOSTILE[name])
    with pytest.raises(DataError, match=r"a\.pt: "):
        load_torch(archive)
    assert os.listdir(tmp_path) == ["a.pt"]


def test_the_hostile_pickles_would_execute_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["nested in a list"])
    assert os.listdir(tmp_path) == ["executed"]


def test_a_huge_memo_index_costs_one_entry() -> None:
    data = b"\x80\x02K\x05r" + U4(0xFFFFFFF0) + b"0j" + U4(0xFFFFFFF0) + b"."
    tracemalloc.start()
    assert load_pickle(data) == 5
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


def test_shared_containers_do_not_explode() -> None:
    tracemalloc.start()
    assert len(load_pickle(pickle.dumps(laughs(20)))) == 10
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()


# ---- files of torch made to harm -------------------------------------------------------------------------


def torch_members(value: Any) -> dict[str, bytes]:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    with zipfile.ZipFile(buffer) as file:
        return {name: file.read(name) for name in file.namelist()}


def write_zip(path: Path, members: dict[str, bytes], kind: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def edited(old: bytes, new: bytes) -> dict[str, bytes]:
    members = torch_members(torch.arange(6.0).reshape(2, 3))
    root = next(iter(members)).split("/")[0]
    assert members[f"{root}/data.pkl"].count(old) >= 1
    members[f"{root}/data.pkl"] = members[f"{root}/data.pkl"].replace(old, new)
    return members


SIX = b"K\x06"
BIG = b"J\x00\x00\x00\x7f"
SHAPE, STRIDE = b"K\x02K\x03\x86", b"K\x03K\x01\x86"
BROKEN = {
    "storage smaller than announced": edited(SIX, b"K\x07"),
    "storage larger than announced": edited(SIX, b"K\x05"),
    "storage of a huge size": edited(SIX, BIG),
    "shape beyond the storage": edited(SHAPE, b"K\x03K\x03\x86"),
    "huge shape": edited(SHAPE, BIG + BIG + b"\x86"),
    "strides beyond the storage": edited(STRIDE, b"K\x06K\x01\x86"),
    "negative stride": edited(STRIDE, b"J\xff\xff\xff\xffK\x01\x86"),
    "missing storage": edited(b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x009"),
    "storage elsewhere": edited(b"X\x01\x00\x00\x000", b"X\x04\x00\x00\x00../x"),
    "type without numbers": edited(b"FloatStorage", b"QUInt8Storage"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_tensors_of_wrong_sizes_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\A[^\n]*a\.pt: [^\n]*\Z"):
        load_torch(write_zip(tmp_path / "a.pt", BROKEN[name]))


def test_compressed_members_are_refused(tmp_path: Path) -> None:
    members = torch_members(torch.zeros(1 << 20))
    path = write_zip(tmp_path / "a.pt", members, zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 1 << 16
    with pytest.raises(DataError, match="missing, compressed or larger"):
        load_torch(path)


def test_files_that_are_not_of_torch(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with pytest.raises(DataError, match="cannot be read"):
        load_torch(path)
    path.write_bytes(b"")
    with pytest.raises(DataError, match=r"not a file of torch\.save"):
        load_torch(path)
    write_zip(path, {"a.txt": b"x"})
    assert not is_torch(path)
    with pytest.raises(DataError, match=r"without exactly one data\.pkl"):
        load_torch(path)


def outcome(read: Callable[[], Any]) -> str:
    """The text of the DataError that reading raises, or nothing; any other error passes."""
    try:
        read()
    except DataError as error:
        return str(error)
    return ""


@pytest.fixture(scope="module")
def good_files(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    path, files = tmp_path_factory.mktemp("torch") / "a.pt", []
    for zipped in (True, False):
        torch.save([PLAIN, TENSORS], path, _use_new_zipfile_serialization=zipped)
        files.append(path.read_bytes())
    return files


@damaging
@given(
    which=st.integers(0, 1),
    cut=st.none() | st.integers(0, 1 << 16),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=4),
)
def test_damaged_files_give_one_clear_error_or_plain_objects(
    good_files: list[bytes],
    tmp_path_factory: pytest.TempPathFactory,
    which: int,
    cut: int | None,
    changes: Any,
) -> None:
    good = good_files[which]
    data = bytearray(good if cut is None else good[: cut % len(good)])
    for place, value in changes:
        if data:
            data[place % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "fuzzed.pt"
    path.write_bytes(data)
    is_torch(path)
    assert "\n" not in outcome(lambda: load_torch(path))


@damaging
@given(st.binary(max_size=200))
def test_arbitrary_bytes_give_one_clear_error_or_plain_objects(data: bytes) -> None:
    assert "\n" not in outcome(lambda: load_pickle(data))
