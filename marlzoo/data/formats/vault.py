"""OG-MARL's Flashbax Vaults: ``<scenario>.vlt/<uid>/`` with a tensorstore store, read without jax.

Arrays, B streams (seeds) of T recorded steps, N agents:

==================== =================================================================================
``observations.``    ``[B, T, N, O]``
``actions.``         ``[B, T, N]`` or ``[B, T, N, 1]`` integers, or ``[B, T, N, A]`` floats
``rewards.``         ``[B, T, N]``; team rewards are the same for all agents
``terminals.``       ``[B, T, N]`` 1 where the step ended the task
``truncations.``     ``[B, T, N]`` 1 where it reached the time limit
``infos.state.``     ``[B, T, S]``, if there is one
``infos.legals.``    ``[B, T, N, A]``, for discrete actions
==================== =================================================================================

Only the first ``vault_index`` entries of the time axis were recorded. Streams and episodes follow one another
without gaps; here neither is ever crossed.

Assumed: an episode ends where any agent's terminal or truncation is set, and at the end of a stream (a cut).
The observation after its last step was not recorded: it is that of the last step again, which a terminal end
never uses. Vaults made from OMIGA's HDF5 files are an exception: their flagged rows carry only the final
observation (``drop_terminal_rows``), and their ends after exactly ``horizon`` steps are time limits. Columns
that hold only minus infinity are OMAR's padding of shorter observations and become zeros.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Bools, Episodes, Ints
from marlzoo.data.formats._ocdbt import OcdbtArray
from marlzoo.data.formats._padding import cut, unpadded
from marlzoo.data.formats._steps import (
    as_flags,
    as_indices,
    count_actions,
    full_masks,
    is_litter,
    make_spec,
    places,
    read_ends,
    read_json,
    reading,
    require,
    require_choice,
    require_discrete,
    require_horizon,
    team_reward,
)
from marlzoo.data.formats._vault_folder import stores, unpacked
from marlzoo.spec import Spec
from marlzoo.system.zipped import ZIP_FAULTS

OBS = "observations."
ACTION = "actions."
REWARD = "rewards."
TERMINAL = "terminals."
TRUNCATED = "truncations."
STATE = "infos.state."
LEGAL = "infos.legals."
_OMIGA_ROWS = 1001  # of a full episode in OMIGA's HDF5 files, final observation included
_SOURCES = ("og_marl", "omiga", "omar", "cfcql", "alberdice", "oryx")
_WITH_PREY = ("simple_tag", "simple_world")


@dataclass(frozen=True)
class _Options:
    """How the arrays are read, see :func:`read_vault`; ``prey``: the last agent is OMAR's prey."""

    horizon: int | None
    agents: int | None
    prey: bool
    drop_terminal_rows: bool | None
    last_step: str
    action_clip: bool
    actions: int | None
    action_mask: str
    obs_sizes: Sequence[int] | None


@dataclass(frozen=True)
class _RecordedRows:
    """Recorded row of each canonical row ``[T]``, episode boundaries, flags ``[T]``, and the time limit."""

    index: Ints
    spans: Episodes
    terminal: Bools
    truncated: Bools
    horizon: int


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a vault's folder, one of the folders above it, or a zip file of such; never raises."""
    path = Path(path)
    try:
        if path.is_dir():
            return bool(stores(path))
        if not path.is_file() or not zipfile.is_zipfile(path):
            return False
        with zipfile.ZipFile(path) as archive:
            names = (name for name in archive.namelist() if not is_litter(name))
            return any(name.endswith("/manifest.ocdbt") for name in names)
    except ZIP_FAULTS:
        return False


def read_vault(
    path: str | os.PathLike[str],
    *,
    uid: str = "",
    task: str = "",
    horizon: int | None = None,
    agents: int | None = None,
    drop_terminal_rows: bool | None = None,
    last_step: Literal["repeat", "drop"] = "repeat",
    timeout_is_terminal: bool = False,
    limit_is_terminal: bool = True,
    action_clip: bool = True,
    actions: int | None = None,
    action_mask: Literal["", "all"] = "",
    obs_sizes: Sequence[int] | None = None,
) -> Dataset:
    """Read one vault.

    Args:
        path: folder ``<uid>`` or ``<scenario>.vlt``, a folder that holds one, or a zip file of it.
        uid: which vault of several, for instance ``Good``; case, hyphens and underscores do not matter.
        task: full task name; default: unknown.
        horizon: time limit in steps; default: the longest episode (1000 for OMIGA's).
        agents: use the first so many agents; default: all, but without the prey of OMAR's tag and world.
        drop_terminal_rows: flagged rows carry only a final observation; default: yes for continuous actions
            with episodes of at most 1001 rows, the longest of exactly so many (OMIGA's), else no.
        last_step: what becomes of an episode's last step where the end is no terminal: ``repeat`` takes its
            observation for the one after it, ``drop`` leaves the step out, as a recording that was cut before.
        timeout_is_terminal: count time-limit ends as terminal.
        limit_is_terminal: believe terminal flags at exactly the time limit; false reads them as time limits.
        action_clip: clip continuous actions to [-1, 1]; a warning tells how many lay outside.
        actions: number of discrete actions, where the vault has no masks and never shows the last.
        action_mask: ``all`` where the vault has no masks and every action is always legal.
        obs_sizes: entries of each agent's observation, where the vault pads shorter ones with a constant; default:
            only padding with minus infinity is known as such.

    Raises:
        MissingExtraError: tensorstore is not installed.
        DataError: no vault, several, a damaged one, or arrays of wrong shapes or values.
    """
    path = Path(path)
    with reading(path), unpacked(path, uid) as (folder, place):
        require_horizon(horizon)
        require_choice("action_mask", action_mask, ("", "all"))
        require(last_step in ("repeat", "drop"), f"last_step must be repeat or drop, not {last_step!r}")
        metadata = read_json(place / "metadata.json")
        version = metadata.get("version") if isinstance(metadata, dict) else None
        require(
            isinstance(version, int | float) and 1 <= version < 2, f"its version is {version}, expected 1"
        )
        store = OcdbtArray(place)
        parts = (*path.absolute().parts, *place.relative_to(folder).parts)
        prey = any(name in part for name in _WITH_PREY for part in parts)
        options = _Options(
            horizon=horizon,
            agents=agents,
            prey=prey,
            drop_terminal_rows=drop_terminal_rows,
            last_step=last_step,
            action_clip=action_clip,
            actions=actions,
            action_mask=action_mask,
            obs_sizes=obs_sizes,
        )
        dataset = _dataset(store, _card(parts, place.name, task), options)
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


def _dataset(store: OcdbtArray, card: Card, options: _Options) -> Dataset:
    streams, length, count = _sizes(store)
    team = options.agents if options.agents is not None else count - (options.prey and count > 1)
    require(1 <= team <= count, f"it has {count} agents, not {team}; change the option agents")
    discrete = store.dtype(ACTION).kind in "iub"
    notes: list[str] = []
    terminal, truncated = (_ends(store, name, (streams, length)) for name in (TERMINAL, TRUNCATED))
    episodes = _episodes(terminal, truncated, options, not discrete, notes)
    index = episodes.index
    obs, sizes = _observations(store, team, index, options.obs_sizes, notes)
    state = _state(store, index, notes)
    action, action_mask = _actions(store, count, discrete)
    reward, per_agent = team_reward(_flat(store, REWARD, (count,))[:, :team])
    if team < count:
        notes.append(f"the first {team} of {count} agents; rewards are theirs")
    spec = make_spec(
        n_agents=team,
        obs_size=obs.shape[2],
        state_size=int(np.prod(obs.shape[1:])) if state is None else state.shape[1],
        action_kind="discrete" if discrete else "continuous",
        action_size=_action_size(action, action_mask, options.actions, notes)
        if discrete
        else action.shape[2],
        horizon=episodes.horizon,
        obs_sizes=sizes,
        reward_per_agent=per_agent,
    )
    require_discrete(spec, actions=options.actions, action_mask=options.action_mask)
    masks = None if action_mask is None else action_mask[:, :team][index]
    if options.action_mask:
        masks = _asked_masks(spec, masks, len(obs), notes)

    def place(row: int) -> str:
        stream, step = divmod(int(index[row]), length)
        return f"step {step} of stream {stream}" if streams > 1 else f"step {step}"

    with places(place):
        return Dataset.create(
            spec,
            obs=obs,
            state=state,
            action=action[:, :team][index],
            reward=reward[index],
            action_mask=masks,
            terminal=episodes.terminal,
            truncated=episodes.truncated,
            starts=episodes.spans.starts,
            card=Card(**vars(card) | {"notes": tuple(notes)}),
            action_clip=options.action_clip,
        )


def _asked_masks(spec: Spec, own: NDArray[Any] | None, rows: int, notes: list[str]) -> NDArray[Any]:
    """Masks ``[T, N, A]`` that everything passes."""
    require(own is None, "it has masks of its own; leave the option action_mask out")
    notes.append("every action is always legal (action_mask=all)")
    return full_masks(spec, rows)


def _flat(store: OcdbtArray, name: str, tail: tuple[int | None, ...]) -> NDArray[Any]:
    """An array ``[B * T, ...]`` whose sizes behind the time axis are as asked for (None: any)."""
    shape = store.shape(name)
    lead = store.shape(OBS)[:2]
    fits = len(shape) == len(tail) + 2 and all(w in (None, n) for w, n in zip(tail, shape[2:], strict=True))
    require(
        fits and shape[:2] == lead, f"{name.rstrip('.')} has shape {shape}, which does not fit the others"
    )
    return store.read(name).reshape(-1, *shape[2:])


def _ends(store: OcdbtArray, name: str, shape: tuple[int, int]) -> Bools:
    """Flags ``[B, T]``: any agent's."""
    return as_flags(_flat(store, name, (None,)), name.rstrip(".")).any(axis=1).reshape(shape)


def _actions(store: OcdbtArray, agents: int, discrete: bool) -> tuple[NDArray[Any], NDArray[Any] | None]:
    rank = len(store.shape(ACTION))
    if not discrete:
        return _flat(store, ACTION, (agents, None)), None
    action = as_indices(_flat(store, ACTION, (agents, 1) if rank == 4 else (agents,)), "actions")
    action = action.reshape(len(action), agents)
    action_mask = (
        as_flags(_flat(store, LEGAL, (agents, None)), "infos.legals") if LEGAL in store.names else None
    )
    return action, action_mask


def _sizes(store: OcdbtArray) -> tuple[int, int, int]:
    """B, T and N."""
    shape = store.shape(OBS)
    require(len(shape) == 4, f"observations have shape {shape}, expected (B, T, N, O)")
    streams, length, count, _ = shape
    return streams, length, count


def _action_size(
    action: NDArray[Any], action_mask: NDArray[Any] | None, stated: int | None, notes: list[str]
) -> int:
    """Number of discrete actions."""
    size = count_actions(action, action_mask, stated)
    if action_mask is None and stated is None:
        notes.append(f"there are no masks: {size} actions, as many as the largest one that was taken shows")
    return size


def _observations(
    store: OcdbtArray, team: int, index: Ints, stated: Sequence[int] | None, notes: list[str]
) -> tuple[NDArray[Any], tuple[int, ...]]:
    """Observations ``[T, N, O]`` with zeros for their padding, and each agent's true size."""
    obs = _flat(store, OBS, (None, None))[:, :team][index]
    return unpadded(obs, notes) if stated is None else cut(obs, tuple(stated), notes)


def _state(store: OcdbtArray, index: Ints, notes: list[str]) -> NDArray[Any] | None:
    if STATE not in store.names:
        notes.append("there is no state; the agents' observations one after another stand for it")
        return None
    state = _flat(store, STATE, (None,))[index]
    padding = np.isneginf(state[0]) & np.isneginf(state).all(axis=0)
    if padding.any():
        state[:, padding] = 0
        notes.append(f"{int(padding.sum())} entries of the state hold only minus infinity and became zeros")
    return state


def _episodes(
    terminal: Bools, truncated: Bools, options: _Options, continuous: bool, notes: list[str]
) -> _RecordedRows:
    """Rows, episodes and flags from the flags ``[B, T]`` of all streams."""
    flagged = (terminal | truncated).reshape(-1)
    ends = (terminal | truncated).copy()
    ends[:, -1] = True
    lasts = np.flatnonzero(ends)
    lengths = np.diff(lasts, prepend=-1)
    dummies = options.drop_terminal_rows
    if dummies is None:
        dummies = continuous and int(lengths.max()) == _OMIGA_ROWS and bool(flagged.any())
    recorded = flagged[lasts]
    real = terminal.reshape(-1)[lasts]
    if dummies:
        require(
            options.last_step == "repeat",
            "the option last_step is about vaults without the observation after an episode's last step, but here "
            "flagged rows carry it; leave it out, or give drop_terminal_rows=false where they are steps",
        )
        final = np.ones(len(lasts), np.bool_)  # a stream's last row without a flag is a cut's final one, too
        limit = options.horizon or _OMIGA_ROWS - 1
        real = recorded & (lengths - 1 != limit)
        over = recorded & ~real
        notes.append(
            "flagged rows carry only the final observation (drop_terminal_rows); ends after exactly "
            f"{limit} steps are read as time limits, others as terminal"
        )
    else:
        final = ~real & (options.last_step == "drop")
        limit = options.horizon or int((lengths - final).max())
        over = recorded & ~real & ~final
        notes.append(_last_note(options.last_step))
    steps = lengths - final
    keep = steps > 0
    if not keep.all():
        notes.append(f"{int((~keep).sum())} episodes without a step are left out")
    require(bool(keep.any()), "no step is left of it")
    times = np.ones(flagged.size, np.int64)
    times[lasts[~final]] = 2
    times[lasts[~keep]] = 0
    steps = steps[keep]
    real = real[keep]
    over = over[keep]
    index = np.repeat(np.arange(flagged.size), times)
    spans = Episodes.from_lengths(steps)
    return _RecordedRows(index, spans, spans.at_last_step(real), spans.at_last_step(over), limit)


def _last_note(last_step: str) -> str:
    if last_step == "drop":
        return (
            "the observation after an episode's last step was not recorded: last steps that are no terminal are "
            "left out, terminal ones have their own observation in its place"
        )
    return "the observation after an episode's last step was not recorded: it is that of the last step again"


def _card(parts: tuple[str, ...], uid: str, task: str) -> Card:
    source = next((part for part in reversed(parts) if part.lower() in _SOURCES), "og-marl")
    return Card(task=task, source=source.lower().replace("_", "-"), quality=uid.lower())
