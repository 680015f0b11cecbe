"""One replica of a checkpoint as a policy that can be recorded."""

from __future__ import annotations

import os
from dataclasses import dataclass

from marlzoo.errors import ConfigError
from marlzoo.modules.policies import Policy
from marlzoo.registry import find_method
from marlzoo.spec import Spec
from marlzoo.training.checkpoint import load


@dataclass(frozen=True)
class Replica:
    """A replica of a trained learner, chosen with :func:`load_replica`.

    Attributes:
        method: name of the method.
        updates: gradient updates behind it.
        spec: of the task that it was trained for.
        policy: its policy alone, on the CPU.
    """

    method: str
    updates: int
    spec: Spec
    policy: Policy


def load_replica(checkpoint: str | os.PathLike[str], replica: int = 0) -> Replica:
    """A replica of a checkpoint, by its place among the learner's seeds.

    Raises:
        CheckpointError: missing or broken.
        ConfigError: the checkpoint has no such replica.
    """
    team = load(os.fspath(checkpoint))
    if not 0 <= replica < team.replicas:
        raise ConfigError(
            f"{checkpoint}: has the replicas 0 to {team.replicas - 1}, and no {replica}; choose one with --replica"
        )
    seed, config = team.seeds[replica], team.configs[replica]
    alone = find_method(team.name)(team.spec, [seed], [config])
    shapes = {name: tensor.shape for name, tensor in alone.state_tensors().items()}
    alone.load_state_tensors(
        {
            name: tensor if tensor.shape == shapes[name] else tensor[replica : replica + 1]
            for name, tensor in team.state_tensors().items()
        }
    )
    alone.updates = team.updates
    return Replica(team.name, team.updates, team.spec, alone.policy())
