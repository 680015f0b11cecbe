"""Settings that IQL+CQL and QMIX+CQL share; the defaults are OG-MARL's of both."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from marlzoo.config import Config, Count, Fraction, Natural, NonNegative, Positive


@dataclass(frozen=True)
class ConservativeQConfig(Config):
    """Of double Q-learning with a conservative penalty, on the episode so far."""

    cql_weight: NonNegative = 3.0  # w; 0 is double Q-learning on logged data
    td_lambda: Fraction = 0.0  # trace of the target; 0: one step
    tau: Fraction = 0.01  # rate at which the targets follow, where they are not copied
    target_period: Natural = 200  # updates between copies of the targets; 0: follow with rate tau
    hidden: Count = 64  # width of the agents' hidden layer and of their memory
    memory_relu: bool = True  # a ReLU between the memory and the last layer
    history: Literal["rnn", "mlp"] = "rnn"  # act on the episode so far, or on the observation
    last_action: bool = False  # also read the action of the step before
    half_td: bool = True  # the factor 1/2 in TD
    lr: Positive = 3e-4  # step size of Adam
    batch_size: Count = 32  # sequences (or transitions) per update and replica
    sequence_length: Natural = 20  # steps per sequence (0: whole episodes)
