"""Suites as TOML files and texts: what they say, what they inherit, and what is wrong in them."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from marlzoo.benchmarks import plan
from marlzoo.benchmarks.suites import SUITES, Data, find_suite

from marlzoo.cli import main
from marlzoo.errors import ConfigError, DataError, UnknownNameError
from tests.recordings import HOPPER


@pytest.mark.parametrize("name", ["games", "zoo-smoke", "omiga-smac"])
def test_a_suite_as_text_is_that_suite(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", name, "--show"]) == 0
    (tmp_path / f"{name}.toml").write_text(capsys.readouterr().out)  # which names it
    assert find_suite(str(tmp_path / f"{name}.toml")) == SUITES[name]


def test_the_text_of_a_suite_has_what_the_command_changes(capsys: pytest.CaptureFixture[str]) -> None:
    changes = [
        "--set",
        "data.transitions=500",
        'about="a \\"quoted\\" word"',
        "--seeds",
        "7",
        "--methods",
        "bc",
    ]
    assert main(["bench", "demo", "--show", *changes]) == 0
    shown = tomllib.loads(capsys.readouterr().out)
    assert (shown["seeds"], shown["learners"], shown["about"]) == ([7], ["bc"], 'a "quoted" word')
    assert {data["transitions"] for data in shown["data"]} == {500}


def test_the_paper_suite_is_the_papers_protocol() -> None:
    suite = SUITES["omiga-mujoco"]
    tasks = {data.task for data in suite.data}
    assert tasks == {"mamujoco/hopper-3x1", "mamujoco/ant-2x4", "mamujoco/halfcheetah-6x1"}
    assert len(suite.data) == 3 * 4
    assert len(suite.seeds) == 5
    protocol = (suite.updates, suite.eval_every, suite.episodes, suite.horizon)
    assert protocol == (1_000_000, 5000, 10, 1000)


@pytest.mark.parametrize("name", sorted(SUITES))
def test_built_in_suites_name_what_exists(name: str) -> None:
    plan.validate(plan.expanded(SUITES[name]))


def test_a_suite_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'seeds = [3]\nupdates = 10\n[[data]]\ntask = "mamujoco/hopper-3x1"\nquality = "medium"\n'
        '[[data]]\nfile = "x.hdf5"\n[[data]]\nfile = "games/xor/marlzoo/D1"\n'
        '[[learners]]\nmethod = "bc"\nconfig = { lr = 0.001 }\n'
    )
    suite = find_suite(str(path))
    assert (suite.name, suite.seeds, suite.updates, suite.episodes) == ("mine", (3,), 10, 10)
    beside, named = Data(file=str(tmp_path / "x.hdf5")), Data(file="games/xor/marlzoo/D1")
    assert suite.data == (Data(HOPPER, "medium"), beside, named)
    assert suite.learners[0].variant == "lr=0.001"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("seeds = [0", DataError, "cannot read the suite"),
        ("sedes = [0]\n", UnknownNameError, "'sedes'.*seeds"),
        ("updates = 'many'\n", ConfigError, "updates is 'many'"),
        ("updates = 0\n", ConfigError, "updates is 0"),
        ("seeds = [-1]\n", ConfigError, "integers from 0 to"),
        ("seeds = [1, 1]\n", ConfigError, "twice"),
        ("seeds = []\n", ConfigError, "seeds is empty"),
        ("name = 'a/b'\n", ConfigError, "folder"),
    ],
)
def test_wrong_suites_are_one_clear_error(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text + '[[data]]\nfile = "x"\n[[learners]]\nmethod = "bc"\n')
    with pytest.raises(error, match=message):
        find_suite(str(path))


def test_a_suite_file_lists_data_and_learners_as_tables(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('data = "x"\n')
    with pytest.raises(ConfigError, match=r"\[\[data\]\]"):
        find_suite(str(path))
    with pytest.raises(DataError, match="cannot read"):
        find_suite(str(tmp_path / "missing.toml"))
    with pytest.raises(UnknownNameError, match="Did you mean demo"):
        find_suite("dmo")


PLAIN = '[[data]]\nfile = "x"\n'


def written(folder: Path, **texts: str) -> str:
    """Suite files under ``folder``; the path of the first."""
    for name, text in texts.items():
        (folder / f"{name}.toml").write_text(text)
    return str(folder / f"{next(iter(texts))}.toml")


def test_a_file_holds_only_what_differs_from_its_base(tmp_path: Path) -> None:
    base = 'learners = ["bc"]\nupdates = 7\nseeds = [5]\n[config]\nhidden = 9\nlr = 0.1\n' + PLAIN
    middle = 'base = "low.toml"\nupdates = 8\n[config]\nlr = 0.2\n'
    suite = find_suite(written(tmp_path, top='base = "middle.toml"\nseeds = [1]\n', middle=middle, low=base))
    assert (suite.name, suite.updates, suite.seeds) == ("top", 8, (1,))
    assert suite.config == {"hidden": 9, "lr": 0.2}
    assert suite.data == (Data(file=str(tmp_path / "x")),)
    assert find_suite(written(tmp_path, own='base = "smoke"\nupdates = 3\n')).data == SUITES["smoke"].data


def test_lists_of_tasks_and_qualities_are_all_pairs(tmp_path: Path) -> None:
    text = 'learners = ["bc"]\n[[data]]\ntask = ["a/b", "c/d"]\nquality = ["x", "y"]\nupdates = 3\n'
    data = find_suite(written(tmp_path, pairs=text)).data
    assert [(d.task, d.quality) for d in data] == [("a/b", "x"), ("a/b", "y"), ("c/d", "x"), ("c/d", "y")]
    assert {d.updates for d in data} == {3}


def test_every_field_can_be_changed() -> None:
    changes = {"updates": 5, "config.hidden": 16, "data.transitions": 77, "precision": "bf16"}
    suite = find_suite("demo", changes)
    assert (suite.updates, suite.config["hidden"], suite.precision) == (5, 16, "bf16")
    assert {data.transitions for data in suite.data} == {77}
    assert suite.config["batch_size"] == SUITES["demo"].config["batch_size"]
    wrong = {"updats": "Did you mean updates", "data.sed": "Did you mean seed", "path": "Known: .*, updates"}
    for name, message in wrong.items():
        with pytest.raises(UnknownNameError, match=message):
            find_suite("demo", {name: 1})
    with pytest.raises(ConfigError, match="seeds holds 0, which has no fields"):
        find_suite("demo", {"seeds.first": 1})


@pytest.mark.parametrize(
    ("files", "error", "message"),
    [
        (
            {"a": 'base = "b.toml"\n', "b": 'base = "a.toml"\n'},
            ConfigError,
            r"circle, a.toml -> b.toml -> a.toml",
        ),
        ({"a": 'base = "gone.toml"\n'}, DataError, r"gone.toml, the base of .*a.toml"),
        ({"a": 'base = "moke"\n'}, UnknownNameError, "base of .*a.toml: 'moke'. Did you mean smoke"),
        ({"a": "base = 3\n"}, ConfigError, "base is 3"),
        ({"a": 'base = "smoke"\nlearners = [3]\n'}, ConfigError, "or of methods' names"),
        ({"a": 'base = "smoke"\nconfig = 3\n'}, ConfigError, "config is 3"),
    ],
)
def test_wrong_bases_are_one_clear_error(
    tmp_path: Path, files: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        find_suite(written(tmp_path, **files))
