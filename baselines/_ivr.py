"""Shared by SQL and EQL: networks, step 3 and order of an update of implicit value regularization (IVR).

The two methods differ in the loss of V and in the policy's weight, which they hand in. Theirs is a method for one
agent; the versions for teams are ours: every agent for itself with the team's reward (``mixing = "none"``), or
OMIGA's linear mixer of Q and V (``"linear"``), where all local values are multiplied by the agent's weight w_i(s).
The agents share their networks, whose inputs carry the agent's one-hot number. With twin Q and a bar for targets:

3. Q:       y = r + gamma m V(o'), no gradient;   L_Q = sum_j mean (Q_j(o, a) - y)^2

V steps first, then policy and Q, then the targets of Q (and of the mixer) follow with rate tau.

Departures from the authors' code, and the option that restores it:

* the policy's weight is the paper's ratio; the release has another: ``weight = "code"``.
* alpha weighs against rewards, so the authors' alpha needs their scale: rewards are multiplied by 1000 / (largest -
  smallest return of an episode in the data), as for their locomotion tasks. The particle world and SMAC, for which
  nobody published alpha, take rewards as they are: ``reward_scaling = "none"``. ``value/data_mean`` is in the data's
  own scale.
* networks, tanh-Gaussian policy and constant step size are OMIGA's, so that the family's members differ in their
  losses only. What belongs to the release's single-agent benchmarks is left out: layer normalization of V, a Gaussian
  with a state-independent width, cosine decay of the policy's step size.

``history = "rnn"`` (ours) lets the policy read the episode so far; Q and V read the observation in both forms.
Discrete actions (ours): one Q per action, log π over the legal actions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_transitions, step_fields
from marlzoo.config import (
    ASSIGNED_LATER,
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    History,
    Positive,
)
from marlzoo.modules.critics import ActionValues, ValueNet
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.teams import LinearMixer, StochasticActor
from marlzoo.objectives import data_likelihood, data_value, effective_sample_size, mean_over
from marlzoo.replicas import per_replica
from marlzoo.spec import Spec

# (advantage u - V, V, both times the agent's weight w, [R, B, N]) -> loss of V per sample or [R].
ValueLoss = Callable[[Tensor, Tensor], Tensor]
Weight = Callable[[Tensor], Tensor]

PLAIN = {"reward_scaling": "none"}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "mamujoco": {},
    "mpe": PLAIN,
    "smac": {**MLP_TRANSITIONS, **PLAIN},
    "smac-recurrent": {**RECURRENT_SEQUENCES, **PLAIN},
}
VARIANTS = {
    "continuous": ({"mixing": "linear", "weight": "code"},),
    "discrete": ({"mixing": "linear"}, {"history": "rnn", "sequence_length": 6}),
}


@dataclass(frozen=True)
class IVRConfig(Config):
    """Settings that SQL and EQL share."""

    alpha: Positive = 1.0  # strength of the pull towards the data (paper: α)
    reward_scaling: Literal["range", "none"] = "range"  # by 1000 / (range of the episodes' returns), or not
    weight: Literal["theory", "code"] = "theory"  # the policy's weight: the paper's ratio, or the release's
    weight_cap: Positive = 100.0  # bound on the policy's weight
    mixing: Literal["none", "linear"] = "none"  # each agent for itself, or OMIGA's linear mixer
    tau: Fraction = 0.005  # rate at which the targets follow
    history: History = field(
        default="mlp", metadata=ASSIGNED_LATER
    )  # act on the observation, or on the episode so far
    hidden: Count = 256  # width of both hidden layers of policy, Q and V
    mixer_hidden: Count = 64  # width of the mixer's hidden layer
    batch_size: Count = 256  # transitions per update and replica
    lr: Positive = 3e-4  # step size of Adam


class IVRNetworks(nn.Module):
    """Policy, twin Q, V, and (``mixing = "linear"``) the mixer; targets of Q and mixer."""

    reward_scale: Tensor  # [R], what rewards are multiplied by

    def __init__(self, method: Algorithm, config: IVRConfig, spec: Spec) -> None:
        super().__init__()
        init = method.init
        recurrent = config.history == "rnn"
        relu = config.memory_relu
        self.actor = StochasticActor(init, spec, config.hidden, recurrent=recurrent, relu=relu)
        self.q = ActionValues(init, spec, config.hidden, members=2)
        self.v = ValueNet(init, spec.obs_size + spec.n_agents, config.hidden)
        self.target_q = method.make_target(self.q)
        scale = torch.ones(method.replicas, device=method.device, dtype=method.dtype)
        self.register_buffer("reward_scale", scale)
        self.mixer = self.target_mixer = None
        if config.mixing == "linear":
            self.mixer = LinearMixer(init, spec.state_size, config.mixer_hidden, spec.n_agents)
            self.target_mixer = method.make_target(self.mixer)

    @property
    def critic(self) -> tuple[nn.Module, ...]:
        """What the loss of Q moves."""
        return (self.q,) if self.mixer is None else (self.q, self.mixer)


def build(method: Algorithm, config: IVRConfig, spec: Spec) -> IVRNetworks:
    """Declare what a batch must hold, make the networks and give each group its optimizer."""
    own = ("agent_reward",) if config.mixing == "none" else ("reward", "state")
    recurrent = config.history == "rnn"
    if recurrent:
        method.sampling = "sequence"
    method.fields = step_fields(recurrent, "obs", "action", "mask", "action_mask", *own)
    nets = IVRNetworks(method, config, spec)
    method.add_optimizer(policy=nets.actor, q=nets.critic, v=nets.v)
    return nets


def fit_reward_scale(nets: IVRNetworks, config: IVRConfig, data: Sequence[Any]) -> None:
    """Find each replica's factor of the rewards in its data."""
    if config.reward_scaling == "range":
        for replica, dataset in enumerate(data):
            spread = float(dataset.returns.max() - dataset.returns.min())
            nets.reward_scale[replica] = 1000.0 / spread if spread > 0.0 else 1.0


def update(
    method: Algorithm,
    nets: IVRNetworks,
    config: IVRConfig,
    batch: Batch,
    value_loss: ValueLoss,
    weight: Weight,
) -> dict[str, Tensor]:
    """One step: V, then policy with the new V, and Q, then the targets; metrics ``[R]``."""
    sequences = batch  # which a memory reads
    batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
    obs = with_agent_id(batch.obs)

    # 1. V
    with torch.no_grad():
        w, _ = _mixing(nets.target_mixer, batch, "state")
        q_min = nets.target_q(obs, batch.action).amin(1)
    v = nets.v(obs)
    advantage = w * (q_min - v)
    if real is not None:  # padding has no share in a maximum over the batch
        advantage = advantage.masked_fill(real.unsqueeze(-1) == 0, -torch.inf)
    v_loss = mean_over(value_loss(advantage, w * v), real)
    norms = method.step(v=v_loss)

    # 2. Policy
    with torch.no_grad():
        cap = method.hyperparameter("weight_cap", 3)
        omega = torch.minimum(weight(w * (q_min - nets.v(obs))), cap)
    log_prob = method.data_log_prob(nets.actor.of_batch(sequences, obs), batch)
    policy_loss = -mean_over(omega * log_prob, real)

    # 3. Q
    w, b = _mixing(nets.mixer, batch, "state")
    q = w.unsqueeze(1) * nets.q(obs, batch.action)
    y = _targets(method, nets, batch)
    if nets.mixer is not None:
        q = q.sum(-1) + b.unsqueeze(1)
    q_loss = mean_over((q - y.unsqueeze(1)).square().sum(1), real)

    norms |= method.step(policy=policy_loss, q=q_loss)
    method.soft_update(nets.target_q, nets.q, method.hyperparameter("tau"))
    if nets.mixer is not None and nets.target_mixer is not None:
        method.soft_update(nets.target_mixer, nets.mixer, method.hyperparameter("tau"))
    losses = {"q/loss": q_loss.detach(), "v/loss": v_loss.detach(), "policy/loss": policy_loss.detach()}
    in_data_scale = q[:, 0] / per_replica(nets.reward_scale, q.ndim - 1)
    common = data_value(in_data_scale, real) | effective_sample_size(omega, real)
    common |= data_likelihood(log_prob, real)
    means = {"q/target": mean_over(y, real), "weight/mean": mean_over(omega, real)}
    return {**losses, **means, **common, **norms}


@torch.no_grad()
def _targets(method: Algorithm, nets: IVRNetworks, batch: Batch) -> Tensor:
    """y of step 3: the team's ``[R, B]``, or, where every agent learns for itself, ``[R, B, N]``."""
    w_next, b_next = _mixing(nets.target_mixer, batch, "next_state")
    v_next = w_next * nets.v(with_agent_id(batch.next_obs))
    y: Tensor
    if nets.mixer is None:
        carry = method.hyperparameter("gamma", 3) * batch.mask.unsqueeze(-1)
        y = per_replica(nets.reward_scale, 3) * batch.agent_reward + carry * v_next
    else:
        carry = method.hyperparameter("gamma", 2) * batch.mask
        y = per_replica(nets.reward_scale, 2) * batch.reward + carry * (v_next.sum(-1) + b_next)
    return y


def _mixing(mixer: LinearMixer | None, batch: Batch, state: str) -> tuple[Tensor, Tensor]:
    """Weights ``[R, B, N]`` and bias ``[R, B]``; without a mixer ones and zeros."""
    if mixer is None:
        return torch.ones_like(batch.obs[..., 0]), torch.zeros_like(batch.mask)
    return mixer.coefficients(getattr(batch, state))
