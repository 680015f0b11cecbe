"""The precision of matrix products: what is asked for, refused and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from marlzoo.benchmarks.plan import config_hash
from marlzoo.benchmarks.suites import SUITES, Learner

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.errors import CheckpointError, ConfigError
from marlzoo.modules.layers import Linear
from marlzoo.training import precision
from marlzoo.training.evaluation import evaluate as real_evaluate
from marlzoo.training.precision import Arithmetic, choose_arithmetic
from marlzoo.training.trainer import train
from tests.toys import ToyEnv, toy_dataset


@pytest.fixture(autouse=True)
def undecided(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARLZOO_MATMUL")


def learner(method: str = "omiga", **settings: Any) -> Algorithm:
    data = toy_dataset("continuous")
    return marlzoo.make(method, data.spec, seeds=[0, 1], **{"hidden": 16, "batch_size": 16} | settings)


def test_the_environment_variable_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_arithmetic(learner()).setting == "highest"
    monkeypatch.setenv("MARLZOO_MATMUL", "medium")
    assert choose_arithmetic(learner()).setting == "medium"
    monkeypatch.setenv("MARLZOO_MATMUL", "best")
    with pytest.raises(ConfigError, match=r"MARLZOO_MATMUL.*highest, high, medium"):
        choose_arithmetic(learner())


def test_a_resumed_run_keeps_its_arithmetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Interrupted and resumed where another setting is asked for: bit for bit the uninterrupted run."""
    seen: list[str] = []
    real = precision.Arithmetic.applied

    def noted(self: precision.Arithmetic, algorithm: Algorithm) -> Any:
        seen.append(self.setting)
        return real(self, algorithm)

    monkeypatch.setattr(precision.Arithmetic, "applied", noted)
    monkeypatch.setenv("MARLZOO_MATMUL", "medium")
    algorithm = learner()
    train(algorithm, toy_dataset("continuous"), updates=2, checkpoint=tmp_path / "run.npz")
    monkeypatch.setenv("MARLZOO_MATMUL", "highest")
    again = learner()
    found = train(
        again, toy_dataset("continuous"), updates=4, checkpoint=tmp_path / "run.npz", env=ToyEnv, horizon=2
    )
    assert seen == ["medium", "medium"]
    assert found[-1].arithmetic == "products float32 (medium)"


def test_bf16_products(tmp_path: Path) -> None:
    """Near float32, not equal to it; parameters stay float32, and the policy is evaluated in float32."""
    data, runs = toy_dataset("continuous"), {}
    for kind in ("float32", "bf16"):
        algorithm = learner()
        file = tmp_path / f"{kind}.npz"
        train(algorithm, data, updates=5, precision=kind, checkpoint=file)  # type: ignore[arg-type]
        runs[kind] = {name: value.clone() for name, value in algorithm.state_tensors().items()}
        assert all(value.dtype in (torch.float32, torch.float64) for value in runs[kind].values())
        assert all(module.products is None for module in algorithm.modules() if hasattr(module, "products"))
    moved = [(value - runs["bf16"][name]).abs().max().item() for name, value in runs["float32"].items()]
    assert 0 < max(moved) < 0.05
    with pytest.raises(CheckpointError, match="trained with precision bf16, not float32"):
        train(learner(), data, updates=6, checkpoint=tmp_path / "bf16.npz")


@pytest.mark.parametrize("aside", [False, True])
def test_a_bf16_policy_is_evaluated_in_float32(monkeypatch: pytest.MonkeyPatch, aside: bool) -> None:
    algorithm = learner()
    training: list[set[Any]] = []
    playing: list[set[Any]] = []
    real_update = algorithm.update

    def products(module: torch.nn.Module) -> set[Any]:
        return {layer.products for layer in module.modules() if hasattr(layer, "products")}

    def evaluate(policy: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        playing.append(products(policy))
        return real_evaluate(policy, *args, **kwargs)

    def update(batch: Any) -> Any:
        training.append(products(algorithm))
        return real_update(batch)

    monkeypatch.setattr("marlzoo.training.background_eval.evaluate", evaluate)
    monkeypatch.setattr(algorithm, "update", update)
    monkeypatch.setenv("MARLZOO_MATMUL", "highest")
    train(
        algorithm,
        toy_dataset("continuous"),
        updates=2,
        eval_every=1,
        env=ToyEnv,
        horizon=2,
        precision="bf16",
        background_eval=aside,
    )
    assert training == [{torch.bfloat16}] * 2
    assert playing == [{None}] * 2


def test_what_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match=r"tf32 is for CUDA devices"):
        choose_arithmetic(learner(), "tf32")
    with pytest.raises(ConfigError, match=r"float32 learners; this one's type is torch\.float64"):
        choose_arithmetic(learner(dtype=torch.float64), "bf16")
    with pytest.raises(ConfigError, match=r"choose one of float32, tf32, bf16"):
        choose_arithmetic(learner(), "half")  # type: ignore[arg-type]


def test_rows_of_another_precision_are_other_runs() -> None:
    suite, learner = SUITES["smoke"], Learner("bc")
    hashes = {
        p: config_hash(replace(suite, precision=p), learner, "mamujoco/hopper-3x1", suite.data[0])
        for p in ("float32", "bf16")
    }
    assert (
        hashes["float32"]
        == config_hash(suite, learner, "mamujoco/hopper-3x1", suite.data[0])
        != hashes["bf16"]
    )


@pytest.mark.parametrize(
    ("asked", "setting", "products"),
    [("float32", "medium", None), ("tf32", "high", None), ("bf16", "highest", torch.bfloat16)],
)
def test_arithmetic_is_applied_and_taken_back(asked: Any, setting: str, products: Any) -> None:
    made = learner()
    layers = [module for module in made.modules() if isinstance(module, Linear)]
    before = torch.get_float32_matmul_precision()
    with Arithmetic(asked, setting).applied(made):
        assert torch.get_float32_matmul_precision() == setting
        assert {layer.products for layer in layers} == {products}
    assert torch.get_float32_matmul_precision() == before
    assert {layer.products for layer in layers} == {None}


@pytest.mark.parametrize(
    ("asked", "setting"), [("float32", "highest"), ("tf32", "high"), ("bf16", "highest")]
)
def test_a_gpu_rounds_products_only_where_that_was_asked_for(
    asked: Any, setting: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARLZOO_MATMUL", "medium")  # of processors
    made: Any = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert choose_arithmetic(made, asked) == Arithmetic(asked, setting)
    made.dtype = torch.float64
    if asked != "float32":
        with pytest.raises(ConfigError, match=f"precision {asked} is for float32 learners"):
            choose_arithmetic(made, asked)
