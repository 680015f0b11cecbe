"""What methods share that read episodes step by step: one layout, the steps that count, TD(lambda)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name
from torch import Tensor

from marlzoo.batch import Batch
from marlzoo.errors import ConfigError


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


def require_context(name: str, length: int, data: Sequence[Any]) -> None:
    """Refuse windows that no episode fills.

    Args:
        name: of the method.
        length: its ``sequence_length``; 0: whole episodes.
        data: the :class:`marlzoo.data.dataset.Dataset` of every replica.

    Raises:
        ConfigError: the windows are longer than the longest episode.
    """
    for dataset in data:
        longest = int(dataset.lengths.max())
        if length > longest:
            raise ConfigError(
                f"{name}: sequence_length is {length}, but the longest episode of {dataset.card.title} has "
                f"{longest} steps; set it to at most that, or to 0 for whole episodes"
            )


def team_fields(recurrent: bool, mixed: bool) -> tuple[str, ...]:
    """What a team's batches hold: team reward and state with a mixer, each agent's reward without."""
    fields = SEQUENCE_FIELDS if recurrent else TRANSITION_FIELDS
    if not mixed:
        return (*fields, "agent_reward")
    return (*fields, "reward", "state") if recurrent else (*fields, "reward", "state", "next_state")
