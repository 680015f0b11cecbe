"""Tables: closed-form statistics, last checkpoint, nothing dropped, published values beside ours."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from marlzoo.benchmarks import references, tables
from marlzoo.benchmarks import stats as statistics
from marlzoo.benchmarks.results import Results, Row, frame
from marlzoo.benchmarks.styles import latex, markdown, terminal

from marlzoo.errors import DataError
from tests.test_results import ROW


def cell(method: str, returns: list[float], **changes: object) -> list[Row]:
    row = replace(ROW, method=method, **changes)  # type: ignore[arg-type]
    return [replace(row, seed=seed, mean_return=value) for seed, value in enumerate(returns)]


def test_interquartile_mean_cuts_a_quarter_at_each_end() -> None:
    assert statistics.iqm([8, 1, 2, 3, 4, 5, 6, 100]) == pytest.approx((3 + 4 + 5 + 6) / 4)
    assert statistics.iqm([1, 2, 30, 4, 5]) == pytest.approx((2 + 4 + 5) / 3)
    assert statistics.iqm([1, 2, 30]) == pytest.approx(11)  # nothing to cut


def test_intervals_repeat_and_cover_the_value() -> None:
    values = np.random.default_rng(1).normal(size=20)
    low, high = statistics.interval([values])
    assert (low, high) == statistics.interval([values])
    assert values.min() < low < statistics.iqm(values) < high < values.max()
    assert statistics.interval([np.full(5, 3.0)]) == (3.0, 3.0)
    assert all(map(math.isnan, statistics.interval([np.array([1.0])])))
    assert all(map(math.isnan, statistics.interval([np.array([1.0, np.nan])])))


def test_stratified_interval_never_mixes_the_strata() -> None:
    # Each dataset's runs are equal, so resampling within it changes nothing.
    assert statistics.interval([np.full(4, 0.0), np.full(4, 10.0)]) == (5.0, 5.0)


def test_probability_of_improvement_by_hand() -> None:
    x, y = np.array([1.0, 3.0]), np.array([2.0, 3.0])
    assert statistics.probability(x, y) == pytest.approx((0 + 0 + 1 + 0.5) / 4)
    assert statistics.probability(x, y) + statistics.probability(y, x) == pytest.approx(1)
    value, low, high = statistics.improvement([(x, y), (np.array([5.0, 6.0]), np.array([1.0, 2.0]))])
    assert value == pytest.approx((0.375 + 1) / 2)
    assert low <= value <= high


def test_the_last_checkpoint_counts_not_the_best() -> None:
    rows = cell("first", [900.0, 800.0], updates=1000) + cell("first", [100.0, 200.0], updates=2000)
    line = tables.summary(frame(rows)).iloc[0]
    assert (line["mean"], line["updates"], line["seeds"]) == (150.0, 2000, 2)
    assert line["std"] == pytest.approx(math.sqrt(2) * 50)
    shuffled = frame(rows).sample(frac=1, random_state=3).reset_index(drop=True)
    assert tables.summary(shuffled).iloc[0]["mean"] == 150.0


def test_unfinished_runs_are_told_apart() -> None:
    rows = cell("first", [1.0, 2.0, 3.0])
    rows[2] = replace(rows[2], updates=500)
    line = tables.summary(frame(rows)).iloc[0]
    assert (line["updates"], line["updates_max"]) == (500, 1000)
    assert "500–1000" in markdown(tables.details(tables.summary(frame(rows))))


def test_diverged_replicas_are_shown() -> None:
    rows = cell("first", [10.0, 20.0]) + cell("second", [1.0, 2.0])
    rows[1] = replace(rows[1], mean_return=math.nan, diverged=True)
    cells = tables.summary(frame(rows))
    assert cells["seeds"].tolist() == [2, 2]
    sheet = tables.comparison(cells, "title")
    assert sheet.body[0][2] == "– (1 of 2 diverged)"
    assert "diverged" in sheet.notes[-1]
    # A replica without a return loses against every other: P = (0 + 1 + 0 + 1) / 4.
    assert tables.improvements(frame(rows))["probability"].tolist() == [0.5]


def test_other_execution_kinds_are_marked_and_not_ranked() -> None:
    rows = cell("first", [10.0, 20.0]) + cell("second", [1.0, 2.0])
    rows += cell("third", [99.0, 98.0], execution="sequential")
    sheet = tables.comparison(tables.summary(frame(rows)), "title")
    assert sheet.header == ["dataset", "data", "first", "second", "third†"]
    assert sheet.best == [{2}]
    assert any("sequential execution" in note for note in sheet.notes)
    pairs = tables.improvements(frame(rows))
    assert pairs[["better", "worse", "probability"]].values.tolist() == [["first", "second", 1.0]]


def test_settings_and_configurations_get_columns_of_their_own() -> None:
    rows = cell("first", [1.0]) + cell("first", [2.0], variant="alpha=1.0", config_hash="a")
    rows += cell("second", [3.0], config_hash="old") + cell("second", [4.0], config_hash="new")
    sheet = tables.comparison(tables.summary(frame(rows)), "title")
    assert sheet.header[2:] == ["first", "first (alpha=1.0)", "second #old", "second #new"]


def test_a_dataset_without_a_run_says_so() -> None:
    rows = cell("first", [1.0]) + cell("second", [2.0], quality="expert", data_hash="other")
    sheet = tables.comparison(tables.summary(frame(rows)), "title")
    assert [line[2:] for line in sheet.body] == [["1.0", "not run"], ["not run", "2.0"]]


def test_published_scores_stand_beside_ours() -> None:
    known = references.published("mamujoco/hopper-3x1", "medium", "omiga")
    assert known is not None
    assert (known.mean, known.seeds) == (1189.26, 5)
    assert references.published("mamujoco/hopper-3x1", "medium", "BCQ_MA") is not None
    assert references.published("mamujoco/hopper-3x1", "random", "omiga") is None
    rate = references.published("smac/5m_vs_6m", "good", "omiga", "win_rate")
    assert rate is not None
    assert 0 <= rate.mean <= 1
    rows = cell("omiga", [1.0, 2.0]) + cell("own", [3.0, 4.0])
    sheet = tables.comparison(tables.summary(frame(rows)), "title")
    assert sheet.header[2:] == ["omiga", "omiga, published¹", "own"]
    assert sheet.body[0][3].startswith("1189.3 ± ")
    assert any("regenerated" in note for note in sheet.notes)


def test_normalized_score_ends() -> None:
    assert references.normalized("mamujoco/hopper-3x1", 2452.0) == pytest.approx(100)
    assert references.normalized("mamujoco/halfcheetah-6x1", -280.6) == pytest.approx(0)
    assert references.normalized("mamujoco/swimmer-2x1", 5.0) is None


def test_styles_escape_and_mark() -> None:
    rows = cell("a_b", [1.0, 2.0]) + cell("c|d", [3.0, 4.0])
    sheet = tables.comparison(tables.summary(frame(rows)), "50 % & more", "marlzoo bench x")
    text = markdown(sheet)
    assert "**3.5 ± 0.7**" in text
    assert "c\\|d" in text
    assert all(
        line.count("|") - line.count("\\|") == 5 for line in text.splitlines() if line.startswith("| ")
    )
    source = latex(sheet)
    assert r"50 \% \& more" in source
    assert r"a\_b" in source
    assert r"\textbf{3.5 $\pm$ 0.7}" in source
    from rich.console import Console

    console = Console(record=True, width=200, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(terminal(sheet))
    assert "3.5 ± 0.7" in console.export_text()


def test_written_files_agree_with_the_rows(tmp_path: Path) -> None:
    results = Results(tmp_path / "rows.csv")
    results.append(cell("first", [1.0, 2.0]) + cell("second", [3.0, 5.0]))
    tables.write(tables.read([tmp_path]), tmp_path, "suite unit", "marlzoo bench unit")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["mean"].tolist() == [1.5, 4.0]
    assert table["behavior"].tolist() == [723.5, 723.5]
    text = (tmp_path / "table.md").read_text()
    assert "`marlzoo bench unit`" in text
    assert "P(second > first)" in text
    before = text
    tables.write(tables.read([tmp_path / "rows.csv"]), tmp_path, "suite unit", "marlzoo bench unit")
    assert (tmp_path / "table.md").read_text() == before  # repeats exactly
    assert (tmp_path / "table.tex").read_text().startswith(r"\begin{table}")


def test_no_rows_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no results at"):
        tables.read([tmp_path])
    Results(tmp_path / "rows.csv").append([])
    with pytest.raises(DataError, match="no result rows"):
        tables.read([tmp_path])
