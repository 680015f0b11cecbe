"""Recording a learner's whole update on a GPU once and replaying it: one launch instead of hundreds.

The recording covers gathering the batch from the rows that were drawn, losses, gradients, Adam and targets. It reads
row numbers and noise from fixed places, which are filled before every replay; nothing waits for the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.data.sampler import Sampler

Metrics = dict[str, Tensor]
Work = Callable[[], Metrics]
# Given work, runs it some times to warm up and returns what repeats it, and where its results then stand.
Record = Callable[[Work], tuple[Callable[[], object], Metrics]]

WARM_UP = 3  # runs before a recording: libraries set up their work spaces, a compiler compiles


def cuda_graph(work: Work) -> tuple[Callable[[], object], Metrics]:
    """Record ``work`` as a CUDA graph (a :data:`Record`)."""
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    # What other threads do meanwhile is not recorded and not forbidden: an evaluation may play in one of them.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        metrics = work()
    return graph.replay, metrics


def current(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """Inside, streams are made on ``device``: of several GPUs, on the one whose work they are to carry."""
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


class CapturedStep:
    """Draw, gather and update in one call, recorded at the first one.

    Warming up moves the learner; its state is put back, so that the numbers are those of plain updates.

    Args:
        algorithm: the learner.
        sampler: of its batches, on the same device.
        update: like ``algorithm.update``.
        record: how work is recorded.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        sampler: Sampler,
        update: Callable[[Batch], Metrics],
        record: Record = cuda_graph,
    ) -> None:
        self._algorithm = algorithm
        self._sampler = sampler
        self._update = update
        self._record = record
        self._replay: Callable[[], object] | None = None

    def __call__(self) -> Metrics:
        """One update; the metrics, ``[R]`` each, stand until the next call overwrites them."""
        rows, noise = self._sampler.draw()
        if self._replay is None:
            self._rows = rows.clone()
            self._noise = {name: drawn.clone() for name, drawn in noise.items()}
            self._replay, self._metrics = self._recorded()
        self._rows.copy_(rows)
        for name, drawn in noise.items():
            self._noise[name].copy_(drawn)
        self._replay()
        return self._metrics

    def _recorded(self) -> tuple[Callable[[], object], Metrics]:
        before = {name: tensor.clone() for name, tensor in self._algorithm.state_tensors().items()}
        self._algorithm.recorded = True
        try:
            with current(self._algorithm.device):
                recorded = self._record(lambda: self._update(self._sampler.gather(self._rows, self._noise)))
        finally:
            self._algorithm.recorded = False
        self._algorithm.load_state_tensors(before)
        return recorded
