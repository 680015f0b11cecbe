"""Fills the generated parts of README.md and draws its figure: ``python docs/readme.py``."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from _generate import readme  # noqa: E402 - found through the path set above
from marlzoo.benchmarks.analysis import Results  # noqa: E402
from marlzoo.benchmarks.figures import draw, save  # noqa: E402


def main() -> None:
    """Rewrite README.md and the figure in place."""
    root = DOCS.parent
    save(draw(Results.of(readme.rows(root))), DOCS / "_static" / "curves.svg")
    page = root / "README.md"
    page.write_text(readme.fill(page.read_text(encoding="utf-8"), readme.parts(root)), encoding="utf-8")


if __name__ == "__main__":
    main()
