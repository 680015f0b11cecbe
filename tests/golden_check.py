"""Replay recorded updates of OMIGA: ``python -m tests.golden_check FILE...``

A file holds initial parameters (``init.*``), sizes and settings (``meta.*``), batches, and losses and parameters
after some updates in one or both precisions, in the layout of ``tests/golden/omiga_*.npz``. Batches are written out
(``batch.*``, one row per update) or drawn from ``pool.*`` by row numbers (``batch_index``), for both action kinds. In
place of a parameter after an update there may be its sum alone (no axes) or its sum and sum of squares (two entries).

It is replayed in float64 and float32, as one replica and as the middle one of three. The worst relative error of
every quantity is printed, and so are the arrays that were not compared. The exit code is 1 beyond the tolerance
(float64 rtol 1e-9, atol 1e-10; float32 losses rtol 2e-5, parameters rtol 1e-4, atol 1e-5), and 2 where a file has
another layout.
"""

from __future__ import annotations

import re
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.modules.layers import with_agent_id
from marlzoo.spec import Spec

Arrays = Mapping[str, NDArray[Any]]
MODULES = {"actor": "actor", "v": "v", "q": "q", "mixer": "mixer"}
LAYERS = {
    "continuous": {
        "actor": {"fc1": "body.layers.0", "fc2": "body.layers.1", "mu_head": "mean", "sigma_head": "log_std"},
        "v": {"fc1": "layers.0", "fc2": "layers.1", "state_value": "layers.2"},
        "q": {"fc1": "layers.0", "fc2": "layers.1", "state_value": "layers.2"},
    },
    "discrete": {name: {f"f{k + 1}": f"layers.{k}" for k in range(3)} for name in ("actor", "v", "q")},
}
MIXER = {"f_v": "body", "w_v": "weight", "b_v": "bias"}
TOLERANCES = {
    "f64": {"loss": (1e-9, 1e-10), "parameter": (1e-9, 1e-10)},
    "f32": {"loss": (2e-5, 0.0), "parameter": (1e-4, 1e-5)},
}
METRICS = {
    "loss.q_loss": "q/loss",
    "loss.v_loss": "v/loss",
    "loss.policy_loss": "policy/loss",
    "diag.q_total_mean": "q/total",
    "diag.expected_q_total_mean": "q/target_total",
    "diag.z_max": "weight/exponent_max",
    "diag.grad_norm_policy": "grad_norm/policy",
    "diag.grad_norm_q": "grad_norm/q",
    "diag.grad_norm_v": "grad_norm/v",
}
SETTINGS = ("gamma", "tau", "lr", "grad_clip", "alpha")
SIZES = ("n_agents", "obs_dim", "hidden", "mix_hidden")
COLUMNS = ("o", "s", "a", "r", "o_next", "s_next")
REPLICAS, PLACE = 3, 1


class LayoutError(Exception):
    """A file that is no recording of OMIGA's updates in a layout known here."""


def check_layout(file: Arrays) -> None:
    """Refuse what cannot be replayed, with all that is missing.

    Raises:
        LayoutError: arrays are missing.
    """
    wanted = [f"meta.{name}" for name in (*SETTINGS, *SIZES)]
    if "meta.act_dim" not in file:
        wanted.append("meta.n_actions")
    missing = [name for name in wanted if name not in file]
    if not any(name.startswith("init.") for name in file):
        missing.append("init.* (parameters before the first update)")
    source = "pool" if "batch_index" in file else "batch"
    missing += [f"{source}.{name}" for name in COLUMNS if f"{source}.{name}" not in file]
    if not any(f"{precision}.{name}" in file for precision in TOLERANCES for name in METRICS):
        missing.append("f64.loss.q_loss (or another recorded quantity)")
    if missing:
        raise LayoutError(f"no recording of OMIGA's updates in a known layout; it lacks {', '.join(missing)}")


def learner(file: Arrays, dtype: torch.dtype, replicas: int) -> tuple[Algorithm, str]:
    """OMIGA of the file's sizes and settings, replica ``PLACE`` (or the only one) with its parameters."""
    meta = {key.removeprefix("meta."): value.item() for key, value in file.items() if key.startswith("meta.")}
    kind = "continuous" if "act_dim" in meta else "discrete"
    spec = Spec(
        n_agents=int(meta["n_agents"]),
        obs_size=int(meta["obs_dim"]),
        state_size=file["init.mixer.f_v.weight"].shape[1],
        action_kind=kind,  # type: ignore[arg-type]
        action_size=int(meta["act_dim"] if kind == "continuous" else meta["n_actions"]),
        horizon=1000,
    )
    settings: dict[str, Any] = {name: float(meta[name]) for name in SETTINGS}
    algorithm = marlzoo.make(
        "omiga",
        spec,
        seeds=list(range(replicas)),
        dtype=dtype,
        hidden=int(meta["hidden"]),
        mixer_hidden=int(meta["mix_hidden"]),
        smac_done="last_step" if kind == "continuous" else "state_equal",
        **settings,
    )
    own = algorithm.state_dict()
    row = PLACE if replicas > 1 else 0
    with torch.no_grad():
        for key, value in file.items():
            if key.startswith("init."):
                name, weight = parameter_name(key.removeprefix("init."), kind)
                tensor = torch.from_numpy(value.T.copy() if weight else value[None]).to(dtype)
                own[name][row] = tensor
                if not name.startswith("actor"):
                    own[f"target_{name}"][row] = tensor
    return algorithm, kind


def parameter_name(key: str, kind: str) -> tuple[str, bool]:
    """Our name of a recorded parameter, and whether it is a weight (stored transposed)."""
    network, layer, part = key.split(".")
    target, network = network.startswith("target_"), network.removeprefix("target_")
    layers = MIXER if network == "mixer" else LAYERS[kind][network]
    return f"{'target_' if target else ''}{MODULES[network]}.{layers[layer]}.{part}", part == "weight"


def batch_of(file: Arrays, kind: str, k: int, dtype: torch.dtype, replicas: int) -> Batch:
    """Update ``k``'s batch, the same for every replica."""

    def spread(value: NDArray[Any], kept: torch.dtype | None = None) -> Tensor:
        tensor = torch.from_numpy(np.ascontiguousarray(value)).to(kept or dtype)
        return tensor.expand(replicas, *tensor.shape).contiguous()

    def column(name: str) -> NDArray[Any]:
        drawn = "batch_index" in file
        return file[f"pool.{name}"][file["batch_index"][k]] if drawn else file[f"batch.{name}"][k]

    o, s, o_next, s_next = (column(name) for name in ("o", "s", "o_next", "s_next"))
    r = column("r")[:, 0]
    a = spread(column("a")) if kind == "continuous" else spread(column("a")[..., 0], torch.int64)
    marked = "pool.mask" in file or "batch.mask" in file
    mask = spread(column("mask")[:, 0] if marked else np.ones(len(r)))
    flat = (spread(x.reshape(len(x), -1)) for x in (s, s_next))
    state, next_state = flat
    return Batch.of(
        obs=spread(o),
        state=state,
        action=a,
        reward=spread(r),
        mask=mask,
        next_obs=spread(o_next),
        next_state=next_state,
    )


class Errors:
    """Worst relative error by quantity, and whether everything stayed within tolerance."""

    def __init__(self, precision: str) -> None:
        self.precision, self.worst, self.failed = precision, dict[str, float](), list[str]()
        self.compared: set[str] = set()  # names of the file's arrays

    def add(self, group: str, name: str, mine: NDArray[Any], theirs: NDArray[Any]) -> None:
        """Compare one array; ``group`` is ``loss`` or ``parameter``."""
        rtol, atol = TOLERANCES[self.precision][group]
        mine, theirs = mine.astype(np.float64), theirs.astype(np.float64)
        scale = max(float(np.abs(theirs).max()), 1e-30)
        error = float(np.abs(mine - theirs).max()) / scale
        self.worst[name] = max(self.worst.get(name, 0.0), error if np.isfinite(error) else np.inf)
        if mine.shape != theirs.shape or not np.allclose(mine, theirs, rtol=rtol, atol=atol):
            self.failed.append(name)


def replay(path: str | Path, precision: str, replicas: int) -> Errors:
    """Replay one file in one precision (``f32`` or ``f64``) with R replicas.

    Raises:
        LayoutError: the file has another layout.
    """
    file = read(path)
    dtype = torch.float64 if precision == "f64" else torch.float32
    algorithm, kind = learner(file, dtype, replicas)
    errors, row = Errors(precision), PLACE if replicas > 1 else 0
    updates = len(file["batch_index" if "batch_index" in file else "batch.o"])
    for k in range(updates):
        metrics = algorithm.update(batch_of(file, kind, k, dtype, replicas))
        for name, metric in METRICS.items():
            key = f"{precision}.{name}"
            if key in file and metric in metrics:
                errors.compared.add(key)
                errors.add("loss", metric, metrics[metric][row].numpy(), file[key][k])
        compare_parameters(errors, file, algorithm, kind, f"{precision}.after{k + 1:02d}.", row)
    first = batch_of(file, kind, 0, dtype, replicas)
    with torch.no_grad():
        errors.compared |= {f"{precision}.eval_action", f"{precision}.eval_logits"} & file.keys()
        if f"{precision}.eval_action" in file:
            acted = algorithm.policy().act(first.obs)[row].numpy()
            errors.add("parameter", "eval_action", acted, file[f"{precision}.eval_action"])
        if f"{precision}.eval_logits" in file:
            logits = algorithm.actor(with_agent_id(first.obs))[row].numpy()
            errors.add("parameter", "eval_logits", logits, file[f"{precision}.eval_logits"])
    return errors


def compare_parameters(
    errors: Errors, file: Arrays, algorithm: Algorithm, kind: str, prefix: str, row: int
) -> None:
    """Compare all parameters recorded after one update."""
    mine = algorithm.state_dict()
    for key, value in file.items():
        # The released discrete trainer tracks a target actor that nothing uses; there is none here.
        if key.startswith(prefix) and not re.match(r"target_actor\b", key.removeprefix(prefix)):
            name, weight = parameter_name(key.removeprefix(prefix), kind)
            own = mine[name][row].numpy()
            errors.compared.add(key)
            if value.shape in ((), (2,)) and value.shape != (own.T.shape if weight else own.shape[1:]):
                # A checksum.
                own = np.stack((own.sum(), np.square(own).sum()))[: value.size].reshape(value.shape)
            else:
                value = value.T if weight else value[None]
            errors.add("parameter", name, own, value)


def read(path: str | Path) -> dict[str, NDArray[Any]]:
    """All arrays of a recording.

    Raises:
        LayoutError: it is no such file, or has another layout.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            file = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile, AttributeError) as error:
        raise LayoutError(f"cannot be read as npz: {error}") from error
    check_layout(file)
    return file


def left_out(file: Arrays, compared: set[str]) -> list[str]:
    """Recorded results that were not compared, by the first three parts of their names."""
    results = [name for name in file if name.split(".")[0] in TOLERANCES and name not in compared]
    return sorted({".".join(name.split(".")[:3]) for name in results})


def main(paths: list[str]) -> int:
    """Replay all files; returns the exit code."""
    if not paths:
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    failed = False
    for path in paths:
        try:
            file = read(path)
        except LayoutError as error:
            print(f"{path}: {error}")
            return 2
        compared: set[str] = set()
        for precision in ("f64", "f32"):
            if f"{precision}.loss.q_loss" not in file:
                continue
            for replicas in (1, REPLICAS):
                errors = replay(path, precision, replicas)
                failed |= bool(errors.failed)
                compared |= errors.compared
                print(f"{path}  {precision}  R = {replicas}  {'FAILED' if errors.failed else 'ok'}")
                for name, worst in errors.worst.items():
                    print(
                        f"    {name:32s} worst relative error {worst:.2e}{'  <-' if name in errors.failed else ''}"
                    )
        missing = left_out(file, compared)
        print(f"{path}  not compared: {', '.join(missing) if missing else 'nothing'}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
