"""What is missing of the published suites, and what it costs: ``results/rates.csv``, and sums over its lines.

    python -m marlzoo.benchmarks.reached results [--new] [SUITE ...]

measures some updates and steps of every learner on every task of the suites named (of all that are published, if none
is) and writes the seconds that a run takes; with ``--new`` only of those that have no line yet.
``python docs/readme.py`` makes the table of what is missing from it, and from the rows that are there.
"""

from __future__ import annotations

import csv
import io
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from marlzoo.errors import DataError, MissingExtraError, UnknownNameError
from marlzoo.families import task_spec
from marlzoo.system.files import write_text_atomic
from marlzoo.system.provenance import machine

from .estimate import HOUR, measure, run_seconds
from .plan import expanded, runs_of, validate
from .sources import named
from .split import torch_threads
from .suites import Data, Suite, find_suite

# Suites that are meant to be published.
PUBLISHED = (
    "mpe",
    "spread-v2",
    "tag-v2",
    "mujoco-small",
    "hopper-v2",
    "ant",
    "games",
    "smax",
    "mirage",
    "scaling",
)
FILE = "rates.csv"
NEW = "--new"
COLUMNS = ("suite", "task", "method", "variant", "seconds", "machine")
Key = tuple[str, str, str, str]
"""Suite, task, method and variant."""


def planned(suite: Suite) -> list[tuple[str, str, str, str, int]]:
    """Task, quality, method, variant and seed of every run of a suite of regenerated or computed data.

    Learners have none on tasks that they cannot run on.
    """
    suite = expanded(suite)
    return [
        (run.source.task, run.source.quality, run.learner.method, run.learner.variant, run.seed)
        for run in runs_of(suite, [named(data) for data in suite.data])
    ]


def missing(suite: Suite, done: Collection[tuple[str, str, str, str, int]]) -> dict[Key, int]:
    """How many runs of a suite are missing, by task and learner; those that miss none are left out.

    Args:
        suite: of regenerated or computed data.
        done: runs that are there, as :func:`planned` lists them.
    """
    there = set(done)
    return dict(
        Counter(
            (suite.name, task, method, variant)
            for task, quality, method, variant, seed in planned(suite)
            if (task, quality, method, variant, seed) not in there
        )
    )


def hours(counts: Mapping[Key, int], rates: Mapping[Key, float]) -> float | None:
    """Core-hours of missing runs; None where one of them was not measured."""
    if not counts.keys() <= rates.keys():
        return None
    return sum(count * rates[key] for key, count in counts.items()) / HOUR


def read(folder: Path) -> tuple[dict[Key, float], dict[Key, str]]:
    """Seconds of one core for a run of each learner on each task, and the machine that they were measured on.

    Args:
        folder: of the results; without the file nothing is known.

    Raises:
        DataError: the file has other columns, or a number of seconds is none.
    """
    path = folder / FILE
    if not path.exists():
        return {}, {}
    rates: dict[Key, float] = {}
    machines: dict[Key, str] = {}
    try:
        lines = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""), restval="")
        if tuple(lines.fieldnames or ()) != COLUMNS:
            raise DataError(f"{path}: its columns are not {', '.join(COLUMNS)}; delete it and measure again")
        for line in lines:
            key = (line["suite"], line["task"], line["method"], line["variant"])
            try:
                rates[key] = float(line["seconds"])
            except ValueError as error:
                raise DataError(f"{path}, line {lines.line_num}: {error}; measure again") from error
            machines[key] = line["machine"]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: it cannot be read ({error}); delete it and measure again") from error
    return rates, machines


def measured(suite: Suite, known: Collection[Key] = ()) -> Iterator[tuple[Key, float]]:
    """Seconds of one core for a run of every learner on every task of a suite, measured now, but for those known.

    Raises:
        MissingExtraError: a simulator is not installed.
    """
    first: dict[str, Data] = {}
    for data in suite.data:
        first.setdefault(data.task, data)
    one_seed = replace(suite, seeds=suite.seeds[:1])
    for run in runs_of(one_seed, [named(data) for data in first.values()]):
        entry = run.source.entry
        key = (suite.name, entry.task, run.learner.method, run.learner.variant)
        if key in known:
            continue
        spec = task_spec(entry.task, **entry.env)
        with torch_threads(1):
            rate = measure(suite, run.learner, entry.task, entry, spec)
        yield key, run_seconds(suite, entry, rate, spec)


def _write(folder: Path, rates: Mapping[Key, float], machines: Mapping[Key, str]) -> None:
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(COLUMNS)
    for key in sorted(rates, key=lambda key: (PUBLISHED.index(key[0]), key[1:])):
        lines.writerow([*key, f"{rates[key]:.3g}", machines[key]])
    write_text_atomic(folder / FILE, text.getvalue())


def main(arguments: Sequence[str]) -> int:
    """Measure suites and write the file into the results folder, after each of them."""
    only_new = NEW in arguments
    arguments = [argument for argument in arguments if argument != NEW]
    if not arguments:
        print(f"usage: python -m marlzoo.benchmarks.reached RESULTS [{NEW}] [SUITE ...]", file=sys.stderr)
        return 2
    folder = Path(arguments[0])
    names = arguments[1:] or PUBLISHED
    for name in names:
        if name not in PUBLISHED:
            print(UnknownNameError("published suite", name, PUBLISHED), file=sys.stderr)
            return 2
    rates, machines = read(folder)
    for name in names:
        suite = expanded(find_suite(name))
        validate(suite)
        fresh: dict[Key, float] = {}
        try:
            for key, seconds in measured(suite, rates if only_new else ()):
                print(f"{name}: {' '.join(filter(None, key[1:]))}: {seconds:.3g} seconds a run")
                fresh[key] = seconds
        except MissingExtraError as error:
            print(f"suite {name} is not measured: {error}", file=sys.stderr)
            continue
        kept = {key: value for key, value in rates.items() if only_new or key[0] != name}
        rates = kept | fresh
        machines |= dict.fromkeys(fresh, machine())
        _write(folder, rates, machines)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
