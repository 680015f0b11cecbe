"""Episode starts of the arrays in an npz file, and plain transitions as canonical rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.arrays import pieces
from marlzoo.data.formats._steps import Layout, as_indices, require

PLAIN = ("next_obs", "next_state", "next_action_mask")  # of files with one row per step
Arrays = dict[str, NDArray[Any]]


def find_bounds(arrays: Arrays, native: bool, notes: list[str]) -> bool:
    """Bring arrays into rows with a final observation per episode, in place.

    Args:
        arrays: members of the file.
        native: whether it has a header.
        notes: gets what had to be assumed.

    Returns:
        Whether the file tells where episodes begin.

    Raises:
        DataError: members that contradict each other.
    """
    obs = arrays["obs"]
    arrays.setdefault("truncated", np.zeros(obs.shape[:1], np.bool_))
    if "starts" in arrays:
        arrays["starts"] = as_indices(arrays["starts"], "starts")
    if "next_obs" in arrays:
        require(not native, "has both a header and next_obs; write it again with marlzoo data convert")
        return _from_steps(arrays, notes)
    extra = [name for name in PLAIN if name in arrays]
    require(not extra, f"has {', '.join(extra)} but no next_obs; save that, too, or leave these out")
    if "starts" in arrays:
        return True
    arrays["starts"] = np.zeros(1, np.int64)
    same = len(arrays["terminal"]) == len(arrays["truncated"]) == len(obs)
    flagged = np.flatnonzero(arrays["terminal"] | arrays["truncated"]) if same else np.zeros(0, np.int64)
    early = flagged[flagged != len(obs) - 2]
    require(
        not len(early),
        f"row {early[0] if len(early) else 0} is flagged as an end, but where episodes begin is not told: add starts "
        "(then each episode's final observation has a row of its own), or next_obs (one row per step)",
    )
    notes.append(f"there is neither starts nor next_obs: all {len(obs)} rows are read as one episode")
    return bool(len(flagged))


def _from_steps(arrays: Arrays, notes: list[str]) -> bool:
    """Plain transitions as rows; an episode ends as :mod:`marlzoo.data.formats.npz` says.

    Returns:
        Whether the ends are believable. Where most steps neither end an episode nor lead to the row below, the file
        holds transitions in no order.
    """
    obs = arrays["obs"]
    following = arrays.pop("next_obs")
    require(following.shape == obs.shape, f"next_obs has shape {following.shape}, obs {obs.shape}")
    require(len(obs) > 0, "the dataset is empty (no rows); make or fetch it again")
    for name in ("action", "reward", "terminal", "truncated", "state", "action_mask"):
        found = len(arrays.get(name, obs))
        require(found == len(obs), f"lengths differ: obs has {len(obs)} rows, {name} has {found}")
    terminal = arrays["terminal"]
    truncated = arrays["truncated"] & ~terminal
    ends = terminal | truncated
    for begin, piece in pieces(following[:-1]):
        below = obs[begin + 1 : begin + 1 + len(piece)]
        ends[begin : begin + len(piece)] |= (piece != below).reshape(len(piece), -1).any(axis=1)
    ordered = "starts" in arrays or 2 * int((ends & ~terminal & ~truncated).sum()) <= len(ends)
    if "starts" in arrays:
        _mark_starts(arrays.pop("starts"), terminal | truncated, ends)
    layout = Layout.from_ends(ends)
    finals = {"obs": following[layout.lasts], **_other_finals(arrays, layout, notes)}
    for name in ("obs", "state", "action_mask", "action", "reward"):
        if name in arrays:
            kind: Any = np.float32
            if name == "action_mask":
                kind = np.bool_
            elif name == "action" and arrays[name].dtype.kind in "iu":
                kind = np.int64
            arrays[name] = layout.place_array(arrays[name], kind, finals.get(name, 0))
    arrays["terminal"] = layout.at_last_step(terminal[layout.lasts])
    arrays["truncated"] = layout.at_last_step(truncated[layout.lasts])
    arrays["starts"] = layout.starts
    notes.append("plain transitions: an episode ends with a flag and where next_obs is not the row below")
    if not ordered:
        notes.append(
            "most steps do not lead to the row below: transitions in no order, whose episodes are not known"
        )
    return ordered


def _mark_starts(starts: NDArray[Any], flagged: NDArray[Any], ends: NDArray[Any]) -> None:
    """Let episodes end before the rows that ``starts`` names."""
    increasing = starts.ndim == 1 and len(starts) > 0 and starts[0] == 0 and bool((np.diff(starts) > 0).all())
    fine = increasing and starts[-1] < len(ends)
    require(fine, "starts must be increasing row numbers that begin with 0")
    inner = np.flatnonzero(flagged)
    inner = inner[~np.isin(inner + 1, [*starts, len(ends)])]
    require(
        not len(inner),
        f"row {inner[0] if len(inner) else 0} is flagged as an end, but starts says that the episode "
        "continues; a file with next_obs has no rows of final observations",
    )
    ends[starts[1:] - 1] = True


def _other_finals(arrays: Arrays, layout: Layout, notes: list[str]) -> Arrays:
    """States and masks of the final observations."""
    finals: Arrays = {}
    state = arrays.get("state")
    after = arrays.pop("next_state", None)
    if state is not None:
        fine = after is not None and after.shape == state.shape
        require(
            fine,
            "has state and next_obs, which needs next_state of the same shape; add it, or leave state out",
        )
        assert after is not None
        finals["state"] = after[layout.lasts]
    action_mask = arrays.get("action_mask")
    after = arrays.pop("next_action_mask", None)
    if action_mask is not None:
        require(
            after is None or after.shape == action_mask.shape,
            "has next_action_mask of another shape than action_mask; make both [T, N, A]",
        )
        finals["action_mask"] = (
            np.ones_like(action_mask[layout.lasts]) if after is None else after[layout.lasts]
        )
        if after is None:
            notes.append("masks of final observations are not recorded; every action is legal there")
    return finals
