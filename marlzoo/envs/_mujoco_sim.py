"""Copies of one robot stepped together in float64, without teams."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._mujoco_legacy import legacy_model, modern_model, require_mujoco
from marlzoo.envs._mujoco_robots import Array, Fields, Robot
from marlzoo.envs.base import Bools, Ids
from marlzoo.errors import MarlzooError, pip_install


@dataclass(slots=True)
class RobotStep:
    """What one step of n copies gave, each ``[n]``; ``unstable``: the engine gave the copy up."""

    reward: Array
    alive: Bools
    unstable: Bools


class Contacts:
    """Contact forces of each copy, as Gymnasium computes them after every step.

    ``mj_step`` leaves ``cfrc_ext`` out, and a sensor would compute it at another stage of the integrator; so it is
    asked of each copy in turn.

    Args:
        model: of the robot.
        batch: of its copies, persistent, which keeps the contacts of the last stage.

    Attributes:
        forces: ``cfrc_ext`` ``[E, bodies, 6]`` of the last step, zero before it.
    """

    def __init__(self, model: Any, batch: Any) -> None:
        self._mujoco = require_mujoco()
        self._model = model
        self._batch = batch
        self._data = self._mujoco.MjData(model)
        self.forces: Array = np.zeros((batch.nsim, model.nbody, 6))

    def update(self, ids: Ids) -> None:
        """Compute the forces of the copies ``ids``."""
        for copy in ids:
            self._batch.get_data(copy, self._data)
            self._mujoco.mj_rnePostConstraint(self._model, self._data)
            self.forces[copy] = self._data.cfrc_ext


class RobotSim:
    """E copies of one robot on ``mujoco.batch``.

    Args:
        robot: which one.
        num_envs: number of copies E.
        threads: worker threads, at least 1; None: one per core this process may use. Never more than E.
            The numbers do not depend on it.
    """

    def __init__(self, robot: Robot, num_envs: int, threads: int | None = None) -> None:
        mujoco = require_mujoco()
        self.robot = robot
        self.num_envs = num_envs
        self.model = (modern_model if robot.modern else legacy_model)(robot.asset, robot.total_mass)
        self._check_sizes()
        if threads is None:
            threads = (
                len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            )
        self.threads = max(1, min(threads, num_envs))
        self.init_qpos: Array = np.array(self.model.qpos0)
        self._masses: Array = np.array(self.model.body_mass)
        touching = robot.contact_penalty is not None
        self._batch = mujoco.batch.Batch(self.model, num_envs, self.threads, persistent=touching)
        self._fields = {name: self._batch.bind(name) for name in ("qpos", "qvel", *robot.fields)}
        self._contacts: Contacts | None = None
        if touching:
            self._contacts = Contacts(self.model, self._batch)
            self._fields["cfrc_ext"] = self._contacts.forces
        self._control = self._batch.bind("ctrl")
        self._warm = self._batch.bind("qacc_warmstart")
        kinds = (
            mujoco.mjtWarning.mjWARN_BADQPOS,
            mujoco.mjtWarning.mjWARN_BADQVEL,
            mujoco.mjtWarning.mjWARN_BADQACC,
        )
        self._faults = [int(kind) for kind in kinds]
        self._no_stage = int(mujoco.mjtStage.mjSTAGE_NONE)

    def _check_sizes(self) -> None:
        robot = self.robot
        model = self.model
        found = (model.nq, model.nv, model.nu, round(model.opt.timestep, 9))
        wanted = (robot.nq, robot.nv, robot.nu, robot.timestep)
        if found != wanted or not np.array_equal(
            np.abs(model.actuator_ctrlrange), np.full((robot.nu, 2), robot.control)
        ):
            raise MarlzooError(
                f"gymnasium's {robot.asset}.xml is not the {robot.name}-{robot.version} robot: (nq, nv, nu, "
                f"timestep) are {found} instead of {wanted}, or its control range differs from ±{robot.control}. "
                f"Install a known release: {pip_install('gymnasium')}"
            )

    def fields(self, ids: Ids | None = None) -> Fields:
        """Engine fields of the copies ``ids`` (all when None; then live views)."""
        return self._fields if ids is None else {name: field[ids] for name, field in self._fields.items()}

    def observe(self, ids: Ids | None = None) -> Array:
        """Full observations ``[n, obs_size]``."""
        return self.robot.observe(self.fields(ids))

    def set_state(self, ids: Ids, qpos: Array, qvel: Array, warm: Array | None = None) -> None:
        """Reset copies to states ``[n, nq]``, ``[n, nv]``; ``warm [n, nv]`` is the solver's warm start."""
        self._batch.reset(ids, stage=self._no_stage)
        self._fields["qpos"][ids] = qpos
        self._fields["qvel"][ids] = qvel
        self._batch.forward(ids)
        if self._contacts is not None:
            self._contacts.forces[ids] = 0.0  # the tasks compute them after steps alone
        if warm is not None:
            self._warm[ids] = warm

    def measure(self, ids: Ids | None = None) -> Array:
        """The quantity ``[n]`` that the reward uses (see :class:`Robot`), as a copy."""
        return np.array(self.robot.measure(self.fields(ids), self._masses))

    def step(self, control: Array, ids: Ids | None = None, before: Array | None = None) -> RobotStep:
        """One environment step (``frame_skip`` physics steps) of the copies ``ids`` (all when None).

        Args:
            control: ``[n, nu]`` in the engine's range; beyond it the engine clips, the action cost does not.
            ids: the copies to step.
            before: the measured quantity before the step, where it is known better than the fields show.
        """
        rows: Ids | slice = slice(None) if ids is None else ids
        if before is None:
            before = self.measure(ids)
        faults = self._fault_count(rows)
        self._control[rows] = control
        self._batch.step(ids, nstep=self.robot.frame_skip)
        unstable = self._fault_count(rows) > faults
        if self._contacts is not None:
            self._contacts.update(np.arange(self.num_envs)[rows])
        fields = self.fields(ids)
        alive = np.ones(len(control), np.bool_) if self.robot.alive is None else self.robot.alive(fields)
        reward = self.robot.reward(before, self.measure(ids), control, alive)
        if self.robot.contact_penalty is not None:
            reward -= self.robot.contact_penalty(fields)
        # The engine resets a copy that blows up; the old wrapper raised. Its reward would be meaningless.
        reward[unstable] = 0.0
        return RobotStep(reward, alive & ~unstable, unstable)

    def _fault_count(self, rows: Ids | slice) -> NDArray[np.int64]:
        counts: NDArray[np.int64] = self._batch.warning[rows][:, self._faults, 1].sum(axis=1)
        return counts

    def versions(self) -> dict[str, str]:
        """What the physics depends on, as plain values."""
        import gymnasium

        return {
            "engine": "mujoco",
            "engine_version": str(require_mujoco().__version__),
            "gymnasium": str(gymnasium.__version__),
            "physics": "v5" if self.robot.modern else "v2-legacy",
        }

    def close(self) -> None:
        """Drop the simulations and their threads."""
        self._fields = {}
        self._contacts = None
        self._batch = None
