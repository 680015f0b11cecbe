"""How matrix products are made: what is measured, refused, remembered and kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from marlzoo.benchmarks.plan import config_hash
from marlzoo.benchmarks.suites import SUITES, Learner
from torch.utils.flop_counter import FlopCounterMode

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.data.sampler import Sampler
from marlzoo.errors import CheckpointError, ConfigError, DataError
from marlzoo.system.machine import MeasurementCache
from marlzoo.training import precision
from marlzoo.training.evaluation import evaluate as real_evaluate
from marlzoo.training.precision import SETTINGS, choose
from marlzoo.training.trainer import make_sampler, train
from tests.toys import ToyEnv, toy_dataset


@pytest.fixture(autouse=True)
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Measurements of this test only, and none decided beforehand."""
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MARLZOO_MATMUL")
    return tmp_path / "home"


def learner(method: str = "omiga", **settings: Any) -> tuple[Algorithm, Sampler]:
    data = toy_dataset("continuous")
    settings = {"hidden": 16, "batch_size": 16} | settings
    algorithm = marlzoo.make(method, data.spec, seeds=[0, 1], **settings)
    return algorithm, make_sampler(algorithm, [data])


def pretend(monkeypatch: pytest.MonkeyPatch, errors: tuple[float, ...], seconds: tuple[float, ...]) -> None:
    """Let the settings have these errors and times, whatever this processor does."""
    monkeypatch.setattr(precision, "_errors", lambda a, b: dict(zip(SETTINGS, errors, strict=True)))
    times = dict(zip(SETTINGS, seconds, strict=True))
    monkeypatch.setattr(precision, "_seconds", lambda a, b, settings: {s: times[s] for s in settings})


@pytest.mark.parametrize(
    ("errors", "seconds", "chosen"),
    [
        ((2e-7, 2e-7, 3e-7), (1.0, 1.0, 0.5), "medium"),
        ((2e-7, 2e-7, 2e-3), (1.0, 1.0, 0.1), "highest"),  # fast, but bfloat16 inside
        ((2e-7, 3e-7, 2e-3), (1.0, 0.6, 0.1), "high"),
        (
            (2e-7, 3e-7, 3e-7),
            (1.0, 0.8, 0.8),
            "highest",
        ),  # so much may be noise, which must not decide numbers
        ((2e-7, 2e-7, 2e-7), (1.0, 0.99, 0.98), "highest"),  # too little to leave the default for
    ],
)
def test_the_fastest_setting_with_float32_accuracy(
    monkeypatch: pytest.MonkeyPatch,
    errors: tuple[float, ...],
    seconds: tuple[float, ...],
    chosen: str,
) -> None:
    pretend(monkeypatch, errors, seconds)
    assert choose(*learner()).setting == chosen


def test_this_processor() -> None:
    """Whatever is chosen here is as accurate as the default, and torch is left as it was."""
    before = torch.get_float32_matmul_precision()
    chosen = choose(*learner(hidden=64)).setting
    assert torch.get_float32_matmul_precision() == before
    found = precision._errors(torch.randn(2, 64, 64), torch.randn(2, 64, 64))
    torch.set_float32_matmul_precision(before)
    assert found[chosen] < 1e-5


@pytest.mark.parametrize("method", ["omiga", "qmix_cql"])
def test_measuring_changes_nothing(method: str) -> None:
    """The learner, and what its sampler draws next, are those of a run without a measurement."""
    data = toy_dataset("discrete")
    (one, first), (other, second) = (
        ((a := marlzoo.make(method, data.spec, hidden=16, batch_size=4)), make_sampler(a, [data]))
        for _ in range(2)
    )
    for algorithm, sampler in ((one, first), (other, second)):
        algorithm.update(sampler.next())
    choose(one, first)
    for algorithm, sampler in ((one, first), (other, second)):
        algorithm.update(sampler.next())
    for name, value in one.state_tensors().items():
        torch.testing.assert_close(value, other.state_tensors()[name], rtol=0, atol=0, msg=name)


def test_all_products_of_an_update_are_seen() -> None:
    algorithm, sampler = learner()
    seen = precision._products(algorithm, sampler)
    with FlopCounterMode(display=False) as counter:
        algorithm.update(sampler.next())
    assert sum(product.operations * count for product, count in seen.items()) == counter.get_total_flops()
    for product in seen:
        a, b = product.factors()
        assert a.shape == (product.batch, product.m, product.k)
        assert b.shape == (product.batch, product.k, product.n)
        assert (precision._turned(a), precision._turned(b)) == product.transposed


def test_a_choice_is_remembered(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """For learners of the same shapes: other values of float settings share it, another width does not."""
    pretend(monkeypatch, (1.0, 1.0, 1.0), (1.0, 1.0, 0.1))
    assert choose(*learner()).setting == "medium"
    pretend(monkeypatch, (1.0, 1.0, 1.0), (0.1, 1.0, 1.0))
    assert choose(*learner(alpha=3.0)).setting == "medium"
    assert choose(*learner(hidden=24)).setting == "highest"
    (home / "measured.json").unlink()
    assert choose(*learner()).setting == "highest"


def test_decided_beforehand(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    monkeypatch.setenv("MARLZOO_MATMUL", "medium")
    assert choose(*learner()).setting == "medium"
    assert not home.exists()
    monkeypatch.setenv("MARLZOO_MATMUL", "best")
    with pytest.raises(ConfigError, match=r"MARLZOO_MATMUL.*highest, high, medium"):
        choose(*learner())


def test_a_resumed_run_keeps_its_arithmetic(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Interrupted and resumed under other measurements: bit for bit the uninterrupted run."""
    seen: list[str] = []
    real = precision.Arithmetic.applied

    def noted(self: precision.Arithmetic, algorithm: Algorithm) -> Any:
        seen.append(self.setting)
        return real(self, algorithm)

    monkeypatch.setattr(precision.Arithmetic, "applied", noted)
    pretend(monkeypatch, (1.0, 1.0, 1.0), (1.0, 1.0, 0.1))
    algorithm, _ = learner()
    train(algorithm, toy_dataset("continuous"), updates=2, checkpoint=tmp_path / "run.npz")
    monkeypatch.setenv("MARLZOO_MATMUL", "highest")
    again, _ = learner()
    found = train(
        again, toy_dataset("continuous"), updates=4, checkpoint=tmp_path / "run.npz", env=ToyEnv, horizon=2
    )
    assert seen == ["medium", "medium"]
    assert found[-1].arithmetic == "products float32 (medium)"


def test_a_run_from_another_machine_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    kept = {"precision": "float32", "setting": "high", "machine": "another, torch 1.0"}
    monkeypatch.setenv("MARLZOO_MATMUL", "medium")
    assert choose(*learner(), kept=kept, log=said.append).setting == "medium"
    assert len(said) == 1
    assert "began on another, torch 1.0" in said[0]


def test_bf16_products(tmp_path: Path) -> None:
    """Near float32, not equal to it; parameters stay float32, and the policy is evaluated in float32."""
    data, runs = toy_dataset("continuous"), {}
    for kind in ("float32", "bf16"):
        algorithm, _ = learner()
        file = tmp_path / f"{kind}.npz"
        train(algorithm, data, updates=5, precision=kind, checkpoint=file)  # type: ignore[arg-type]
        runs[kind] = {name: value.clone() for name, value in algorithm.state_tensors().items()}
        assert all(value.dtype in (torch.float32, torch.float64) for value in runs[kind].values())
        assert all(module.products is None for module in algorithm.modules() if hasattr(module, "products"))
    moved = [(value - runs["bf16"][name]).abs().max().item() for name, value in runs["float32"].items()]
    assert 0 < max(moved) < 0.05
    with pytest.raises(CheckpointError, match="trained with precision bf16, not float32"):
        train(learner()[0], data, updates=6, checkpoint=tmp_path / "bf16.npz")


@pytest.mark.parametrize("aside", [False, True])
def test_a_bf16_policy_is_evaluated_in_float32(monkeypatch: pytest.MonkeyPatch, aside: bool) -> None:
    algorithm, _ = learner()
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
        choose(*learner(), "tf32")
    with pytest.raises(ConfigError, match=r"float32 learners; this one's type is torch\.float64"):
        choose(*learner(dtype=torch.float64), "bf16")
    with pytest.raises(ConfigError, match=r"choose one of float32, tf32, bf16"):
        choose(*learner(), "half")  # type: ignore[arg-type]


def test_rows_of_another_precision_are_other_runs() -> None:
    suite, learner = SUITES["smoke"], Learner("bc")
    hashes = {
        p: config_hash(replace(suite, precision=p), learner, "mamujoco/hopper-3x1", {})
        for p in ("float32", "bf16")
    }
    assert hashes["float32"] == config_hash(suite, learner, "mamujoco/hopper-3x1", {}) != hashes["bf16"]


def test_memory(home: Path) -> None:
    memory = MeasurementCache("unit")
    assert memory.recall("a") is None
    assert memory.remember("a", 1) == 1
    assert memory.remember("a", 2) == 1  # the first to measure decides
    assert MeasurementCache("unit").recall("a") == 1
    assert MeasurementCache("other").recall("a") is None
    (home / "measured.json").write_text("{")
    with pytest.raises(DataError, match=r"measured\.json: cannot be read .*delete it"):
        memory.recall("a")
