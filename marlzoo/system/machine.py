"""The machine at hand: where marlzoo keeps files on it, its processor, and what was measured on it once."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

from marlzoo.errors import ConfigError, DataError, OutputError
from marlzoo.system.files import locked, sealed, unsealed, write_text_atomic


def home() -> Path:
    """Where marlzoo keeps datasets and measurements: ``$MARLZOO_HOME``, else ``~/.cache/marlzoo``.

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


class MeasurementCache:
    """What was measured once on this machine, in ``measured.json`` of :func:`home`; deleting it measures anew.

    Args:
        kind: of measurement; each has names of its own.
    """

    def __init__(self, kind: str) -> None:
        self.path, self.kind = home() / "measured.json", kind

    def recall(self, key: str) -> Any:
        """What was remembered under ``key``; None: nothing.

        Raises:
            DataError: the file is broken.
        """
        return self._read().get(self.kind, {}).get(key)

    def remember(self, key: str, value: Any) -> Any:
        """Keep a plain value, unless another process was first; returns what counts from now on.

        Raises:
            DataError: the file is broken.
        """
        try:
            with locked(self.path):
                known = self._read()
                kept = known.setdefault(self.kind, {}).setdefault(key, value)
                write_text_atomic(self.path, json.dumps(sealed(known), indent=1, sort_keys=True) + "\n")
                return kept
        except OutputError:  # a home that cannot be written: every process measures for itself
            return value

    def _read(self) -> dict[str, Any]:
        try:
            known = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be read ({error}); delete it, it is made again") from error
        if isinstance(known, dict):
            try:
                known = unsealed(known, "it")
            except DataError as error:
                raise DataError(f"{self.path}: {error}; delete it, it is made again") from error
        if not isinstance(known, dict) or not all(isinstance(part, dict) for part in known.values()):
            raise DataError(f"{self.path}: holds something else; delete it, it is made again")
        return known
