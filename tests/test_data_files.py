"""A file is written whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from marlzoo.data.formats.minari import write_minari
from marlzoo.errors import DataError, OutputError
from marlzoo.system.files import atomic_write, sha256_file, sha256_text, write_text_atomic
from tests.data_samples import sample


def test_a_text_arrives_byte_for_byte(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "note.txt"
    write_text_atomic(path, "one\r\ntwo é\n")
    assert path.read_bytes() == "one\r\ntwo é\n".encode()
    assert os.listdir(path.parent) == ["note.txt"]


def test_the_temporary_file_is_beside_the_target_with_its_suffix(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "w.npz") as temporary:
        assert temporary.parent == tmp_path
        assert temporary.suffix == ".npz"
        assert not (tmp_path / "w.npz").exists()
        temporary.write_bytes(b"x")
    assert (tmp_path / "w.npz").read_bytes() == b"x"


def test_permissions_follow_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text_atomic(tmp_path / "a.txt", "x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("fault", [ValueError("broken"), KeyboardInterrupt(), DataError("bad")])
def test_an_error_inside_passes_through_and_leaves_the_old_file(tmp_path: Path, fault: BaseException) -> None:
    path = tmp_path / "a.txt"
    write_text_atomic(path, "old")

    def write() -> None:
        with atomic_write(path) as temporary:
            temporary.write_text("new")
            raise fault

    with pytest.raises(type(fault)):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OutputError, match=r"a\.txt: No space left on device.*free some space"):
        write_text_atomic(tmp_path / "a.txt", "x")
    assert os.listdir(tmp_path) == []


def test_files_are_flushed_where_that_needs_the_right_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows, which refuses it to a descriptor that only reads, and opens no folders."""
    fcntl = pytest.importorskip("fcntl")
    flushed = []

    def fsync(descriptor: int) -> None:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flushed.append(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text_atomic(tmp_path / "a.txt", "x")
    write_minari(sample(), tmp_path / "team-v0")
    assert len(flushed) == 3  # the text, the data and what describes them
    assert sorted(os.listdir(tmp_path)) == ["a.txt", "team-v0"]


def test_impossible_places_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="name a file, not a folder"):
        write_text_atomic(tmp_path, "x")
    with pytest.raises(OutputError, match=r"cannot write .*file/inside\.txt"):
        write_text_atomic(tmp_path / "file" / "inside.txt", "x")


def test_digests(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 1000)
    assert sha256_file(tmp_path / "a", chunk=7) == hashlib.sha256(b"abc" * 1000).hexdigest()
    assert sha256_text("é") == hashlib.sha256("é".encode()).hexdigest()


def test_the_next_write_removes_what_a_killed_process_left(tmp_path: Path) -> None:
    """Of the same target, this machine and a process that is gone; nothing else."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    node, target = platform.node(), tmp_path / "a.npz"
    left = tmp_path / f".a.{node}-{gone.pid}-00000000.tmp.npz"
    kept = [
        tmp_path / f".a.{node}-{os.getpid()}-00000000.tmp.npz",
        tmp_path / f".b.{node}-{gone.pid}-00000000.tmp.npz",
        tmp_path / f".a.elsewhere{node}-{gone.pid}-00000000.tmp.npz",
    ]
    for file in (left, *kept):
        file.touch()
    write_text_atomic(target, "new")
    assert target.read_text() == "new"
    assert not left.exists()
    assert all(file.exists() for file in kept)
