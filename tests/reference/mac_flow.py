"""MAC-Flow: specification ``mac_flow`` with the departures of the method's text, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, log_softmax, mean, mlp, one_hot, with_id
from tests.reference.deterministic import used
from tests.reference.harness import DOUBLE, Case, Replica, Seen
from tests.reference.networks import gru_net, sequences

SMALL: dict[str, Any] = {"layers": 2, "flow_steps": 3, "alpha": [3.0, 0.4]}
RNN: dict[str, Any] = {"history": "rnn", "sequence_length": 3, "batch_size": 4, "memory_relu": True}
FLOW: dict[str, Any] = {"deploy": "flow", "eval_steps": 4}
WIDE = {"student": 1.5, "flow": 1.5, "target_q": 2.0}

CASES = [
    Case("continuous", SMALL, WIDE),
    Case("continuous", {**SMALL, **FLOW, "noise": "shared", "normalize_q": True}, WIDE),
    Case("continuous", {"layers": 3, "noise": "per_episode"}, WIDE),
    Case("discrete", {**SMALL, "noise": "zero"}, WIDE),
    Case("discrete", {**SMALL, **RNN}, WIDE),
    Case("continuous", {**SMALL, **RNN, "noise": "zero"}, WIDE),
    Case("discrete", {**SMALL, **FLOW, "noise": "shared", "normalize_q": True}, WIDE),
    Case("discrete", {**SMALL, "noise": "per_episode", "batch_size": 3}, WIDE),
]
PAIRED = "closed forms of the pairing of noise and actions are in tests/test_coupling.py"
NEVER_VARIED = dict.fromkeys(("coupling", "contexts", "modes"), PAIRED)


def students(own: Replica, obs: Tensor, z: Tensor) -> Tensor:
    """Outputs of all students in all rows: ``obs [B, T, N, O]``, noise ``[B, T, N, A] -> [B, T, N, A]``."""
    n, inputs = own.spec.n_agents, []
    for i in range(n):
        noise = z.flatten(-2) if own.config.noise == "shared" else z[:, :, i]
        number = one_hot(i, n).expand(*obs.shape[:2], -1)
        inputs.append(torch.cat((obs[:, :, i], noise, number), dim=-1))
    x = torch.stack(inputs, dim=2)
    if own.config.history == "rnn":
        return gru_net(own.layers("student"), x.movedim(1, 0), rectified=own.config.memory_relu).movedim(0, 1)
    return mlp(own.layers("student"), x)


def kept(own: Replica, z: Tensor) -> Tensor:
    """The students' noise ``[B, T, N, A]``, the first of every sequence throughout where they keep it."""
    if own.config.history == "rnn" and own.config.noise in ("per_episode", "zero"):
        return torch.stack([torch.stack([sequence[0]] * z.shape[1]) for sequence in z])
    return z


def velocity(own: Replica, obs: Tensor, x: Tensor, t: float) -> Tensor:
    """Of a joint point ``x [N A]`` at one time, given all observations ``[N, O]``."""
    x = x * used(own).flatten()
    angles = [math.pi * 2**k * t for k in range(4)]
    features = [t, *(math.sin(a) for a in angles), *(math.cos(a) for a in angles)]
    return mlp(own.layers("flow"), obs.flatten(), x, torch.tensor(features, dtype=DOUBLE))


def carried(own: Replica, obs: Tensor, z: Tensor, steps: int) -> Tensor:
    """The joint action ``[N, A]`` that the flow makes of noise."""
    x = z.flatten()
    for k in range(steps):
        x = x + velocity(own, obs, x, k / steps) / steps
    return x.reshape(z.shape).detach()


def values(own: Replica, module: str, obs: Tensor, i: int) -> list[Tensor]:
    """Both critics' values of all actions of agent i (discrete)."""
    seen = with_id(obs[i], i, own.spec.n_agents)
    return [mlp(own.layers(module, k), seen) for k in (0, 1)]


def expected(own: Replica, module: str, obs: Tensor, out: Tensor, action_mask: Any) -> Tensor:
    """The team's value of students' outputs ``[N, A]`` in one step."""
    total = torch.zeros((), dtype=DOUBLE)
    for i in range(own.spec.n_agents):
        if own.spec.discrete:
            chance = log_softmax(out[i], action_mask[i]).exp()
            total = total + mean((chance * q).sum() for q in values(own, module, obs, i))
            continue
        action, seen = out[i].clamp(-1.0, 1.0) * used(own)[i], with_id(obs[i], i, own.spec.n_agents)
        total = total + mean(mlp(own.layers(module, k), seen, action)[0] for k in (0, 1))
    return total


def taken(own: Replica, obs: Tensor, action: Tensor, k: int) -> Tensor:
    """The team's value of the data's action by critic k."""
    n = own.spec.n_agents
    if own.spec.discrete:
        return torch.stack([values(own, "q", obs, i)[k][int(action[i])] for i in range(n)]).sum()
    return torch.stack([mlp(own.layers("q", k), with_id(obs[i], i, n), action[i])[0] for i in range(n)]).sum()


def error(own: Replica, found: Tensor, wanted: Tensor, i: int) -> Tensor:
    """Mean squared difference over the dimensions of agent i."""
    return mean((found[i, d] - wanted[i, d]) ** 2 for d in range(own.spec.action_sizes[i]))


def distance(own: Replica, out: Tensor, teacher: Tensor, action_mask: Any) -> Tensor:
    """Of the students from the flow's action, summed over agents."""
    agents = range(own.spec.n_agents)
    if own.spec.discrete:
        log_pi = [log_softmax(out[i], action_mask[i]) for i in agents]
        return -torch.stack([log_pi[i][best_legal(teacher[i], action_mask[i])] for i in agents]).sum()
    return torch.stack([error(own, out, teacher.clamp(-1.0, 1.0), i) for i in agents]).sum()


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Flow, critics and students from the same parameters; the target."""
    c, rows, noise = own.config, sequences(batch), batch.noise
    z = kept(own, noise["student"])
    out, length = students(own, rows.obs, z), rows.action.shape[1]
    flow, critic, raised, apart, targets = [], [], [], [], []
    for b, t in rows.steps:
        obs, action, m = rows.obs[b, t], rows.action[b, t], b * length + t
        data = (
            torch.stack([one_hot(int(a), own.spec.action_size) for a in action])
            if own.spec.discrete
            else action
        )
        start, time = noise["start"][m], float(noise["time"][m])
        between = (1.0 - time) * start + time * data
        speed = velocity(own, obs, between.flatten(), time).reshape(data.shape)
        flow.append(mean(error(own, speed, data - start, i) for i in range(own.spec.n_agents)))

        masks = [rows.action_mask[b, t + k] if own.spec.discrete else None for k in (0, 1)]
        after = expected(own, "target_q", rows.obs[b, t + 1], out[b, t + 1], masks[1]).detach()
        y = rows.reward[b, t] + c.gamma * rows.mask[b, t] * after
        targets.append(y)
        critic.append(mean((taken(own, obs, action, k) - y) ** 2 for k in (0, 1)))

        raised.append(expected(own, "q", obs, out[b, t], masks[0]))
        teacher = carried(own, obs, z[b, t], c.flow_steps)
        apart.append(distance(own, out[b, t], teacher, masks[0]))
    size = mean(value.detach().abs() for value in raised) if c.normalize_q else 1.0
    parts = {
        "flow/loss": mean(flow),
        "critic/loss": mean(critic),
        "student/loss": c.alpha * mean(apart) - mean(raised) / size,
    }
    norms = own.step(
        flow=(parts["flow/loss"], "flow"),
        critic=(parts["critic/loss"], "q"),
        student=(parts["student/loss"], "student"),
    )
    own.soft_update("target_q", "q", c.tau)
    return {**parts, "student/distillation": mean(apart), "critic/target_total": mean(targets), **norms}


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """The students' actions, or the flow's, without noise."""
    n, a, now = own.spec.n_agents, own.spec.action_size, past[-1]
    obs = torch.stack([seen.obs for seen in past]).unsqueeze(0)
    found = students(own, obs, torch.zeros(1, len(past), n, a, dtype=DOUBLE))[0, -1]
    if own.config.deploy == "flow":
        found = carried(own, now.obs, torch.zeros(n, a, dtype=DOUBLE), own.config.eval_steps)
    if now.action_mask is not None:
        return [best_legal(found[i], now.action_mask[i]) for i in range(n)]
    return list(found.clamp(-1.0, 1.0) * used(own))
