"""Runs a suite: makes data, trains what is missing in lockstep groups, appends rows, writes the tables.

Everything on the way is kept: rows after each evaluation, checkpoints in between. The same command after an
interruption, or a kill, goes on; when nothing is missing it prints the table at once.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from marlzoo.errors import CheckpointError
from marlzoo.registry import make, make_env
from marlzoo.results import Results, Row

from . import tables
from .plan import Group, Run, Source, expanded, groups, obtain, pending, recipe_file, validate
from .progress import Display, Report, Stage
from .references import normalised
from .split import Split, find_split, group_size, torch_threads, train_side_by_side
from .styles import terminal
from .suites import Suite

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm
    from marlzoo.data.dataset import Dataset
    from marlzoo.train import Evaluation

LOG_EVERY, CHECKPOINT_EVERY = 20, 1000
IN_THIS_PROCESS = Split()
PACKAGES = ("marlzoo", "torch", "numpy", "mujoco", "gymnasium")


def run_suite(
    suite: Suite,
    *,
    out: Path = Path("results"),
    device: str = "cpu",
    max_replicas: int = 20,
    check_data: bool = True,
    split: Split | None = IN_THIS_PROCESS,
    command: str = "",
    console: Console | None = None,
) -> Path:
    """Run what is missing of a suite and print its tables.

    Args:
        suite: what to compare.
        out: folder; results go to ``out/<suite>``, regenerated data to ``out/data``.
        device: where to train.
        max_replicas: most replicas trained in one lockstep group.
        check_data: compare data and simulator before training.
        split: how groups are spread over processes; None: as it was for this folder, or else measures best (on a
            GPU: not at all).
        command: named below the table as what made it.
        console: where to print.

    Returns:
        The folder with ``rows.csv``, ``table.csv``, ``table.md`` and ``table.tex``.

    Raises:
        MarlzooError: wrong names or settings, missing or broken data, a disk that cannot be written.
    """
    console, suite = console or Console(), expanded(suite)
    validate(suite)
    folder = out / suite.name
    results = Results(folder / "rows.csv")
    results.rows()  # a broken file is found before any work
    with Display(console, f"suite {suite.name}") as display:
        sources, made = _obtain_all(suite, out / "data", display)
        missing = pending(suite, sources, results)
        if split is None and device != "cpu":
            split = Split()
        elif split is None:
            split = find_split(suite, missing, sources, folder / "checkpoints", max_replicas, display.say)
        todo = groups(missing, group_size(suite, sources, split, max_replicas))
        stages = [_stage(group, suite) for group in todo]
        display.plan([*made, *stages], min(split.processes, max(len(todo), 1)))
        trainer = Trainer(suite, folder, device, check_data)
        if split.processes == 1:
            with torch_threads(split.threads):
                for group, stage in zip(todo, stages, strict=True):
                    part = display.begin(stage)
                    trainer.train(group, part)
                    part.finish()
        else:
            train_side_by_side(trainer, list(zip(todo, stages, strict=True)), split, display)
    everything = tables.read([folder])
    rows = everything[everything["data_hash"].isin([source.hash for source in sources])]
    if len(rows) < len(everything):
        console.print(
            f"{len(everything) - len(rows)} rows are of other data (regenerated on another processor, or by another "
            f"version) and left out here; marlzoo table {folder} shows all",
            highlight=False,
        )
    comparison, _, *others = tables.write(rows, folder, f"Suite {suite.name}", command)
    for sheet in (comparison, *others):
        console.print(terminal(sheet))
    console.print(f"Rows and tables: {folder}", highlight=False)
    return folder


def _obtain_all(suite: Suite, folder: Path, display: Display) -> tuple[list[Source], list[Stage]]:
    """Every dataset of the suite, made where it is missing, and what was made."""
    stages = {}
    for k, data in enumerate(suite.data):
        file = recipe_file(data, folder)
        if file is not None and not file.exists():
            stages[k] = Stage(f"data/{data.task}", f"data: {data.task} {data.quality}", data.transitions)
    display.plan(list(stages.values()))
    sources = []
    for k, data in enumerate(suite.data):
        part = display.begin(stages[k]) if k in stages else None
        sources.append(obtain(data, folder, lambda done, total: part.advance(done) if part else None))  # noqa: B023
        if part:
            part.finish()
            part.say(f"{stages[k].label}: mean return {sources[-1].behaviour:.1f}")
    return sources, list(stages.values())


def _stage(group: Group, suite: Suite) -> Stage:
    # In units of updates of one agent's networks, so that tasks of different size cost about the same each.
    amount = float(suite.updates * len(group.runs) * group.spec.n_agents)
    return Stage(f"train/{group.learner.method}/{group.task}", group.label, amount)


class Trainer:
    """Trains groups and appends their rows; can be sent to another process."""

    def __init__(self, suite: Suite, folder: Path, device: str, check_data: bool) -> None:
        self.suite, self.folder, self.results = suite, folder, Results(folder / "rows.csv")
        self.device, self.check_data = device, check_data
        self._datasets: dict[str, Dataset] = {}
        self._task = ""
        self._versions = "; ".join(f"{name} {v}" for name in PACKAGES if (v := _version(name)))

    def train(self, group: Group, report: Report) -> None:
        """Train one group to the suite's last update, from its checkpoint if there is one."""
        from marlzoo.train import train

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
            report.say(f"{group.label}: {found.updates} updates, mean returns {means}")

        train(
            algorithm,
            self._load(group),
            updates=suite.updates,
            env=lambda copies: make_env(group.task, copies, **group.env),
            episodes=suite.episodes,
            eval_every=suite.eval_every,
            horizon=suite.horizon or None,
            checkpoint=checkpoint,
            checkpoint_every=CHECKPOINT_EVERY,
            log_every=LOG_EVERY,
            check_data=self.check_data,
            compile=suite.compile,  # type: ignore[arg-type]
            precision=suite.precision,  # type: ignore[arg-type]
            tell=report.say,
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
            normalised_score=normalised(run.source.task, mean),
            win_rate=None if wins is None else float(wins[replica].mean()),
            diverged=bool(found.diverged[replica]) or not np.isfinite(mean),
            execution=algorithm.policy().execution,
            config_hash=run.config_hash,
            data_hash=run.source.hash,
            behaviour_return=run.source.behaviour,
            versions="; ".join(filter(None, (self._versions, found.arithmetic))),
            device=self.device,
            seconds=round(found.seconds, 3),
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
