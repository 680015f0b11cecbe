"""InSPO: the specification ``inspo`` with the departures of the method's text, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.reference import policies
from tests.reference.blocks import (
    best_legal,
    gaussian_actor,
    log_softmax,
    mean,
    mlp,
    one_hot,
    tanh_gaussian_log_density,
    with_id,
)
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
WIDE = {"data": 1.5, "data_others": 2.0, "actor": 1.5, "q": 2.0, "target_q": 3.0}

CASES = [
    Case("discrete", BOTH, SHARP),
    Case("discrete", {**BOTH, **ANNEALED, "pretrain": 2}, SHARP),
    Case("discrete", {**BOTH, **BOUNDS, "support_floor": [1e-4, 0.1], "in_turn": False}, SHARP),
    Case("discrete", {**BOTH, **ANNEALED, **RNN}, SHARP),
    Case("continuous", {**BOTH, "least_std": [0.1, 0.9]}, WIDE),
    Case("continuous", {**BOTH, **ANNEALED, "pretrain": 2, "bound_margin": [0.1, 0.0]}, WIDE),
    Case("continuous", {**BOTH, **BOUNDS, "in_turn": False}, WIDE),
    Case("continuous", {**BOTH, **ANNEALED, **RNN}, WIDE),
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


class DensityStep:
    """What one update evaluates where policies are tanh-Gaussians.

    Args:
        own: the replica.
        batch: its batch.
        alpha: present strength of the pull towards the data.
        beta: present weight of the entropy.
    """

    def __init__(self, own: Replica, batch: Any, alpha: float, beta: float) -> None:
        self.own, self.rows, self.alpha, self.beta = own, policies.steps(batch), alpha, beta
        own_networks = own.config.history != "rnn"
        self.pi, self.mu = (
            policies.heads(own, name, self.rows, per_agent=own_networks) for name in ("actor", "data")
        )
        self.log_pi, self.log_mu = (
            policies.data_log_probs(own, heads, self.rows) for heads in (self.pi, self.mu)
        )

    def model(self, b: int, i: int, j: int) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation of j's action, given the state and the actions of i and of those < j."""
        n, rows = self.own.spec.n_agents, self.rows
        shown = [rows.action[b, k] * float(k == i or k < j) for k in range(n)]
        parts = (rows.state[b], *shown, one_hot(j, n))
        mu, log_std = gaussian_actor(self.own.layers("data_others", i), *parts)
        return mu, log_std.clamp(min=math.log(self.own.config.least_std))

    def others(self, b: int, i: int) -> tuple[float, float, float, Tensor]:
        """rho, kappa, entropy of agent i's team mates, and the log likelihood of their actions."""
        c, log_rho, kappa, entropy = self.own.config, 0.0, 0.0, 0.0
        likelihood = torch.zeros((), dtype=DOUBLE)
        for j in range(self.own.spec.n_agents):
            if j == i:
                continue
            size = self.own.spec.action_sizes[j]
            mu, log_std = self.model(b, i, j)
            density = tanh_gaussian_log_density(mu, log_std, self.rows.action[b, j], size, c.bound_margin)
            likelihood = likelihood + density
            log_rho += float(self.log_pi[b, j].detach()) - float(density.detach())
            mine, my_log_std = self.pi[b, j].detach().chunk(2)
            for d in range(size):
                m, log_s = float(mine[d].clamp(-9.0, 9.0)), float(my_log_std[d].clamp(-5.0, 2.0))
                q, log_t = float(mu[d].detach().clamp(-9.0, 9.0)), float(log_std[d].detach())
                kappa += (
                    log_t - log_s + (math.exp(log_s) ** 2 + (m - q) ** 2) / (2.0 * math.exp(log_t) ** 2) - 0.5
                )
                entropy += squashed_entropy(m, math.exp(log_s))
        rho = math.exp(min(log_rho, math.log(c.ratio_cap)))
        return max(rho, c.ratio_floor), kappa, entropy, likelihood

    def of_agent(self, i: int) -> SimpleNamespace:
        """Losses of one agent, and what is reported."""
        c, rows, own, total = self.own.config, self.rows, self.own, self.alpha + self.beta
        samples = range(len(rows.mask))
        found = [self.others(b, i) for b in samples]
        whole = sum(rho for rho, *_ in found)
        q_loss, policy_loss, v_loss = (torch.zeros((), dtype=DOUBLE) for _ in range(3))
        answers, values = [], []
        for b, (rho, kappa, entropy, _) in zip(samples, found, strict=True):
            after = (
                c.gamma
                * float(rows.mask[b])
                * float(mlp(own.layers("v", i), rows.next_obs[b, i])[0].detach())
            )
            y = float(rows.reward[b]) - self.alpha * kappa + self.beta * entropy + after
            q = mlp(own.layers("q", i), rows.obs[b, i], rows.action[b, i])[0]
            q_loss = q_loss + rho / whole * (q - y) ** 2
            v = mlp(own.layers("v", i), rows.obs[b, i])[0]
            judged = float(mlp(own.layers("target_q", i), rows.obs[b, i], rows.action[b, i])[0].detach())
            log_mu = max(float(self.log_mu[b, i].detach()), math.log(1e-6))
            z = (judged - self.beta * log_mu - v) / total
            beyond = float(z.detach()) > math.log(c.weight_cap)
            grown = c.weight_cap * (1.0 + z - math.log(c.weight_cap)) if beyond else z.exp()
            v_loss = v_loss + (total * grown + v) / len(samples)
            answer = math.exp(min(float(z.detach()), math.log(c.weight_cap)))
            policy_loss = policy_loss - rho / whole * answer * self.log_pi[b, i]
            answers.append(answer)
            values.append(float(v.detach()))
        likelihoods = [self.log_mu[b, i] + others[3] for b, others in zip(samples, found, strict=True)]
        return SimpleNamespace(
            q_loss=q_loss, v_loss=v_loss, policy_loss=policy_loss, behavior_loss=-mean(likelihoods), answers=answers,
            values=values, kappas=[kappa for _, kappa, *_ in found],
        )  # fmt: skip


def squashed_entropy(m: float, s: float) -> float:
    """Entropy of tanh of a Gaussian: that of the Gaussian, plus the mean log slope of tanh, by quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    slopes = [math.log(4.0) - 2.0 * math.log(math.exp(u) + math.exp(-u)) for u in m + s * nodes]
    mean_slope = sum(w * x for w, x in zip(weights, slopes, strict=True)) / math.sqrt(2.0 * math.pi)
    return math.log(s) + 0.5 * math.log(2.0 * math.pi * math.e) + mean_slope


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Behavior and critics of all agents; the policy whose turn it is."""
    c, agents = own.config, range(own.spec.n_agents)
    done = own.memory.get("updates", 0)
    own.memory["updates"] = done + 1
    if done == c.pretrain:
        own.hard_update("actor", "data")
    alpha, beta = strengths(own, done)
    step = (Step if own.spec.discrete else DensityStep)(own, batch, alpha, beta)
    parts = [step.of_agent(i) for i in agents]
    active = turn(own, done, batch.noise["turns"])

    losses = {"q": sum(part.q_loss for part in parts) / len(parts)}
    if not own.spec.discrete:
        losses["v"] = sum(part.v_loss for part in parts) / len(parts)
    norms = own.step(moves=done >= c.pretrain, **{name: (loss, name) for name, loss in losses.items()})
    policy = step_policies(own, parts, active, done >= c.pretrain)
    behavior_loss = sum(part.behavior_loss for part in parts)
    norms |= own.step(behavior=(behavior_loss, "data", "data_others"))
    own.soft_update("target_q", "q", c.tau)

    def average(name: str) -> float:
        values = [x for part in parts for x in getattr(part, name)]
        return sum(values) / len(values)

    return {
        "behavior/loss": behavior_loss,
        **{f"{name}/loss": loss for name, loss in losses.items()},
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
    """Every agent's likeliest legal action, or the mode."""
    if not own.spec.discrete:
        return policies.act(own, "actor", past, per_agent=own.config.history != "rnn")
    n = own.spec.n_agents
    obs = torch.stack([seen.obs for seen in past]).unsqueeze(0)
    masks = torch.stack([seen.action_mask for seen in past if seen.action_mask is not None]).unsqueeze(0)
    found = log_probs(own, "actor", SimpleNamespace(obs=obs, action_mask=masks))[0, -1]
    return [best_legal(found[i], masks[0, -1, i]) for i in range(n)]
