"""Random experience for the references of online methods, in the form that the collector hands on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, Rollout
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.replay_buffer import ReplayBuffer
from tests.reference.harness import DOUBLE, SEEDS, sizes_mask


def rollouts(learner: Algorithm, number: int) -> Iterator[Rollout]:
    """Rollouts in which episodes end, are cut by a time limit, and go on beyond the last step."""
    source = torch.Generator().manual_seed(1)
    config = cast(Any, learner.config)
    for k in range(number):
        fields = random_steps(learner, source, (len(SEEDS), config.num_envs, config.rollout))
        noise = {}
        for name, (kind, shape) in learner.noise().items():
            draw = torch.randn if kind == "normal" else torch.rand
            noise[name] = draw(len(SEEDS), *shape, generator=source, dtype=DOUBLE)
        progress = torch.tensor(k / number, dtype=DOUBLE)
        yield cast(Rollout, Rollout.of(noise, **fields, progress=progress))


def random_steps(
    learner: Algorithm, source: torch.Generator, shape: tuple[int, int, int]
) -> dict[str, Tensor]:
    """The fields of T steps of E environments of R replicas, ``shape = (R, E, T)``."""
    spec = learner.spec
    seen = torch.from_numpy(sizes_mask(spec.obs_sizes, spec.obs_size))
    used = torch.from_numpy(sizes_mask(spec.action_sizes, spec.action_size))

    def normal(*size: int) -> Tensor:
        return torch.randn(*shape, *size, generator=source, dtype=DOUBLE)

    ends = torch.rand(shape, generator=source) < 0.3
    terminal = ends & (torch.rand(shape, generator=source) < 0.5)
    fields = {
        "obs": normal(spec.n_agents, spec.obs_size) * seen,
        "state": normal(spec.state_size),
        "reward": normal(),
        "ends": ends.to(DOUBLE),
        "mask": 1.0 - terminal.to(DOUBLE),
    }
    if spec.discrete:
        action_mask = (normal(spec.n_agents, spec.action_size) > -0.3) & used
        action_mask[..., 0] |= ~action_mask.any(-1)
        fields["action_mask"] = action_mask
        fields["action"] = torch.where(action_mask, normal(*action_mask.shape[3:]), -1e3).argmax(-1)
    else:
        fields["action"] = normal(spec.n_agents, spec.action_size) * used
    for name in ("obs", "state", "action_mask"):
        if name in fields:
            now, after = fields[name], fields[name].roll(3, dims=2)
            going = ~ends[:, :, :-1]
            after[:, :, :-1][going] = now[:, :, 1:][going]
            fields[f"next_{name}"] = after
    return fields


def replay_batches(learner: Algorithm, number: int) -> Iterator[Batch]:
    """What the learner's own replay draws from three rollouts; actions lie in the box, some of them on its bounds."""
    length, anywhere = cast(Any, learner).sequences()
    replay = ReplayBuffer(learner, length, anywhere)
    for rollout in rollouts(learner, 3):
        if not learner.spec.discrete:
            rollout.action = rollout.action.clamp(-1.0, 1.0)
        replay.add(rollout)
    batches = list(replay.batches(ReplicaRandom(SEEDS, "reference", dtype=DOUBLE)))
    assert len(batches) == number, "set warmup to 0 and learn_steps to the number of updates"
    return iter(batches)
