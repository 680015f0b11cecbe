"""A stand-in for Windows: what its file system and Python refuse is refused here, in a process of its own.

``python -m tests.windows COMMAND ... -- COMMAND ...`` runs commands of marlzoo one after the other. Audit hooks see
what Python opens, renames and removes, and cannot be taken back: hence the process of its own.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import re
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from tests.test_portability import UNIX_MODULES, UNIX_ONLY

CHECKPOINT = "CHECKPOINT"  # in a command: that of the training before it
RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
POSIX_SIGNALS = ("SIGALRM", "SIGHUP", "SIGKILL", "SIGQUIT", "SIGTSTP", "SIGUSR1", "SIGUSR2", "setitimer", "getitimer",
                 "alarm", "pause", "pthread_kill", "pthread_sigmask", "ITIMER_REAL")  # fmt: skip
# What uses parts of Unix by itself, and its own parts of Windows there.
THIRD_PARTY = ("torch", "torch._dynamo", "h5py", "scipy.stats", "pandas", "mujoco", "rich.progress", "rich.table",
               "tyro", "gymnasium.envs.mujoco",
               "torch.onnx", "filelock", "multiprocessing.connection", "subprocess", "tempfile")  # fmt: skip


def held() -> set[str]:
    """Files that this process has open or mapped, and that Windows would neither replace nor remove."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(os.readlink(f"/proc/self/fd/{number}"))
        except OSError:  # the listing's own
            continue
    descriptor = os.open("/proc/self/maps", os.O_RDONLY)
    with os.fdopen(descriptor, encoding="utf-8") as maps:
        return found | {line.split(maxsplit=5)[5].strip() for line in maps if "/" in line}


def refuse_held(path: Any) -> None:
    """Refuse a file that is open, and a folder with such a file in it."""
    place = os.path.realpath(os.fsdecode(path))
    for name in held():
        if name == place or name.startswith(f"{place}{os.sep}"):
            raise PermissionError(13, "the file is open (as Windows says)", name)


def refuse_name(path: Any) -> None:
    """Refuse names that no file can have on Windows."""
    name = os.path.basename(os.fsdecode(path))
    if re.search(r'[<>:"|?*\x00-\x1f]|[. ]$', name) or RESERVED.fullmatch(name):
        raise OSError(22, "no file can have this name on Windows", name)


def hook(event: str, details: tuple[Any, ...]) -> None:
    """Refuse what Windows would."""
    if event == "open" and isinstance(details[0], str | bytes) and details[0] not in ("/proc/self/maps",):
        path, _, flags = details
        unnamed = isinstance(flags, int) and flags & os.O_TMPFILE == os.O_TMPFILE
        if os.path.isdir(path) and not unnamed:
            raise PermissionError(13, "a folder cannot be opened", path)
        if isinstance(flags, int) and flags & os.O_CREAT and not unnamed:
            refuse_name(path)
    elif event == "os.rename":
        source, target = details[:2]
        refuse_held(source)
        refuse_name(target)
        if os.path.lexists(target):
            refuse_held(target)
            if os.path.isdir(target):
                raise PermissionError(13, "a folder cannot be replaced", target)
    elif event in ("os.remove", "os.rmdir"):
        refuse_held(details[0])
    elif event == "os.mkdir":
        refuse_name(details[0])
    elif event in ("os.symlink", "os.link", "os.chown", "os.fork", "os.killpg"):
        raise NotImplementedError(f"{event} asks for rights, or is not there")


class Kernel32:
    """What of the library of this name asks for processes; a process of somebody else is number 1."""

    DENIED, MISSING = 5, 87

    def __init__(self, name: str = "kernel32", use_last_error: bool = True) -> None:
        self.error = 0
        self.open: list[int] = []
        self.OpenProcess = lambda access, inherit, process: self._handle(access, process)
        self.GetExitCodeProcess = lambda handle, code: self._tell(handle, code)
        self.CloseHandle = lambda handle: self.open.remove(handle)

    def _handle(self, access: int, process: int) -> int | None:
        assert access == 0x1000, "more than may be asked of others"
        there = os.path.exists(f"/proc/{process}")
        self.error = self.DENIED if there else self.MISSING
        if process == 1 or not there:
            return None
        self.open.append(process)
        return process

    def _tell(self, handle: int, code: Any) -> bool:
        with open(f"/proc/{handle}/stat", encoding="utf-8") as file:
            ended = file.read().rpartition(") ")[2].startswith("Z")
        code._obj.value = 0 if ended else 259
        return True


def pretend() -> None:
    """Make this process as much like one on Windows as Python allows."""
    for name in THIRD_PARTY:
        importlib.import_module(name)
    shutil._use_fd_functions = False  # type: ignore[attr-defined]  # as there
    for name in UNIX_MODULES:
        sys.modules[name] = None  # type: ignore[assignment]
    for name in UNIX_ONLY:
        if hasattr(os, name):
            delattr(os, name)
    for name in POSIX_SIGNALS:
        if hasattr(signal, name):
            delattr(signal, name)
    os.environ.setdefault("USERNAME", "somebody")
    kernel = Kernel32()
    ctypes.WinDLL = lambda *_, **__: kernel  # type: ignore[attr-defined]
    ctypes.get_last_error = lambda: kernel.error  # type: ignore[attr-defined]
    sys.platform = "win32"
    sys.addaudithook(hook)


def run(commands: list[list[str]]) -> int:
    """Run commands until one fails; returns its status."""
    from marlzoo.cli import main

    for words in commands:
        command = [str(next(Path().rglob("td3_bc*.npz"))) if word == CHECKPOINT else word for word in words]
        print("$ marlzoo", *command, flush=True)
        status = main([*command, "--debug"])
        if status:
            return status
    return 0


def split(words: list[str]) -> list[list[str]]:
    """Commands from words that ``--`` separates."""
    commands: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            commands.append([])
        else:
            commands[-1].append(word)
    return commands


if __name__ == "__main__":
    assert Path("/proc/self/fd").is_dir(), "needs Linux"
    pretend()
    sys.exit(run(split(sys.argv[1:])))
