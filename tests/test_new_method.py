"""``marlzoo new-method``: what it writes works and passes the battery, and what it refuses."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from marlzoo.cli import main
from marlzoo.commands.skeleton import class_name, method_file
from marlzoo.testing import battery
from tests.command_line import call
from tests.recordings import uniform_recording

SUITE = """
seeds = [0, 1]
updates = 2
episodes = 1
horizon = 3
[[data]]
file = "{file}"
[[learners]]
method = "bc"
config = {{ hidden = 8 }}
[[learners]]
method = "toy_idea"
config = {{ hidden = 8 }}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The outline of a checkout; the test stands in one of its folders."""
    root = tmp_path / "checkout"
    for folder in ("algorithms", "baselines", "tests"):
        (root / folder).mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nname = "marlzoo"\n')
    monkeypatch.chdir(root / "tests")
    return root


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# ---- what it writes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "folder"), [((), "algorithms"), (("--baseline",), "baselines")])
def test_one_file_in_the_checkout(
    root: Path, capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], folder: str
) -> None:
    status, out, _ = call(capsys, "new-method", "toy_idea", *flags)
    assert status == 0
    assert files(root) == {"pyproject.toml", f"{folder}/toy_idea.py"}
    text = (root / folder / "toy_idea.py").read_text()
    assert text == method_file("toy_idea")
    assert "class ToyIdea(Algorithm)" in text
    assert str(root / folder / "toy_idea.py") in out
    assert "not this checkout's" in out  # the marlzoo that runs here is another one


def test_the_skeleton_keeps_the_style(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "new-method", "toy_idea")[0] == 0
    here = Path(__file__).parents[1]
    for command in (["check"], ["format", "--check"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--config", str(here / "pyproject.toml")]
        done = subprocess.run(
            [*ruff, "--stdin-filename", str(here / "algorithms" / "toy_idea.py"), "-"],
            input=method_file("toy_idea"), capture_output=True, text=True, cwd=here,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def test_class_names() -> None:
    assert class_name("toy_idea2") == "ToyIdea2"
    assert class_name("policy") == "PolicyMethod"  # the skeleton imports Policy
    compile(method_file("policy"), "policy.py", "exec")


# ---- what it refuses -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["Upper"], "'Upper' cannot be a method's name"),
        (["_hidden"], "cannot be a method's name"),
        (["two-words"], "cannot be a method's name"),
        (["../up"], "cannot be a method's name"),
        (["9lives"], "cannot be a method's name"),
        (["lambda"], "cannot be a method's name"),
        (["omiga"], "in use by marlzoo.algorithms.omiga"),
        (["toy_idea", "--baseline", "--package", "x"], "--baseline chooses a folder of the checkout"),
    ],
)
def test_refused_names(
    root: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    status, _, err = call(capsys, "new-method", *arguments)
    assert status == 2
    assert text in err
    assert len(err.splitlines()) == 1
    assert files(root) == {"pyproject.toml"}


def test_nothing_is_overwritten(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine = root / "algorithms" / "toy_idea.py"
    mine.write_text("mine")
    status, _, err = call(capsys, "new-method", "toy_idea")
    assert status == 2
    assert "exists already" in err
    assert mine.read_text() == "mine"
    status, _, err = call(capsys, "new-method", "toy_idea", "--package", root / "algorithms")
    assert status == 2
    assert "not an empty folder" in err
    assert files(root) == {"pyproject.toml", "algorithms/toy_idea.py"}


def test_outside_a_checkout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = call(capsys, "new-method", "toy_idea")
    assert status == 2
    assert "marlzoo new-method toy_idea --package FOLDER" in err


def test_a_package_is_written_whole_or_not_at_all(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    status, _, err = call(capsys, "new-method", "toy_idea", "--package", tmp_path / "file" / "x")
    assert status == 2
    assert "cannot write" in err
    monkeypatch.setattr(
        os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    status, _, err = call(capsys, "new-method", "toy_idea", "--package", tmp_path / "new")
    assert status == 2
    assert "No space left" in err
    assert files(tmp_path) == {"file"}


# ---- a package of its own ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("package") / "mine"
    assert main(["new-method", "toy_idea", "--package", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def site(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package is installed in."""
    site = tmp_path_factory.mktemp("site")
    flags = ["--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check", "--quiet"]
    pip = [sys.executable, "-m", "pip", "install", *flags, "--target", str(site), str(package)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return site


def run(site: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "MARLZOO_HOME": str(folder)}
    python = [sys.executable, "-P", "-m", *command]
    return subprocess.run(python, cwd=folder, env=variables, capture_output=True, text=True)


def test_files_of_the_package(package: Path) -> None:
    assert {file for file in files(package) if "build" not in file and "egg-info" not in file} == {
        "pyproject.toml",
        "marlzoo_toy_idea/__init__.py",
        "marlzoo_toy_idea/toy_idea.py",
        "tests/test_toy_idea.py",
    }


@pytest.mark.slow
def test_an_installed_package_is_listed_and_benchmarked(site: Path, tmp_path: Path) -> None:
    done = run(site, tmp_path, "marlzoo", "list", "methods", "--json")
    found = {entry["name"]: entry for entry in json.loads(done.stdout)}
    assert found["toy_idea"]["module"] == "marlzoo_toy_idea.toy_idea"
    assert found["toy_idea"]["summary"].startswith("ToyIdea: regression")
    file = uniform_recording(tmp_path / "recording.hdf5")
    (tmp_path / "tiny.toml").write_text(SUITE.format(file=file))
    done = run(site, tmp_path, "marlzoo", "bench", "tiny.toml")
    assert done.returncode == 0, done.stdout + done.stderr
    table = (tmp_path / "results" / "tiny" / "table.md").read_text()
    assert "| toy_idea |" in table.replace("*", "")
    assert "hidden=8" in table  # a setting that all learners share stands below the table


@pytest.mark.slow
def test_the_packages_own_tests_pass(site: Path, package: Path, tmp_path: Path) -> None:
    flags = ["-q", "-p", "no:cacheprovider", f"--rootdir={package}", f"--basetemp={tmp_path / 'temporary'}"]
    done = run(site, tmp_path, "pytest", *flags, str(package / "tests"))
    assert done.returncode == 0, done.stdout + done.stderr
    checks = 3 * 7 + 3  # two action kinds and one variant; what holds for the method as a whole
    assert f"{checks} passed" in done.stdout


# ---- plugins that are wrong ----------------------------------------------------------------------------


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of an installed package of methods, to be filled; found through its entry point."""
    folder = tmp_path / "site" / "zoo_toys"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    info = tmp_path / "site" / "zoo_toys-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: zoo-toys\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[marlzoo.plugins]\ntoys = zoo_toys\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    importlib.invalidate_caches()
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "zoo_toys"]:
        del sys.modules[name]


def test_a_plugin_that_fails_or_takes_a_name_disturbs_nothing(
    plugin: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    (plugin / "toy_broken.py").write_text('"""Broken: fails."""\nimport no_such_package_at_all\n')
    (plugin / "cql_ma.py").write_text('"""Another CQL-MA."""\n')
    status, out, _ = call(capsys, "list", "methods", "--json")
    assert status == 0
    assert {"bc", "omiga", "toy_broken", "cql_ma"} <= {entry["name"] for entry in json.loads(out)}
    taken = "'cql_ma' is taken by marlzoo.baselines.cql_ma and zoo_toys.cql_ma; rename one of the files"
    assert taken in caplog.text
    file = uniform_recording(tmp_path / "recording.hdf5")
    tiny = ["--hidden", "8", "--updates", "1", "--episodes", "1", "--horizon", "2"]
    status, _, err = call(capsys, "train", "toy_broken", "--data", file, *tiny)
    assert (status, len(err.splitlines())) == (2, 1)
    assert "importing zoo_toys.toy_broken failed" in err
    assert "no_such_package_at_all" in err
    status, _, err = call(capsys, "train", "cql_ma", "--data", file, *tiny)
    assert (status, len(err.splitlines())) == (2, 1)
    assert taken in err
    assert call(capsys, "train", "bc", "--data", file, *tiny)[0] == 0
    status, out, _ = call(capsys, "doctor", "--json")
    states = {finding["what"]: finding["state"] for finding in json.loads(out)}
    assert status == 1
    assert states["method toy_broken"] == states["method cql_ma"] == "missing"


# ---- the battery can fail ------------------------------------------------------------------------------

FAULTS = {
    "lockstep_equals_single_runs": ("mean_over(error) +", "mean_over(error) * mean_over(error).max() +"),
    "lockstep_equals_single_runs of settings": (
        "mean_over(error) +", "mean_over(error) * self.hyperparameter('lr')[0] * 1e3 +",
    ),
    "nan_stays_in_its_replica": ("mean_over(error) +", "mean_over(error).sum() * mean_over(error) +"),
    "learns_acts_and_resumes": (
        "self.add_optimizer(policy=self.actor)", "self.add_optimizer(policy=self.actor.layers[0])",
    ),
    "learns_acts_and_resumes of actions": (
        "CategoricalPolicy(self.actor)", "SquashedPolicy(torch.nn.Identity())",
    ),
    "learns_acts_and_resumes of resuming": (  # what it counts is in no checkpoint
        "mean_over(error) +", "mean_over(error) * len(vars(self).setdefault('seen', [0]) + [self.seen.append(0)]) +",
    ),
    "documented": ("  # width of both hidden layers", ""),
}  # fmt: skip


@pytest.mark.parametrize("check", FAULTS)
def test_the_battery_finds_faults(plugin: Path, tmp_path: Path, check: str) -> None:
    old, new = FAULTS[check]
    text = method_file("toy_faulty")
    assert old in text
    (plugin / "toy_faulty.py").write_text(text.replace(old, new))
    (plugin / "toy_sound.py").write_text(method_file("toy_sound"))
    name = check.partition(" ")[0]
    sound = [c for c in battery("toy_sound") if c.name.startswith(name)]
    faulty = [c for c in battery("toy_faulty") if c.name.startswith(name)]
    assert len(sound) == len(faulty) > 0
    for found in sound:
        found(tmp_path)
    failed = 0
    for found in faulty:
        try:
            found(tmp_path)
        except Exception:
            failed += 1
    assert failed
