"""Stages: the parts of a training that follow each other, such as a world model and then a policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from marlzoo.batch import Batch


@dataclass(frozen=True)
class Stage:
    """One part of a learner's training.

    Attributes:
        name: as progress and errors call it.
        update: one learning step of every replica in this stage, like :meth:`marlzoo.algorithm.Algorithm.update`.
        updates: how many; 0: all that are left, which the last stage has.
        traceable: whether an update may be compiled or recorded as a graph.
    """

    name: str
    update: Callable[[Batch], dict[str, Tensor]]
    updates: int = 0
    traceable: bool = True


def stage_at(stages: tuple[Stage, ...], done: int) -> Stage:
    """The stage of the update that follows ``done`` others."""
    for stage in stages:
        if not stage.updates or done < stage.updates:
            return stage
        done -= stage.updates
    return stages[-1]


def updates_before_the_last(stages: tuple[Stage, ...]) -> int:
    """Updates that all stages but the last take."""
    return sum(stage.updates for stage in stages[:-1])
