"""What surrounds the code agrees with it: workflow, contributor documents, address, coverage."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
ADDRESS = PROJECT["project"]["urls"]["Repository"]
TEXTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", ".github/**/*.md", ".github/**/*.yml", "CITATION.cff")
    for path in ROOT.glob(pattern)
)


def test_tests_run_on_every_python_that_is_claimed() -> None:
    (matrix,) = re.findall(r"^ +python: \[(.*)\]$", WORKFLOW, re.MULTILINE)
    tested = re.findall(r"[\d.]+", matrix)
    classifiers = PROJECT["project"]["classifiers"]
    claimed = [found[1] for text in classifiers if (found := re.search(r":: (3\.\d+)$", text))]
    assert tested == claimed
    assert PROJECT["project"]["requires-python"] == f">={claimed[0]}"


def test_every_make_target_that_is_named_exists() -> None:
    for path in [*TEXTS, ROOT / ".ci" / "run"]:
        for line in path.read_text().splitlines():
            for target in re.findall(r"(?:^|[`:] ?|^ *\$ )make ([a-z][a-z-]*)", line):
                assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"{path}: make {target}"


def test_the_project_has_one_address() -> None:
    assert all(url.startswith(ADDRESS) for url in PROJECT["project"]["urls"].values())
    for path in TEXTS:
        for address in re.findall(r"https://github\.com/[\w-]+/marlzoo", path.read_text()):
            assert address == ADDRESS, path


def test_coverage_looks_at_all_source_folders() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert set(PROJECT["tool"]["coverage"]["run"]["source_dirs"]) == folders
    for pattern in PROJECT["tool"]["coverage"]["run"]["omit"]:
        assert list(ROOT.glob(pattern)), f"{pattern} leaves out nothing"


def test_pinned_development_tools_are_those_that_the_extras_ask_for() -> None:
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines()}
    for extra in ("dev", "docs"):
        for text in PROJECT["project"]["optional-dependencies"][extra]:
            name = re.split(r"[>=<\[]", text)[0]
            assert name in pinned or name == "setuptools", f"{name} of the extra {extra} is not pinned"


LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("path", [path for path in TEXTS if path.suffix == ".md"], ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in (found[1] or found[2] for found in LINK.finditer(text)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        to = (path.parent / file) if file else path
        if "generated" in to.parts:  # written when the site is built, which checks it
            continue
        assert to.exists(), f"{path.name} links to {target}"
        assert not anchor or anchor in _anchors(to.read_text()), f"{path.name} links to {target}"


def _anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and MyST form them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_files_have_the_same_bytes_on_every_system(tmp_path: Path) -> None:
    if shutil.which("git") is None:
        pytest.skip("needs git")
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x", "-c", "core.autocrlf=true"]
    for name, content in (("rows.csv", b"a,b\n1,2\n"), ("net.npz", b"PK\x00\n\r\n"), ("x.toml", b"a = 1\n")):
        (tmp_path / name).write_bytes(content)
    shutil.copy(ROOT / ".gitattributes", tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    subprocess.run([*git, "add", "."], check=True, capture_output=True)
    subprocess.run([*git, "commit", "-q", "-m", "x"], check=True, capture_output=True)
    for name in before:
        (tmp_path / name).unlink()
    subprocess.run([*git, "checkout", "."], check=True, capture_output=True)
    assert {name: (tmp_path / name).read_bytes() for name in before} == before
