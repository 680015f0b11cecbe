"""Captions and notes of comparisons: how the numbers were made, and their caveats."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from marlzoo.teachers.offers import version_of

from .drift import STILL
from .references import ends
from .stats import LEAST


def captions(cells: pd.DataFrame, names: list[str], command: str) -> list[str]:
    """The notes of a comparison.

    Args:
        cells: lines of a summary with the columns ``learner`` and ``dataset``.
        names: what the names of learners and datasets leave out.
        command: that made the table.
    """
    done = cells[cells["seeds"] > 0]
    notes = [f"{_counted(done)} (data): mean episode return of the dataset."]
    if names:
        notes.append(" ".join(names))
    if cells["learner"].nunique() > 1 and len(done):
        notes.append(_marks(done["seeds"]))
    return [
        *notes,
        *_faults(cells),
        *_moving(cells),
        *_origins(cells),
        *([f"Made by `{command}`."] if command else []),
    ]


def _counted(done: pd.DataFrame) -> str:
    """What the numbers are, of the lines that have one."""
    if done.empty:
        return "No run has a result."
    spread = " ± sample standard deviation (n - 1)" if (done["seeds"] > 1).any() else ""
    return (
        f"Mean return{spread} over {_seeds(done)}, last checkpoint ({span(done['updates'])} updates), "
        f"{span(done['episodes'])} evaluation episodes per seed."
    )


def references_note(data: Iterable[tuple[str, str, str]]) -> str:
    """What 0 and 100 of the normalized scores are; the same ends once.

    Args:
        data: task, quality and source of the data.
    """
    told: dict[str, list[str]] = {}
    for task, quality, source in data:
        found = ends(task, quality, source)
        text = "no reference" if found is None else f"{found.random:g} to {found.expert:g} ({found.source})"
        name = task if found == ends(task) else f"{task} (data v{version_of(quality, source)})"
        names = told.setdefault(text, [])
        names += [name] if name not in names else []
    parts = [f"{', '.join(names)}: {text}" for text, names in told.items()]
    return f"Score 0 is the return of random actions, 100 an expert's. {'; '.join(parts)}."


def _marks(seeds: pd.Series) -> str:
    """What a mark says, where all, some or none have the seeds for a test."""
    marked = "Marked (bold, *): the highest mean of a dataset"
    few = f"Differences are tested where both have at least {LEAST} seeds; fewer say nothing about them."
    if seeds.max() < LEAST:
        return f"{marked}. {few}"
    caveat = "With fewer than ten seeds equal ones are told apart in more than the 5 of 100 cases that it promises."
    if seeds.min() < LEAST:
        return (
            f"{marked}, and every other mean whose difference from it has a 95 % bootstrap interval over seeds that "
            f"contains 0. {few} {caveat}"
        )
    return (
        f"{marked}, and all that cannot be told from it, as the 95 % bootstrap interval of the difference of means "
        f"over seeds contains 0. {caveat}"
    )


def _faults(cells: pd.DataFrame) -> list[str]:
    notes = []
    if cells["diverged"].any():
        notes.append(
            "d1/3: one replica of three diverged; it keeps its place, and the mean is – where it has no return."
        )
    if cells["failed"].any():
        notes.append("f1/3: one run of three failed and is left out; rows.csv says why.")
    late = cells[cells["unfinished"] > 0]
    if len(late):
        each = [
            f"{learner} at {span(part['reached'])} of {span(part['budget'])} updates"
            for learner, part in late.groupby("learner", sort=False)
        ]
        notes.append(
            "u1/3: one run of three is left out, as it has fewer updates than others on the same data: "
            f"{', '.join(each)}."
        )
    return notes


def _moving(cells: pd.DataFrame) -> list[str]:
    """The warning that runs were too short, with the figure of every learner that it concerns."""
    notes = []
    late = cells[cells["moving"].notna()]
    if len(late):
        parts = []
        for learner, part in late.groupby("learner", sort=False):
            largest = part["moving"].iloc[int(part["moving"].abs().to_numpy().argmax())]
            count = int((cells["learner"] == learner).sum())
            change = f"{largest:+.0%}" if math.isfinite(largest) else "no longer finite"
            parts.append(f"{learner} on {len(part)} of {count} datasets ({change})")
        notes.append(
            f"Warning: values were still moving: {', '.join(parts)}. In brackets the largest change of the mean "
            "value of the data's actions between the last two quarters of the updates, as a share of its largest "
            f"size; beyond {STILL:.0%} the run had not converged."
        )
    if ((cells["codes"] == "") & (cells["seeds"] > 0)).any():
        notes.append(
            "Rows of an older version do not say whether values had stopped moving, nor which code made them."
        )
    return notes


def _origins(cells: pd.DataFrame) -> list[str]:
    """Where rows of one column were made by several versions of the code, and how settings were found."""
    notes = []
    several = []
    for learner, part in cells.groupby("learner", sort=False):
        codes = dict.fromkeys(code for text in part["codes"] for code in text.split(", ") if code)
        if len(codes) > 1:
            several.append(f"{learner} {len(codes)}")
    if several:
        notes.append(
            f"Warning: rows of a method were made by several versions of its code: {', '.join(several)}."
        )
    records = cells.loc[cells["tuning"] != "", ["learner", "tuning"]].drop_duplicates()
    if len(records):
        tuned = [f"{line['learner']} {_search(line['tuning'])}" for line in records.to_dict("records")]
        others = set(cells["learner"]) - set(records["learner"])
        rest = " The others are the presets' and the suite's." if others else ""
        notes.append(f"Settings were tuned: {'; '.join(tuned)}.{rest}")
    return notes


def _search(record: str) -> str:
    """How settings were found, in words, from the record of a sweep; another record as it is, in brackets."""
    try:
        about = json.loads(record)
        over = ", ".join(f"{name} {_values(values)}" for name, values in about["over"].items())
        seeds = ", ".join(map(str, about["seeds"]))
        changed = f"; set {' '.join(about['set'])}" if "set" in about else ""
        return (
            f"by {about['search']} search over {over} ({about['trials']} trials of {about['updates']} updates with "
            f"seeds {seeds} on {', '.join(about['data'])}{changed})"
        )
    except (ValueError, KeyError, TypeError, AttributeError):  # a suite's file may say it in any words
        return f"({record})"


def _values(values: list[Any] | Mapping[str, Any]) -> str:
    """Those that a search tried, or the range that it drew from."""
    if isinstance(values, list):
        return ", ".join(map(str, values))
    return f"{values['low']} to {values['high']}{' on a logarithmic scale' if values['log'] else ''}"


def _seeds(cells: pd.DataFrame) -> str:
    text = span(cells["seeds"])
    return f"{text} seed" if text == "1" else f"{text} seeds"


def span(values: pd.Series) -> str:
    """The values' range, one number where all are alike."""
    low = int(values.min())
    high = int(values.max())
    return f"{low}" if low == high else f"{low} to {high}"
