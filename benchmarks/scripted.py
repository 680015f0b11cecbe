"""Logged data of teams that follow a rule, recorded with the command that makes them again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Episodes
from marlzoo.envs.base import BatchedEnv, Observation
from marlzoo.envs.episodes import Play, Recording
from marlzoo.version import __version__

Rule = Callable[[Observation], NDArray[Any]]
"""Actions ``[E, N, A]`` of all copies for what they show."""
Recorded = dict[str, NDArray[Any]]
"""Arrays of episodes end to end, and their ``lengths``."""


def record(env: BatchedEnv, rule: Rule, seeds: Sequence[int]) -> Recorded:
    """One episode of every copy, end to end, each with its final observation.

    Args:
        env: of E copies.
        rule: what its team does.
        seeds: of the copies.
    """
    env.seed(seeds)
    play = Play(env)
    recording = Recording(play)
    while play.live.size:
        acted = np.asarray(rule(play.seen), np.float32)
        recording.add(acted, play.step(acted))
    kept = np.arange(env.spec.horizon + 1) <= play.lengths[:, None]
    return {**{name: rows[kept] for name, rows in recording.arrays.items()}, "lengths": play.lengths}


def joined(env: BatchedEnv, parts: Sequence[Recorded], quality: str, command: str, **recipe: Any) -> Dataset:
    """The episodes of all parts, one part after the other.

    Args:
        env: that they were recorded in.
        parts: as :func:`record` gives them.
        quality: name of the dataset.
        command: that makes the same data again.
        recipe: what else the dataset's card says of their making.
    """
    arrays: dict[str, Any] = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    starts = Episodes.from_lengths(arrays.pop("lengths")).starts
    card = Card(
        task=env.task,
        source="marlzoo",
        quality=quality,
        engine=str(env.metadata["engine"]),
        versions={"marlzoo": __version__, "numpy": np.__version__},
        options=dict(env.metadata),
        license="Apache-2.0",
        recipe={"command": command, **recipe},
    )
    return Dataset.create(env.spec, **arrays, starts=starts, card=card)
