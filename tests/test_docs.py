"""The documentation builds without a warning, its snippets and notebooks run, and nothing is left out."""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, replace
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType
from typing import Any

import nbformat
import pytest
from marlzoo.benchmarks import tables
from marlzoo.benchmarks.results import ResultsFile, Row
from sphinx.cmd.build import build_main

from marlzoo.data.convert import convert
from marlzoo.registry import find_method, method_names, unread_settings
from marlzoo.testing import SMALL, Case
from tests import snippets
from tests.recordings import HOPPER, uniform_recording
from tests.test_results import ROW

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.glob("*.md") if "```" in path.read_text())
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.fixture
def generate(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package that writes the generated pages."""
    monkeypatch.syspath_prepend(str(DOCS))
    import _generate
    import _generate.methods

    return _generate


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[snippets.Runner]:
    """An empty folder, the dataset that pages speak of, and small budgets."""
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    convert(uniform_recording(tmp_path / "recording.hdf5", "medium"), f"{HOPPER}/marlzoo/medium")
    snippets.short_budgets(monkeypatch)
    yield snippets.Runner(tmp_path, monkeypatch)
    snippets.forget_modules(tmp_path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_snippets_run(page: Path, runner: snippets.Runner) -> None:
    runner.page(page)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MARLZOO_DOCS_NOTEBOOKS", "off")  # they have a test of their own
    site = tmp_path / "site"
    arguments = ["--fail-on-warning", "--keep-going", "-q", "-d", tmp_path / "doctrees", DOCS, site]
    assert build_main([*map(str, arguments)]) == 0, capfd.readouterr().err
    for page in (
        "index",
        "install",
        "notebooks/first_table",
        "generated/methods/omiga",
        "generated/commands",
    ):
        assert (site / f"{page}.html").exists()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In this process, which has imported torch already; "make docs" runs them in Jupyter's.
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    cells = [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert not any(cell.outputs for cell in cells), "clear the outputs before committing"
    module = ModuleType(f"notebook_{path.stem}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses look their module up
    for number, cell in enumerate(cells):
        exec(compile(cell.source, f"{path.name}, cell {number}", "exec", dont_inherit=True), module.__dict__)
    said = {"first_table": first_table_says, "own_method": own_method_says}.get(path.stem)
    if said:
        said(module.__dict__)


def first_table_says(found: dict[str, Any]) -> None:
    """What its text tells of the numbers that it prints."""
    last = found["rows"].query("updates == updates.max()").groupby("method")["mean_return"]
    behavior = found["rows"]["behavior_return"].iloc[0]
    assert (last.min()["bc"], last.max()["bc"]) == (0.0, 0.0)
    assert last.mean()["icq"] < behavior < last.min()["maiql"]
    pairs = found["pairs"] / found["pairs"].sum()
    assert abs(pairs[0].sum() - 2 / 3) < 0.01
    assert abs(pairs[:, 0].sum() - 2 / 3) < 0.01
    assert pairs[1, 1] == 0


def own_method_says(found: dict[str, Any]) -> None:
    """What its text tells of the numbers that it prints."""
    smallest, fitting, _ = (
        found["returns"][found["np"].array(found["temperatures"]) == value]
        for value in sorted(set(found["temperatures"]))
    )
    assert (fitting == 100.0).all()
    assert (smallest < 100.0).all()


def test_every_method_has_a_page_with_all_settings_explained(generate: Any) -> None:
    pages = generate.methods.pages()
    for name in method_names():
        _, _, page = pages[f"methods/{name}.md"].partition("## Settings")
        page, _, _ = page.partition("## Metrics")
        cls = find_method(name)
        for setting in fields(cls.config_class):
            if setting.name in unread_settings(cls):
                assert f"`{setting.name}`" not in page
                continue
            (line,) = re.findall(rf"^\| `{setting.name}` \|.*\|$", page, re.MULTILINE)
            assert not line.endswith("|  |"), f"the setting {setting.name} of {name} has no comment"


def test_every_explained_metric_exists(generate: Any) -> None:
    from _generate.metrics import MEANINGS, metrics_of

    logged = {(method, metric) for method in method_names() for metric in metrics_of(method)}
    for pattern in MEANINGS:
        owner, _, name = pattern.rpartition(":")
        assert any(owner in ("", method) and fnmatch(metric, name) for method, metric in logged), pattern


def test_the_metrics_of_every_stage_are_explained(generate: Any) -> None:
    from _generate.metrics import meaning, metrics_of

    for method, metrics in {
        "moma_ppo": {"world/loss", "policy/entropy"},
        "omsd": {"v/loss", "policy/pull"},
    }.items():
        assert metrics <= set(metrics_of(method))
    text = (DOCS / "world_models.md").read_text()
    case = Case("dyna_td3_bc", "continuous", sizes=SMALL | {"dyna_starts": 4, "dyna_buffer": 8})
    plain = set(case.updated(Case("td3_bc", "continuous").learner(), 1))
    for stage in (1, 2):
        for metric in set(case.updated(case.learner(), stage)) - plain:
            assert f"| `{metric}` |" in text, metric
    assert meaning("moma_ppo", "policy/alpha") != meaning("alberdice", "policy/alpha")


def test_texts_of_methods_name_metrics_that_exist(generate: Any) -> None:
    from _generate.metrics import metrics_of

    told = 0
    for name in method_names():
        text = sys.modules[find_method(name).__module__].__doc__ or ""
        for metric in re.findall(r"[Mm]etrics?:? ``([^`]+)``", text):
            told += 1
            assert metric in metrics_of(name), (name, metric)
    assert told


def test_all_columns_are_explained(tmp_path: Path) -> None:
    """Those of the rows by their generated table, all others by name."""
    row = replace(ROW, suite="unit", error="")
    results = ResultsFile(tmp_path / "rows.csv")
    results.append([replace(row, method=method) for method in ("bc", "iql")])
    tables.write(results.read(), tmp_path, "unit")
    text = (DOCS / "results.md").read_text()
    own = {field.name for field in fields(Row)}
    for name in ("table", "improvement", "profile"):
        header, _, _ = (tmp_path / f"{name}.csv").read_text().partition("\n")
        for column in set(header.split(",")) - own:
            assert f"`{column}`" in text, (name, column)


def test_the_extras_of_the_install_page_are_those_of_the_project() -> None:
    named = re.findall(r"^\| `(\w+)` \|", (DOCS / "install.md").read_text(), re.MULTILINE)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert sorted(named) == sorted(declared)
