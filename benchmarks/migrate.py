"""Brings result rows of older versions to the columns of this one.

Version 1 of the columns had no number, spelled some names in the British way, and knew less of a run. What it does
not know stays empty. Settings were renamed too, so that the same configuration has another hash today: where today's
settings give the row's hash under the old names, the row gets today's hash and the whole configuration. Where they
do not, the settings themselves have changed since, and the row keeps its hash: it is of another configuration.
"""

from __future__ import annotations

import ast
import csv
import hashlib
import io
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from marlzoo.config import replica_configs
from marlzoo.errors import DataError, MarlzooError
from marlzoo.families import task_spec
from marlzoo.registry import find_method, preset_of
from marlzoo.system.files import locked

from .results import REMEDY, ResultsFile, Row
from .row import from_cells
from .store import PACKED, content

COLUMNS = {"normalised_score": "normalized_score", "behaviour_return": "behavior_return"}
SETTINGS = {
    "normalizer": "normaliser",
    "stabilize_v": "stabilise_v",
    "penalize_illegal": "penalise_illegal",
    "behavior_updates": "behaviour_updates",
    "num_envs": "copies",
}
"""Today's names of settings and those of version 1."""
EXECUTION = {"decentralised": "decentralized", "centralised": "centralized"}
HORIZONS = (0, 20, 1000)  # of evaluations in the suites of that version
FIRST = tuple(field.name for field in fields(Row))[:21]  # the columns that version 1 had


@dataclass(frozen=True)
class Migrated:
    """What became of a file.

    Attributes:
        path: of the file.
        rows: in it.
        known: rows whose configuration is today's.
    """

    path: Path
    rows: int
    known: int


def migrate(folder: Path) -> list[Migrated]:
    """Migrate every results file in a folder and the folders below it, each as one step.

    Returns:
        The files that were migrated; those of this version are left as they are, and so are other tables.

    Raises:
        DataError: no such folder, or a file of version 1 that is broken.
        OutputError: a file cannot be written; it is left as it was.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; name the folder that holds rows.csv")
    done = []
    for path in sorted([*folder.rglob("rows.csv"), *folder.rglob(f"rows.csv{PACKED}")]):
        file = ResultsFile(path)
        with locked(file.path):
            rows = _read(path)
            if rows is None:
                continue
            file.overwrite([_today(row) for row in rows])
        rows = file.rows()
        done.append(Migrated(path, len(rows), sum(bool(row.config) for row in rows)))
    return done


def _read(path: Path) -> list[Row] | None:
    """The rows of a file of version 1; None for another file."""
    try:
        data = content(path)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; {REMEDY}") from error
    header, _, _ = data.decode(errors="replace").partition("\n")
    names = [COLUMNS.get(name, name) for name in header.split(",")]
    if set(names) != set(FIRST):
        return None
    if not data.endswith(b"\n"):
        raise DataError(f"{path}: the last line is not complete, the file was cut; {REMEDY}")
    rows = []
    try:
        lines = csv.reader(io.StringIO(data.decode()), strict=True)
        next(lines)
        for cells in lines:
            place = f"{path}, line {lines.line_num}"
            if len(cells) != len(names):
                raise DataError(f"{place}: {len(cells)} cells instead of {len(names)}; {REMEDY}")
            rows.append(from_cells(place, dict(zip(names, cells, strict=True))))
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid CSV ({error}); {REMEDY}") from error
    return rows


def _today(row: Row) -> Row:
    """A row of version 1 in today's words."""
    variant = row.variant
    for new, old in SETTINGS.items():
        variant = variant.replace(f"{old}=", f"{new}=")
    row = replace(row, variant=variant, execution=EXECUTION.get(row.execution, row.execution))
    found = _settings(row.method, row.task, row.variant, row.config_hash)
    return row if found is None else replace(row, config_hash=found[0], config=found[1])


@cache
def _settings(method: str, task: str, variant: str, known: str) -> tuple[str, str] | None:
    """Today's hash and configuration of a row of version 1, if it is of today's configuration."""
    try:
        cls = find_method(method)
        given = {name: _value(text) for name, _, text in (part.partition("=") for part in _parts(variant))}
        preset = preset_of(cls, task_spec(task)).settings
        config = replica_configs(cls.config_class, 1, given, preset)[0]
    except MarlzooError:
        return None  # a method or a setting that is no more
    values = config.to_dict()
    former = {SETTINGS.get(name, name): value for name, value in values.items()}
    for horizon in HORIZONS:
        if known in (_hash(former, horizon), _hash(values, horizon)):
            return _hash(values, horizon), json.dumps(values, sort_keys=True)
    return None


def _hash(values: Mapping[str, Any], horizon: int) -> str:
    text = json.dumps([values, horizon, {}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _parts(variant: str) -> list[str]:
    return variant.split(", ") if variant else []


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text
