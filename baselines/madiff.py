"""MADiff: planning by one diffusion model of all agents' observations, acting by inverse dynamics.

Zhu et al., "MADiff: Offline Multi-agent Learning with Diffusion Models", NeurIPS 2024, arXiv 2305.17330. x_0 are the
observations of all agents in a window of L + 1 rows, scaled to [-1, 1] by the least and largest of the data; the
first row is the present. Actions are not diffused. With levels k of noise, a_k of the squared-cosine schedule and R
the return-to-go at the first row over the largest return in size:

1. planner: x_k = sqrt(a_k) x_0 + sqrt(1 - a_k) eps, where what is known is overwritten with its true value
            L_diff = mean over what is not known of (eps - eps_theta(x_k, k, R))^2
            R is left out in a share ``condition_dropout`` of the samples
2. actions: L_inv = error of I(o_t, o_{t+1}) from a_t: squared, or the negative log likelihood over legal actions

One Adam follows (L_diff + L_inv) / 2. Acting uses parameters that follow the trained ones slowly: from noise,
``eval_steps`` denoising steps (DDIM) with eps = eps(without R) + guidance (eps(R) - eps(without R)) make a plan; its
first two rows give the action. R starts at a statistic of the data, ``target``, and falls with every reward.

``mode`` decides what is known, in training and in acting:

* ``centralized``: the first row of all agents; one plan for the team.
* ``decentralized``: of the first row each agent's own observation. Every agent plans for everybody, from noise of its
  own, and acts on its own part. Training knows one agent of each sample, drawn at random.

With ``predicts = "window"`` (ours) the planner's output is x_0, and the same loss compares the noise that follows,
eps_theta = (x_k - sqrt(a_k) x_0) / sqrt(1 - a_k). Noise has as many independent entries as a window, and a planner
whose layers are narrower (``hidden``) cannot tell it, whatever it learns: its plans for robots and particles are
little but noise. The paper's U-Net has ways past its narrow parts.

Agents share the planner: a network per agent with residual layers, each behind attention over the agents whose weight
starts at 0. It reads the agent's window, whether its first row is known, level, return and the agent's number.

Departures from the authors' code: the planner reads a window as one vector instead of by a temporal U-Net, so windows
are short; it knows the agent's number; windows hold no past (their MPE settings, not those of MuJoCo and SMAC); rows
after an episode's end are zeros without a share in the loss instead of repeating the last one; returns are not
discounted; the return to ask for falls with the rewards in every task (theirs on SMAC alone, elsewhere it is always
0.9 or 1 of a scale given by task); the acting parameters follow in every update (theirs in every tenth); sizes and
steps are smaller (theirs: 200 levels and as many denoising steps). A model of one mode does not act in the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, require_context
from marlzoo.config import ASSIGNED_LATER, Config, Count, Fraction, NonNegative, Positive
from marlzoo.errors import ConfigError
from marlzoo.modules.diffusion import Schedule, guided, sample
from marlzoo.modules.flow import FREQUENCIES, time_features
from marlzoo.modules.layers import MLP, Linear, one_hot, with_agent_id
from marlzoo.modules.policies import Execution, Policy, Random, categorical_log_prob, mask_logits
from marlzoo.objectives import action_error, detached, mean_over
from marlzoo.replicas import Init, Kind
from marlzoo.spec import Spec

from ._returns import Target, TargetReturn


@dataclass(frozen=True)
class MADiffConfig(Config):
    """Settings of MADiff; sizes and numbers of steps are ours."""

    mode: Literal["centralized", "decentralized"] = "centralized"  # what a plan is made from
    diffusion_steps: Count = 50  # levels of noise
    eval_steps: Count = 10  # denoising steps of a plan when acting
    guidance: NonNegative = 1.2  # weight of the return in a plan; 0: none
    condition_dropout: Fraction = 0.25  # share of samples that are not told their return
    target: Target = "max"  # return to ask for: the data's; above: a fifth better
    reward_mode: Literal["reward", "rtg"] = "rtg"  # must be rtg: the planner reads the return-to-go
    tau: Fraction = 0.005  # rate at which the acting parameters follow
    hidden: Count = 128  # width of planner and inverse dynamics
    layers: Count = 3  # layers of the planner
    heads: Count = 4  # heads of the attention over agents
    # what the planner's output is: the noise itself, or the window, from which the noise follows
    predicts: Literal["noise", "window"] = field(default="noise", metadata=ASSIGNED_LATER)
    lr: Positive = 2e-4  # step size of Adam
    batch_size: Count = 32  # windows (of all agents) per update and replica
    sequence_length: Count = 8  # steps that are planned ahead


class AgentAttention(nn.Module):
    """Attention of every agent over all agents, ``[R, M, N, size]``, times a weight that starts at 0."""

    def __init__(self, init: Init, size: int, heads: int) -> None:
        super().__init__()
        if size % heads:
            raise ConfigError(f"hidden is {size}; with {heads} heads it must be a multiple of {heads}")
        self.heads = heads
        self.qkv = Linear(init, size, 3 * size)
        self.out = Linear(init, size, size)
        self.weight = init.constant(0.0, 1)

    def forward(self, x: Tensor) -> Tensor:
        """What is added to x."""
        parts = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(3, 4)
        seen = F.scaled_dot_product_attention(*parts.unbind(0)).transpose(2, 3)  # over the agents
        out: Tensor = self.weight.view(-1, 1, 1, 1) * self.out(seen.flatten(-2))
        return out


class Planner(nn.Module):
    """Predicts the noise in the windows of all agents.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        config: sizes.
    """

    def __init__(self, init: Init, spec: Spec, config: MADiffConfig) -> None:
        super().__init__()
        window = (config.sequence_length + 1) * spec.obs_size
        h = config.hidden
        self.enter = Linear(init, window + 1 + 1 + 2 * FREQUENCIES + 2 + spec.n_agents, h)
        self.attention = nn.ModuleList(AgentAttention(init, h, config.heads) for _ in range(config.layers))
        self.networks = nn.ModuleList(MLP(init, (h, h, h)) for _ in range(config.layers))
        self.leave = Linear(init, h, window)

    def forward(self, x: Tensor, known: Tensor, time: Tensor, to_go: Tensor, told: Tensor) -> Tensor:
        """The noise, ``[R, M, N, H, O]``.

        Args:
            x: windows, ``[R, M, N, H, O]``.
            known: whether an agent's first row is, ``[R, M, N]``.
            time: of the level, ``[R, M]``.
            to_go: scaled return-to-go, ``[R, M]``.
            told: 1 where it may be read, ``[R, M]``.
        """
        about = torch.stack((to_go * told, told), dim=-1)
        about = torch.cat((time_features(time.unsqueeze(-1)), about), dim=-1).unsqueeze(2)
        parts = (x.flatten(-2), known.unsqueeze(-1), about.expand(*known.shape, -1))
        y = self.enter(with_agent_id(torch.cat(parts, dim=-1)))
        for attention, network in zip(self.attention, self.networks, strict=True):
            y = y + attention(y)
            y = y + network(F.relu(y))
        noise: Tensor = self.leave(F.relu(y))
        return noise.view_as(x)


class MADiffNet(nn.Module):
    """Planner and inverse dynamics."""

    def __init__(self, init: Init, spec: Spec, config: MADiffConfig) -> None:
        super().__init__()
        self.planner = Planner(init, spec, config)
        h = config.hidden
        self.inverse = MLP(init, (2 * spec.obs_size + spec.n_agents, h, h, spec.action_size))

    def action(self, obs: Tensor, following: Tensor) -> Tensor:
        """Action or logits ``[R, ..., N, A]`` that lead from an observation to the next, ``[R, ..., N, O]``."""
        out: Tensor = self.inverse(with_agent_id(torch.cat((obs, following), dim=-1)))
        return out


class Scaling(nn.Module):
    """Observations scaled to [-1, 1] by the data's least and largest of every agent and dimension, ``[R, N, O]``."""

    middle: Tensor
    spread: Tensor

    def __init__(self, init: Init, spec: Spec) -> None:
        super().__init__()
        shape = (init.replicas, spec.n_agents, spec.obs_size)
        self.register_buffer("middle", torch.zeros(shape, dtype=init.dtype, device=init.device))
        self.register_buffer("spread", torch.ones(shape, dtype=init.dtype, device=init.device))

    def read(self, data: Sequence[Any]) -> None:
        """Take them from the data of every replica; what never changes becomes 0."""
        for r, dataset in enumerate(data):
            low = torch.as_tensor(dataset.obs.min(0)).to(self.middle)
            high = torch.as_tensor(dataset.obs.max(0)).to(self.middle)
            self.middle[r] = (low + high) / 2
            self.spread[r] = torch.where(high > low, (high - low) / 2, torch.ones_like(high))

    def forward(self, obs: Tensor) -> Tensor:
        """``[R, ..., N, O]``, scaled."""
        shape = (len(obs), *(1,) * (obs.ndim - 3), *obs.shape[-2:])
        return (obs - self.middle.view(shape)) / self.spread.view(shape)


class MADiff(Algorithm):
    """MADiff for continuous and discrete actions; see the module's text."""

    config: MADiffConfig
    config_class = MADiffConfig
    actions = ("continuous", "discrete")
    acting = ("eval_steps", "guidance")
    sampling = "sequence"
    unread = ("memory_relu", "bound_margin")
    presets: ClassVar = {
        "mamujoco": {"predicts": "window"},
        "mpe": {"predicts": "window"},
        "smac": {"sequence_length": 4, "predicts": "window"},
        "games": {"sequence_length": 1, "lr": 1e-3},
    }
    variants: ClassVar = {
        "continuous": (
            {
                "mode": "decentralized",
                "sequence_length": 3,
                "diffusion_steps": 5,
                "eval_steps": 2,
                "predicts": "window",
            },
        ),
        "discrete": ({"mode": "decentralized", "target": "p90", "eval_steps": 3},),
    }

    def build(self, spec: Spec) -> None:
        """The model, and the slow one that acts."""
        c = self.config
        if c.reward_mode != "rtg":
            raise ConfigError(f"{self.name}: reward_mode is {c.reward_mode!r}; it must be 'rtg'")
        if c.eval_steps > c.diffusion_steps:
            raise ConfigError(
                f"{self.name}: eval_steps is {c.eval_steps}, but there are {c.diffusion_steps} levels of noise; set "
                "it to at most diffusion_steps"
            )
        self.fields = ("obs", "action", "reward", "action_mask")
        self.schedule = Schedule(self.init, c.diffusion_steps)
        self.scaling = Scaling(self.init, spec)
        self.returns = TargetReturn(self.init)
        self.model = MADiffNet(self.init, spec, c)
        self.slow = self.make_target(self.model)
        sizes = torch.tensor(spec.obs_sizes).unsqueeze(-1)
        real = torch.arange(spec.obs_size).unsqueeze(0) < sizes
        self.obs_dimensions = real.to(self.device, self.dtype)  # [N, O]: 0 marks padding
        self.add_optimizer(model=self.model)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Levels, noise, which samples are told their return, and whose observation is known."""
        c = self.config
        b = c.batch_size
        n = self.spec.n_agents
        found: dict[str, tuple[Kind, tuple[int, ...]]] = {
            "level": ("uniform", (b,)),
            "noise": ("normal", (b, n, c.sequence_length + 1, self.spec.obs_size)),
            "told": ("uniform", (b,)),
        }
        return found | ({"owner": ("uniform", (b,))} if c.mode == "decentralized" else {})

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Take the scales of observations and returns from the data."""
        require_context(self.name, self.config.sequence_length, data)
        self.scaling.read(data)
        self.returns.read(data, self.config.target)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are both losses and the gradient norm, each [R]."""
        obs = self.scaling(batch.obs)  # [R, B, L + 1, N, O]
        window = obs.movedim(2, 3) * self.obs_dimensions.unsqueeze(1)  # [R, B, N, L + 1, O]
        diffusion_loss = self._diffusion_loss(batch, window)
        out = self.model.action(obs[:, :, :-1], obs[:, :, 1:])
        if self.spec.discrete:
            logits = mask_logits(out, batch.action_mask[:, :, :-1])
            error = -categorical_log_prob(logits, batch.action)
        else:
            error = action_error(out, batch.action, self.action_dimensions)
        inverse_loss = mean_over(error, batch.filled)
        norms = self.step(model=0.5 * (diffusion_loss + inverse_loss))
        self.soft_update(self.slow, self.model, self.hyperparameter("tau"))
        return detached({"model/diffusion_loss": diffusion_loss, "model/inverse_loss": inverse_loss}) | norms

    def policy(self) -> Policy:
        """Acts on a plan."""
        return PlanPolicy(self)

    def _diffusion_loss(self, batch: Batch, window: Tensor) -> Tensor:
        """Mean squared error of the noise, [R], ``window [R, B, N, L + 1, O]``."""
        c = self.config
        drawn = batch.noise
        level = (drawn["level"] * c.diffusion_steps).long()
        told = (drawn["told"] >= self.hyperparameter("condition_dropout", 2)).to(window.dtype)
        to_go = batch.reward[:, :, 0] / self.returns.scale.unsqueeze(1)
        known = torch.ones_like(window[..., 0, 0])
        if c.mode == "decentralized":
            owner = (drawn["owner"] * self.spec.n_agents).long()
            known = one_hot(owner, self.spec.n_agents, window.dtype)
        rows = torch.cat((torch.ones_like(batch.filled[:, :, :1]), batch.filled), dim=2).unsqueeze(2)
        x = pinned(self.schedule.noised(window, drawn["noise"], level), window[..., 0, :], known)
        # The planner reads a window as one vector: what lies after the episode's end must not enter it.
        x = x * self.obs_dimensions.unsqueeze(1) * rows.unsqueeze(-1)
        found = predicted_noise(self.model.planner, self.schedule, c.predicts, x, known, level, to_go, told)
        # The first row counts where it is not known; what lies after the episode's end does not.
        first = torch.arange(rows.shape[-1], device=rows.device) == 0
        weight = rows * torch.where(first, 1.0 - known.unsqueeze(-1), torch.ones_like(rows))
        weight = weight.unsqueeze(-1) * self.obs_dimensions.unsqueeze(1)
        error: Tensor = (found - drawn["noise"]).square() * weight
        return error.flatten(1).sum(1) / weight.flatten(1).sum(1)


def predicted_noise(
    planner: Planner,
    schedule: Schedule,
    predicts: Literal["noise", "window"],
    x: Tensor,
    known: Tensor,
    level: Tensor,
    to_go: Tensor,
    told: Tensor,
) -> Tensor:
    """eps_theta of windows ``x [R, M, N, H, O]`` at int64 levels ``[R, M]``; for the others see :class:`Planner`."""
    found: Tensor = planner(x, known, schedule.time(level, x), to_go, told)
    return schedule.noise_of(x, found, level) if predicts == "window" else found


def pinned(x: Tensor, present: Tensor, known: Tensor) -> Tensor:
    """``x [R, M, N, H, O]`` with the present ``[R, M, N, O]`` as first row of the agents that are known."""
    mask = known.unsqueeze(-1)
    first = mask * present + (1.0 - mask) * x[..., 0, :]
    return torch.cat((first.unsqueeze(-2), x[..., 1:, :]), dim=-2)


class PlanPolicy(Policy):
    """Plans from the present and acts on the plan's first step.

    Args:
        learner: whose slow model, scales and schedule it uses.
    """

    execution: Execution = "centralized"
    stochastic = True
    used: Tensor
    real: Tensor
    guidance: Tensor

    def __init__(self, learner: MADiff) -> None:
        super().__init__()
        self.model = learner.slow
        self.scaling = learner.scaling
        self.returns = learner.returns
        self.schedule = learner.schedule
        self.config = learner.config
        self.discrete = learner.spec.discrete
        self.register_buffer("guidance", learner.hyperparameter("guidance", 5), persistent=False)
        self.register_buffer("used", learner.action_dimensions, persistent=False)
        self.register_buffer("real", learner.obs_dimensions, persistent=False)
        if self.config.mode == "decentralized":
            self.execution = "decentralized"
        self._to_go: Tensor | None = None  # [R, E]

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        """Ask for the whole return again in the copies ``ids`` (None: all)."""
        if ids is None or self._to_go is None:
            self._to_go = None
            return
        where = ids if ids.dtype == torch.bool else (slice(None), ids)
        self._to_go[where] = self.returns.target.unsqueeze(1).expand_as(self._to_go)[where]

    def receive(self, reward: Tensor) -> None:
        """Lower the return to ask for by what was earned."""
        if self._to_go is not None:
            self._to_go = self._to_go - reward

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        if self._to_go is None:
            self._to_go = self.returns.target.unsqueeze(1).expand(obs.shape[:2]).clone()
        present = self.scaling(obs) * self.real
        following = self._planned(present, self._to_go / self.returns.scale.unsqueeze(1), random)
        out = self.model.action(present, following)
        if self.discrete:
            return mask_logits(out, action_mask).argmax(-1)
        return out.clamp(-1.0, 1.0) * self.used

    def _planned(self, present: Tensor, to_go: Tensor, random: Random) -> Tensor:
        """Every agent's next observation in the plan that it acts on, ``[R, E, N, O]``."""
        replicas, envs, n = present.shape[:3]
        size = present.shape[-1]
        length = self.config.sequence_length + 1
        alone = self.config.mode == "decentralized"
        plans = n if alone else 1  # of each copy: one per agent, or one for the team
        shape = (envs, n, plans * length * size)
        drawn = present.new_zeros(replicas, *shape) if random is None else random.normal(*shape)
        # The second agents' axis is that of the agents planned for.
        if alone:
            noise = drawn.view(replicas, envs, n, plans, length, size)
        else:
            noise = drawn.view(replicas, envs, 1, n, length, size)
        known = torch.eye(n, dtype=present.dtype, device=present.device) if alone else present.new_ones(1, n)
        known = known.expand(replicas, envs, plans, n).flatten(1, 2)
        each = partial(torch.repeat_interleave, repeats=plans, dim=1)
        plan = self._sampled(noise.flatten(1, 2), each(present), known, each(to_go))
        following = plan[..., 1, :].view(replicas, envs, plans, n, size)  # [R, E, plans, N, O]
        return following.diagonal(dim1=2, dim2=3).mT if alone else following.squeeze(2)

    def _sampled(self, noise: Tensor, present: Tensor, known: Tensor, to_go: Tensor) -> Tensor:
        """Plans ``[R, M, N, H, O]`` of M presents ``[R, M, N, O]``."""
        told = torch.ones_like(to_go)
        real = self.real.unsqueeze(1)

        def predicted(x: Tensor, level: Tensor) -> Tensor:
            planner = self.model.planner
            predicts = self.config.predicts
            with_return = predicted_noise(planner, self.schedule, predicts, x, known, level, to_go, told)
            nothing = torch.zeros_like(told)
            without = predicted_noise(planner, self.schedule, predicts, x, known, level, to_go, nothing)
            return guided(with_return, without, self.guidance)

        def pin(x: Tensor) -> Tensor:
            return pinned(x, present, known) * real

        return sample(predicted, self.schedule, noise, self.config.eval_steps, pin)
