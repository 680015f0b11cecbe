"""BCQ-MA: specification ``bcq_ma``, sections 2 to 6."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.reference.blocks import linear, linear_mixer, log_softmax, mean, mixed, mlp
from tests.reference.deterministic import used
from tests.reference.harness import Case, Replica, Seen
from tests.reference.networks import numbers, over_time, qmix, sequences

SAMPLES: dict[str, Any] = {
    "target_samples": 3,
    "vae_hidden": 6,
    "phi": [0.05, 0.3],
    "min_weight": [0.75, 0.4],
}
SAMPLES |= {"kl_weight": [0.5, 2.0]}
FILTER: dict[str, Any] = {"threshold": [0.4, 0.8], "target_period": 2}
RNN: dict[str, Any] = {"history": "rnn", "sequence_length": 3}
WIDE = {"q": 2.0, "target_q": 2.0, "vae": 1.5}

CASES = [
    Case("continuous", SAMPLES, WIDE),
    Case("continuous", SAMPLES | {"vae_kl": "sum", "policy_mixer_weight": True}, WIDE | {"vae.decoder": 3.0}),
    Case("continuous", SAMPLES | {"vae_latent": "2n", "phi": [0.0, 0.9]}, WIDE),
    Case("discrete", FILTER),
    Case("discrete", FILTER | {"mixer": "vdn", "mask_train_logits": False}),
    Case("discrete", FILTER | {"mixer": "none", "target_period": 0}),
    Case("discrete", FILTER | RNN | {"memory_relu": True}),
    Case("discrete", FILTER | RNN | {"mixer": "none", "bcq_filter_at_eval": False, "threshold": [0.0, 1.0]}),
]
NEVER_VARIED = {"eval_samples": "how many candidates the policy draws when it is given random numbers"}


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """All losses from the same parameters."""
    return (update_discrete if own.spec.discrete else update_continuous)(own, batch)


def act(own: Replica, past: Sequence[Seen]) -> list[Any]:
    """The perturbed action of the latent's mean, or the best action that the clone allows."""
    return (act_discrete if own.spec.discrete else act_continuous)(own, past)


# ---- continuous ------------------------------------------------------------------------------------------


def encode(own: Replica, seen: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of the latent."""
    layers = own.layers("vae.encoder")
    hidden = torch.relu(mlp(layers, seen, action))
    (mean_head,), (log_std_head,) = own.layers("vae.mean"), own.layers("vae.log_std")
    return linear(mean_head, hidden), linear(log_std_head, hidden).clamp(-4.0, 15.0)


def decode(own: Replica, seen: Tensor, latent: Tensor) -> Tensor:
    """Actions of all dimensions, those that an agent lacks too."""
    return torch.tanh(mlp(own.layers("vae.decoder"), seen, latent))


def perturbed(own: Replica, module: str, seen: Tensor, action: Tensor) -> Tensor:
    """``clip(a + phi tanh f(o, a), -1, 1)``."""
    moved = action + own.config.phi * torch.tanh(mlp(own.layers(module), seen, action))
    return moved.clamp(-1.0, 1.0) * used(own)


def update_continuous(own: Replica, batch: Any) -> dict[str, Any]:
    """VAE, twin Q with one mixer, perturbation."""
    c, rows, agents = own.config, range(len(batch.obs)), range(own.spec.n_agents)
    seen = torch.cat((batch.obs, numbers(batch.obs)), dim=-1)
    next_seen = torch.cat((batch.next_obs, numbers(batch.next_obs)), dim=-1)

    mu, log_std = encode(own, seen, batch.action)
    copied = decode(own, seen, mu + log_std.exp() * batch.noise["encode"])
    errors, divergences = [], []
    for b in rows:
        for i in agents:
            sizes = range(own.spec.action_sizes[i])
            errors.append(mean((copied[b, i, d] - batch.action[b, i, d]) ** 2 for d in sizes))
            each = -0.5 * (1.0 + 2.0 * log_std[b, i] - mu[b, i] ** 2 - (2.0 * log_std[b, i]).exp())
            divergences.append(each.sum() if c.vae_kl == "sum" else each.mean())
    kl = mean(divergences)
    vae_loss = mean(errors) + c.kl_weight * kl

    judged = []
    for noise in batch.noise["target"]:
        action = decode(own, next_seen, noise.clamp(-0.5, 0.5))
        action = perturbed(own, "target_perturb", next_seen, action)
        pair = [mlp(own.layers("target_q", j), next_seen, action)[..., 0] for j in (0, 1)]
        judged.append(c.min_weight * torch.minimum(*pair) + (1.0 - c.min_weight) * torch.maximum(*pair))
    best = torch.stack(judged).max(0).values
    q = [mlp(own.layers("q", j), seen, batch.action)[..., 0] for j in (0, 1)]
    after = mixed(own.layers("target_mixer"), best, batch.next_state)
    totals = [mixed(own.layers("mixer"), values, batch.state) for values in q]
    weights = linear_mixer(own.layers("mixer"), batch.state)[0].detach()
    targets, terms = [], []
    for b in rows:
        targets.append((batch.reward[b] + c.gamma * batch.mask[b] * after[b]).detach())
        terms.append(sum((total[b] - targets[b]) ** 2 for total in totals))
    q_loss = mean(terms)

    action = perturbed(own, "perturb", seen, decode(own, seen, batch.noise["policy"].clamp(-0.5, 0.5)))
    improved = mlp(own.layers("q", 0), seen, action)[..., 0]
    shares = [weights[b, i] if c.policy_mixer_weight else 1.0 for b in rows for i in agents]
    policy_loss = -mean(share * value for share, value in zip(shares, improved.flatten(), strict=True))

    norms = own.step(policy=(policy_loss, "perturb"), q=(q_loss, "q", "mixer"), vae=(vae_loss, "vae"))
    for name in ("q", "mixer", "perturb"):
        own.soft_update(f"target_{name}", name, c.tau)
    return {
        "vae/loss": vae_loss,
        "vae/kl": kl,
        "q/loss": q_loss,
        "policy/loss": policy_loss,
        "q/total": mean(totals[0]),
        "q/target_total": mean(targets),
        **norms,
    }


def act_continuous(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Without random numbers there is one candidate."""
    obs = past[-1].obs
    seen = torch.cat((obs, numbers(obs)), dim=-1)
    latent = torch.zeros(len(obs), own.layers("vae.mean")[0][0].shape[1], dtype=obs.dtype)
    return list(perturbed(own, "perturb", seen, decode(own, seen, latent)))


# ---- discrete --------------------------------------------------------------------------------------------


def best_allowed(own: Replica, values: Tensor, logits: Tensor, action_mask: Tensor) -> int:
    """Best by ``values [A]`` of the legal actions at least ``threshold`` times as likely as the likeliest."""
    choices = [a for a in range(len(values)) if action_mask[a]]
    probabilities = log_softmax(logits[choices]).exp().tolist()
    least = own.config.threshold * max(probabilities)
    allowed = [a for a, p in zip(choices, probabilities, strict=True) if p >= least]
    return max(allowed, key=lambda a: values[a].item())


def team_value(own: Replica, team: str, values: list[Tensor], state: Tensor) -> Tensor:
    """The team's value of its agents'."""
    q = torch.stack(values)
    return q.sum() if own.config.mixer == "vdn" else qmix(own, f"{team}.mixer", q, state)


def update_discrete(own: Replica, batch: Any) -> dict[str, Any]:
    """The clone, and double Q among the actions that it allows."""
    c, rows, agents = own.config, sequences(batch), range(own.spec.n_agents)
    every = over_time(own, own.layers("team.agents"), rows.obs)
    target = over_time(own, own.layers("target.agents"), rows.obs)
    logits = over_time(own, own.layers("clone"), rows.obs)

    cloning, totals, targets = [], [], []
    for b, t in rows.steps:
        for i in agents:
            action_mask = rows.action_mask[b, t, i] if c.mask_train_logits else None
            cloning.append(-log_softmax(logits[b, t, i], action_mask)[rows.action[b, t, i]])
        taken = [every[b, t, i, rows.action[b, t, i]] for i in agents]
        after = []
        for i in agents:
            row = (b, t + 1, i)
            after.append(target[row][best_allowed(own, every[row], logits[row], rows.action_mask[row])])
        goes_on = c.gamma * rows.mask[b, t]
        if c.mixer == "none":
            totals += taken
            targets += [(rows.agent_reward[b, t, i] + goes_on * after[i]).detach() for i in agents]
        else:
            totals.append(team_value(own, "team", taken, rows.state[b, t]))
            following = team_value(own, "target", after, rows.state[b, t + 1])
            targets.append((rows.reward[b, t] + goes_on * following).detach())
    clone_loss = mean(cloning)
    q_loss = mean(0.5 * (total - y) ** 2 for total, y in zip(totals, targets, strict=True))
    norms = own.step(q=(q_loss, "team"), clone=(clone_loss, "clone"))

    updates = own.memory["updates"] = own.memory.get("updates", 0) + 1
    if not c.target_period:
        own.soft_update("target", "team", c.tau)
    elif updates % c.target_period == 0:
        own.hard_update("target", "team")
    return {
        "q/loss": q_loss,
        "clone/loss": clone_loss,
        "q/total": mean(totals),
        "q/target_total": mean(targets),
        **norms,
    }


def act_discrete(own: Replica, past: Sequence[Seen]) -> list[int]:
    """Best of the allowed or (``bcq_filter_at_eval`` False) of the legal actions."""
    obs, action_mask = torch.stack([seen.obs for seen in past]), past[-1].action_mask
    assert action_mask is not None
    values = over_time(own, own.layers("team.agents"), obs)[-1]
    logits = over_time(own, own.layers("clone"), obs)[-1]
    if not own.config.bcq_filter_at_eval:
        logits = torch.zeros_like(logits)  # all legal actions alike: none falls below the threshold
    return [best_allowed(own, values[i], logits[i], action_mask[i]) for i in range(own.spec.n_agents)]
