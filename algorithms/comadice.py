"""ComaDICE: offline cooperative multi-agent RL with a stationary-distribution shift regularizer.

Bui, Nguyen, Mai, "ComaDICE", ICLR 2025, arXiv 2410.01954. The problem max E_rho[r] - alpha D_f(rho || data) over
occupancies has a dual in nu; a linear mixer ``X_tot = sum_i w_i(s) X_i + b(s)`` with ``w_i >= 0`` splits it by agent.
The agents share their networks, whose inputs carry the agent's one-hot number. With x = A / alpha, r the inverse of
f' and g(x) = f(r(x)), a bar for target networks, sg for stopped gradients:

1. Q:       y = r + gamma mask (sum_i w̄_i(s') nu̅_i(o'_i) + b̄(s'))
            L_Q = mean (sum_i w_i q_i + b - y)^2                                                    (q and mixer)
2. nu:      e_i = w_i (sg q_i - nu_i), x_i = (e_i - lambda_v) / alpha
            L_nu = (1 - gamma) mean over first steps of nu_i - mean alpha sg g(x_i)
                   + mean r(x_i) (sg e_i - lambda_v) + lambda_v                                  (nu and lambda_v)
3. weights: e'_i = w̄_i (q̄_i - nu_i), omega_i = r((e'_i - lambda_e) / alpha), Omega = sum_i omega_i
4. lambda_e descends lambda_e (1 - mean omega)
5. policy:  L_π = -mean Omega log π_i(a_i | o_i)

Step 2 is what the authors run. Its gradient in e_i is x r'(x): a regression of nu_i on q_i under the loss alpha g,
not descent on the dual, whose gradient r(x) would drive nu without bound while q is fixed; the dual is not offered.
Losses 1 and 2 are taken before any step; steps 3 to 5 see the new nu; then all targets follow with rate tau.

Departures from the authors' code, and the option that restores it:

* rewards are rewards; their SMAC loader puts the undiscounted return-to-go there: ``reward_mode = "rtg"``.
* step 2 uses the q of before step 1's update for both action kinds, as their continuous code does; their discrete
  code recomputes it.
* step 2 uses the mixer's weights of before step 1's update, theirs those of after it; steps 3 to 5 see the new nu,
  theirs the one of before step 2's update. Neither is offered.
* a time limit does not end the bootstrap where the data mark it, as for every other method here; their files do not
  tell limits from terminal states: ``timeout_is_terminal = True``.
* the global state enters the mixer once, not once per agent.
* actions are those of the data. Their MuJoCo loader divides by 4 actions that leave the box, and the policy's are
  multiplied by 4 to act; here such data are clipped, with a warning.
* ``history = "rnn"`` (ours) lets the policy read the episode so far; q and nu read the observation in both forms.
* exceptions in an update stop the run; theirs are swallowed.
"""

from __future__ import annotations

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
from marlzoo.modules.critics import ActionValues, ValueNet
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.policies import Policy
from marlzoo.modules.teams import LinearMixer, StochasticActor
from marlzoo.objectives import data_likelihood, data_value, effective_sample_size, mean_over
from marlzoo.spec import Spec

Divergence = Literal["soft_chi2", "chi2", "kl"]


@dataclass(frozen=True)
class ComaDICEConfig(Config):
    """Settings of ComaDICE; the defaults are the authors'."""

    alpha: Positive = 10.0  # strength of the regularizer (paper: α); 100 is as good, 0.1 poor
    divergence: Divergence = "soft_chi2"  # f
    omega_cap: Positive = float("inf")  # bound on each agent's omega (the authors use 2 for discrete actions)
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of policy, q and nu
    history: History = field(
        default="mlp", metadata=ASSIGNED_LATER
    )  # act on the observation, or on the episode so far
    mixer_hidden: Count = 64  # width of the mixer's hidden layer
    lr: Positive = 1e-4  # step size of Adam
    grad_clip: Positive = 1.0  # bound on the gradient norm of each group


class ComaDICE(Algorithm):
    """ComaDICE for continuous (tanh-Gaussian) and discrete (categorical) actions; see the module's text."""

    config: ComaDICEConfig
    config_class = ComaDICEConfig
    actions = ("continuous", "discrete")
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": {**MLP_TRANSITIONS, "omega_cap": 2.0},
        "smac-recurrent": {**RECURRENT_SEQUENCES, "omega_cap": 2.0},
    }
    variants: ClassVar = {
        "continuous": ({"divergence": "chi2"},),
        "discrete": ({"divergence": "kl"}, {"history": "rnn", "sequence_length": 6}),
    }

    def build(self, spec: Spec) -> None:
        """Policy, q, nu, mixer and the two multipliers; targets of q, nu and mixer."""
        c = self.config
        recurrent = c.history == "rnn"
        if recurrent:
            self.sampling = "sequence"
        self.fields = step_fields(
            recurrent, "obs", "state", "action", "reward", "mask", "first", "action_mask"
        )
        self.actor = StochasticActor(self.init, spec, c.hidden, recurrent=recurrent, relu=c.memory_relu)
        self.q = ActionValues(self.init, spec, c.hidden)
        self.nu = ValueNet(self.init, spec.obs_size + spec.n_agents, c.hidden)
        self.mixer = LinearMixer(self.init, spec.state_size, c.mixer_hidden, spec.n_agents)
        self.lambda_v = nn.ParameterList([self.init.constant(0.0, 1, 1)])
        self.lambda_e = nn.ParameterList([self.init.constant(0.0, 1, 1)])
        self.target_q = self.make_target(self.q)
        self.target_nu = self.make_target(self.nu)
        self.target_mixer = self.make_target(self.mixer)
        self.add_optimizer(q=(self.q, self.mixer), nu=self.nu, lambda_v=self.lambda_v)
        self.add_optimizer(policy=self.actor, lambda_e=self.lambda_e)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step of all losses; metrics are the losses, batch means and gradient norms, each [R]."""
        sequences = batch  # which a memory reads
        batch, real = as_transitions(batch)  # real is 0 for padding, None where nothing is padded
        f = self.config.divergence
        alpha = self.hyperparameter("alpha", 3)
        obs = with_agent_id(batch.obs)

        # 1. Q
        with torch.no_grad():
            nu_next = self.target_nu(with_agent_id(batch.next_obs))
            nu_total_next = self.target_mixer(nu_next, batch.next_state)
            y = batch.reward + self.hyperparameter("gamma", 2) * batch.mask * nu_total_next
        w, b = self.mixer.coefficients(batch.state)
        q = self.q(obs, batch.action)[:, 0]
        q_total = (w * q).sum(-1) + b
        q_loss = mean_over((q_total - y).square(), real)

        # 2. nu
        nu = self.nu(obs)
        lambda_v = self.lambda_v[0]
        e = w.detach() * (q.detach() - nu)
        starts = (1.0 - self.hyperparameter("gamma")) * mean_over(
            nu, batch.first if real is None else batch.first * real
        )
        nu_loss = starts + mean_over(regression(f, e, lambda_v, alpha), real) + lambda_v.flatten()
        norms = self.step(q=q_loss, nu=nu_loss, lambda_v=nu_loss)

        # 3. Weights
        with torch.no_grad():
            w_target, _ = self.target_mixer.coefficients(batch.state)
            advantage = w_target * (self.target_q(obs, batch.action)[:, 0] - self.nu(obs))
            omega = ratio(f, (advantage - self.lambda_e[0]) / alpha)
            team = torch.minimum(omega, self.hyperparameter("omega_cap", 3)).sum(-1, keepdim=True)

        # 4. Normalization
        lambda_loss = self.lambda_e[0].flatten() * (1.0 - mean_over(omega, real))

        # 5. Policy
        log_prob = self.data_log_prob(self.actor.of_batch(sequences, obs), batch)
        policy_loss = -mean_over(team * log_prob, real)

        norms |= self.step(policy=policy_loss, lambda_e=lambda_loss)
        tau = self.hyperparameter("tau")
        self.soft_update(self.target_q, self.q, tau)
        self.soft_update(self.target_nu, self.nu, tau)
        self.soft_update(self.target_mixer, self.mixer, tau)
        losses = {"q/loss": q_loss.detach(), "nu/loss": nu_loss.detach(), "policy/loss": policy_loss.detach()}
        means = {"q/total": mean_over(q_total.detach(), real), "weight/omega": mean_over(omega, real)}
        common = data_value(q_total, real) | effective_sample_size(team, real)
        return {**losses, **means, **common, **data_likelihood(log_prob, real), **norms}

    def policy(self) -> Policy:
        """Continuous: tanh of the clipped mean. Discrete: the best legal action."""
        return self.actor.policy()


def regression(f: Divergence, e: Tensor, lambda_v: Tensor, alpha: Tensor | float) -> Tensor:
    """What the authors descend in place of the dual; its gradient in ``e`` is x r'(x)."""
    x = (e - lambda_v) / alpha
    return -alpha * cost(f, x).detach() + ratio(f, x) * (e.detach() - lambda_v)


def ratio(f: Divergence, x: Tensor) -> Tensor:
    """The occupancy ratio r(x), inverse of f', bounded below by zero."""
    if f == "kl":
        return torch.exp(x - 1.0)
    if f == "chi2":
        return (x + 1.0).clamp(min=0.0)
    return torch.where(x < 0, torch.exp(x.clamp(max=0.0)), x + 1.0)


def cost(f: Divergence, x: Tensor) -> Tensor:
    """g(x) = f(r(x)), what a ratio costs."""
    if f == "kl":
        return (x - 1.0) * torch.exp(x - 1.0)
    if f == "chi2":
        return 0.5 * x.square()
    return torch.where(x < 0, torch.exp(x.clamp(max=0.0)) * (x - 1.0) + 1.0, 0.5 * x.square())
