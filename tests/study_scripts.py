"""The scripts of ``benchmarks/studies`` as modules, and what they write."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pandas as pd

FOLDER = Path(__file__).parents[1] / "benchmarks" / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.py"))


def script(name: str) -> Any:
    """A study's script as a module."""
    spec = importlib.util.spec_from_file_location(f"study_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def written(folder: Path) -> pd.DataFrame:
    """The numbers; the table names the command and shows the plot."""
    text = (folder / "table.md").read_text()
    assert "Made by `python benchmarks/studies/" in text
    assert ("![plot](plot.png)" in text) == (folder / "plot.png").exists()
    return pd.read_csv(folder / "table.csv")
