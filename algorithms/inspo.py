"""InSPO: in-sample sequential policy optimization (a reconstruction: no official code is published).

Liu et al., "Offline Multi-Agent Reinforcement Learning via In-Sample Sequential Policy Optimization", AAAI 2025,
arXiv 2412.07639. Its abstract and summaries served as source: a behavior-regularized game with reverse KL and an
entropy term, agents that improve one after another by a closed form, local Q functions, and importance resampling
towards the others' present policies. The equations below were worked out from these; the settings are ours. With the
joint behavior policy mu, the objective is

    J = E[sum_t gamma^t (r - alpha log(pi / mu) + beta H(pi))],   pi = prod_i pi_i

Every agent has networks of its own: pi_i(·|o_i), the critic Q_i(o_i, ·), the behavior's marginal mu_i(·|o_i) and its
conditionals mu_ij(a_j | s, a_i, a_<j) of every other agent. A bar marks a target network. For agent i and every
transition, where actions are discrete:

1. behavior: maximum likelihood; after ``pretrain`` updates pi_i starts as a copy of mu_i
2. others:   kappa_i = sum_{j≠i} KL(pi_j || mu_ij),   h_i = sum_{j≠i} H(pi_j)
             rho_i   = prod_{j≠i} pi_j(a_j) / mu_ij(a_j), at least ``ratio_floor`` and at most ``ratio_cap``
             W_i     = rho_i / sum rho_i over the batch
3. Q:        V_i(o)  = (alpha + beta) log sum_a mu_i(a|o)^(alpha / (alpha + beta)) exp(Q_i(o, a) / (alpha + beta))
             y       = r - alpha kappa_i + beta h_i + gamma mask V̄_i(o'_i)
             L_Q     = sum W_i (Q_i(o_i, a_i) - y)^2
4. policy:   w       = min(exp((Q_i(o_i, a_i) - beta log mu_i(a_i|o_i) - V_i(o_i)) / (alpha + beta)), weight_cap)
             L_π     = -sum W_i w log pi_i(a_i|o_i)

w is the best answer pi*_i = mu_i^(alpha / (alpha + beta)) exp((Q_i - V_i) / (alpha + beta)) over mu_i. Policies step
in turn, one agent per update and every agent once in a random order before the next round, so that each answers the
others' newest policies; critics and behavior models step together. With ``in_turn = False`` all policies step at
once, which may end between two conventions.

Gaussian policies, for continuous actions, are an extension of ours; all reports are on discrete ones. Policies and
behavior models are tanh-Gaussians, and step 2 is taken with densities: KL(pi_j || mu_ij) in closed form, where mu_ij
has at least the standard deviation ``least_std`` before squashing in place of a least probability, and H(pi_j) by
quadrature. The sum over actions in V_i has no closed form. It is the mean over the data's own actions, which a
network V_i(o_i) learns in-sample, so that no other action is ever evaluated; steps 3 and 4 become

5. Q:      y   = r - alpha kappa_i + beta h_i + gamma mask V_i(o'_i),   L_Q as in 3
6. V:      z   = (Q̄_i(o_i, a_i) - beta log mu_i(a_i|o_i) - V_i(o_i)) / (alpha + beta)
           w   = min(exp(z), weight_cap)
           L_V = mean [(alpha + beta) w (1 + max(z - log weight_cap, 0)) + V_i(o_i)],   dL_V / dV_i = 1 - w
7. policy: L_π = -sum W_i w log pi_i(a_i|o_i)

and V_i = (alpha + beta) log E_mu_i[exp((Q_i - beta log mu_i) / (alpha + beta))], that of step 3, where mean w = 1.

``alpha`` goes geometrically to ``alpha_end`` and ``beta`` linearly to ``beta_end`` in ``anneal`` updates. Where the
data have a favorite equilibrium that is not the best, the entropy's weight has to start high and to fall slowly:
without it policies stay there (results/studies/inspo).

Where this departs from the letter of the resampling idea: the regularizers kappa_i and h_i are expectations over the
others' policies, not averages over resampled data, because no data show the joint actions that kappa_i must exclude;
for the same reason ``ratio_floor`` keeps a little weight on actions that the others no longer answer. W_i weighs
instead of resampling, which is the same in expectation. A batch of new transitions serves each agent's turn.

``eval_mode = "greedy"`` takes the best action; the default samples (Gaussian policies act with the mode). With
``history = "rnn"`` policies and marginal behavior read the episode so far, with one network each for all agents,
whose policies then step together; critics read the observation in both forms.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm, Stage
from marlzoo.batch import Batch, as_transitions, row_fields, step_fields
from marlzoo.config import (
    ASSIGNED_LATER,
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    History,
    Natural,
    NonNegative,
    Positive,
    Range,
)
from marlzoo.modules.behavior import OthersBehavior, PairInputs, Ratios
from marlzoo.modules.layers import MLP, PerAgent, chosen, one_hot, with_agent_id
from marlzoo.modules.policies import (
    MEAN_BOUND,
    Policy,
    TanhGaussianActor,
    log_softmax,
    mask_logits,
    tanh_gaussian_log_prob,
)
from marlzoo.modules.teams import StochasticActor
from marlzoo.objectives import (
    TargetMemory,
    data_likelihood,
    data_value,
    detached,
    effective_sample_size,
    mean_over,
    means_over,
)
from marlzoo.replicas import Init, Kind, per_replica
from marlzoo.spec import ActionKind, Spec

Heads = tuple[Tensor, Tensor]  # mean and log standard deviation before squashing
MARGINAL_FLOOR = 1e-6  # least probability (density) of an action in V and w
NODES = 32  # of the quadrature of entropies


@dataclass(frozen=True)
class InSPOConfig(Config):
    """Settings of InSPO; the defaults are ours."""

    alpha: Positive = 0.3  # strength of the pull towards the data at the start
    alpha_end: Positive = 0.3  # and at the end
    beta: NonNegative = 0.1  # weight of the entropy at the start
    beta_end: NonNegative = 0.0  # and at the end
    anneal: Natural = 50_000  # updates from start to end (0: start values throughout)
    pretrain: Natural = 0  # first updates, that fit the behavior models only
    ratio_cap: Positive = 100.0  # bound on rho
    ratio_floor: NonNegative = 0.1  # least rho of a transition
    support_floor: Positive = 1e-4  # probability that kappa gives to what the data lack (discrete)
    # least standard deviation of mu_ij (continuous)
    least_std: Annotated[float, Range(0.001, 1.0)] = field(default=0.1, metadata=ASSIGNED_LATER)
    weight_cap: Positive = 100.0  # bound on the policy's weight w
    in_turn: bool = True  # policies step one after another (False: all at once)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of every network
    history: History = "mlp"  # act on the observation, or on the episode so far
    eval_mode: Literal["sample", "greedy"] = "sample"  # how the policy is evaluated
    lr: Positive = 3e-4  # step size of Adam
    batch_size: Count = 256  # transitions (or sequences) per update and replica


# Not of the paper, and not tuned. Ratios of densities scatter more than those of probabilities: with the defaults'
# bounds a twentieth of the batch had all the weight in the particle world.
CONTINUOUS: Mapping[str, Any] = {
    **{"alpha": 1.0, "alpha_end": 1.0, "beta": 0.0, "pretrain": 5000},
    **{"ratio_cap": 2.0, "ratio_floor": 0.5},
}


class InSPO(Algorithm):
    """InSPO, and our extension to continuous actions; see the module's text."""

    config: InSPOConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = InSPOConfig
    actions: ClassVar[tuple[ActionKind, ...]] = ("continuous", "discrete")
    acting = ("eval_mode",)
    presets: ClassVar = {
        "games": {
            **{"alpha": 1.0, "alpha_end": 0.1, "beta": 0.1, "anneal": 3000, "pretrain": 500},
            **{"hidden": 64, "batch_size": 128, "lr": 3e-3, "tau": 0.02},
        },
        "mamujoco": CONTINUOUS,
        "mpe": CONTINUOUS,
        "smac": {**MLP_TRANSITIONS, "pretrain": 5000, "eval_mode": "greedy"},
        "smac-recurrent": {**RECURRENT_SEQUENCES, "pretrain": 5000, "eval_mode": "greedy"},
    }
    variants: ClassVar = {
        "continuous": (
            {"anneal": 4, "in_turn": False, "pretrain": 1},
            {"history": "rnn", "sequence_length": 6},
        ),
        "discrete": (
            {"anneal": 4, "in_turn": False, "eval_mode": "greedy", "pretrain": 1},
            {"history": "rnn", "sequence_length": 6},
        ),
    }
    turns: Tensor

    def build(self, spec: Spec) -> None:
        """Per agent a policy, a critic, marginal and conditional behavior models; targets of the critics."""
        c = self.config
        n = spec.n_agents
        recurrent = c.history == "rnn"
        self.sampling = "sequence" if recurrent else "transition"
        self.actor, self.data = (
            StochasticActor(
                self.init, spec, c.hidden, per_agent=not recurrent, recurrent=recurrent, relu=c.memory_relu
            )
            for _ in range(2)
        )
        inner = (c.hidden, c.hidden)
        self.data_others: OthersBehavior | OthersDensity
        if spec.discrete:
            self.fields = row_fields(recurrent, "obs", "action_mask", "action", "reward", "mask", "state")
            self.data_others = OthersBehavior(self.init, spec, c.hidden)
            self.q = PerAgent(MLP(self.init, (spec.obs_size, *inner, spec.action_size), stack=(n,)))
        else:
            self.fields = step_fields(recurrent, "obs", "action", "reward", "mask", "state")
            self.data_others = OthersDensity(self.init, spec, c.hidden, self.action_dimensions)
            self.entropy = SquashedEntropy(self.init, self.action_dimensions)
            self.q = PerAgent(MLP(self.init, (spec.obs_size + spec.action_size, *inner, 1), stack=(n,)))
            self.v = PerAgent(MLP(self.init, (spec.obs_size, *inner, 1), stack=(n,)))
            self.add_optimizer(v=self.v)
        self.target_q = self.make_target(self.q)
        self.register_buffer("turns", torch.zeros(self.replicas, n, dtype=torch.int64, device=self.device))
        self.add_optimizer(
            behavior=(self.data, self.data_others),
            q=self.q,
            policy=self.actor,
            rows=None if recurrent else {"policy": (n,)},
        )

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Whose turn it is."""
        return {"turns": ("uniform", (self.spec.n_agents,))}

    def stages(self) -> tuple[Stage, ...]:
        """With ``pretrain`` the data's policies alone, then all together."""
        last = Stage("policies", self.update)
        first = self.config.pretrain
        return (Stage("behavior", self.update, first), last) if first else (last,)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of behavior and critics, and of one agent's policy; metrics are [R]."""
        done = self._optimizers["behavior"].count.clone()  # updates made
        active = self._turn(done, batch.noise["turns"])
        self._start_at_the_data(done == self.config.pretrain)
        learn = self._learn_probabilities if self.spec.discrete else self._learn_densities
        metrics = learn(batch, done, active, *self._strengths(done))
        self.soft_update(self.target_q, self.q, self.hyperparameter("tau"))
        return metrics

    def _learn_probabilities(
        self, batch: Batch, done: Tensor, active: Tensor, alpha: Tensor, beta: Tensor
    ) -> dict[str, Tensor]:
        """Steps 1 to 4, after ``done`` updates; ``active`` says whose policy steps."""
        rows = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        log_pi, _ = self._log_probs(self.actor, rows, batch)
        log_mu, log_mu_next = self._log_probs(self.data, rows, batch)

        # 1. Behavior
        policies = log_pi.detach()
        others = self._ratios(batch, policies)
        marginal = chosen(log_mu, batch.action)
        behavior_loss = self._behavior_loss(marginal, others, real)

        # 2. Others
        entropy = -(policies.exp() * policies).sum(-1)  # [R, B, N]
        cost = self._cost(others, entropy, alpha, beta)
        weight = self._weight(others.log_rho.movedim(1, 2), real)

        # 3. Q
        with torch.no_grad():
            q_next = self.target_q(batch.next_obs)
            v_next = self._soft_value(q_next, log_mu_next, batch.next_action_mask, alpha, beta)
            y = self._target(batch, cost, v_next)
        q_all = self.q(batch.obs)
        q = chosen(q_all, batch.action)
        q_loss = weighted(weight, (q - y).square()).mean(-1)

        # 4. Policy
        with torch.no_grad():
            v = self._soft_value(q_all, log_mu, batch.action_mask, alpha, beta)
            exponent = (q - beta * self._floored(marginal) - v) / (alpha + beta)
            answer = torch.minimum(exponent, self.hyperparameter("weight_cap", 3).log()).exp()
        log_prob = chosen(log_pi, batch.action)
        policy_losses = -weighted(weight, answer * log_prob)  # [R, N]

        norms = self._steps(done, active, behavior_loss, policy_losses, q=q_loss)
        losses = {"behavior/loss": behavior_loss, "q/loss": q_loss, "policy/loss": policy_losses.mean(-1)}
        means = means_over(
            {"policy/kappa": others.kappa.movedim(1, 2), "weight/mean": answer, "q/soft_value": v}, real
        )
        means |= {"policy/alpha": alpha.flatten(), "policy/beta": beta.flatten()}
        seen = data_value(q, real) | effective_sample_size(weight, real) | data_likelihood(log_prob, real)
        return detached(losses | means) | seen | norms

    def _learn_densities(
        self, batch: Batch, done: Tensor, active: Tensor, alpha: Tensor, beta: Tensor
    ) -> dict[str, Tensor]:
        """Steps 1, 2 and 5 to 7, after ``done`` updates; ``active`` says whose policy steps."""
        rows = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        obs = with_agent_id(batch.obs)
        policies = cast(Heads, self.actor.of_batch(rows, obs))
        log_prob = self.data_log_prob(policies, batch)  # [R, B, N]

        # 1. Behavior
        marginal = self.data_log_prob(self.data.of_batch(rows, obs), batch)
        others = self._density_ratios(batch, policies, log_prob)
        behavior_loss = self._behavior_loss(marginal, others, real)

        # 2. Others
        with torch.no_grad():
            cost = self._cost(others, self.entropy(policies), alpha, beta)
        weight = self._weight(others.log_rho.movedim(1, 2), real)

        # 5. Q
        with torch.no_grad():
            y = self._target(batch, cost, self.v(batch.next_obs).squeeze(-1))
            judged = self.target_q(batch.obs, batch.action).squeeze(-1)
        q = self.q(batch.obs, batch.action).squeeze(-1)
        q_loss = weighted(weight, (q - y).square()).mean(-1)

        # 6. V
        v = self.v(batch.obs).squeeze(-1)
        log_cap = self.hyperparameter("weight_cap", 3).log()
        z = (judged - beta * self._floored(marginal.detach()) - v) / (alpha + beta)
        answer = torch.minimum(z, log_cap).exp()
        v_loss = mean_over((alpha + beta) * answer * (1.0 + (z - log_cap).clamp_min(0.0)) + v, real)

        # 7. Policy
        policy_losses = -weighted(weight, answer.detach() * log_prob)  # [R, N]

        norms = self._steps(done, active, behavior_loss, policy_losses, q=q_loss, v=v_loss)
        losses = {"behavior/loss": behavior_loss, "q/loss": q_loss, "v/loss": v_loss}
        losses |= {"policy/loss": policy_losses.mean(-1)}
        means = means_over(
            {"policy/kappa": others.kappa.movedim(1, 2), "weight/mean": answer, "q/soft_value": v}, real
        )
        means |= {"policy/alpha": alpha.flatten(), "policy/beta": beta.flatten()}
        seen = data_value(q, real) | effective_sample_size(weight, real) | data_likelihood(log_prob, real)
        return detached(losses | means) | seen | norms

    def _behavior_loss(self, marginal: Tensor, others: Ratios, real: Tensor | None) -> Tensor:
        """Step 1, ``[R]``: of all behavior models, ``marginal [R, B, N]`` that of the agents' own actions."""
        likelihood = marginal + others.log_likelihood.movedim(1, 2)
        return -mean_over(likelihood.sum(-1), real)

    def _cost(self, others: Ratios, entropy: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
        """What the others' policies, of ``entropy [R, B, N]``, cost an agent: alpha kappa - beta h, ``[R, B, N]``."""
        h = entropy.sum(-1, keepdim=True) - entropy
        return alpha * others.kappa.movedim(1, 2) - beta * h

    def _target(self, batch: Batch, cost: Tensor, v_next: Tensor) -> Tensor:
        """y of steps 3 and 5, ``[R, B, N]``."""
        carry = self.hyperparameter("gamma", 3) * batch.mask.unsqueeze(-1)
        y = batch.reward.unsqueeze(-1) - cost + carry * v_next
        return y if self.memory is None else self.memory.lift(y, batch)

    def _steps(
        self, done: Tensor, active: Tensor, behavior: Tensor, policies: Tensor, **critics: Tensor
    ) -> dict[str, Tensor]:
        """Behavior, critics after ``pretrain``, and the policies ``[R, N]`` whose turn it is; gradient norms."""
        norms = self.step(behavior=behavior)
        norms |= self.step_if(done >= self.config.pretrain, **critics)
        return norms | self.step_if(active, policy=(policies * active).sum(-1))

    def policy(self) -> Policy:
        """Samples, or takes the best legal action."""
        return self.actor.policy(stochastic=self.config.eval_mode == "sample")

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        if self.spec.discrete:
            return chosen(self.q(batch.obs), batch.action)
        values: Tensor = self.q(batch.obs, batch.action).squeeze(-1)
        return values

    def _turn(self, done: Tensor, drawn: Tensor) -> Tensor:
        """Whose policy steps, [R, N] bool (a scalar where all step together); a new order for every round."""
        n = self.spec.n_agents
        started = done >= self.config.pretrain
        if self.config.history == "rnn":
            return started
        if not self.config.in_turn:
            return started.expand(self.replicas, n)
        place = torch.remainder(done - self.config.pretrain, n)
        self.turns.copy_(torch.where(place == 0, drawn.argsort(-1), self.turns))
        agent = self.turns.gather(1, place.long().expand(self.replicas, 1)).squeeze(1)
        return one_hot(agent, n).bool() & started

    @torch.no_grad()
    def _start_at_the_data(self, now: Tensor) -> None:
        """Make the policies copies of the marginal behavior, if ``now``."""
        for policy, data in zip(self.actor.parameters(), self.data.parameters(), strict=True):
            policy.copy_(torch.where(now, data, policy))

    def _strengths(self, done: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and beta after ``done`` updates, [R, 1, 1]."""
        c = self.config
        names = ("alpha", "alpha_end", "beta", "beta_end")
        alpha, alpha_end, beta, beta_end = (self.hyperparameter(name, 3) for name in names)
        if not c.anneal:
            return alpha, beta
        share = ((done - c.pretrain) / c.anneal).clamp(0.0, 1.0).to(self.dtype)
        return alpha * (alpha_end / alpha) ** share, beta + share * (beta_end - beta)

    def _log_probs(self, actor: StochasticActor, rows: Batch, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log probabilities of all actions at o and o', ``[R, B, N, A]`` each; gradient at o only."""
        if self.config.history == "rnn":
            every, _ = actor.network(with_agent_id(rows.obs))
            log_p = log_softmax(every, rows.action_mask)
            return log_p[:, :, :-1].flatten(1, 2), log_p[:, :, 1:].flatten(1, 2).detach()
        now = log_softmax(actor.network(with_agent_id(batch.obs)), batch.action_mask)
        with torch.no_grad():
            after = log_softmax(actor.network(with_agent_id(batch.next_obs)), batch.next_action_mask)
        return now, after

    def _ratios(self, batch: Batch, log_pi: Tensor) -> Ratios:
        """Compare the others' policies ``log_pi [R, B, N, A]`` with the data's conditional ones."""
        floor = self.hyperparameter("support_floor", 5)
        log_cap = self.hyperparameter("ratio_cap", 3).log()
        return cast(OthersBehavior, self.data_others).ratios(batch, log_pi, floor, log_cap)

    def _density_ratios(self, batch: Batch, policies: Heads, log_pi: Tensor) -> Ratios:
        """The same of densities, where ``log_pi [R, B, N]`` are the policies' of the data's actions."""
        least = self.hyperparameter("least_std", 5)
        log_cap = self.hyperparameter("ratio_cap", 3).log()
        margin = None if self._margin is None else per_replica(self._margin, 5)
        models = cast(OthersDensity, self.data_others)
        return models.ratios(batch, policies, log_pi, least, log_cap, margin)

    def _weight(self, log_rho: Tensor, real: Tensor | None) -> Tensor:
        """The others' ratios ``exp(log_rho) [R, B, N]``, at least the floor, with sum 1 over the real steps."""
        log_rho = torch.maximum(log_rho, self.hyperparameter("ratio_floor", 3).log())
        padding = torch.zeros_like(log_rho) if real is None else real.log().unsqueeze(-1)
        return F.softmax(log_rho + padding, dim=1)

    def _floored(self, log_mu: Tensor) -> Tensor:
        """Log probabilities under the behavior, bounded below so that no weight is infinite."""
        return log_mu.clamp_min(math.log(MARGINAL_FLOOR))

    def _soft_value(
        self, q: Tensor, log_mu: Tensor, action_mask: Tensor, alpha: Tensor, beta: Tensor
    ) -> Tensor:
        """V of the best answer, ``[R, B, N]``, from ``q`` and ``log_mu [R, B, N, A]``."""
        strength = alpha + beta
        share = per_replica(alpha / (alpha + beta), 4)
        scaled = share * self._floored(log_mu) + q / per_replica(strength, 4)
        value: Tensor = strength * torch.logsumexp(mask_logits(scaled, action_mask), dim=-1)
        return value


def weighted(weight: Tensor, x: Tensor) -> Tensor:
    """``sum W_i x_i`` over the batch, ``[R, B, N] -> [R, N]``."""
    return (weight * x).sum(1)


class OthersDensity(nn.Module):
    """Every agent's autoregressive model ``mu_ij(a_j | s, a_i, a_<j)`` of every other agent, a tanh-Gaussian each.

    Args:
        init: draws the initial values.
        spec: the task's shape.
        hidden: width of both hidden layers.
        used: ``[N, A]``, 0 marks padding.
    """

    def __init__(self, init: Init, spec: Spec, hidden: int, used: Tensor) -> None:
        super().__init__()
        self.used = used
        self.inputs = PairInputs(init, spec)
        self.network = TanhGaussianActor(
            init, self.inputs.size, hidden, spec.action_size, stack=(spec.n_agents,)
        )

    def forward(self, batch: Batch) -> Heads:
        """Agent j's action in agent i's model, ``[R, N, B, N, A]`` each, for transitions."""
        heads: Heads = self.network(*self.inputs(batch))
        return heads

    def ratios(
        self,
        batch: Batch,
        policies: Heads,
        log_pi: Tensor,
        least_std: Tensor,
        log_cap: Tensor,
        margin: Tensor | None = None,
    ) -> Ratios:
        """Compare the others' policies with the models.

        Args:
            batch: transitions with ``state``, ``action``.
            policies: of all agents, ``[R, B, N, A]`` each; no gradient reaches them.
            log_pi: log density of the batch's actions under them, ``[R, B, N]``; likewise.
            least_std: bound on the models' standard deviations, so that no divergence is endless; broadcasts to
                ``[R, N, B, N, A]``.
            log_cap: bound on the log ratio, broadcasts to ``[R, N, B]``.
            margin: of actions that count as censored, see
                :func:`marlzoo.modules.policies.tanh_gaussian_log_prob`; broadcasts to ``[R, N, B, N, A]``.
        """
        mean, log_std = self(batch)
        log_std = torch.maximum(log_std, least_std.log())
        others = self.inputs.others[None, :, None]
        action = batch.action.unsqueeze(1)
        log_data = tanh_gaussian_log_prob(mean, log_std, action, self.used, margin)  # [R, N, B, N]
        with torch.no_grad():
            theirs = (policies[0].unsqueeze(1), policies[1].unsqueeze(1))
            kappa = (gaussian_divergence(theirs, (mean, log_std), self.used) * others).sum(-1)
            gap = ((log_pi.unsqueeze(1) - log_data) * others).sum(-1)
            log_rho = torch.minimum(gap, log_cap)
        return Ratios(kappa, log_rho, (log_data * others).sum(-1))


def gaussian_divergence(one: Heads, other: Heads, used: Tensor) -> Tensor:
    """KL divergence of two tanh-Gaussians, which is that of the Gaussians, summed over dimensions, ``[...]``.

    Args:
        one: ``[..., A]`` each; means count within [-9, 9], as in densities.
        other: likewise.
        used: ``[..., A]``, 0 marks padding.
    """
    gap = one[0].clamp(-MEAN_BOUND, MEAN_BOUND) - other[0].clamp(-MEAN_BOUND, MEAN_BOUND)
    spread = (2.0 * one[1]).exp() + gap.square()
    terms = other[1] - one[1] + 0.5 * spread * (-2.0 * other[1]).exp() - 0.5
    return (terms * used).sum(-1)


class SquashedEntropy(nn.Module):
    """Entropy of tanh-Gaussians: the Gaussian's, and the mean of ``log(1 - tanh(u)^2)`` by Gauss-Hermite quadrature.

    Args:
        init: says where it lives.
        used: ``[N, A]``, 0 marks padding.
    """

    nodes: Tensor
    weights: Tensor

    def __init__(self, init: Init, used: Tensor) -> None:
        super().__init__()
        nodes, weights = np.polynomial.hermite.hermgauss(NODES)
        for name, values in (
            ("nodes", math.sqrt(2.0) * nodes),
            ("weights", weights / math.sqrt(math.pi)),
        ):
            self.register_buffer(name, torch.from_numpy(values).to(init.device, init.dtype), persistent=False)
        self.used = used

    def forward(self, heads: Heads) -> Tensor:
        """``[R, ..., N]`` of ``[R, ..., N, A]`` each."""
        mean, log_std = heads
        u = mean.clamp(-MEAN_BOUND, MEAN_BOUND).unsqueeze(-1) + log_std.exp().unsqueeze(-1) * self.nodes
        slope = 2.0 * (math.log(2.0) - u - F.softplus(-2.0 * u))  # log(1 - tanh(u)^2)
        terms = log_std + 0.5 * math.log(2.0 * math.pi * math.e) + (slope * self.weights).sum(-1)
        return (terms * self.used).sum(-1)
