"""Bridge: two agents must pass each other through a corridor that is one cell wide (AlberDICE's release).

Three rows and six columns; rows 0 and 2 have walls in columns 2 and 3, so (1, 2) and (1, 3) are the only way
across. Agent 0 wants to (2, 5), agent 1 to (0, 0). Turned by half a circle with the agents exchanged the game
is the same but for who gets a cell that both want, so that every way through it has a twin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._rules import Bools, Floats, Moved, State

STAY, UP, DOWN, RIGHT, LEFT = range(5)
MOVES = np.array([(0, 0), (-1, 0), (1, 0), (0, 1), (0, -1)])
FREE = np.array([[1, 1, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1]], np.bool_)
GOALS = np.array([(2, 5), (0, 0)])
STARTS = {"bridge": ((1, 2), (1, 3)), "bridge-apart": ((1, 1), (1, 4))}
DISTANCE_COST = 0.1

# Ways on which agent 1 steps aside at the far end of the corridor, as (actions of agent 0, of agent 1). From the
# usual start it yields upwards (return -1.2355, the optimum), downwards (-1.2591) or to the right (-1.2904); from
# the other one upwards (-1.5517, the optimum).
PASSAGES = {
    "bridge": (
        ((3, 3, 2, 3, 0, 0, 0, 0), (3, 1, 2, 4, 4, 4, 1, 4)),
        ((3, 3, 3, 2, 0, 0, 0, 0), (3, 2, 1, 4, 4, 4, 1, 4)),
        ((3, 3, 2, 3, 0, 0, 0, 0), (3, 3, 4, 4, 4, 4, 1, 4)),
    ),
    "bridge-apart": (((3, 3, 3, 2, 3, 0, 0, 0, 0), (4, 3, 1, 2, 4, 4, 4, 1, 4)),),
}
TURNED = np.array([STAY, DOWN, UP, LEFT, RIGHT])  # each action after half a turn of the board


class Bridge:
    """The rules; a state is ``(row 0, column 0, row 1, column 1)``.

    Both agents see positions and goals (8 numbers). An agent on its goal has finished: it is no obstacle and
    does not move. Agent 0's move is decided first. Exchanging places and entering the cell of an agent that
    stays fail, following succeeds, and agent 0 gets a cell that both want. An agent enters its own goal even
    where the other one stays there, but agent 1 not in a step in which agent 0 took the cell or was stopped
    in it. This is the rule of the authors' published transitions.
    The reward is -0.05 times the distance to its goal after the move, summed over the agents that had not
    finished before, and 0 in an episode's last step.
    """

    n_agents = 2
    actions = 5
    dimensions = 1
    obs_size = 8
    state_size = 8
    can_win = True
    reward_per_agent = False

    def __init__(self, start: tuple[tuple[int, int], tuple[int, int]]) -> None:
        self._start = np.array(start).reshape(4)

    def start(self, chance: Floats) -> State:
        """Both agents at their fixed places."""
        return np.tile(self._start, (len(chance), 1))

    def observe(self, state: State) -> tuple[Floats, Floats]:
        """Position and goal of agent 0, then of agent 1; both agents see all."""
        goals = np.broadcast_to(GOALS, (len(state), 2, 2))
        shown = np.concatenate((state.reshape(-1, 2, 2), goals), axis=-1).reshape(-1, 8).astype(np.float64)
        return np.repeat(shown[:, None], 2, axis=1), shown

    def recover(self, shown: Floats) -> tuple[State, Bools]:
        """Positions, where they are cells and the goals are this game's."""
        parts = shown.reshape(-1, 2, 4)
        here = np.clip(np.nan_to_num(parts[..., :2]).astype(np.int64), 0, np.array(FREE.shape) - 1)
        fine = (parts[..., :2] == here).all(-1) & (parts[..., 2:] == GOALS).all(-1)
        return here.reshape(-1, 4), np.asarray((fine & FREE[here[..., 0], here[..., 1]]).all(-1))

    def action_mask(self, state: State) -> Bools | None:
        """Everything is legal; walls only stop."""
        return np.ones((len(state), 2, 5), np.bool_)

    def step(self, state: State, action: NDArray[Any], last: Bools) -> Moved:
        """Move both agents at the same time."""
        here = state.reshape(-1, 2, 2)
        finished = _same(here, GOALS)
        wanted = _wanted(here, np.where(finished, STAY, action))
        there = _resolve(here, wanted, finished)
        done: Bools = np.asarray(_same(there, GOALS).all(1))
        distance = np.linalg.norm(there - GOALS, axis=-1)
        reward = -DISTANCE_COST / 2 * (distance * ~finished).sum(1)
        return there.reshape(-1, 4), np.asarray(np.where(done | last, 0.0, reward)), done


def _wanted(here: State, action: NDArray[Any]) -> State:
    """Next cell of each agent ``[E, 2, 2]``, ignoring the other: walls and borders stop it."""
    target = here + MOVES[action]
    inside = np.clip(target, 0, np.array(FREE.shape) - 1)
    possible = _same(inside, target) & FREE[inside[..., 0], inside[..., 1]]
    return np.where(possible[..., None], target, here)


def _resolve(here: State, wanted: State, finished: Bools) -> State:
    """Positions after both moves, agent 0's decided before agent 1's."""
    stays = _same(wanted, here)
    swap = _same(wanted[:, 0], here[:, 1]) & _same(wanted[:, 1], here[:, 0])
    into_other = _same(wanted[:, 0], here[:, 1]) & stays[:, 1]
    blocked = (swap | into_other) & ~finished[:, 1] & ~_same(wanted[:, 0], GOALS[0])
    first = np.where(blocked[:, None], here[:, 0], wanted[:, 0])
    # Its goal lets agent 1 in beside an agent that chose to stay there, not beside one that was moved or stopped.
    enters = _same(wanted[:, 1], GOALS[1]) & stays[:, 0]
    blocked = _same(wanted[:, 1], first) & ~finished[:, 0] & ~enters
    second = np.where(blocked[:, None], here[:, 1], wanted[:, 1])
    return np.stack((first, second), axis=1)


def _same(a: State, b: State) -> Bools:
    return np.asarray((a == b).all(-1))


def passages(name: str) -> NDArray[np.int64]:
    """Joint actions ``[2 V, L, 2]`` of the V ways of :data:`PASSAGES`, then of their twins after half a turn."""
    ways = np.array(PASSAGES[name]).transpose(0, 2, 1)
    return np.concatenate((ways, TURNED[ways[..., ::-1]]))
