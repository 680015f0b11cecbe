"""Make the two tables of published scores from one transcription of the literature.

    python benchmarks/reference/derive.py [--check]

``literature/scores.csv`` has one line per number that a paper prints (or its authors' notebook holds), with the
papers' own words for benchmark, scenario, source and quality. Made from it:

- ``marlzoo/data/catalog/scores.csv``: the scores on datasets of the catalog, under their names here, in the
  catalog's order. Left out are averages over datasets, and datasets that the catalog does not have;
- ``published.csv``: what tables set beside our results, of one paper that ran all methods alike: its main results on
  the OMIGA datasets at the last checkpoint, win rates between 0 and 1.

``--check`` writes nothing and fails where a file is not what would be written.
"""

from __future__ import annotations

import argparse
import csv
import io
from decimal import Decimal
from pathlib import Path

from marlzoo.data import catalog
from marlzoo.data.catalog import published
from marlzoo.data.names import DatasetName
from marlzoo.system.files import write_text_atomic

HERE = Path(__file__).parent
LITERATURE = HERE / "literature" / "scores.csv"
CATALOG = Path(catalog.__file__).parent / "scores.csv"
COMPARISON = HERE / "published.csv"

FAMILIES = {"SMAC": "smac", "SMACv2": "smacv2", "MPE": "mpe", "RWARE": "rware"}
ROBOTS = ("Ant", "HalfCheetah", "Hopper")
TEAMS = {"2halfcheetah": "2x3"}  # OG-MARL counts agents where others name the partition

COMPARED = "2410.01954"
MAIN = ("author notebook (main returns)", "author notebook (main win rates)")
METRICS = {"episode_return": "return", "win_rate_percent": "win_rate"}

Row = dict[str, str]


def read_literature() -> list[Row]:
    """The transcription's lines."""
    with LITERATURE.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def dataset_name(row: Row) -> str:
    """The dataset's name here, whether it exists or not; empty for environments that have no family."""
    environment = row["environment"]
    scenario = row["scenario"]
    if environment in ROBOTS:
        task = f"mamujoco/{environment.lower()}-{TEAMS.get(scenario, scenario)}"
    elif environment in FAMILIES:
        task = f"{FAMILIES[environment]}/{scenario.removeprefix('simple_')}"
    else:
        return ""
    return f"{task}/{row['dataset_source'].lower()}/{row['dataset_quality']}"


def catalog_scores(rows: list[Row]) -> list[Row]:
    """Scores on cataloged datasets, in the catalog's order and within a dataset in the transcription's."""
    place = {name: number for number, name in enumerate(published())}
    kept = [row | {"dataset": name} for row in rows if (name := dataset_name(row)) in place]
    return [
        {
            "dataset": row["dataset"],
            "method": row["algorithm"],
            "metric": row["metric"],
            "mean": row["mean"],
            "std": row["std"],
            "seeds": row["n_seeds"],
            "reference": _reference(row),
            "table": row["table"],
        }
        for row in sorted(kept, key=lambda row: place[row["dataset"]])
    ]


def compared_scores(rows: list[Row]) -> list[Row]:
    """One paper's main results on OMIGA's datasets."""
    made = []
    for row in rows:
        if (
            row["paper_arxiv"] != COMPARED
            or not row["table"].startswith(MAIN)
            or row["dataset_source"] != "OMIGA"
        ):
            continue
        task, source, quality = DatasetName.parse(dataset_name(row))
        share = row["metric"] == "win_rate_percent"
        mean, std = (_share(row[key]) if share else row[key] for key in ("mean", "std"))
        values = (task, source, quality, row["algorithm"], METRICS[row["metric"]], mean, std, row["n_seeds"])
        names = ("task", "source", "quality", "method", "metric", "mean", "std", "seeds")
        made.append(dict(zip(names, values, strict=True)) | {"reference": _reference(row)})
    return sorted(made, key=lambda row: (row["task"], row["quality"], row["metric"], row["method"]))


def _reference(row: Row) -> str:
    return f"arXiv:{row['paper_arxiv']}" if row["paper_arxiv"] else ""


def _share(percent: str) -> str:
    """A percentage as a share, in plain decimal digits."""
    return f"{(Decimal(percent) / 100).normalize():f}"


def text(rows: list[Row]) -> str:
    """Rows as CSV."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def derived() -> dict[Path, str]:
    """Both tables' files and texts."""
    rows = read_literature()
    return {CATALOG: text(catalog_scores(rows)), COMPARISON: text(compared_scores(rows))}


def main() -> int:
    """Write the tables, or compare them; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail where a file differs")
    check = parser.parse_args().check
    stale = {p: made for p, made in derived().items() if p.read_text(encoding="utf-8") != made}
    for path, made in stale.items():
        print(f"{path}: {'is not what is made from ' + str(LITERATURE) if check else 'written'}")
        if not check:
            write_text_atomic(path, made)
    return int(check and bool(stale))


if __name__ == "__main__":
    raise SystemExit(main())
