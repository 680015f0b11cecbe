"""Logged data that an environment family computes instead of storing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from marlzoo.data.dataset import Dataset
from marlzoo.registry import _family, task_families


def make_dataset(task: str, quality: str, **options: Any) -> Dataset | None:
    """The logged data of a task whose family computes them (a function ``dataset(name, quality, **options)``).

    Returns:
        None where the family does not, or there is no such task: its data are files.

    Raises:
        UnknownNameError: the family computes no data of that quality, or has no such option.
    """
    family, _, name = task.partition("/")
    if family not in task_families() or not hasattr(_family(family), "dataset"):
        return None
    if name not in _family(family).TASKS:
        return None
    made: Dataset = _family(family).dataset(name, quality, **options)
    return made


def computed_qualities(task: str) -> tuple[str, ...]:
    """Qualities of the logged data that a task's family computes; empty where its data are files."""
    family, _, name = task.partition("/")
    if family not in task_families() or not hasattr(_family(family), "qualities"):
        return ()
    return tuple(_family(family).qualities(name)) if name in _family(family).TASKS else ()
