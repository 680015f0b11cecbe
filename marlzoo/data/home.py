"""Where datasets live, and which native files have been verified there."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path
from typing import Any

from marlzoo.errors import OutputError
from marlzoo.system.files import SEAL, sealed, unsealed, write_text_atomic
from marlzoo.system.machine import home


def data_home() -> Path:
    """Where datasets live: ``$MARLZOO_HOME/datasets``, else ``~/.cache/marlzoo/datasets``."""
    return home() / "datasets"


def _stamp(path: Path) -> tuple[Path, dict[str, Any]]:
    """Where a file's record is kept, and what tells this very content from a later one."""
    place, status = path.resolve(), path.stat()
    name = hashlib.sha256(os.fsencode(place)).hexdigest()[:32]
    facts = {
        "path": str(place),
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
        "inode": status.st_ino,
    }
    return home() / "verified" / f"{name}.json", facts


def read_verified(path: Path) -> dict[str, Any] | None:
    """What :func:`write_verified` noted about a file, if the file has not been written since."""
    record, facts = _stamp(path)
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        whole = isinstance(found, dict) and SEAL in found
        notes: dict[str, Any] = unsealed(found, record.name) if whole else {}
    except (OSError, ValueError, RecursionError):  # a DataError is a ValueError
        return None  # none yet, or damaged: the file is verified (again)
    return notes if facts.items() <= notes.items() else None


def write_verified(path: Path, **notes: Any) -> None:
    """Note that a file's content was read and is what its card says."""
    record, facts = _stamp(path)
    try:
        write_text_atomic(record, json.dumps(sealed(facts | notes), sort_keys=True) + "\n")
    except OutputError as error:
        warnings.warn(f"{error}; {path} is read and verified again at every start", stacklevel=3)
