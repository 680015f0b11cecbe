"""Pictures of two-dimensional worlds, drawn with matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._bridge import FREE, GOALS
from marlzoo.envs._particle_world import Scenario
from marlzoo.errors import MissingExtraError

AGENTS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's colors
PREY, LANDMARK, FOOD, FOREST = "#444444", "#bbbbbb", "#8fbf5f", "#cfe8cf"
DPI = 100


def particle_world(
    scenario: Scenario, position: NDArray[np.float64], width: int, height: int
) -> NDArray[np.uint8]:
    """A particle world from its entities' positions ``[agents + landmarks, 2]``, agents first."""
    from matplotlib.patches import Circle

    figure, axis = _canvas(width, height)
    n = scenario.agents
    for k in range(scenario.landmarks):
        color = FOOD if k in scenario.food else FOREST if k in scenario.forest else LANDMARK
        axis.add_patch(Circle(position[n + k], scenario.landmark_radius[k], color=color))
    for k in range(n):
        color = PREY if scenario.prey and k == n - 1 else AGENTS[k % len(AGENTS)]
        axis.add_patch(Circle(position[k], scenario.radius[k], color=color, alpha=0.8))
    reach = max(1.2, float(np.abs(position[:n]).max()) + 0.2)  # agents may leave the visible part
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach))
    return _pixels(figure)


def bridge(state: NDArray[np.int64], width: int, height: int) -> NDArray[np.uint8]:
    """The game Bridge from its state ``(row 0, column 0, row 1, column 1)``: discs are agents, frames their goals."""
    from matplotlib.patches import Circle, Rectangle

    figure, axis = _canvas(width, height)
    for row, column in np.argwhere(~FREE):
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=PREY))
    for agent, (row, column) in enumerate(state.reshape(2, 2)):
        goal_row, goal_column = GOALS[agent]
        frame = (goal_column - 0.42, goal_row - 0.42)
        axis.add_patch(Rectangle(frame, 0.84, 0.84, fill=False, ec=AGENTS[agent], lw=3))
        axis.add_patch(Circle((column, row), 0.3, color=AGENTS[agent]))
    rows, columns = FREE.shape
    axis.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    return _pixels(figure)


def _canvas(width: int, height: int) -> tuple[Any, Any]:
    """An empty figure of a size in pixels, and its axes."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "render", "drawing") from error
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)
    axis = figure.add_axes((0.02, 0.02, 0.96, 0.86))
    axis.set_aspect("equal")
    axis.set(xticks=[], yticks=[])
    return figure, axis


def _pixels(figure: Any) -> NDArray[np.uint8]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)  # matplotlib's methods are untyped
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]
