"""Settings of world models and of the Dyna form. They need no torch, so that the command line can show them."""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from marlzoo.config import ASSIGNED_LATER, Config, Count, Fraction, Natural, NonNegative, Positive, is_numeric
from marlzoo.errors import ConfigError

# Settings on which the networks' shapes, or the meaning of what they give, depend.
OF_NETWORKS = ("members", "model_hidden", "model_layers", "standardize", "residual", "standardize_actions")
_HASH = re.compile(r"(.*)@([0-9a-f]{12})", re.DOTALL)


@dataclass(frozen=True)
class WorldModelConfig(Config):
    """Settings of methods with a world model; defaults of MOMA-PPO's release."""

    model_updates: Count = 10_000  # first updates, which fit the world model only
    members: Count = 7  # size of the ensemble
    elites: Count = 5  # members that make rollouts: the best on held-out episodes
    model_hidden: Count = 1024  # width of the members' hidden layers
    model_layers: Count = 4  # hidden layers of dynamics and reward
    model_batch: Count = 256  # steps per update and member
    model_lr: Positive = 3e-5  # step size of the world model's Adam
    standardize: bool = True  # inputs and targets by the data's mean and deviation
    residual: bool = True  # predict the change of the frame
    # continuous actions by their mean and deviation: where these are small, predictions depend on them too little
    standardize_actions: bool = field(default=False, metadata=ASSIGNED_LATER)


@dataclass(frozen=True)
class SavedModelConfig(Config):
    """Where a method's world model comes from; its hash becomes part of the setting, and so identifies a run.

    Raises:
        ConfigError: a file that is named without its hash is not there.
    """

    # start from the world model in this file, which 'marlzoo data model' wrote, in place of training one
    world_model: str = field(default="", metadata=ASSIGNED_LATER)

    def __post_init__(self) -> None:
        super().__post_init__()
        path, known = model_file(self.world_model)
        if path and not known:
            object.__setattr__(self, "world_model", f"{path}@{file_hash(path)}")


def model_file(named: str) -> tuple[str, str]:
    """Path and hash of the setting ``world_model``; the hash is empty where it is not known yet."""
    found = _HASH.fullmatch(named)
    return (found[1], found[2]) if found else (named, "")


def file_hash(path: str) -> str:
    """First 12 hexadecimal digits of the SHA-256 of a world model's file.

    Raises:
        ConfigError: it is missing or cannot be read.
    """
    place = Path(path)
    try:
        if not place.is_file():
            raise ConfigError(
                f"world_model={path}: no such file; 'marlzoo data model DATASET --out {path}' writes one"
            )
        known = place.stat()
        return _file_hash(os.fspath(place.absolute()), known.st_size, known.st_mtime_ns)
    except OSError as error:
        raise ConfigError(f"world_model={path}: it cannot be read ({error.strerror})") from error


@functools.lru_cache(maxsize=16)  # every replica's settings name it
def _file_hash(path: str, size: int, modified: int) -> str:
    """Of a file as it was when it had this size and time."""
    del size, modified
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def flags(settings: Mapping[str, Any]) -> str:
    """Settings as flags of a command."""
    parts = []
    for name, value in settings.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            parts.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            parts.append(f"--{flag} {value}")
    return " ".join(parts)


@dataclass(frozen=True)
class DynaConfig(SavedModelConfig, WorldModelConfig):
    """Settings that the Dyna form adds to a method's; defaults of MOMA-PPO's release."""

    dyna_share: Fraction = 0.05  # probability that a row of a batch is of the data
    dyna_starts: Count = 256  # model steps per update and replica
    dyna_horizon: Count = 10  # steps of a chain
    dyna_buffer: Count = 1000  # model steps that batches are drawn from: the last ones
    dyna_penalty: NonNegative = 1.0  # weight of the uncertainty in the reward
    dyna_start: Natural = 0  # updates on the data alone before the mixture


def world_model_ignores(config: WorldModelConfig) -> tuple[str, ...]:
    """The ``float`` settings that a world model's stage does not depend on: all but its optimizer's."""
    numeric = (setting.name for setting in fields(config) if is_numeric(type(config), setting.name))
    return tuple(name for name in numeric if name not in ("model_lr", "grad_clip"))
