"""Result rows: one line of a CSV file per run and checkpoint, from which every table is derived."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.errors import DataError, UnknownNameError
from marlzoo.system.files import locked, write_text_atomic

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Row:
    """One run at one checkpoint. Returns are raw and undiscounted, over the evaluation's episodes.

    Args:
        suite: table that the run belongs to.
        task: full task name, ``mamujoco/hopper-3x1``.
        source: who recorded the data, ``omiga`` or ``marlzoo``.
        quality: which of the source's datasets, ``medium-replay``.
        method: the learner.
        variant: settings that differ from the method's defaults, ``alpha=1.0``; empty for none.
        seed: of the replica.
        updates: gradient updates done.
        episodes: episodes evaluated.
        mean_return: mean over them; not finite where a diverged policy left the simulator's range.
        std_return: population standard deviation over them.
        normalized_score: 0 for random actions, 100 for the published expert data; None where no reference is
            known.
        win_rate: share of episodes won, in [0, 1]; None where a task cannot be won.
        diverged: whether the replica's parameters or losses stopped being finite.
        execution: what the policy needs when it acts: ``decentralized``, ``sequential`` or ``centralized``.
        config_hash: of the method's configuration and the evaluation's horizon.
        data_hash: content hash of the dataset.
        behavior_return: mean episode return of the dataset.
        versions: packages that took part and how matrices were multiplied, ``marlzoo 0.1.0; ...; products float32
            (medium)``.
        device: where it was trained.
        seconds: time of the lockstep group so far, evaluations included.
    """

    suite: str
    task: str
    source: str
    quality: str
    method: str
    variant: str
    seed: int
    updates: int
    episodes: int
    mean_return: float
    std_return: float
    normalized_score: float | None
    win_rate: float | None
    diverged: bool
    execution: str
    config_hash: str
    data_hash: str
    behavior_return: float | None
    versions: str
    device: str
    seconds: float


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Row))
RUN: tuple[str, ...] = (
    "suite", "task", "source", "quality", "method", "variant", "seed", "config_hash", "data_hash",
)  # fmt: skip
"""Columns that name a run; with ``updates`` they name a row."""

_KINDS: dict[str, str] = {field.name: str(field.type) for field in fields(Row)}


class Results:
    """The rows in one CSV file.

    Every change rewrites the file beside the old one and moves it into place under a lock, so that a kill at
    any moment leaves the old rows or the new ones, and several processes may append.

    Args:
        path: the CSV file; need not exist yet.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def append(self, rows: Iterable[Row]) -> None:
        """Add rows; a row of the same run and update count is replaced, so that repeating a step is harmless.

        Raises:
            DataError: the file holds something else.
            OutputError: it cannot be written.
        """
        with locked(self.path):
            merged = {_key(row): row for row in self.rows()}
            merged.update((_key(row), row) for row in rows)
            write_text_atomic(self.path, _format(merged.values()))

    def rows(self) -> list[Row]:
        """All rows, in the order in which they were first added; empty when there is no file.

        Raises:
            DataError: the file is no results file, or was cut or edited.
        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"cannot read the results file {self.path}: {error}") from error
        return _parse(self.path, text)

    def read(self) -> pd.DataFrame:
        """All rows as a table with the columns :data:`COLUMNS`.

        Raises:
            DataError: the file is no results file, or was cut or edited.
        """
        return frame(self.rows())

    def has(self, **values: Any) -> bool:
        """Whether some row has all the given column values.

        Raises:
            UnknownNameError: no such column.
            DataError: the file is no results file, or was cut or edited.
        """
        for name in values:
            if name not in COLUMNS:
                raise UnknownNameError("result column", name, COLUMNS)
        return any(all(getattr(row, k) == v for k, v in values.items()) for row in self.rows())


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table with the columns :data:`COLUMNS`; what is not known (None) becomes NaN."""
    import pandas as pd

    table = pd.DataFrame({name: [getattr(row, name) for row in rows] for name in COLUMNS})
    numbers = [name for name, kind in _KINDS.items() if kind.startswith("float")]
    return table.astype(dict.fromkeys(numbers, "float64") | {"seed": "int64", "updates": "int64"})


def _key(row: Row) -> tuple[Any, ...]:
    return (*(getattr(row, name) for name in RUN), row.updates)


def _format(rows: Iterable[Row]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(["" if (v := getattr(row, name)) is None else v for name in COLUMNS] for row in rows)
    return text.getvalue()


def _parse(path: Path, text: str) -> list[Row]:
    remedy = "move it away and run the same command again (runs with a checkpoint are evaluated anew)"
    if not text.endswith("\n"):
        raise DataError(f"{path}: the last line is not complete, the file was cut; {remedy}")
    lines = csv.reader(io.StringIO(text), strict=True)
    try:
        header = next(lines, [])
        missing = [name for name in COLUMNS if name not in header]
        if missing or len(header) != len(COLUMNS):
            wrong = f"column {missing[0]!r} is missing" if missing else "it has other columns"
            raise DataError(f"{path} is not a results file of this version of marlzoo: {wrong}; {remedy}")
        rows = []
        for cells in lines:
            place = f"{path}, line {lines.line_num}"
            if len(cells) != len(header):
                raise DataError(f"{place}: {len(cells)} cells instead of {len(header)}; {remedy}")
            values = dict(zip(header, cells, strict=True))
            rows.append(Row(**{name: _value(place, name, values[name]) for name in COLUMNS}))
    except csv.Error as error:
        raise DataError(f"{path}, line {lines.line_num}: not valid CSV ({error}); {remedy}") from error
    return rows


def _value(place: str, name: str, cell: str) -> Any:
    kind = _KINDS[name]
    if kind == "str":
        return cell
    if cell == "" and kind.endswith("None"):
        return None
    try:
        if kind == "bool":
            return {"True": True, "False": False}[cell]
        return int(cell) if kind == "int" else float(cell)
    except (ValueError, KeyError):
        raise DataError(f"{place}: {name} is {cell!r}, expected a value of type {kind}") from None
