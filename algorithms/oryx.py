"""Oryx: sequence modeling for teams, an autoregressive retention network with in-sample weights.

"Oryx: a Scalable Sequence Model for Many-Agent Coordination in Offline MARL", NeurIPS 2025, arXiv 2505.22151. One
network reads the episode so far: its encoder the observations of all agents, its decoder also the actions of the
agents before in the same step (and, of earlier steps, of all but the last agent). The agents of a step stand in a
random order, another one in every update. With a bar for the target network, tokens (t, i), B sequences in the batch
and a_{<i} for what the decoder has read:

1. values: Q(o, a_{<i}, .) of all actions, Q_{t,i} of the data's action
           w_{t,i} = B softmax over the batch of (Q̄_{t,i} / beta_v), for each position on its own
           y_{t,i} = r_{t,i} + gamma mask w_{t+1,i} Q̄_{t+1,i}
           L_TD = mean (Q_{t,i} - y_{t,i})^2 / 2
2. policy: A_{t,i} = Q_{t,i} - sum_a pi(a) Q(o, a_{<i}, a)                             (discrete)
           A_{t,i} = Q_{t,i} - Q̄_{t,i}                                                 (continuous)
           L_pi = -mean B softmax over the batch of (A_{t,i} / beta_p) log pi(a_{t,i} | o, a_{<i})

One step of one Adam follows c L_TD + L_pi; then the target follows. Everything in w, y and A is a constant.

Acting is step by step, in the order of the agents' numbers, with the retention's states instead of the episode; it
gives what reading the episode at once gives. Execution is sequential, and every agent also reads the others'
observations, through the encoder. With ``autoregressive = False`` the decoder does not see the actions; agents then
choose at the same time, which mixes the data's conventions (benchmarks/studies/oryx.py): centralized execution.

With continuous actions the published value has not seen the action that it is the value of, so that A is the distance
from the target network; ``own_action = True`` shows it to the value, and A = Q(a_i) - Q(mode of pi), ours.

Departures from the authors' code: the decoder's tokens also say whose action they hold, which a random order would
hide; agents that sample have a random number each; no position enters, so that a window may begin anywhere in an
episode. With the decays of ``decay_scaling = 0.5`` what lies ten steps back
has a weight of 0.001, so that the beginning of a window of 20 steps hardly matters; nearer to 1 the memory is longer.
Their version for several tasks (values as classes, task-balanced batches) is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, known_actions, require_context
from marlzoo.config import Config, Count, Fraction, NonNegative, Positive
from marlzoo.modules.layers import Linear, RMSNorm, chosen, one_hot, with_agent_id
from marlzoo.modules.policies import (
    Execution,
    Policy,
    Random,
    log_softmax,
    select_action,
    tanh_gaussian_mode,
)
from marlzoo.modules.retention import RetentionDecoder, RetentionEncoder
from marlzoo.objectives import (
    data_likelihood,
    data_value,
    detached,
    effective_sample_size,
    mean_over,
    softmax_weights,
)
from marlzoo.replicas import Init, Kind
from marlzoo.spec import Spec

STD_FLOOR = 1e-3
CONTINUOUS = {"value_temperature": 1e4, "policy_temperature": 1.0, "td_weight": 0.5, "sequence_length": 20}


@dataclass(frozen=True)
class OryxConfig(Config):
    """Settings of Oryx; the defaults are the authors' for discrete actions, but for whole episodes."""

    value_temperature: Positive = 1000.0  # beta_v: of the weights of the next step's values
    policy_temperature: Positive = 0.1  # beta_p: of the weights of the data's actions
    td_weight: NonNegative = 1.0  # c: weight of the values' loss beside the policy's
    autoregressive: bool = True  # show each agent the actions of those before it
    own_action: bool = False  # continuous: show the value the action that it is of
    decay_scaling: Fraction = 0.5  # share of the memory that is left after a step, nearly (0: no memory)
    tau: Fraction = 0.005  # rate at which the target follows
    eval_mode: Literal["greedy", "sample"] = "greedy"  # how the policy is evaluated
    hidden: Count = 128  # features of a token
    heads: Count = 4  # heads of the retention
    lr: Positive = 3e-4  # step size of Adam
    grad_clip: Positive = 10.0  # bound on the gradient norm
    batch_size: Count = 64  # sequences (of all agents) per update and replica


class Embedding(nn.Module):
    """Linear layer, GELU and normalization, ``[R, ..., in] -> [R, ..., size]``."""

    def __init__(self, init: Init, n_in: int, size: int) -> None:
        super().__init__()
        self.linear = Linear(init, n_in, size)
        self.norm = RMSNorm(init, size)

    def forward(self, *parts: Tensor) -> Tensor:
        """Parts are joined along the last axis."""
        out: Tensor = self.norm(F.gelu(self.linear(*parts)))
        return out


class Head(nn.Module):
    """An embedding and a linear layer, drawn orthogonal as the authors do, so that outputs start near zero."""

    def __init__(self, init: Init, n_in: int, hidden: int, n_out: int) -> None:
        super().__init__()
        self.body = Embedding(init, n_in, hidden)
        self.last = Linear(init, hidden, n_out, gain=0.01)
        self.body.linear = Linear(init, n_in, hidden, gain=2.0**0.5)

    def forward(self, *parts: Tensor) -> Tensor:
        """``[R, ..., in_k]`` parts ``-> [R, ..., out]``."""
        out: Tensor = self.last(self.body(*parts))
        return out


class OryxNet(nn.Module):
    """Encoder, decoder and both heads.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        config: sizes.
        decay: of the memory, ``[R]``; see :class:`marlzoo.modules.retention.Retention`.
    """

    def __init__(self, init: Init, spec: Spec, config: OryxConfig, decay: Tensor) -> None:
        super().__init__()
        h = config.hidden
        n = spec.n_agents
        a = spec.action_size
        self.action_size = a
        self.discrete = spec.discrete
        self.autoregressive = config.autoregressive
        self.own_action = config.own_action
        self.obs = Embedding(init, spec.obs_size + n, h)
        self.acted = Embedding(init, a + n, h)
        self.encoder = RetentionEncoder(init, h, config.heads, decay)
        self.decoder = RetentionDecoder(init, h, config.heads, decay)
        self.policy = Head(init, h, h, a)
        if spec.discrete:
            self.value = Head(init, h, h, a)
        else:
            self.value = Head(init, h + a * config.own_action, h, 1)
            self.spread = init.constant(0.0, a)

    def forward(self, obs: Tensor, action: Tensor, order: Tensor) -> Tensor:
        """What the heads read, in the agents' own order, ``[R, B, L, N, hidden]``.

        Args:
            obs: ``[R, B, L, N, O]``.
            action: of the data, ``[R, B, L, N]`` or ``[R, B, L, N, A]``.
            order: in which the agents act, ``[R, N]``.
        """
        encoded = self.encoder(self.obs(reordered(with_agent_id(obs), order)))
        before = reordered(self.token(action), order)
        before = F.pad(before[:, :, :, :-1], (0, 0, 1, 0))  # zeros are the token of the start
        return reordered(self.decoder(self.acted(before), encoded), order.argsort(-1))

    def token(self, action: Tensor) -> Tensor:
        """Actions and whose they are, as the decoder reads them, ``[..., N, A + N]``."""
        seen = one_hot(action, self.action_size, self.acted.linear.weight.dtype) if self.discrete else action
        return with_agent_id(seen if self.autoregressive else torch.zeros_like(seen))

    def output(self, read: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Logits, or mean and log standard deviation, ``[..., A]``."""
        found: Tensor = self.policy(read)
        if self.discrete:
            return found
        log_std = (F.softplus(self.spread) + STD_FLOOR).log()  # [R, A], the same in all states
        log_std = log_std.view(-1, *(1,) * (found.ndim - 2), found.shape[-1])
        return found, log_std.expand_as(found)

    def values(self, read: Tensor, action: Tensor) -> Tensor:
        """Of all actions ``[..., A]`` (discrete), or of the action ``[..., A]``, ``-> [...]``."""
        parts = (read, action) if self.own_action and not self.discrete else (read,)
        found: Tensor = self.value(*parts)
        return found if self.discrete else found.squeeze(-1)


def reordered(x: Tensor, order: Tensor) -> Tensor:
    """``x [R, B, L, N, F]`` with its agents in the order ``[R, N]``."""
    return x.gather(3, order.view(len(order), 1, 1, -1, 1).expand_as(x))


class Oryx(Algorithm):
    """Oryx for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: OryxConfig
    config_class = OryxConfig
    actions = ("continuous", "discrete")
    acting = ("eval_mode",)
    sampling = "sequence"
    unread = ("memory_relu",)
    presets: ClassVar = {
        "mamujoco": CONTINUOUS,
        "mpe": CONTINUOUS,
        "smac": {"sequence_length": 20},
        "games": {"hidden": 64, "lr": 1e-3, "decay_scaling": 1.0},
    }
    variants: ClassVar = {
        "continuous": ({"own_action": True, "sequence_length": 5, "td_weight": 0.5},),
        "discrete": ({"autoregressive": False, "sequence_length": 5, "eval_mode": "sample"},),
    }

    def build(self, spec: Spec) -> None:
        """The network and its target."""
        self.fields = ("obs", "action", "action_mask", "agent_reward", "mask")
        self.net = OryxNet(self.init, spec, self.config, self.hyperparameter("decay_scaling"))
        self.target = self.make_target(self.net)
        self.add_optimizer(net=self.net)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """The agents' order is that of these numbers."""
        return {"order": ("uniform", (self.spec.n_agents,))}

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Refuse windows longer than the longest episode."""
        require_context(self.name, self.config.sequence_length, data)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are losses, batch means and the gradient norm, each [R]."""
        obs = batch.obs[:, :, :-1]
        order = batch.noise["order"].argsort(-1)
        read = self.net(obs, batch.action, order)
        values = self.net.values(read, batch.action)  # [R, B, L, N(, A)]
        q = chosen(values, batch.action) if self.spec.discrete else values

        # 1. Values
        with torch.no_grad():
            after = self.target.values(self.target(obs, batch.action, order), batch.action)
            q_target = chosen(after, batch.action) if self.spec.discrete else after
            y = self._targets(batch, q_target)
        _, known = known_actions(batch)
        td_loss = 0.5 * mean_over((q - y).square(), known)

        # 2. Policy
        output = self.net.output(read)
        log_prob = self.data_log_prob(output, batch)
        with torch.no_grad():
            advantage = q - self._baseline(batch, read, output, values, q_target)
            weight = self._weights(batch, advantage, "policy_temperature")
        policy_loss = -mean_over(weight * log_prob, batch.filled)

        norms = self.step(net=self.hyperparameter("td_weight") * td_loss + policy_loss)
        self.soft_update(self.target, self.net, self.hyperparameter("tau"))
        found = {"critic/loss": td_loss, "policy/loss": policy_loss, "critic/target": mean_over(y, known)}
        common = data_value(q, batch.filled)
        common |= effective_sample_size(weight, batch.filled)
        common |= data_likelihood(log_prob, batch.filled)
        return detached(found) | common | norms

    def policy(self) -> Policy:
        """Acts agent by agent with the best legal action or the mode, or by sampling."""
        return OryxPolicy(self.net, self.action_dimensions, self.config.eval_mode == "sample")

    def _weights(self, batch: Batch, x: Tensor, temperature: str) -> Tensor:
        """Of mean 1 over the batch at each position; padding has none."""
        beta = self.hyperparameter(temperature, x.ndim)
        return softmax_weights(x, beta, valid=batch.filled.unsqueeze(-1))

    def _targets(self, batch: Batch, q_target: Tensor) -> Tensor:
        """y, [R, B, L, N]; a step without a known next action has none of use."""
        weighted = self._weights(batch, q_target, "value_temperature") * q_target
        after = F.pad(weighted[:, :, 1:], (0, 0, 0, 1))
        return batch.agent_reward + self.hyperparameter("gamma", 4) * batch.mask.unsqueeze(-1) * after

    def _baseline(
        self,
        batch: Batch,
        read: Tensor,
        output: Tensor | tuple[Tensor, Tensor],
        values: Tensor,
        q_target: Tensor,
    ) -> Tensor:
        """What an action's value is compared with, [R, B, L, N]."""
        if isinstance(output, Tensor):
            return (log_softmax(output, batch.action_mask[:, :, :-1]).exp() * values).sum(-1)
        if not self.config.own_action:
            return q_target
        return self.net.values(read, tanh_gaussian_mode(output[0]) * self.action_dimensions)


class OryxPolicy(Policy):
    """Acts step by step, one agent after another, with the retention's states as memory.

    Args:
        net: of all agents.
        used: ``[N, A]``, 0 for padding.
        sample: draw actions instead of taking the best.
    """

    execution: Execution = "sequential"
    used: Tensor

    def __init__(self, net: OryxNet, used: Tensor, sample: bool) -> None:
        super().__init__()
        self.net = net
        self.stochastic = sample
        if not net.autoregressive:
            self.execution = "centralized"
        self.register_buffer("used", used, persistent=False)
        self._states: dict[str, Tensor] = {}
        # The step's actions and encoded tokens, and the decoder's states before it; empty before the first step.
        self._turns: tuple[Tensor, ...] = ()

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        """Begin the episodes of the copies ``ids`` (None: all)."""
        self._turns = ()
        if ids is None:
            self._states = {}
            return
        where = ids if ids.dtype == torch.bool else (slice(None), ids)
        for state in self._states.values():
            state[where] = 0.0

    def state(self) -> dict[str, Tensor]:  # noqa: D102
        return dict(self._states)

    def load_state(self, state: dict[str, Tensor]) -> None:  # noqa: D102
        self._states = dict(state)
        self._turns = ()

    def took(self, action: Tensor) -> None:
        """Let the decoder read these actions in place of those that were chosen."""
        if not self._turns or torch.equal(action, self._turns[0]):
            return
        _, encoded, own, cross = self._turns
        token = encoded.new_zeros(*encoded.shape[:2], 1, sum(self.used.shape))  # of the start
        tokens = torch.cat((token, self.net.token(action)[:, :, :-1]), dim=2)
        for i in range(action.shape[2]):
            mine = slice(i, i + 1)
            _, own, cross = self.net.decoder.step(
                self.net.acted(tokens[:, :, mine]), encoded[:, :, mine], own, cross
            )
        self._states |= {"decoder": own, "cross": cross}

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        parts = {
            "encoder": self.net.encoder.retention,
            "decoder": self.net.decoder.own,
            "cross": self.net.decoder.cross,
        }
        known = self._states or {name: part.start(obs) for name, part in parts.items()}
        now = {name: part.decayed(known[name]) for name, part in parts.items()}
        encoded, now["encoder"] = self.net.encoder.step(self.net.obs(with_agent_id(obs)), now["encoder"])
        before = now["decoder"], now["cross"]
        token = obs.new_zeros(*obs.shape[:2], 1, sum(self.used.shape))  # of the start
        if self.net.discrete:
            action = obs.new_zeros(obs.shape[:3], dtype=torch.int64)
        else:
            action = obs.new_zeros(*obs.shape[:3], self.used.shape[-1])
        for i in range(obs.shape[2]):
            mine = slice(i, i + 1)
            read, now["decoder"], now["cross"] = self.net.decoder.step(
                self.net.acted(token), encoded[:, :, mine], now["decoder"], now["cross"]
            )
            mask = None if action_mask is None else action_mask[:, :, mine]
            # What this agent does is what the next one reads.
            action[:, :, mine] = select_action(self.net.output(read), self.used[mine], mask, random)
            token = self.net.token(action)[:, :, mine]
        self._states = now
        self._turns = (action, encoded, *before)
        return action
