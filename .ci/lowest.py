"""Prints, as a constraints file, the oldest versions that marlzoo and its extras accept; see make test-lowest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

TOOLS = ("dev", "docs")  # whose ranges concern nobody who installs marlzoo
OLDEST = re.compile(r"(?P<name>[\w.-]+)(\[[^\]]*\])?>=(?P<version>[\d.]+)")


def lowest(project: Path) -> dict[str, str]:
    """Name and oldest version of each package in the ranges of a ``pyproject.toml``."""
    told = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
    extras = told["optional-dependencies"]
    ranges = [*told["dependencies"], *(text for name in extras if name not in TOOLS for text in extras[name])]
    return {found["name"]: found["version"] for text in ranges if (found := OLDEST.match(text))}


if __name__ == "__main__":
    for name, version in lowest(Path(__file__).parents[1] / "pyproject.toml").items():
        print(f"{name}=={version}")
