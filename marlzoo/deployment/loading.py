"""``marlzoo.load``: one trained team from a run's folder or a checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.deployment.team_policy import TeamPolicy
from marlzoo.errors import CheckpointError, ConfigError
from marlzoo.training.checkpoint import EXTRA, Saved, build_replica, find_checkpoint, load_saved, task_of


def load(
    path: str | Path,
    *,
    seed: int | None = None,
    replica: int | None = None,
    best: bool = False,
    device: torch.device | str = "cpu",
) -> TeamPolicy:
    """Load one trained team; neither its data nor its simulator is needed.

    Args:
        path: a checkpoint, or the folder of a run that has one.
        seed: take the replica with this seed.
        replica: take the replica with this index.
        best: take the replica with the highest mean return in the last evaluation of the training. The choice biases
            that return upwards; evaluate the team again before reporting it.
        device: where to act.

    Raises:
        CheckpointError: there is no checkpoint, or it is broken, or has no evaluations to choose the best by.
        ConfigError: the choice of the replica is missing, ambiguous or wrong, or torch cannot use the device.
        UnknownNameError: the method is not installed.
    """
    file = find_checkpoint(path)
    saved = load_saved(file)
    chosen = _choose(file, saved, seed, replica, best)
    learner = build_replica(file, saved, chosen, device)
    return TeamPolicy(
        learner.policy().eval(),
        learner.spec,
        seed=learner.seeds[0],
        method=learner.name,
        task=task_of(saved.meta),
        updates=learner.updates,
        env_options=saved.meta.get("env"),
        device=learner.device,
        dtype=learner.dtype,
    )


def _choose(file: Path, saved: Saved, seed: int | None, replica: int | None, best: bool) -> int:
    """Index of the replica that the arguments name."""
    seeds = saved.seeds
    if (seed is not None) + (replica is not None) + best > 1:
        raise ConfigError("choose a replica by one of seed, replica and best")
    if best:
        return _best(file, saved)
    if replica is not None:
        if not 0 <= replica < len(seeds):
            raise ConfigError(f"{file}: has replicas 0 to {len(seeds) - 1}, not {replica}")
        return replica
    if seed is None and len(seeds) == 1:
        return 0
    matching = [k for k, found in enumerate(seeds) if found == seed]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(f"{k} (seed {found})" for k, found in enumerate(seeds))
    if seed is None:
        raise ConfigError(f"{file}: holds replicas {listed}; choose one by its seed or replica, or the best")
    if matching:
        raise ConfigError(f"{file}: replicas {matching} have seed {seed}; choose by replica")
    raise ConfigError(f"{file}: no replica has seed {seed}; it holds {listed}")


def _best(file: Path, saved: Saved) -> int:
    last = len(saved.meta.get("evaluations", [])) - 1
    returns: NDArray[np.float64] | None = saved.arrays.get(f"{EXTRA}eval/{last}/returns")
    if returns is None:
        raise CheckpointError(f"{file}: holds no evaluation to choose the best by; choose by seed or replica")
    means = returns.mean(-1)
    if not np.isfinite(means).any():
        raise CheckpointError(f"{file}: all replicas diverged")
    return int(np.nanargmax(np.where(np.isfinite(means), means, np.nan)))
