"""Returns and advantages: TD(lambda), generalized advantage estimation, value normalization."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from marlzoo.modules.layers import Init


class ValueNorm(nn.Module):
    """Running mean and deviation of returns, debiased, variance at least 0.01; statistics ``[R]``."""

    def __init__(self, init: Init, decay: Tensor) -> None:
        super().__init__()
        self.decay = decay
        self.moments: Tensor
        # decayed sums of 1, x and x^2; their ratios are the debiased averages
        self.register_buffer("moments", torch.zeros(init.replicas, 3, dtype=init.dtype, device=init.device))

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Take in a batch ``[R, ...]``."""
        x = x.flatten(1)
        batch = torch.stack((torch.ones_like(x[:, 0]), x.mean(1), x.square().mean(1)), dim=1)
        self.moments.mul_(self.decay.unsqueeze(1)).add_(batch * (1.0 - self.decay).unsqueeze(1))

    def mean_std(self, ndim: int) -> tuple[Tensor, Tensor]:
        """Statistics, ``[R, 1, ...]`` with ``ndim`` axes; before any batch the mean is 0."""
        weight, total, squares = self.moments.unbind(1)
        weight = weight.clamp_min(1e-12)
        mean = total / weight
        std = (squares / weight - mean.square()).clamp_min(0.01).sqrt()
        shape = (-1, *(1,) * (ndim - 1))
        return mean.view(shape), std.view(shape)

    def normalize(self, x: Tensor) -> Tensor:
        """``(x - mean) / std``."""
        mean, std = self.mean_std(x.ndim)
        return (x - mean) / std

    def denormalize(self, x: Tensor) -> Tensor:
        """Inverse of :meth:`normalize`."""
        mean, std = self.mean_std(x.ndim)
        return x * std + mean


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, mask: Tensor, ends: Tensor, gamma: Tensor, lam: Tensor
) -> Tensor:
    """Generalized advantage estimate over the last axis, ``[R, E, T]``.

    Args:
        reward: ``[R, E, T]``.
        value: V of each step's state.
        next_value: V of the state that the step led to, also at an episode's end (not of the next start).
        mask: 0 where the task ended (no bootstrap), else 1.
        ends: 1 where the episode was over, by the task or by the time limit: the sum stops there.
        gamma: ``[R, 1]``.
        lam: ``[R, 1]``.
    """
    error = reward + gamma.unsqueeze(-1) * mask * next_value - value
    carry = gamma * lam
    advantage, total = torch.empty_like(error), torch.zeros_like(error[..., 0])
    for t in range(error.shape[-1] - 1, -1, -1):
        total = error[..., t] + carry * (1.0 - ends[..., t]) * total
        advantage[..., t] = total
    return advantage


def huber(error: Tensor, delta: Tensor) -> Tensor:
    """``e^2 / 2`` up to ``delta``, then linear."""
    size = error.abs()
    return torch.where(size <= delta, 0.5 * size.square(), delta * (size - 0.5 * delta))


@torch.no_grad()
def td_lambda(
    reward: Tensor, values: Tensor, mask: Tensor, filled: Tensor, gamma: Tensor, trace: Tensor
) -> Tensor:
    """TD(lambda) targets ``G_t = r_t + gamma mask_t ((1 - lambda) U_{t+1} + lambda G_{t+1})``.

    Beyond the last filled step ``G = U``: a cut episode goes on with its final row's value, as a long padded one
    does not (there the released PyMARL recursion lets the value of a padded row leak in).
    The recursion is linear, so it is solved by doubling, in log2(L) steps instead of L.

    Args:
        reward: ``[R, B, L]`` or, per agent, ``[R, B, L, N]``.
        values: U, ``[R, B, L + 1]`` or ``[R, B, L + 1, N]``.
        mask: ``[R, B, L]``, 1 where the next value counts.
        filled: ``[R, B, L]``, 1 for steps with a target.
        gamma: discount ``[R, 1, 1]``.
        trace: lambda ``[R, 1, 1]``; 0 is the one-step target.

    Returns:
        Like ``reward``; zero where not filled.
    """
    carry = gamma * mask
    if reward.ndim > mask.ndim:
        carry, filled, trace = carry.unsqueeze(-1), filled.unsqueeze(-1), trace.unsqueeze(-1)
    real, now, after = filled > 0, values[:, :, :-1], values[:, :, 1:]
    # G_t = offset_t + slope_t G_{t+1}, from G_L = U_L; each round joins spans of doubled length.
    zero = torch.zeros_like(now)
    offset = torch.where(real, reward + carry * (1.0 - trace) * after, now)
    slope = torch.where(real, carry * trace, zero)
    last = values[:, :, -1:]
    span, length = 1, reward.shape[2]
    while span < length:
        offset = offset + torch.cat((slope[:, :, :-span] * offset[:, :, span:], zero[:, :, :span]), dim=2)
        slope = torch.cat((slope[:, :, :-span] * slope[:, :, span:], slope[:, :, -span:]), dim=2)
        span *= 2
    return torch.where(real, offset + slope * last, zero)
