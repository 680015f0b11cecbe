"""That a method's update can be compiled: one graph, and the numbers of the plain update."""

from __future__ import annotations

from pathlib import Path

import torch

from marlzoo.algorithm import Algorithm
from marlzoo.method_faults import untraceable
from marlzoo.testing.cases import Case
from marlzoo.training.compilation import compiled
from marlzoo.training.trainer import make_sampler, prepare


def update_is_one_graph(case: Case, folder: Path) -> None:
    """The whole update becomes one graph, losses, gradients, steps and targets; run as it is, it changes nothing."""
    if not all(stage.traceable for stage in case.learner().stages()):
        return  # the method says so, and no training compiles it
    try:
        require_agreement(case, "eager", 2)
    except Exception as error:
        if type(error).__module__.startswith("torch._dynamo"):
            raise untraceable(case.learner(), error) from error
        raise


def require_agreement(case: Case, backend: str, updates: int) -> None:
    """A learner updated through the compiler ends where its twin does that is updated plainly, up to rounding.

    Args:
        case: the method's form.
        backend: of ``torch.compile``; ``eager`` traces and compiles nothing.
        updates: of every stage.
    """
    fast, plain = _both(case, backend, updates)
    state = fast.state_tensors()
    for key, value in plain.state_tensors().items():
        torch.testing.assert_close(state[key], value, rtol=1e-6, atol=1e-9, msg=key)


def _both(case: Case, backend: str, updates: int) -> tuple[Algorithm, Algorithm]:
    torch._dynamo.reset()
    data = case.dataset()
    twins = (case.learner((0, 1)), case.learner((0, 1)))
    for algorithm, fast in zip(twins, (True, False), strict=True):
        sampler = make_sampler(algorithm, [data])
        prepare(algorithm, [data])
        for stage in algorithm.stages():
            update = compiled(algorithm, backend) if fast else algorithm.update
            for _ in range(updates):
                update(sampler.next())
            algorithm.updates += stage.updates
    return twins
