"""Small recordings of real simulators under random actions, for tests of everything that reads data."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from marlzoo.data.card import Card
from marlzoo.data.formats.native import write_omiga
from marlzoo.families import make_env
from marlzoo.modules.policies import Policy
from marlzoo.recording.collect import dataset_of, record
from marlzoo.replicas import ReplicaRandom

HOPPER = "mamujoco/hopper-3x1"


class Uniform(Policy):
    """Actions uniform in the box."""

    def __init__(self, action_size: int) -> None:
        super().__init__()
        self.action_size = action_size

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        assert random is not None
        return 2 * random.uniform(*obs.shape[1:-1], self.action_size) - 1


def uniform_recording(
    path: Path, quality: str = "uniform", transitions: int = 400, seed: int = 0, task: str = HOPPER
) -> Path:
    """Write a native dataset of ``transitions`` random steps of ``task`` to ``path``."""
    env = make_env(task, 4)
    try:
        episodes = record(Uniform(env.spec.action_size), env, transitions, seed)
        card = Card(task=task, source="marlzoo", quality=quality, options=dict(env.metadata))
        write_omiga(dataset_of(env.spec, episodes, card), path)
    finally:
        env.close()
    return path
