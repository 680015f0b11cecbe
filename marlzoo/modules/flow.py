"""Flow matching: velocity fields that carry noise to data, and their integration."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from marlzoo.modules.layers import MLP, PerAgent
from marlzoo.replicas import Init

FREQUENCIES = 4  # of the sines and cosines of the time
Field = Callable[[Tensor, Tensor, Tensor], Tensor]


def time_features(t: Tensor, frequencies: int = FREQUENCIES) -> Tensor:
    """The time and its sines and cosines of doubling frequency, ``[..., 1] -> [..., 1 + 2 F]``."""
    scale = math.pi * 2.0 ** torch.arange(frequencies, dtype=t.dtype, device=t.device)
    return torch.cat((t, torch.sin(scale * t), torch.cos(scale * t)), dim=-1)


class VelocityField(nn.Module):
    """``v(t, context, x)``, ``[R, ..., X]``: the velocity at which noise at time 0 moves to data at time 1.

    Args:
        init: draws the initial values.
        n_context: features of what the data depend on.
        size: X, of a data point.
        hidden: width of the hidden layers.
        layers: how many there are.
        used: ``[X]``, 0 for entries of a data point that are padding, which the field does not read; None: all are
            read.
    """

    used: Tensor | None

    def __init__(
        self, init: Init, n_context: int, size: int, hidden: int, layers: int, used: Tensor | None = None
    ) -> None:
        super().__init__()
        self.register_buffer("used", used, persistent=False)
        self.network = MLP(init, (n_context + size + 1 + 2 * FREQUENCIES, *(hidden,) * layers, size))

    def forward(self, context: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """``context [R, ..., C]``, ``x [R, ..., X]``, ``t [R, ..., 1]`` in [0, 1]."""
        seen = x if self.used is None else x * self.used
        velocity: Tensor = self.network(context, seen, time_features(t))
        return velocity


class AverageVelocity(nn.Module):
    """``u(obs, x, t, s)``, ``[R, ..., N, X]``: the mean velocity of a data point from time t to time s (MeanFlow).

    Every agent has a network of its own.

    Args:
        init: draws the initial values.
        n_context: features of an agent's observation.
        used: ``[N, X]``, 0 for entries of an agent's data point that are padding, which it does not read.
        hidden: width of the hidden layers.
        layers: how many there are.
    """

    used: Tensor

    def __init__(self, init: Init, n_context: int, used: Tensor, hidden: int, layers: int) -> None:
        super().__init__()
        self.register_buffer("used", used, persistent=False)
        n, size = used.shape
        sizes = (n_context + size + 2 * (1 + 2 * FREQUENCIES), *(hidden,) * layers, size)
        self.network = PerAgent(MLP(init, sizes, stack=(n,)))

    def forward(self, context: Tensor, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """``context [R, ..., N, C]``, ``x [R, ..., N, X]``, ``t`` and ``s [R, ..., N, 1]`` in [0, 1]."""
        velocity: Tensor = self.network(context, x * self.used, time_features(t), time_features(s))
        return velocity


Average = Callable[[Tensor, Tensor, Tensor], Tensor]
"""``(x, t, s)`` in, the mean velocity from t to s out."""


@torch.no_grad()
def average_target(field: Average, x: Tensor, t: Tensor, s: Tensor, velocity: Tensor) -> Tensor:
    """What a mean velocity must be for its field to be consistent: ``v - (t - s) du/dt`` (MeanFlow identity).

    From ``(s - t) u = integral of v from t to s``; du/dt is taken along the path, on which x moves with
    ``velocity``, with s held fixed. Where s = t it is ``velocity``.
    """
    along = (velocity, torch.ones_like(t))
    change: Tensor = torch.func.jvp(lambda x, t: field(x, t, s), (x, t), along)[1]
    return velocity - (t - s) * change


def carry(field: Average, noise: Tensor, steps: int) -> Tensor:
    """Carry ``noise [R, ..., X]`` to time 1 by mean velocities over ``steps`` equal parts of the way."""
    x = noise
    time = torch.zeros_like(noise[..., :1])
    for k in range(steps):
        x = x + field(x, time + k / steps, time + (k + 1) / steps) / steps
    return x


def integrate(field: Field, context: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Carry ``noise [R, ..., X]`` along the field from time 0 to 1 in equal Euler steps."""
    x = noise
    time = torch.zeros_like(noise[..., :1])
    for k in range(steps):
        x = x + field(context, x, time + k / steps) / steps
    return x
