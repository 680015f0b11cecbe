"""Rows of version 1: migrated in place, or refused by name with the command that migrates them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from marlzoo.benchmarks import plan
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.sources import Source
from marlzoo.benchmarks.suites import Data, Learner, Suite

from marlzoo.cli import main
from marlzoo.errors import DataError

HEADER = (
    "suite,task,source,quality,method,variant,seed,updates,episodes,mean_return,std_return,normalised_score,win_rate,"
    "diverged,execution,config_hash,data_hash,behaviour_return,versions,device,seconds\n"
)
TASK = "mamujoco/hopper-3x1"
# The hash that version 1 gave to BC with hidden=64 on this task, from results that were recorded with it; and that of
# B3C, whose settings were renamed since.
BC, B3C = "900cebdca838", "38e0f382edae"


def old(method: str, variant: str, seed: int, config_hash: str) -> str:
    return (
        f'unit,{TASK},marlzoo,medium,{method},"{variant}",{seed},500,5,1.5,0.25,-3.0,,False,decentralised,'
        f"{config_hash},0011,723.5,marlzoo 0.1.0; torch 2,cpu,2.5\n"
    )


def write(folder: Path, *lines: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rows.csv"
    path.write_text(HEADER + "".join(lines))
    return path


def test_old_rows_are_refused_with_the_command_that_migrates_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a" / "b", old("bc", "hidden=64", 0, BC))
    with pytest.raises(DataError, match=rf"older version.*marlzoo results migrate {path.parent}$"):
        ResultsFile(path).rows()
    assert main(["results", "migrate", str(tmp_path)]) == 0
    assert f"{path}: 1 rows migrated, 1 of today's configurations" in capsys.readouterr().out
    before = path.read_bytes()
    assert main(["results", "migrate", str(tmp_path)]) == 0
    assert "nothing to migrate" in capsys.readouterr().out
    assert path.read_bytes() == before


def test_values_stay_and_words_are_todays(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        old("bc", "hidden=64", 0, BC),
        old("b3c", "hidden=64", 1, B3C),
        old("omiga", "hidden=64, stabilise_v=False", 2, "0123456789ab"),
        old("no_such_method", "", 3, "x"),
    )
    assert main(["results", "migrate", str(tmp_path)]) == 0
    bc, b3c, omiga, unknown = ResultsFile(path).rows()
    assert (bc.normalized_score, bc.behavior_return, bc.execution) == (-3.0, 723.5, "decentralized")
    assert (bc.mean_return, bc.seconds, bc.data_hash, bc.versions) == (
        1.5,
        2.5,
        "0011",
        "marlzoo 0.1.0; torch 2",
    )
    assert (bc.code, bc.date, bc.value_mean, bc.data_transitions, bc.error) == ("", "", None, None, "")
    assert (bc.config_hash, json.loads(bc.config)["hidden"]) == (BC, 64)
    assert b3c.config_hash != B3C
    assert json.loads(b3c.config)["normalizer"] == "mean"
    assert omiga.variant == "hidden=64, stabilize_v=False"
    assert (omiga.config_hash, omiga.config) == ("0123456789ab", "")  # of settings that are no more
    assert (unknown.method, unknown.config) == ("no_such_method", "")
    learner = Learner("b3c", {"hidden": 64})
    suite = Suite("unit", (Data(TASK, "medium"),), (learner,))
    assert b3c.config_hash == plan.config_hash(suite, learner, TASK, suite.data[0])


def test_the_migrated_rows_are_found_done(tmp_path: Path) -> None:
    path = write(tmp_path, old("b3c", "hidden=64", 1, B3C))
    main(["results", "migrate", str(tmp_path)])
    learner = Learner("b3c", {"hidden": 64})
    suite = Suite("unit", (Data(TASK, "medium"),), (learner,), seeds=(0, 1), updates=500, episodes=5)
    source = Source(suite.data[0], "", TASK, "marlzoo", "medium", "0011", 723.5)
    assert [run.seed for run in plan.pending(suite, [source], ResultsFile(path))] == [0]


def test_rows_appended_since_are_kept(tmp_path: Path) -> None:
    path = write(tmp_path, old("bc", "hidden=64", 0, BC))
    main(["results", "migrate", str(tmp_path)])
    (row,) = ResultsFile(path).rows()
    path.write_text(HEADER + old("bc", "hidden=64", 0, BC))
    ResultsFile(path).append([replace(row, seed=7)])
    main(["results", "migrate", str(tmp_path)])
    assert [row.seed for row in ResultsFile(path).rows()] == [0, 7]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text[:-1], "not complete"),
        (lambda text: text.replace(",500,", ",many,"), "line 2: updates is 'many'"),
        (lambda text: text.replace(",cpu", ""), "line 2: 20 cells instead of 21"),
        (lambda text: text.replace('"hidden=64"', '"hidden=64'), "not valid CSV"),
    ],
)
def test_a_broken_file_is_one_clear_error_and_stays(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[str], str],
    message: str,
) -> None:
    path = write(tmp_path, old("bc", "hidden=64", 0, BC))
    path.write_text(change(path.read_text()))
    before = path.read_bytes()
    assert main(["results", "migrate", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert str(path) in told
    assert path.read_bytes() == before


def test_other_tables_and_places_are_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.csv").write_bytes(b"group,game\n\xff,1\n")
    assert main(["results", "migrate", str(tmp_path)]) == 0
    assert (tmp_path / "rows.csv").read_bytes() == b"group,game\n\xff,1\n"
    assert main(["results", "migrate", str(tmp_path / "missing")]) == 2
    assert "no folder" in capsys.readouterr().err
    assert main(["results", "move"]) == 2
    assert "Known: borrow, compare, compress, migrate" in capsys.readouterr().err
