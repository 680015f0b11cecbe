"""Compiling a learner's update: one graph of losses, gradients, clipping, Adam and targets."""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.data.sampler import Sampler
from marlzoo.errors import ConfigError
from marlzoo.method_faults import compiled_anew, plain_numbers
from marlzoo.training.cuda_graph import CapturedStep

Compile = Literal["auto", "on", "off"]
Update = Callable[[Batch], dict[str, Tensor]]

# Tens of seconds of compilation pay only in a long run. The decision must depend on the run's whole length, not
# on what is left of it: a resumed run has to use the same arithmetic as an uninterrupted one.
WORTH_COMPILING = 50_000
LEARNERS = 100_000  # that one process may compile
GRAPHS = 8  # that an update may need in one stage, for instance because the number of threads has changed


def make_update(algorithm: Algorithm, mode: Compile, updates: int, log: Callable[[str], None]) -> Update:
    """The ``update`` of the learner's present stage, compiled if that is asked for, or worth it and possible.

    Args:
        algorithm: the learner.
        mode: ``on``, ``off``, or ``auto``: compile runs of at least 50 000 updates where a compiler is found.
        updates: length of the whole run.
        log: given one line when ``auto`` would compile and cannot.

    Returns:
        A function like ``algorithm.update``, for as long as the stage lasts. Compiled and plain results differ by
        float rounding.

    Raises:
        ConfigError: another mode.
    """
    if mode not in get_args(Compile):
        raise ConfigError(f"compile is {mode!r}; it must be 'auto', 'on' or 'off'")
    stage = algorithm.stage
    if mode == "off" or not stage.traceable or (mode == "auto" and updates < WORTH_COMPILING):
        return stage.update
    if mode == "auto" and (missing := _missing(algorithm.device)):
        log(f"no {missing} found: training continues uncompiled, at about half the speed")
        return stage.update
    return compiled(algorithm)


def _missing(device: torch.device) -> str:
    """What compiling for a device needs and is not there; empty: nothing."""
    if device.type != "cuda":
        return "" if any(map(shutil.which, ("g++", "clang++", "c++"))) else "C++ compiler"
    if importlib.util.find_spec("triton") is None:
        return "triton package"
    # Triton builds the launchers of its kernels with a C compiler.
    return "" if os.environ.get("CC") or any(map(shutil.which, ("gcc", "clang"))) else "C compiler"


def make_training_step(
    algorithm: Algorithm, sampler: Sampler, mode: Compile, updates: int, log: Callable[[str], None]
) -> Callable[[], dict[str, Tensor]]:
    """One whole training step, drawing included: recorded and replayed on a GPU, else called.

    Args:
        algorithm: the learner.
        sampler: of its batches.
        mode: see :func:`make_update`; ``off`` also leaves out the recording.
        updates: length of the whole run.
        log: given one line when ``auto`` would compile and cannot.
    """
    update = make_update(algorithm, mode, updates, log)
    if algorithm.device.type == "cuda" and mode != "off" and algorithm.stage.traceable:
        if sampler.store.device.type == "cuda":
            return CapturedStep(algorithm, sampler, update)
        log(
            "the dataset is read from disk as it is drawn: updates on the GPU are not recorded, and are slower"
        )
    return lambda: update(sampler.next())


def compiled(algorithm: Algorithm, backend: str = "inductor") -> Update:
    """The update of the learner's present stage as one compiled graph (the first call takes some tens of seconds).

    Args:
        algorithm: the learner.
        backend: of ``torch.compile``.

    Raises:
        MethodError: from the update: it is compiled anew over and over, because a Python number in it changes.
    """
    from torch import _dynamo as dynamo
    from torch._dynamo.utils import counters

    plain = algorithm.stage.update  # the number of updates, by which stages change, must not be in the graph

    def update(tensors: dict[str, Tensor], noise: dict[str, Tensor]) -> dict[str, Tensor]:
        return plain(Batch.of(noise, **tensors))

    # On GPUs PyTorch 2.11 searches for better loop orders and fails an assertion of its own on OMIGA's update.
    options: dict[str, Any] | None = (
        {"loop_ordering_after_fusion": False} if _may_reorder(algorithm.device, backend) else None
    )
    fast = torch.compile(update, fullgraph=True, dynamic=False, backend=backend, options=options)
    # To the compiler all learners of a process are one function, of which it would make eight versions at most.
    many: dict[str, Any] = {"recompile_limit": LEARNERS, "accumulated_recompile_limit": LEARNERS}

    made = 0
    numbers = plain_numbers(algorithm)

    def call(batch: Batch) -> dict[str, Tensor]:
        nonlocal made
        before = counters["stats"]["unique_graphs"]
        with dynamo.config.patch(trace_autograd_ops=True, **many), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the compiler's own remarks about its graph
            metrics: dict[str, Tensor] = fast(batch.tensors(), batch.noise)
        made += counters["stats"]["unique_graphs"] - before
        if made > GRAPHS:
            raise compiled_anew(algorithm, made, numbers)
        return metrics

    return call


def _may_reorder(device: torch.device, backend: str) -> bool:
    from torch._inductor import config

    return device.type == "cuda" and backend == "inductor" and hasattr(config, "loop_ordering_after_fusion")


@contextlib.contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Inside the block glibc keeps freed memory; at its end free memory is returned to the system.

    Each update allocates and frees the same buffers. glibc returns large ones to the system at once and then gets
    them anew, page by page and filled with zeros: half of the time of methods whose buffers exceed 32 MB. Outside,
    large arrays (datasets) are returned when they are freed, as usual. Where there is no glibc nothing happens.
    """
    # malloc.h's numbers.
    trim_threshold = -1
    top_pad = -2
    mmap_threshold = -3
    mmap_max = -4
    megabyte = 1 << 20
    libc: Any = None
    with contextlib.suppress(OSError, TypeError):  # Windows knows no library without a name
        libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        yield
        return
    libc.mallopt(top_pad, 64 * megabyte)
    libc.mallopt(mmap_threshold, 32 * megabyte)  # the most that can be set
    libc.mallopt(mmap_max, 0)  # nothing beside the heap
    libc.mallopt(trim_threshold, -1)  # which never shrinks
    try:
        yield
    finally:
        libc.mallopt(mmap_max, 65536)  # glibc's default
        libc.mallopt(trim_threshold, 1024 * megabyte)
        libc.malloc_trim(0)
