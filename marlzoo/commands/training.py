"""``marlzoo train METHOD`` from Python."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.config import Precision, replica_configs
from marlzoo.defaults import UPDATES
from marlzoo.errors import ConfigError, DataError, SpecError, UnknownNameError, require_lists, settings_apart
from marlzoo.task import TaskName

if TYPE_CHECKING:
    from marlzoo.benchmarks.analysis import Results
    from marlzoo.benchmarks.launchers import Place
    from marlzoo.benchmarks.runner import Finished


UNEVALUATED = (
    "Data of a task without a simulator are trained on with --episodes 0 (marlzoo.train in Python), which evaluates "
    "nothing; marlzoo ope then estimates returns from data"
)


@settings_apart('A setting of the method is given as settings={"NAME": ...}.')
def train_method(
    method: str,
    data: Sequence[str | os.PathLike[str]] | str | os.PathLike[str],
    *,
    task: str = "",
    seeds: Sequence[int] = (0,),
    env: Mapping[str, Any] | None = None,
    updates: int = UPDATES,
    eval_every: int = 5000,
    episodes: int = 10,
    horizon: int = 0,
    device: str = "cpu",
    precision: Precision = "float32",
    out: str | os.PathLike[str] = "results",
    name: str = "",
    log: Sequence[str] = (),
    max_replicas: int = 20,
    threads: int = 0,
    place: Place | None = None,
    check_data: bool = True,
    force: bool = False,
    settings: Mapping[str, Any] | None = None,
    preset: str = "",
) -> Results:
    """Train an offline method on datasets and evaluate it in the simulator, as ``marlzoo train METHOD`` does.

    The same call resumes after an interruption. :func:`marlzoo.train` trains a learner that you made yourself, also
    without a simulator.

    Args:
        method: its name.
        data: names or files of datasets of one task; every seed is trained on each of them, all in lockstep.
        task: to evaluate in, where a dataset's card names none.
        seeds: one replica per seed and dataset.
        env: options of the task's environment.
        updates: gradient updates.
        eval_every: updates between evaluations.
        episodes: of an evaluation, per seed.
        horizon: step limit of an evaluation episode; 0: the task's.
        device: where to train.
        precision: of matrix products.
        out: results go to ``out/name``.
        name: of the run; default: ``train-METHOD-TASK``.
        log: further loggers beside the CSV files.
        max_replicas: largest number of replicas that train together.
        threads: of torch; 0: as torch is set.
        place: where groups are trained, for instance on a cluster; see
            :class:`marlzoo.benchmarks.launchers.Place`.
        check_data: compare data and simulator before training.
        force: train everything again.
        settings: of the method, where they are not those of the preset.
        preset: of the method, to start from instead of the task's; see :func:`marlzoo.make`.

    Raises:
        ConfigError: an object where a name, a file or a list of seeds belongs.
        DataError: every run failed before it had a row, or no dataset names a task.
        MarlzooError: wrong names or settings, missing or broken data, a disk that cannot be written.
    """
    from marlzoo.benchmarks.analysis import Results
    from marlzoo.benchmarks.results import ResultsFile

    files = _files(method, data, seeds)
    require_lists(log=log)
    finished = run_method(
        method,
        [os.fspath(file) for file in files],
        settings=settings or {},
        preset=preset,
        task=task,
        seeds=tuple(seeds),
        env=env or {},
        name=name,
        training={
            "updates": updates,
            "eval_every": eval_every,
            "episodes": episodes,
            "horizon": horizon,
            "precision": precision,
        },
        running={
            "out": Path(out),
            "device": device,
            "max_replicas": max_replicas,
            "check_data": check_data,
            "force": force,
            "log": log,
        },
        threads=threads,
        place=place,
    )
    if finished.failures and not ResultsFile(finished.folder / "rows.csv").exists():
        raise DataError(f"{method} was not trained: {finished.failures[0]}")
    return Results(finished.folder)


def _files(method: Any, data: Any, seeds: Any) -> list[str | os.PathLike[str]]:
    """The datasets, as a list; objects where names belong are refused.

    Raises:
        ConfigError: the method, a dataset or the seeds are of another kind.
    """
    instead = "marlzoo.train(learner, data, updates=...) trains a learner on a dataset that you have"
    if not isinstance(method, str):
        raise ConfigError(
            f"method is a {type(method).__name__}; train_method takes a method's name. {instead}"
        )
    named = isinstance(data, str | os.PathLike)
    # Iterating a dataset would give its episodes.
    several = isinstance(data, Sequence) and all(isinstance(each, str | os.PathLike) for each in data)
    if not named and not several:
        kinds = (
            {type(each).__name__ for each in data}
            if isinstance(data, list | tuple)
            else {type(data).__name__}
        )
        raise ConfigError(
            f"data is a {' and a '.join(sorted(kinds))}; train_method takes names or files of datasets: write it "
            f"with marlzoo.save_dataset(data, FILE) and give the file. {instead}"
        )
    if isinstance(seeds, int | str):
        raise ConfigError(f"seeds is {seeds!r}; give a list of integers, such as [0, 1]")
    return [data] if named else list(data)


def run_method(
    method: str,
    data: Sequence[str],
    *,
    settings: Mapping[str, Any],
    preset: str = "",
    task: str,
    seeds: tuple[int, ...],
    env: Mapping[str, Any],
    name: str,
    training: Mapping[str, Any],
    running: Mapping[str, Any],
    threads: int = 0,
    place: Place | None = None,
) -> Finished:
    """One method on datasets of one task, as a suite of its own; see :func:`train_method`.

    Args:
        method: its name.
        data: names or files.
        settings: of the method.
        preset: of the method; empty: the task's.
        task: full task name; empty: the one that the cards name.
        seeds: of the replicas.
        env: options of the environment.
        name: of the run; empty: made of method and task.
        training: fields of :class:`marlzoo.benchmarks.suites.Suite`.
        running: options of :func:`marlzoo.benchmarks.runner.run_suite`.
        threads: of torch.
        place: where to train; None: here.

    Raises:
        ConfigError: datasets of several tasks, no evaluation, or a folder that another kind of run has.
        DataError: no dataset names a task.
        SpecError: the method does not handle the task's actions.
    """
    from marlzoo.benchmarks.launchers import Place
    from marlzoo.benchmarks.runner import run_suite
    from marlzoo.benchmarks.split import Split
    from marlzoo.benchmarks.suites import Data, Learner, Suite
    from marlzoo.registry import find_method

    if training["episodes"] < 1:
        raise ConfigError(
            f"episodes is {training['episodes']}; a run is evaluated. marlzoo.train trains without a simulator"
        )
    task = one_task(data, task)
    if not task:
        raise DataError(
            f"{data[0]}: its card names no task; give it with --task (task=... in Python). {UNEVALUATED}"
        )
    _require_kind(method, task)
    # Before the runner, whose errors speak of a suite.
    replica_configs(find_method(method).config_class, 1, settings)
    suite = Suite(
        name=name or f"train-{method}-{TaskName.parse(task).slug()}",
        data=tuple(Data(task=task, file=file, env=dict(env)) for file in data),
        learners=(Learner(method, dict(settings), preset=preset),),
        seeds=seeds,
        **training,
    )
    other = running["out"] / suite.name / "checkpoint.npz"
    if other.exists():  # the folder would hold two teams, of which only one has rows
        raise ConfigError(f"{other.parent} holds an online training or a fine-tuning; choose another name")
    split = Split(threads=threads)
    with _unevaluated_instead(task):
        return run_suite(suite, split=split, place=place or Place(), remedy="--force", **running)


@contextlib.contextmanager
def _unevaluated_instead(task: str) -> Iterator[None]:
    """Tell who has data of a task that nothing here plays how to train on them."""
    from marlzoo.families import Task

    try:
        yield
    except UnknownNameError as error:
        if not Task.parse(task).exists:
            error.args = (f"{error} {UNEVALUATED}",)
        raise


def _require_kind(method: str, task: str) -> None:
    """Refuse a method that does not handle a task's actions."""
    from marlzoo.families import Task
    from marlzoo.registry import find_method

    cls = find_method(method)
    found = Task.parse(task)  # that it is none is said where it is looked for
    if found.exists and (kind := found.spec.action_kind) not in cls.actions:
        raise SpecError(
            f"{method} handles {' and '.join(cls.actions)} actions, but {task} has {kind} ones; "
            "marlzoo list methods tells which methods handle them"
        )


def one_task(data: Sequence[str], task: str) -> str:
    """The task that is given, or else the one that all datasets' cards name; empty where they name none.

    Raises:
        ConfigError: they name several, or there are none.
    """
    from marlzoo.data.load import read_card

    tasks = {task or read_card(file).task for file in data}
    if not tasks:
        raise ConfigError("no dataset is named; give at least one")
    if len(tasks) != 1:
        names = ", ".join(sorted(filter(None, tasks)))
        raise ConfigError(f"the datasets are of several tasks ({names}); train one at a time")
    return tasks.pop()
