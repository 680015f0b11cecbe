"""Flow matching: velocity fields that carry noise to data, and their integration."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from marlzoo.modules.layers import MLP
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


def integrate(field: Field, context: Tensor, noise: Tensor, steps: int) -> Tensor:
    """Carry ``noise [R, ..., X]`` along the field from time 0 to 1 in equal Euler steps."""
    x, time = noise, torch.zeros_like(noise[..., :1])
    for k in range(steps):
        x = x + field(context, x, time + k / steps) / steps
    return x
