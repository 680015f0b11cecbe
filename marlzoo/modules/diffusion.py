"""Denoising diffusion: noise schedule and sampler; the embedding of the noise level is that of flows' time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.modules.flow import FREQUENCIES, time_features
from marlzoo.modules.layers import Linear
from marlzoo.replicas import Init

OFFSET = 0.008  # of the squared-cosine schedule
LARGEST_BETA = 0.999  # likewise
START_SCALE = 0.5  # of the noise that sampling starts from
Denoiser = Callable[[Tensor, Tensor], Tensor]
"""``(x [R, ...], level [R, ...])`` in, the predicted noise of x out."""


class Schedule(nn.Module):
    """Squared-cosine schedule of T noise levels (Nichol and Dhariwal 2021).

    At level k data are ``x_k = sqrt(a_k) x_0 + sqrt(1 - a_k) eps``, eps standard normal.

    Args:
        init: says where the numbers live.
        levels: T.

    Attributes:
        kept: ``a_k``, share of the data's variance that level k keeps, ``[T]``, falling from nearly 1 to nearly 0.
    """

    kept: Tensor

    def __init__(self, init: Init, levels: int) -> None:
        super().__init__()
        time = torch.arange(levels + 1, dtype=torch.float64) / levels
        signal = torch.cos((time + OFFSET) / (1.0 + OFFSET) * math.pi / 2).square()
        beta = (1.0 - signal[1:] / signal[:-1]).clamp(max=LARGEST_BETA)
        kept = (1.0 - beta).cumprod(0).to(init.device, init.dtype)
        self.levels = levels
        self.register_buffer("kept", kept, persistent=False)

    def noised(self, data: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """Data at their levels; ``level`` int64, without the data's last axes."""
        kept = self._at(level, data.ndim)
        return kept.sqrt() * data + (1.0 - kept).sqrt() * noise

    def clean(self, x: Tensor, noise: Tensor, level: Tensor) -> Tensor:
        """The data that x at its level holds, given its noise."""
        kept = self._at(level, x.ndim)
        return (x - (1.0 - kept).sqrt() * noise) / kept.sqrt()

    def noise_of(self, x: Tensor, data: Tensor, level: Tensor) -> Tensor:
        """The noise that x at its level holds beside its data."""
        kept = self._at(level, x.ndim)
        return (x - kept.sqrt() * data) / (1.0 - kept).sqrt()

    def time(self, level: Tensor, like: Tensor) -> Tensor:
        """Levels as a time in [0, 1), in the type of ``like``."""
        return level.to(like.dtype) / self.levels

    def noise_size(self, level: Tensor, ndim: int) -> Tensor:
        """``sqrt(1 - a_k)`` at the levels, with ``ndim`` axes."""
        return (1.0 - self._at(level, ndim)).sqrt()

    def _at(self, level: Tensor, ndim: int) -> Tensor:
        return self.kept[level].view(*level.shape, *(1,) * (ndim - level.ndim))


class NoiseModel(nn.Module):
    """``eps(context, x, time)``, ``[R, ..., X]``: the noise in a data point at its level, by residual layers.

    Args:
        init: draws the initial values.
        n_context: features of what the data depend on.
        size: X, of a data point.
        hidden: width of the hidden layers.
        layers: how many residual layers there are.
    """

    def __init__(self, init: Init, n_context: int, size: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.enter = Linear(init, n_context + size + 1 + 2 * FREQUENCIES, hidden)
        self.residual = nn.ModuleList(Linear(init, hidden, hidden) for _ in range(layers))
        self.leave = Linear(init, hidden, size)

    def forward(self, context: Tensor, x: Tensor, time: Tensor) -> Tensor:
        """``context [R, ..., C]``, ``x [R, ..., X]``, ``time [R, ...]`` in [0, 1)."""
        y = self.enter(context, x, time_features(time.unsqueeze(-1)))
        for layer in self.residual:
            y = y + layer(F.relu(y))
        noise: Tensor = self.leave(F.relu(y))
        return noise


def sample(
    denoiser: Denoiser, schedule: Schedule, noise: Tensor, steps: int, pin: Callable[[Tensor], Tensor]
) -> Tensor:
    """Data from noise in a few of the schedule's levels, without further noise (DDIM, Song et al. 2021).

    Args:
        denoiser: predicts the noise of x at a level, int64 ``[R, M]``.
        schedule: that it was trained with.
        noise: standard normal, ``[R, M, ...]``; sampling starts from ``START_SCALE`` times it.
        steps: calls of the denoiser, at most the schedule's levels.
        pin: overwrites what is known in x; called before every step and at the end.

    Returns:
        Data in [-1, 1], but for what is known.
    """
    chosen = torch.linspace(schedule.levels - 1, 0, steps).round().long().tolist()
    x = pin(START_SCALE * noise)
    for place, k in enumerate(chosen):
        level = torch.full(noise.shape[:2], k, dtype=torch.int64, device=noise.device)
        data = schedule.clean(x, denoiser(x, level), level).clamp(-1.0, 1.0)
        if place + 1 == steps:
            return pin(data)
        kept = schedule.kept[k]
        rest = (x - kept.sqrt() * data) / (1.0 - kept).sqrt()
        following = torch.full_like(level, chosen[place + 1])
        x = pin(schedule.noised(data, rest, following))
    return x


def guided(with_condition: Tensor, without: Tensor, guidance: Tensor | float) -> Tensor:
    """Classifier-free guidance: 0 leaves the condition out, 1 takes it as it is, more exaggerates it."""
    return without + guidance * (with_condition - without)
