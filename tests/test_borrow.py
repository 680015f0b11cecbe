"""Runs that suites have in common: which are the same, and what is copied of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks import borrow as module
from marlzoo.benchmarks.borrow import borrow
from marlzoo.benchmarks.plan import Run, runs_of
from marlzoo.benchmarks.results import ResultsFile, Row, RowEpisodes
from marlzoo.benchmarks.sources import Source
from marlzoo.benchmarks.suites import Data, Learner, Suite

from marlzoo.errors import DataError, UnknownNameError
from tests.test_results import ROW

D1 = Data("games/xor", "D1")
D3 = Data("games/xor", "D3", updates=4)
TUNED = Learner("bc", {"lr": 0.1}, tuning='{"search": "grid"}')
SUITE = Suite(
    "mine",
    (D1, D3),
    (Learner("bc"), TUNED),
    seeds=(0, 1),
    updates=6,
    eval_every=2,
    episodes=3,
    final_episodes=9,
)
THEIRS = replace(SUITE, name="theirs", learners=(Learner("bc"), replace(TUNED, tuning=""), Learner("icq")))


@pytest.fixture(autouse=True)
def hashes(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Hashes of the datasets by quality; empty: not made yet."""
    known = {"D1": "11", "D3": "33"}

    def source(data: Data, folder: Path) -> Source:
        assert folder.name == "data"
        hashed = known[data.quality]
        return Source(data, "", data.task, data.source, data.quality, hash=hashed, behavior=0.0)

    monkeypatch.setattr(module, "_source", source)
    return known


def rows_of(suite: Suite, run: Run, **changes: Any) -> list[Row]:
    """All rows of a run of that suite, the last with more episodes."""
    last = suite.updates_on(run.source.entry)
    shared: dict[str, Any] = {**run.names(suite), "error": "", "tuning": run.learner.tuning, **changes}
    return [
        replace(
            ROW,
            **shared,
            updates=updates,
            episodes=suite.final_episodes if updates == last else 3,
            mean_return=float(updates + run.seed),
        )
        for updates in range(2, last + 1, 2)
    ]


def train(folder: Path, suite: Suite, **changes: Any) -> None:
    """Write all runs of a suite, with two episodes per row."""
    sources = [module._source(data, folder / "data") for data in suite.data]
    rows = [row for run in runs_of(suite, sources) for row in rows_of(suite, run, **changes)]
    file = ResultsFile(folder / "rows.csv")
    file.append(rows, [RowEpisodes(row.run, row.updates, (row.mean_return, 0.0), (1, 1)) for row in rows])
    file.publish()


def test_common_runs_are_copied_with_their_rows_and_episodes(tmp_path: Path) -> None:
    train(tmp_path / "theirs", THEIRS)
    assert borrow(SUITE, tmp_path, [tmp_path / "theirs"]) == 8
    train(tmp_path / "expected", SUITE)
    mine, expected = (ResultsFile(tmp_path / name / "rows.csv") for name in ("mine", "expected"))
    assert sorted(mine.rows(), key=str) == sorted(expected.rows(), key=str)
    assert mine.episodes() == expected.episodes()
    assert (tmp_path / "mine" / "rows.csv").exists()  # not in a journal only
    assert borrow(SUITE, tmp_path, [tmp_path / "theirs"]) == 0  # nothing twice


def test_the_first_folder_that_has_a_run_counts(tmp_path: Path) -> None:
    train(tmp_path / "a", replace(THEIRS, seeds=(1,)), device="a")
    train(tmp_path / "b", THEIRS, device="b")
    assert borrow(SUITE, tmp_path, [tmp_path / "a", tmp_path / "b"]) == 8
    rows = ResultsFile(tmp_path / "mine" / "rows.csv").rows()
    assert {(row.seed, row.device) for row in rows} == {(0, "b"), (1, "a")}


def test_runs_that_are_there_stay(tmp_path: Path) -> None:
    train(tmp_path / "mine", replace(SUITE, data=(D1,)), device="mine")
    train(tmp_path / "theirs", THEIRS, device="theirs")
    assert borrow(SUITE, tmp_path, [tmp_path / "theirs"]) == 4
    rows = ResultsFile(tmp_path / "mine" / "rows.csv").rows()
    assert {(row.quality, row.device) for row in rows} == {("D1", "mine"), ("D3", "theirs")}


@pytest.mark.parametrize(
    "changed",
    [
        {"updates": 8},
        {"updates": 4},
        {"final_episodes": 3},
        {"seeds": (5,)},
        {"horizon": 7},
        {"config": {"hidden": 8}},
        {"learners": (Learner("icq"),)},
        {"data": (Data("games/xor", "D2"),)},
    ],
)
def test_other_runs_are_not_copied(tmp_path: Path, hashes: dict[str, str], changed: dict[str, Any]) -> None:
    hashes["D2"] = "11"
    train(
        tmp_path / "theirs",
        replace(THEIRS, data=(D1,), **changed) if "data" not in changed else replace(THEIRS, **changed),
    )
    assert borrow(SUITE, tmp_path, [tmp_path / "theirs"]) == 0
    assert not ResultsFile(tmp_path / "mine" / "rows.csv").rows()


def test_rows_beyond_the_budget_and_failed_ones_are_not_copied(tmp_path: Path) -> None:
    train(tmp_path / "theirs", THEIRS)
    file = ResultsFile(tmp_path / "theirs" / "rows.csv")
    longer = [replace(row, updates=8) for row in file.rows() if row.updates == 6]
    file.append(longer)
    assert borrow(SUITE, tmp_path, [tmp_path / "theirs"]) == 8
    assert {row.updates for row in ResultsFile(tmp_path / "mine" / "rows.csv").rows()} == {2, 4, 6}
    train(tmp_path / "failed", THEIRS, error="no luck")
    assert borrow(replace(SUITE, name="other"), tmp_path, [tmp_path / "failed"]) == 0


def test_contents_of_data_count_where_they_are_known(tmp_path: Path, hashes: dict[str, str]) -> None:
    train(tmp_path / "theirs", THEIRS)
    hashes.update(D1="12", D3="")
    assert borrow(SUITE, tmp_path, [tmp_path / "theirs"]) == 4
    rows = ResultsFile(tmp_path / "mine" / "rows.csv").rows()
    assert {(row.quality, row.data_hash) for row in rows} == {("D3", "33")}


def test_what_is_wrong_is_found_before_anything_is_copied(tmp_path: Path) -> None:
    train(tmp_path / "theirs", THEIRS)
    with pytest.raises(DataError, match=r"no results at .*absent; name a folder that holds rows.csv"):
        borrow(SUITE, tmp_path, [tmp_path / "theirs", tmp_path / "absent"])
    assert not (tmp_path / "mine").exists()
    with pytest.raises(UnknownNameError, match="bcc"):
        borrow(replace(SUITE, learners=(Learner("bcc"),)), tmp_path, [tmp_path / "theirs"])
    with pytest.raises(UnknownNameError, match="hiden"):
        borrow(replace(SUITE, config={"hiden": 3}), tmp_path, [tmp_path / "theirs"])


def test_data_are_looked_up_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    hopper = Data("mamujoco/hopper-3x1", "random", transitions=50)
    assert module._source(hopper, tmp_path) == Source(
        hopper,
        "",
        hopper.task,
        "marlzoo",
        "random",
        hash="",
        behavior=pytest.approx(float("nan"), nan_ok=True),
    )
    assert module._source(D1, tmp_path).hash
    assert not list(tmp_path.iterdir())
