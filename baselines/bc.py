"""BC: behavior cloning, each agent's action from its own observation.

No critic, no mixer, no reward. Agents share one network whose input carries their one-hot number. Losses, averaged
over batch and agents (and over real steps only where sequences are padded):

1. ``loss = "nll"``, continuous: -log pi(a_i | o_i), tanh-Gaussian, summed over action dimensions
2. ``loss = "mse"``, continuous: mean over dimensions of (tanh f(o_i) - a_i)^2
3. discrete:                     -log softmax(logits over legal actions)[a_i]

Departures from published code, and the option that restores it:

* ComaDICE's continuous BC computes its loss and never steps; ours steps.
* offpymarl applies cross-entropy to probabilities as if they were logits, and counts padding; neither is offered.
* ``mask_train_logits = False`` lets illegal actions take part in the softmax (OG-MARL, ComaDICE).
* ``bc_tanh = False`` leaves the output of the mean-squared form unsquashed (OG-MARL).
* ``eval_mode = "sample"`` samples instead of taking the mode (OG-MARL, discrete).

Actions exactly on the box's bounds, of which clipped behavior policies leave many, bend the likelihood's fit: they
lie far out in a tanh-Gaussian's tail. ``bound_margin = 0.05`` takes actions that near a bound as censored (all
methods that fit a tanh-Gaussian have the setting). Where a third of a joint's actions lie on a bound it makes the
likelihood about as good as the squared error, which still falls short of the data there
(results/studies/bound_actions).

``history = "rnn"`` reads sequences through a GRU whose memory starts from zero with each episode (OG-MARL, CFCQL;
``memory_relu`` adds OG-MARL's ReLU behind it).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import MLP_TRANSITIONS, RECURRENT_SEQUENCES, Config, Count, Positive
from marlzoo.modules.layers import MLP, RecurrentNet, with_agent_id
from marlzoo.modules.policies import (
    CategoricalPolicy,
    Policy,
    RecurrentPolicy,
    SquashedPolicy,
    TanhGaussianActor,
    TanhGaussianPolicy,
)
from marlzoo.objectives import action_error, mean_over
from marlzoo.spec import Spec


@dataclass(frozen=True)
class BCConfig(Config):
    """Settings of behavior cloning; the defaults are those of the OMIGA-style benchmarks."""

    hidden: Count = 256  # width of the hidden layers
    grad_clip: Positive = 1.0  # bound on the gradient norm
    loss: Literal["nll", "mse"] = "nll"  # continuous actions: likelihood or squared error
    history: Literal["mlp", "rnn"] = "mlp"  # act on the observation, or on the episode so far
    bc_tanh: bool = True  # squash the output of the squared-error form
    mask_train_logits: bool = True  # leave illegal actions out of the softmax in training
    eval_mode: Literal["greedy", "sample"] = "greedy"  # how the policy is evaluated


class BC(Algorithm):
    """Behavior cloning for continuous and discrete actions; see the module's text."""

    config: BCConfig
    config_class = BCConfig
    actions = ("continuous", "discrete")
    acting = ("eval_mode",)
    unread = ("reward_mode",)  # gamma and time limits count where a run is judged by logged data
    fields: tuple[str, ...] = ("obs", "action")
    variants: ClassVar = {
        "continuous": ({"loss": "mse"}, {"history": "rnn"}),
        "discrete": ({"history": "rnn"}, {"eval_mode": "sample", "mask_train_logits": False}),
    }
    presets: ClassVar = {
        "mamujoco": {},
        "mpe": {},
        "smac": MLP_TRANSITIONS,
        "smac-recurrent": RECURRENT_SEQUENCES,
    }

    def build(self, spec: Spec) -> None:
        """One network, shared by the agents."""
        c = self.config
        n_in = spec.obs_size + spec.n_agents
        heads = 1 if spec.discrete or c.loss == "mse" else 2
        self.actor: nn.Module
        if c.history == "rnn":
            self.actor = RecurrentNet(self.init, n_in, c.hidden, heads * spec.action_size, c.memory_relu)
            self.sampling = "sequence"
        elif heads == 2:
            self.actor = TanhGaussianActor(self.init, n_in, c.hidden, spec.action_size)
        else:
            self.actor = MLP(self.init, (n_in, c.hidden, c.hidden, spec.action_size))
        if spec.discrete and c.mask_train_logits:
            self.fields = (*self.fields, "action_mask")
        self.add_optimizer(policy=self.actor)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """One step; metrics are the loss and the gradient norm, each [R]."""
        sequence = self.sampling == "sequence"
        obs = batch.obs[:, :, :-1] if sequence else batch.obs  # the final observation has no action
        per_step = self._loss(with_agent_id(obs), batch)
        loss = mean_over(per_step, batch.filled if sequence else None)
        metrics = {"policy/loss": loss.detach()}
        if self.spec.discrete or self.config.loss == "nll":
            metrics |= {"policy/data_log_prob": -metrics["policy/loss"]}
        return metrics | self.step(policy=loss)

    def policy(self) -> Policy:
        """Continuous: the mode. Discrete: the best legal action, or a sample."""
        if self.config.history == "rnn":
            return RecurrentPolicy(self.actor, self._feed_forward)
        return self._feed_forward(self.actor)

    def _feed_forward(self, network: nn.Module) -> Policy:
        if self.spec.discrete:
            return CategoricalPolicy(network, stochastic=self.config.eval_mode == "sample")
        if self.config.loss == "mse":
            return SquashedPolicy(network, self.config.bc_tanh, used=self.action_dimensions)
        return TanhGaussianPolicy(network, self.action_dimensions)

    def _loss(self, obs: Tensor, batch: Batch) -> Tensor:
        """Loss per step and agent, [R, B, N] (sequences: [R, B, L, N])."""
        out = self.actor(obs)
        if self.config.history == "rnn":
            out = out[0]
        if not self.spec.discrete and self.config.loss == "mse":
            action = torch.tanh(out) if self.config.bc_tanh else out
            return action_error(action, batch.action, self.action_dimensions)
        return -self.data_log_prob(out, batch)
