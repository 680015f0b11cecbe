"""The committed table of what died: ``tests/mutants/RESULT.md``, one row per list and one line per survivor."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.mutants import ROOT, Fault

TITLE = "# Planted faults: how many die"
NOTE = (
    "Written by `python -m tests.mutants --out tests/mutants/RESULT.md`; with `--only PATTERN` the rows of the\n"
    "other lists stay as they are. A row says at which commit, and when, its list was run."
)
HEAD = "| List | Planted | Died | Commit | Date |\n| --- | ---: | ---: | --- | --- |"
NO_REASON = "no reason found: a test is missing"


def record(path: Path, listing: str, planted: int, survivors: Sequence[Fault], lists: Sequence[str]) -> None:
    """Write one list's result into the table; rows of lists that are no more go.

    Args:
        path: the table; made where it is not there.
        listing: the list that was run.
        planted: how many faults it has.
        survivors: those that no test noticed.
        lists: names of all lists that there are.
    """
    rows, lines = _read(path)
    rows[listing] = (
        f"| {listing} | {planted} | {planted - len(survivors)} | {_commit()} | {datetime.now(UTC):%Y-%m-%d} |"
    )
    lines[listing] = [f"- {listing}: {_code(fault)} ({fault.survives or NO_REASON})" for fault in survivors]
    kept = [name for name in sorted(rows) if name in lists]
    path.write_text(
        _text([rows[name] for name in kept], [line for name in kept for line in lines.get(name, ())])
    )


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
    """The whole table, with the sum as its last row."""
    counts = [[int(cell) for cell in row.split(" | ")[1:3]] for row in rows]
    planted, died = (sum(column) for column in zip(*counts, strict=True))
    total = f"| **all** | **{planted}** | **{died} ({died / planted:.1%})** | | |"
    survivors = "\n".join(lines) or "None."
    return "\n".join([TITLE, "", NOTE, "", HEAD, *rows, total, "", "## Survivors", "", survivors, ""])


def _code(fault: Fault) -> str:
    """The change on one line, as code."""
    return f"`` {fault} ``"


def _commit() -> str:
    """The commit of the working tree, with a plus where code or lists differ from it; a dash outside Git."""
    head = _git("rev-parse", "--short", "HEAD")
    changed = _git("status", "--porcelain", "--", "*.py", "*.toml")
    return f"{head}{'+' if changed else ''}" if head else "-"


def _git(*command: str) -> str:
    """What Git answers; nothing where it cannot."""
    answer = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stdout.strip()
