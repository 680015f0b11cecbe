"""Teams of deterministic policies and their critics: what TD3+BC and MADDPG+CQL share (``td3_bc_ma``, section 2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import best_legal, mlp, one_hot, with_id
from tests.reference.harness import DOUBLE, Replica, Seen
from tests.reference.networks import over_time, sequences


def used(own: Replica) -> Tensor:
    """``[N, A]``: 1 for dimensions that an agent has."""
    rows = [torch.arange(own.spec.action_size) < size for size in own.spec.action_sizes]
    return torch.stack(rows).to(DOUBLE)


def actor_outputs(own: Replica, module: str, obs: Tensor) -> Tensor:
    """Before ``tanh`` or ``argmax``, in all rows: ``obs [B, T, N, O] -> [B, T, N, A]``."""
    if getattr(own.config, "variant", "") != "independent":
        return over_time(own, own.layers(module), obs)
    agents = range(own.spec.n_agents)
    inputs = [torch.stack([with_id(row[i], i, len(agents)) for row in obs.flatten(0, 1)]) for i in agents]
    outputs = torch.stack([mlp(own.layers(module, i), inputs[i]) for i in agents], dim=1)
    return outputs.reshape(*obs.shape[:3], -1)


def nearest(own: Replica, batch: Any, distances: Sequence[float]) -> tuple[Any, dict[str, Any]]:
    """Rows drawn by the distance of their joint action from the target policies' (specification ``pjap``)."""
    k = own.config.steepness
    weights = [min(max(math.exp(-((k * d) ** 2)), 1e-4), 1.0) ** 0.99 for d in distances]
    bounds = [sum(weights[: b + 1]) for b in range(len(weights))]
    drawn = [
        next(b for b, bound in enumerate(bounds) if float(u) * bounds[-1] < bound) for u in batch.noise["row"]
    ]
    fields = {name: value[drawn] for name, value in vars(batch).items() if name != "noise"}
    told = {
        "critic/action_distance": sum(distances[b] for b in drawn) / len(drawn),
        "critic/priority_ess": sum(weights) ** 2 / sum(w**2 for w in weights) / len(weights),
    }
    return SimpleNamespace(**fields, noise=batch.noise), told


def nearest_sequences(own: Replica, batch: Any) -> tuple[Any, dict[str, Any]]:
    """Those of :func:`nearest`, where the policies read sequences."""
    rows = sequences(batch)
    policy = torch.tanh(actor_outputs(own, "target_actor", rows.obs))
    distances = []
    for b in range(len(rows.action)):
        gaps = [
            (policy[b, t, i, d] - rows.action[b, t, i, d]).abs()
            for t in range(rows.action.shape[1])
            if (b, t) in rows.steps
            for i in range(own.spec.n_agents)
            for d in range(own.spec.action_sizes[i])
        ]
        distances.append(sum(gaps).item() / len(gaps))
    return nearest(own, batch, distances)


def data_action(own: Replica, action: Tensor) -> Tensor:
    """As critics read it: one-hot where discrete."""
    if not own.spec.discrete:
        return action
    vectors = [one_hot(int(a), own.spec.action_size) for a in action.flatten()]
    return torch.stack(vectors).reshape(*action.shape, -1)


def critic(
    own: Replica,
    module: str,
    member: int,
    rows: tuple[Tensor, Tensor | None],
    action: Tensor,
    others: Tensor | None = None,
    agent_id: bool = True,
) -> Tensor:
    """One critic's values of all agents.

    Args:
        own: with ``variant`` in its configuration: what the critics read.
        module: its name.
        member: of the twins.
        rows: ``obs [..., N, O]`` and ``state [..., S]``.
        action: ``[..., N, A]``, or ``[K, ..., N, A]``.
        others: what each agent takes the others to do, without gradient; None: ``action``.
        agent_id: whether joint critics read the agent's number.

    Returns:
        ``[..., N]`` or ``[K, ..., N]``.
    """
    (obs, state), agents = rows, range(own.spec.n_agents)
    leading, values = action.shape[:-2], []
    for i in agents:
        number = one_hot(i, len(agents)).expand(*leading, -1)
        if own.config.variant == "independent":
            layers = own.layers(module, member, i)
            values.append(mlp(layers, obs[..., i, :].expand(*leading, -1), number, action[..., i, :]))
            continue
        assert state is not None
        wide, layers = state.expand(*leading, -1), own.layers(module, member)
        if own.config.variant.startswith("iddpg"):
            values.append(mlp(layers, wide, number, action[..., i, :]))
            continue
        held = action if others is None else others.detach()
        joint = [action[..., k, :] if k == i else held[..., k, :] for k in agents]
        values.append(mlp(layers, wide, *([number] if agent_id else []), *joint))
    return torch.stack([value[..., 0] for value in values], dim=-1)


def straight_through(logits: Tensor, action_mask: Tensor, uniform: Tensor) -> Tensor:
    """``[A]``: in value one-hot, a Gumbel-softmax sample of the legal actions; the gradient is the softmax's."""
    choices = [a for a in range(len(logits)) if action_mask[a]]
    noisy = logits[choices] - torch.log(-torch.log(uniform[choices]))
    soft = torch.zeros(len(logits), dtype=DOUBLE).index_put((torch.tensor(choices),), torch.softmax(noisy, 0))
    hard = one_hot(choices[int(noisy.argmax())], len(logits))
    return hard + soft - soft.detach()


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """``tanh`` of the output in the last step, or the best legal action."""
    found = actor_outputs(own, "actor", torch.stack([seen.obs for seen in past]).unsqueeze(0))[0, -1]
    action_mask = past[-1].action_mask
    if action_mask is not None:
        return [best_legal(found[i], action_mask[i]) for i in range(own.spec.n_agents)]
    return list(torch.tanh(found))
