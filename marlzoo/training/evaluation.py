"""Evaluation in lockstep: R policies times E episodes step one batched environment."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.envs.base import BatchedEnv, Observation
from marlzoo.envs.episodes import Play
from marlzoo.errors import SpecError
from marlzoo.modules.policies import Policy
from marlzoo.replicas import PrefetchedRandom, derive

Metrics = dict[str, NDArray[Any]]
"""What an update reports, by name, ``[R]`` each."""


@dataclass(frozen=True)
class EpisodeResults:
    """Outcome of E episodes of each of R replicas.

    Attributes:
        returns: ``[R, E]`` raw undiscounted team returns (mean over agents where each has its reward);
            NaN where the replica's actions were not finite.
        lengths: ``[R, E]`` steps.
        wins: ``[R, E]`` bool, or None where the task cannot be won.
        seconds_per_action: time that the policies took per action of one agent, all episodes in lockstep; None where
            it was not measured.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    wins: NDArray[np.bool_] | None
    seconds_per_action: float | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Evaluation:
    """What was measured after ``updates`` updates.

    Attributes:
        updates: gradient steps so far.
        episodes: returns, lengths and wins, ``[R, E]`` each.
        diverged: ``[R]``: a parameter of the replica is not finite.
        seconds: training time so far, evaluations included.
        metrics: the last update's metrics, ``[R]`` each; empty where the evaluation comes from a checkpoint.
        arithmetic: how the updates multiplied matrices; see :mod:`marlzoo.training.precision`.
        code: hash of the method's code, see :func:`marlzoo.registry.code_hash`; several joined by ``+`` where it
            changed while the run was interrupted.
        date: when the episodes ended, UTC, ``2026-01-31T12:00:00Z``.
    """

    updates: int
    episodes: EpisodeResults
    diverged: NDArray[np.bool_]
    seconds: float
    metrics: Metrics = field(default_factory=dict)
    arithmetic: str = ""
    code: str = ""
    date: str = ""


@torch.no_grad()
def evaluate(
    policy: Policy,
    env: BatchedEnv,
    *,
    seeds: Sequence[int],
    horizon: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> EpisodeResults:
    """Play one episode in every copy of ``env``; copy ``r * E + e`` is episode e of replica r.

    Args:
        policy: R policies.
        env: with ``R * E`` copies.
        seeds: one per replica; they decide the starts (and the noise of policies evaluated by sampling), so a
            replica's episodes do not depend on its neighbors.
        horizon: stop after so many steps at the latest; default: the task's own limit.
        device: of the policy.
        dtype: of the policy.

    Raises:
        SpecError: what is to play is no policy, the number of copies is no multiple of the number of replicas, or the
            environment is broken (see :class:`marlzoo.envs.guard.Guard`).
    """
    if not isinstance(policy, Policy):
        raise SpecError(
            f"evaluate: the first argument is a {type(policy).__name__}, no policy; of a learner give "
            "learner.policy(), of a checkpoint marlzoo.load_learner(FILE).policy()"
        )
    replicas = len(seeds)
    episodes, rest = divmod(env.num_envs, replicas)
    if rest or not episodes:
        raise SpecError(f"{env.task}: {env.num_envs} copies cannot be shared by {replicas} replicas")
    env.seed([derive(seed, "episode", e) for seed in seeds for e in range(episodes)])
    random = PrefetchedRandom(seeds, "act", device, dtype) if policy.stochastic else None
    play = Play(env)
    policy.reset(episodes)
    seconds = 0.0
    acts = 0
    for _ in range(horizon or env.spec.horizon):
        inputs = _inputs(play.seen, replicas, device, dtype)
        started = time.perf_counter()
        action = policy.act(*inputs, random).cpu().numpy()
        seconds += time.perf_counter() - started
        acts += 1
        action = action.reshape(env.num_envs, *action.shape[2:])
        if not env.spec.discrete:
            action, broken = _finite(action)
            play.give_up(np.flatnonzero(broken))
        if not play.live.size:
            break
        play.step(action)
        policy.receive(torch.from_numpy(play.reward).to(device, dtype).view(replicas, -1))
    shape = (replicas, episodes)
    return EpisodeResults(
        play.returns.reshape(shape),
        play.lengths.reshape(shape),
        play.won.reshape(shape) if env.can_win else None,
        seconds / (acts * env.num_envs * env.spec.n_agents),
    )


def _inputs(
    seen: Observation, replicas: int, device: torch.device | str, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor | None]:
    obs = torch.from_numpy(seen.obs).to(device, dtype)
    action_mask = None if seen.action_mask is None else torch.from_numpy(seen.action_mask).to(device)
    return (
        obs.view(replicas, -1, *obs.shape[1:]),
        None if action_mask is None else action_mask.view(replicas, -1, *action_mask.shape[1:]),
    )


def _finite(action: NDArray[np.floating]) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Actions with zeros in place of non-finite rows, and which copies those are."""
    broken = ~np.isfinite(action).all(axis=tuple(range(1, action.ndim)))
    if broken.any():
        action = np.where(broken.reshape(-1, *(1,) * (action.ndim - 1)), 0.0, action)
    return action, broken
