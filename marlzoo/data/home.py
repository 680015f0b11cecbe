"""The folder of datasets, and a record of the native files verified there."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from marlzoo.errors import DataError, OutputError
from marlzoo.system.files import SEAL, sealed, unsealed, write_text_atomic
from marlzoo.system.machine import home


def data_home() -> Path:
    """Where datasets live: ``$MARLZOO_HOME/datasets``, else ``~/.cache/marlzoo/datasets``."""
    return home() / "datasets"


def _stamp(path: Path) -> tuple[Path, dict[str, Any]]:
    """Path of a file's verification record, and a stamp that changes when the file does."""
    place = path.resolve()
    status = path.stat()
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
        notes = _read_note(record)
    except DataError:
        return None  # none yet, or damaged: the file is verified (again)
    return notes if facts.items() <= notes.items() else None


def notes_of_verified() -> Iterator[tuple[Path, str]]:
    """Every note of a verified file, and what is wrong with it (empty: nothing); a damaged one is not believed."""
    for record in sorted((home() / "verified").glob("*.json")):
        try:
            _read_note(record)
        except DataError as error:
            yield record, str(error)
        else:
            yield record, ""


def _read_note(record: Path) -> dict[str, Any]:
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{record}: cannot be read ({error}); delete it") from error
    if not isinstance(found, dict) or SEAL not in found:
        raise DataError(f"{record}: carries no hash of itself; delete it")
    try:
        return unsealed(found, "it")
    except DataError as error:
        raise DataError(f"{record}: {error}; delete it") from error


def write_verified(path: Path, **notes: Any) -> None:
    """Record that a file's content was read and matches its card."""
    record, facts = _stamp(path)
    try:
        write_text_atomic(record, json.dumps(sealed(facts | notes), sort_keys=True) + "\n")
    except OutputError as error:
        warnings.warn(f"{error}; {path} is read and verified again at every start", stacklevel=3)
