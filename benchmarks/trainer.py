"""Training one lockstep group of a suite."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from marlzoo.errors import CheckpointError
from marlzoo.registry import make, make_env

from .plan import Group, Run
from .progress import ProgressReporter
from .references import normalized
from .results import Results, Row
from .suites import Suite

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm
    from marlzoo.data.dataset import Dataset
    from marlzoo.training.trainer import Evaluation

LOG_EVERY, CHECKPOINT_EVERY = 20, 1000
PACKAGES = ("marlzoo", "torch", "numpy", "mujoco", "gymnasium")


class Trainer:
    """Trains groups and appends their rows; can be sent to another process."""

    def __init__(self, suite: Suite, folder: Path, device: str, check_data: bool) -> None:
        self.suite, self.folder, self.results = suite, folder, Results(folder / "rows.csv")
        self.device, self.check_data = device, check_data
        self._datasets: dict[str, Dataset] = {}
        self._task = ""
        self._versions = "; ".join(f"{name} {v}" for name in PACKAGES if (v := _version(name)))

    def train(self, group: Group, report: ProgressReporter) -> None:
        """Train one group to the suite's last update, from its checkpoint if there is one."""
        from marlzoo.training.trainer import train

        suite, scale, reached = self.suite, len(group.runs) * group.spec.n_agents, 0
        algorithm = make(
            group.learner.method,
            group.spec,
            seeds=[run.seed for run in group.runs],
            device=self.device,
            domain=group.task.partition("/")[0],
            **group.learner.config,
        )
        checkpoint = group.checkpoint(self.folder / "checkpoints", suite)

        def on_progress(done: int, metrics: dict[str, Any]) -> None:
            nonlocal reached
            if reached == 0 and done > LOG_EVERY:
                report.resumed((done - LOG_EVERY) * scale)
            reached = done
            report.advance(done * scale, f"{done} of {suite.updates} updates")

        def on_evaluation(found: Evaluation) -> None:
            nonlocal reached
            if reached < found.updates - LOG_EVERY:  # it comes from the checkpoint
                reached = found.updates
                report.resumed(reached * scale)
            self.results.append(self._rows(group, algorithm, found))
            means = ", ".join(f"{value:.1f}" for value in found.episodes.returns.mean(axis=1))
            report.log(f"{group.label}: {found.updates} updates, mean returns {means}")

        train(
            algorithm,
            self._load(group),
            updates=suite.updates,
            env=lambda num_envs: make_env(group.task, num_envs, **group.env),
            episodes=suite.episodes,
            eval_every=suite.eval_every,
            horizon=suite.horizon or None,
            checkpoint=checkpoint,
            checkpoint_every=CHECKPOINT_EVERY,
            log_every=LOG_EVERY,
            check_data=self.check_data,
            compile=suite.compile,  # type: ignore[arg-type]
            precision=suite.precision,  # type: ignore[arg-type]
            task=group.task,
            env_options=group.env,
            log=report.log,
            on_progress=on_progress,
            on_evaluation=on_evaluation,
        )
        if algorithm.updates > suite.updates:
            raise CheckpointError(
                f"{checkpoint}: has {algorithm.updates} updates already, the suite asks for {suite.updates}; "
                "choose another folder with --out, or delete it"
            )

    def _load(self, group: Group) -> list[Dataset]:
        """One dataset per replica; those of the last task are kept, as the next learner needs them too."""
        if group.task != self._task:
            self._task = group.task
            self._datasets.clear()
        for run in group.runs:
            if run.source.hash not in self._datasets:
                self._datasets[run.source.hash] = run.source.load()
        return [self._datasets[run.source.hash] for run in group.runs]

    def _rows(self, group: Group, algorithm: Algorithm, found: Evaluation) -> list[Row]:
        return [self._row(algorithm, found, replica, run) for replica, run in enumerate(group.runs)]

    def _row(self, algorithm: Algorithm, found: Evaluation, replica: int, run: Run) -> Row:
        returns, wins = found.episodes.returns[replica], found.episodes.wins
        mean = float(returns.mean())
        return Row(
            suite=self.suite.name,
            task=run.source.task,
            source=run.source.source,
            quality=run.source.quality,
            method=run.learner.method,
            variant=run.learner.variant,
            seed=run.seed,
            updates=found.updates,
            episodes=len(returns),
            mean_return=mean,
            std_return=float(returns.std()),
            normalized_score=normalized(run.source.task, mean),
            win_rate=None if wins is None else float(wins[replica].mean()),
            diverged=bool(found.diverged[replica]) or not np.isfinite(mean),
            execution=algorithm.policy().execution,
            config_hash=run.config_hash,
            data_hash=run.source.hash,
            behavior_return=run.source.behavior,
            versions="; ".join(filter(None, (self._versions, found.arithmetic))),
            device=self.device,
            seconds=round(found.seconds, 3),
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
