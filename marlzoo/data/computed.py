"""Logged data that an environment family computes instead of storing."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from marlzoo.data.dataset import Dataset
from marlzoo.families import Task, foreign_code


def make_dataset(task: str, quality: str, **options: Any) -> Dataset | None:
    """The logged data of a task whose family computes them.

    Returns:
        None where the family does not, or there is no such task: its data are files.

    Raises:
        UnknownNameError: the family computes no data of that quality, or has no such option.
    """
    found = Task.parse(task)
    module = _datasets(found)
    if module is None or not hasattr(module, "dataset"):
        return None
    with foreign_code(found.family, f"{task}: computing the data {quality!r}"):
        made: Dataset = module.dataset(found.name, quality, **options)
    return made


def computes(task: str) -> bool:
    """Whether a task's family computes its logged data."""
    return hasattr(_datasets(Task.parse(task)), "dataset")


def computed_qualities(task: str) -> tuple[str, ...]:
    """Qualities of the logged data that a task's family computes; empty where its data are files."""
    found = Task.parse(task)
    module = _datasets(found)
    if module is None or not hasattr(module, "qualities"):
        return ()
    with foreign_code(found.family, f"{task}: listing the qualities of its data"):
        return tuple(module.qualities(found.name))


def _datasets(task: Task) -> ModuleType | None:
    """The module that computes a task's data: the family's own, or the one that its ``DATASETS`` names."""
    if not task.exists:
        return None
    named = getattr(task.module, "DATASETS", "")
    with foreign_code(task.family, f"{task}: importing {named}, which computes its data,"):
        return importlib.import_module(named) if named else task.module
