"""MAC-Flow: multi-agent coordination via flow matching, distilled into policies that act in one step.

"Multi-Agent Coordination via Flow Matching", ICLR 2026, arXiv 2511.05005. A flow learns the joint actions of the data
with all their conventions; every agent's one-step policy (student) is fitted to its part of what the flow makes of
noise, and raises a value that is the sum of the agents' values. Agents share students and critics, which read the
agent's number (o_i here); o are all observations, M is the number of integration steps. A bar is a target network:

1. flow:     x_t = (1 - t) x_0 + t a,  x_0 ~ N(0, 1),  t uniform on [0, 1]
             L_flow = mean |v(t, o, x_t) - (a - x_0)|^2
             F(o, z): x <- x + v(k / M, o, x) / M for k = 0 .. M - 1, from x = z
2. critics:  Q_tot = sum_i Q_i(o_i, a_i), averaged over two
             y = r + gamma mask Q̄_tot(o', a'), a'_i = mu_i(o'_i, z'_i)
             L_Q = mean (Q_tot(o, a) - y)^2
3. students: L_mu = -mean Q_tot(o, mu_1(o_1, z_1) .. mu_n(o_n, z_n)) + alpha sum_i mean |mu_i(o_i, z_i) - F(o, z)_i|^2

The same z enters both sides of the distillation; F is a constant to it. All losses are taken before any step.

Discrete actions enter the flow as one-hot vectors; F's action is the best legal entry, students give logits and are
fitted by cross-entropy, and values are expectations: sum_a mu_i(a) Q_i(o_i, a).

A student does not know the others' noise, so that it averages over what they may do: on data with two conventions
the flow keeps to one of them, and students with noise of their own mix them (benchmarks/studies/mac_flow.py). What
agents do about it is ``noise``:

* ``per_step``: every agent draws its own at every step (the paper).
* ``per_episode``: its own, kept for the episode. This is what the authors' evaluation does, which uses one random
  key all the time.
* ``zero``: z_i = 0 in evaluation (the authors' code for discrete actions).
* ``shared``: students read the whole z, and the team draws it together at every step, from one common seed. That is
  more than decentralized agents have, so that tables keep it apart as an execution class of its own.

``coupling`` says which noise is carried to which action in step 1. ``independent`` (the paper) draws each on its own.
``mosdot`` ("Multi-Agent Coordination via Support-Preserving Distillation", 2026, without published code) gives each
part of the noise to one mode of the joint actions found in a context. With modes y_k of share b_k of a context's data

    g      = argmax sum_k b_k g_k + E_z min_k (|z - y_k|^2 - g_k),   k(z) = argmin_k (|z - y_k|^2 - g_k)

and a is a joint action of the mode k(x_0), so that every vector of noise is carried to one supported joint action.
Contexts are groups of alike observations, modes equal joint actions or groups of alike ones (k-means), found once
before training; both numbers are ours. Students, critics and kinds of noise are the same. Students with noise of
their own still know only their part of z, so that the product of their actions mixes conventions; with ``noise =
"shared"`` they do not.

``deploy = "flow"`` acts with F itself, to compare with: centralized execution by one network that sees all
observations and is called ``eval_steps`` times per action instead of once.

Departures from the authors' code, which is not that of their paper: their flow models every agent alone and sees its
own observation only; theirs takes an argmax between student and critic, so that discrete students get no gradient
from the value at all; their target uses the end of the next step. None is offered. Layers have ReLU and no
normalization. With ``history = "rnn"`` students read the episode so far; flow and critics see single observations.
Their memory then reads in training what it reads in acting: noise that changes from step to step, or, where they act
on one noise per episode (``zero`` included), one noise per sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, as_transitions, row_fields, step_count
from marlzoo.config import (
    ASSIGNED_LATER,
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    History,
    NonNegative,
    Positive,
)
from marlzoo.modules.coupling import ModeCoupling, joint_actions
from marlzoo.modules.critics import ActionValues
from marlzoo.modules.flow import VelocityField, integrate
from marlzoo.modules.layers import MLP, RecurrentNet, one_hot, with_agent_id
from marlzoo.modules.policies import (
    Execution,
    Policy,
    Random,
    RecurrentPolicy,
    categorical_log_prob,
    log_softmax,
    mask_logits,
)
from marlzoo.objectives import action_error, data_value, detached, mean_over, saturation
from marlzoo.replicas import Kind
from marlzoo.spec import Spec

Noise = Literal["per_step", "per_episode", "zero", "shared"]


@dataclass(frozen=True)
class MACFlowConfig(Config):
    """Settings of MAC-Flow; the defaults are the authors' for continuous actions."""

    alpha: NonNegative = 3.0  # weight of the distillation against the value
    flow_steps: Count = 10  # integration steps of the flow that students are fitted to
    noise: Noise = "per_step"  # what students act on
    deploy: Literal["students", "flow"] = "students"  # who acts
    eval_steps: Count = 10  # integration steps of a flow that acts
    normalize_q: bool = False  # divide the students' value by its mean size in the batch
    coupling: Literal["independent", "mosdot"] = field(
        default="independent", metadata=ASSIGNED_LATER
    )  # which noise belongs to which action
    contexts: Count = field(default=64, metadata=ASSIGNED_LATER)  # groups of observations, at most (mosdot)
    modes: Count = field(
        default=16, metadata=ASSIGNED_LATER
    )  # of joint actions in a context, at most (mosdot)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 512  # width of the hidden layers
    layers: Count = 4  # hidden layers of flow and students; critics have two
    history: History = "mlp"  # students act on the observation, or on the episode so far
    lr: Positive = 3e-4  # step size of Adam
    batch_size: Count = 640  # transitions (or sequences) per update and replica


class MACFlow(Algorithm):
    """MAC-Flow for continuous and discrete actions; see the module's text."""

    config: MACFlowConfig
    config_class = MACFlowConfig
    actions = ("continuous", "discrete")
    acting = ("eval_steps",)
    unread = ("bound_margin",)
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": {**MLP_TRANSITIONS, "layers": 2},
        "smac-recurrent": {**RECURRENT_SEQUENCES, "layers": 2},
    }
    variants: ClassVar = {
        "continuous": (
            {"noise": "shared", "normalize_q": True},
            {"deploy": "flow", "eval_steps": 3, "coupling": "mosdot", "contexts": 3, "modes": 4},
            {"noise": "per_episode", "history": "rnn", "sequence_length": 6},
        ),
        "discrete": (
            {"noise": "per_episode", "coupling": "mosdot", "contexts": 3, "modes": 4},
            {"noise": "zero", "history": "rnn", "sequence_length": 6},
            {"noise": "shared", "deploy": "flow"},
        ),
    }

    def build(self, spec: Spec) -> None:
        """The joint flow, students, twin critics and their target."""
        c = self.config
        n = spec.n_agents
        a = spec.action_size
        h = c.hidden
        recurrent = c.history == "rnn"
        self.sampling = "sequence" if recurrent else "transition"
        self.length = step_count(recurrent, c.sequence_length, self.name)
        self.fields = row_fields(recurrent, "obs", "action_mask", "action", "reward", "mask")
        used = self.action_dimensions.flatten()
        self.flow = VelocityField(self.init, n * spec.obs_size, n * a, h, c.layers, used)
        if c.coupling == "mosdot":
            self.coupling = ModeCoupling(self.init, n * spec.obs_size, n * a, c.contexts, c.modes)
        n_in = spec.obs_size + (n * a if c.noise == "shared" else a) + n
        self.student: nn.Module
        if recurrent:
            self.student = RecurrentNet(self.init, n_in, h, a, c.memory_relu)
        else:
            self.student = MLP(self.init, (n_in, *(h,) * c.layers, a))
        self.q = ActionValues(self.init, spec, h, members=2)
        self.target_q = self.make_target(self.q)
        self.add_optimizer(flow=self.flow, critic=self.q, student=self.student)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Where the flow starts and stands, the students' noise (also at the last row), and places among actions."""
        steps = self.config.batch_size * self.length
        team = (self.spec.n_agents, self.spec.action_size)
        found: dict[str, tuple[Kind, tuple[int, ...]]] = {
            "time": ("uniform", (steps, 1)),
            "start": ("normal", (steps, *team)),
            "student": ("normal", (self.config.batch_size, self.length + 1, *team)),
        }
        return found | ({"member": ("uniform", (steps,))} if self.config.coupling == "mosdot" else {})

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Find contexts and modes of every replica's data, where noise is paired with them."""
        if self.config.coupling == "independent":
            return
        size = self.spec.action_size * self.spec.discrete
        used = self.spec.own_actions  # [N, A]
        for replica, (dataset, seed) in enumerate(zip(data, self.seeds, strict=True)):
            self.coupling.read(replica, seed, *joint_actions(dataset, used, size))

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of flow, critics and students; metrics are losses, batch means and gradient norms, each [R]."""
        rows = as_sequences(batch)
        z = self._student_noise(batch)
        steps, real = as_transitions(batch)
        out = self.student(with_noise(rows.obs, z, self.config.noise == "shared"))
        out = out[0] if isinstance(out, tuple) else out  # [R, B, L + 1, N, A]
        now = out[:, :, :-1].flatten(1, 2)
        after = out[:, :, 1:].flatten(1, 2).detach()
        context = steps.obs.flatten(-2)

        # 1. Flow
        flow_loss = self._flow_loss(steps, context, real)

        # 2. Critics
        with torch.no_grad():
            next_mask = steps.next_action_mask if self.spec.discrete else None
            q_after = self._value(self.target_q, steps.next_obs, after, next_mask)
            y = steps.reward + self.hyperparameter("gamma", 2) * steps.mask * q_after
        q_tot = self.q(with_agent_id(steps.obs), steps.action).sum(-1)  # [R, 2, M]
        critic_loss = mean_over((q_tot - y.unsqueeze(1)).square().mean(1), real)

        # 3. Students
        action_mask = steps.action_mask if self.spec.discrete else None
        value = self._value(self.q, steps.obs, now, action_mask)
        if self.config.normalize_q:
            size = mean_over(value.detach().abs(), real).clamp_min(1e-6)
            value = value / size.unsqueeze(-1)
        with torch.no_grad():
            same = z[:, :, :-1].flatten(1, 2).flatten(-2)
            teacher = integrate(self.flow, context, same, self.config.flow_steps).view_as(now)
        distance = self._distance(now, teacher, action_mask)
        student_loss = mean_over(self.hyperparameter("alpha", 2) * distance - value, real)

        norms = self.step(flow=flow_loss, critic=critic_loss, student=student_loss)
        self.soft_update(self.target_q, self.q, self.hyperparameter("tau"))
        losses = {"flow/loss": flow_loss, "critic/loss": critic_loss, "student/loss": student_loss}
        means = {"student/distillation": mean_over(distance, real), "critic/target_total": mean_over(y, real)}
        common = data_value(q_tot[:, 0], real)
        if not self.spec.discrete:
            common |= saturation(now.clamp(-1.0, 1.0), self.action_dimensions, real)
        return detached(losses | means) | common | norms

    def policy(self) -> Policy:
        """The students, or the flow itself."""
        c = self.config
        used = self.action_dimensions
        if c.deploy == "flow":
            return FlowPolicy(self.flow, used, c.eval_steps, self.spec.discrete)

        def acting(network: nn.Module) -> Policy:
            return StudentPolicy(network, used, c.noise, self.spec.discrete)

        if c.history == "rnn":
            return RecurrentPolicy(self.student, acting)
        return acting(self.student)

    def _student_noise(self, batch: Batch) -> Tensor:
        """``[R, B, L + 1, N, A]``: a memory that acts on one noise per episode is trained on one per sequence."""
        z = batch.noise["student"]
        held = self.config.history == "rnn" and self.config.noise in ("per_episode", "zero")
        return z[:, :, :1].expand_as(z) if held else z

    def _flow_loss(self, steps: Batch, context: Tensor, real: Tensor | None) -> Tensor:
        """Squared distance of the field from the straight way to the data, [R]."""
        used = self.action_dimensions
        data = steps.action
        if self.spec.discrete:
            data = one_hot(data, self.spec.action_size, self.dtype)
        start = steps.noise["start"]
        time = steps.noise["time"]
        if self.config.coupling == "mosdot":
            data = self.coupling(context, start.flatten(-2), steps.noise["member"]).view_as(start)
        between = torch.lerp(start, data, time.unsqueeze(-1))
        velocity = self.flow(context, between.flatten(-2), time).view_as(data)
        return mean_over(action_error(velocity, data - start, used), real)

    def _value(self, critics: ActionValues, obs: Tensor, out: Tensor, action_mask: Tensor | None) -> Tensor:
        """The team's value ``[R, M]`` of students' outputs ``[R, M, N, A]``, averaged over the critics."""
        seen = with_agent_id(obs)
        if not self.spec.discrete:
            value: Tensor = critics(seen, out.clamp(-1.0, 1.0) * self.action_dimensions)
            return value.mean(1).sum(-1)
        chance = log_softmax(out, action_mask).exp().unsqueeze(1)
        expected: Tensor = (chance * critics.networks(seen)).sum(-1)
        return expected.mean(1).sum(-1)

    def _distance(self, out: Tensor, teacher: Tensor, action_mask: Tensor | None) -> Tensor:
        """Distance of the students from the flow's actions, summed over the agents, ``[R, M]``."""
        if not self.spec.discrete:
            return action_error(out, teacher.clamp(-1.0, 1.0), self.action_dimensions).sum(-1)
        best = mask_logits(teacher, action_mask).argmax(-1)
        return -categorical_log_prob(mask_logits(out, action_mask), best).sum(-1)


def with_noise(obs: Tensor, z: Tensor, shared: bool) -> Tensor:
    """What students read: ``obs [..., N, O]``, noise ``[..., N, A]`` (their own, or all of it), and their numbers."""
    if shared:
        z = z.flatten(-2).unsqueeze(-2).expand(*z.shape[:-1], -1)
    return with_agent_id(torch.cat((obs, z), dim=-1))


class StudentPolicy(Policy):
    """Every agent's one-step policy of its observation and noise.

    Args:
        network: ``[R, E, N, O + noise + N] -> [R, E, N, A]``.
        used: ``[N, A]``, 0 for padding.
        noise: see the module's text; without random numbers it is zero.
        discrete: take the best legal action of the output, which is otherwise the action.
    """

    stochastic = True
    used: Tensor

    def __init__(self, network: nn.Module, used: Tensor, noise: Noise, discrete: bool) -> None:
        super().__init__()
        self.network = network
        self.noise = noise
        self.discrete = discrete
        self.execution: Execution = "shared_randomness" if noise == "shared" else "decentralized"
        self.register_buffer("used", used, persistent=False)
        self._kept: Tensor | None = None  # the episodes' noise [R, E, N, A]
        self._begun: Tensor | None = None  # [R, E, N, 1], 0 where an episode begins and draws its noise

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        """Let the copies ``ids`` draw new noise for their episode (None: all)."""
        if ids is None or self._begun is None:
            self._kept = self._begun = None
            return
        begun = self._begun.clone()
        begun[ids if ids.dtype == torch.bool else (slice(None), ids)] = 0.0
        self._begun = begun

    def state(self) -> dict[str, Tensor]:  # noqa: D102
        if self._kept is None or self._begun is None:
            return {}
        return {"episode_noise": self._kept, "begun": self._begun}

    def load_state(self, state: dict[str, Tensor]) -> None:  # noqa: D102
        self._kept = state.get("episode_noise")
        self._begun = state.get("begun")

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        z = self._drawn(obs, random)
        out = self.network(with_noise(obs, z, self.noise == "shared"))
        if self.discrete:
            return mask_logits(out, action_mask).argmax(-1)
        action: Tensor = out.clamp(-1.0, 1.0) * self.used
        return action

    def _drawn(self, obs: Tensor, random: Random) -> Tensor:
        shape = (*obs.shape[1:3], self.used.shape[-1])
        if random is None or self.noise == "zero":
            return obs.new_zeros(len(obs), *shape)
        drawn = random.normal(*shape)
        if self.noise != "per_episode":
            return drawn
        if self._kept is not None and self._begun is not None:  # of the episode
            drawn = torch.where(self._begun > 0.0, self._kept, drawn)
        self._kept = drawn
        self._begun = torch.ones_like(drawn[..., :1])
        return drawn


class FlowPolicy(Policy):
    """The flow itself: joint actions from the noise and the observations of all agents, in several steps.

    Args:
        field: of the joint actions.
        used: ``[N, A]``, 0 for padding.
        steps: of the integration.
        discrete: take the best legal entries.
    """

    stochastic = True
    used: Tensor

    def __init__(self, field: VelocityField, used: Tensor, steps: int, discrete: bool) -> None:
        super().__init__()
        self.field = field
        self.steps = steps
        self.discrete = discrete
        self.execution: Execution = "centralized"
        self.register_buffer("used", used, persistent=False)

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        shape = (*obs.shape[1:3], self.used.shape[-1])
        z = obs.new_zeros(len(obs), *shape) if random is None else random.normal(*shape)
        x = integrate(self.field, obs.flatten(-2), z.flatten(-2), self.steps).view_as(z)
        if self.discrete:
            return mask_logits(x, action_mask).argmax(-1)
        return x.clamp(-1.0, 1.0) * self.used
