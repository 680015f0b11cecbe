"""What a team would do at every logged step."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.data.dataset import Dataset
from marlzoo.replicas import ReplicaRandom

SAMPLES = 16  # drawn from policies that are evaluated by sampling


@torch.no_grad()
def policy_actions(learner: Algorithm, data: Dataset, seeds: Sequence[int] | None = None) -> Tensor:
    """Actions of all replicas in all rows, given the logged past: ``[R, K, T, N]`` or ``[R, K, T, N, A]``.

    K is 1 for policies that act deterministically, and :data:`SAMPLES` for those evaluated by sampling.

    Args:
        learner: R replicas.
        data: of their task.
        seeds: of the sampling; default: the learner's.
    """
    policy = learner.policy()
    count = SAMPLES if policy.stochastic else 1
    sources = [
        ReplicaRandom(seeds or learner.seeds, f"ope-{k}", learner.device, learner.dtype) for k in range(count)
    ]
    return torch.stack(
        [_once(learner, data, random if policy.stochastic else None) for random in sources], dim=1
    )


def _once(learner: Algorithm, data: Dataset, random: ReplicaRandom | None) -> Tensor:
    """One pass through all episodes side by side, step by step, ``[R, T, N, ...]``."""
    policy = learner.policy()
    replicas = learner.replicas
    logged = torch.from_numpy(np.array(data.action))
    reward = torch.from_numpy(data.reward.mean(-1) if data.reward.ndim == 2 else data.reward)
    starts = torch.from_numpy(data.starts)
    lengths = torch.from_numpy(data.lengths)
    actions = logged.new_zeros((replicas, *logged.shape))
    policy.reset(data.episodes)
    for t in range(int(lengths.max()) + 1):
        rows = starts + torch.minimum(
            torch.full_like(lengths, t), lengths
        )  # ended episodes stay in their final row
        obs = torch.from_numpy(data.obs[rows.numpy()]).to(learner.device, learner.dtype)
        mask = None
        if data.action_mask is not None:
            mask = torch.from_numpy(data.action_mask[rows.numpy()]).to(learner.device)
            mask = mask.expand(replicas, *mask.shape)
        chosen = policy.act(obs.expand(replicas, *obs.shape), mask, random).cpu()
        real = lengths >= t
        actions[:, rows[real]] = chosen[:, real].to(actions.dtype)
        done = logged[rows].to(learner.device, None if learner.spec.discrete else learner.dtype)
        policy.took(done.expand(replicas, *done.shape))  # the past is the logged one
        policy.receive(reward[rows].to(learner.device, learner.dtype).expand(replicas, -1))
    return actions
