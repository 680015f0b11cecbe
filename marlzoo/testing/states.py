"""Comparisons of whole learners: parameters, targets, buffers and optimizers; a failed one names the tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm


def assert_same_replica(together: Algorithm, row: int, alone: Algorithm, rtol: float) -> None:
    """Row ``row`` of a lockstep learner equals a single one."""
    rows = together.state_tensors()
    single = alone.state_tensors()
    _assert_close(
        {key: rows[key][row] if value.ndim else rows[key] for key, value in single.items()},
        {key: value[0] if value.ndim else value for key, value in single.items()},
        rtol,
    )


def assert_equal_state(mine: Algorithm, theirs: Algorithm) -> None:
    """Two learners' parameters, targets, buffers and optimizers are equal bit for bit."""
    other = theirs.state_tensors()
    for key, value in mine.state_tensors().items():
        assert torch.equal(value, other[key]), key


def assert_same_rows(mixed: Algorithm, whole: Algorithm, rows: Sequence[int]) -> None:
    """Some replicas of one lockstep learner are those of another."""
    other = mixed.state_tensors()
    stacked = {key: value for key, value in whole.state_tensors().items() if value.ndim}
    _assert_close(
        {key: other[key][rows] for key in stacked},
        {key: value[rows] for key, value in stacked.items()},
        rtol=1e-9,
    )


def _assert_close(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor], rtol: float) -> None:
    # One comparison of everything takes a tenth of the time; the single ones find the name for the message.
    if all(
        mine[key].shape == value.shape and mine[key].dtype == value.dtype for key, value in theirs.items()
    ):
        one, other = (torch.cat([side[key].flatten().double() for key in theirs]) for side in (mine, theirs))
        if torch.allclose(one, other, rtol=rtol, atol=1e-11):
            return
    for key, value in theirs.items():
        torch.testing.assert_close(mine[key], value, rtol=rtol, atol=1e-11, msg=key)
