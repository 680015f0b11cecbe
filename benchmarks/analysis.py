"""``marlzoo.Results``: the results of one or several runs, as tables of numbers."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marlzoo.errors import ConfigError, DataError, UnknownNameError
from marlzoo.system.checksums import require_sound

from . import aggregate, tables
from .sheet import Sheet
from .stats import Floats, bands
from .summary import CELL, read, results_at, summary, with_one_name

WRITTEN = (".html", ".pdf", ".png", ".svg")  # ends of files that are made of results
LEARNER = "learner"
DATASET = "dataset"
POINT = [DATASET, LEARNER, "updates"]
_NAMING = [name for name in CELL if name != "execution"]  # a row that failed does not say its execution


class Results:
    """The results of one or several runs; every table and figure is derived from them.

    Args:
        paths: folders that hold ``rows.csv``, or such files.

    Raises:
        DataError: no such file, no rows in it, or not a results file.
        ConfigError: anything but a path.
    """

    def __init__(self, *paths: str | os.PathLike[str]) -> None:
        for path in paths:
            _require_path(path)
        if not paths:
            raise DataError("no results: name a run's folder, for instance results/demo")
        self._read([results_at(Path(path)).path for path in paths], read(Path(path) for path in paths))

    @classmethod
    def of(cls, rows: pd.DataFrame) -> Results:
        """The results that some rows make; they have no folder, and so no metrics."""
        made = cls.__new__(cls)
        made._read([], rows)
        return made

    def only(self, runs: Collection[str]) -> Results:
        """The part of these runs, named as in the column ``run``."""
        made = type(self).__new__(type(self))
        made._read(self._files, self._rows[self._rows["run"].isin(list(runs))])
        return made

    def _read(self, files: Sequence[Path], rows: pd.DataFrame) -> None:
        self._files = tuple(files)
        self._rows = rows

    @functools.cached_property
    def _named(self) -> tuple[pd.DataFrame, list[str]]:
        """One line per dataset and learner, and notes. Made when asked for: often only a part of the rows is."""
        return aggregate.named(summary(self._rows))

    @property
    def _cells(self) -> pd.DataFrame:
        return self._named[0]

    @property
    def notes(self) -> list[str]:
        """Notes that go with the names of learners and datasets."""
        return self._named[1]

    def __repr__(self) -> str:
        """Where the rows are from and how many there are."""
        return f"Results({self.title}: {len(self._rows)} rows, {len(self._cells)} cells)"

    def _repr_html_(self) -> str:
        return str(self.table().to_html(index=False))

    @property
    def folders(self) -> tuple[Path, ...]:
        """Those of the runs' files."""
        return tuple(dict.fromkeys(file.parent for file in self._files))

    @property
    def title(self) -> str:
        """Names the folders."""
        return ", ".join(map(str, self.folders)) or "results"

    @property
    def learners(self) -> list[str]:
        """Names of the learners: methods, with the settings in which they differ."""
        return list(dict.fromkeys(self._cells[LEARNER]))

    @property
    def datasets(self) -> list[str]:
        """Names of the datasets, without the parts that all share."""
        return list(dict.fromkeys(self._cells[DATASET]))

    def frame(self) -> pd.DataFrame:
        """All rows, one per run and checkpoint, with the columns of ``rows.csv``."""
        return self._rows.copy()

    def table(self) -> pd.DataFrame:
        """One line per dataset and learner, over seeds; columns as in :func:`marlzoo.benchmarks.summary.summary`."""
        return self._cells.copy()

    def sheets(self, title: str = "", command: str = "", reference: str = "") -> list[Sheet]:
        """The tables for people; see :func:`marlzoo.benchmarks.tables.sheets`."""
        return tables.sheets(self._rows, title or self.title, command, reference)

    def failures(self) -> pd.DataFrame:
        """The rows of runs that failed; their column ``error`` says why."""
        return self._rows[self._rows["error"] != ""].copy()

    def classes(self) -> dict[str, aggregate.Runs]:
        """The last checkpoints of all runs by execution class; only runs of one class are comparable."""
        return {kind: aggregate.select_runs(self._rows, cells) for kind, cells in tables.classes(self._cells)}

    def scopes(self) -> dict[tuple[str, str], aggregate.Runs]:
        """Groups of runs that are ranked together: one suite and one execution class each.

        Returns:
            By suite and class; the suite's name is empty where all rows are of one. Over ``"all suites"`` only where
            two learners at least ran on all datasets of a class.
        """
        suites = list(dict.fromkeys(self._cells["suite"]))
        if len(suites) == 1:
            return {("", kind): runs for kind, runs in self.classes().items()}
        found = {}
        for kind, runs in self.classes().items():
            cells = self._cells[self._cells["execution"] == kind]
            if len(runs.complete()) > 1:
                found["all suites", kind] = runs
            for suite in suites:
                datasets = list(dict.fromkeys(cells.loc[cells["suite"] == suite, DATASET]))
                if datasets:
                    found[suite, kind] = runs.over(datasets)
        return found

    def curves(self, column: str = "mean_return") -> pd.DataFrame:
        """Learning curves: the mean of a result column over seeds at every checkpoint.

        Args:
            column: of the rows, with numbers.

        Returns:
            Columns ``dataset``, ``learner``, ``updates``, ``seeds``, ``mean``, ``low`` and ``high`` (95 % bootstrap
            interval, NaN for fewer than three seeds). Checkpoints that not all seeds have reached yet have fewer
            seeds.

        Raises:
            UnknownNameError: there is no such column of numbers.
        """
        numbers = self._rows.select_dtypes("number").columns
        if column not in numbers:
            raise UnknownNameError("column of numbers", column, numbers)
        rows = self.named_rows()
        rows = rows[rows["error"] == ""].drop_duplicates([*_NAMING, "seed", "updates"], keep="last")
        return curves_of(rows, column)

    def metric_names(self) -> list[str]:
        """Names of all metrics that the runs' updates reported."""
        found = {column for file in self._metric_files() for column in _metric_columns(file)}
        return sorted(column for column in found if "/" in column)

    def metrics(self, name: str, points: int = 100, required: bool = True) -> pd.DataFrame:
        """What updates reported (``metrics/*.csv``), as :meth:`curves` has it.

        Args:
            name: of the metric, for instance ``value/data_mean``.
            points: keep about so many updates of each file.
            required: whether it is an error that no run has the metric.

        Returns:
            As :meth:`curves`.

        Raises:
            UnknownNameError: no run has the metric; lists the nearest of :meth:`metric_names`.
        """
        names = self.named_rows().drop_duplicates("run").set_index("run")[[DATASET, LEARNER]]
        found = [part for part in (_metric(file, name, points) for file in self._metric_files()) if len(part)]
        if not found and required:
            raise UnknownNameError("metric of these runs", name, self.metric_names())
        if not found:
            return curves_of(pd.DataFrame(columns=[*POINT, name]), name)
        values = pd.concat(found, ignore_index=True).drop_duplicates(["run", "updates"], keep="last")
        values = values.join(names, on="run", how="inner")
        return curves_of(values.dropna(subset=[name]), name)

    def profiles(self, thresholds: Sequence[float] = aggregate.THRESHOLDS) -> pd.DataFrame:
        """Performance profiles: the share of each learner's runs that reach each normalized score.

        Returns:
            Columns ``suite``, ``execution``, ``learner``, ``score``, ``share``, ``low`` and ``high``, for each of
            :meth:`scopes`; learners that did not run on all its datasets, and tasks without a reference, have none.
        """
        frames = [
            aggregate.profiles(runs, thresholds).assign(suite=suite, execution=kind)
            for (suite, kind), runs in self.scopes().items()
        ]
        return pd.concat(frames, ignore_index=True)

    def ranks(self) -> pd.DataFrame:
        """Mean rank of every learner that ran on all datasets of one of :meth:`scopes`; 1 is the best.

        Returns:
            Columns ``suite``, ``execution``, ``learner``, ``rank``, ``low`` and ``high``, the best of a scope first.
        """
        lines = [
            (*scope, learner, *place)
            for scope, runs in self.scopes().items()
            for learner, place in sorted(aggregate.ranks(runs).items(), key=lambda item: item[1][0])
        ]
        return pd.DataFrame(lines, columns=["suite", "execution", LEARNER, "rank", "low", "high"])

    def write(self, folder: str | os.PathLike[str], title: str = "", reference: str = "") -> None:
        """Write the tables into a folder; see :func:`marlzoo.benchmarks.tables.write`."""
        tables.write(self._rows, Path(folder), title or self.title, "", reference)

    def named_rows(self) -> pd.DataFrame:
        """All rows with the columns ``dataset`` and ``learner``."""
        names = self._cells.drop_duplicates(_NAMING)[[*_NAMING, DATASET, LEARNER]]
        return with_one_name(self._rows).merge(names, on=_NAMING, how="inner")

    def _metric_files(self) -> Iterable[Path]:
        for folder in self.folders:
            # A run that was trained again in a group of another size has two files; the newer one comes last.
            yield from sorted((folder / "metrics").glob("*.csv"), key=lambda file: file.stat().st_mtime)


def scope_name(suite: str, execution: str) -> str:
    """Title of a comparison of one of :meth:`Results.scopes`."""
    return f"{suite}: {execution}" if suite else execution


def _require_path(path: Any) -> None:
    """Refuse what is no path of results, with the call that was meant."""
    if isinstance(path, Results):
        raise ConfigError(
            "results stand in a path's place; give the folders that they are from: *results.folders"
        )
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(
            f"a path is {path!r}; give folders that hold rows.csv, each as an argument of its own"
        )
    if Path(path).suffix.lower() in WRITTEN and not Path(path).is_dir():
        raise ConfigError(f"{path} stands among the results; the file to write is out={os.fspath(path)!r}")


def table(*paths: str | os.PathLike[str]) -> pd.DataFrame:
    """The table of one or several runs: one line per dataset and learner; see :meth:`Results.table`.

    Raises:
        DataError: as :class:`Results`.
    """
    return Results(*paths).table()


def records(frame: pd.DataFrame, digits: int | None = None) -> list[dict[str, Any]]:
    """Lines of a table as plain values for JSON, with None for numbers that are not finite.

    Args:
        frame: the table.
        digits: significant digits to keep; None: all.
    """

    def as_python(value: Any) -> Any:
        if not isinstance(value, float):
            return value
        if not math.isfinite(value):
            return None
        return value if digits is None else float(f"{value:.{digits}g}")

    return [{str(name): as_python(v) for name, v in line.items()} for line in frame.to_dict("records")]


def curves_of(rows: pd.DataFrame, column: str) -> pd.DataFrame:
    """Mean and interval over seeds of a column, by dataset, learner and updates."""
    lines = []
    for (dataset, learner), part in rows.groupby([DATASET, LEARNER], sort=False):
        counts: dict[int, list[tuple[Any, Floats]]] = {}
        for updates, values in part.groupby("updates")[column]:
            sample = values.to_numpy(dtype=np.float64)
            counts.setdefault(len(sample), []).append((updates, sample))
        for seeds, found in counts.items():  # checkpoints with equally many seeds in one pass
            samples = np.stack([sample for _, sample in found])
            ends = zip(samples.mean(-1), *bands(samples), strict=True)
            lines += [
                (dataset, learner, updates, seeds, *end)
                for (updates, _), end in zip(found, ends, strict=True)
            ]
    made = pd.DataFrame(lines, columns=[*POINT, "seeds", "mean", "low", "high"])
    # Datasets and learners as they came, updates from the first to the last.
    order = {name: k for k, name in enumerate(dict.fromkeys([*rows[DATASET], *rows[LEARNER]]))}
    return made.sort_values(POINT, key=lambda c: c if c.name == "updates" else c.map(order), kind="stable")


def _metric_columns(file: Path) -> list[str]:
    """The columns of a file of metrics."""
    try:
        return list(pd.read_csv(file, nrows=0).columns)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{file}: not a file of metrics ({error}); move it away") from error


def _metric(file: Path, name: str, points: int) -> pd.DataFrame:
    """A metric of a file, thinned: columns ``run``, ``updates`` and the metric; empty where it has none."""
    require_sound(file)
    try:
        head = pd.read_csv(file, nrows=0).columns
        if not {"run", "updates", name} <= set(head):
            return pd.DataFrame()
        kinds = {"run": str, "updates": int, name: float}  # a run's name may be all digits
        found = pd.read_csv(file, usecols=list(kinds), dtype=kinds)
    except (OSError, ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{file}: not a file of metrics ({error}); move it away") from error
    updates = np.sort(found["updates"].unique())
    kept = updates[:: max(1, len(updates) // points)]
    return found[found["updates"].isin([*kept, *updates[-1:]])]
