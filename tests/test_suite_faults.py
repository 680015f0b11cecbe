"""Suites of one's own: every method on a file, and files that are none."""

from __future__ import annotations

from pathlib import Path

import pytest
from marlzoo.benchmarks.plan import expanded
from marlzoo.benchmarks.suites import find_suite

from marlzoo.data.formats.native import write_omiga
from marlzoo.envs import games
from marlzoo.errors import DataError


def test_every_method_on_a_file_whose_card_names_the_task(tmp_path: Path) -> None:
    write_omiga(games.dataset("xor", "D3", episodes=4), tmp_path / "a.hdf5")
    text = f'[[data]]\nfile = "{tmp_path}/a.hdf5"\n[[learners]]\nmethod = "*"\n'
    (tmp_path / "mine.toml").write_text(text)
    methods = {learner.method for learner in expanded(find_suite(str(tmp_path / "mine.toml"))).learners}
    assert {"bc", "omiga", "qmix_cql"} <= methods
    assert "td3_bc" not in methods  # of continuous actions alone


def test_deeply_nested_values_are_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "deep.toml").write_text("x = " + "[" * 100_000)
    with pytest.raises(DataError, match="cannot read the suite"):
        find_suite(str(tmp_path / "deep.toml"))
