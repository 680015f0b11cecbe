"""Short names of a table's learners and datasets, and the omitted parts for its caption."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from marlzoo.task import TaskName

LONGEST = 24  # characters of a learner's name; longer ones get a letter
_APART = re.compile(r", (?=[A-Za-z_]\w*=)")  # between two settings, whose values may hold commas


@dataclass(frozen=True)
class Labels:
    """Names for the lines of a summary, and sentences for the caption.

    Attributes:
        learners: name of each line's learner, by the summary's index.
        datasets: name of each line's dataset.
        notes: what all have in common, and what letters stand for.
    """

    learners: pd.Series
    datasets: pd.Series
    notes: list[str]


def labels_of(cells: pd.DataFrame, only: pd.Series | None = None) -> Labels:
    """Name the learners and datasets of a summary.

    Args:
        cells: the summary.
        only: lines that the notes are about, True each; default: all. Names do not depend on it.
    """
    learners, settings = _learners(cells, pd.Series(True, cells.index) if only is None else only)
    datasets, common = _datasets(cells)
    return Labels(learners, datasets, [*settings, *common])


def variant_settings(variant: str) -> dict[str, str]:
    """The settings in a row's ``variant`` by name."""
    parts = [part.partition("=") for part in _APART.split(variant) if part]
    return {name: value for name, _, value in parts}


def _learners(cells: pd.DataFrame, only: pd.Series) -> tuple[pd.Series, list[str]]:
    """A method's name, with the settings in which its learners differ; and the settings that are left out."""
    variants: dict[tuple[str, str], dict[str, str]] = {
        (method, variant): variant_settings(variant)
        for method, variant in zip(cells["method"], cells["variant"], strict=True)
    }
    shared = _shared(variants)
    names: dict[Any, Any] = {}
    lettered: dict[Any, Any] = {}
    for (method, variant), settings in variants.items():
        # What a method calls its variants needs no "variant=" before it.
        own = ", ".join(
            value if name == "variant" else f"{name}={value}"
            for name, value in settings.items()
            if name not in shared
        )
        names[method, variant] = f"{method} ({own})" if own else method
    for (method, variant), name in names.items():
        if len(name) > LONGEST:
            letter = _letters(sum(other.startswith(f"{method} ") for other in lettered))
            lettered[f"{method} {letter}"] = name
            names[method, variant] = f"{method} {letter}"
    keys = zip(cells["method"], cells["variant"], strict=True)
    found = pd.Series([names[key] for key in keys], index=cells.index)
    told = [text for setting in shared.values() if (text := setting.text(_unique(cells["method"][only])))]
    notes = [f"Settings: {', '.join(told)}."] if told else []
    shown = set(found[only])
    notes += [
        f"{short}: {name.partition(' ')[2].strip('()')}."
        for short, name in lettered.items()
        if short in shown
    ]
    within = [cells[name] for name in ("suite", "task", "source", "quality", "data_hash")]
    return _told_apart(found, within, cells["config_hash"]), notes


def _letters(place: int) -> str:
    """a, b, ..., z, aa, ab, ... for 0, 1, ..."""
    rest, last = divmod(place, 26)
    return (_letters(rest - 1) if rest else "") + chr(ord("a") + last)


class _Shared(NamedTuple):
    """A setting that tells no two learners apart, and the methods that have it."""

    name: str
    value: str
    methods: list[str]

    def text(self, methods: Sequence[str]) -> str:
        """The setting's text for a table, with the methods that have it unless all do; empty if none has it."""
        having = [method for method in methods if method in self.methods]
        where = "" if len(having) == len(methods) else f" ({', '.join(having)})"
        return f"{self.name}={self.value}{where}" if having else ""


def _shared(variants: Mapping[tuple[str, str], Mapping[str, str]]) -> dict[str, _Shared]:
    """Settings that tell no two learners apart: one value, and all of a method's learners or none."""
    methods: dict[str, list[Mapping[str, str]]] = {}
    for (method, _), settings in variants.items():
        methods.setdefault(method, []).append(settings)
    shared: dict[str, _Shared] = {}
    for name in _unique(name for settings in variants.values() for name in settings):
        values = {settings[name] for settings in variants.values() if name in settings}
        having = [m for m, learners in methods.items() if any(name in settings for settings in learners)]
        complete = all(all(name in settings for settings in methods[method]) for method in having)
        if len(values) == 1 and complete:
            shared[name] = _Shared(name, values.pop(), having)
    return shared


def _datasets(cells: pd.DataFrame) -> tuple[pd.Series, list[str]]:
    """A dataset's name without the parts that all datasets share; and these parts."""
    family = cells["task"].map(lambda task: TaskName.parse(task).family)
    notes: list[str] = []
    parts: list[Any] = []
    if cells.groupby(["task", "source", "quality"])["suite"].nunique().max() > 1:
        parts.append(cells["suite"])
    if cells["task"].nunique() == 1:
        notes.append(f"Task: {cells['task'].iloc[0]}.")
    elif family.nunique() == 1:
        notes.append(f"Tasks: {family.iloc[0]}.")
        parts.append(cells["task"].map(lambda task: TaskName.parse(task).name))
    else:
        parts.append(cells["task"])
    parts.append(cells["quality"])
    if cells["source"].nunique() > 1:
        parts.append("(" + cells["source"] + ")")
    else:
        notes.append(f"Data: {cells['source'].iloc[0]}.")
    names = parts[0].str.cat([part.astype(str) for part in parts[1:]], sep=" ") if parts[1:] else parts[0]
    return _told_apart(names, [], cells["data_hash"].str[:8]), notes


def _told_apart(names: pd.Series, within: list[pd.Series], hashes: pd.Series) -> pd.Series:
    """Names, with the hash behind those that have several hashes (within the same values of ``within``)."""
    counts = hashes.groupby([names, *within]).transform("nunique")
    several = names.map(counts.groupby(names).max()) > 1
    return names.where(~several, names + " #" + hashes)


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
