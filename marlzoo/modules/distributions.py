"""Log densities and samples of the action distributions that the field uses."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor

MEAN_BOUND = 9.0  # tanh(9) is 1 - 3e-8; a larger mean only breaks the log density
ATANH_MARGIN = 1e-7
LOG_STD_BOUNDS = (-5.0, 2.0)
ILLEGAL = -1e8  # logit of an action that must not be taken


def tanh_gaussian_log_prob(
    mean: Tensor,
    log_std: Tensor,
    action: Tensor,
    used: Tensor | None = None,
    margin: Tensor | None = None,
) -> Tensor:
    """Log density of ``action [..., A]`` under ``tanh(N(mean, exp(log_std)))``, summed over dimensions.

    The mean is clipped to [-9, 9] and the action to within 1e-7 of the box (OMIGA, specification section 2),
    so an action on or outside the border has a finite density: that of the sample 8.4 before squashing.
    All that an action clipped to the box says is that the sample lay beyond the border. With a ``margin`` it is
    therefore a censored observation (Tobin, Econometrica 1958): an action with ``|a| >= c = 1 - margin`` has the
    log probability of its tail, ``log Phi((sign(a) mean - atanh c) / std)``, in place of a density.

    Args:
        mean: ``[..., A]`` before squashing.
        log_std: ``[..., A]``.
        action: ``[..., A]`` in [-1, 1].
        used: ``[..., A]`` with 1 for dimensions that the agent has and 0 for padding; None: all are used.
        margin: in [0, 1], broadcasts to ``action``; where it is 0 nothing is censored. None: nowhere.

    Returns:
        ``[...]``.
    """
    if margin is None:
        u = torch.atanh(action.clamp(-1.0 + ATANH_MARGIN, 1.0 - ATANH_MARGIN))
    else:
        edge = (1.0 - margin).clamp(max=1.0 - ATANH_MARGIN)
        u = torch.atanh(action.clamp(-edge, edge))
    standard = (u - mean.clamp(-MEAN_BOUND, MEAN_BOUND)) * torch.exp(-log_std)
    normal = -0.5 * standard.square() - log_std - 0.5 * math.log(2.0 * math.pi)
    squash = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))  # log(1 - tanh(u)^2)
    per_dimension = normal - squash
    if margin is not None:
        tail = torch.special.log_ndtr(-action.sign() * standard)
        per_dimension = torch.where((action.abs() >= edge) & (margin > 0.0), tail, per_dimension)
    return (per_dimension if used is None else per_dimension * used).sum(-1)


def tanh_gaussian_mode(mean: Tensor) -> Tensor:
    """Deterministic action ``tanh(clip(mean, -9, 9))``."""
    return torch.tanh(mean.clamp(-MEAN_BOUND, MEAN_BOUND))


def tanh_gaussian_sample(mean: Tensor, log_std: Tensor, noise: Tensor, used: Tensor) -> Tensor:
    """Reparameterised sample ``tanh(mean + std noise)`` ``[..., N, A]``; zero where ``used [N, A]`` says padding."""
    return torch.tanh(mean + log_std.exp() * noise) * used


def mask_logits(logits: Tensor, action_mask: Tensor | None) -> Tensor:
    """Logits with illegal actions (``action_mask`` False) set to -1e8."""
    return logits if action_mask is None else logits.masked_fill(~action_mask, ILLEGAL)


def chosen(values: Tensor, action: Tensor) -> Tensor:
    """``values [..., A]`` at ``action [...]`` (int64), ``-> [...]``."""
    return values.gather(-1, action.unsqueeze(-1)).squeeze(-1)


def log_softmax(logits: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """Log probabilities ``[..., A]`` of the softmax over the legal actions."""
    return F.log_softmax(mask_logits(logits, action_mask), dim=-1)


def categorical_log_prob(logits: Tensor, action: Tensor) -> Tensor:
    """Log probability ``[...]`` of ``action [...]`` under ``softmax(logits [..., A])``."""
    return chosen(log_softmax(logits), action)


def gaussian_heads(output: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation (clipped to [-5, 2]) ``[..., A]`` from a network's output.

    A pair passes through as it is; one tensor ``[..., 2 A]`` is split.
    """
    if isinstance(output, tuple):
        return output
    mean, log_std = output.chunk(2, dim=-1)
    return mean, log_std.clamp(*LOG_STD_BOUNDS)


def one_hot(index: Tensor, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """``[...] -> [..., size]``, 1 at ``index``. (PyTorch's own checks its input and so waits for the device.)"""
    return (index.unsqueeze(-1) == torch.arange(size, device=index.device)).to(dtype)


def smoothed_action(action: Tensor, noise: Tensor, std: Tensor | float, clip: Tensor | None = None) -> Tensor:
    """TD3's smoothing: ``clip(action + clip(std noise, -clip, clip), -1, 1)``; all ``[R, ..., A]``."""
    deviation = std * noise
    if clip is not None:
        deviation = deviation.clamp(-clip, clip)
    return (action + deviation).clamp(-1.0, 1.0)
