"""Progress of a benchmark: what is done now, how fast, and how long everything will take."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from marlzoo.console import counted, shortened, visible

from .live import LatestEvaluation, Status

# Columns of a line of progress beside names and notes.
BAR = 10
PERCENT = 5
GAPS = 3
PERIOD = 60.0  # seconds between two lines of progress where they are kept, in a log file for instance


def fitting(note: str, width: int) -> str:
    """As much of ``done of all updates, name value, ...`` as fits; no number is cut."""
    if len(note) > width:
        note = note.replace(" updates", "", 1)  # what else the bar could count
    while len(note) > width and ", " in note:
        note = note.rpartition(", ")[0]
    return note


@dataclass
class WorkItem:
    """One piece of work: ``amount`` units of the kind ``kind`` (pieces of a kind cost the same per unit).

    ``unit`` is how many units a seed-update has; 0 for work that has none.
    """

    kind: str
    label: str
    amount: float
    done: float = 0.0
    unit: float = 0.0


class Clock:
    """Estimates the time left from the measured seconds per unit of each kind, ``side_by_side`` pieces at a time.

    A kind is ``family/...``. One that has not been measured yet counts like the slowest of its family, so that
    the estimate rather falls than grows; while nothing of a family is measured, nothing is estimated.
    """

    def __init__(self, stages: Sequence[WorkItem]) -> None:
        self.stages = list(stages)
        self.side_by_side = 1
        self._spent: dict[str, tuple[float, float]] = {}  # kind -> (units, seconds)

    def account(self, kind: str, units: float, seconds: float) -> None:
        """Note that ``units`` of a kind took ``seconds``."""
        before = self._spent.get(kind, (0.0, 0.0))
        self._spent[kind] = (before[0] + units, before[1] + seconds)

    def left(self) -> float | None:
        """Seconds left; None while too little is known."""
        total = 0.0
        for stage, cost in zip(self.stages, self._costs(), strict=True):
            if stage.done < stage.amount:
                if cost is None:
                    return None
                total += (stage.amount - stage.done) * cost
        return total / self.side_by_side

    def share(self) -> float:
        """Share of the whole work that is done, by its estimated time.

        While nothing of a family is measured its pieces count alike, and those that are measured do not count: making
        data takes seconds where training takes hours.
        """
        times = [
            None if cost is None else stage.amount * cost
            for stage, cost in zip(self.stages, self._costs(), strict=True)
        ]
        weights = [float(t is None) for t in times] if None in times else [t or 0.0 for t in times]
        done = sum(
            weight * stage.done / stage.amount for stage, weight in zip(self.stages, weights, strict=True)
        )
        return done / (sum(weights) or 1.0)

    def _costs(self) -> list[float | None]:
        """Seconds per unit of every piece of work; None where nothing of its family is measured."""
        costs = {kind: seconds / units for kind, (units, seconds) in self._spent.items() if units > 0}
        slowest: dict[str, float] = {}
        for kind, cost in costs.items():
            family = kind.partition("/")[0]
            slowest[family] = max(cost, slowest.get(family, 0.0))
        return [costs.get(stage.kind, slowest.get(stage.kind.partition("/")[0])) for stage in self.stages]


class ProgressReporter(Protocol):
    """Receives the progress of a piece of work."""

    def resumed(self, done: float) -> None:
        """Units that a checkpoint brought: done, but not measured."""

    def advance(self, done: float, note: str = "") -> None:
        """Units that are done."""

    def log(self, text: str) -> None:
        """A line for people."""

    def evaluated(self, found: LatestEvaluation) -> None:
        """An evaluation, for a display that shows the latest ones."""


class _Bars(Progress):
    """Bars with the status of the benchmark below."""

    status: Status | None = None

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bars, then the status."""
        yield from super().get_renderables()
        if self.status is not None and self.status.groups:
            yield self.status.rendered()


class Display:
    """Bars: everything, with the time left, and each piece of work that is being done.

    Below them stand groups, seed-updates per second and the latest returns of each method.

    On a terminal they move. Elsewhere every message is a line with date and time, and progress and evaluations take
    one line a minute each; a group's last evaluation is always printed.

    Args:
        console: where to write.
        title: of the whole.
    """

    def __init__(self, console: Console, title: str) -> None:
        self.console = console
        self.title = title
        self.clock = Clock([])
        self._told = time.monotonic()
        self._evaluated = -math.inf  # when an evaluation was last printed where there are no bars
        self.status = Status()
        self.progress = _Bars(
            _Half(console, lambda task: shortened(task.description, _Half.width(console))),
            BarColumn(bar_width=BAR),
            TextColumn("{task.percentage:>3.0f} %", markup=False),
            _Half(console, lambda task: fitting(task.fields["note"], _Half.width(console))),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.progress.status = self.status
        self._whole = self.progress.add_task(title, total=1.0, note="")

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def log(self, text: str) -> None:
        """Print a line above the bars, or with date and time where there are none."""
        stamp = "" if self.console.is_terminal else time.strftime("%Y-%m-%d %H:%M:%S ")
        self.progress.console.print(f"{stamp}{visible(text)}", highlight=False, soft_wrap=True, markup=False)

    def evaluated(self, found: LatestEvaluation) -> None:
        """Show an evaluation among the latest ones, and print it."""
        self.status.evaluated(found)
        now = time.monotonic()
        if found.line and (self.console.is_terminal or found.last or now - self._evaluated >= PERIOD):
            self._evaluated = now
            self.log(found.line)
        self.refresh()

    def plan(self, stages: Sequence[WorkItem], side_by_side: int = 1) -> None:
        """Set all pieces of work, those that are done included, and how many are done at a time."""
        self.clock.stages = list(stages)
        self.clock.side_by_side = side_by_side
        self.status.groups = sum(1 for stage in stages if stage.unit)
        self.refresh()

    def begin(self, stage: WorkItem) -> WorkBar:
        """Start (or go on with) a piece of work; ``stage.done`` units of it are there already."""
        if not self.console.is_terminal:
            self.log(stage.label)
        self.status.running += bool(stage.unit)
        return WorkBar(self, stage)

    def refresh(self, what: str = "") -> None:
        """Update the display.

        Args:
            what: is done at present, for a line where there are no bars.
        """
        left = self.clock.left()
        share = self.clock.share()
        text = "estimating the time left" if left is None else f"{timedelta(seconds=round(left))} left"
        self.progress.update(self._whole, completed=share, note=text)
        if what and not self.console.is_terminal and time.monotonic() - self._told >= PERIOD:
            self._told = time.monotonic()
            groups = f"{self.status.line()}; " if self.status.groups else ""
            self.log(f"{self.title}: {share:.0%} done, {text}; {groups}{what}")


class _Half(ProgressColumn):
    """Half of what bar and percentage leave of a line, so that long names push nothing out of sight."""

    def __init__(self, console: Console, text: Callable[[Task], str]) -> None:
        super().__init__()
        self._console = console
        self._text = text

    @staticmethod
    def width(console: Console) -> int:
        """Columns of a half."""
        return max((console.width - BAR - PERCENT - GAPS) // 2, 8)

    def render(self, task: Task) -> Text:
        """The task's text, cut where it does not fit."""
        text = Text(visible(self._text(task)), overflow="ellipsis", no_wrap=True)
        text.truncate(self.width(self._console))
        return text


class WorkBar:
    """A piece of work on a display (a :class:`ProgressReporter`)."""

    def __init__(self, display: Display, stage: WorkItem) -> None:
        self._display = display
        self.stage = stage
        self._last = stage.done
        self._time = time.monotonic()
        self._first: tuple[float, float] | None = None  # units and seconds of the first report
        self._bar = display.progress.add_task(
            stage.label, total=stage.amount, completed=int(stage.done), note=""
        )
        display.refresh()

    def resumed(self, done: float) -> None:
        """Units that a checkpoint brought: done, but not measured."""
        self.stage.done = self._last = done
        self._time = time.monotonic()
        self._display.refresh()

    def advance(self, done: float, note: str = "") -> None:
        """Units that are done."""
        now = time.monotonic()
        units = done - self._last
        if self._first is None and units > 0:  # compilation belongs to it, which is no part of the rate
            self._first = (units, now - self._time)
        else:
            self._display.clock.account(self.stage.kind, units, now - self._time)
        if self.stage.unit:
            self._display.status.count(units / self.stage.unit)
        self._last = done
        self._time = now
        self.stage.done = done
        self._display.progress.update(self._bar, completed=done, note=note)
        self._display.refresh(f"{self.stage.label}: {note}" if note else self.stage.label)

    def log(self, text: str) -> None:
        """Print a line above the bars."""
        self._display.log(text)

    def evaluated(self, found: LatestEvaluation) -> None:
        """Show an evaluation among the latest ones."""
        self._display.evaluated(found)

    def finish(self, failed: bool = False) -> None:
        """It is complete, or it failed."""
        status = self._display.status
        group = bool(self.stage.unit)
        if failed:  # what it did not do took no time
            self._last = self.stage.amount
        status.running -= group
        status.failed += group and failed
        status.done += group and not failed
        self.advance(self.stage.amount)
        if self._first is not None:  # the next piece of this kind begins in the same way
            self._display.clock.account(self.stage.kind, *self._first)
        self._display.progress.remove_task(self._bar)


def last_lines(folder: Path, trained: int, there: int, failures: Sequence[str], seconds: float) -> list[str]:
    """Closing lines of a benchmark: what was done, the time, the place of the results, the next command.

    Args:
        folder: of the results.
        trained: runs that were trained.
        there: runs that were there.
        failures: why groups failed.
        seconds: that it took.
    """
    took = timedelta(seconds=round(seconds))
    found = f"; {there} had results already" if there else ""
    lines = [f"{counted(trained, 'run')} trained in {took}{found}. Rows, metrics and tables: {folder}"]
    if not failures:
        return [*lines, f"Next: marlzoo table {shlex.quote(str(folder))} --format markdown"]
    lines.append(f"{counted(len(failures), 'group')} failed; the same command tries again:")
    return [*lines, *(f"  {failure}" for failure in failures)]
