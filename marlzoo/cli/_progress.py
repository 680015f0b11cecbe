"""Progress of a long command, and its last line."""

from __future__ import annotations

import math
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.console import console, visible

if TYPE_CHECKING:
    from marlzoo.benchmarks.progress import WorkBar


class Progress:
    """Progress of one piece of work, on stderr. It appears with the first report, so that an error is one line.

    Args:
        title: of the command.
        label: what is worked on.
        amount: units of work.
    """

    def __init__(self, title: str, label: str, amount: float) -> None:
        from marlzoo.benchmarks.progress import Display, WorkItem

        self._stage = WorkItem("work", label, max(float(amount), 1.0))
        self._display = Display(console(stderr=True), title)
        self._display.plan([self._stage])
        self._part: WorkBar | None = None

    @property
    def begun(self) -> bool:
        """Whether anything was reported."""
        return self._part is not None

    def advance(self, done: float, note: str = "") -> None:
        """Units that are done."""
        if self._part is None:
            self._part = self._display.begin(self._stage)
        self._part.advance(done, note)

    def log(self, text: str) -> None:
        """Print a line above the bars."""
        self._display.log(text)


@contextmanager
def progress(title: str, label: str, amount: float) -> Iterator[Progress]:
    """Bars on a terminal, a line a minute elsewhere; see :class:`Progress`."""
    shown = Progress(title, label, amount)
    with shown._display:
        yield shown


def closing(done: str, started: float, *following: str) -> None:
    """Say on stderr what was done, how long it took, and which command comes next, if any.

    Args:
        done: "3 episodes recorded".
        started: when the command began, on :func:`time.monotonic`'s clock.
        following: commands.
    """
    took = timedelta(seconds=round(time.monotonic() - started))
    then = f" Next: {' or: '.join(following)}" if following else ""
    print(visible(f"{done} in {took}.{then}"), file=sys.stderr)


def reference(path: Path) -> str:
    """How commands call a dataset: by its name where it has one, else by its path, quoted where a shell needs it."""
    from marlzoo.data.names import SUFFIX, data_home, is_name

    home = data_home().absolute()
    if path.absolute().is_relative_to(home) and path.suffix == SUFFIX:
        name = path.absolute().relative_to(home).as_posix().removesuffix(SUFFIX)
        if is_name(name):
            return name
    return shlex.quote(str(path))


def without_nan(line: dict[str, Any]) -> dict[str, Any]:
    """With None for numbers that are not finite, such as returns of a diverged replica: JSON has no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
