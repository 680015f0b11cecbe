"""OMIGA's observation: the full observation and the agent's one-hot, standardized over its own entries.

The one-hot sums to 1 for every agent, so all agents' vectors share mean and deviation; and because its
entries are known, mean and deviation can be read back: the standardization is invertible.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._mujoco_robots import Array
from marlzoo.errors import MismatchError


def standardize(raw: Array, n_agents: int) -> Array:
    """Standardize full observations ``[B, O]`` with each agent's one-hot appended.

    Returns:
        ``[B, N, O + N]``: (z - mean(z)) / std(z), z = [observation, one-hot], with the population deviation.
    """
    size = raw.shape[1] + n_agents
    mean = (raw.sum(axis=1, keepdims=True) + 1.0) / size
    centered = raw - mean
    hot = 1.0 - mean
    cold = -mean
    squares = np.square(centered).sum(axis=1, keepdims=True) + hot * hot + (n_agents - 1) * cold * cold
    deviation = np.sqrt(squares / size)
    out = np.empty((len(raw), n_agents, size))
    out[:, :, : raw.shape[1]] = (centered / deviation)[:, None]
    out[:, :, raw.shape[1] :] = (cold / deviation)[:, None]
    agents = np.arange(n_agents)
    out[:, agents, raw.shape[1] + agents] = hot / deviation
    return out


def recover_raw(obs: NDArray[Any]) -> Array:
    """Invert :func:`standardize`: full observations ``[B, O]`` of standardized ones ``[B, N, O + N]``.

    With a an agent's entry at its own one-hot slot and b the mean of its other slots, std = 1 / (a - b) and
    mean = -b * std. The agents' recoveries are averaged. Rows with non-finite entries give NaN.

    Raises:
        MismatchError: a row is not standardized, or its agents see different states.
    """
    n = obs.shape[1]
    size = obs.shape[2] - n
    z = obs.astype(np.float64)
    finite = np.isfinite(z).all(axis=(1, 2))
    z[~finite] = standardize(np.zeros((1, size)), n)[0]
    _refuse(
        (np.abs(z.mean(axis=2)) > 1e-3) | (np.abs(z.std(axis=2) - 1) > 1e-3),
        "is not standardized (zero mean and unit deviation over each agent's entries)",
    )
    slots = z[:, :, size:]
    agents = np.arange(n)
    hot = slots[:, agents, agents]
    cold = (slots.sum(axis=2) - hot) / (n - 1)
    _refuse(hot <= cold, "has no agent one-hot in its last entries, in the agents' order")
    deviation = 1.0 / (hot - cold)
    raw = (z[:, :, :size] - cold[:, :, None]) * deviation[:, :, None]
    mean: Array = raw.mean(axis=1)
    spread = np.abs(raw - mean[:, None]).max(axis=2)
    _refuse(
        spread > 1e-3 * (1 + np.abs(mean).max(axis=1, keepdims=True)),
        "decodes to another state than its team's",
    )
    mean[~finite] = np.nan
    return mean


def _refuse(bad: NDArray[np.bool_], what: str) -> None:
    """Raise for the first of ``bad [B, N]``."""
    if bad.any():
        row, agent = np.argwhere(bad)[0]
        raise MismatchError(
            f"observation of agent {agent} in row {row} {what}. "
            "Either the file is broken or these are not observations of OMIGA's flavor"
        )
