"""Estimators that weigh logged episodes by how probable the evaluated team makes them.

Precup, Sutton, Singh, "Eligibility Traces for Off-Policy Policy Evaluation", ICML 2000 (per-decision weights); Jiang,
Li, ICML 2016, and Thomas, Brunskill, ICML 2016 (doubly robust, weighted). All take episodes padded to one length.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from marlzoo.system.machine import require_memory

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LoggedEpisodes:
    """E logged episodes of up to L steps, as R teams see them.

    Args:
        ratio: ``[R, E, L]`` cumulative ratio of the probabilities that the team and the behavior give to the actions
            up to each step; after an episode's end it stays as it is.
        reward: ``[E, L]``; 0 after the end.
        q: ``[R, E, L]`` values of the logged actions; 0 after the end. None: there is no model.
        v: ``[R, E, L + 1]`` values of the team's own actions; 0 after a terminal step. None: there is no model.
    """

    ratio: Floats
    reward: Floats
    q: Floats | None = None
    v: Floats | None = None


def weighted_importance(episodes: LoggedEpisodes, gamma: Floats, counts: Floats) -> Floats:
    """Per-decision weighted importance sampling, ``[R, B]``; NaN where no episode agrees with the team.

    ``sum_t gamma^t sum_i c_i w_it r_it / sum_i c_i w_it``. Biased towards the behavior's return, the less the more
    episodes there are; consistent.

    Args:
        episodes: logged.
        gamma: discount ``[R]``.
        counts: ``[B, E]``, how often each episode counts in each of B resamples.
    """
    weight = counts @ episodes.ratio  # [R, B, L]
    earned = counts @ (episodes.ratio * episodes.reward)
    with np.errstate(invalid="ignore", divide="ignore"):
        means = earned / weight
    return _discounted(means, gamma)


def doubly_robust(episodes: LoggedEpisodes, gamma: Floats, counts: Floats) -> Floats:
    """The weighted doubly robust estimator, ``[R, B]``.

    ``sum_t gamma^t [mean over w_{t-1} of V_t + mean over w_t of (r_t - Q_t)]``. Exact for deterministic tasks where Q
    is exact, and consistent where the behavior's probabilities are right, whatever Q is. From the step on at which
    no episode agrees with the team, Q stands alone.

    Args:
        episodes: logged, with ``q`` and ``v``.
        gamma: discount ``[R]``.
        counts: see :func:`weighted_importance`.
    """
    assert episodes.q is not None
    assert episodes.v is not None
    before = np.concatenate([np.ones_like(episodes.ratio[..., :1]), episodes.ratio], axis=-1)
    values = _mean(before, episodes.v, counts)
    surprise = _mean(episodes.ratio, episodes.reward - episodes.q, counts)
    values[..., :-1] += surprise
    return _discounted(values, gamma)


def effective_episodes(ratio: Floats) -> Floats:
    """``(sum w)^2 / sum w^2`` of whole episodes' weights ``ratio [R, E, L]``, ``[R]``; NaN where one is NaN."""
    weight = ratio[..., -1]
    square = np.square(weight).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(square == 0.0, 0.0, np.square(weight.sum(-1)) / square)


def resamples(episodes: int, times: int, seed: int) -> Floats:
    """``[1 + times, E]``: every episode once, then bootstrap resamples of as many.

    Raises:
        ConfigError: more than the memory holds.
    """
    require_memory(
        8 * (1 + times) * episodes,
        f"{times:,} resamples of {episodes:,} episodes",
        "take fewer members of fitted Q evaluation, or a smaller bootstrap",
    )
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(episodes, np.full(episodes, 1.0 / episodes), size=times)
    return np.concatenate([np.ones((1, episodes)), drawn]).astype(np.float64)


def _mean(weight: Floats, value: Floats, counts: Floats) -> Floats:
    """Weighted means over episodes; 0 where all weights are."""
    total = counts @ weight
    weighted = counts @ (weight * value)
    return np.divide(weighted, total, out=np.zeros_like(weighted), where=total > 0.0)


def _discounted(values: Floats, gamma: Floats) -> Floats:
    powers = gamma[:, None] ** np.arange(values.shape[-1])
    found: Floats = np.einsum("rbl,rl->rb", values, powers)
    return found
