"""The list of groups and how they stand, by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from marlzoo.benchmarks import status as module
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.row import Row
from marlzoo.benchmarks.status import GroupStatus, Listed, list_groups, listed, note_jobs, sheet, status

from marlzoo.errors import DataError
from marlzoo.system.checksums import CHECKSUM
from tests.test_results import ROW


def group(name: str, *runs: str, **others: object) -> Listed:
    return replace(Listed(name, f"label of {name}", runs, 10), **others)  # type: ignore[arg-type]


def row(seed: int, updates: int, error: str = "") -> Row:
    return replace(ROW, seed=seed, updates=updates, error=error)


def runs(*seeds: int) -> list[str]:
    return [row(seed, 1).run for seed in seeds]


def stands(folder: Path, states: Mapping[str, str] | None = None) -> list[GroupStatus]:
    asked: list[Sequence[Listed]] = []

    def jobs(place: Path, groups: Sequence[Listed]) -> Mapping[str, str]:
        assert place == folder
        asked.append(groups)
        return states or {}

    found = status(folder, jobs)
    assert [each.job for each in asked[0]] == [each.job for each in listed(folder) if each.job]
    return found


def test_a_list_comes_back_and_damage_is_seen(tmp_path: Path) -> None:
    assert listed(tmp_path) == []
    groups = [group("a", "r1", "r2", job="7", submitted=12.5), group("b", "r3")]
    module._write(tmp_path, groups)
    assert listed(tmp_path) == groups
    path = tmp_path / "groups.json"
    entries = json.loads(path.read_text())
    entries[1]["updates"] = 11
    path.write_text(json.dumps(entries))
    with pytest.raises(DataError, match=r"damaged, the checksum of 'label of b' is not that of the rest"):
        listed(tmp_path)
    for entry in entries:
        del entry[CHECKSUM]  # as older versions wrote
    path.write_text(json.dumps(entries))
    assert listed(tmp_path) == [groups[0], replace(groups[1], updates=11)]
    path.write_text("{}")
    with pytest.raises(DataError, match="it is not a list"):
        listed(tmp_path)


def test_the_order_of_an_entrys_fields_does_not_matter(tmp_path: Path) -> None:
    module._write(tmp_path, [group("a", "r1")])
    path = tmp_path / "groups.json"
    (entry,) = json.loads(path.read_text())
    path.write_text(json.dumps([dict(reversed(entry.items()))]))
    assert listed(tmp_path) == [group("a", "r1")]


def test_new_groups_take_the_place_of_those_with_their_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "entry", lambda made, folder, suite: made)
    with_job = group("same", "r4", job="9", submitted=1.0)
    module._write(tmp_path, [group("old", "r1", "r2"), group("kept", "r3"), with_job])
    new = [group("same", "r4"), group("new", "r2", "r5")]
    list_groups(tmp_path, None, new)  # type: ignore[arg-type]
    assert listed(tmp_path) == [group("kept", "r3"), with_job, group("new", "r2", "r5")]
    note_jobs(tmp_path, {"new": "11"}, submitted=2.0)
    assert listed(tmp_path) == [
        group("kept", "r3"),
        with_job,
        group("new", "r2", "r5", job="11", submitted=2.0),
    ]


def test_a_group_is_listed_with_all_its_runs(tmp_path: Path) -> None:
    def checkpoint(folder: Path, suite: object) -> Path:
        assert folder == tmp_path / "checkpoints"
        return folder / "some.npz"

    runs = tuple(SimpleNamespace(name=lambda suite, k=k: f"{suite} {k}") for k in range(2))
    found: Any = SimpleNamespace(runs=runs, label="for people", updates=9, checkpoint=checkpoint)
    suite: Any = "unit"
    assert module.entry(found, tmp_path, suite) == Listed("some", "for people", ("unit 0", "unit 1"), 9)


def test_states_of_groups(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no groups are listed there"):
        stands(tmp_path)
    names = ("done", "behind", "failed", "trained", "none", "mended")
    made = [group(name, *runs(2 * k, 2 * k + 1)) for k, name in enumerate(names)]
    made[3] = replace(made[3], job="7")
    module._write(tmp_path, made)
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([row(0, 5), row(0, 10), row(1, 10)])
    results.append([row(2, 10), row(3, 5), row(4, 5), row(5, 5), row(5, 6, "first"), row(4, 9, "last")])
    results.append([row(10, 5, "mended")])
    results.append([row(6, 5), row(7, 4), row(7, 9, "lost"), row(10, 10), row(11, 10)])
    results.publish()
    found = stands(tmp_path, {"7": "running"})
    assert [(each.group, each.state, each.updates, each.error) for each in found] == [
        ("label of done", "done", 10, ""),
        ("label of behind", "unfinished", 5, ""),
        ("label of failed", "failed", 5, "first"),  # of the last run that failed
        ("label of trained", "running", 4, ""),
        ("label of none", "unfinished", 0, ""),
        ("label of mended", "done", 10, ""),
    ]
    assert {(each.runs, each.of) for each in found} == {(2, 10)}
    table = sheet("unit", found)
    assert table.body[2:4] == [
        ["label of failed", "2", "failed", "5 of 10", "–"],
        ["label of trained", "2", "running", "4 of 10", "7"],
    ]
    assert table.notes == ["2 done, 2 unfinished, 1 failed, 1 running.", "label of failed: first"]
