"""The lists of planted faults (``tests/mutants``) fit the source, and planting works."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tests.mutants import LISTS, Fault, errors, planted, read_faults, table
from tests.mutants.run import dies, private_copy

TESTS = ("tests/test_objectives.py", "-k", "td_lambda")
FILE = "marlzoo/objectives.py"
SEEN = Fault("slice", FILE, TESTS, "carry = gamma * mask", "carry = gamma")
SLICE = {"batch", "omiga", "returns", "objectives_memory", "console_shortened"}
UNSEEN = dataclasses.replace(SEEN, old="return weight * error.square()", new="return weight * error")


def test_every_fault_can_be_planted() -> None:
    assert not errors(read_faults())


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("no such text", "", "occurs 0 times"),
        ("mask", "", "the old text occurs"),
        ("carry = gamma * mask", "carry = gamma *", "is no Python"),
        ("# G_t", "# H_t", "changes no code"),
    ],
)
def test_a_fault_that_does_not_fit_is_an_error(old: str, new: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planted(dataclasses.replace(SEEN, old=old, new=new))


def test_a_list_with_unknown_entries_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text('file = "a.py"\ntests = []\n[[faults]]\nold = "a"\nnow = "b"\n')
    with pytest.raises(ValueError, match=r"x\.toml: not a list of faults"):
        read_faults(tmp_path)


def test_the_table_of_results_names_every_list() -> None:
    assert table.names(LISTS / "RESULT.md") == sorted({fault.listing for fault in read_faults()})


def test_the_table_keeps_the_rows_of_lists_that_were_not_run(tmp_path: Path) -> None:
    path, counts = tmp_path / "result.md", {"one": 5, "three": 7, "two": 3}
    explained = dataclasses.replace(UNSEEN, listing="one", survives="nothing sees it")
    second = dataclasses.replace(UNSEEN, listing="two")
    table.record(path, "two", [second], counts)
    table.record(path, "gone", [UNSEEN], {**counts, "gone": 9})
    table.record(path, "one", [explained], counts)
    text = path.read_text()
    assert table.names(path) == list(counts)
    assert "| one | 5 | 4 |" in text
    assert "| two | 3 | 2 |" in text
    assert "| three | 7 | not run |" in text
    assert "| **8** | **6 (75.0%)** |" in text
    assert f"- one: `` {UNSEEN} `` (nothing sees it)\n- two: `` {UNSEEN} `` ({table.NO_REASON})\n" in text
    grown = dataclasses.replace(SEEN, listing="three")
    faults = [
        dataclasses.replace(UNSEEN, listing="one"),
        *[dataclasses.replace(SEEN, listing="one")] * 4,
        grown,
    ]
    assert table.left(path, faults) == [faults[0], grown]  # what survived, and what was never run
    assert table.left(path, faults[:3]) == faults[:3]  # the list has another size now
    table.record(path, "two", [], counts)
    assert "- two" not in path.read_text()


@pytest.mark.slow
def test_a_slice_of_the_faults_dies() -> None:
    """One fault of each of some lists whose tests are quick, and one that the chosen tests do not see."""
    each = {fault.listing: fault for fault in read_faults() if fault.listing in SLICE}
    assert each.keys() == SLICE
    with private_copy() as copy:
        before = (copy.folder / FILE).read_text()
        for fault in (SEEN, *each.values()):
            assert dies(fault, copy), fault
        assert not dies(UNSEEN, copy)
        assert (copy.folder / FILE).read_text() == before
