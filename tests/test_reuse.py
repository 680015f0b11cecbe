"""No run is silently another run: what was there is said, changed code is told, failures mark runs and not suites."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marlzoo.benchmarks import recorder, reuse, trainer
from marlzoo.benchmarks.drift import value_drift
from marlzoo.benchmarks.results import ResultsFile, Row
from marlzoo.benchmarks.suites import Data, Learner, Suite

from marlzoo.cli import main
from marlzoo.errors import DataError, MethodError, UnknownNameError
from marlzoo.registry import code_hash, find_method
from tests.suite_runs import SMALL, run, suite_of
from tests.test_split import TWO

GAME = Data("games/xor", "D1")
BOTH = (Learner("bc", SMALL), Learner("iql", SMALL))


def suite(**changes: Any) -> Suite:
    return suite_of(**{"data": (GAME,), "learners": BOTH} | changes)


def rows(out: Path, name: str = "unit") -> list[Row]:
    return ResultsFile(out / name / "rows.csv").rows()


def dated(out: Path, date: str, **changes: str) -> None:
    """Give all rows a date, and more."""
    results = ResultsFile(out / "unit" / "rows.csv")
    results.append([replace(row, date=date, **changes) for row in results.rows()])
    results.publish()


# ---- rows say what made them ---------------------------------------------------------------------------


def test_rows_carry_what_identifies_a_run(tmp_path: Path) -> None:
    run(suite(), tmp_path)
    for row in rows(tmp_path):
        cls = find_method(row.method)
        assert row.code == code_hash(cls)
        config = json.loads(row.config)
        assert (config["hidden"], config["gamma"]) == (8, cls.config_class().gamma)
        assert row.data_transitions == 5000
        assert row.mean_length == 1.0
        assert row.action_us is not None
        assert 0.0 < row.action_us < 1e6 * row.seconds
        assert row.seconds_per_run == pytest.approx(row.seconds / 2, abs=1e-3)
        assert row.date.startswith("20")
        assert row.date.endswith("Z")
        assert " cores, " in row.machine
        assert row.error == ""


def test_value_and_weights_of_the_last_update_are_in_the_rows(tmp_path: Path) -> None:
    run(suite(updates=8, eval_every=4), tmp_path)
    kept: dict[tuple[str, str], dict[str, str]] = {}
    for file in (tmp_path / "unit" / "metrics").iterdir():
        with file.open() as text:
            kept |= {(line["run"], line["updates"]): line for line in csv.DictReader(text)}
    assert len(kept) == 2 * 2 * 8
    for row in rows(tmp_path):
        line = kept[row.run, str(row.updates)]
        if row.method == "bc":
            assert (row.value_mean, row.value_drift, row.weight_ess) == (None, None, None)
            continue
        assert row.value_mean == pytest.approx(float(line["value/data_mean"]), rel=1e-5)
        assert row.weight_ess == pytest.approx(float(line["weight/ess"]), rel=1e-5)
        mine = sorted(
            (int(u), float(line["value/data_mean"])) for (run, u), line in kept.items() if run == row.run
        )
        until = np.array([point for point in mine if point[0] <= row.updates])
        assert row.value_drift == pytest.approx(value_drift(until[:, 0], until[:, 1]), abs=1e-4)
    values = {row.value_mean for row in rows(tmp_path) if row.method == "iql"}
    assert len(values) == 4  # each replica's and each update's own


def test_every_row_has_its_episodes(tmp_path: Path) -> None:
    run(suite(), tmp_path)
    episodes = ResultsFile(tmp_path / "unit" / "rows.csv").episodes()
    found = rows(tmp_path)
    assert len(episodes) == len(found)
    for row in found:
        mine = episodes[row.run, row.updates]
        assert sum(mine.returns) / row.episodes == row.mean_return
        assert mine.lengths == (1,) * row.episodes
    assert (tmp_path / "unit" / "episodes.csv").exists()
    assert not (tmp_path / "unit" / "rows.journal").exists()


# ---- what was there ------------------------------------------------------------------------------------


def test_it_is_said_what_was_there_and_since_when(tmp_path: Path) -> None:
    first = run(suite(), tmp_path)
    assert "No existing results for these 4 runs; 4 to train." in first
    assert re.search(r"^4 runs trained in \d+:\d\d:\d\d\. Rows", first, re.MULTILINE)
    dated(tmp_path, "2026-01-02T03:04:05Z")
    again = run(suite(), tmp_path)
    assert "4 of 4 runs already have results, made on 2026-01-02; nothing trained." in again
    assert re.search(
        r"^0 runs trained in .*; 4 had results already\. Rows, metrics and tables: ", again, re.MULTILINE
    )
    assert "warning" not in again
    more = run(suite(seeds=(0, 1, 2)), tmp_path)
    assert "4 of 6 runs already have results, made on 2026-01-02; 2 to train." in more


def test_changed_code_is_told_and_rerun_on_demand(tmp_path: Path) -> None:
    run(suite(), tmp_path)
    results = ResultsFile(tmp_path / "unit" / "rows.csv")
    old = [replace(r, code="0ld", date="2026-01-02T03:04:05Z") for r in results.rows() if r.method == "bc"]
    results.append(old)
    results.publish()
    told = run(suite(), tmp_path)
    assert (
        "warning: the code of bc changed after 2 of its runs, made on 2026-01-02; to train them again: --rerun bc"
        in told
    )
    assert told.count("warning") == 1
    before = {row.run: row for row in rows(tmp_path) if row.method == "iql"}
    printed = run(suite(), tmp_path, rerun=["bc"])
    assert "2 of 4 runs already have results" in printed
    assert "warning" not in printed
    after = rows(tmp_path)
    assert {row.run: row for row in after if row.method == "iql"} == before
    new = {row.run: row for row in after if row.method == "bc"}
    assert {row.code for row in new.values()} == {code_hash(find_method("bc"))}
    assert ResultsFile(tmp_path / "unit" / "replaced.csv").rows() == old
    assert len(after) == 2 * 2 * 2
    with pytest.raises(UnknownNameError, match="method of suite 'unit' 'cb'"):
        run(suite(), tmp_path, rerun=["cb"])


def test_rerun_begins_at_nothing_and_an_interruption_does_not_end_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(suite(learners=BOTH[:1]), tmp_path)
    before = rows(tmp_path)
    monkeypatch.setattr(trainer.Trainer, "attempt", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        run(suite(learners=BOTH[:1]), tmp_path, force=True)
    monkeypatch.undo()
    assert rows(tmp_path) == []
    assert not list((tmp_path / "unit" / "checkpoints").glob("*.npz"))
    assert not list((tmp_path / "unit" / "metrics").glob("*.csv"))
    assert "No existing results for these 2 runs" in run(suite(learners=BOTH[:1]), tmp_path)
    same = {"date": "", "seconds": 0.0, "seconds_per_run": 0.0, "action_us": 0.0}
    assert [replace(r, **same) for r in rows(tmp_path)] == [replace(r, **same) for r in before]


def test_a_rerun_takes_nothing_from_a_process_that_trains_the_same(tmp_path: Path) -> None:
    """Such as a job of a cluster, which would go on without its checkpoint and its metrics."""
    mine = suite(learners=BOTH[:1])
    run(mine, tmp_path)
    folder = tmp_path / "unit"
    other = ResultsFile(folder / "rows.csv")
    other.append(other.rows()[:1])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".npz", ".csv")}
    with pytest.raises(DataError, match="another process is writing these lines; wait until it has finished"):
        run(mine, tmp_path, force=True)
    other.close()
    assert {
        path: path.read_bytes() for path in folder.rglob("*") if path.suffix in (".npz", ".csv")
    } == before
    assert "2 of 2 runs already have results" in run(mine, tmp_path)


def test_rows_of_unknown_code_are_told(tmp_path: Path) -> None:
    run(suite(learners=BOTH[:1]), tmp_path)
    dated(tmp_path, "", code="")
    told = run(suite(learners=BOTH[:1]), tmp_path)
    assert "2 of 2 runs already have results, made at an unknown date; nothing trained." in told
    assert "warning: 2 runs of bc do not say which code made them; to train them again: --rerun bc" in told
    assert told.count("warning") == 1


def test_a_run_that_goes_on_with_other_code_names_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = suite(learners=BOTH[:1])
    run(mine, tmp_path)
    now = code_hash(find_method("bc"))
    monkeypatch.setattr("marlzoo.training.trainer.code_hash", lambda _: "0ther")
    printed = run(replace(mine, updates=12), tmp_path)
    assert "the code of bc changed since this run was interrupted" in printed
    codes = {row.updates: row.code for row in rows(tmp_path)}
    assert codes == {3: now, 6: now, 9: f"{now}+0ther", 12: f"{now}+0ther"}
    printed = run(replace(mine, updates=15), tmp_path)
    assert "changed since this run" not in printed  # it is the code of the last part
    assert {row.code for row in rows(tmp_path) if row.updates == 15} == {f"{now}+0ther"}


# ---- failures ------------------------------------------------------------------------------------------


def break_learner(
    monkeypatch: pytest.MonkeyPatch, at: int, kind: type[Exception] = ZeroDivisionError
) -> None:
    cls: Any = find_method("bc")
    true = cls.update

    def update(self: Any, batch: Any) -> Any:
        if self.updates == at:
            raise kind("a fault\nof the method")
        return true(self, batch)

    monkeypatch.setattr(cls, "update", update)


@pytest.mark.parametrize("kind", [ZeroDivisionError, MethodError])
def test_a_learner_that_raises_fails_its_runs_and_not_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    break_learner(monkeypatch, 4, kind)
    printed = run(suite(compile="off"), tmp_path)
    assert "bc (batch_size=8, hidden=8) on games/xor D1: failed, " in printed
    assert f"{kind.__name__}: a fault" in printed
    assert "1 group failed; the same command tries again:" in printed
    found = rows(tmp_path)
    failed = [row for row in found if row.error]
    assert [(r.method, r.seed, r.updates, r.error) for r in failed] == [
        ("bc", seed, 4, f"{kind.__name__}: a fault") for seed in (0, 1)
    ]
    assert {row.updates for row in found if row.method == "iql"} == {3, 6}
    (trace,) = (tmp_path / "unit" / "failures").iterdir()
    assert "of the method" in trace.read_text()
    assert "in update" in trace.read_text()
    monkeypatch.undo()
    assert "2 of 4 runs already have results" in run(suite(compile="off"), tmp_path)
    assert not any(row.error for row in rows(tmp_path))
    assert len(rows(tmp_path)) == 2 * 2 * 2


@pytest.mark.parametrize("split", [None, TWO])
def test_a_simulator_that_raises_fails_its_runs_and_not_the_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: Any
) -> None:
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", "tests.raising")
    mine = suite(data=(Data("raising/xor", "D1"), GAME), learners=BOTH[:1])
    options = {} if split is None else {"split": split}
    printed = run(mine, tmp_path, check_data=False, **options)
    assert (
        "on raising/xor D1: failed, SpecError: environment games/xor: step 1 failed (RuntimeError" in printed
    )
    errors = {row.task: row.error for row in rows(tmp_path)}
    assert errors["games/xor"] == ""
    assert "the simulator is gone" in errors["raising/xor"]
    assert "second line" not in errors["raising/xor"]


def test_the_command_ends_with_status_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    break_learner(monkeypatch, at=1)
    tiny = ["--updates", "2", "--episodes", "1", "--hidden", "8", "--seeds", "0", "--out", str(tmp_path)]
    command = ["train", "bc", "--data", "games/xor/marlzoo/D1", *tiny]
    assert main(command) == 1
    monkeypatch.undo()
    assert main(command) == 0
    capsys.readouterr()
    assert main(command) == 0
    assert "1 of 1 runs already have results" in capsys.readouterr().out
    results = ResultsFile(next(tmp_path.glob("*/rows.csv")))
    results.append([replace(row, code="0ld") for row in results.rows()])
    results.publish()
    assert main(command) == 0
    assert re.search(
        r"changed after 1 of its runs.*; to train them again: --force$", capsys.readouterr().out, re.M
    )
    assert main([*command, "--force"]) == 0
    assert "No existing results for this run; 1 to train." in capsys.readouterr().out


def test_bench_takes_rerun_and_leaves_it_out_of_the_tables_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        'updates = 2\nepisodes = 1\nseeds = [0]\n[[data]]\ntask = "games/xor"\nquality = "D1"\n'
        '[[learners]]\nmethod = "bc"\nconfig = { hidden = 8 }\n'
        '[[learners]]\nmethod = "iql"\nconfig = { hidden = 8 }\n'
    )
    out = ["--out", str(tmp_path)]
    assert main(["bench", str(file), *out]) == 0
    capsys.readouterr()
    assert main(["bench", str(file), "--rerun", "bc", *out]) == 0
    assert "1 of 2 runs already have results" in capsys.readouterr().out
    assert main(["bench", str(file), "--force", *out]) == 0
    assert "No existing results for these 2 runs" in capsys.readouterr().out
    assert f"Made by `marlzoo bench {file} --out {tmp_path}`" in (tmp_path / "mine" / "table.md").read_text()
    assert main(["bench", str(file), "--rerun", "omiga", *out]) == 2


def test_progress_shows_value_scale_and_effective_samples() -> None:
    metrics = {
        "value/data_mean": np.array([10.0, 30.0]),
        "weight/ess": np.array([0.25, 0.5]),
        "loss": np.zeros(2),
    }
    assert recorder.brief(metrics) == "value 20, ess 0.375"
    assert recorder.brief({"loss": np.zeros(2)}) == ""


def test_the_words_of_the_summary() -> None:
    assert reuse.reuse_line(reuse.Found((), ())) == "No existing results for these 0 runs; nothing trained."
