"""Evaluation beside the training: the numbers of one at once, while updates go on, and over interruptions."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.envs.base import Step
from marlzoo.errors import SpecError
from marlzoo.replicas import derive
from marlzoo.training.background_eval import Evaluator
from marlzoo.training.evaluation import Evaluation, evaluate
from marlzoo.training.precision import products_in
from marlzoo.training.trainer import train
from tests.toys import ToyEnv, toy_dataset, toy_spec

PATIENCE = 60.0  # seconds until what should happen beside is taken to wait


def learner(method: str = "omiga") -> Algorithm:
    return marlzoo.make(method, toy_spec(), seeds=[0, 1], hidden=32)  # wide enough for products in bfloat16


def run(algorithm: Algorithm, **more: Any) -> list[Evaluation]:
    every: dict[str, Any] = {
        "env": ToyEnv,
        "episodes": 2,
        "eval_every": 10,
        "check_data": False,
        "compile": "off",
    }
    return train(algorithm, toy_dataset(), **{"updates": 25, **every, **more})


def same(found: list[Evaluation], expected: list[Evaluation]) -> None:
    assert [e.updates for e in found] == [e.updates for e in expected]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.episodes.returns, other.episodes.returns)
        np.testing.assert_array_equal(one.diverged, other.diverged)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_the_numbers_are_those_of_an_evaluation_at_once(precision: str) -> None:
    """Of evaluations and of the learner; with products in bfloat16, which an evaluation leaves out."""
    background_eval, at_once = learner(), learner()
    told: list[Evaluation] = []
    found = run(background_eval, background_eval=True, precision=precision, on_evaluation=told.append)
    same(found, run(at_once, background_eval=False, precision=precision))
    assert told == found
    state = background_eval.state_tensors()
    for name, value in at_once.state_tensors().items():
        assert torch.equal(state[name], value), name


class Waiting(ToyEnv):
    """Steps only when it is let."""

    go = threading.Event()

    def step(self, action: NDArray[Any], ids: Any = None) -> Step:
        assert self.go.wait(PATIENCE), "training waits for its evaluation"
        return super().step(action, ids)


def test_updates_go_on_meanwhile() -> None:
    """The first evaluation ends only after five more updates."""
    Waiting.go.clear()

    def on_progress(done: int, _: Any) -> None:
        if done == 15:
            Waiting.go.set()

    algorithm = learner("bc")
    found = run(algorithm, env=Waiting, background_eval=True, log_every=5, on_progress=on_progress)
    same(found, run(learner("bc"), background_eval=False))


class CutError(Exception):
    """Ends a run in the middle."""


def test_an_evaluation_that_was_cut_off_is_made_on_resuming(tmp_path: Path) -> None:
    def cut(done: int, _: Any) -> None:
        if done == 15:
            raise CutError

    path, expected = tmp_path / "run.npz", run(learner("bc"), background_eval=False)
    told: list[int] = []
    with pytest.raises(CutError):
        run(
            learner("bc"),
            background_eval=True,
            checkpoint=path,
            log_every=5,
            on_progress=cut,
            on_evaluation=lambda e: told.append(e.updates),
        )
    assert told == []
    found = run(
        learner("bc"), background_eval=True, checkpoint=path, on_evaluation=lambda e: told.append(e.updates)
    )
    assert told == [10, 20, 25]
    same(found, expected)


def test_its_errors_end_the_run() -> None:
    class Broken(ToyEnv):
        def step(self, action: NDArray[Any], ids: Any = None) -> Step:
            raise CutError

    with pytest.raises(SpecError, match=r"environment .*: step 1 failed \(CutError\)"):
        run(learner("bc"), env=Broken, background_eval=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu_it_is_the_default() -> None:
    learners = [marlzoo.make("omiga", toy_spec(), seeds=[0, 1], hidden=8, device="cuda") for _ in range(2)]
    same(run(learners[0], compile="auto"), run(learners[1], compile="auto", background_eval=False))


@pytest.mark.parametrize("background_eval", [False, True])
def test_the_policy_is_played_as_it_stood_when_it_was_started(background_eval: bool) -> None:
    """Its random numbers are those of that update; the limit of an episode and the clock are the trainer's."""
    names: set[str] = set()

    class Noting(Waiting):
        def step(self, action: NDArray[Any], ids: Any = None) -> Step:
            names.add(threading.current_thread().name.partition("_")[0])
            return super().step(action, ids)

    Waiting.go.clear()
    algorithm, env = learner("bc"), Noting(4)
    if not background_eval:
        Waiting.go.set()
    with Evaluator(algorithm, env, 3, background_eval, lambda: 7.0) as evaluator:
        with products_in(algorithm, torch.bfloat16):  # as the updates have them, an evaluation has not
            first = evaluator.start()
        for parameter in algorithm.parameters():
            parameter.data.add_(1.0)
        algorithm.updates = 5
        Waiting.go.set()
        found, seconds = first()
        second = evaluator.start()
        again, _ = second()
    assert ("evaluation" in names) == background_eval
    assert seconds == 7.0
    assert found.lengths.max() == 3
    assert not np.array_equal(found.returns, again.returns)
    for updates, parameters, returns in ((0, 0.0, found.returns), (5, 1.0, again.returns)):
        fresh = learner("bc")
        for parameter in fresh.parameters():
            parameter.data.add_(parameters)
        seeds = [derive(seed, "evaluate", updates) for seed in fresh.seeds]
        np.testing.assert_array_equal(evaluate(fresh.policy(), env, seeds=seeds, horizon=3).returns, returns)
