"""``marlzoo train METHOD --episodes 0``: from data alone, without the task's simulator."""

from __future__ import annotations

import hashlib
import json
import shlex
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from marlzoo.cli._progress import closing, progress
from marlzoo.errors import ConfigError
from marlzoo.task import TaskName

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm
    from marlzoo.cli._options import Offline
    from marlzoo.data.dataset import Dataset


def train_unevaluated(
    method: str, options: Offline, settings: dict[str, Any], task: str, env: dict[str, Any]
) -> None:
    """Train one replica per seed and dataset on what the datasets show, and write the checkpoint.

    Args:
        method: name of the method.
        options: the command's.
        settings: of the method, where they are not its defaults.
        task: full task name, which the checkpoint keeps; empty where nobody states one.
        env: options of the task's environment, for a later evaluation.

    Raises:
        ConfigError: more replicas than one group may have.
        MarlzooError: wrong settings, missing or broken data, or datasets of different shapes.
    """
    from marlzoo.console import visible
    from marlzoo.families import Task
    from marlzoo.registry import make
    from marlzoo.system.files import require_folder_name
    from marlzoo.training.more_loggers import LogTarget, make_loggers
    from marlzoo.training.trainer import train

    started = time.monotonic()
    _require_one_group(options)
    datasets = [data for data in _datasets(options, task, env) for _ in options.seeds]
    learner = make(
        method,
        replace(datasets[0].spec, task=task),
        seeds=list(options.seeds) * len(options.data),
        device=options.device,
        preset=options.preset or None,
        **settings,
    )
    place = options.name or "-".join(filter(None, ["train", method, TaskName.parse(task).slug()]))
    require_folder_name(place)
    named = [{"data": data, "seed": seed} for data in map(str, options.data) for seed in options.seeds]
    target = LogTarget(options.out / place, place, named, {"task": task})
    file = f"{method}-{_identity(datasets, options, settings)}.npz"
    checkpoint = options.out / place / "checkpoints" / file
    label = f"{method} on {task or datasets[0].card.title}"
    with progress(place, label, options.updates) as shown:
        train(
            learner,
            datasets,
            updates=options.updates,
            checkpoint=checkpoint,
            force=options.force,
            precision=options.precision,
            task=task,
            env_options=env,
            log=shown.log,
            loggers=make_loggers(options.log, target),
            on_progress=lambda done, _: shown.advance(done, f"{done} of {options.updates} updates"),
        )
    playable = Task.parse(task).exists
    print(f"Checkpoint{', for marlzoo eval' if playable else ''}: {visible(checkpoint)}")
    _tell_diverged(learner, named)
    nothing = f"Nothing trained, the checkpoint has {learner.updates} updates already,"
    done = f"Trained for {learner.updates} updates, not evaluated," if shown.begun else nothing
    other = shlex.join(
        ["marlzoo", "ope", str(checkpoint), "--data", str(options.data[0])]
    )  # which needs no simulator
    closing(done, started, shlex.join(["marlzoo", "eval", str(checkpoint)]) if playable else other)


def _require_one_group(options: Offline) -> None:
    replicas = len(options.seeds) * len(options.data)
    if not 1 <= replicas <= options.max_replicas:
        raise ConfigError(
            f"{replicas} replicas are not between 1 and --max-replicas {options.max_replicas}; without evaluation "
            "all are trained in one group"
        )


def _tell_diverged(learner: Algorithm, replicas: list[dict[str, Any]]) -> None:
    """Name the replicas that diverged, which no evaluation shows."""
    from marlzoo.console import visible

    for finite, replica in zip(learner.finite().tolist(), replicas, strict=True):
        if not finite:
            print(
                f"Diverged: seed {replica['seed']} on {visible(replica['data'])}: its parameters are not finite; "
                "scale observations and rewards, or take other settings"
            )


def _identity(datasets: list[Dataset], options: Offline, settings: dict[str, Any]) -> str:
    """Of what is trained: the data, the seeds, a preset that was chosen and the settings that were changed."""
    parts: list[Any] = [[data.content_hash for data in datasets], list(options.seeds), settings]
    if options.preset:
        parts.append(options.preset)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def _datasets(options: Offline, task: str, env: dict[str, Any]) -> list[Dataset]:
    """The datasets; one that names no task is read as one of the given task, where that is installed."""
    from marlzoo.data.fitting import fitted
    from marlzoo.data.load import load_dataset
    from marlzoo.families import Task, task_spec

    found = [load_dataset(name) for name in options.data]
    if not Task.parse(task).exists:
        return found
    return [fitted(data, task_spec(task, **env)) for data in found]
