"""Tables from result rows, and from nothing else: what is compared, and what is said about it.

A run counts with its last checkpoint, never with the best one seen during training. Diverged replicas are
shown, never dropped. Policies that need more than their own observation when they act are marked and not
ranked beside decentralized ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marlzoo.errors import DataError
from marlzoo.system.files import write_text_atomic

from .references import published
from .results import RUN, Results
from .sheet import Sheet
from .stats import Floats, improvement, interval, iqm
from .styles import latex, markdown

DATASET = ["task", "source", "quality"]
LEARNER = ["method", "variant", "execution", "config_hash"]
CELL = ["suite", *DATASET, "data_hash", *LEARNER]
MARKS = {"decentralized": "", "sequential": "†", "centralized": "‡"}


def read(paths: Iterable[Path]) -> pd.DataFrame:
    """Rows of several result files or folders (which hold ``rows.csv``), one after another.

    Raises:
        DataError: no such file, no rows in it, or not a results file.
    """
    frames = []
    for path in paths:
        file = path / "rows.csv" if path.is_dir() else path
        if not file.exists():
            raise DataError(
                f"no results at {file}; run a suite first (marlzoo bench SUITE) or name another path"
            )
        frames.append(Results(file).read())
    rows = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if rows.empty:
        raise DataError(f"no result rows in {', '.join(map(str, paths))}")
    return rows


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """Each run's row with the most updates."""
    newest = rows.sort_values("updates", kind="stable").drop_duplicates(list(RUN), keep="last")
    return newest.sort_index()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset and learner, over seeds.

    Columns beside the names: ``seeds`` (how many), ``updates`` (fewest and, if a run is unfinished,
    ``updates_max``), ``episodes``, ``mean``, ``std`` (of a sample of seeds), ``iqm``, ``iqm_low``,
    ``iqm_high`` (95 % bootstrap), ``score`` and ``score_iqm`` (normalized), ``win_rate``, ``diverged``
    (replicas), ``behavior`` (the dataset's mean return), ``published``, ``published_std``,
    ``published_in``, ``seconds`` (training time of the lockstep groups that the runs were part of).
    """
    lines = []
    for names, cell in last(rows).groupby(CELL, sort=False, dropna=False):
        values = cell["mean_return"].to_numpy()
        line: dict[str, Any] = dict(zip(CELL, names, strict=True))
        low, high = interval([values])
        known = published(line["task"], line["quality"], line["method"])
        line |= {
            "seeds": len(cell),
            "updates": int(cell["updates"].min()),
            "updates_max": int(cell["updates"].max()),
            "episodes": int(cell["episodes"].min()),
            "mean": values.mean(),
            "std": values.std(ddof=1) if len(values) > 1 else math.nan,
            "iqm": iqm(values) if np.isfinite(values).all() else math.nan,
            "iqm_low": low,
            "iqm_high": high,
            "score": cell["normalized_score"].mean(skipna=False),
            "score_iqm": iqm(cell["normalized_score"].to_numpy()),
            "win_rate": cell["win_rate"].mean(skipna=False),
            "diverged": int(cell["diverged"].sum()),
            "behavior": cell["behavior_return"].mean(),
            "published": known.mean if known else math.nan,
            "published_std": known.std if known else math.nan,
            "published_in": known.reference if known else "",
            "seconds": cell["seconds"].max(),
        }
        lines.append(line)
    return pd.DataFrame(lines)


def improvements(rows: pd.DataFrame) -> pd.DataFrame:
    """Probability that one learner beats another on a random seed, averaged over the datasets both ran on.

    Columns: ``better``, ``worse`` (labels, ordered so that the probability is at least one half),
    ``probability``, ``low``, ``high``, ``datasets``. Only learners of the same execution kind are compared.
    """
    final = last(rows)
    final = final.assign(learner=_labels(final), dataset=final[[*DATASET, "data_hash"]].agg("/".join, axis=1))
    lines = []
    for first, second in combinations(dict.fromkeys(final["learner"]), 2):
        one, two = final[final["learner"] == first], final[final["learner"] == second]
        shared = [d for d in dict.fromkeys(one["dataset"]) if (two["dataset"] == d).any()]
        if not shared or set(one["execution"]) != set(two["execution"]):
            continue
        pairs = [(_scores(one, dataset), _scores(two, dataset)) for dataset in shared]
        value, low, high = improvement(pairs)
        if value < 0.5:
            first, second, value, low, high = second, first, 1 - value, 1 - high, 1 - low
        lines.append((first, second, value, low, high, len(shared)))
    return pd.DataFrame(lines, columns=["better", "worse", "probability", "low", "high", "datasets"])


def comparison(cells: pd.DataFrame, title: str, command: str = "") -> Sheet:
    """The comparison: one line per dataset, one column per learner, published values beside ours."""
    labels, datasets = _labels(cells), _datasets(cells)
    learners = list(dict.fromkeys(labels))
    methods = dict(zip(labels, cells["method"], strict=True))
    quoted = [name for name in learners if cells.loc[labels == name, "published"].notna().any()]
    header = ["dataset", "data"]
    for name in learners:
        # The published run has its paper's settings, not those of this learner.
        header += [name, f"{methods[name]}, published¹"] if name in quoted else [name]
    sheet = Sheet(title, header, [])
    for dataset, group in cells.groupby(datasets, sort=False):
        line, means = [str(dataset), _number(group["behavior"].iloc[0])], {}
        for name in learners:
            found = group[labels.loc[group.index] == name]
            cell = found.iloc[0] if len(found) else None
            if cell is not None and cell["execution"] == "decentralized" and math.isfinite(cell["mean"]):
                means[len(line)] = cell["mean"]
            line.append("not run" if cell is None else _cell(cell))
            if name in quoted:
                line.append("–" if cell is None else _plus_minus(cell["published"], cell["published_std"]))
        sheet.body.append(line)
        top = max(means.values(), default=math.nan)
        sheet.best.append({k for k, v in means.items() if v == top and len(means) > 1})
    sheet.notes = _notes(cells, bool(quoted), command)
    return sheet


def details(cells: pd.DataFrame) -> Sheet:
    """Per dataset and learner: seeds, updates, mean, interquartile mean with its interval, score, wins."""
    header = ["dataset", "learner", "seeds", "updates", "mean ± std", "IQM [95 % interval]", "score", "wins"]
    sheet = Sheet("Details", header, [])
    for label, dataset, (_, cell) in zip(_labels(cells), _datasets(cells), cells.iterrows(), strict=True):
        between = "" if cell["updates"] == cell["updates_max"] else f"–{cell['updates_max']}"
        spread = f" [{_number(cell['iqm_low'])}, {_number(cell['iqm_high'])}]"
        sheet.body.append(
            [
                dataset,
                label,
                str(cell["seeds"]),
                f"{cell['updates']}{between}",
                _cell(cell),
                _number(cell["iqm"]) + (spread if math.isfinite(cell["iqm_low"]) else ""),
                _number(cell["score"]),
                "–" if math.isnan(cell["win_rate"]) else f"{100 * cell['win_rate']:.0f} %",
            ]
        )
    return sheet


def comparisons(table: pd.DataFrame) -> Sheet:
    """:func:`improvements` as text."""
    body = []
    for better, worse, value, low, high, datasets in table.itertuples(index=False, name=None):
        spread = f" [{low:.2f}, {high:.2f}]" if math.isfinite(low) else ""
        body.append([f"P({better} > {worse})", f"{value:.2f}{spread}", str(datasets)])
    return Sheet("Probability of improvement", ["", "probability [95 % interval]", "datasets"], body)


def sheets(rows: pd.DataFrame, title: str, command: str = "") -> list[Sheet]:
    """All tables of a set of rows, the comparison first."""
    cells, pairs = summary(rows), improvements(rows)
    return [comparison(cells, title, command), details(cells), *([comparisons(pairs)] if len(pairs) else [])]


def write(rows: pd.DataFrame, folder: Path, title: str, command: str = "") -> list[Sheet]:
    """Write ``table.csv`` (all numbers), ``table.md`` and ``table.tex`` into ``folder``; returns the tables.

    Raises:
        OutputError: a file cannot be written.
    """
    made = sheets(rows, title, command)
    write_text_atomic(folder / "table.csv", summary(rows).to_csv(index=False, lineterminator="\n"))
    write_text_atomic(folder / "table.md", "\n".join(markdown(sheet) for sheet in made))
    write_text_atomic(folder / "table.tex", latex(made[0]))
    return made


def _labels(table: pd.DataFrame) -> pd.Series:
    """A learner's label: method, settings that differ, mark of its execution kind.

    Where rows of two configurations would share a label (a default changed between versions), the
    configuration's hash tells them apart.
    """
    names = table["method"] + table["variant"].map(lambda text: f" ({text})" if text else "")
    names = names + table["execution"].map(lambda kind: MARKS.get(kind, f" [{kind}]"))
    return _told_apart(names, [table[name] for name in DATASET], table["config_hash"])


def _datasets(table: pd.DataFrame) -> pd.Series:
    """A dataset's label; the content hash tells those of the same names apart."""
    names = table["task"] + " " + table["quality"] + " (" + table["source"] + ")"
    return _told_apart(names, [], table["data_hash"].str[:8])


def _told_apart(names: pd.Series, within: list[pd.Series], hashes: pd.Series) -> pd.Series:
    """Names, with the hash behind those that have several hashes (within the same values of ``within``)."""
    counts = hashes.groupby([names, *within]).transform("nunique")
    several = names.map(counts.groupby(names).max()) > 1
    return names.where(~several, names + " #" + hashes)


def _scores(runs: pd.DataFrame, dataset: str) -> Floats:
    """Returns on one dataset; one that is not finite loses against every other."""
    values = runs.loc[runs["dataset"] == dataset, "mean_return"].to_numpy(dtype=np.float64)
    return np.where(np.isfinite(values), values, -np.inf)


def _number(value: float) -> str:
    return f"{value:.1f}" if math.isfinite(value) else "–"


def _plus_minus(mean: float, std: float) -> str:
    return _number(mean) + (f" ± {std:.1f}" if math.isfinite(std) and math.isfinite(mean) else "")


def _cell(cell: pd.Series) -> str:
    text = _plus_minus(cell["mean"], cell["std"])
    if cell["diverged"]:
        text += f" ({cell['diverged']} of {cell['seeds']} diverged)"
    return text


def _range(values: pd.Series) -> str:
    low, high = int(values.min()), int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"


def _notes(cells: pd.DataFrame, quoted: bool, command: str) -> list[str]:
    updates = pd.concat([cells["updates"], cells["updates_max"]])
    notes = [
        f"Mean return ± standard deviation over {_range(cells['seeds'])} seeds at the last checkpoint "
        f"({_range(updates)} updates), {_range(cells['episodes'])} evaluation episodes per seed. "
        "data: mean episode return of the dataset. Bold: highest mean of a line among decentralized policies."
    ]
    if quoted:
        papers = ", ".join(dict.fromkeys(cells.loc[cells["published_in"] != "", "published_in"]))
        own = [name for name in dict.fromkeys(cells["source"]) if name != "omiga"]
        ours = " Ours are on regenerated data, so the two columns are not the same experiment." if own else ""
        notes.append(
            f"¹ {papers}: trained on the published OMIGA datasets with the paper's full protocol.{ours}"
        )
    kinds = [kind for kind in dict.fromkeys(cells["execution"]) if kind != "decentralized"]
    notes += [
        f"{MARKS.get(kind, kind)} {kind} execution: not comparable with decentralized ones." for kind in kinds
    ]
    if cells["diverged"].any():
        notes.append("A diverged replica keeps its place: the mean is – where its return is not finite.")
    if command:
        notes.append(f"Made by `{command}`.")
    return notes
