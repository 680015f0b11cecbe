"""The machine: where marlzoo keeps its files, and the processor's name."""

from __future__ import annotations

import os
import platform
from pathlib import Path

from marlzoo.errors import ConfigError


def home() -> Path:
    """Where marlzoo keeps datasets: ``$MARLZOO_HOME``, else ``~/.cache/marlzoo``.

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


def processor() -> str:
    """The processor's name, as the system tells it."""
    told = Path("/proc/cpuinfo")
    if told.exists():
        for line in told.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
