"""What a suite still costs: printed before anything is trained, for ``--dry-run`` and ``--hours``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from marlzoo.benchmarks.estimate import Cost
    from marlzoo.benchmarks.suites import Suite


def shown_costs(suite: Suite, out: Path, console: Console, rerun: Iterable[str] = ()) -> list[Cost]:
    """Measure what is missing of a suite, print it, and return it, one part per dataset.

    Args:
        suite: with its learners and datasets, expanded.
        out: folder of the results.
        console: where tables are printed; progress goes to stderr.
        rerun: methods whose runs count as missing.
    """
    from marlzoo.benchmarks import estimate
    from marlzoo.benchmarks.plan import validate
    from marlzoo.benchmarks.styles import terminal
    from marlzoo.console import console as plain_console

    validate(suite)
    tell = plain_console(stderr=True, highlight=False).print
    found: list[Cost] = estimate.costs(suite, out, tell, rerun=set(rerun))
    for sheet in estimate.sheets(suite, found):
        console.print(terminal(sheet))
    for line in estimate.lacking(found):  # commands are copied: only the terminal may break them
        console.print(f"{line}\n", soft_wrap=True, markup=False, highlight=False)
    return found


def costs_json(found: Sequence[Cost], left: Sequence[Cost] = ()) -> str:
    """The costs as JSON; ``left``: those that do not fit in the given hours."""
    return json.dumps([_record(cost, cost in left) for cost in found], indent=2)


def _record(cost: Cost, left_out: bool) -> dict[str, Any]:
    """Remaining cost of a dataset of a suite as plain values; ``left_out``: it does not fit in the given hours."""
    missing = sum(cost.missing.values())
    about = {
        "dataset": cost.label,
        "there": cost.there,
        "bytes": cost.bytes,
        "runs": cost.runs,
        "missing": missing,
    }
    hours = cost.hours if cost.measured else None
    more = {"checkpoint_bytes": cost.checkpoints, "hours": hours, "lacks": list(cost.lacks)}
    return {**about, **more, "left_out": left_out}
