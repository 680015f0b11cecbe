"""Parts of the page on reproducing: the suites that are meant to be run whole, and our numbers beside the papers'."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from marlzoo.benchmarks.reached import PUBLISHED
from marlzoo.benchmarks.suites import find_suite

from marlzoo.data.catalog import scores

from .text import code, table

# Papers of the particle world report normalized scores, under these names.
PARTICLE = {
    "bc": "BC",
    "icq": "MA-ICQ",
    "td3_bc": "MA-TD3+BC",
    "cql_ma": "MA-CQL",
    "omar": "OMAR",
    "madiff": "MADiff-D",
}


def suites() -> str:
    """The suites that are meant to be run whole."""
    found = [find_suite(name) for name in PUBLISHED]
    return table(["command", "what"], [[code(f"marlzoo bench {suite.name}"), suite.about] for suite in found])


def compared(root: Path) -> str:
    """A line for each dataset and method that ran to its end and whose number a paper states, after the tables."""
    header = ["data", "method", "measure", "ours", "seeds", "updates", "published", "source"]
    files = [root / "results" / name / "table.csv" for name in PUBLISHED]
    cells = pd.concat([pd.read_csv(file) for file in files if file.exists()], ignore_index=True)
    done = cells[cells["updates"] >= cells["budget"]]
    # A suite may show runs of another one, which stand here once.
    done = done.drop_duplicates(["task", "quality", "data_hash", "method", "config_hash", "mean"])
    return table(header, filter(None, (_line(cell) for _, cell in done.iterrows())))


def _line(cell: pd.Series) -> list[str]:
    """One line; empty where no paper states the number."""
    if pd.notna(cell["published"]):
        measure, ours = "return", f"{cell['mean']:.0f} ± {cell['std']:.0f}"
        published, source = f"{cell['published']:.0f} ± {cell['published_std']:.0f}", cell["published_in"]
    else:
        known = scores(f"{cell['task']}/omar/{cell['quality']}")
        found = [score for score in known if score.method == PARTICLE.get(cell["method"])]
        if not found:
            return []
        measure, ours = "score", f"{cell['score']:.0f}" if pd.notna(cell["score"]) else "diverged"
        published, source = f"{found[0].mean:.0f} ± {found[0].std:.0f}", found[0].reference
    data = code(f"{cell['task']} {cell['quality']}")
    return [
        data,
        cell["learner"],
        measure,
        ours,
        str(cell["seeds"]),
        f"{cell['updates']:,}",
        published,
        source,
    ]
