"""Episode boundaries among the rows of a dataset, and single episodes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from marlzoo.console import counted
from marlzoo.errors import DataError

Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Episodes:
    """E episodes, one after another among T rows. One of L steps has L + 1 rows, the last without a step.

    Args:
        starts: first row of each episode ``[E]``, increasing, the first of them 0.
        rows: number of rows T.
    """

    starts: Ints
    rows: int

    @classmethod
    def from_lengths(cls, lengths: NDArray[Any]) -> Self:
        """Episodes of ``lengths [E]`` steps."""
        bounds = np.append(0, np.cumsum(np.asarray(lengths, np.int64) + 1))
        return cls(bounds[:-1], int(bounds[-1]))

    @classmethod
    def from_ends(cls, ends: Bools) -> Self:
        """Episodes that end with the marked ones of N steps ``[N]``; the last step ends one in any case.

        Raises:
            DataError: there is no step.
        """
        if not len(ends):
            raise DataError("the dataset is empty (no steps); make or fetch it again")
        marked = ends.copy()
        marked[-1] = True
        return cls.from_lengths(np.diff(np.flatnonzero(marked), prepend=-1))

    def __len__(self) -> int:
        """Number of episodes E."""
        return len(self.starts)

    @property
    def steps(self) -> int:
        """Number of steps N = T - E."""
        return self.rows - len(self)

    @cached_property
    def ends(self) -> Ints:
        """Each episode's final row ``[E]``, the one without a step."""
        return np.append(self.starts[1:], self.rows) - 1

    @cached_property
    def lengths(self) -> Ints:
        """Steps of each episode ``[E]``."""
        return self.ends - self.starts

    @cached_property
    def lasts(self) -> Ints:
        """Number of each episode's last step ``[E]``, counted over all episodes."""
        return np.cumsum(self.lengths) - 1

    @cached_property
    def step_rows(self) -> Ints:
        """Row of each step ``[N]``."""
        keep = np.ones(self.rows, np.bool_)
        keep[self.ends] = False
        return np.flatnonzero(keep)

    def at_last_step(self, chosen: Bools) -> Bools:
        """Flags ``[T]`` in the rows of the last steps of the chosen episodes ``[E]``."""
        flags = np.zeros(self.rows, np.bool_)
        flags[self.ends[chosen] - 1] = True
        return flags

    def of_row(self, row: int) -> tuple[int, int]:
        """The episode that a row belongs to, and the row's place in it."""
        episode = int(np.searchsorted(self.starts, row, side="right")) - 1
        return episode, row - int(self.starts[episode])


@dataclass(frozen=True, eq=False, repr=False)
class Episode:
    """One episode of L steps; views of a dataset's arrays.

    Args:
        obs: ``[L + 1, N, O]``, the last one after the last action.
        state: ``[L + 1, S]``.
        action: ``[L, N, A]`` or ``[L, N]``.
        reward: ``[L]`` or ``[L, N]``.
        terminal: the task ended with the last step.
        truncated: the time limit ended the episode.
        action_mask: ``[L + 1, N, A]`` of discrete tasks, or None.
    """

    obs: Floats
    state: Floats
    action: NDArray[Any]
    reward: Floats
    terminal: bool
    truncated: bool
    action_mask: Bools | None = None

    def __len__(self) -> int:
        """Number of steps L."""
        return len(self.action)

    def __repr__(self) -> str:
        end = "time limit" if self.truncated else "cut"
        if self.terminal:
            end = "terminal"
        team = self.reward.mean(axis=1) if self.reward.ndim == 2 else self.reward
        return f"Episode({counted(len(self), 'step')}, return {float(team.sum()):.1f}, {end})"
