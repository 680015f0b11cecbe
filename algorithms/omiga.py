"""OMIGA: offline multi-agent RL with implicit global-to-local value regularization.

Wang, Xu, Zheng, Zhan, "Offline Multi-Agent Reinforcement Learning with Implicit Global-to-Local Value
Regularization", NeurIPS 2023, arXiv 2307.11620.

The global objective is E[sum_t gamma^t (r - alpha log(pi_tot / mu_tot))]. Linear mixing
``X_tot = sum_i w_i(s) X_i + b(s)`` of Q and V, ``w_i >= 0``, splits it into one weighted problem per agent, solved
in-sample: no action outside the data is ever evaluated. With n agents sharing their networks (inputs carry the
agent's one-hot number), a bar for target networks and sg for stopped gradients:

1. Q:       y   = r + gamma mask (sum_i w̄_i(s') V̄_i(o'_i) + b̄(s'))
            L_Q = mean (sum_i w_i(s) Q_i(o_i, a_i) + b(s) - sg y)^2
2. z_i      = w̄_i(s) (Q̄_i(o_i, a_i) - V_i(o_i)) / alpha, clipped to [-10, 10]; only V carries gradient
3. V:       m   = sg max(max z, -1)
            L_V = mean [exp(z_i - m) + exp(-m) w̄_i V_i / alpha]
4. policy:  L_π = -mean [sg exp(z_i) log pi_i(a_i | o_i)]

All three losses are taken before any step; then policy, Q with mixer, and V each take an Adam step (gradient norm
clipped to 1) and the targets of Q, V and mixer follow with rate tau.

Departures from the authors' code, and the option that restores it:

* ``alpha`` is a setting (their code fixes 10).
* SMAC rewards are rewards; their loader replaces them by the return-to-go: ``reward_mode = "rtg"``.
* SMAC episodes end at their last step; their loader infers the end from equal successive states:
  ``smac_done = "state_equal"``.
* A time limit does not end the bootstrap where the data mark it, as for every other method here (see
  :class:`marlzoo.config.Config`). The authors' files do not tell limits from terminal states, so that their code
  takes both for terminal: ``timeout_is_terminal = True``.
* Actions beyond the box [-1, 1] are clipped to it when data are read (in some published files nearly a third of all
  action entries); theirs are clipped in the likelihood only, so that their Q sees the larger ones.
* Their SMAC code's unused V mixer and target actor are left out.

``history = "rnn"`` (ours) lets the policy read the episode so far and learns from sequences; Q, V and mixer stay as
they are.

Options off by default, where the code's choice has a known weakness: ``z_clip = "linear"`` keeps the sign of V's
gradient above the bound (the hard clip pushes V down exactly when it is far too low); ``mask_train_logits``
leaves illegal actions out of the policy's softmax; ``global_weights = False`` is the paper's ablation without
global information: the weights of steps 2 to 4 are 1 for every agent instead of the mixer's, which still mixes the
values of step 1; ``bound_margin`` (0.05, 0.1) takes data actions that near the box's bounds as censored in step 4:
for data of behavior policies whose actions were clipped, since many actions on the bounds bend the policy
(results/studies/bound_actions).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, Literal

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
from marlzoo.modules.layers import MLP, RecurrentNet, chosen, with_agent_id
from marlzoo.modules.policies import (
    CategoricalPolicy,
    Policy,
    RecurrentPolicy,
    TanhGaussianActor,
    TanhGaussianPolicy,
)
from marlzoo.modules.teams import LinearMixer, step_outputs
from marlzoo.objectives import (
    TargetMemory,
    data_likelihood,
    data_value,
    effective_sample_size,
    exponent_quantiles,
    mean_over,
)
from marlzoo.spec import Spec

Z_BOUND = 10.0
WEIGHT_CAP = math.exp(Z_BOUND)


@dataclass(frozen=True)
class OMIGAConfig(Config):
    """Settings of OMIGA; the defaults are the authors' for MuJoCo and SMAC alike."""

    alpha: Positive = 10.0  # strength of the pull towards the data (paper: α)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of policy, Q and V
    mixer_hidden: Count = 64  # width of the mixer's hidden layer
    grad_clip: Positive = 1.0  # bound on the gradient norm of each of the three groups
    z_clip: Literal["hard", "linear", "none"] = "hard"  # bound of the exponent at ±10
    weight_cap: Positive = WEIGHT_CAP  # bound on the policy's weight exp(z)
    v_from_target: bool = True  # take Q and w in z from the targets (False: from the online networks)
    stabilize_v: bool = True  # shift the exponent in V's loss by its maximum m
    global_weights: bool = True  # take w in z from the mixer (False: 1, the paper's ablation)
    mask_train_logits: bool = False  # leave illegal actions out of the policy's softmax in training
    history: History = field(
        default="mlp", metadata=ASSIGNED_LATER
    )  # act on the observation, or on the episode so far
    smac_done: Literal["last_step", "state_equal"] = "last_step"  # how the end of an episode is known


class OMIGA(Algorithm):
    """OMIGA for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: OMIGAConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = OMIGAConfig
    actions = ("continuous", "discrete")
    presets: ClassVar = {
        "mamujoco": {},
        "smac": MLP_TRANSITIONS,
        "smac-recurrent": RECURRENT_SEQUENCES,
        "mpe": {},
    }
    variants: ClassVar = {
        "continuous": ({"z_clip": "linear", "v_from_target": False, "global_weights": False},),
        "discrete": (
            {"mask_train_logits": True, "stabilize_v": False, "reward_mode": "rtg"},
            {"history": "rnn", "sequence_length": 6, "mask_train_logits": True},
        ),
    }

    def build(self, spec: Spec) -> None:
        """Policy, Q, V and mixer; targets of the last three."""
        c = self.config
        n_in = spec.obs_size + spec.n_agents
        n_out = spec.action_size
        h = c.hidden
        recurrent = c.history == "rnn"
        if recurrent:
            self.sampling = "sequence"
        masks = ("action_mask",) if spec.discrete and c.mask_train_logits else ()
        self.fields = step_fields(recurrent, "obs", "state", "action", "reward", "mask", *masks)
        self.actor: TanhGaussianActor | MLP | RecurrentNet
        if recurrent:
            heads = n_out if spec.discrete else 2 * n_out
            self.actor = RecurrentNet(self.init, n_in, h, heads, c.memory_relu)
        elif spec.discrete:
            self.actor = MLP(self.init, (n_in, h, h, n_out))
        else:
            self.actor = TanhGaussianActor(self.init, n_in, h, n_out)
        self.q = MLP(self.init, (n_in, h, h, n_out) if spec.discrete else (n_in + n_out, h, h, 1))
        self.v = MLP(self.init, (n_in, h, h, 1))
        self.mixer = LinearMixer(self.init, spec.state_size, c.mixer_hidden, spec.n_agents)
        self.target_q = self.make_target(self.q)
        self.target_v = self.make_target(self.v)
        self.target_mixer = self.make_target(self.mixer)
        self.add_optimizer(policy=self.actor, q=(self.q, self.mixer), v=self.v)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all three losses; metrics are the losses, batch means and gradient norms, each [R]."""
        c = self.config
        gamma = self.hyperparameter("gamma", 2)
        alpha = self.hyperparameter("alpha", 3)
        sequences = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        obs = with_agent_id(batch.obs)

        # 1. Q
        with torch.no_grad():
            v_next = self.target_v(with_agent_id(batch.next_obs)).squeeze(-1)
            v_tot_next = self.target_mixer(v_next, batch.next_state)
            y = batch.reward + gamma * self._mask(batch) * v_tot_next
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        w, b = self.mixer.coefficients(batch.state)
        q = self._q(self.q, obs, batch)
        q_tot = (w * q).sum(-1) + b
        q_loss = mean_over((q_tot - y).square(), real)

        # 2. The weighted advantage; V alone carries gradient
        w_z, q_z = self._weights_and_values(w, q, obs, batch)
        v = self.v(obs).squeeze(-1)
        raw = w_z * (q_z - v) / alpha
        z = raw if c.z_clip == "none" else raw.clamp(-Z_BOUND, Z_BOUND)

        # 3. V
        m = largest(z.detach(), real).view(-1, 1, 1).clamp(min=-1.0)
        if not c.stabilize_v:
            m = torch.zeros_like(m)
        exponential = torch.exp(z - m)
        if c.z_clip == "linear":
            exponential = exponential * (1.0 + (raw - Z_BOUND).clamp(min=0.0))
        v_loss = mean_over(exponential + torch.exp(-m) * w_z * v / alpha, real)

        # 4. Policy
        weight = torch.minimum(torch.exp(z.detach()), self.hyperparameter("weight_cap", 3))
        log_prob = self.data_log_prob(step_outputs(self.actor, sequences, obs), batch)
        policy_loss = -mean_over(weight * log_prob, real)

        norms = self.step(policy=policy_loss, q=q_loss, v=v_loss)
        self._update_targets()
        losses = {"q/loss": q_loss.detach(), "v/loss": v_loss.detach(), "policy/loss": policy_loss.detach()}
        means = {"q/total": mean_over(q_tot.detach(), real), "q/target_total": mean_over(y, real)}
        common = data_value(q_tot, real) | effective_sample_size(weight, real)
        common |= exponent_quantiles(raw, real) | data_likelihood(log_prob, real)
        return {**losses, **means, "weight/exponent_max": largest(raw.detach(), real), **common, **norms}

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the best legal action."""

        def acting(network: nn.Module) -> Policy:
            if self.spec.discrete:
                return CategoricalPolicy(network)
            return TanhGaussianPolicy(network, self.action_dimensions)

        return RecurrentPolicy(self.actor, acting) if self.config.history == "rnn" else acting(self.actor)

    @torch.no_grad()
    def _weights_and_values(self, w: Tensor, q: Tensor, obs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """w and Q of step 2 without gradient, ``[R, B, N]`` each; ``w`` and ``q`` are the online networks'."""
        if self.config.v_from_target:
            w, _ = self.target_mixer.coefficients(batch.state)
            q = self._q(self.target_q, obs, batch)
        if not self.config.global_weights:
            w = torch.ones_like(w)
        return w.detach(), q.detach()

    def _update_targets(self) -> None:
        tau = self.hyperparameter("tau")
        self.soft_update(self.target_q, self.q, tau)
        self.soft_update(self.target_v, self.v, tau)
        self.soft_update(self.target_mixer, self.mixer, tau)

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        values: Tensor = self.mixer(self._q(self.q, with_agent_id(batch.obs), batch), batch.state)
        return values

    def _q(self, network: MLP, obs: Tensor, batch: Batch) -> Tensor:
        """Local values of the data's actions, [R, B, N]; ``obs`` carries the agent's number at its end."""
        if self.spec.discrete:
            return chosen(network(obs), batch.action)
        o = self.spec.obs_size
        values: Tensor = network(obs[..., :o], batch.action, obs[..., o:])
        return values.squeeze(-1)

    def _mask(self, batch: Batch) -> Tensor:
        """1 where the next value counts, [R, B]."""
        if self.config.smac_done == "last_step":
            return batch.mask
        return (batch.state != batch.next_state).any(-1).to(self.dtype)


def largest(x: Tensor, real: Tensor | None) -> Tensor:
    """Largest entry of ``x [R, M, N]`` among the ``real [R, M]`` steps (None: all), ``[R]``."""
    if real is not None:
        x = x.masked_fill(real.unsqueeze(-1) == 0, -torch.inf)
    return x.amax((1, 2))
