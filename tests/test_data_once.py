"""A dataset is read and hashed once before the first update, however often its card is asked for."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

import marlzoo
from marlzoo.cli import main
from marlzoo.data import load, once
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats import native, npz
from marlzoo.data.once import identity, reading_once


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


def test_what_tells_one_content_from_another(tmp_path: Path) -> None:
    (tmp_path / "a" / "deep").mkdir(parents=True)
    file = tmp_path / "a" / "deep" / "file"
    seen = set()
    for text, options in (("1", {}), ("22", {}), ("22", {"horizon": 3})):
        file.write_text(text)
        os.utime(file, ns=(1, 1))
        seen |= {identity(place, options, False) for place in (file, tmp_path / "a")}
    assert len(seen) == 6
    assert identity("games/xor", {"k": 1}, True) != identity("games/xor", {"k": 2}, True)


def test_what_waits_fits_into_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    data, waiting = bridge(), dict[once.Identity, Dataset]()
    monkeypatch.setattr(once, "memory_limit", lambda: 4 * once._bytes(data))
    once._keep(waiting, ("first",), data)
    once._keep(waiting, ("second",), data)
    assert list(waiting) == [("second",)]  # the oldest goes
    monkeypatch.setattr(once, "memory_limit", lambda: 1)
    once._keep(waiting, ("second",), data)
    assert list(waiting) == [("second",)]  # the newest stays, whatever it needs
    monkeypatch.setattr(once, "memory_limit", lambda: 8 * once._bytes(data))
    once._keep(waiting, ("third",), data)
    assert len(waiting) == 2
