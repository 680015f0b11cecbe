"""Logged data of two conventions on the two-agent Reacher: scripted teams that bend the elbow to different sides.

A team knows both joint angles that put the fingertip on the target for its sense of the elbow (inverse kinematics),
and a PD controller drives each joint there, the shoulder the shorter way round, with some noise on the actions. The
two solutions are mirror images about the line to the target: both teams are equally good, and one's shoulder with the
other's elbow misses. Physics and rewards are those of :mod:`marlzoo.envs.moma`. These teams stand for those of
MOMA-PPO's authors, who trained two of them and recorded a million transitions of each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.dataset import Dataset
from marlzoo.envs.base import BatchedEnv, Observation
from marlzoo.errors import UnknownNameError
from marlzoo.families import make_env
from marlzoo.replicas import derive

from . import scripted

Floats = NDArray[np.float64]
UPPER = 0.1  # length of the link at the shoulder
LOWER = 0.11  # from the elbow to the fingertip
STIFFNESS = 0.2  # action per radian that is missing
DAMPING = 0.03  # action per radian per second
NOISE = 0.05  # standard deviation, on the actions
# Sense of the elbow of each part.
PARTS: dict[str, tuple[int, ...]] = {"expert-c": (1,), "expert-d": (-1,), "mix": (1, -1)}


def angles(state: NDArray[Any]) -> Floats:
    """Shoulder and elbow ``[B, 2]`` of states ``[B, 11]``, in (-pi, pi]."""
    wide = np.asarray(state, np.float64)
    return np.arctan2(wide[:, 2:4], wide[:, :2])


def solution(target: NDArray[Any], sense: int) -> Floats:
    """Shoulder and elbow ``[B, 2]`` that put the fingertip on targets ``[B, 2]``; as near as it gets, if too close.

    Args:
        target: positions in the plane.
        sense: sign of the elbow's angle.
    """
    goal = np.asarray(target, np.float64)
    bend = (np.square(goal).sum(1) - UPPER**2 - LOWER**2) / (2 * UPPER * LOWER)
    elbow = sense * np.arccos(np.clip(bend, -1.0, 1.0))
    inner = np.arctan2(LOWER * np.sin(elbow), UPPER + LOWER * np.cos(elbow))
    return np.stack((np.arctan2(goal[:, 1], goal[:, 0]) - inner, elbow), axis=1)


def action(state: NDArray[Any], sense: int) -> Floats:
    """What a team of a sense does in states ``[B, 11]``, without noise, ``[B, 2]``."""
    missing = solution(state[:, 4:6], sense) - angles(state)
    missing[:, 0] = (missing[:, 0] + np.pi) % (2 * np.pi) - np.pi
    return STIFFNESS * missing - DAMPING * np.asarray(state[:, 6:8], np.float64)


def dataset(task: str, quality: str, *, episodes: int = 100, seed: int = 0) -> Dataset:
    """Whole episodes of one team, or of one after the other; the same arguments give the same numbers.

    The episodes of ``mix`` are those of ``expert-c``, then those of ``expert-d``; both start in the same states.

    Args:
        task: full name of a task of the two-agent Reacher.
        quality: one of :data:`PARTS`.
        episodes: of each team.
        seed: of starts and noise.

    Raises:
        UnknownNameError: an unknown quality.
    """
    if quality not in PARTS:
        raise UnknownNameError(f"quality of {task}", quality, PARTS)
    env = make_env(task, episodes)
    parts = [_record(env, sense, seed) for sense in PARTS[quality]]
    command = f"marlzoo.benchmarks.reacher.dataset({task!r}, {quality!r}, {episodes=}, {seed=})"
    made = scripted.joined(env, parts, quality, command, seed=seed, episodes=episodes)
    env.close()
    return made


def _record(env: BatchedEnv, sense: int, seed: int) -> scripted.Recorded:
    """One episode of every copy."""
    noise = np.random.default_rng(derive(seed, "noise", sense))

    def rule(seen: Observation) -> NDArray[Any]:
        exact = action(seen.state, sense)
        return np.clip(exact + NOISE * noise.normal(size=exact.shape), -1.0, 1.0)[..., None]

    return scripted.record(env, rule, [derive(seed, "start", copy) for copy in range(env.num_envs)])
