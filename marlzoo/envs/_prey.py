"""Policies of the particle world's prey: OMAR's trained network, read from the user's file, or a rule."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._particle_world import Array, World
from marlzoo.errors import DataError
from marlzoo.system.files import sha256_file

LAYERS = ("fc1", "fc2", "fc3")
_NORM = ("in_fn.weight", "in_fn.bias", "in_fn.running_mean", "in_fn.running_var")
_EPSILON = 1e-5  # of the batch normalization
FORCE = 0.1  # of the substitute prey, of at most 1


class Prey(Protocol):
    """Something that chooses the prey's force."""

    @property
    def identity(self) -> str:
        """What data and environment must share to be comparable."""

    def act(self, world: World, observation: Array) -> Array:
        """Force ``[2, E]`` in [-1, 1] from the prey's observation ``[O, E]``."""


@dataclass(frozen=True, eq=False)
class TrainedPrey:
    """OMAR's prey: batch normalization with its running statistics, two hidden layers with ReLU, tanh.

    Attributes:
        weights, biases: of the three layers, ``[out, in]`` and ``[out]``; the normalization is part of the first.
        identity: begin of the file's SHA-256.
    """

    weights: tuple[Array, ...]
    biases: tuple[Array, ...]
    identity: str

    def act(self, world: World, observation: Array) -> Array:
        """See :class:`Prey`."""
        x = observation
        for weight, bias in zip(self.weights[:-1], self.biases[:-1], strict=True):
            x = np.maximum(weight @ x + bias[:, None], 0.0)
        force = np.tanh(self.weights[-1] @ x + self.biases[-1][:, None])
        # Float32 as in the original; besides, products round differently for other numbers of copies.
        return force.astype(np.float32).astype(np.float64)


class SubstitutePrey:
    """A rule in place of the trained prey: away from the predators and from the edge, slower than they are.

    The force points along ``sum_j (p - p_j) / |p - p_j|^3`` over the predators j, plus ``-30 (|x| - 0.7)+ sign(x)``
    in each coordinate x of p, plus half an obstacle's term of the first kind for each obstacle, measured from its
    rim; it is scaled so that its larger coordinate is :data:`FORCE`. Nothing in it is random.

    With full force it outruns the predators for ever, and they learn no more than to follow it. With this force it
    reaches a speed of 0.64 along an axis, and they reach 1.
    """

    identity = "substitute-2"

    def act(self, world: World, observation: Array) -> Array:
        """See :class:`Prey`."""
        s = world.scenario
        place = world.position[s.agents - 1]
        force = _away(place - world.position[: s.learners], np.zeros(s.learners)).sum(axis=0)
        solid = [k for k, is_solid in enumerate(s.solid) if is_solid]
        rims = np.array([s.landmark_radius[k] + s.radius[-1] for k in solid])
        obstacles = world.position[[s.agents + k for k in solid]]
        force += 0.5 * _away(place - obstacles, rims).sum(axis=0)
        force -= 30.0 * np.sign(place) * np.maximum(np.abs(place) - 0.7, 0.0)
        return np.asarray(FORCE * force / np.maximum(np.abs(force).max(axis=0), 1e-9))


def _away(delta: Array, rim: Array) -> Array:
    """Unit vectors along ``delta [k, 2, E]`` divided by the squared distance from the rim, at least 0.05."""
    distance = np.sqrt(delta[:, 0] ** 2 + delta[:, 1] ** 2)
    gap = np.maximum(distance - rim[:, None], 0.05)
    return np.asarray(delta / (np.maximum(distance, 1e-9) * gap**2)[:, None])


def read_prey(path: str | os.PathLike[str], size: int) -> TrainedPrey:
    """Read a prey.

    Args:
        path: OMAR's ``pretrained_adv_model.pt``, which lies beside the datasets of the scenario, or an ``.npz``
            with the same arrays: ``in_fn.weight``, ``in_fn.bias``, ``in_fn.running_mean``, ``in_fn.running_var``,
            and ``fc1.weight``, ``fc1.bias`` to ``fc3``. Nothing in the file is executed.
        size: entries of the prey's observation.

    Raises:
        DataError: the file is missing, damaged, or not a prey of this scenario.
    """
    path = Path(path).expanduser()
    arrays = _from_npz(path) if path.suffix == ".npz" else _from_checkpoint(path)
    values = {name: _array(path, arrays, name) for name in (*_NORM, *_names())}
    hidden = len(values["fc1.bias"])
    wanted: dict[str, tuple[int, ...]] = dict.fromkeys(_NORM, (size,))
    for name, (fan_in, out) in zip(LAYERS, ((size, hidden), (hidden, hidden), (hidden, 2)), strict=True):
        wanted |= {f"{name}.weight": (out, fan_in), f"{name}.bias": (out,)}
    for name, shape in wanted.items():
        if values[name].shape != shape:
            raise DataError(
                f"{path}: {name} has shape {values[name].shape}, the prey of this scenario needs {shape}. "
                "Take the file of the scenario itself"
            )
    scale = values["in_fn.weight"] / np.sqrt(values["in_fn.running_var"] + _EPSILON)
    shift = values["in_fn.bias"] - values["in_fn.running_mean"] * scale
    first = values["fc1.weight"]
    return TrainedPrey(
        (first * scale, values["fc2.weight"], values["fc3.weight"]),
        (values["fc1.bias"] + first @ shift, values["fc2.bias"], values["fc3.bias"]),
        sha256_file(path)[:16],
    )


def _names() -> tuple[str, ...]:
    return tuple(f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias"))


def _from_npz(path: Path) -> dict[str, Any]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; give the prey's file") from error
    except Exception as error:  # a damaged archive fails in any way
        raise DataError(f"{path}: damaged, or not an npz of plain arrays; fetch or make it again") from error


def _from_checkpoint(path: Path) -> dict[str, Any]:
    from marlzoo.system.unpickle import load_torch

    content = load_torch(path)
    try:
        policy = content["agent_params"][-1]["policy"]
    except (KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{path}: holds no agent_params with a policy; take OMAR's pretrained_adv_model.pt"
        ) from error
    if not isinstance(policy, dict):
        raise DataError(
            f"{path}: its policy is not a dictionary of arrays; take OMAR's pretrained_adv_model.pt"
        )
    return policy


def _array(path: Path, arrays: dict[str, Any], name: str) -> NDArray[np.float64]:
    value = arrays.get(name)
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f" or not np.isfinite(value).all():
        found = ", ".join(map(str, list(arrays)[:20]))
        raise DataError(
            f"{path}: {name} is missing or not finite numbers; the file holds {found or 'nothing'}"
        )
    return value.astype(np.float64)
