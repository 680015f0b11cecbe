"""Write ``results/STATE.md``: which runs of every suite are there, and what the others cost.

    python -m marlzoo.benchmarks.reached results

The hours come from :mod:`marlzoo.benchmarks.estimate`, measured while this runs.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from marlzoo.errors import MissingExtraError
from marlzoo.system.files import write_text_atomic

from .estimate import MEGABYTE, Cost, Rate, costs
from .plan import expanded, validate
from .sheet import Sheet
from .split import cores
from .styles import markdown
from .suites import SUITES, Suite

# Those that are meant to be published.
PUBLISHED = ("mpe", "spread-v2", "mujoco-small", "hopper-v2", "games", "smax", "mirage", "scaling")
HEADER = ["suite", "datasets", "learners", "seeds", "updates", "runs", "missing", "hours", "disk"]
ABOUT = """# State of the suites

Every folder that a suite's command names can be removed and is then made again. A suite resumes where it stopped:
`marlzoo bench SUITE --hours H` does the cheapest datasets that fit in H hours with all learners and seeds, so that
tables stay rectangular, and `marlzoo bench SUITE --dry-run` shows what is missing.
"""


def line(suite: Suite, found: Sequence[Cost]) -> list[str]:
    """Finished and missing runs of one suite, as a line."""
    updates = sorted({suite.updates_on(data) for data in suite.data})
    disk = sum(cost.checkpoints + (0 if cost.there else cost.bytes) for cost in found) / MEGABYTE
    return [
        f"`marlzoo bench {suite.name}`",
        str(len(suite.data)),
        str(len(suite.learners)),
        str(len(suite.seeds)),
        " or ".join(f"{number:,}" for number in updates),
        str(sum(cost.runs for cost in found)),
        str(sum(sum(cost.missing.values()) for cost in found)),
        f"{sum(cost.hours for cost in found):.1f}",
        f"{disk:.0f} MB",
    ]


def text(lines: Mapping[str, list[str]]) -> str:
    """The file, with a line for every published suite."""
    body = [lines.get(name) or [f"`marlzoo bench {name}`", *[""] * (len(HEADER) - 1)] for name in PUBLISHED]
    notes = [
        f"hours: of this machine's {cores()} cores for the missing runs, each busy with runs of its own; measured "
        "uncompiled for some seconds, episodes at full length. disk: data and states of the missing runs. Without "
        "numbers: not measured here, `--dry-run` does.",
        "Made by `python -m marlzoo.benchmarks.reached results`.",
    ]
    return f"{ABOUT}\n{markdown(Sheet('What is there, and what the rest costs', HEADER, body, notes=notes))}"


def main(arguments: Sequence[str]) -> int:
    """Measure every published suite and write the file into the results folder, after each of them."""
    if len(arguments) != 1:
        print("usage: python -m marlzoo.benchmarks.reached RESULTS", file=sys.stderr)
        return 2
    out = Path(arguments[0])
    rates = dict[str, Rate]()
    lines: dict[str, list[str]] = {}
    for name in PUBLISHED:
        suite = expanded(SUITES[name])
        validate(suite)
        try:
            lines[name] = line(suite, costs(suite, out, print, rates))
        except MissingExtraError as error:
            print(f"suite {name} is not measured: {error}", file=sys.stderr)
        write_text_atomic(out / "STATE.md", text(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
