"""D4RL's single-robot files read as teams, in MOMA-PPO's partitions (:mod:`marlzoo.envs._moma_teams`).

Root arrays of the HDF5 files, N steps: ``observations [N, O]``, ``actions [N, A]``, ``rewards [N]``,
``terminals [N]``, ``timeouts [N]``, and in ``-v2`` files ``next_observations [N, O]``. MOMA-PPO's Reacher files
(``dataset.pkl``, ``mix_*.pt``) are read as pickled dictionaries of the same arrays, with ``time_out_masks`` for
``timeouts``, by :mod:`marlzoo.system.unpickle`, which executes nothing.

Assumed: rows are in the order of recording. An episode ends with a terminal, with a time-out, with the last
row, and where the next observation is further than 1e-6 from the one below. An end that is no terminal is a
time limit if it is flagged or comes after exactly ``horizon`` steps, else a cut. Without ``next_observations``
the observation after an episode's last step is unknown: the step is kept with its own observation in that
place where it is terminal, and left out where it is not. The state is the robot's whole observation (the Ant's
first 27 columns; the others are zeros).
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Bools, Ints
from marlzoo.data.formats._steps import (
    Layout,
    Pieces,
    as_flags,
    converted_rows,
    make_spec,
    places,
    read_ends,
    reading,
    require,
    require_horizon,
    row_pieces,
    step_place,
)
from marlzoo.data.hdf5 import column, is_hdf5, keys, open_hdf5
from marlzoo.envs._moma_teams import ROBOTS, Indices, RobotTeam, robot_team, team_names
from marlzoo.errors import DataError
from marlzoo.system.unpickle import is_torch, load_pickle, load_torch

KEYS = ("observations", "actions", "rewards", "terminals")
JUMP = 1e-6
PAPER_CLIP = 1 - 1e-5  # MOMA-PPO's bound on actions
_PICKLED = re.compile(r"dataset\.pkl|mix_.*\.pt")
_QUALITY = re.compile(r"(?P<quality>full[_-]replay|medium[_-]replay|medium[_-]expert|random|medium|expert)")
_MAX_PICKLE = 4 << 30


@dataclass(frozen=True)
class _Source:
    """Arrays of a file, in memory or on the disk; ``next_obs`` and ``timeouts`` may be missing."""

    obs: Any
    action: Any
    reward: Any
    terminal: Bools
    timeout: Bools | None
    next_obs: Any

    @property
    def steps(self) -> int:
        return len(self.terminal)


@dataclass(frozen=True)
class _Plan:
    """Which steps are kept ``[K]``, their layout, and each episode's end.

    Attributes:
        final: step whose observation is an episode's final one ``[E]``.
        from_next: whether it is that step's next observation instead ``[E]``.
    """

    kept: Ints
    layout: Layout
    final: Ints
    from_next: Bools
    terminal: Bools
    truncated: Bools


def sniff(path: str | os.PathLike[str]) -> bool:
    """Whether a file has D4RL's keys, or the name of one of MOMA-PPO's pickles; never raises."""
    if _PICKLED.fullmatch(Path(path).name):
        return Path(path).is_file()
    if not is_hdf5(path):
        return False
    try:
        with open_hdf5(path) as file:
            return len({*keys(file)}.intersection(KEYS)) >= 3
    except DataError:
        return False


def read_d4rl(
    path: str | os.PathLike[str],
    *,
    team: str = "",
    robot: str = "",
    task: str = "",
    horizon: int | None = None,
    drop_timeouts: bool = False,
    reward_mode: Literal["reward", "normalized"] = "reward",
    paper_clip: bool = False,
    timeout_is_terminal: bool = False,
    limit_is_terminal: bool = True,
    action_clip: bool = True,
) -> Dataset:
    """Read a file of one robot as a team's.

    Args:
        path: the file.
        team: ``<conf>_<obsk>``, for instance ``4x2_0t`` or ``sa_full``; must be given, the file holds none.
        robot: ``ant``, ``halfcheetah``, ``hopper``, ``walker2d`` or ``reacher``; default: as the file's name
            says.
        task: full task name; default: ``moma/<robot>-<team>``, unknown for a single agent.
        horizon: time limit in steps; default: the robot's.
        drop_timeouts: leave out steps that end with a time-out, as D4RL's helper for Q-learning does, which
            MOMA-PPO uses; the step before then ends a recording that was cut.
        reward_mode: ``normalized`` multiplies rewards by 1000 / (highest - lowest episode return), as
            MOMA-PPO does for its IQL and BC methods and its world model.
        paper_clip: clip actions to 1 - 1e-5 in size, as MOMA-PPO does.
        timeout_is_terminal: count time-limit ends as terminal.
        limit_is_terminal: believe terminal flags at exactly the time limit; false reads them as time limits.
        action_clip: clip actions to [-1, 1]; a warning tells how many lay outside.

    Raises:
        DataError: the file is missing, damaged, lacks a key, has a wrong shape, or is of another robot.
        UnknownNameError: no such robot or team.
    """
    path = Path(path)
    with reading(path):
        require_horizon(horizon)
        require(reward_mode in ("reward", "normalized"), "reward_mode must be reward or normalized")
        body = robot or next((name for name in (*ROBOTS, "reacher") if name in path.name.lower()), "")
        require(bool(body), "its name does not tell the robot; give it with the option robot")
        require(
            bool(team),
            "it holds one robot; say how agents share it with the option team, one of "
            + ", ".join(team_names(body)),
        )
        made = robot_team(body, team)
        with _open(path) as source:
            plan = _plan(source, horizon or made.robot.horizon, drop_timeouts)
            dataset = _dataset(source, plan, made, horizon or made.robot.horizon, paper_clip, action_clip)
        dataset = dataset.with_card(
            _card(path, body, team, task, source, drop_timeouts, paper_clip, dataset.card)
        )
        if reward_mode == "normalized":
            dataset = _normalized(dataset)
    return read_ends(dataset, timeout_is_terminal=timeout_is_terminal, limit_is_terminal=limit_is_terminal)


# ---- the file --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _open(path: Path) -> Iterator[_Source]:
    if not _PICKLED.fullmatch(path.name):
        with open_hdf5(path) as file:
            found = keys(file)
            missing = [key for key in KEYS if key not in found]
            require(not missing, f"missing key {', '.join(missing)}; the file has {', '.join(found)}")
            optional = [key for key in ("timeouts", "next_observations") if key in found]
            yield _source({name: column(file, name, "fiub") for name in (*KEYS, *optional)})
        return
    if is_torch(path):
        loaded = load_torch(path)
    else:
        try:
            require(path.stat().st_size <= _MAX_PICKLE, f"has more than {_MAX_PICKLE >> 30} GB")
            loaded = load_pickle(path.read_bytes())
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror}); check the path") from error
    require(isinstance(loaded, dict), "does not hold a dictionary of arrays")
    arrays = {name: np.asarray(values) for name, values in loaded.items() if isinstance(values, np.ndarray)}
    missing = [key for key in KEYS if key not in arrays]
    require(
        not missing, f"missing array {', '.join(missing)}; it has {', '.join(map(str, arrays)) or 'none'}"
    )
    if "time_out_masks" in arrays:
        arrays["timeouts"] = arrays["time_out_masks"]
    yield _source(arrays)


def _source(arrays: dict[str, Any]) -> _Source:
    shape = arrays["observations"].shape
    require(len(shape) == 2 and shape[0] > 0, f"observations has shape {shape}, expected (N, O)")
    for name, array in arrays.items():
        require(
            len(array.shape) >= 1 and array.shape[0] == shape[0], f"lengths differ: {name} has {array.shape}"
        )
    require(
        len(arrays["actions"].shape) == 2, f"actions has shape {arrays['actions'].shape}, expected (N, A)"
    )
    following = arrays.get("next_observations")
    require(following is None or following.shape == shape, "next_observations has another shape")
    for name in ("rewards", "terminals", "timeouts"):
        if name in arrays:
            wanted = ((shape[0],), (shape[0], 1))
            require(arrays[name].shape in wanted, f"{name} has shape {arrays[name].shape}, expected (N,)")
    return _Source(
        obs=arrays["observations"],
        action=arrays["actions"],
        reward=arrays["rewards"],
        terminal=_flags(arrays["terminals"], "terminals"),
        timeout=_flags(arrays["timeouts"], "timeouts") if "timeouts" in arrays else None,
        next_obs=following,
    )


def _flags(array: Any, name: str) -> Bools:
    out = np.zeros(array.shape[0], np.bool_)
    for begin, piece in _pieces(array):
        out[begin : begin + len(piece)] = as_flags(piece.reshape(len(piece)), name)
    return out


def _pieces(array: Any) -> Pieces:
    """Numbers of an array in memory or in a file, a few rows at a time."""
    for rows in row_pieces(array):
        yield rows.start, _read(array, rows)


def _read(array: Any, rows: slice) -> NDArray[Any]:
    return (
        np.asarray(array[rows]) if isinstance(array, np.ndarray) else converted_rows(array, rows, np.float64)
    )


# ---- episodes --------------------------------------------------------------------------------------------


def _plan(source: _Source, horizon: int, drop_timeouts: bool) -> _Plan:
    steps = source.steps
    terminal = source.terminal
    timeout = np.zeros(steps, np.bool_) if source.timeout is None else source.timeout & ~terminal
    ends = terminal | timeout
    if source.next_obs is not None:
        ends |= _jumps(source)
    ends[-1] = True
    lengths = Layout.from_ends(ends).lengths
    lasts = np.flatnonzero(ends)
    limit = timeout[lasts] | (~terminal[lasts] & (lengths == horizon))
    drop = np.zeros(steps, np.bool_)
    if source.next_obs is None:
        drop[lasts[~terminal[lasts]]] = True  # what followed them is not known
    if drop_timeouts:
        drop[lasts[limit]] = True
    kept = np.flatnonzero(~drop)
    require(len(kept) > 0, "no step is left of it")
    cut = np.append(drop[1:], False) & ~ends
    layout = Layout.from_ends((ends | cut)[kept])
    last = kept[layout.lasts]
    by_next = ~cut[last] & (source.next_obs is not None)
    return _Plan(
        kept=kept,
        layout=layout,
        final=np.where(cut[last], last + 1, last),
        from_next=by_next,
        terminal=layout.at_last_step(terminal[last]),
        truncated=layout.at_last_step(~cut[last] & np.isin(last, lasts[limit])),
    )


def _jumps(source: _Source) -> Bools:
    """Steps ``[N]`` whose next observation is not the observation of the row below."""
    out = np.zeros(source.steps, np.bool_)
    carried: NDArray[Any] | None = None
    for begin, obs in _pieces(source.obs):
        following = _read(source.next_obs, slice(begin, begin + len(obs)))
        if carried is not None:
            out[begin - 1] = not _near(obs[:1], carried)[0]
        out[begin : begin + len(obs) - 1] = ~_near(obs[1:], following[:-1])
        carried = following[-1:]
    return out


def _near(a: NDArray[Any], b: NDArray[Any]) -> Bools:
    return np.asarray(np.linalg.norm(a - b, axis=1) <= JUMP)


# ---- canonical arrays ------------------------------------------------------------------------------------


def _dataset(
    source: _Source, plan: _Plan, team: RobotTeam, horizon: int, paper_clip: bool, action_clip: bool
) -> Dataset:
    body = team.robot
    layout = plan.layout
    actuators = sum(map(len, team.moves))
    sizes = (source.obs.shape[1], source.action.shape[1])
    require(
        sizes[0] in (body.obs_size, body.stored) and sizes[1] == actuators,
        f"its observations and actions have {sizes[0]} and {sizes[1]} entries, the robot has {body.stored} "
        f"and {actuators}",
    )
    spec = make_spec(
        n_agents=len(team.moves),
        obs_size=max(map(len, team.sees)),
        state_size=body.obs_size,
        action_kind="continuous",
        action_size=max(map(len, team.moves)),
        horizon=horizon,
        obs_sizes=tuple(map(len, team.sees)),
        action_sizes=tuple(map(len, team.moves)),
    )
    state = layout.place(_kept(source.obs, plan.kept, slice(0, body.obs_size)), (body.obs_size,), np.float32)
    state[layout.ends] = _finals(source, plan)[:, : body.obs_size]
    action = layout.place(_kept(source.action, plan.kept, slice(None)), (actuators,), np.float32)
    if paper_clip:
        np.clip(action, -PAPER_CLIP, PAPER_CLIP, out=action)
    with places(lambda row: step_place(layout, row, plan.kept)):
        return Dataset.create(
            spec,
            obs=_select(state, team.sees),
            state=state,
            action=_select(action, team.moves),
            reward=layout.place(_kept(source.reward, plan.kept, slice(None)), (), np.float32),
            terminal=plan.terminal,
            truncated=plan.truncated,
            starts=layout.starts,
            action_clip=action_clip,
        )


def _kept(array: Any, kept: Ints, columns: slice) -> Pieces:
    """Rows ``kept`` of an array in pieces numbered by their place among them."""
    place = 0
    for begin, piece in _pieces(array):
        first, last = np.searchsorted(kept, (begin, begin + len(piece)))
        chosen = piece.reshape(len(piece), -1)[kept[first:last] - begin][:, columns]
        yield place, chosen
        place += len(chosen)


def _finals(source: _Source, plan: _Plan) -> NDArray[Any]:
    """Each episode's final observation ``[E, O]``."""
    out = np.empty((len(plan.final), source.obs.shape[1]), np.float32)
    for array, chosen in ((source.obs, ~plan.from_next), (source.next_obs, plan.from_next)):
        episodes = np.flatnonzero(chosen)
        if not len(episodes):
            continue
        steps = plan.final[episodes]
        for begin, piece in _pieces(array):
            first, last = np.searchsorted(steps, (begin, begin + len(piece)))
            with np.errstate(over="ignore"):
                out[episodes[first:last]] = piece[steps[first:last] - begin]
    return out


def _select(rows: NDArray[Any], owners: tuple[Indices, ...]) -> NDArray[Any]:
    """Columns of each agent ``[T, N, size]``, padded with zeros."""
    out = np.zeros((len(rows), len(owners), max(map(len, owners))), np.float32)
    for agent, columns in enumerate(owners):
        out[:, agent, : len(columns)] = rows[:, list(columns)]
    return out


def _normalized(dataset: Dataset) -> Dataset:
    span = float(dataset.returns.max() - dataset.returns.min())
    require(span > 0, "all its episodes have the same return, so that rewards cannot be normalized")
    note = f"rewards are multiplied by 1000 / {span:g}, the span of episode returns (reward_mode=normalized)"
    scaled = dataset.reward * np.float32(1000 / span)
    card = replace(dataset.card, notes=(*dataset.card.notes, note))
    return replace(dataset, reward=scaled).with_card(card)


def _card(
    path: Path, robot: str, team: str, task: str, source: _Source, dropped: bool, clipped: bool, card: Card
) -> Card:
    notes = [
        f"one {robot} as the team {team} of MOMA-PPO; actions follow the robot's actuators",
        "ends that are no terminals are time limits where they are flagged or the horizon is reached, else cuts",
    ]
    if source.next_obs is None:
        notes.append(
            "next observations are not recorded: a terminal step has its own observation in their place, other "
            "last steps are left out"
        )
    if source.timeout is None:
        notes.append("time-outs are not recorded; they show as jumps between observations only")
    if dropped:
        notes.append("steps that end with a time-out are left out (drop_timeouts)")
    if clipped:
        notes.append(f"actions are clipped to {PAPER_CLIP} in size (paper_clip)")
    quality = _QUALITY.search(path.stem)
    return Card(
        task=task or ("" if team.startswith("sa_") else f"moma/{robot}-{team}"),
        source="d4rl",
        quality=quality["quality"].replace("_", "-") if quality else "",
        engine="MuJoCo behind Gym -v2",
        options={"team": team},
        clipped=card.clipped,
        notes=tuple(notes),
    )
