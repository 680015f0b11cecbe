"""How the behavior policies of tasks are made (``plans.toml``), also of those that are not shipped."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from marlzoo.system.machine import home


@dataclass(frozen=True)
class Plan:
    """What makes a task's behavior policy.

    Args:
        options: of :class:`marlzoo.recording.teach.Options`, by name.
        published: ``family/task/source`` of the published data that it stands for; empty where there are none.
        like: published dataset of another task whose mean return, times ``scale``, the last quality aims at.
        scale: see ``like``.
    """

    options: dict[str, Any]
    published: str = ""
    like: str = ""
    scale: float = 1.0


def own_folder() -> Path:
    """Where ``marlzoo data teach`` puts behavior policies: ``teachers`` in marlzoo's home."""
    return home() / "teachers"


@cache
def plans() -> dict[str, Plan]:
    """All plans by name of the behavior policy: the task, with the version of a later one (``mpe/spread@2``)."""
    return {task: Plan(**_tuples(values)) for task, values in _read().items() if "/" in task}


def default_method() -> str:
    """The online method for tasks without a plan."""
    method: str = _read()["default"]["method"]
    return method


@cache
def _read() -> dict[str, Any]:
    text = resources.files(__package__).joinpath("plans.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def how_to_train(name: str) -> str:
    """One sentence: the command that trains a behavior policy, and for how many steps."""
    plan = plans().get(name)
    if plan is None:
        return f"train one with: marlzoo data teach {name}"
    return f"train one with: marlzoo data teach {name} ({plan.options['steps']:,} team steps)"


def _tuples(values: dict[str, Any]) -> dict[str, Any]:
    options = {name: tuple(v) if isinstance(v, list) else v for name, v in values["options"].items()}
    return {**values, "options": options}
