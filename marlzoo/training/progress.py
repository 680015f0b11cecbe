"""Progress bars of long loops in the package itself, such as trainings started from Python."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from marlzoo.console import console, escaped, visible

if TYPE_CHECKING:
    from rich.progress import Progress

PERIOD = 60.0  # seconds between two lines where no bar can move, in a notebook for instance


class ProgressBar:
    """Called with the updates, or other steps, that are done; shows them on stderr.

    On a terminal a bar moves, with the time left. Elsewhere a line with date and time appears once a minute.

    Args:
        label: what is done.
        done: how many updates, or others, are done at the start.
        total: how many there are.
        unit: what is counted.
    """

    def __init__(self, label: str, done: int, total: int, unit: str = "updates") -> None:
        self._label = label
        self._total = total
        self._unit = unit
        self._told = time.monotonic()
        self._bars: Progress | None = None
        if sys.stderr is not None and sys.stderr.isatty():  # elsewhere rich is not needed, nor its memory
            from rich.progress import Progress

            self._bars = Progress(console=console(stderr=True), transient=True)
            self._bar = self._bars.add_task(escaped(label), total=total, completed=done)

    def __enter__(self) -> ProgressBar:
        if self._bars:
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars:
            self._bars.stop()

    def __call__(self, done: int, metrics: Mapping[str, Any] | None = None) -> None:
        """Show how many updates, or others, are done."""
        if self._bars:
            self._bars.update(self._bar, completed=done)
        elif time.monotonic() - self._told >= PERIOD:
            self._told = time.monotonic()
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            line = f"{stamp} {self._label}: {done} of {self._total} {self._unit}"
            print(visible(line), file=sys.stderr, flush=True)
