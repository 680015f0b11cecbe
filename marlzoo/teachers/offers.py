"""Which qualities of data can be collected for a task."""

from __future__ import annotations

import re
from pathlib import Path

from marlzoo.families import Task
from marlzoo.teachers.plans import how_to_train
from marlzoo.teachers.qualities import quality_and_version, versioned_quality
from marlzoo.teachers.store import behavior_policy_names, load_behavior_policy, task_and_version

SOURCE = "marlzoo"
RANDOM = "random"  # the quality that every task has
_SIZED = re.compile(
    r"(?P<quality>.+?)(-n(?P<transitions>\d+))?(-s(?P<seed>\d+))?"
)  # as recipe_path names files


def collectable_qualities(task: str, folder: Path | None = None) -> list[str]:
    """Qualities of a task's data: those of its behavior policies, if it has some, and ``random``.

    The second behavior policy's are ``medium-v2``, ``expert-v2``, and so on.
    """
    taught = [
        versioned_quality(quality, behavior.version)
        for name in behavior_policy_names(folder)
        if task_and_version(name)[0] == task
        for behavior in (load_behavior_policy(name, folder),)
        for quality in behavior.qualities
    ]
    return taught if RANDOM in taught else [RANDOM, *taught]


def version_of(quality: str, source: str = SOURCE) -> int:
    """The behavior policy of a task that made data: 2 for ``expert-v2``, also with size and seed; else the first.

    Args:
        quality: of the data.
        source: of the data; others than marlzoo's may be called so for reasons of their own.
    """
    found = _SIZED.fullmatch(quality)
    return quality_and_version(found["quality"])[1] if source == SOURCE and found else 1


def how_to_collect(task: str, quality: str) -> str:
    """The command that makes data of a quality, as in a dataset's name (``medium``, ``medium-n500-s1``).

    Empty where no recipe makes it.
    """
    found = _SIZED.fullmatch(quality)
    if found is None or not Task.parse(task).exists or found["quality"] not in collectable_qualities(task):
        return ""
    size = f" --transitions {found['transitions']}" if found["transitions"] else ""
    start = f" --seed {found['seed']}" if found["seed"] else ""
    return f"marlzoo data collect {task} --quality {found['quality']}{size}{start}"


def instead(task: str) -> str:
    """A sentence for who asked for a quality of a task's data that no recipe makes."""
    if not Task.parse(task).exists:
        return f"There is no task {task}; marlzoo list tasks shows all"
    known = ", ".join(collectable_qualities(task))
    more = (
        ""
        if task in behavior_policy_names()
        else f"; the others need a behavior policy; {how_to_train(task)}"
    )
    return f"The qualities of {task} that marlzoo data collect makes: {known}{more}"
