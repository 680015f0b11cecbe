"""Rows of a folder that belong to a suite, including parts of it that are not run now."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from marlzoo.console import counted

from .plan import expanded, runs_of
from .sources import Source, named
from .suites import Data, Learner, Suite

if TYPE_CHECKING:
    import pandas as pd


def whole(base: Suite, changed: Suite) -> Suite:
    """A suite that was changed on the command line, with the base's datasets, learners and seeds that it leaves out.

    Args:
        base: the suite as its file has it.
        changed: the same, with what the command says in place of its own.
    """
    base = expanded(base)
    changed = expanded(changed)
    data = {_dataset(entry): entry for entry in base.data} | {_dataset(e): e for e in changed.data}
    learners = {_learner(each): each for each in (*base.learners, *changed.learners)}
    seeds = dict.fromkeys((*base.seeds, *changed.seeds))
    return replace(changed, data=tuple(data.values()), learners=tuple(learners.values()), seeds=tuple(seeds))


def rows_of(rows: pd.DataFrame, suite: Suite, sources: Sequence[Source]) -> pd.DataFrame:
    """The rows of a suite's runs as it is now, in the suite's order, whichever of them ended first.

    Args:
        rows: of a folder of results.
        suite: whose runs count.
        sources: its datasets that are there. Of the others, which are named by task and quality alone, rows of any
            version count.
    """
    known = [_source(entry, sources) for entry in suite.data]
    runs = runs_of(suite, [source for source in known if source is not None])
    pairs = dict.fromkeys(
        (run.source.hash or (run.source.task, run.source.source, run.source.quality), run.config_hash)
        for run in runs
    )
    places = {pair: place for place, pair in enumerate(pairs)}
    names = zip(rows["task"], rows["source"], rows["quality"], strict=True)
    found = []
    for row, (data, name, config) in enumerate(
        zip(rows["data_hash"], names, rows["config_hash"], strict=True)
    ):
        place = places.get((data, config), places.get((name, config)))
        if place is not None:
            found.append((place, row))
    return rows.iloc[[row for _, row in sorted(found)]].reset_index(drop=True)


def left_out(rows: pd.DataFrame, kept: pd.DataFrame) -> str:
    """Why rows of a folder do not belong to a suite, counted; empty where all do.

    Args:
        rows: of a folder of results.
        kept: those of the suite, as :func:`rows_of` gives them.
    """
    pairs = set(zip(kept["data_hash"], kept["config_hash"], strict=True))
    data = {hashed for hashed, _ in pairs}
    reasons = []
    for hashed, config, error in zip(rows["data_hash"], rows["config_hash"], rows["error"], strict=True):
        if (hashed, config) in pairs:
            continue
        if isinstance(error, str) and error:
            reasons.append("of runs that failed")
        elif hashed in data:
            reasons.append("of other settings")
        else:
            reasons.append("of other data (regenerated on another processor, or by another version)")
    return ", ".join(
        f"{counted(number, 'row')} {reason}" for reason, number in sorted(Counter(reasons).items())
    )


def _source(entry: Data, sources: Sequence[Source]) -> Source | None:
    """A dataset that exists, or the known facts of a missing one; None if nothing is known."""
    for source in sources:
        if source.entry == entry:
            return source
    if entry.file or not entry.task:
        return None
    return named(entry)


def _dataset(entry: Data) -> tuple[str, str, str, str]:
    return entry.task, entry.source, entry.quality, entry.file


def _learner(learner: Learner) -> str:
    return json.dumps([learner.method, learner.preset, dict(learner.config)], sort_keys=True)
