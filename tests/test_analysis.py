"""``marlzoo.Results`` and ``marlzoo plot``: curves, metrics and figures from result rows."""

from __future__ import annotations

import json
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from marlzoo.benchmarks import stats
from marlzoo.benchmarks.analysis import records
from marlzoo.benchmarks.results import ResultsFile, Row

import marlzoo
from marlzoo.cli import main
from marlzoo.errors import ConfigError, DataError, UnknownNameError
from tests.test_results import ROW


def rows_of(method: str, returns: list[float], updates: int = 1000, **changes: Any) -> list[Row]:
    row = replace(ROW, method=method, updates=updates, **changes)
    return [replace(row, seed=seed, mean_return=value) for seed, value in enumerate(returns)]


def written(folder: Path, rows: list[Row]) -> Path:
    results = ResultsFile(folder / "rows.csv")
    results.append(rows)
    results.publish()
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    rows = rows_of("first", [1.0, 2.0, 6.0], 500) + rows_of("first", [4.0, 5.0, 9.0])
    return written(tmp_path / "run", [*rows, *rows_of("second", [0.0, 1.0])])


def test_curves_are_means_over_seeds(run: Path) -> None:
    found = marlzoo.Results(run).curves()
    assert found[["learner", "updates", "seeds", "mean"]].to_numpy().tolist() == [
        ["first", 500, 3, 3.0],
        ["first", 1000, 3, 6.0],
        ["second", 1000, 2, 0.5],
    ]
    assert found["low"].tolist()[:2] == [
        stats.interval([np.array(v)], np.mean)[0] for v in ([1, 2, 6], [4, 5, 9])
    ]
    assert found["low"].isna().tolist() == [False, False, True]  # two seeds have no interval


def test_bands_are_the_intervals_of_their_rows() -> None:
    values = np.random.default_rng(0).normal(size=(4, 5))
    values[2, 1] = np.nan
    low, high = stats.bands(values)
    expected = np.array([stats.interval([row], np.mean) for row in values])
    np.testing.assert_array_equal(np.stack([low, high], -1), expected)
    assert np.isnan(low).tolist() == [False, False, True, False]


def test_metrics_are_read_beside_the_rows(run: Path) -> None:
    runs = marlzoo.Results(run).frame().query("method == 'first'")["run"].unique()
    lines = ["updates,run,quality,seed,value/data_mean"]
    lines += [f"{u},{name},medium,{k},{u + k}" for u in range(1, 251) for k, name in enumerate(runs)]
    (run / "metrics").mkdir()
    (run / "metrics" / "a.csv").write_text("\n".join(lines) + "\n")
    found = marlzoo.Results(run).metrics("value/data_mean", points=50)
    assert found["updates"].tolist() == [*range(1, 251, 5), 250]
    assert found["updates"].dtype.kind == "i"
    assert found["mean"].tolist() == [updates + 1.0 for updates in found["updates"]]
    assert marlzoo.Results(run).metrics("weight/ess", required=False).empty
    assert marlzoo.Results(run).metric_names() == ["value/data_mean"]
    with pytest.raises(UnknownNameError, match=r"of these runs 'value/data_maen'\. Did you mean value/"):
        marlzoo.Results(run).metrics("value/data_maen")
    for damaged in ("run,updates,value/data_mean\na,2,high\n", "\n\n\n"):
        (run / "metrics" / "a.csv").write_text(damaged)
        with pytest.raises(DataError, match="not a file of metrics"):
            marlzoo.Results(run).metrics("value/data_mean")
    (run / "metrics" / "a.csv").write_text("run,updates,value/data_mean,checksum\na,2,1.5,01234567\n")
    with pytest.raises(DataError, match="line 2: damaged"):
        marlzoo.Results(run).metrics("value/data_mean")


def test_of_a_run_in_two_files_the_newer_one_counts(run: Path) -> None:
    """A run without the metric at a point, and one that has no row, are left out there."""
    first, second, _ = marlzoo.Results(run).frame().query("method == 'first'")["run"].unique()
    (run / "metrics").mkdir()
    for name, age, value in (("a", 2, "5.0"), ("b", 1, "1.0")):
        lines = [
            "updates,run,quality,seed,value/data_mean",
            f"1,{first},medium,0,{value}",
            f"1,{second},medium,1,",
        ]
        (run / "metrics" / f"{name}.csv").write_text("\n".join([*lines, "1,stranger,medium,2,9.0"]) + "\n")
        os.utime(run / "metrics" / f"{name}.csv", (age, age))
    found = marlzoo.Results(run).metrics("value/data_mean")
    assert found[["learner", "seeds", "mean"]].to_numpy().tolist() == [["first", 1, 5.0]]


def test_a_row_in_two_folders_counts_once(tmp_path: Path) -> None:
    older = written(tmp_path / "older", rows_of("first", [1.0, 2.0, 3.0]))
    newer = written(tmp_path / "newer", rows_of("first", [1.0, 2.0], date="2031-01-01T00:00:00Z"))
    found = marlzoo.Results(older, newer).curves()
    assert found[["seeds", "mean"]].to_numpy().tolist() == [[3, 2.0]]


def test_a_part_holds_the_named_runs(run: Path) -> None:
    whole = marlzoo.Results(run)
    chosen = whole.frame()["run"].unique()[1:4]
    assert set(whole.only(chosen).frame()["run"]) == set(chosen)


def test_ranks_lie_within_their_intervals(tmp_path: Path) -> None:
    rows = rows_of("first", [1.0, 4.0, 6.0]) + rows_of("second", [2.0, 3.0, 5.0])
    found = marlzoo.Results(written(tmp_path, rows)).ranks()
    assert (found["low"] <= found["rank"]).all()
    assert (found["rank"] <= found["high"]).all()
    assert (found["low"] < found["high"]).any()


def test_numbers_for_json_keep_significant_digits() -> None:
    frame = pd.DataFrame({"small": [0.00123456], "large": [123456.0], "none": [math.nan]})
    assert records(frame, 3) == [{"small": 0.00123, "large": 123000.0, "none": None}]


def test_failed_runs_have_no_curve(tmp_path: Path) -> None:
    rows = rows_of("first", [1.0, 2.0, 3.0]) + rows_of("second", [1.0], error="SimError: broken")
    results = marlzoo.Results(written(tmp_path, rows))
    assert results.curves()["learner"].unique().tolist() == ["first"]
    assert results.table()["failed"].tolist() == [0, 1]
    assert results.failures()["method"].tolist() == ["second"]


def test_wrong_names_are_named(run: Path) -> None:
    with pytest.raises(UnknownNameError, match="mean_return"):
        marlzoo.Results(run).curves("mean_retrun")
    with pytest.raises(UnknownNameError, match="column of numbers 'method'"):
        marlzoo.Results(run).curves("method")
    with pytest.raises(DataError, match="name a run's folder"):
        marlzoo.Results()


@pytest.mark.parametrize("kind", ["curves", "profile", "bars"])
def test_figures_show_every_learner(kind: Any, run: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    figure = marlzoo.plot(run, kind=kind, out=tmp_path / "f.svg")
    labels = {text.get_text() for legend in figure.legends for text in legend.get_texts()}
    assert {"first", "second"} <= labels
    first = (tmp_path / "f.svg").read_bytes()
    marlzoo.plot(run, kind=kind, out=tmp_path / "f.svg")
    assert (tmp_path / "f.svg").read_bytes() == first
    if kind == "bars":
        (axis,) = figure.axes
        assert [patch.get_height() for patch in axis.patches] == [6.0, 0.5]


def test_plot_refuses_what_it_cannot_draw(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ConfigError, match=r"in \.pdf, \.png, \.svg"):
        marlzoo.plot(run, out=tmp_path / "f.gif")
    with pytest.raises(ConfigError, match="must be one of curves, profile, bars"):
        marlzoo.plot(run, kind="lines")  # type: ignore[arg-type]
    nothing = written(tmp_path / "failed", rows_of("first", [1.0], error="broken"))
    with pytest.raises(DataError, match="every run failed"):
        marlzoo.plot(nothing)
    unscored = written(tmp_path / "games", rows_of("first", [1.0], task="games/bridge"))
    with pytest.raises(DataError, match=r"needs a learner .* normalized score; bars and curves show returns"):
        marlzoo.plot(unscored, kind="profile")
    assert main(["plot", str(run), "--bars", "--curves", "-o", str(tmp_path / "f.pdf")]) == 2
    assert "choose one of --curves and --bars" in capsys.readouterr().err
    assert main(["plot", str(run), "-o", str(tmp_path / "f.pdf")]) == 0
    assert (tmp_path / "f.pdf").read_bytes().startswith(b"%PDF")


SUITE = """
updates = 2
eval_every = 1
episodes = 1
seeds = [0, 1]
learners = ["bc", "iql"]
config = { hidden = 8 }
data = [{ task = "games/xor", quality = "D1" }]
"""


def test_runs_are_ranked_beside_those_of_their_suite(tmp_path: Path) -> None:
    both = {"task": "mpe/spread", "suite": "one", "data_hash": "1"}
    rows = rows_of("first", [1.0, 2.0, 3.0], **both) + rows_of("second", [4.0, 5.0, 6.0], **both)
    other = {"task": "mpe/tag-substitute-prey", "suite": "two", "data_hash": "2"}
    rows += rows_of("first", [9.0, 9.0, 9.0], **other) + rows_of("third", [7.0, 8.0, 7.0], **other)
    found = marlzoo.Results(written(tmp_path / "a", rows))
    assert list(found.scopes()) == [
        ("one", "decentralized"),
        ("two", "decentralized"),
    ]  # one learner ran on all
    assert found.datasets == ["spread medium", "tag-substitute-prey medium"]  # no dataset is in two suites
    columns = ["suite", "learner", "rank"]
    assert found.ranks()[columns].to_numpy().tolist() == [
        ["one", "second", 1.0],
        ["one", "first", 2.0],
        ["two", "first", 1.0],
        ["two", "third", 2.0],
    ]
    assert set(found.profiles()["suite"]) == {"one", "two"}

    found = marlzoo.Results(written(tmp_path / "b", rows + rows_of("second", [10.0, 11.0, 12.0], **other)))
    assert next(iter(found.scopes())) == ("all suites", "decentralized")
    assert [line for line in found.ranks()[columns].to_numpy().tolist() if line[0] == "all suites"] == [
        ["all suites", "second", 1.0],
        ["all suites", "first", 2.0],
    ]

    same = [
        replace(row, suite="two") if row.suite == "two" else row for row in rows_of("third", [1.0], **both)
    ]
    found = marlzoo.Results(written(tmp_path / "c", rows + [replace(row, suite="two") for row in same]))
    assert found.datasets == ["one spread medium", "two tag-substitute-prey medium", "two spread medium"]


def test_bench_returns_its_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.toml").write_text(SUITE)
    results = marlzoo.bench(tmp_path / "mine.toml", out=tmp_path, seeds=[3], methods=["bc"], quiet=True)
    assert capsys.readouterr().out == ""
    assert results.folders == (tmp_path / "mine",)
    assert results.frame()[["method", "seed", "updates"]].to_numpy().tolist() == [["bc", 3, 1], ["bc", 3, 2]]
    command = [
        "bench",
        str(tmp_path / "mine.toml"),
        "--out",
        str(tmp_path),
        "--seeds",
        "3",
        "--methods",
        "bc",
    ]
    assert main([*command, "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert (line["method"], line["seeds"], line["std"]) == ("bc", 1, None)
    assert (tmp_path / "mine" / "commands.txt").read_text() == f"marlzoo {' '.join([*command, '--json'])}\n"
    assert marlzoo.table(tmp_path / "mine").loc[0, "mean"] == line["mean"]
    assert main(["table", str(tmp_path / "mine"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == [line]


def test_bench_knows_its_methods(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(SUITE)
    with pytest.raises(UnknownNameError, match="method of suite 'mine' 'omiga'"):
        marlzoo.bench(tmp_path / "mine.toml", out=tmp_path, methods=["omiga"])
