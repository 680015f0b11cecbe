"""Suites of one's own: every method on a file, and files that are none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from marlzoo.benchmarks.plan import expanded
from marlzoo.benchmarks.runner import run_suite
from marlzoo.benchmarks.sheet import Sheet
from marlzoo.benchmarks.styles import latex, markdown
from marlzoo.benchmarks.suites import find_suite

from marlzoo.data import games
from marlzoo.data.formats.native import write_omiga
from marlzoo.errors import ConfigError, DataError
from marlzoo.registry import find_method


def test_every_method_on_a_file_whose_card_names_the_task(tmp_path: Path) -> None:
    write_omiga(games.dataset("xor", "D3", episodes=4), tmp_path / "a.hdf5")
    text = f'[[data]]\nfile = "{tmp_path}/a.hdf5"\n[[learners]]\nmethod = "*"\n'
    (tmp_path / "mine.toml").write_text(text)
    methods = {learner.method for learner in expanded(find_suite(str(tmp_path / "mine.toml"))).learners}
    assert {"bc", "omiga", "qmix_cql"} <= methods
    assert all("discrete" in find_method(method).actions for method in methods)


def test_deeply_nested_values_are_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text("x = " + "[" * 100_000)
    with pytest.raises(DataError, match="cannot read the suite"):
        find_suite(str(tmp_path / "deep.toml"))


@pytest.mark.parametrize("number", [0, -3])
def test_groups_of_no_replica_are_refused(number: int, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"max_replicas is {number}; it must be at least 1"):
        run_suite(find_suite("smoke"), out=tmp_path, max_replicas=number)


def test_cells_with_markup_stand_for_themselves() -> None:
    text = "[x](javascript:alert(1)) <b> a|b `c` \x1b[31m \\input{secret} 100 % a_b"
    sheet = Sheet(title=text, header=[text, "mean"], body=[[text, "1.0"]], notes=[])
    shown = markdown(sheet)
    assert not re.search(r"(?<!\\)\](?=[(\[])", shown)
    assert not re.search(r"(?<!\\)<", shown)
    assert "\x1b" not in shown
    assert all(
        len(re.findall(r"(?<!\\)\|", line)) == 3 for line in shown.splitlines() if line.startswith("|")
    )
    tex = latex(sheet)
    assert r"\input" not in tex
    assert "\x1b" not in tex
    assert r"100 \% a\_b" in tex
