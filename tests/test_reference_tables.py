"""Published scores: the committed tables are what the transcription of the literature gives."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

from marlzoo.data.catalog import scores

FOLDER = Path(__file__).parents[1] / "benchmarks" / "reference"


@pytest.fixture
def derive(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    yield importlib.import_module("derive")
    sys.modules.pop("derive", None)


def test_the_committed_tables_are_what_the_script_makes(
    derive: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for path, made in derive.derived().items():
        assert path.read_bytes() == made.encode()
    changed = tmp_path / "published.csv"
    changed.write_text(derive.COMPARISON.read_text().replace("2046.31", "2046.32"))
    monkeypatch.setattr(derive, "COMPARISON", changed)
    monkeypatch.setattr(sys, "argv", ["derive.py", "--check"])
    assert derive.main() == 1
    assert "is not what is made from" in capsys.readouterr().out
    assert "2046.32" in changed.read_text()  # nothing is written
    monkeypatch.setattr(sys, "argv", ["derive.py"])
    assert derive.main() == 0
    assert changed.read_bytes() == (FOLDER / "published.csv").read_bytes()


def line(**changes: str) -> dict[str, str]:
    names = (
        "environment",
        "scenario",
        "dataset_source",
        "dataset_quality",
        "algorithm",
        "mean",
        "std",
        "metric",
    )
    values = ("HalfCheetah", "2halfcheetah", "OG-MARL", "good", "BC", "25.5", "5", "win_rate_percent")
    rest = {"n_seeds": "5", "paper_arxiv": "2410.01954", "table": "author notebook (main win rates); final"}
    return dict(zip(names, values, strict=True)) | rest | changes


def test_names_selection_and_shares_by_hand(derive: Any) -> None:
    assert derive.dataset_name(line()) == "mamujoco/halfcheetah-2x3/og-marl/good"
    assert derive.dataset_name(line(environment="MPE", scenario="simple_tag")) == "mpe/tag/og-marl/good"
    assert derive.dataset_name(line(environment="average")) == ""
    average = line(environment="SMAC", scenario="average of the table")
    assert [row["mean"] for row in derive.catalog_scores([average, line()])] == ["25.5"]
    smac = {"environment": "SMAC", "scenario": "corridor", "dataset_source": "OMIGA"}
    found = derive.compared_scores(
        [line(**smac), line(**smac, table="Table 2"), line(**smac, paper_arxiv="2111.11188"), line()]
    )
    assert [(row["task"], row["metric"], row["mean"], row["std"]) for row in found] == [
        ("smac/corridor", "win_rate", "0.255", "0.05")
    ]


def test_nothing_that_belongs_to_a_cataloged_dataset_is_left_out(derive: Any) -> None:
    rows = derive.read_literature()
    kept = sum(len(scores(name)) for name in {derive.dataset_name(row) for row in rows})
    left = [row for row in rows if not scores(derive.dataset_name(row))]
    assert kept + len(left) == len(rows)
    for row in left:
        summary = any(
            word in row["scenario"] + row["dataset_quality"] for word in ("average", "all", "total")
        )
        unknown = row["dataset_source"] in ("unspecified", "OMIGA-style")
        other = row["environment"] in ("T-Maze", "Ant")  # OG-MARL's Ant has no statistics
        assert summary or unknown or other, row
