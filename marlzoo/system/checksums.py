"""CSV files whose lines carry a checksum each, in a last column of that name."""

from __future__ import annotations

import csv
import io
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from marlzoo.errors import DataError

CHECKSUM = "checksum"
_DIGITS = re.compile("[0-9a-f]{8}")


def checksum(cells: Sequence[str]) -> str:
    """CRC-32 of a line's cells, eight hexadecimal digits; it sees every change of up to 32 neighboring bits."""
    return f"{zlib.crc32(chr(31).join(cells).encode()):08x}"


def line_checksum(columns: Sequence[str], cells: Sequence[str]) -> str:
    """Checksum of a line together with the names of its columns, for files without another check of those."""
    return checksum((*columns, *cells))


def faults(path: Path) -> list[str]:
    """Every damaged line of a file whose lines have checksums of :func:`line_checksum`, a text each.

    An incomplete last line is no fault: the file's writer may be at it, or may have been killed.
    """
    try:
        header, lines = _split(path)
    except DataError as error:
        return [str(error)]
    found = [f"{path}, line {number}: {what}" for number, what in _faults(header, lines)]
    if header[-1:] != [CHECKSUM] or len(found) == len(lines) > 1:
        return [f"{path}, line 1: damaged, the names of its columns are not those of the lines' checksums"]
    return found


def has_checksums(path: Path) -> bool:
    """Whether a file's lines have checksums; a damaged bit does not matter. True if it cannot be read."""
    try:
        header, lines = _split(path)
    except DataError:
        return True
    return _checked(header, lines)


def require_sound(path: Path) -> None:
    """Refuse a damaged file; one without checksums, or none at all, passes.

    Raises:
        DataError: with its first damaged line.
    """
    if path.exists() and has_checksums(path) and (found := faults(path)):
        raise DataError(f"{found[0]}; move it away")


def _checked(header: Sequence[str], lines: Sequence[Sequence[str]]) -> bool:
    named = header[-1:] == [CHECKSUM]
    return named or any(_DIGITS.fullmatch(line[-1]) for line in lines if line)


def _split(path: Path) -> tuple[list[str], list[list[str]]]:
    """Columns and lines; a last line that is not complete is left out."""
    try:
        text = path.read_bytes().decode()
        header, *lines = list(csv.reader(io.StringIO(text))) or [[]]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: it cannot be read ({error})") from error
    whole = bool(lines and header) and len(lines[-1]) == len(header) and len(lines[-1][-1]) >= 8
    if lines and not text.endswith("\n") and not whole:
        lines.pop()
    return header, lines


def _faults(header: Sequence[str], lines: Sequence[Sequence[str]]) -> Iterator[tuple[int, str]]:
    columns = header[:-1]
    for number, cells in enumerate(lines, 2):
        if len(cells) != len(header):
            yield number, f"{len(cells)} cells instead of {len(header)}"
        elif cells[-1] != line_checksum(columns, cells[:-1]):
            yield number, "damaged, its checksum is not that of its cells"
