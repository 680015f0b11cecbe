"""Settings of fine-tuning, and how they change over its environment steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal

from marlzoo.errors import ConfigError

Deviation = Literal["joint", "sequential", "single"]
"""Who leaves the policy's action. ``joint``: every agent with probability epsilon. ``sequential``: every agent with
probability epsilon / N, so that seldom more than one does (OVMSE, arXiv 2410.19450). ``single``: with probability
epsilon one agent, drawn from those that have a choice."""
Strategy = Literal["plain", "ovm", "ovmse"]
STRATEGIES: tuple[Strategy, ...] = ("plain", "ovm", "ovmse")
FRACTIONS = ("data_share", "data_share_end", "epsilon", "epsilon_end", "memory", "memory_end", "anneal")


@dataclass(frozen=True)
class FinetuneSettings:
    """Settings of fine-tuning; pairs with ``_end`` fall linearly over the first ``anneal`` of the steps.

    Args:
        strategy: ``plain``; ``ovm``, with a memory of the offline values; or ``ovmse``, which also explores about one
            agent at a time, beside partners that act offline until the team's return exceeds the offline one or
            ``anneal`` of the steps are done.
        data_share: share of offline data in a batch.
        data_share_end: the same at the end.
        epsilon: probability that an agent takes any legal action (discrete tasks; ``ovmse``: divided by the number
            of agents).
        epsilon_end: the same at the end.
        sigma: standard deviation of the noise on every agent's action (continuous tasks).
        memory: weight of the memory in the targets (``ovm``, ``ovmse``).
        memory_end: the same at the end.
        anneal: share of the environment steps over which these change.
        single: with ``ovmse``, let at most one agent deviate.
        num_envs: copies of the environment per replica.
        rollout: steps of each copy between two rounds of learning.
        learn_steps: updates in a round.
        warmup: environment steps before the first update.
        replay: environment steps that the replay holds.
        restart: rounds after which all environments are reset; checkpoints are saved there.

    Raises:
        ConfigError: a value out of its range.
    """

    strategy: Strategy = "plain"
    data_share: float = 0.5
    data_share_end: float = 0.1
    epsilon: float = 0.2
    epsilon_end: float = 0.05
    sigma: float = 0.1
    memory: float = 1.0
    memory_end: float = 0.1
    anneal: float = 0.2
    single: bool = False
    num_envs: int = 4
    rollout: int = 25
    learn_steps: int = 50
    warmup: int = 500
    replay: int = 100_000
    restart: int = 100

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ConfigError(f"strategy is {self.strategy!r}; choose one of {', '.join(STRATEGIES)}")
        if self.single and not self.sequential:
            raise ConfigError(
                f"single is set, but with strategy {self.strategy!r} all agents explore at once; set strategy to "
                "'ovmse', or leave single out"
            )
        for name in FRACTIONS:
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must lie in [0, 1]")
        if not (math.isfinite(self.sigma) and self.sigma >= 0.0):
            raise ConfigError(f"sigma is {self.sigma!r}; it must be a number of at least 0")
        for field in fields(self):
            least = 0 if field.name == "warmup" else 1
            if field.type == "int" and getattr(self, field.name) < least:
                raise ConfigError(
                    f"{field.name} is {getattr(self, field.name)!r}; it must be at least {least}"
                )

    @property
    def uses_data(self) -> bool:
        """Whether a batch ever holds offline data."""
        return max(self.data_share, self.data_share_end) > 0.0

    @property
    def remembers(self) -> bool:
        """Whether there is a memory of the offline values."""
        return self.strategy != "plain"

    @property
    def sequential(self) -> bool:
        """Whether about one agent explores at a time, beside partners that act offline."""
        return self.strategy == "ovmse"

    @property
    def deviation(self) -> Deviation:
        """Who explores."""
        if not self.sequential:
            return "joint"
        return "single" if self.single else "sequential"

    @property
    def steps_per_round(self) -> int:
        """Environment steps per replica between two rounds of learning."""
        return self.num_envs * self.rollout

    def share_at(self, progress: float) -> float:
        """Share of offline data when ``progress`` of the environment steps are done."""
        return self._falling(self.data_share, self.data_share_end, progress)

    def epsilon_at(self, progress: float) -> float:
        """Probability of a deviation."""
        return self._falling(self.epsilon, self.epsilon_end, progress)

    def memory_at(self, progress: float) -> float:
        """Weight of the memory."""
        return self._falling(self.memory, self.memory_end, progress)

    def _falling(self, start: float, end: float, progress: float) -> float:
        done = 1.0 if progress >= self.anneal else progress / self.anneal
        return start + (end - start) * done
