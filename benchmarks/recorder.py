"""Records of a lockstep group: identified rows, episodes, and the cause of a failure."""

from __future__ import annotations

import inspect
import json
import traceback
from collections.abc import Iterable, Sequence
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from marlzoo.errors import lack_of_memory
from marlzoo.registry import find_method
from marlzoo.system.files import write_text_atomic
from marlzoo.system.provenance import commit_of, machine, now

from .drift import ESS, VALUE, value_drift
from .plan import Group, Run
from .references import normalized_score
from .results import Estimated, Row, RowEpisodes
from .suites import Suite

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm
    from marlzoo.training.evaluation import Evaluation
    from marlzoo.training.loggers import MetricsFile

PACKAGES = ("marlzoo", "torch", "numpy", "mujoco", "gymnasium")


class RowSink(Protocol):
    """Destination of rows: a :class:`marlzoo.benchmarks.results.ResultsFile`, or a sender to one elsewhere."""

    def append(
        self, rows: Iterable[Row], episodes: Iterable[RowEpisodes] = (), estimates: Iterable[Estimated] = ()
    ) -> None:
        """Add rows, their episodes, and returns that were estimated for them."""

    def rows(self) -> list[Row]:
        """The rows that are there, at least those of the runs that are trained."""

    def close(self) -> None:
        """There is nothing more to append for now."""


class RowRecorder:
    """Writes the rows of one group.

    Args:
        results: where they go.
        suite: that the group is part of.
        group: the runs, one per replica.
        algorithm: their learner.
        metrics: what its updates report.
        device: where it is trained.
    """

    def __init__(
        self,
        results: RowSink,
        suite: Suite,
        group: Group,
        algorithm: Algorithm,
        metrics: MetricsFile,
        device: str,
    ) -> None:
        self._results = results
        self._suite = suite
        self._group = group
        self._algorithm = algorithm
        self._metrics = metrics
        self._same = _shared(group.learner.method, device)
        self._same["preset"] = getattr(algorithm, "preset", "")

    def record(self, found: Evaluation) -> None:
        """Add the rows of an evaluation; one restored from a checkpoint adds only missing rows."""
        known = set() if found.metrics else self._known
        rows = []
        episodes = []
        for replica, run in enumerate(self._group.runs):
            if (run.name(self._suite), found.updates, found.episodes.returns.shape[1]) not in known:
                rows.append(self._row(run, found, replica))
                episodes.append(self._episodes(run, found, replica))
        self._results.append(rows, episodes)

    def estimate(self, updates: int, values: Sequence[float]) -> None:
        """Add the returns that were estimated for the replicas after so many updates."""
        runs = [run.name(self._suite) for run in self._group.runs]
        self._results.append(
            (), (), [Estimated(run, updates, value) for run, value in zip(runs, values, strict=True)]
        )

    @cached_property
    def _known(self) -> set[tuple[str, int, int]]:
        return {(row.run, row.updates, row.episodes) for row in self._results.rows() if not row.error}

    def _row(self, run: Run, found: Evaluation, replica: int) -> Row:
        played = found.episodes
        group = self._group
        mean = float(played.returns[replica].mean())
        reported = self._metrics.at(found.updates)
        updates, values = self._metrics.curve(VALUE, found.updates)
        return Row(
            **run.names(self._suite),
            **self._same,
            updates=found.updates,
            episodes=played.returns.shape[1],
            mean_return=mean,
            std_return=float(played.returns[replica].std()),
            normalized_score=normalized_score(run.source.task, mean, run.source.quality, run.source.source),
            win_rate=None if played.wins is None else float(played.wins[replica].mean()),
            diverged=bool(found.diverged[replica]) or not np.isfinite(mean),
            execution=self._algorithm.policy().execution,
            behavior_return=run.source.behavior,
            versions="; ".join(filter(None, (_versions(), found.arithmetic))),
            seconds=round(found.seconds, 3),
            mean_length=float(played.lengths[replica].mean()),
            value_mean=_one(reported, VALUE, replica),
            value_drift=value_drift(updates, values[:, replica]),
            weight_ess=_one(reported, ESS, replica),
            tuning=run.learner.tuning,
            config=json.dumps(self._algorithm.configs[replica].to_dict(), sort_keys=True),
            code=found.code,
            data_transitions=run.source.transitions or None,
            seconds_per_run=round(found.seconds / len(group.runs), 3),
            date=found.date,
            action_us=None
            if played.seconds_per_action is None
            else round(1e6 * played.seconds_per_action, 3),
        )

    def _episodes(self, run: Run, found: Evaluation, replica: int) -> RowEpisodes:
        played = found.episodes
        return RowEpisodes(
            run.name(self._suite),
            found.updates,
            tuple(played.returns[replica].tolist()),
            tuple(played.lengths[replica].tolist()),
            () if played.wins is None else tuple(played.wins[replica].tolist()),
        )


def record_failure(
    results: RowSink,
    suite: Suite,
    group: Group,
    updates: int,
    device: str,
    error: BaseException,
    file: Path,
) -> str:
    """Mark the runs of a group as failed in a row each, and write the traceback to a file.

    Args:
        results: where the rows go.
        suite: that the group is part of.
        group: that failed.
        updates: that it had done.
        device: where it was trained.
        error: what ended it.
        file: for the traceback.

    Returns:
        The error in one line.

    Raises:
        OutputError: the rows or the file cannot be written.
    """
    write_text_atomic(file, "".join(traceback.format_exception(error)))
    text = one_line(error)
    results.append([_failed(suite, run, updates, device, text) for run in group.runs])
    return text


def one_line(error: BaseException) -> str:
    """An error's kind and the first line of its text; of memory that does not suffice what can be done."""
    if told := lack_of_memory(error):
        return told
    first = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def _failed(suite: Suite, run: Run, updates: int, device: str, text: str) -> Row:
    nothing = float("nan")
    return Row(
        **run.names(suite),
        **_shared(run.learner.method, device),
        updates=updates,
        episodes=0,
        mean_return=nothing,
        std_return=nothing,
        normalized_score=None,
        win_rate=None,
        diverged=False,
        execution="",
        behavior_return=run.source.behavior,
        versions=_versions(),
        seconds=0.0,
        error=text,
        data_transitions=run.source.transitions or None,
        date=now(),
    )


def _shared(method: str, device: str) -> dict[str, Any]:
    """Columns that are the same for all rows of a method here and now."""
    source = Path(inspect.getfile(find_method(method)))
    return {"device": device, "machine": machine(), "commit": commit_of(source)}


def _one(metrics: dict[str, Any], name: str, replica: int) -> float | None:
    return float(metrics[name][replica]) if name in metrics else None


@cache
def _versions() -> str:
    """Versions of this process's packages; finding them reads files, which a row must not."""
    return "; ".join(f"{name} {found}" for name in PACKAGES if (found := _version(name)))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


BRIEF = {VALUE: "value", ESS: "ess"}


def brief(metrics: dict[str, Any]) -> str:
    """Means over the replicas of the metrics that a progress line shows, ``value 12.3, ess 0.41``."""
    shown = [
        f"{short} {float(np.mean(metrics[name])):.3g}" for name, short in BRIEF.items() if name in metrics
    ]
    return ", ".join(shown)
