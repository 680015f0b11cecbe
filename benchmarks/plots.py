"""Figures from result rows: ``python -m marlzoo.benchmarks.plots results/NAME -o FILE.svg`` draws learning curves.

Needs the extra ``plot``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro

from marlzoo.errors import ConfigError, MissingExtraError
from marlzoo.system.files import atomic_write

from .labels import labels_of
from .stats import interval
from .summary import read

COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito's
FORMATS = (".svg", ".png", ".pdf")


@dataclass(frozen=True)
class Options:
    """Draw learning curves: mean return over seeds with a 95 % bootstrap interval, one panel per dataset."""

    paths: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """folders that hold rows.csv, or such files"""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """file ending in .svg, .png or .pdf"""
    columns: int = 3
    """panels side by side"""


def curves(rows: pd.DataFrame, columns: int = 3) -> Any:
    """Learning curves as a matplotlib figure.

    Args:
        rows: see :mod:`marlzoo.benchmarks.results`.
        columns: panels side by side.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    figure_class = _matplotlib()
    labels = labels_of(rows)
    rows = rows.assign(learner=labels.learners, dataset=labels.datasets)
    panels = list(rows.groupby("dataset", sort=False))
    learners = list(dict.fromkeys(rows["learner"]))

    across = min(columns, len(panels))
    down = math.ceil(len(panels) / across)
    figure = figure_class(figsize=(2.0 + 3.5 * across, 2.8 * down), layout="constrained")
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for unused in axes[len(panels) :]:
        unused.set_axis_off()
    for axis, (name, panel) in zip(axes, panels, strict=False):
        axis.set_title(name, fontsize="medium")
        _panel(axis, panel, learners)
    lines = {line.get_label(): line for axis in axes for line in axis.get_lines()}
    figure.legend(lines.values(), lines.keys(), loc="outside right upper", frameon=False)
    return figure


def _panel(axis: Any, rows: pd.DataFrame, learners: Sequence[str]) -> None:
    for learner, runs in rows.groupby("learner", sort=False):
        color = COLORS[learners.index(str(learner)) % len(COLORS)]
        returns = runs.groupby("updates")["mean_return"]
        mean = returns.mean()
        axis.plot(mean.index, mean, color=color, label=learner)
        ends = np.array([interval([values.to_numpy()], statistic=np.mean) for _, values in returns])
        axis.fill_between(mean.index, ends[:, 0], ends[:, 1], color=color, alpha=0.2, linewidth=0)
    axis.axhline(rows["behavior_return"].iloc[0], color="gray", linestyle="--", linewidth=1, label="(data)")
    axis.set(xlabel="updates", ylabel="return")
    axis.spines[["top", "right"]].set_visible(False)


def save(figure: Any, path: Path) -> None:
    """Write a figure; the same rows give the same bytes with the same matplotlib.

    Raises:
        ConfigError: the name's ending is none of :data:`FORMATS`.
        OutputError: the file cannot be written.
    """
    if path.suffix not in FORMATS:
        raise ConfigError(f"{path}: end the file's name in {', '.join(FORMATS)}")
    from matplotlib import rc_context

    stamp = {".svg": "Date", ".pdf": "CreationDate"}.get(path.suffix)
    with rc_context({"svg.hashsalt": "marlzoo"}), atomic_write(path) as temporary:
        metadata = {stamp: None} if stamp else {}
        figure.savefig(temporary, format=path.suffix[1:], dpi=150, metadata=metadata)


def _matplotlib() -> Any:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "drawing") from error
    return Figure


def main(options: Options) -> None:
    """Draw what the options name."""
    save(curves(read(options.paths), options.columns), options.out)
    print(options.out)


if __name__ == "__main__":
    main(tyro.cli(Options))
