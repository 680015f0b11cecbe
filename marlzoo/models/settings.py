"""Settings of world models and of the Dyna form. They need no torch, so that the command line can show them."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from marlzoo.config import ASSIGNED_LATER, Config, Count, Fraction, Natural, NonNegative, Positive, is_numeric


@dataclass(frozen=True)
class WorldModelConfig(Config):
    """Settings of methods with a world model; defaults of MOMA-PPO's release."""

    model_updates: Count = 10_000  # first updates, which fit the world model only
    members: Count = 7  # size of the ensemble
    elites: Count = 5  # members that make rollouts: the best on held-out episodes
    model_hidden: Count = 1024  # width of the members' hidden layers
    model_layers: Count = 4  # hidden layers of dynamics and reward
    model_batch: Count = 256  # steps per update and member
    model_lr: Positive = 3e-5  # step size of the world model's Adam
    standardize: bool = True  # inputs and targets by the data's mean and deviation
    residual: bool = True  # predict the change of the frame
    # continuous actions by their mean and deviation: where these are small, predictions depend on them too little
    standardize_actions: bool = field(default=False, metadata=ASSIGNED_LATER)


@dataclass(frozen=True)
class DynaConfig(WorldModelConfig):
    """Settings that the Dyna form adds to a method's; defaults of MOMA-PPO's release."""

    dyna_share: Fraction = 0.05  # probability that a row of a batch is of the data
    dyna_starts: Count = 256  # model steps per update and replica
    dyna_horizon: Count = 10  # steps of a chain
    dyna_buffer: Count = 1000  # model steps that batches are drawn from: the last ones
    dyna_penalty: NonNegative = 1.0  # weight of the uncertainty in the reward
    dyna_start: Natural = 0  # updates on the data alone before the mixture


def world_model_ignores(config: WorldModelConfig) -> tuple[str, ...]:
    """The ``float`` settings that a world model's stage does not depend on: all but its optimizer's."""
    numeric = (setting.name for setting in fields(config) if is_numeric(type(config), setting.name))
    return tuple(name for name in numeric if name not in ("model_lr", "grad_clip"))
