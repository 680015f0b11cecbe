"""CQL-MA: conservative Q-learning on linearly mixed values, the baseline of the ICQ and OMIGA papers.

Kumar, Zhou, Tucker, Levine, "Conservative Q-Learning for Offline Reinforcement Learning", NeurIPS 2020,
arXiv 2006.04779, with ``Q_tot = sum_i w_i(s) Q_i + b(s)``, ``w_i >= 0``. Agents share their networks (inputs carry
their one-hot number); a bar is a target network, sg a stopped gradient:

1. TD:      y = r + gamma mask (sum_i w̄_i(s') Q̄_i(o'_i, a'_i) + b̄(s')), a'_i ~ pi_i(o'_i) of the online policy
            L_TD = mean (Q_tot - sg y)^2
2. penalty: L_CQL = mean [sum_i log sum_k exp(w_i Q_i(o_i, a_k)) - sum_i w_i Q_i(o_i, a_i)]
            Continuous: 10 samples each of the uniform distribution, pi_i(o_i) and pi_i(o'_i), all evaluated at o_i.
            Discrete: all legal actions; an illegal one has no weight.
            For a linear mixer this is the exact joint penalty: the log-sum-exp over joint actions factorizes.
3. policy:  A_i  = Q_i(o_i, a_i) - E_{a ~ pi_i(o_i)} Q_i(o_i, a)
            L_pi = mean sum_i [-log pi_i(a_i | o_i) sg max(A_i, 0)]    (``cql_policy = "advantage_weighted_bc"``),
            L_pi = mean sum_i [-log pi_i(a_i | o_i) sg Q_i(o_i, a_i)]  (``"q_weighted_bc"``), or
            L_pi = mean sum_i [-w_i Q_i(o_i, ã_i) - entropy H(pi_i)], ã_i ~ pi_i   (``"sac"``)

All losses are taken before any step: L_pi moves the policy, L_TD + cql_alpha L_CQL moves Q with mixer. The
expectation in A_i is the mean over step 2's ten samples of pi_i(o_i) (discrete: exact, over the legal actions).

Departures from the released code nearest to the papers' baseline (ComaDICE), and the option that restores it (both
together are the released form):

* It weighs the data's log probability by Q_i itself: ``cql_policy = "q_weighted_bc"``. With step 2 as written here
  the level of Q_i is not determined: Q_i + c with b - c sum w leaves both losses of the critic as they are. Once a
  single sample has Q_i < 0 that loss has no lower bound, and the policy runs to the box's bounds while everything
  stays finite (log probabilities of the data of -1e5; on Hopper medium-expert two of three seeds). The advantage over
  the policy's own samples in the same state does not depend on the level, and a weight that is never negative never
  moves the policy away from the data. ``policy/data_log_prob`` and ``policy/saturation`` show such a collapse.
* It writes b(s) inside every agent's log-sum-exp, counting it n times against once in Q_tot, which pushes b down
  with gradient n - 1 in every state and so, in the long run, Q_i above zero: ``cql_bias_in_lse = True``.

Options off by default: ``cql_importance`` subtracts each sample's log density; ``n_critics = 2`` (continuous) takes
the minimum of twins in the target; ``policy_bc_warmup`` first clones for so many updates with the mean of
-log pi_i(a_i | o_i) over batch and agents; ``td_next = "argmax"`` (discrete) is double Q-learning instead of the
policy's expectation; ``history = "rnn"`` (discrete) reads the episode so far; ``backup = "partial"`` keeps the data's
next actions in y but for those of ``replaced`` random agents of each sample (partial action replacement, arXiv
2511.07629), where steps whose next action is cut off have no target unless all agents are replaced.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, known_actions, row_fields
from marlzoo.config import (
    ASSIGNED_LATER,
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
)
from marlzoo.errors import ConfigError
from marlzoo.modules.critics import Ensemble
from marlzoo.modules.layers import chosen, with_agent_id
from marlzoo.modules.policies import (
    Policy,
    TanhGaussianActor,
    TanhGaussianPolicy,
    log_softmax,
    tanh_gaussian_log_prob,
    tanh_gaussian_mode,
    tanh_gaussian_sample,
)
from marlzoo.modules.teams import AgentNet, LinearMixer, QNetworkConfig
from marlzoo.objectives import (
    TargetMemory,
    backup_form,
    data_likelihood,
    data_value,
    detached,
    double_q,
    effective_sample_size,
    masked_logsumexp,
    mean_over,
    partial_replacement,
    random_agents,
    require_agents,
    sampled_logsumexp,
    saturation,
    uniform_log_density,
)
from marlzoo.replicas import Kind
from marlzoo.spec import Spec

Improvement = Literal["advantage_weighted_bc", "q_weighted_bc", "sac"]


@dataclass(frozen=True)
class CQLMAConfig(Config):
    """Settings of CQL-MA; the defaults are those of the OMIGA benchmark."""

    cql_alpha: NonNegative = 1.0  # weight of the conservative penalty
    cql_samples: Count = 10  # actions of each of the three classes (continuous)
    cql_policy: Improvement = "advantage_weighted_bc"  # cloning weighted by advantage or Q, or Q's gradient
    entropy: NonNegative = 0.0  # weight of the policy's entropy ("sac" only)
    policy_bc_warmup: Natural = 0  # first updates, in which the policy only clones the data
    cql_importance: bool = False  # subtract the samples' log densities (continuous)
    cql_bias_in_lse: bool = False  # count the mixer's bias once per agent, as the released code does
    td_next: Literal["policy", "argmax"] = "policy"  # next action (discrete)
    n_critics: Count = 1  # critics; the target takes their minimum (continuous)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of policy and Q
    mixer_hidden: Count = 64  # width of the mixer's hidden layer
    grad_clip: Positive = 1.0  # bound on the gradient norm of policy, and of Q with mixer
    history: Literal["mlp", "rnn"] = "mlp"  # act on the observation, or on the episode so far (discrete)
    # Next actions in the target: the policy's, or the data's but for some agents.
    backup: Literal["policy", "partial"] = field(default="policy", metadata=ASSIGNED_LATER)
    replaced: Natural = field(default=1, metadata=ASSIGNED_LATER)  # how many agents' (partial)


class Terms(NamedTuple):
    """What the two action kinds compute in their own way, ``[R, B, L, N]`` each."""

    q_data: Tensor  # Q_i(o_i, a_i), with an axis for the critics: [R, critics, B, L, N]
    lse: Tensor  # log sum_k exp(w_i Q_i(o_i, a_k)), likewise
    q_next: Tensor  # Q̄_i(o'_i, a'_i)
    policy: Tensor  # loss of the policy
    metrics: dict[str, Tensor]  # of the policy, [R] each


class CQLMA(Algorithm):
    """CQL-MA for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: CQLMAConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = CQLMAConfig
    actions = ("continuous", "discrete")
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": MLP_TRANSITIONS,
        "smac-recurrent": RECURRENT_SEQUENCES,
    }
    variants: ClassVar = {
        "continuous": (
            {"cql_policy": "sac", "cql_importance": True, "n_critics": 2},
            {"cql_policy": "q_weighted_bc", "cql_bias_in_lse": True},
        ),
        "discrete": ({"cql_policy": "sac", "td_next": "argmax"}, {"history": "rnn", "sequence_length": 6}),
    }

    def build(self, spec: Spec) -> None:
        """Policy, Q and mixer; targets of the last two."""
        c = self.config
        n_in = spec.obs_size + spec.n_agents
        h = c.hidden
        if spec.discrete and c.n_critics > 1:
            raise ConfigError(
                f"cql_ma: n_critics is {c.n_critics}, but the form for discrete actions has one critic; leave it at 1"
            )
        recurrent = spec.discrete and c.history == "rnn"
        if recurrent:
            self.sampling = "sequence"
        self.fields = row_fields(recurrent, "obs", "state", "action", "reward", "mask", "action_mask")
        require_agents(self.name, c.replaced, spec)
        self.backup = backup_form(c.backup, c.replaced, spec)
        if self.backup == "partial" and not recurrent:
            self.fields = (*self.fields, "next_action")
        self.actor: TanhGaussianActor | AgentNet
        self.q: Ensemble | AgentNet
        if spec.discrete:
            shape = QNetworkConfig(h, recurrent, relu=c.memory_relu)
            self.actor = AgentNet(self.init, spec, shape)
            self.q = AgentNet(self.init, spec, shape)
        else:
            self.actor = TanhGaussianActor(self.init, n_in, h, spec.action_size)
            self.q = Ensemble(self.init, (n_in + spec.action_size, h, h, 1), c.n_critics)
        self.mixer = LinearMixer(self.init, spec.state_size, c.mixer_hidden, spec.n_agents)
        self.target_q = self.make_target(self.q)
        self.target_mixer = self.make_target(self.mixer)
        self.add_optimizer(policy=self.actor, q=(self.q, self.mixer))

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Of the agents whose next action is replaced; continuous: of the policy's samples and the uniform ones."""
        c = self.config
        subset: dict[str, tuple[Kind, tuple[int, ...]]] = {}
        if self.backup == "partial":
            subset["subset"] = ("uniform", (c.batch_size, 1, self.spec.n_agents))
        if self.spec.discrete:
            return subset
        one = (c.batch_size, 1, self.spec.n_agents, self.spec.action_size)
        return {
            "next": ("normal", one),
            "improve": ("normal", one),
            "uniform": ("uniform", (c.cql_samples, *one)),
            "policy": ("normal", (2, c.cql_samples, *one)),
            **subset,
        }

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of both losses; metrics are the losses, batch means and gradient norms, each [R]."""
        c = self.config
        batch = as_sequences(batch)
        filled = batch.filled
        gamma = self.hyperparameter("gamma", 3)
        w, b = self.mixer.coefficients(batch.state[:, :, :-1])
        terms = self._discrete(batch, w) if self.spec.discrete else self._continuous(batch, w)

        # 1. TD
        with torch.no_grad():
            total_next = self.target_mixer(terms.q_next, batch.state[:, :, 1:])
            y = batch.reward + gamma * batch.mask * total_next
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        counted = known_actions(batch)[1] if self.backup == "partial" else filled
        w = w.unsqueeze(1)  # an axis for the critics
        b = b.unsqueeze(1)
        q_tot = (w * terms.q_data).sum(-1) + b
        td = (q_tot - y.unsqueeze(1)).square().sum(1)

        # 2. Penalty
        penalty = (terms.lse - w * terms.q_data).sum(-1)
        if c.cql_bias_in_lse:
            penalty = penalty + (self.spec.n_agents - 1) * b
        cql_loss = mean_over(penalty.sum(1), filled)
        td_loss = mean_over(td, counted)

        # 3. Policy
        policy_loss = mean_over(terms.policy.sum(-1), filled)

        norms = self.step(policy=policy_loss, q=td_loss + self.hyperparameter("cql_alpha") * cql_loss)
        tau = self.hyperparameter("tau")
        self.soft_update(self.target_q, self.q, tau)
        self.soft_update(self.target_mixer, self.mixer, tau)
        losses = {"q/loss": td_loss, "q/penalty": cql_loss, "policy/loss": policy_loss}
        means = {"q/total": mean_over(q_tot[:, 0], filled), "q/target_total": mean_over(y, counted)}
        value = data_value(q_tot[:, 0], filled)
        return detached(losses | means | terms.metrics) | value | norms

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the most probable legal action."""
        if isinstance(self.actor, AgentNet):
            return self.actor.policy()
        return TanhGaussianPolicy(self.actor, self.action_dimensions)

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        if isinstance(self.q, AgentNet):
            values = chosen(self.q(batch)[:, :, :-1], batch.action).unsqueeze(1)
        else:
            values = self.q(with_agent_id(batch.obs[:, :, :-1]), batch.action).squeeze(-1)
        w, b = self.mixer.coefficients(batch.state[:, :, :-1])
        totals: Tensor = (w.unsqueeze(1) * values).sum(-1) + b.unsqueeze(1)
        return totals.amin(1)

    def _continuous(self, batch: Batch, w: Tensor) -> Terms:
        c = self.config
        noise = batch.noise
        used = self.action_dimensions
        obs = with_agent_id(batch.obs)
        now = obs[:, :, :-1]
        mean, log_std = self.actor(obs)
        mean_now = mean[:, :, :-1]
        log_std_now = log_std[:, :, :-1]
        q_data = self.q(now, batch.action).squeeze(-1)
        with torch.no_grad():
            # Both classes of the policy's samples, [R, 2, B, 1, N, A]: at o_i and at o'_i.
            means, log_stds = (x.movedim(2, 1).unsqueeze(3) for x in (mean, log_std))
            fresh = tanh_gaussian_sample(means.unsqueeze(2), log_stds.unsqueeze(2), noise["policy"], used)
            uniform = (2.0 * noise["uniform"] - 1.0) * used
            candidates = torch.cat((uniform, fresh.flatten(1, 2)), dim=1)
            log_density = None
            if c.cql_importance:
                density = tanh_gaussian_log_prob(means.unsqueeze(2), log_stds.unsqueeze(2), fresh, used)
                flat = uniform_log_density(used).expand(uniform.shape[:-1])
                log_density = torch.cat((flat, density.flatten(1, 2)), dim=1).unsqueeze(1)
            after = tanh_gaussian_sample(mean[:, :, 1:], log_std[:, :, 1:], noise["next"], used)
            after = self._replaced(batch, after)
            q_next = self.target_q(obs[:, :, 1:], after).squeeze(-1).amin(1)
        q_sampled = self.q(now.unsqueeze(1), candidates).squeeze(-1)  # [R, critics, 3 K, B, 1, N]
        lse = sampled_logsumexp(w[:, None, None] * q_sampled, log_density, dim=2)
        log_prob = self.data_log_prob((mean_now, log_std_now), batch)
        mode = tanh_gaussian_mode(mean_now)
        metrics = data_likelihood(log_prob) | saturation(mode, used)
        if c.cql_policy == "sac":
            action = tanh_gaussian_sample(mean_now, log_std_now, noise["improve"], used)
            entropy = -tanh_gaussian_log_prob(mean_now, log_std_now, action, used)
            assert isinstance(self.q, Ensemble)
            policy = -w.detach() * self.q.first(now, action).squeeze(-1)
            policy = policy - self.hyperparameter("entropy", 4) * entropy
            return Terms(q_data, lse, q_next, self._after_cloning(policy, log_prob), metrics)
        own = q_sampled[:, 0, c.cql_samples : 2 * c.cql_samples].mean(1)  # of the policy's samples at o_i
        weight = self._weight(q_data[:, 0], own)
        metrics |= effective_sample_size(weight)
        return Terms(q_data, lse, q_next, -log_prob * weight, metrics)

    def _replaced(self, batch: Batch, after: Tensor) -> Tensor:
        """The next actions ``[R, B, 1, N, A]`` of the target: those of ``after``, or of some agents of it."""
        c = self.config
        if self.backup == "policy":
            return after
        return partial_replacement(
            after, known_actions(batch)[0][:, :, 1:], batch.noise["subset"], c.replaced
        )

    def _discrete(self, batch: Batch, w: Tensor) -> Terms:
        c = self.config
        action_mask = batch.action_mask
        log_pi = log_softmax(self.actor(batch), action_mask)
        values = self.q(batch)
        now = values[:, :, :-1]
        log_pi_now = log_pi[:, :, :-1]
        with torch.no_grad():
            every = self.target_q(batch)
            target = every[:, :, 1:]
            if c.td_next == "argmax":
                q_next = double_q(values[:, :, 1:], target, action_mask[:, :, 1:])
            else:
                q_next = (log_pi[:, :, 1:].exp() * target).sum(-1)
            if self.backup == "partial":
                logged = chosen(every, known_actions(batch)[0])[:, :, 1:]
                q_next = torch.where(random_agents(batch.noise["subset"], c.replaced), q_next, logged)
        q_data = chosen(now, batch.action)
        log_prob = chosen(log_pi_now, batch.action)
        metrics = data_likelihood(log_prob, batch.filled)
        lse = masked_logsumexp(w.unsqueeze(-1) * now, action_mask[:, :, :-1])
        if c.cql_policy == "sac":
            value = w.detach().unsqueeze(-1) * now.detach() - self.hyperparameter("entropy", 5) * log_pi_now
            policy = self._after_cloning(-(log_pi_now.exp() * value).sum(-1), log_prob)
        else:
            weight = self._weight(q_data, (log_pi_now.exp() * now).sum(-1))
            metrics |= effective_sample_size(weight, batch.filled)
            policy = -log_prob * weight
        return Terms(q_data.unsqueeze(1), lse.unsqueeze(1), q_next, policy, metrics)

    def _weight(self, q: Tensor, expected: Tensor) -> Tensor:
        """Weight of the data's log probability, without gradient; in the first updates 1 / N, the agents' mean.

        Args:
            q: values of the data's actions, ``[R, B, L, N]``.
            expected: the mean value of the policy's own actions in the same states, likewise.
        """
        relative = self.config.cql_policy == "advantage_weighted_bc"
        weight = (q - expected).clamp(min=0.0) if relative else q
        return torch.where(self._clones(), torch.full_like(q, 1.0 / self.spec.n_agents), weight.detach())

    def _after_cloning(self, policy: Tensor, log_prob: Tensor) -> Tensor:
        """The terms of the policy's loss; in the first updates those of cloning, the agents' mean."""
        return torch.where(self._clones(), -log_prob / self.spec.n_agents, policy)

    def _clones(self) -> Tensor:
        """Whether this is one of the first updates, which only clone the data."""
        return self._optimizers["policy"].count < self.config.policy_bc_warmup
