"""What learners report beside their losses, under one name each, so that runs of different methods compare.

* ``value/data_mean``: mean value of the data's team actions, on the scale of the team's return: Q_tot, or the mean
  over agents of values of their own (the team's reward is the mean of theirs).
* ``weight/ess``: effective sample size of the weights of a weighted method, as a fraction of the batch.
* ``policy/data_log_prob``: mean log probability (density) of the data's actions, per agent.
* ``policy/saturation``: share of the policy's action entries beyond ``SATURATED``, at the box's bounds.

Everything is ``[R]``, has no gradient and waits for no device.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from marlzoo.objectives.losses import mean_over

SATURATED = 0.99  # |a| beyond which an action entry counts as lying on the bound


def data_value(value: Tensor, filled: Tensor | None = None) -> dict[str, Tensor]:
    """``value/data_mean``.

    Args:
        value: of the data's actions, the team's ``[R, ...]`` or every agent's own ``[R, ..., N]``.
        filled: 1 for real steps; see :func:`marlzoo.objectives.losses.mean_over`.
    """
    return {"value/data_mean": mean_over(value.detach(), filled)}


@torch.no_grad()
def effective_sample_size(weight: Tensor, filled: Tensor | None = None) -> dict[str, Tensor]:
    """``weight/ess``: ``(sum w)^2 / (n sum w^2)`` (Kish) over an agent's samples, averaged over the agents.

    1 where all weights are equal, 1 / n where one sample carries the batch, 0 where all weights are zero.

    Args:
        weight: ``[R, ..., N]``; a weight of the team has N = 1.
        filled: ``[R, ...]`` without the last axis, 1 for real steps; None: all are real.
    """
    rows = weight.detach().flatten(1, -2)  # [R, samples, N]
    count: Tensor | int = rows.shape[1]
    if filled is not None:
        real = filled.flatten(1).unsqueeze(-1)
        rows = torch.where(real > 0, rows, torch.zeros_like(rows))
        count = real.sum(1).clamp_min(1.0)
    # Divided by the largest weight first, since the square of a large one overflows in float32.
    rows = rows / rows.abs().amax(1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    share = rows.sum(1).square() / (count * rows.square().sum(1).clamp_min(torch.finfo(rows.dtype).tiny))
    return {"weight/ess": share.mean(-1)}


@torch.no_grad()
def exponent_quantiles(
    exponent: Tensor, filled: Tensor | None = None, quantiles: Sequence[float] = (0.5, 0.9, 0.99)
) -> dict[str, Tensor]:
    """``weight/exponent_q50`` and so on: quantiles over the batch (linear interpolation).

    Args:
        exponent: ``[R, ..., N]``.
        filled: 1 for real steps, any leading part of the exponent's shape; None: all are real.
        quantiles: which.
    """
    rows = exponent.detach().flatten(1)
    last = torch.full_like(rows[:, :1], rows.shape[1] - 1)
    if filled is not None:
        real = filled.view(*filled.shape, *(1,) * (exponent.ndim - filled.ndim)).expand_as(exponent)
        rows = rows.masked_fill(real.flatten(1) == 0, torch.inf)
        last = (real.flatten(1).sum(1, keepdim=True) - 1.0).clamp_min(0.0)
    ordered, found = rows.sort(dim=1).values, {}
    for quantile in quantiles:
        place = quantile * last
        low, high = ordered.gather(1, place.floor().long()), ordered.gather(1, place.ceil().long())
        found[f"weight/exponent_q{round(100 * quantile)}"] = torch.lerp(
            low, high, place - place.floor()
        ).squeeze(1)
    return found


@torch.no_grad()
def saturation(action: Tensor, used: Tensor, filled: Tensor | None = None) -> dict[str, Tensor]:
    """``policy/saturation`` of continuous actions.

    Args:
        action: the policy's, ``[R, ..., N, A]`` in [-1, 1].
        used: ``[N, A]`` with 0 for padding.
        filled: 1 for real steps; see :func:`marlzoo.objectives.losses.mean_over`.
    """
    beyond = ((action.detach().abs() > SATURATED) * used).sum((-2, -1)) / used.sum()
    return {"policy/saturation": mean_over(beyond, filled)}


def data_likelihood(log_prob: Tensor, filled: Tensor | None = None) -> dict[str, Tensor]:
    """``policy/data_log_prob`` of ``[R, ..., N]`` log probabilities of the data's actions."""
    return {"policy/data_log_prob": mean_over(log_prob.detach(), filled)}
