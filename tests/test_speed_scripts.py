"""The speed scripts' yardstick is honest: the plain loop computes what our learner computes."""

from __future__ import annotations

import csv
import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import marlzoo
from marlzoo.spec import Spec
from marlzoo.training.trainer import make_sampler
from tests.toys import toy_dataset

FOLDER = Path(__file__).parents[1] / "benchmarks" / "speed"


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads a script the way it finds its neighbors when it is run."""
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module
    for path in FOLDER.glob("*.py"):
        sys.modules.pop(path.stem, None)


def copied(network: nn.Module, stacked: nn.Module) -> None:
    """Give a plain network the parameters of replica 0; both list them layer by layer, weight first."""
    for plain, ours in zip(network.parameters(), stacked.parameters(), strict=True):
        plain.data.copy_(ours[0].T if plain.ndim == 2 else ours[0, 0])


def test_reference_loop_equals_omiga(script: Any) -> None:
    """Losses of five updates on the same batches, and the parameters and targets after them, in float64."""
    spec, double = Spec(3, 4, 12, "continuous", 2, horizon=20), torch.float64
    data = script("measuring").random_dataset(spec, 200)
    ours = marlzoo.make("omiga", spec, seeds=[3], dtype=double, hidden=16, mixer_hidden=8, batch_size=32)
    plain = script("reference_loop").Reference(
        spec.n_agents, spec.obs_size, spec.state_size, spec.action_size, 16, 8, dtype=double
    )
    networks = ("actor", "q", "v", "mixer", "target_q", "target_v", "target_mixer")
    for name in networks:
        copied(getattr(plain, name), getattr(ours, name))
    sampler = make_sampler(ours, [data])
    for _ in range(5):
        batch = sampler.next()
        arrays = {
            "o": batch.obs,
            "s": batch.state,
            "a": batch.action,
            "r": batch.reward.unsqueeze(-1),
            "mask": batch.mask.unsqueeze(-1),
            "o_next": batch.next_obs,
            "s_next": batch.next_state,
        }
        mine = ours.update(batch)
        theirs = plain.update({name: value[0].numpy() for name, value in arrays.items()})
        for name, value in theirs.items():
            torch.testing.assert_close(mine[name][0], value.detach(), rtol=1e-9, atol=1e-10)
    for name in networks:
        stacked = getattr(ours, name).parameters()
        for value, own in zip(getattr(plain, name).parameters(), stacked, strict=True):
            expected = own[0].T if value.ndim == 2 else own[0, 0]
            torch.testing.assert_close(value.detach(), expected.detach(), rtol=1e-9, atol=1e-10)


def test_reference_loop_samples_transitions(script: Any) -> None:
    """Its copied-out next observations are the rows below, and its mask is 0 at every end."""
    data = toy_dataset("continuous")
    buffer = script("reference_loop").Buffer(data)
    np.testing.assert_array_equal(buffer.arrays["o_next"], data.obs[data.sources + 1])
    ends = (data.terminal | data.truncated)[data.sources]
    np.testing.assert_array_equal(buffer.arrays["mask"][:, 0], 1.0 - ends)
    batch = buffer.sample(16)
    assert {name: len(value) for name, value in batch.items()} == dict.fromkeys(batch, 16)


def test_generated_files_hold_what_they_should(script: Any, tmp_path: Path) -> None:
    data = script("data")
    data.make_omiga(tmp_path / "omiga.hdf5", 2002)
    data.make_native(tmp_path / "native.hdf5", 0.001)
    for name, rows in (("omiga", 2002), ("native", 2002)):
        found = marlzoo.load_dataset(tmp_path / f"{name}.hdf5")
        assert (found.rows, found.state_is_obs, found.spec) == (rows, True, data.SPEC)
    size = (tmp_path / "native.hdf5").stat().st_size
    assert abs(size - found.rows * (data.ROW + 6)) < 10_000


TINY: dict[str, Any] = {
    "replicas": (1, 2),
    "precisions": ("float32", "bf16"),
    "compiled": (False,),
    "processes": (1, 2),
    "qualities": 2,
    "rows": 2002,
    "hidden": 16,
    "batch_size": 8,
    "edge": 32,
    "rounds": 2,
    "seconds": 0.02,
    "suite": "omiga-mujoco",
    "methods": ("bc",),
    "group": 2,
    "steps": 2,
}


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as file:
        return list(csv.DictReader(file))


def sweep(script: Any, output: Path, device: str, **options: Any) -> list[dict[str, str]]:
    gpu = script("gpu")
    assert gpu.main(gpu.Options(**{**TINY, "device": device, "output": output, **options})) == 0
    return rows_of(output)


def test_the_sweep_on_a_gpu_is_exercised_without_one(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every plain loop and every kind of ours has its line, the knee is said, and the suite's hours add up."""
    monkeypatch.setenv("MARLZOO_MATMUL", "highest")
    rows = sweep(script, tmp_path / "gpu.csv", "cpu")
    assert [(row["update"], row["precision"], row["R"]) for row in rows] == [
        ("plain loop x 1", "float32", "1"),
        ("plain loop x 2", "float32", "1"),
        *(("recorded", precision, r) for precision in ("float32", "bf16") for r in ("1", "2")),
    ]
    assert (rows[0]["ratio"], rows[1]["of shared"]) == ("1.0", "1.0")
    assert all(float(row["rate"]) > 0 for row in rows)
    said = capsys.readouterr().out
    assert "knee of bf16: R = " in said
    assert "1 methods x 60 runs of 1000000 updates: " in said
    suite = rows_of(tmp_path / "gpu_suite.csv")
    assert [(row["task"], row["groups"]) for row in suite] == [
        (f"mamujoco/{task}", "10") for task in ("hopper-3x1", "ant-2x4", "halfcheetah-6x1")
    ]
    for row in suite:  # 10^6 updates and 200 evaluations, ten times; figures are rounded
        parts = (1e3 * float(row["ms per update"]), 200 * float(row["s per evaluation"]))
        assert float(row["hours in turn"]) == pytest.approx(sum(parts) / 360, rel=0.05, abs=0.001)
        assert float(row["hours beside"]) == pytest.approx(max(parts) / 360, rel=0.05, abs=0.001)


@pytest.mark.parametrize(("name", "other"), [("env", "gymnasium_robotics"), ("particle", "mpe2")])
def test_rows_name_the_command_that_made_them(
    script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, other: str
) -> None:
    module, path = script(name), tmp_path / "found.csv"
    figures = dict.fromkeys(
        (*getattr(module, "COLUMNS", ()), "ours_steps_per_s", "gymnasium_robotics_steps_per_s"), 1
    )
    more = dict.fromkeys(("task", "ratio_median", "ratio_min", "ratio_free"), 2)
    monkeypatch.setattr(module, "measure", lambda *_: {**figures, **more})
    monkeypatch.setitem(sys.modules, other, sys)
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--output", str(path)])
    assert module.main() == 0
    rows = rows_of(path)
    assert len(rows) == len(module.TASKS["mamujoco"] if name == "env" else module.TASKS)
    assert {row["command"] for row in rows} == {f"python benchmarks/speed/{name}.py --output {path}"}
    assert all(row["machine"] for row in rows)


def test_the_knee_is_the_least_that_comes_near_the_best(script: Any) -> None:
    assert script("gpu").knee({1: 10.0, 4: 35.0, 16: 81.0, 32: 100.0, 64: 99.0}) == 16


def test_without_a_gpu_the_sweep_says_so(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    gpu = script("gpu")
    assert gpu.main(gpu.Options()) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_sweep_on_a_gpu(script: Any, tmp_path: Path) -> None:
    sweep(script, tmp_path / "gpu.csv", "cuda", precisions=("float32", "tf32"), seconds=0.1)
