"""Progress of a benchmark: what is done now, how fast, and how long everything will take."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn


@dataclass
class Stage:
    """One piece of work: ``amount`` units of the kind ``kind`` (pieces of a kind cost the same per unit)."""

    kind: str
    label: str
    amount: float
    done: float = 0.0


class Clock:
    """Estimates the time left from the measured seconds per unit of each kind.

    A kind is ``family/...``. One that has not been measured yet counts like the slowest of its family, so that
    the estimate rather falls than grows; while nothing of a family is measured, nothing is estimated.
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        self.stages = list(stages)
        self._spent: dict[str, tuple[float, float]] = {}  # kind -> (units, seconds)

    def account(self, kind: str, units: float, seconds: float) -> None:
        """Note that ``units`` of a kind took ``seconds``."""
        before = self._spent.get(kind, (0.0, 0.0))
        self._spent[kind] = (before[0] + units, before[1] + seconds)

    def left(self) -> float | None:
        """Seconds left; None while too little is known."""
        costs = {kind: seconds / units for kind, (units, seconds) in self._spent.items() if units > 0}
        total = 0.0
        for stage in self.stages:
            family = stage.kind.partition("/")[0]
            akin = [cost for kind, cost in costs.items() if kind.partition("/")[0] == family]
            if stage.done < stage.amount and not akin:
                return None
            total += (stage.amount - stage.done) * costs.get(stage.kind, max(akin, default=0.0))
        return total


class Display:
    """Two bars: everything, with the time left, and the current piece of work, with its rate.

    On a terminal they move; elsewhere every message is a line of its own.

    Args:
        console: where to write.
        title: of the whole.
    """

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.clock = console, Clock([])
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %"),
            TextColumn("{task.fields[note]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._whole = self._progress.add_task(title, total=1.0, note="")
        self._part: TaskID | None = None
        self._stage: Stage | None = None
        self._base = self._last_units = self._last_time = 0.0

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        """Print a line above the bars."""
        self._progress.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def plan(self, stages: Sequence[Stage]) -> None:
        """Set all pieces of work, those that are done included."""
        self.clock.stages = list(stages)
        self._refresh()

    def begin(self, stage: Stage) -> None:
        """Start (or go on with) a piece of work; ``stage.done`` units of it are there already."""
        if self._part is not None:
            self._progress.remove_task(self._part)
        self._stage, self._base = stage, stage.done
        self._last_units, self._last_time = stage.done, time.monotonic()
        self._part = self._progress.add_task(
            stage.label, total=stage.amount, completed=int(stage.done), note=""
        )
        if not self.console.is_terminal:
            self.say(stage.label)
        self._refresh()

    def resumed(self, done: float) -> None:
        """Units that a checkpoint brought: done, but not measured."""
        assert self._stage is not None
        self._stage.done = self._base = self._last_units = done
        self._last_time = time.monotonic()
        self._refresh()

    def advance(self, done: float, note: str = "") -> None:
        """Units of the current piece that are done."""
        assert self._stage is not None
        now = time.monotonic()
        self.clock.account(self._stage.kind, done - self._last_units, now - self._last_time)
        self._last_units, self._last_time, self._stage.done = done, now, done
        self._refresh(note)

    def finish(self) -> None:
        """The current piece is complete."""
        assert self._stage is not None
        self.advance(self._stage.amount)

    def _refresh(self, note: str = "") -> None:
        left, stages = self.clock.left(), self.clock.stages
        share = sum(stage.done / stage.amount for stage in stages) / max(len(stages), 1)
        text = "estimating the time left" if left is None else f"{timedelta(seconds=round(left))} left"
        self._progress.update(self._whole, completed=share, note=text)
        if self._part is not None and self._stage is not None:
            self._progress.update(self._part, completed=self._stage.done, note=note)
