"""MOMA-PPO: the specification ``moma_ppo``, parts 1 to 4, with the departures of the texts, in plain loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.reference.blocks import mean, mlp
from tests.reference.harness import DOUBLE, Case, Replica, Seen

SIZES: dict[str, Any] = {"members": 3, "elites": 2, "model_hidden": 6, "model_layers": 2, "model_batch": 5}
ROLLOUTS: dict[str, Any] = {"starts": 4, "rollout_horizon": 3, "epochs": 2, "batch_size": 5}
OTHER = {"members": 2, "elites": 2, "model_hidden": 5, "model_layers": 1, "model_batch": 7}
FLOATS: dict[str, Any] = {
    **{"model_lr": [1e-2, 3e-3], "penalty_ensemble": [0.0, 0.4], "penalty_aleatoric": [0.3, 0.1]},
    **{"penalty_reward": [0.2, 0.05], "gae_lambda": [0.9, 0.5], "clip": [0.2, 0.01], "entropy": [0.1, 0.0]},
    **{"entropy_step": [0.05, 1e-3], "entropy_target": [-2.0, 9.0]},
}
CASES = [
    Case("continuous", {**SIZES, **ROLLOUTS, **FLOATS, "model_updates": 2, "threshold": [2.5, 4.0]}),
    Case(
        "continuous",
        {
            **{
                **OTHER,
                **FLOATS,
                "starts": 6,
                "rollout_horizon": 2,
                "epochs": 1,
                "batch_size": 4,
                "model_updates": 1,
            },
            **{"standardize": False, "residual": False, "threshold": [0.0, 100.0]},
        },
        {"actor": 4.0},
        agent_rewards=False,
    ),
    Case("continuous", {**SIZES, **ROLLOUTS, **FLOATS, "model_updates": 9, "elites": 3, "residual": False}),
    Case(
        "continuous",
        {
            **SIZES,
            **ROLLOUTS,
            **FLOATS,
            "model_updates": 1,
            "threshold": [2.5, 4.0],
            "memory": 3,
            "memory_size": 4,
        },
        {"actor": 4.0},
    ),
    Case(
        "continuous",
        {
            **SIZES,
            **ROLLOUTS,
            **FLOATS,
            **{"model_updates": 1, "threshold": [2.5, 4.0], "memory": 2, "memory_size": 6},
            **{"scale_inputs": True, "standardize_actions": True, "start_std": [0.3, 0.05]},
        },
    ),
]
NEVER_VARIED = {
    "model": "the simulator, which these data do not have; see tests/test_moma_ppo.py",
    "world_model": "a file, which takes the place of the first stage; see tests/test_saved_models.py",
}
LOG_STD = (-6.0, 2.0)


# ---- the world model ---------------------------------------------------------------------------------------


def prepare(own: Replica, data: Any, drawn: Any) -> None:
    """Center, spread, least and largest value of every column."""
    frames = data.obs.reshape(len(data.obs), -1).astype(np.float64)
    steps = [row for row in range(len(data.obs)) if row not in set(data.ends)]
    rewards = np.stack([np.broadcast_to(data.reward[row], own.spec.n_agents) for row in steps])
    tables = [("", frames), ("reward_", rewards.astype(np.float64))]
    if own.config.standardize_actions:
        tables.append(("action_", data.action[steps].reshape(len(steps), -1).astype(np.float64)))
    for prefix, table in tables:
        for column, values in enumerate(table.T):
            low, high = min(values), max(values)
            center, spread = (0.0, 1.0) if not own.config.standardize else (values.mean(), values.std())
            if low == high:
                center, spread = low, 0.0
            for name, value in (("center", center), ("spread", spread), ("low", low), ("high", high)):
                own.values[f"world.{prefix}{name}"][column] = value
    if own.config.scale_inputs:
        center, spread = own.values["scale.center"], own.values["scale.spread"]
        center.copy_(own.values["world.center"].view_as(center))
        spread.copy_(torch.tensor([s if s > 0 else 1.0 for s in own.values["world.spread"]]).view_as(spread))


def scaled(own: Replica, i: int, obs: Tensor, centered: bool = True) -> Tensor:
    """Agent i's observation as its networks see it: standardized if that is asked for, within 5 deviations."""
    if not own.config.scale_inputs:
        return obs
    found = []
    for k, x in enumerate(obs, start=i * len(obs)):
        center, spread = (own.values[f"world.{name}"][k] for name in ("center", "spread"))
        found.append(((x - center if centered else x) / (spread if spread > 0 else 1.0)).clamp(-5.0, 5.0))
    return torch.stack(found)


def standardized(own: Replica, values: Tensor, prefix: str = "") -> Tensor:
    """In units of the spread; 0 where nothing varies."""
    center, spread = own.values[f"world.{prefix}center"], own.values[f"world.{prefix}spread"]
    return torch.stack(
        [(v - c) / s if s > 0 else 0.0 * v for v, c, s in zip(values, center, spread, strict=True)]
    )


def outputs(own: Replica, k: int, frame: Tensor, action: Tensor) -> SimpleNamespace:
    """Member k at one frame ``[D]`` and joint action ``[N, A]``, in units of the spread."""
    done = action.clamp(1e-5 - 1.0, 1.0 - 1e-5).flatten()
    if own.config.standardize_actions:
        done = standardized(own, done, "action_")
    inputs = torch.cat((standardized(own, frame), done))
    change, log_std = mlp(own.layers("world.dynamics", k), inputs).chunk(2)
    gain, gain_log_std = mlp(own.layers("world.reward", k), inputs).chunk(2)
    logits = mlp(own.layers("world.alive", k), inputs)
    return SimpleNamespace(
        change=change, log_std=log_std.clamp(*LOG_STD), logits=logits,
        gain=gain, gain_log_std=gain_log_std.clamp(*LOG_STD),
    )  # fmt: skip


def nll(mu: Tensor, log_std: Tensor, y: Tensor, spread: Tensor) -> Tensor:
    """Without constant, over the columns that vary."""
    terms = [
        2.0 * log_std[d] + ((y[d] - mu[d]) / log_std[d].exp()) ** 2 for d in range(len(y)) if spread[d] > 0
    ]
    return 0.5 * mean(terms)


def distance(mu: Tensor, y: Tensor, spread: Tensor) -> float:
    """Over the columns that vary."""
    return math.sqrt(sum(float((y[d] - mu[d]).detach()) ** 2 for d in range(len(y)) if spread[d] > 0))


def update_model(own: Replica, batch: Any) -> dict[str, Any]:
    """One step of all members."""
    c, losses = own.config, []
    spread, reward_spread = own.values["world.spread"], own.values["world.reward_spread"]
    for k in range(c.members):
        terms, error, held = [], 0.0, 0.0
        for b in range(k * c.model_batch, (k + 1) * c.model_batch):
            frame, after = batch.obs[b].flatten(), batch.next_obs[b].flatten()
            out = outputs(own, k, frame, batch.action[b])
            y = standardized(own, after)
            if c.residual:
                y = y - standardized(own, frame)
            r = standardized(own, batch.agent_reward[b], "reward_")
            if batch.held_out[b] == 1.0:
                held += 1.0
                error += distance(out.change, y, spread) + distance(out.gain, r, reward_spread)
                continue
            alive = torch.sigmoid(out.logits)
            bce = -mean(torch.log(alive) if batch.mask[b] else torch.log(1.0 - alive))
            terms.append(
                nll(out.change, out.log_std, y, spread)
                + nll(out.gain, out.gain_log_std, r, reward_spread)
                + bce
            )
        losses.append(mean(terms))
        kept = own.values["world.errors"][k]
        kept.copy_(0.98 * kept + torch.tensor([error, held], dtype=DOUBLE))
    norms = own.step({"world": c.model_lr}, world=(sum(losses), "world"))
    return {"world/loss": mean(losses), "world/held_out_error": float(np.mean(scores(own))), **norms}


def scores(own: Replica) -> list[float]:
    """Every member's error on held-out episodes."""
    return [float(e / w) if w > 0 else 0.0 for e, w in own.values["world.errors"]]


class World:
    """The best members.

    Args:
        own: the replica.
    """

    def __init__(self, own: Replica) -> None:
        found = scores(own)
        self.own, order = own, sorted(range(len(found)), key=lambda k: found[k])
        self.members = order[: own.config.elites]

    def step(self, frame: Tensor, action: Tensor, uniform: float) -> SimpleNamespace:
        """What one step leads to, and how uncertain that is."""
        own, values = self.own, self.own.values
        frames, stds, rewards, alive = [], [], [], []
        for k in self.members:
            out = outputs(own, k, frame, action)
            base = frame if own.config.residual else values["world.center"]
            frames.append(base + values["world.spread"] * out.change)
            stds.append(values["world.spread"] * out.log_std.exp())
            rewards.append(values["world.reward_center"] + values["world.reward_spread"] * out.gain)
            alive.append(torch.sigmoid(out.logits).mean())
        team = [reward.mean() for reward in rewards]
        k = min(int(uniform * len(self.members)), len(self.members) - 1)
        clipped = [
            torch.stack([min(max(x, lo), hi) for x, lo, hi in zip(row, low, high, strict=True)])
            for row, low, high in (
                (frames[k], values["world.low"], values["world.high"]),
                (rewards[k], values["world.reward_low"], values["world.reward_high"]),
            )
        ]
        joint = np.stack([np.append(f.numpy(), float(t)) for f, t in zip(frames, team, strict=True)])
        enough = len(self.members) > 1
        return SimpleNamespace(
            frame=clipped[0],
            reward=float(clipped[1].mean()),
            mask=float(alive[k] > 0.5),
            ensemble=float(np.linalg.norm(np.cov(joint.T))) if enough else math.nan,
            aleatoric=max(math.sqrt(float((s**4).sum())) for s in stds),
            variance=float(np.var([float(t) for t in team], ddof=1)) if enough else math.nan,
        )


# ---- the policies ------------------------------------------------------------------------------------------


def remembered(obs: Tensor, action: Tensor) -> Tensor:
    """What one agent keeps of a step."""
    return torch.cat((obs, action.clamp(1e-5 - 1.0, 1.0 - 1e-5)))


def affine(own: Replica, module: str, i: int, x: Tensor) -> Tensor:
    """Agent i's linear map."""
    ((weight, bias),) = own.layers(f"encoder.{module}", i)
    return x @ weight + bias


def seen(own: Replica, i: int, obs: Tensor, past: Sequence[Tensor]) -> Tensor:
    """What agent i's policy and value read; ``past`` holds its last steps, the oldest first."""
    size_of_obs, obs = len(obs), scaled(own, i, obs)
    if not own.config.memory:
        return obs
    past = [torch.cat((scaled(own, i, p[:size_of_obs], False), p[size_of_obs:])) for p in past]
    size, tokens, read = own.config.memory_size, [], []
    for m, step in enumerate(past):
        token = affine(own, "embed", i, step).clone()
        for d in range(size):
            angle = m / 10_000.0 ** ((d - d % 2) / size)
            token = token + math.sin(angle + (math.pi / 2.0) * (d % 2)) * torch.eye(size, dtype=DOUBLE)[d]
        tokens.append(token)
    for token in tokens:
        query = affine(own, "query", i, token)
        weights = [torch.exp(query @ other / math.sqrt(size)) for other in tokens]
        found = sum(w * affine(own, "value", i, other) for w, other in zip(weights, tokens, strict=True))
        y = token + found / sum(weights)
        y = (y - y.mean()) / torch.sqrt(((y - y.mean()) ** 2).mean() + 1e-5)
        read.append(own.values["encoder.norm.scale"][i] * y + own.values["encoder.norm.offset"][i])
    scores = [own.values["encoder.wanted"][i] @ torch.tanh(affine(own, "score", i, y)) for y in read]
    shares = [torch.exp(score) for score in scores]
    pooled = sum(share * y for share, y in zip(shares, read, strict=True)) / sum(shares)
    return torch.cat((obs, pooled))


def heads(own: Replica, i: int, obs: Tensor, past: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation of agent i, over the dimensions that it has."""
    mu, log_std = mlp(own.layers("actor.net.network", i), seen(own, i, obs, past)).chunk(2)
    size = own.spec.action_sizes[i]
    return mu[:size], log_std.clamp(-6.0, 0.0)[:size]


def log_density(own: Replica, frame: Tensor, action: Tensor, past: Any) -> tuple[Tensor, Tensor]:
    """Of the joint action, and how far the means leave the box."""
    total, outside = torch.zeros((), dtype=DOUBLE), torch.zeros((), dtype=DOUBLE)
    for i, obs in enumerate(frame.reshape(own.spec.n_agents, -1)):
        mu, log_std = heads(own, i, obs, past[i])
        deviation = (action[i, : len(mu)] - mu) / log_std.exp()
        total = total + (-0.5 * deviation**2 - log_std - 0.5 * math.log(2.0 * math.pi)).sum()
        outside = outside + sum((1.0 - abs(m)) ** 2 for m in mu if abs(float(m.detach())) > 1.0)
    return total, outside


def value(own: Replica, frame: Tensor, past: Any) -> Tensor:
    """V of a joint observation."""
    parts = frame.reshape(own.spec.n_agents, -1)
    mixer = mlp(own.layers("mixer"), torch.cat([scaled(own, i, obs) for i, obs in enumerate(parts)]))
    each = [
        mlp(own.layers("values.network", i), seen(own, i, obs, past[i]))[0]
        for i, obs in enumerate(frame.reshape(own.spec.n_agents, -1))
    ]
    return sum((w * v for w, v in zip(mixer, each, strict=False)), mixer[-1])


@torch.no_grad()
def rollouts(own: Replica, batch: Any) -> list[list[SimpleNamespace]]:
    """One list of steps for each start."""
    c, world, spec = own.config, World(own), own.spec
    found = []

    def known(row: int) -> list[list[Tensor]]:  # by agent, the steps before a step of the data
        if not c.memory:
            return [[] for _ in range(spec.n_agents)]
        past = zip(batch.past_obs[row], batch.past_action[row], strict=True)
        steps = [(obs, action) for obs, action in past]
        return [[remembered(obs[i], action[i]) for obs, action in steps] for i in range(spec.n_agents)]

    for s in range(c.starts):
        steps, frame = [], batch.obs[s * c.rollout_horizon].flatten()
        past = known(s * c.rollout_horizon)
        for t in range(c.rollout_horizon):
            action = torch.zeros(spec.n_agents, spec.action_size, dtype=DOUBLE)
            for i, obs in enumerate(frame.reshape(spec.n_agents, -1)):
                mu, log_std = heads(own, i, obs, past[i])
                action[i, : len(mu)] = mu + log_std.exp() * batch.noise["action"][s, t, i, : len(mu)]
            out = world.step(frame, action, float(batch.noise["member"][s, t]))
            over = out.mask == 0.0 or out.ensemble > c.threshold
            paid = out.reward - sum(
                weight * min(measure, c.threshold)
                for weight, measure in (
                    (c.penalty_ensemble, out.ensemble),
                    (c.penalty_aleatoric, out.aleatoric),
                    (c.penalty_reward, out.variance),
                )
            )
            each = enumerate(zip(frame.reshape(spec.n_agents, -1), action, strict=True))
            later = [[*past[i], remembered(obs, a)][1:] if c.memory else [] for i, (obs, a) in each]
            steps.append(
                SimpleNamespace(
                    frame=frame, action=action, reward=out.reward, paid=paid, mask=out.mask, past=past,
                    ends=over or t == c.rollout_horizon - 1, value=value(own, frame, past),
                    after=value(own, out.frame, later), log_prob=log_density(own, frame, action, past)[0],
                )
            )  # fmt: skip
            frame, past = out.frame, later
            if over and t < c.rollout_horizon - 1:
                frame, past = (
                    of(s * c.rollout_horizon + t + 1) for of in (lambda k: batch.obs[k].flatten(), known)
                )
        found.append(steps)
    return found


def evaluate(own: Replica, steps: Sequence[SimpleNamespace]) -> None:
    """Advantages and returns of one rollout, from its last step back."""
    c, advantage, back = own.config, 0.0, 0.0
    for step in reversed(steps):
        going = 0.0 if step.ends else 1.0
        error = step.paid + c.gamma * step.mask * step.after - step.value
        advantage = error + c.gamma * c.gae_lambda * going * advantage
        back = step.paid + c.gamma * step.mask * (going * back + (1.0 - going) * step.after)
        step.advantage, step.target = advantage, back


def update_policy(own: Replica, batch: Any) -> dict[str, Any]:
    """Rollouts, then PPO on the team's ratio."""
    c, found = own.config, rollouts(own, batch)
    for rollout in found:
        evaluate(own, rollout)
    steps = [step for rollout in found for step in rollout]
    raw = torch.tensor([float(step.advantage) for step in steps], dtype=DOUBLE)
    for step, a in zip(steps, (raw - raw.mean()) / (raw.std() + 1e-3), strict=True):
        step.advantage = float(a)
    for order in batch.noise["order"].argsort(-1):
        for first in range(0, len(steps) // c.batch_size * c.batch_size, c.batch_size):
            rows = [steps[int(row)] for row in order[first : first + c.batch_size]]
            told = losses(own, rows)
            alpha, entropy = own.values["alpha"], told["policy/entropy"]
            loss = told["policy/loss"] + told["critic/loss"] + told["policy/bound_loss"] - alpha * entropy
            modules = ("actor", "values", "mixer", *(["encoder"] if c.memory else []))
            norms = own.step(team=(loss, *modules))
            change = c.entropy_step * (c.entropy_target - float(entropy.detach()))
            alpha.fill_(max(0.0, float(alpha) + change))
    means = {
        "world/reward": np.mean([step.reward for step in steps]),
        "world/penalty": np.mean([step.reward - step.paid for step in steps]),
        "world/rollout_ends": np.mean([float(step.ends) for step in steps]),
    }
    return {**means, **told, "policy/alpha": float(own.values["alpha"]), **norms}


def losses(own: Replica, rows: Sequence[SimpleNamespace]) -> dict[str, Tensor]:
    """The terms of L on one minibatch, and H."""
    c = own.config
    gains, plain, cautious, free, bound = [], [], [], [], []
    densities: list[tuple[Tensor, Tensor]] = []
    for row in rows:
        log_prob, outside = log_density(own, row.frame, row.action, row.past)
        ratio = torch.exp((log_prob - row.log_prob).clamp(max=10.0))
        near = ratio.clamp(1.0 - c.clip, 1.0 + c.clip)
        gains.append(torch.minimum(ratio * row.advantage, near * row.advantage))
        v = value(own, row.frame, row.past)
        plain.append((v - row.target) ** 2)
        cautious.append((row.value + (v - row.value).clamp(-c.clip, c.clip) - row.target) ** 2)
        densities.append((ratio * log_prob, near * log_prob))
        free.append(ratio * outside)
        bound.append(near * outside)
    return {
        "policy/loss": -mean(gains),
        "critic/loss": 0.5 * torch.maximum(mean(plain), mean(cautious)),
        "policy/bound_loss": torch.maximum(mean(free), mean(bound)),
        "policy/entropy": torch.minimum(-mean(a for a, _ in densities), -mean(b for _, b in densities)),
    }


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """The world model first, then the policies."""
    done = own.memory.get("updates", 0)
    own.memory["updates"] = done + 1
    return update_model(own, batch) if done < own.config.model_updates else update_policy(own, batch)


def act(own: Replica, past: Sequence[Seen]) -> list[Tensor]:
    """Means, clipped to the box; zero for what an agent does not have."""
    found, memory = [], own.config.memory
    for i in range(own.spec.n_agents):
        nothing = torch.zeros(own.spec.obs_size + own.spec.action_size, dtype=DOUBLE)
        steps = [remembered(step.obs[i], step.action[i]) for step in past[:-1] if step.action is not None]
        steps = [*[nothing] * memory, *steps][len(steps) :] if memory else []
        mu, _ = heads(own, i, past[-1].obs[i], steps)
        padding = torch.zeros(own.spec.action_size - len(mu), dtype=DOUBLE)
        found.append(torch.cat((mu.clamp(-1.0, 1.0), padding)))
    return found
