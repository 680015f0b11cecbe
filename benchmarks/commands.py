"""The commands that made the rows of a folder, kept in ``commands.txt`` beside them, one per line."""

from __future__ import annotations

from pathlib import Path

from marlzoo.errors import DataError
from marlzoo.system.files import write_text_atomic

COMMANDS = "commands.txt"


def read_commands(folder: Path) -> list[str]:
    """The commands that made the rows of a folder; empty where that is not known.

    Raises:
        DataError: the file is damaged.
    """
    path = folder / COMMANDS
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: no list of commands ({error}); move it away, no result needs it") from error


def note_command(folder: Path, command: str) -> None:
    """Keep a command that made rows of a folder; one that is there already is not repeated.

    Raises:
        DataError: the file is damaged.
        OutputError: it cannot be written.
    """
    known = read_commands(folder)
    if command and command not in known:
        write_text_atomic(folder / COMMANDS, "\n".join([*known, command]) + "\n")
