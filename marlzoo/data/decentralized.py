"""Data sets of agents that recorded apart from each other, as one dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from marlzoo.data.dataset import Dataset
from marlzoo.errors import DataError

APART = "recorded_apart"  # option of a card: columns of agents are of different episodes


def decentralized(parts: Sequence[Dataset]) -> Dataset:
    """Agent i's observations, actions and rewards of ``parts[i]``, all else dropped.

    Rows then hold no joint transitions, so only methods without centralized parts learn from them. The state, which
    such methods do not read, is zero.

    Args:
        parts: one dataset of the same task per agent, with equal episode lengths and ends.

    Raises:
        DataError: another number of parts, parts of different shapes, or episodes that differ in length or end.
    """
    first = parts[0] if parts else None
    if first is None or len(parts) != first.spec.n_agents:
        wanted = "one dataset" if first is None else f"{first.spec.n_agents} datasets, one"
        raise DataError(f"decentralized: {len(parts)} datasets are given; it takes {wanted} per agent")
    for part in parts:
        same = all(
            np.array_equal(getattr(part, name), getattr(first, name))
            for name in ("starts", "terminal", "truncated")
        )
        if part.spec != first.spec or not same:
            raise DataError(
                f"decentralized: {part.card.title} and {first.card.title} differ in shape or in the lengths or ends "
                "of their episodes; give parts with the same"
            )
    spec = replace(first.spec, reward_per_agent=True)
    rewards = [part.reward if part.reward.ndim == 1 else part.reward[:, i] for i, part in enumerate(parts)]
    arrays: dict[str, Any] = {
        name: np.stack([getattr(part, name)[:, i] for i, part in enumerate(parts)], axis=1)
        for name in ("obs", "action", *(("action_mask",) if spec.discrete else ()))
    }
    return Dataset.create(
        spec,
        **arrays,
        reward=np.stack(rewards, axis=1),
        state=np.zeros_like(first.state),
        terminal=first.terminal,
        truncated=first.truncated,
        starts=first.starts,
        card=replace(first.card, options=first.card.options | {APART: True}),
    )
