"""Which code made a number: what counts of a source file, which modules belong to it, and the commit."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from marlzoo.registry import code_hash, find_method
from marlzoo.system import provenance
from marlzoo.system.provenance import code_only, commit_of, machine, source_hash

SOURCE = '''"""About the module."""
import math  # of numbers


class A:
    """About the class.

    In two paragraphs.
    """

    def f(self) -> str:
        """About it."""
        return "# no comment" + """not a docstring"""
'''


def test_what_counts_of_a_source_text() -> None:
    assert code_only(SOURCE) == (
        'import math\nclass A:\n    def f(self) -> str:\n        return "# no comment" + """not a docstring"""'
    )
    assert code_only("x = 1\n\n# y\n") == "x = 1"
    assert code_only("") == ""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], str]]:
    """Writes a module of a package and gives the hash of its method."""
    monkeypatch.syspath_prepend(str(tmp_path))
    folder = tmp_path / "plugged" / "inner"
    folder.mkdir(parents=True)
    files = {
        "__init__.py": "from plugged.first import VALUE as handed_on\nfrom plugged.second import thing\n",
        "method.py": "from . import inner\nfrom .inner import deep\nfrom plugged import thing\nimport marlzoo.spec\n"
        "def f():\n    from .lazy import g\n    return g\n",
        "first.py": "VALUE = 1\n",
        "second.py": "def thing():\n    return 2\n",
        "lazy.py": "import plugged.last\ng = 1\n",
        "last.py": "x = 1\n",
        "stranger.py": "x = 1\n",
        "inner/__init__.py": "",
        "inner/deep.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from plugged import stranger\n",
    }
    for name, text in files.items():
        (tmp_path / "plugged" / name).write_text(text)

    def change(name: str, text: str) -> str:
        if name:
            (tmp_path / "plugged" / name).write_text(text)
        provenance._module.cache_clear()
        importlib.invalidate_caches()
        importlib.import_module("plugged.method")
        return source_hash(["plugged.method"])

    yield change
    provenance._module.cache_clear()
    for name in [name for name in sys.modules if name.split(".")[0] == "plugged"]:
        del sys.modules[name]


def test_a_change_in_what_is_imported_changes_the_hash(package: Callable[[str, str], str]) -> None:
    base = package("", "")
    assert len(base) == 12
    assert package("stranger.py", "x = 2\n") == base  # imported for types only
    assert package("first.py", "VALUE = 2\n") == base  # handed on by the package, but not to this method
    assert package("last.py", '"""Words."""\n\nx = 1  # more words\n') == base
    hashes = [
        base,
        package("inner/deep.py", "y = 1\n"),
        package("second.py", "def thing():\n    return 3\n"),  # handed on by the package
        package("last.py", "x = 2\n"),  # imported by what a function imports
        package("method.py", "import marlzoo.spec\n"),
        package("method.py", "import marlzoo.replicas\n"),
    ]
    assert len(set(hashes)) == len(hashes)


def test_a_method_is_its_module_and_what_samples_and_evaluates() -> None:
    assert code_hash(find_method("bc")) == code_hash(find_method("bc"))
    assert code_hash(find_method("bc")) != code_hash(find_method("iql"))
    counted = set()
    true = provenance._module

    def noted(name: str) -> tuple[str, tuple[str, ...]]:
        counted.add(name)
        return true(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "_module", noted)
        code_hash(find_method("omiga"))
    assert {
        "marlzoo.algorithms.omiga",
        "marlzoo.replicas",
        "marlzoo.data.sampler",
        "marlzoo.envs.guard",
    } <= counted
    assert not any(name.startswith(("torch", "numpy", "marlzoo.baselines")) for name in counted)
    assert not any(name.startswith(("marlzoo.cli", "marlzoo.benchmarks")) for name in counted)


def test_a_module_without_source_counts_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    provenance._module.cache_clear()
    monkeypatch.setattr(provenance, "_source", lambda name: None)
    first = source_hash(["marlzoo.replicas"])
    provenance._module.cache_clear()
    monkeypatch.setattr(provenance, "version", lambda name: "9.9")
    assert source_hash(["marlzoo.replicas"]) != first
    provenance._module.cache_clear()


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_files_repository(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    file, stray = tmp_path / "a.py", tmp_path / "b.py"
    file.write_text("x = 1\n")
    stray.write_text("x = 1\n")
    assert commit_of(file) == ""
    git("init", "-q")
    git("add", "a.py")
    git("commit", "-qm", "first")
    assert commit_of(file) == git("rev-parse", "--short=12", "HEAD")
    assert (
        commit_of(stray) == ""
    )  # it is not in the repository, as an installed package in a project's folder
    provenance._commit.cache_clear()
    file.write_text("x = 2\n")
    assert commit_of(file) == git("rev-parse", "--short=12", "HEAD") + "+"


def test_without_git_there_is_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert commit_of(Path(provenance.__file__)) == ""


def test_the_machine_is_described_without_its_name() -> None:
    import platform

    assert " cores, " in machine()
    assert platform.node() not in machine()
