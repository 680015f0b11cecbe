"""What the README shows runs, and its table is the one that the committed rows give."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks import readme, tables

from marlzoo.cli import main
from marlzoo.data.load import convert
from marlzoo.errors import DataError
from tests.recordings import HOPPER, uniform_recording

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()
DATASET = f"{HOPPER}/marlzoo/medium"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty place that has the dataset of the examples."""
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    convert(uniform_recording(tmp_path / "recording.hdf5", "medium"), DATASET)


def test_the_two_commands_exist() -> None:
    (commands,) = blocks("console")
    targets = re.findall(r"^\$ make ([\w-]+)", commands, re.MULTILINE)
    assert targets == ["install", "demo"]
    makefile = (ROOT / "Makefile").read_text()
    for target in {*targets, *re.findall(r"`make ([\w-]+)", TEXT)}:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.usefixtures("home")
def test_the_python_example_runs(tmp_path: Path) -> None:
    example, _ = blocks("python")
    assert "updates=100_000" in example  # shortened, or it would take an hour
    short = example.replace("updates=100_000", "updates=2, episodes=1, horizon=3")
    values: dict[str, Any] = {}
    exec(compile(short, "README.md", "exec"), values)
    assert values["policy"].execution == "decentralized"
    assert (tmp_path / "omiga.npz").exists()


SHORTER = {
    "data collect": None,  # needs the shipped teacher and some seconds; tests/test_collect.py does it
    "train omiga": "--updates 2 --eval-every 1 --episodes 1 --horizon 3 --hidden 8",
    "bench omiga-mujoco-regenerated": None,  # days
}


@pytest.mark.usefixtures("home")
def test_the_shell_examples_run(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = blocks("bash")
    called = []
    for line in example.splitlines():
        program, *arguments = shlex.split(line, comments=True)
        assert program == "marlzoo"
        key = " ".join(arguments[:2])
        more = SHORTER.get(key, "")
        if more is not None:
            assert main([*arguments, *shlex.split(more)]) == 0, capsys.readouterr().err
            called.append(key)
    assert called == [
        "list methods",
        "data check",
        "train omiga",
        "table results/train-omiga-mamujoco-hopper-3x1",
    ]
    assert r"\toprule" in capsys.readouterr().out


@pytest.mark.usefixtures("home")
def test_the_method_of_the_readme_works_as_a_plugin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, method = blocks("python")
    package = tmp_path / "site" / "my_package" / "methods"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "mine.py").write_text(method)
    declared = re.search(r'with `mine = "([\w.]+)"`', TEXT)
    assert declared
    entry = importlib.metadata.EntryPoint("mine", declared[1], "marlzoo.plugins")
    true = importlib.metadata.entry_points
    monkeypatch.setattr(
        "marlzoo.plugins.entry_points",
        lambda group: [*true(group=group), *([entry] if group == "marlzoo.plugins" else [])],
    )
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    importlib.invalidate_caches()
    try:
        assert main(["list", "methods"]) == 0
        assert "mine " in capsys.readouterr().out
        tiny = ["--hidden", "8", "--updates", "2", "--episodes", "1", "--horizon", "3"]
        assert main(["train", "mine", "--data", DATASET, *tiny]) == 0
        assert "Settings: hidden=8" in capsys.readouterr().out
        with pytest.raises(SystemExit):
            main(["train", "mine", "--help"])
        assert "width of both hidden layers" in capsys.readouterr().out
    finally:
        for name in [name for name in sys.modules if name.split(".")[0] == "my_package"]:
            del sys.modules[name]


def test_the_table_is_the_one_of_the_committed_rows() -> None:
    _, shown, _ = readme.split(TEXT)
    folder = ROOT / "results" / "demo"
    if not (folder / "table.md").exists():  # nothing measured yet, so nothing is shown
        assert "|" not in shown
        return
    table = (folder / "table.md").read_text()
    assert shown == readme.comparison(table)
    sheets = tables.sheets(tables.read([folder]), "Suite demo", "marlzoo bench demo")
    assert table == "\n".join(map(tables.markdown, sheets))


def test_the_ratios_are_the_measured_ones() -> None:
    _, shown, _ = readme.split(TEXT, "speed")
    assert shown == readme.comparison((ROOT / "results" / "speed" / "ratios.md").read_text())


def test_filling_the_table_keeps_the_rest(tmp_path: Path) -> None:
    table, page = tmp_path / "demo" / "table.md", tmp_path / "README.md"
    table.parent.mkdir()
    table.write_text("## Suite\n\n| a |\n| --- |\n| 1 |\n\nNote.\n\n## Details\n\n| b |\n")
    page.write_text("head\n<!-- demo table: x -->\nold\n<!-- end of demo table -->\nfoot\n")
    readme.fill(page, table)
    filled = "| a |\n| --- |\n| 1 |\n\nNote.\n"
    assert page.read_text() == f"head\n<!-- demo table: x -->\n{filled}<!-- end of demo table -->\nfoot\n"
    page.write_text("no marks")
    with pytest.raises(DataError, match="marks"):
        readme.fill(page, table)
    with pytest.raises(DataError, match="no such table"):
        readme.fill(page, table.with_name("missing.md"))
