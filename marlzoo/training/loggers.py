"""Loggers: destinations of a run's metrics and evaluations during training."""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.errors import DataError
from marlzoo.system.checksums import CHECKSUM, faults, has_checksums, line_checksum
from marlzoo.system.files import output_error, write_text_atomic
from marlzoo.training.evaluation import Evaluation, Metrics

POINTS = 200  # of a metric's curve over a whole run
DIGITS = ".6g"  # of a metric

Floats = NDArray[np.float64]


class Logger(Protocol):
    """Receives what a run measures. Methods are called in the order ``start``, any of the others, ``close``."""

    def start(self, algorithm: Algorithm) -> None:
        """Start, or resume after ``algorithm.updates`` updates: entries beyond them are void."""

    def log_metrics(self, updates: int, metrics: Metrics) -> None:
        """Metrics of the update number ``updates``, each ``[R]``; see :class:`Loggers` for which updates."""

    def log_evaluation(self, evaluation: Evaluation) -> None:
        """An evaluation in the simulator. Online training has none."""

    def flush(self) -> None:
        """Bring everything to its place: a checkpoint is about to be written."""

    def close(self) -> None:
        """The run is over, or was interrupted."""


def logging_interval(total: int) -> int:
    """Updates between two that are logged in a run of ``total`` updates."""
    return max(1, math.ceil(total / POINTS))


class Loggers:
    """Several loggers as one. They see the metrics of a few updates only, because reading them waits for the device.

    These are the first update, every ``ceil(total / 200)``-th, every one that is evaluated, and the last. The values
    are those of the one update, not averages.

    Args:
        loggers: the loggers, which are closed when the block ends.
        algorithm: the learner, restored from its checkpoint if there is one.
        total: updates of the whole run.
    """

    def __init__(self, loggers: Sequence[Logger], algorithm: Algorithm, total: int) -> None:
        self._loggers = list(loggers)
        self._total = total
        self._interval = logging_interval(total)
        for logger in self._loggers:
            logger.start(algorithm)

    def __enter__(self) -> Loggers:
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.close()

    def wants(self, updates: int) -> bool:
        """Whether the metrics of an update are logged, evaluated or not."""
        return bool(self._loggers) and (updates % self._interval == 0 or updates in (1, self._total))

    def log_metrics(self, updates: int, metrics: Metrics) -> None:
        """See :class:`Logger`."""
        for logger in self._loggers:
            logger.log_metrics(updates, metrics)

    def log_evaluation(self, evaluation: Evaluation) -> None:
        """See :class:`Logger`."""
        for logger in self._loggers:
            logger.log_evaluation(evaluation)

    def flush(self) -> None:
        """See :class:`Logger`."""
        for logger in self._loggers:
            logger.flush()


def to_numpy(metrics: Mapping[str, Tensor]) -> Metrics:
    """Metrics on the host; waits for the device."""
    return {name: value.detach().cpu().numpy() for name, value in metrics.items()}


class MetricsFile:
    """A logger that writes ``metrics.csv``: one line per logged update and replica.

    The first columns are ``updates`` and what tells the replicas apart; each metric has a column of its own, with six
    digits; the last is a checksum of the line. A resumed run continues the same file.

    Args:
        path: of the file.
        replicas: for each replica, values of the columns that tell it apart; default: its seed.

    Raises:
        DataError: from ``start``: the file is of other replicas, damaged, or no such file.
        OutputError: from ``start``, ``log_metrics`` and ``flush``: it cannot be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], replicas: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        self.path = Path(path)
        self._replicas = None if replicas is None else [_texts(replica) for replica in replicas]
        self._points: dict[int, dict[str, Floats]] = {}
        self._columns: list[str] = []
        self._file: IO[str] | None = None

    def start(self, algorithm: Algorithm) -> None:
        """Read the existing file, and drop entries beyond the learner's updates."""
        if self._replicas is None:
            self._replicas = [{"seed": str(seed)} for seed in algorithm.seeds]
        points = _read(self.path, self._replicas) if algorithm.updates else {}
        self._points = {updates: point for updates, point in points.items() if updates <= algorithm.updates}
        self._columns = list(dict.fromkeys(name for point in self._points.values() for name in point))
        self._rewrite()

    def log_metrics(self, updates: int, metrics: Metrics) -> None:
        """Add a line per replica."""
        # As a resumed run reads them, so that what is derived from them is the same without an interruption.
        point = {name: _rounded(value) for name, value in metrics.items()}
        self._points[updates] = point
        new = [name for name in point if name not in self._columns]
        if new:
            self._columns += new
            self._rewrite()
        else:
            self._append(self._lines(updates, point))

    def log_evaluation(self, evaluation: Evaluation) -> None:
        """Nothing: evaluations are result rows."""

    def flush(self) -> None:
        """Bring the lines to the disk."""
        if self._file is not None:
            os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def at(self, updates: int) -> dict[str, Floats]:
        """The metrics logged for an update, ``[R]`` each; empty where it was not logged."""
        return dict(self._points.get(updates, {}))

    def curve(self, name: str, last: int) -> tuple[Floats, Floats]:
        """A metric up to the update ``last``: updates ``[K]`` and values ``[K, R]``; K is 0 if it is unknown."""
        found = [(u, p[name]) for u, p in sorted(self._points.items()) if u <= last and name in p]
        values = np.array([value for _, value in found]).reshape(len(found), len(self._keys()))
        return np.array([updates for updates, _ in found], np.float64), values

    def _keys(self) -> list[dict[str, str]]:
        assert self._replicas is not None, "start() comes first"
        return self._replicas

    def _rewrite(self) -> None:
        self.close()
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow([*self._header(), CHECKSUM])
        for updates, point in sorted(self._points.items()):
            writer.writerows(self._lines(updates, point))
        write_text_atomic(self.path, text.getvalue())

    def _header(self) -> list[str]:
        return ["updates", *self._keys()[0], *self._columns]

    def _lines(self, updates: int, point: Mapping[str, Floats]) -> list[list[str]]:
        """A line per replica, with its checksum."""
        found = []
        for r, replica in enumerate(self._keys()):
            values = [f"{point[name][r]:{DIGITS}}" if name in point else "" for name in self._columns]
            cells = [str(updates), *replica.values(), *values]
            found.append([*cells, line_checksum(self._header(), cells)])
        return found

    def _append(self, lines: Sequence[Sequence[str]]) -> None:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        try:
            if self._file is None:
                self._file = open(self.path, "a", encoding="utf-8", newline="")  # noqa: SIM115
            self._file.write(text.getvalue())
            self._file.flush()
        except OSError as error:
            raise output_error(self.path, error) from error


def _rounded(values: Any) -> Floats:
    return np.array([float(f"{value:{DIGITS}}") for value in np.asarray(values, np.float64)])


def _texts(replica: Mapping[str, Any]) -> dict[str, str]:
    return {name: str(value) for name, value in replica.items()}


def _read(path: Path, replicas: Sequence[Mapping[str, str]]) -> dict[int, dict[str, Floats]]:
    """The logged updates of a file. An update without a line for every replica was cut off, and is left out."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise _foreign(path, str(error)) from error
    if has_checksums(path) and (damaged := faults(path)):
        raise _foreign(path, damaged[0].removeprefix(f"{path}, "))
    complete = text[: text.rfind("\n") + 1]  # a kill may have cut the last line
    header, *lines = list(csv.reader(io.StringIO(complete))) or [[]]
    if header[-1:] == [CHECKSUM]:  # files of older versions have none
        header = header[:-1]
        lines = [line[:-1] for line in lines]
    fixed = ["updates", *replicas[0]]
    if header[: len(fixed)] != fixed:
        raise _foreign(path, f"its columns are {', '.join(header[:6])}")
    names = header[len(fixed) :]
    points = {}
    for first in range(0, len(lines) - len(replicas) + 1, len(replicas)):
        block = lines[first : first + len(replicas)]
        if [line[1 : len(fixed)] for line in block] != [list(replica.values()) for replica in replicas]:
            raise _foreign(path, f"line {first + 2} is of another replica")
        try:
            cells = zip(names, *(line[len(fixed) :] for line in block), strict=True)
            # A stage may report fewer metrics: what was not logged stays unknown.
            points[int(block[0][0])] = {
                name: np.array([float(cell or "nan") for cell in column])
                for name, *column in cells
                if any(column)
            }
        except ValueError as error:
            raise _foreign(path, f"line {first + 2}: {error}") from error
    return points


def _foreign(path: Path, what: str) -> DataError:
    return DataError(
        f"{path}: not the metrics of this run ({what}); move it away; the run then continues in a new file"
    )
