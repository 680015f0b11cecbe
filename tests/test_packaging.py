"""Packaging: the list of packages, what the wheel holds, and that it works away from the checkout."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from pathlib import Path

import pytest

import marlzoo

ROOT = Path(__file__).parents[1]
FOLDERS = ("marlzoo", "algorithms", "baselines", "benchmarks")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed() -> None:
    found = set()
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("__init__.py"):
            parts = file.parent.relative_to(ROOT).parts
            found.add(".".join(parts if parts[0] == "marlzoo" else ("marlzoo", *parts)))
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found


def test_the_builder_knows_the_form_of_the_license() -> None:
    """An SPDX expression as a plain text is refused by setuptools before 77."""
    assert isinstance(PROJECT["project"]["license"], str)
    (builder,) = PROJECT["build-system"]["requires"]
    assert int(builder.removeprefix("setuptools>=")) >= 77


def test_one_version_everywhere() -> None:
    version = marlzoo.__version__
    assert PROJECT["tool"]["setuptools"]["dynamic"]["version"] == {"attr": "marlzoo.version.__version__"}
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {version}" in (ROOT / "CHANGELOG.md").read_text()


def test_pinned_versions_lie_in_the_asked_ranges() -> None:
    from marlzoo.commands.diagnosis import fits

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = PROJECT["project"]
    for text in (*project["dependencies"], *project["optional-dependencies"]["plot"]):
        name, wanted = re.match(r"([\w-]+)(.*)", text).groups()  # type: ignore[union-attr]
        assert fits(pinned[name], wanted), text


def test_public_names_are_those_of_all() -> None:
    """Every public name can be had, and nothing else looks public."""
    assert sorted(marlzoo.__all__) == dir(marlzoo)
    for name in marlzoo.__all__:
        assert getattr(marlzoo, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'trainer'"):
        marlzoo.trainer  # noqa: B018


@pytest.mark.parametrize("folder", FOLDERS[1:])
def test_root_folders_are_not_imported_by_their_bare_names(folder: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import {folder}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert f"import this package as 'marlzoo.{folder}'" in done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy so that the checkout stays clean."""
    folder = tmp_path_factory.mktemp("wheel")
    source = copied(folder)
    pip(sys.executable, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", str(folder), str(source))
    (built,) = folder.glob("*.whl")
    return built


def copied(folder: Path) -> Path:
    """A copy of the checkout, in a folder of the package's name."""
    source = folder / "marlzoo"
    for name in (*FOLDERS, ".ci"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    return source


def pip(python: str, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_wheel_holds_code_and_data_and_nothing_else(wheel: Path) -> None:
    assert wheel.name.startswith(f"marlzoo-{marlzoo.__version__}-")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {"marlzoo"}
    for needed in (
        "marlzoo/py.typed",
        "marlzoo/algorithms/omiga.py",
        "marlzoo/baselines/bc.py",
        "marlzoo/benchmarks/reference/published.csv",
    ):
        assert needed in names
    shipped = {
        path.name for path in (ROOT / "marlzoo" / "teachers").iterdir() if path.suffix in (".npz", ".json")
    }
    assert {f"marlzoo/teachers/{name}" for name in shipped} <= set(names)
    assert any(name.endswith("LICENSE") for name in names)


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment that holds the wheel, and sees the other packages of this one but not its marlzoo."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    pip(str(python), "install", "--no-deps", "--no-index", str(wheel))
    (site,) = folder.glob("lib/python*/site-packages")
    paths = dict.fromkeys(sysconfig.get_paths()[key] for key in ("purelib", "platlib"))
    (site / "others.pth").write_text("\n".join(paths) + "\n")  # .pth files found there are not followed
    return folder


def run(environment: Path, folder: Path, *command: str) -> str:
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    variables |= {"MARLZOO_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(environment / "bin" / command[0]), *command[1:]],
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_is_what_runs_away_from_the_checkout(installed: Path, tmp_path: Path) -> None:
    code = "import marlzoo, marlzoo.benchmarks.runner as r; print(marlzoo.__file__); print(r.__file__)"
    for line in run(installed, tmp_path, "python", "-c", code).splitlines():
        assert Path(line).is_relative_to(installed)
    methods = json.loads(run(installed, tmp_path, "marlzoo", "list", "methods", "--json"))
    assert {"omiga", "bc"} <= {method["name"] for method in methods}


@pytest.mark.slow
def test_a_benchmark_runs_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    printed = run(installed, tmp_path, "marlzoo", "bench", "smoke")
    assert "Suite smoke" in printed
    results = tmp_path / "results" / "smoke"
    assert {"rows.csv", "table.csv", "table.md", "table.tex"} <= {path.name for path in results.iterdir()}
    assert "omiga" in (results / "table.md").read_text()
    assert "Suite smoke" in run(installed, tmp_path, "marlzoo", "bench", "smoke")  # everything is done


def test_python_started_above_the_clone_imports_the_package(tmp_path: Path) -> None:
    """A clone's folder has the package's name, and is no package itself; pip alone installs it."""
    source = copied(tmp_path)
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    (site,) = environment.glob("lib/python*/site-packages")
    builder = importlib.util.find_spec("setuptools")
    assert builder is not None
    assert builder.origin is not None
    (site / "builder.pth").write_text(
        str(Path(builder.origin).parents[1])
    )  # .pth files there are not followed
    python = str(environment / "bin" / "python")
    pip(python, "install", "--no-build-isolation", "--no-deps", "--no-index", "--editable", str(source))
    code = "import marlzoo; print(marlzoo.__file__)"
    for folder in (tmp_path, source, Path("/")):
        assert run(environment, folder, "python", "-c", code).strip() == str(
            source / "marlzoo" / "__init__.py"
        )


def test_the_oldest_versions_are_those_of_the_ranges() -> None:
    """What ``make test-lowest`` installs: every range of the package and its extras at its lower end."""
    script = [sys.executable, str(ROOT / ".ci/lowest.py")]
    told = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    ranges = {*PROJECT["project"]["dependencies"]}
    for extra, packages in PROJECT["project"]["optional-dependencies"].items():
        ranges |= set() if extra in ("dev", "docs") else {*packages}
    assert sorted(told) == sorted(text.partition(",")[0].replace(">=", "==") for text in ranges)
