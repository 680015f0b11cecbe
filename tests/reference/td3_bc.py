"""TD3+BC: specification ``td3_bc_ma``, sections 2 to 4."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import log_softmax, mean
from tests.reference.deterministic import (
    act,
    actor_outputs,
    critic,
    data_action,
    nearest_sequences,
    straight_through,
    used,
)
from tests.reference.harness import Case, Replica
from tests.reference.networks import sequences

__all__ = ["CASES", "act", "update"]

ALPHA: dict[str, Any] = {"alpha": [2.5, 0.6], "smoothing_sigma": [0.2, 0.6], "smoothing_clip": [0.5, 0.3]}
OWN: dict[str, Any] = {"variant": "independent"}
JOINT: dict[str, Any] = {"variant": "maddpg_bc"}
RNN: dict[str, Any] = {"history": "rnn", "sequence_length": 3, "batch_size": 4}
EARLY: dict[str, Any] = {"policy_after_critic": False, "policy_delay": 2}
SUM: dict[str, Any] = {"bc_reduce": "sum", "action_penalty": [0.0, 0.5]}
NEAR: dict[str, Any] = {"prioritize": "joint_action", "steepness": [4.0, 0.9]}
WIDE = {"actor": 1.5, "target_q": 2.0}

CASES = [
    Case("continuous", ALPHA, WIDE),
    Case("continuous", ALPHA | OWN | {"policy_q": "min", "policy_delay": 1}, WIDE),
    Case("continuous", ALPHA | JOINT | SUM | {"policy_delay": 3}, WIDE),
    Case("continuous", ALPHA | RNN | EARLY | {"policy_q": "min"}, WIDE),
    Case("continuous", ALPHA | NEAR | OWN, WIDE),
    Case("continuous", ALPHA | NEAR | JOINT | RNN | {"candidates": 3}, WIDE),
    Case("discrete", ALPHA, WIDE),
    Case("discrete", ALPHA | OWN | EARLY, WIDE),
    Case("discrete", ALPHA | JOINT | {"policy_q": "min", "policy_delay": 1}, WIDE),
    Case("discrete", ALPHA | RNN | JOINT | EARLY | {"memory_relu": True}, WIDE),
    Case("continuous", ALPHA | RNN | {"memory_relu": True, "sequence_length": 2, "batch_size": 3}, WIDE),
]


class Step:
    """What one update evaluates.

    Args:
        own: the replica.
        batch: its batch.
    """

    def __init__(self, own: Replica, batch: Any) -> None:
        self.own, self.rows, self.noise = own, sequences(batch), batch.noise
        self.data = data_action(own, self.rows.action)
        self.entries = [(b, t, i) for b, t in self.rows.steps for i in range(own.spec.n_agents)]

    def observed(self, rows: slice) -> tuple[Tensor, Tensor | None]:
        """Observations and states of these rows of all sequences."""
        state = self.rows.state[:, rows] if hasattr(self.rows, "state") else None
        return self.rows.obs[:, rows], state

    def outputs(self, module: str) -> Tensor:
        """Of a policy in all rows, before ``tanh`` or ``argmax``."""
        return actor_outputs(self.own, module, self.rows.obs)

    def drawn(self, logits: Tensor, action_mask: Tensor, uniform: Tensor) -> Tensor:
        """A one-hot sample of every agent in every row, ``[B, L, N, A]``."""
        return _every(
            lambda b, t, i: straight_through(logits[b, t, i], action_mask[b, t, i], uniform[b, t, i]), logits
        )

    def following(self) -> Tensor:
        """The target policy's actions in the rows that the steps lead to."""
        c, output = self.own.config, self.outputs("target_actor")[:, 1:]
        if self.own.spec.discrete:
            return self.drawn(output, self.rows.action_mask[:, 1:], self.noise["next"])
        jitter = (c.smoothing_sigma * self.noise["next"]).clamp(-c.smoothing_clip, c.smoothing_clip)
        return (torch.tanh(output) + jitter).clamp(-1.0, 1.0) * used(self.own)

    def targets(self) -> dict[tuple[int, int, int], Tensor]:
        """``r_i + gamma mask min_j Q_j(., a')``."""
        c, rows, action = self.own.config, self.rows, self.following()
        values = [critic(self.own, "target_q", j, self.observed(slice(1, None)), action) for j in (0, 1)]
        least = torch.minimum(*values)
        return {
            (b, t, i): (rows.agent_reward[b, t, i] + c.gamma * rows.mask[b, t] * least[b, t, i]).detach()
            for b, t, i in self.entries
        }

    def policy(self) -> SimpleNamespace:
        """The policy's loss and its parts."""
        c, rows = self.own.config, self.rows
        output = self.outputs("actor")[:, :-1]
        if self.own.spec.discrete:
            action = self.drawn(output, rows.action_mask, self.noise["now"])
        else:
            action = torch.tanh(output) * used(self.own)
        members = (0, 1) if c.policy_q == "min" else (0,)
        values = [critic(self.own, "q", j, self.observed(slice(0, -1)), action, self.data) for j in members]
        q = values[0] if len(values) == 1 else torch.minimum(*values)
        factors = self.factors(q)
        bc_loss = mean(self.cloning(output, action, *entry) for entry in self.entries)
        loss = -mean(factors[entry[2]] * q[entry] for entry in self.entries) + bc_loss
        if not self.own.spec.discrete:
            sizes = self.own.spec.action_sizes
            squares = [mean(action[b, t, i, d] ** 2 for d in range(sizes[i])) for b, t, i in self.entries]
            loss = loss + c.action_penalty * mean(squares)
        return SimpleNamespace(loss=loss, bc_loss=bc_loss, factor=mean(factors))

    def factors(self, q: Tensor) -> list[Tensor]:
        """``alpha / mean |Q|`` by agent: of its own values where it learns by itself, of all agents' otherwise."""
        found = []
        for i in range(self.own.spec.n_agents):
            alone = self.own.config.variant == "independent"
            entries = [entry for entry in self.entries if entry[2] == i or not alone]
            found.append(self.own.config.alpha / mean(q[entry].abs() for entry in entries).detach())
        return found

    def cloning(self, output: Tensor, action: Tensor, b: int, t: int, i: int) -> Tensor:
        """Distance of agent i's policy from the data's action in one step."""
        done = self.rows.action[b, t, i]
        if self.own.spec.discrete:
            return -log_softmax(output[b, t, i], self.rows.action_mask[b, t, i])[int(done)]
        squares = [(action[b, t, i, d] - done[d]) ** 2 for d in range(self.own.spec.action_sizes[i])]
        return sum(squares) if self.own.config.bc_reduce == "sum" else mean(squares)


def _every(entry: Callable[[int, int, int], Tensor], like: Tensor) -> Tensor:
    samples, steps, agents = like.shape[:3]
    return torch.stack(
        [
            torch.stack([torch.stack([entry(b, t, i) for i in range(agents)]) for t in range(steps)])
            for b in range(samples)
        ]
    )


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Critics; every ``policy_delay``-th time also the policy, and then all targets."""
    c, near = own.config, dict[str, Any]()
    if c.prioritize == "joint_action":
        batch, near = nearest_sequences(own, batch)
    step = Step(own, batch)
    own.memory["updates"] = own.memory.get("updates", 0) + 1

    targets = step.targets()
    q = [critic(own, "q", j, step.observed(slice(0, -1)), step.data) for j in (0, 1)]
    errors = [mean((values[entry] - targets[entry]) ** 2 for entry in step.entries) for values in q]
    critic_loss = 0.5 * (errors[0] + errors[1])

    due = own.memory["updates"] % c.policy_delay == 0
    norms: dict[str, float] = {}
    if c.policy_after_critic:
        norms |= own.step(critic=(critic_loss, "q"))
    policy = step.policy()
    norms |= own.step(moves=due, policy=(policy.loss, "actor"))
    if not c.policy_after_critic:
        norms |= own.step(critic=(critic_loss, "q"))
    if due:
        for name in ("actor", "q"):
            own.soft_update(f"target_{name}", name, c.tau)
    return {
        **near,
        "critic/loss": critic_loss,
        "policy/loss": policy.loss,
        "policy/bc_loss": policy.bc_loss,
        "policy/lambda": policy.factor,
        "critic/mean": mean(q[0][entry] for entry in step.entries),
        "critic/target": mean(targets.values()),
        **norms,
    }
