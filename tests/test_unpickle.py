"""Files of torch written byte by byte: sizes, orders and references that do not fit are refused by what they are."""

from __future__ import annotations

import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marlzoo.errors import DataError
from marlzoo.system import _pickle_machine, unpickle
from marlzoo.system.unpickle import TORCH_LEGACY, is_torch, load_pickle, load_torch


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def numbers(values: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def tensor(
    key: str = "0",
    count: int = 3,
    kind: str = "Float",
    offset: int = 0,
    shape: tuple[int, ...] = (3,),
    strides: tuple[int, ...] = (1,),
) -> bytes:
    """Opcodes of a tensor."""
    stored = b"(" + text("storage") + f"ctorch\n{kind}Storage\n".encode() + text(key) + text("cpu")
    stored += number(count) + b"tQ"
    return (
        b"ctorch._utils\n_rebuild_tensor_v2\n("
        + stored
        + number(offset)
        + numbers(shape)
        + numbers(strides)
        + b"\x89NtR"
    )


def listed(*parts: bytes) -> bytes:
    return b"\x80\x02](" + b"".join(parts) + b"e."


VALUES = np.array([1.5, -2.0, 3.25], np.float32)


def zipped(path: Path, pickled: bytes, storages: dict[str, bytes], order: bytes | None = None) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a/data.pkl", pickled)
        for key, data in storages.items():
            file.writestr(f"a/data/{key}", data)
        if order is not None:
            file.writestr("a/byteorder", order)
    return path


def legacy(
    path: Path,
    pickled: bytes,
    storages: dict[str, tuple[int, bytes]],
    *,
    protocol: int = 1001,
    little: Any = True,
    keys: list[str] | None = None,
) -> Path:
    data = TORCH_LEGACY + pickle.dumps(protocol, 2) + pickle.dumps({"little_endian": little}, 2) + pickled
    data += pickle.dumps(list(storages) if keys is None else keys, 2)
    for count, raw in storages.values():
        data += struct.pack("<Q", count) + raw
    path.write_bytes(data)
    return path


RAW = VALUES.tobytes()


@pytest.mark.parametrize("order", [None, b"little", b"big"])
def test_numbers_in_both_orders(order: bytes | None, tmp_path: Path) -> None:
    raw = VALUES.astype(">f4").tobytes() if order == b"big" else RAW
    path = zipped(tmp_path / "a.pt", listed(tensor()), {"0": raw}, order)
    np.testing.assert_array_equal(load_torch(path)[0], VALUES)


def test_views_of_one_storage(tmp_path: Path) -> None:
    parts = (
        tensor(),
        tensor(offset=1, shape=(2,)),
        tensor(shape=(0, 5), strides=(5, 1)),
        tensor(strides=(0,), shape=(1,)),
    )
    for path in (
        zipped(tmp_path / "a.pt", listed(*parts), {"0": RAW}),
        legacy(tmp_path / "b.pt", listed(*parts), {"0": (3, RAW)}),
    ):
        whole, rest, nothing, one = load_torch(path)
        np.testing.assert_array_equal(whole, VALUES)
        np.testing.assert_array_equal(rest, VALUES[1:])
        assert (nothing.shape, one.tolist()) == ((0, 5), [1.5])
        assert not whole.flags.writeable


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [
        ("Float", "<f4"),
        ("Double", "<f8"),
        ("Half", "<f2"),
        ("Long", "<i8"),
        ("Int", "<i4"),
        ("Short", "<i2"),
        ("Char", "i1"),
        ("Byte", "u1"),
        ("Bool", "?"),
    ],
)
def test_kinds_of_numbers(kind: str, dtype: str, tmp_path: Path) -> None:
    values = np.array([1, 0, 200 if kind == "Byte" else 1 if kind == "Bool" else -3]).astype(dtype)
    path = zipped(tmp_path / "a.pt", listed(tensor(kind=kind)), {"0": values.tobytes()})
    found = load_torch(path)[0]
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((tensor(), tensor(count=2, shape=(2,))), "storage 0 is asked for with two sizes or types"),
        ((tensor(), tensor(kind="Int")), "storage 0 is asked for with two sizes or types"),
        ((tensor(offset=1),), "larger than its storage"),
        ((tensor(shape=(3,), strides=(2,)),), "larger than its storage"),
        ((tensor(shape=(4,), strides=(0,)),), "larger than its storage"),
        ((tensor(shape=(2, 2), strides=(1, 1)),), "larger than its storage"),
        ((tensor(offset=-1, shape=(2,)),), "broken shape"),
        ((tensor(strides=(1, 1)),), "broken shape"),
    ],
)
def test_references_that_do_not_fit(parts: tuple[bytes, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"a\.pt: .*{message}"):
        load_torch(zipped(tmp_path / "a.pt", listed(*parts), {"0": RAW}))
    with pytest.raises(DataError, match=message):
        load_torch(legacy(tmp_path / "b.pt", listed(*parts), {"0": (3, RAW)}))


@pytest.mark.parametrize("names", [("x/a/data.pkl",), ("a/data.pkl", "b/data.pkl")])
def test_there_is_one_pickle_in_one_folder(names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, listed(b"K\x01"))
    with pytest.raises(DataError, match=r"without exactly one data\.pkl"):
        load_torch(path)


def test_one_compressed_member_is_refused(tmp_path: Path) -> None:
    path = zipped(tmp_path / "a.pt", listed(tensor()), {})
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("a/data/0", RAW, zipfile.ZIP_DEFLATED)
    with pytest.raises(DataError, match="its member data/0 is missing, compressed or larger"):
        load_torch(path)


@pytest.mark.parametrize("more", [0, 1])
def test_members_that_claim_more_than_is_left(more: int, tmp_path: Path) -> None:
    """More than the file, or more than is left beside the pickle."""
    path = zipped(tmp_path / "a.pt", listed(tensor()), {"0": RAW})
    data = bytearray(path.read_bytes())
    size = len(data) + 1 if more else len(data) - len(listed(tensor())) + 1
    place = data.rindex(b"PK\x01\x02")  # of the last member, in the directory
    struct.pack_into("<II", data, place + 20, size, size)
    path.write_bytes(data)
    with pytest.raises(DataError, match="its member data/0 is missing, compressed or larger than the file"):
        load_torch(path)


def test_the_older_layout(tmp_path: Path) -> None:
    path = tmp_path / "a.pt"
    assert is_torch(legacy(path, listed(tensor()), {"0": (3, RAW)}))
    np.testing.assert_array_equal(load_torch(path)[0], VALUES)
    cases: list[tuple[bytes, dict[str, tuple[int, bytes]], dict[str, Any], str]] = [
        (listed(tensor()), {"0": (3, RAW)}, {"protocol": 1002}, "an unknown version of torch's older layout"),
        (listed(tensor()), {"0": (3, RAW)}, {"little": False}, "an unknown version of torch's older layout"),
        (listed(tensor()), {"0": (3, RAW)}, {"keys": ["1"]}, "list of storages does not fit its tensors"),
        (listed(tensor()), {"0": (2, RAW)}, {}, "storage 0 is cut off or has another size"),
        (listed(tensor()), {"0": (3, RAW[:-1])}, {}, "storage 0 is cut off or has another size"),
        (
            listed(tensor(count=100)),
            {"0": (100, b"")},
            {},
            "storage 0 has 100 entries, more than the file holds",
        ),
        (listed(tensor(count=-1)), {"0": (3, RAW)}, {}, "storage 0 has -1 entries, more than the file holds"),
    ]
    for pickled, storages, changes, message in cases:
        legacy(path, pickled, storages, **changes)
        with pytest.raises(DataError, match=message):
            load_torch(path)
    assert 100 < path.stat().st_size < 400  # 100 entries of four bytes are more, of one byte they were not


def test_large_files_and_broken_archives_are_no_files_of_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = zipped(tmp_path / "a.pt", listed(tensor()), {"0": RAW})
    assert is_torch(path)
    monkeypatch.setattr(unpickle, "MAX_BYTES", path.stat().st_size)
    load_torch(path)
    monkeypatch.setattr(unpickle, "MAX_BYTES", path.stat().st_size - 1)
    with pytest.raises(DataError, match="which no pickled dataset of the literature has"):
        load_torch(path)
    path.write_bytes(b"PK\x03\x04 and nothing more")
    assert not is_torch(path)
    assert not is_torch(tmp_path / "missing.pt")


def test_dictionaries_that_contain_themselves() -> None:
    inside: dict[str, Any] = {}
    inside["a"] = inside
    with pytest.raises(DataError, match="contains itself"):
        load_pickle(pickle.dumps(inside))
    assert load_pickle(pickle.dumps({"a": {"b": [1, {"c": (2,)}]}})) == {"a": {"b": [1, {"c": (2,)}]}}


def test_a_storage_has_all_its_bytes_and_no_more(tmp_path: Path) -> None:
    for raw in (RAW + b"\0" * 4, RAW[:-4]):
        with pytest.raises(DataError, match=f"a storage of 3 entries of float32 has {len(raw)} bytes"):
            load_torch(zipped(tmp_path / "a.pt", listed(tensor()), {"0": raw}))


# Opcodes one by one -------------------------------------------------------------------------------------------


def plain(value: Any) -> bytes:
    """Opcodes of a value, without protocol and stop."""
    return pickle.dumps(value, 2)[2:-1]


def kind(code: str, *state: bytes) -> bytes:
    """Opcodes of a numpy type, with its state where one is given."""
    return b"cnumpy\ndtype\n(" + text(code) + plain(0) + plain(1) + b"tR" + b"".join(state)


LITTLE = b"(" + plain(3) + text("<") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
THREE = np.arange(3.0)
BYTES = b"\x80\x05C" + bytes([24]) + THREE.tobytes()  # as an operand: without the first two bytes


def array(
    shape: tuple[int, ...] = (3,), raw: bytes = BYTES[2:], made_of: bytes = b"cnumpy\nndarray\n"
) -> bytes:
    fresh = b"cnumpy.core.multiarray\n_reconstruct\n(" + made_of + plain((0,)) + plain("b") + b"tR"
    return fresh + b"(" + plain(1) + numbers(shape) + kind("f8", LITTLE) + b"\x89" + raw + b"tb"


def call(name: str, *arguments: bytes) -> bytes:
    return b"c" + name.encode() + b"\n(" + b"".join(arguments) + b"tR"


def test_what_is_admitted_is_read() -> None:
    def read(opcodes: bytes) -> Any:
        return load_pickle(b"\x80\x05" + opcodes + b".")

    np.testing.assert_array_equal(read(array()), THREE)
    np.testing.assert_array_equal(read(array((3, 1))), THREE[:, None])
    raw = b"C\x08" + np.float64(2.5).tobytes()
    assert read(call("numpy.core.multiarray\nscalar", kind("f8", LITTLE), raw)) == 2.5
    assert (
        read(call("numpy.core.multiarray\nscalar", kind("f8"), raw)) == 2.5
    )  # the order is little by itself
    assert read(b"(K\x01K\x02K\x03K\x04d") == {1: 2, 3: 4}
    assert read(call("_codecs\nencode", text("\xe4"), text("latin1"))) == b"\xe4"
    assert read(call("collections\nOrderedDict", plain([["b", 1], ["a", 2]]))) == {"b": 1, "a": 2}
    assert read(b"\x8a\x02\xfe\xff") == -2
    assert load_pickle(pickle.dumps(b"", 2, fix_imports=False)) == b""
    assert read(b"I01\n") is True
    assert read(b"I00\n") is False
    assert read(b"K\x01(K\x02K\x031") == 1  # what stood after the mark is gone


REFUSED: dict[str, tuple[bytes, str]] = {
    "bytes that are not there": (b"C\x05ab", "cut off: 5 bytes are announced at byte 4"),
    "more bytes than the shape": (array((2,)), r"an array of shape \(2,\), type float64 and 24 bytes"),
    "fewer bytes than the shape": (array((4,)), r"an array of shape \(4,\), type float64 and 24 bytes"),
    "a negative shape": (array((-1, -3)), r"an array of shape \(-1, -3\)"),
    "numbers that are text": (array(raw=text("a" * 24)), "an array that does not consist of numbers"),
    "another class of array": (array(made_of=b"ctorch\nFloatStorage\n"), "an array of an unknown class"),
    "a type of two numbers": (call("numpy\ndtype", text("c16"), plain(0), plain(1)), "of the type 'c16'"),
    "an array's state twice": (
        array() + b"(" + plain(1) + numbers((3,)) + kind("f8", LITTLE) + b"\x89" + BYTES[2:] + b"tb",
        "gives attributes to what is neither an array nor a type",
    ),
    "a type with names": (
        kind("f8", LITTLE.replace(b"NNN", text("x") + b"NN")),
        "a numpy type that is not a plain number",
    ),
    "a number of another size": (
        call("numpy.core.multiarray\nscalar", kind("f8", LITTLE), b"C\x09" + bytes(9)),
        "a number of another size than its type",
    ),
    "a buffer of an unknown order": (
        call("numpy.core.numeric\n_frombuffer", BYTES[2:], kind("f8", LITTLE), plain((3,)), text("K")),
        "an array that does not consist of numbers",
    ),
    "a buffer of another shape": (
        call("numpy.core.numeric\n_frombuffer", BYTES[2:], kind("f8", LITTLE), plain((2,)), text("C")),
        "an array of shape",
    ),
    "another coding": (call("_codecs\nencode", text("a"), text("utf-8")), "encodes what is not text"),
    "triples in place of pairs": (
        call("collections\nOrderedDict", plain([[1, 2, 3]])),
        "a dictionary of what are no pairs",
    ),
    "a pair whose key is a tuple": (
        call("collections\nOrderedDict", plain([[(1,), 2]])),
        "a dictionary key that is neither text nor number",
    ),
    "a dictionary's key that is a tuple": (b"}" + plain((1,)) + b"K\x01s", "a dictionary key of type tuple"),
    "pairs put into a list": (b"]K\x01K\x02s", "fills what is not a dictionary"),
    "a key without a value": (b"}(K\x01u", "fills what is not a dictionary"),
    "appending to a number": (b"K\x01K\x02a", "appends to what is not a list"),
    "arguments in a list": (
        b"c_codecs\nencode\n](" + text("a") + text("latin1") + b"eR",
        "calls a function without a list of arguments",
    ),
    "calling a class": (b"cnumpy\nndarray\n)R", r"calls numpy\.ndarray"),
    "calling a number": (b"K\x01)R", "calls an object"),
    "a name that is thrown away": (b"cos\nsystem\n0K\x01", r"names os\.system, which is not admitted"),
    "a tensor of a list": (
        call("torch._utils\n_rebuild_tensor_v2", plain([1.0]), plain(0), plain((1,)), plain((1,))),
        "a tensor without a storage",
    ),
    "an integer of many bytes": (b"\x8b" + struct.pack("<i", 300) + b"\x01" * 300, "an integer of 300 bytes"),
    "an integer of many digits": (b"I" + b"1" * 300 + b"\n", "an integer of 300 digits"),
    "one of two": (b"K\x01\x86", "takes from an empty stack"),
    "a future protocol": (b"\x80\x06N", "protocol 6; up to 5 is known"),
    "the same numbers often": (
        b"B"
        + struct.pack("<I", 1 << 16)
        + bytes(1 << 16)
        + b"q\x630]("
        + array((1 << 13,), b"h\x63") * 200
        + b"e",
        "more memory than its size justifies",
    ),
    "the same pairs often": (
        plain([[k, k] for k in range(100)])
        + b"q\xf10]("
        + call("collections\nOrderedDict", b"h\xf1") * 999
        + b"e",
        "more memory than its size justifies",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_is_said(name: str) -> None:
    opcodes, message = REFUSED[name]
    with pytest.raises(DataError, match=message):
        load_pickle(b"\x80\x05" + opcodes + b".")


@pytest.mark.parametrize(
    ("opcodes", "message"),
    [
        (tensor().replace(b"storage", b"nothing"), "refers to something outside itself"),
        (tensor().replace(b"ctorch\nFloatStorage\n", b"cnumpy\nndarray\n"), "a storage of an unknown kind"),
        (tensor().replace(text("0"), b"K\x00"), "a storage of an unknown kind"),
    ],
)
def test_storages_of_other_kinds(opcodes: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        load_torch(zipped(tmp_path / "a.pt", listed(opcodes), {"0": RAW}))


def test_steps_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pickle_machine, "MAX_STEPS", 9)
    assert load_pickle(listed(*[b"K\x01"] * 4)) == [1] * 4
    with pytest.raises(DataError, match="more than 9 steps"):
        load_pickle(listed(*[b"K\x01"] * 5))
