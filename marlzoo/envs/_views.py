"""Observations of a team's agents: three ways to derive them from the robot's full observation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._local import local_observations, padded_columns
from marlzoo.envs._mujoco_robots import Array, Robot
from marlzoo.envs._standardized import recover_raw, standardize
from marlzoo.errors import MismatchError

Recover = Callable[[NDArray[np.floating]], Array]


class View(Protocol):
    """How observations are made and, where they determine the simulator's state, undone.

    Attributes:
        joined: whether the state is the observations end to end, rather than :meth:`state`.
        recover: full observations ``[B, F]`` of the agents' ``[B, N, O]``; None where these see too little.
        recover_state: full observations ``[B, F]`` of states ``[B, S]``; None where these tell too little, or where
            published data have states of other kinds.
    """

    joined: bool

    @property
    def recover(self) -> Recover | None: ...

    @property
    def recover_state(self) -> Recover | None: ...

    def observe(self, raw: Array, qvel: Array) -> Array:
        """Observations ``[n, N, O]`` of full observations ``[n, F]`` and velocities ``[n, nv]``."""

    def state(self, raw: Array) -> Array:
        """States ``[n, S]`` of full observations."""


class Standardized:
    """OMIGA's: everybody sees everything, one-hot appended, standardized over its own entries."""

    joined = True
    recover_state = None

    def __init__(self, n_agents: int) -> None:
        self.n_agents = n_agents

    def observe(self, raw: Array, qvel: Array) -> Array:
        """See :class:`View`."""
        return standardize(raw, self.n_agents)

    def state(self, raw: Array) -> Array:
        """See :class:`View`."""
        return raw

    def recover(self, obs: NDArray[np.floating]) -> Array:
        """See :class:`View`."""
        return recover_raw(obs)


class LocalView:
    """Joints up to a distance of the agent's own; the state is the whole observation.

    Args:
        columns: of ``[full observation, qvel, 0]`` that each agent sees; see :mod:`marlzoo.envs._local` and
            :mod:`marlzoo.envs._gmamujoco_teams`.
        robot: the robot.
        recoverable: whether published data have that state, too.
    """

    joined = False
    recover = None

    def __init__(self, columns: Sequence[Sequence[int]], robot: Robot, recoverable: bool = False) -> None:
        self._columns = padded_columns(columns, robot.obs_size + robot.nv)
        self.recover_state = self._recover_state if recoverable else None

    def observe(self, raw: Array, qvel: Array) -> Array:
        """See :class:`View`."""
        return local_observations(raw, qvel, self._columns)

    def state(self, raw: Array) -> Array:
        """See :class:`View`."""
        return raw

    def _recover_state(self, state: NDArray[np.floating]) -> Array:
        """See :class:`View`."""
        return state.astype(np.float64)


class Selected:
    """Columns of the full observation, raw (MOMA-PPO).

    Args:
        robot: the robot.
        sees: columns of each agent, in order; shorter rows are padded with zeros.
        size: leading columns that make the state.
    """

    joined = False

    def __init__(self, robot: Robot, sees: tuple[tuple[int, ...], ...], size: int) -> None:
        self.robot = robot
        self._sees = sees
        self._size = size
        self._columns = padded_columns(sees, robot.obs_size)  # that column of a padded observation is zero
        # The Reacher's vector to its target follows from the rest.
        needed = size - 3 if robot.reaches else size
        seen = {column for columns in sees for column in columns}
        self.recover = self._recover if set(range(needed)) <= seen else None

    def observe(self, raw: Array, qvel: Array) -> Array:
        """See :class:`View`."""
        return np.concatenate([raw, np.zeros((len(raw), 1))], axis=1)[:, self._columns]

    def state(self, raw: Array) -> Array:
        """See :class:`View`."""
        return raw[:, : self._size]

    def _recover(self, obs: NDArray[np.floating]) -> Array:
        """See :class:`View`; columns that several agents see are taken from the first.

        Raises:
            MismatchError: agents disagree about a column that they both see.
        """
        raw = np.zeros((len(obs), self.robot.obs_size))
        known: set[int] = set()
        for agent, columns in enumerate(self._sees):
            for k, column in enumerate(columns):
                value = obs[:, agent, k].astype(np.float64)
                if column in known:
                    off = np.flatnonzero(np.abs(value - raw[:, column]) > 1e-4)
                    if len(off):
                        raise MismatchError(
                            f"in row {off[0]}, agent {agent} sees another value than others in column {column}. "
                            "Either the file is broken or these are observations of another team"
                        )
                else:
                    raw[:, column] = value
                    known.add(column)
        if self.robot.reaches and not {8, 9} <= known:
            shoulder = np.arctan2(raw[:, 2], raw[:, 0])
            elbow = shoulder + np.arctan2(raw[:, 3], raw[:, 1])
            raw[:, 8] = 0.1 * np.cos(shoulder) + 0.11 * np.cos(elbow) - raw[:, 4]
            raw[:, 9] = 0.1 * np.sin(shoulder) + 0.11 * np.sin(elbow) - raw[:, 5]
        return raw

    def recover_state(self, state: NDArray[np.floating]) -> Array:
        """See :class:`View`; the columns that a state leaves out are zeros (the Ant's contact forces)."""
        return np.pad(state.astype(np.float64), ((0, 0), (0, self.robot.obs_size - self._size)))
