"""How the teachers of tasks are made (``plans.toml``), also of those that are not shipped."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any


@dataclass(frozen=True)
class Plan:
    """What makes a task's teacher.

    Args:
        options: of :class:`marlzoo.teachers.make.Options`, by name.
        hours: that it takes on one core.
        published: ``family/task/source`` of the published data that it stands for; empty where there are none.
    """

    options: dict[str, Any]
    hours: float
    published: str


@cache
def plans() -> dict[str, Plan]:
    """All plans by task."""
    text = resources.files(__package__).joinpath("plans.toml").read_text(encoding="utf-8")
    return {task: Plan(**_tuples(values)) for task, values in tomllib.loads(text).items()}


def how_to_train(task: str) -> str:
    """One sentence: the command that trains the teacher of a task, and how long it takes."""
    plan = plans().get(task)
    if plan is None:
        return f"train one with: marlzoo data teach {task} --method METHOD"
    return f"train one with: marlzoo data teach {task} (about {plan.hours:g} hours on one core)"


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in values["options"].items()}
    return {**values, "options": options}
