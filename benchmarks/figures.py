"""``marlzoo.plot``: figures for a paper from result rows, drawn with matplotlib (extra ``plot``)."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from marlzoo.errors import ConfigError, DataError, MissingExtraError
from marlzoo.system.files import write_figure

from .analysis import DATASET, LEARNER, Results, scope_name
from .stats import bands

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Kind = Literal["curves", "profile", "bars"]
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's
STYLES = ("-", "--", "-.", ":")
HATCHES = ("", "//", "..", "xx")  # tell colors apart that are used again
FORMATS = (".pdf", ".png", ".svg")


def plot(
    *paths: str | os.PathLike[str],
    kind: Kind = "curves",
    out: str | os.PathLike[str] | None = None,
    columns: int = 3,
) -> Figure:
    """Draw learning curves, performance profiles or bars of final returns.

    Lines and bars are means over seeds, bands and error bars 95 % bootstrap intervals (from three seeds on).

    Args:
        paths: folders that hold ``rows.csv``, or such files.
        kind: ``curves`` (return over updates, a panel per dataset), ``profile`` (share of runs over normalized score)
            or ``bars`` (return of the last checkpoint, a panel per dataset).
        out: file to write, ending in .pdf, .png or .svg; None: none.
        columns: panels side by side.

    Returns:
        The figure.

    Raises:
        ConfigError: another kind, another ending of the file, or no column.
        DataError: no rows, or none that the figure could show.
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    path = None if out is None else Path(out)
    if path is not None and path.suffix not in FORMATS:
        raise ConfigError(f"{path}: end the file's name in {', '.join(FORMATS)}")
    figure = draw(Results(*paths), kind, columns)
    if path is not None:
        save_figure(figure, path)
    return figure


def draw(results: Results, kind: Kind = "curves", columns: int = 3) -> Figure:
    """The figure of some results; see :func:`plot`."""
    if kind not in _DRAW:
        raise ConfigError(f"kind is {kind!r}; it must be one of {', '.join(_DRAW)}")
    if columns < 1:
        raise ConfigError(f"columns is {columns}; it must be at least 1")
    return _DRAW[kind](results, columns)


def _curves(results: Results, columns: int) -> Figure:
    found = results.curves()
    data = results.table().groupby(DATASET)["behavior"].first()
    if found.empty:
        raise _nothing(results, "every run failed")

    def draw(axis: Any, dataset: str) -> None:
        for learner, part in found[found[DATASET] == dataset].groupby(LEARNER, sort=False):
            color, style = look(results.learners.index(str(learner)))
            alone = np.isfinite(part["mean"]).sum() == 1  # a point by itself makes no line
            dot = "o" if alone else None
            axis.plot(part["updates"], part["mean"], color=color, linestyle=style, marker=dot, label=learner)
            axis.fill_between(part["updates"], part["low"], part["high"], color=color, alpha=0.2, linewidth=0)
            if alone:
                axis.vlines(part["updates"], part["low"], part["high"], color=color)  # nor a band
        if np.isfinite(data[dataset]):
            axis.axhline(data[dataset], color="gray", linestyle=":", linewidth=1, label="(data)")
        axis.set(xlabel="updates", ylabel="return")

    return panels(results.datasets, columns, draw)


def _profile(results: Results, columns: int) -> Figure:
    del columns
    found = results.profiles()
    if found.empty:
        raise _nothing(
            results,
            "a profile needs a learner that ran on all datasets, of tasks with a normalized score; bars and curves "
            "show returns without one",
        )

    names = [scope_name(*scope) for scope in zip(found["suite"], found["execution"], strict=True)]
    parts = {str(name): part for name, part in found.groupby(names, sort=False)}

    def draw(axis: Any, name: str) -> None:
        for learner, part in parts[name].groupby(LEARNER, sort=False):
            color, style = look(results.learners.index(str(learner)))
            axis.plot(part["score"], part["share"], color=color, linestyle=style, label=learner)
            axis.fill_between(part["score"], part["low"], part["high"], color=color, alpha=0.2, linewidth=0)
        axis.set(xlabel="normalized score", ylabel="share of runs that reach it", ylim=(-0.02, 1.02))

    return panels(list(parts), 1, draw)


def _bars(results: Results, columns: int) -> Figure:
    cells = results.table()
    last = [
        (dataset, learner, values)
        for runs in results.classes().values()
        for learner in runs.learners
        for dataset, values in runs.returns[learner].items()
    ]
    if not last:
        raise _nothing(results, "every run failed")

    def draw(axis: Any, dataset: str) -> None:
        for learner, values in (found[1:] for found in last if found[0] == dataset):
            place = results.learners.index(learner)
            mean = values.mean()
            low, high = (end[0] for end in bands(values[None]))
            error = None if math.isnan(low) else [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
            hatch = HATCHES[place // len(COLORS) % len(HATCHES)]
            height = mean if np.isfinite(mean) else math.nan  # a run without a return: no bar
            axis.bar(place, height, yerr=error, capsize=2, color=look(place)[0], hatch=hatch, label=learner)
        behavior = cells.loc[cells[DATASET] == dataset, "behavior"].iloc[0]
        if np.isfinite(behavior):
            axis.axhline(behavior, color="gray", linestyle=":", linewidth=1, label="(data)")
        axis.set(ylabel="return", xticks=[])

    return panels(results.datasets, columns, draw)


_DRAW: dict[str, Callable[[Results, int], Figure]] = {"curves": _curves, "profile": _profile, "bars": _bars}


def panels(names: Sequence[str], columns: int, draw: Callable[[Any, str], None]) -> Figure:
    """A panel per name, and one legend for all."""
    across = min(columns, len(names))
    down = math.ceil(len(names) / across)
    figure = _figure()(figsize=(2.0 + 3.5 * across, 2.8 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for unused in axes[len(names) :]:
        unused.set_axis_off()
    for axis, name in zip(axes, names, strict=False):
        axis.set_title(name, fontsize="medium", parse_math=False)
        axis.spines[["top", "right"]].set_visible(False)
        draw(axis, name)
    handles: dict[str, Any] = {}
    for axis in axes:
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    legend = figure.legend(handles.values(), handles.keys(), loc="outside right upper", frameon=False)
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def look(place: int) -> tuple[str, str]:
    """Color and line style of a learner; each color comes with four styles."""
    return COLORS[place % len(COLORS)], STYLES[place // len(COLORS) % len(STYLES)]


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure; the same rows give the same bytes with the same matplotlib."""
    from matplotlib import rc_context

    stamp = {".svg": "Date", ".pdf": "CreationDate"}.get(path.suffix)
    metadata: dict[str, Any] = {stamp: None} if stamp else {"Software": None}
    with rc_context({"svg.hashsalt": "marlzoo"}):
        write_figure(path, figure, dpi=150, metadata=metadata)


def _figure() -> type[Figure]:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "drawing") from error
    return Figure


def _nothing(results: Results, why: str) -> DataError:
    return DataError(f"{results.title}: nothing to draw: {why}")
