"""What is missing of the published suites, its hours, and the file of rates; nothing is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks import reached
from marlzoo.benchmarks.estimate import Rate
from marlzoo.benchmarks.suites import Data, Learner, Suite

from marlzoo.errors import DataError, MissingExtraError

XOR = (Data("games/xor", "D1"), Data("games/xor", "D3"))
SIGNS = Data("games/sign-agreement", "agree")
LEARNERS = (Learner("bc"), Learner("bc", {"lr": 0.1}), Learner("b3c", where_possible=True))
SUITE = Suite("mpe", (*XOR, SIGNS), LEARNERS, seeds=(0, 1), updates=7, eval_every=3, episodes=2)
KEY = ("mpe", "games/xor", "bc", "")
TUNED = ("mpe", "games/xor", "bc", "lr=0.1")


def test_a_learner_has_no_runs_where_it_cannot_run() -> None:
    runs = reached.planned(SUITE)
    assert len(runs) == len(set(runs)) == 2 * 2 * 2 + 3 * 2
    assert ("games/xor", "D3", "bc", "lr=0.1", 1) in runs
    assert {run[0] for run in runs if run[2] == "b3c"} == {SIGNS.task}


def test_missing_runs_are_counted_by_task_and_learner() -> None:
    done = [run for run in reached.planned(SUITE) if run[0] == SIGNS.task]
    done += [
        ("games/xor", "D1", "bc", "", 0),
        ("games/xor", "D1", "bc", "", 1),
        ("games/xor", "D3", "bc", "", 0),
    ]
    assert reached.missing(SUITE, done) == {KEY: 1, TUNED: 4}


def test_hours_are_known_where_every_learner_was_measured() -> None:
    rates = {KEY: 1800.0, TUNED: 3600.0, ("other", "", "", ""): 1.0}
    assert reached.hours({KEY: 3, TUNED: 2}, rates) == 3.5
    assert reached.hours({KEY: 3, ("mpe", "games/xor", "icq", ""): 1}, rates) is None
    assert reached.hours({}, {}) == 0


@pytest.fixture
def suites(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Suites of one small shape, and what of them was measured."""
    asked: list[str] = []

    def measure(suite: Suite, learner: Learner, task: str, data: Data, spec: Any) -> Rate:
        if suite.name == "smax":
            raise MissingExtraError("jax", "jaxmarl", "smax/3m")
        asked.append(f"{task} {learner.method} {learner.variant}".strip())
        return Rate(update=2.0, step=0.5, checkpoint=1)

    def find_suite(name: str) -> Suite:
        return Suite(name, (*XOR, SIGNS), LEARNERS, seeds=(0, 1), updates=7, eval_every=3, episodes=2)

    monkeypatch.setattr(reached, "measure", measure)
    monkeypatch.setattr(reached, "find_suite", find_suite)
    monkeypatch.setattr(reached, "machine", lambda: "here")
    return asked


def test_every_learner_is_measured_once_per_task(suites: list[str], tmp_path: Path) -> None:
    assert reached.main([str(tmp_path), "mpe"]) == 0
    assert suites == [
        *(f"games/xor {each}" for each in ("bc", "bc lr=0.1")),
        *(f"games/sign-agreement {each}" for each in ("bc", "bc lr=0.1", "b3c")),
    ]
    rates, machines = reached.read(tmp_path)
    assert rates[KEY] == 7 * 2.0 + 3 * 2 * 0.5  # three evaluations of two episodes of one step
    assert set(machines.values()) == {"here"}
    assert len(rates) == 5


def test_other_suites_keep_their_lines(
    suites: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reached.main([str(tmp_path), "games", "mpe"])
    text = (tmp_path / "rates.csv").read_text()
    assert [line.split(",")[0] for line in text.splitlines()[1:]] == ["mpe"] * 5 + ["games"] * 5
    (tmp_path / "rates.csv").write_text(text.replace("games/xor", "games/gone"))
    monkeypatch.setattr(reached, "machine", lambda: "there")
    assert reached.main([str(tmp_path), "smax", "games"]) == 0
    assert "suite smax is not measured: smax/3m needs the package 'jax'" in capsys.readouterr().err
    rates, machines = reached.read(tmp_path)
    assert {key[1] for key in rates if key[0] == "games"} == {"games/xor", SIGNS.task}  # what is gone is gone
    assert {key[1] for key in rates if key[0] == "mpe"} == {"games/gone", SIGNS.task}
    assert {key[0]: name for key, name in machines.items()} == {"mpe": "here", "games": "there"}
    assert reached.main([]) == 2
    assert reached.main([str(tmp_path), "mpe", "gams"]) == 2
    assert "published suite 'gams'. Did you mean games?" in capsys.readouterr().err


def test_what_has_no_line_yet_is_measured_alone(
    suites: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reached.main([str(tmp_path), "games"])
    file = tmp_path / "rates.csv"
    before = file.read_text()
    lines = [line for line in before.splitlines(keepends=True) if "lr=0.1" not in line or "xor" not in line]
    file.write_text("".join(lines))
    suites.clear()
    monkeypatch.setattr(reached, "machine", lambda: "there")
    assert reached.main([str(tmp_path), "--new", "games"]) == 0
    assert suites == ["games/xor bc lr=0.1"]
    after = file.read_text()
    assert after.replace("there", "here") == before
    assert after.count("there") == 1


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    assert reached.read(tmp_path) == ({}, {})
    file = tmp_path / "rates.csv"
    file.write_text("suite,seconds\nmpe,1\n")
    with pytest.raises(DataError, match=r"rates.csv: its columns are not suite, task"):
        reached.read(tmp_path)
    file.write_text("suite,task,method,variant,seconds,machine\nmpe,a,b,,soon,here\n")
    with pytest.raises(DataError, match=r"rates.csv, line 2: .*soon"):
        reached.read(tmp_path)
    columns = ",".join(reached.COLUMNS)
    file.write_text(f"{columns}\nmpe\n")
    with pytest.raises(DataError, match=r"rates.csv, line 2: could not convert .* measure again"):
        reached.read(tmp_path)
    file.write_bytes(columns.encode() + b"\n\xff")
    with pytest.raises(DataError, match=r"rates.csv: it cannot be read .* measure again"):
        reached.read(tmp_path)
