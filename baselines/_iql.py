"""Settings that independent IQL and MAIQL share; the defaults are the authors' of both."""

from __future__ import annotations

from dataclasses import dataclass

from marlzoo.config import Config, Count, Fraction, NonNegative, Positive

LOG_STD_BOUNDS = (-6.0, 0.0)  # of the authors' policy


@dataclass(frozen=True)
class ImplicitConfig(Config):
    """Of implicit Q-learning: values by expectile regression, the policy by weighted cloning."""

    expectile: Fraction = 0.7  # 0.5 gives the mean of the data's values, towards 1 their maximum
    beta: NonNegative = 3.0  # inverse temperature of the policy's weights
    weight_cap: Positive = 100.0  # bound on the policy's weights
    tau: Fraction = 0.005  # rate at which the targets follow
    hidden: Count = 256  # width of both hidden layers of policy, Q and V
    share_agents: bool = True  # one set of networks for all agents, told apart by their number
    batch_size: Count = 256  # transitions per update and replica
    lr: Positive = 3e-4  # step size of Adam
