"""Batches of transitions or sequences, the input of a learner's update, and the common layout of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor

from marlzoo.errors import ConfigError, DataError


@dataclass(slots=True)
class Batch:
    """Input of ``update``: every replica's own sample of the data.

    Transitions: ``obs [R, B, N, O]``, ``state [R, B, S]``, ``action [R, B, N, A]`` or ``[R, B, N]`` int64,
    ``action_mask [R, B, N, A]`` bool, ``reward [R, B]`` (team reward; the mean over agents where the source has one
    per agent), ``agent_reward [R, B, N]``, ``mask [R, B]`` (1 where the next value counts, 0 where the episode
    ended), ``held_out [R, B]`` (1 for steps of the tenth of the episodes that models are validated on),
    ``first [R, B]`` (1 where the step is an episode's first), and ``next_`` forms of obs, state, action_mask, action
    (the last one a dummy after a terminal step; steps whose next action is cut off by a time limit are not drawn
    where it is asked for). ``past_obs [R, B, M, N, O]`` and ``past_action [R, B, M, N, ...]`` are the M steps before,
    the oldest first; those that would lie before the episode's first step are zeros.
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
    past_obs: Tensor
    past_action: Tensor
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


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, mask: Tensor, ends: Tensor, gamma: Tensor, lam: Tensor
) -> Tensor:
    """Generalized advantage estimate over the last axis, ``[R, E, T]``.

    Args:
        reward: ``[R, E, T]``.
        value: V of each step's state.
        next_value: V of the state that the step led to, also at an episode's end (not of the next start).
        mask: 0 where the task ended (no bootstrap), else 1.
        ends: 1 where the episode was over, by the task or by the time limit: the sum stops there.
        gamma: ``[R, 1]``.
        lam: ``[R, 1]``.
    """
    error = reward + gamma.unsqueeze(-1) * mask * next_value - value
    carry = gamma * lam
    advantage = torch.empty_like(error)
    total = torch.zeros_like(error[..., 0])
    for t in range(error.shape[-1] - 1, -1, -1):
        total = error[..., t] + carry * (1.0 - ends[..., t]) * total
        advantage[..., t] = total
    return advantage


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Each replica's ``rows [R, B]`` of ``x [R, M, ...]``."""
    offsets = torch.arange(x.shape[0], device=x.device).unsqueeze(1) * x.shape[1]
    return x.flatten(0, 1).index_select(0, (rows + offsets).flatten()).view(*rows.shape, *x.shape[2:])


LEAST_PRIORITY = 1e-4
PRIORITY_POWER = 0.99


def priorities(distance: Tensor, steepness: Tensor | float) -> Tensor:
    """Weight of sampling rows whose joint action lies near that of the policies (PJAP, arXiv 2407.01343).

    ``clip(exp(-(k d)^2), 1e-4, 1)^0.99``, without gradient.

    Args:
        distance: d, mean distance of a row's actions from the policies', ``[R, M]``.
        steepness: k, ``[R, 1]`` or one number; 0: all rows weigh the same.
    """
    near = torch.exp(-(steepness * distance.detach()).square())
    return near.clamp(LEAST_PRIORITY, 1.0) ** PRIORITY_POWER


def draw_rows(weight: Tensor, uniform: Tensor) -> Tensor:
    """Rows drawn with replacement in proportion to ``weight [R, M]``, by ``uniform [R, B]``; int64 ``[R, B]``."""
    bounds = weight.cumsum(-1)
    place = torch.searchsorted(bounds, uniform * bounds[:, -1:], right=True)
    return place.clamp(max=weight.shape[-1] - 1)


def row_fields(recurrent: bool, *names: str) -> tuple[str, ...]:
    """Fields to declare for a batch that :func:`as_sequences` lays out: for transitions with the next rows."""
    following = [
        f"next_{name}" for name in names if name in ("obs", "state", "action_mask") and not recurrent
    ]
    return (*names, *following)


def step_fields(recurrent: bool, *names: str) -> tuple[str, ...]:
    """Fields to declare for a batch that :func:`as_transitions` lays out."""
    following = [f"next_{name}" for name in names if name in ("obs", "state") and not recurrent]
    return (*names, *following)


def as_sequences(batch: Batch) -> Batch:
    """A batch in the layout of sequences; transitions become sequences of one step.

    A method written for sequences so learns from transitions too: ``obs``, ``state`` and ``action_mask`` hold the
    final row as well (``[R, B, L + 1, ...]``), all else one row per step (``[R, B, L, ...]``).
    """
    if batch.has("filled"):
        return batch
    stacked = {
        name: torch.stack((getattr(batch, name), getattr(batch, f"next_{name}")), dim=2)
        for name in ("obs", "state", "action_mask")
        if batch.has(f"next_{name}")
    }
    steps = {
        name: getattr(batch, name).unsqueeze(2)
        for name in ("action", "reward", "agent_reward", "mask", "next_action")
        if batch.has(name)
    }
    return Batch.of(batch.noise, filled=torch.ones_like(batch.mask).unsqueeze(2), **stacked, **steps)


def as_transitions(batch: Batch) -> tuple[Batch, Tensor | None]:
    """A batch in the layout of transitions; sequences' steps are laid side by side.

    For methods whose losses look at single steps while their policy reads sequences.

    Returns:
        The batch, M = B L steps instead of B where it held sequences (without ``filled``), and ``[R, M]`` 1 for real
        steps; None where all are real.
    """
    if not batch.has("filled"):
        return batch, None
    values = {}
    for name, value in batch.tensors().items():
        if name in ("obs", "state", "action_mask"):
            values[name] = value[:, :, :-1].flatten(1, 2)
            values[f"next_{name}"] = value[:, :, 1:].flatten(1, 2)
        elif name != "filled":
            values[name] = value.flatten(1, 2)
    return Batch.of(batch.noise, **values), batch.filled.flatten(1)


def known_actions(batch: Batch) -> tuple[Tensor, Tensor]:
    """The data's actions in all L + 1 rows of sequences, and the steps that have a target made of them.

    Methods that evaluate the data's next action need one: after a terminal step none is needed; where a sequence
    is cut (by a time limit or by the sampling) none is known, so the step before the cut has no target.

    Args:
        batch: from :func:`as_sequences`, with ``action``, ``mask``, ``filled``.

    Returns:
        Actions ``[R, B, L + 1, N, ...]`` (the last is a dummy where it is not known), and ``[R, B, L]`` 1 for steps
        with a target.
    """
    if batch.has("next_action"):
        return torch.cat((batch.action, batch.next_action), dim=2), batch.filled
    actions = torch.cat((batch.action, batch.action[:, :, -1:]), dim=2)
    followed = F.pad(batch.filled[:, :, 1:], (0, 1))
    return actions, batch.filled * torch.maximum(1.0 - batch.mask, followed)


TRANSITION_FIELDS = ("obs", "next_obs", "action_mask", "next_action_mask", "action", "mask")
SEQUENCE_FIELDS = ("obs", "action_mask", "action", "mask")


def step_count(sequence: bool, length: int, name: str) -> int:
    """Steps L that an update sees, for the shape of its random numbers.

    Raises:
        ConfigError: sequences of whole episodes, whose length is not known before the data.
    """
    if sequence and not length:
        raise ConfigError(
            f"{name}: with history = 'rnn' set sequence_length to at least 1; the size of its random numbers "
            "must be known before the data are"
        )
    return length if sequence else 1


def team_fields(recurrent: bool, mixed: bool) -> tuple[str, ...]:
    """What a team's batches hold: team reward and state with a mixer, each agent's reward without."""
    fields = SEQUENCE_FIELDS if recurrent else TRANSITION_FIELDS
    if not mixed:
        return (*fields, "agent_reward")
    return (*fields, "reward", "state") if recurrent else (*fields, "reward", "state", "next_state")


def require_context(name: str, length: int, data: Sequence[Any]) -> None:
    """Require at least one full window, and recordings whose episodes have known ends.

    Args:
        name: of the method.
        length: its ``sequence_length``; 0: whole episodes.
        data: the :class:`marlzoo.data.dataset.Dataset` of every replica.

    Raises:
        ConfigError: the windows are longer than the longest episode.
        DataError: all is one episode that does not end.
    """
    for dataset in data:
        if dataset.episodes == 1 and not (dataset.terminal.any() or dataset.truncated.any()):
            raise DataError(
                f"{dataset.card.title}: no episode ends in it (one recording, no step of which is terminal or "
                f"truncated), and {name} learns from whole episodes; say where they end: terminal, truncated "
                "or starts"
            )
        longest = int(dataset.lengths.max())
        if length > longest:
            raise ConfigError(
                f"{name}: sequence_length is {length}, but the longest episode of {dataset.card.title} has "
                f"{longest} steps; set it to at most that, or to 0 for whole episodes"
            )
