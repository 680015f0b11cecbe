"""EQL: specification ``ivr_sql_eql``."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from tests.reference import ivr
from tests.reference.blocks import mean
from tests.reference.harness import Case, Replica
from tests.reference.ivr import WIDE, act, prepare

__all__ = ["CASES", "act", "prepare", "update"]

ALPHA: dict[str, Any] = {"alpha": [2.0, 0.2], "weight_cap": [100.0, 1.5], "reward_scaling": "none"}
RELU = {"history": "rnn", "memory_relu": True, "sequence_length": 2, "batch_size": 3}

CASES = [
    Case(kind, ALPHA | settings, WIDE)
    for kind in ("continuous", "discrete")
    for settings in (
        {},
        {"weight": "code"},
        {"mixing": "linear"},
        {"mixing": "linear", "weight": "code", "x_cap": [5.0, math.inf]},
    )
] + [
    Case("continuous", ALPHA | {"bound_margin": [0.1, 0.0]}, WIDE),
    Case("continuous", ALPHA | {"reward_scaling": "range", "alpha": [300.0, 2e3]}, WIDE),
    Case("continuous", ALPHA | {"history": "rnn", "sequence_length": 3, "mixing": "linear"}, WIDE),
    Case("discrete", ALPHA | {"history": "rnn", "memory_relu": True, "reward_scaling": "range"}, WIDE),
    Case("continuous", ALPHA | RELU, WIDE),
    Case("discrete", ALPHA, {"nets.target_q": 0.1, "nets.v": 0.1}),  # all x small: m is the floor
    Case("discrete", ALPHA | {"alpha": [2.0, 0.1]}, WIDE | {"nets.v": -8.0}),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """``x = min((u - V) / alpha, x_cap)``; ``L_V = mean [exp(x - m) + exp(-m) V / alpha]``."""
    alpha, cap = own.config.alpha, own.config.x_cap

    def value_loss(advantages: list[Tensor], values: list[Tensor]) -> Tensor:
        x = [(advantage / alpha).clamp(max=cap) for advantage in advantages]
        m = max(-1.0, *(entry.item() for entry in x))
        terms = [
            (entry - m).exp() + math.exp(-m) * value / alpha for entry, value in zip(x, values, strict=True)
        ]
        return mean(terms)

    def weight(advantage: float) -> float:
        times = 10.0 if own.config.weight == "code" else 1.0
        return math.exp(min(times * advantage / alpha, 700.0))

    return ivr.update(own, batch, value_loss, weight)
