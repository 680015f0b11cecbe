"""Puts tables between their marks in README.md: ``python -m marlzoo.benchmarks.readme README TABLE...``.

The marks of a table carry the name of its folder: ``results/demo/table.md`` goes between ``<!-- demo table`` and
``<!-- end of demo table -->``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from marlzoo.errors import DataError, MarlzooError
from marlzoo.system.files import write_text_atomic


def split(text: str, name: str = "demo") -> tuple[str, str, str]:
    """What stands before, between and after the marks of a table.

    Raises:
        DataError: a mark is missing.
    """
    begin, end = f"<!-- {name} table", f"<!-- end of {name} table -->"
    first, last = text.find(begin), text.find(end)
    if first < 0 or last < first:
        raise DataError(f"README: the marks {begin!r} ... and {end!r} are missing; put them back")
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
        raise DataError(f"{table}: no such table; the README says which command makes it")
    before, _, after = split(readme.read_text(encoding="utf-8"), table.parent.name)
    write_text_atomic(readme, before + comparison(table.read_text(encoding="utf-8")) + after)


if __name__ == "__main__":
    try:
        for table in sys.argv[2:]:
            fill(Path(sys.argv[1]), Path(table))
    except MarlzooError as error:
        sys.exit(f"marlzoo: error: {error}")
