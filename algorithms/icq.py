"""ICQ-MA: implicit constraint Q-learning for teams, with a decomposed critic.

Yang, Ma, Li, Zheng, Zhang, Huang, Yang, Zhao, "Believe What You See: Implicit Constraint Approach for Offline
Multi-Agent Reinforcement Learning", NeurIPS 2021, arXiv 2106.03400.

In-sample: the critic is evaluated at the data's actions only. The policy that maximizes value at a bounded distance
from the data is proportional to mu exp(Q / alpha); its expectations are taken with self-normalized importance weights
over the batch of size B, softmax_B, at each time step (and agent) apart. ``Q_tot = sum_i k_i(s) Q_i``, ``k_i >= 0``,
``sum_i k_i = 1``. Bars mark targets, sg a stopped gradient:

1. U_t  = B softmax_B(Q̄_tot(s_t, a_t) / alpha_Q) Q̄_tot(s_t, a_t)
   G_t  = r_t + gamma mask_t ((1 - lambda) U_{t+1} + lambda G_{t+1})
   L_Q  = mean (Q_tot(s_t, a_t) - sg G_t)^2
2. A_i  = Q_i(a_i) - sum_a pi_i(a) Q_i(a)   (continuous actions: Q_i(a_i))
   L_pi = -mean sg [k_i B softmax_B(A_i / alpha_pi)] log pi_i(a_i)

Discrete (SMAC): a policy that reads its episode so far and its last action, legal actions only; a critic of state
and observation with a value and an advantage head. Continuous (the OMIGA and ComaDICE baseline): tanh-Gaussian
policy, twin critics of observation and action, OMIGA's linear mixer, weights softmax_B(k_i Q_i / alpha_pi), one-step
targets. Where a sequence is cut no next action is known, so its last step has no target and the one before
bootstraps.

The policy's loss takes Q_i and k_i from the critic after its step, as the authors' actor does; where the presets for
continuous actions say ``policy_after_critic = False``, both losses are taken before any step, as the baseline does.

Departures from the authors' code (SMAC), and the option that restores it:

* One critic step per update, on all time steps; theirs makes one for each time step at which some episode still
  runs. Their targets are copied every 600 critic steps, which with episodes of about 60 steps is every tenth batch:
  here ``target_period = 10``. Theirs: ``critic_steps = "time"`` with ``target_period = 600``; targets are then copied
  with the 600th, 1200th, ... step, where theirs restarts the count at the batch of each copy.
* Padding is left out of softmax_B. ``mask_softmax = False`` counts it as theirs does: rows of zeros.
* Their behavior policy's exploration takes part in the training policy: ``epsilon`` (theirs falls from 0.5 to 0.05).
* Evaluation is greedy: ``eval_mode = "sample"``.
* Adam in place of RMSprop; a cut sequence never bootstraps from padding. Not offered.
* ``policy_weight = "k_inside"`` puts k_i into the exponent and ``mixer_bias`` adds b(s), both as the paper has it.

Faults of the ComaDICE baseline that are left out: its bootstrap lacks the factor B, so that values are hardly
propagated at all; its lambda decays along the shuffled batch, which means nothing; its TD loss takes the smaller of
the twins, so that the larger is never corrected. Its alpha_Q = 10 works only with the first of these: weights over
the batch have mean 1 over all states, not in each, so with the factor B a state whose value exceeds the batch's mean
by more than about alpha_Q (1 - gamma) has gamma omega > 1, and values explode in long episodes (on Hopper within 1500
updates). The presets' 1e5 bears differences up to about 1000; there the critic is close to plain TD of the data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, known_actions, team_fields
from marlzoo.config import MLP_TRANSITIONS, RECURRENT_SEQUENCES, Config, Count, Fraction, Natural, Positive
from marlzoo.modules.critics import Ensemble
from marlzoo.modules.layers import RecurrentNet, chosen, with_agent_id
from marlzoo.modules.policies import (
    Policy,
    RecurrentPolicy,
    TanhGaussianActor,
    TanhGaussianPolicy,
    log_softmax,
)
from marlzoo.modules.teams import AgentNet, ConvexMixer, LinearMixer, LinearMixing, QNetworkConfig
from marlzoo.objectives import (
    TargetMemory,
    data_likelihood,
    data_value,
    effective_sample_size,
    mean_over,
    softmax_weights,
    td_lambda,
)
from marlzoo.replicas import per_replica
from marlzoo.spec import Spec

SMAC: dict[str, Any] = {"history": "rnn", "hidden": 64, "batch_size": 32, "grad_clip": 20.0}
MUJOCO: dict[str, Any] = {
    "policy_temperature": 100.0, "critic_temperature": 1e5, "policy_weight": "k_inside", "td_lambda": 0.0,
    "mixer": "linear", "n_critics": 2, "critic_sees_state": False, "critic_lr": 5e-4, "target_period": 0,
    "policy_after_critic": False,
}  # fmt: skip


@dataclass(frozen=True)
class ICQConfig(Config):
    """Settings of ICQ-MA; the defaults are the authors' for SMAC, the presets say what differs elsewhere."""

    policy_temperature: Positive = 0.1  # alpha_pi
    critic_temperature: Positive = 1000.0  # alpha_Q
    policy_weight: Literal["k_outside", "k_inside"] = "k_outside"  # where the mixer's weight enters
    td_lambda: Fraction = 0.75  # trace of the target; transitions have one step, so none
    critic_lr: Positive = 1e-4  # step size of critic and mixer; ``lr`` is the policy's
    critic_steps: Literal["batch", "time"] = "batch"  # one critic step per update, or per time step
    tau: Fraction = 0.005  # rate at which the targets follow, where they are not copied
    target_period: Natural = 10  # critic steps between copies of the targets; 0: follow with rate tau
    policy_after_critic: bool = True  # the policy's loss sees critic and mixer after their step
    mixer: Literal["convex", "linear"] = "convex"  # weights that sum to 1, or OMIGA's linear mixer
    mixer_bias: bool = False  # add b(s) to the convex mixer
    mixer_hidden: Count = 64  # hidden units of the linear mixer
    mixer_embed: Count = 32  # terms of the convex mixer's weights
    n_critics: Count = 1  # critics; their minimum makes the target and weighs the policy
    critic_sees_state: bool = True  # critics read the state beside the agent's observation
    critic_hidden: Count = 256  # width of the critic's hidden layers
    hidden: Count = 256  # width of the policy's hidden layers, or of its memory
    history: Literal["mlp", "rnn"] = "mlp"  # transitions, or sequences and a policy with memory
    last_action: bool = True  # the memory also reads the action of the step before (discrete)
    epsilon: Fraction = 0.0  # share of the uniform policy in the training policy (discrete)
    mask_softmax: bool = True  # leave padding out of the weights' normalizer
    grad_clip: Positive = 1.0  # bound on the gradient norm of policy, and of critic with mixer
    eval_mode: Literal["greedy", "sample"] = "greedy"  # how a discrete policy is evaluated


class ICQ(Algorithm):
    """ICQ-MA for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: ICQConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = ICQConfig
    actions = ("continuous", "discrete")
    acting = ("eval_mode",)
    presets: ClassVar = {
        "smac": MLP_TRANSITIONS,
        "smac-recurrent": RECURRENT_SEQUENCES,
        "smac-authors": SMAC,
        "mamujoco": MUJOCO,
        "mpe": MUJOCO,
    }
    variants: ClassVar = {
        "continuous": [{"history": "rnn", "sequence_length": 6}, {"mixer": "linear", "n_critics": 2}],
        "discrete": [
            {"history": "rnn", "critic_steps": "time", "mask_softmax": False},
            {"policy_weight": "k_inside", "epsilon": 0.1, "policy_after_critic": False},
        ],
    }

    def build(self, spec: Spec) -> None:
        """Policy, critics and mixer; targets of the last two."""
        c = self.config
        recurrent = c.history == "rnn"
        self.fields = team_fields(recurrent, mixed=True)
        if recurrent:
            self.sampling = "sequence"
        else:
            self.fields = (*self.fields, "next_action")
        n_in = spec.obs_size + spec.n_agents
        n_out = spec.action_size
        n_critic = n_in + (spec.state_size if c.critic_sees_state else 0)
        self.actor: nn.Module
        if spec.discrete:
            shape = QNetworkConfig(c.hidden, recurrent, c.last_action, relu=c.memory_relu)
            self.actor = AgentNet(self.init, spec, shape)
            sizes = (n_critic, c.critic_hidden, c.critic_hidden, 1 + n_out)
        else:
            if recurrent:
                self.actor = RecurrentNet(self.init, n_in, c.hidden, 2 * n_out, c.memory_relu)
            else:
                self.actor = TanhGaussianActor(self.init, n_in, c.hidden, n_out)
            sizes = (n_critic + n_out, c.critic_hidden, c.critic_hidden, 1)
        self.q = Ensemble(self.init, sizes, c.n_critics)
        self.mixer: ConvexMixer | LinearMixer
        if c.mixer == "convex":
            self.mixer = ConvexMixer(self.init, spec.state_size, spec.n_agents, c.mixer_embed, c.mixer_bias)
        else:
            self.mixer = LinearMixer(self.init, spec.state_size, c.mixer_hidden, spec.n_agents)
        self.critic = nn.ModuleList((self.q, self.mixer))
        self.target = self.make_target(self.critic)
        own = {"critic": ()} if c.critic_steps == "time" else None  # replicas differ in how long episodes run
        self.add_optimizer(lr={"critic": "critic_lr"}, rows=own, policy=self.actor, critic=self.critic)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of both losses; metrics are the losses, batch means and gradient norms, each [R]."""
        c = self.config
        batch = as_sequences(batch)
        batch = batch if c.mask_softmax else zero_padded(batch)
        actions, known = known_actions(batch)

        # 1. Critic
        y = self._targets(batch, actions, known)
        if self.memory is not None:
            y = self.memory.lift(y, batch)
        values = self._team_values(self.critic, batch, batch.action, slice(0, -1))
        q_tot = values[1]
        critic_loss = mean_over((q_tot - y.unsqueeze(1)).square().sum(1), known)

        # 2. Policy
        norms: dict[str, Tensor] = {}
        losses: dict[str, Tensor] = {"critic": critic_loss}
        made: Tensor | int = 1
        if c.critic_steps == "time":
            norms, made = self._step_through_time(batch, y, known)
            losses = {}
        if c.policy_after_critic:
            norms |= self.step(**losses)
            losses = {}
            with torch.no_grad():
                values = self._team_values(self.critic, batch, batch.action, slice(0, -1))
        policy_loss, metrics = self._policy_loss(batch, values[0].amin(1), values[2].detach())
        norms |= self.step(policy=policy_loss, **losses)

        self.hard_update(
            self.target, self.critic, c.target_period, self.hyperparameter("tau"), "critic", made
        )
        found = {"critic/loss": critic_loss.detach(), "policy/loss": policy_loss.detach()}
        means = {
            "critic/total": mean_over(q_tot.detach()[:, 0], batch.filled),
            "critic/target_total": mean_over(y, known),
        }
        value = data_value(q_tot[:, 0], batch.filled)
        return found | means | metrics | value | norms

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the most probable legal action, or a sample."""
        if isinstance(self.actor, AgentNet):
            return self.actor.policy(stochastic=self.config.eval_mode == "sample")
        if isinstance(self.actor, RecurrentNet):
            return RecurrentPolicy(self.actor, self._feed_forward)
        return self._feed_forward(self.actor)

    def _feed_forward(self, network: nn.Module) -> Policy:
        return TanhGaussianPolicy(network, self.action_dimensions)

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        return self._team_values(self.critic, batch, batch.action, slice(0, -1))[1].amin(1)

    @torch.no_grad()
    def _targets(self, batch: Batch, actions: Tensor, known: Tensor) -> Tensor:
        """G, [R, B, L]."""
        _, totals, _ = self._team_values(self.target, batch, actions, slice(None))
        total = totals.amin(1)
        # Rows whose value a target uses: those that follow a step which is neither the last nor cut.
        used = torch.cat((batch.filled[:, :, :1], known * batch.mask), dim=2)
        valid = used if self.config.mask_softmax else None
        u = softmax_weights(total, self.hyperparameter("critic_temperature", 3), valid=valid) * total
        gamma = self.hyperparameter("gamma", 3)
        trace = self.hyperparameter("td_lambda", 3)
        return td_lambda(batch.reward, u, batch.mask, known, gamma, trace)

    def _team_values(
        self, critic: nn.ModuleList, batch: Batch, actions: Tensor, rows: slice
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Agents' and team's values of ``actions`` in some rows, and the mixer's weights.

        Returns ``[R, critics, B, rows, N]`` (discrete: of all actions, ``[..., A]``), ``[R, critics, B, rows]`` and
        ``[R, B, rows, N]``.
        """
        q_net = critic[0]
        mixer = cast(LinearMixing, critic[1])
        state = batch.state[:, :, rows]
        obs = with_agent_id(batch.obs[:, :, rows])
        parts = (state.unsqueeze(-2), obs) if self.config.critic_sees_state else (obs,)
        if self.spec.discrete:
            heads = q_net(*parts)
            q = heads[..., :1] + heads[..., 1:]
            taken = chosen(q, actions.unsqueeze(1).expand(q.shape[:-1]))
        else:
            q = taken = q_net(*parts, actions).squeeze(-1)
        k, b = mixer.coefficients(state)
        return q, (k.unsqueeze(1) * taken).sum(-1) + b.unsqueeze(1), k

    def _policy_loss(self, batch: Batch, q: Tensor, k: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The policy's loss [R] and its metrics.

        Args:
            batch: in the layout of sequences.
            q: agents' values of their actions (discrete: of all), ``[R, B, L, N(, A)]``.
            k: the mixer's weights without gradient, ``[R, B, L, N]``.
        """
        c = self.config
        inside = c.policy_weight == "k_inside"
        advantage, log_prob = self._policy_terms(batch, q)
        valid = batch.filled.unsqueeze(-1) if c.mask_softmax else None
        score = k * advantage if inside else advantage
        share = softmax_weights(score, self.hyperparameter("policy_temperature", 4), valid=valid)
        weight = share if inside else k * share
        metrics = {"weight/max": weight.flatten(1).amax(1)}
        metrics |= effective_sample_size(share, batch.filled)
        metrics |= data_likelihood(log_prob, batch.filled)
        return -mean_over(weight * log_prob, batch.filled), metrics

    def _policy_terms(self, batch: Batch, q: Tensor) -> tuple[Tensor, Tensor]:
        """Advantage (without gradient) and log probability of the data's actions, [R, B, L, N] each."""
        if self.spec.discrete:
            logits = self.actor(batch)[:, :, :-1]
            action_mask = batch.action_mask[:, :, :-1]
            log_pi = legal_log_policy(logits, action_mask, self.hyperparameter("epsilon", 5))
            # Padding has no legal action, so nothing is subtracted there.
            baseline = (log_pi.exp() * q).sum(-1) * observed(batch)[:, :, :-1].unsqueeze(-1)
            return (chosen(q, batch.action) - baseline).detach(), chosen(log_pi, batch.action)
        out = self.actor(with_agent_id(batch.obs[:, :, :-1]))
        return q.detach(), self.data_log_prob(out[0] if isinstance(self.actor, RecurrentNet) else out, batch)

    def _step_through_time(self, batch: Batch, y: Tensor, known: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """One critic step per time step at which some episode has one, in order, and how many each replica made.

        The norms are those at the last time step that made one.
        """
        norms: dict[str, Tensor] = {}
        made = torch.zeros(self.replicas, device=self.device)
        for t in range(y.shape[2]):
            now = slice(t, t + 1)
            _, q_tot, _ = self._team_values(self.critic, batch, batch.action[:, :, now], now)
            error = (q_tot - y[:, :, now].unsqueeze(1)).square().sum(1)
            runs = known[:, :, t].sum(1) > 0
            found = self.step_if(runs, critic=mean_over(error, known[:, :, now]))
            norms = {name: torch.where(runs, value, norms.get(name, value)) for name, value in found.items()}
            made = made + runs
        return norms, made


def observed(batch: Batch) -> Tensor:
    """1 up to each sequence's final row, 0 in the padding after it, ``[R, B, L + 1]``."""
    return torch.cat((torch.ones_like(batch.filled[:, :, :1]), batch.filled), dim=2)


def zero_padded(batch: Batch) -> Batch:
    """The batch with zeros for observations, states and actions beyond each sequence's final row."""
    values = batch.tensors()
    rows_seen = observed(batch)
    for name, rows in (("obs", rows_seen), ("state", rows_seen), ("action", batch.filled)):
        value = values[name]
        values[name] = value * per_replica(rows, value.ndim).to(value.dtype)
    return Batch.of(batch.noise, **values)


def legal_log_policy(logits: Tensor, action_mask: Tensor, epsilon: Tensor) -> Tensor:
    """Log of the softmax mixed with ``epsilon`` of the uniform policy, renormalized over the legal actions."""
    uniform = (epsilon / logits.shape[-1]).log()
    mixed = torch.logaddexp((1.0 - epsilon).log() + log_softmax(logits), uniform)
    return log_softmax(mixed, action_mask)
