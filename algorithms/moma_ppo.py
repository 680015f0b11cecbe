"""MOMA-PPO: model-based offline multi-agent PPO, which lets a team practice in a model of the data.

Barde et al., "A Model-Based Solution to the Offline Multi-Agent Reinforcement Learning Coordination Problem", AAMAS
2024, arXiv 2305.17198. Data of several conventions do not tell agents which of them the others will follow; in
rollouts of a world model they find out. Continuous actions, decentralized execution.

Stage 1, ``model_updates`` updates: an ensemble of world models (:mod:`marlzoo.models.world_model`).
Stage 2, every update: ``starts`` rollouts of ``rollout_horizon`` steps from states of the data, then PPO. A step
takes the mean of one of the best members, and pays

    r~ = r - (λ_g u_ens + λ_e u_alea + λ_r u_rew),   each u at most the threshold

where u_ens is the members' disagreement, u_alea their own uncertainty and u_rew the variance of the team reward
(:mod:`marlzoo.models.world_model`). A rollout stops where the model says that the episode ends (m = 0), or, with
bootstrap, at the horizon and as soon as u_ens exceeds the threshold (e = 1 in all three). Every agent has a policy
π_i = N(μ_i(o_i), σ_i(o_i)), not squashed, and a value V_i(o_i); V = sum_i w_i(x) V_i(o_i) + b(x) with the joint
observation x and weights of any sign. With ``memory`` M > 0 policies and values read (o_i, f_i(h_i)) in the place of
o_i, where h_i are the agent's last M observations and actions, zeros before the episode, and f_i its encoder:

    z_m = W_z h_m + position_m,   y = LayerNorm(z + softmax(q z^T / sqrt(H)) v)   with q, v linear in z
    f   = sum_m softmax_m(u·tanh(W_y y_m)) y_m

    δ_t  = r~_t + γ m_t V(x'_t) - V(x_t)
    A_t  = δ_t + γ λ (1 - e_t) A_{t+1},   R_t = V_t + the same sum with λ = 1,   Â = (A - mean A) / (std A + 1e-3)
    ρ    = exp(min(sum_i log π_i - sum_i log π_old_i, 10))               one ratio of the team
    L_π  = -mean min(ρ Â, clip(ρ, 1 ± ε) Â)
    L_V  = 0.5 max(mean (V - R)², mean (V_old + clip(V - V_old, ±ε) - R)²)
    H    = min(-mean(ρ log π), -mean(clip(ρ, 1 ± ε) log π))              log π of the joint action
    L_B  = max(mean(ρ b), mean(clip(ρ, 1 ± ε) b)),   b = sum (|μ| - 1)² over entries with |μ| > 1
    L    = L_π + L_V - α_H H + L_B,   α_H <- max(0, α_H + ``entropy_step`` (``entropy_target`` - H))

With ``world_model = FILE`` stage 1 is left out: all replicas start from the model that ``marlzoo data model`` wrote
there, and take scale and bounds from it. ``model = "perfect"`` steps in the task's simulator instead, from the same
start states: what a perfect world model would give (one stage only).

Departures from the authors' code: ``memory`` is off unless asked for, as in their experiments with full
observations; the release clamps u_ens before comparing it, so that its rollouts never stop early, here the raw value
counts; a rollout that stops early is followed by another in the steps that are left; keys have no map of their own,
which with one head is part of the queries'. Two settings are ours: ``start_std``, for data whose actions are small,
and ``scale_inputs``, without which the values of states outside the data may grow without bound.

Shapes: R replicas, S rollouts, T steps, N agents, D entries of the joint observation.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm, Stage
from marlzoo.batch import Batch, gae, take_rows
from marlzoo.config import ASSIGNED_LATER, Count, Fraction, Natural, NonNegative, Positive, Range
from marlzoo.errors import ConfigError
from marlzoo.models.rollouts import Dynamics, Imagined, Learned, Memory, imagine
from marlzoo.models.settings import SavedModelConfig, WorldModelConfig, world_model_ignores
from marlzoo.models.world_model import ACTION_MARGIN, WorldModel
from marlzoo.modules.layers import MLP, LayerNorm, Linear, PerAgent
from marlzoo.modules.policies import Policy
from marlzoo.objectives import normal_log_density, normalized_advantage
from marlzoo.replicas import Init, Kind, ReplicaRandom
from marlzoo.spec import ActionKind, Spec

LOG_STD_BOUNDS = (-6.0, 0.0)
LARGEST_LOG_RATIO = 10.0
LARGEST_INPUT = 5.0


@dataclass(frozen=True)
class MOMAPPOConfig(SavedModelConfig, WorldModelConfig):
    """Settings of MOMA-PPO; defaults of the authors' release."""

    model: Literal["learned", "perfect"] = "learned"  # what is practiced in; perfect: the task's simulator
    starts: Count = 200  # rollouts per update and replica
    rollout_horizon: Count = 10  # their steps
    threshold: NonNegative = 2.0  # disagreement that stops a rollout, and bound on each measure
    penalty_ensemble: NonNegative = 0.0  # λ_g, weight of the members' disagreement
    penalty_aleatoric: NonNegative = 0.1  # λ_e, weight of the members' own uncertainty
    penalty_reward: NonNegative = 0.05  # λ_r, weight of the variance of the team reward
    hidden: Count = 256  # width of the two hidden layers of policies, values and mixer
    # M, steps before the present that policies and values read (0: none)
    memory: Natural = field(default=0, metadata=ASSIGNED_LATER)
    # numbers by which they are told of these
    memory_size: Count = field(default=128, metadata=ASSIGNED_LATER)
    epochs: Count = 5  # passes over the rollouts
    batch_size: Count = 64  # steps of one gradient step on policies and values
    gae_lambda: Fraction = 0.98  # λ of the advantage estimate
    clip: Positive = 0.2  # ε, bound on the change of the ratio and of the value
    entropy: NonNegative = 0.0  # α_H at the start
    entropy_step: NonNegative = 1e-3  # by which α_H follows the gap to the target
    entropy_target: float = -2.0  # of H, whatever the number of agents
    # standard deviation of actions before the first update
    start_std: Annotated[float, Range(0.01, 1.0)] = field(default=1.0, metadata=ASSIGNED_LATER)
    # policies, values and mixer see standardized observations, within 5 deviations
    scale_inputs: bool = field(default=False, metadata=ASSIGNED_LATER)
    lr: Positive = 5e-5  # step size of Adam for policies, values and mixer
    grad_clip: Positive = 1.0  # bound on the gradient norm, of these together and of the world model


class MOMAPPO(Algorithm):
    """MOMA-PPO of Barde et al. 2024; see the module's text."""

    config: MOMAPPOConfig
    config_class = MOMAPPOConfig
    actions: ClassVar[tuple[ActionKind, ...]] = ("continuous",)
    unread = ("sequence_length", "memory_relu", "bound_margin")
    presets: ClassVar = {
        "mamujoco": {},  # the defaults are the paper's, for its robots
        "mpe": {},  # which the paper does not have
        "games": {
            **{"members": 5, "elites": 4, "model_hidden": 64, "model_layers": 2, "model_updates": 1000},
            **{"model_lr": 1e-3, "model_batch": 128, "hidden": 64, "lr": 1e-3, "starts": 64},
            **{"batch_size": 320, "entropy_target": -1.0},
        },
    }
    variants: ClassVar = {
        "continuous": (
            {"threshold": 0.5, "penalty_ensemble": 0.3, "residual": False},
            {"memory": 3, "memory_size": 8},
            {"memory": 3, "memory_size": 8, "scale_inputs": True, "standardize_actions": True},
        )
    }
    alpha: Tensor

    def build(self, spec: Spec) -> None:
        """World model; policies, values and their mixer; the entropy's weight."""
        c = self.config
        n = spec.n_agents
        joint = spec.n_agents * spec.obs_size
        if c.batch_size > c.starts * c.rollout_horizon:
            raise ConfigError(
                f"{self.name}: batch_size {c.batch_size} must be at most "
                f"starts * rollout_horizon = {c.starts * c.rollout_horizon}"
            )
        if c.world_model and c.model == "perfect":
            raise ConfigError(f"{self.name}: model=perfect has no use for world_model; leave one of them out")
        if c.model == "learned" and c.elites < 2:
            raise ConfigError(
                f"{self.name}: elites is {c.elites}, but a rollout's penalties and its end are measured by how "
                "far the elites disagree; take at least two, or model=perfect"
            )
        self.world = WorldModel(self.init, spec, c)
        self.fields = self.world.fields
        seen = spec.obs_size + (c.memory_size if c.memory else 0)
        self.scale = Scale(self.init, spec, c.scale_inputs)
        self.actor = GaussianActor(self.init, spec, seen, c.hidden, self.action_dimensions)
        self.actor.start(self.hyperparameter("start_std"))
        self.values = PerAgent(MLP(self.init, (seen, c.hidden, c.hidden, 1), stack=(n,)))
        self.mixer = MLP(self.init, (joint, c.hidden, c.hidden, n + 1))
        self.encoder = None
        team: tuple[nn.Module, ...] = (self.actor, self.values, self.mixer)
        if c.memory:
            self.encoder = MemoryEncoder(self.init, spec, c.memory, c.memory_size)
            self.fields += ("past_obs", "past_action")
            self.past_steps = c.memory
            team += (self.encoder,)
        self.register_buffer("alpha", self.hyperparameter("entropy").clone())
        self.add_optimizer(lr={"world": "model_lr"}, world=self.world, team=team)
        self._simulator: Dynamics | None = None

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Scale and bounds of the data, or the saved model; a simulator that cannot stand in is found out here."""
        del batches
        if self.config.world_model:
            self.world.load(self.config.world_model)
        else:
            self.world.observe(data)
        self.scale.observe(self.world.center, self.world.spread)
        self._dynamics()

    def stages(self) -> tuple[Stage, ...]:
        """The world model, then the policies; with a saved or a perfect model the policies only."""
        if self.config.model == "perfect":
            return (Stage("policy", self.update_policy, traceable=False),)
        if self.config.world_model:
            return (Stage("policy", self.update_policy),)
        model = Stage(
            "world model",
            self.update_model,
            self.config.model_updates,
            ignores=world_model_ignores(self.config),
        )
        return model, Stage("policy", self.update_policy)

    @property
    def batch_rows(self) -> int:
        """Steps for the world model's members, or start states of the rollouts."""
        of_model = 0 if self.config.world_model else self.world.rows
        return max(of_model, self.config.starts * self.config.rollout_horizon)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """For actions, members and the order of the steps in each epoch."""
        c = self.config
        spec = self.spec
        return {
            "action": ("normal", (c.starts, c.rollout_horizon, spec.n_agents, spec.action_size)),
            "member": ("uniform", (c.starts, c.rollout_horizon)),
            "order": ("uniform", (c.epochs, c.starts * c.rollout_horizon)),
        }

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of the present stage; metrics are [R]."""
        return self.stage.update(batch)

    def policy(self) -> Policy:
        """Decentralized: each agent acts on its own observation, and on its own past with ``memory``."""
        return GaussianPolicy(self.actor, self.scale, self.encoder)

    # Stage 1 ---------------------------------------------------------------------------------------------

    def update_model(self, batch: Batch) -> dict[str, Tensor]:
        """One step of every member of the world model."""
        loss, metrics = self.world.loss(batch)
        return metrics | self.step(world=loss)

    # Stage 2 ---------------------------------------------------------------------------------------------

    def update_policy(self, batch: Batch) -> dict[str, Tensor]:
        """Rollouts from the batch's states, then several epochs of PPO on them."""
        found = self.rollouts(batch)
        experience, metrics = self.experience(found)
        for order in batch.noise["order"].argsort(-1).unbind(1):
            whole = order.shape[1] // self.config.batch_size * self.config.batch_size
            for rows in torch.split(order[:, :whole], self.config.batch_size, dim=1):
                x = {name: take_rows(value, rows) for name, value in experience.items()}
                losses, entropy = self.losses(x)
                norms = self.step(team=sum(losses.values(), start=-self.alpha * entropy))
                gap = self.hyperparameter("entropy_target") - entropy.detach()
                change = self.hyperparameter("entropy_step") * gap
                self.alpha.copy_((self.alpha + change).clamp_min(0.0))
        metrics |= {name: loss.detach() for name, loss in losses.items()}
        metrics |= {"policy/entropy": entropy.detach(), "policy/alpha": self.alpha.clone()}
        return metrics | norms

    def rollouts(self, batch: Batch) -> Imagined:
        """What the present policies go through in the model."""
        c = self.config
        noise = batch.noise["action"]

        def starts(rows: Tensor) -> Tensor:  # [R, B, ...] -> [R, S, T, ...]
            rows = rows[:, : c.starts * c.rollout_horizon]
            return rows.reshape(len(rows), c.starts, c.rollout_horizon, *rows.shape[2:])

        def act(frame: Tensor, t: int, past: Tensor | None) -> Tensor:
            mean, log_std = self.actor(self.seen(frame, past))
            action: Tensor = (mean + log_std.exp() * noise[:, :, t]) * self.action_dimensions
            return action

        def entry(frame: Tensor, action: Tensor) -> Tensor:
            return remembered(self.world.split(frame)[0], action)

        memory = None
        if c.memory:
            memory = Memory(starts(remembered(batch.past_obs, batch.past_action)), entry)
        threshold = self.hyperparameter("threshold", 2)
        frames = starts(self.world.frame(batch.obs))
        return imagine(self._dynamics(), act, frames, batch.noise["member"], threshold, memory)

    def seen(self, frame: Tensor, past: Tensor | None) -> Tensor:
        """What policies and values read, ``[R, ..., N, O + H]``, of frames and of ``past [R, ..., M, N, O + A]``."""
        return read(self.world.split(frame)[0], past, self.scale, self.encoder)

    @torch.no_grad()
    def experience(self, found: Imagined) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """What the losses need, ``[R, S T, ...]``, and metrics ``[R]``."""
        seen = self.seen(found.frame, found.past)
        reward = found.reward.mean(-1)
        penalty = self.penalty(found)
        value = self.value(found.frame, seen)
        next_value = self.value(found.next_frame, self.seen(found.next_frame, found.next_past))
        known = (reward - penalty, value, next_value, found.mask, found.ends, self.hyperparameter("gamma", 2))
        advantage = gae(*known, self.hyperparameter("gae_lambda", 2))
        experience = {
            "frame": found.frame,
            "action": found.action,
            "advantage": normalized_advantage(advantage, 1e-3),
            "value": value,
            "target": value + gae(*known, torch.ones_like(self.hyperparameter("gamma", 2))),
            "log_prob": self.actor.log_prob(seen, found.action)[0],
        }
        if found.past is not None:
            experience["past"] = found.past
        means = {"world/reward": reward, "world/penalty": penalty, "world/rollout_ends": found.ends}
        metrics = {name: value.flatten(1).mean(1) for name, value in means.items()}
        return {name: value.flatten(1, 2) for name, value in experience.items()}, metrics

    def penalty(self, found: Imagined) -> Tensor:
        """What uncertainty costs, ``[R, S, T]``."""
        bound = self.hyperparameter("threshold", 3)
        measures = {
            "penalty_ensemble": found.ensemble,
            "penalty_aleatoric": found.aleatoric,
            "penalty_reward": found.reward_variance,
        }
        terms = []
        for name, measure in measures.items():
            terms.append(self.hyperparameter(name, 3) * torch.minimum(measure, bound))
        return torch.stack(terms).sum(0)

    def losses(self, x: dict[str, Tensor]) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of L without the entropy's, and H; all ``[R]``."""
        seen = self.seen(x["frame"], x.get("past"))
        log_prob, mean = self.actor.log_prob(seen, x["action"])
        ratio = torch.exp((log_prob - x["log_prob"]).clamp(max=LARGEST_LOG_RATIO))
        eps = self.hyperparameter("clip", 2)
        both = torch.stack((ratio, torch.minimum(torch.maximum(ratio, 1.0 - eps), 1.0 + eps)))  # [2, R, B]
        policy_loss = -(both * x["advantage"]).amin(0).mean(1)

        value = self.value(x["frame"], seen)
        change = torch.minimum(torch.maximum(value - x["value"], -eps), eps)
        errors = torch.stack((value - x["target"], x["value"] + change - x["target"]))
        value_loss = 0.5 * errors.square().mean(-1).amax(0)

        outside = (mean.abs() - 1.0).clamp_min(0.0) * self.action_dimensions
        bound_loss = (both * outside.square().sum((-2, -1))).mean(-1).amax(0)
        entropy = -(both * log_prob).mean(-1).amax(0)
        return {
            "policy/loss": policy_loss,
            "critic/loss": value_loss,
            "policy/bound_loss": bound_loss,
        }, entropy

    def value(self, frame: Tensor, seen: Tensor) -> Tensor:
        """V of joint observations ``[R, ..., D]`` and of what agents see of them, ``[R, ...]``."""
        joint = self.scale(self.world.split(frame)[0]).flatten(-2)
        weights, bias = self.mixer(joint).split((self.spec.n_agents, 1), dim=-1)
        values = self.values(seen).squeeze(-1)
        total: Tensor = (weights * values).sum(-1) + bias.squeeze(-1)
        return total

    def _dynamics(self) -> Dynamics:
        if self.config.model == "learned":
            return Learned(self.world)
        if self._simulator is None:
            # By name: what a simulator needs is no part of the method.
            simulator: Dynamics = importlib.import_module("marlzoo.models.simulator").Simulator(self.spec)
            self._simulator = simulator
        return self._simulator


class Scale(nn.Module):
    """Observations as networks see them: standardized by the data's mean and deviation, if that is asked for."""

    center: Tensor
    spread: Tensor

    def __init__(self, init: Init, spec: Spec, active: bool) -> None:
        super().__init__()
        self.active = active
        for moment, value in (("center", 0.0), ("spread", 1.0)) if active else ():
            self.register_buffer(moment, init.constant(value, spec.n_agents, spec.obs_size).data)

    @torch.no_grad()
    def observe(self, center: Tensor, spread: Tensor) -> None:
        """Take mean and deviation of the joint observation, ``[R, D]`` each; entries that do not vary become 0."""
        if self.active:
            self.center.copy_(center.view_as(self.center))
            self.spread.copy_(torch.where(spread > 0, spread, 1.0).view_as(self.spread))

    def forward(self, obs: Tensor) -> Tensor:
        """``[R, ..., N, O]``, like what it gives."""
        return self._over(obs - self._like(self.center, obs)) if self.active else obs

    def past(self, entries: Tensor) -> Tensor:
        """Entries of a memory, ``[R, ..., N, O + A]``: not centered, so that zeros stay zeros."""
        if not self.active:
            return entries
        size = self.center.shape[-1]
        return torch.cat((self._over(entries[..., :size]), entries[..., size:]), dim=-1)

    def _over(self, x: Tensor) -> Tensor:
        return (x / self._like(self.spread, x)).clamp(-LARGEST_INPUT, LARGEST_INPUT)

    @staticmethod
    def _like(moment: Tensor, x: Tensor) -> Tensor:
        return moment.view(len(moment), *(1,) * (x.ndim - 3), *moment.shape[1:])


def read(obs: Tensor, past: Tensor | None, scale: Scale, encoder: MemoryEncoder | None) -> Tensor:
    """What policies and values read, ``[R, ..., N, O + H]``, of ``obs [R, ..., N, O]`` and a memory."""
    seen: Tensor = scale(obs)
    return seen if encoder is None or past is None else torch.cat((seen, encoder(scale.past(past))), dim=-1)


def remembered(obs: Tensor, action: Tensor) -> Tensor:
    """What is kept of steps, ``[..., N, O]`` and ``[..., N, A]`` as ``[..., N, O + A]``."""
    return torch.cat((obs, action.clamp(ACTION_MARGIN - 1.0, 1.0 - ACTION_MARGIN)), dim=-1)


class MemoryEncoder(nn.Module):
    """Every agent's reading of its own last steps: self-attention with one head, then pooling by attention.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        steps: M.
        size: numbers H that it gives.
    """

    position: Tensor

    def __init__(self, init: Init, spec: Spec, steps: int, size: int) -> None:
        super().__init__()
        stack = (spec.n_agents,)
        self.entry = (steps, spec.n_agents, spec.obs_size + spec.action_size)  # shape of a copy's memory
        self.embed = Linear(init, self.entry[-1], size, stack=stack)
        self.query, self.value, self.score = (Linear(init, size, size, stack=stack) for _ in range(3))
        self.norm = LayerNorm(init, size, stack)
        self.wanted = init.uniform(size**-0.5, *stack, size)
        self.register_buffer("position", sinusoids(steps, size).to(self.wanted), persistent=False)

    def forward(self, past: Tensor) -> Tensor:
        """``[R, ..., M, N, O + A] -> [R, ..., N, H]``."""
        x = self.embed(past.movedim(-2, 1)) + self.position  # [R, N, ..., M, H]
        parts = (part.flatten(0, 1).flatten(1, -3) for part in (self.query(x), x, self.value(x)))
        attended = F.scaled_dot_product_attention(*parts).view_as(x)  # four axes are all that ONNX has it for
        y = self.norm(x + attended)
        wanted = self.wanted.view(*self.wanted.shape[:2], *(1,) * (y.ndim - 3), -1)
        weight = (torch.tanh(self.score(y)) * wanted).sum(-1, keepdim=True).softmax(-2)
        pooled: Tensor = (weight * y).sum(-2)
        return pooled.movedim(1, -2)


def sinusoids(steps: int, size: int) -> Tensor:
    """Positions 0 to M - 1 as sines and cosines of falling frequency (Vaswani et al. 2017), ``[M, H]``."""
    place, entry = (torch.arange(n, dtype=torch.float64) for n in (steps, size))
    angle = place.unsqueeze(1) * 10_000.0 ** ((entry % 2 - entry) / size)
    return torch.where(entry % 2 == 0, angle.sin(), angle.cos())


class GaussianActor(nn.Module):
    """Every agent's mean and log standard deviation; starts near mean 0 and the deviation ``start_std``."""

    def __init__(self, init: Init, spec: Spec, n_in: int, hidden: int, used: Tensor) -> None:
        super().__init__()
        sizes = (n_in, hidden, hidden, 2 * spec.action_size)
        network = MLP(init, sizes, stack=(spec.n_agents,), last_bound=0.1 * hidden**-0.5)
        nn.init.zeros_(cast(Tensor, network.layers[-1].bias))
        self.net = PerAgent(network)
        self.used = used

    @torch.no_grad()
    def start(self, std: Tensor) -> None:
        """Begin at standard deviations ``[R]``."""
        bias = cast(Tensor, cast(MLP, self.net.network).layers[-1].bias)  # [R, ..., 2 A]
        log_std = bias.chunk(2, dim=-1)[1]
        log_std.copy_(std.log().view(-1, *(1,) * (log_std.ndim - 1)).expand_as(log_std))

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor]:
        """``[R, ..., N, in] -> [R, ..., N, A]`` twice."""
        mean, log_std = self.net(seen).chunk(2, dim=-1)
        return mean, log_std.clamp(*LOG_STD_BOUNDS)

    def log_prob(self, seen: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Log density of the joint action ``[R, ...]``, and the means ``[R, ..., N, A]``."""
        mean, log_std = self(seen)
        return normal_log_density(action - mean, log_std.exp(), self.used).sum(-1), mean


class GaussianPolicy(Policy):
    """Acts with the mean clipped to [-1, 1]; with noise, with the clipped sample."""

    def __init__(self, actor: GaussianActor, scale: Scale, encoder: MemoryEncoder | None = None) -> None:
        super().__init__()
        self.actor = actor
        self.scale = scale
        self.encoder = encoder
        self._past: Tensor | None = None  # [R, E, M, N, O + A]

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        """See :meth:`marlzoo.modules.policies.Policy.reset`."""
        if ids is None or self._past is None:
            self._past = None
        else:
            self._past[ids if ids.dtype == torch.bool else (slice(None), ids)] = 0.0

    def state(self) -> dict[str, Tensor]:
        """See :meth:`marlzoo.modules.policies.Policy.state`."""
        return {} if self._past is None else {"past": self._past}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """See :meth:`marlzoo.modules.policies.Policy.load_state`."""
        self._past = state.get("past")

    def took(self, action: Tensor) -> None:
        """See :meth:`marlzoo.modules.policies.Policy.took`."""
        if self._past is not None:
            obs = self._past[:, :, -1, :, : -action.shape[-1]]
            self._past = torch.cat((self._past[:, :, :-1], remembered(obs, action).unsqueeze(2)), dim=2)

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        """See :meth:`marlzoo.modules.policies.Policy.act`."""
        if self.encoder is not None and self._past is None:
            self._past = obs.new_zeros(*obs.shape[:2], *self.encoder.entry)
        mean, log_std = self.actor(read(obs, self._past, self.scale, self.encoder))
        if random is not None:
            mean = mean + log_std.exp() * random.normal(*mean.shape[1:])
        action: Tensor = (mean * self.actor.used).clamp(-1.0, 1.0)
        if self._past is not None:
            self._past = torch.cat((self._past[:, :, 1:], remembered(obs, action).unsqueeze(2)), dim=2)
        return action
