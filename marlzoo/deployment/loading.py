"""``marlzoo.load``: one trained team from a run's folder or a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.deployment.team_policy import TeamPolicy
from marlzoo.errors import CheckpointError, ConfigError
from marlzoo.training.checkpoint import EXTRA, Saved, build_replica, find_teams, load_saved, task_of


def load(
    path: str | Path,
    *,
    method: str = "",
    dataset: str = "",
    seed: int | None = None,
    replica: int | None = None,
    best: bool = False,
    device: torch.device | str = "cpu",
) -> TeamPolicy:
    """Load one trained team; neither its data nor its simulator is needed.

    Args:
        path: a checkpoint, or the folder of a run or of a suite.
        method: take the team of this method, where the folder has several.
        dataset: take the team that was trained on these data: their name, that name without its source
            (``mpe/spread/medium``), or their quality alone.
        seed: take the replica with this seed.
        replica: take the replica with this index.
        best: take the replica with the highest mean return in the last evaluation of the training. The choice biases
            that return upwards; evaluate the team again before reporting it.
        device: where to act.

    Raises:
        CheckpointError: there is no checkpoint, or several, it is broken, or lacks evaluations to choose the best by.
        ConfigError: the choice of the replica is missing, ambiguous or wrong, or torch cannot use the device.
        UnknownNameError: the method is not installed.
    """
    file, replicas = find_teams(path, method, dataset)
    saved = load_saved(file)
    chosen = _choose(file, saved, replicas or range(len(saved.seeds)), seed, replica, best)
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


def _choose(
    file: Path, saved: Saved, among: Sequence[int], seed: int | None, replica: int | None, best: bool
) -> int:
    """Index of the replica that the arguments name, of those that were trained on the data asked for."""
    if (seed is not None) + (replica is not None) + best > 1:
        raise ConfigError("choose a replica by one of seed, replica and best")
    if best:
        return _best(file, saved, among)
    if replica is not None:
        if isinstance(replica, bool) or not isinstance(replica, int | np.integer):
            raise ConfigError(f"replica is {replica!r}; it must be the index of a replica, an integer")
        if replica not in among:
            held = f"0 to {len(among) - 1}" if len(among) == len(saved.seeds) else ", ".join(map(str, among))
            raise ConfigError(f"{file}: has replicas {held}, not {replica}")
        return replica
    if seed is None and len(among) == 1:
        return among[0]
    matching = [k for k in among if saved.seeds[k] == seed]
    if len(matching) == 1:
        return matching[0]
    listed = ", ".join(f"{k} ({_told(saved, k)})" for k in among)
    if seed is None:
        raise ConfigError(f"{file}: holds replicas {listed}; choose one by its seed or replica, or the best")
    if matching:
        same = ", ".join(f"{k} ({_told(saved, k)})" for k in matching)
        raise ConfigError(f"{file}: replicas {same} have seed {seed}; choose by dataset or replica")
    raise ConfigError(f"{file}: no replica has seed {seed}; it holds {listed}")


def _told(saved: Saved, replica: int) -> str:
    """The seed of a replica, and its data where others have other data."""
    name = saved.datasets[replica]
    return (
        f"{name}, seed {saved.seeds[replica]}"
        if len(set(saved.datasets)) > 1
        else f"seed {saved.seeds[replica]}"
    )


def _best(file: Path, saved: Saved, among: Sequence[int]) -> int:
    last = len(saved.meta.get("evaluations", [])) - 1
    returns: NDArray[np.float64] | None = saved.arrays.get(f"{EXTRA}eval/{last}/returns")
    if returns is None:
        raise CheckpointError(f"{file}: holds no evaluation to choose the best by; choose by seed or replica")
    means = returns.mean(-1)[list(among)]
    if not np.isfinite(means).any():
        raise CheckpointError(f"{file}: all replicas diverged")
    return among[int(np.nanargmax(np.where(np.isfinite(means), means, np.nan)))]
