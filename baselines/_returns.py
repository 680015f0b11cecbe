"""Target returns for return-conditioned methods, from the returns of the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from marlzoo.replicas import Init

Target = Literal["max", "p90", "above"]
"""The return to ask for: the largest of the data, their 90th percentile, or a fifth above the largest."""


class TargetReturn(nn.Module):
    """Scale and target of returns in the data, ``[R]`` each."""

    scale: Tensor
    target: Tensor

    def __init__(self, init: Init) -> None:
        super().__init__()
        ones = torch.ones(init.replicas, dtype=init.dtype, device=init.device)
        self.register_buffer("scale", ones)
        self.register_buffer("target", ones.clone())

    def read(self, data: Sequence[Any], target: Target) -> None:
        """Take both from the data of every replica."""
        for r, dataset in enumerate(data):
            returns = dataset.returns
            returns = returns.mean(-1) if returns.ndim > 1 else returns
            largest = float(returns.max())
            wanted = {
                "max": largest,
                "p90": float(np.quantile(returns, 0.9)),
                "above": largest + 0.2 * abs(largest),
            }
            self.scale[r] = max(float(np.abs(returns).max()), 1e-6)
            self.target[r] = wanted[target]
