"""Checks of canonical arrays, which look through large arrays in pieces to keep their masks small."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import pieces
from marlzoo.data.episodes import Episodes
from marlzoo.errors import DataError
from marlzoo.spec import Spec

Arrays = Mapping[str, NDArray[Any]]


class RowError(DataError):
    """Something wrong at one row; its text says ``row N``, for which a reader may put the place in its source.


    A copy with more text around it, whose row is not given, stays as it is.
    """

    def __init__(self, text: str, row: int = -1) -> None:
        super().__init__(text)
        self.row = row


@contextlib.contextmanager
def places(of: Callable[[int], str]) -> Iterator[None]:
    """Give errors of the block that name a canonical row the place in the source, ``of(row)``, instead."""
    try:
        yield
    except RowError as error:
        raise DataError(str(error).replace(f"row {error.row}", of(error.row), 1)) from error


def require_finite(array: NDArray[Any], name: str) -> None:
    """Refuse NaN and infinity in ``array [T, ...]``, called ``name`` in the error.

    Raises:
        DataError: with the row of the first such number.
    """
    for begin, piece in pieces(array):
        finite = np.isfinite(piece)
        if not finite.all():
            index = tuple(int(i) for i in np.argwhere(~finite)[0])
            kind = "NaN" if np.isnan(piece[index]) else "infinity"
            entry = f", entry {list(index[1:])}" if index[1:] else ""
            row = begin + index[0]
            raise RowError(
                f"{name} holds {kind}, first at row {row}{entry}; leave out that episode or repair the source",
                row,
            )


def count_outside_box(action: NDArray[Any]) -> int:
    """Number of entries of ``action`` outside [-1, 1]."""
    return sum(int((np.abs(piece) > 1).sum()) for _, piece in pieces(action))


def reward_remedy(spec: Spec) -> str:
    """What to do with the team's rewards where a spec has one per agent, or the other way round."""
    if spec.reward_per_agent:
        return (
            "a reward of the whole team is every agent's own: write it once per agent, "
            f"np.repeat(reward[:, None], {spec.n_agents}, axis=1)"
        )
    return "rewards per agent become the team's as their mean or sum, as the task pays: reward.mean(axis=1)"


def check_structure(spec: Spec, arrays: Arrays, episodes: Episodes) -> None:
    """Types, shapes, lengths, episode bounds and flags.

    Args:
        spec: the task's shape.
        arrays: all of the dataset, by name.
        episodes: where they lie.

    Raises:
        DataError: see :meth:`marlzoo.data.dataset.Dataset.validate`.
    """
    for name, (tail, dtype, _) in spec.layout().items():
        if name not in arrays:
            continue
        array = arrays[name]
        if array.ndim < 1 or array.shape[1:] != tail:
            wanted = ", ".join(str(size) for size in ("T", *tail))
            found = ", ".join(str(size) for size in ("T", *array.shape[1:])) if array.ndim else ""
            other = array.shape[1:] in ((), (spec.n_agents,))
            remedy = f"; {reward_remedy(spec)}" if name == "reward" and other else ""
            raise DataError(f"{name} has shape ({found}), the spec asks for ({wanted}){remedy}")
        if len(array) != episodes.rows:
            raise DataError(f"lengths differ: obs has {episodes.rows} rows, {name} has {len(array)}")
        if array.dtype != dtype:
            raise DataError(f"{name} has type {array.dtype}, expected {dtype.__name__}")
    if episodes.rows == 0:
        raise DataError("the dataset is empty (no rows)")
    _check_starts(episodes)
    _check_lengths(episodes, spec.horizon)
    _check_flags(arrays, episodes)


def _check_starts(episodes: Episodes) -> None:
    starts = episodes.starts
    if starts.dtype != np.int64 or starts.ndim != 1 or not len(starts) or starts[0] != 0:
        raise DataError("starts must be a list of int64 row numbers that begins with 0")
    if starts[-1] >= episodes.rows or (np.diff(starts) < 1).any():
        raise DataError(f"starts must increase and stay below the number of rows {episodes.rows}")


def _check_lengths(episodes: Episodes, horizon: int) -> None:
    starts = episodes.starts
    lengths = episodes.lengths
    if (lengths < 1).any():
        episode = int(np.argmax(lengths < 1))
        raise RowError(
            f"an episode without a transition begins at row {starts[episode]}; it needs at least two rows, the last "
            "of which holds only the final observation",
            int(starts[episode]),
        )
    if (lengths > horizon).any():
        episode = int(np.argmax(lengths > horizon))
        raise RowError(
            f"an episode of {lengths[episode]} steps begins at row {starts[episode]}, but the horizon is {horizon}; "
            f"let the horizon be the task's time limit, at least {lengths.max()} steps",
            int(starts[episode]),
        )


def _check_flags(arrays: Arrays, episodes: Episodes) -> None:
    allowed = episodes.at_last_step(np.ones(len(episodes), np.bool_))
    for name in ("terminal", "truncated"):
        wrong = arrays[name] & ~allowed
        if wrong.any():
            row = int(np.argmax(wrong))
            raise RowError(
                f"{name} is set at row {row}, which is not an episode's last step (the row before its final "
                "observation)",
                row,
            )


def check_numbers(spec: Spec, arrays: Arrays, episodes: Episodes) -> None:
    """Every number finite; zeros behind smaller agents' actions; discrete actions in range and legal.

    Args:
        spec: the task's shape.
        arrays: those of the dataset that hold numbers of their own, by name.
        episodes: where they lie.

    Raises:
        DataError: with the first row that is wrong.
    """
    check_finite(arrays)
    _check_padding(spec, arrays)
    if spec.discrete:
        _check_discrete(spec, arrays, episodes)


def check_finite(arrays: Arrays) -> None:
    """Every number finite.

    Raises:
        DataError: with the first row that is not.
    """
    for name in ("obs", "state", "reward", "action"):
        if name in arrays and arrays[name].dtype.kind == "f":
            require_finite(arrays[name], name)


def check_scale(rewards: NDArray[Any], episodes: Episodes) -> None:
    """Refuse rewards with which no error of a value can be squared: a loss of infinity leaves networks as they were.

    Args:
        rewards: ``[T]``, or ``[T, N]`` with one per agent.
        episodes: where they lie.

    Raises:
        DataError: with the first episode whose sum of the rewards' sizes has no square in float32.
    """
    largest = math.sqrt(float(np.finfo(np.float32).max))
    # Rewards are not that large as a rule, and then one pass without a copy of their own is enough.
    if max(float(np.abs(piece).max()) for _, piece in pieces(rewards)) * episodes.rows <= largest:
        return
    sizes = np.abs(rewards, dtype=np.float64).reshape(episodes.rows, -1).max(1)
    sizes[episodes.ends] = 0.0  # no step begins there
    sums = np.add.reduceat(sizes, episodes.starts)
    if (sums > largest).any():
        worst = int(np.argmax(sums > largest))
        row = int(episodes.starts[worst])
        raise RowError(
            f"the rewards of the episode that begins at row {row} add up to {sums[worst]:.3g}, whose square is "
            "beyond float32, in which methods learn; divide all rewards by one number, for instance "
            f"{sums.max():.0e}",
            row,
        )


def _check_padding(spec: Spec, arrays: Arrays) -> None:
    """Zeros in the action dimensions that smaller agents lack: methods and hashes read whole arrays."""
    if spec.discrete or "action" not in arrays or min(spec.action_sizes) == spec.action_size:
        return
    for begin, piece in pieces(arrays["action"]):
        for agent, size in enumerate(spec.action_sizes):
            wrong = piece[:, agent, size:].any(-1)
            if wrong.any():
                row = begin + int(np.argmax(wrong))
                raise RowError(
                    f"action of agent {agent} at row {row} holds numbers behind its {size} entries; write zeros "
                    "there, or give the agents' true sizes",
                    row,
                )


def _check_discrete(spec: Spec, arrays: Arrays, episodes: Episodes) -> None:
    action = arrays["action"]
    action_mask = arrays.get("action_mask")
    sizes = np.asarray(spec.action_sizes)
    place = _first((action < 0) | (action >= sizes))
    if place:
        row, agent = place
        raise RowError(
            f"action {action[row, agent]} of agent {agent} at row {row} is outside 0..{sizes[agent] - 1}", row
        )
    if action_mask is None:
        return
    place = _first(~action_mask.any(axis=2))
    if place:
        row, agent = place
        raise RowError(
            f"agent {agent} has no legal action at row {row}; an agent that cannot act takes action 0: write that "
            "there, and 1 into its mask of action 0",
            row,
        )
    place = _first((action_mask & ~spec.own_actions).any(axis=2))
    if place:
        row, agent = place
        raise RowError(
            f"the mask of agent {agent} at row {row} allows an action beyond its {sizes[agent]}; write 0 there, or "
            "give the agents' true sizes",
            row,
        )
    illegal = ~np.take_along_axis(action_mask, action[..., None], axis=2)[..., 0]
    illegal[episodes.ends] = False  # no action is taken in an episode's final row
    place = _first(illegal)
    if place:
        row, agent = place
        raise RowError(
            f"agent {agent} took action {action[row, agent]} at row {row}, which its mask says is illegal",
            row,
        )


def _first(wrong: Any) -> tuple[int, int] | None:
    """Row and agent of the first True in a mask ``[T, N]``."""
    if not wrong.any():
        return None
    row, agent = np.argwhere(wrong)[0]
    return int(row), int(agent)
