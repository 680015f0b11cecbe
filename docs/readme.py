"""Fills generated parts of README.md, results/README.md and docs, and draws figures: ``python docs/readme.py``."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

from _generate import inline, published, readme  # noqa: E402 - found through the path set above
from marlzoo.benchmarks.analysis import Results  # noqa: E402
from marlzoo.benchmarks.figures import draw, save_figure  # noqa: E402


def main() -> None:
    """Rewrite the pages and their figures in place."""
    root = DOCS.parent
    save_figure(draw(Results.of(readme.rows(root))), DOCS / "_static" / "curves.svg")
    for path in published.pictures(root):
        print(path)
    pages = {
        "README.md": readme.parts(root),
        "results/README.md": published.parts(root),
        **inline.parts(root),
    }
    for page, parts in pages.items():
        text = (root / page).read_text(encoding="utf-8")
        (root / page).write_text(readme.fill(text, parts, page), encoding="utf-8")


if __name__ == "__main__":
    main()
