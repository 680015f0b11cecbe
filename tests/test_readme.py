"""What the README shows runs, its generated parts are current, and it stays readable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks import figures
from marlzoo.benchmarks.analysis import Results
from marlzoo.benchmarks.suites import find_suite

import marlzoo
from marlzoo.cli import main
from marlzoo.data.convert import convert
from marlzoo.testing import battery, cases
from tests import snippets
from tests.recordings import HOPPER, uniform_recording

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text()
DATASET = f"{HOPPER}/marlzoo/medium"


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[snippets.Runner]:
    """An empty folder with a dataset of Hopper and a checkpoint."""
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    convert(uniform_recording(tmp_path / "recording.hdf5", "medium"), DATASET)
    learner = marlzoo.make("omiga", marlzoo.load_dataset(DATASET).spec, hidden=8)
    marlzoo.save(tmp_path / "omiga.npz", learner)
    snippets.short_budgets(monkeypatch)
    yield snippets.Runner(tmp_path, monkeypatch)
    snippets.forget_modules(tmp_path)


def test_all_blocks_run(runner: snippets.Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert runner.page(README) == ["bash", "python", "toml", "python"]
    capsys.readouterr()
    assert main(["list", "methods"]) == 0
    assert re.search(r"^mine +continuous", capsys.readouterr().out, re.MULTILINE)
    tiny = ["--hidden", "8", "--updates", "2", "--episodes", "1", "--horizon", "3"]
    assert main(["train", "mine", "--data", DATASET, *tiny]) == 0
    assert main(["train", "mine", "--help"]) == 0
    assert "width of both hidden layers" in capsys.readouterr().out
    checks = {check.name: check for check in battery("mine")}  # the one that looks at the text of the file
    checks["documented-mine"](tmp_path)


@pytest.fixture
def generated(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module that writes the generated parts."""
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    from _generate import readme

    return readme


@cache
def parts_of(generated: Any) -> dict[str, str]:
    """The generated parts of the README by name; made once."""
    found: dict[str, str] = generated.parts(ROOT)
    return found


def test_generated_parts_are_current(generated: Any) -> None:
    parts = parts_of(generated)
    assert generated.fill(TEXT, parts) == TEXT, "run: make results"
    assert all(len(part.splitlines()) > 4 for part in parts.values())


@pytest.mark.parametrize("name", ["bc", "mac_flow", "madiff", "madt", "oryx"])
def test_the_execution_in_the_table_is_that_of_the_policy(name: str, generated: Any) -> None:
    (line,) = [
        line for line in parts_of(generated)["methods"].splitlines() if line.startswith(f"| [`{name}`]")
    ]
    assert f"| {cases(name)[0].learner().policy().execution} |" in line


def test_the_page_of_the_results_is_current(generated: Any) -> None:
    from _generate import published

    page = ROOT / "results" / "README.md"
    text = page.read_text()
    assert generated.fill(text, published.parts(ROOT), "results/README.md") == text, "run: make results"
    for picture in re.findall(r"!\[\w+\]\(([^)]+)\)", text):
        assert (page.parent / picture).exists()


def test_generated_parts_of_the_documentation_are_current(generated: Any) -> None:
    """They are read in the repository, too, where an include would be an empty box."""
    from _generate import inline

    for page, parts in inline.parts(ROOT).items():
        text = (ROOT / page).read_text()
        assert generated.fill(text, parts, page) == text, "run: make results"
        assert all(part.strip() for part in parts.values())
    own = {"changelog.md", "contributing.md"}  # the site's own copies of two files
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name in own or "{include}" not in path.read_text(), path


def test_the_suite_of_the_readme_is_a_part_of_the_one_with_the_rows(generated: Any) -> None:
    suite, found = find_suite(generated.SUITE), generated.rows(ROOT)
    last = found[found["updates"] == suite.updates]
    learners = {(learner.method, learner.variant) for learner in suite.learners}
    assert set(zip(last["method"], last["variant"], strict=True)) == learners
    assert len(last) == len(learners) * len(suite.data) * len(suite.seeds)


def test_the_figure_is_that_of_the_committed_rows(generated: Any, tmp_path: Path) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    if version("matplotlib") != pinned["matplotlib"]:
        pytest.skip("another matplotlib draws other bytes")
    figures.save_figure(figures.draw(Results.of(generated.rows(ROOT))), tmp_path / "curves.svg")
    drawn = (ROOT / "docs" / "_static" / "curves.svg").read_bytes()
    assert (tmp_path / "curves.svg").read_bytes() == drawn, "run: make results"


def test_missing_marks_are_named(generated: Any) -> None:
    with pytest.raises(ValueError, match="methods: generated"):
        generated.fill("no marks", {"methods": "x"})


def test_sentences_are_short() -> None:
    prose = re.sub(
        r"<!-- .*? -->.*?<!-- end of .*? -->|^```.*?^```", "", TEXT, flags=re.DOTALL | re.MULTILINE
    )
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    for sentence in re.split(r"(?<=[.!?:])\s+|\n\n|\n- ", prose):
        assert len(sentence.split()) <= 24, sentence
