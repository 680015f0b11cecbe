"""MABCQ: every agent learns alone from data of its own, correcting for the partners that it had (a reconstruction).

Jiang and Lu, "Offline Decentralized Multi-Agent Reinforcement Learning", ECAI 2023, arXiv 2108.01832. No code was
released; the two factors are the paper's, the estimators below are ours. An agent's data hold its own observations,
actions and rewards; what follows a pair (o, a) depends on the partners in its data, whose behavior P_B(o' | o, a)
makes good next states rare for some agents and not for others. Both factors change that distribution:

    value deviation          λ_vd = 1 + (V(o') - M) / |M|,   M(o, a) = E_{P_B} V(o')        partners will improve, too
    transition normalization λ_tn = 1 / P_B(o' | o, a)                                     all agents see one world

Learning is BCQ's (:mod:`marlzoo.baselines.bcq_ma`), per agent and without mixer, with the loss of Q weighted:

1. behavior: continuous a VAE of (a | o), discrete a clone mu with the allowed actions mu(a | o) >= threshold max mu
2. V(o')   = mask max_k [3/4 min_j Q̄^j + 1/4 max_j Q̄^j](o', a'_k), ten a'_k perturbed samples of the VAE
             (discrete: Q̄(o', the best allowed action of Q));    L_M = mean (M(o, a) - V(o'))^2
3. density:  ``density = "vae"``: a VAE p(o' - o | o, a) trained by its evidence bound; log p is the mean over
             ``density_samples`` importance-weighted latents, 1 / P_B is exp(batch mean - log p) within [1/5, 5]
             ``density = "counts"``: of equal rows of the batch, for observations that repeat exactly
4. weights: w = max(0, 1 + d (V - M) / (|M| + std(V) / 100)) P_B^-t, divided by their batch mean, then kept within
             [``weight_min``, ``weight_max``]; d = ``deviation`` and t = ``normalization``, 0 switches a factor off
5. Q:        L_Q = sum_j mean w (Q^j(o, a) - r - gamma V(o'))^2
6. policy (continuous): the perturbation maximizes Q^1.

λ_vd depends on the zero of value: with values of either sign, ``reward_shift`` adds a constant to every reward so
that they are positive where possible. Nothing that another agent saw or did is read, so that agents' columns may
come from different episodes (data of quality ``decentralized``); tables keep such learners apart from methods with
centralized training only by this text. Gradients are not clipped by default: a bound would be on the agents' norm.

Departures where the paper is silent: M is learned by regression where it could be taken from Q; λ_vd is clipped at 0;
weights are normalized per batch and clipped, which leaves the fixed point of an (o, a) as it is but for the clipping.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import MLP_TRANSITIONS, Config, Count, Fraction, NonNegative, Positive
from marlzoo.errors import ConfigError
from marlzoo.modules.critics import Ensemble
from marlzoo.modules.layers import MLP, PerAgent, chosen, one_hot, with_agent_id
from marlzoo.modules.policies import LOG_STD_BOUNDS, Policy, categorical_log_prob, mask_logits
from marlzoo.objectives import (
    LOG_2PI,
    TargetMemory,
    action_error,
    data_value,
    detached,
    double_q,
    effective_sample_size,
    gaussian_kl,
    mean_over,
    soft_minimum,
)
from marlzoo.replicas import Kind
from marlzoo.spec import Spec

from ._bcq import (
    LATENT_BOUND,
    VAE,
    BestAllowed,
    BestSample,
    Pair,
    Perturbation,
    allowed_actions,
)

LOG_RATIO = math.log(5.0)  # bound on the learned log density's distance from its batch mean


@dataclass(frozen=True)
class MABCQConfig(Config):
    """Settings of MABCQ; where the paper is silent they are those of BCQ."""

    deviation: NonNegative = 1.0  # strength d of the value deviation (0: off)
    normalization: Fraction = 1.0  # strength t of the transition normalization (0: off)
    density: Literal["vae", "counts"] = "vae"  # how probable next observations are: learned, or counted
    density_samples: Count = 16  # latents of the learned density's estimate
    weight_min: NonNegative = 0.2  # least weight of a transition
    weight_max: Positive = 5.0  # largest weight of a transition
    reward_shift: float = 0.0  # added to every reward
    phi: NonNegative = 0.05  # largest perturbation of a decoded action (continuous)
    target_samples: Count = 10  # actions that the target's maximum is taken over (continuous)
    eval_samples: Count = 10  # actions that the deployed policy chooses from (continuous)
    min_weight: Fraction = 0.75  # weight of the twins' minimum in the target (continuous)
    threshold: Fraction = 0.3  # least probability of an allowed action, relative to the largest (discrete)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of all hidden layers
    lr: Positive = 1e-3  # step size of Adam


class MABCQ(Algorithm):
    """MABCQ for continuous and discrete actions, reconstructed; see the module's text."""

    config: MABCQConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = MABCQConfig
    actions = ("continuous", "discrete")
    unread = ("sequence_length", "memory_relu", "bound_margin")
    fields = ("obs", "next_obs", "action", "agent_reward", "mask", "action_mask", "next_action_mask")
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": MLP_TRANSITIONS,
        "games": {"hidden": 64, "density": "counts", "batch_size": 256},
    }
    variants: ClassVar = {
        "continuous": ({"density": "counts", "deviation": 0.5},),
        "discrete": ({"density": "counts", "normalization": 0.5},),
    }

    def build(self, spec: Spec) -> None:
        """Per agent: behavior, twin Q (discrete: one per action), M, density; continuous: perturbation."""
        c = self.config
        if c.batch_size < 2:
            raise ConfigError(
                f"{self.name}: batch_size is {c.batch_size}, but weights compare the transitions of a batch; take at "
                "least two"
            )
        n = spec.n_agents
        a = spec.action_size
        n_in = spec.obs_size + n

        def network(*sizes: int) -> PerAgent:
            return PerAgent(MLP(self.init, (sizes[0], c.hidden, c.hidden, sizes[1]), stack=(n,)))

        groups: dict[str, Any]
        if spec.discrete:
            self.clone = network(n_in, a)
            self.action_q = network(n_in, a)
            self.target_action_q = self.make_target(self.action_q)
            groups = {"q": self.action_q, "behavior": self.clone}
        else:
            self.vae = VAE(self.init, n_in, a, c.hidden, 2 * a, agents=n)
            self.perturb = Perturbation(network(n_in + a, a), self.hyperparameter("phi"))
            self.q = Ensemble(self.init, (n_in + a, c.hidden, c.hidden, 1), agents=n)
            self.target_q = self.make_target(self.q)
            self.target_perturb = self.make_target(self.perturb)
            groups = {"policy": self.perturb, "q": self.q, "behavior": self.vae}
        self.mean = network(n_in + a, 1)
        groups["mean"] = self.mean
        if c.density == "vae":
            o = spec.obs_size
            self.world = VAE(self.init, n_in + a, o, c.hidden, 2 * o, agents=n, n_out=2 * o)
            groups["density"] = self.world
        self.add_optimizer(**groups)
        sizes = torch.tensor(spec.obs_sizes).unsqueeze(-1)
        self.observed = (torch.arange(spec.obs_size).unsqueeze(0) < sizes).to(self.device, self.dtype)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Latents: of the encoders, of the target's samples, of the policy's, and of the density's estimate."""
        c = self.config
        team = (c.batch_size, self.spec.n_agents)
        found: dict[str, tuple[Kind, tuple[int, ...]]] = {}
        if not self.spec.discrete:
            one = (*team, self.vae.n_latent)
            found = dict.fromkeys(("encode", "policy"), ("normal", one))
            found["target"] = ("normal", (c.target_samples, *one))
        if c.density == "vae":
            one = (*team, self.world.n_latent)
            found["world"] = ("normal", one)
            found["density"] = ("normal", (c.density_samples, *one))
        return found

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all losses; metrics: see the module's text, and the gradient norms."""
        c = self.config
        obs = with_agent_id(batch.obs)
        action = batch.action
        if self.spec.discrete:
            action = one_hot(action, self.spec.action_size, obs.dtype)

        # 1. Behavior
        losses = {"behavior": self._behavior_loss(obs, batch)}

        # 2. V and its mean M under the data's partners
        with torch.no_grad():
            v_next = batch.mask.unsqueeze(-1) * self._next_value(batch)  # [R, B, N]
        expected = self.mean(obs, action).squeeze(-1)
        losses["mean"] = mean_over((expected - v_next).square())

        # 3. Density
        if c.density == "vae":
            change = (batch.next_obs - batch.obs) * self.observed
            losses["density"] = self._density_loss(obs, action, change, batch.noise["world"])
            log_density = self._log_density(obs, action, change, batch.noise["density"])
        else:
            log_density = _counted(torch.cat((batch.obs, action), -1), batch.next_obs)

        # 4. Weights
        weight, size = self._weights(v_next, expected.detach(), log_density)

        # 5. Q
        y = batch.agent_reward + self.hyperparameter("reward_shift", 3)
        y = y + self.hyperparameter("gamma", 3) * v_next
        if self.memory is not None:
            y = self.memory.lift(y, batch)
        taken = self._taken(obs, batch)  # [R, K, B, N]
        error = (taken - y.unsqueeze(1)).square()
        losses["q"] = mean_over((weight.unsqueeze(1) * error).sum(1))

        # 6. Policy
        if not self.spec.discrete:
            losses["policy"] = self._policy_loss(obs, batch)

        norms = self.step(**losses)
        self._update_targets(self.hyperparameter("tau"))
        metrics = {f"{name}/loss": loss for name, loss in losses.items()}
        metrics |= {"mean/next_value": mean_over(v_next), "mean/deviation": mean_over(size)}
        return detached(metrics) | data_value(taken[:, 0]) | effective_sample_size(weight) | norms

    def policy(self) -> Policy:
        """Decentralized: continuous the best of many samples, discrete the best allowed action."""
        if not self.spec.discrete:
            samples = self.config.eval_samples
            return BestSample(self.vae, self.perturb, self.q, self.action_dimensions, samples)
        return BestAllowed(Pair(self.action_q, self.clone), self.hyperparameter("threshold"))

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        return self._taken(with_agent_id(batch.obs), batch).amin(1)

    # BCQ ------------------------------------------------------------------------------------------------

    def _update_targets(self, tau: Tensor) -> None:
        if self.spec.discrete:
            self.soft_update(self.target_action_q, self.action_q, tau)
            return
        self.soft_update(self.target_q, self.q, tau)
        self.soft_update(self.target_perturb, self.perturb, tau)

    def _behavior_loss(self, obs: Tensor, batch: Batch) -> Tensor:
        if self.spec.discrete:
            logits = mask_logits(self.clone(obs), batch.action_mask)
            return -mean_over(categorical_log_prob(logits, batch.action))
        copied, mean, log_std = self.vae(obs, batch.action, batch.noise["encode"])
        error = action_error(copied, batch.action, self.action_dimensions)
        return mean_over(error) + 0.5 * mean_over(gaussian_kl(mean, log_std).mean(-1))

    def _next_value(self, batch: Batch) -> Tensor:
        """The target's value of the best action that the behavior allows, ``[R, B, N]``."""
        obs = with_agent_id(batch.next_obs)
        if self.spec.discrete:
            threshold = self.hyperparameter("threshold", 4)
            allowed = allowed_actions(self.clone(obs), batch.next_action_mask, threshold)
            return double_q(self.action_q(obs), self.target_action_q(obs), allowed)
        many = obs.unsqueeze(1)
        latent = batch.noise["target"].clamp(-LATENT_BOUND, LATENT_BOUND)
        sampled = self.target_perturb(many, self.vae.decode(many, latent)) * self.action_dimensions
        values = self.target_q(many, sampled).squeeze(-1)
        return soft_minimum(values, self.hyperparameter("min_weight", 4)).amax(1)

    def _taken(self, obs: Tensor, batch: Batch) -> Tensor:
        """Values of the data's actions, ``[R, K, B, N]``."""
        if self.spec.discrete:
            return chosen(self.action_q(obs), batch.action).unsqueeze(1)
        values: Tensor = self.q(obs, batch.action)
        return values.squeeze(-1)

    def _policy_loss(self, obs: Tensor, batch: Batch) -> Tensor:
        with torch.no_grad():
            decoded = self.vae.decode(obs, batch.noise["policy"].clamp(-LATENT_BOUND, LATENT_BOUND))
        perturbed = self.perturb(obs, decoded) * self.action_dimensions
        return -mean_over(self.q.first(obs, perturbed).squeeze(-1))

    # The partners ---------------------------------------------------------------------------------------

    def _weights(self, v_next: Tensor, expected: Tensor, log_density: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of all transitions ``[R, B, N]``, each agent's by itself; and the size of the deviation."""
        c = self.hyperparameter
        guard = 0.01 * v_next.std(1, keepdim=True)  # M may be close to 0
        relative = (v_next - expected) / (expected.abs() + guard).clamp_min(1e-8)
        factor = (1.0 + c("deviation", 3) * relative).clamp_min(0.0)
        weight = factor * torch.exp(-c("normalization", 3) * log_density)
        weight = weight / weight.mean(1, keepdim=True).clamp_min(1e-8)
        return torch.maximum(torch.minimum(weight, c("weight_max", 3)), c("weight_min", 3)), relative.abs()

    def _density_loss(self, obs: Tensor, action: Tensor, change: Tensor, noise: Tensor) -> Tensor:
        """Negative evidence bound, per observed entry."""
        condition = torch.cat((obs, action), -1)
        mean, log_std = self.world.encode(condition, change)
        decoded = self.world.decoder(condition, mean + log_std.exp() * noise)
        log_p = self._log_normal(decoded, change)
        bound = log_p - gaussian_kl(mean, log_std).sum(-1)
        return -mean_over(bound / self.observed.sum(-1))

    @torch.no_grad()
    def _log_density(self, obs: Tensor, action: Tensor, change: Tensor, noise: Tensor) -> Tensor:
        """Log density of what followed, minus its batch mean and bounded, ``[R, B, N]``."""
        condition = torch.cat((obs, action), -1)
        mean, log_std = self.world.encode(condition, change)
        latent = mean.unsqueeze(1) + log_std.exp().unsqueeze(1) * noise
        decoded = self.world.decoder(condition.unsqueeze(1), latent)
        many = self._log_normal(decoded, change.unsqueeze(1))
        prior = -0.5 * latent.square().sum(-1)
        proposal = (-0.5 * noise.square() - log_std.unsqueeze(1)).sum(-1)
        log_p = torch.logsumexp(many + prior - proposal, dim=1) - math.log(noise.shape[1])
        return (log_p - log_p.mean(1, keepdim=True)).clamp(-LOG_RATIO, LOG_RATIO)

    def _log_normal(self, output: Tensor, x: Tensor) -> Tensor:
        """Log density of ``x [..., O]`` under the Gaussian ``output [..., 2 O]``, observed entries only."""
        mean, log_std = output.chunk(2, dim=-1)
        log_std = log_std.clamp(*LOG_STD_BOUNDS)
        standard = (x - mean) * torch.exp(-log_std)
        log_p = -0.5 * standard.square() - log_std - 0.5 * LOG_2PI
        return (log_p * self.observed).sum(-1)


@torch.no_grad()
def _counted(condition: Tensor, next_obs: Tensor) -> Tensor:
    """Log share of ``next_obs`` among the batch's rows of the same ``condition``, ``[R, B, N, .] -> [R, B, N]``."""
    same = (condition.unsqueeze(2) == condition.unsqueeze(1)).all(-1)  # [R, B, B, N]
    both = same & (next_obs.unsqueeze(2) == next_obs.unsqueeze(1)).all(-1)
    dtype = condition.dtype
    return torch.log(both.sum(2).to(dtype)) - torch.log(same.sum(2).to(dtype))
