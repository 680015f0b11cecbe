"""One replica of a checkpoint as a policy that can be recorded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from marlzoo.errors import CheckpointError, ConfigError
from marlzoo.modules.policies import Policy
from marlzoo.spec import Spec
from marlzoo.training.checkpoint import build_replica, load_saved, task_of


@dataclass(frozen=True)
class Replica:
    """A replica of a trained learner, chosen with :func:`load_replica`.

    Attributes:
        method: name of the method.
        updates: gradient updates behind it.
        spec: of the task that it was trained for.
        policy: its policy alone, on the CPU.
        task: full name of that task, where the checkpoint says it.
        env: options of its environment.
    """

    method: str
    updates: int
    spec: Spec
    policy: Policy
    task: str
    env: Mapping[str, Any]


def load_replica(checkpoint: str | Path, replica: int = 0) -> Replica:
    """A replica of a checkpoint, by its place among the learner's seeds.

    Raises:
        CheckpointError: missing or broken, or the replica diverged.
        ConfigError: the checkpoint has no such replica.
    """
    saved = load_saved(checkpoint)
    if not 0 <= replica < len(saved.seeds):
        raise ConfigError(
            f"{checkpoint}: has the replicas 0 to {len(saved.seeds) - 1}, and no {replica}; choose one with --replica"
        )
    alone = build_replica(checkpoint, saved, replica)
    if not alone.finite().all():
        raise CheckpointError(
            f"{checkpoint}: replica {replica} diverged (its parameters are not finite); choose another with --replica"
        )
    env = saved.meta.get("env") or {}
    return Replica(alone.name, alone.updates, alone.spec, alone.policy(), task_of(saved.meta), env)
