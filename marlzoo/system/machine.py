"""The machine: where marlzoo keeps its files, and the processor's name."""

from __future__ import annotations

import contextlib
import math
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from marlzoo.errors import ConfigError

if TYPE_CHECKING:
    import torch


def home() -> Path:
    """Where marlzoo keeps datasets: ``$MARLZOO_HOME``, else ``~/.cache/marlzoo``.

    One place on every system, as torch and huggingface-hub have it, so that messages can name it.

    Raises:
        ConfigError: there is no home folder, and ``MARLZOO_HOME`` is not set.
    """
    given = os.environ.get("MARLZOO_HOME")
    try:
        return Path(given) if given else Path.home() / ".cache" / "marlzoo"
    except RuntimeError as error:  # neither the environment nor the system's list of users names one
        raise ConfigError(
            "this user has no home folder; name a folder for marlzoo in MARLZOO_HOME"
        ) from error


def memory_limit() -> float:
    """Bytes of memory that this process may use: what its container or job is given, at most all of the machine.

    Infinity where the system does not tell (Windows). (psutil tells the machine's memory and not these limits.)
    """
    try:
        installed = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (AttributeError, ValueError, OSError):
        installed = math.inf
    return min([installed, *_cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))])


def require_memory(needed: int, what: str, remedy: str) -> None:
    """Refuse what the memory cannot hold before it is filled, which may take minutes and end other programs.

    Args:
        needed: bytes that it takes at least.
        what: takes them, in the plural.
        remedy: what to do instead.

    Raises:
        ConfigError: this process may not use so much.
    """
    most = min(memory_limit(), sys.maxsize)  # no array has more, where the system tells no limit
    if needed > most:
        raise ConfigError(
            f"{what} take at least {needed // 10**9:,} GB of memory, and this process may use {most / 1e9:,.1f}; "
            f"{remedy}"
        )


def _cgroup_limits(groups: Path, root: Path) -> Iterator[float]:
    """Limits of the control groups that a process is in, and of those around them (Linux, versions 1 and 2).

    Args:
        groups: file that names the process's groups.
        root: where groups are folders.
    """
    try:
        lines = groups.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for _, controllers, place in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        top = root / "memory" if controllers else root
        name = "memory.limit_in_bytes" if controllers else "memory.max"
        inner = top / place.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(top):
                break
            with contextlib.suppress(OSError, ValueError):  # no such folder in a container; "max" is no limit
                yield float(int((folder / name).read_text(encoding="ascii")))


def processor() -> str:
    """The processor's name, as the system tells it."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def usable_device(name: torch.device | str) -> torch.device | str:
    """The device's name, if torch can use it.

    Raises:
        ConfigError: it cannot.
    """
    import torch

    try:
        torch.zeros(1, device=name).item()  # which the device "meta", without numbers, cannot tell
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"device {str(name)!r} cannot be used by torch {torch.__version__} ({reason}); use cpu, or see "
            "marlzoo doctor"
        ) from error
    return name
