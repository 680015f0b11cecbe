"""A suite as a TOML file with its bases resolved: ``marlzoo bench SUITE --show``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from typing import Any

from .suites import Data, Learner, Suite

TABLES = ("config", "data")  # they come last, as what follows a table's head belongs to it


def suite_toml(suite: Suite) -> str:
    """The text of a file that holds this suite, complete: budgets and seeds also where they are the defaults.

    The name stays out, so that a copy has that of its file and its results a folder of their own.
    """
    lines = [
        f"{entry.name} = {_value(value)}"
        for entry in fields(suite)
        if entry.name not in ("name", *TABLES) and (value := getattr(suite, entry.name)) != ""
    ]
    if suite.config:
        lines += ["", "[config]", *_entries(suite.config)]
    for data in suite.data:
        lines += ["", "[[data]]", *_entries(_given(data))]
    return "\n".join(lines) + "\n"


def learners_toml(learners: tuple[Learner, ...]) -> str:
    """The line of a suite's file that lists learners."""
    return f"learners = {_value(learners)}\n"


def _given(entry: Data | Learner) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    return {
        place.name: value
        for place in fields(entry)
        if (value := getattr(entry, place.name)) != _default(place)
    }


def _default(place: Field[Any]) -> Any:
    return place.default if place.default_factory is MISSING else place.default_factory()


def _entries(values: Mapping[str, Any]) -> list[str]:
    return [f"{_key(name)} = {_value(value)}" for name, value in values.items()]


def _key(name: str) -> str:
    bare = name.isascii() and name.replace("_", "").replace("-", "").isalnum()
    return name if bare else json.dumps(name)


def _value(value: Any) -> str:
    if isinstance(value, Learner):
        return _value(value.method if _given(value).keys() == {"method"} else _given(value))
    if isinstance(value, Mapping):
        return "{ " + ", ".join(_entries(value)) + " }" if value else "{}"
    if isinstance(value, tuple | list):
        texts = [_value(entry) for entry in value]
        if any(isinstance(entry, Learner) for entry in value):
            return "[\n" + "".join(f"    {text},\n" for text in texts) + "]"
        return f"[{', '.join(texts)}]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return str(value).lower()  # true and false, inf and nan, and numbers such as 1e-05
