"""Result rows: exact round trip, atomic appends, one clear error for a foreign or cut file."""

from __future__ import annotations

import gzip
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
from marlzoo.benchmarks import store
from marlzoo.benchmarks.results import COLUMNS, ResultsFile, Row, RowEpisodes, frame
from marlzoo.benchmarks.row import from_line, to_line

from marlzoo.cli import main
from marlzoo.commands.verification import verify
from marlzoo.errors import DataError, OutputError, UnknownNameError
from marlzoo.system.checksums import checksum

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
    mean_length=12.5,
    value_mean=3.25,
    value_drift=-0.01,
    weight_ess=0.5,
    preset="mamujoco",
    config='{"alpha": 1.0, "sizes": [1, 2]}',
    code="c0de",
    commit="abc+",
    machine="A processor, 2 cores, Linux",
    data_transitions=1000,
    seconds_per_run=0.75,
    date="2026-01-02T03:04:05Z",
    action_us=12.5,
)
CELLS = len(COLUMNS) + 3  # schema, run and checksum


def test_files_that_lack_a_later_column_are_read_and_go_on(tmp_path: Path) -> None:
    """A file and a journal of a version without the last column: empty there, and rewritten with it."""
    old = ResultsFile(tmp_path / "rows.csv")
    form = replace(old._rows._form, columns=("run", *COLUMNS[:-1]), later=0)
    before = store.Store(old.path, form)
    before.append([to_line(ROW)[:-1]])
    before.publish()
    before.append([to_line(replace(ROW, seed=1))[:-1]])
    before.close()
    unknown = [replace(ROW, seed=seed, action_us=None) for seed in (0, 1)]
    assert old.rows() == unknown
    old.append([replace(ROW, seed=2)])
    old.publish()
    assert old.rows() == [*unknown, replace(ROW, seed=2)]
    assert old.path.read_text().startswith(",".join(("schema", "run", *COLUMNS)))
    old.path.write_text(old.path.read_text().replace(",date,action_us,", ",", 1))
    with pytest.raises(DataError, match="it lacks 'date', 'action_us'"):
        old.rows()


@pytest.mark.parametrize("published", [False, True])
def test_rows_come_back_exactly(tmp_path: Path, published: bool) -> None:
    results = ResultsFile(tmp_path / "new" / "rows.csv")
    rows = [
        ROW,
        replace(ROW, seed=1, mean_return=math.inf, win_rate=0.25, normalized_score=-3.0, diverged=True),
        replace(ROW, seed=2, variant="alpha=1.0, lr=0.001"),
    ]
    results.append(rows[:1])
    results.append(rows[1:])
    assert not results.path.exists()
    if published:
        results.publish()
        assert [path.name for path in results.path.parent.glob("[!.]*")] == [
            "rows.csv"
        ]  # and the hidden lock
    assert results.rows() == rows
    table = results.read()
    assert tuple(table.columns) == ("run", *COLUMNS)
    assert table["run"].tolist() == [row.run for row in rows]
    assert table["data_hash"].tolist() == ["00012345"] * 3  # not read as a number
    assert table["diverged"].tolist() == [False, True, False]
    assert math.isnan(table["win_rate"][0])
    assert frame([]).empty


def test_compressed_rows_are_the_same_rows_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Read, added to, taken out of, migrated and verified; and brought back."""
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([ROW, replace(ROW, seed=1)], [RowEpisodes(ROW.run, 1000, (1.5,), (7,))])
    results.publish()
    before = results.path.read_bytes()
    assert main(["table", str(tmp_path), "--title", "rows", "--format", "csv"]) == 0
    table = capsys.readouterr().out
    packed = tmp_path / "rows.csv.gz"
    assert main(["results", "compress", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines() == [str(packed), str(tmp_path / "episodes.csv.gz")]
    assert gzip.decompress(packed.read_bytes()) == before
    assert not results.path.exists()
    assert results.exists()
    assert len(results.rows()) == 2
    assert len(results.episodes()) == 1
    for place in (tmp_path, packed):
        assert main(["table", str(place), "--title", "rows", "--format", "csv"]) == 0
        assert capsys.readouterr().out == table
    results.append([replace(ROW, seed=2)])
    results.publish()
    assert ResultsFile(packed).remove(lambda row: row.seed == 2) == [replace(ROW, seed=2)]
    assert not results.path.exists()
    assert main(["results", "migrate", str(tmp_path)]) == 0
    assert "nothing to migrate" in capsys.readouterr().out
    (tmp_path / "replaced.csv").unlink()
    assert main(["results", "compress", str(tmp_path), "--undo"]) == 0
    assert results.path.read_bytes() == before
    assert not packed.exists()


def test_damage_of_compressed_rows_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([ROW])
    results.publish()
    plain = results.path.read_bytes()
    results.compress()
    packed = tmp_path / "rows.csv.gz"
    sound = packed.read_bytes()
    for damaged, message in (
        (sound[:40] + bytes([sound[40] ^ 1]) + sound[41:], "cannot read"),
        (sound[:-9], "cannot read"),
        (gzip.compress(plain.replace(b",1000,", b",1001,")), "rows.csv.gz, line 2: damaged"),
    ):
        packed.write_bytes(damaged)
        with pytest.raises(DataError, match=message):
            results.rows()
        assert message in next(verify([tmp_path])).fault
        assert packed.read_bytes() == damaged
    packed.write_bytes(sound)
    monkeypatch.setattr(store, "LARGEST", 99)
    with pytest.raises(DataError, match="unfolds to more than 99 bytes"):
        results.rows()
    monkeypatch.undo()
    results.path.write_bytes(plain)  # as after a kill between the two
    assert len(results.rows()) == 1
    results.append([ROW])
    results.publish()
    assert not packed.exists()
    packed.write_bytes(sound)
    results.path.write_bytes(plain + plain.splitlines(keepends=True)[1])
    with pytest.raises(DataError, match="move the older one away"):
        results.rows()


def test_repeating_a_step_replaces_its_row(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([ROW, replace(ROW, updates=2000)])
    results.append([replace(ROW, mean_return=5.0)])
    assert [(row.updates, row.mean_return) for row in results.rows()] == [
        (1000, 5.0),
        (2000, ROW.mean_return),
    ]


def test_has_compares_all_given_columns(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
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
        (lambda text: text[: len(text) - 12] + "\n", f"line 2: {CELLS - 1} cells instead of {CELLS}"),
        (lambda text: "a,b\n1,2\n", "not a file of this kind.*column 'schema' is missing"),
        (lambda text: "", "not complete"),
        (lambda text: text.replace(",1000,", ",1001,"), "line 2: damaged"),
        (
            lambda text: text.replace("mean_return", "mean_retorn"),
            "lacks 'mean_return' and it has 'mean_retorn'",
        ),
        (
            lambda text: text.replace("mean_length,", "", 1),
            "lacks 'mean_length'; read it with the version .* or move",
        ),
        (lambda text: text.replace("schema,run,", "", 1), "older version.*marlzoo results migrate"),
        (lambda text: text + '"open\n', "not valid CSV"),
    ],
)
def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, damage, message: str) -> None:  # type: ignore[no-untyped-def]
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([ROW])
    results.publish()
    results.path.write_text(damage(results.path.read_text()))
    before = results.path.read_bytes()
    results.append([replace(ROW, updates=7)])
    for use in (results.rows, results.publish):
        with pytest.raises(DataError, match=re.compile(message, re.DOTALL)) as caught:
            use()
        assert str(results.path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert results.path.read_bytes() == before


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="cannot read"):
        ResultsFile(path).read()


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=rf"^{tmp_path / 'file'} is a file; name a folder for the results$"):
        ResultsFile(tmp_path / "file" / "run" / "rows.csv").rows()


def test_a_folder_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        OutputError, match=r"cannot write.*a part of the path is a file; choose another folder$"
    ):
        ResultsFile(tmp_path / "file" / "rows.csv").append([ROW])


WRITER = """
import sys
from dataclasses import replace
from marlzoo.benchmarks.results import ResultsFile
from tests.test_results import ROW
results = ResultsFile(sys.argv[1])
for update in range(100_000):
    results.append([replace(ROW, seed=int(sys.argv[2]), updates=update)])
    print(update, flush=True)
"""


def test_a_kill_at_any_moment_leaves_a_valid_file(tmp_path: Path) -> None:
    path, root = tmp_path / "rows.csv", Path(__file__).parents[1]
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
            assert writer.stdout.readline() == b"0\n"
        time.sleep(0.037 * trial)
        acknowledged = []
        for writer in writers:
            os.kill(writer.pid, signal.SIGKILL)
            acknowledged.append(writer.communicate()[0].count(b"\n") + 1)
        rows = ResultsFile(path).rows()
        for k, least in enumerate(acknowledged):
            # Nothing that was acknowledged is lost, though two processes wrote at the same time.
            mine = sorted(row.updates for row in rows if row.seed == 10 * trial + k)
            assert mine == list(range(len(mine)))
            assert len(mine) >= least


# ---- the store -----------------------------------------------------------------------------------------


def test_an_append_touches_no_earlier_row(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([replace(ROW, seed=seed) for seed in range(50)])
    results.publish()
    before = results.path.stat()
    results.append([replace(ROW, seed=100)])
    (journal,) = (tmp_path / "rows.journal").iterdir()
    first = journal.read_bytes()
    results.append([replace(ROW, seed=101)])
    after = results.path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert journal.read_bytes().startswith(first)
    assert len(journal.read_bytes()) < 3 * len(first)


def test_journals_are_merged_when_they_are_worth_it(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([replace(ROW, seed=seed) for seed in range(40)])
    results.publish(lazy=True)
    assert results.path.exists()
    results.append([replace(ROW, seed=40)])
    results.publish(lazy=True)
    assert (tmp_path / "rows.journal").exists()
    results.append([replace(ROW, seed=seed) for seed in range(41, 60)])
    results.publish(lazy=True)
    assert not (tmp_path / "rows.journal").exists()
    results.append([replace(ROW, seed=60)])
    results.close()
    results.publish()  # worth it or not
    assert not (tmp_path / "rows.journal").exists()
    assert [row.seed for row in results.rows()] == list(range(61))


def test_another_writers_journal_stays_while_it_writes(tmp_path: Path) -> None:
    first, second = ResultsFile(tmp_path / "rows.csv"), ResultsFile(tmp_path / "rows.csv")
    first.append([ROW])
    second.append([replace(ROW, seed=1)])
    second.publish()
    assert [row.seed for row in ResultsFile(first.path).rows()] == [1, 0]
    assert len(list((tmp_path / "rows.journal").iterdir())) == 1
    first.append([replace(ROW, seed=2)])
    with pytest.raises(DataError, match="another process is writing"):
        second.remove(lambda row: row.seed == 2)
    first.close()
    second.publish()
    assert [row.seed for row in second.rows()] == [1, 0, 2]
    assert not (tmp_path / "rows.journal").exists()


def test_what_a_kill_cut_off_is_left_out_but_damage_is_named(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([ROW])
    results.close()
    (journal,) = (tmp_path / "rows.journal").iterdir()
    whole = journal.read_bytes()
    for length in range(len(whole)):
        journal.write_bytes(whole[:length])
        assert results.rows() == []
    journal.write_bytes(whole + whole[:100])
    assert results.rows() == [ROW]
    journal.write_bytes(whole.replace(b",1000,", b",1001,"))
    with pytest.raises(DataError, match=r"\.csv, line 2: damaged"):
        results.rows()


def test_a_flipped_bit_is_seen_at_every_place(tmp_path: Path) -> None:
    """In the rows, the header and the checksums."""
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([ROW], [RowEpisodes(ROW.run, 1000, (1.5, 2.5), (3, 4), (True, False))])
    results.publish()
    for path, read in ((results.path, results.rows), (tmp_path / "episodes.csv", results.episodes)):
        whole = path.read_bytes()
        for place in range(len(whole)):
            flipped = whole[place] ^ (1 << place % 8)
            path.write_bytes(whole[:place] + bytes([flipped]) + whole[place + 1 :])
            with pytest.raises(DataError) as caught:
                read()
            assert str(path) in str(caught.value)
        path.write_bytes(whole)
        assert len(read()) == 1


def test_a_disk_that_is_full_leaves_the_journal_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([ROW])
    true = os.fsync

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        results.append([replace(ROW, seed=1)])
    monkeypatch.setattr(os, "fsync", true)
    assert results.rows() == [ROW]
    results.append([replace(ROW, seed=2)])
    assert [row.seed for row in results.rows()] == [0, 2]


def test_rows_taken_out_are_kept_beside(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    rows = [replace(ROW, seed=seed) for seed in range(3)]
    results.append(rows)
    assert results.remove(lambda row: row.seed == 1) == [rows[1]]
    assert results.rows() == [rows[0], rows[2]]
    assert ResultsFile(tmp_path / "replaced.csv").rows() == [rows[1]]
    results.append([rows[1]])
    assert results.remove(lambda row: row.seed == 1) == [rows[1]]
    assert results.remove(lambda row: row.seed == 9) == []
    assert len((tmp_path / "replaced.csv").read_text().splitlines()) == 3


def test_a_failed_run_that_goes_on_has_not_failed(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    failed = replace(ROW, updates=1500, error="ValueError: x", mean_return=math.nan)
    results.append([ROW, failed])
    results.append([replace(failed, error="ValueError: y")])
    assert [row.error for row in results.rows()] == ["", "ValueError: y"]
    results.publish()
    results.append([replace(ROW, updates=2000)])
    assert [(row.updates, row.error) for row in results.rows()] == [(1000, ""), (2000, "")]


def test_episodes_come_back_exactly(tmp_path: Path) -> None:
    results = ResultsFile(tmp_path / "rows.csv")
    found = RowEpisodes(ROW.run, 1000, (0.1 + 0.2, math.inf), (7, 8), (True, False))
    results.append([ROW], [found])
    assert results.episodes() == {(ROW.run, 1000): found}
    again = replace(found, returns=(1.0, 2.0), wins=())
    results.append([ROW], [again])
    results.publish()
    assert results.episodes() == {(ROW.run, 1000): again}


def test_lines_and_checksums_by_hand() -> None:
    odd = replace(ROW, variant="two\nlines", weight_ess=None)
    line = to_line(odd)
    assert line[0] == odd.run
    assert from_line("x", line) == replace(odd, variant="two lines")
    assert checksum(["a", "bc"]) == "36d492f0"
    assert checksum(["ab", "c"]) != checksum(["a", "bc"])
    wrong = tuple("many" if name == "updates" else cell for name, cell in zip(COLUMNS, line[1:], strict=True))
    with pytest.raises(DataError, match="x: updates is 'many'"):
        from_line("x", ("r", *wrong))
