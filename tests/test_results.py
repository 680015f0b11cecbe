"""Result rows: exact round trip, atomic appends, one clear error for a foreign or cut file."""

from __future__ import annotations

import math
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from marlzoo.benchmarks.results import COLUMNS, Results, Row, frame

from marlzoo.errors import DataError, OutputError, UnknownNameError

ROW = Row(
    suite="unit",
    task="mamujoco/hopper-3x1",
    source="marlzoo",
    quality="medium",
    method="first",
    variant="",
    seed=0,
    updates=1000,
    episodes=10,
    mean_return=0.1 + 0.2,
    std_return=1e-17,
    normalized_score=None,
    win_rate=None,
    diverged=False,
    execution="decentralized",
    config_hash="c0ffee",
    data_hash="00012345",
    behavior_return=723.5,
    versions='marlzoo 0.1.0; "quoted", comma',
    device="cpu",
    seconds=1.5,
)


def test_rows_come_back_exactly(tmp_path: Path) -> None:
    results = Results(tmp_path / "new" / "rows.csv")
    rows = [
        ROW,
        replace(ROW, seed=1, mean_return=math.inf, win_rate=0.25, normalized_score=-3.0, diverged=True),
        replace(ROW, seed=2, variant="alpha=1.0, lr=0.001"),
    ]
    results.append(rows[:1])
    results.append(rows[1:])
    assert results.rows() == rows
    table = results.read()
    assert tuple(table.columns) == COLUMNS
    assert table["data_hash"].tolist() == ["00012345"] * 3  # not read as a number
    assert table["diverged"].tolist() == [False, True, False]
    assert math.isnan(table["win_rate"][0])
    assert frame([]).empty


def test_repeating_a_step_replaces_its_row(tmp_path: Path) -> None:
    results = Results(tmp_path / "rows.csv")
    results.append([ROW, replace(ROW, updates=2000)])
    results.append([replace(ROW, mean_return=5.0)])
    assert [(row.updates, row.mean_return) for row in results.rows()] == [
        (1000, 5.0),
        (2000, ROW.mean_return),
    ]


def test_has_compares_all_given_columns(tmp_path: Path) -> None:
    results = Results(tmp_path / "rows.csv")
    assert not results.has(seed=0)
    results.append([ROW])
    assert results.has(method="first", seed=0, updates=1000)
    assert not results.has(method="first", seed=1)
    with pytest.raises(UnknownNameError, match=r"'methd'.*Did you mean method"):
        results.has(methd="first")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) - 40], "not complete"),
        (lambda text: text[:-1], "not complete"),
        (lambda text: text[: len(text) - 5] + "\n", "line 2: 20 cells instead of 21"),
        (lambda text: "a,b\n1,2\n", "not a results file.*column 'suite' is missing"),
        (lambda text: "", "not complete"),
        (lambda text: text.replace(",1000,", ",many,"), "line 2: updates is 'many'"),
        (lambda text: text.replace("False", "no"), "diverged is 'no'"),
        (lambda text: text + '"open\n', "not valid CSV"),
    ],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    results = Results(tmp_path / "rows.csv")
    results.append([ROW])
    results.path.write_text(damage(results.path.read_text()))
    before = results.path.read_bytes()
    with pytest.raises(DataError, match=re.compile(message, re.DOTALL)) as caught:
        results.append([ROW])
    assert str(results.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert results.path.read_bytes() == before


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        Results(path).read()


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        Results(tmp_path / "file" / "rows.csv").append([ROW])


WRITER = """
import sys
from dataclasses import replace
from marlzoo.benchmarks.results import Results
from tests.test_results import ROW
results = Results(sys.argv[1])
print("ready", flush=True)
for update in range(100_000):
    results.append([replace(ROW, seed=int(sys.argv[2]), updates=update)])
"""


def test_a_kill_at_any_moment_leaves_a_valid_file(tmp_path: Path) -> None:
    path, root = tmp_path / "rows.csv", Path(__file__).parents[1]
    seen = 0
    for trial in range(3):
        writers = [
            subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), str(10 * trial + k)],
                cwd=root,
                stdout=subprocess.PIPE,
            )
            for k in range(2)
        ]
        for writer in writers:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
        time.sleep(0.2 + 0.037 * trial)
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            writer.communicate()
        rows = Results(path).rows()
        for seed in (10 * trial, 10 * trial + 1):
            # Nothing that was acknowledged is lost, though two processes wrote at the same time.
            mine = sorted(row.updates for row in rows if row.seed == seed)
            assert mine == list(range(len(mine)))
        assert len(rows) > seen
        seen = len(rows)
