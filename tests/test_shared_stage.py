"""Stages that replicas have in common: the same result as trained apart, for fewer replicas."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.config import is_numeric
from marlzoo.data.dataset import Dataset
from marlzoo.training import steps, trainer
from marlzoo.training.shared_stage import SharedStage, kinds
from tests.toys import toy_dataset

MODEL = {
    "model_updates": 3,
    "model_hidden": 8,
    "model_layers": 1,
    "members": 3,
    "elites": 2,
    "model_batch": 8,
}
SMALL: dict[str, dict[str, Any]] = {
    "omsd": {"model_updates": 3, "warm_start": 1, "hidden": 8, "batch_size": 8},
    "moma_ppo": {**MODEL, "starts": 4, "rollout_horizon": 2, "hidden": 8, "batch_size": 8, "epochs": 1},
    "dyna_iql": {**MODEL, "hidden": 8, "batch_size": 8, "dyna_starts": 4, "dyna_buffer": 8},
}
# One setting that the first stage ignores, with the values of four replicas of two seeds.
SWEPT = {"omsd": "score_weight", "moma_ppo": "entropy", "dyna_iql": "dyna_penalty"}
SEEDS = (0, 0, 1, 0)
VALUES = [0.1, 0.9, 0.1, 0.5]
UPDATES = 6


def made(method: str, data: Dataset, **more: Any) -> Algorithm:
    settings = {**SMALL[method], SWEPT[method]: VALUES, "grad_clip": [1.0, 1.0, 0.01, 1.0], **more}
    return marlzoo.make(method, data.spec, seeds=SEEDS, dtype=torch.float64, **settings)


def trained(method: str, data: Any, log: list[str] | None = None, **more: Any) -> Algorithm:
    first = data[0] if isinstance(data, list) else data
    learner = made(method, first, **more.pop("settings", {}))
    told = (log if log is not None else []).append
    trainer.train(learner, data, updates=UPDATES, show_progress=False, log=told, compile="off", **more)
    return learner


def assert_same(one: Algorithm, other: Algorithm) -> None:
    theirs = other.state_tensors()
    for name, value in one.state_tensors().items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", SMALL)
def test_sharing_changes_no_result(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    data, other = toy_dataset(), toy_dataset(seed=1)
    each = [data, data, other, data]
    metrics: list[dict[str, Any]] = []
    more = {"log_every": 1, "on_progress": lambda _, found: metrics.append(found)}
    shared = trained(method, each, told, **more)
    assert any("is trained once for 2 of 4 runs" in line for line in told)
    monkeypatch.setattr(steps, "kinds", lambda learner, _: list(range(learner.replicas)))
    assert_same(shared, trained(method, each, **more))
    for one, two in zip(metrics[:UPDATES], metrics[UPDATES:], strict=True):
        assert one.keys() == two.keys()
        for name in one:
            assert one[name] == pytest.approx(two[name], rel=1e-9), name
    state = shared.state_tensors()
    stacked = [v for v in state.values() if v.ndim and len(v) == len(SEEDS)]
    apart = [v for v in stacked if not torch.equal(v[0], v[1])]
    assert apart, "the swept setting changes nothing in the second stage"


@pytest.mark.parametrize("method", SMALL)
def test_an_interrupted_shared_stage_goes_on_exactly(method: str, tmp_path: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(done: int, _: Any) -> None:
        if done == 2:
            raise StoppedError

    data = toy_dataset()
    whole = trained(method, data, checkpoint=tmp_path / "whole.npz", checkpoint_every=1)
    path = tmp_path / "cut.npz"
    with pytest.raises(StoppedError):
        trained(method, data, checkpoint=path, checkpoint_every=1, log_every=1, on_progress=stop)
    went_on = trained(method, data, checkpoint=path, checkpoint_every=1)
    theirs = whole.state_tensors()
    assert all(torch.equal(value, theirs[name]) for name, value in went_on.state_tensors().items())


@pytest.mark.parametrize("method", SMALL)
def test_a_stage_does_not_know_what_it_ignores(method: str) -> None:
    """Every ignored setting changed at once: what the stage trains has the same numbers, bit for bit."""
    data = toy_dataset()

    def after(factor: float) -> dict[str, torch.Tensor]:
        plain = marlzoo.make(method, data.spec, **SMALL[method])
        stage = plain.stages()[0]
        changed = {name: getattr(plain.config, name) * factor for name in stage.ignores}
        learner = marlzoo.make(method, data.spec, **{**SMALL[method], **changed})
        trainer.prepare(learner, [data])
        before = {name: value.clone() for name, value in learner.state_tensors().items()}
        sampler = trainer.make_sampler(learner, [data])
        for _ in range(stage.updates):
            learner.stage.update(sampler.next())
            learner.updates += 1
        return {k: v for k, v in learner.state_tensors().items() if not torch.equal(v, before[k])}

    one, other = after(1.0), after(0.5)
    assert one.keys() == other.keys()
    assert one, "the stage trains nothing"
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_which_replicas_share() -> None:
    data = toy_dataset()
    learner = made("omsd", data, grad_clip=1.0)
    assert kinds(learner, [data]) == [0, 0, 2, 0]
    others = toy_dataset()
    assert kinds(learner, [data, data, data, others]) == [0, 0, 2, 3]  # other data, though they look the same
    assert kinds(made("omsd", data, gamma=[0.9, 0.9, 0.9, 0.8]), [data]) == [0, 0, 2, 3]
    assert kinds(made("omsd", data, expectile=[0.7, 0.7, 0.7, 0.8]), [data]) == [0, 0, 2, 3]
    assert kinds(marlzoo.make("iql", data.spec, seeds=(0, 0)), [data]) == [
        0,
        1,
    ]  # says of nothing that it ignores it
    learner.updates = 3  # the second stage ignores nothing
    assert kinds(learner, [data]) == [0, 1, 2, 3]


def test_the_smaller_learner_counts_its_updates() -> None:
    data = toy_dataset()
    learner = made("omsd", data)
    learner.updates = 2

    def small(rows: Sequence[int]) -> Any:
        assert rows == [0, 2]
        one = marlzoo.make(
            "omsd", data.spec, seeds=[SEEDS[k] for k in rows], dtype=torch.float64, **SMALL["omsd"]
        )
        return one, trainer.make_sampler(one, [data])

    shared = SharedStage(learner, trainer.make_sampler(learner, [data]), small, kinds(learner, [data]))
    assert shared.learner.updates == 2
    shared.count({})
    assert shared.learner.updates == 3


def test_what_gets_its_first_value_back_is_handed_out() -> None:
    """As the numbers of the members that make rollouts may, between two checkpoints."""
    data = toy_dataset()
    learner = made("omsd", data)
    sampler = trainer.make_sampler(learner, [data])

    def small(rows: Sequence[int]) -> Any:
        seeds = [SEEDS[k] for k in rows]
        one = marlzoo.make("omsd", data.spec, seeds=seeds, dtype=torch.float64, **SMALL["omsd"])
        return one, trainer.make_sampler(one, [data])

    shared = SharedStage(learner, sampler, small, kinds(learner, [data]))
    parameter = next(shared.learner.v.parameters())
    start = parameter.clone()
    whole = next(learner.v.parameters()).clone()
    for value, expected in ((torch.zeros_like(start), torch.zeros_like(whole)), (start, whole)):
        with torch.no_grad():
            parameter.copy_(value)
        shared.spread()
        assert torch.equal(next(learner.v.parameters()), expected)


@pytest.mark.parametrize("method", SMALL)
def test_what_is_ignored_exists_and_may_differ(method: str) -> None:
    learner = made(method, toy_dataset())
    ignored = learner.stages()[0].ignores
    assert SWEPT[method] in ignored
    names = {setting.name for setting in dataclasses.fields(learner.config)}
    assert set(ignored) <= {name for name in names if is_numeric(type(learner.config), name)}
