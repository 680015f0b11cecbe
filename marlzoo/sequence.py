"""What methods share that read episodes step by step: one layout, the steps that count, TD(lambda)."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor

from marlzoo.data.sampler import Batch
from marlzoo.distributions import one_hot


def row_fields(recurrent: bool, *names: str) -> tuple[str, ...]:
    """Fields to declare for a batch that :func:`as_sequences` lays out: for transitions with the next rows."""
    following = [f"next_{name}" for name in names if name in ("obs", "state", "legal") and not recurrent]
    return (*names, *following)


def as_sequences(batch: Batch) -> Batch:
    """A batch in the layout of sequences; transitions become sequences of one step.

    A method written for sequences so learns from transitions too: ``obs``, ``state`` and ``legal`` hold the final
    row as well (``[R, B, L + 1, ...]``), all else one row per step (``[R, B, L, ...]``).
    """
    if batch.has("filled"):
        return batch
    stacked = {
        name: torch.stack((getattr(batch, name), getattr(batch, f"next_{name}")), dim=2)
        for name in ("obs", "state", "legal")
        if batch.has(f"next_{name}")
    }
    steps = {
        name: getattr(batch, name).unsqueeze(2)
        for name in ("action", "reward", "agent_reward", "mask", "next_action")
        if batch.has(name)
    }
    return Batch.of(batch.noise, filled=torch.ones_like(batch.mask).unsqueeze(2), **stacked, **steps)


def known_actions(batch: Batch) -> tuple[Tensor, Tensor]:
    """The data's actions in all L + 1 rows of sequences, and the steps that have a target made of them.

    Methods that evaluate the data's next action need one: after a terminal step none is needed; where a sequence
    is cut (by a time limit or by the sampling) none is known, so the step before the cut has no target.

    Args:
        batch: from :func:`as_sequences`, with ``action``, ``mask``, ``filled``.

    Returns:
        Actions ``[R, B, L + 1, N, ...]`` (the last is a dummy where it is not known), and ``[R, B, L]`` 1 for steps
        with a target.
    """
    if batch.has("next_action"):
        return torch.cat((batch.action, batch.next_action), dim=2), batch.filled
    actions = torch.cat((batch.action, batch.action[:, :, -1:]), dim=2)
    followed = F.pad(batch.filled[:, :, 1:], (0, 1))
    return actions, batch.filled * torch.maximum(1.0 - batch.mask, followed)


def with_last_action(obs: Tensor, action: Tensor, n_actions: int) -> Tensor:
    """Append the one-hot action of the step before (zeros in the first row).

    Args:
        obs: ``[R, B, L + 1, N, O]``.
        action: ``[R, B, L, N]`` int64.
        n_actions: A.

    Returns:
        ``[R, B, L + 1, N, O + A]``.
    """
    taken = one_hot(action, n_actions, obs.dtype)
    return torch.cat((obs, F.pad(taken, (0, 0, 0, 0, 1, 0))), dim=-1)


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
