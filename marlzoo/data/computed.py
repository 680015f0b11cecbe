"""Logged data that an environment family computes instead of storing."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

from marlzoo.data.dataset import Dataset
from marlzoo.registry import family_module, task_families


def make_dataset(task: str, quality: str, **options: Any) -> Dataset | None:
    """The logged data of a task whose family computes them.

    Returns:
        None where the family does not, or there is no such task: its data are files.

    Raises:
        UnknownNameError: the family computes no data of that quality, or has no such option.
    """
    module, name = _datasets(task), task.partition("/")[2]
    if module is None or not computes(task):
        return None
    made: Dataset = module.dataset(name, quality, **options)
    return made


def computes(task: str) -> bool:
    """Whether a task's family computes its logged data."""
    return hasattr(_datasets(task), "dataset")


def computed_qualities(task: str) -> tuple[str, ...]:
    """Qualities of the logged data that a task's family computes; empty where its data are files."""
    module, name = _datasets(task), task.partition("/")[2]
    if module is None or not hasattr(module, "qualities"):
        return ()
    return tuple(module.qualities(name))


def _datasets(task: str) -> ModuleType | None:
    """The module that computes a task's data: the family's own, or the one that its ``DATASETS`` names."""
    family, _, name = task.partition("/")
    if family not in task_families():
        return None
    module = family_module(family)
    if name not in module.TASKS:
        return None
    named = getattr(module, "DATASETS", "")
    return importlib.import_module(named) if named else module
