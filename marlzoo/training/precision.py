"""With which arithmetic matrix products are made: the fastest that keeps float32's accuracy, or what was asked for.

PyTorch multiplies float32 matrices in one of several ways (``torch.set_float32_matmul_precision``). Which is fastest
depends on the processor, and some processors lose accuracy in some of them. So a run's own products are timed and
compared with float64 before its first update, and a setting that is less accurate than the default is refused.

Two runs with the same seed must give the same numbers, so a choice is made once and kept:

* A run keeps its arithmetic in its checkpoint; a resumed run uses that one, whatever would be chosen now. (On another
  processor or version of PyTorch, where the numbers differ anyhow, it is chosen anew, and that is said.)
* The machine remembers the choice for learners of the same shapes
  (:class:`marlzoo.system.machine.MeasurementCache`), so that the next run does not depend on how busy it is.
* ``MARLZOO_MATMUL=highest`` (``high``, ``medium``) decides it without measuring: the same on every machine and day.

Result rows name the arithmetic in their column ``versions``.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from marlzoo.algorithm import Algorithm
from marlzoo.config import Precision, is_numeric
from marlzoo.data.sampler import Sampler
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import Linear
from marlzoo.system.machine import MeasurementCache, processor

SETTINGS = ("highest", "high", "medium")  # of torch; the first is its default
ACCURATE = (
    4.0  # a setting's error may be so many times the default's; tf32 has a hundred times, bf16 a thousand
)
GAIN = 1.5  # the default is left for a setting that is so much faster: timing noise must not decide a run's numbers
COVERED, MOST, ROUNDS = 0.9, 6, 5  # share of the operations that is timed, in so many products, so often
LEAST = 1e-3  # seconds of one timing


@dataclass(frozen=True)
class Arithmetic:
    """How a run multiplies matrices.

    Attributes:
        precision: ``float32``; ``tf32`` (float32 products rounded to 10 bits, on GPUs that have them); or ``bf16``
            (products of linear layers in bfloat16; parameters, losses and optimizer in float32).
        setting: of torch's float32 products, ``highest``, ``high`` or ``medium``.
        machine: processor and version of PyTorch that it was chosen on.
    """

    precision: Precision
    setting: str
    machine: str

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


def choose(
    algorithm: Algorithm,
    sampler: Sampler,
    precision: Precision = "float32",
    kept: dict[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> Arithmetic:
    """The arithmetic of a run.

    Args:
        algorithm: the learner; it and the sampler are left as they were.
        sampler: of its batches.
        precision: what was asked for.
        kept: what the run's checkpoint holds (of the same precision), where it goes on from one.
        log: given one line where ``kept`` cannot be used.

    Raises:
        ConfigError: the precision is unknown, or not to be had on the learner's device or with its type.
    """
    on_gpu, here = algorithm.device.type == "cuda", _machine(algorithm.device)
    if precision not in get_args(Precision):
        raise ConfigError(f"precision is {precision!r}; choose one of {', '.join(get_args(Precision))}")
    if precision != "float32" and algorithm.dtype != torch.float32:
        raise ConfigError(
            f"precision {precision} is for float32 learners; this one's type is {algorithm.dtype}"
        )
    if precision == "tf32" and not on_gpu:
        raise ConfigError("precision tf32 is for CUDA devices; on this device choose float32 or bf16")
    if kept:
        if kept["machine"] == here:
            return Arithmetic(**kept)
        log(f"the run began on {kept['machine']}, this is {here}: its numbers change by float rounding")
    forced = os.environ.get("MARLZOO_MATMUL", "")
    if forced and forced not in SETTINGS:
        raise ConfigError(f"MARLZOO_MATMUL is {forced!r}; choose one of {', '.join(SETTINGS)}, or unset it")
    if on_gpu:
        setting = "high" if precision == "tf32" else "highest"
    elif forced or algorithm.dtype != torch.float32:
        setting = forced or SETTINGS[0]
    else:
        setting = _found(algorithm, sampler, here)
    return Arithmetic(precision, setting, here)


def _machine(device: torch.device) -> str:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    return f"{name}, torch {torch.__version__}"


def _found(algorithm: Algorithm, sampler: Sampler, here: str) -> str:
    """The remembered setting for learners of these shapes, or the one that measures best now."""
    config, spec = algorithm.config, algorithm.spec.to_dict()
    shared = {k: v for k, v in config.to_dict().items() if not is_numeric(type(config), k)}
    threads = torch.get_num_threads()
    key = json.dumps([here, threads, algorithm.name, algorithm.replicas, spec, shared], sort_keys=True)
    memory = MeasurementCache("matrix products")
    setting = memory.recall(key)
    return setting if setting in SETTINGS else str(memory.remember(key, _measured(algorithm, sampler)))


@dataclass(frozen=True)
class Product:
    """``batch`` products of ``[m, k]`` and ``[k, n]`` matrices; a transposed factor is stored column by column."""

    batch: int
    m: int
    k: int
    n: int
    transposed: tuple[bool, bool]

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.batch * self.m * self.k * self.n

    def factors(self) -> tuple[Tensor, Tensor]:
        """Random matrices of this layout, always the same."""
        generator, made = torch.Generator().manual_seed(0), []
        for (rows, columns), turned in zip(
            ((self.m, self.k), (self.k, self.n)), self.transposed, strict=True
        ):
            shape = (columns, rows) if turned else (rows, columns)
            drawn = torch.randn(self.batch, *shape, generator=generator)
            made.append(drawn.mT if turned else drawn)
        return made[0], made[1]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the matrix products that are made under it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket in _PRODUCTS:
            a, b = args[-2:]
            batch = a.shape[0] if a.ndim == 3 else 1
            turned = (_turned(a), _turned(b))
            self.seen[Product(batch, a.shape[-2], a.shape[-1], b.shape[-1], turned)] += 1
        return func(*args, **(kwargs or {}))


_PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}


def _turned(matrix: Tensor) -> bool:
    return matrix.stride(-1) != 1 and matrix.stride(-2) == 1


def _products(algorithm: Algorithm, sampler: Sampler) -> Counter[Product]:
    """The products of one update, which is undone."""
    place, before = sampler.state(), {k: v.clone() for k, v in algorithm.state_tensors().items()}
    recorder = _Recorder()
    with recorder:
        algorithm.update(sampler.next())
    algorithm.load_state_tensors(before)
    sampler.restore(place)
    return recorder.seen


def _heaviest(seen: Counter[Product]) -> dict[Product, int]:
    """The products that most operations are spent in, and how often each is made."""
    cost = {product: product.operations * count for product, count in seen.items()}
    heaviest: dict[Product, int] = {}
    for product in sorted(cost, key=lambda product: cost[product], reverse=True)[:MOST]:
        if sum(cost[known] for known in heaviest) >= COVERED * sum(cost.values()):
            break
        heaviest[product] = seen[product]
    return heaviest


def _measured(algorithm: Algorithm, sampler: Sampler) -> str:
    """The setting that makes an update's products fastest, of those that are as accurate as the default."""
    heaviest = _heaviest(_products(algorithm, sampler))
    before = torch.get_float32_matmul_precision()
    try:
        errors = {product: _errors(*product.factors()) for product in heaviest}
        accurate = [s for s in SETTINGS if all(e[s] <= ACCURATE * e[SETTINGS[0]] for e in errors.values())]
        seconds = dict.fromkeys(accurate, 0.0)
        for product, count in heaviest.items():
            for setting, spent in _seconds(*product.factors(), accurate).items():
                seconds[setting] += count * spent
    finally:
        torch.set_float32_matmul_precision(before)
    best = SETTINGS[0]
    for setting in accurate:
        best = setting if GAIN * seconds[setting] < seconds[best] else best
    return best


def _errors(a: Tensor, b: Tensor) -> dict[str, float]:
    """Relative error of the product by setting."""
    exact, errors = a.double() @ b.double(), {}
    for setting in SETTINGS:
        torch.set_float32_matmul_precision(setting)
        errors[setting] = float((torch.bmm(a, b) - exact).norm() / exact.norm())
    return errors


def _seconds(a: Tensor, b: Tensor, settings: Sequence[str]) -> dict[str, float]:
    """Least seconds of the product by setting, in alternating rounds."""
    # Other work on the machine does not count as processor time, but spinning threads do.
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    found, repeats = dict.fromkeys(settings, math.inf), 1
    for k in range(ROUNDS + 1):
        for setting in settings:
            torch.set_float32_matmul_precision(setting)
            started = clock()
            for _ in range(repeats):
                torch.bmm(a, b)
            found[setting] = min(found[setting], (clock() - started) / repeats)
        if k == 0:  # the first round warms up, and tells how often small products must be repeated
            repeats = max(1, math.ceil(LEAST / max(min(found.values()), 1e-6)))
            found = dict.fromkeys(settings, math.inf)
    return found
