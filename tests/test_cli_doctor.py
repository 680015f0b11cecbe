"""``marlzoo doctor``: what is missing or too old, and the command that fixes it."""

from __future__ import annotations

import json
import sys
from importlib import metadata

import pytest

from marlzoo.commands import diagnosis as doctor
from marlzoo.errors import pip_install
from tests.command_line import call

pytestmark = pytest.mark.usefixtures("own_home")


def test_doctor_reports_every_requirement(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(out)}
    for package in ("python", "marlzoo", "torch", "numpy", "mujoco", "tyro", "tasks mamujoco", "methods"):
        assert found[package]["state"] == "ok", found[package]
    assert status == int(any(finding["state"] == "missing" for finding in found.values()))


def test_doctor_names_the_command_that_fixes(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def missing(name: str) -> str:
        if name == "mujoco":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "numpy" else version(name)

    monkeypatch.setattr(metadata, "version", missing)
    found = {finding.what: finding for finding in doctor.diagnose()}
    assert (found["mujoco"].state, found["numpy"].state) == ("missing", "missing")
    assert found["mujoco"].remedy == pip_install("mujoco")
    assert sys.executable in found["mujoco"].remedy
    assert "1.0, but >=" in found["numpy"].found
    assert "methods" not in found, "without its packages every method would be reported as broken"
    assert "2 missing" in doctor.findings_text([found["mujoco"], found["numpy"]])


@pytest.mark.parametrize(
    ("version", "wanted", "expected"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("3.16.9", "<4,>=3.17", False),
        ("4.0", "<4,>=3.17", False),
        ("3.17", ">=3.17,<4", True),
        ("1.10", ">=1.9", True),
        ("1.0", "", True),
    ],
)
def test_version_ranges(version: str, wanted: str, expected: bool) -> None:
    assert doctor.fits(version, wanted) is expected
