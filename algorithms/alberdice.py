"""AlberDICE: offline multi-agent RL by alternating stationary-distribution correction.

Matsunaga, Lee, Yoon, Leonardos, Abbeel, Kim, "AlberDICE: Addressing Out-Of-Distribution Joint Actions in Offline
Multi-Agent RL via Alternating Stationary Distribution Correction Estimation", NeurIPS 2023, arXiv 2311.02194.

Every agent solves its own problem with the others' *current* policies fixed and the joint occupancy held near the
data's, so that joint actions outside the data are excluded. Discrete actions. Each agent has networks of its own:
nu_i(s), e_i(s, ·), π_i(·|o_i), and the conditional data policy π^D_ij(a_j | s, a_i, a_<j) of every other agent; the
marginal data policy π^D_i(a_i | o_i) is shared. For agent i and every transition, without gradient in the policies:

    kappa_i = sum_{j≠i} KL(π_j || π^D_ij),   rho_i = min(prod_{j≠i} π_j(a_j) / π^D_ij(a_j), ratio_cap)
    e = reward_scale r - alpha kappa_i + gamma nu_i(s') - nu_i(s),   weights W = rho_i / sum rho_i

1. data policies by maximum likelihood
2. nu:      L = alpha logsumexp(log W + e / alpha) + (1 - gamma) mean nu_i + gradient_penalty mean |∇_s nu_i(s̃)|^2
3. e:       L = sum W' (e_i(s, a_i) - sg e)^2 + sum W conservatism (logsumexp_a e_i - sum_a π^D_i(a) e_i),
            where W' is W with rho_i at least ratio_floor
4. policy:  L = sum W' KL(sg π*_i || π_i) with the best answer π*_i ∝ π^D_i exp(e_i / alpha)

All gradients are taken before any step (so the policy sees the e_i of before its update); there are no targets. s̃
lies between states of the batch's halves. After a terminal step comes an absorbing state (zeros and a bit that marks
it) with reward 0 that leads to itself; every state counts as a first one. Each terminal step puts one absorbing step
into nu's loss. ``alpha`` goes geometrically to ``alpha_end`` within ``anneal`` updates.

Departures from the authors' code:

* their policies descend alpha KL(π_i || π*_i) (``projection = "reverse"``). Both are least at π*_i, but the
  reverse one's gradient vanishes with the probability of the action that should be taken: a policy that is sure of
  the wrong action, as those are on Bridge that block each other on the way to their goals, hardly learns.
* in theirs, ``ratio_floor = 0``, nothing tells e_i of an action that the others no longer answer: its samples have
  weight 0, the conservative term makes it as good as the data's, and agents that disagree see no reason to yield.
  Nor does a policy learn anything in states that another's has left: both may do there, for good, what the data never
  do. Weights of states do not change which policy is best.
* all agents step at the same time from the same policies; theirs step one after another on the same batch.
* The defaults are those of their warehouse but for batches and what is listed here. The preset for games is ours:
  ``alpha`` starts lower and ends higher than theirs (5, falling to 0.001), because the larger it is, the larger is
  alpha kappa beside the differences in reward that e has to resolve; layers are narrower, the step size is larger
  (0.003 against 0.0001), and the data policies learn alone for the first 500 updates. The presets for SMAC are ours.
* KL is exact instead of an average over 16 samples, and W enters as weights instead of by resampling: the same in
  expectation, with less noise.
* batches are transitions; theirs are padded whole episodes, so their share of absorbing steps is larger.
* e_i has one output per action instead of reading the action.
* the bound of 20 on e that their configuration has and their code never uses is left out.
* ``pretrain`` lets the data policies learn alone at first, so that early ratios are not noise (0: as in their code).

Every agent's policy becomes the best answer to the others': an equilibrium, not always the best one. On Bridge's
optimal data the preset's settings reach more than -1.3 (data -1.262, optimum -1.235) and from the distant start the
optimum, -1.552, after 4000 updates with each of 3 seeds, acting stochastically (tests/test_learning.py);
results/studies/coordination compares the other games.

``eval_mode = "greedy"`` takes the best action; the default samples, as theirs does. ``history = "rnn"`` (ours) lets
policies read the episode so far; they then share one network, which knows their numbers. All else reads states and
observations in both forms.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_transitions, step_count, step_fields
from marlzoo.config import (
    ASSIGNED_LATER,
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    History,
    Natural,
    NonNegative,
    Positive,
)
from marlzoo.errors import ConfigError
from marlzoo.modules.behavior import OthersBehavior, Ratios
from marlzoo.modules.layers import MLP, chosen, with_agent_id
from marlzoo.modules.policies import Policy, log_softmax
from marlzoo.modules.teams import StochasticActor
from marlzoo.objectives import (
    data_likelihood,
    data_value,
    detached,
    effective_sample_size,
    masked_logsumexp,
    mean_over,
)
from marlzoo.replicas import Init, Kind, per_replica
from marlzoo.spec import Spec

FLOOR = 1e-10  # added to the probabilities of the conditional data policies


@dataclass(frozen=True)
class AlberDICEConfig(Config):
    """Settings of AlberDICE; the defaults are the authors' for their warehouse, as far as the module's text says."""

    alpha: Positive = 1.0  # strength of the regularizer at the start (paper: α)
    alpha_end: Positive = 1.0  # and at the end
    anneal: Natural = 0  # updates from start to end (0: constant alpha)
    reward_scale: Positive = 1.0  # weight of the reward against the regularizer
    ratio_cap: Positive = 100.0  # bound on rho
    ratio_floor: NonNegative = 0.1  # least rho of a transition in the fits of e and policy
    projection: Literal["forward", "reverse"] = "forward"  # divergence that policies descend
    gradient_penalty: NonNegative = 0.1  # weight of the slope of nu
    conservatism: NonNegative = 0.1  # weight of the push down on actions that the data lack
    pretrain: Natural = 0  # first updates that fit the data policies only
    history: History = field(
        default="mlp", metadata=ASSIGNED_LATER
    )  # act on the observation, or on the episode so far
    hidden: Count = 128  # width of both hidden layers of every network
    eval_mode: Literal["sample", "greedy"] = "sample"  # how the policy is evaluated
    lr: Positive = 5e-4  # step size of Adam


class StateValue(nn.Module):
    """nu of every agent: two hidden layers, and no bias at the end (a constant would change no loss)."""

    def __init__(self, init: Init, n_in: int, hidden: int, agents: int) -> None:
        super().__init__()
        self.body = MLP(init, (n_in, hidden, hidden), stack=(agents,))
        self.head = init.uniform(hidden**-0.5, agents, 1, hidden)

    def forward(self, state: Tensor) -> Tensor:
        """``[R, N or 1, B, in] -> [R, N, B]``."""
        return (F.relu(self.body(state)) * self.head).sum(-1)


class AlberDICE(Algorithm):
    """AlberDICE for discrete actions; see the module's text."""

    config: AlberDICEConfig
    config_class = AlberDICEConfig
    no_memory = "its critics learn advantages and a dual, not values that follow targets"
    actions = ("discrete",)
    acting = ("eval_mode",)
    unread = ("bound_margin",)
    presets: ClassVar = {
        "games": {
            **{"alpha": 0.2, "alpha_end": 0.05, "anneal": 3500, "pretrain": 500},
            **{"hidden": 64, "batch_size": 128, "lr": 3e-3},
        },
        "smac": {**MLP_TRANSITIONS, "eval_mode": "greedy"},
        "smac-recurrent": {**RECURRENT_SEQUENCES, "eval_mode": "greedy"},
    }
    variants: ClassVar = {
        "discrete": (
            {"anneal": 40, "alpha_end": 0.1, "eval_mode": "greedy"},
            {"history": "rnn", "sequence_length": 6},
        )
    }

    def build(self, spec: Spec) -> None:
        """Per agent nu, e, policy and conditional data policies; one marginal data policy for all."""
        h = self.config.hidden
        n = spec.n_agents
        a = spec.action_size
        self.nu = StateValue(self.init, spec.state_size + 1, h, n)
        self.e = MLP(self.init, (spec.state_size, h, h, a), stack=(n,))
        recurrent = self.config.history == "rnn"
        self.length = step_count(recurrent, self.config.sequence_length, self.name)
        if self.config.batch_size * self.length < 2:
            raise ConfigError(
                f"{self.name}: a batch is of one step, but the slope of nu is taken between steps; take a batch_size "
                "of at least two"
            )
        self.sampling = "sequence" if recurrent else "transition"
        self.fields = step_fields(recurrent, "obs", "state", "action", "action_mask", "reward", "mask")
        if recurrent:
            self.actor = StochasticActor(self.init, spec, h, recurrent=True, relu=self.config.memory_relu)
        else:
            self.actor = StochasticActor(self.init, spec, h, per_agent=True, last_bound=1e-3)
        self.data = StochasticActor(self.init, spec, h)
        self.data_others = OthersBehavior(self.init, spec, h)
        self.add_optimizer(nu=self.nu, e=self.e, policy=self.actor, data=(self.data, self.data_others))

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Where between two states the slope of nu is taken."""
        return {"between": ("uniform", (1, self.config.batch_size * self.length // 2, 1))}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all losses; metrics are the losses, batch means and gradient norms, each [R]."""
        done = self._optimizers["data"].count.clone()  # updates made
        alpha = self._alpha(done)
        sequences = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        real = None if real is None else real.unsqueeze(1)  # [R, 1, B]
        obs = with_agent_id(batch.obs)
        state = batch.state.unsqueeze(1)
        action_mask = batch.action_mask.movedim(2, 1)
        action = batch.action.movedim(2, 1)  # agents first: [R, N, B]
        logits = self.actor.of_batch(sequences, obs)
        assert isinstance(logits, Tensor)
        log_pi = log_softmax(logits, batch.action_mask).movedim(2, 1)
        log_data = log_softmax(self.data.network(obs), batch.action_mask).movedim(2, 1)

        # 1. Data policies
        ratios = self._ratios(batch, log_pi.detach())
        likelihood = chosen(log_data, action).sum(1) + ratios.log_likelihood.sum(1)
        data_loss = -mean_over(likelihood, None if real is None else real.squeeze(1))

        # 2. nu
        # In log space: with many agents or sure policies every ratio of a batch may be below the smallest float.
        log_weight = F.log_softmax(without_padding(ratios.log_rho, real), dim=-1)
        weight = log_weight.exp()
        nu_loss, e_target, nu = self._nu_loss(batch, alpha, ratios.kappa, log_weight, real)

        # 3. e
        e = self.e(state)
        mean_e = (log_data.detach().exp() * e).sum(-1)
        td = (chosen(e, action) - e_target).square()
        push = weight * (masked_logsumexp(e, action_mask) - mean_e)
        floor = self.hyperparameter("ratio_floor", 3).log()  # -inf without a floor
        floored = F.softmax(without_padding(torch.maximum(ratios.log_rho, floor), real), dim=-1)
        e_loss = (floored * td).sum((1, 2)) + self.hyperparameter("conservatism") * push.sum((1, 2))

        # 4. Policy
        gain = log_data.detach() + e.detach() / per_replica(alpha, 4)
        policy_loss = (floored * self._distance(log_pi, gain, alpha)).sum((1, 2))

        norms = self.step(data=data_loss)
        started = done >= self.config.pretrain
        norms |= self.step_if(started, nu=nu_loss, e=e_loss, policy=policy_loss)
        losses = {"nu/loss": nu_loss, "e/loss": e_loss, "policy/loss": policy_loss, "data/loss": data_loss}
        filled = None if real is None else real.squeeze(1)
        common = self._metrics(ratios, nu, weight, chosen(log_pi, action), filled)
        return detached(losses) | {"policy/alpha": alpha} | common | norms

    def policy(self) -> Policy:
        """Samples, or takes the best legal action."""
        return self.actor.policy(stochastic=self.config.eval_mode == "sample")

    def _alpha(self, done: Tensor) -> Tensor:
        """Strength of the regularizer after ``done`` updates, ``[R]``."""
        start = self.hyperparameter("alpha")
        end = self.hyperparameter("alpha_end")
        if not self.config.anneal:
            return start
        return start * (end / start) ** (done / self.config.anneal).clamp(max=1.0).to(self.dtype)

    def _ratios(self, batch: Batch, log_pi: Tensor) -> Ratios:
        """Compare the others' policies ``log_pi [R, N, B, A]`` with the data's conditional ones."""
        log_cap = self.hyperparameter("ratio_cap", 3).log()
        return self.data_others.ratios(batch, log_pi.movedim(1, 2), FLOOR, log_cap)

    def _distance(self, log_pi: Tensor, gain: Tensor, alpha: Tensor) -> Tensor:
        """Of the policies from exp(gain), normalized, ``[R, N, B]``; ``log_pi`` and ``gain [R, N, B, A]``."""
        if self.config.projection == "forward":
            return -(F.softmax(gain, -1) * log_pi).sum(-1)  # up to the best policy's entropy
        return per_replica(alpha, 3) * (log_pi.exp() * (log_pi - gain)).sum(-1)

    def _metrics(
        self, ratios: Ratios, nu: Tensor, weight: Tensor, log_prob: Tensor, filled: Tensor | None
    ) -> dict[str, Tensor]:
        """Batch means ``[R]`` of tensors whose agents stand before their steps, ``[R, N, B]``."""
        parts = {"policy/rho": ratios.log_rho.exp(), "policy/kappa": ratios.kappa}
        means = {name: mean_over(value.movedim(1, 2), filled) for name, value in parts.items()}
        # Every agent's nu estimates the team's value, so they are averaged, not added up.
        means |= data_value(nu.movedim(1, 2), filled)
        means |= effective_sample_size(weight.movedim(1, 2), filled)
        return means | data_likelihood(log_prob.movedim(1, 2), filled)

    def _nu_loss(
        self, batch: Batch, alpha: Tensor, kappa: Tensor, log_weight: Tensor, real: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of nu ``[R]``, the advantages ``[R, N, B]`` that e is fitted to, and nu ``[R, N, B]``."""
        alpha = per_replica(alpha, 3)
        gamma = self.hyperparameter("gamma", 3)
        size = steps_of(batch, real)
        state, after = (F.pad(s, (0, 1)).unsqueeze(1) for s in (batch.state, batch.next_state))
        absorbing = F.pad(torch.zeros_like(batch.state[:, None, :1]), (0, 1), value=1.0)
        nu = self.nu(state)
        nu_end = self.nu(absorbing)
        mask = batch.mask.unsqueeze(1)
        nu_next = mask * self.nu(after) + (1.0 - mask) * nu_end
        reward = self.hyperparameter("reward_scale", 3) * batch.reward.unsqueeze(1)
        e = reward - alpha * kappa + gamma * nu_next - nu

        # Absorbing steps, one for each end in the batch, all of the same value.
        ended = 1.0 - mask if real is None else (1.0 - mask) * real
        ends = ended.sum(-1, keepdim=True)
        share = size / (size + ends)
        log_end = torch.where(ends > 0, torch.log1p(-share.clamp(max=1.0 - FLOOR)), -torch.inf)
        steps = torch.log(share) + log_weight + e / alpha
        end = log_end + (gamma - 1.0) * nu_end / alpha
        spread = alpha.squeeze(-1) * torch.logsumexp(torch.cat((steps, end), dim=-1), dim=-1)
        starts = (nu if real is None else nu * real).sum(-1, keepdim=True)
        first = ((starts + ends * nu_end) / (size + ends)).squeeze(-1)
        loss = spread + (1.0 - gamma.squeeze(-1)) * first
        slope = self.hyperparameter("gradient_penalty", 2) * self._slope(state, batch.noise["between"], real)
        return (loss + slope).sum(-1), e.detach(), nu

    def _slope(self, state: Tensor, between: Tensor, real: Tensor | None = None) -> Tensor:
        """Mean squared gradient of nu between states of the batch's halves, ``[R, N]``."""
        half = state.shape[2] // 2
        mixed = between * state[:, :, :half] + (1.0 - between) * state[:, :, half : 2 * half]
        points = mixed.expand(-1, self.spec.n_agents, -1, -1).detach().requires_grad_()
        (gradient,) = torch.autograd.grad(self.nu(points).sum(), points, create_graph=True)
        size = gradient.square().sum(-1)
        if real is None:
            return size.mean(-1)
        both = real[..., :half] * real[..., half : 2 * half]
        return (size * both).sum(-1) / both.sum(-1).clamp_min(1.0)


def without_padding(log_weight: Tensor, real: Tensor | None) -> Tensor:
    """Log weights ``[R, N, B]``, -inf where ``real [R, 1, B]`` is 0 (None: nowhere)."""
    return log_weight if real is None else log_weight.masked_fill(real == 0, -torch.inf)


def steps_of(batch: Batch, real: Tensor | None) -> Tensor | int:
    """How many real steps a batch has: a number, or ``[R, 1, 1]``."""
    return batch.mask.shape[-1] if real is None else real.sum(-1, keepdim=True)
