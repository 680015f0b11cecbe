"""The scripts in ``examples/`` run."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    return tmp_path


def run(name: str, **options: Any) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main(**{"updates": 2, **options})


def test_every_example_is_tested() -> None:
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    assert names == {"train_and_evaluate", "sweep", "own_dataset", "own_method", "deploy_policy"}


@pytest.mark.usefixtures("folder")
def test_train_and_evaluate() -> None:
    found = run("train_and_evaluate", episodes=2)
    assert found.keys() == {"bc", "alberdice"}
    assert all(map(math.isfinite, found.values()))


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
def test_cloning_fails_where_alberdice_learns_to_agree() -> None:
    found = run("train_and_evaluate", updates=2000)
    assert found["bc"] == 0.0
    assert found["alberdice"] > 0.9


@pytest.mark.usefixtures("folder")
def test_sweep() -> None:
    found = run("sweep", episodes=2)
    assert list(found) == [0.03, 0.1, 0.3, 1.0, 10.0]
    assert all(map(math.isfinite, found.values()))


def test_own_dataset(folder: Path) -> None:
    data = run("own_dataset", out=folder / "mine.hdf5")
    assert (folder / "mine.hdf5").exists()
    assert (data.episodes, data.transitions, data.spec.n_agents) == (10, 200, 2)


@pytest.mark.usefixtures("folder")
def test_own_method() -> None:
    assert run("own_method", updates=200, episodes=2) == 100.0


def test_deploy_policy(folder: Path) -> None:
    assert math.isfinite(run("deploy_policy", checkpoint=folder / "bridge.npz"))
