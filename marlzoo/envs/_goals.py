"""Families of tasks that differ in a goal which agents do not see: two points in a square, and two rows of cells.

After FOCAL's point robot, for two agents; the rules, the split into goals for training and others, and the game of
cells are ours. Every episode has one goal of the family, drawn from its list.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._box import BoxState
from marlzoo.envs._iterated import single
from marlzoo.envs._rules import Bools, Floats, Moved
from marlzoo.envs._streams import uniforms

STRIDE = 0.1  # largest move of a point along an axis in a step
# Goals in the square.
TRAINING = 40
UNSEEN = 10
CELLS = 5  # actions of an agent in the game of cells
HELD_OUT = 5  # pairs of cells that are not for training


class Goals(BoxState):
    """Two points in the square [-1, 1]^2 that shall meet at a goal.

    Each moves by up to ``STRIDE`` along both axes. The reward is minus the mean distance to the goal after the move.
    Points start uniformly in the square. An agent sees its own place and the other's; the state is both places and
    the goal.

    Args:
        unseen: whether goals are those that are not for training.
        shown: agents see the goal as well.
    """

    n_agents = 2
    dimensions = 2
    state_size = 6
    can_win = False
    reward_per_agent = False

    def __init__(self, unseen: bool = False, shown: bool = False) -> None:
        self.shown = shown
        self.obs_size = 6 if shown else 4
        goals = np.random.default_rng(0).uniform(-1.0, 1.0, (TRAINING + UNSEEN, 2))
        self.goals = single(goals[TRAINING:] if unseen else goals[:TRAINING])

    def start(self, chance: Floats) -> Any:
        """Both places and the goal ``[E, 6]``."""
        drawn = _drawn(chance, 5)
        goal = self.goals[(drawn[4] * len(self.goals)).astype(np.int64)]
        return np.concatenate((single(2.0 * drawn[:4].T - 1.0), goal), axis=1)

    def observe(self, state: NDArray[Any]) -> tuple[Floats, Floats]:
        """Observations (own position, the other's, the goal if shown) and states (both positions, the goal)."""
        places = state[:, :4].reshape(-1, 2, 2)
        seen = [places, places[:, ::-1]]
        if self.shown:
            seen.append(np.repeat(state[:, None, 4:], 2, axis=1))
        return np.concatenate(seen, axis=-1), state

    def step(self, state: NDArray[Any], action: NDArray[Any], last: Bools) -> Moved:
        """Move and pay; only the time limit ends an episode."""
        moves = single(action).reshape(-1, 4)
        places = single(np.clip(state[:, :4] + STRIDE * np.clip(moves, -1.0, 1.0), -1.0, 1.0))
        away = places.reshape(-1, 2, 2) - state[:, None, 4:]
        earned = -np.sqrt(np.square(away).sum(-1)).mean(1)
        return np.concatenate((places, state[:, 4:]), axis=1), earned, np.zeros(len(state), np.bool_)


class Cells:
    """Each of two agents has one right action, which nothing shows; a step pays the share of right ones.

    The pair of right actions is the goal, one-hot in the state. Agents see a constant.

    Args:
        unseen: whether goals are those that are not for training.
    """

    n_agents = 2
    actions = CELLS
    dimensions = 1
    obs_size = 1
    state_size = 2 * CELLS
    can_win = reward_per_agent = False

    def __init__(self, unseen: bool = False) -> None:
        pairs = np.random.default_rng(0).permutation(CELLS**2)
        numbers = pairs[:HELD_OUT] if unseen else pairs[HELD_OUT:]
        self.goals = np.stack(np.divmod(numbers, CELLS), axis=1)

    def start(self, chance: Floats) -> Any:
        """The goal's two actions ``[E, 2]``."""
        return self.goals[(_drawn(chance, 1)[0] * len(self.goals)).astype(np.int64)]

    def observe(self, state: NDArray[Any]) -> tuple[Floats, Floats]:
        """A constant; the goal."""
        return np.ones((len(state), 2, 1)), np.eye(CELLS)[state].reshape(len(state), -1)

    def recover(self, shown: Floats) -> tuple[Any, Bools]:
        """The numbers of the hot entries."""
        hot = shown.reshape(-1, 2, CELLS)
        goal = hot.argmax(-1)
        return goal, np.asarray((hot == np.eye(CELLS)[goal]).all((-2, -1)))

    def action_mask(self, state: NDArray[Any]) -> Bools | None:
        """Everything is legal."""
        return np.ones((len(state), 2, CELLS), np.bool_)

    def step(self, state: NDArray[Any], action: NDArray[Any], last: Bools) -> Moved:
        """Pay; only the time limit ends an episode."""
        return state, np.asarray((action == state).mean(1)), np.zeros(len(state), np.bool_)


def _drawn(chance: Floats, count: int) -> Floats:
    """Numbers ``[count, E]`` uniform on [0, 1) that ``chance [E]`` decides."""
    bits = (chance * 2.0**53).astype(np.uint64)
    return uniforms(bits, np.zeros_like(bits), count)
