"""Online training: R learners collect rollouts from E copies each of one environment, all in lockstep.

On-policy methods learn from each rollout as it is. Methods whose settings derive from
:class:`marlzoo.config.ReplayConfig` learn from batches out of all that was collected.
"""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import ReplayConfig
from marlzoo.console import inform
from marlzoo.envs.base import BatchedEnv
from marlzoo.errors import CheckpointError, ConfigError
from marlzoo.method_faults import require_metrics, require_policy, told
from marlzoo.training import checkpoint as checkpoints
from marlzoo.training.collector import Collector as Collector
from marlzoo.training.collector import Explorer
from marlzoo.training.collector import OnlineSettings as OnlineSettings
from marlzoo.training.collector import online_settings as online_settings
from marlzoo.training.compilation import freed_memory_kept
from marlzoo.training.loggers import Logger, Loggers, to_numpy
from marlzoo.training.replay_buffer import ReplayBuffer


class UsesReplay(Explorer, Protocol):
    """What an online method has that learns from a replay."""

    def sequences(self) -> tuple[int, bool]:
        """Steps of the sequences that it learns from, and whether they may start anywhere in an episode."""


@dataclass(frozen=True)
class CurvePoint:
    """One point of one replica's learning curve: episodes that ended since the last point.

    Args:
        seed: of the replica.
        updates: updates done.
        steps: team steps taken by this replica, all copies together.
        episodes: episodes that ended.
        mean_return: their mean return under exploration; None when none ended (so are the next two).
        std_return: standard deviation.
        mean_length: mean number of steps.
        diverged: whether a parameter is not finite.
        seconds: training time so far.
    """

    seed: int
    updates: int
    steps: int
    episodes: int
    mean_return: float | None
    std_return: float | None
    mean_length: float | None
    diverged: bool
    seconds: float


class OnlineTrainer:
    """Rounds of collecting and learning, one call each.

    Args:
        algorithm: the learner.
        env: with ``R * config.num_envs`` copies of its task.

    Raises:
        SpecError: environment and learner do not fit.
        ConfigError: the replay has no room for one rollout.
        MethodError: the method's own code breaks a rule that all methods keep.
    """

    def __init__(self, algorithm: Algorithm, env: BatchedEnv) -> None:
        require_policy(algorithm)
        self.algorithm = algorithm
        self._looked_at = False  # what its first update returned
        self.settings = online_settings(algorithm)
        self.collector = Collector(algorithm, env)
        self.replay: ReplayBuffer | None = None
        if isinstance(algorithm.config, ReplayConfig):
            self.replay = ReplayBuffer(algorithm, *cast(UsesReplay, algorithm).sequences())

    def next(self, progress: float) -> dict[str, Tensor]:
        """One round; returns the metrics of its last update, none where nothing was learned yet."""
        algorithm = self.algorithm
        metrics = dict[str, Tensor]()
        if algorithm.updates % self.settings.restart == 0:
            self.collector.restart(algorithm.updates // self.settings.restart)
            if self.replay is not None:
                self.replay.cut()
        rollout = self.collector.collect(progress)
        if self.replay is None:
            metrics = self._updated(rollout)
        else:
            self.replay.add(rollout)
            for batch in self.replay.batches(self.collector.learning):
                metrics = self._updated(batch)
        algorithm.updates += 1
        return metrics

    def _updated(self, batch: Batch) -> dict[str, Tensor]:
        """The metrics of one update."""
        try:
            metrics = self.algorithm.update(batch)
        except Exception as error:
            fault = told(type(self.algorithm), error, "update", self.algorithm)
            if fault is error:
                raise
            raise fault from error
        if not self._looked_at:
            require_metrics(self.algorithm, metrics)
            self._looked_at = True
        return metrics


@freed_memory_kept()
def train_online(
    algorithm: Algorithm,
    env: BatchedEnv,
    *,
    steps: int,
    until: int | None = None,
    checkpoint: str | Path | None = None,
    log_every: int = 10,
    env_options: Mapping[str, Any] | None = None,
    on_update: Callable[[int], None] | None = None,
    on_progress: Callable[[int, int, list[CurvePoint]], None] | None = None,
    loggers: Sequence[Logger] = (),
    notify: Callable[[str], None] = inform,
) -> list[CurvePoint]:
    """Train an online learner, resuming from ``checkpoint`` if it is there.

    The checkpoint is written at every restart of the copies and at the end. Training that was killed at any
    moment and started again gives, on the CPU, bit for bit what an uninterrupted one gives.

    Args:
        algorithm: with ``sampling = "online"``, freshly made.
        env: with ``R * config.num_envs`` copies of its task.
        steps: team steps per replica, all its copies together; rounded up to whole rollouts.
        until: stop after so many of them, rounded up to a restart of the copies; called again without it, the
            training continues to its end.
        checkpoint: file to write and to resume from.
        log_every: updates between two points of the learning curve.
        env_options: options that ``env`` was made with, which the checkpoint keeps for those who play its team.
        on_update: called with the number of updates done, after each update and before the first (0); again
            with the same numbers after a resume.
        on_progress: called after each update with updates done, updates in all, and new curve points.
        loggers: receive the metrics, see :mod:`marlzoo.training.loggers`.
        notify: called with one line if the training goes on from a checkpoint; default: as ``log`` of
            :func:`marlzoo.training.trainer.train`.

    Returns:
        The learning curve, one point per replica every ``log_every`` updates.

    Raises:
        ConfigError: the method does not learn online, or ``steps``, ``until`` or ``log_every`` is not positive.
        SpecError: environment and learner do not fit.
        CheckpointError: the file belongs to another training.
    """
    settings = online_settings(algorithm)
    lessons = OnlineTrainer(algorithm, env)
    for name, given in (("steps", steps), ("log_every", log_every), ("until", until)):
        if given is not None and given < 1:
            raise ConfigError(f"{name} is {given}; it must be positive")
    per_update = settings.num_envs * settings.rollout
    total = -(-steps // per_update)
    last = (
        total
        if until is None
        else min(total, -(-until // (per_update * settings.restart)) * settings.restart)
    )
    identity = _identity(env, total, log_every, env_options)
    path = None if checkpoint is None else Path(checkpoint)
    curve = _resume(path, lessons, identity) if path is not None and path.exists() else []
    spent = curve[-1].seconds if curve else 0.0
    began = time.monotonic()
    if algorithm.updates == 0 and on_update is not None:
        on_update(0)
    if 0 < algorithm.updates < last:
        notify(f"{algorithm.name} goes on from update {algorithm.updates} of {total}")
    with Loggers(loggers, algorithm, total) as logging:
        while algorithm.updates < last:
            metrics = lessons.next(algorithm.updates / total)
            done = algorithm.updates
            if metrics and logging.wants(done):
                logging.log_metrics(done, to_numpy(metrics))
            boundary = done % settings.restart == 0 or done == total
            points: list[CurvePoint] = []
            if done % log_every == 0 or boundary:
                seconds = spent + time.monotonic() - began
                points = _points(algorithm, lessons.collector, done * per_update, seconds)
                curve += points
            if on_update is not None:
                on_update(done)
            if path is not None and boundary:
                logging.flush()  # first, so that a resume finds all that lies before the checkpoint
                _save(path, lessons, identity, curve)
            if on_progress is not None:
                on_progress(done, total, points)
    return curve


def curve_csv(curve: Sequence[CurvePoint]) -> str:
    """A learning curve as CSV text, one line per point, numbers rounded to three places."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CurvePoint)], lineterminator="\n")
    writer.writeheader()
    for point in curve:
        values = asdict(point).items()
        writer.writerow({name: round(v, 3) if isinstance(v, float) else v for name, v in values})
    return text.getvalue()


def _points(algorithm: Algorithm, collector: Collector, steps: int, seconds: float) -> list[CurvePoint]:
    """Points of all replicas from the episodes that ended since the last call."""
    finite = algorithm.finite().tolist()
    points = []
    for r, seed in enumerate(algorithm.seeds):
        returns = np.array([value for replica, value, _ in collector.finished if replica == r])
        lengths = np.array([length for replica, _, length in collector.finished if replica == r])
        some = len(returns) > 0
        points.append(
            CurvePoint(
                seed=seed,
                updates=algorithm.updates,
                steps=steps,
                episodes=len(returns),
                mean_return=float(returns.mean()) if some else None,
                std_return=float(returns.std()) if some else None,
                mean_length=float(lengths.mean()) if some else None,
                diverged=not finite[r],
                seconds=round(seconds, 3),
            )
        )
    collector.finished.clear()
    return points


def _identity(
    env: BatchedEnv, total: int, log_every: int, env_options: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Identity of a training besides the learner's, compared on resume."""
    options = {"env": dict(env_options)} if env_options else {}
    return {
        "task": env.task,
        "engine": env.metadata,
        "total_updates": total,
        "log_every": log_every,
        **options,
    }


def _save(path: Path, lessons: OnlineTrainer, identity: dict[str, Any], curve: list[CurvePoint]) -> None:
    meta = {"online": identity, "env": identity.get("env", {}), "curve": [asdict(point) for point in curve]}
    replay = {} if lessons.replay is None else lessons.replay.state()
    checkpoints.save(path, lessons.algorithm, replay, meta)


def _resume(path: Path, lessons: OnlineTrainer, identity: dict[str, Any]) -> list[CurvePoint]:
    """Restore the learner and its replay; returns the curve so far."""
    replay, meta = checkpoints.restore(path, lessons.algorithm)
    theirs = meta.get("online")
    mine = json.loads(json.dumps(identity))
    if theirs != mine:
        theirs = theirs if isinstance(theirs, dict) else {}
        different = [k for k in {**mine, **theirs} if theirs.get(k) != mine.get(k)]
        raise CheckpointError(
            f"{path}: belongs to another online training; {', '.join(different)} differ. "
            "Delete it or give another place for this training's checkpoint"
        )
    if lessons.replay is not None:
        lessons.replay.restore(replay)
    return [CurvePoint(**point) for point in meta["curve"]]
