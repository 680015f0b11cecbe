"""The figure of a sweep: returns against every swept setting, with intervals over seeds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from .analysis import Results
from .figures import look, panels
from .stats import bands
from .suites import Learner

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDE = 10.0  # largest over smallest value from which an axis is logarithmic


def points(
    results: Results, learners: Iterable[Learner], names: Mapping[tuple[str, str], str]
) -> pd.DataFrame:
    """The returns of a sweep's learners by the settings in which those of one name differ.

    Args:
        results: of the sweep.
        learners: all that were tried.
        names: what a method and variant is a setting of.

    Returns:
        Columns ``learner`` (the name), ``setting``, ``value`` (as it was set), ``dataset``, ``mean`` over seeds,
        ``low`` and ``high`` (95 % bootstrap interval, NaN for fewer than three seeds); no line for runs without a
        finite return.
    """
    returns = {
        (name, dataset): values
        for runs in results.classes().values()
        for name in runs.learners
        for dataset, values in runs.returns[name].items()
    }
    cells = results.table()
    lines = []

    def name_of(learner: Learner) -> str:
        return names[learner.method, learner.variant]

    for learner_name, part in groupby(sorted(learners, key=name_of), name_of):
        tried = list(part)
        for setting in _differing(tried):
            for learner in tried:
                mine = cells[(cells["method"] == learner.method) & (cells["variant"] == learner.variant)]
                for name, dataset in zip(mine["learner"], mine["dataset"], strict=True):
                    values = returns.get((name, dataset))
                    if values is not None and np.isfinite(values).all():
                        low, high = (float(end[0]) for end in bands(values[None]))
                        value = learner.config.get(setting)
                        lines.append((learner_name, setting, value, dataset, float(values.mean()), low, high))
    return pd.DataFrame(lines, columns=["learner", "setting", "value", "dataset", "mean", "low", "high"])


def draw(found: pd.DataFrame, columns: int = 3) -> Figure:
    """A panel per learner and setting; marks of one dataset have one color.

    Args:
        found: lines of :func:`points`, at least one.
        columns: panels side by side.
    """
    datasets = list(dict.fromkeys(found["dataset"]))
    names = {f"{learner}: {setting}": (learner, setting) for learner, setting in _pairs(found)}

    def panel(axis: Any, name: str) -> None:
        learner, setting = names[name]
        mine = found[(found["learner"] == learner) & (found["setting"] == setting)]
        places = _places(axis, list(mine["value"]))
        for dataset, part in mine.assign(place=places).groupby("dataset", sort=False):
            ordered = part.sort_values("place", kind="stable")
            spread = [ordered["mean"] - ordered["low"], ordered["high"] - ordered["mean"]]
            # Several trials of one value differ in other settings: no line leads through them.
            once = ordered["place"].is_unique
            axis.errorbar(
                ordered["place"],
                ordered["mean"],
                np.nan_to_num(np.maximum(np.array(spread), 0.0)),
                fmt="o-" if once else "o",
                ms=4,
                lw=1,
                capsize=2,
                color=look(datasets.index(str(dataset)))[0],
                label=dataset,
            )
        axis.set(xlabel=setting, ylabel="return")

    return panels(list(names), columns, panel)


def _pairs(found: pd.DataFrame) -> list[tuple[str, str]]:
    return list(dict.fromkeys(zip(found["learner"], found["setting"], strict=True)))


def _differing(learners: Sequence[Learner]) -> list[str]:
    """The settings in which learners of one name differ."""
    names = dict.fromkeys(name for learner in learners for name in learner.config)
    return [name for name in names if len({repr(each.config.get(name)) for each in learners}) > 1]


def _places(axis: Any, values: Sequence[Any]) -> list[float]:
    """Positions on the axis: numbers at their value, others evenly spaced with their names."""
    if all(type(value) in (int, float) and math.isfinite(value) for value in values):
        if min(values) > 0 and max(values) >= WIDE * min(values):
            axis.set_xscale("log")
        return [float(value) for value in values]
    names = list(dict.fromkeys(map(str, values)))
    axis.set_xticks(range(len(names)), names)
    return [float(names.index(str(value))) for value in values]
