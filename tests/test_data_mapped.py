"""Mapped datasets: the same rows and numbers as in memory, verified once, usable where memory is too small."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings

import marlzoo
from marlzoo.data.arrays import mapping
from marlzoo.data.convert import convert
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats import native as omiga
from marlzoo.data.formats.native import read_omiga, write_omiga
from marlzoo.data.hdf5 import allocate, spill
from marlzoo.data.home import read_verified, write_verified
from marlzoo.data.load import load_dataset
from marlzoo.data.sampler import Sampler
from marlzoo.errors import DataError
from marlzoo.training.trainer import train
from tests.data_samples import DISCRETE, SPEC, author_arrays, parts, sample, write_h5
from tests.format_files import DAMAGE, Damage, damaging, outcome, write_damaged


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def both(path: Path, data: Dataset, **options: Any) -> tuple[Dataset, Dataset]:
    """A dataset written and read into memory, and mapped, the second time from the note of the first."""
    write_omiga(data, path)
    read_omiga(path, mapped=True, **options)
    return read_omiga(path, mapped=False, **options), read_omiga(path, mapped=True, **options)


@pytest.mark.parametrize("spec", [SPEC, DISCRETE], ids=["continuous", "discrete"])
def test_same_numbers(tmp_path: Path, spec: Any) -> None:
    memory, mapped = both(tmp_path / "a.hdf5", sample((5, 6, 7), spec=spec))
    assert mapped.mapped
    assert not memory.mapped
    assert mapped.content_hash == memory.content_hash
    assert mapped.card == memory.card
    assert mapped.state_is_obs == memory.state_is_obs
    for name in ("obs", "state", "action", "reward", "terminal", "truncated", "starts"):
        mine, theirs = getattr(mapped, name), getattr(memory, name)
        assert mine.dtype == theirs.dtype
        np.testing.assert_array_equal(mine, theirs)
    fresh = Dataset.content_hash.func(mapped)  # type: ignore[attr-defined]
    assert fresh == memory.content_hash


@pytest.mark.parametrize("sequence", [None, 4])
@pytest.mark.parametrize("count", [1, 2])
def test_same_rows_are_drawn(tmp_path: Path, sequence: int | None, count: int) -> None:
    pairs = [both(tmp_path / f"{k}.hdf5", sample((5, 6, 7), seed=k)) for k in range(count)]
    fields = ("obs", "state", "action", "reward", "mask", "first") + (
        ("next_obs",) if sequence is None else ()
    )
    batches = [
        Sampler(
            [pair[side] for pair in pairs],
            list(range(count)),
            batch_size=9,
            fields=fields,
            noise={"n": ("normal", (2,))},
            sequence=sequence,
        ).next()
        for side in (0, 1)
    ]
    for name, value in batches[0].tensors().items():
        torch.testing.assert_close(getattr(batches[1], name), value, rtol=0, atol=0)
    torch.testing.assert_close(batches[0].noise["n"], batches[1].noise["n"], rtol=0, atol=0)


def test_mapped_is_not_copied_by_the_sampler(tmp_path: Path) -> None:
    _, mapped = both(tmp_path / "a.hdf5", sample())
    store = Sampler(mapped, [0, 1], batch_size=4, fields=("obs",)).store
    assert isinstance(store.obs, torch.Tensor)
    assert store.obs.data_ptr() == mapped.obs.ctypes.data


def test_training_gives_the_same_policy(tmp_path: Path) -> None:
    memory, mapped = both(tmp_path / "a.hdf5", sample((20, 30)))
    weights = []
    for data in (memory, mapped):
        learner = marlzoo.make("omiga", data.spec, seeds=[0, 1], batch_size=8)
        train(learner, data, updates=5)
        weights.append([value.detach().clone() for value in learner.actor.parameters()])
    for mine, theirs in zip(*weights, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)


def test_content_is_verified_once_and_again_after_a_change(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    write_omiga(sample(), path)
    read_omiga(path, mapped=True)
    assert len(list((tmp_path / "home/verified").iterdir())) == 1
    with h5py.File(path, "r+") as file:
        file["r"][0] += 1
    with pytest.raises(DataError, match="its content is not what its card says"):
        read_omiga(path, mapped=True)


def test_a_change_that_keeps_the_time_is_found_on_request(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    write_omiga(sample(), path)
    read_omiga(path, mapped=True)
    status, content = path.stat(), bytearray(path.read_bytes())
    place = content.index(sample().reward.tobytes()[:4])
    content[place] ^= 1
    with open(path, "r+b") as file:
        file.write(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    read_omiga(path, mapped=True)  # trusted, as the text says
    with pytest.raises(DataError, match="its content is not what its card says"):
        read_omiga(path, mapped=True, verify=True)
    write_verified(path, content_hash="of another content")
    with pytest.raises(DataError, match="its content is not what its card says"):
        read_omiga(path, mapped=True)


def test_a_damaged_note_of_a_verification_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    good = write_omiga(sample(), path)
    read_omiga(path, mapped=True)
    (note,) = (tmp_path / "home/verified").iterdir()
    text = note.read_bytes()
    for place in range(len(text)):
        note.write_bytes(text[:place] + bytes([text[place] ^ 1]) + text[place + 1 :])
        assert read_verified(path) is None
    assert read_omiga(path, mapped=True).content_hash == good.card.content_hash


def test_clipped_actions(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="they are kept"):
        data = sample(action=parts()["action"] * 3, action_clip=False)
    with pytest.warns(UserWarning, match="were clipped"):
        memory, mapped = both(tmp_path / "a.hdf5", data)
    assert mapped.content_hash == memory.content_hash
    assert mapped.card == memory.card
    np.testing.assert_array_equal(mapped.action, memory.action)


def test_large_native_files_are_mapped_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_omiga(sample(), tmp_path / "a.hdf5")
    assert not load_dataset(tmp_path / "a.hdf5").mapped
    monkeypatch.setattr(omiga, "memory_limit", lambda: 1000)
    assert load_dataset(tmp_path / "a.hdf5").mapped


def test_what_cannot_be_mapped(tmp_path: Path) -> None:
    write_h5(tmp_path / "authors.hdf5", author_arrays())
    with pytest.raises(DataError, match=r"only native files can be mapped.*marlzoo data convert"):
        read_omiga(tmp_path / "authors.hdf5", mapped=True)
    write_omiga(sample(), tmp_path / "small.hdf5", compression="gzip")
    with pytest.raises(DataError, match=r"o cannot be mapped.*marlzoo data convert"):
        read_omiga(tmp_path / "small.hdf5", mapped=True)
    write_omiga(sample(), tmp_path / "wide.hdf5")
    with h5py.File(tmp_path / "wide.hdf5", "r+") as file:
        wide = file["r"][()].astype(np.float64)
        del file["r"]
        file["r"] = wide
    with pytest.raises(DataError, match="r is float64, a native file has float32"):
        read_omiga(tmp_path / "wide.hdf5", mapped=True)
    _, mapped = both(tmp_path / "a.hdf5", sample())
    with pytest.raises(DataError, match="mapped dataset is float32"):
        Sampler(mapped, [0], batch_size=4, fields=("obs",), dtype=torch.float64)


def test_conversion_keeps_large_arrays_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marlzoo.data.hdf5._SPILL_BYTES", 10)
    with spill(tmp_path):
        assert mapping(allocate((4, 2), np.float32)) is not None
    assert mapping(allocate((4, 2), np.float32)) is None
    write_h5(tmp_path / "authors.hdf5", author_arrays())
    convert(tmp_path / "authors.hdf5", tmp_path / "a.hdf5")
    assert (
        load_dataset(tmp_path / "a.hdf5").content_hash == read_omiga(tmp_path / "authors.hdf5").content_hash
    )
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "home") == ["a.hdf5", "authors.hdf5"]


_LARGER_THAN_MEMORY = """
import re, resource, sys
import torch, marlzoo
from marlzoo.errors import DataError
from marlzoo.data.load import load_dataset
from marlzoo.training.trainer import train
torch.set_num_threads(1)
path = sys.argv[1]
small = marlzoo.make("bc", load_dataset(path, mapped=True).spec, batch_size=8, hidden=8)
used = int(re.search(r"VmData:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
resource.setrlimit(resource.RLIMIT_DATA, (used + (48 << 20),) * 2)
try:
    load_dataset(path, mapped=False)
    sys.exit("the limit does not bind")
except (DataError, MemoryError):
    pass
train(small, load_dataset(path, mapped=True), updates=3)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_a_dataset_larger_than_memory_trains(tmp_path: Path) -> None:
    spec = marlzoo.Spec(2, 1000, 2000, "continuous", 1, horizon=100)
    rows = 101 * 120  # about 97 MB, twice the memory left
    obs = np.random.default_rng(0).standard_normal((rows, 2, 1000), np.float32)
    data = Dataset.create(
        spec,
        obs=obs,
        action=np.zeros((rows, 2, 1), np.float32),
        reward=np.zeros(rows, np.float32),
        terminal=np.zeros(rows, np.bool_),
        truncated=np.zeros(rows, np.bool_),
        starts=np.arange(0, rows, 101),
    )
    write_omiga(data, tmp_path / "a.hdf5")
    done = subprocess.run(
        [sys.executable, "-c", _LARGER_THAN_MEMORY, str(tmp_path / "a.hdf5")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@settings(damaging, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=DAMAGE)
def test_damaged_files_are_never_mapped(tmp_path: Path, damage: Damage) -> None:
    good = sample()
    write_omiga(good, tmp_path / "good.hdf5")
    path = write_damaged(tmp_path / "a.hdf5", {"": (tmp_path / "good.hdf5").read_bytes()}, damage)
    for _ in range(2):
        found = outcome(lambda: read_omiga(path, mapped=True))
        assert isinstance(found, str) or found.content_hash == good.content_hash
