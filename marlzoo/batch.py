"""Batches: what a learner's update receives."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(slots=True)
class Batch:
    """What ``update`` sees, each replica's own draw.

    Transitions: ``obs [R, B, N, O]``, ``state [R, B, S]``, ``action [R, B, N, A]`` or ``[R, B, N]`` int64,
    ``action_mask [R, B, N, A]`` bool, ``reward [R, B]`` (team reward; the mean over agents where the source has one
    per agent), ``agent_reward [R, B, N]``, ``mask [R, B]`` (1 where the next value counts, 0 where the episode
    ended), ``held_out [R, B]`` (1 for steps of the tenth of the episodes that models are validated on),
    ``first [R, B]`` (1 where the step is an episode's first), and ``next_`` forms of obs, state, legal, action (the
    last one a dummy after a terminal step; steps whose next action is cut off by a time limit are not drawn where it
    is asked for).
    Sequences have a time axis after B: ``obs [R, B, L + 1, N, O]`` holds the final observation too, and
    ``filled [R, B, L]`` is 1 for real steps; there are no ``next_`` forms. Sequences lie within one episode. Of
    episodes longer than L they are pieces of up to L steps, so drawn that every step of the data is equally likely
    to be among the real ones.
    ``noise`` holds the random numbers that the method declared, ``[R, *shape]`` each.
    """

    obs: Tensor
    state: Tensor
    action: Tensor
    action_mask: Tensor
    reward: Tensor
    agent_reward: Tensor
    mask: Tensor
    held_out: Tensor
    first: Tensor
    filled: Tensor
    next_obs: Tensor
    next_state: Tensor
    next_action_mask: Tensor
    next_action: Tensor
    noise: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, noise: dict[str, Tensor] | None = None, **fields: Tensor) -> Batch:
        """A batch with some of the fields; using another one is an error (``AttributeError``)."""
        batch = cls.__new__(cls)
        for name, value in fields.items():
            setattr(batch, name, value)
        batch.noise = noise or {}
        return batch

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are there, by name, noise left out."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "noise" and self.has(name)}

    def has(self, name: str) -> bool:
        """Whether a field is there."""
        return hasattr(self, name)


@dataclass(slots=True, kw_only=True)
class Rollout(Batch):
    """What E copies went through in T steps, ``[R, E, T, ...]`` (a :class:`Batch` of E sequences).

    ``next_obs``, ``next_state`` (and ``next_action_mask``) are what each step led to, also where an episode ended
    there. ``mask [R, E, T]`` is 0 where the task ended, ``ends`` is 1 where the episode was over for any
    reason. ``action`` is the learner's own, before clipping to the box. ``progress`` (a scalar) is the share
    of the training that lies behind.
    """

    ends: Tensor
    progress: Tensor


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Each replica's ``rows [R, B]`` of ``x [R, M, ...]``."""
    offsets = torch.arange(x.shape[0], device=x.device).unsqueeze(1) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (rows + offsets).flatten()).view(*rows.shape, *x.shape[2:])
