"""A result row: what one run reached at one checkpoint, and how it is written as a line of ``rows.csv``."""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.errors import DataError
from marlzoo.system.checksums import CHECKSUM

if TYPE_CHECKING:
    import pandas as pd

    from .store import Line

SCHEMA = 2
"""Version of the columns. Version 1 had none; ``marlzoo results migrate`` reads it."""


@dataclass(frozen=True)
class Row:
    """One run at one checkpoint. Returns are raw and undiscounted, over the evaluation's episodes.

    Args:
        suite: table that the run belongs to.
        task: full task name, ``mamujoco/hopper-3x1``.
        source: who recorded the data, ``omiga`` or ``marlzoo``.
        quality: which of the source's datasets, ``medium-replay``.
        method: the learner.
        variant: settings and preset that the suite's learner names, ``alpha=1.0``; empty for none.
        seed: of the replica.
        updates: gradient updates done.
        episodes: episodes evaluated.
        mean_return: mean over them; not finite where a diverged policy left the simulator's range.
        std_return: population standard deviation over them.
        normalized_score: 0 for random actions, 100 for the reference's expert data, by the references of the day;
            tables compute it anew. None where no reference is known.
        win_rate: share of episodes won, in [0, 1]; None where a task cannot be won.
        diverged: whether the replica's parameters or losses stopped being finite.
        execution: what the policy needs when it acts: ``decentralized``, ``shared_randomness``,
            ``sequential`` or ``centralized``.
        config_hash: of the method's configuration and the evaluation's horizon.
        data_hash: content hash of the dataset.
        behavior_return: mean episode return of the dataset.
        versions: packages that took part and how matrices were multiplied, ``marlzoo 0.1.0; ...; products float32
            (medium)``.
        device: where it was trained.
        seconds: time of the lockstep group so far, evaluations included.
        mean_length: mean number of steps of the evaluation's episodes.
        error: why the run failed, in one line; empty where it did not. Such a row has no return.
        value_mean: mean value of the data's actions in the last update (``value/data_mean``); None for methods
            without values.
        value_drift: how much that value still moved, as a fraction of its largest size so far; see
            :func:`marlzoo.benchmarks.drift.value_drift`.
        weight_ess: effective sample size of the policy's weights in the last update, as a fraction of the batch; None
            for methods without weights.
        preset: the method's preset that was the base of the settings; ``defaults`` for none.
        tuning: how the settings were found, as JSON with the grid, the data and the number of trials; empty where
            they are the preset's and the suite's.
        config: the whole configuration as JSON.
        code: hash of the method's source and of the modules it imports; several joined by ``+`` where the code
            changed while the run was interrupted.
        commit: git commit of the method's source, with ``+`` where files were changed since; empty outside a
            repository.
        machine: processor, cores and system.
        data_transitions: size of the dataset.
        seconds_per_run: ``seconds`` divided by the runs of the group.
        date: when the evaluation ended, UTC, ``2026-01-31T12:00:00Z``.
        action_us: microseconds that the policy took per action of one agent, averaged over the evaluation's lockstep
            episodes; None in rows that older versions wrote.
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
    mean_length: float | None = None
    error: str = ""
    value_mean: float | None = None
    value_drift: float | None = None
    weight_ess: float | None = None
    preset: str = ""
    tuning: str = ""
    config: str = ""
    code: str = ""
    commit: str = ""
    machine: str = ""
    data_transitions: int | None = None
    seconds_per_run: float | None = None
    date: str = ""
    action_us: float | None = None

    @property
    def run(self) -> str:
        """Short name of the run, 12 hexadecimal digits: equal for rows that agree in :data:`RUN`."""
        return run_name(**{name: getattr(self, name) for name in RUN})


COLUMNS: tuple[str, ...] = tuple(field.name for field in fields(Row))
LATER = 1
"""So many of the last columns came later; files without them are read, and have them empty."""
RUN: tuple[str, ...] = (
    "suite", "task", "source", "quality", "method", "variant", "seed", "config_hash", "data_hash",
)  # fmt: skip
"""Columns that name a run; with ``updates`` they name a row."""

_KINDS: dict[str, str] = {field.name: str(field.type) for field in fields(Row)}
_READER: dict[str, Callable[[str], Any]] = {
    "str": str,
    "bool": {"True": True, "False": False}.__getitem__,
    "int": int,
    "float": float,
    "int | None": lambda cell: int(cell) if cell else None,
    "float | None": lambda cell: float(cell) if cell else None,
}
_READERS = tuple(_READER[_KINDS[name]] for name in COLUMNS)
_UPDATES, _ERROR = (1 + COLUMNS.index(name) for name in ("updates", "error"))  # behind the run's name


def run_name(**values: Any) -> str:
    """Short name of a run from the values of :data:`RUN`."""
    text = json.dumps([values[name] for name in RUN])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def to_line(row: Row) -> Line:
    """The cells of a row: the run's short name, then the columns; empty for None."""
    cells = ("" if (value := getattr(row, name)) is None else str(value) for name in COLUMNS)
    return (row.run, *(" ".join(cell.splitlines()) for cell in cells))


def from_line(place: str, line: Line) -> Row:
    """Inverse of :func:`to_line`.

    Raises:
        DataError: a value of another type; the text begins with ``place``.
    """
    try:
        return Row(*(read(cell) for read, cell in zip(_READERS, line[1:], strict=True)))
    except (ValueError, KeyError):
        return from_cells(place, dict(zip(COLUMNS, line[1:], strict=True)))  # names the column


def from_cells(place: str, cells: Mapping[str, str]) -> Row:
    """A row from the text of its columns; columns that are not there have their defaults.

    Raises:
        DataError: a value of another type; the text begins with ``place``.
    """
    return Row(**{name: _value(place, name, cell) for name, cell in cells.items()})


def merge(lines: Iterable[Line]) -> list[Line]:
    """Lines in the order in which they came first; a later one of the same run and updates replaces its predecessor.

    A run that failed once and then went on has not failed.
    """
    found: dict[tuple[str, str], Line] = {}
    for line in lines:
        run = line[0]
        updates = line[_UPDATES]
        failed = line[_ERROR]
        found.pop((run, "failed"), None)
        found[run, "failed" if failed else updates] = line
    return list(found.values())


def frame(rows: Sequence[Row]) -> pd.DataFrame:
    """Rows as a table with the columns ``run`` and :data:`COLUMNS`; what is not known (None) becomes NaN."""
    import pandas as pd

    columns: dict[str, list[Any]] = {"run": [row.run for row in rows]}
    columns |= {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    numbers = [name for name, kind in _KINDS.items() if kind.startswith("float") or kind == "int | None"]
    return pd.DataFrame(columns).astype(
        dict.fromkeys(numbers, "float64") | {"seed": "int64", "updates": "int64"}
    )


def explain(path: Path, header: Sequence[str]) -> str | None:
    """Explains a header of another version, with the remedy; None if it is no results file."""
    if "schema" not in header and {"suite", "method", "updates", "mean_return"} <= set(header):
        return f"written by an older version of marlzoo; run: marlzoo results migrate {shlex.quote(str(path.parent))}"
    if tuple(header[:2]) == ("schema", "run"):
        missing = [repr(name) for name in COLUMNS if name not in header]
        unknown = [repr(name) for name in header[2:] if name not in (*COLUMNS, CHECKSUM)]
        faults = [f"it lacks {', '.join(missing)}"] * bool(missing)
        faults += [f"it has {', '.join(unknown)}, not known here"] * bool(unknown)
        return (
            f"its columns are not those of this version of marlzoo: {' and '.join(faults) or 'their order differs'}; "
            "read it with the version that wrote it, or move the file away"
        )
    return None


def _value(place: str, name: str, cell: str) -> Any:
    try:
        return _READER[_KINDS[name]](cell)
    except (ValueError, KeyError):
        raise DataError(f"{place}: {name} is {cell!r}, expected a value of type {_KINDS[name]}") from None
