"""Lines of a CSV file that several processes append to, each with a checksum.

What is appended goes to a journal of the writer's own, ``NAME.journal/*.csv`` beside the file, and is on the disk
when :meth:`Store.append` returns: the lines that are there already are not touched. :meth:`Store.read` takes the file
and all journals together, also while others write. :meth:`Store.publish` merges the journals of finished writers into
the file, which is replaced as a whole. A kill at any moment loses nothing that was appended.

The file may be compressed (``NAME.csv.gz``), as published results are; it stays in the form that it has.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import os
import secrets
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from marlzoo.errors import DataError
from marlzoo.system.checksums import CHECKSUM, checksum
from marlzoo.system.files import atomic_write, flush, locked, output_error, try_lock, write_text_atomic

Line = tuple[str, ...]
"""Cells of a line, without the schema's number and the checksum."""

PACKED = ".gz"
LARGEST = 2**31  # bytes of a file's text; a small compressed file could unfold to more than memory holds
WORTH = 4  # journals are worth merging when they have a fourth of the file's size


def _unknown(path: Path, header: Sequence[str]) -> str | None:
    """Knows no other columns; a function of the module, so that a format can be sent to another process."""
    return None


@dataclass(frozen=True)
class Format:
    """What the lines are.

    Args:
        schema: number of the columns' version, the first cell of every line.
        columns: names of the cells between it and the checksum.
        merge: lines in the order in which they were appended, without those that later ones replace.
        remedy: what to do about a file that cannot be read.
        explain: for the header of a file with other columns, what it is and what to do; None: not known.
        later: how many of the last columns older files lack; there they are read as empty.
    """

    schema: int
    columns: Line
    merge: Callable[[Iterable[Line]], list[Line]]
    remedy: str
    explain: Callable[[Path, Sequence[str]], str | None] = _unknown
    later: int = 0

    @property
    def header(self) -> Line:
        """The first line of a file."""
        return ("schema", *self.columns, CHECKSUM)

    def lacking(self, header: Sequence[str]) -> int | None:
        """How many of the last columns a file with this header lacks; None: it has others."""
        for lacking in range(self.later + 1):
            if tuple(header) == ("schema", *self.columns[: len(self.columns) - lacking], CHECKSUM):
                return lacking
        return None


class Store:
    """The lines in one file and its journals.

    Args:
        path: the CSV file; need not exist yet, or may be there compressed under this name and ``.gz``.
        form: of its lines.
    """

    def __init__(self, path: Path, form: Format) -> None:
        self.path = path
        self._form = form
        self.packed = path.with_name(path.name + PACKED)
        self.folder = path.with_name(f"{path.stem}.journal")
        self._journal: _Journal | None = None

    def exists(self) -> bool:
        """Whether anything was appended or published."""
        return self.path.exists() or self.packed.exists() or bool(self._journals())

    def append(self, lines: Sequence[Line]) -> None:
        """Add lines; they are on the disk when this returns.

        Raises:
            OutputError: they cannot be written; what was there is as it was.
        """
        if not lines:
            return
        if self._journal is None:
            with locked(self.path):  # nobody takes the new journal for one that was left behind
                self._journal = _Journal(self.folder, _text([self._form.header]))
        self._journal.append(_text(self._complete(lines)))

    def read(self) -> list[Line]:
        """All lines, those that later ones replace left out.

        Raises:
            DataError: a file is no such file, or was cut or edited; the text names the line.
        """
        journals = [line for path in self._journals() for line in self._parse(path)]
        # The file is read last: what is merged meanwhile is then found there.
        return self._form.merge([*self._parse(), *journals])

    def faults(self) -> list[str]:
        """Every line of the file and of its journals that is damaged, a text each; empty where all are sound."""
        found: list[str] = []
        for path in (None, *self._journals()):
            try:
                for place, cells, lacking in self._records(path):
                    try:
                        self._checked(place, cells, lacking)
                    except DataError as error:
                        found.append(str(error))
            except DataError as error:  # what follows cannot be told apart
                found.append(str(error))
        return found

    def publish(self, *, lazy: bool = False) -> None:
        """Merge the journals of finished writers, this one included, into the file.

        Args:
            lazy: only where there is much to merge, so that the cost stays in proportion.

        Raises:
            DataError: a file is broken.
            OutputError: it cannot be written.
        """
        self.close()
        journals = self._journals()
        if not journals or (lazy and WORTH * _size(journals) < _size([self.path, self.packed])):
            return
        with locked(self.path), _finished(self._journals()) as finished:
            lines = [line for path in (None, *finished) for line in self._parse(path)]
            self.overwrite(self._form.merge(lines))
            _delete(finished, self.folder)

    def remove(self, unwanted: Callable[[Line], bool]) -> list[Line]:
        """Take lines out; returns them.

        Raises:
            DataError: a file is broken, or another process is just writing such lines.
            OutputError: it cannot be written.
        """
        self.publish()
        with locked(self.path):
            self._require_written(unwanted)
            lines = self._parse()
            out = [line for line in lines if unwanted(line)]
            if out:
                self.overwrite([line for line in lines if not unwanted(line)])
        return out

    def require_written(self, unwanted: Callable[[Line], bool]) -> None:
        """Find out whether :meth:`remove` can take lines out.

        Raises:
            DataError: a file is broken, or another process is just writing such lines.
            OutputError: it cannot be written.
        """
        self.publish()
        with locked(self.path):
            self._require_written(unwanted)

    def _require_written(self, unwanted: Callable[[Line], bool]) -> None:
        if any(unwanted(line) for path in self._journals() for line in self._parse(path)):
            raise DataError(
                f"{self.path}: another process is writing these lines; wait until it has finished"
            )

    def close(self) -> None:
        """End this writer's journal, so that it can be merged."""
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _journals(self) -> list[Path]:
        """All journals, the oldest first."""
        return sorted(self.folder.glob("*.csv"))

    def overwrite(self, lines: Sequence[Line]) -> None:
        """Replace the file as one step.

        Raises:
            OutputError: it cannot be written; it is left as it was.
        """
        path, _ = self._found()
        _write(path, _text([self._form.header, *self._complete(lines)]))
        if path == self.path:  # what a kill while the form changed left behind
            self.packed.unlink(missing_ok=True)

    def compress(self, wanted: bool = True) -> bool:
        """Bring the file into its compressed form, or back; returns whether it was in the other one.

        Raises:
            DataError: it is broken, or both are there with different lines.
            OutputError: it cannot be written; it is left as it was.
        """
        self.publish()
        before, after = (self.path, self.packed) if wanted else (self.packed, self.path)
        with locked(self.path):
            if not before.exists():
                return False
            self._parse()  # damage is named now, and not when the other form is read
            _, text = self._found()
            _write(after, text or "")
            before.unlink()  # last: a kill leaves both, with the same lines
        return True

    def _complete(self, lines: Iterable[Line]) -> Iterator[Line]:
        for line in lines:
            cells = (str(self._form.schema), *line)
            yield (*cells, checksum(cells))

    def _found(self) -> tuple[Path, str | None]:
        """The existing file, plain or compressed, and its text; None if there is none."""
        for path in (self.path, self.packed, self.path):  # twice: it may be changing its form just now
            text = _read(path, self._form.remedy)
            if text is not None:
                break
        else:
            return self.path, None
        if path == self.path and self.packed.exists() and _read(self.packed, self._form.remedy) != text:
            raise DataError(
                f"{self.path}: {self.packed.name} beside it has other lines; move the older one away"
            )
        return path, text

    def _parse(self, journal: Path | None = None) -> list[Line]:
        """Lines of a journal or of the file; empty if it does not exist."""
        return [self._checked(*record) for record in self._records(journal)]

    def _records(self, journal: Path | None) -> Iterator[tuple[str, list[str], int]]:
        """Place and cells of every line, not compared with its checksum yet, and how many of the last it lacks."""
        path, text = self._found() if journal is None else (journal, _read(journal, self._form.remedy))
        if text is not None and journal:  # what a kill cut off was never said to be written
            text = text[: text.rfind("\n") + 1] or None
        if text is None:
            return
        if not text.endswith("\n"):
            raise DataError(f"{path}: the last line is not complete, the file was cut; {self._form.remedy}")
        reader = csv.reader(io.StringIO(text), strict=True)
        try:
            lacking = self._require_header(path, next(reader))
            for cells in reader:
                yield f"{path}, line {reader.line_num}", cells, lacking
        except csv.Error as error:
            place = f"{path}, line {reader.line_num}"
            raise DataError(f"{place}: not valid CSV ({error}); {self._form.remedy}") from error

    def _require_header(self, path: Path, header: Sequence[str]) -> int:
        """How many of the last columns the file lacks."""
        lacking = self._form.lacking(header)
        if lacking is not None:
            return lacking
        known = self._form.explain(path, header)
        if known is None:
            missing = [name for name in self._form.header if name not in header]
            wrong = f"column {missing[0]!r} is missing" if missing else "it has other columns"
            known = f"it is not a file of this kind: {wrong}; {self._form.remedy}"
        raise DataError(f"{path}: {known}")

    def _checked(self, place: str, cells: Sequence[str], lacking: int) -> Line:
        expected = len(self._form.header) - lacking
        if len(cells) != expected:
            raise DataError(f"{place}: {len(cells)} cells instead of {expected}; {self._form.remedy}")
        if cells[-1] != checksum(cells[:-1]):
            raise DataError(f"{place}: damaged, its checksum is not that of its cells; {self._form.remedy}")
        if cells[0] != str(self._form.schema):
            raise DataError(
                f"{place}: schema {cells[0]}, this version reads {self._form.schema}; update marlzoo"
            )
        return (*cells[1:-1], *[""] * lacking)


class _Journal:
    """A file that one process appends to, and holds a lock on while it lives."""

    def __init__(self, folder: Path, header: str) -> None:
        self.path = folder / f"{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(3)}.csv"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file: IO[bytes] = open(self.path, "xb", buffering=0)  # noqa: SIM115
        except OSError as error:
            raise output_error(self.path, error) from error
        try_lock(self._file)
        self._end = 0
        self.append(header)
        with contextlib.suppress(OSError):  # some file systems refuse to flush a folder
            flush(folder)

    def append(self, text: str) -> None:
        data = text.encode()
        try:
            written = self._file.write(data)
            if written != len(data):  # the disk is full, as the next write would tell
                self._file.write(data[written:])
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise output_error(self.path, error) from error
        self._end += len(data)

    def close(self) -> None:
        self._file.close()


def _text(lines: Iterable[Sequence[str]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _read(path: Path, remedy: str) -> str | None:
    """A file's text; None where there is none."""
    try:
        return content(path).decode()  # line ends as they are
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        file = next(place for place in path.parents if place.is_file())
        raise DataError(f"{file} is a file; name a folder for the results") from None
    except (OSError, UnicodeDecodeError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read {path}: {error}; {remedy}") from error


def content(path: Path) -> bytes:
    """The bytes of a file, or those that a compressed one holds.

    Raises:
        OSError, EOFError, zlib.error: it cannot be read, is damaged, or holds more than ``LARGEST`` bytes.
    """
    if path.suffix != PACKED:
        return path.read_bytes()
    with gzip.open(path) as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise OSError(f"it unfolds to more than {LARGEST} bytes")
    return data


def _write(path: Path, text: str) -> None:
    """Write a file as one step, compressed if its name says so; the same text gives the same bytes."""
    if path.suffix != PACKED:
        write_text_atomic(path, text)
        return
    with atomic_write(path) as temporary:
        temporary.write_bytes(gzip.compress(text.encode(), mtime=0))


def _size(paths: Sequence[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.exists())


@contextlib.contextmanager
def _finished(journals: Sequence[Path]) -> Iterator[list[Path]]:
    """Journals whose writers have ended, locked for merging until the block ends."""
    with contextlib.ExitStack() as stack:
        found = []
        for path in journals:
            # Windows gives no name, not even its own, to a file that somebody has open.
            if sys.platform == "win32":
                with contextlib.suppress(OSError):
                    os.rename(path, path)
                    found.append(path)
                continue
            file = stack.enter_context(open(path, "r+b"))
            if try_lock(file):
                found.append(path)
        yield found


def _delete(journals: Sequence[Path], folder: Path) -> None:
    for path in journals:
        with contextlib.suppress(OSError):  # merging it once more changes nothing
            path.unlink()
    with contextlib.suppress(OSError):  # others are still writing there
        folder.rmdir()
