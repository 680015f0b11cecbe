"""Replay recordings of Gym's -v2 MuJoCo tasks through the environment's own model, reward and termination.

    python -m tests.replay_check FILE...      (from the root of the checkout)

A recording ``replay_<Robot>-v2.npz`` holds one row per transition: ``qpos qvel act nqpos nqvel nobs rew done
traj t frame_skip dt``, optionally ``warm`` (the solver's warm start), ``obs`` (Reacher) and ``xposb`` (Ant).
Every row is one step from its own recorded state, so errors do not pile up.

What a reward needs from before the step:

- HalfCheetah, Hopper, Walker2d, Swimmer: the root's x, in the recorded state. All rows count.
- Reacher: the vector to the target as the previous stepping call left it, in the recorded ``obs``.
- Ant: the torso's x as the previous call left it, which is ``xposb`` of the row before; Humanoid: the center
  of mass as the previous call left it, found by stepping the row before. At t = 0 both follow from the
  state. Rows without the row before them in the file have no known reward and are left out (and counted).

Exit status: 0 within tolerance, 1 beyond it, 2 a file cannot be read.
"""

from __future__ import annotations

import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._mujoco_robots import ROBOTS, Array, Robot
from marlzoo.envs._mujoco_sim import RobotSim
from marlzoo.errors import DataError, MarlzooError

CHUNK = 256
NEEDED = ("qpos", "qvel", "act", "nqpos", "nqvel", "nobs", "rew", "done", "traj", "t", "frame_skip", "dt")
OPTIONAL = ("warm", "obs", "xposb", "M_body_mass")  # recordings hold more, which is not looked at


@dataclass(frozen=True)
class Tolerance:
    """Largest errors that pass: median, 95th percentile, maximum.

    The Newton-solved robots agree to rounding, apart from rows in which a contact opens or closes within
    rounding of the step's time grid. The Humanoid's PGS solver stops after 50 iterations, unconverged.
    """

    state: tuple[float, float, float] = (1e-11, 1e-7, 1e-3)
    reward: tuple[float, float, float] = (1e-10, 1e-6, 2e-2)


EXACT = Tolerance()
UNCONVERGED = Tolerance(state=(5e-5, 1e-2, 1.0), reward=(1e-5, 1e-3, 1e-1))


@dataclass
class Report:
    """Errors of one recording, one entry per transition; ``reward`` only where it is known."""

    name: str
    state: Array
    observation: Array
    reward: Array
    left_out: int
    terminal_mismatches: int
    mass_difference: float | None
    tolerance: Tolerance

    @property
    def passed(self) -> bool:
        """Whether all errors are within the tolerance and no terminal flag differs."""
        return self.terminal_mismatches == 0 and all(
            len(errors) > 0 and bool((quantiles(errors) <= limits).all())
            for errors, limits in ((self.state, self.tolerance.state), (self.reward, self.tolerance.reward))
        )

    def text(self) -> str:
        """Readable lines."""
        lines = [f"{self.name}: {len(self.state)} transitions"]
        for label, errors, limits in (
            ("state error      ", self.state, self.tolerance.state),
            ("observation error", self.observation, None),
            ("reward error     ", self.reward, self.tolerance.reward),
        ):
            values = quantiles(errors) if len(errors) else [np.nan] * 3
            line = "median {:.1e}  95th percentile {:.1e}  maximum {:.1e}".format(*values)
            allowed = "" if limits is None else "  (allowed {:.0e}, {:.0e}, {:.0e})".format(*limits)
            lines.append(f"  {label}  {line}{allowed}")
        lines.append(f"  terminal mismatches {self.terminal_mismatches}; rewards left out {self.left_out}")
        if self.mass_difference is not None:
            lines.append(f"  largest difference of a body's mass {self.mass_difference:.1e} kg")
        lines.append("  agrees" if self.passed else "  DOES NOT AGREE")
        return "\n".join(lines)


def quantiles(errors: Array) -> Array:
    """Median, 95th percentile and maximum; NaN counts as infinite."""
    finite = np.where(np.isnan(errors), np.inf, errors)
    return np.array([np.quantile(finite, q, method="higher") for q in (0.5, 0.95, 1.0)])


def robot_of(path: Path) -> Robot:
    """The robot named by ``replay_<Robot>-v2.npz``."""
    for robot in ROBOTS.values():
        if f"_{robot.name}-v2".lower() in path.name.lower():
            return robot
    known = ", ".join(f"replay_{robot.name}-v2.npz" for robot in ROBOTS.values())
    raise DataError(f"{path}: the file name names no robot. Expected one of: {known}")


def read(path: Path, robot: Robot) -> dict[str, NDArray[np.float64]]:
    """The arrays of a recording, checked against the robot's sizes."""
    try:
        with np.load(path, allow_pickle=False) as file:
            data = {key: np.asarray(file[key], np.float64) for key in (*NEEDED, *OPTIONAL) if key in file}
    except (OSError, ValueError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: not a readable recording ({error})") from error
    missing = [key for key in NEEDED if key not in data]
    if robot.reaches and "obs" not in data:
        missing.append("obs")
    if missing:
        raise DataError(f"{path}: arrays missing: {', '.join(missing)}")
    rows = len(data["qpos"])
    sizes = {"qpos": robot.nq, "qvel": robot.nv, "act": robot.nu, "nqpos": robot.nq, "nqvel": robot.nv}
    sizes |= {"nobs": robot.obs_size, "warm": robot.nv, "obs": robot.obs_size, "xposb": 3}
    shapes = {key: (rows, size) for key, size in sizes.items()}
    for key, shape in {**shapes, **dict.fromkeys(("rew", "done", "traj", "t"), (rows,))}.items():
        if key in data and data[key].shape != shape:
            raise DataError(f"{path}: {key} has shape {data[key].shape}, expected {shape}")
    if rows == 0:
        raise DataError(f"{path}: the recording is empty")
    if data["frame_skip"] != robot.frame_skip or not np.isclose(data["dt"], robot.dt):
        raise DataError(
            f"{path}: frame_skip {data['frame_skip']} and dt {data['dt']} are not {robot.name}-v2's"
        )
    return data


def follows(data: dict[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """Rows ``[T]`` whose preceding step in the episode is the row before them in the file."""
    out = np.zeros(len(data["t"]), np.bool_)
    out[1:] = (np.diff(data["traj"]) == 0) & (np.diff(data["t"]) == 1)
    return out


def check(path: Path) -> Report:
    """Replay one recording.

    Raises:
        DataError: the file cannot be read or is not a recording of the robot it names.
    """
    robot = robot_of(path)
    data = read(path, robot)
    total = len(data["qpos"])
    sim = RobotSim(robot, min(CHUNK, total))
    start, after = np.zeros(total), np.zeros(total)
    state, observation = np.zeros(total), np.zeros(total)
    alive = np.zeros(total, np.bool_)
    for first in range(0, total, sim.num_envs):
        rows = np.arange(first, min(first + sim.num_envs, total))
        ids = rows - first
        sim.set_state(
            ids, data["qpos"][rows], data["qvel"][rows], data["warm"][rows] if "warm" in data else None
        )
        start[rows] = sim.measure(ids)
        step = sim.step(data["act"][rows], ids)
        after[rows], alive[rows] = sim.measure(ids), step.alive
        fields = sim.fields(ids)
        wrong_qpos = np.abs(fields["qpos"] - data["nqpos"][rows]).max(axis=1)
        state[rows] = np.maximum(wrong_qpos, np.abs(fields["qvel"] - data["nqvel"][rows]).max(axis=1))
        observation[rows] = np.abs(sim.observe(ids) - data["nobs"][rows]).max(axis=1)
    before, known = before_step(robot, data, start, after)
    reward = robot.reward(before, after, data["act"])
    masses = data.get("M_body_mass")
    return Report(
        path.name,
        state,
        observation,
        np.abs(reward - data["rew"])[known],
        left_out=int((~known).sum()),
        terminal_mismatches=int((alive == data["done"].astype(bool)).sum()),
        mass_difference=None if masses is None else float(np.abs(masses - sim.model.body_mass).max()),
        tolerance=UNCONVERGED if robot.name == "Humanoid" else EXACT,
    )


def before_step(
    robot: Robot, data: dict[str, NDArray[np.float64]], start: Array, after: Array
) -> tuple[Array, NDArray[np.bool_]]:
    """The measured quantity before each step as the recording's engine had it, and where it is known.

    Args:
        robot: the robot.
        data: its recording.
        start: the quantity computed from each recorded state.
        after: the quantity that stepping each row left.
    """
    everywhere = np.ones(len(start), np.bool_)
    if robot.reaches:
        return np.asarray(np.linalg.norm(data["obs"][:, -3:], axis=1)), everywhere
    if not robot.lagging:
        return start, everywhere
    left = data["xposb"][:, 0] if robot.name == "Ant" and "xposb" in data else after
    follower, fresh = follows(data), data["t"] == 0
    before = np.where(follower, np.concatenate([[0.0], left[:-1]]), start)
    return before, follower | fresh


def main(arguments: list[str]) -> int:
    """Check every file named on the command line; the exit status."""
    if not arguments:
        print(__doc__, file=sys.stderr)
        return 2
    status = 0
    for argument in arguments:
        try:
            report = check(Path(argument))
        except MarlzooError as error:
            print(f"error: {error}", file=sys.stderr)
            status = 2
            continue
        print(report.text())
        if not report.passed:
            status = max(status, 1)
    return status


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
