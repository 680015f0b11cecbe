"""The data commands use no name that ``os`` has on Unix alone without asking whether it is there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from marlzoo.cli import main
from marlzoo.data import games
from marlzoo.data.formats.native import write_omiga

UNIX_ONLY = (
    "chown", "chroot", "confstr", "confstr_names", "copy_file_range", "ctermid", "fchdir", "fchown", "fork",
    "forkpty", "fpathconf", "getegid", "geteuid", "getgid", "getgrouplist", "getgroups", "getloadavg", "getpgid",
    "getpgrp", "getpriority", "getrandom", "getresgid", "getresuid", "getsid", "getuid", "getxattr", "initgroups",
    "lchown", "listxattr", "lockf", "major", "makedev", "memfd_create", "minor", "mkfifo", "mknod", "nice",
    "openpty", "pathconf", "pathconf_names", "pidfd_open", "pipe2", "posix_fadvise", "posix_fallocate",
    "posix_openpt", "posix_spawn", "posix_spawnp", "pread", "preadv", "pwrite", "pwritev", "readv", "removexattr",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getparam",
    "sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setparam", "sched_setscheduler",
    "sched_yield", "sendfile", "setegid", "seteuid", "setgid", "setgroups", "setns", "setpgid", "setpriority",
    "setregid", "setresgid", "setresuid", "setreuid", "setsid", "setuid", "setxattr", "splice", "sync", "sysconf",
    "sysconf_names", "tcgetpgrp", "tcsetpgrp", "ttyname", "uname", "unshare", "wait3", "wait4", "waitid", "writev",
)  # fmt: skip


def test_data_commands_without_what_only_unix_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("USERNAME", "somebody")  # as Windows does
    write_omiga(games.dataset("bridge", "optimal", episodes=6), "before.hdf5")
    write_omiga(games.dataset("bridge", "random", episodes=2), "other.hdf5")
    for unix in UNIX_ONLY:
        monkeypatch.delattr(os, unix, raising=False)
    assert not hasattr(os, "sysconf")
    commands = (
        ["data", "convert", "before.hdf5", "a.hdf5"],
        ["data", "convert", "a.hdf5", "a.npz"],
        ["data", "convert", "a.npz", "a-v0"],
        ["data", "inspect", "a.hdf5", "--json"],
        ["data", "check", "a.hdf5"],
        ["data", "card", "a.hdf5"],
        ["data", "mix", "a.hdf5:0.5", "other.hdf5:0.5", "--out", "mixed.hdf5"],
        ["data", "collect", "games/bridge", "random", "--transitions", "20", "--out", "r.hdf5"],
        ["list", "formats"],
    )
    for command in commands:
        status = main(command)
        assert status == (2 if "collect" in command else 0), command  # whose data are computed
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "before.hdf5").read_bytes()
