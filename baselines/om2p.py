"""OM2P: decentralized policies that make an action of noise in one step, by mean velocities.

"OM2P: Offline Multi-Agent Mean-Flow Policy", AAMAS 2026, arXiv 2508.06269. Flow policies call their network many
times per action, or need a second network that imitates them. A network of the *mean* velocity u(o, x, t, s) from
time t to time s needs one call, and the critic's gradient reaches it directly. Every agent has a policy and twin
critics of its own and nothing in common with the others. With noise x_0 at time 0, a data action a at time 1,
x_t = (1 - t) x_0 + t a, v = a - x_0, sg for stopped gradients and a bar for target networks:

1. flow:    L_flow = mean |u(o, x_t, t, s) - sg(v - (t - s) du/dt)|^2,   t, s uniform on [0, 1]
            du/dt is the change of u along the path with s held fixed; s = t in a share ``flow_share`` of the samples
2. policy:  pi(o, x_0) = clip(x_0 + u(o, x_0, 0, 1), -1, 1)
            L_pi = L_flow - q_weight mean Q(o, pi(o, x_0))
3. critics: y = r_i + gamma mask Q̄(o', pi(o', x'_0)),   L_Q = mean (Q_j(o, a) - y)^2;   Q is the mean of the twins

All losses are taken before any step. Acting divides the way into ``eval_steps`` parts, one unless said otherwise:
x <- x + (s - t) u(o, x, t, s).

Departures from the authors' code, which is not the identity of their text:

* the term with du/dt has the other sign there; where it is a finite difference with the recommended 1e-12, it is
  exactly 0 in single precision, and what is learned is the velocity at t, not the mean velocity;
* their action is u itself instead of x_0 + u. On data of two points neither of the two ties actions to the data, and
  with exact derivatives the other sign diverges. Only the identity is offered.

They also offer an expectile and a conservative critic, a search for the best action beside the policy's gradient, and
other distributions of t and s; none is here. Layers have ReLU and no normalization.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import Config, Count, Fraction, NonNegative, Positive
from marlzoo.modules.critics import ActionValues
from marlzoo.modules.flow import Average, AverageVelocity, average_target, carry
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.policies import Policy, Random
from marlzoo.objectives import TargetMemory, action_error, data_value, detached, mean_over, saturation
from marlzoo.replicas import Kind
from marlzoo.spec import Spec


@dataclass(frozen=True)
class OM2PConfig(Config):
    """Settings of OM2P; the defaults are the authors'."""

    q_weight: NonNegative = 1.0  # weight of the value beside the flow's loss (theirs: .01 to 10 by task)
    normalize_q: bool = False  # divide each agent's value by its mean size in the batch
    flow_share: Fraction = 0.25  # share of samples with s = t
    eval_steps: Count = 1  # parts of the way from noise to action when acting
    tau: Fraction = 0.005  # rate at which the critics' target follows
    hidden: Count = 512  # width of the hidden layers
    layers: Count = 4  # hidden layers of the policy; critics have two
    lr: Positive = 3e-4  # step size of Adam
    batch_size: Count = 256  # transitions per update and replica


class OM2P(Algorithm):
    """OM2P for continuous actions; see the module's text."""

    config: OM2PConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = OM2PConfig
    actions = ("continuous",)
    acting = ("eval_steps",)
    unread = ("sequence_length", "memory_relu", "bound_margin")
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {"lr": 1e-3},
        "games": {"hidden": 64, "layers": 3, "lr": 1e-3, "tau": 0.02},
    }
    variants: ClassVar = {"continuous": ({"normalize_q": True, "flow_share": 0.5, "eval_steps": 3},)}

    def build(self, spec: Spec) -> None:
        """Per agent a mean velocity and twin critics; the critics' target."""
        c = self.config
        self.fields = ("obs", "next_obs", "action", "agent_reward", "mask")
        self.actor = AverageVelocity(self.init, spec.obs_size, self.action_dimensions, c.hidden, c.layers)
        self.q = ActionValues(self.init, spec, c.hidden, members=2, per_agent=True)
        self.target_q = self.make_target(self.q)
        self.add_optimizer(policy=self.actor, critic=self.q)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Times, whether they are equal, and the noise of flow, policy and target; each agent's own."""
        shape = (self.config.batch_size, self.spec.n_agents)
        time: tuple[Kind, tuple[int, ...]] = ("uniform", (*shape, 1))
        start: tuple[Kind, tuple[int, ...]] = ("normal", (*shape, self.spec.action_size))
        return {"t": time, "s": time, "same": time, "start": start, "now": start, "next": start}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of policies and critics; metrics are losses, batch means and gradient norms, each [R]."""
        used = self.action_dimensions
        drawn = batch.noise

        # 1. Flow
        t = drawn["t"]
        s = torch.where(drawn["same"] < self.hyperparameter("flow_share", 4), t, drawn["s"])
        velocity = batch.action - drawn["start"]
        x = torch.lerp(drawn["start"], batch.action, t)
        field = self._field(batch.obs)
        wanted = average_target(field, x, t, s, velocity)
        flow_loss = mean_over(action_error(field(x, t, s), wanted, used))

        # 2. Policy
        action = self._action(batch.obs, drawn["now"])
        value = self.q(with_agent_id(batch.obs), action).mean(1)  # [R, B, N]
        if self.config.normalize_q:
            size = value.detach().abs().mean(1, keepdim=True)
            value = value / size.clamp_min(1e-6)
        policy_loss = flow_loss - self.hyperparameter("q_weight") * mean_over(value)

        # 3. Critics
        with torch.no_grad():
            after = self._action(batch.next_obs, drawn["next"])
            q_after = self.target_q(with_agent_id(batch.next_obs), after).mean(1)
            carried = self.hyperparameter("gamma", 3) * batch.mask.unsqueeze(-1)
            y = batch.agent_reward + carried * q_after
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        q = self.q(with_agent_id(batch.obs), batch.action)  # [R, 2, B, N]
        critic_loss = mean_over((q - y.unsqueeze(1)).square())

        norms = self.step(policy=policy_loss, critic=critic_loss)
        self.soft_update(self.target_q, self.q, self.hyperparameter("tau"))
        losses = {"flow/loss": flow_loss, "policy/loss": policy_loss, "critic/loss": critic_loss}
        common = data_value(q[:, 0]) | saturation(action, used)
        return detached(losses | {"critic/target": mean_over(y)}) | common | norms

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        values: Tensor = self.q(with_agent_id(batch.obs), batch.action)
        return values.amin(1)

    def policy(self) -> Policy:
        """Every agent's own, of its observation and noise."""
        return MeanFlowPolicy(self.actor, self.config.eval_steps)

    def _field(self, obs: Tensor) -> Average:
        return lambda x, t, s: self.actor(obs, x, t, s)

    def _action(self, obs: Tensor, noise: Tensor) -> Tensor:
        """Actions ``[R, B, N, A]`` made in one step."""
        return carry(self._field(obs), noise, 1).clamp(-1.0, 1.0) * self.action_dimensions


class MeanFlowPolicy(Policy):
    """Makes every agent's action of its observation and noise of its own.

    Args:
        actor: the mean velocity.
        steps: parts of the way, one call of the network each; without random numbers the noise is zero.
    """

    stochastic = True

    def __init__(self, actor: AverageVelocity, steps: int) -> None:
        super().__init__()
        self.actor = actor
        self.steps = steps

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        shape = (*obs.shape[1:3], self.actor.used.shape[-1])
        z = obs.new_zeros(len(obs), *shape) if random is None else random.normal(*shape)
        x = carry(lambda x, t, s: self.actor(obs, x, t, s), z, self.steps)
        return x.clamp(-1.0, 1.0) * self.actor.used
