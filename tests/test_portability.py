"""Nothing needs what Unix alone has without asking whether it is there."""

from __future__ import annotations

import ast
import math
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from marlzoo.cli import main
from marlzoo.data import games
from marlzoo.data.formats.native import write_omiga
from marlzoo.system import machine

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


UNIX_MODULES = {"crypt", "fcntl", "grp", "pty", "pwd", "resource", "syslog", "termios", "tty"}
ROOT = Path(__file__).parents[1]


def is_text(call: ast.Call) -> bool:
    """Whether a call reads or writes text: open() and its like where no mode says that they take bytes."""
    name = ast.unparse(call.func)
    modes = [
        part.value
        for part in (*call.args, *(k.value for k in call.keywords))
        if isinstance(part, ast.Constant)
    ]
    binary = any(isinstance(mode, str) and re.fullmatch(r"[rwxa]?\+?b\+?", mode) for mode in modes)
    named = any(isinstance(part, ast.Name) and part.id == "mode" for part in call.args)
    opens = name in ("open", "os.fdopen") or name.endswith("path.open")
    return name.endswith((".read_text", ".write_text")) or (opens and not binary and not named)


def unportable(path: Path) -> list[str]:
    """Imports of what only Unix has outside a question for the platform, and text files in the system's encoding."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    asked = {id(part) for node in ast.walk(tree) if isinstance(node, ast.If) for part in ast.walk(node)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in asked:
            found += [alias.name for alias in node.names if alias.name in UNIX_MODULES]
        elif isinstance(node, ast.ImportFrom) and id(node) not in asked and node.module in UNIX_MODULES:
            found.append(node.module)
        elif isinstance(node, ast.Call) and is_text(node):
            found += [f"line {node.lineno}: no encoding"] * all(k.arg != "encoding" for k in node.keywords)
    return [f"{path.relative_to(ROOT)}: {name}" for name in found]


def test_no_module_needs_unix_or_the_encoding_of_the_system() -> None:
    folders = ("marlzoo", "algorithms", "baselines", "benchmarks", "examples", "docs")
    files = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert [line for path in files for line in unportable(path)] == []


@pytest.mark.parametrize(
    ("groups", "files", "limits"),
    [
        ("0::/job/step\n", {"job/step/memory.max": "max\n", "job/memory.max": "4096\n"}, [4096.0]),
        (
            "0::/elsewhere/of/the/host\n",
            {"memory.max": "512\n"},
            [512.0],
        ),  # a container sees its group as the top
        (
            "9:cpu,memory:/job\n8:cpuset:/other\n",
            {"memory/job/memory.limit_in_bytes": "1024\n", "memory.max": "1\n"},
            [1024.0],
        ),
        ("nonsense\n", {"memory.max": "1\n"}, []),
    ],
)
def test_limits_of_containers_and_jobs(
    groups: str, files: dict[str, str], limits: list[float], tmp_path: Path
) -> None:
    (tmp_path / "groups").write_text(groups)
    for name, text in files.items():
        (tmp_path / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "root" / name).write_text(text)
    assert list(machine._cgroup_limits(tmp_path / "groups", tmp_path / "root")) == limits
    assert list(machine._cgroup_limits(tmp_path / "missing", tmp_path / "root")) == []


def test_the_memory_is_what_the_system_and_the_job_allow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_cgroup_limits", lambda *places: iter([4096.0]))
    assert machine.memory_limit() == 4096.0
    monkeypatch.setattr(machine, "_cgroup_limits", lambda *places: iter(()))
    monkeypatch.delattr(os, "sysconf", raising=False)
    assert machine.memory_limit() == math.inf


SUITE = """
about = "Two methods on a coordination game."
learners = ["bc", { method = "omiga", config = { alpha = 0.1 } }]
updates = 20
eval_every = 10
episodes = 4
final_episodes = 4
seeds = [0, 1]
[[data]]
task = "games/xor"
quality = ["D1"]
"""
HOPPER = "mamujoco/hopper-3x1 --quality random --transitions 200"
COMMANDS = f"""
bench s.toml --out out
bench s.toml --out out --force
table out/s --format markdown
results compress out/s
data collect {HOPPER} --out a.hdf5
data collect {HOPPER} --seed 1 --out b.hdf5
data mix a.hdf5:0.5 b.hdf5:0.5 --out mixed.hdf5
data convert a.hdf5 a.npz
data convert a.hdf5 a-v0
data convert a.hdf5 a.hdf5 --force
data check mixed.hdf5
train td3_bc --data a.hdf5 --updates 4 --eval-every 2 --episodes 1 --out out
train td3_bc --data a.hdf5 --updates 6 --eval-every 2 --episodes 1 --out out
ope CHECKPOINT --data b.hdf5 --updates 4
finetune CHECKPOINT --data a.hdf5 --env-steps 20 --warmup 0 --learn-steps 1 --out tuned
new-method mine --package mine
"""


@pytest.mark.slow
@pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="the stand-in reads Linux's list of open files"
)
def test_commands_where_open_files_stay_and_names_are_fewer(tmp_path: Path) -> None:
    (tmp_path / "s.toml").write_text(SUITE, encoding="utf-8")
    environment = {**os.environ, "MARLZOO_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.windows", *" -- ".join(COMMANDS.strip().splitlines()).split()]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert not [*tmp_path.rglob("*.journal")], "those of finished writers are merged and removed"
    assert not [*tmp_path.rglob(".*.tmp*")]


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in for Windows reads /proc")
def test_a_killed_writers_file_is_removed_on_windows(tmp_path: Path) -> None:
    """A process that is over leaves its temporary file to the next writer, also while somebody still holds it."""
    over = subprocess.Popen([sys.executable, "-c", ""])
    over.wait()
    unread = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    assert unread.stdout is not None
    unread.stdout.read()
    os.waitid(os.P_PID, unread.pid, os.WEXITED | os.WNOWAIT)  # ended, and not taken away
    writers = {"over": over.pid, "ended": unread.pid, "alive": os.getpid(), "another's": 1}
    for name, writer in writers.items():
        (tmp_path / f".{name}.{platform.node()}-{writer}-abc.tmp.txt").touch()
    code = (
        "import sys; from pathlib import Path; from tests import windows; windows.pretend()\n"
        "from marlzoo.system.files import write_text_atomic\n"
        "for name in sys.argv[2:]: write_text_atomic(Path(sys.argv[1], name + '.txt'), 'new')\n"
        "import ctypes; sys.exit(len(ctypes.WinDLL().open))"
    )
    try:
        subprocess.run([sys.executable, "-c", code, str(tmp_path), *writers], check=True)
    finally:
        unread.wait()
    left = {path.name.split(".")[1] for path in tmp_path.glob(".*.tmp.txt")}
    assert left == {"alive", "another's"}
