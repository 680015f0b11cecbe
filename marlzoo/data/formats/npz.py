"""Canonical arrays in one npz file, for programs that know numpy only.

Members: ``obs [T, N, O]``, ``action [T, N, A]`` or ``[T, N]`` integers, ``reward [T]`` or ``[T, N]``,
``terminal [T]``, ``truncated [T]``, ``starts [E]``; ``state [T, S]`` where it is not the observations,
``action_mask [T, N, A]`` for discrete actions, and ``header``, the bytes of a JSON text with spec and card. An
episode of L steps has L + 1 rows, the last with the final observation only; flags belong to the step taken from a
row.

Files of others may leave ``header``, ``truncated`` (also ``timeouts``, ``truncations``) and ``starts`` out. Assumed
then: all rows without ``starts`` are one episode; the time limit is the longest episode; integer actions are
discrete, and as many as the largest (or the mask) shows.

A file of plain transitions has ``next_obs [T, N, O]`` (or ``next_observations``) and one row per step, without rows
of final observations. There an episode ends with a flag, before a row that ``starts`` names, and where the next
observation is not that of the row below. A ``state`` then needs ``next_state``; masks of final observations may be
in ``next_action_mask``, otherwise every action is legal there.
"""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Episodes
from marlzoo.data.fitting import LIMIT_ASSUMED, SIZES_ASSUMED, fitted
from marlzoo.data.formats._plain import PLAIN, find_bounds
from marlzoo.data.formats._steps import (
    as_flags,
    count_actions,
    full_masks,
    make_spec,
    places,
    read_ends,
    reading,
    require,
    require_choice,
    require_discrete,
    require_horizon,
    step_place,
)
from marlzoo.data.hdf5 import allocate
from marlzoo.errors import DataError, SpecError
from marlzoo.families import Task, task_spec
from marlzoo.spec import Spec
from marlzoo.system.files import atomic_write, sealed, unsealed
from marlzoo.system.zipped import ZIP_FAULTS, read_member

REQUIRED = ("obs", "action", "reward", "terminal")
OPTIONAL = ("truncated", "starts", "state", "action_mask", "header")
# What others call these.
ALIASES = {"timeouts": "truncated", "truncations": "truncated", "next_observations": "next_obs"}
_FLAGS = ("terminal", "truncated", "action_mask", "next_action_mask")
_KINDS = {"header": "u", **dict.fromkeys((*_FLAGS, "timeouts", "truncations"), "fiub")}


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a zip file with most of the required members; never raises."""
    try:
        if not Path(path).is_file() or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            return len({f"{name}.npy" for name in REQUIRED} & set(archive.namelist())) >= 3
    except ZIP_FAULTS:
        return False


def read_npz(
    path: str | os.PathLike[str],
    *,
    task: str | None = None,
    horizon: int | None = None,
    timeout_is_terminal: bool = False,
    limit_is_terminal: bool = True,
    action_clip: bool = True,
    verify: bool = True,
    actions: int | None = None,
    action_mask: Literal["", "all"] = "",
) -> Dataset:
    """Read a file with the members above.

    Args:
        path: the file.
        task: full task name; default: the header's. A file without a header takes sizes and time limit from it.
        horizon: time limit in steps; default: the header's, or the longest episode.
        timeout_is_terminal: count time-limit ends as terminal.
        limit_is_terminal: believe terminal flags at exactly the time limit; false reads them as time limits.
        action_clip: clip continuous actions to [-1, 1]; a warning tells how many lay outside.
        verify: compare the content with the hash in the header's card.
        actions: number of discrete actions, where the file has neither header nor masks and never shows the last.
        action_mask: ``all`` where the file has no masks and every action is always legal.

    Raises:
        DataError: the file is missing, damaged, lacks a member, or has wrong shapes, types or values, or is
            of another task or horizon than asked for.
    """
    path = Path(path)
    with reading(path):
        require_horizon(horizon)
        require_choice("action_mask", action_mask, ("", "all"))
        arrays, notes = _members(path)
        members = set(arrays)
        header = arrays.pop("header", None)
        arrays |= {name: as_flags(_flat(arrays[name], name), name) for name in _FLAGS if name in arrays}
        bounds_known = find_bounds(arrays, header is not None, notes)
        spec, card = _guess(arrays, horizon, actions) if header is None else _header(header)
        require(horizon in (None, spec.horizon), f"its horizon is {spec.horizon}, not {horizon}")
        require_discrete(spec, actions=actions, action_mask=action_mask)
        require(
            actions in (None, spec.action_size),
            f"its header says that there are {spec.action_size} actions, not {actions}; leave the option actions out",
        )
        require(task is None or card.task in ("", task), f"it is of the task {card.task}, not of {task}")
        fitting = header is None and horizon is None and Task.parse(task or "").exists
        if action_mask:
            require("action_mask" not in arrays, "it has masks of its own; leave the option action_mask out")
            arrays["action_mask"] = full_masks(spec, len(arrays["obs"]))
            notes.append("every action is always legal (action_mask=all)")
            card = replace(card, content_hash="")
        card = replace(
            card,
            task="" if fitting else task or card.task,
            notes=(*card.notes, *notes),
            bounds_known=card.bounds_known and bounds_known,
        )
        spans = Episodes(arrays["starts"], len(arrays["obs"])) if "next_obs" in members else None
        with places(lambda row: f"row {row}" if spans is None else step_place(spans, row)):
            dataset = Dataset.create(spec, **arrays, card=card, action_clip=action_clip, verify=verify)
        if fitting:
            dataset = fitted(dataset, task_spec(str(task)))
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


def write_npz(dataset: Dataset, path: str | os.PathLike[str]) -> Dataset:
    """Write a dataset uncompressed, in one step.

    Returns:
        The dataset with the card as written, its content hash filled in.

    Raises:
        OutputError: the file cannot be written; nothing is left of it.
    """
    dataset = dataset.with_card(replace(dataset.card, content_hash=dataset.content_hash))
    header = {"spec": dataset.spec.to_dict(), "card": dataset.card.to_dict()}
    text = json.dumps(sealed(header), sort_keys=True)
    arrays: dict[str, NDArray[Any]] = {**dataset.own_arrays, "starts": dataset.starts}
    arrays["header"] = np.frombuffer(text.encode(), np.uint8)
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **arrays)
    return dataset


def _members(path: Path) -> tuple[dict[str, NDArray[Any]], list[str]]:
    """The arrays by their names here, and a note about members that are not understood."""
    require(path.is_file(), "no such file; check the path")
    try:
        with zipfile.ZipFile(path) as archive:
            names = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
            missing = [name for name in REQUIRED if name not in names]
            require(not missing, f"missing array {', '.join(missing)}; it has {', '.join(sorted(names))}")
            found: dict[str, NDArray[Any]] = {}
            for name in (*REQUIRED, *OPTIONAL, *PLAIN, *ALIASES):
                if name not in names:
                    continue
                kinds = _KINDS.get(name, "fiu")
                plain = ALIASES.get(name, name)
                array = read_member(archive, name, path.stat().st_size, kinds=kinds, allocate=allocate)
                same = plain not in found or np.array_equal(array.ravel(), found[plain].ravel())
                require(same, f"{plain} and {name} say different things; leave one of them out")
                found[plain] = array
    except DataError:
        raise
    except ZIP_FAULTS as error:
        raise DataError("is cut off or damaged; fetch or make it again") from error
    others = sorted(names - {*REQUIRED, *OPTIONAL, *PLAIN, *ALIASES})
    return found, [f"the members {', '.join(others)[:200]} are not used"] if others else []


def _flat(array: NDArray[Any], name: str) -> NDArray[Any]:
    """Flags ``[T, 1]`` as ``[T]``."""
    column = array.ndim == 2 and array.shape[1] == 1 and name not in ("action_mask", "next_action_mask")
    return array[:, 0] if column else array


def _header(values: NDArray[Any]) -> tuple[Spec, Card]:
    try:
        found = unsealed(json.loads(values.tobytes()), "its header")
        return Spec.from_dict(found["spec"]), Card.from_dict(found["card"])
    except DataError:
        raise
    except (SpecError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        cause = f"{type(error).__name__}: {error}"
        raise DataError(f"its header is broken ({cause}); make the file again") from error


def _guess(arrays: dict[str, NDArray[Any]], horizon: int | None, actions: int | None) -> tuple[Spec, Card]:
    """Spec of a file without a header."""
    obs = arrays["obs"]
    action = arrays["action"]
    reward = arrays["reward"]
    require(obs.ndim == 3 and len(obs) > 0, f"obs has shape {obs.shape}, expected (T, N, O)")
    rows, agents, _ = obs.shape
    discrete = action.dtype.kind in "iu"
    if discrete and action.shape == (rows, agents, 1):
        arrays["action"] = action = action[..., 0]
    fits = action.ndim == (2 if discrete else 3) and action.size > 0
    wanted = (
        "integers (T, N)" if discrete else "floats (T, N, A) where continuous, integers (T, N) where discrete"
    )
    require(fits, f"action has shape {action.shape} and type {action.dtype}, expected {wanted}")
    if agents > 1 and reward.shape == (rows, 1):
        arrays["reward"] = reward = reward[:, 0]  # of the team
    action_mask = arrays.get("action_mask")
    state = arrays.get("state")
    require(action_mask is None or action_mask.ndim == 3, "action_mask must have three dimensions")
    require(state is None or state.ndim == 2, "state must have two dimensions")
    starts = arrays["starts"]
    require(starts.ndim == 1 and len(starts) > 0, "starts must be a list of row numbers")
    longest = int(np.diff(np.append(starts, len(obs)).astype(np.float64)).max()) - 1
    spec = make_spec(
        n_agents=agents,
        obs_size=obs.shape[2],
        state_size=int(np.prod(obs.shape[1:])) if state is None else state.shape[1],
        action_kind="discrete" if discrete else "continuous",
        action_size=count_actions(action, action_mask, actions) if discrete else action.shape[-1],
        horizon=horizon or max(1, longest),
        reward_per_agent=reward.ndim == 2,
    )
    notes = [SIZES_ASSUMED]
    if horizon is None:
        notes.append(LIMIT_ASSUMED)
    if discrete and action_mask is None and actions is None:
        notes.append(f"{spec.action_size} actions, as many as the largest one that was taken shows")
    return spec, Card(notes=tuple(notes))
