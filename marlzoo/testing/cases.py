"""Test cases of a method: its variants, with small learners, data and environments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.data.dataset import Dataset
from marlzoo.envs.base import BatchedEnv
from marlzoo.registry import find_method, make
from marlzoo.spec import ActionKind
from marlzoo.testing.toys import TOYS, Toys
from marlzoo.training.online import OnlineTrainer, online_settings
from marlzoo.training.trainer import make_sampler, prepare

SMALL: Mapping[str, Any] = {
    **{"hidden": 16, "mixer_hidden": 8, "batch_size": 16, "layers": 2, "flow_steps": 2, "eval_steps": 2},
    "policy_period": 2,
    # of methods with a world model, whose second stage begins with the second update
    **{
        "model_hidden": 16,
        "model_layers": 2,
        "model_batch": 8,
        "members": 3,
        "elites": 2,
        "model_updates": 1,
    },
    **{"starts": 6, "rollout_horizon": 4},
    # of online methods; the replay is full after two rounds
    **{"num_envs": 6, "rollout": 8, "restart": 2, "epochs": 2, "replay": 96, "warmup": 48, "learn_steps": 2},
}
UPDATES = 3  # enough for a second stage, delayed steps, and optimizers that have moved


@dataclass(frozen=True)
class Case:
    """A variant of a method, with the task and data of its tests.

    Args:
        method: its name.
        kind: of the actions.
        variant: settings of this form, one of the method's ``variants``.
        toys: task and data.
        sizes: settings that keep the learner small; those that the method does not have are left out.
    """

    method: str
    kind: ActionKind
    variant: Mapping[str, Any] = field(default_factory=dict)
    toys: Toys = TOYS
    sizes: Mapping[str, Any] = field(default_factory=lambda: SMALL)

    def __str__(self) -> str:
        return "-".join((self.method, self.kind, *(f"{k}={v}" for k, v in self.variant.items())))

    def learner(self, seeds: tuple[int, ...] = (0,), **more: Any) -> Algorithm:
        """A small learner, in float64 unless ``dtype`` says otherwise."""
        settings = {**own_sizes(self.method, self.sizes), **self.variant, **more}
        dtype = settings.pop("dtype", torch.float64)
        return make(self.method, self.toys.spec(self.kind), seeds=seeds, dtype=dtype, **settings)

    def dataset(self, **more: Any) -> Dataset:
        """The logged data."""
        return self.toys.dataset(self.kind, **more)

    @property
    def online(self) -> bool:
        """Whether the method learns by acting."""
        return find_method(self.method).sampling == "online"

    def env(self, algorithm: Algorithm) -> BatchedEnv:
        """The copies that an online learner acts in."""
        return self.toys.env(algorithm.replicas * online_settings(algorithm).num_envs, self.kind)

    def updated(self, algorithm: Algorithm, updates: int) -> dict[str, Tensor]:
        """Some updates (online: rounds) by hand; returns the last metrics."""
        if not self.online:
            return updated_by_hand(algorithm, self.dataset(), updates)
        trainer = OnlineTrainer(algorithm, self.env(algorithm))
        metrics = dict[str, Tensor]()
        for _ in range(updates):
            metrics = trainer.next(0.0)
        return metrics


def cases(method: str, toys: Toys = TOYS, sizes: Mapping[str, Any] = SMALL) -> list[Case]:
    """The forms of a method, its plain one first."""
    cls = find_method(method)
    return [
        Case(method, kind, variant, toys, sizes)
        for kind in cls.actions
        for variant in ({}, *cls.variants.get(kind, ()))
    ]


def own_sizes(method: str, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the sizes that are settings of the method."""
    known = {setting.name for setting in dataclasses.fields(find_method(method).config_class)}
    return {name: value for name, value in sizes.items() if name in known}


def updated_by_hand(
    algorithm: Algorithm, data: Dataset | Sequence[Dataset], updates: int
) -> dict[str, Tensor]:
    """Some updates by hand; returns the last metrics."""
    datasets = [data] if isinstance(data, Dataset) else list(data)
    sampler = make_sampler(algorithm, datasets)
    prepare(algorithm, datasets)
    metrics: dict[str, Tensor] = {}
    for _ in range(updates):
        metrics = algorithm.update(sampler.next())
        algorithm.updates += 1  # by which stages change
    return metrics
