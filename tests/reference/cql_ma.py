"""CQL-MA: specification ``cql_ma``, sections 2 to 6, and the class's text for its default policy loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import (
    best_legal,
    gaussian_actor,
    linear_mixer,
    log_softmax,
    mean,
    mlp,
    tanh_gaussian_log_density,
)
from tests.reference.harness import DOUBLE, Case, Replica, Seen
from tests.reference.networks import numbers, over_time, sequences

ALPHA: dict[str, Any] = {"cql_alpha": [1.0, 0.3], "cql_samples": 4}
RELEASED: dict[str, Any] = {"cql_policy": "q_weighted_bc", "cql_bias_in_lse": True}
FEW: dict[str, Any] = {"batch_size": 4}
SAC: dict[str, Any] = {"cql_policy": "sac", "entropy": [0.0, 0.2]}
RNN: dict[str, Any] = {"history": "rnn"}
PARTIAL: dict[str, Any] = {"backup": "partial"}
LARGEST = math.atanh(1.0 - 1e-7)  # of a sample before it is squashed
WIDE = {"q": 2.0, "target_q": 2.0}

CASES = [
    Case("continuous", ALPHA | FEW | {"policy_bc_warmup": 2}, WIDE),
    Case(
        "continuous",
        ALPHA | FEW | RELEASED | {"cql_samples": 3, "cql_importance": True, "bound_margin": [0.1, 0.0]},
        WIDE,
    ),
    Case(
        "continuous",
        ALPHA | FEW | SAC | {"n_critics": 2, "cql_bias_in_lse": True, "policy_bc_warmup": 2},
        WIDE,
    ),
    Case("discrete", ALPHA | RELEASED | {"td_next": "argmax"}, WIDE),
    Case("discrete", ALPHA | SAC | {"policy_bc_warmup": 2}, WIDE),
    Case("discrete", ALPHA | RNN | {"sequence_length": 3}, WIDE),
    Case("discrete", ALPHA | RNN | PARTIAL | {"replaced": 2, "batch_size": 4}, WIDE),
    Case("discrete", ALPHA | RNN | PARTIAL | {"replaced": 3, "batch_size": 4}, WIDE),
    Case("discrete", ALPHA | PARTIAL | {"td_next": "argmax"}, WIDE),
    Case("continuous", ALPHA | FEW | PARTIAL | {"n_critics": 2, "replaced": 2}, WIDE),
    Case("discrete", ALPHA | RNN | SAC | {"memory_relu": True, "td_next": "argmax", "batch_size": 3}, WIDE),
]


class Continuous:
    """Values and likelihoods of a tanh-Gaussian team in every real step.

    Args:
        own: the replica.
        rows: the batch as sequences.
        noise: of the batch.
    """

    def __init__(self, own: Replica, rows: SimpleNamespace, noise: Any) -> None:
        self.own, self.rows, self.noise = own, rows, noise
        self.members = range(own.config.n_critics)
        self.numbers = numbers(rows.obs)
        self.mu, self.log_std = gaussian_actor(own.layers("actor"), rows.obs, self.numbers)

    def q(self, module: str, member: int, b: int, t: int, i: int, action: Tensor) -> Tensor:
        """Values of agent i's actions ``[..., A]`` in row t."""
        seen = torch.cat((self.rows.obs[b, t, i], self.numbers[b, t, i])).expand(*action.shape[:-1], -1)
        return mlp(self.own.layers(module, member), seen, action)[..., 0]

    def sample(self, b: int, t: int, i: int, noise: Tensor) -> Tensor:
        """Of agent i's policy in row t; superfluous dimensions are zero."""
        drawn = torch.tanh(self.mu[b, t, i] + self.log_std[b, t, i].exp() * noise)
        return drawn * (torch.arange(drawn.shape[-1]) < self.own.spec.action_sizes[i])

    def drawn_density(self, b: int, t: int, i: int, noise: Tensor) -> Tensor:
        """Log density of what ``sample`` makes of ``noise [..., A]``, within the bounds of the specification."""
        total = torch.zeros(noise.shape[:-1], dtype=DOUBLE)
        for d in range(self.own.spec.action_sizes[i]):
            mu, log_std = self.mu[b, t, i, d], self.log_std[b, t, i, d]
            u = (mu + log_std.exp() * noise[..., d]).clamp(-LARGEST, LARGEST)
            deviation = (u - mu.clamp(-9.0, 9.0)) / log_std.exp()
            total = total - 0.5 * deviation**2 - log_std - 0.5 * math.log(2.0 * math.pi)
            total = total - 2.0 * (math.log(2.0) - u - torch.log1p(torch.exp(-2.0 * u)))
        return total

    def taken(self, member: int, b: int, t: int, i: int) -> Tensor:
        """Value of the data's action."""
        return self.q("q", member, b, t, i, self.rows.action[b, t, i])

    def following(self, b: int, t: int, i: int, logged: Tensor | None) -> Tensor:
        """Least target value of an action of the online policy in the next row, or of the ``logged`` one."""
        action = self.sample(b, t + 1, i, self.noise["next"][b, t, i]) if logged is None else logged
        return min(self.q("target_q", member, b, t + 1, i, action) for member in self.members)

    @torch.no_grad()
    def candidates(self, b: int, t: int, i: int) -> tuple[Tensor, Tensor]:
        """Uniform actions ``[3 K, A]`` and the policy's at o and at o', and by how much each counts less."""
        uniform, size = self.noise["uniform"][:, b, t, i], self.own.spec.action_sizes[i]
        actions = [(2.0 * uniform - 1.0) * (torch.arange(uniform.shape[1]) < size)]
        densities = [torch.full((len(uniform),), -size * math.log(2.0), dtype=DOUBLE)]
        for later, normal in enumerate(self.noise["policy"][:, :, b, t, i]):
            actions.append(self.sample(b, t + later, i, normal))
            densities.append(self.drawn_density(b, t + later, i, normal))
        correction = torch.cat(densities) if self.own.config.cql_importance else torch.zeros(())
        return torch.cat(actions), correction

    def pushed_down(self, member: int, b: int, t: int, i: int, candidates: Tensor) -> Tensor:
        """Values at o of all candidates."""
        return self.q("q", member, b, t, i, candidates)

    def expected(self, b: int, t: int, i: int, candidates: Tensor) -> Tensor:
        """Mean value of the policy's own candidates."""
        drawn = self.own.config.cql_samples
        return self.pushed_down(0, b, t, i, candidates)[drawn : 2 * drawn].mean()

    def log_prob(self, b: int, t: int, i: int) -> Tensor:
        """Log density of the data's action."""
        size, margin = self.own.spec.action_sizes[i], self.own.config.bound_margin
        mu, log_std, action = self.mu[b, t, i], self.log_std[b, t, i], self.rows.action[b, t, i]
        return tanh_gaussian_log_density(mu, log_std, action, size, margin)

    def improved(self, b: int, t: int, i: int) -> tuple[Tensor, Tensor]:
        """First critic's value of an action of the policy, and an estimate of the policy's entropy."""
        noise = self.noise["improve"][b, t, i]
        value = self.q("q", 0, b, t, i, self.sample(b, t, i, noise))
        return value, -self.drawn_density(b, t, i, noise)


class Discrete:
    """Values and likelihoods of a categorical team in every real step; arguments as of :class:`Continuous`."""

    def __init__(self, own: Replica, rows: SimpleNamespace, noise: Any) -> None:
        del noise
        self.own, self.rows, self.members = own, rows, range(1)
        self.logits, self.q, self.target_q = (
            over_time(own, own.layers(name), rows.obs) for name in ("actor", "q", "target_q")
        )

    def log_policy(self, b: int, t: int, i: int) -> tuple[Tensor, list[int]]:
        """Log probabilities of the legal actions, and which those are."""
        action_mask = [a for a in range(self.own.spec.action_size) if self.rows.action_mask[b, t, i, a]]
        return log_softmax(self.logits[b, t, i, action_mask]), action_mask

    def taken(self, member: int, b: int, t: int, i: int) -> Tensor:
        """Value of the data's action."""
        del member
        return self.q[b, t, i, self.rows.action[b, t, i]]

    def following(self, b: int, t: int, i: int, logged: Tensor | None) -> Tensor:
        """Target value in the next row: the policy's expectation, that of the best action by the online net, or of
        the ``logged`` one.
        """
        values = self.target_q[b, t + 1, i]
        if logged is not None:
            return values[int(logged)]
        if self.own.config.td_next == "argmax":
            return values[best_legal(self.q[b, t + 1, i], self.rows.action_mask[b, t + 1, i])]
        log_policy, action_mask = self.log_policy(b, t + 1, i)
        return (log_policy.exp() * values[action_mask]).sum()

    def candidates(self, b: int, t: int, i: int) -> tuple[Tensor, Tensor]:
        """All legal actions, of which each counts alike."""
        return torch.tensor(self.log_policy(b, t, i)[1]), torch.zeros(())

    def pushed_down(self, member: int, b: int, t: int, i: int, candidates: Tensor) -> Tensor:
        """Values of all candidates."""
        del member
        return self.q[b, t, i, candidates]

    def expected(self, b: int, t: int, i: int, candidates: Tensor) -> Tensor:
        """The policy's mean value."""
        return (self.log_policy(b, t, i)[0].exp() * self.q[b, t, i, candidates]).sum()

    def log_prob(self, b: int, t: int, i: int) -> Tensor:
        """Log probability of the data's action."""
        log_policy, action_mask = self.log_policy(b, t, i)
        return log_policy[action_mask.index(int(self.rows.action[b, t, i]))]

    def improved(self, b: int, t: int, i: int) -> tuple[Tensor, Tensor]:
        """Value that the policy expects, and the policy's entropy."""
        log_policy, action_mask = self.log_policy(b, t, i)
        values = self.q[b, t, i, action_mask].detach()
        return (log_policy.exp() * values).sum(), -(log_policy.exp() * log_policy).sum()


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """All losses from the same parameters; policy and Q with mixer step; targets of Q and mixer."""
    c, rows, agents = own.config, sequences(batch), range(own.spec.n_agents)
    team = (Discrete if own.spec.discrete else Continuous)(own, rows, batch.noise)
    updates = own.memory.setdefault("updates", 0)
    own.memory["updates"] += 1

    mixer, target_mixer = (linear_mixer(own.layers(name), rows.state) for name in ("mixer", "target_mixer"))
    errors, penalties, policy_terms, totals, targets = [], [], [], [], []
    for b, t in rows.steps:
        w, bias = (x[b, t + 1] for x in target_mixer)
        known, kept = next_team(own, batch, rows, b, t)
        after = sum(w[i] * team.following(b, t, i, kept[i]) for i in agents) + bias
        y = (rows.reward[b, t] + c.gamma * rows.mask[b, t] * after).detach()
        if known:
            targets.append(y)

        w, bias = (x[b, t] for x in mixer)
        offset = bias if c.cql_bias_in_lse else torch.zeros((), dtype=DOUBLE)
        candidates = [team.candidates(b, t, i) for i in agents]
        for member in team.members:
            weighted = sum(w[i] * team.taken(member, b, t, i) for i in agents)
            if known:
                errors.append((weighted + bias - y) ** 2)
            if member == 0:
                totals.append(weighted + bias)
            pushed = []
            for i, (actions, correction) in enumerate(candidates):
                values = w[i] * team.pushed_down(member, b, t, i, actions)
                pushed.append(torch.logsumexp(values + offset - correction, dim=0))
            penalties.append(sum(pushed) - (weighted + offset))
        for i in agents:
            policy_terms.append(policy_term(own, team, (b, t, i), w[i].item(), candidates[i][0]))

    # One term per critic: the sum over the critics is the mean times their number.
    td_loss, cql_loss = (mean(terms) * len(team.members) for terms in (errors, penalties))
    if updates < c.policy_bc_warmup:
        policy_loss = mean(-team.log_prob(b, t, i) for b, t in rows.steps for i in agents)
    else:
        policy_loss = sum(policy_terms) / len(rows.steps)
    norms = own.step(policy=(policy_loss, "actor"), q=(td_loss + c.cql_alpha * cql_loss, "q", "mixer"))
    for name in ("q", "mixer"):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "q/loss": td_loss,
        "q/penalty": cql_loss,
        "policy/loss": policy_loss,
        "q/total": mean(totals),
        "q/target_total": mean(targets),
        **norms,
    }


def next_team(own: Replica, batch: Any, rows: SimpleNamespace, b: int, t: int) -> tuple[bool, list[Any]]:
    """Whether the step has a target, and the data's next action of the agents that keep theirs, None of others."""
    c, n = own.config, own.spec.n_agents
    nothing: list[Any] = [None] * n
    if c.backup == "policy" or c.replaced == n:
        return True, nothing
    if hasattr(batch, "next_action"):
        logged = batch.next_action[b]
    elif (b, t + 1) in rows.steps:
        logged = rows.action[b, t + 1]
    else:
        return float(rows.mask[b, t]) == 0.0, nothing
    order = batch.noise["subset"][b, 0].argsort().tolist()
    return True, [None if i in order[: c.replaced] else logged[i] for i in range(n)]


def policy_term(own: Replica, team: Any, place: tuple[int, int, int], w: float, candidates: Tensor) -> Tensor:
    """What an agent's policy descends in one step; ``place``: sample, step and agent."""
    if own.config.cql_policy == "sac":
        value, entropy = team.improved(*place)
        return -w * value - own.config.entropy * entropy
    weight = team.taken(0, *place).item()
    if own.config.cql_policy == "advantage_weighted_bc":
        weight = max(0.0, weight - team.expected(*place, candidates).item())
    return -team.log_prob(*place) * weight


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """The squashed mean, or the most likely legal action."""
    obs, action_mask, agents = (
        torch.stack([seen.obs for seen in past]),
        past[-1].action_mask,
        range(own.spec.n_agents),
    )
    if action_mask is not None:
        logits = over_time(own, own.layers("actor"), obs)[-1]
        return [best_legal(logits[i], action_mask[i]) for i in agents]
    mu, _ = gaussian_actor(own.layers("actor"), obs[-1], numbers(obs[-1]))
    return list(torch.tanh(mu.clamp(-9.0, 9.0)))
