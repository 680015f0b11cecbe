"""Safe printing of foreign text on a terminal or in Markdown: no markup, emoji codes or control characters."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

# Everything that steers a terminal or reorders text; line breaks and tabs only lay it out.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def visible(text: object) -> str:
    """A value's text with control characters shown as escapes, ``\\x1b`` for that which begins commands."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


class _Stderr(logging.Handler):
    """Writes to the current stderr, unless the program has configured logging itself."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one message."""
        if not logging.getLogger().handlers and sys.stderr is not None:
            print(visible(self.format(record)), file=sys.stderr, flush=True)


def inform(text: str) -> None:
    """A message about notable events, at level INFO of the logger ``marlzoo``.

    It appears on stderr unless the program has configured logging, or given this logger a higher level.
    """
    logger = logging.getLogger("marlzoo")
    if not logger.handlers:
        logger.addHandler(_Stderr())
        if logger.level == logging.NOTSET:  # else the root's would hide it
            logger.setLevel(logging.INFO)
    logger.info("%s", text)


def counted(count: int, name: str) -> str:
    """``1 run``, ``1,200 runs``."""
    return f"{count:,} {name}" if count == 1 else f"{count:,} {name}s"


def shortened(text: str, width: int) -> str:
    """``text`` in at most ``width`` columns, shortened in the middle, because names differ at their ends."""
    if len(text) <= width:
        return text
    end = width // 2
    return f"{text[: width - 1 - end]}…{text[len(text) - end :]}"


def markdown_cell(text: object) -> str:
    """A value's text for a cell of a Markdown table, with markup and HTML escaped."""
    return re.sub(r"[\\|`<]|\](?=[(\[])", r"\\\g<0>", " ".join(visible(text).splitlines()))


def console(**options: Any) -> Console:
    """A console of rich that takes ``[brackets]`` and ``:colons:`` for what they are; options as rich's.

    Where nobody reads what it writes, it raises BrokenPipeError, as ``print`` does; rich's would end the process.
    """
    from rich.console import Console

    class Plain(Console):
        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return Plain(markup=False, emoji=False, **options)


def escaped(text: object) -> str:
    """A description for rich's progress bars, which read markup whatever the console says."""
    from rich.markup import escape

    return escape(visible(text))
