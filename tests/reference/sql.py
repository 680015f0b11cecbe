"""SQL: specification ``ivr_sql_eql``."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tests.reference import ivr
from tests.reference.blocks import mean
from tests.reference.harness import Case, Replica
from tests.reference.ivr import WIDE, act, prepare

__all__ = ["CASES", "act", "prepare", "update"]

ALPHA: dict[str, Any] = {"alpha": [1.0, 0.3], "weight_cap": [100.0, 1.5], "reward_scaling": "none"}
RELU = {"history": "rnn", "memory_relu": True, "sequence_length": 2, "batch_size": 3}

CASES = [
    Case(kind, ALPHA | settings, WIDE)
    for kind in ("continuous", "discrete")
    for settings in (
        {},
        {"weight": "code"},
        {"mixing": "linear"},
        {"mixing": "linear", "weight": "code"},
    )
] + [
    Case("continuous", ALPHA | {"bound_margin": [0.1, 0.0]}, WIDE),
    Case("continuous", ALPHA | {"reward_scaling": "range", "alpha": [300.0, 2e3]}, WIDE),
    Case("continuous", ALPHA | {"history": "rnn", "sequence_length": 3, "mixing": "linear"}, WIDE),
    Case("discrete", ALPHA | {"history": "rnn", "memory_relu": True, "reward_scaling": "range"}, WIDE),
    Case("continuous", ALPHA | RELU, WIDE),
]


def update(own: Replica, batch: Any) -> dict[str, Any]:
    """``z = 1 + (u - V) / (2 alpha)``; ``L_V = mean [1(z > 0) z^2 + V / alpha]``."""
    alpha = own.config.alpha

    def value_loss(advantages: list[Tensor], values: list[Tensor]) -> Tensor:
        terms = []
        for advantage, value in zip(advantages, values, strict=True):
            z = 1.0 + advantage / (2.0 * alpha)
            terms.append((z**2 if z.item() > 0.0 else 0.0 * z) + value / alpha)
        return mean(terms)

    def weight(advantage: float) -> float:
        if own.config.weight == "code":
            return max(advantage, 0.0)
        return max(1.0 + advantage / (2.0 * alpha), 0.0)

    return ivr.update(own, batch, value_loss, weight)
