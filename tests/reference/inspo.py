"""InSPO: the specification ``inspo`` with the departures of the method's text, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, log_softmax, mean, mlp, one_hot, with_id
from tests.reference.harness import DOUBLE, Adam, Case, Replica, Seen, clipped
from tests.reference.networks import over_time, sequences

BOTH: dict[str, Any] = {"pretrain": 0, "alpha": [0.3, 1.5], "beta": [0.1, 0.0]}
ANNEALED = {"anneal": 3, "alpha_end": [0.1, 0.5], "beta_end": [0.0, 0.4], "beta": [0.9, 0.2]}
BOUNDS = {
    "ratio_cap": [3.0, 0.8],
    "ratio_floor": [0.0, 0.6],
    "weight_cap": [100.0, 0.9],
    "support_floor": [1e-4, 0.1],
}
RNN: dict[str, Any] = {"history": "rnn", "sequence_length": 3, "batch_size": 4, "memory_relu": True}
SHARP = {"data": 2.0, "data_others": 2.0}

CASES = [
    Case("discrete", BOTH, SHARP),
    Case("discrete", {**BOTH, **ANNEALED, "pretrain": 2}, SHARP),
    Case("discrete", {**BOTH, **BOUNDS, "support_floor": [1e-4, 0.1], "in_turn": False}, SHARP),
    Case("discrete", {**BOTH, **ANNEALED, **RNN}, SHARP),
]
NEVER_VARIED = {"eval_mode": "how the policy is evaluated; without noise both take the best action"}


def log_probs(own: Replica, module: str, rows: SimpleNamespace) -> Tensor:
    """Log probabilities ``[B, L + 1, N, A]`` of a policy or marginal behavior; -inf where illegal."""
    n = own.spec.n_agents
    if own.config.history == "rnn":
        return log_softmax(over_time(own, own.layers(module), rows.obs), rows.action_mask)
    outputs = []
    for i in range(n):
        seen = torch.stack([with_id(obs[i], i, n) for obs in rows.obs.flatten(0, 1)])
        outputs.append(mlp(own.layers(module, i), seen).reshape(*rows.obs.shape[:2], -1))
    return log_softmax(torch.stack(outputs, dim=2), rows.action_mask)


def conditional(own: Replica, rows: SimpleNamespace, b: int, t: int, i: int, j: int) -> Tensor:
    """Log probabilities ``[A]`` of j's actions, given the state and the actions of i and of those before j."""
    n, a = own.spec.n_agents, own.spec.action_size
    shown = [one_hot(int(rows.action[b, t, k]), a) * float(k == i or k < j) for k in range(n)]
    logits = mlp(own.layers("data_others", i), torch.cat((rows.state[b, t], *shown, one_hot(j, n))))
    return log_softmax(logits, rows.action_mask[b, t, j])


class Step:
    """What one update evaluates.

    Args:
        own: the replica.
        batch: its batch.
        alpha: present strength of the pull towards the data.
        beta: present weight of the entropy.
    """

    def __init__(self, own: Replica, batch: Any, alpha: float, beta: float) -> None:
        self.own, self.rows, self.alpha, self.beta = own, sequences(batch), alpha, beta
        self.log_pi, self.log_mu = log_probs(own, "actor", self.rows), log_probs(own, "data", self.rows)

    def legal(self, b: int, t: int, i: int) -> list[int]:
        """Legal actions of an agent in a row."""
        return [a for a, allowed in enumerate(self.rows.action_mask[b, t, i]) if allowed]

    def others(self, b: int, t: int, i: int) -> tuple[float, float, float, Tensor]:
        """rho, kappa, entropy of agent i's team mates, and the log likelihood of their actions."""
        c, rho, kappa, entropy = self.own.config, 1.0, 0.0, 0.0
        likelihood = torch.zeros((), dtype=DOUBLE)
        for j in range(self.own.spec.n_agents):
            if j == i:
                continue
            log_data, taken = conditional(self.own, self.rows, b, t, i, j), int(self.rows.action[b, t, j])
            likelihood = likelihood + log_data[taken]
            pi = self.log_pi[b, t, j].detach().exp()
            rho *= float(pi[taken] / (log_data[taken].detach().exp() + c.support_floor))
            for a in self.legal(b, t, j):
                p, q = float(pi[a]), float(log_data[a].detach().exp()) + c.support_floor
                kappa += p * math.log(p / q)
                entropy -= p * math.log(p)
        return max(min(rho, c.ratio_cap), c.ratio_floor), kappa, entropy, likelihood

    def value(self, module: str, b: int, t: int, i: int) -> float:
        """Soft maximum over the legal actions."""
        q, total = mlp(self.own.layers(module, i), self.rows.obs[b, t, i]), self.alpha + self.beta
        terms = [
            max(float(self.log_mu[b, t, i, a].detach().exp()), 1e-6) ** (self.alpha / total)
            * math.exp(float(q[a].detach()) / total)
            for a in self.legal(b, t, i)
        ]
        return total * math.log(sum(terms))

    def of_agent(self, i: int) -> SimpleNamespace:
        """Losses of one agent, and what is reported."""
        c, steps, own = self.own.config, self.rows.steps, self.own
        found = [self.others(b, t, i) for b, t in steps]
        whole = sum(rho for rho, *_ in found)
        q_loss, policy_loss = torch.zeros((), dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
        answers, values = [], []
        for (b, t), (rho, kappa, entropy, _) in zip(steps, found, strict=True):
            taken = int(self.rows.action[b, t, i])
            q = mlp(own.layers("q", i), self.rows.obs[b, t, i])[taken]
            after = c.gamma * float(self.rows.mask[b, t]) * self.value("target_q", b, t + 1, i)
            y = float(self.rows.reward[b, t]) - self.alpha * kappa + self.beta * entropy + after
            q_loss = q_loss + rho / whole * (q - y) ** 2
            value, total = self.value("q", b, t, i), self.alpha + self.beta
            log_mu = math.log(max(float(self.log_mu[b, t, i, taken].detach().exp()), 1e-6))
            answer = min(math.exp((float(q.detach()) - self.beta * log_mu - value) / total), c.weight_cap)
            policy_loss = policy_loss - rho / whole * answer * self.log_pi[b, t, i, taken]
            answers.append(answer)
            values.append(value)
        likelihoods = [
            self.log_mu[b, t, i, int(self.rows.action[b, t, i])] + others[3]
            for (b, t), others in zip(steps, found, strict=True)
        ]
        return SimpleNamespace(
            q_loss=q_loss, policy_loss=policy_loss, behavior_loss=-mean(likelihoods), answers=answers, values=values,
            kappas=[kappa for _, kappa, *_ in found],
        )  # fmt: skip


def strengths(own: Replica, done: int) -> tuple[float, float]:
    """Alpha and beta after some updates."""
    c = own.config
    if not c.anneal:
        return c.alpha, c.beta
    share = min(max((done - c.pretrain) / c.anneal, 0.0), 1.0)
    return c.alpha * (c.alpha_end / c.alpha) ** share, (1.0 - share) * c.beta + share * c.beta_end


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Behavior and critics of all agents; the policy whose turn it is."""
    c, agents = own.config, range(own.spec.n_agents)
    done = own.memory.get("updates", 0)
    own.memory["updates"] = done + 1
    if done == c.pretrain:
        own.hard_update("actor", "data")
    alpha, beta = strengths(own, done)
    step = Step(own, batch, alpha, beta)
    parts = [step.of_agent(i) for i in agents]
    active = turn(own, done, batch.noise["turns"])

    norms = own.step(moves=done >= c.pretrain, q=(sum(part.q_loss for part in parts) / len(parts), "q"))
    policy = step_policies(own, parts, active, done >= c.pretrain)
    behavior_loss = sum(part.behavior_loss for part in parts)
    norms |= own.step(behavior=(behavior_loss, "data", "data_others"))
    own.soft_update("target_q", "q", c.tau)

    def average(name: str) -> float:
        values = [x for part in parts for x in getattr(part, name)]
        return sum(values) / len(values)

    return {
        "behavior/loss": behavior_loss,
        "q/loss": sum(part.q_loss for part in parts) / len(parts),
        "policy/loss": sum(part.policy_loss for part in parts) / len(parts),
        **{
            "policy/kappa": average("kappas"),
            "weight/mean": average("answers"),
            "q/soft_value": average("values"),
        },
        **{"policy/alpha": alpha, "policy/beta": beta, "grad_norm/policy": policy},
        **norms,
    }


def turn(own: Replica, done: int, drawn: Tensor) -> list[int]:
    """Agents whose policies step; keeps the order of a round in the learner's buffer."""
    c, n = own.config, own.spec.n_agents
    if c.history == "rnn" or not c.in_turn:
        return list(range(n)) if done >= c.pretrain else []
    place = (done - c.pretrain) % n
    if place == 0:
        own.values["turns"] = torch.argsort(drawn)
    return [int(own.values["turns"][place])] if done >= c.pretrain else []


def step_policies(own: Replica, parts: Sequence[SimpleNamespace], active: list[int], moves: bool) -> float:
    """One step of the policies in turn, each with an Adam of its own; returns the gradient's norm."""
    if own.config.history == "rnn":
        total = sum(part.policy_loss for part in parts)
        return own.step(moves=moves, policy=(total, "actor"))["grad_norm/policy"]
    total = sum((parts[i].policy_loss for i in active), torch.zeros((), dtype=DOUBLE, requires_grad=True))
    gradients, norm = clipped(own.gradients(total, "actor"), own.config.grad_clip)
    values = [own.values[name] for name in own.named("actor")]
    adams = own.memory.setdefault("adams", {})
    for i in active:
        adam = adams.setdefault(i, Adam([value[i] for value in values]))
        adam.step([gradient[i] for gradient in gradients], own.config.lr)
    return norm


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's likeliest legal action."""
    n = own.spec.n_agents
    obs = torch.stack([seen.obs for seen in past]).unsqueeze(0)
    masks = torch.stack([seen.action_mask for seen in past if seen.action_mask is not None]).unsqueeze(0)
    found = log_probs(own, "actor", SimpleNamespace(obs=obs, action_mask=masks))[0, -1]
    return [best_legal(found[i], masks[0, -1, i]) for i in range(n)]
