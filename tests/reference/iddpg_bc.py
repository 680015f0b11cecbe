"""IDDPG+BC: the second form of the specification ``td3_bc_ma``, with OG-MARL's settings."""

from __future__ import annotations

from tests.reference.harness import Case
from tests.reference.td3_bc import ALPHA, NEAR, RNN, WIDE, act, update

__all__ = ["CASES", "act", "update"]

PENALTY = {"action_penalty": [1e-3, 0.5]}
LATE = {"policy_after_critic": True, "policy_delay": 2, "policy_q": "q1", "history": "mlp"}

CASES = [
    Case("continuous", RNN | PENALTY, WIDE),
    Case("continuous", ALPHA | LATE, WIDE),
    Case("continuous", {"history": "mlp", "bc_reduce": "sum"}, WIDE),
    Case("continuous", RNN | {"memory_relu": False, "sequence_length": 2, "batch_size": 3}, WIDE),
    Case("continuous", NEAR | RNN | {"candidates": 3}, WIDE),
    Case("discrete", RNN | {"alpha": [2.5, 0.6], "memory_relu": False}, WIDE),
    Case("discrete", LATE, WIDE),
]
