"""Pictures of two-dimensional worlds, drawn with matplotlib."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._bridge import FREE, GOALS
from marlzoo.envs._particle_world import Scenario
from marlzoo.errors import MissingExtraError

AGENTS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")  # Okabe and Ito's colors
PREY = "#444444"
LANDMARK = "#bbbbbb"
FOOD = "#8fbf5f"
FOREST = "#cfe8cf"
MARKERS = ("o", "s", "^", "D", "v", "p")  # of the types of units
DPI = 100


def particle_world(
    scenario: Scenario, position: NDArray[np.float64], width: int, height: int
) -> NDArray[np.uint8]:
    """A particle world from its entities' positions ``[agents + landmarks, 2]``, agents first."""
    from matplotlib.patches import Circle

    figure, axis = _canvas(width, height)
    n = scenario.agents
    for k in range(scenario.landmarks):
        color = LANDMARK
        if k in scenario.food:
            color = FOOD
        elif k in scenario.forest:
            color = FOREST
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


def t_maze(
    free: NDArray[np.bool_],
    positions: NDArray[np.int64],
    goals: NDArray[np.int64] | None,
    width: int,
    height: int,
) -> NDArray[np.uint8]:
    """T-Maze: discs are agents, frames the ends that they have to reach.

    Args:
        free: ``[rows, columns]``, where one may stand.
        positions: row and column of both agents ``[2, 2]``.
        goals: those of their ends, ``[2, 2]``; None while no color is chosen.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """
    from matplotlib.patches import Circle, Rectangle

    figure, axis = _canvas(width, height)
    for row, column in np.argwhere(~free):
        axis.add_patch(Rectangle((column - 0.5, row - 0.5), 1, 1, color=PREY))
    for agent, (row, column) in enumerate(positions):
        if goals is not None:
            size = 0.84 - 0.2 * agent  # both may have the same
            corner = (goals[agent, 1] - size / 2, goals[agent, 0] - size / 2)
            axis.add_patch(Rectangle(corner, size, size, fill=False, ec=AGENTS[agent], lw=3))
        axis.add_patch(Circle((column, row), 0.3, color=AGENTS[agent]))
    rows, columns = free.shape
    axis.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5))
    return _pixels(figure)


def battle(
    position: NDArray[np.float64],
    health: NDArray[np.float64],
    kind: NDArray[np.int64],
    allies: int,
    extent: tuple[float, float],
    width: int,
    height: int,
) -> NDArray[np.uint8]:
    """A battle of SMAX: full markers are allies, hollow ones enemies; bars above them show their health.

    Args:
        position: of all units ``[U, 2]``, allies first.
        health: of each, as a share of its largest, ``[U]``; 0: dead, and not drawn.
        kind: number of each unit's type, which chooses its marker.
        allies: how many are allies.
        extent: width and height of the map.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """
    figure, axis = _canvas(width, height)
    across, up = extent
    for unit in np.flatnonzero(health > 0):
        mine = unit < allies
        color = AGENTS[unit % len(AGENTS)] if mine else PREY
        x, y = position[unit]
        axis.plot(
            x, y, MARKERS[kind[unit] % len(MARKERS)], ms=8, mec=color, mfc=color if mine else "none", mew=2
        )
        bar = across / 20
        axis.plot([x - bar, x + bar], [y + up / 20] * 2, color=LANDMARK, lw=3, solid_capstyle="butt")
        axis.plot(
            [x - bar, x - bar + 2 * bar * health[unit]],
            [y + up / 20] * 2,
            color=color,
            lw=3,
            solid_capstyle="butt",
        )
    axis.set(xlim=(0, across), ylim=(0, up))
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
