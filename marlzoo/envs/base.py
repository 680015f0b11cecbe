"""The interface of every environment: E copies stepped together, arrays in, arrays out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.errors import SpecError
from marlzoo.spec import Spec

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Ids = NDArray[np.intp]


@dataclass(slots=True)
class Observation:
    """What E copies show: ``obs [E, N, O]``, ``state [E, S]``, ``action_mask [E, N, A]`` (discrete tasks only).

    The arrays may be reused by the next call; copy what must be kept.
    """

    obs: Floats
    state: Floats
    action_mask: Bools | None = None


@dataclass(slots=True)
class Step(Observation):
    """An observation after a step, and what the step earned.

    ``reward [E]`` (or ``[E, N]``), ``terminal [E]`` (the task ended), ``truncated [E]`` (the time limit
    ended it). ``info`` holds task-specific arrays ``[E]``, ``win`` (bool) where a task can be won.
    """

    reward: Floats = field(default_factory=lambda: np.zeros(0, np.float32))
    terminal: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    truncated: Bools = field(default_factory=lambda: np.zeros(0, np.bool_))
    info: dict[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Resimulation:
    """One simulated step per recorded transition, for :meth:`BatchedEnv.replay`.

    ``next_obs [B, N, O]``, ``reward [B]``, ``terminal [B]``; ``valid [B]`` is False where the simulator's
    state cannot be recovered from the recorded observation (such rows are left out of a comparison).
    """

    next_obs: Floats
    reward: Floats
    terminal: Bools
    valid: Bools


class BatchedEnv(ABC):
    """E copies of one task, stepped together.

    There is no automatic reset: a copy that has ended is stepped again only after ``reset``. Each copy has a
    random stream of its own, so its episode does not depend on the other copies.

    Attributes:
        task: the task's full name, for instance ``mamujoco/hopper-3x1``.
        spec: its shape.
        num_envs: number of copies E.
        metadata: engine, versions and options that the data must share (plain values).
        options: what it was made with beside the task and the number of copies, by name.
        can_win: whether ``info["win"]`` is given.
        replayable: whether :meth:`replay` works.
        state_replayable: whether :meth:`replay_states` works, which :meth:`replay` is preferred to.
        may_hang: whether a call may never return; False for this package's own simulators.
        states_elsewhere: sizes of the state by which recordings of other versions of the simulator are known, with
            those versions' names.
        exact_versions: entries of ``metadata`` that data must have the same, where nothing else can tell whether
            another version has other rules.
    """

    task: str
    spec: Spec
    num_envs: int
    metadata: dict[str, Any]
    options: Mapping[str, Any] = MappingProxyType({})
    can_win: bool = False
    replayable: bool = False
    state_replayable: bool = False
    may_hang: bool = True
    states_elsewhere: Mapping[int, str] = MappingProxyType({})
    exact_versions: tuple[str, ...] = ()

    @abstractmethod
    def seed(self, seeds: Sequence[int]) -> None:
        """Give each copy its own random stream (E non-negative integers); takes effect at its next reset."""

    @abstractmethod
    def reset(self, ids: Ids | None = None) -> Observation:
        """Start new episodes in the copies ``ids`` (all when None) and return all copies' observations."""

    @abstractmethod
    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        """Advance the copies ``ids`` (all when None) by one step.

        Args:
            action: ``[E, N, A]`` floats in [-1, 1] or ``[E, N]`` integers, for all copies (rows of copies
                that are not stepped are ignored).
            ids: the copies to step.

        Returns:
            Arrays for all E copies. Copies that were not stepped keep their observation and have reward 0
            and both flags False.
        """

    def replay(self, obs: Floats, action: NDArray[Any]) -> Resimulation:
        """Simulate one step from recorded observations ``[B, N, O]`` under actions ``[B, N, ...]``.

        Raises:
            SpecError: the task's simulator cannot be set to a recorded observation.
        """
        raise SpecError(f"{self.task}: recorded transitions cannot be replayed in this simulator")

    def replay_states(self, state: Floats, action: NDArray[Any]) -> Resimulation:
        """As :meth:`replay`, from recorded states ``[B, S]``, where agents see too little for it.

        Raises:
            SpecError: the task's simulator cannot be set to a recorded state.
        """
        raise SpecError(f"{self.task}: recorded states cannot be replayed in this simulator")

    def render(self, index: int, width: int, height: int) -> NDArray[np.uint8]:
        """A picture ``[height, width, 3]`` of the copy ``index`` as it is now.

        Raises:
            SpecError: the task cannot be drawn.
        """
        raise SpecError(
            f"{self.task}: this environment cannot be drawn: its class {type(self).__name__} has no method "
            "render(index, width, height), which returns a picture of one copy (docs/own_environment.md, Pictures); "
            "marlzoo eval plays it without pictures"
        )

    def close(self) -> None:  # noqa: B027 - closing is optional
        """Free what the simulator holds."""
