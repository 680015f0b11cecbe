"""A dataset is read and hashed once before the first update, however often its card is asked for."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import marlzoo
from marlzoo.cli import main
from marlzoo.data import load
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats import native, npz
from marlzoo.data.once import reading_once


def bridge() -> Dataset:
    data = marlzoo.load_dataset("games/bridge/marlzoo/optimal")
    return data.with_card(replace(data.card, source="own"))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often headers are read, arrays are read, and contents hashed."""
    found: Counter[str] = Counter()

    def count(place: object, name: str, what: str) -> None:
        true = getattr(place, name)

        def wrapper(*arguments: object) -> object:
            found[what] += 1
            return true(*arguments)

        monkeypatch.setattr(place, name, wrapper)

    count(load, "_read", "read")
    count(native, "read_header", "header")
    hashed = Dataset.__dict__["content_hash"].func
    monkeypatch.setattr(
        Dataset.__dict__["content_hash"], "func", lambda self: found.update(["hash"]) or hashed(self)
    )
    return found


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_training_reads_its_data_once(
    tmp_path: Path, counted: Counter[str], capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    file = tmp_path / f"own.{kind}"
    (npz.write_npz if kind == "npz" else native.write_omiga)(bridge(), file)
    counted.clear()
    arguments = [
        "bc",
        "--data",
        str(file),
        "--updates",
        "2",
        "--episodes",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(["train", *arguments]) == 0, capsys.readouterr()
    assert counted == Counter(read=1, hash=1, **({"header": 1} if kind == "hdf5" else {}))


def test_a_file_that_changed_is_read_again(tmp_path: Path, counted: Counter[str]) -> None:
    file = tmp_path / "own.npz"
    npz.write_npz(bridge(), file)
    with reading_once():
        first = load.read_card(file)
        os.utime(file, ns=(1, 1))
        assert load.read_card(file) == first
        assert counted["read"] == 2
        assert load.load_dataset(file) is not load.load_dataset(file)  # nobody shares arrays
    assert counted["read"] == 3
    load.read_card(file)
    load.load_dataset(file)
    assert counted["read"] == 5  # nothing is kept beyond the block
