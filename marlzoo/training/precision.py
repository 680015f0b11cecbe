"""Selects the matrix-multiplication precision for training.

Float32 products are PyTorch's default (``torch.set_float32_matmul_precision("highest")``) unless the environment
variable ``MARLZOO_MATMUL`` names another of its settings (``high``, ``medium``), which some processors multiply
faster and some less accurately. A run keeps its setting in its checkpoint, so that a resumed run repeats its numbers;
result rows name it in their column ``versions``.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch

from marlzoo.algorithm import Algorithm
from marlzoo.config import Precision
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import Linear

SETTINGS = ("highest", "high", "medium")  # of torch; the first is its default


@dataclass(frozen=True)
class Arithmetic:
    """How a run multiplies matrices.

    Attributes:
        precision: ``float32``; ``tf32`` (float32 products rounded to 10 bits, on GPUs that have them); or ``bf16``
            (products of linear layers in bfloat16; parameters, losses and optimizer in float32).
        setting: of torch's float32 products, ``highest``, ``high`` or ``medium``.
    """

    precision: Precision
    setting: str

    def __str__(self) -> str:
        return f"products {self.precision} ({self.setting})"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return asdict(self)

    @contextlib.contextmanager
    def applied(self, algorithm: Algorithm) -> Iterator[None]:
        """Make the process multiply so, and the learner's layers too, until the block ends."""
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision(self.setting)
        try:
            with products_in(algorithm, torch.bfloat16 if self.precision == "bf16" else None):
                yield
        finally:
            torch.set_float32_matmul_precision(before)


@contextlib.contextmanager
def products_in(algorithm: Algorithm, dtype: torch.dtype | None) -> Iterator[None]:
    """Let a learner's linear layers multiply in ``dtype`` (None: that of their parameters) until the block ends."""
    layers = [module for module in algorithm.modules() if isinstance(module, Linear)]
    before = [layer.products for layer in layers]
    try:
        for layer in layers:
            layer.products = dtype
        yield
    finally:
        for layer, old in zip(layers, before, strict=True):
            layer.products = old


def choose_arithmetic(
    algorithm: Algorithm, precision: Precision = "float32", kept: dict[str, Any] | None = None
) -> Arithmetic:
    """The arithmetic of a run.

    Args:
        algorithm: the learner.
        precision: what was asked for.
        kept: what the run's checkpoint holds (of the same precision), where it resumes from one.

    Raises:
        ConfigError: the precision is unknown, or not available on the learner's device or for its type; or
            ``MARLZOO_MATMUL`` names no setting of torch.
    """
    on_gpu = algorithm.device.type == "cuda"
    if precision not in get_args(Precision):
        raise ConfigError(f"precision is {precision!r}; choose one of {', '.join(get_args(Precision))}")
    if precision != "float32" and algorithm.dtype != torch.float32:
        raise ConfigError(
            f"precision {precision} is for float32 learners; this one's type is {algorithm.dtype}"
        )
    if precision == "tf32" and not on_gpu:
        raise ConfigError("precision tf32 is for CUDA devices; on this device choose float32 or bf16")
    if kept:
        return Arithmetic(**kept)
    setting = os.environ.get("MARLZOO_MATMUL", "") or SETTINGS[0]
    if setting not in SETTINGS:
        raise ConfigError(f"MARLZOO_MATMUL is {setting!r}; choose one of {', '.join(SETTINGS)}, or unset it")
    if on_gpu:
        setting = "high" if precision == "tf32" else "highest"
    return Arithmetic(precision, setting)
