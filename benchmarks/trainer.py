"""Training one lockstep group of a suite."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.errors import CheckpointError, ConfigError, MarlzooError, MethodError, SpecError
from marlzoo.families import make_env, require_copies
from marlzoo.registry import make
from marlzoo.replicas import derive
from marlzoo.training.evaluation import evaluate

from .choice import estimates, require_starts
from .live import LatestEvaluation, mean_and_range
from .plan import Group
from .progress import ProgressReporter
from .recorder import RowRecorder, RowSink, brief, record_failure
from .results import ResultsFile
from .reuse import files
from .sources import Source
from .storage import Storage
from .suites import Suite

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm
    from marlzoo.data.dataset import Dataset
    from marlzoo.training.evaluation import Evaluation

LOG_EVERY = 20
CHECKPOINT_EVERY = 1000
CHECKPOINT_SECONDS = 1.0  # ten evaluations of a small game take less


class Trainer:
    """Trains groups and appends their rows; can be sent to another process.

    Args:
        suite: that the groups are part of.
        folder: of the results.
        device: to train on.
        check_data: compare data and simulator before training.
        log: names of further loggers.
        storage: where checkpoints are copied to; None: nowhere.

    Attributes:
        sink: where rows go, by default the file of the results.
        leaving: the process is about to end and the group resumes elsewhere: an error now is no failure.
    """

    def __init__(
        self,
        suite: Suite,
        folder: Path,
        device: str,
        check_data: bool,
        log: Sequence[str] = (),
        storage: Storage | None = None,
    ) -> None:
        self.suite = suite
        self.folder = folder
        self.results = ResultsFile(folder / "rows.csv")
        self.sink: RowSink = self.results
        self.device = device
        self.check_data = check_data
        self.log = tuple(log)
        self.storage = storage
        self.leaving = False
        self._datasets: dict[str, Dataset] = {}
        self._task = ""
        self._learner: Algorithm | None = None  # that is being trained

    def attempt(self, group: Group, report: ProgressReporter) -> str:
        """Train one group; an exception of its learner or its environment fails the group and not the suite.

        Errors that are found before training, or that concern the other groups too (a full disk), are raised.

        Returns:
            Why the group failed, in one line; empty if it did not.
        """
        self._learner = None
        try:
            require_playable(self.suite, [group])
            self.train(group, report)
        except BrokenPipeError:  # nobody reads what is printed any more: no fault of the group
            raise
        except (Exception, SystemExit) as error:
            of_group = isinstance(error, SpecError | MethodError)
            if self.leaving or (isinstance(error, MarlzooError) and not of_group):
                raise
            checkpoint, _ = files(group, self.folder, self.suite)
            place = self.folder / "failures" / f"{checkpoint.stem}.txt"
            reached = self._learner.updates if self._learner else 0
            why = record_failure(self.sink, self.suite, group, reached, self.device, error, place)
            self.saved(place)
            report.log(f"{group.label}: failed, {why}; traceback: {place}")
            return f"{group.label}: {why}"
        finally:
            self.sink.close()
        return ""

    def train(self, group: Group, report: ProgressReporter) -> None:
        """Train one group to the suite's last update, from its checkpoint if there is one."""
        from marlzoo.training.loggers import MetricsFile
        from marlzoo.training.more_loggers import LogTarget, make_loggers
        from marlzoo.training.trainer import train

        suite = self.suite
        algorithm = make(
            group.learner.method,
            group.spec,
            seeds=[run.seed for run in group.runs],
            device=self.device,
            **group.settings,
        )
        self._learner = algorithm
        self.fetch(group)
        checkpoint, kept = files(group, self.folder, suite)
        names = [{"run": r.name(suite), "quality": r.source.quality, "seed": r.seed} for r in group.runs]
        logger = MetricsFile(kept, names)
        target = LogTarget(self.folder, suite.name, names, {"task": group.task})
        recorder = RowRecorder(self.sink, suite, group, algorithm, logger, self.device)
        datasets = self._load(group)
        listener = _Listener(suite, group, algorithm, datasets, recorder, report)
        evaluations = train(
            algorithm,
            datasets,
            updates=group.updates,
            env=lambda num_envs: make_env(group.task, num_envs, **group.env),
            episodes=suite.episodes,
            eval_every=group.eval_every,
            horizon=suite.horizon or None,
            checkpoint=checkpoint,
            checkpoint_every=CHECKPOINT_EVERY,
            # Estimates are of the learner as it is evaluated, which must not go on before they are made.
            checkpoint_seconds=0.0 if suite.select else CHECKPOINT_SECONDS,
            log_every=LOG_EVERY,
            check_data=self.check_data,
            compile=suite.compile,  # type: ignore[arg-type]
            precision=suite.precision,  # type: ignore[arg-type]
            # Estimates are of the learner as it is evaluated, which must not go on meanwhile.
            background_eval=False if suite.select else None,
            task=group.task,
            env_options=group.env,
            log=report.log,
            on_progress=listener.progress,
            on_evaluation=listener.evaluation,
            on_checkpoint=lambda path: self.saved(kept, path),
            loggers=[logger, *make_loggers(self.log, target)],
        )
        _require_at_end(algorithm.updates, group, checkpoint)
        if suite.final_episodes:
            listener.last(self._final(group, algorithm, evaluations[-1]))

    def load(self, source: Source) -> Dataset:
        """The dataset of a source."""
        return source.load()

    def saved(self, *files: Path) -> None:
        """Told of files that were just written; on another machine, or for the storage, they have to travel."""
        if self.storage is not None:
            self.storage.put(self.folder, *files)

    def fetch(self, group: Group) -> None:
        """Bring a group's state and metrics from the storage, if there is none here."""
        checkpoint, kept = files(group, self.folder, self.suite)
        if self.storage is not None and not checkpoint.exists():
            self.storage.fetch(self.folder, kept, checkpoint)

    def _final(self, group: Group, algorithm: Algorithm, before: Evaluation) -> Evaluation:
        """The evaluation that is ranked: of the last checkpoint, with more episodes than those on the way."""
        started = time.perf_counter()
        env = make_env(group.task, len(group.runs) * self.suite.final_episodes, **group.env)
        try:
            seeds = [derive(seed, "final evaluation") for seed in algorithm.seeds]
            horizon = self.suite.horizon or None
            policy = algorithm.policy()
            found = evaluate(policy, env, seeds=seeds, horizon=horizon, device=algorithm.device)
        finally:
            env.close()
        return replace(before, episodes=found, seconds=before.seconds + time.perf_counter() - started)

    def _load(self, group: Group) -> list[Dataset]:
        """One dataset per replica; those of the last task are cached for the next learner."""
        if group.task != self._task:
            self._task = group.task
            self._datasets.clear()
        for run in group.runs:
            if run.source.hash not in self._datasets:
                data = self._datasets[run.source.hash] = self.load(run.source)
                if self.suite.select:
                    require_starts(data)
        return [self._datasets[run.source.hash] for run in group.runs]


def require_playable(suite: Suite, groups: Sequence[Group]) -> None:
    """Find evaluations that this machine's memory cannot hold before any training, which the last one ends.

    Raises:
        ConfigError: a group has too many episodes.
    """
    for group in groups:
        for name in ("episodes", "final_episodes"):
            try:
                require_copies(group.spec, len(group.runs) * getattr(suite, name))
            except ConfigError as error:
                raise ConfigError(f"{name} on {group.data_label}: {error}") from error


def require_trainable(suite: Suite, groups: Sequence[Group]) -> None:
    """Build a learner of every kind, so that settings which do not go together are found before any is trained.

    Raises:
        ConfigError: a method refuses its settings, or its stages take all updates.
        SpecError: a method refuses the task.
    """
    if len(groups) < 2:  # a single group finds it at once
        return
    from marlzoo.training.trainer import require_all_stages

    kinds = set()
    for group in groups:
        settings = group.settings_of(0)
        kind = json.dumps([group.learner.method, settings, group.spec.to_dict()], sort_keys=True, default=str)
        if kind in kinds:
            continue
        kinds.add(kind)
        try:
            learner = make(group.learner.method, group.spec, **settings)
            require_all_stages(learner, group.updates)
        except (ConfigError, SpecError) as error:
            raise type(error)(f"suite {suite.name!r}, {group.label}: {error}") from error


class _Listener:
    """Forwards a group's progress from the trainer to its rows and the display."""

    def __init__(
        self,
        suite: Suite,
        group: Group,
        algorithm: Algorithm,
        datasets: Sequence[Dataset],
        recorder: RowRecorder,
        report: ProgressReporter,
    ) -> None:
        self._suite = suite
        self._group = group
        self._algorithm = algorithm
        self._datasets = datasets
        self._recorder = recorder
        self._report = report
        self._scale = len(group.runs) * group.spec.n_agents  # units of work in an update
        self._reached = 0  # updates that the display knows of

    def progress(self, done: int, metrics: dict[str, Any]) -> None:
        """So many updates are done."""
        if self._reached == 0 and done > LOG_EVERY:  # a checkpoint brought them
            self._report.resumed((done - LOG_EVERY) * self._scale)
        self._reached = done
        note = ", ".join(filter(None, (f"{done} of {self._group.updates} updates", brief(metrics))))
        self._report.advance(done * self._scale, note)

    def evaluation(self, found: Evaluation) -> None:
        """The learner was evaluated, or a checkpoint brought the evaluation."""
        if self._reached < found.updates - LOG_EVERY:  # a checkpoint brought it
            self._reached = found.updates
            self._report.resumed(found.updates * self._scale)
        if self._suite.select and found.updates == self._algorithm.updates:  # others were estimated before
            self._recorder.estimate(found.updates, estimates(self._algorithm, self._datasets))
        if found.updates == self._group.updates and self._suite.final_episodes:
            return  # the last checkpoint's row has more episodes
        self._recorder.record(found)
        self._show(found, f"{found.updates} updates")

    def last(self, found: Evaluation) -> None:
        """The last checkpoint was evaluated with more episodes."""
        self._recorder.record(found)
        self._show(found, "last checkpoint")

    def _show(self, found: Evaluation, when: str) -> None:
        group = self._group
        self._report.evaluated(
            LatestEvaluation(
                method=group.learner.method,
                data=group.data_label,
                updates=found.updates,
                means=found.episodes.returns.mean(axis=1).tolist(),
                line=f"{group.label}: {when}, {_means(group, found)}",
                last=found.updates == group.updates,
            )
        )


def _require_at_end(updates: int, group: Group, checkpoint: Path) -> None:
    if updates > group.updates:
        raise CheckpointError(
            f"{checkpoint}: has {updates} updates already, the suite asks for {group.updates}; choose another "
            "folder with --out, or delete it"
        )


def _means(group: Group, found: Evaluation) -> str:
    """Mean return on each dataset of the group, with its range over the runs on it."""
    names = _names([run.source for run in group.runs])
    means: dict[str, list[float]] = {}
    for name, value in zip(names, found.episodes.returns.mean(axis=1).tolist(), strict=True):
        means.setdefault(name, []).append(value)
    if len(means) == 1:
        return f"mean return {mean_and_range(*means.values())}"
    return "mean return " + ", ".join(f"{quality} {mean_and_range(each)}" for quality, each in means.items())


def _names(sources: Sequence[Source]) -> list[str]:
    """Each dataset's quality, made unique by source, size, or hash."""
    names = [source.quality for source in sources]
    for column in (
        [source.source for source in sources],
        [f"n{source.transitions}" for source in sources],
        [source.hash[:6] for source in sources],
    ):
        values: dict[str, set[str]] = {}
        for name, value in zip(names, column, strict=True):
            values.setdefault(name, set()).add(value)
        names = [
            f"{name} {value}" if len(values[name]) > 1 and _is_shared(name, names, sources) else name
            for name, value in zip(names, column, strict=True)
        ]
    return names


def _is_shared(name: str, names: Sequence[str], sources: Sequence[Source]) -> bool:
    """Whether several datasets have a name."""
    return len({source.hash for each, source in zip(names, sources, strict=True) if each == name}) > 1
