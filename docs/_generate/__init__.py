"""Writes the pages of the documentation that are derived from the code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from . import methods, reference


def version() -> str:
    """The package's version."""
    import marlzoo

    return marlzoo.__version__


def pages() -> dict[str, str]:
    """Texts of all generated pages by their path."""
    return {**methods.pages(), **reference.pages()}


def write(folder: Path) -> None:
    """Make the files below ``folder`` exactly the generated ones; unchanged files are not touched."""
    wanted: Mapping[Path, str] = {folder / name: text for name, text in pages().items()}
    for path, text in wanted.items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    for path in folder.rglob("*.md"):
        if path not in wanted:
            path.unlink()
