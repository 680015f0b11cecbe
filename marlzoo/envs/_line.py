"""The line game of LOMAQ's study, in which every agent has its own reward."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._rules import Bools, Floats, Moved
from marlzoo.envs._streams import uniforms


class Line:
    """One step, in which every agent sees a bit of its own and is paid 1 where its action equals it.

    Normal noise of deviation 1 is added to each agent's reward. The state is all bits; it does not show the noise, so
    recorded steps cannot be repeated.

    Args:
        n_agents: N.
    """

    actions = 2
    dimensions = obs_size = 1
    can_win = False
    reward_per_agent = True

    def __init__(self, n_agents: int) -> None:
        self.n_agents = self.state_size = n_agents

    def start(self, chance: Floats) -> Any:
        """Bits and noise ``[E, 2 N]``; the noise by the method of Box and Muller."""
        key = (chance * 2.0**53).astype(np.uint64)
        bit, size, angle = (
            uniforms(key, np.zeros_like(key), 3 * self.n_agents)
            .T.reshape(len(chance), 3, self.n_agents)
            .transpose(1, 0, 2)
        )
        noise = np.sqrt(-2.0 * np.log1p(-size)) * np.cos(2.0 * np.pi * angle)
        return np.concatenate((np.floor(2.0 * bit), noise), axis=1)

    def observe(self, state: NDArray[Any]) -> tuple[Floats, Floats]:
        """One's own bit; all bits."""
        bits = state[:, : self.n_agents]
        return bits[..., None], bits

    def recover(self, shown: Floats) -> tuple[Any, Bools]:
        """No state: the noise is not shown."""
        return np.concatenate((shown, np.zeros_like(shown)), axis=1), np.zeros(len(shown), np.bool_)

    def action_mask(self, state: NDArray[Any]) -> Bools | None:
        """Everything is legal."""
        return np.ones((len(state), self.n_agents, 2), np.bool_)

    def step(self, state: NDArray[Any], action: NDArray[Any], last: Bools) -> Moved:
        """Pay every agent and end."""
        bits, noise = np.split(state, 2, axis=1)
        return state, (action == bits) + noise, np.ones(len(state), np.bool_)
