"""Logged data of scripted teams on spread whose agents share a coin, or toss one each.

A team's convention says which landmark each agent goes to. In data ``one`` there is one convention: agent i goes to
landmark i. In ``agreed`` the team tosses a coin at the start of every episode, and on tails agent i goes to landmark
i + 1; in ``split`` every agent tosses its own coin between the same two landmarks. So in both each agent goes to each
of its two landmarks equally often, and only together do they differ: in ``agreed`` every landmark gets an agent, in
``split`` in one episode of four. No observation shows a coin. Agents are driven by a PD controller with some noise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.dataset import Dataset
from marlzoo.envs.base import Observation
from marlzoo.errors import UnknownNameError
from marlzoo.families import make_env
from marlzoo.replicas import derive

from . import scripted

TASK = "mpe/spread"
AGENTS = 3
# Soft bound of the actions: of those on the box's own bounds, policies with densities learn badly.
LARGEST = 0.8
STIFFNESS = 8.0  # action per unit of distance that is missing
DAMPING = 1.5  # action per unit of speed
NOISE = 0.1  # standard deviation, on the actions
NEAR = 0.15  # distance at which a landmark has an agent: the agents' radius
LANDMARKS = slice(4, 10)  # of an observation: where the landmarks are, as seen from the agent
QUALITIES = ("one", "agreed", "split")


def landmarks(obs: NDArray[Any]) -> NDArray[Any]:
    """Where landmarks are, seen from each agent: ``[..., N, landmarks, 2]`` of observations ``[..., N, O]``."""
    return obs[..., LANDMARKS].reshape(*obs.shape[:-1], AGENTS, 2)


def coins(quality: str, episodes: int, seed: int) -> NDArray[np.int64]:
    """Whose landmark each agent goes to, less its own number, ``[episodes, N]``: 0 or 1.

    Raises:
        UnknownNameError: an unknown quality.
    """
    if quality not in QUALITIES:
        raise UnknownNameError(f"quality of {TASK}", quality, QUALITIES)
    rng = np.random.default_rng(derive(seed, "coin"))
    tossed = rng.integers(2, size=(episodes, 1 if quality == "agreed" else AGENTS))
    return np.zeros((episodes, AGENTS), np.int64) if quality == "one" else tossed + np.zeros(AGENTS, np.int64)


def action(obs: NDArray[Any], coin: NDArray[Any]) -> NDArray[Any]:
    """What agents do, without noise, ``[E, N, 2]``.

    Args:
        obs: ``[E, N, O]``.
        coin: as :func:`coins` gives them.
    """
    goal = (np.arange(AGENTS) + coin) % AGENTS
    missing = np.take_along_axis(landmarks(obs), goal[..., None, None], axis=2)[:, :, 0]
    wanted = STIFFNESS * missing - DAMPING * obs[..., :2]
    return np.asarray(LARGEST * np.tanh(wanted / LARGEST))


def covered(obs: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether every landmark has an agent, ``[...]``, of observations ``[..., N, O]``."""
    distance = np.linalg.norm(landmarks(obs), axis=-1)
    found: NDArray[np.bool_] = (distance.min(-2) < NEAR).all(-1)
    return found


def dataset(quality: str, *, episodes: int = 800, seed: int = 0) -> Dataset:
    """Whole episodes of the team; the same arguments give the same numbers.

    Args:
        quality: one of :data:`QUALITIES`.
        episodes: how many.
        seed: of starts, coins and noise.

    Raises:
        UnknownNameError: an unknown quality.
    """
    coin = coins(quality, episodes, seed)
    noise = np.random.default_rng(derive(seed, "noise"))
    env = make_env(TASK, episodes)

    def rule(seen: Observation) -> NDArray[Any]:
        exact = action(seen.obs, coin)
        return np.clip(exact + NOISE * noise.normal(size=exact.shape), -1.0, 1.0)

    part = scripted.record(env, rule, [derive(seed, "start", copy) for copy in range(episodes)])
    command = f"marlzoo.benchmarks.spread.dataset({quality!r}, {episodes=}, {seed=})"
    made = scripted.joined(env, [part], quality, command, seed=seed, episodes=episodes)
    env.close()
    return made
