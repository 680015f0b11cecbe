"""Two results line by line: what counts as equal, higher and lower, and in what else they differ."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marlzoo.benchmarks.compared import compare
from marlzoo.benchmarks.results import ResultsFile, Row, frame
from marlzoo.benchmarks.stats import difference
from marlzoo.benchmarks.summary import read

import marlzoo
from marlzoo.cli import main
from marlzoo.errors import DataError
from tests.test_results import ROW

BASE = replace(
    ROW, task="games/xor", quality="D1", variant="", error="", config='{"lr": 0.1}', code="c1", machine="m"
)


def runs(returns: Sequence[float], method: str = "bc", **changes: Any) -> list[Row]:
    return [
        replace(BASE, method=method, seed=seed, mean_return=value, **changes)
        for seed, value in enumerate(returns)
    ]


def line(first: list[Row], second: list[Row]) -> dict[str, Any]:
    (found,) = compare(frame(first), frame(second)).lines.to_dict("records")
    return found


def write(folder: Path, rows: list[Row]) -> Path:
    file = ResultsFile(folder / "rows.csv")
    file.append(rows)
    file.publish()
    return folder


def test_every_return_of_the_same_seeds_must_be_the_same() -> None:
    assert line(runs([1, 2, 3]), runs([1, 2, 3], suite="other", device="cuda"))["result"] == "equal"
    assert line(runs([1, 2, 3]), runs([1, 3, 2]))["result"] == "not told apart"  # the same mean
    assert line(runs([1, 2, 3]), runs([1, 2, 3, 2]))["result"] == "not told apart"  # another seed
    assert line(runs([1, 2]), runs([1, 2]))["result"] == "equal"
    assert line(runs([1, 2, 3]), runs([1, 2, 4]))["result"] == "not told apart"


def test_a_difference_is_second_less_first_with_its_interval() -> None:
    found = line(runs([1, 2, 3]), runs([5, 6, 7, 9]))
    assert found["result"] == "higher"
    assert (found["seeds_first"], found["seeds_second"]) == (3, 4)
    assert (found["mean_first"], found["mean_second"], found["difference"]) == (2.0, 6.75, 4.75)
    assert found["std_first"] == 1.0
    assert (found["low"], found["high"]) == difference(np.array([5.0, 6, 7, 9]), np.array([1.0, 2, 3]))
    assert line(runs([5, 6, 7]), runs([1, 2, 3]))["result"] == "lower"
    assert line(runs([5, 6]), runs([1, 2]))["result"] == "not tested"
    assert line(runs([5, 6, 7]), runs([1, 2, float("nan")]))["result"] == "not tested"


def test_both_count_after_the_most_updates_that_both_have() -> None:
    first = [*runs([1, 1, 1], updates=10), *runs([2, 2, 2], updates=20), *runs([3, 3, 3], updates=30)]
    second = [*runs([2, 2, 2], updates=20), *runs([9, 9, 9], updates=40), *runs([0, 0, 0], updates=10)]
    found = line(first, second)
    assert (found["updates"], found["result"]) == (20, "equal")
    assert line(runs([1, 1, 1], updates=10), runs([1, 1, 1], updates=20))["result"] == "no common checkpoint"


def test_the_caption_says_how_many_seeds_each_side_has_and_which_runs_failed() -> None:
    lost = [replace(row, error="E: x", mean_return=float("nan")) for row in runs([0] * 5, "icq")[3:]]
    first = runs([1, 2, 3]) + runs([1, 2, 3], "icq") + lost
    second = runs([1, 2, 3, 4, 5], updates=ROW.updates) + runs([1, 2, 3], "icq")
    notes = compare(frame(first), frame(second)).sheet("a", "b").notes
    assert (
        f"seeds (first 3, second 3 to 5) after the most updates that both have ({ROW.updates});" in notes[0]
    )
    assert "Failed in the first, and left out: 2 runs (icq 2)." in notes
    assert not any("Failed in the second" in note for note in notes)
    apart = compare(frame(first), frame(runs([1], "omiga"))).sheet("a", "b").notes
    assert "over seeds after the most updates that both have;" in apart[0]


def test_several_runs_of_one_seed_under_one_name_are_told() -> None:
    once = runs([1, 2, 3]) + runs([1, 2, 3], updates=ROW.updates + 1)
    assert not any("several runs" in note for note in compare(frame(once), frame(once)).notes)
    for changes in ({"data_hash": "other"}, {"config_hash": "other"}):
        found = compare(frame(once + runs([7, 8, 9], **changes)), frame(once))
        (note,) = (note for note in found.notes if "several runs of one seed" in note)
        assert note.endswith("the last of them counts: bc (D1).")


def test_lines_of_one_side_are_named_beside_the_table() -> None:
    first = [
        *runs([1, 2, 3]),
        *runs([1, 2, 3], method="icq"),
        *runs([4], method="omar", error="out of memory"),
    ]
    second = [
        *runs([1, 2, 3]),
        *runs([1, 2], method="iql", quality="D2"),
        *runs([4], method="iql", quality="D3"),
    ]
    found = compare(frame(first), frame(second))
    results = dict(
        zip(
            zip(found.lines["dataset"], found.lines["learner"], strict=True),
            found.lines["result"],
            strict=True,
        )
    )
    assert results == {
        ("D1", "bc"): "equal",
        ("D1", "icq"): "only in the first",
        ("D2", "iql"): "only in the second",
        ("D3", "iql"): "only in the second",
    }
    sheet = found.sheet("a", "b")
    assert [row[0] for row in sheet.body] == ["D1, bc"]
    assert "Of 4 lines: 1 equal, 1 only in the first, 2 only in the second." in sheet.notes[0]
    assert sheet.notes[1:3] == ["Only in the first: icq (D1).", "Only in the second: iql (D2, D3)."]


def test_what_differs_beside_the_returns_is_named() -> None:
    same = compare(frame(runs([1, 2, 3])), frame(runs([1, 2, 3]))).notes
    assert not [note for note in same if "Not the same" in note or "Other settings" in note]
    changes = {
        "data_hash": "other", "config_hash": "other", "config": '{"lr": 0.2, "new": 1}', "code": "c2", "machine": "n"
    }  # fmt: skip
    both = [*runs([1, 2, 3]), *runs([1, 2, 3], method="icq")]
    other = [*runs([1, 2, 3]), *runs([1, 2, 3], method="icq", **changes)]
    notes = compare(frame(both), frame(other)).notes
    assert "Not the same contents of the data on 1 line: D1." in notes
    assert "Not the same code on 1 line: icq." in notes
    assert "Not the same machine on 1 line." in notes
    assert "Other settings: icq (lr 0.1 and 0.2, new None and 1)." in notes
    older = compare(frame(both), frame([replace(row, code="", machine="", config="") for row in both])).notes
    assert not [note for note in older if "Not the same" in note or "Other settings" in note]


def test_one_configuration_under_two_names_is_one_line() -> None:
    found = line(runs([1, 2, 3], variant="lr=0.1"), runs([1, 2, 3], data_hash="other"))
    assert found["result"] == "equal"


def test_runs_without_a_result_are_refused() -> None:
    with pytest.raises(DataError, match="no run of either has a result"):
        compare(frame(runs([1], error="x")), frame(runs([2], error="x")))


def test_the_command_prints_the_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first = write(Path("a"), runs([1, 2, 3]))
    second = write(Path("b"), runs([11, 12, 13.5]))
    low, high = difference(np.array([11, 12, 13.5]), np.array([1.0, 2, 3]))
    assert main(["results", "compare", "a", "b", "--format", "markdown"]) == 0
    out = capsys.readouterr().out.replace("\N{NO-BREAK SPACE}", " ")
    assert f"| D1, bc | 2.0 | 12.2 | 10.2 [{low:.1f}, {high:.1f}] | higher |" in out
    assert main(["results", "compare", "a", "b", "--format", "csv"]) == 0
    assert capsys.readouterr().out.splitlines()[0].startswith("dataset,learner,updates,seeds_first")
    assert main(["results", "compare", "a", "b"]) == 0
    printed = capsys.readouterr().out
    assert "higher" in printed
    assert max(map(len, printed.splitlines())) <= 80
    found = marlzoo.results_compare(first, second / "rows.csv")
    assert json.loads(found.lines.to_json(orient="records"))[0]["mean_second"] == pytest.approx(36.5 / 3)


def test_a_table_refuses_other_returns_of_the_same_runs(tmp_path: Path) -> None:
    first = write(tmp_path / "a", [*runs([1, 2]), *runs([float("nan")], method="icq")])
    again = write(
        tmp_path / "b", [*runs([1, 2]), *runs([float("nan")], method="icq"), *runs([9, 9], updates=77)]
    )
    assert len(read([first, again])) == 5  # each evaluation once
    other = write(tmp_path / "c", runs([1, 5]))
    with pytest.raises(
        DataError,
        match=rf"have other returns for the same runs \(\w+ after {BASE.updates} updates: 2 and 5\).*"
        rf"marlzoo results compare {first} {other}$",
    ):
        read([first, other])
    failed = write(tmp_path / "d", runs([float("nan"), float("nan")], error="out of memory"))
    assert len(read([first, failed])) == 5
