"""InSPO: in-sample sequential policy optimization (a reconstruction: no official code is published).

Liu et al., "Offline Multi-Agent Reinforcement Learning via In-Sample Sequential Policy Optimization", AAAI 2025,
arXiv 2412.07639. Its abstract and summaries served as source: a behavior-regularized game with reverse KL and an
entropy term, agents that improve one after another by a closed form, local Q functions, and importance resampling
towards the others' present policies. The equations below were worked out from these; the settings are ours. With the
joint behavior policy mu, the objective is

    J = E[sum_t gamma^t (r - alpha log(pi / mu) + beta H(pi))],   pi = prod_i pi_i

Discrete actions; every agent has networks of its own: pi_i(·|o_i), the critic Q_i(o_i, ·), the behavior's marginal
mu_i(·|o_i) and its conditionals mu_ij(a_j | s, a_i, a_<j) of every other agent. A bar marks a target network. For
agent i and every transition:

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

``alpha`` goes geometrically to ``alpha_end`` and ``beta`` linearly to ``beta_end`` in ``anneal`` updates. Where the
data have a favorite equilibrium that is not the best, the entropy's weight has to start high and to fall slowly:
without it policies stay there (results/studies/inspo).

Where this departs from the letter of the resampling idea: the regularizers kappa_i and h_i are expectations over the
others' policies, not averages over resampled data, because no data show the joint actions that kappa_i must exclude;
for the same reason ``ratio_floor`` keeps a little weight on actions that the others no longer answer. W_i weighs
instead of resampling, which is the same in expectation. A batch of new transitions serves each agent's turn.

``eval_mode = "greedy"`` takes the best action; the default samples. With ``history = "rnn"`` policies and marginal
behavior read the episode so far, with one network each for all agents, whose policies then step together; critics
read the observation in both forms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_transitions, row_fields
from marlzoo.config import (
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    History,
    Natural,
    NonNegative,
    Positive,
)
from marlzoo.modules.behavior import OthersBehavior, Ratios
from marlzoo.modules.layers import MLP, PerAgent, chosen, one_hot, with_agent_id
from marlzoo.modules.policies import Policy, log_softmax, mask_logits
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
from marlzoo.replicas import Kind, per_replica
from marlzoo.spec import Spec

MARGINAL_FLOOR = 1e-6  # least probability of an action in V and w


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
    support_floor: Positive = 1e-4  # probability that kappa gives to what the data lack
    weight_cap: Positive = 100.0  # bound on the policy's weight w
    in_turn: bool = True  # policies step one after another (False: all at once)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of every network
    history: History = "mlp"  # act on the observation, or on the episode so far
    eval_mode: Literal["sample", "greedy"] = "sample"  # how the policy is evaluated
    lr: Positive = 3e-4  # step size of Adam
    batch_size: Count = 256  # transitions (or sequences) per update and replica


class InSPO(Algorithm):
    """InSPO for discrete actions; see the module's text."""

    config: InSPOConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = InSPOConfig
    actions = ("discrete",)
    acting = ("eval_mode",)
    presets: ClassVar = {
        "games": {
            **{"alpha": 1.0, "alpha_end": 0.1, "beta": 0.1, "anneal": 3000, "pretrain": 500},
            **{"hidden": 64, "batch_size": 128, "lr": 3e-3, "tau": 0.02},
        },
        "smac": {**MLP_TRANSITIONS, "pretrain": 5000, "eval_mode": "greedy"},
        "smac-recurrent": {**RECURRENT_SEQUENCES, "pretrain": 5000, "eval_mode": "greedy"},
    }
    variants: ClassVar = {
        "discrete": (
            {"anneal": 4, "in_turn": False, "eval_mode": "greedy", "pretrain": 2},
            {"history": "rnn", "sequence_length": 6},
        )
    }
    turns: Tensor

    def build(self, spec: Spec) -> None:
        """Per agent a policy, a critic, marginal and conditional behavior models; targets of the critics."""
        c = self.config
        n = spec.n_agents
        recurrent = c.history == "rnn"
        self.sampling = "sequence" if recurrent else "transition"
        self.fields = row_fields(recurrent, "obs", "action_mask", "action", "reward", "mask", "state")
        self.actor, self.data = (
            StochasticActor(
                self.init, spec, c.hidden, per_agent=not recurrent, recurrent=recurrent, relu=c.memory_relu
            )
            for _ in range(2)
        )
        self.data_others = OthersBehavior(self.init, spec, c.hidden)
        sizes = (spec.obs_size, c.hidden, c.hidden, spec.action_size)
        self.q = PerAgent(MLP(self.init, sizes, stack=(n,)))
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

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of behavior and critics, and of one agent's policy; metrics are [R]."""
        done = self._optimizers["behavior"].count.clone()  # updates made
        active = self._turn(done, batch.noise["turns"])
        self._start_at_the_data(done == self.config.pretrain)
        alpha, beta = self._strengths(done)
        rows = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        log_pi, _ = self._log_probs(self.actor, rows, batch)
        log_mu, log_mu_next = self._log_probs(self.data, rows, batch)

        # 1. Behavior
        policies = log_pi.detach()
        others = self._ratios(batch, policies)
        marginal = chosen(log_mu, batch.action)
        likelihood = marginal + others.log_likelihood.movedim(1, 2)
        behavior_loss = -mean_over(likelihood.sum(-1), real)

        # 2. Others
        kappa = others.kappa.movedim(1, 2)
        entropy = -(policies.exp() * policies).sum(-1)  # [R, B, N]
        h = entropy.sum(-1, keepdim=True) - entropy
        weight = self._weight(others.log_rho.movedim(1, 2), real)

        # 3. Q
        with torch.no_grad():
            q_next = self.target_q(batch.next_obs)
            v_next = self._soft_value(q_next, log_mu_next, batch.next_action_mask, alpha, beta)
            carry = self.hyperparameter("gamma", 3) * batch.mask.unsqueeze(-1)
            y = batch.reward.unsqueeze(-1) - alpha * kappa + beta * h + carry * v_next
            y = y if self.memory is None else self.memory.lift(y, batch)
        q_all = self.q(batch.obs)
        q = chosen(q_all, batch.action)
        q_loss = (weight * (q - y).square()).sum(1).mean(-1)

        # 4. Policy
        with torch.no_grad():
            v = self._soft_value(q_all, log_mu, batch.action_mask, alpha, beta)
            exponent = (q - beta * self._floored(marginal) - v) / (alpha + beta)
            answer = torch.minimum(exponent, self.hyperparameter("weight_cap", 3).log()).exp()
        log_prob = chosen(log_pi, batch.action)
        policy_losses = -(weight * answer * log_prob).sum(1)  # [R, N]

        norms = self.step(behavior=behavior_loss)
        norms |= self.step_if(done >= self.config.pretrain, q=q_loss)
        norms |= self.step_if(active, policy=(policy_losses * active).sum(-1))
        self.soft_update(self.target_q, self.q, self.hyperparameter("tau"))
        losses = {"behavior/loss": behavior_loss, "q/loss": q_loss, "policy/loss": policy_losses.mean(-1)}
        means = means_over({"policy/kappa": kappa, "weight/mean": answer, "q/soft_value": v}, real)
        means |= {"policy/alpha": alpha.flatten(), "policy/beta": beta.flatten()}
        seen = data_value(q, real) | effective_sample_size(weight, real) | data_likelihood(log_prob, real)
        return detached(losses | means) | seen | norms

    def policy(self) -> Policy:
        """Samples, or takes the best legal action."""
        return self.actor.policy(stochastic=self.config.eval_mode == "sample")

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        return chosen(self.q(batch.obs), batch.action)

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
        return self.data_others.ratios(batch, log_pi, floor, log_cap)

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
