"""How uncertain an ensemble's prediction is (MOMA-PPO, Barde et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Uncertainty:
    """Three measures of the same predictions, ``[R, B]`` each.

    Attributes:
        ensemble: u_ens, see :func:`disagreement`.
        aleatoric: u_alea, see :func:`aleatoric`.
        reward: u_rew, see :func:`reward_variance`.
    """

    ensemble: Tensor
    aleatoric: Tensor
    reward: Tensor


def disagreement(mean: Tensor, reward: Tensor) -> Tensor:
    """u_ens: Frobenius norm of the members' unbiased covariance matrix of (next frame, team reward).

    It is computed from the ``[K, K]`` matrix of inner products, which has the same norm as the ``[D, D]`` one.

    Args:
        mean: predicted next frames ``[R, K, B, D]`` of K members.
        reward: predicted team rewards ``[R, K, B]``.

    Returns:
        ``[R, B]``.
    """
    joint = torch.cat((mean, reward.unsqueeze(-1)), dim=-1).transpose(1, 2)  # [R, B, K, D + 1]
    centered = joint - joint.mean(2, keepdim=True)
    products = centered @ centered.mT
    norm: Tensor = torch.linalg.matrix_norm(products) / (joint.shape[2] - 1)
    return norm


def aleatoric(std: Tensor) -> Tensor:
    """u_alea: largest Frobenius norm of a member's diagonal covariance of the next frame, ``sqrt(sum std^4)``.

    Args:
        std: predicted standard deviations ``[R, K, B, D]``.

    Returns:
        ``[R, B]``.
    """
    return torch.linalg.vector_norm(std.square(), dim=-1).amax(1)


def reward_variance(reward: Tensor) -> Tensor:
    """u_rew: unbiased variance of the members' team rewards, ``[R, K, B] -> [R, B]``."""
    return reward.var(1)
