"""OMAR: offline multi-agent RL with actor rectification.

Pan, Huang, Ma, Xu, "Plan Better Amid Conservatism: Offline Multi-Agent Reinforcement Learning with Actor
Rectification", ICML 2022, arXiv 2111.11188. Every agent learns alone, from its own observation, action and reward.
Its policy is pulled towards the best action that a search under its conservative critic finds, since the critic's
gradient alone gets stuck. A bar is a target network:

Continuous, deterministic policy and twin critics per agent:

1. target:  y    = r_i + gamma mask min_j Q̄_j(o', pī(o'))
2. critics: L_Q  = sum_j [mean (Q_j(o, a) - y)^2 + cql_alpha C_j]
            C_j  = mean [log sum_k exp(Q_j(o, a_k) - l_k) - Q_j(o, a)], ten a_k each: uniform; clip(pi(o) + eps);
            clip(pi(o') + eps); eps ~ N(0, 0.2^2); l_k their log densities
3. search:  â    = the better, under Q_1, of pi(o) and the best action found by the cross-entropy method
4. policy:  L_pi = c mean (pi(o) - â)^2 - (1 - c) mean Q_1(o, pi(o)) + 1e-3 mean pi(o)^2

The critics step first, then the policy with the same batch; the targets follow with rate tau.

Discrete, after the paper's experiment on StarCraft II, of which no code was published: Q with double Q-learning and
the exact penalty over legal actions, a softmax policy over legal actions, â = argmax over legal actions of Q(o):

4. policy:  L_pi = -mean [c log pi(â | o) + (1 - c) sum_a pi(a | o) Q(o, a)]

``mixed = True`` is the form of the OMIGA and ComaDICE comparisons: agents share their networks, and steps 1 and 2 fit
``Q_tot = sum_i w_i(s) Q_i + b(s)`` to the team's reward, with w_i Q_i in the penalty (discrete: QMIX, and Q_i there).

c and cql_alpha are tuned per dataset by the authors, for random, medium-replay, medium, expert: HalfCheetah (1, 1),
(.9, 5), (.7, 1), (.5, 5); spread (1, .5), (1, 1), (1, 5), (1, 5); tag (.9, .5), (.9, .5), (.7, 5), (.9, 5); world
(1, .5), (.7, 1), (.1, .5), (.9, 5).

With ``prioritize = "joint_action"`` (PJAP, arXiv 2407.01343; continuous actions) an update learns from rows whose
joint action lies near the target policies', chosen as in ``maddpg_cql``.

Departures from published code, and the option that restores it:

* The authors subtract the density of their noisy samples, not its logarithm; not offered.
* Inputs are not normalized: ``input_norm = "batch"``. The authors normalize the critics' input, action included, by
  the statistics of whatever batch they judge (each class of the penalty's actions, each round of the search and the
  policy's actions apart), so that a policy's own actions and the search's are judged on different
  scales, and what a policy's actions have in common is subtracted before the critic sees it.
* gamma is what it says. The authors' HalfCheetah runs set .99 and train with .95: ``gamma = 0.95``.
* an update is one step of every network. Theirs come once in 100 of what they call steps (HalfCheetah: in 10).
* All agents learn from the same rows of the data and are clipped together; theirs draw and clip for themselves.
* ComaDICE's shared form draws every round of the search from the first round's distribution, and its policy is
  stochastic; neither is offered.
* c and cql_alpha of the SMAC presets are those of CFCQL's port (0.5 and 5). Discrete ports weigh log pi of the data's
  action by its advantage: ``policy_gradient = "coma"``; pull by squared error: ``imitation = "mse"``; search among
  illegal actions too or count padding; not offered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, row_fields, team_fields
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
from marlzoo.modules.critics import Ensemble, best_of
from marlzoo.modules.layers import chosen, for_agents, one_hot, with_agent_id
from marlzoo.modules.policies import Policy, SquashedPolicy, log_softmax, mask_logits
from marlzoo.modules.teams import AgentNet, DeterministicActor, LinearMixer, QNetworkConfig, QTeam
from marlzoo.objectives import (
    TargetMemory,
    action_error,
    action_size,
    data_likelihood,
    data_value,
    detached,
    logged_value,
    masked_logsumexp,
    mean_over,
    near_rows,
    penalty_samples,
    require_continuous,
    sampled_logsumexp,
    saturation,
    team_targets,
)
from marlzoo.replicas import Kind
from marlzoo.spec import Spec


@dataclass(frozen=True)
class OMARConfig(Config):
    """Settings of OMAR; the defaults are the authors' for HalfCheetah."""

    omar_coe: Fraction = 0.7  # c, weight of the search against the gradient
    cql_alpha: NonNegative = 1.0  # weight of the conservative penalty
    cql_samples: Count = 10  # actions of each class in the penalty (continuous)
    policy_samples: bool = True  # sample around the policy's actions too, not only uniformly (continuous)
    cql_sigma: Positive = 0.2  # spread of those samples (continuous)
    search: Literal["cem", "softmax"] = "cem"  # elites, or means weighted by softmax(Q) (continuous)
    search_rounds: Count = 2  # rounds of the search (continuous)
    search_samples: Count = 20  # actions per round (continuous)
    search_elites: Count = 5  # elites of "cem" (continuous)
    search_std: Positive = 2.0  # spread of the first round (continuous)
    action_penalty: NonNegative = 1e-3  # weight of the policy's mean squared action (continuous)
    input_norm: Literal["none", "batch"] = "none"  # batch: normalize inputs by batch statistics (continuous)
    mixed: bool = False  # fit one team value: linear mixer (continuous) or QMIX (discrete)
    imitation: Literal["nll", "mse"] = "nll"  # how the policy is pulled towards â (discrete)
    policy_gradient: Literal["expected", "coma"] = "expected"  # over all actions, or of the data's (discrete)
    history: Literal["mlp", "rnn"] = "mlp"  # act on the observation, or on the episode so far (discrete)
    target_period: Natural = 0  # updates between copies of the targets; 0: follow with rate tau (discrete)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of the hidden layers
    mixer_hidden: Count = 64  # width of the mixer's hidden layer
    lr: Positive = 3e-4  # step size of Adam
    grad_clip: Positive = 0.5  # bound on the gradient norm of critics and of policies
    batch_size: Count = 256  # transitions (or sequences) per update and replica
    prioritize: Literal["uniform", "joint_action"] = field(
        default="uniform", metadata=ASSIGNED_LATER
    )  # which rows to learn from (continuous)
    steepness: NonNegative = field(default=4.0, metadata=ASSIGNED_LATER)  # k of the priorities (joint_action)
    candidates: Count = field(
        default=8, metadata=ASSIGNED_LATER
    )  # rows that each is chosen from (joint_action)


class OMAR(Algorithm):
    """OMAR for continuous (deterministic) and discrete (categorical) actions; see the module's text."""

    config: OMARConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = OMARConfig
    actions = ("continuous", "discrete")
    unread = ("bound_margin",)
    _mpe: ClassVar = {"search": "softmax", "search_rounds": 3, "search_samples": 10, "policy_samples": False}
    _smac: ClassVar = {"omar_coe": 0.5, "cql_alpha": 5.0, "mixed": True}
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {**_mpe, "lr": 0.01, "hidden": 64, "batch_size": 1024, "tau": 0.01, "gamma": 0.95},
        "smac": {**_smac, **MLP_TRANSITIONS},
        "smac-recurrent": {**_smac, **RECURRENT_SEQUENCES},
    }
    variants: ClassVar = {
        "continuous": (
            {"search": "softmax", "policy_samples": False, "input_norm": "batch"},
            {"mixed": True, "prioritize": "joint_action", "candidates": 2},
        ),
        "discrete": (
            {"mixed": True, "imitation": "mse", "policy_gradient": "coma", "target_period": 3},
            {"history": "rnn", "sequence_length": 6},
        ),
    }

    def build(self, spec: Spec) -> None:
        """Policy and critics, a mixer where one is asked for, and the targets."""
        c = self.config
        h = c.hidden
        n_in = spec.obs_size + spec.n_agents
        n_out = spec.action_size
        require_continuous(self.name, c.prioritize, spec)
        if c.search == "cem" and c.search_elites > c.search_samples:
            raise ConfigError(
                f"omar: search_elites is {c.search_elites}, more than search_samples, {c.search_samples}"
            )
        if spec.discrete:
            recurrent = c.history == "rnn"
            self.sampling = "sequence" if recurrent else "transition"
            self.fields = team_fields(recurrent, c.mixed)
            shape = QNetworkConfig(h, recurrent, hyper=c.mixer_hidden, relu=c.memory_relu)
            self.actor_net = AgentNet(self.init, spec, shape)
            self.team = QTeam(self.init, spec, shape, "qmix" if c.mixed else None)
            self.target_team = self.make_target(self.team)
            self.add_optimizer(policy=self.actor_net, critic=self.team)
            return
        own = 0 if c.mixed else spec.n_agents
        norm = c.input_norm == "batch"
        team = ("reward", "state") if c.mixed else ("agent_reward",)
        self.fields = row_fields(False, "obs", "action", "mask", *team)
        sizes = (n_in, h, h, n_out)
        self.actor = for_agents(lambda stack: DeterministicActor(self.init, sizes, stack, 3e-3, norm), own)
        self.q = Ensemble(self.init, (n_in + n_out, h, h, 1), agents=own, norm=norm)
        self.target_actor = self.make_target(self.actor)
        self.target_q = self.make_target(self.q)
        self.mixer: LinearMixer | None = None
        self.target_mixer: LinearMixer | None = None
        critic: tuple[nn.Module, ...] = (self.q,)
        if c.mixed:
            self.mixer = LinearMixer(self.init, spec.state_size, c.mixer_hidden, spec.n_agents)
            self.target_mixer = self.make_target(self.mixer)
            critic = (self.q, self.mixer)
        self.add_optimizer(policy=self.actor, critic=critic)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Continuous: of the penalty's and of the search's actions."""
        if self.spec.discrete:
            return {}
        c = self.config
        one = (c.batch_size, self.spec.n_agents, self.spec.action_size)
        around: dict[str, tuple[Kind, tuple[int, ...]]] = {"normal": ("normal", (2, c.cql_samples, *one))}
        return {
            "uniform": ("uniform", (c.cql_samples, *one)),
            "search": ("normal", (c.search_rounds, c.search_samples, *one)),
            **(around if c.policy_samples else {}),
            **({"row": ("uniform", (c.batch_size,))} if c.prioritize == "joint_action" else {}),
        }

    @property
    def batch_rows(self) -> int:
        """Rows that an update learns from, or chooses them from."""
        c = self.config
        return c.batch_size * (c.candidates if c.prioritize == "joint_action" else 1)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of critics and policy; metrics are the losses, means and gradient norms, each [R]."""
        if self.spec.discrete:
            return self._discrete(as_sequences(batch))
        nearness: dict[str, Tensor] = {}
        if self.config.prioritize == "joint_action":
            team = self.target_actor(with_agent_id(batch.obs), batch=True)
            batch, nearness = near_rows(
                batch, team, self.action_dimensions, self.hyperparameter("steepness", 2)
            )
        return self._continuous(batch) | nearness

    def policy(self) -> Policy:
        """Continuous: the network's output. Discrete: the most probable legal action."""
        if self.spec.discrete:
            return self.actor_net.policy()
        return SquashedPolicy(self.actor, tanh=False, used=self.action_dimensions)

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        if self.spec.discrete:
            return logged_value(self.team, batch)
        q: Tensor = self.q(with_agent_id(batch.obs), batch.action).squeeze(-1)
        if self.mixer is not None:
            w, b = self.mixer.coefficients(batch.state)
            q = (w.unsqueeze(1) * q).sum(-1, keepdim=True) + b[:, None, :, None]
        return q.amin(1)

    def _continuous(self, batch: Batch) -> dict[str, Tensor]:
        used = self.action_dimensions
        obs = with_agent_id(batch.obs)
        next_obs = with_agent_id(batch.next_obs)
        action = self.actor(obs, batch=True) * used

        # 1. Target
        with torch.no_grad():
            after = self.target_actor(next_obs, batch=True) * used
            q_after = self.target_q(next_obs, after).squeeze(-1).amin(1)
            gamma = self.hyperparameter("gamma", 2) * batch.mask
            if self.target_mixer is None:
                y = batch.agent_reward + gamma.unsqueeze(-1) * q_after
            else:
                y = (batch.reward + gamma * self.target_mixer(q_after, batch.next_state)).unsqueeze(-1)
            if self.memory is not None:
                y = self.memory.lift(y, batch)

        # 2. Critics
        q = self.q(obs, batch.action).squeeze(-1)  # [R, 2, B, N]
        samples, density = self._samples(action, next_obs, batch.noise)
        judged = [self.q(obs.unsqueeze(1), part) for part in self._judged(samples)]
        q_sampled = torch.cat(judged, 2).squeeze(-1)  # [R, 2, K, B, N]
        fitted = q
        if self.mixer is not None:
            w, b = self.mixer.coefficients(batch.state)
            q = w.unsqueeze(1) * q
            q_sampled = w[:, None, None] * q_sampled
            fitted = q.sum(-1, keepdim=True) + b[:, None, :, None]
        td = mean_over((fitted - y.unsqueeze(1)).square().sum((1, 3)))
        lse = sampled_logsumexp(q_sampled, density.unsqueeze(1), dim=2)
        penalty = mean_over((lse - q).sum((1, 3)))
        norms = self.step(critic=td + self.hyperparameter("cql_alpha") * penalty)

        # 3. Search
        value = self.q.first(obs, action).squeeze(-1)
        best, best_value = self._search(obs, batch.noise["search"])
        found = torch.where((best_value > value.detach()).unsqueeze(-1), best, action.detach())

        # 4. Policy
        coe = self.hyperparameter("omar_coe", 3)
        size = action_size(action, used)
        pull = coe * action_error(action, found, used) - (1.0 - coe) * value
        policy_loss = mean_over(pull + self.hyperparameter("action_penalty", 3) * size)
        norms |= self.step(policy=policy_loss)
        self._update_targets()
        losses = {"critic/loss": td, "critic/penalty": penalty, "policy/loss": policy_loss}
        means = {"critic/mean": mean_over(fitted[:, 0]), "critic/target": mean_over(y)}
        common = data_value(fitted[:, 0]) | saturation(action, used)
        return detached(losses | means) | common | norms

    def _update_targets(self) -> None:
        tau = self.hyperparameter("tau")
        self.soft_update(self.target_actor, self.actor, tau)
        self.soft_update(self.target_q, self.q, tau)
        if self.mixer is not None and self.target_mixer is not None:
            self.soft_update(self.target_mixer, self.mixer, tau)

    @torch.no_grad()
    def _samples(self, action: Tensor, next_obs: Tensor, noise: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The penalty's actions ``[R, K, B, N, A]`` and the log densities they are drawn with, ``[R, K, B, N]``."""
        used = self.action_dimensions
        next_action = self.actor(next_obs, batch=True) * used
        normal = noise["normal"] if self.config.policy_samples else None
        sigma = self.hyperparameter("cql_sigma")
        return penalty_samples(action.detach(), next_action, noise["uniform"], normal, sigma, used)

    def _judged(self, samples: Tensor) -> tuple[Tensor, ...]:
        """The penalty's actions ``[R, K, ...]`` as the critics judge them: each class apart with batch norm."""
        if self.config.input_norm == "batch":
            return torch.split(samples, self.config.cql_samples, dim=1)
        return (samples,)

    @torch.no_grad()
    def _search(self, obs: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The best action found ``[R, B, N, A]`` and its value under Q_1 ``[R, B, N]``."""
        c = self.config
        used = self.action_dimensions
        many = obs.unsqueeze(1)

        def score(candidates: Tensor) -> Tensor:
            return self.q.first(many, candidates * used).squeeze(-1)

        std = self.hyperparameter("search_std", 5)
        if c.search == "cem":
            best, value = cross_entropy_search(score, noise, c.search_elites, std)
        else:
            best, value = softmax_search(score, noise, std)
        return best * used, value

    def _discrete(self, batch: Batch) -> dict[str, Tensor]:
        c = self.config
        filled = batch.filled
        action_mask = batch.action_mask[:, :, :-1]

        # 1. and 2. Critic
        q = team_targets(
            self.team, self.target_team, batch, self.hyperparameter("gamma", 3), memory=self.memory
        )
        td = mean_over((q.total - q.target).square(), filled)
        penalty = mean_over(masked_logsumexp(q.every[:, :, :-1], action_mask) - q.taken, filled)
        norms = self.step(critic=td + self.hyperparameter("cql_alpha") * penalty)

        # 3. and 4. Search and policy
        with torch.no_grad():
            values = self.team(batch)[:, :, :-1]
            found = mask_logits(values, action_mask).argmax(-1)
        log_pi = log_softmax(self.actor_net(batch)[:, :, :-1], action_mask)
        expected = (log_pi.exp() * values).sum(-1)
        gain = expected
        if c.policy_gradient == "coma":
            gain = chosen(log_pi, batch.action) * (chosen(values, batch.action) - expected.detach())
        pull = -chosen(log_pi, found)
        if c.imitation == "mse":
            pull = (log_pi.exp() - one_hot(found, values.shape[-1], values.dtype)).square().mean(-1)
        coe = self.hyperparameter("omar_coe", 4)
        policy_loss = mean_over(coe * pull - (1.0 - coe) * gain, filled)
        norms |= self.step(policy=policy_loss)
        self.hard_update(self.target_team, self.team, c.target_period, self.hyperparameter("tau"), "critic")
        losses = {"critic/loss": td, "critic/penalty": penalty, "policy/loss": policy_loss}
        means = {"critic/mean": mean_over(q.total, filled), "critic/target": mean_over(q.target, filled)}
        common = data_value(q.total, filled)
        common |= data_likelihood(chosen(log_pi, batch.action), filled)
        return detached(losses | means) | common | norms


Score = Callable[[Tensor], Tensor]  # values of candidates


@torch.no_grad()
def cross_entropy_search(
    score: Score, noise: Tensor, elites: int, std: Tensor | float = 2.0, min_std: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Maximize ``score`` over the box by the cross-entropy method; from zero mean.

    From the second round on the previous elites compete too, so the best candidate never gets worse.

    Args:
        score: ``[R, K, ..., A] -> [R, K, ...]`` value of candidates.
        noise: ``[R, rounds, K, ..., A]`` standard normal.
        elites: candidates that the next mean and (unbiased) standard deviation are taken from.
        std: of the first round, a number or ``[R, 1, ...]`` with the candidates' axes.
        min_std: added to the standard deviation, which elites that agree would make zero.

    Returns:
        The best candidate, ``[R, ..., A]``, and its value in the round that drew it, ``[R, ...]``.
    """
    rounds = noise.unbind(1)
    candidates = (std * rounds[0]).clamp(-1.0, 1.0)
    value = score(candidates)
    for drawn in rounds[1:]:
        top, index = value.topk(elites, dim=1)
        kept = candidates.gather(1, index.unsqueeze(-1).expand(*index.shape, candidates.shape[-1]))
        spread, mean = torch.std_mean(kept, dim=1, keepdim=True)
        fresh = (mean + (spread + min_std) * drawn).clamp(-1.0, 1.0)
        candidates = torch.cat((fresh, kept), dim=1)
        value = torch.cat((score(fresh), top), dim=1)
    return best_of(candidates, value), value.amax(1)


@torch.no_grad()
def softmax_search(
    score: Score, noise: Tensor, std: Tensor | float = 2.0, min_std: float = 1e-6
) -> tuple[Tensor, Tensor]:
    """Maximize ``score`` over the box by softmax-weighted means; from zero mean.

    Every round moves the mean to the samples' mean weighted by ``softmax(score)`` and takes as standard deviation
    the root of the samples' unweighted mean squared distance from it.

    Args:
        score: ``[R, K, ..., A] -> [R, K, ...]`` value of candidates.
        noise: ``[R, rounds, K, ..., A]`` standard normal.
        std: of the first round, a number or ``[R, 1, ...]`` with the candidates' axes.
        min_std: added to the standard deviation.

    Returns:
        The best candidate of the last round, ``[R, ..., A]``, and its value, ``[R, ...]``.
    """
    mean = torch.zeros_like(noise[:, 0, :1])
    spread = mean + std
    for drawn in noise.unbind(1):
        candidates = (mean + spread * drawn).clamp(-1.0, 1.0)
        value = score(candidates)
        mean, spread = softmax_moments(candidates, value)
        spread = spread + min_std
    return best_of(candidates, value), value.amax(1)


def softmax_moments(candidates: Tensor, score: Tensor) -> tuple[Tensor, Tensor]:
    """Softmax-weighted mean ``[R, 1, ..., A]`` of ``candidates [R, K, ..., A]`` and their spread around it."""
    weight = torch.softmax(score, dim=1).unsqueeze(-1)
    mean = (weight * candidates).sum(1, keepdim=True)
    return mean, (candidates - mean).square().mean(1, keepdim=True).sqrt()
