"""T-Maze: choose a color, remember where it is, and get there at the same time (after Oryx's task)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._rules import Bools, Floats, Moved, State

NOOP, UP, RIGHT, DOWN, LEFT, CHOOSE_0, CHOOSE_1 = range(7)
MOVES = np.array([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1), (0, 0), (0, 0)])
AROUND = np.array([(r, c) for r in (-1, 0, 1) for c in (-1, 0, 1)])
# Columns of a state: positions of both agents, their colors (-1: none yet), color of the left end, step.
POSITIONS = slice(0, 4)
COLORS = slice(4, 6)
LEFT_COLOR = 6
STEP = 7


class TMaze:
    """The rules.

    A stem of ``length`` rows and two columns ends in a bar of one row, which goes on for ``arm`` cells on each
    side. The agents start side by side at the foot. In the first step they choose a color each (only that is
    legal), afterwards they move. Colors 0 and 1 lie at the two ends of the bar in random order; each agent sees
    only in the second step where its own lies. Both get 1 when both stand on their colors at the same time. Two
    agents cannot enter the same cell or exchange places; then neither moves.

    An observation is the 3 x 3 neighborhood (-1 outside, 0 free, 1 oneself, 2 the team mate), the target (1
    right, -1 left, 0 hidden), and 1 while colors are chosen.
    """

    n_agents = 2
    actions = 7
    dimensions = 1
    obs_size = 11
    state_size = 8
    can_win = True
    reward_per_agent = False

    def __init__(self, length: int, arm: int) -> None:
        self.length = length
        self.arm = arm
        width = 2 * arm + 2
        free = np.zeros((length + 1, width), np.bool_)
        free[0] = True
        free[:, arm : arm + 2] = True
        self._free = np.pad(free, 1)  # a border of walls, so that no move leaves the array
        self._ends = np.array([(0, 0), (0, width - 1)])
        self._foot = np.array([(length, arm), (length, arm + 1)])

    def free(self) -> Bools:
        """Free cells, ``[rows, columns]``."""
        return self._free[1:-1, 1:-1]

    def goals(self, state: State) -> State | None:
        """Rows and columns of both agents' ends ``[2, 2]`` in one state ``[D]``; None while no color is chosen."""
        colors = state[COLORS]
        return None if (colors < 0).any() else self._ends[(colors != state[LEFT_COLOR]).astype(np.int64)]

    def start(self, chance: Floats) -> State:
        """Both at the foot of the stem, the colors in random order."""
        state = np.zeros((len(chance), 8), np.int64)
        state[:, POSITIONS] = self._foot.reshape(4)
        state[:, COLORS] = -1
        state[:, LEFT_COLOR] = chance >= 0.5
        return state

    def observe(self, state: State) -> tuple[Floats, Floats]:
        """Neighborhood, target and phase of each agent; the global state is the whole state."""
        here = state[:, POSITIONS].reshape(-1, 2, 2)
        cells = here[:, :, None] + AROUND
        view = np.where(self._free[cells[..., 0] + 1, cells[..., 1] + 1], 0.0, -1.0)
        view = np.where((cells == here[:, ::-1, None]).all(-1), 2.0, view)
        view[..., len(AROUND) // 2] = 1.0
        side = np.where(state[:, COLORS] == state[:, LEFT_COLOR, None], -1.0, 1.0)
        target = np.where(state[:, STEP, None] == 1, side, 0.0)
        choosing = np.repeat(state[:, STEP, None] == 0, 2, axis=1)
        return np.concatenate((view, target[..., None], choosing[..., None]), axis=-1), state.astype(
            np.float64
        )

    def recover(self, shown: Floats) -> tuple[State, Bools]:
        """The global state itself, if both agents are on free cells."""
        whole = np.nan_to_num(shown).astype(np.int64)
        here = whole[:, POSITIONS].reshape(-1, 2, 2)
        inside = np.clip(here, 0, np.array(self._free.shape) - 3)
        free = (inside == here).all(-1) & self._free[inside[..., 0] + 1, inside[..., 1] + 1]
        whole[:, POSITIONS] = inside.reshape(-1, 4)
        return whole, np.asarray((whole == shown).all(-1) & free.all(-1))

    def action_mask(self, state: State) -> Bools | None:
        """Choosing first, then moving."""
        choosing = state[:, STEP, None, None] == 0
        chooses = np.arange(7) >= CHOOSE_0
        return np.repeat(chooses == choosing, 2, axis=1)

    def step(self, state: State, action: NDArray[Any], last: Bools) -> Moved:
        """Choose, or move both agents at the same time."""
        state = state.copy()
        choosing = state[:, STEP, None] == 0
        state[:, COLORS] = np.where(choosing, action - CHOOSE_0, state[:, COLORS])
        here = state[:, POSITIONS].reshape(-1, 2, 2)
        target = here + MOVES[action]
        target = np.where(self._free[target[..., 0] + 1, target[..., 1] + 1][..., None], target, here)
        swap = (target == here[:, ::-1]).all((1, 2))
        same = (target[:, 0] == target[:, 1]).all(-1)
        there = np.where((swap | same)[:, None, None], here, target)
        state[:, POSITIONS] = there.reshape(-1, 4)
        state[:, STEP] += 1
        right = state[:, COLORS] != state[:, LEFT_COLOR, None]
        arrived = (there == self._ends[right.astype(np.int64)]).all((1, 2)) & ~choosing[:, 0]
        return state, arrived.astype(np.float64), arrived
