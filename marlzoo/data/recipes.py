"""Regenerating datasets from shipped teachers: the same arguments and versions give the same bytes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marlzoo import __version__
from marlzoo.data.card import Card
from marlzoo.data.collect import COPIES, Episode, dataset_of, record
from marlzoo.data.load import SUFFIX, dataset_path
from marlzoo.data.omiga import write_omiga
from marlzoo.errors import ConfigError, UnknownNameError
from marlzoo.random import derive
from marlzoo.registry import make_env
from marlzoo.teachers.store import FOLDER, Teacher, load_teacher

SOURCE = "marlzoo"
TRANSITIONS, SEED = 100_000, 0  # what a dataset's plain name stands for
LICENCE = "Apache-2.0"


def recipe_path(task: str, quality: str, transitions: int = TRANSITIONS, seed: int = SEED) -> Path:
    """Where a collected dataset goes: size and seed are part of its name where they are not the usual ones."""
    return dataset_path(
        f"{task}/{SOURCE}/{quality}",
        transitions=None if transitions == TRANSITIONS else transitions,
        seed=None if seed == SEED else seed,
    )


def qualities(task: str, folder: Path = FOLDER) -> list[str]:
    """Qualities that a task's teacher can make.

    Raises:
        DataError: the task has no teacher.
    """
    return list(load_teacher(task, folder).qualities)


def collect(
    task: str,
    quality: str,
    transitions: int = TRANSITIONS,
    seed: int = SEED,
    path: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    folder: Path = FOLDER,
) -> Path:
    """Regenerate a dataset of exactly ``transitions`` steps and write it (replacing an older file) in one step.

    The teacher's snapshots that make the quality act with exploration, in equal shares, one after another in
    the order of their training (see :func:`marlzoo.data.collect.record`):

    - ``random``: the freshly initialised policy;
    - ``medium``, ``expert``: one snapshot;
    - ``medium-expert``: half and half, the same episodes as in the single datasets of half the size;
    - ``medium-replay``: snapshots spread evenly over the training from its start to the medium one. It
      stands for a replay buffer without repeating the training.

    A policy's samples may leave the box [-1, 1]; they are clipped before they are executed and recorded. Each
    snapshot's last episode is cut where its share is full: it carries neither end flag.

    The bytes depend on the arguments, the teacher and the versions in the card, not on the number of threads.
    Another kind of processor may round differently.

    Args:
        task: full task name.
        quality: one of :func:`qualities`.
        transitions: number of steps.
        seed: of starts and exploration.
        path: file to write, ending in ``.hdf5`` or ``.h5``; default: :func:`recipe_path`.
        progress: called with steps recorded and steps in all.
        folder: of the teachers.

    Returns:
        The file.

    Raises:
        DataError: the task has no teacher.
        UnknownNameError: the teacher does not have this quality.
        ConfigError: a wrong number of transitions, a negative seed, or a file name that is not HDF5's.
        OutputError: the file cannot be written; nothing is left behind.
    """
    teacher = load_teacher(task, folder)
    if quality not in teacher.qualities:
        raise UnknownNameError(f"quality of {task}", quality, teacher.qualities)
    chosen = teacher.qualities[quality]
    _require_count("transitions", transitions, len(chosen))
    _require_count("seed", seed, 0)
    target = recipe_path(task, quality, transitions, seed) if path is None else Path(path).expanduser()
    if target.suffix not in (SUFFIX, ".h5"):
        raise ConfigError(f"{target}: datasets are HDF5 files; end the name in {SUFFIX}")
    shares = [transitions // len(chosen) + (k < transitions % len(chosen)) for k in range(len(chosen))]
    episodes: list[Episode] = []
    metadata: dict[str, Any] = {}
    for snapshot, share, before in zip(chosen, shares, np.cumsum([0, *shares]).tolist(), strict=False):
        env = make_env(task, COPIES)
        try:
            episodes += record(
                teacher.policy(snapshot),
                env,
                share,
                derive(seed, "collect", task, teacher.snapshots[snapshot].updates),
                None if progress is None else _offset(progress, before, transitions),
            )
            metadata = dict(env.metadata)
        finally:
            env.close()
    card = _card(teacher, quality, transitions, seed, shares, metadata)
    write_omiga(dataset_of(teacher.spec, episodes, card), target)
    return target


def _offset(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int], None]:
    return lambda steps: progress(before + steps, total)


def _card(
    teacher: Teacher, quality: str, transitions: int, seed: int, shares: list[int], metadata: dict[str, Any]
) -> Card:
    chosen = teacher.qualities[quality]
    stages = [
        {"steps_trained": teacher.snapshots[k].steps, "transitions": share}
        for k, share in zip(chosen, shares, strict=True)
    ]
    packages = {"marlzoo": __version__, "numpy": np.__version__, "torch": str(torch.__version__)}
    return Card(
        task=teacher.task,
        source=SOURCE,
        quality=quality,
        engine=" ".join(str(metadata[k]) for k in ("engine", "engine_version") if k in metadata),
        versions=packages,
        options=metadata,
        licence=LICENCE,
        recipe={
            "command": f"marlzoo data collect {teacher.task} --quality {quality} "
            f"--transitions {transitions} --seed {seed}",
            "task": teacher.task,
            "quality": quality,
            "transitions": transitions,
            "seed": seed,
            "teacher": teacher.sha256,
            "teacher_command": teacher.command,
            "stages": stages,
        },
        notes=(
            "actions were sampled from a Gaussian policy, clipped to [-1, 1], executed and recorded so"
            if not teacher.spec.discrete
            else "actions explore as the teacher's method does, among the legal ones",
            "the last episode of each stage is cut where its share is full and has no end flag",
        ),
    )


def _require_count(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"data collect: {name} is {value!r}; it must be an integer of at least {least}")
