"""The recorded update: a stand-in for the recorder on the CPU, the real one where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from marlzoo.algorithm import Algorithm
from marlzoo.testing.cases import Case, cases
from marlzoo.training.cuda_graph import WARM_UP, CapturedStep, Metrics, Record, Work, cuda_graph
from marlzoo.training.trainer import make_sampler, prepare, train

# Recording and putting back are the same for all methods; these update in ways that differ: delayed, per agent, with
# steps that wait, in stages, with targets copied from time to time, with a memory, and over a whole sequence.
METHODS = ("omiga", "td3_bc", "icq", "comadice", "cfcql", "mac_flow", "moma_ppo", "omsd", "qmix_cql", "oryx")
CASES = [case for name in METHODS for case in cases(name) if not case.variant]


def needs_gpu(test: Callable[..., None]) -> Callable[..., None]:
    """Marks a test for GPUs; elsewhere it is skipped."""
    there = torch.cuda.is_available()
    return pytest.mark.gpu(pytest.mark.skipif(not there, reason="needs a CUDA GPU")(test))


def stand_in(work: Work) -> tuple[Callable[[], object], Metrics]:
    """Behaves like a recorder: runs the work to warm up, then repeats it into fixed places, with fixed inputs."""
    for _ in range(WARM_UP):
        metrics = {name: value.clone() for name, value in work().items()}

    def replay() -> None:
        for name, value in work().items():
            metrics[name].copy_(value)

    return replay, metrics


def compare(case: Case, record: Record, updates: int = 4) -> tuple[Algorithm, Algorithm]:
    """A learner replayed and its twin updated plainly; their metrics are compared on the way."""
    data, twins = case.dataset(), (case.learner((0, 1)), case.learner((0, 1)))
    samplers = [make_sampler(algorithm, [data]) for algorithm in twins]
    for algorithm in twins:
        prepare(algorithm, [data])
    step = CapturedStep(twins[0], samplers[0], twins[0].update, record)
    for _ in range(updates):
        replayed, plain = step(), twins[1].update(samplers[1].next())
        for name, value in plain.items():
            torch.testing.assert_close(replayed[name], value, rtol=0, atol=0, equal_nan=True, msg=name)
    return twins


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_replayed_update_is_the_plain_one(case: Case) -> None:
    """Draws, metrics and the whole state, bit for bit: warming up leaves no trace."""
    replayed, plain = compare(case, stand_in)
    state = replayed.state_tensors()
    for name, value in plain.state_tensors().items():
        assert torch.equal(state[name], value), name


@needs_gpu
@pytest.mark.parametrize(
    ("name", "how"), [("omiga", "auto"), ("cql_ma", "auto"), ("icq", "auto"), ("omiga", "on")]
)
def test_training_on_a_gpu_is_recorded(name: str, how: str) -> None:
    """A whole run that is replayed, compiled or not, ends where the plain one does, up to rounding."""
    case = Case(name, "continuous")
    data, learners = case.dataset(), []
    for mode in (how, "off"):
        learner = case.learner((0, 1), device="cuda")
        train(learner, data, updates=20, compile=mode)  # type: ignore[arg-type]
        learners.append(learner.state_tensors())
    for key, value in learners[1].items():
        torch.testing.assert_close(learners[0][key], value, rtol=1e-6, atol=1e-9, msg=key)


@needs_gpu
def test_replaying_never_waits_for_the_device() -> None:
    case = Case("omiga", "continuous")
    learner = case.learner((0, 1), device="cuda")
    step = CapturedStep(learner, make_sampler(learner, [case.dataset()]), learner.update, cuda_graph)
    step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(300):  # over the end of a block of rows
            step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_the_second_gpu_is_recorded_too() -> None:
    """Streams are made on the learner's device, not on the process's current one."""
    case = Case("omiga", "continuous")
    learner = case.learner((0, 1), device="cuda:1")
    step = CapturedStep(learner, make_sampler(learner, [case.dataset()]), learner.update)
    before = [p.clone() for p in learner.parameters()]
    step()
    assert any(not torch.equal(old, new) for old, new in zip(before, learner.parameters(), strict=True))
