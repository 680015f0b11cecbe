"""Rows of results and the sheets made of them, for the tests of tables."""

from __future__ import annotations

from dataclasses import replace

from marlzoo.benchmarks import tables
from marlzoo.benchmarks.results import Row, frame
from marlzoo.benchmarks.sheet import Sheet
from marlzoo.benchmarks.styles import terminal
from rich.console import Console

from tests.test_results import ROW

HOPPER = "mamujoco/hopper-3x1"


def cell(method: str, returns: list[float], **changes: object) -> list[Row]:
    row = replace(ROW, method=method, **changes)  # type: ignore[arg-type]
    return [replace(row, seed=seed, mean_return=value) for seed, value in enumerate(returns)]


def grid(learners: dict[str, list[float]], qualities: list[str]) -> list[Row]:
    return [
        row for quality in qualities for method, values in learners.items()
        for row in cell(method, values, quality=quality, data_hash=quality)
    ]  # fmt: skip


def first(rows: list[Row]) -> Sheet:
    return tables.sheets(frame(rows), "title")[0]


def titled(rows: list[Row], title: str, **options: str) -> Sheet:
    return next(
        sheet for sheet in tables.sheets(frame(rows), "title", **options) if sheet.title.startswith(title)
    )


def printed(sheet: Sheet, width: int = 80) -> str:
    console = Console(record=True, width=width, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal(sheet), soft_wrap=True)
    return console.export_text()
