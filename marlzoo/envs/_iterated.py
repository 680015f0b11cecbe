"""Iterated coordination: meet on either of two sides, seeing oneself only (after MOMA-PPO's game of that name)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._box import BoxState
from marlzoo.envs._rules import Bools, Floats, Moved

GOAL = 0.8  # both agents at this place, or both at its negative
STRIDE = 0.25  # largest move in a step
START = 0.1  # largest distance from the middle at the start


class Iterated(BoxState):
    """The rules; the paper does not publish those of its own game.

    Each agent has a place on the line [-1, 1] and moves by up to ``STRIDE`` a step. The reward is minus the squared
    distance of both places to (0.8, 0.8) or to (-0.8, -0.8), whichever is nearer: 0 when both are on the same side,
    -2.56 on opposite ones. An agent sees its own place; the state is both.
    """

    n_agents = 2
    dimensions = 1
    obs_size = 1
    state_size = 2
    can_win = reward_per_agent = False

    def start(self, chance: Floats) -> Any:
        """Both near the middle, wherever the number's two halves say."""
        both = np.stack((chance, np.modf(chance * 2.0**20)[0]), axis=1)
        return single(START * (2.0 * both - 1.0))

    def observe(self, state: NDArray[Any]) -> tuple[Floats, Floats]:
        """One's own place; both."""
        return state[..., None], state

    def step(self, state: NDArray[Any], action: NDArray[Any], last: Bools) -> Moved:
        """Move and pay; only the time limit ends an episode."""
        after: Any = single(np.clip(state + STRIDE * np.clip(single(action[..., 0]), -1.0, 1.0), -1.0, 1.0))
        near = [np.square(after - side * GOAL).sum(1) for side in (-1.0, 1.0)]
        return after, -np.minimum(*near), np.zeros(len(after), np.bool_)


def single(state: Floats) -> Floats:
    """As data keep it, so that recorded states are replayed exactly."""
    return state.astype(np.float32).astype(np.float64)
