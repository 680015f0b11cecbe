"""AlberDICE: its specification with the departures of the class's text.

Three things are said in neither: 1e-10 is added to the conditional data policies' probabilities in rho and kappa (as
in the authors' code), an absorbing step weighs as much as the mean row of the batch, and the reported policy loss
leaves out the term that has no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.reference import policies
from tests.reference.blocks import log_softmax, mean, mlp, one_hot, with_ids
from tests.reference.harness import DOUBLE, Case, Replica, Seen

OPTIONS = {"alpha": [0.7, 2.0], "reward_scale": [1.0, 0.4], "gradient_penalty": [0.1, 0.7]}
RNN = {"history": "rnn", "sequence_length": 3, "memory_relu": True}
SHARP = {"actor": 2.0, "data_others": 2.0}  # ratios that meet the cap and the floor

CASES = [
    Case("discrete", {"grad_clip": math.inf}),
    Case("discrete", {**OPTIONS, "ratio_cap": [3.0, 0.8], "conservatism": [0.1, 0.6]}, SHARP),
    Case("discrete", {**OPTIONS, "projection": "reverse", "ratio_floor": [0.0, 0.6]}, SHARP),
    Case("discrete", {**OPTIONS, "anneal": 3, "alpha_end": [0.1, 0.5], "pretrain": 2}, SHARP),
    Case(
        "discrete",
        {**OPTIONS, "history": "rnn", "sequence_length": 3, "memory_relu": True, "ratio_floor": [0.0, 0.6]},
        SHARP,
    ),
]
NEVER_VARIED = {"eval_mode": "how the policy is evaluated; without noise both take the best action"}


@dataclass
class Tables:
    """Log probabilities of all policies in every row, ``[B, A]`` each.

    Attributes:
        pi: by agent, its policy.
        data: by agent, the shared data policy.
        given: by agents (i, j), the data policy of j that knows the state and the actions of i and of those before j.
    """

    pi: list[Tensor]
    data: list[Tensor]
    given: dict[tuple[int, int], Tensor]


def tables_of(own: Replica, batch: Any) -> Tables:
    """Of one batch."""
    n, a, seen = own.spec.n_agents, own.spec.action_size, with_ids(batch.obs)
    outputs = policies.heads(own, "actor.network", batch, per_agent=own.config.history == "mlp")
    pi = [log_softmax(outputs[:, i], batch.action_mask[:, i]) for i in range(n)]
    data = [log_softmax(mlp(own.layers("data"), seen[:, i]), batch.action_mask[:, i]) for i in range(n)]
    given = {}
    for i in range(n):
        for j in range(n):
            if j == i:
                continue
            inputs = []
            for b in range(len(batch.reward)):
                shown = [one_hot(int(batch.action[b, k]), a) * float(k == i or k < j) for k in range(n)]
                inputs.append(torch.cat((batch.state[b], *shown, one_hot(j, n))))
            logits = mlp(own.layers("data_others", i), torch.stack(inputs))
            given[i, j] = log_softmax(logits, batch.action_mask[:, j])
    return Tables(pi, data, given)


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """One update of all agents: the losses from the same parameters, then all steps."""
    c, n, batch = own.config, own.spec.n_agents, policies.steps(batch)
    done = own.memory.get("updates", 0)
    own.memory["updates"] = done + 1
    progress = min(done / c.anneal, 1.0) if c.anneal else 0.0
    alpha = c.alpha * (c.alpha_end / c.alpha) ** progress

    tables = tables_of(own, batch)
    data_loss = data_loss_of(batch, tables)
    nu_loss, e_loss, policy_loss = (torch.zeros((), dtype=DOUBLE) for _ in range(3))
    rhos, kappas = [], []
    for i in range(n):
        rho, kappa = ratios(own, batch, tables, i)
        e, absorbing = advantages(own, batch, i, kappa, alpha)
        weight = [x / sum(rho) for x in rho]
        raised = [max(x, c.ratio_floor) for x in rho]
        floored = [x / sum(raised) for x in raised]
        nu_loss = nu_loss + nu_loss_of(own, batch, i, rho, e, absorbing, alpha)
        e_loss = e_loss + e_loss_of(own, batch, tables, i, weight, floored, e)
        policy_loss = policy_loss + policy_loss_of(own, batch, tables, i, floored, alpha)
        rhos += rho
        kappas += kappa

    losses = {"nu": (nu_loss, "nu"), "e": (e_loss, "e"), "policy": (policy_loss, "actor")}
    norms = own.step(moves=done >= c.pretrain, **losses)
    norms |= own.step(data=(data_loss, "data", "data_others"))
    return {
        "nu/loss": nu_loss,
        "e/loss": e_loss,
        "policy/loss": policy_loss,
        "data/loss": data_loss,
        "policy/rho": sum(rhos) / len(rhos),
        "policy/kappa": sum(kappas) / len(kappas),
        "policy/alpha": alpha,
        **norms,
    }


def data_loss_of(batch: Any, tables: Tables) -> Tensor:
    """Negative log likelihood of the data's actions, summed over all data policies."""
    loss = torch.zeros((), dtype=DOUBLE)
    for i, table in enumerate(tables.data):
        loss = loss - mean(row[batch.action[b, i]] for b, row in enumerate(table))
    for (_, j), table in tables.given.items():
        loss = loss - mean(row[batch.action[b, j]] for b, row in enumerate(table))
    return loss


def ratios(own: Replica, batch: Any, tables: Tables, i: int) -> tuple[list[float], list[float]]:
    """rho and kappa of agent i in every row."""
    rhos, kappas = [], []
    for b in range(len(batch.reward)):
        rho, kappa = 1.0, 0.0
        for j in range(own.spec.n_agents):
            if j == i:
                continue
            pi = tables.pi[j][b].exp().tolist()
            data = [p + 1e-10 for p in tables.given[i, j][b].exp().tolist()]
            a = int(batch.action[b, j])
            rho *= pi[a] / data[a]
            kappa += sum(p * math.log(p / q) for p, q in zip(pi, data, strict=True) if p > 0.0)
        rhos.append(min(rho, own.config.ratio_cap))
        kappas.append(kappa)
    return rhos, kappas


def nu_of(own: Replica, x: Tensor, i: int) -> Tensor:
    """nu_i of a state and its bit: two hidden layers and a head without bias."""
    (first, second), head = own.layers("nu.body", i), own.values["nu.head"][i, 0]
    h = torch.relu(torch.relu(x @ first[0] + first[1]) @ second[0] + second[1])
    return h @ head


def present(state: Tensor) -> Tensor:
    """A state of the task, followed by the bit that says so."""
    return torch.cat((state, torch.zeros(1, dtype=DOUBLE)))


def absorbing_state(own: Replica) -> Tensor:
    """Zeros, followed by the bit."""
    return one_hot(own.spec.state_size, own.spec.state_size + 1)


def advantages(
    own: Replica, batch: Any, i: int, kappa: Sequence[float], alpha: float
) -> tuple[list[Tensor], Tensor]:
    """e of every row, and that of the absorbing state."""
    c, absorbed = own.config, nu_of(own, absorbing_state(own), i)
    found = []
    for b in range(len(batch.reward)):
        after = nu_of(own, present(batch.next_state[b]), i) if batch.mask[b] > 0.0 else absorbed
        gain = c.reward_scale * batch.reward[b] - alpha * kappa[b]
        found.append(gain + c.gamma * after - nu_of(own, present(batch.state[b]), i))
    return found, c.gamma * absorbed - absorbed


def nu_loss_of(
    own: Replica,
    batch: Any,
    i: int,
    rho: Sequence[float],
    e: Sequence[Tensor],
    e_absorbing: Tensor,
    alpha: float,
) -> Tensor:
    """The dual's loss with one absorbing step for each terminal one, and the penalty on the slope."""
    c, rows = own.config, range(len(batch.reward))
    states = [nu_of(own, present(batch.state[b]), i) for b in rows]
    weights, exponents = list(rho), list(e)
    for b in rows:
        if batch.mask[b] == 0.0:
            weights.append(sum(rho) / len(rho))
            exponents.append(e_absorbing)
            states.append(nu_of(own, absorbing_state(own), i))
    total = sum(weights)
    summed = sum(w / total * (x / alpha).exp() for w, x in zip(weights, exponents, strict=True))
    slopes = []
    for state in states_between(batch):
        between = present(state).requires_grad_()
        (slope,) = torch.autograd.grad(nu_of(own, between, i), between, create_graph=True)
        slopes.append((slope**2).sum())
    return alpha * summed.log() + (1.0 - c.gamma) * mean(states) + c.gradient_penalty * mean(slopes)


def states_between(batch: Any) -> list[Tensor]:
    """One between each state of the batch's first half and its partner in the second, padding left out."""
    state, real = batch.state, [True] * len(batch.state)
    if hasattr(batch, "whole"):
        state = batch.whole.state[:, :-1].flatten(0, 1)
        real = batch.whole.filled.flatten().bool().tolist()
    half = len(state) // 2
    share = batch.noise["between"][0, :, 0]
    return [
        share[b] * state[b] + (1.0 - share[b]) * state[half + b]
        for b in range(half)
        if real[b] and real[half + b]
    ]


def e_loss_of(
    own: Replica,
    batch: Any,
    tables: Tables,
    i: int,
    weight: Sequence[float],
    floored: Sequence[float],
    e: Sequence[Tensor],
) -> Tensor:
    """The fit of e_i, and the push down on actions that the data lack."""
    loss = torch.zeros((), dtype=DOUBLE)
    for b in range(len(batch.reward)):
        values, action_mask = mlp(own.layers("e", i), batch.state[b]), batch.action_mask[b, i]
        likely = tables.data[i][b].exp().detach()
        gap = torch.logsumexp(values[action_mask], 0) - (likely * values).sum()
        loss = loss + floored[b] * (values[batch.action[b, i]] - e[b].item()) ** 2
        loss = loss + weight[b] * own.config.conservatism * gap
    return loss


def policy_loss_of(
    own: Replica, batch: Any, tables: Tables, i: int, floored: Sequence[float], alpha: float
) -> Tensor:
    """The divergence between the policy and the best answer, up to what has no gradient."""
    loss = torch.zeros((), dtype=DOUBLE)
    for b in range(len(batch.reward)):
        action_mask = batch.action_mask[b, i]
        values = mlp(own.layers("e", i), batch.state[b]).detach()[action_mask]
        pi, likely = tables.pi[i][b][action_mask], tables.data[i][b].detach()[action_mask]
        if own.config.projection == "forward":
            best = log_softmax(likely + values / alpha)
            loss = loss - floored[b] * (best.exp() * pi).sum()
        else:
            loss = loss + floored[b] * (pi.exp() * (alpha * (pi - likely) - values)).sum()
    return loss


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """Every agent's likeliest legal action."""
    return policies.act(own, "actor.network", past, per_agent=own.config.history == "mlp")
