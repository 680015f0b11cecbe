"""Puts a comparison table between the marks in README.md: ``python -m marlzoo.benchmarks.readme README TABLE``."""

from __future__ import annotations

import sys
from pathlib import Path

from marlzoo.errors import DataError, MarlzooError
from marlzoo.files import write_text_atomic

BEGIN, END = "<!-- demo table", "<!-- end of demo table -->"


def split(text: str) -> tuple[str, str, str]:
    """What stands before, between and after the marks.

    Raises:
        DataError: a mark is missing.
    """
    first, last = text.find(BEGIN), text.find(END)
    if first < 0 or last < first:
        raise DataError(f"README: the marks {BEGIN!r} ... and {END!r} are missing; put them back")
    start = text.index("\n", first) + 1
    return text[:start], text[start:last], text[last:]


def comparison(table: str) -> str:
    """The first table of ``table.md`` with its notes, without its title."""
    first = table.split("\n## ")[0]
    return first.partition("\n")[2].strip() + "\n"


def fill(readme: Path, table: Path) -> None:
    """Replace what stands between the marks.

    Raises:
        DataError: no such table, or no marks.
    """
    if not table.exists():
        raise DataError(f"{table}: no such table; run 'make demo' first")
    before, _, after = split(readme.read_text(encoding="utf-8"))
    write_text_atomic(readme, before + comparison(table.read_text(encoding="utf-8")) + after)


if __name__ == "__main__":
    try:
        fill(Path(sys.argv[1]), Path(sys.argv[2]))
    except MarlzooError as error:
        sys.exit(f"marlzoo: error: {error}")
