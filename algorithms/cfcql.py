"""CFCQL: counterfactual conservative Q-learning.

Shao, Qu, Chen, Zhang, Ji, "Counterfactual Conservative Q Learning for Offline Multi-agent Reinforcement Learning",
NeurIPS 2023, arXiv 2309.12696. The penalty of conservative Q-learning on joint actions grows exponentially with the
team; CFCQL sums one penalty per agent, in which that agent's action alone leaves the data. Bars mark targets, sg a
stopped gradient, mu and beta the softmax of the values and the behavior policy:

Discrete (QMIX; agents read their episode so far and their last action):

1. TD:       a*_i = argmax over legal actions of Q_i,   y = TD(lambda) of Q̄_tot(s, Q̄_1(a*_1), ...)
             L_TD = 1/2 mean (Q_tot(s, a) - y)^2
2. C_ij      = Q_tot(s, (a_-i, j)): all others keep the data's action.   LSE_i = log sum_{j legal} exp C_ij
3. weights:  K_i = sum_{j legal} mu_ij log(mu_ij / beta_ij),  mu_ij = exp(C_ij - LSE_i)
             lambda_i = sg softmax_i(temperature K_i)   (``"argmax"``, ``"uniform"``: the limits)
4. L         = L_TD + w mean [sum_i lambda_i LSE_i - Q_tot(s, a)]

Continuous (one twin critic of state and all actions, one deterministic policy per agent):

1. TD:       y = r + gamma mask min_k Q̄_k(s', clip(pi̅(o') + 0.05 noise)),   L_TD = sum_k mean (Q_k(s, a) - y)^2
2. LSE_ik    = log sum over samples of exp(Q_k(s, (a_-i, sample)) - log density): 10 uniform ones, and with
             ``policy_samples`` 10 each around pi_i(o_i) and pi_i(o'_i)
3. L         = L_TD + w sum_k mean [mean_i LSE_ik - Q_k(s, a)]
4. policy:   L_pi = -mean_i mean Q_1(s, (a_-i, pi_i(o_i))) + 0.001 sum_i mean pi_i^2, at every fifth update

Departures from the authors' code, and the option that restores it:

* The behavior policy is cloned beside the critic. Theirs is cloned first, until twenty batches bring nothing new,
  and then frozen: ``behavior_updates`` > 0 clones for so many steps first and then freezes.
* Continuous weights are uniform, as their default is; their option by an autoencoder's density is not offered.
* The targets follow with the policies, at every fifth critic step, as theirs do; ``target_steps = "critic"`` lets
  them follow at every critic step. That is the presets' ``target_period = 0``; the defaults are SMAC's, which copy
  the targets at every 25th update, for continuous actions as well where the spec names no task.
* Spread's step size is 0.01 in theirs; the preset has 0.001, their other worlds', for all. Their cql_weight for
  random, medium-replay, medium, expert: spread .5, 1, 5, 2.5; tag .5, .5, .6, 2; world .5, .5, .32, .3; HalfCheetah
  .1, .4, 1, 1.7.
* The others' actions are the data's at s for all samples; theirs around pi_i(o'_i) take the others' next actions:
  ``other_actions = "next"``. Their jitter of 1e-5 on those is left out.
* The densities of the two policy classes belong to their own samples; theirs (HalfCheetah) are swapped. Not offered.
* No batch normalization: its statistics would differ between logged and sampled actions. ``batch_norm = True``.
* Rewards are the team's, theirs agent 0's; ``gamma`` is what it says (their HalfCheetah runs use 0.95).
* Their alternative with joint actions (MACQL) is ``qmix_cql`` with ``td_lambda``; its illegal actions count nothing.

Options off by default: ``backup = "partial"`` keeps the data's next actions in the target but for those of
``replaced`` random agents (partial action replacement, arXiv 2511.07629; steps whose next action is cut off have no
target then, unless all agents are replaced), ``backup = "soft"`` (continuous) mixes the targets of 0 to N replaced
agents with weights exp(-u_k / mean_k u_k), u_k the twins' deviation (ours, after SPaCQL). ``value_normalization``
(discrete) divides TD errors by sg mean |Q_tot - mean Q_tot| of the batch, so that values that a mixer amplifies do
not grow the steps (arXiv 2603.08399).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, team_fields
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
from marlzoo.modules.critics import Ensemble, counterfactual_actions
from marlzoo.modules.layers import PerAgent, one_hot, with_agent_id
from marlzoo.modules.policies import (
    Policy,
    SquashedPolicy,
    categorical_log_prob,
    log_softmax,
    mask_logits,
    smoothed_action,
)
from marlzoo.modules.teams import AgentNet, DeterministicActor, QNetworkConfig, QTeam
from marlzoo.objectives import (
    action_size,
    all_replacements,
    backup_form,
    data_value,
    detached,
    masked_logsumexp,
    mean_over,
    partial_replacement,
    penalty_samples,
    random_agents,
    require_agents,
    sampled_logsumexp,
    saturation,
    soft_backup,
    team_targets,
    value_scale,
)
from marlzoo.replicas import Kind
from marlzoo.spec import Spec

FLOOR = 1e-5  # added to probabilities in the divergence
CONTINUOUS: dict[str, Any] = {"target_period": 0, "grad_clip": 0.5, "gamma": 0.95}
MPE = {**CONTINUOUS, "lr": 1e-3, "hidden": 64, "batch_size": 1024, "tau": 0.01, "policy_samples": False}
MUJOCO = {**CONTINUOUS, "lr": 3e-4, "hidden": 256, "batch_size": 256, "tau": 0.005}
SMAC: dict[str, Any] = {"cql_weight": 50.0}  # the other defaults are the authors'


@dataclass(frozen=True)
class CFCQLConfig(Config):
    """Settings of CFCQL; the defaults are the authors' for SMAC, the presets say what differs elsewhere."""

    cql_weight: NonNegative = 1.0  # w; the paper's lie between 0.1 and 50 (SMAC), 0.1 and 5 (elsewhere)
    agent_weights: Literal["kl", "argmax", "uniform"] = "kl"  # how agents' penalties are weighted (discrete)
    temperature: NonNegative = 0.5  # sharpness of the weights; 0: uniform (discrete)
    behavior_updates: Natural = 0  # cloning steps before training; 0: one beside every update (discrete)
    td_lambda: Fraction = 0.6  # trace of the target (discrete)
    mixer_hidden: Count = 64  # hidden units of the networks that make the mixer's weights (discrete)
    mixer_embed: Count = 32  # hidden units of the mixer (discrete)
    history: Literal["rnn", "mlp"] = "rnn"  # act on the episode so far, or on the observation (discrete)
    last_action: bool = True  # also read the action of the step before (discrete)
    samples: Count = 10  # sampled actions of each class (continuous)
    policy_samples: bool = True  # sample around the policy's actions too (continuous)
    sample_std: Positive = 0.2  # spread of the samples around the policy's actions (continuous)
    other_actions: Literal["data", "next"] = "data"  # what others do beside samples at o' (continuous)
    target_noise: NonNegative = 0.05  # noise on the target policy's actions (continuous)
    policy_period: Count = 5  # critic steps per policy step (continuous)
    target_steps: Literal["policy", "critic"] = (
        "policy"  # at whose steps the targets follow by tau, where target_period is 0 (continuous)
    )
    action_penalty: NonNegative = 1e-3  # weight of the policy's squared actions (continuous)
    backup: Literal["policy", "partial", "soft"] = field(
        default="policy", metadata=ASSIGNED_LATER
    )  # next actions in the target: the policies', or the data's but for some agents
    replaced: Natural = field(default=1, metadata=ASSIGNED_LATER)  # how many agents' (partial)
    # Divide TD errors by the spread of the team's values in the batch (SVN, discrete).
    value_normalization: bool = field(default=False, metadata=ASSIGNED_LATER)
    batch_norm: bool = False  # normalize the inputs of policies and critics by batch statistics (continuous)
    hidden: Count = 64  # width of the agents' hidden layers and of their memory
    tau: Fraction = 0.005  # rate at which the targets follow, where they are not copied
    target_period: Natural = 25  # updates between copies of the targets; 0: follow with rate tau
    grad_clip: Positive = 10.0  # bound on the gradient norm of critic and policy
    lr: Positive = 1e-3  # step size of Adam


class CFCQL(Algorithm):
    """CFCQL for discrete (QMIX) and continuous (MATD3) actions; see the module's text."""

    config: CFCQLConfig
    config_class = CFCQLConfig
    actions = ("continuous", "discrete")
    unread = ("bound_margin",)
    presets: ClassVar = {
        "smac": {**SMAC, **MLP_TRANSITIONS, "history": "mlp"},
        "smac-recurrent": {**SMAC, **RECURRENT_SEQUENCES},
        "smac-authors": SMAC,
        "mamujoco": MUJOCO,
        "mpe": MPE,
    }
    variants: ClassVar = {
        "continuous": [
            {"batch_norm": True, "target_period": 0, "target_steps": "critic"},
            {"other_actions": "next", "backup": "partial"},
            {"backup": "soft"},
        ],
        "discrete": [
            {"history": "mlp", "agent_weights": "argmax"},
            {"behavior_updates": 2, "sequence_length": 6},
        ],
    }

    def build(self, spec: Spec) -> None:
        """Discrete: agents' values, mixer and behavior policy. Continuous: twin critic and policies."""
        c = self.config
        require_agents(self.name, c.replaced, spec)
        self.backup = backup_form(c.backup, c.replaced, spec)
        h = c.hidden
        if spec.discrete:
            recurrent = c.history == "rnn"
            self.fields = team_fields(recurrent, mixed=True)
            if recurrent:
                self.sampling = "sequence"
            if c.backup == "soft":
                raise ConfigError(
                    'cfcql: backup is "soft", but the form for discrete actions has no twins that could disagree; '
                    'take "partial" or "policy"'
                )
            if self.backup == "partial" and not recurrent:
                self.fields = (*self.fields, "next_action")
            shape = QNetworkConfig(h, recurrent, c.last_action, c.mixer_embed, c.mixer_hidden, c.memory_relu)
            self.team = QTeam(self.init, spec, shape, "qmix")
            self.behavior = AgentNet(self.init, spec, shape)
            self.target = self.make_target(self.team)
            self.add_optimizer(q=self.team, behavior=self.behavior)
            return
        if c.target_steps == "critic" and c.target_period:
            raise ConfigError(
                f'cfcql: target_steps is "critic", but the targets are copied at every {c.target_period}-th update '
                "instead of following; set target_period to 0"
            )
        self.fields = ("obs", "state", "action", "reward", "mask", "next_obs", "next_state")
        if c.other_actions == "next" or self.backup != "policy":
            self.fields = (*self.fields, "next_action")
        n = spec.n_agents
        a = spec.action_size
        sizes = (spec.obs_size + n, h, h, a)
        self.actor = PerAgent(DeterministicActor(self.init, sizes, (n,), last_bound=3e-3, norm=c.batch_norm))
        self.q = Ensemble(self.init, (spec.state_size + n * a, h, h, 1), 2, norm=c.batch_norm)
        self.target_actor = self.make_target(self.actor)
        self.target_q = self.make_target(self.q)
        self.add_optimizer(q=self.q, policy=self.actor)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Of the agents whose next action is replaced; continuous: of the target's actions and the penalty's."""
        if self.spec.discrete:
            if self.backup == "policy":
                return {}
            return {"subset": ("uniform", (self.config.batch_size, 1, self.spec.n_agents))}
        k = self.config.samples
        one = (self.config.batch_size, self.spec.n_agents, self.spec.action_size)
        around: dict[str, tuple[Kind, tuple[int, ...]]] = {"policy": ("normal", (2, k, *one))}
        wanted = around if self.config.policy_samples else {}
        if self.backup != "policy":
            wanted = {**wanted, "subset": ("uniform", one[:-1])}
        return {"target": ("normal", one), "uniform": ("uniform", (k, *one)), **wanted}

    def prepare(self, data: Sequence[Any], batches: Iterator[Batch]) -> None:
        """Clone the behavior first, where ``behavior_updates`` says so."""
        if self.spec.discrete and self.config.behavior_updates:
            for _ in range(self.config.behavior_updates):
                self.step(behavior=self._clone_loss(as_sequences(next(batches)))[0])

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the losses, batch means and gradient norms, each [R]."""
        metrics = self._discrete(as_sequences(batch)) if self.spec.discrete else self._continuous(batch)
        return detached(metrics)

    def policy(self) -> Policy:
        """Discrete: the best legal action. Continuous: the policies' actions."""
        if self.spec.discrete:
            return self.team.agents.policy()
        return SquashedPolicy(self.actor, tanh=False, used=self.action_dimensions)

    # Discrete -------------------------------------------------------------------------------------------

    def _discrete(self, batch: Batch) -> dict[str, Tensor]:
        c = self.config
        action_mask = batch.action_mask[:, :, :-1]
        state = batch.state[:, :, :-1]
        gamma = self.hyperparameter("gamma", 3)
        trace = self.hyperparameter("td_lambda", 3)

        # 1. TD
        replaced = random_agents(batch.noise["subset"], c.replaced) if self.backup == "partial" else None
        found = team_targets(self.team, self.target, batch, gamma, trace, replaced=replaced)
        q_tot = found.total
        td_loss = 0.5 * mean_over((q_tot - found.target).square(), found.counted)
        if c.value_normalization:
            td_loss = td_loss / value_scale(q_tot, found.counted).square()

        # 2. Counterfactual values
        team = counterfactual_values(found.every[:, :, :-1], found.taken)
        c_values = self.team.total(team, state).view(action_mask.shape)
        lse = masked_logsumexp(c_values, action_mask)

        # 3. The agents' weights
        clone_loss, log_beta = self._clone_loss(batch)
        weight = agent_weights(
            c_values, log_beta, action_mask, c.agent_weights, self.hyperparameter("temperature", 4)
        )

        # 4. The step
        penalty = mean_over((weight * lse).sum(-1) - q_tot, batch.filled)
        losses = {"q": td_loss + self.hyperparameter("cql_weight") * penalty}
        if not c.behavior_updates:
            losses["behavior"] = clone_loss
        norms = self.step(**losses)
        self.hard_update(self.target, self.team, c.target_period, self.hyperparameter("tau"), "q")
        losses = {"q/loss": td_loss, "q/penalty": penalty, "behavior/loss": clone_loss}
        value = data_value(q_tot, batch.filled)
        return {**losses, "q/total": mean_over(q_tot, batch.filled), **value, **norms}

    def _clone_loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss [R] of the behavior policy, and its log probabilities without gradient, [R, B, L, N, A]."""
        logits = mask_logits(self.behavior(batch)[:, :, :-1], batch.action_mask[:, :, :-1])
        loss = -mean_over(categorical_log_prob(logits, batch.action), batch.filled)
        return loss, log_softmax(logits.detach())

    # Continuous -----------------------------------------------------------------------------------------

    def _continuous(self, batch: Batch) -> dict[str, Tensor]:
        c = self.config
        used = self.action_dimensions
        obs = with_agent_id(batch.obs)
        next_obs = with_agent_id(batch.next_obs)

        # 1. TD
        with torch.no_grad():
            value = self._next_value(batch, next_obs)
            y = batch.reward + self.hyperparameter("gamma", 2) * batch.mask * value
        q = self.q(batch.state, batch.action.flatten(-2)).squeeze(-1)
        td_loss = (q - y.unsqueeze(1)).square().mean(2).sum(1)

        # 2. Counterfactual values of sampled actions
        team, log_density = self._samples(batch, obs, next_obs)
        sampled = self.q(batch.state[:, None, :, None], team).squeeze(-1)  # [R, 2, K, B, N]
        lse = sampled_logsumexp(sampled, log_density.unsqueeze(1), dim=2)

        # 3. The critic's step
        penalty = (lse.mean(-1) - q).mean(2).sum(1)
        norms = self.step(q=td_loss + self.hyperparameter("cql_weight") * penalty)

        # 4. The policies' step
        action = self._act(self.actor, obs)
        team = counterfactual_actions(batch.action, action)
        q_own = self.q.first(batch.state.unsqueeze(2), team).squeeze(-1)
        size = action_size(action, used).mean(1).sum(-1)
        policy_loss = self.hyperparameter("action_penalty") * size - mean_over(q_own)
        due = self.due("q", c.policy_period)
        norms |= self.step_if(due, policy=policy_loss)
        tau = self.hyperparameter("tau") * (due if c.target_steps == "policy" else 1.0)
        self.hard_update(self.target_q, self.q, c.target_period, tau, "q")
        self.hard_update(self.target_actor, self.actor, c.target_period, tau, "q")
        found = {"q/loss": td_loss, "q/penalty": penalty, "policy/loss": policy_loss}
        common = data_value(q[:, 0]) | saturation(action, used)
        return {**found, "q/total": q[:, 0].mean(1), "q/target_total": y.mean(1), **common, **norms}

    def _next_value(self, batch: Batch, next_obs: Tensor) -> Tensor:
        """Value of the next step, [R, B]."""
        c = self.config
        noise = batch.noise["target"]
        std = self.hyperparameter("target_noise", 4)
        after = smoothed_action(self._act(self.target_actor, next_obs), noise, std) * self.action_dimensions
        if self.backup == "soft":
            team = all_replacements(after, batch.next_action, batch.noise["subset"])
            return soft_backup(self.target_q(batch.next_state.unsqueeze(1), team.flatten(-2)).squeeze(-1))
        if self.backup == "partial":
            after = partial_replacement(after, batch.next_action, batch.noise["subset"], c.replaced)
        value: Tensor = self.target_q(batch.next_state, after.flatten(-2)).squeeze(-1).amin(1)
        return value

    def _act(self, actor: PerAgent, obs: Tensor) -> Tensor:
        action: Tensor = actor(obs, batch=True)
        return action * self.action_dimensions

    @torch.no_grad()
    def _samples(self, batch: Batch, obs: Tensor, next_obs: Tensor) -> tuple[Tensor, Tensor]:
        """Team actions [R, K, B, N, N A] with one agent's sampled, and that sample's log density [R, K, B, N]."""
        c = self.config
        noise = batch.noise
        data = batch.action.unsqueeze(1)
        now = after = batch.action
        if c.policy_samples:
            now = self._act(self.actor, obs)
            after = self._act(self.actor, next_obs)
        std = self.hyperparameter("sample_std")
        used = self.action_dimensions
        own, density = penalty_samples(now, after, noise["uniform"], noise.get("policy"), std, used)
        if c.other_actions == "data" or not c.policy_samples:
            return counterfactual_actions(data, own), density
        here, there = torch.split_with_sizes(own, [2 * c.samples, c.samples], dim=1)
        others = batch.next_action.unsqueeze(1)
        parts = counterfactual_actions(data, here), counterfactual_actions(others, there)
        return torch.cat(parts, 1), density


@torch.no_grad()
def agent_weights(
    values: Tensor, log_beta: Tensor, action_mask: Tensor, mode: str, temperature: Tensor
) -> Tensor:
    """lambda of step 3: ``values``, ``log_beta``, ``action_mask [..., N, A] -> [..., N]``, sum 1 over the agents."""
    mu = torch.softmax(mask_logits(values, action_mask), dim=-1) + FLOOR
    ratio = mu.log() - (log_beta.exp() + FLOOR).log()
    divergence = (mu * ratio * action_mask).sum(-1)
    if mode == "uniform":
        return torch.full_like(divergence, 1.0 / divergence.shape[-1])
    if mode == "argmax":
        return one_hot(divergence.argmax(-1), divergence.shape[-1], divergence.dtype)
    return torch.softmax(temperature * divergence, dim=-1)


def counterfactual_values(values: Tensor, q: Tensor) -> Tensor:
    """The agents' values of all team actions that differ from the data's in one agent's action.

    Args:
        values: of every agent's every action, ``[..., N, A]``.
        q: of the data's actions, ``[..., N]``.

    Returns:
        ``[..., N A, N]``: entry ``(i A + j, k)`` is agent k's value when agent i alone takes action j.
    """
    n, a = values.shape[-2:]
    own = torch.eye(n, dtype=torch.bool, device=values.device).unsqueeze(1)  # [N, 1, N]
    team = torch.where(own, values.unsqueeze(-1), q[..., None, None, :])
    return team.reshape(*values.shape[:-2], n * a, n)
