"""Maximizing a score over the action box by sampling."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[Tensor], Tensor]


def best_of(candidates: Tensor, score: Tensor) -> Tensor:
    """``candidates [R, K, ..., A]`` with the largest ``score [R, K, ...]``, ``-> [R, ..., A]``."""
    index = score.argmax(1, keepdim=True).unsqueeze(-1)
    return candidates.gather(1, index.expand(*index.shape[:-1], candidates.shape[-1])).squeeze(1)


@torch.no_grad()
def cross_entropy_search(
    score: Score, noise: Tensor, elites: int, std: Tensor | float = 2.0, min_std: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Maximize ``score`` over the box by the cross-entropy method; from zero mean.

    From the second round on the previous elites compete too, so the best candidate never gets worse.

    Args:
        score: ``[R, K, ..., A] -> [R, K, ...]`` value of candidates.
        noise: ``[R, rounds, K, ..., A]`` standard normal.
        elites: candidates that the next mean and (unbiased) standard deviation are taken from.
        std: of the first round, a number or ``[R, 1, ...]`` with the candidates' axes.
        min_std: added to the standard deviation, which elites that agree would make zero.

    Returns:
        The best candidate, ``[R, ..., A]``, and its value in the round that drew it, ``[R, ...]``.
    """
    rounds = noise.unbind(1)
    candidates = (std * rounds[0]).clamp(-1.0, 1.0)
    value = score(candidates)
    for drawn in rounds[1:]:
        top, index = value.topk(elites, dim=1)
        kept = candidates.gather(1, index.unsqueeze(-1).expand(*index.shape, candidates.shape[-1]))
        spread, mean = torch.std_mean(kept, dim=1, keepdim=True)
        fresh = (mean + (spread + min_std) * drawn).clamp(-1.0, 1.0)
        candidates = torch.cat((fresh, kept), dim=1)
        value = torch.cat((score(fresh), top), dim=1)
    return best_of(candidates, value), value.amax(1)


@torch.no_grad()
def softmax_search(
    score: Score, noise: Tensor, std: Tensor | float = 2.0, min_std: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Maximize ``score`` over the box by softmax-weighted means; from zero mean.

    Every round moves the mean to the samples' mean weighted by ``softmax(score)`` and takes as standard deviation
    the root of the samples' unweighted mean squared distance from it.

    Args:
        score: ``[R, K, ..., A] -> [R, K, ...]`` value of candidates.
        noise: ``[R, rounds, K, ..., A]`` standard normal.
        std: of the first round, a number or ``[R, 1, ...]`` with the candidates' axes.
        min_std: added to the standard deviation.

    Returns:
        The best candidate of the last round, ``[R, ..., A]``, and its value, ``[R, ...]``.
    """
    mean = torch.zeros_like(noise[:, 0, :1])
    spread = mean + std
    for drawn in noise.unbind(1):
        candidates = (mean + spread * drawn).clamp(-1.0, 1.0)
        value = score(candidates)
        mean, spread = softmax_moments(candidates, value)
        spread = spread + min_std
    return best_of(candidates, value), value.amax(1)


def softmax_moments(candidates: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax-weighted mean ``[R, 1, ..., A]`` of ``candidates [R, K, ..., A]`` and their spread around it."""
    weight = torch.softmax(score, dim=1).unsqueeze(-1)
    mean = (weight * candidates).sum(1, keepdim=True)
    return mean, (candidates - mean).square().mean(1, keepdim=True).sqrt()
