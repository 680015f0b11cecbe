"""OM2P: specification ``om2p`` with the identity in its right form, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import mean, mlp, with_id
from tests.reference.deterministic import used
from tests.reference.harness import DOUBLE, Case, Replica, Seen

WIDE = {"actor": 1.5, "target_q": 2.0}
CASES = [
    Case("continuous", {"layers": 2, "q_weight": [1.0, 0.2], "flow_share": [0.3, 0.6]}, WIDE),
    Case("continuous", {"layers": 3, "normalize_q": True, "eval_steps": 4}, WIDE),
]


def features(t: Tensor) -> Tensor:
    """A time with its sines and cosines."""
    angles = [math.pi * 2**k * t for k in range(4)]
    return torch.stack([t, *(torch.sin(a) for a in angles), *(torch.cos(a) for a in angles)])


def average(own: Replica, obs: Tensor, i: int, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
    """Agent i's mean velocity from t to s at x."""
    return mlp(own.layers("actor", i), obs[i], x * used(own)[i], features(t), features(s))


def wanted(own: Replica, obs: Tensor, i: int, x: Tensor, times: tuple[Tensor, Tensor], v: Tensor) -> Tensor:
    """The identity, with whole Jacobians."""
    (t, s), inputs = times, (x, times[0])
    by_x, by_t = torch.autograd.functional.jacobian(lambda x, t: average(own, obs, i, x, t, s), inputs)
    return v - (t - s) * (by_x @ v + by_t)


def made(own: Replica, obs: Tensor, i: int, z: Tensor, steps: int) -> Tensor:
    """Agent i's action of noise, before clipping."""
    x = z
    for k in range(steps):
        t, s = (torch.tensor(place / steps, dtype=DOUBLE) for place in (k, k + 1))
        x = x + (s - t) * average(own, obs, i, x, t, s)
    return x


def action(own: Replica, obs: Tensor, i: int, z: Tensor, steps: int = 1) -> Tensor:
    """Agent i's action of noise."""
    return made(own, obs, i, z, steps).clamp(-1.0, 1.0) * used(own)[i]


def values(own: Replica, module: str, obs: Tensor, i: int, taken: Tensor) -> list[Tensor]:
    """Both critics of agent i."""
    seen = with_id(obs[i], i, own.spec.n_agents)
    return [mlp(own.layers(module, k, i), seen, taken)[0] for k in (0, 1)]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """Policies and critics from the same parameters; the target."""
    c, n, drawn = own.config, own.spec.n_agents, batch.noise
    rows = range(len(batch.obs))
    flow, raised, critic, targets = [], [], [], []
    for i in range(n):
        found = []
        for b in rows:
            obs, t = batch.obs[b], drawn["t"][b, i, 0]
            s = t if drawn["same"][b, i, 0] < c.flow_share else drawn["s"][b, i, 0]
            start, data = drawn["start"][b, i] * used(own)[i], batch.action[b, i] * used(own)[i]
            x, v = (1.0 - t) * start + t * data, data - start
            gap = average(own, obs, i, x, t, s) - wanted(own, obs, i, x, (t, s), v).detach()
            flow.append(mean(gap[d] ** 2 for d in range(own.spec.action_sizes[i])))

            found.append(mean(values(own, "q", obs, i, action(own, obs, i, drawn["now"][b, i]))))

            after = action(own, batch.next_obs[b], i, drawn["next"][b, i])
            q_after = mean(values(own, "target_q", batch.next_obs[b], i, after))
            y = (batch.agent_reward[b, i] + c.gamma * batch.mask[b] * q_after).detach()
            targets.append(y)
            critic.append(mean((q - y) ** 2 for q in values(own, "q", obs, i, batch.action[b, i])))
        size = mean(q.detach().abs() for q in found) if c.normalize_q else 1.0
        raised += [q / size for q in found]
    parts = {
        "flow/loss": mean(flow),
        "policy/loss": mean(flow) - c.q_weight * mean(raised),
        "critic/loss": mean(critic),
    }
    norms = own.step(policy=(parts["policy/loss"], "actor"), critic=(parts["critic/loss"], "q"))
    own.soft_update("target_q", "q", c.tau)
    return {**parts, "critic/target": mean(targets), **norms}


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """The action of no noise."""
    zero = torch.zeros(own.spec.action_size, dtype=DOUBLE)
    return [action(own, past[-1].obs, i, zero, own.config.eval_steps) for i in range(own.spec.n_agents)]
