"""The committed table of what died: ``tests/mutants/RESULT.md``, one row per list and one line per survivor."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.mutants import ROOT, Fault

TITLE = "# Planted faults: how many die"
NOTE = (
    "Written by `python -m tests.mutants --out tests/mutants/RESULT.md`; with `--only PATTERN` the rows of the\n"
    "other lists stay as they are. A row says at which commit, and when, its list was run."
)
HEAD = "| List | Planted | Died | Commit | Date |\n| --- | ---: | ---: | --- | --- |"
NOT_RUN = "not run"
NO_REASON = "no reason found: a test is missing"


def record(path: Path, listing: str, survivors: Sequence[Fault], counts: Mapping[str, int]) -> None:
    """Write one list's result into the table; rows of lists that are no more go.

    Args:
        path: the table; made where it is not there.
        listing: the list that was run.
        survivors: those of its faults that no test noticed.
        counts: how many faults each list that there is has.
    """
    rows, lines = _read(path)
    planted = counts[listing]
    rows[listing] = (
        f"| {listing} | {planted} | {planted - len(survivors)} | {_commit()} | {datetime.now(UTC):%Y-%m-%d} |"
    )
    lines[listing] = [_line(fault) for fault in survivors]
    kept = {name: rows.get(name, f"| {name} | {count} | {NOT_RUN} | | |") for name, count in counts.items()}
    text = _text(list(kept.values()), [line for name in kept for line in lines.get(name, ())])
    path.write_text(text, encoding="utf-8")


def left(path: Path, faults: Sequence[Fault]) -> list[Fault]:
    """Those of some faults that survived when the table was written; all of a list that has grown since or never ran.

    Args:
        path: the table.
        faults: whole lists.
    """
    rows, lines = _read(path)
    counts = Counter(fault.listing for fault in faults)
    grown = {
        name for name, count in counts.items() if not rows.get(name, "").startswith(f"| {name} | {count} | ")
    }
    grown |= {name for name, row in rows.items() if f" {NOT_RUN} " in row}
    known = {line.rpartition(" `` (")[0] for each in lines.values() for line in each}
    return [f for f in faults if f.listing in grown or _line(f).rpartition(" `` (")[0] in known]


def names(path: Path) -> list[str]:
    """The lists that the table has a row for."""
    return list(_read(path)[0])


def _read(path: Path) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The rows and the survivors' lines of a table by list; nothing where there is none."""
    rows: dict[str, str] = {}
    lines: dict[str, list[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        if line.startswith("| ") and not line.startswith(("| List ", "| --- ", "| **")):
            rows[line.split(" | ")[0].removeprefix("| ")] = line
        elif line.startswith("- "):
            lines.setdefault(line.split(":")[0].removeprefix("- "), []).append(line)
    return rows, lines


def _text(rows: Sequence[str], lines: Sequence[str]) -> str:
    """The whole table, with the sum of the lists that were run as its last row."""
    run = [row.split(" | ") for row in rows if f" {NOT_RUN} " not in row]
    planted, died = (sum(int(cells[k]) for cells in run) for k in (1, 2))
    total = f"| **all that were run** | **{planted}** | **{died} ({died / planted:.1%})** | | |"
    survivors = "\n".join(lines) or "None."
    return "\n".join([TITLE, "", NOTE, "", HEAD, *rows, total, "", "## Survivors", "", survivors, ""])


def _line(fault: Fault) -> str:
    """A survivor, with the reason."""
    return f"- {fault.listing}: `` {fault} `` ({fault.survives or NO_REASON})"


def _commit() -> str:
    """The commit of the working tree, with a plus where code or lists differ from it; a dash outside Git."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "*.py", "*.toml")
    return f"{head}{'+' if changed else ''}" if head else "-"


def _git(*command: str) -> str:
    """What Git answers; nothing where it cannot."""
    answer = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.strip()
