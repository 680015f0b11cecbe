"""Settings that independent IQL and MAIQL share; the defaults are the authors' of both."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import ASSIGNED_LATER, Config, Count, Fraction, History, NonNegative, Positive
from marlzoo.modules.teams import StochasticActor
from marlzoo.spec import Spec

LOG_STD_BOUNDS = (-6.0, 0.0)  # of the authors' policy


def actor(method: Algorithm, config: ImplicitConfig, spec: Spec) -> StochasticActor:
    """The agents' policy of observations as in ``spec``; with a memory the method learns from sequences."""
    recurrent = config.history == "rnn"
    if recurrent:
        method.sampling = "sequence"
    return StochasticActor(
        method.init,
        spec,
        config.hidden,
        LOG_STD_BOUNDS,
        per_agent=not config.share_agents,
        recurrent=recurrent,
        relu=config.memory_relu,
    )


def clipped(method: Algorithm, batch: Batch) -> Batch:
    """The batch with continuous actions within ``action_margin`` of the box, where some replica asks for it."""
    if method.spec.discrete or not any(config.action_margin for config in method.configs):  # type: ignore[attr-defined]
        return batch
    bound = 1.0 - method.hyperparameter("action_margin", batch.action.ndim)
    action = torch.minimum(torch.maximum(batch.action, -bound), bound)
    return Batch.of(batch.noise, **{**batch.tensors(), "action": action})


@dataclass(frozen=True)
class ImplicitConfig(Config):
    """Of implicit Q-learning: values by expectile regression, the policy by weighted cloning."""

    expectile: Fraction = 0.7  # 0.5 gives the mean of the data's values, towards 1 their maximum
    beta: NonNegative = 3.0  # inverse temperature of the policy's weights
    weight_cap: Positive = 100.0  # bound on the policy's weights
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of policy, Q and V
    action_margin: Fraction = (
        0.0  # clip the data's continuous actions to within this of the box (0: to the box)
    )
    history: History = field(
        default="mlp", metadata=ASSIGNED_LATER
    )  # act on the observation, or on the episode so far
    share_agents: bool = True  # one set of networks for all agents, told apart by their number
    batch_size: Count = 256  # transitions per update and replica
    lr: Positive = 3e-4  # step size of Adam
