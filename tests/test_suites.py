"""Suites as values and as files: limits, defaults of a run, names of files, bases."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks.plan import validate
from marlzoo.benchmarks.suite_toml import suite_toml
from marlzoo.benchmarks.suites import FOLDER, Data, Learner, Suite, find_suite, suite_names

from marlzoo.errors import ConfigError, DataError

GAME = Data("games/xor", "D1")


def suite(**changes: Any) -> Suite:
    return Suite(**{"name": "unit", "data": (GAME,), "learners": (Learner("bc"),), **changes})


def file_of(folder: Path, name: str = "mine", text: str = "", data: str = 'file = "x"') -> str:
    path = folder / f"{name}.toml"
    path.write_text(f'{text}\nlearners = ["bc"]\n[[data]]\n{data}\n' if data else text)
    return str(path)


@pytest.mark.parametrize(
    ("name", "least"),
    [("updates", 1), ("eval_every", 0), ("episodes", 1), ("final_episodes", 0), ("horizon", 0)],
)
def test_numbers_have_a_least_value(name: str, least: int) -> None:
    assert getattr(suite(**{name: least}), name) == least
    with pytest.raises(
        ConfigError, match=f"suite 'unit': {name} is {least - 1}; it must be at least {least}"
    ):
        suite(**{name: least - 1})


def test_every_seed_is_checked_and_counts_once() -> None:
    for seeds in ((0, -1), (0, 2**63), (0, True)):
        with pytest.raises(ConfigError, match=r"integers from 0 to|twice"):
            suite(seeds=seeds)
    for seeds in ((0, 1, 0), (0, 1, 1)):
        with pytest.raises(ConfigError, match="seeds lists something twice"):
            suite(seeds=seeds)
    for name in ("data", "learners", "seeds"):
        with pytest.raises(ConfigError, match=f"{name} is empty; list at least one"):
            suite(**{name: ()})
    with pytest.raises(ConfigError, match="compile is 'never'; choose one of auto, on, off"):
        suite(compile="never")
    with pytest.raises(ConfigError, match="select is 'best'; choose one of nothing, ope"):
        suite(select="best")


def test_a_run_is_evaluated_ten_times_unless_told_otherwise() -> None:
    short, own = Data("games/xor", "D2", updates=5), Data("games/xor", "D3", updates=35)
    plain = suite(data=(GAME, short, own), updates=100)
    assert [plain.updates_on(data) for data in plain.data] == [100, 5, 35]
    assert [plain.eval_every_on(data) for data in plain.data] == [10, 1, 3]
    assert [suite(updates=100, eval_every=7).eval_every_on(data) for data in plain.data] == [7, 7, 7]


def test_a_variant_names_its_settings_in_order() -> None:
    assert Learner("bc", {"lr": 0.1, "hidden": 8, "alpha": 2.0}).variant == "alpha=2.0, hidden=8, lr=0.1"
    assert Learner("bc").variant == ""


def test_bases_of_others_are_no_suites() -> None:
    names = suite_names()
    assert names == sorted(names)
    assert not any(name.startswith("_") for name in names)
    assert {path.stem for path in FOLDER.glob("*.toml") if not path.name.startswith("_")} == set(names)


def test_files_beside_a_suite_and_names_of_datasets(tmp_path: Path) -> None:
    name = "games/xor/marlzoo/D1"
    assert find_suite(file_of(tmp_path, data=f'file = "{name}"')).data[0].file == name
    (tmp_path / "games/xor/marlzoo").mkdir(parents=True)
    (tmp_path / name).touch()
    assert find_suite(file_of(tmp_path, data=f'file = "{name}"')).data[0].file == str(tmp_path / name)
    assert find_suite(file_of(tmp_path, data='file = "sub/x.h5"')).data[0].file == str(tmp_path / "sub/x.h5")
    absolute = str(tmp_path.parent / "y.h5")
    assert find_suite(file_of(tmp_path, data=f"file = '{absolute}'")).data[0].file == absolute


def test_a_base_gives_all_but_its_name(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    file_of(tmp_path / "sub", "low", 'name = "lower"\nepisodes = 3\nabout = "low"')
    top = find_suite(file_of(tmp_path, "top", 'base = "sub/low.toml"\nabout = "top"\n', data=""))
    assert (top.name, top.episodes, top.about) == ("top", 3, "top")
    assert top.data[0].file == str(tmp_path / "sub" / "x")  # beside the base
    named = find_suite(file_of(tmp_path, "top", 'name = "own"\nbase = "sub/low.toml"\n', data=""))
    assert named.name == "own"


def test_a_circle_is_seen_under_any_spelling(tmp_path: Path) -> None:
    around = f"../{tmp_path.name}/b.toml"
    first = file_of(tmp_path, "a", f'base = "{around}"\n', data="")
    file_of(tmp_path, "b", f'base = "../{tmp_path.name}/c.toml"\n', data="")
    file_of(tmp_path, "c", f'base = "../{tmp_path.name}/a.toml"\n', data="")
    with pytest.raises(
        ConfigError, match=r"a\.toml: its bases lead in a circle, a\.toml -> b\.toml -> c\.toml"
    ):
        find_suite(first)
    with pytest.raises(DataError, match=r"cannot read the suite .*gone\.toml, the base of .*d\.toml"):
        find_suite(file_of(tmp_path, "d", 'base = "gone.toml"\n', data=""))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("updates = true", "updates is True; it must be a whole number"),
        ("updates = 1.0", "updates is 1.0; it must be a whole number"),
        ("stack_settings = 1", "stack_settings is 1; it must be true or false"),
        ("seeds = 1", r"seeds is 1; it must be a list, such as \[0, 1\]"),
        ("about = 1", "about is 1; it must be a text in quotes"),
        ('data = ["x"]', "data must be a list of tables"),
    ],
)
def test_values_have_the_types_of_their_fields(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    more = "" if text.startswith("data") else '\n[[data]]\nfile = "x"\n'
    path.write_text(f'learners = ["bc"]\n{text}{more}')
    with pytest.raises(ConfigError, match=message):
        find_suite(str(path))
    path.write_text('stack_settings = true\nlearners = ["bc", { method = "iql" }]\n[[data]]\nfile = "x"\n')
    found = find_suite(str(path))
    assert found.stack_settings
    assert [learner.method for learner in found.learners] == ["bc", "iql"]
    path.write_text('learners = [{ config = {} }]\n[[data]]\nfile = "x"\n')
    with pytest.raises(ConfigError, match="learners: method is missing"):
        find_suite(str(path))


def test_a_copy_of_a_shown_suite_has_the_name_of_its_file(tmp_path: Path) -> None:
    shown = suite_toml(find_suite("xor"))
    (tmp_path / "mine.toml").write_text(shown)
    copy = find_suite(str(tmp_path / "mine.toml"))
    assert copy.name == "mine"
    assert replace(copy, name="xor") == find_suite("xor")


def test_a_preset_is_one_of_a_single_method(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    text = 'learners = [{{ method = "{}", preset = "defaults" }}]\n[[data]]\ntask = "games/xor"\nquality = "D1"\n'
    path.write_text(text.format("bc"))
    found = find_suite(str(path))
    assert (found.learners[0].preset, found.learners[0].variant) == ("defaults", "preset=defaults")
    (tmp_path / "b.toml").write_text(suite_toml(found))
    assert find_suite(str(tmp_path / "b.toml")).learners == found.learners
    path.write_text(text.format("*"))
    with pytest.raises(
        ConfigError, match="preset is 'defaults' for all methods, which have presets of their own"
    ):
        find_suite(str(path))


def test_data_that_are_computed_need_a_quality(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('learners = ["bc"]\n[[data]]\ntask = "games/xor"\n')
    with pytest.raises(ConfigError, match=r"data of games/xor: quality is missing; there are D1, D2, D3, D4"):
        validate(find_suite(str(path)))


def test_changes_reach_every_entry_of_a_list(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('learners = ["bc"]\n[[data]]\nfile = "x"\n[[data]]\nfile = "y"\n')
    found = find_suite(str(path), {"data.updates": 9, "config.hidden": 3, "seeds": [4, 5]})
    assert [data.updates for data in found.data] == [9, 9]
    assert (found.config, found.seeds) == ({"hidden": 3}, (4, 5))
