"""Checks that every registered environment passes; see :func:`env_battery`.

A failed check raises ``AssertionError`` (or what the environment itself raised).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs.base import BatchedEnv, Bools, Floats, Ids, Observation, Step
from marlzoo.errors import MarlzooError
from marlzoo.families import make_env, task_spec
from marlzoo.spec import Spec
from marlzoo.testing.battery import Check

NUM_ENVS = 4
EPISODES = 12  # that a random team plays to the end
Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class EnvCase:
    """An environment to be tested.

    Args:
        task: its full name.
        make: ``make(num_envs)`` makes it.
        spec: its shape as listed without the simulator.
        steps: how far the checks play that compare trajectories.
        most: steps after which random play stops at the latest.
    """

    task: str
    make: Callable[[int], BatchedEnv]
    spec: Callable[[], Spec]
    steps: int = 12
    most: int = 1200


def env_battery(
    task: str,
    make: Callable[[int], BatchedEnv] | None = None,
    *,
    spec: Callable[[], Spec] | None = None,
    steps: int = 12,
    most: int = 1200,
    **options: Any,
) -> list[Check]:
    """All checks of an environment.

    Args:
        task: its full name.
        make: makes it with the given number of copies; default: by its name, from the registry.
        spec: its shape without the simulator; default: from the registry, or that of one copy where ``make``
            is given.
        steps: how far the checks play that compare trajectories.
        most: steps after which random play stops at the latest.
        options: of the task, where it is made by name.
    """
    if make is None:
        make = partial(make_env, task, **options)
        listed = partial(task_spec, task, **options)
    else:
        listed = partial(_shape_of, make)
    case = EnvCase(task, make, spec or listed, steps, most)
    return [Check(f"{check.__name__}-{task}", partial(check, case)) for check in CHECKS]


def spec_is_the_listed_one(case: EnvCase, folder: Path) -> None:
    """``spec()`` without a simulator equals the environment's; name, copies and metadata are what they must be."""
    with _made(case, 3) as env:
        assert env.spec == case.spec()
        assert env.task == case.task
        assert env.num_envs == 3
        assert isinstance(env.metadata, dict)
        json.dumps(env.metadata)  # data state it: plain values only


def shapes_and_types(case: EnvCase, folder: Path) -> None:
    """Every array has its shape and type, after a reset and after a step; padding is zero."""
    with _made(case, 3) as env:
        spec = env.spec
        rng = np.random.default_rng(0)
        seen = env.reset()
        for _ in range(3):
            _check_observation(seen, spec, 3)
            seen = env.step(random_actions(env, seen, rng))
            _check_observation(seen, spec, 3)
            shape = (3, spec.n_agents) if spec.reward_per_agent else (3,)
            _check_array(seen.reward, shape, np.float32)
            for flag in (seen.terminal, seen.truncated):
                _check_array(flag, (3,), np.bool_)
            for name, values in seen.info.items():
                assert values.shape == (3,), name
            assert not env.can_win or seen.info["win"].dtype == np.bool_
            _restart(env, seen)


def same_seed_same_episode(case: EnvCase, folder: Path) -> None:
    """The same seeds and actions give the same numbers, in another object and after seeding again."""
    with _made(case, NUM_ENVS) as env, _made(case, NUM_ENVS) as other:
        first = _play(env, case.steps)
        _assert_equal(first, _play(other, case.steps))
        _assert_equal(first, _play(env, case.steps))


def copies_do_not_depend_on_each_other(case: EnvCase, folder: Path) -> None:
    """A copy with another index, among other copies that do other things, plays the same episode."""
    rng = np.random.default_rng(1)
    with _made(case, NUM_ENVS) as env, _made(case, 1) as alone:
        env.seed([8, 3, 7, 5])
        alone.seed([7])
        many = env.reset()
        one = alone.reset()
        for _ in range(case.steps):
            _assert_equal(_arrays(many, [2]), _arrays(one, [0]))
            action = random_actions(env, many, rng)
            many = env.step(action)
            one = alone.step(action[[2]])
            if _over(one)[0]:
                many = env.reset(np.flatnonzero(_over(many)))
                one = alone.reset()
            elif _over(many).any():
                many = env.reset(np.flatnonzero(_over(many)))


def legal_actions(case: EnvCase, folder: Path) -> None:
    """Discrete tasks always offer an action, refuse illegal ones by name and leave the state as it was."""
    with _made(case, 2) as env:
        seen = env.reset()
        rng = np.random.default_rng(0)
        if not env.spec.discrete:
            assert seen.action_mask is None
            return
        for _ in range(case.steps):
            assert seen.action_mask is not None
            assert seen.action_mask.any(-1).all(), "an agent has no legal action"
            fine = random_actions(env, seen, rng)
            before = _arrays(seen)
            for bad in _illegal(fine, seen.action_mask):
                try:
                    env.step(bad)
                except MarlzooError:
                    continue
                raise AssertionError(f"an illegal action was taken: {bad.tolist()}")
            nothing = env.step(fine, np.array([], np.intp))
            _assert_equal(_arrays(nothing)["obs"], before["obs"])
            seen = env.step(fine)
            if _over(seen).any():
                seen = env.reset(np.flatnonzero(_over(seen)))


def single_copies_are_reset(case: EnvCase, folder: Path) -> None:
    """Resetting some copies changes neither the observations nor the course of the others."""
    some = np.array([1, 3])
    others = [0, 2]
    with _made(case, NUM_ENVS) as env, _made(case, NUM_ENVS) as plain:
        for e in (env, plain):
            e.seed([1, 2, 3, 4])
        seen = env.reset()
        rng = np.random.default_rng(2)
        plain.reset()
        action = random_actions(env, seen, rng)
        seen = env.step(action)
        untouched = plain.step(action)
        before = _arrays(seen, others)
        seen = env.reset(some)
        _assert_equal(_arrays(seen, others), before)
        if not _over(untouched).any():
            action = random_actions(env, seen, rng)
            action[others] = random_actions(plain, untouched, rng)[others]
            ids = np.array(others)
            _assert_equal(_arrays(env.step(action, ids), others), _arrays(plain.step(action, ids), others))
        _check_observation(env.reset(np.array([], np.intp)), env.spec, NUM_ENVS)


def copies_that_are_not_stepped_stay(case: EnvCase, folder: Path) -> None:
    """Copies outside ``ids`` keep their observations and clocks, have no reward and do not end."""
    with _made(case, NUM_ENVS) as env, _made(case, NUM_ENVS) as whole:
        for e in (env, whole):
            e.seed([5, 6, 7, 8])
        seen = env.reset()
        rng = np.random.default_rng(3)
        whole.reset()
        before = _arrays(seen)
        action = random_actions(env, seen, rng)
        part = env.step(_spoiled(action, [0, 2], env), np.array([1, 3]))
        _assert_equal(_arrays(part, [0, 2]), {name: before[name][[0, 2]] for name in before})
        assert not part.reward[[0, 2]].any()
        assert not _over(part)[[0, 2]].any()
        moved = _step_arrays(part, [1, 3])
        later = env.step(_spoiled(action, [1, 3], env), np.array([0, 2]))
        full = whole.step(action)
        _assert_equal(moved, _step_arrays(full, [1, 3]))
        _assert_equal(_step_arrays(later, [0, 2]), _step_arrays(full, [0, 2]))
        nothing = env.step(action, np.array([], np.intp))
        assert not nothing.reward.any()
        assert not _over(nothing).any()


def time_limit_is_not_terminal(case: EnvCase, folder: Path) -> None:
    """No step is both kinds of end; the time limit comes at the horizon, not before and not after."""
    with _made(case, NUM_ENVS) as env:
        time = np.zeros(NUM_ENVS, int)
        rng = np.random.default_rng(4)
        seen = env.reset()
        for turn in range(min(case.most, 2 * env.spec.horizon + 2)):
            ids = np.arange(NUM_ENVS) if turn % 3 else np.arange(1, NUM_ENVS)  # clocks run apart
            step = env.step(random_actions(env, seen, rng), ids)
            time[ids] += 1
            assert not (step.terminal & step.truncated).any()
            assert (time[step.truncated] == env.spec.horizon).all(), "cut before the time limit"
            assert _over(step)[time == env.spec.horizon].all(), "went on beyond the time limit"
            seen = step
            over = np.flatnonzero(_over(step))
            if len(over):
                seen = env.reset(over)
                time[over] = 0


def random_play_is_finite(case: EnvCase, folder: Path) -> None:
    """A random team plays many episodes: everything stays finite, and they all end."""
    with _made(case, NUM_ENVS) as env:
        ended = 0
        rng = np.random.default_rng(5)
        seen = env.reset()
        for _ in range(case.most):
            step = env.step(random_actions(env, seen, rng))
            for name, values in _step_arrays(step).items():
                assert np.isfinite(values).all(), name
            ended += int(_over(step).sum())
            if ended >= EPISODES:
                return
            seen = _restart(env, step)
        limit = env.spec.horizon * (EPISODES // NUM_ENVS + 1)
        assert case.most < limit, f"{ended} episodes ended within {case.most} steps"


CHECKS = (
    spec_is_the_listed_one,
    shapes_and_types,
    same_seed_same_episode,
    copies_do_not_depend_on_each_other,
    legal_actions,
    single_copies_are_reset,
    copies_that_are_not_stepped_stay,
    time_limit_is_not_terminal,
    random_play_is_finite,
)


def random_actions(env: BatchedEnv, seen: Observation, rng: np.random.Generator) -> NDArray[Any]:
    """Uniform actions of all copies: ``[E, N, A]`` in the box, or ``[E, N]`` among the legal ones."""
    spec = env.spec
    shape = (env.num_envs, env.spec.n_agents, env.spec.action_size)
    if not spec.discrete:
        return rng.uniform(-1, 1, shape).astype(np.float32)
    assert seen.action_mask is not None, "a discrete task shows the legal actions"
    return np.asarray(np.where(seen.action_mask, rng.random(shape), -1.0).argmax(-1))


class _made:  # noqa: N801 - a context manager, called like a function
    """An environment that is closed in the end."""

    def __init__(self, case: EnvCase, num_envs: int) -> None:
        self.env = case.make(num_envs)

    def __enter__(self) -> BatchedEnv:
        return self.env

    def __exit__(self, *error: object) -> None:
        self.env.close()


def _shape_of(make: Callable[[int], BatchedEnv]) -> Spec:
    env = make(1)
    env.close()
    return env.spec


def _over(step: Step | Observation) -> Bools:
    assert isinstance(step, Step)
    return step.terminal | step.truncated


def _restart(env: BatchedEnv, step: Step) -> Observation:
    over = np.flatnonzero(_over(step))
    return env.reset(over) if len(over) else step


def _arrays(seen: Observation, num_envs: list[int] | Ids | None = None) -> Arrays:
    """Copies of what is shown, of some copies."""
    rows: Any = slice(None) if num_envs is None else num_envs
    shown = {"obs": seen.obs[rows].copy(), "state": seen.state[rows].copy()}
    return shown if seen.action_mask is None else {**shown, "action_mask": seen.action_mask[rows].copy()}


def _step_arrays(step: Step, num_envs: list[int] | Ids | None = None) -> Arrays:
    rows: Any = slice(None) if num_envs is None else num_envs
    earned = {
        "reward": step.reward[rows].copy(),
        "terminal": step.terminal[rows].copy(),
        "truncated": step.truncated[rows].copy(),
    }
    return _arrays(step, num_envs) | earned | {k: v[rows].copy() for k, v in step.info.items()}


def _play(env: BatchedEnv, steps: int) -> Arrays:
    """What random play from fixed seeds shows and earns."""
    env.seed([11, 12, 13, 14])
    rng = np.random.default_rng(6)
    shown = Arrays()
    seen = env.reset()
    for t in range(steps):
        step = env.step(random_actions(env, seen, rng))
        shown |= {f"{name} after step {t + 1}": values for name, values in _step_arrays(step).items()}
        seen = _restart(env, step)
        shown |= {f"{name} before step {t + 2}": values for name, values in _arrays(seen).items()}
    return shown


def _assert_equal(mine: Arrays | Floats, theirs: Arrays | Floats) -> None:
    if isinstance(mine, dict) and isinstance(theirs, dict):
        assert mine.keys() == theirs.keys()
        for name, values in mine.items():
            np.testing.assert_array_equal(values, theirs[name], err_msg=name)
    else:
        np.testing.assert_array_equal(mine, theirs)


def _check_observation(seen: Observation, spec: Spec, num_envs: int) -> None:
    _check_array(seen.obs, (num_envs, spec.n_agents, spec.obs_size), np.float32)
    _check_array(seen.state, (num_envs, spec.state_size), np.float32)
    assert np.isfinite(seen.obs).all()
    assert np.isfinite(seen.state).all()
    for agent, size in enumerate(spec.obs_sizes):
        assert not seen.obs[:, agent, size:].any(), f"agent {agent}: padding is not zero"
    if not spec.discrete:
        assert seen.action_mask is None
        return
    assert seen.action_mask is not None
    _check_array(seen.action_mask, (num_envs, spec.n_agents, spec.action_size), np.bool_)
    for agent, size in enumerate(spec.action_sizes):
        assert not seen.action_mask[:, agent, size:].any(), (
            f"agent {agent}: an action beyond its own is legal"
        )


def _check_array(values: NDArray[Any], shape: tuple[int, ...], dtype: Any) -> None:
    assert values.shape == shape
    assert values.dtype == np.dtype(dtype)


def _illegal(fine: NDArray[Any], action_mask: Bools) -> Iterator[NDArray[Any]]:
    """Joint actions with one illegal entry: out of the range on both sides, and masked ones."""
    for value in (-1, action_mask.shape[-1]):
        bad = fine.copy()
        bad[-1, -1] = value
        yield bad
    for copy, agent, action in np.argwhere(~action_mask)[:3]:
        bad = fine.copy()
        bad[copy, agent] = action
        yield bad


def _spoiled(action: NDArray[Any], num_envs: list[int], env: BatchedEnv) -> NDArray[Any]:
    """Actions whose rows of ``num_envs``, which must be ignored, are nonsense."""
    spoiled = action.copy()
    spoiled[num_envs] = -7 if env.spec.discrete else np.nan
    return spoiled
