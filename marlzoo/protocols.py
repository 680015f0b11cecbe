"""Settings that the methods of one table must share, whatever their papers took: network, batch and optimizer.

SMAC's methods come from two schools, whose numbers do not compare: feed-forward networks on single transitions
(OMIGA's paper), and recurrent networks on sequences (OG-MARL, PyMARL). Every method for discrete actions has both as
presets, ``smac`` and ``smac-recurrent``; a table uses one of them for all. A method's own coefficients stay its own.
Where its authors published settings of their own for SMAC, those are ``smac-authors``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MLP_TRANSITIONS: Mapping[str, Any] = {"hidden": 256, "batch_size": 128, "lr": 5e-4, "grad_clip": 1.0}
"""OMIGA's for SMAC: two hidden layers of 256, 128 transitions, Adam with 5e-4, gradient norms clipped to 1."""

RECURRENT_SEQUENCES: Mapping[str, Any] = {
    "history": "rnn", "memory_relu": True, "hidden": 64, "batch_size": 32, "sequence_length": 20, "lr": 3e-4,
    "grad_clip": 10.0,
}  # fmt: skip
"""OG-MARL's: a GRU with 64 units and a ReLU behind it, 32 sequences of up to 20 steps, Adam with 3e-4; gradient norms
clipped to 10, which it does for some methods only."""
