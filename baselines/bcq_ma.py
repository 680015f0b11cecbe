"""BCQ-MA: batch-constrained Q-learning on mixed values, a baseline of the ICQ and OMIGA papers.

Fujimoto, Meger, Precup, "Off-Policy Deep Reinforcement Learning without Exploration", ICML 2019, arXiv 1812.02900;
its discrete form: Fujimoto et al., arXiv 1910.01708. Agents share their networks (inputs carry their one-hot number,
written o_i); a bar is a target network.

Continuous, with ``Q_tot = sum_i w_i(s) Q_i + b(s)``, ``w_i >= 0``, and a perturbation
``xi(o, a) = clip(a + phi tanh f(o, a), -1, 1)``:

1. VAE:     L_V  = mean (decode(o_i, z) - a_i)^2 + 1/2 KL(z | N(0, 1)), z from encode(o_i, a_i)
2. Q:       y    = r + gamma mask (sum_i w̄_i(s') max_k [3/4 min_j Q̄^j_i + 1/4 max_j Q̄^j_i](o'_i, a'_ik) + b̄(s'))
            a'_ik = xī(o'_i, decode(o'_i, z_k)), ten z_k ~ N(0, 1) clipped to [-1/2, 1/2]
            L_Q  = sum_j mean (Q^j_tot - y)^2
3. policy:  L_xi = -mean Q^1_i(o_i, xi(o_i, decode(o_i, z)))
Acting: the best by Q^1 of 100 perturbed samples of the decoder, each agent for itself.

Discrete, with a cloned policy mu (softmax over legal actions) and ``mixer`` qmix, vdn or none (own rewards):

1. clone:   L_mu = -mean log mu(a_i | o_i)
2. Q:       allowed(o) = {a: mu(a | o) >= threshold max_a mu(a | o)},   a*_i = argmax over allowed(o'_i) of Q(o'_i)
            L_Q  = 1/2 mean (Q_tot(a) - r - gamma mask Q̄_tot(a*))^2,   targets copied every 200 updates
Acting: the best allowed action.

Where the decoder can tell the action from the observation alone, the latent carries nothing: on Hopper's data the
divergence (metric ``vae/kl``) falls below 1e-3 nats, and the method is cloning by squared error with a choice among
nearly equal actions. There it leads because the methods beside it fit likelihoods to actions on the box's bounds
(results/studies/bound_actions), not because it constrains Q; a table of such data has to say so.

All losses are taken before any step. Departures from released code, and the option that restores it:

* ComaDICE feeds its decoder (o, id, z) in training and (o, z, id) in sampling, mixing up its inputs; not offered.
* The latent has twice as many dimensions as the action; ComaDICE's twice as many as agents: ``vae_latent = "2n"``.
* OG-MARL acts on all legal actions: ``bcq_filter_at_eval = False``. Its clone's softmax includes illegal actions in
  training: ``mask_train_logits = False``. Its sequences straddle episodes and count padding; not offered.

Options off by default: ``vae_kl = "sum"`` is the true divergence (published code takes the mean over dimensions);
``policy_mixer_weight`` multiplies step 3 by w_i; ``history = "rnn"`` (discrete) reads the episode so far.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, as_sequences, team_fields
from marlzoo.config import (
    MLP_TRANSITIONS,
    RECURRENT_SEQUENCES,
    Config,
    Count,
    Fraction,
    Natural,
    NonNegative,
    Positive,
)
from marlzoo.modules.critics import Ensemble
from marlzoo.modules.layers import MLP, with_agent_id
from marlzoo.modules.policies import Policy, RecurrentPolicy, categorical_log_prob, mask_logits
from marlzoo.modules.teams import AgentNet, LinearMixer, QNetworkConfig, QTeam
from marlzoo.objectives import (
    TargetMemory,
    action_error,
    data_value,
    detached,
    gaussian_kl,
    logged_value,
    mean_over,
    saturation,
    soft_minimum,
    team_targets,
)
from marlzoo.replicas import Kind
from marlzoo.spec import Spec

from ._bcq import LATENT_BOUND, VAE, BestAllowed, BestSample, Pair, Perturbation, allowed_actions


@dataclass(frozen=True)
class BCQMAConfig(Config):
    """Settings of BCQ-MA; the defaults are those of the OMIGA benchmark."""

    phi: NonNegative = 0.05  # largest perturbation of a decoded action
    target_samples: Count = 10  # actions that the target's maximum is taken over
    eval_samples: Count = 100  # actions that the deployed policy chooses from
    min_weight: Fraction = 0.75  # weight of the twins' minimum in the target
    vae_hidden: Count = 64  # width of the VAE's hidden layers
    vae_latent: Literal["2A", "2n"] = "2A"  # latent dimensions: of the action size, or of the agents
    vae_kl: Literal["mean", "sum"] = "mean"  # over latent dimensions
    kl_weight: NonNegative = 0.5  # weight of the divergence
    policy_mixer_weight: bool = False  # weight the perturbation's loss by the mixer
    threshold: Fraction = 0.4  # least probability of an allowed action, relative to the largest (discrete)
    bcq_filter_at_eval: bool = True  # act within the allowed actions only (discrete)
    mask_train_logits: bool = True  # leave illegal actions out of the cloned softmax (discrete)
    mixer: Literal["qmix", "vdn", "none"] = "qmix"  # how the agents' values make the team's (discrete)
    target_period: Natural = 200  # updates between copies of the target; 0: follow with rate tau (discrete)
    history: Literal["mlp", "rnn"] = "mlp"  # act on the observation, or on the episode so far (discrete)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of the hidden layers of Q and policy
    mixer_hidden: Count = 64  # width of the mixer's hidden layer
    mixer_embed: Count = 32  # hidden units of a QMIX mixer
    grad_clip: Positive = 1.0  # bound on the gradient norm of each group


class BCQMA(Algorithm):
    """BCQ-MA for continuous and discrete actions; see the module's text."""

    config: BCQMAConfig
    memory: TargetMemory | None = None  # of the offline phase, while fine-tuned
    config_class = BCQMAConfig
    actions = ("continuous", "discrete")
    unread = ("bound_margin",)
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": MLP_TRANSITIONS,
        "smac-recurrent": RECURRENT_SEQUENCES,
    }
    variants: ClassVar = {
        "continuous": ({"vae_latent": "2n", "vae_kl": "sum", "policy_mixer_weight": True},),
        "discrete": (
            {"mixer": "none", "history": "rnn", "sequence_length": 6},
            {"mixer": "vdn", "bcq_filter_at_eval": False, "mask_train_logits": False, "target_period": 0},
        ),
    }

    def build(self, spec: Spec) -> None:
        """Continuous: VAE, perturbation, twin Q and mixer. Discrete: cloned policy, Q and mixer."""
        c = self.config
        h = c.hidden
        n_in = spec.obs_size + spec.n_agents
        n_out = spec.action_size
        if spec.discrete:
            recurrent = c.history == "rnn"
            mixer = None if c.mixer == "none" else c.mixer
            self.sampling = "sequence" if recurrent else "transition"
            self.fields = team_fields(recurrent, mixed=mixer is not None)
            shape = QNetworkConfig(
                h, recurrent, embed=c.mixer_embed, hyper=c.mixer_hidden, relu=c.memory_relu
            )
            self.clone = AgentNet(self.init, spec, shape)
            self.team = QTeam(self.init, spec, shape, mixer)
            self.target = self.make_target(self.team)
            self.add_optimizer(q=self.team, clone=self.clone)
            return
        self.fields = ("obs", "next_obs", "state", "next_state", "action", "reward", "mask")
        latent = 2 * (n_out if c.vae_latent == "2A" else spec.n_agents)
        self.vae = VAE(self.init, n_in, n_out, c.vae_hidden, latent)
        self.perturb = Perturbation(MLP(self.init, (n_in + n_out, h, h, n_out)), self.hyperparameter("phi"))
        self.q = Ensemble(self.init, (n_in + n_out, h, h, 1))
        self.mixer = LinearMixer(self.init, spec.state_size, c.mixer_hidden, spec.n_agents)
        self.target_q = self.make_target(self.q)
        self.target_mixer = self.make_target(self.mixer)
        self.target_perturb = self.make_target(self.perturb)
        self.add_optimizer(policy=self.perturb, q=(self.q, self.mixer), vae=self.vae)

    def noise(self) -> dict[str, tuple[Kind, tuple[int, ...]]]:
        """Continuous: latents of the reconstruction, of the target's samples and of the policy's."""
        if self.spec.discrete:
            return {}
        one = (self.config.batch_size, self.spec.n_agents, self.vae.n_latent)
        many = (self.config.target_samples, *one)
        return {"encode": ("normal", one), "target": ("normal", many), "policy": ("normal", one)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all losses; metrics are the losses, batch means and gradient norms, each [R]."""
        return self._discrete(as_sequences(batch)) if self.spec.discrete else self._continuous(batch)

    def policy(self) -> Policy:
        """Continuous: the best of many samples. Discrete: the best allowed action."""
        c = self.config
        if not self.spec.discrete:
            return BestSample(self.vae, self.perturb, self.q, self.action_dimensions, c.eval_samples)
        if not c.bcq_filter_at_eval:
            return self.team.agents.policy()
        pair = Pair(self.team.agents.network, self.clone.network)
        threshold = self.hyperparameter("threshold")
        if c.history == "rnn":
            return RecurrentPolicy(pair, lambda network: BestAllowed(network, threshold))
        return BestAllowed(pair, threshold)

    def data_values(self, batch: Batch) -> Tensor:
        """See :class:`marlzoo.training.value_memory.RemembersValues`."""
        if self.spec.discrete:
            return logged_value(self.team, batch)
        w, b = self.mixer.coefficients(batch.state)
        q = self.q(with_agent_id(batch.obs), batch.action).squeeze(-1)
        totals: Tensor = (w.unsqueeze(1) * q).sum(-1) + b.unsqueeze(1)
        return totals.amin(1)

    def _continuous(self, batch: Batch) -> dict[str, Tensor]:
        c = self.config
        used = self.action_dimensions
        noise = batch.noise
        obs = with_agent_id(batch.obs)
        next_obs = with_agent_id(batch.next_obs)

        # 1. VAE
        reconstruction, mean, log_std = self.vae(obs, batch.action, noise["encode"])
        kl = gaussian_kl(mean, log_std)
        kl_loss = mean_over(kl.mean(-1) if c.vae_kl == "mean" else kl.sum(-1))
        error = mean_over(action_error(reconstruction, batch.action, used))
        vae_loss = error + self.hyperparameter("kl_weight") * kl_loss

        # 2. Q
        with torch.no_grad():
            many = next_obs.unsqueeze(1)  # [R, 1, B, N, O + N] beside [R, K, B, N, A]
            latent = noise["target"].clamp(-LATENT_BOUND, LATENT_BOUND)
            sampled = self.target_perturb(many, self.vae.decode(many, latent)) * used
            q_sampled = self.target_q(many, sampled).squeeze(-1)
            q_next = soft_minimum(q_sampled, self.hyperparameter("min_weight", 4)).amax(1)
            value = self.target_mixer(q_next, batch.next_state)
            y = batch.reward + self.hyperparameter("gamma", 2) * batch.mask * value
            if self.memory is not None:
                y = self.memory.lift(y, batch)
        w, b = self.mixer.coefficients(batch.state)
        q = self.q(obs, batch.action).squeeze(-1)  # [R, K, B, N]
        q_tot = (w.unsqueeze(1) * q).sum(-1) + b.unsqueeze(1)
        q_loss = mean_over((q_tot - y.unsqueeze(1)).square().sum(1))

        # 3. Policy
        with torch.no_grad():
            decoded = self.vae.decode(obs, noise["policy"].clamp(-LATENT_BOUND, LATENT_BOUND))
        perturbed = self.perturb(obs, decoded) * used
        q_policy = self.q.first(obs, perturbed).squeeze(-1)
        policy_loss = -mean_over(w.detach() * q_policy if c.policy_mixer_weight else q_policy)

        norms = self.step(policy=policy_loss, q=q_loss, vae=vae_loss)
        tau = self.hyperparameter("tau")
        self.soft_update(self.target_q, self.q, tau)
        self.soft_update(self.target_mixer, self.mixer, tau)
        self.soft_update(self.target_perturb, self.perturb, tau)
        losses = {"vae/loss": vae_loss, "vae/kl": kl_loss, "q/loss": q_loss, "policy/loss": policy_loss}
        means = {"q/total": mean_over(q_tot[:, 0]), "q/target_total": mean_over(y)}
        common = data_value(q_tot[:, 0]) | saturation(perturbed, used)
        return detached(losses | means) | common | norms

    def _discrete(self, batch: Batch) -> dict[str, Tensor]:
        c = self.config
        filled = batch.filled
        action_mask = batch.action_mask

        # 1. Clone
        logits = self.clone(batch)
        trained = mask_logits(logits, action_mask) if c.mask_train_logits else logits
        clone_loss = -mean_over(categorical_log_prob(trained[:, :, :-1], batch.action), filled)

        # 2. Q
        allowed = allowed_actions(logits, action_mask, self.hyperparameter("threshold", 5))
        gamma = self.hyperparameter("gamma", 3)
        q = team_targets(self.team, self.target, batch, gamma, allowed=allowed, memory=self.memory)
        q_loss = 0.5 * mean_over((q.total - q.target).square(), filled)

        norms = self.step(q=q_loss, clone=clone_loss)
        self.hard_update(self.target, self.team, c.target_period, self.hyperparameter("tau"), "q")
        means = {
            "q/total": mean_over(q.total.detach(), filled),
            "q/target_total": mean_over(q.target, filled),
        }
        value = data_value(q.total, filled)
        return {"q/loss": q_loss.detach(), "clone/loss": clone_loss.detach(), **means, **value, **norms}
