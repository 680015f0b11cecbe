"""FOCAL: specification ``focal`` with the method's text, in plain loops over sequences, steps and pairs."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.reference import iql, policies
from tests.reference.blocks import mlp, one_hot
from tests.reference.harness import DOUBLE, SEEDS, Case, Replica, Seen, logged_batches, random_data
from tests.reference.networks import numbers

# The loss compares codes only, so the gradient of the encoder's last bias is rounding, which Adam divides by 1e-8:
# the weights keep it small.
SMALL: dict[str, Any] = {"encoder_hidden": 6, "code_size": 3, "metric_weight": [0.02, 0.005], "batch_size": 3}
TASKS: dict[str, Any] = {"task_size": 2, "shared_context": [1.0, 0.5]}
OTHER: dict[str, Any] = {"read_next": True, "sequence_length": 3, "code_size": 4, "encoder_hidden": 5}
IQL: dict[str, Any] = {
    "expectile": [0.7, 0.2],
    "beta": [0.0, 30.0],
    "weight_cap": [100.0, 2.0],
    "share_agents": False,
}

CASES = [
    Case(kind, SMALL | settings, {"actor": 2.0, "target_q": 2.0})
    for kind in ("continuous", "discrete")
    for settings in (TASKS, OTHER | IQL | {"action_margin": [0.0, 0.2]})
]
NEVER_VARIED = {"history": "codes are the policy's memory; there is no other"}


def make_batches(learner: Any, updates: int) -> list[Any]:
    """Logged sequences whose states end with one of two tasks, in turn."""
    source = logged_batches(learner, [random_data(learner.spec, seed) for seed in SEEDS])
    batches = [next(source) for _ in range(updates)]
    for batch in batches:
        batch.state = batch.state.clone()
        batch.state[..., -2:] = (torch.arange(batch.state.shape[1]) % 2).double()[:, None, None]
    return batches


def vector(own: Replica, obs: Tensor, action: Tensor, reward: Tensor, after: Tensor) -> Tensor:
    """``E`` of one step of all agents, ``[N, Z]``."""
    if own.spec.discrete:
        action = torch.stack([one_hot(int(a), own.spec.action_size) for a in action])
    parts = [obs, numbers(obs), action, reward.expand(len(obs), 1)]
    if own.config.read_next:
        parts.append(after)
    return mlp(own.layers("encoder"), torch.cat(parts, dim=-1))


def average(vectors: Sequence[Tensor], like: Tensor) -> Tensor:
    """Mean of vectors, 0 where there are none."""
    return sum(vectors, torch.zeros_like(like)) / max(len(vectors), 1)


def one_task(own: Replica, batch: Any, b: int, c: int) -> bool:
    """Whether two sequences are of one task."""
    size = own.config.task_size
    return b == c or (size > 0 and torch.equal(batch.state[b, 0, -size:], batch.state[c, 0, -size:]))


def metric_loss(own: Replica, batch: Any, vectors: Sequence[Sequence[Tensor]]) -> tuple[Tensor, Tensor]:
    """Mean pull and push over ordered pairs of different half sequences, agent by agent.

    Where tasks are known, the two halves of one sequence are no pair.
    """
    halves = [(b, steps[first::2]) for b, steps in enumerate(vectors) for first in (0, 1)]
    halves = [(b, steps) for b, steps in halves if steps]
    pulls, pushes = [], []
    for k, (b, mine) in enumerate(halves):
        for m, (c, other) in enumerate(halves):
            if k == m or (b == c and own.config.task_size):
                continue
            gap = average(mine, mine[0]) - average(other, mine[0])
            for i in range(own.spec.n_agents):
                d = (gap[i] ** 2).mean()
                if one_task(own, batch, b, c):
                    pulls.append((d + 1e-3).sqrt())
                else:
                    pushes.append(1.0 / (d + 0.1))
    zero = torch.zeros((), dtype=DOUBLE)
    return sum(pulls, zero) / (len(pulls) + 1e-3), sum(pushes, zero) / (len(pushes) + 1e-3)


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """IQL on observations and codes; the encoder's own loss, taken before any step."""
    c, samples = own.config, range(len(batch.obs))
    length = batch.filled.shape[1]
    vectors = [
        [
            vector(own, batch.obs[b, t], batch.action[b, t], batch.reward[b, t], batch.obs[b, t + 1])
            for t in range(length)
            if batch.filled[b, t]
        ]
        for b in samples
    ]
    codes = []
    for b in samples:
        begun: list[Tensor] = []
        if batch.noise["shared"][b] < c.shared_context:
            begun = [x for m in samples if m != b and one_task(own, batch, b, m) for x in vectors[m]]
        rows = [average(begun + vectors[b][:t], vectors[b][0]) for t in range(length + 1)]
        codes.append(torch.stack(rows).detach())
    pull, push = metric_loss(own, batch, vectors)
    loss = c.metric_weight * (pull + push)
    informed = SimpleNamespace(**vars(batch))
    informed.obs = torch.cat((batch.obs, torch.stack(codes)), dim=-1)
    steps = policies.steps(informed)
    del steps.places  # the policy reads single steps
    metrics = iql.update(own, steps)
    norms = own.step(encoder=(loss, "encoder"))
    return {**metrics, "encoder/loss": loss, "encoder/pull": pull, "encoder/push": push, **norms}


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """IQL's policy with the code of the steps before; no reward is told in this comparison."""
    vectors: list[Tensor] = []
    informed = []
    for t, seen in enumerate(past):
        like = seen.obs.new_zeros(own.spec.n_agents, own.config.code_size)
        informed.append(Seen(torch.cat((seen.obs, average(vectors, like)), dim=-1), seen.action_mask))
        if t + 1 < len(past):
            assert seen.action is not None
            vectors.append(vector(own, seen.obs, seen.action, seen.obs.new_zeros(1), past[t + 1].obs))
    return iql.act(own, informed)
