"""Reading and writing HDF5: every layout gives the same numbers, and no failure passes unseen."""

from __future__ import annotations

import builtins
import errno
import signal
import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from marlzoo.data import hdf5
from marlzoo.data.arrays import mapping
from marlzoo.errors import DataError
from marlzoo.system.files import atomic_write

VALUES = np.arange(80, dtype=np.float32).reshape(20, 4) - 7


@pytest.fixture
def file(tmp_path: Path) -> Any:
    with h5py.File(tmp_path / "a.h5", "w") as made:
        made["plain"] = VALUES
        made["swapped"] = VALUES.astype(">f4")
        made.create_dataset("packed", data=VALUES, chunks=(3, 4), compression="gzip")
        made["flags"] = VALUES > 0
        made["whole"] = VALUES.astype(np.int16)
        made["sub/inner"] = VALUES
    with hdf5.open_hdf5(tmp_path / "a.h5") as opened:
        yield opened


@pytest.mark.parametrize("name", ["plain", "packed", "swapped", "whole"])
def test_every_layout_gives_the_same_numbers(file: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_STREAM_BYTES", 100)
    monkeypatch.setattr(hdf5, "CHUNK_BYTES", 100)
    np.testing.assert_array_equal(hdf5.read_array(file[name], np.float32), VALUES)
    assert hdf5.read_array(file[name], np.float64).dtype == np.float64
    read = hdf5.row_reader(file[name])
    for begin, end in ((2, 7), (0, 3), (9, 20), (19, 20)):
        np.testing.assert_array_equal(read(slice(begin, end)), VALUES[begin:end])
    rows = hdf5.read_rows(file[name], slice(4, 6), np.float64)
    assert rows.dtype == np.float64
    np.testing.assert_array_equal(rows, VALUES[4:6])
    np.testing.assert_array_equal(hdf5.read_array(file["flags"], np.bool_), VALUES > 0)


def test_rows_come_in_pieces_of_whole_chunks(file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_STREAM_BYTES", 100)
    monkeypatch.setattr(hdf5, "CHUNK_BYTES", 100)
    assert [(s.start, s.stop) for s in hdf5.row_slices(file["plain"])] == [
        (0, 6),
        (6, 12),
        (12, 18),
        (18, 20),
    ]
    pieces = [(s.start, s.stop) for s in hdf5.row_slices(file["packed"])]
    assert pieces == [(0, 6), (6, 12), (12, 18), (18, 20)]
    monkeypatch.setattr(hdf5, "CHUNK_BYTES", 10)
    assert [s.stop for s in hdf5.row_slices(file["packed"])] == [3, 6, 9, 12, 15, 18, 20]


def test_plain_arrays_are_mapped_and_others_refused(file: Any) -> None:
    found = hdf5.map_array(file["plain"])
    np.testing.assert_array_equal(found, VALUES)
    assert not found.flags.writeable
    for name in ("packed", "swapped"):
        with pytest.raises(DataError, match=f"{name} cannot be mapped"):
            hdf5.map_array(file[name])


def test_a_file_that_ends_inside_an_array(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as made:
        made["plain"] = VALUES
    read_before = path.read_bytes()
    with hdf5.open_hdf5(path) as opened:
        read = hdf5.row_reader(opened["plain"])
        path.write_bytes(read_before[: opened["plain"].id.get_offset() + 100])
        np.testing.assert_array_equal(read(slice(0, 6)), VALUES[:6])
        with pytest.raises(DataError, match="it ends inside an array"):
            read(slice(5, 7))


def test_columns_are_checked_before_they_are_read(file: Any, tmp_path: Path) -> None:
    assert hdf5.keys(file) == ["flags", "packed", "plain", "sub", "swapped", "whole"]
    assert hdf5.column(hdf5.group(file, "sub"), "inner", "f").shape == (20, 4)
    for name, kinds, text in (
        ("none", "f", "the key 'none' is missing; the file has flags, packed"),
        ("whole", "fu", "whole is not an array of floats or unsigned integers"),
        ("sub", "f", "sub is not an array"),
    ):
        with pytest.raises(DataError, match=text):
            hdf5.column(file, name, kinds)
    for name in ("plain", "none"):
        with pytest.raises(DataError, match=f"the group '{name}' is missing"):
            hdf5.group(file, name)
    with h5py.File(tmp_path / "b.h5", "w") as made:
        layout = h5py.VirtualLayout((20, 4), np.float32)
        layout[:] = h5py.VirtualSource(str(tmp_path / "a.h5"), "plain", shape=(20, 4))
        made.create_virtual_dataset("virtual", layout)
        made["linked"] = h5py.ExternalLink(str(tmp_path / "a.h5"), "plain")
        made["folder"] = h5py.ExternalLink(str(tmp_path / "a.h5"), "sub")
        made.create_dataset("raw", (20, 4), np.float32, external=[(str(tmp_path / "raw"), 0, 320)])
        made.create_dataset("absurd", (1 << 30, 4), np.float32, chunks=(16, 4))
    with hdf5.open_hdf5(tmp_path / "b.h5") as opened:
        for name in ("virtual", "linked", "raw"):
            with (
                pytest.raises(DataError, match=f"b.h5: {name} is stored in another file"),
                hdf5.open_hdf5(tmp_path / "b.h5") as again,
            ):
                hdf5.column(again, name, "f")
        with pytest.raises(DataError, match="the group 'folder' is missing"):
            hdf5.group(opened, "folder")
        with pytest.raises(DataError, match="absurd declares 17179869184 bytes"):
            hdf5.column(opened, "absurd", "f")


def test_what_is_no_hdf5_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=2048) as made:
        made["plain"] = VALUES
    assert hdf5.user_block(tmp_path / "a.h5") == 2048
    (tmp_path / "empty.h5").touch()
    (tmp_path / "text.h5").write_text("text" * 1000)
    for name, text in (
        ("a.h5", "has a user block of 2048 bytes"),
        ("empty.h5", "empty.h5: is empty"),
        ("text.h5", "is not an HDF5 file"),
        ("none.h5", "no such file"),
        (".", "is not a file"),
    ):
        assert not hdf5.is_hdf5(tmp_path / name)
        with pytest.raises(DataError, match=text), hdf5.open_hdf5(tmp_path / name):
            pass
    for name in ("empty.h5", "text.h5", "none.h5", "."):
        assert hdf5.user_block(tmp_path / name) == 0


def test_large_arrays_live_in_files_inside_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "_SPILL_BYTES", 100)
    with hdf5.spill(tmp_path):
        large, small = hdf5.allocate((13, 2), np.float32), hdf5.allocate((25,), np.float32)
        large[:] = 3
    assert mapping(large) is not None
    assert mapping(small) is None
    assert large.shape == (13, 2)
    assert mapping(hdf5.allocate((13, 2), np.float32)) is None
    assert list(tmp_path.iterdir()) == []
    with (
        pytest.raises(DataError, match=r"an array of 4\.0 GB does not fit into memory or into"),
        hdf5.spill(tmp_path / "none"),
    ):
        hdf5.allocate((1000, 1000, 1000), np.float32)


class Halting:
    """A file that takes a few bytes at a time, and none after so many."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room, self.failures = file, room, 0

    def write(self, data: Any) -> int:
        if self.room <= 0:
            self.failures += 1
            raise OSError(errno.ENOSPC, f"failure {self.failures}")
        count: int = self.file.write(data[: min(len(data), 700)])
        self.room -= count
        return count

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [1 << 30, 1500])
def test_writing_goes_on_until_all_is_there_or_fails(
    room: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, values = tmp_path / "a.h5", np.arange(3000.0)
    halting = lambda *a, **k: Halting(builtins.open(*a, **k), room)  # noqa: E731, SIM115
    monkeypatch.setattr(hdf5, "open", halting, raising=False)
    if room == 1500:
        with pytest.raises(OSError, match="failure 1"), hdf5.create_hdf5(path) as made:
            made["x"] = values
        return
    with hdf5.create_hdf5(path) as made:
        made["bytes"] = np.zeros(3, np.uint8)
        made["x"] = values
    monkeypatch.undo()
    with hdf5.open_hdf5(path) as opened:
        np.testing.assert_array_equal(hdf5.map_array(opened["x"]), values)
        assert opened["x"].id.get_offset() % 64 == 0


def test_a_full_disk_is_told_where_the_library_stumbles_over_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beneath many groups it reads its tables back, which are zeros where they could not be written."""

    def write() -> None:
        with hdf5.create_hdf5(tmp_path / "a.h5") as made:
            for number in range(3000):
                made.create_group(f"episode_{number}")["x"] = np.zeros(10)

    halting = lambda *a, **k: Halting(builtins.open(*a, **k), 3000)  # noqa: E731, SIM115
    monkeypatch.setattr(hdf5, "open", halting, raising=False)
    with pytest.raises(OSError, match="failure 1") as full:
        write()
    assert isinstance(full.value.__cause__, ValueError)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_while_a_file_is_written_is_one(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the library calls back, an exception would be lost, or become an error of the library."""
    written: list[bool] = []

    class Interrupted(hdf5._Sink):
        def write(self, data: Any) -> int:
            signal.raise_signal(number)
            return super().write(data)

        def close(self) -> None:
            written.append(any(Path(self._file.name).read_bytes()))
            super().close()

    monkeypatch.setattr(hdf5, "_Sink", Interrupted)
    before = signal.signal(number, signal.default_int_handler)
    try:
        with (
            pytest.raises(KeyboardInterrupt),
            atomic_write(tmp_path / "a.h5") as temporary,
            hdf5.create_hdf5(temporary) as made,
        ):
            made["x"] = np.arange(3000.0)
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)
    assert written == [False]  # it did not go on to the end
    assert list(tmp_path.iterdir()) == []


def test_interruptions_are_left_alone_in_other_threads(tmp_path: Path) -> None:
    def write() -> None:
        with hdf5.create_hdf5(tmp_path / "a.h5") as made:
            made["x"] = np.arange(3.0)
            held.append(signal.getsignal(signal.SIGINT))

    held: list[Any] = []
    thread = threading.Thread(target=write)
    thread.start()
    thread.join()
    assert held == [signal.getsignal(signal.SIGINT)]
