"""Results of a suite: the rows from which every table is derived, and the episodes behind them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.errors import DataError, UnknownNameError

from .row import COLUMNS, LATER, RUN, SCHEMA, Row, explain, frame, from_line, merge, to_line
from .store import PACKED, Format, Line, Store

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["COLUMNS", "RUN", "ResultsFile", "Row", "RowEpisodes", "frame"]

REPLACED = "replaced.csv"
REMEDY = "move it away and run the same command again (runs with a checkpoint are evaluated again)"
# For commands that only read.
OF_READERS = (
    "name the folder of a run or its rows.csv; where this is one, move it away and run the command that wrote it "
    "again (runs with a checkpoint are evaluated again)"
)


@dataclass(frozen=True)
class RowEpisodes:
    """The episodes of one row.

    Args:
        run: the row's run, see :attr:`Row.run`.
        updates: the row's.
        returns: of every episode.
        lengths: their numbers of steps.
        wins: whether each was won; empty where a task cannot be won.
    """

    run: str
    updates: int
    returns: tuple[float, ...]
    lengths: tuple[int, ...]
    wins: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Estimated:
    """A return that was estimated from the training data, not measured; see :mod:`marlzoo.benchmarks.choice`.

    Args:
        run: the row's run, see :attr:`Row.run`.
        updates: the row's.
        value: expected discounted return.
    """

    run: str
    updates: int
    value: float


class ResultsFile:
    """The rows in ``rows.csv``, the episodes in ``episodes.csv`` and estimates in ``estimates.csv`` beside it.

    Several processes may append; what was appended survives a kill. Until :meth:`publish` new rows are in
    ``rows.journal`` beside the file; :meth:`rows` reads both. See :mod:`marlzoo.benchmarks.store`. The files may be
    compressed (``rows.csv.gz``) and stay so.

    Args:
        path: the CSV file of the rows, with or without ``.gz``; need not exist yet.
        remedy: what errors say can be done about a file that cannot be read.
    """

    def __init__(self, path: str | os.PathLike[str], remedy: str = REMEDY) -> None:
        self._remedy = remedy
        self.path = Path(os.fspath(path).removesuffix(PACKED))
        form = Format(SCHEMA, ("run", *COLUMNS), merge, remedy, explain, LATER)
        self._rows = Store(self.path, form)
        self._episodes = Store(
            self.path.with_name("episodes.csv"),
            Format(SCHEMA, ("run", "updates", "returns", "lengths", "wins"), _newest, remedy),
        )
        self._estimates = Store(
            self.path.with_name("estimates.csv"),
            Format(SCHEMA, ("run", "updates", "value"), _newest, remedy),
        )
        self._replaced = Store(self.path.with_name(REPLACED), replace(form, merge=list))

    def exists(self) -> bool:
        """Whether there is a file, or a journal of one."""
        return self._rows.exists()

    def append(
        self, rows: Iterable[Row], episodes: Iterable[RowEpisodes] = (), estimates: Iterable[Estimated] = ()
    ) -> None:
        """Add rows; a row of the same run and update count is replaced, so that repeating a step is harmless.

        Raises:
            OutputError: they cannot be written.
        """
        # First: every row has its episodes.
        self._episodes.append([_episodes_line(found) for found in episodes])
        self._estimates.append([(each.run, str(each.updates), repr(each.value)) for each in estimates])
        self._rows.append([to_line(row) for row in rows])

    def rows(self) -> list[Row]:
        """All rows, in the order in which they were first added; empty when there is no file.

        Raises:
            DataError: the file is no results file, or was cut or edited; the text names the line.
        """
        return [from_line(str(self.path), line) for line in self._rows.read()]

    def episodes(self) -> dict[tuple[str, int], RowEpisodes]:
        """The episodes of every row, by run and updates.

        Raises:
            DataError: as for :meth:`rows`.
        """
        found = [_episodes(self._episodes.path, line) for line in self._episodes.read()]
        return {(each.run, each.updates): each for each in found}

    def estimates(self) -> dict[tuple[str, int], float]:
        """The estimated returns that are there, by run and updates.

        Raises:
            DataError: as for :meth:`rows`.
        """
        try:
            return {(run, int(count)): float(value) for run, count, value in self._estimates.read()}
        except ValueError as error:
            raise DataError(f"{self._estimates.path}: {error}; {self._remedy}") from None

    def read(self) -> pd.DataFrame:
        """All rows as a table with the columns ``run`` and :data:`COLUMNS`, and ``estimate`` where there are some.

        Raises:
            DataError: the file is no results file, or was cut or edited.
        """
        made = frame(self.rows())
        known = self.estimates()
        if not known:
            return made
        pairs = zip(made["run"], made["updates"], strict=True)
        return made.assign(estimate=[known.get(pair, math.nan) for pair in pairs])

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

    def faults(self) -> list[str]:
        """A message for every damaged line of the rows and the files beside them; empty if there is none."""
        return [fault for store in self._stores() for fault in store.faults()]

    def overwrite(self, rows: Iterable[Row]) -> None:
        """Replace the file of rows as one step; journals stay. The caller holds the lock of its folder.

        Raises:
            OutputError: it cannot be written; it is left as it was.
        """
        self._rows.overwrite([to_line(row) for row in rows])

    def publish(self, *, lazy: bool = False) -> None:
        """Bring all rows of finished writers into the CSV files; see :meth:`Store.publish`."""
        for store in (self._episodes, self._estimates, self._rows):
            store.publish(lazy=lazy)

    def compress(self, wanted: bool = True) -> list[Path]:
        """Bring rows and the files beside them into compressed ones, or back into plain ones.

        Returns:
            The files that were made.

        Raises:
            DataError: one is broken.
            OutputError: one cannot be written; it is left as it was.
        """
        return [store.packed if wanted else store.path for store in self._stores() if store.compress(wanted)]

    def close(self) -> None:
        """This process has nothing more to append for now."""
        for store in (self._episodes, self._estimates, self._rows):
            store.close()

    def _stores(self) -> tuple[Store, ...]:
        return self._rows, self._episodes, self._estimates, self._replaced

    def remove(self, unwanted: Callable[[Row], bool]) -> list[Row]:
        """Take rows out, and keep them in ``replaced.csv`` beside the file.

        Raises:
            DataError: a broken file, or another process is just writing such rows.
            OutputError: a file cannot be written.
        """
        place = str(self.path)
        lines = [line for line in self._rows.read() if unwanted(from_line(place, line))]
        self._replaced.append(lines)  # before they are taken out, so that no kill loses them
        self._replaced.publish()
        removed = set(lines)
        return [from_line(place, line) for line in self._rows.remove(lambda line: line in removed)]

    def require_written(self, unwanted: Callable[[Row], bool]) -> None:
        """Find out whether :meth:`remove` can take rows out.

        Raises:
            DataError: a broken file, or another process is just writing such rows.
            OutputError: a file cannot be written.
        """
        self._rows.require_written(lambda line: unwanted(from_line(str(self.path), line)))


def compress(folder: Path, wanted: bool = True) -> list[Path]:
    """Compress the results in a folder and the folders below it, or bring them back; returns the files made.

    Raises:
        DataError: no such folder, or a file is broken.
        OutputError: a file cannot be written; it is left as it was.
    """
    if not folder.is_dir():
        raise DataError(f"no folder {folder}; name the folder that holds rows.csv")
    places = {path.parent for name in ("rows.csv", f"rows.csv{PACKED}") for path in folder.rglob(name)}
    return [made for place in sorted(places) for made in ResultsFile(place / "rows.csv").compress(wanted)]


def _newest(lines: Iterable[Line]) -> list[Line]:
    return list({line[:2]: line for line in lines}.values())


def _episodes_line(found: RowEpisodes) -> Line:
    numbers = [" ".join(map(repr, values)) for values in (found.returns, found.lengths)]
    return (found.run, str(found.updates), *numbers, " ".join(str(int(win)) for win in found.wins))


def _episodes(path: Path, line: Line) -> RowEpisodes:
    run, updates, returns, lengths, wins = line
    try:
        return RowEpisodes(
            run,
            int(updates),
            tuple(map(float, returns.split())),
            tuple(map(int, lengths.split())),
            tuple(win == "1" for win in wins.split()),
        )
    except ValueError as error:
        raise DataError(f"{path}: the episodes of run {run} after {updates} updates: {error}") from None
