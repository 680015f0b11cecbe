"""Methods that MARLZOO_METHODS names: single files, folders and packages that nobody installed."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

import marlzoo
from marlzoo.cli import main
from marlzoo.commands.skeleton import method_file
from marlzoo.errors import DataError, MarlzooError, PluginError
from marlzoo.registry import OWN_METHODS, find_method, find_methods
from tests.toys import toy_dataset

SUITE = """
about = "One method of one's own."
learners = [{ method = "lone_wolf", config = { hidden = 4 } }]
seeds = [0, 1]
updates = 4
eval_every = 4
episodes = 2

[[data]]
task = "games/xor"
quality = ["D1"]
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of a researcher's, where the program is run, with one method."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("lone_wolf", "pack", "pack.lone_wolf"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    (tmp_path / "lone_wolf.py").write_text(method_file("lone_wolf"))
    return tmp_path


def test_a_single_file_is_used_like_all_methods(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(OWN_METHODS, "lone_wolf.py")
    data = ["--data", "games/xor/marlzoo/D1"]
    assert main(["list", "methods"]) == 0
    (line,) = [text for text in capsys.readouterr().out.splitlines() if text.startswith("lone_wolf ")]
    assert "continuous discrete" in line
    assert main(["train", "lone_wolf", "--help"]) == 0
    assert "--penalty" in capsys.readouterr().out
    small = ["--updates", "4", "--eval-every", "4", "--hidden", "4", "--name", "mine"]
    assert main(["train", "lone_wolf", *data, *small]) == 0
    (folder / "own.toml").write_text(SUITE)
    assert main(["bench", "own.toml", "--out", "suites"]) == 0
    capsys.readouterr()
    assert main(["eval", "results/mine", "--episodes", "2"]) == 0
    assert "lone_wolf on games/xor, seed 0, 4 updates" in capsys.readouterr().out
    assert main(["export", "results/mine", "--format", "torch", "-o", "mine.pt2"]) == 0
    assert (folder / "mine.pt2").exists()


@pytest.mark.parametrize("named", ["folder", "pack", "lone_wolf.py, pack"])
def test_folders_and_packages(folder: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    for name in ("folder", "pack"):
        (folder / name).mkdir()
        (folder / name / "_helper.py").touch()
    (folder / "pack" / "__init__.py").touch()
    (folder / "pack" / f"{'other' if ',' in named else 'lone_wolf'}.py").write_text(method_file("lone_wolf"))
    (folder / "folder" / "lone_wolf.py").write_text(method_file("lone_wolf"))
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv(OWN_METHODS, named)
    if named == "folder":
        (folder / "lone_wolf.py").unlink()
    spec = marlzoo.load_dataset("games/xor/marlzoo/D1").spec
    assert marlzoo.make("lone_wolf", spec).name == "lone_wolf"
    assert "_helper" not in marlzoo.method_names()
    assert ("other" in marlzoo.method_names()) == ("," in named)


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("gone.py", r"gone\.py\) failed: no such file"),
        ("empty", r"\(empty\) failed: the folder holds no file ending in \.py"),
        ("json.py", r"the module name 'json' is taken by .*json.__init__\.py; rename json"),
        ("my-own.py", "'my-own' cannot be a module's name"),
        ("no.such.package", r"\(no\.such\.package\) failed: ModuleNotFoundError"),
        ("half.py", r"importing half failed: SyntaxError"),
    ],
)
def test_what_cannot_be_found_is_told_and_hides_no_other(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], named: str, said: str
) -> None:
    (folder / "empty").mkdir()
    for name in ("json.py", "my-own.py"):
        (folder / name).touch()
    (folder / "half.py").write_text("def half(:\n")
    monkeypatch.setenv(OWN_METHODS, f"{named},lone_wolf.py")
    assert {"bc", "lone_wolf"} <= find_methods().modules.keys()
    wanted = "half" if named == "half.py" else "wanted"
    capsys.readouterr()
    assert main(["train", wanted, "--data", "games/xor/marlzoo/D1"]) == 2
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert re.search(said, told)
    with pytest.raises(MarlzooError, match=said):
        find_method(wanted)


def test_a_name_in_use_is_not_replaced(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "bc.py").write_text(method_file("bc"))
    monkeypatch.setenv(OWN_METHODS, "bc.py")
    with pytest.raises(PluginError, match=r"'bc' is taken by bc and marlzoo\.baselines\.bc"):
        find_method("bc")


def test_an_error_that_is_not_the_methods_keeps_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What --debug shows of it: the file that could not be read, say, and not the error once more."""

    def fail(*_: Any) -> None:
        try:
            raise ZeroDivisionError("inner")
        except ZeroDivisionError as error:
            raise DataError("outer") from error

    data = toy_dataset()
    learner = marlzoo.make("bc", data.spec)
    monkeypatch.setattr("marlzoo.algorithm.Init", fail)
    with pytest.raises(DataError, match="outer") as found:
        marlzoo.make("bc", data.spec)
    assert isinstance(found.value.__cause__, ZeroDivisionError)
    monkeypatch.setattr("marlzoo.training.steps.make_training_step", lambda *_: fail)
    with pytest.raises(DataError, match="outer") as found:
        marlzoo.train(learner, data, updates=1)
    assert isinstance(found.value.__cause__, ZeroDivisionError)
