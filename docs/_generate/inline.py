"""The generated parts of pages that people also read in the repository, where nothing can be included.

They stand between ``<!-- NAME: generated -->`` and ``<!-- end of NAME -->``, as those of the README do.
"""

from __future__ import annotations

from pathlib import Path

from marlzoo.benchmarks.results import Row
from marlzoo.benchmarks.suites import SUITES, Data, Learner, Suite, suite_names

from . import reproduce
from .reference import keys, listing
from .text import code, table

REPOSITORY = "https://github.com/marlzoo/marlzoo/blob/main"


def parts(root: Path) -> dict[str, dict[str, str]]:
    """Texts by page and name.

    Args:
        root: of the repository.
    """
    return {
        "docs/suites.md": {
            "suite": keys(Suite),
            "data": keys(Data),
            "learner": keys(Learner),
            "suites": suites(),
        },
        "docs/own_data.md": {"formats": listing("formats")},
        "docs/results.md": {"row": keys(Row, defaults=False)},
        "docs/reproduce.md": {
            "published suites": reproduce.suites(),
            "compared": reproduce.compared(root),
        },
        "docs/speed.md": {"ratios": (root / "results" / "speed" / "ratios.md").read_text(encoding="utf-8")},
    }


def suites() -> str:
    """The built-in suites, one line each."""
    rows = [
        [f"[{code(name)}]({REPOSITORY}/benchmarks/suites/{name}.toml)", SUITES[name].about]
        for name in suite_names()
    ]
    return table(["suite", "what"], rows)
