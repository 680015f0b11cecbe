"""Joint actions that differ from the data's in some agents' actions, and their values."""

from __future__ import annotations

import torch
from torch import Tensor


def random_valid_actions(action_mask: Tensor, uniform: Tensor) -> Tensor:
    """Team actions drawn uniformly from the legal ones.

    One set of numbers serves a whole sequence: row t uses them turned by t golden ratios, so that rows differ and
    the numbers that an update needs do not depend on the sequences' length.

    Args:
        action_mask: ``[R, B, L, N, A]`` bool.
        uniform: ``[R, B, K, N]`` on [0, 1).

    Returns:
        ``[R, B, L, K, N]`` int64; the last action where nothing is legal (padding).
    """
    turn = (
        torch.arange(action_mask.shape[2], device=action_mask.device, dtype=uniform.dtype)
        * 0.6180339887498949
    )
    place = torch.remainder(uniform.unsqueeze(2) + turn.view(-1, 1, 1), 1.0)
    count = action_mask.sum(-1).unsqueeze(3)  # [R, B, L, 1, N]
    wanted = torch.minimum((place * count).long() + 1, count.clamp_min(1))
    rank = action_mask.long().cumsum(-1).unsqueeze(3)  # the wanted-th legal action is the first of that rank
    return (rank < wanted.unsqueeze(-1)).sum(-1).clamp_max(action_mask.shape[-1] - 1)


def joint_values(values: Tensor, actions: Tensor) -> Tensor:
    """``values [R, B, L, N, A]`` of K team actions ``[R, B, L, K, N]``, ``-> [R, B, L, K, N]``."""
    k = actions.shape[3]
    spread = values.unsqueeze(3).expand(*values.shape[:3], k, *values.shape[3:])
    return spread.gather(-1, actions.unsqueeze(-1)).squeeze(-1)


def partial_replacement(policy: Tensor, data: Tensor, uniform: Tensor, replaced: int) -> Tensor:
    """The data's team actions with those of a random subset of agents taken from the policy.

    Args:
        policy: ``[..., N, A]``.
        data: likewise.
        uniform: ``[..., N]`` on [0, 1); the agents with the smallest numbers are replaced.
        replaced: size of the subset; 0 leaves the data's actions, N gives the policy's.
    """
    mine = uniform.argsort(-1).argsort(-1) < replaced
    return torch.where(mine.unsqueeze(-1), policy, data)


def counterfactual_values(values: Tensor, q: Tensor) -> Tensor:
    """The agents' values of all team actions that differ from the data's in one agent's action.

    Args:
        values: of every agent's every action, ``[..., N, A]``.
        q: of the data's actions, ``[..., N]``.

    Returns:
        ``[..., N A, N]``: entry ``(i A + j, k)`` is agent k's value when agent i alone takes action j.
    """
    n, a = values.shape[-2:]
    own = torch.eye(n, dtype=torch.bool, device=values.device).unsqueeze(1)  # [N, 1, N]
    team = torch.where(own, values.unsqueeze(-1), q[..., None, None, :])
    return team.reshape(*values.shape[:-2], n * a, n)
