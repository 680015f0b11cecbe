"""npz: round trip, files of others, damage."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marlzoo.data.formats.native import write_omiga
from marlzoo.data.formats.npz import read_npz, write_npz
from marlzoo.data.load import convert, find_reader, load_dataset
from marlzoo.errors import DataError, OutputError
from tests.data_samples import DISCRETE, SPEC, parts, sample
from tests.format_files import DAMAGE, Damage, contents, equal, outcome, same, write_damaged


@pytest.mark.parametrize("spec", [SPEC, DISCRETE])
def test_round_trip(tmp_path: Path, spec: Any) -> None:
    dataset = sample(spec=spec)
    written = write_npz(dataset, tmp_path / "a.npz")
    assert find_reader(tmp_path / "a.npz").read is read_npz
    back = load_dataset(tmp_path / "a.npz")
    assert same(back, dataset)
    assert back.card == written.card
    assert back.state_is_obs == dataset.state_is_obs
    with np.load(tmp_path / "a.npz") as file:  # numpy alone reads it, too
        equal(file["obs"], dataset.obs)
    write_npz(dataset, tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_conversion_both_ways(tmp_path: Path) -> None:
    write_omiga(sample(), tmp_path / "a.hdf5")
    assert convert(tmp_path / "a.hdf5", tmp_path / "b.npz") == tmp_path / "b.npz"
    convert(tmp_path / "b.npz", tmp_path / "c.hdf5")
    assert same(load_dataset(tmp_path / "c.hdf5"), sample())


def test_files_of_others(tmp_path: Path) -> None:
    values = parts()
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "a.npz", **{k: v for k, v in values.items() if k != "truncated"})
        dataset = read_npz(tmp_path / "a.npz")
        assert dataset.spec.horizon == 4
        assert not dataset.truncated.any()
        equal(dataset.obs, values["obs"])
    values = parts(spec=DISCRETE)
    np.savez(tmp_path / "a.npz", **values)
    assert read_npz(tmp_path / "a.npz", horizon=50).spec == DISCRETE
    values = parts(lengths=(5,))
    del values["starts"]
    values["obs"] = values["obs"].astype(">f8")
    np.savez(tmp_path / "a.npz", **values)
    equal(read_npz(tmp_path / "a.npz").lengths, [5])


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"obs": None}, "missing array obs"),
        ({"obs": np.zeros((12, 6))}, r"obs has shape \(12, 6\)"),
        ({"obs": np.array([{}])}, "obs has the type object"),
        ({"obs": np.asfortranarray(np.zeros((12, 2, 3)))}, "column by column"),
        ({"action": np.zeros((12, 2))}, "action has shape"),
        ({"terminal": np.full(12, 3)}, "terminal is 3"),
        ({"starts": np.array([0, 99])}, "starts must increase"),
        ({"starts": np.zeros((2, 2), int)}, "starts must be a list"),
        ({"header": np.frombuffer(b"{}", np.uint8)}, "header is broken"),
        ({"header": np.frombuffer(b"[" * 5000, np.uint8)}, "header is broken"),
        ({"reward": np.zeros(3)}, "lengths differ"),
        ({"action": np.full((12, 2, 2), np.nan)}, "action holds NaN, first at row 0"),
    ],
)
def test_faults_are_named(tmp_path: Path, change: dict[str, Any], cause: str) -> None:
    values = {k: v for k, v in (parts() | change).items() if v is not None}
    np.savez(tmp_path / "a.npz", **values)
    with pytest.raises(DataError, match=rf"\A[^\n]*a\.npz: [^\n]*{cause}"):
        read_npz(tmp_path / "a.npz")


def test_other_tasks_horizons_and_changed_content_are_refused(tmp_path: Path) -> None:
    write_npz(sample(), tmp_path / "a.npz")
    with pytest.raises(DataError, match="of the task toy/point, not of toy/line"):
        read_npz(tmp_path / "a.npz", task="toy/line")
    with pytest.raises(DataError, match="horizon is 50, not 60"):
        read_npz(tmp_path / "a.npz", horizon=60)
    with np.load(tmp_path / "a.npz") as file:
        values = dict(file)
    values["reward"] = values["reward"] + 1
    np.savez(tmp_path / "a.npz", **values)
    with pytest.raises(DataError, match="its content is not what its card says"):
        read_npz(tmp_path / "a.npz")


def member(shape: str, data: bytes) -> bytes:
    text = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.encode() + data


def test_absurd_sizes_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    np.savez(buffer, **{k: v for k, v in parts().items() if k != "obs"})
    for data, kind in ((b"", zipfile.ZIP_STORED), (bytes(1 << 26), zipfile.ZIP_DEFLATED)):
        (tmp_path / "a.npz").write_bytes(buffer.getvalue())
        with zipfile.ZipFile(tmp_path / "a.npz", "a", kind) as archive:
            archive.writestr("obs.npy", member("(1000000000000, 2, 3)", data))
        with pytest.raises(DataError, match="obs declares 48000000000000 bytes"):
            read_npz(tmp_path / "a.npz")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.npz").mkdir()
    with pytest.raises(OutputError, match=r"a\.npz"):
        write_npz(sample(), tmp_path / "a.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(damage=DAMAGE, kind=st.sampled_from(["native", "packed"]))
def test_damaged_files(tmp_path_factory: pytest.TempPathFactory, damage: Damage, kind: str) -> None:
    base = tmp_path_factory.getbasetemp()
    good = base / f"{kind}.npz"
    if not good.exists():
        if kind == "native":
            write_npz(sample(spec=DISCRETE), good)
        else:
            np.savez_compressed(good, **parts())
    path = write_damaged(base / "damaged.npz", contents(good), damage)
    found = outcome(lambda: read_npz(path))
    if kind == "native" and not isinstance(found, str) and found.card.content_hash:
        assert same(found, sample(spec=DISCRETE))
