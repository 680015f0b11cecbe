"""The datasets of a suite: where each is found, how a missing one is made, and what identifies it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from marlzoo.data.computed import computed_qualities
from marlzoo.data.dataset import Dataset
from marlzoo.data.fitting import fitted
from marlzoo.data.load import load_dataset, read_card, read_description
from marlzoo.data.mix import mix
from marlzoo.data.names import DatasetName
from marlzoo.data.validation import reward_remedy
from marlzoo.errors import DataError, UnknownNameError
from marlzoo.families import fitting_options, task_spec
from marlzoo.recording.recipes import collect, is_of_recipe, recipe_path
from marlzoo.teachers.offers import collectable_qualities

from .suites import REGENERATED, Data

ProgressReporter = Callable[[int, int], None]
"""Called while data are made: transitions so far, transitions in all."""


@dataclass(frozen=True)
class Source:
    """An existing dataset: its location, the names in its rows, and its identity.

    ``options`` are those of data that are computed.
    """

    entry: Data
    path: str
    task: str
    source: str
    quality: str
    hash: str
    behavior: float
    transitions: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Dataset:
        """The dataset; one that names no task is read as one of this task."""
        return _as_of_task(self.path, replace(self.entry, task=self.task), self.options)


def task_of(data: Data) -> str:
    """The task of a dataset: as the suite says, or else as the card of its file does; may be empty.

    Raises:
        DataError: a dataset that is no recipe's is missing or broken.
    """
    if recipe_file(data, Path()) is not None:
        return data.task
    return data.task or read_card(_name(data), **computed_options(data)).task


def kind_of(task: str, data: Data) -> str:
    """Kind of a task's actions."""
    return task_spec(task, **data.env).action_kind


def computed_options(data: Data) -> dict[str, Any]:
    """Options with which a dataset is computed: those of its task's environment, and its seed."""
    if data.file or data.source != REGENERATED or not computed_qualities(data.task):
        return {}
    return {**data.env, **({"seed": data.seed} if data.seed else {})}


def recipe_file(data: Data, folder: Path) -> Path | None:
    """File of a regenerated dataset; None for one that is not regenerated, or is computed when loaded."""
    if data.file or data.source != REGENERATED or computed_qualities(data.task):
        return None
    options = json.dumps(dict(data.env), sort_keys=True, default=str)
    env = f"-e{hashlib.sha256(options.encode()).hexdigest()[:8]}" if data.env else ""
    return folder / data.task / data.source / f"{data.quality}-n{data.transitions}-s{data.seed}{env}.hdf5"


def present_file(data: Data, folder: Path) -> Path | None:
    """The file of a regenerated dataset that is there: the results' own, or that of ``marlzoo data collect``."""
    file = recipe_file(data, folder)
    if file is None or file.exists():
        return file
    collected = recipe_path(data.task, data.quality, data.transitions, data.seed)
    made = is_of_recipe(collected, data.task, data.quality, data.transitions, data.seed, data.env)
    return collected if made else None


def is_missing(data: Data, folder: Path) -> bool:
    """Whether :func:`obtain` would have to make a dataset."""
    return recipe_file(data, folder) is not None and present_file(data, folder) is None


def named(data: Data) -> Source:
    """A dataset of which only the names are known, because it was not made yet: without hash and return."""
    return Source(data, "", data.task, data.source, data.quality, hash="", behavior=math.nan)


def obtain(data: Data, folder: Path, report: ProgressReporter) -> Source:
    """Find a dataset, or make it by its recipe under ``folder``.

    What ``marlzoo data collect`` made by the same recipe is taken as it is.

    Raises:
        DataError: it is missing (the text says how to get it), broken, or of another task or shape.
        OutputError: the regenerated file cannot be written.
    """
    path = _name(data)
    file = recipe_file(data, folder)
    if file is not None:
        there = present_file(data, folder)
        if there is None:
            _make(data, file, folder, report)
        path = str(there or file)
    options = computed_options(data)
    card = read_card(path, **options)
    task = data.task or card.task
    if not task or card.task not in ("", task):
        raise DataError(
            f"{path}: the task asked for is {data.task or '?'}, the dataset's card says {card.task or '?'}; "
            "give the dataset's own task, or another dataset"
        )
    _require_fit(path, replace(data, task=task), options)
    return Source(
        entry=data,
        path=path,
        task=task,
        source=(card.source or "file") if data.file else data.source,
        quality=data.quality or card.quality or Path(path).stem,
        hash=card.content_hash or load_dataset(path, **options).content_hash,
        behavior=card.mean_return,
        transitions=card.transitions,
        options=options,
    )


def _require_fit(path: str, data: Data, options: Mapping[str, Any]) -> None:
    """Refuse data that do not have the shape of their task: one file of them would fail a whole group.

    Files that state their shape are not read for it.
    """
    expected = task_spec(data.task, **data.env)
    spec, card = read_description(path, **options)
    if spec == expected:
        return
    axes = ("n_agents", "obs_size", "state_size", "action_kind")
    if not card.task and all(getattr(spec, axis) == getattr(expected, axis) for axis in axes):
        spec = _as_of_task(path, data, options).spec  # arrays alone show neither time limit nor all actions
    differences = expected.differences(spec)
    if not differences:
        return
    fitting = fitting_options(data.task, spec)
    if spec.reward_per_agent != expected.reward_per_agent and len(differences) == 1:
        remedy = reward_remedy(expected)
    elif fitting:
        pairs = fitting.items()
        remedy = (
            f"with env = {{ {', '.join(f'{name} = {json.dumps(value)}' for name, value in pairs)} }} in the suite "
            f"(--env {' '.join(f'{name}={value}' for name, value in pairs)}) the task has the shape of the data"
        )
    else:
        remedy = (
            "name the task that the data are of, or other data; where the file says too little about itself, convert "
            "it with 'marlzoo data convert FILE NEW', which takes what is missing as --option, such as horizon=50"
        )
    raise DataError(
        f"{path}: does not fit the task {data.task}: {'; '.join(differences)} (left: the task's, right: the data's); "
        f"{remedy}"
    )


def _as_of_task(path: str, data: Data, options: Mapping[str, Any]) -> Dataset:
    """A dataset; one that names no task is read as one of the entry's."""
    dataset = load_dataset(path, **options)
    if dataset.card.task:
        return dataset
    try:
        return fitted(dataset, task_spec(data.task, **data.env))
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _make(data: Data, file: Path, folder: Path, report: ProgressReporter) -> None:
    """Make a dataset by its recipe, or mix it of two that have one."""
    parts = [obtain(replace(data, quality=part), folder, report) for part in parts_of(data)]
    if parts:
        shares = [(part.path, 1 / len(parts)) for part in parts]
        mix(shares, file, transitions=data.transitions, seed=data.seed, force=True)
    else:
        collect(data.task, data.quality, data.transitions, data.seed, file, report, env=data.env, force=True)


def parts_of(data: Data) -> tuple[str, ...]:
    """The qualities that a regenerated dataset mixes in equal shares (``good-poor``); empty for one with a recipe.

    Raises:
        UnknownNameError: there is no recipe for the quality, nor for its parts.
    """
    known = collectable_qualities(data.task)
    if data.quality in known:
        return ()
    for first in known:
        second = data.quality.removeprefix(f"{first}-")
        if second != data.quality and second in known:
            return first, second
    raise UnknownNameError(f"quality of {data.task}", data.quality, known)


def _name(data: Data) -> str:
    """Under what a dataset that is no recipe's is looked up."""
    return data.file or str(DatasetName(data.task, data.source, data.quality))
