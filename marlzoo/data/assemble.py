"""Canonical rows from the layouts in which people keep their own data: flat steps, or a list of episodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marlzoo.console import counted
from marlzoo.data.episodes import Episodes
from marlzoo.data.given import (
    OBS,
    STATE,
    flags,
    legal,
    numbers,
    one_hot_note,
    team_or_own,
    with_axes,
    zeros_and_ones,
)
from marlzoo.data.validation import places, require_finite
from marlzoo.errors import DataError
from marlzoo.families import Task
from marlzoo.spec import ActionKind, Spec

EPISODE_KEYS = ("obs", "action", "reward", "terminal", "truncated", "state", "action_mask")


@dataclass(frozen=True)
class Rows:
    """Canonical arrays, as :meth:`marlzoo.data.dataset.Dataset.create` takes them, and what had to be assumed.

    ``place`` says where a canonical row is in what was given, ``bounds_known`` whether it says where episodes begin.
    With ``last_masks_filled`` the masks of final rows were not given and are still to be filled.
    """

    arrays: dict[str, NDArray[Any] | None]
    place: Callable[[int], str]
    notes: tuple[str, ...] = ()
    bounds_known: bool = True
    last_masks_filled: bool = False


def rows_of_steps(
    obs: ArrayLike,
    action: ArrayLike,
    reward: ArrayLike,
    terminal: ArrayLike,
    timeout: ArrayLike | None = None,
    next_obs: ArrayLike | None = None,
    *,
    state: ArrayLike | None = None,
    next_state: ArrayLike | None = None,
    action_mask: ArrayLike | None = None,
    next_action_mask: ArrayLike | None = None,
) -> Rows:
    """Rows of M flat steps; see :meth:`marlzoo.data.dataset.Dataset.from_steps`.

    Raises:
        DataError: arrays of different lengths or shapes, or next observations that contradict the order of the steps.
    """
    steps = {
        "obs": with_axes("obs", obs, OBS),
        "action": numbers("action", action),
        "reward": team_or_own(reward),
    }
    m, agents = steps["obs"].shape[:2]
    over = flags("terminal", terminal, m, agents)
    late = np.zeros(m, np.bool_) if timeout is None else flags("timeout", timeout, m, agents)
    following = {"obs": next_obs, "state": next_state, "action_mask": next_action_mask}
    if state is not None:
        steps["state"] = with_axes("state", state, STATE)
    if action_mask is not None:
        steps["action_mask"] = legal("action_mask", action_mask, agents)
    for name, array in steps.items():
        if len(array) != m:
            raise DataError(
                f"{name} has {len(array)} steps, obs has {m}; every array needs one entry per step"
            )
    lasts = _lasts(over, late)
    if next_obs is None:
        for name, value in (("next_state", next_state), ("next_action_mask", next_action_mask)):
            if value is not None:
                raise DataError(f"{name} is given without next_obs; give both or none")
        return _without_next(steps, over, late, lasts)
    after = {k: numbers(f"next_{k}", v) for k, v in following.items() if v is not None}
    _require_next(steps, after, m)
    if "action_mask" in after:
        after["action_mask"] = legal("next_action_mask", after["action_mask"], agents)
    with places(lambda row: f"step {row}"):  # NaN differs from itself, which is no fault of the order
        for name, array in (("obs", steps["obs"]), ("next_obs", after["obs"])):
            require_finite(array.astype(np.float64) if array.dtype.kind == "O" else array, name)
    _require_order(steps["obs"], after["obs"], lasts)
    return _with_next(steps, after, over, late, lasts)


def _with_next(
    steps: Mapping[str, NDArray[Any]],
    after: Mapping[str, NDArray[Any]],
    over: NDArray[np.bool_],
    late: NDArray[np.bool_],
    lasts: NDArray[np.int64],
) -> Rows:
    """Every episode keeps all its steps; its last row is what the last step led to."""
    episodes = Episodes.from_lengths(np.diff(lasts, prepend=-1))
    arrays: dict[str, NDArray[Any] | None] = {"starts": episodes.starts}
    for name, values in steps.items():
        rows = np.zeros((episodes.rows, *values.shape[1:]), values.dtype)
        rows[episodes.step_rows] = values
        if name in after:
            rows[episodes.ends] = after[name][lasts]
        arrays[name] = rows
    for name, ended in (("terminal", over), ("truncated", late & ~over)):
        rows = np.zeros(episodes.rows, np.bool_)
        rows[episodes.step_rows] = ended
        arrays[name] = rows

    def place(row: int) -> str:
        episode, _ = episodes.of_row(row)
        final = row == int(episodes.ends[episode])
        return f"step {row - episode - final}" + (" (what it led to)" if final else "")

    filled = "action_mask" in steps and "action_mask" not in after
    return Rows(arrays, place, one_hot_note([steps["action"]]), last_masks_filled=filled)


def _without_next(
    steps: Mapping[str, NDArray[Any]],
    over: NDArray[np.bool_],
    late: NDArray[np.bool_],
    lasts: NDArray[np.int64],
) -> Rows:
    """Without next observations the step that a time limit ended has no successor, and is left out.

    Its observation becomes the episode's final one. After a terminal step nothing is bootstrapped, so the step's own
    observation stands in for the final one.
    """
    lengths = np.diff(lasts, prepend=-1)
    ended = over[lasts]
    if (~ended & (lengths < 2)).any():
        episode = int(np.argmax(~ended & (lengths < 2)))
        raise DataError(
            f"episode {episode} has a single step (step {lasts[episode]}), and what it led to is not known; give "
            "next_obs, or leave the episode out"
        )
    # Rows: all steps, and a repeated one after every terminal end.
    source = np.repeat(np.arange(len(over)), 1 + (over & np.isin(np.arange(len(over)), lasts)))
    episodes = Episodes.from_lengths(lengths + ended - 1)
    arrays: dict[str, NDArray[Any] | None] = {"starts": episodes.starts}
    for name, values in steps.items():
        arrays[name] = values[source]
    arrays["terminal"] = episodes.at_last_step(ended)
    arrays["truncated"] = episodes.at_last_step(~ended & late[lasts])
    notes = list(one_hot_note([steps["action"]]))
    told = bool((over | late).any())
    if not told:
        notes.append(f"no step ends an episode: all {len(over)} steps are read as one")
    if (~ended).any():
        notes.append(
            f"{counted(int((~ended).sum()), 'episode')} without a terminal end lost the last step: without "
            "next_obs its successor is not known"
        )
    if ended.any():
        notes.append("final observations of terminal episodes repeat the last one: next_obs was not given")
    return Rows(arrays, lambda row: f"step {int(source[row])}", tuple(notes), told)


def rows_of_episodes(episodes: Iterable[Mapping[str, Any]]) -> Rows:
    """Rows of a list of episodes; see :meth:`marlzoo.data.dataset.Dataset.from_episodes`.

    Raises:
        DataError: an episode lacks a key, has an unknown one, or has arrays of the wrong length.
    """
    if isinstance(episodes, Mapping):
        raise DataError("episodes is a dictionary; give a list of them, also of a single one: [episode]")
    episodes = list(episodes)
    if not episodes:
        raise DataError("there is no episode; give at least one")
    parts: dict[str, list[NDArray[Any]]] = {}
    starts = []
    row = 0
    for number, episode in enumerate(episodes):
        place = f"episode {number}"
        if not isinstance(episode, Mapping):
            raise DataError(
                f"{place} is of type {type(episode).__name__}; an episode is a dictionary with "
                f"{', '.join(EPISODE_KEYS)} (the last four optional). Some episodes of a dataset: episodes_subset"
            )
        unknown = sorted(episode.keys() - set(EPISODE_KEYS))
        missing = [key for key in EPISODE_KEYS[:3] if key not in episode]
        if unknown or missing:
            what = f"lacks {', '.join(missing)}" if missing else f"has the unknown key {unknown[0]!r}"
            raise DataError(
                f"{place} {what}; an episode has {', '.join(EPISODE_KEYS)} (the last four optional)"
            )
        steps = len(numbers(f"{place}: action", episode["action"]))
        if not steps:
            raise DataError(f"{place} has no action; leave episodes without a step out")
        for name, array in _episode_rows(episode, steps, place).items():
            parts.setdefault(name, []).append(array)
        starts.append(row)
        row += steps + 1
    uneven = [name for name, arrays in parts.items() if len(arrays) != len(episodes)]
    if uneven:
        raise DataError(
            f"{len(parts[uneven[0]])} of {len(episodes)} episodes have {uneven[0]}; give it in all or in none"
        )
    _require_one_shape(parts)
    arrays: dict[str, NDArray[Any] | None] = {name: np.concatenate(found) for name, found in parts.items()}
    spans = Episodes(np.asarray(starts, np.int64), row)

    def place_of(found: int) -> str:
        number, step = spans.of_row(found)
        return f"episode {number}, step {step}"

    return Rows(
        arrays | {"starts": spans.starts}, place_of, one_hot_note([part[:-1] for part in parts["action"]])
    )


def _require_one_shape(parts: Mapping[str, Sequence[NDArray[Any]]]) -> None:
    """Refuse episodes whose steps have other shapes than those of the first one."""
    for name, arrays in parts.items():
        for number, array in enumerate(arrays):
            if array.shape[1:] != arrays[0].shape[1:]:
                raise DataError(
                    f"episode {number}: a step's {name} has shape {array.shape[1:]}, in episode 0 it has "
                    f"{arrays[0].shape[1:]}; give one shape in all episodes, rows of smaller agents filled with zeros"
                )


def _episode_rows(episode: Mapping[str, Any], steps: int, place: str) -> dict[str, NDArray[Any]]:
    rows: dict[str, NDArray[Any]] = {}
    for name in ("obs", "state", "action_mask"):
        if name in episode:
            given = f"{place}: {name}"
            array = legal(given, episode[name]) if name == "action_mask" else numbers(given, episode[name])
            if len(array) != steps + 1:
                raise DataError(
                    f"{place}: {name} has {len(array)} rows for {steps} actions; it needs {steps + 1}, the last one "
                    "after the last action"
                )
            rows[name] = array
    for name in ("action", "reward"):
        array = numbers(f"{place}: {name}", episode[name])
        if len(array) != steps:
            raise DataError(
                f"{place}: {name} has {len(array)} entries for {steps} actions; give one per action"
            )
        array = team_or_own(array) if name == "reward" else array
        rows[name] = np.concatenate((array, np.zeros_like(array[:1])))
    for name in ("terminal", "truncated"):
        flag = zeros_and_ones(f"{place}: {name}", episode.get(name, False), single=True)
        if flag.ndim > 1 or (flag.ndim == 1 and (len(flag) != steps or flag[:-1].any())):
            raise DataError(
                f"{place}: {name} must be one flag, which is about the episode's last step (or one flag per step, "
                f"true in the last one only); it has shape {flag.shape}"
            )
        rows[name] = np.zeros(steps + 1, np.bool_)
        rows[name][steps - 1] = flag.reshape(-1)[-1]
    rows["truncated"] &= ~rows["terminal"]  # an episode that ended by itself was not cut by the limit
    return rows


def spec_of(arrays: Mapping[str, NDArray[Any] | None], spec: Spec | None, **told: Any) -> Spec:
    """The spec that is given, or that of the task, or else the one that arrays show.

    Args:
        arrays: canonical ones.
        spec: the one that is given.
        told: the options of :func:`guess_spec`.

    Raises:
        DataError: an option that contradicts the spec, numbers where an agent of the task has none; or see
            :func:`guess_spec`.
    """
    if spec is None:
        return _of_task(guess_spec(arrays, **told), arrays, **told)
    stated = {"horizon": spec.horizon, "n_actions": spec.action_size if spec.discrete else None}
    for name, value in stated.items():
        if told[name] not in (None, value):
            raise DataError(
                f"{name} is {told[name]}, but the spec says {value}; leave {name} out, or change the spec"
            )
    return spec


def _of_task(
    shown: Spec,
    arrays: Mapping[str, NDArray[Any] | None],
    *,
    task: str,
    n_actions: int | None,
    horizon: int | None,
) -> Spec:
    """The spec of a task that is known here, where the arrays have its shapes; else the one that they show.

    Arrays show neither the sizes of smaller agents, nor the time limit, nor an action that nobody took. A time limit
    that is told, or that the data exceed, is that of a task with other options than its defaults; so is a number of
    actions that is told.
    """
    found = Task.parse(task)
    if not found.exists:
        return shown
    spec = found.spec
    layout = spec.layout()
    given = {name: array for name, array in arrays.items() if array is not None and name in layout}
    same_shapes = all(array.shape[1:] == layout[name].shape for name, array in given.items())
    same_limit = shown.horizon == spec.horizon if horizon else shown.horizon <= spec.horizon
    same_actions = shown.action_kind == spec.action_kind and n_actions in (None, spec.action_size)
    if not (same_actions and same_shapes and same_limit):
        return shown
    require_padding(given, spec)
    return spec


def require_padding(arrays: Mapping[str, NDArray[Any]], spec: Spec) -> None:
    """Refuse numbers beyond an agent's own entries: the arrays' agents are not the task's then.

    Raises:
        DataError: names the agent.
    """
    padded = (
        {"obs": spec.obs_sizes} if spec.discrete else {"obs": spec.obs_sizes, "action": spec.action_sizes}
    )
    for name, sizes in padded.items():
        for agent, size in enumerate(sizes):
            if arrays[name][:, agent, size:].any():
                raise DataError(
                    f"{name} of agent {agent} has numbers behind its {size} entries in {spec.task}; give the task "
                    "that the data are of, or write zeros there"
                )


def guess_spec(
    arrays: Mapping[str, NDArray[Any] | None],
    *,
    task: str = "",
    n_actions: int | None = None,
    horizon: int | None = None,
) -> Spec:
    """The spec that arrays show: integer actions are discrete, the time limit is the longest episode.

    Args:
        arrays: canonical ones.
        task: full task name, or empty.
        n_actions: number of discrete actions; default: those of the mask, or as many as the largest one taken shows.
        horizon: time limit in steps; default: the longest episode's length.

    Raises:
        DataError: the arrays have other numbers of axes than those of a team, or a number is not positive.
    """
    for name, value in (("horizon", horizon), ("n_actions", n_actions)):
        if value is not None and value < 1:
            raise DataError(f"{name} is {value}; it must be a positive number")
    obs = arrays["obs"]
    action = arrays["action"]
    starts = arrays["starts"]
    assert obs is not None
    assert action is not None
    assert starts is not None
    if obs.ndim != 3:
        raise DataError(
            f"a step's obs has shape {obs.shape[1:]}; for N agents it is [N, O], entries by agent (one agent: N = 1)"
        )
    discrete = action.dtype.kind in "iu"
    if n_actions is not None and not discrete:
        raise DataError(
            "n_actions is about discrete actions, but action holds floats; leave it out, or give integers"
        )
    if action.ndim != (2 if discrete else 3):
        wanted = "[N] integers" if discrete else "[N, A] floats; discrete ones are [N] integers"
        raise DataError(
            f"a step's action has shape {action.shape[1:]}; for N agents it is {wanted} (one agent: N = 1)"
        )
    mask = arrays.get("action_mask")
    state = arrays.get("state")
    reward = arrays["reward"]
    assert reward is not None
    size = action.shape[-1]
    if discrete:
        size = n_actions or (mask.shape[-1] if mask is not None else int(action.max(initial=0)) + 1)
    longest = int(Episodes(starts, len(obs)).lengths.max())
    kind: ActionKind = "discrete" if discrete else "continuous"
    return Spec(
        n_agents=obs.shape[1],
        obs_size=obs.shape[2],
        state_size=obs.shape[1] * obs.shape[2] if state is None else state.shape[-1],
        action_kind=kind,
        action_size=size,
        horizon=horizon or longest,
        reward_per_agent=reward.ndim == 2,
        task=task,
    )


def _lasts(over: NDArray[np.bool_], late: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Last step of every episode; the last step of all ends one in any case."""
    if not len(over):
        raise DataError("there is no step; give at least one")
    ends = over | late
    ends[-1] = True
    return np.flatnonzero(ends).astype(np.int64)


def _require_next(steps: Mapping[str, NDArray[Any]], after: Mapping[str, NDArray[Any]], m: int) -> None:
    for name, array in after.items():
        if name not in steps:
            raise DataError(f"next_{name} is given without {name}; give both or none")
        if array.shape != steps[name].shape:
            raise DataError(
                f"next_{name} has shape {array.shape}, {name} has {steps[name].shape}; they must agree"
            )
    if "state" in steps and "state" not in after:
        raise DataError(
            "state is given without next_state, which is needed where next_obs is given: an episode's final "
            "observation has a state, too"
        )


def _require_order(obs: NDArray[Any], following: NDArray[Any], lasts: NDArray[np.int64]) -> None:
    """Within an episode the next observation is that of the step below."""
    inside = np.ones(len(obs) - 1, np.bool_)
    inside[lasts[:-1]] = False
    wrong = inside & (following[:-1] != obs[1:]).any(axis=tuple(range(1, obs.ndim)))
    if wrong.any():
        step = int(np.argmax(wrong))
        raise DataError(
            f"next_obs of step {step} is not the observation of step {step + 1}, and no flag ends an episode there; "
            "mark the ends in timeout, and keep the steps in order"
        )
