"""One thread and one way to multiply matrices: the tests' products are small, and results repeat on any machine."""

from __future__ import annotations

import gc
import os

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
