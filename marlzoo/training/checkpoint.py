"""Checkpoints: a learner and what else a resume needs, in a file of :mod:`marlzoo.system.array_files`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.algorithm import Algorithm
from marlzoo.config import replica_configs
from marlzoo.errors import (
    CheckpointError,
    ConfigError,
    MarlzooError,
    MethodError,
    PluginError,
    UnknownNameError,
)
from marlzoo.registry import find_method, is_seed
from marlzoo.spec import Spec
from marlzoo.system.array_files import load_arrays, load_description, save_arrays
from marlzoo.system.machine import usable_device
from marlzoo.system.zipped import ZIP_FAULTS
from marlzoo.training.evaluation import EpisodeResults, Evaluation
from marlzoo.version import __version__

LEARNER = "learner/"
EXTRA = "extra/"
_TOLD = ("arithmetic", "code", "date")  # texts of an evaluation
IDENTITY = ("method", "spec", "seeds", "configs", "dtype")  # what :func:`describe` tells


def describe(algorithm: Algorithm) -> dict[str, Any]:
    """What identifies a learner: method, spec, seeds and settings (plain values)."""
    return {
        "method": algorithm.name,
        "spec": algorithm.spec.to_dict(),
        "seeds": algorithm.seeds,
        "configs": [config.to_dict() for config in algorithm.configs],
        "dtype": str(algorithm.dtype).removeprefix("torch."),
    }


def save(
    path: str | Path,
    algorithm: Algorithm,
    extra: Mapping[str, NDArray[Any]] | None = None,
    meta: Mapping[str, Any] | None = None,
) -> None:
    """Save a learner, and whatever else a resume needs, under ``path``.

    Args:
        path: the file.
        algorithm: the learner.
        extra: further arrays (sampler position, evaluations).
        meta: further plain values.

    Raises:
        ConfigError: what is to be saved is no learner.
        OutputError: it could not be written; the old file is left as it was.
    """
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(
            f"save: the second argument is a {type(algorithm).__name__}; the file comes first, then the learner: "
            'marlzoo.save("mine.npz", learner)'
        )
    tensors = {f"{LEARNER}{k}": v.detach().cpu().numpy() for k, v in algorithm.state_tensors().items()}
    others = {f"{EXTRA}{k}": v for k, v in (extra or {}).items()}
    versions = {"marlzoo": __version__, "torch": torch.__version__, "numpy": np.__version__}
    described = {**describe(algorithm), "preset": algorithm.preset}  # what it started from identifies no run
    described |= {"updates": algorithm.updates, "versions": versions}
    save_arrays(path, {**tensors, **others}, {**described, **(meta or {})})


def restore(path: str | Path, algorithm: Algorithm) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Put a saved state into a learner of the same configuration; returns the extra arrays and metadata.

    Raises:
        CheckpointError: it is broken, or belongs to another method, task, configuration or seeds.
    """
    arrays, meta = load_arrays(path)
    mine = describe(algorithm)
    for key, value in mine.items():
        if meta.get(key) != json.loads(json.dumps(value)):
            raise CheckpointError(
                f"{path}: belongs to another run: {key} is {_short(meta.get(key), value)} there; "
                "delete it or give another place for this run's checkpoint"
            )
    _fill(algorithm, arrays, meta)
    return {k.removeprefix(EXTRA): v for k, v in arrays.items() if k.startswith(EXTRA)}, meta


def find_checkpoint(path: str | Path, by_team: bool = False) -> Path:
    """The checkpoint that a path names: the file itself, or the only one in a run's folder.

    Args:
        path: of either.
        by_team: whether the caller also takes a method and a dataset, which the error then offers.

    Raises:
        CheckpointError: there is none, or there are several.
    """
    found = _checkpoints(Path(path))
    if len(found) > 1:
        names = _listed([f"{file.relative_to(path)}{_teams_in(file)}" for file in found])
        offer = ", or its method and dataset" if by_team else f", such as {found[0]}"
        raise CheckpointError(f"{path}: holds {len(found)} checkpoints; name one of {names}{offer}")
    return found[0]


def _teams_in(file: Path) -> str:
    """Method and data of a checkpoint in brackets, which the names of a suite's files do not tell; or nothing."""
    try:
        saved = Saved({}, load_description(file))
    except (CheckpointError, OSError):  # it is only listed; a broken one is refused when it is named
        return ""
    data = _listed(list(dict.fromkeys(filter(None, saved.datasets))))
    return f" ({saved.meta.get('method')}{f' on {data}' if data else ''})"


def _checkpoints(path: Path) -> list[Path]:
    """The file itself, or all checkpoints in a run's folder.

    Raises:
        CheckpointError: there is none.
    """
    if not path.is_dir():
        return [path]
    found = [path / "checkpoint.npz"] if (path / "checkpoint.npz").is_file() else []
    found += sorted((path / "checkpoints").glob("*.npz"))
    if not found:
        raise CheckpointError(f"{path}: holds no checkpoint; {_runs_below(path)}")
    return found


def _listed(found: Sequence[object]) -> str:
    """The first few."""
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(map(str, found[:5])) + more


def find_teams(path: str | Path, method: str = "", dataset: str = "") -> tuple[Path, list[int] | None]:
    """The checkpoint that a path, a method and data name, and its replicas that were trained on these data.

    Args:
        path: a checkpoint, or the folder of a run or of a suite.
        method: name of a method; empty: any.
        dataset: the data's name, that name without its source, or its quality alone; empty: any.

    Returns:
        The file, and indices of the replicas; None for all.

    Raises:
        CheckpointError: there is no such checkpoint, or there are several.
    """
    if not method and not dataset:
        return find_checkpoint(path, by_team=True), None
    held = {file: Saved({}, load_description(file)) for file in _checkpoints(Path(path))}
    chosen = {}
    for file, saved in held.items():
        fits = method.casefold() in ("", str(saved.meta.get("method")).casefold())
        replicas = [k for k, name in enumerate(saved.datasets) if fits and _is_called(name, dataset)]
        if replicas:
            chosen[file] = replicas
    asked = " on ".join(filter(None, (method or "a method", dataset)))
    if not chosen:
        teams = dict.fromkeys(
            f"{saved.meta.get('method')} on {name or 'unknown data'}"
            for saved in held.values()
            for name in saved.datasets
        )
        raise CheckpointError(f"{path}: holds no team of {asked}; it holds {_listed(list(teams))}")
    if len(chosen) > 1:
        raise CheckpointError(
            f"{path}: several checkpoints hold teams of {asked}; name one of {_listed(list(chosen))}"
        )
    return next(iter(chosen.items()))


def _is_called(name: str, wanted: str) -> bool:
    """Whether data have a name, in full, without their source, or by quality alone."""
    from marlzoo.data.names import DatasetName, is_name  # a team is loaded without data

    parts = DatasetName.parse(name) if is_name(name) else None
    named = {f"{parts.task}/{parts.quality}", parts.quality} if parts else set()
    return wanted in {"", name, *named}


def _runs_below(folder: Path) -> str:
    """What to name instead of a folder that holds runs, or nothing."""
    runs = [
        d
        for d in sorted(folder.iterdir())
        if (d / "checkpoint.npz").is_file() or (d / "checkpoints").is_dir()
    ]
    if not runs:
        return "name a run's folder or a file ending in .npz"
    more = f" and {len(runs) - 5} more" if len(runs) > 5 else ""
    return f"name one of its runs: {', '.join(map(str, runs[:5]))}{more}"


def task_of(meta: Mapping[str, Any]) -> str:
    """The task that a checkpoint was trained for; empty if unknown."""
    return str(meta.get("task") or meta.get("online", {}).get("task", ""))


@dataclass(frozen=True)
class Saved:
    """What a learner's checkpoint holds.

    Attributes:
        arrays: by name, those of the learner begin with ``learner/``.
        meta: plain values.
    """

    arrays: Mapping[str, NDArray[Any]]
    meta: Mapping[str, Any]

    @property
    def seeds(self) -> list[int]:
        """One per replica."""
        return list(self.meta["seeds"])

    @property
    def datasets(self) -> list[str]:
        """Names of the data that every replica was trained on; empty where the file does not say it."""
        count = len(self.meta.get("seeds", ()))
        known = self.meta.get("datasets") or self.meta.get("sources") or [""]
        if len(known) == 1:
            return list(known) * count
        return list(known) if len(known) == count else [""] * count


def load_learner(
    path: str | Path,
    device: torch.device | str = "cpu",
    replicas: Sequence[int] | None = None,
    acting: Mapping[str, Any] | None = None,
) -> Algorithm:
    """Rebuild a learner from its checkpoint.

    Args:
        path: of the checkpoint.
        device: of the learner.
        replicas: indices of those that it has; default: all.
        acting: settings of how its policy acts, which need not be those of its training; see
            :attr:`marlzoo.algorithm.Algorithm.acting`.

    Raises:
        CheckpointError: it is missing or broken.
        ConfigError: a value of ``acting`` is out of range, or torch cannot use the device.
        UnknownNameError: its method is not installed, or has no such setting of how it acts.
    """
    saved = load_saved(path)
    if acting:
        saved = _acting(saved, acting)
    try:
        return _build(path, saved, range(len(saved.seeds)) if replicas is None else replicas, device)
    except CheckpointError as error:
        if acting and isinstance(error.__cause__, ConfigError):  # no fault of the file
            raise error.__cause__ from None
        raise


def load_saved(path: str | Path) -> Saved:
    """Read a learner's checkpoint.

    Raises:
        CheckpointError: it is missing, broken, or holds no learner.
    """
    arrays, meta = load_arrays(path)
    missing = [name for name in (*IDENTITY, "updates") if name not in meta]
    seeds = meta.get("seeds")
    if missing or not isinstance(seeds, list) or not seeds or not all(is_seed(seed) for seed in seeds):
        what = f"{', '.join(missing)} is missing" if missing else "its seeds are none"
        raise CheckpointError(f"{path}: not a learner's checkpoint ({what})")
    return Saved(arrays, meta)


def _acting(saved: Saved, settings: Mapping[str, Any]) -> Saved:
    """A checkpoint whose policy acts with other settings than those of its training."""
    cls = find_method(saved.meta["method"])
    for name in settings:
        if name not in cls.acting:
            raise UnknownNameError(
                f"setting of how a policy of {saved.meta['method']} acts", name, cls.acting
            )
    configs = [{**config, **settings} for config in saved.meta["configs"]]
    for config in configs:  # here, where a value out of range is no fault of the file
        replica_configs(cls.config_class, 1, config)
    return Saved(saved.arrays, {**saved.meta, "configs": configs})


def build_replica(
    path: str | Path, saved: Saved, replica: int, device: torch.device | str = "cpu"
) -> Algorithm:
    """Rebuild one replica of a learner as a learner of its own.

    Args:
        path: of the checkpoint, named in errors.
        saved: its content.
        replica: index of the replica.
        device: of the learner.

    Raises:
        CheckpointError: the content does not fit the method as installed.
        UnknownNameError: its method is not installed.
    """
    return _build(path, saved, [replica], device)


def pack_evaluations(
    evaluations: Sequence[Evaluation],
) -> tuple[dict[str, NDArray[Any]], list[dict[str, Any]]]:
    """Evaluations as arrays and plain values, their metrics left out; see :func:`unpack_evaluations`."""
    arrays = dict[str, NDArray[Any]]()
    records = []
    for k, evaluation in enumerate(evaluations):
        found = evaluation.episodes
        arrays[f"eval/{k}/returns"] = found.returns
        arrays[f"eval/{k}/lengths"] = found.lengths
        arrays[f"eval/{k}/diverged"] = evaluation.diverged
        if found.wins is not None:
            arrays[f"eval/{k}/wins"] = found.wins
        told = {name: getattr(evaluation, name) for name in ("updates", "seconds", *_TOLD)}
        told["seconds_per_action"] = found.seconds_per_action
        records.append(told)
    return arrays, records


def unpack_evaluations(
    arrays: Mapping[str, NDArray[Any]], records: Sequence[Mapping[str, Any]]
) -> list[Evaluation]:
    """Inverse of :func:`pack_evaluations`."""
    evaluations = []
    for k, record in enumerate(records):
        found = EpisodeResults(
            arrays[f"eval/{k}/returns"],
            arrays[f"eval/{k}/lengths"],
            arrays.get(f"eval/{k}/wins"),
            record.get("seconds_per_action"),
        )
        about = {name: record.get(name, "") for name in _TOLD}
        diverged = arrays[f"eval/{k}/diverged"]
        evaluations.append(Evaluation(record["updates"], found, diverged, record["seconds"], **about))
    return evaluations


def _build(path: str | Path, saved: Saved, replicas: Sequence[int], device: torch.device | str) -> Algorithm:
    """A learner of some replicas of a checkpoint."""
    usable_device(device)
    meta = saved.meta
    try:
        cls = find_method(meta["method"])
        spec = Spec.from_dict(meta["spec"])
        configs = [replica_configs(cls.config_class, 1, meta["configs"][k])[0] for k in replicas]
        dtype = {"float32": torch.float32, "float64": torch.float64}[meta["dtype"]]
        algorithm = cls(spec, [saved.seeds[k] for k in replicas], configs, device, dtype)
        algorithm.preset = str(meta.get("preset", algorithm.preset))
        whole = list(replicas) == list(range(len(saved.seeds)))
        _fill(algorithm, saved.arrays if whole else _of_replicas(algorithm, saved.arrays, replicas), meta)
    except (CheckpointError, MethodError, PluginError, UnknownNameError):
        raise
    except (*ZIP_FAULTS, MarlzooError) as error:
        text = (str(error).strip().splitlines() or [""])[0][:300]
        raise CheckpointError(
            f"{path}: not a learner's checkpoint ({type(error).__name__}: {text})"
        ) from error
    return algorithm


def _of_replicas(
    part: Algorithm, arrays: Mapping[str, NDArray[Any]], replicas: Sequence[int]
) -> dict[str, NDArray[Any]]:
    """The arrays of some replicas: what is stacked over replicas is cut, the rest has the learner's shape already."""
    shapes = {f"{LEARNER}{name}": tuple(value.shape) for name, value in part.state_tensors().items()}
    return {
        name: value[list(replicas)] if name in shapes and value.shape != shapes[name] else value
        for name, value in arrays.items()
    }


def _fill(algorithm: Algorithm, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    tensors = {
        k.removeprefix(LEARNER): torch.from_numpy(v) for k, v in arrays.items() if k.startswith(LEARNER)
    }
    algorithm.load_state_tensors(tensors)
    algorithm.updates = int(meta["updates"])


def _short(theirs: Any, mine: Any) -> str:
    """The part in which two values differ, short enough for one line."""
    if (
        isinstance(theirs, list)
        and isinstance(mine, list)
        and theirs
        and mine
        and isinstance(theirs[0], dict)
    ):
        theirs = theirs[0]
        mine = mine[0]
    if isinstance(theirs, dict) and isinstance(mine, dict):
        keys = [k for k in mine if json.dumps(theirs.get(k)) != json.dumps(mine[k])]
        return ", ".join(f"{k} = {theirs.get(k)!r} (here {mine[k]!r})" for k in keys[:3])
    return f"{theirs!r} (here {mine!r})"
