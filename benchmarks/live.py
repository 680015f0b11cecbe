"""Live display of a benchmark on a terminal: groups, speed, and the latest returns."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from marlzoo.console import visible

WINDOW = 60.0  # seconds over which the speed is measured
SHOWN = 8  # methods with their latest returns, so that the display stays below a small terminal's height


@dataclass(frozen=True)
class LatestEvaluation:
    """A group's latest evaluation.

    Args:
        method: its name.
        data: the task and the qualities of its data.
        updates: that are done.
        means: mean returns, one per replica.
        line: all of it in words.
        last: whether the group is complete with it.
    """

    method: str
    data: str
    updates: int
    means: Sequence[float]
    line: str = ""
    last: bool = False


class Status:
    """Counts of groups, seed-updates per second, and the latest returns of each method.

    A seed-update is one gradient update of one replica.
    """

    def __init__(self) -> None:
        self.running = self.done = self.failed = self.groups = 0
        self._counted: deque[tuple[float, float]] = deque()  # (time, seed-updates since the beginning)
        self._total = 0.0
        self._latest: dict[str, LatestEvaluation] = {}

    def count(self, seed_updates: float) -> None:
        """Note seed-updates that were made since the last call."""
        now = time.monotonic()
        self._total += seed_updates
        self._counted.append((now, self._total))
        while len(self._counted) > 2 and self._counted[1][0] < now - WINDOW:
            self._counted.popleft()

    def rate(self) -> float | None:
        """Seed-updates per second of late; None before two measurements."""
        if len(self._counted) < 2 or self._counted[-1][0] <= self._counted[0][0]:
            return None
        begin, first = self._counted[0]
        end, last = self._counted[-1]
        return (last - first) / (end - begin)

    def evaluated(self, found: LatestEvaluation) -> None:
        """Note an evaluation."""
        self._latest.pop(found.method, None)  # the newest one comes last
        self._latest[found.method] = found

    def line(self) -> str:
        """Groups and speed, ``3 of 12 groups done, 2 running, 1 failed; 3,214 seed-updates/s``."""
        parts = [f"{self.done} of {self.groups} groups done"]
        parts += [f"{self.running} running"] if self.running else []
        parts += [f"{self.failed} failed"] if self.failed else []
        rate = self.rate()
        if not rate:
            return ", ".join(parts)
        digits = 0 if rate >= 10 else 1
        return f"{', '.join(parts)}; {rate:,.{digits}f} seed-updates/s"

    def rendered(self) -> RenderableType:
        """The line, and a table of the latest returns."""
        line = Text(self.line(), no_wrap=True, overflow="ellipsis")
        if not self._latest:
            return line
        table = Table("method", "data", box=None, pad_edge=False, expand=False)
        table.add_column("updates", justify="right")
        table.add_column("mean return (range over replicas)", justify="right", no_wrap=True)
        for found in list(self._latest.values())[-SHOWN:]:
            cells = [
                Text(visible(text), no_wrap=True, overflow="ellipsis") for text in (found.method, found.data)
            ]
            table.add_row(*cells, f"{found.updates:,}", mean_and_range(found.means))
        return Group(line, table)


def mean_and_range(means: Sequence[float]) -> str:
    """The mean return of replicas and, where there are several, their range: ``91.0 (62.5 to 105.1)``."""
    spread = f" ({_shown(min(means))} to {_shown(max(means))})" if len(means) > 1 else ""
    return f"{_shown(fmean(means))}{spread}"


def _shown(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"  # a battle of SMAX is worth 2
