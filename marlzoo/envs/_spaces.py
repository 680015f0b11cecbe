"""Flattening of observation spaces into vectors, the same for environments and recorded data.

Spaces are given as Minari writes them into its metadata (``{"type": "Box", "shape": [3], ...}``); :func:`plain_space`
makes that of a gymnasium space. Boxes of any shape and ``MultiBinary`` are flattened, a ``Discrete`` becomes one-hot,
the parts of a ``Dict`` or ``Tuple`` are put end to end in the order of their keys. A part ``action_mask`` holds the
agent's legal actions and is not seen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

MASK = "action_mask"
Path = tuple[str | int, ...]


class UnfitSpaceError(Exception):
    """A space, or a value of one, that cannot be read; the text names key, type and shape."""


@dataclass(frozen=True)
class Leaf:
    """One part of what an agent sees.

    Attributes:
        path: keys that lead to it.
        shape: of one recorded value.
        size: entries that it takes in the vector.
        first: the first choice where it is ``Discrete``, else None.
    """

    path: Path
    shape: tuple[int, ...]
    size: int
    first: int | None = None

    def rows(self, values: NDArray[Any]) -> NDArray[Any]:
        """Recorded values ``[L, *shape]`` as ``[L, size]``.

        Raises:
            UnfitSpaceError: a value that is none of the choices.
        """
        if self.first is None:
            return values.reshape(len(values), self.size)
        chosen = values.reshape(len(values), 1) - self.first
        wrong = ~np.isin(chosen[:, 0], np.arange(self.size))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise UnfitSpaceError(
                f"is {values.reshape(-1)[row]} at {row}, not one of {self.size} choices from {self.first} on"
            )
        return np.asarray(chosen == np.arange(self.size), np.float32)


@dataclass(frozen=True)
class FlatSpace:
    """Layout of one agent's flattened observation, and the place of its action mask, if any."""

    leaves: tuple[Leaf, ...]
    mask: Path | None = None

    @cached_property
    def size(self) -> int:
        """Entries of the vector."""
        return sum(leaf.size for leaf in self.leaves)


def flat_space(space: Mapping[str, Any], name: str) -> FlatSpace:
    """How what an agent sees becomes a vector.

    Args:
        space: a plain space.
        name: what it is, for errors.

    Raises:
        UnfitSpaceError: it holds something that is no vector, or nothing.
    """
    leaves = tuple(_leaves(space, (), name))
    if not leaves or not all(leaf.size for leaf in leaves):
        raise UnfitSpaceError(f"{name} is empty")
    masked = space["type"] == "Dict" and MASK in space["subspaces"]
    return FlatSpace(leaves, (MASK,) if masked else None)


def _leaves(space: Mapping[str, Any], path: Path, name: str) -> list[Leaf]:
    kind = space["type"]
    if kind == "Box":
        shape = tuple(int(n) for n in space["shape"])
        return [Leaf(path, shape, int(np.prod(shape)))]
    if kind == "MultiBinary":
        n = space["n"]
        shape = tuple(int(k) for k in n) if isinstance(n, list | tuple) else (int(n),)
        return [Leaf(path, shape, int(np.prod(shape)))]
    if kind == "Discrete":
        return [Leaf(path, (), int(space["n"]), int(space.get("start", 0)))]
    if kind in ("Dict", "Tuple"):
        inside = parts(space)
        seen = [key for key in inside if key != MASK]
        return [leaf for key in seen for leaf in _leaves(inside[key], (*path, key), f"{name}/{key}")]
    shape_text = f" of shape {space['shape']}" if "shape" in space else ""
    raise UnfitSpaceError(
        f"{name} is of type {str(kind)[:40]}{shape_text}; a Box, Discrete, MultiBinary, or a Dict or Tuple of them "
        "is needed"
    )


def parts(space: Mapping[str, Any]) -> dict[str | int, Any]:
    """What is in a ``Dict`` (in natural order of the keys) or a ``Tuple`` (by number)."""
    inside = space["subspaces"]
    if space["type"] == "Tuple":
        return dict(enumerate(inside))
    return {key: inside[key] for key in sorted(inside, key=natural)}


def natural(name: str) -> list[tuple[int, int, str]]:
    """Sorts texts by their words and numbers: ``agent_2`` before ``agent_10``, after ``adversary_11``."""
    pieces = re.split(r"(\d+)", name)
    return [(1, int(piece), "") if piece.isdecimal() else (0, 0, piece) for piece in pieces if piece]


def plain_space(space: Any) -> dict[str, Any]:
    """A gymnasium space as a plain one; of its bounds nothing is kept."""
    from gymnasium import spaces

    if isinstance(space, spaces.Dict):
        inside: Any = {str(key): plain_space(part) for key, part in space.spaces.items()}
        return {"type": "Dict", "subspaces": inside}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "subspaces": [plain_space(part) for part in space.spaces]}
    found: dict[str, Any] = {"type": type(space).__name__, "shape": list(space.shape or ())}
    for name in ("n", "start"):
        if hasattr(space, name):
            value = getattr(space, name)
            found[name] = list(value) if isinstance(value, tuple) else int(value)
    return found
