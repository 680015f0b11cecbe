"""World models in files: what ``marlzoo data model`` writes, and methods start from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.errors import CheckpointError, ConfigError, MarlzooError
from marlzoo.models.settings import OF_NETWORKS, file_hash, flags, model_file
from marlzoo.models.world_model import WorldModel
from marlzoo.spec import Spec
from marlzoo.system.array_files import load_arrays

KIND = "world model"


def read(path: str | Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and description of a world model's file.

    Raises:
        CheckpointError: the file is missing, broken, or holds no world model.
    """
    arrays, meta = load_arrays(path)
    if meta.get("kind") != KIND:
        raise CheckpointError(f"{path}: not a world model; 'marlzoo data model DATASET' writes one")
    missing = [name for name in ("spec", "settings", "state", "seed") if name not in meta]
    if missing or not isinstance(meta["settings"], dict) or not isinstance(meta["spec"], dict):
        what = f"{', '.join(missing)} is missing" if missing else "its settings or its spec are none"
        raise CheckpointError(f"{path}: not a readable world model ({what}); make it again")
    return arrays, meta


def fill(model: WorldModel, named: str) -> None:
    """Put a saved world model into that of a learner, the same one into every replica.

    Args:
        model: of R replicas.
        named: the setting ``world_model``: a file and the hash that it must have.

    Raises:
        CheckpointError: the file is missing, broken, changed, or holds no world model.
        ConfigError: it holds one of another task, or with other settings than the learner's.
    """
    path, wanted = model_file(named)
    found = file_hash(path)
    if wanted and found != wanted:
        raise CheckpointError(
            f"{path}: is another file than when the run was set up (its hash is {found}, that of the setting "
            f"world_model {wanted}); start again, or put the old file back"
        )
    arrays, meta = read(path)
    _require_fit(path, model, meta)
    mine = model.state_dict()
    strange = sorted(mine.keys() ^ arrays.keys())
    strange += [
        name for name, value in mine.items() if name in arrays and arrays[name].shape != (1, *value.shape[1:])
    ]
    if strange:
        raise CheckpointError(
            f"{path}: not a readable world model (missing, not known or of another shape: "
            f"{', '.join(strange[:3])}); make it again"
        )
    for name, value in arrays.items():
        if not np.isfinite(value).all():
            raise CheckpointError(
                f"{path}: the world model has diverged ({name} is not finite); make it again"
            )
    with torch.no_grad():
        for name, value in mine.items():
            value.copy_(torch.from_numpy(arrays[name]).expand(value.shape))


def _require_fit(path: str, model: WorldModel, meta: Mapping[str, Any]) -> None:
    """Refuse a model of another task, or with other settings."""
    try:
        differences = Spec.from_dict(meta["spec"]).differences(model.spec)
        theirs = {name: meta["settings"][name] for name in OF_NETWORKS}
    except (KeyError, TypeError, MarlzooError) as error:
        raise CheckpointError(
            f"{path}: not a readable world model ({type(error).__name__}: {error}); make it again"
        ) from error
    task = meta.get("task", "")
    if not differences and task and model.spec.task and task != model.spec.task:
        differences = [f"task: {task} != {model.spec.task}"]
    if differences:
        raise ConfigError(
            f"{path}: a world model of another task: {'; '.join(differences)} (left: in the file; right: of the "
            "learner). Make one of this task's data with 'marlzoo data model'"
        )
    if bool(meta["state"]) != model.state:
        has, remedy = ("predicts", "without") if meta["state"] else ("does not predict", "with")
        raise ConfigError(
            f"{path}: the world model {has} the global state, as the learner's must"
            f"{' not' if meta['state'] else ''}; make one {remedy} --state"
        )
    other = {name: value for name, value in theirs.items() if getattr(model.config, name) != value}
    if other:
        needed = dict(other)
        if model.config.elites > theirs["members"]:  # which the learner would refuse next
            needed["elites"] = min(model.config.elites, theirs["members"])
        here = ", ".join(f"{name}={getattr(model.config, name)}" for name in other)
        there = ", ".join(f"{name}={value}" for name, value in other.items())
        raise ConfigError(
            f"{path}: the world model has {there}, the learner {here}; train with {flags(needed)}, or make another "
            "model"
        )
