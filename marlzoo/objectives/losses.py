"""Loss terms that several methods share, each said once: ``[R, ...]`` in, ``[R, ...]`` or ``[R]`` out."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from marlzoo.modules.distributions import ILLEGAL, chosen, mask_logits, one_hot, smoothed_action

LOG_2PI = math.log(2.0 * math.pi)


def mean_over(x: Tensor, filled: Tensor | None = None) -> Tensor:
    """Mean of ``x [R, ...]`` over all axes but the first, ``-> [R]``.

    Args:
        x: values per sample, and per agent or dimension where there are such axes.
        filled: ``[R, B, L]`` (any leading part of x's shape), 1 for real steps and 0 for padding; None: all real.
    """
    if filled is None:
        return x.flatten(1).mean(1)
    weight = filled.view(*filled.shape, *(1,) * (x.ndim - filled.ndim)).expand_as(x)
    # Padding may hold anything, so it is replaced and not only multiplied by zero.
    kept = torch.where(weight > 0, x, torch.zeros_like(x)) * weight
    return kept.flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1.0)


def detached(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Without gradient, as metrics are."""
    return {name: value.detach() for name, value in values.items()}


def action_error(action: Tensor, other: Tensor, used: Tensor) -> Tensor:
    """Mean squared difference over the dimensions that an agent has, ``[..., N, A] -> [..., N]``.

    Args:
        action: compared with ``other``.
        other: of the same shape.
        used: ``[N, A]`` with 0 for padding.
    """
    return action_size(action - other, used)


def action_size(action: Tensor, used: Tensor) -> Tensor:
    """Mean square over the dimensions that an agent has (``used [N, A]`` not 0), ``[..., N, A] -> [..., N]``."""
    return (action.square() * used).sum(-1) / used.sum(-1)


@torch.no_grad()
def value_scale(value: Tensor, filled: Tensor | None = None) -> Tensor:
    """Mean absolute deviation of ``value [R, ...]`` from its mean, plus 1e-6 and without gradient, ``-> [R]``.

    TD errors divided by it neither depend on the rewards' scale nor change the fixed point (arXiv 2603.08399).
    """
    center = mean_over(value, filled).view(-1, *(1,) * (value.ndim - 1))
    return mean_over((value - center).abs(), filled) + 1e-6


def expectile(error: Tensor, tau: Tensor | float) -> Tensor:
    """Asymmetric squared error ``|tau - 1(error < 0)| error^2`` (IQL, Kostrikov et al. 2022, equation 5)."""
    weight = torch.where(error < 0, 1.0 - tau, tau)
    return weight * error.square()


def exponential_weights(advantage: Tensor, temperature: Tensor | float, cap: Tensor | float) -> Tensor:
    """Policy weights ``min(exp(advantage / temperature), cap)``, without gradient.

    The exponent is bounded before the exponential, so that a huge advantage gives the cap and not infinity.
    """
    exponent = advantage.detach() / temperature
    # A number stays on the host: moving it to the device would wait for it.
    bounded = (
        torch.minimum(exponent, cap.log()) if isinstance(cap, Tensor) else exponent.clamp(max=math.log(cap))
    )
    return torch.exp(bounded)


def softmax_weights(
    x: Tensor, temperature: Tensor | float, dim: int = 1, valid: Tensor | None = None
) -> Tensor:
    """Self-normalized weights of mean 1 along ``dim`` (the batch): ``B softmax(x / temperature)``, no gradient.

    Args:
        x: what is weighted by.
        temperature: a large one makes all weights 1.
        dim: of the batch.
        valid: like x (or broadcast to it), 1 for entries that take part; the others' weight is 0. None: all do.
    """
    scaled = x.detach() / temperature
    if valid is None:
        return torch.softmax(scaled, dim=dim) * x.shape[dim]
    taking_part = (valid > 0).expand_as(scaled)
    weight = torch.softmax(scaled.masked_fill(~taking_part, ILLEGAL), dim=dim) * taking_part
    return weight * taking_part.sum(dim, keepdim=True)


def normalized(advantage: Tensor, eps: float = 1e-8) -> Tensor:
    """Shifted and scaled to mean 0 and standard deviation 1 within each replica ``[R, ...]``."""
    flat = advantage.flatten(1)
    shifted = (flat - flat.mean(1, keepdim=True)) / (flat.std(1, keepdim=True) + eps)
    return shifted.view_as(advantage)


def normal_log_density(deviation: Tensor, std: Tensor | float, used: Tensor | None = None) -> Tensor:
    """``sum_d log N(deviation_d; 0, std)``, ``[..., A] -> [...]``.

    Args:
        deviation: distance from the mean.
        std: standard deviation, of every dimension.
        used: ``[..., A]`` with 0 for dimensions that are padding.
    """
    log_std = std.log() if isinstance(std, Tensor) else math.log(std)
    per_dimension = -0.5 * (deviation / std).square() - log_std - 0.5 * LOG_2PI
    return (per_dimension if used is None else per_dimension * used).sum(-1)


def uniform_log_density(used: Tensor) -> Tensor:
    """Log density of the uniform distribution on ``(-1, 1)^A``: ``used [..., A] -> [...]``, ``-A log 2``."""
    return -math.log(2.0) * used.sum(-1)


def sampled_logsumexp(
    q: Tensor, log_density: Tensor | None = None, dim: int = 1, temperature: Tensor | float = 1.0
) -> Tensor:
    """``T logsumexp_k((q_k - log_density_k) / T)`` over samples: CQL's push down (Kumar et al. 2020).

    Args:
        q: values of sampled actions, samples along ``dim``.
        log_density: of the samples under what they were drawn from (importance correction); None: no correction.
        dim: of the samples.
        temperature: T.
    """
    corrected = q if log_density is None else q - log_density
    return temperature * torch.logsumexp(corrected / temperature, dim=dim)


def masked_logsumexp(q: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """``logsumexp`` over the legal actions, ``q [..., A] -> [...]``; an illegal action has no weight at all."""
    return torch.logsumexp(mask_logits(q, action_mask), dim=-1)


def double_q(online: Tensor, target: Tensor, action_mask: Tensor | None = None) -> Tensor:
    """``target`` at the best legal action of ``online``: ``[..., A] -> [...]`` (van Hasselt et al. 2016)."""
    return chosen(target, mask_logits(online, action_mask).argmax(-1))


def soft_minimum(q: Tensor, weight: Tensor | float) -> Tensor:
    """``weight min_k + (1 - weight) max_k`` over the ensemble, ``[R, K, ...] -> [R, ...]`` (BCQ)."""
    return weight * q.amin(1) + (1.0 - weight) * q.amax(1)


def gaussian_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """``KL(N(mean, std) || N(0, 1))`` of every dimension, ``[..., L]``."""
    return 0.5 * (mean.square() + (2.0 * log_std).exp() - 1.0) - log_std


def penalty_samples(
    now: Tensor, after: Tensor, uniform: Tensor, normal: Tensor | None, sigma: Tensor, used: Tensor
) -> tuple[Tensor, Tensor]:
    """Actions that a conservative penalty pushes down: uniform ones, and ones around the policy's.

    Args:
        now: the policy's actions at o, ``[R, ..., N, A]``.
        after: the policy's actions at o', likewise.
        uniform: ``[R, K, ..., N, A]`` on [0, 1).
        normal: ``[R, 2, K, ..., N, A]`` standard normal, around ``now`` and ``after``; None: uniform samples only.
        sigma: ``[R]``, spread of the samples around the policy's actions.
        used: ``[N, A]`` with 0 for padding.

    Returns:
        Actions ``[R, 3 K, ..., N, A]`` (K without ``normal``) and the log density of every agent's part,
        ``[R, 3 K, ..., N]``. The density is that of the noise before the action is clipped to the box.
    """
    actions = (2.0 * uniform - 1.0) * used
    density = uniform_log_density(used).expand(uniform.shape[:-1])
    if normal is None:
        return actions, density
    spread = sigma.view(-1, *(1,) * (normal.ndim - 1))
    around = smoothed_action(torch.stack((now, after), dim=1).unsqueeze(2), normal, spread) * used
    near = normal_log_density(spread * normal, spread, used)
    return torch.cat((actions, around.flatten(1, 2)), 1), torch.cat((density, near.flatten(1, 2)), 1)


def straight_through(logits: Tensor, action_mask: Tensor | None, uniform: Tensor) -> Tensor:
    """One-hot sample of ``softmax(logits [..., A])`` over legal actions, with the softmax's gradient.

    Gumbel-softmax with temperature 1 (Jang et al. 2017), hard in value.
    """
    tiny = torch.finfo(logits.dtype).tiny
    gumbel = -torch.log((-torch.log(uniform.clamp_min(tiny))).clamp_min(tiny))
    soft = torch.softmax(mask_logits(logits + gumbel, action_mask), dim=-1)
    hard = one_hot(soft.argmax(-1), logits.shape[-1], soft.dtype)
    return hard + soft - soft.detach()
