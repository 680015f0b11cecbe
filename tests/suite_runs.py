"""Small suites, and the rows that a run of one leaves."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from marlzoo.benchmarks import runner
from marlzoo.benchmarks.results import ResultsFile, Row
from marlzoo.benchmarks.suites import Data, Learner, Suite
from rich.console import Console

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 8}


def suite_of(*files: Path, **changes: Any) -> Suite:
    values: dict[str, Any] = {
        "name": "unit",
        "data": tuple(Data(file=str(file)) for file in files),
        "learners": (Learner("bc", SMALL),),
        "seeds": (0, 1),
        "updates": 6,
        "eval_every": 3,
        "episodes": 2,
        "horizon": 5,
    }
    return Suite(**values | changes)


def run(suite: Suite, out: Path, **options: Any) -> str:
    text = io.StringIO()
    runner.run_suite(suite, out=out, console=Console(file=text, width=200), **options)
    return text.getvalue()


def scores(out: Path, name: str = "unit") -> dict[tuple[Any, ...], Row]:
    rows = ResultsFile(out / name / "rows.csv").rows()
    return {
        (r.method, r.quality, r.seed, r.updates): replace(
            r, seconds=0.0, seconds_per_run=0.0, date="", action_us=0.0
        )
        for r in rows
    }
