"""Rows of a sequence batch that lie after an episode's end, and that no update may read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from marlzoo.algorithm import Algorithm
from marlzoo.training.trainer import make_sampler, prepare
from tests.toys import toy_dataset


def assert_padding_counts_for_nothing(make: Callable[[], Algorithm], kind: Any) -> None:
    """An update leaves the same, whatever padded rows hold: observations, actions, rewards, what is legal.

    Args:
        make: the learner, the same each time.
        kind: of its actions.
    """
    found = []
    for spoiled in (False, True):
        algorithm = make()
        prepare(algorithm, [toy_dataset(kind)])
        batch = make_sampler(algorithm, [toy_dataset(kind)]).next()
        pad = batch.filled == 0
        assert pad.any()
        if spoiled:
            batch.obs[:, :, 1:][pad] = 9.0
            batch.action[pad] = 3 - batch.action[pad] if kind == "discrete" else 0.7
            for name in {"reward", "agent_reward"} & set(algorithm.fields):
                known = getattr(batch, name)
                wide = pad.view(*pad.shape, *(1,) * (known.ndim - pad.ndim))
                setattr(batch, name, torch.where(wide, 50.0, known))
            if kind == "discrete":
                batch.action_mask[:, :, 1:][pad] = False
        metrics = algorithm.update(batch)
        found.append(metrics | dict(algorithm.named_parameters()))
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], msg=name)
