"""Tables: last checkpoint, nothing dropped, one name per configuration, and ties marked."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from marlzoo.benchmarks import aggregate, references, tables
from marlzoo.benchmarks.labels import labels_of, variant_settings
from marlzoo.benchmarks.results import ResultsFile, Row, frame

from marlzoo.errors import DataError, UnknownNameError
from tests.table_rows import HOPPER, cell, first, grid, printed, titled
from tests.test_results import ROW

# ---- what counts ---------------------------------------------------------------------------------------


def test_the_best_checkpoint_stands_beside_the_last_one_and_ranks_nothing() -> None:
    early, late = cell("late", [1.0, 2.0, 3.0], updates=1000), cell("late", [70.0, 80.0, 90.0], updates=2000)
    rows = early + late + cell("early", [900.0, 20.0, math.nan], updates=1000)
    rows += cell("early", [10.0, 30.0, 800.0], updates=2000)
    found = tables.summary(frame(rows)).set_index("method")
    assert found.loc["early", "best"] == pytest.approx((900 + 30 + 800) / 3)  # of each run its own
    assert found.loc["late", "best"] == 80.0
    assert found.loc["early", "evaluations"] == 2
    made = tables.sheets(frame(rows), "title")
    details = made[-1]
    assert [line[-1] for line in details.body] == ["80.0 of 2", "576.7 of 2"]
    assert "nothing is ranked or marked by it" in details.notes[0]
    assert not any(tables.BEST in sheet.header for sheet in made[:-1])
    last = {line[0]: line[-1] for line in made[0].body}
    assert (last["late"], last["early"]) == ("80.0 ± 10.0", "280.0 ± 450.4")
    once = tables.sheets(frame(late), "title")[-1]
    assert tables.BEST not in once.header
    assert once.notes == []


def test_the_checkpoint_that_an_estimate_chose_stands_beside_the_last_one() -> None:
    early, late = cell("bc", [10.0, 20.0], updates=1000), cell("bc", [30.0, 80.0], updates=2000)
    rows = frame([*early, *late, *cell("omiga", [50.0, 60.0], updates=2000)])
    estimated = rows.assign(estimate=[9.0, 1.0, 8.0, 2.0, math.nan, math.nan])
    found = tables.summary(estimated).set_index("method")
    assert found["chosen"].fillna(-1.0).tolist() == [(10.0 + 80.0) / 2, -1.0]
    assert found["estimates"].tolist() == [2, 0]
    assert found["mean"].tolist() == [55.0, 55.0]
    details = tables.sheets(estimated, "title")[-1]
    assert [line[-1] for line in details.body] == ["45.0 of 2", "– of 0"]
    assert "nothing is ranked or marked by it" in details.notes[-1]
    assert tables.CHOSEN not in tables.sheets(rows, "title")[-1].header


def test_the_last_checkpoint_counts_not_the_best() -> None:
    rows = cell("first", [900.0, 800.0], updates=1000) + cell("first", [100.0, 200.0], updates=2000)
    line = tables.summary(frame(rows)).iloc[0]
    assert (line["mean"], line["updates"], line["seeds"]) == (150.0, 2000, 2)
    assert line["std"] == pytest.approx(math.sqrt(2) * 50)
    shuffled = frame(rows).sample(frac=1, random_state=3).reset_index(drop=True)
    assert tables.summary(shuffled).iloc[0]["mean"] == 150.0


def test_numbers_of_a_summary_by_hand() -> None:
    rows = cell(
        "first", [0.0, 0.0, 0.0, 1000.0], win_rate=0.25, behavior_return=5.0, weight_ess=0.5, value_mean=2.0
    )
    rows[3] = replace(rows[3], win_rate=0.75, seconds=9.0)
    line = tables.summary(frame(rows)).iloc[0]
    assert (line["mean"], line["std"], line["iqm"]) == (250.0, 500.0, 0.0)
    assert (line["iqm_low"], line["iqm_high"]) == (
        0.0,
        1000.0,
    )  # three of four draws are 1000 in 5 % of cases
    assert (line["win_rate"], line["behavior"], line["weight_ess"], line["value"]) == (0.375, 5.0, 0.5, 2.0)
    assert (line["seeds"], line["failed"], line["seconds"], line["seconds_per_run"]) == (4, 0, 9.0, 0.75)
    low, high = references.normalized_score(HOPPER, 0.0), references.normalized_score(HOPPER, 1000.0)
    assert low is not None
    assert high is not None
    assert line["score"] == pytest.approx((3 * low + high) / 4)
    assert line["score_iqm"] == pytest.approx(low)


def test_runs_with_fewer_updates_than_others_on_the_same_data_are_left_out_and_told() -> None:
    rows = cell("first", [1.0, 2.0, 3.0]) + cell("short", [90.0, 95.0, 99.0], updates=300)
    rows[2], rows[5] = replace(rows[2], updates=500), replace(rows[5], updates=200)
    rows += cell("short", [7.0, 8.0, 9.0], updates=300, quality="expert")  # there nothing is longer
    found = tables.summary(frame(rows)).set_index(["method", "quality"])
    assert found["seeds"].tolist() == [2, 0, 3]
    assert found["unfinished"].tolist() == [1, 3, 0]
    assert found["mean"].fillna(-1.0).tolist() == [1.5, -1.0, 8.0]
    assert set(
        aggregate.select_runs(frame(rows), aggregate.named(found.reset_index())[0]).returns["short"]
    ) == {"expert"}
    sheet = first(rows)
    assert [line[2:] for line in sheet.body] == [["1.5 ± 0.7 u1/3", "– u3/3"], ["not run", "8.0 ± 1.0"]]
    assert sheet.best == [{2}, {3}]
    assert not any("older version" in note for note in sheet.notes)
    assert any("first at 500 of 1000 updates, short at 300 of 1000 updates" in note for note in sheet.notes)
    assert "300 to 1000 updates" in sheet.notes[0]
    assert [line[2] for line in titled(rows, "Details").body] == ["1000", "200–300", "300"]


def test_a_learner_without_a_finished_run_does_not_keep_others_from_being_tested() -> None:
    rows = cell("first", [1.0, 2.0, 3.0]) + cell("second", [1.0, 2.0, 4.0])
    for more in ([], cell("short", [9.0, 9.0, 9.0], updates=300)):
        assert any("all that cannot be told from it" in note for note in first(rows + more).notes)
    assert not any("told from it" in note for note in first(rows + cell("few", [9.0, 9.0])).notes)


def test_results_that_are_named_twice_count_once(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "first" / "rows.csv")
    file.append(cell("first", [1.0, 2.0], updates=1000) + cell("first", [3.0, 4.0], updates=2000))
    file.append([replace(ROW, method="second", error="RuntimeError: no", mean_return=math.nan)])
    file.publish()
    rows = tables.read([tmp_path / "first"])
    twice = tables.read([tmp_path / "first", tmp_path / "first" / "rows.csv"])
    pd.testing.assert_frame_equal(twice, rows)
    assert tables.summary(twice)["evaluations"].tolist() == [2, 0]


def test_diverged_replicas_are_shown() -> None:
    rows = cell("first", [10.0, 20.0]) + cell("second", [1.0, 2.0])
    rows[1] = replace(rows[1], mean_return=math.nan, diverged=True)
    assert tables.summary(frame(rows))["seeds"].tolist() == [2, 2]
    sheet = first(rows)
    assert sheet.header == ["method", "medium"]
    assert sheet.body[1] == ["first", "– d1/2"]
    assert sheet.best[1:] == [set(), {1}]  # what has no mean is not the best
    assert any(note.startswith("d1/3: one replica of three diverged") for note in sheet.notes)
    # A replica without a return loses against every other: P = (0 + 1 + 0 + 1) / 4.
    runs = aggregate.select_runs(frame(rows), aggregate.named(tables.summary(frame(rows)))[0])
    assert aggregate.improvements(runs)["probability"].tolist() == [0.5, 0.5]


@pytest.mark.filterwarnings("error")
def test_an_infinite_return_has_no_spread_and_no_warning() -> None:
    rows = cell("first", [math.inf, 2.0, 3.0]) + cell("second", [-math.inf, 2.0, 3.0])
    assert tables.summary(frame(rows))["std"].isna().all()
    assert [line[1] for line in first(rows).body[1:]] == ["–", "–"]


def test_failed_runs_are_counted_and_have_no_result() -> None:
    rows = cell("first", [10.0, 20.0, 60.0]) + cell("second", [1.0, 2.0, 3.0])
    failed = {"error": "E: x", "execution": "", "mean_return": math.nan, "episodes": 0}
    rows.append(replace(rows[2], updates=1500, **failed))
    rows += [replace(row, method="third", **failed) for row in cell("third", [0.0] * 3)]
    cells = tables.summary(frame(rows))
    assert cells["seeds"].tolist() == [2, 3, 0]
    assert cells["failed"].tolist() == [1, 0, 3]
    sheet = first(rows)
    assert sheet.body[1] == ["first", "15.0 ± 7.1 f1/3"]
    assert over(rows).returns["first"]["medium"].tolist() == [10.0, 20.0]
    assert "third" not in over(rows, "unknown").learners
    assert any("failed and is left out" in note for note in sheet.notes)
    unknown = titled(rows, "title: unknown execution")
    assert unknown.body == [["medium", "723.5", "– f3/3"]]
    assert unknown.notes[0].startswith("No run has a result.")
    lost = [replace(row, method=name, **failed) for name in ("a", "b") for row in rows[:3]]
    assert not any("Marked" in note for note in first(lost).notes)


def test_a_dataset_without_a_run_says_so() -> None:
    rows = cell("first", [1.0]) + cell("second", [2.0], quality="expert", data_hash="other")
    assert first(rows).body == [["medium", "723.5", "1.0", "not run"], ["expert", "723.5", "not run", "2.0"]]


def test_small_returns_have_two_decimals_those_of_other_datasets_one() -> None:
    rows = cell("a", [0.444, 0.466, 0.444], task="smax/3m", behavior_return=0.614)
    rows += cell("b", [math.nan, 0.5, 0.5], task="smax/3m", behavior_return=0.614)
    rows += cell("a", [-20.04, -20.0, -20.0], task="mpe/spread", behavior_return=5.0)
    early = [replace(row, updates=500, mean_return=0.777) for row in rows[:3]]
    made = tables.sheets(frame([*early, *rows]), "title")
    assert made[0].body == [
        ["smax/3m medium", "0.61", "0.45 ± 0.01", "–"],
        ["mpe/spread medium", "5.0", "-20.0 ± 0.0", "not run"],
    ]
    assert [line[3:5] for line in made[-1].body] == [
        ["0.45 ± 0.01", "0.45 [0.44, 0.47]"],
        ["–", "–"],
        ["-20.0 ± 0.0", "-20.0 [-20.0, -20.0]"],
    ]
    assert made[-1].body[0][-1] == "0.78 of 2"


# ---- execution classes ---------------------------------------------------------------------------------


def test_other_execution_classes_have_tables_of_their_own() -> None:
    rows = cell("third", [99.0, 98.0], execution="sequential")
    rows += cell("first", [10.0, 20.0]) + cell("second", [1.0, 2.0])
    made = tables.sheets(frame(rows), "title")
    assert [sheet.title for sheet in made] == [
        "title: decentralized execution", "title: sequential execution", "Details",
    ]  # fmt: skip
    assert [line[0] for line in made[0].body] == ["(data)", "first", "second"]
    assert made[0].best == [set(), {1}, set()]
    assert made[1].body == [["medium", "723.5", "98.5 ± 0.7"]]
    assert made[1].best == [set()]  # there is nothing to compare it with
    alone = tables.sheets(frame(rows[:2]), "title")
    assert alone[0].title == "title: sequential execution", (
        "a class of its own is named where it stands alone, too"
    )
    assert tables.sheets(frame(rows[2:]), "title")[0].title == "title"


# ---- names ---------------------------------------------------------------------------------------------


def test_settings_that_all_share_are_in_the_caption() -> None:
    rows = cell("first", [1.0], variant="hidden=64, sizes=(1, 2)", config_hash="a")
    rows += cell("first", [1.0], variant="alpha=1.0, hidden=64, sizes=(1, 2)", config_hash="b")
    rows += cell("second", [1.0], variant="beta=2.0, hidden=64", config_hash="c")
    found = labels_of(tables.summary(frame(rows)))
    assert found.learners.tolist() == ["first", "first (alpha=1.0)", "second"]
    assert found.notes[0] == "Settings: hidden=64, sizes=(1, 2) (first), beta=2.0 (second)."
    assert variant_settings("alpha=1.0, sizes=(1, 2)") == {"alpha": "1.0", "sizes": "(1, 2)"}
    assert variant_settings("") == {}


def test_a_caption_tells_the_settings_of_its_own_execution_class() -> None:
    long = [f"hidden=64, first_setting={k}.0, one_setting_more={k}" for k in (1, 2)]
    rows = cell("first", [1.0], variant=long[0], config_hash="a")
    rows += cell("first", [1.0], variant=long[1], config_hash="b", execution="shared_randomness")
    rows += cell("second", [1.0], variant="hidden=64, beta=2.0", config_hash="c")
    both, alone = (made for made in tables.sheets(frame(rows), "T") if made.title.startswith("T: "))
    assert (both.title, alone.title) == ("T: decentralized execution", "T: shared randomness execution")
    data = f"Task: {HOPPER}. Data: marlzoo."
    assert (
        f"Settings: hidden=64, beta=2.0 (second). first a: first_setting=1.0, one_setting_more=1. {data}"
        in both.notes
    )
    assert f"Settings: hidden=64. first b: first_setting=2.0, one_setting_more=2. {data}" in alone.notes


def test_a_setting_with_several_values_tells_learners_apart() -> None:
    rows = [row for k in (1, 2) for row in cell("first", [1.0], variant=f"alpha={k}.0", config_hash=str(k))]
    rows += cell("first", [1.0], variant="alpha=1.0, variant=rnn", config_hash="v")
    rows += cell("second", [1.0], variant="alpha=1.0", config_hash="s")
    found = labels_of(tables.summary(frame(rows)))
    first = ["first (alpha=1.0)", "first (alpha=2.0)", "first (alpha=1.0, rnn)"]
    assert found.learners.tolist() == [*first, "second (alpha=1.0)"]


def test_long_names_get_a_letter() -> None:
    long = [f"alpha={k}.0, one_setting_more=False" for k in (1, 2)]
    rows = [
        row for k, text in enumerate(long) for row in cell("first", [1.0], variant=text, config_hash=str(k))
    ]
    rows += cell("first", [1.0])
    found = labels_of(tables.summary(frame(rows)))
    assert found.learners.tolist() == ["first a", "first b", "first"]
    assert found.notes[:2] == [f"first a: {long[0]}.", f"first b: {long[1]}."]


def test_letters_go_on_after_z() -> None:
    rows = [
        row
        for k in range(54)
        for row in cell("first", [1.0], variant=f"alpha={k}.0, one_setting_more={k}.0", config_hash=str(k))
    ]
    found = labels_of(tables.summary(frame(rows))).learners.tolist()
    assert (found[0], found[25], found[26], found[27], found[52]) == (
        "first a", "first z", "first aa", "first ab", "first ba",
    )  # fmt: skip
    assert len(set(found)) == 54


def test_one_configuration_is_one_column() -> None:
    """A setting that is given its default, with a seed in common."""
    rows = cell("first", [1.0, 2.0]) + cell("first", [1.0, 5.0, 6.0], variant="alpha=10.0")[1:]
    rows += cell("first", [7.0], variant="alpha=1.0", config_hash="other")
    cells = tables.summary(frame(rows))
    assert cells["variant"].tolist() == ["", "alpha=1.0"]
    assert cells["seeds"].tolist() == [3, 1]
    assert [line[0] for line in first(rows).body] == ["(data)", "first", "first (alpha=1.0)"]
    # Variants without a dataset in common cannot be compared.
    apart = cell("first", [1.0]) + cell("first", [1.0], variant="alpha=10.0", quality="expert")
    assert tables.summary(frame(apart))["variant"].tolist() == ["", "alpha=10.0"]
    # Where they differ on one of the datasets that both ran on, they are two learners.
    rows += cell("first", [1.0], quality="expert", config_hash="x")
    rows += cell("first", [1.0], variant="alpha=10.0", quality="expert", config_hash="y")
    assert tables.summary(frame(rows))["variant"].unique().tolist() == ["", "alpha=10.0", "alpha=1.0"]


def test_configurations_of_one_name_are_told_apart() -> None:
    rows = cell("second", [3.0], config_hash="old") + cell("second", [4.0], config_hash="new")
    assert [line[0] for line in first(rows).body] == ["(data)", "second #old", "second #new"]


@pytest.mark.parametrize(
    ("changes", "names", "notes"),
    [
        ({"quality": "expert"}, ["medium", "expert"], [f"Task: {HOPPER}.", "Data: marlzoo."]),
        ({"task": "mamujoco/x"}, ["hopper-3x1 medium", "x medium"], ["Tasks: mamujoco.", "Data: marlzoo."]),
        ({"task": "mpe/x"}, [f"{HOPPER} medium", "mpe/x medium"], ["Data: marlzoo."]),
        ({"source": "omiga"}, ["medium (marlzoo)", "medium (omiga)"], [f"Task: {HOPPER}."]),
        ({"suite": "other"}, ["unit medium", "other medium"], [f"Task: {HOPPER}.", "Data: marlzoo."]),
        ({}, ["medium #00012345", "medium #other"], [f"Task: {HOPPER}.", "Data: marlzoo."]),
    ],
)
def test_datasets_are_named_by_what_differs(
    changes: dict[str, str], names: list[str], notes: list[str]
) -> None:
    rows = cell("first", [1.0]) + cell("first", [1.0], data_hash="other", **changes)
    found = labels_of(tables.summary(frame(rows)))
    assert found.datasets.tolist() == names
    assert found.notes == notes


# ---- the comparison ------------------------------------------------------------------------------------


def test_everything_that_cannot_be_told_from_the_best_is_marked() -> None:
    learners = {"best": [10.0, 11, 12], "near": [8.0, 11, 12], "far": [1.0, 2, 3]}
    sheet = first(grid(learners, ["a", "b", "c"]))
    assert sheet.header == ["dataset", "(data)", "best", "near", "far"]
    assert sheet.best == [{2, 3}] * 3
    assert any(
        "bootstrap interval of the difference of means over seeds contains 0. With fewer than ten" in n
        for n in sheet.notes
    )
    assert printed(sheet).count("*") == 2 * 3 + 1
    two = first(grid({"best": [10.0, 12], "near": [9.0, 12]}, ["a", "b"]))
    assert two.best == [{2}] * 2
    assert any("Differences are tested where both have at least 3 seeds" in note for note in two.notes)
    assert not any("every other mean" in note for note in two.notes)


def test_the_caption_says_what_marks_mean_where_some_have_too_few_seeds_for_a_test() -> None:
    rows = cell("best", [10.0, 11, 12]) + cell("near", [8.0, 11, 12]) + cell("few", [9.0, 9.0])
    sheet = first(rows)
    assert [bool(best) for best in sheet.best] == [False, True, True, False]
    (note,) = (note for note in sheet.notes if note.startswith("Marked"))
    assert "and every other mean whose difference from it" in note
    assert "tested where both have at least 3 seeds" in note
    # One that lost runs has few seeds, too.
    failed = {"error": "E: x", "execution": "", "mean_return": math.nan, "episodes": 0}
    lost = rows[:-2] + [replace(rows[-1], seed=k, **(failed if k > 1 else {})) for k in range(5)]
    assert note in first(lost).notes


def test_methods_are_lines_when_there_are_more_of_them_or_they_do_not_fit() -> None:
    learners = {"one": [1.0, 2, 3], "two": [4.0, 5, 6]}
    assert first(grid(learners, ["a", "b"])).header == ["dataset", "(data)", "one", "two"]
    turned = first(grid(learners | {"three": [0.0, 0, 0]}, ["a", "b"]))
    assert turned.header == ["method", "a", "b"]
    assert [line[0] for line in turned.body] == ["(data)", "one", "two", "three"]
    assert turned.body[2] == ["two", "5.0 ± 1.0", "5.0 ± 1.0"]
    assert turned.best == [set(), set(), {1, 2}, set()]
    wide = {f"a_method_called_{k}": [1000.0 * k, 2000 * k, 3000 * k] for k in range(1, 5)}
    assert first(grid(wide, list("abcde"))).header[0] == "method"


def test_the_caption_says_what_was_done() -> None:
    rows = cell("first", [1.0, 2.0, 3.0], config_hash="a", variant="hidden=8")
    notes = tables.sheets(frame(rows), "title", "marlzoo bench x")[0].notes
    assert notes[0].startswith(
        "Mean return ± sample standard deviation (n - 1) over 3 seeds, last checkpoint (1000"
    )
    assert "10 evaluation episodes per seed" in notes[0]
    assert notes[1] == f"Settings: hidden=8. Task: {HOPPER}. Data: marlzoo."
    assert notes[-1] == "Made by `marlzoo bench x`."
    one = tables.sheets(frame(rows[:1]), "title", "marlzoo bench x")[0].notes[0]
    assert one.startswith("Mean return over 1 seed, last checkpoint")


def test_values_that_still_moved_are_told() -> None:
    rows = grid({"moved": [1.0, 2, 3], "still": [1.0, 2, 3], "none": [1.0, 2, 3]}, ["a", "b", "c"])
    drifts = {("moved", "a"): 0.3, ("moved", "b"): -0.5}
    quiet = {"moved": 0.0, "still": 0.04, "none": None}
    rows = [replace(r, value_drift=drifts.get((r.method, r.quality), quiet[r.method])) for r in rows]
    (warning,) = (note for note in first(rows).notes if note.startswith("Warning"))
    assert warning.startswith(
        "Warning: values were still moving: moved on 2 of 3 datasets (-50%). In brackets"
    )
    assert not any("older version" in note for note in first(rows).notes)
    assert tables.summary(frame(rows))["moving"].notna().sum() == 2
    old = [replace(row, value_drift=None, code="") for row in rows]
    assert any("older version do not say whether values" in note for note in first(old).notes)


def test_rows_of_several_versions_of_the_code_are_told() -> None:
    rows = cell("first", [1.0, 2.0, 3.0]) + cell("second", [1.0, 2.0, 3.0]) + cell("third", [1.0, 2.0, 3.0])
    rows[0] = replace(rows[0], code="0ld")
    rows[3:5] = [replace(rows[3], code="0ld"), replace(rows[4], code="older")]
    warnings = [note for note in first(rows).notes if note.startswith("Warning")]
    assert warnings == [
        "Warning: rows of a method were made by several versions of its code: first 2, second 3."
    ]


def test_how_settings_were_found_is_told() -> None:
    def told(record: str) -> str:
        rows = cell("first", [1.0], tuning=record) + cell("second", [1.0])
        return next(note for note in first(rows).notes if note.startswith("Settings were tuned"))

    about = {
        "search": "grid",
        "trials": 4,
        "seeds": [0, 1],
        "updates": 300,
        "data": ["games/xor D1", "games/xor D3"],
    }
    values = {"alpha": [0.1, 1], "lr": {"low": 1e-4, "high": 1e-2, "log": True, "count": 2}}
    assert told(json.dumps(about | {"over": values})) == (
        "Settings were tuned: first by grid search over alpha 0.1, 1, lr 0.0001 to 0.01 on a logarithmic scale "
        "(4 trials of 300 updates with seeds 0, 1 on games/xor D1, games/xor D3). "
        "The others are the presets' and the suite's."
    )
    values["lr"]["log"] = False
    assert "lr 0.0001 to 0.01 (4 trials" in told(json.dumps(about | {"over": values}))
    for other in ("by hand", '{"trials": 5}', "5", '{"over": []}'):
        assert told(other) == (
            f"Settings were tuned: first ({other}). The others are the presets' and the suite's."
        )
    alone = first(cell("first", [1.0], tuning="by hand")).notes
    assert "Settings were tuned: first (by hand)." in alone, "there are no others"


# ---- over datasets -------------------------------------------------------------------------------------


def over(rows: list[Row], kind: str = "decentralized") -> aggregate.Runs:
    cells = aggregate.named(tables.summary(frame(rows)))[0]
    return aggregate.select_runs(frame(rows), cells[cells["execution"] == kind])


def test_aggregates_by_hand() -> None:
    scale = {share: 16.3 + share * (2452.0 - 16.3) for share in (0.0, 0.5, 1.0)}
    rows = grid({"low": [scale[0.0]] * 3, "high": [scale[0.5]] * 3}, ["a", "b"])
    rows += grid({"low": [scale[1.0]] * 3, "high": [scale[0.5]] * 3}, ["c"])
    runs = over(rows)
    assert aggregate.interquartile_score(runs, "low") == pytest.approx(
        (100 * (0 + 0 + 0 + 0 + 1) / 5, 20.0, 20.0)
    )
    assert aggregate.ranks(runs) == {"low": pytest.approx((5 / 3,) * 3), "high": pytest.approx((4 / 3,) * 3)}
    assert aggregate.better(runs, "high", "low") == pytest.approx((2 / 3,) * 3)
    spread = over(cell("spread", [scale[0.0], scale[0.0], scale[1.0]]))
    assert aggregate.interquartile_score(spread, "spread") == pytest.approx(
        (100 / 3, 0.0, 100.0)
    )  # as the mean of (0, 0, 1)
    sheet = titled(rows, "Over all datasets (3)")
    assert sheet.header == ["method", "score (IQM)", "rank", "P(> low)"]
    assert sheet.body == [
        ["low", "20.0 [20.0, 20.0]", "1.7 [1.7, 1.7]", "–"],
        ["high", "50.0 [50.0, 50.0]", "1.3 [1.3, 1.3]", "0.67 [0.67, 0.67]"],
    ]
    assert "16.3 to 2452 (published OMIGA expert data)" in sheet.notes[1]
    assert titled(rows, "Over all datasets (3)", reference="high").header[3] == "P(> high)"
    tuned = [replace(row, variant="alpha=0.1", config_hash="tuned") for row in rows if row.method == "high"]
    both = rows + tuned
    assert titled(both, "Over all datasets (3)", reference="high").header[3] == "P(> high)"
    assert (
        titled(both, "Over all datasets (3)", reference="high (alpha=0.1)").header[3]
        == "P(> high (alpha=0.1))"
    )
    with pytest.raises(UnknownNameError, match=r"method of the rows 'hgh'.*high"):
        tables.sheets(frame(rows), "title", reference="hgh")


def test_the_interval_of_a_score_does_not_depend_on_the_order_of_datasets() -> None:
    rng = np.random.default_rng(0)
    parts = {name: cell("one", list(rng.normal(size=9)), quality=name, data_hash=name) for name in "abc"}
    forth, back = over(parts["a"] + parts["b"] + parts["c"]), over(parts["c"] + parts["a"] + parts["b"])
    assert aggregate.interquartile_score(forth, "one") == aggregate.interquartile_score(back, "one")


def test_a_method_that_lacks_a_dataset_is_not_compared_over_all() -> None:
    rows = grid({"low": [1.0] * 3, "high": [2.0] * 3}, ["a", "b"]) + cell(
        "part", [9.0] * 3, quality="a", data_hash="a"
    )
    runs = over(rows)
    assert runs.complete() == ("low", "high")
    assert aggregate.ranks(runs).keys() == {"low", "high"}
    sheet = titled(rows, "Over all datasets (2)")
    assert sheet.body[1][3] == "1.00 [1.00, 1.00]"
    assert sheet.body[2] == ["part", "–", "–", "1.00 [1.00, 1.00]†"], "of other datasets than the line above"
    assert any("not run on all" in note and "†: over those that both" in note for note in sheet.notes)
    of_part = titled(rows, "Over all datasets (2)", reference="part").body
    assert [line[3][-1] for line in of_part[:2]] == ["†", "†"]
    assert not any("†" in text for line in of_part for text in line[1:3]), "these are over all datasets"


def test_methods_without_a_dataset_in_common_are_not_compared() -> None:
    rows = cell("one", [1.0] * 3, quality="a", data_hash="a") + cell(
        "two", [2.0] * 3, quality="b", data_hash="b"
    )
    assert [line[-1] for line in titled(rows, "Over all datasets (2)").body] == ["–", "–"]


def test_a_score_that_a_run_without_a_return_takes_away_is_explained() -> None:
    rows = grid({"low": [1.0] * 3, "lost": [math.nan, 2.0, 3.0], "high": [4.0] * 3}, ["a", "b"])
    sheet = titled(rows, "Over all datasets (2)")
    assert [line[1] == "–" for line in sheet.body] == [False, True, False]
    assert not any("not run on all" in note for note in sheet.notes), "it ran on all of them"
    assert sheet.notes[-1].startswith("No score of lost: a run has no finite return.")
    assert sheet.body[1][3].startswith("0.67 [")
    assert not any(
        "No score of" in n for n in titled(grid({"a": [1.0], "b": [2.0]}, ["x", "y"]), "Over").notes
    )


def test_one_method_alone_has_no_rank() -> None:
    rows = grid({"low": [1.0] * 3}, ["a", "b"]) + cell("part", [9.0] * 3, quality="a", data_hash="a")
    sheet = titled(rows, "Over all datasets (2)")
    assert sheet.header == ["method", "score (IQM)", "P(> low)"]
    assert "rank" not in sheet.notes[0]


def test_families_are_aggregated_apart() -> None:
    rows = grid({"low": [1.0] * 3, "high": [2.0] * 3}, ["a", "b"])
    rows += [replace(row, task="mpe/spread", data_hash="m" + row.data_hash) for row in rows]
    titles = [sheet.title for sheet in tables.sheets(frame(rows), "title")]
    assert titles[1:4] == ["Over all datasets (4)", "Over mamujoco datasets (2)", "Over mpe datasets (2)"]
    assert "marlzoo's behavior policy" in titled(rows, "Over all").notes[1]


def test_performance_profiles_and_the_matrix_of_improvement() -> None:
    rows = grid({"low": [16.3, 16.3, 2452.0], "high": [2452.0] * 3}, ["a", "b"])
    profiles = aggregate.profiles(over(rows), (0.0, 50.0, 101.0))
    assert profiles["share"].tolist() == pytest.approx([1, 1 / 3, 0, 1, 1, 0])
    assert profiles["high"].tolist()[1] < 1
    matrix = aggregate.improvements(over(rows))
    assert matrix[["learner", "than", "probability", "datasets"]].values.tolist() == [
        ["low", "high", pytest.approx(1 / 6), 2],
        ["high", "low", pytest.approx(5 / 6), 2],
    ]
    unknown = [replace(row, task="mamujoco/swimmer-2x1") for row in rows]
    assert aggregate.profiles(over(unknown)).empty
    assert aggregate.profiles(over(unknown))["share"].dtype == float  # as joined to others'
    assert titled(unknown, "Over all").body[0][1] == "–"
    assert "no reference" in titled(unknown, "Over all").notes[1]


# ---- files ---------------------------------------------------------------------------------------------


def test_written_files_agree_with_the_rows(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    rows = grid({"first": [1.0, 2.0, 3.0], "second": [3.0, 4.0, 8.0]}, ["a", "b"])
    results.append(rows)
    tables.write(tables.read([tmp_path]), tmp_path, "suite unit", "marlzoo bench unit")
    table = pd.read_csv(tmp_path / "table.csv")
    assert table["mean"].tolist() == [2.0, 5.0, 2.0, 5.0]
    assert table["behavior"].tolist() == [723.5] * 4
    assert table["learner"].tolist() == ["first", "second"] * 2
    matrix = pd.read_csv(tmp_path / "improvement.csv")
    assert matrix["probability"].tolist() == pytest.approx([1 / 18, 17 / 18])
    profile = pd.read_csv(tmp_path / "profile.csv")
    assert profile.groupby("learner")["share"].max().tolist() == [0.0, 0.0]
    assert set(profile["execution"]) == {"decentralized"}
    text = (tmp_path / "table.md").read_text()
    assert "`marlzoo bench unit`" in text
    assert "## Performance profile" in text
    before = text
    tables.write(tables.read([tmp_path]), tmp_path, "suite unit", "marlzoo bench unit")
    assert (tmp_path / "table.md").read_text() == before  # repeats exactly
    assert (tmp_path / "table.tex").read_text().startswith(r"\begin{table}")


def test_results_are_found_from_the_folder_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ResultsFile(tmp_path / "results" / "first" / "rows.csv").append([ROW])
    monkeypatch.chdir(tmp_path)
    for place in ("results/first", "results", "first", ".", str(tmp_path)):
        assert len(tables.read([Path(place)])) == 1, place
    ResultsFile(tmp_path / "results" / "second" / "rows.csv").append([ROW])
    with pytest.raises(
        DataError, match="several runs; name one or more of them: results/first, results/second"
    ):
        tables.read([Path("results")])
    with pytest.raises(
        DataError, match="several runs; name one or more of them: results/first, results/second"
    ):
        tables.read([Path(".")])


def test_no_rows_is_one_clear_error(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.csv"
    for text in ("a,b\n1,2\n", ""):  # what the command that writes rows would say is of no use here
        foreign.write_text(text)
        with pytest.raises(
            DataError, match=r"foreign\.csv: .*; name the folder of a run or its rows\.csv; where this"
        ):
            tables.read([foreign])
    foreign.unlink()
    with pytest.raises(DataError, match=f"no results at {tmp_path};"):
        tables.read([tmp_path])
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([ROW])
    results.remove(lambda row: True)
    with pytest.raises(DataError, match=r"no result rows in \S+rows.csv; run a suite"):
        tables.read(path for path in [tmp_path])  # as results give them


def test_numbers_are_written_with_one_decimal_and_no_minus_zero() -> None:
    assert [tables.number(value) for value in (-0.04, 0.04, -0.06, np.nan, np.inf)] == [
        "0.0",
        "0.0",
        "-0.1",
        "–",
        "–",
    ]
    assert tables.plus_minus(1.0, math.nan) == "1.0"
    assert tables.plus_minus(math.nan, 1.0) == "–"
    assert tables.estimate((1.25, 1.0, 2.0), 2) == "1.25 [1.00, 2.00]"
    assert tables.estimate((1.25, math.nan, math.nan), 1) == "1.2"
