"""MATD3: specification ``behavior_policies``, section MATD3 / HATD3, and the departures in its docstring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from tests.reference.blocks import mean, mlp, with_id
from tests.reference.harness import DOUBLE, UPDATES, Case, Replica, Seen, clipped
from tests.reference.online import replay_batches

COLLECTING = {"num_envs": 2, "rollout": 8, "replay": 48, "warmup": 0, "learn_steps": UPDATES}
COMMON = {
    **COLLECTING,
    "critic_lr": [1e-2, 2e-3],
    "smoothing_sigma": [0.2, 0.6],
    "smoothing_clip": [0.15, 0.5],
    "action_penalty": [0.001, 0.3],
    "n_step": 3,
}
NEVER_VARIED = dict.fromkeys(
    ("noise", "num_envs", "rollout", "restart", "replay", "warmup", "learn_steps"), "no part of the update"
)

CASES = [
    Case("continuous", COMMON, agent_rewards=False),
    Case(
        "continuous",
        {**COMMON, "policy_delay": 1, "other_actions": "replay"},
        {"actor": 2.0, "target_actor": 2.0},
    ),
    Case("continuous", {**COMMON, "n_step": 1, "policy_delay": 3}),
    Case("continuous", {**COMMON, "n_step": 5}),
]


def make_batches(learner: Algorithm, updates: int) -> Iterator[Batch]:
    """From a replay of random experience."""
    return replay_batches(learner, updates)


def raw_action(own: Replica, module: str, obs: Tensor, i: int) -> Tensor:
    """What agent i's own policy gives before the squashing, in its own dimensions only."""
    u = mlp(own.layers(module, i), with_id(obs[i], i, own.spec.n_agents))
    return u[: own.spec.action_sizes[i]]


def padded(own: Replica, action: Tensor) -> Tensor:
    """Zeros behind an agent's own dimensions."""
    return torch.cat((action, torch.zeros(own.spec.action_size - len(action), dtype=DOUBLE)))


def critic(own: Replica, module: str, j: int, state: Tensor, actions: Sequence[Tensor]) -> Tensor:
    """``Q_j(s, a_1 .. a_n)``."""
    return mlp(own.layers(f"{module}.networks", j), state, *actions)[0]


def target(own: Replica, batch: Any, b: int) -> Tensor:
    """The n-step return and the smaller critic's value of the target policies' smoothed actions."""
    c, steps = own.config, int(batch.filled[b].sum())
    actions = []
    for i in range(own.spec.n_agents):
        mode = torch.tanh(raw_action(own, "target_actor", batch.obs[b, steps], i))
        eps = c.smoothing_sigma * batch.noise["target"][b, i, : len(mode)]
        eps = eps.clamp(-c.smoothing_clip, c.smoothing_clip)
        actions.append(padded(own, (mode + eps).clamp(-1.0, 1.0)))
    twins = [critic(own, "target_q", j, batch.state[b, steps], actions) for j in range(2)]
    y = c.gamma**steps * batch.mask[b, steps - 1] * min(twins)
    for t in range(steps):
        y = y + c.gamma**t * batch.reward[b, t]
    return y.detach()


def followed_value(own: Replica, batch: Any, b: int, actions: Sequence[Tensor]) -> Tensor:
    """What the policies ascend: Q_1 of all their actions, or of each one's beside the replayed ones, summed."""
    state, replayed = batch.state[b, 0], batch.action[b, 0]
    if own.config.other_actions == "present":
        return critic(own, "q", 0, state, actions)
    total = torch.zeros((), dtype=DOUBLE)
    for i, action in enumerate(actions):
        joint = [action if k == i else replayed[k] for k in range(len(actions))]
        total = total + critic(own, "q", 0, state, joint)
    return total


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Critics, then (every ``policy_delay``-th time) policies under the new critics and all targets."""
    c, rows, agents = own.config, range(len(batch.reward)), range(own.spec.n_agents)
    y = [target(own, batch, b) for b in rows]
    q = [[critic(own, "q", j, batch.state[b, 0], list(batch.action[b, 0])) for b in rows] for j in range(2)]
    critic_loss = sum(mean((q[j][b] - y[b]) ** 2 for b in rows) for j in range(2))
    norms = own.step({"critic": c.critic_lr}, critic=(critic_loss, "q"))

    values, sizes = [], []
    for b in rows:
        raw = [raw_action(own, "actor", batch.obs[b, 0], i) for i in agents]
        actions = [padded(own, torch.tanh(u)) for u in raw]
        values.append(followed_value(own, batch, b, actions))
        sizes += [mean(u**2) for u in raw]
    policy_loss = c.action_penalty * mean(sizes) - mean(values)
    if own.optimizers["critic"].count % c.policy_delay == 0:
        norms |= own.step(policy=(policy_loss, "actor"))
        own.soft_update("target_actor", "actor", c.tau)
        own.soft_update("target_q", "q", c.tau)
    else:
        _, norms["grad_norm/policy"] = clipped(own.gradients(policy_loss, "actor"), c.grad_clip)
    return {
        "critic/loss": critic_loss,
        "policy/loss": policy_loss,
        "critic/mean": mean(q[0]),
        "critic/target": mean(y),
        **norms,
    }


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Every agent's squashed action; what lies in padded dimensions, nobody executes."""
    obs, n = past[-1].obs, own.spec.n_agents
    return [torch.tanh(mlp(own.layers("actor", i), with_id(obs[i], i, n))) for i in range(n)]
