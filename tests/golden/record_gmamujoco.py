"""Record the episodes of ``gmamujoco.npz`` with gymnasium-robotics itself (pip install gymnasium-robotics).

    python tests/golden/record_gmamujoco.py

For every scenario: the simulator's start, and under the actions of :func:`policy` the observations of all agents end
to end, the state, the reward and the end of each of 30 steps, or fewer where the episode ends.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

SCENARIOS = {
    "2halfcheetah": ("HalfCheetah", "2x3"),
    "6halfcheetah": ("HalfCheetah", "6x1"),
    "2ant": ("Ant", "2x4"),
    "4ant": ("Ant", "4x2"),
    "3hopper": ("Hopper", "3x1"),
    "2walker": ("Walker2d", "2x3"),
    "2reacher": ("Reacher", "2x1"),
    "2humanoid": ("Humanoid", "9|8"),
}
STEPS = 30


def policy(step: int, agent: int, size: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """An agent's action ``[A]`` in [-1, 1]; a wave that no other agent shares."""
    return np.sin(0.7 * step + 1.3 * agent + 2.1 * np.arange(size)).astype(np.float32)


def record(scenario: str, partition: str) -> dict[str, Any]:
    """One episode."""
    from gymnasium_robotics import mamujoco_v1

    env: Any = mamujoco_v1.parallel_env(scenario, partition, agent_obsk=1)
    seen, _ = env.reset(seed=7)
    data = env.single_agent_env.unwrapped.data
    bound = env.single_agent_env.action_space.high[0]
    start = np.concatenate([data.qpos, data.qvel])
    obs, state, reward, terminal = [], [], [], []
    for step in range(STEPS):
        actions = {
            name: bound * policy(step, agent, env.action_space(name).shape[0])
            for agent, name in enumerate(env.possible_agents)
        }
        seen, paid, over, _, _ = env.step(actions)
        obs.append(np.concatenate([seen[name] for name in env.possible_agents]))
        state.append(env.state())
        reward.append(paid["agent_0"])
        terminal.append(over["agent_0"])
        if terminal[-1]:
            break
    rows = {"obs": np.array(obs, np.float32), "state": np.array(state, np.float32)}
    return {"start": start, **rows, "reward": np.array(reward), "terminal": np.array(terminal)}


if __name__ == "__main__":
    arrays = {
        f"{name}.{key}": values
        for name, (scenario, partition) in SCENARIOS.items()
        for key, values in record(scenario, partition).items()
    }
    np.savez_compressed(Path(__file__).with_name("gmamujoco.npz"), **arrays)
