"""One thread and one way to multiply matrices: the tests' products are small, and results repeat on any machine."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
import torch

os.environ["MARLZOO_MATMUL"] = "highest"  # nothing is measured, here and in the processes that tests start

torch.set_num_threads(1)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """What a test or its fixtures draw from torch's own generator is the same in every run and order."""
    torch.manual_seed(0)


def pytest_collection_finish() -> None:
    """Imported modules and collected tests stay to the end: the garbage collector need not look at them again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test stands in an empty folder, and nothing that the user has stored is found."""
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small recording of a real simulator, to be read only."""
    from tests.recordings import uniform_recording  # most runs need no simulator

    return uniform_recording(tmp_path_factory.mktemp("data") / "uniform.hdf5")
