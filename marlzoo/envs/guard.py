"""A batched environment whose answers are checked: a fault of the simulator ends the run as its own fault.

Without it a NaN reward would look like a learner that diverged, and an exception in a simulator be a traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._time_limit import OverdueError, call_seconds, overdue, time_limit
from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.errors import MarlzooError, SpecError

T = TypeVar("T")


class Guard:
    """``reset`` and ``step`` of an environment with every answer checked.

    Args:
        env: the environment.

    Raises:
        SpecError: from both methods: the environment raised or ended the process, returned arrays of a wrong shape or
            type, NaN or infinity, went on beyond its time limit, or did not return within ten minutes (environment
            variable ``MARLZOO_ENV_SECONDS``; this package's own simulators are trusted). The text names the task,
            the copy and the step. Outside the main thread, and on Windows, a call that does not return ends the
            process with this text and status 1.
    """

    def __init__(self, env: BatchedEnv) -> None:
        self.env = env
        self._time = np.zeros(env.num_envs, np.int64)
        self._seconds = call_seconds() if env.may_hang else 0.0

    def reset(self, ids: Ids | None = None) -> Observation:
        """See :meth:`marlzoo.envs.base.BatchedEnv.reset`."""
        self._time[slice(None) if ids is None else ids] = 0
        seen = self._call("reset", lambda: self.env.reset(ids))
        rows = self._rows(ids)
        self._require_observation(seen, "reset", rows)
        self._require_choice(seen, rows)
        return seen

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        """See :meth:`marlzoo.envs.base.BatchedEnv.step`."""
        rows = self._rows(ids)
        self._time[rows] += 1
        step = self._call("step", lambda: self.env.step(action, ids))
        if not isinstance(step, Step):
            raise self._fault(f"step returned a {type(step).__name__}, not a Step")
        self._require_observation(step, "step", rows)
        env = self.env
        spec = self.env.spec
        per_agent = (spec.n_agents,) if spec.reward_per_agent else ()
        self._require_array("reward", step.reward, (env.num_envs, *per_agent), "f")
        self._require_finite("reward", step.reward, rows)
        for name, flag in (("terminal", step.terminal), ("truncated", step.truncated)):
            self._require_array(name, flag, (env.num_envs,), "b")
        if env.can_win:
            self._require_array("info['win']", step.info.get("win"), (env.num_envs,), "b")
        going = rows[~(step.terminal | step.truncated)[rows]]
        self._require_choice(step, going)
        endless = going[self._time[going] >= spec.horizon]
        if len(endless):
            raise self._fault(
                f"copy {endless[0]} did not end at its time limit of {spec.horizon} steps; set truncated there, or "
                "the spec's horizon to the environment's own limit"
            )
        return step

    def _rows(self, ids: Ids | None) -> NDArray[np.intp]:
        return np.arange(self.env.num_envs) if ids is None else np.asarray(ids, np.intp)

    def _call(self, name: str, method: Callable[[], T]) -> T:
        try:
            with time_limit(self._seconds, lambda: str(self._overdue(name))):
                return method()
        except OverdueError:
            raise self._overdue(name) from None
        except (Exception, SystemExit) as error:
            if isinstance(error, MarlzooError):
                raise
            cause = ": ".join([type(error).__name__, *str(error).strip().splitlines()[:1]])[:200]
            raise self._fault(f"{self._called(name)} failed ({cause})") from error

    def _overdue(self, name: str) -> SpecError:
        return self._fault(overdue(self._called(name), self._seconds))

    def _called(self, name: str) -> str:
        return f"step {int(self._time.max(initial=0))}" if name == "step" else "reset"

    def _require_observation(self, seen: Any, name: str, rows: NDArray[np.intp]) -> None:
        env = self.env
        spec = self.env.spec
        if not isinstance(seen, Observation):
            raise self._fault(f"{name} returned a {type(seen).__name__}, not an Observation")
        self._require_array("obs", seen.obs, (env.num_envs, spec.n_agents, spec.obs_size), "f")
        self._require_array("state", seen.state, (env.num_envs, spec.state_size), "f")
        if spec.discrete:
            self._require_array(
                "action_mask", seen.action_mask, (env.num_envs, spec.n_agents, spec.action_size), "b"
            )
        for what, values in (("observation", seen.obs), ("state", seen.state)):
            self._require_finite(what, values, rows)

    def _require_choice(self, seen: Observation, rows: NDArray[np.intp]) -> None:
        """Every agent of copies that go on has a legal action."""
        if seen.action_mask is None:
            return
        stuck = rows[~seen.action_mask[rows].any(-1).all(-1)]
        if len(stuck):
            agent = int(np.argmin(seen.action_mask[stuck[0]].any(-1)))
            raise self._fault(
                f"agent {agent} of copy {stuck[0]} has no legal action; make action 0 legal there"
            )

    def _require_array(self, name: str, found: Any, shape: tuple[int, ...], kind: str) -> None:
        wanted = {"f": "floats", "b": "booleans"}[kind]
        if not isinstance(found, np.ndarray) or found.shape != shape or found.dtype.kind != kind:
            is_array = isinstance(found, np.ndarray)
            what = f"{found.dtype} of shape {found.shape}" if is_array else type(found).__name__
            raise self._fault(f"{name} is {what}, its spec asks for {wanted} of shape {shape}")

    def _require_finite(self, name: str, values: NDArray[Any], rows: NDArray[np.intp]) -> None:
        finite = np.isfinite(values[rows])
        if not finite.all():
            copy = int(rows[np.argwhere(~finite)[0][0]])
            what = "NaN" if np.isnan(values[copy]).any() else "infinity"
            raise self._fault(f"returned {what} ({name} of copy {copy} at step {int(self._time[copy])})")

    def _fault(self, text: str) -> SpecError:
        return SpecError(f"environment {self.env.task}: {text}")
