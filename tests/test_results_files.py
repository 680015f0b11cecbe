"""The files beside the rows: estimates, episodes, what was replaced, and their compressed forms."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks.results import Estimated, ResultsFile, RowEpisodes, compress

from marlzoo.errors import DataError, UnknownNameError
from tests.test_results import ROW

OTHER = replace(ROW, seed=1)
LATER = replace(ROW, updates=2000)


def filled(folder: Path) -> ResultsFile:
    results = ResultsFile(folder / "rows.csv")
    episodes = [
        RowEpisodes(row.run, row.updates, (0.1 + 0.2, -1.0), (3, row.updates), (True, False))
        for row in (ROW, LATER)
    ]
    results.append([ROW, OTHER, LATER], episodes, [Estimated(ROW.run, 1000, 0.1 + 0.2)])
    return results


def test_estimates_come_back_exactly_and_the_newest_counts(tmp_path: Path) -> None:
    results = filled(tmp_path)
    assert results.estimates() == {(ROW.run, 1000): 0.1 + 0.2}
    found = results.read()["estimate"].tolist()
    assert found[0] == 0.1 + 0.2
    assert all(map(math.isnan, found[1:]))
    results.append([], [], [Estimated(ROW.run, 1000, -2.5), Estimated(ROW.run, 2000, 7.0)])
    results.publish()
    assert results.estimates() == {(ROW.run, 1000): -2.5, (ROW.run, 2000): 7.0}
    assert (tmp_path / "estimates.csv").read_text().count(ROW.run) == 2
    results.append([OTHER])
    assert "estimate" in results.read()
    plain = ResultsFile(tmp_path / "plain" / "rows.csv")
    plain.append([ROW])
    assert "estimate" not in plain.read()
    results._estimates.append([(ROW.run, "1000", "high")])
    with pytest.raises(DataError, match=r"estimates\.csv: could not convert"):
        results.estimates()


def test_episodes_are_those_of_each_row(tmp_path: Path) -> None:
    results = filled(tmp_path)
    found = results.episodes()
    assert set(found) == {(ROW.run, 1000), (ROW.run, 2000)}
    assert found[ROW.run, 2000] == RowEpisodes(ROW.run, 2000, (0.1 + 0.2, -1.0), (3, 2000), (True, False))
    results.append([], [RowEpisodes(ROW.run, 2000, (5.0,), (6,))])
    results.publish()
    assert results.episodes()[ROW.run, 2000] == RowEpisodes(ROW.run, 2000, (5.0,), (6,), ())
    assert (tmp_path / "episodes.csv").read_text().count(ROW.run) == 2


def test_all_files_are_published_at_once_and_each_is_checked(tmp_path: Path) -> None:
    results = filled(tmp_path)
    assert results.exists()
    assert not (tmp_path / "rows.csv").exists()  # in its journal
    assert not ResultsFile(tmp_path / "none.csv").exists()
    results.publish()
    for name in ("rows.csv", "episodes.csv", "estimates.csv"):
        assert (tmp_path / name).is_file()
    assert results.faults() == []
    results.remove(lambda row: row.seed == 1)
    for name in ("rows.csv", "episodes.csv", "estimates.csv", "replaced.csv"):
        path = tmp_path / name
        good = path.read_bytes()
        path.write_bytes(good[:-3] + bytes([good[-3] ^ 1]) + good[-2:])
        faults = ResultsFile(tmp_path / "rows.csv").faults()
        assert len(faults) == 1
        assert name in faults[0]
        path.write_bytes(good)


def test_what_was_replaced_is_kept_each_time(tmp_path: Path) -> None:
    results = filled(tmp_path)
    removed = results.remove(lambda row: row.updates == 2000)
    assert removed == [LATER]
    assert results.rows() == [ROW, OTHER]
    results.append([LATER])
    results.remove(lambda row: row.updates == 2000)
    assert (tmp_path / "replaced.csv").read_text().count(f"{LATER.run}") == 2
    assert results.rows() == [ROW, OTHER]


def test_rows_have_values_together(tmp_path: Path) -> None:
    results = filled(tmp_path)
    assert results.has(seed=1, updates=1000)
    assert not results.has(seed=1, updates=2000)
    assert results.has()
    with pytest.raises(UnknownNameError, match="seeds"):
        results.has(seeds=1)


@pytest.mark.parametrize("name", ["rows.csv", "rows.csv.gz"])
def test_results_are_compressed_and_brought_back(name: str, tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    filled(inner).publish()
    made = compress(tmp_path)
    assert sorted(path.name for path in made) == ["episodes.csv.gz", "estimates.csv.gz", "rows.csv.gz"]
    assert all(path.parent == inner for path in made)
    assert sorted(path.name for path in inner.glob("[!.]*.csv*")) == sorted(path.name for path in made)
    results: Any = ResultsFile(inner / name)
    assert results.rows() == [ROW, OTHER, LATER]
    assert compress(tmp_path) == []
    back = compress(tmp_path, wanted=False)
    assert sorted(path.name for path in back) == ["episodes.csv", "estimates.csv", "rows.csv"]
    assert not list(inner.glob("*.gz"))
    assert ResultsFile(inner / name).rows() == [ROW, OTHER, LATER]
    with pytest.raises(DataError, match="no folder"):
        compress(tmp_path / "missing")
