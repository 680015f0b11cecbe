"""Progress of a training that Python code starts; commands have bars of their own."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from marlzoo.console import console, described

PERIOD = 60.0  # seconds between two lines where no bar can move, in a notebook for instance


class ProgressBar:
    """Called with the updates that are done; shows them on stderr.

    On a terminal a bar moves, with the time left. Elsewhere a line with date and time appears once a minute.

    Args:
        label: what is trained.
        done: updates that a checkpoint brings.
        total: updates in all.
    """

    def __init__(self, label: str, done: int, total: int) -> None:
        from rich.progress import Progress

        self._console = console(stderr=True)
        self._label, self._total, self._told = label, total, time.monotonic()
        self._bars = Progress(console=self._console, transient=True, disable=not self._console.is_terminal)
        self._bar = self._bars.add_task(described(label), total=total, completed=done)

    def __enter__(self) -> ProgressBar:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def __call__(self, done: int, metrics: Mapping[str, Any]) -> None:
        """Show that so many updates are done."""
        self._bars.update(self._bar, completed=done)
        if not self._console.is_terminal and time.monotonic() - self._told >= PERIOD:
            self._told = time.monotonic()
            stamp = time.strftime("%Y-%m-%d %H:%M:%S")
            self._console.print(f"{stamp} {self._label}: {done} of {self._total} updates", soft_wrap=True)
