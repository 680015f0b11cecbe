"""A small environment with the parallel API, to be broken by tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces

NAMES = ["one", "two"]


class Sound:
    """Two agents walk for five steps and are paid 1 each step."""

    def __init__(self) -> None:
        self.possible_agents: Any = list(NAMES)
        self.agents: Any = []

    def observation_space(self, agent: str) -> Any:
        return spaces.Box(-9, 9, (2,))

    def action_space(self, agent: str) -> Any:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.time, self.agents = 0, list(NAMES)
        return self.seen(), {agent: {} for agent in NAMES}

    def step(self, actions: Any) -> Any:
        self.time += 1
        over = self.time >= 5
        acting, self.agents = list(self.agents), [] if over else list(NAMES)
        ones, ends = dict.fromkeys(acting, 1.0), dict.fromkeys(acting, over)
        return self.seen(), ones, ends, dict.fromkeys(acting, False), {agent: {} for agent in acting}

    def seen(self) -> Any:
        return {agent: np.array([self.time, k], np.float32) for k, agent in enumerate(NAMES)}

    def state(self) -> Any:
        return np.array([self.time, 1.0])
