"""Regenerating datasets from behavior policies: the same arguments and versions give the same bytes.

The policies are those that ship with the package, or a checkpoint's. The quality ``random`` needs neither: where no
shipped policy makes it, a uniformly random one does.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marlzoo.data.card import Card
from marlzoo.data.formats.native import write_omiga
from marlzoo.data.load import read_card, require_free
from marlzoo.data.names import SUFFIX, dataset_path
from marlzoo.defaults import SEED, TRANSITIONS
from marlzoo.errors import ConfigError, UnknownNameError
from marlzoo.families import make_env, task_spec
from marlzoo.modules.policies import Policy, UniformPolicy
from marlzoo.recording.collect import NUM_ENVS, RecordedEpisode, dataset_of, record
from marlzoo.recording.replicas import load_replica
from marlzoo.replicas import derive
from marlzoo.spec import Spec
from marlzoo.system.files import sha256_file
from marlzoo.teachers.offers import RANDOM, SOURCE, collectable_qualities
from marlzoo.teachers.qualities import quality_and_version
from marlzoo.teachers.store import (
    BehaviorPolicy,
    behavior_policy_names,
    load_behavior_policy,
    versioned_name,
)
from marlzoo.version import __version__

LICENSE = "Apache-2.0"
OWN = "own"  # source of data that a checkpoint's policy made


def recipe_path(
    task: str, quality: str, transitions: int = TRANSITIONS, seed: int = SEED, source: str = SOURCE
) -> Path:
    """File of a collected dataset; size and seed are part of its name unless they are the defaults."""
    return dataset_path(
        f"{task}/{source}/{quality}",
        transitions=None if transitions == TRANSITIONS else transitions,
        seed=None if seed == SEED else seed,
    )


def is_of_recipe(
    path: Path, task: str, quality: str, transitions: int, seed: int, env: Mapping[str, Any] | None = None
) -> bool:
    """Whether a file is there and was collected with these arguments by the behavior policy of today.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return False
    recipe = read_card(path).recipe or {}
    arguments = {"task": task, "quality": quality, "transitions": transitions, "seed": seed}
    if recipe.get("env", {}) != json.loads(json.dumps(dict(env or {}))):  # cards keep lists, no tuples
        return False
    if any(recipe.get(name) != value for name, value in arguments.items()):
        return False
    taught = recipe.get("teacher")
    return taught is None or taught == load_behavior_policy(_behavior_policy_name(task, quality)).sha256


def _behavior_policy_name(task: str, quality: str) -> str:
    """The behavior policy that makes a quality of a task's data."""
    return versioned_name(task, quality_and_version(quality)[1])


@dataclass(frozen=True)
class _Stage:
    """One policy that takes part: how it is made, the training steps behind it, the name of its random streams."""

    policy: Callable[[], Policy]
    steps: int
    stream: int | str


@dataclass(frozen=True)
class _Recipe:
    """How a quality of a task's data is recorded: stages, and their origin for the card."""

    task: str
    quality: str
    spec: Spec
    stages: tuple[_Stage, ...]
    origin: dict[str, Any]
    note: str
    env: Mapping[str, Any]
    source: str = SOURCE
    arguments: str = ""  # what the command names beside task, quality, size and seed


def collect(
    task: str,
    quality: str,
    transitions: int = TRANSITIONS,
    seed: int = SEED,
    path: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    folder: Path | None = None,
    policy: str | os.PathLike[str] = "",
    replica: int = 0,
    env: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Path:
    """Regenerate a dataset of exactly ``transitions`` steps and write it in one step.

    The snapshots of the behavior policy that make the quality act with exploration, in equal shares, one after
    another in the order of their training (see :func:`marlzoo.recording.collect.record`):

    - ``random``: the freshly initialized policy; where the task has no behavior policy, or one without this quality
      (SMAX), a policy that takes every legal action, or every point of the box, with the same probability;
    - ``medium``, ``expert``: one snapshot;
    - ``medium-expert``: half and half, the same episodes as in the single datasets of half the size;
    - ``medium-replay``: snapshots spread evenly over the training from its start to the medium one, or further
      where its behavior policy was made so. It stands for a replay buffer without repeating the training.

    With ``policy``, one replica of a checkpoint acts instead, and ``quality`` is a name of your choice: the dataset
    is ``TASK/own/QUALITY``. Policies that never explore are recorded as they act.

    A policy's samples may leave the box [-1, 1]; they are clipped before they are executed and recorded. Each
    snapshot's last episode is cut where its share is full: it carries neither end flag.

    The bytes depend on the arguments, the behavior policy and the versions in the card, not on the number of threads.
    Another kind of processor may round differently.

    Args:
        task: full task name.
        quality: one of :func:`marlzoo.teachers.offers.collectable_qualities`.
        transitions: number of steps.
        seed: random seed of starts and exploration.
        path: file to write, ending in ``.hdf5`` or ``.h5``; default: :func:`recipe_path`.
        progress: called with steps recorded and steps in all.
        folder: of the behavior policies; None: the user's own, then the shipped ones.
        policy: checkpoint whose policy acts.
        replica: which of the checkpoint's replicas.
        env: options of the task's environment; without any, those that the checkpoint's had.
        force: replace a file that is not the same recording.

    Returns:
        The file.

    Raises:
        DataError: the task has no behavior policy, and the quality needs one.
        UnknownNameError: the behavior policy does not have this quality.
        CheckpointError: the checkpoint is missing or broken.
        ConfigError: a wrong number of transitions, a negative seed, a file name that is not HDF5's, a replica that
            the checkpoint does not have, a policy of another task or of another shape than ``env`` gives it, a file
            that exists and is not the same recording, or more than the disk has room for.
        OutputError: the file cannot be written; nothing is left behind.
    """
    asked = dict(env or {})
    recipe = (
        _deployed(task, quality, policy, replica, asked) if policy else _recipe(task, quality, folder, asked)
    )
    stages = recipe.stages
    _require_count("transitions", transitions, len(stages))
    _require_count("seed", seed, 0)
    usual = recipe_path(task, quality, transitions, seed, recipe.source)
    target = usual if path is None else Path(path).expanduser()
    if target.suffix not in (SUFFIX, ".h5"):
        raise ConfigError(f"{target}: datasets are HDF5 files; end the name in {SUFFIX}")
    shares = [transitions // len(stages) + (k < transitions % len(stages)) for k in range(len(stages))]
    require_free(target, _described(recipe, transitions, seed, shares), force)
    _require_room(recipe.spec, transitions, target)
    episodes: list[RecordedEpisode] = []
    metadata: dict[str, Any] = {}
    for stage, share, before in zip(stages, shares, np.cumsum([0, *shares]).tolist(), strict=False):
        copies = make_env(task, NUM_ENVS, **recipe.env)
        try:
            episodes += record(
                stage.policy(),
                copies,
                share,
                derive(seed, "collect", task, stage.stream),
                None if progress is None else _offset(progress, before, transitions),
            )
            metadata = dict(copies.metadata)
        finally:
            copies.close()
    card = _card(recipe, transitions, seed, shares, metadata)
    write_omiga(dataset_of(recipe.spec, episodes, card), target)
    return target


def _require_room(spec: Spec, transitions: int, target: Path) -> None:
    """Raise ConfigError if the disk cannot hold so many steps."""
    row = sum(array.new(1).nbytes for name, array in spec.layout().items() if name != "state")
    place = next(folder for folder in target.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(place).free
    if row * transitions > free:
        raise ConfigError(
            f"{transitions:,} transitions take at least {row * transitions / 1e9:,.1f} GB, and the disk of {place} "
            f"has {free / 1e9:,.1f} GB left; take fewer (--transitions), or another place (--out)"
        )


def _recipe(task: str, quality: str, folder: Path | None, env: Mapping[str, Any]) -> _Recipe:
    """The recipe of a quality; raises the errors of :func:`collect`."""
    spec = task_spec(task, **env)
    asked = {"env": dict(env)} if env else {}
    arguments = " ".join(_env_arguments(env))
    own, _ = quality_and_version(quality)
    name = _behavior_policy_name(task, quality)
    names = behavior_policy_names(folder)
    if name != task and name not in names:
        raise UnknownNameError(f"quality of {task}", quality, collectable_qualities(task, folder))
    behavior = load_behavior_policy(name, folder) if quality != RANDOM or task in names else None
    if behavior is None or (quality == RANDOM and RANDOM not in behavior.qualities):
        stage = _Stage(lambda: UniformPolicy(spec), 0, "uniform")
        where = "the legal actions" if spec.discrete else "the box [-1, 1]"
        note = f"actions were drawn uniformly from {where}"
        return _Recipe(
            task, quality, spec, (stage,), {"policy": "uniform", **asked}, note, env, arguments=arguments
        )
    if own not in behavior.qualities:
        raise UnknownNameError(f"quality of {task}", quality, collectable_qualities(task, folder))
    differences = behavior.spec.differences(spec) if env else []
    if differences:
        raise ConfigError(
            f"{task}: its behavior policy was made for another shape than {' '.join(_env_arguments(env))} gives the "
            f"task: {differences[0]}; leave the option out, or record a policy of your own (--policy)"
        )
    return _Recipe(
        task,
        quality,
        behavior.spec,
        tuple(_stage(behavior, k) for k in behavior.qualities[own]),
        {"teacher": behavior.sha256, "teacher_command": behavior.command, **asked},
        "actions explore as the behavior policy's method does, among the legal ones"
        if behavior.spec.discrete
        else "actions were sampled from a Gaussian policy, clipped to [-1, 1], executed and recorded so",
        env,
        arguments=arguments,
    )


def _env_arguments(env: Mapping[str, Any]) -> list[str]:
    """How a command names options of an environment."""
    return ["--env", *(shlex.quote(f"{name}={value}") for name, value in env.items())] if env else []


def _deployed(
    task: str, quality: str, checkpoint: str | os.PathLike[str], replica: int, env: Mapping[str, Any]
) -> _Recipe:
    """A checkpoint's policy acts; raises as :func:`collect` says."""
    found = load_replica(Path(checkpoint), replica)
    if not env and found.task == task:
        env = found.env
    spec = task_spec(task, **env)
    differences = found.spec.differences(spec)
    if differences:
        raise ConfigError(
            f"{checkpoint}: {found.method} was trained for another task than {task}: {differences[0]}; "
            "name the one it was trained for, or the options of its environment with --env"
        )
    arguments = [f"--policy {shlex.quote(os.fspath(checkpoint))}"]
    arguments += [f"--replica {replica}"] if replica else []
    arguments += _env_arguments(env)
    origin = {
        "policy": found.method,
        "updates": found.updates,
        "checkpoint": sha256_file(checkpoint),
        "env": dict(env),
    }
    note = f"{found.method} acted with exploration, after {found.updates} updates"
    stage = _Stage(lambda: found.policy, 0, "policy")
    return _Recipe(task, quality, spec, (stage,), origin, note, env, OWN, " ".join(arguments))


def _stage(behavior: BehaviorPolicy, snapshot: int) -> _Stage:
    known = behavior.snapshots[snapshot]
    return _Stage(lambda: behavior.policy(snapshot), known.steps, known.updates)


def _offset(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    return lambda steps: progress(before + steps, total)


def _card(recipe: _Recipe, transitions: int, seed: int, shares: list[int], metadata: dict[str, Any]) -> Card:
    packages = {"marlzoo": __version__, "numpy": np.__version__, "torch": str(torch.__version__)}
    return Card(
        task=recipe.task,
        source=recipe.source,
        quality=recipe.quality,
        engine=" ".join(str(metadata[k]) for k in ("engine", "engine_version") if k in metadata),
        versions=packages,
        options=metadata,
        license="" if recipe.source == OWN else LICENSE,
        recipe=_described(recipe, transitions, seed, shares),
        notes=(
            recipe.note,
            "the last episode of each stage is cut where its share is full and has no end flag",
        ),
    )


def _described(recipe: _Recipe, transitions: int, seed: int, shares: list[int]) -> dict[str, Any]:
    """How the data are made, for their card."""
    return {
        "command": f"marlzoo data collect {recipe.task} --quality {recipe.quality} "
        f"--transitions {transitions} --seed {seed} {recipe.arguments}".rstrip(),
        "task": recipe.task,
        "quality": recipe.quality,
        "transitions": transitions,
        "seed": seed,
        **recipe.origin,
        "stages": [
            {"steps_trained": stage.steps, "transitions": share}
            for stage, share in zip(recipe.stages, shares, strict=True)
        ],
    }


def _require_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"data collect: {name} is {value!r}; it must be an integer of at least {least}")
