"""Two sets of results, line by line: what became of the first ones in the second?

Lines are matched by what was asked for (task, data and learner by name) and not by hashes: where the contents of the
data, the settings or the code differ, the notes say so. Both sides count with the last checkpoint that both have.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from marlzoo.console import counted
from marlzoo.errors import DataError

from .captions import span
from .labels import labels_of
from .sheet import Sheet
from .stats import LEAST, Floats, difference
from .summary import DATASET, last, with_one_name
from .tables import decimals, estimate, number

EQUAL = "equal"
ALIKE = "not told apart"
HIGHER = "higher"
LOWER = "lower"
UNTESTED = "not tested"
FIRST = "only in the first"
SECOND = "only in the second"
APART = "no common checkpoint"
_BOTH = (EQUAL, ALIKE, HIGHER, LOWER, UNTESTED)
RESULTS = (*_BOTH, APART, FIRST, SECOND)

_LINE = [*DATASET, "method", "variant"]
_SIDES = ("first", "second")
_CONTENTS = (("data_hash", "contents of the data"), ("code", "code"), ("machine", "machine"))


@dataclass(frozen=True)
class Compared:
    """Two sets of results, compared.

    Attributes:
        lines: one per dataset and learner, with the columns ``dataset``, ``learner``, ``updates`` (of the checkpoint
            that is compared), ``seeds_first``, ``seeds_second``, ``mean_first``, ``std_first``, ``mean_second``,
            ``std_second``, ``difference`` (second less first), ``low`` and ``high`` (95 % bootstrap interval over
            seeds; NaN where a side has fewer than three) and ``result``, one of :data:`RESULTS`.
        notes: in what the two differ beside their returns.
    """

    lines: pd.DataFrame
    notes: list[str]

    def sheet(self, first: str, second: str) -> Sheet:
        """The table for people: the lines that both sides have, with notes about the others."""
        sheet = Sheet(
            f"{first} and {second}", ["dataset, learner", "first", "second", "difference", "result"], []
        )
        for line in self.lines[self.lines["result"].isin(_BOTH)].to_dict("records"):
            digits = decimals([line["mean_first"], line["mean_second"]])
            means = (number(line[f"mean_{side}"], digits) for side in _SIDES)
            apart = estimate((line["difference"], line["low"], line["high"]), digits)
            sheet.body.append([f"{line['dataset']}, {line['learner']}", *means, apart, line["result"]])
        sheet.notes = [self._meaning(first, second), *self._others(), *self.notes]
        return sheet

    def _meaning(self, first: str, second: str) -> str:
        counts = self.lines["result"].value_counts()
        found = ", ".join(f"{counts[name]} {name}" for name in RESULTS if name in counts)
        both = self.lines[self.lines["result"].isin(_BOTH)]
        over = after = ""
        if len(both):
            over = " (" + ", ".join(f"{side} {span(both['seeds_' + side])}" for side in _SIDES) + ")"
            after = f" ({span(both['updates'])})"
        return (
            f"First: {first}. Second: {second}. Of {counted(len(self.lines), 'line')}: {found}. Mean returns over "
            f"seeds{over} after the most updates that both have{after}; difference: second less first, in brackets "
            "its 95 % bootstrap interval over seeds. equal: the same seeds, and every return the same. higher, "
            f"lower: the interval excludes 0. not tested: a side has fewer than {LEAST} seeds, or a return that is "
            "not finite."
        )

    def _others(self) -> Iterator[str]:
        """The lines that cannot be compared, by learner."""
        for result in (APART, FIRST, SECOND):
            found = self.lines[self.lines["result"] == result].groupby("learner", sort=False)["dataset"]
            each = [f"{learner} ({', '.join(datasets)})" for learner, datasets in found]
            if each:
                yield f"{result[0].upper()}{result[1:]}: {'; '.join(each)}."


def compare(first: pd.DataFrame, second: pd.DataFrame) -> Compared:
    """Compare two sets of result rows.

    Args:
        first: rows of results, see :func:`marlzoo.benchmarks.summary.read`; runs that failed are left out.
        second: those that are compared with them.

    Raises:
        DataError: no run of either side has a result.
    """
    both = pd.concat(
        [rows[rows["error"] == ""].assign(side=k) for k, rows in enumerate((first, second))],
        ignore_index=True,
    )
    if both.empty:
        raise DataError("no run of either has a result; the column error of their rows.csv says why")
    # Names must not depend on what may differ between the sides.
    names = with_one_name(both.assign(suite="", data_hash=""))
    labels = labels_of(names.assign(config_hash=""))
    both = both.assign(variant=names["variant"], dataset=labels.datasets, learner=labels.learners)
    lines = [
        {"dataset": part["dataset"].iloc[0], "learner": part["learner"].iloc[0], **_line(part)}
        for _, part in both.groupby(_LINE, sort=False)
    ]
    notes = [*_failed(first, second), *_repeated(both), *labels.notes, *_differences(both)]
    return Compared(pd.DataFrame(lines), notes)


def _failed(*sides: pd.DataFrame) -> Iterator[str]:
    """The runs that have no result, and so stand on no line."""
    for name, rows in zip(_SIDES, sides, strict=True):
        found = last(rows)
        methods = found.loc[found["error"] != "", "method"]
        if len(methods):
            which = ", ".join(
                f"{method} {count}" for method, count in methods.value_counts(sort=False).items()
            )
            yield f"Failed in the {name}, and left out: {counted(len(methods), 'run')} ({which})."


def _repeated(both: pd.DataFrame) -> Iterator[str]:
    """Lines for which a side has several runs of one seed, which names do not tell apart."""
    found = both[both.duplicated([*_LINE, "side", "seed", "updates"])]
    each = [
        f"{learner} ({', '.join(dict.fromkeys(part['dataset']))})"
        for learner, part in found.groupby("learner")
    ]
    if each:
        yield (
            "Warning: a side has several runs of one seed, with other data, settings or suites under the same names; "
            f"the last of them counts: {'; '.join(each)}."
        )


def _line(part: pd.DataFrame) -> dict[str, Any]:
    """The numbers of one dataset and learner."""
    sides = [part[part["side"] == k] for k in range(2)]
    common = set(sides[0]["updates"]) & set(sides[1]["updates"])
    # Where one side is missing the other one is shown with its last checkpoints.
    updates = max(common, default=int(part["updates"].max()))
    chosen = [_at(rows, updates if common else None) for rows in sides]
    x, y = (rows["mean_return"].to_numpy(dtype=np.float64) for rows in chosen)
    low, high = difference(y, x) if common else (math.nan, math.nan)
    found: dict[str, Any] = {"updates": updates}
    found |= {f"seeds_{name}": len(values) for name, values in zip(_SIDES, (x, y), strict=True)}
    for name, values in zip(_SIDES, (x, y), strict=True):
        found |= {f"mean_{name}": _mean(values), f"std_{name}": _spread(values)}
    found |= {"difference": _mean(y) - _mean(x), "low": low, "high": high}
    return found | {"result": _result(chosen, low, high) if common else _absent(*sides)}


def _at(rows: pd.DataFrame, updates: int | None) -> pd.DataFrame:
    """The rows with so many updates, or each run's last one."""
    found = last(rows) if updates is None else rows[rows["updates"] == updates]
    return found.drop_duplicates("seed", keep="last")


def _result(chosen: Sequence[pd.DataFrame], low: float, high: float) -> str:
    """What is known of the difference, second less first, with its interval."""
    sides = [rows.set_index("seed")["mean_return"].sort_index() for rows in chosen]
    if sides[0].equals(sides[1]):
        return EQUAL
    if not math.isfinite(low):
        return UNTESTED
    if low <= 0.0 <= high:
        return ALIKE
    return HIGHER if low > 0.0 else LOWER


def _absent(first: pd.DataFrame, second: pd.DataFrame) -> str:
    if first.empty:
        return SECOND
    return FIRST if second.empty else APART


def _mean(values: Floats) -> float:
    return float(values.mean()) if len(values) else math.nan


def _spread(values: Floats) -> float:
    return float(values.std(ddof=1)) if len(values) > 1 else math.nan


def _differences(both: pd.DataFrame) -> Iterator[str]:
    """In what lines of both sides differ beside their returns."""
    lines = [
        (part["dataset"].iloc[0], part["learner"].iloc[0], part)
        for _, part in both.groupby(_LINE, sort=False)
    ]
    for column, what in _CONTENTS:
        apart = [(dataset, learner) for dataset, learner, part in lines if _differ(part, column)]
        named = {"data_hash": [d for d, _ in apart], "code": [name for _, name in apart]}.get(column, [])
        if apart:
            where = f": {', '.join(dict.fromkeys(named))}" if named else ""
            yield f"Not the same {what} on {counted(len(apart), 'line')}{where}."
    settings = {learner: text for _, learner, part in lines if (text := _settings(part))}
    if settings:
        yield f"Other settings: {'; '.join(f'{name} ({text})' for name, text in settings.items())}."


def _differ(part: pd.DataFrame, column: str) -> bool:
    sides = [set(part.loc[part["side"] == k, column]) for k in range(2)]
    return sides[0] != sides[1] and all(any(side) for side in sides)  # older rows do not say it


def _settings(part: pd.DataFrame) -> str:
    """The settings in which the two sides differ, with both values."""
    found = [_configs(part.loc[part["side"] == k, "config"]) for k in range(2)]
    if not all(found):
        return ""
    names = [name for name in {**found[0], **found[1]} if found[0].get(name) != found[1].get(name)]
    return ", ".join(f"{name} {found[0].get(name)} and {found[1].get(name)}" for name in names)


def _configs(texts: Iterable[str]) -> dict[str, Any]:
    """The settings of the last row that says them; empty where none does."""
    said = [text for text in texts if text]
    settings: dict[str, Any] = json.loads(said[-1]) if said else {}
    return settings
