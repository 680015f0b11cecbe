"""Comparisons of whole learners: parameters, targets, buffers and optimizers; a failed one names the tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from marlzoo.algorithm import Algorithm


def assert_same_replica(together: Algorithm, row: int, alone: Algorithm, rtol: float) -> None:
    """Row ``row`` of a lockstep learner equals a single one."""
    rows = together.state_tensors()
    for key, value in alone.state_tensors().items():
        mine = rows[key] if value.ndim == 0 else rows[key][row]
        torch.testing.assert_close(
            mine, value if value.ndim == 0 else value[0], rtol=rtol, atol=1e-11, msg=key
        )


def assert_equal_state(mine: Algorithm, theirs: Algorithm) -> None:
    """Two learners' parameters, targets, buffers and optimizers are equal bit for bit."""
    other = theirs.state_tensors()
    for key, value in mine.state_tensors().items():
        assert torch.equal(value, other[key]), key


def assert_same_rows(mixed: Algorithm, whole: Algorithm, rows: Sequence[int]) -> None:
    """Some replicas of one lockstep learner are those of another."""
    other = mixed.state_tensors()
    for key, value in whole.state_tensors().items():
        if value.ndim:
            torch.testing.assert_close(other[key][rows], value[rows], rtol=1e-9, atol=1e-11, msg=key)
