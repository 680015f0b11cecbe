"""Replay recorded updates of OMIGA: ``python -m tests.golden_check FILE...``

A file holds initial parameters, batches, and losses and parameters after some updates in both precisions (the
layout of ``tests/golden/omiga_*.npz``; sizes and settings are read from it). It is replayed in float64 and
float32, as one replica and as the middle one of three, and the worst relative error of every loss and parameter is
printed. The exit code is 1 beyond the tolerance: float64 rtol 1e-9, atol 1e-10; float32 losses rtol 2e-5,
parameters rtol 1e-4, atol 1e-5.
"""

from __future__ import annotations

import re
import sys
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
REPLICAS, PLACE = 3, 1


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
    names = ("gamma", "tau", "lr", "grad_clip", "alpha")
    settings: dict[str, Any] = {name: float(meta[name]) for name in names}
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

    if kind == "continuous":
        o, s, a = file["batch.o"][k], file["batch.s"][k], spread(file["batch.a"][k])
        o_next, s_next, r = file["batch.o_next"][k], file["batch.s_next"][k], file["batch.r"][k][:, 0]
        mask = spread(file["batch.mask"][k][:, 0])
    else:
        rows = file["batch_index"][k]
        o, s, o_next, s_next = (file[f"pool.{name}"][rows] for name in ("o", "s", "o_next", "s_next"))
        a, r = spread(file["pool.a"][rows][..., 0], torch.int64), file["pool.r"][rows][:, 0]
        mask = spread(np.ones(len(rows)))
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
    """Replay one file in one precision (``f32`` or ``f64``) with R replicas."""
    with np.load(path, allow_pickle=False) as stored:
        file = {name: stored[name] for name in stored.files}
    dtype = torch.float64 if precision == "f64" else torch.float32
    algorithm, kind = learner(file, dtype, replicas)
    errors, row = Errors(precision), PLACE if replicas > 1 else 0
    updates = len(file[f"{precision}.loss.q_loss"])
    for k in range(updates):
        metrics = algorithm.update(batch_of(file, kind, k, dtype, replicas))
        for name in ("q_loss", "v_loss", "policy_loss"):
            errors.add("loss", name, metrics[name][row].numpy(), file[f"{precision}.loss.{name}"][k])
        compare_parameters(errors, file, algorithm, kind, f"{precision}.after{k + 1:02d}.", row)
    first = batch_of(file, kind, 0, dtype, replicas)
    with torch.no_grad():
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
            value = value.T if weight else value[None]
            errors.add("parameter", name, mine[name][row].numpy(), value)


def main(paths: list[str]) -> int:
    """Replay all files; returns the exit code."""
    if not paths:
        print(__doc__)
        return 2
    torch.set_num_threads(1)
    failed = False
    for path in paths:
        for precision in ("f64", "f32"):
            for replicas in (1, REPLICAS):
                errors = replay(path, precision, replicas)
                failed |= bool(errors.failed)
                print(f"{path}  {precision}  R = {replicas}  {'FAILED' if errors.failed else 'ok'}")
                for name, worst in errors.worst.items():
                    print(
                        f"    {name:32s} worst relative error {worst:.2e}{'  <-' if name in errors.failed else ''}"
                    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
