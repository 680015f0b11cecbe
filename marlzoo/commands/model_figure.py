"""A world model's errors as a figure."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.errors import MissingExtraError
from marlzoo.system.files import write_figure

if TYPE_CHECKING:
    from marlzoo.training.world_models import StepErrors


def draw(errors: StepErrors, title: str, path: Path) -> None:
    """Draw the errors over the steps ahead.

    Raises:
        MissingExtraError: matplotlib is not installed.
        OutputError: the file cannot be written.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "plotting a world model's errors") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax: Any = figure.subplots()
    ahead = range(1, len(errors.frame) + 1)
    for values, label in ((errors.frame, "world model"), (errors.unchanged, "nothing changes")):
        ax.plot(ahead, values, "o-", label=label)
    ax.set(xlabel="steps ahead", ylabel="error, in deviations of the data", yscale="log")
    ax.set_title(title, fontsize=9, parse_math=False)
    ax.legend()
    write_figure(path, figure)
