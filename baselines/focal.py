"""FOCAL: agents that recognize from rewards which task of a family they are in, learned from data of many tasks.

Li, Yang, Luo, "FOCAL: Efficient Fully-Offline Meta-Reinforcement Learning via Distance Metric Learning and Behavior
Regularization", ICLR 2021, arXiv 2010.01112. An encoder turns each transition of an agent into a vector; their mean
over what the agent went through, its *context*, is a code z of the task, which policy and values read beside the
observation. Codes of one task are pulled together and codes of different tasks are pushed apart:

1. code:    z = mean over the context of E(o_i, a_i, r)
2. metric:  d = mean_k (z - z')_k^2 for two contexts of one agent
            L_E = metric_weight [mean over pairs of one task of sqrt(d + 1e-3)
                                 + mean over pairs of different tasks of 1 / (d + 0.1)]
3. learner: independent IQL (``iql``) on (o_i, sg z): nothing but L_E trains the encoder

The paper is about one agent, and has no results with several; this mapping to teams is ours. Every agent has a code
from its own observations and actions and the team's reward, so execution stays decentralized. Agents share the
encoder, which reads their number. The two contexts of a sequence are its even and its odd steps. Sequences are of one
task where the last ``task_size`` entries of their states are equal, and halves of different ones are pulled together;
halves of the same sequence would be near each other by where its agents went, whatever the task. So batches must hold
several sequences of a task. With 0 no tasks are known, and the two halves of each sequence are taken to be of one.
States of the families that come with marlzoo end with the goal: 2 entries of ``games/goals``, 10 of ``games/cells``.

When acting, an agent's context is what it has been through in the episode, none at first (z = 0), and the policy
learns with such contexts. In a share ``shared_context`` of the sequences they also hold all other sequences of the
same task in the batch, as when earlier transitions are given to the policy (``policy.inform``), which is the paper's
evaluation. With ``read_next`` the encoder also reads the next observation, for families that differ in how they move.

Departures: the learner is IQL instead of the actor-critic with an estimated divergence from the data (whose "gradient
penalty" is, in the release, on the critic's value); no dropout in the encoder; rewards are not scaled.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from marlzoo.batch import Batch
from marlzoo.config import Count, Fraction, Natural, Positive
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import MLP, one_hot, with_agent_id
from marlzoo.modules.policies import Policy, Random
from marlzoo.replicas import Init, Kind
from marlzoo.spec import Spec

from .iql import IQL, IQLConfig

SAME_FLOOR = 1e-3  # keeps the root of the distance finite
OTHER_FLOOR = 0.1  # keeps the quotient of the distance finite
NO_PAIRS = 1e-3  # beside the number of pairs, so that a group without any counts as 0


@dataclass(frozen=True)
class FOCALConfig(IQLConfig):
    """Settings of FOCAL; sizes are ours, the metric's are the authors'."""

    task_size: Natural = 0  # last entries of the state that tell tasks apart; 0: tasks are not known
    code_size: Count = 5  # entries of a code
    encoder_hidden: Count = 128  # width of the encoder's two hidden layers
    metric_weight: Positive = 10.0  # factor of the encoder's loss
    shared_context: Fraction = 0.5  # share of sequences whose context holds the task's others
    read_next: bool = False  # the encoder also reads the next observation
    history: Literal["mlp"] = "mlp"  # the policy's memory is the code
    batch_size: Count = 64  # sequences per update and replica; in small batches few are of one task


class Encoder(nn.Module):
    """Vectors of transitions.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        config: sizes.
    """

    def __init__(self, init: Init, spec: Spec, config: FOCALConfig) -> None:
        super().__init__()
        self.read_next = config.read_next
        self.discrete = spec.discrete
        self.action_size = spec.action_size
        seen = spec.obs_size * (2 if config.read_next else 1) + spec.n_agents
        hidden = config.encoder_hidden
        self.size = config.code_size
        self.network = MLP(init, (seen + spec.action_size + 1, hidden, hidden, self.size))

    def forward(self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor) -> Tensor:
        """``obs, next_obs [R, ..., N, O]``, ``action [R, ..., N(, A)]``, ``reward [R, ...] -> [R, ..., N, Z]``."""
        taken = one_hot(action, self.action_size, obs.dtype) if self.discrete else action
        earned = reward[..., None, None].expand(*obs.shape[:-1], 1)
        parts = [with_agent_id(obs), taken, earned]
        if self.read_next:
            parts.append(next_obs)
        code: Tensor = self.network(*parts)
        return code


class FOCAL(IQL):
    """FOCAL for continuous and discrete actions; see the module's text."""

    config: FOCALConfig
    config_class = FOCALConfig
    actions = ("continuous", "discrete")
    sampling = "sequence"
    unread = ("memory_relu",)
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": {},
        "games": {"hidden": 64, "encoder_hidden": 64, "lr": 1e-3, "tau": 0.02},
    }
    variants: ClassVar = {
        kind: ({"task_size": 1, "read_next": True, "sequence_length": 4},) for kind in actions
    }

    def build(self, spec: Spec) -> None:
        """The encoder, and IQL's networks on observation and code.

        Raises:
            ConfigError: states have fewer entries than ``task_size``.
        """
        c = self.config
        if c.task_size > spec.state_size:
            raise ConfigError(
                f"{self.name}: task_size is {c.task_size}, but states have {spec.state_size} entries; it is the "
                "number of their last entries that tell tasks apart"
            )
        sizes = tuple(size + c.code_size for size in spec.obs_sizes)
        super().build(replace(spec, obs_size=spec.obs_size + c.code_size, obs_sizes=sizes))
        self.fields = ("obs", "state", "action", "action_mask", "reward", "agent_reward", "mask")
        self.encoder = Encoder(self.init, spec, c)
        self.add_optimizer(encoder=self.encoder)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Which sequences have the task's others as context."""
        return {"shared": ("uniform", (self.config.batch_size,))}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of encoder and learner; metrics are losses, batch means and gradient norms, each [R]."""
        obs = batch.obs
        each = self.encoder(obs[:, :, :-1], batch.action, batch.reward, obs[:, :, 1:])
        each = each * batch.filled[..., None, None]  # [R, B, L, N, Z]
        same = self._same_task(batch)

        # 1. Codes of the contexts that policy and values read
        shared = batch.noise["shared"] < self.hyperparameter("shared_context", 2)
        code = contexts(each.detach(), batch.filled, same, shared)
        informed = batch.tensors() | {"obs": torch.cat((obs, code), dim=-1)}

        # 2. Metric
        halves, counts = zip(*(_half(each, batch.filled, first) for first in (0, 1)), strict=True)
        valid = torch.cat(counts, 1) > 0
        pulled, pushed = metric(torch.cat(halves, 1), valid, same.repeat(1, 2, 2), self._other_sequence(same))
        encoder_loss = self.hyperparameter("metric_weight") * (pulled + pushed)

        # 3. Learner
        metrics = super().update(Batch.of(batch.noise, **informed))
        norms = self.step(encoder=encoder_loss)
        losses = {"encoder/loss": encoder_loss, "encoder/pull": pulled, "encoder/push": pushed}
        return metrics | {name: loss.detach() for name, loss in losses.items()} | norms

    def policy(self) -> Policy:
        """IQL's, which reads the code of the context as well."""
        return ContextPolicy(super().policy(), self.encoder)

    def _same_task(self, batch: Batch) -> Tensor:
        """Whether two sequences are of one task, ``[R, B, B]``."""
        size = self.config.task_size
        count = batch.state.shape[1]
        if not size:
            return torch.eye(count, dtype=torch.bool, device=batch.state.device).expand(self.replicas, -1, -1)
        task = batch.state[:, :, 0, -size:]
        return (task.unsqueeze(1) == task.unsqueeze(2)).all(-1)

    def _other_sequence(self, same: Tensor) -> Tensor | None:
        """Pairs of halves of different sequences, ``[2 B, 2 B]``; None where no tasks are known.

        Halves of one sequence are near each other by where it went, which says nothing about the task.
        """
        if not self.config.task_size:
            return None
        return ~torch.eye(same.shape[-1], dtype=torch.bool, device=same.device).repeat(2, 2)


def _half(each: Tensor, filled: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Mean over every second step from ``first``, ``[R, B, N, Z]``, and how many there are, ``[R, B]``."""
    count = filled[:, :, first::2].sum(2)
    return each[:, :, first::2].sum(2) / count.clamp_min(1.0)[..., None, None], count


def contexts(each: Tensor, filled: Tensor, same: Tensor, shared: Tensor) -> Tensor:
    """Codes of what came before each row.

    Args:
        each: vectors of the steps ``[R, B, L, N, Z]``, 0 where padded.
        filled: 1 for real steps ``[R, B, L]``.
        same: whether two sequences are of one task ``[R, B, B]``.
        shared: sequences whose context also holds the task's others ``[R, B]``.

    Returns:
        ``[R, B, L + 1, N, Z]``; 0 where there is no context.
    """
    others = same & ~torch.eye(same.shape[-1], dtype=torch.bool, device=same.device)
    weight = (others & shared.unsqueeze(-1)).to(each.dtype)
    sums = each.sum(2)
    begun = (weight @ sums.flatten(2)).view(sums.shape).unsqueeze(2)
    known = (weight @ filled.sum(2, keepdim=True))[..., None, None]
    total = torch.cat((begun, begun + each.cumsum(2)), dim=2)
    count = torch.cat((known, known + filled.cumsum(2)[..., None, None]), dim=2)
    return total / count.clamp_min(1.0)


def metric(code: Tensor, valid: Tensor, same: Tensor, pulls: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Mean pull between codes of one task and mean push between codes of different tasks, each ``[R]``.

    Args:
        code: of M contexts, ``[R, M, N, Z]``; agents are compared with themselves only.
        valid: contexts that hold any step, ``[R, M]``.
        same: whether two contexts are of one task, ``[R, M, M]``.
        pulls: whether two contexts of one task are to be near each other, ``[M, M]``; None: all of them.
    """
    apart = (code.unsqueeze(1) - code.unsqueeze(2)).square().mean(-1)  # [R, M, M, N]
    itself = torch.eye(code.shape[1], dtype=torch.bool, device=code.device)
    pairs = valid.unsqueeze(1) & valid.unsqueeze(2) & ~itself

    def mean(value: Tensor, chosen: Tensor) -> Tensor:
        weight = chosen.unsqueeze(-1).to(value.dtype).expand_as(value)
        return (value * weight).sum((1, 2, 3)) / (weight.sum((1, 2, 3)) + NO_PAIRS)

    near = pairs & same if pulls is None else pairs & same & pulls
    return mean((apart + SAME_FLOOR).sqrt(), near), mean(1.0 / (apart + OTHER_FLOOR), pairs & ~same)


class ContextPolicy(Policy):
    """Acts on observation and code of what each agent has been through; evaluation tells it the team's rewards.

    Args:
        inner: acts on both beside each other.
        encoder: of transitions.
    """

    def __init__(self, inner: Policy, encoder: Encoder) -> None:
        super().__init__()
        self.inner = inner
        self.encoder = encoder
        self.stochastic = inner.stochastic
        self._total: Tensor | None = None  # sum of the context's vectors, [R, E, N, Z]
        self._count = torch.empty(0)  # transitions of the context, [R, E]
        self._begun = torch.empty(0)  # 1 after an episode's first step, [R, E]
        self._obs = self._action = self._reward = torch.empty(0)  # of the last step

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        """Forget the context of the copies ``ids`` (None: of all)."""
        if ids is None or self._total is None:
            self._total = None
            return
        where = ids if ids.dtype == torch.bool else (slice(None), ids)
        for memory in (self._total, self._count, self._begun):
            memory[where] = 0.0

    def receive(self, reward: Tensor) -> None:
        """The reward of the last action."""
        self._reward = reward

    def took(self, action: Tensor) -> None:
        """The last action, of which the context learns."""
        self.inner.took(action)
        self._action = action

    def inform(self, obs: Tensor, action: Tensor, reward: Tensor, next_obs: Tensor) -> None:
        """Add transitions to the contexts of the present episodes.

        Args:
            obs: ``[R, E, C, N, O]``, C transitions for each copy.
            action: ``[R, E, C, N, A]`` or ``[R, E, C, N]``.
            reward: the team's, ``[R, E, C]``.
            next_obs: like ``obs``.
        """
        each = self.encoder(obs, action, reward, next_obs)
        self._start(each[:, :, 0])
        assert self._total is not None
        self._total += each.sum(2)
        self._count += each.shape[2]

    @property
    def code(self) -> Tensor:
        """Of the present contexts, ``[R, E, N, Z]``; only while episodes are going on."""
        assert self._total is not None
        return self._total / self._count.clamp_min(1.0)[..., None, None]

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        self._start(obs)
        if self._obs.shape == obs.shape:
            new = self.encoder(self._obs, self._action, self._reward, obs)
            self._total = self._total + new * self._begun[..., None, None]
            self._count = self._count + self._begun
        action = self.inner.act(torch.cat((obs, self.code), dim=-1), action_mask, random)
        self._obs = obs
        self._action = action
        self._begun = torch.ones_like(self._begun)
        return action

    def _start(self, like: Tensor) -> None:
        """Empty contexts for copies as in ``like [R, E, ...]``, where there are none."""
        if self._total is None:
            self._total = like.new_zeros(*like.shape[:3], self.encoder.size)
            self._count, self._begun, self._reward = (like.new_zeros(like.shape[:2]) for _ in range(3))
            self._obs = torch.empty(0)
