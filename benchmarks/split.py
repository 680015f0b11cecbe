"""How a suite's groups are spread over processes, threads and replicas, and the processes that train them.

A replica's numbers do not depend on the split (up to float rounding): every run has its own streams and rows. What
it changes is the time, and into which checkpoints unfinished runs go; the default is a rule, so that the same command
goes on with the same groups.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from marlzoo import errors
from marlzoo.errors import ConfigError, MarlzooError
from marlzoo.registry import make

from .live import Returns
from .plan import Group, Run, Source, groups
from .progress import Display, Part, Stage
from .suites import Suite

if TYPE_CHECKING:
    from .trainer import Trainer

WORTH_SPLITTING = 100_000  # seed-updates; fewer are over before further processes have started
# Larger groups lose to the cache: of OMIGA's networks this admits about 5 replicas at width 256, 20 at width 64
# (results/speed/ratios.md).
CACHE_BYTES = 16 << 20


@dataclass(frozen=True)
class Split:
    """Processes, torch threads of each (0: torch's own number), and most replicas in a group (0: no limit).

    Raises:
        ConfigError: a negative number, or no process.
    """

    processes: int = 1
    threads: int = 0
    replicas: int = 0

    def __post_init__(self) -> None:
        if self.processes < 1 or self.threads < 0 or self.replicas < 0:
            raise ConfigError(f"{self}: there must be a process, and no number may be negative")


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def split_of(processes: int, threads: int) -> Split | None:
    """The split that was asked for; None where it is to be found (no processes given).

    Raises:
        ConfigError: a negative number, or threads without processes.
    """
    if not processes and threads:
        raise ConfigError("threads are those of each process; give --processes too")
    return Split(processes, threads or max(1, cores() // processes)) if processes else None


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads (0: as many as before) until the block ends."""
    if not count:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def group_size(suite: Suite, sources: Sequence[Source], split: Split, max_replicas: int) -> int:
    """Most replicas of a group, so that every process has one to train.

    It follows from the whole suite and not from what is missing, so that groups stay the same over interruptions.
    """
    most = min(max_replicas, split.replicas or max_replicas)
    per_task = [sum(source.task == task for source in sources) for task in {s.task for s in sources}]
    runs = [count * len(suite.seeds) for count in per_task for _ in suite.learners]
    if split.processes == 1:
        return most
    while most > 1 and sum(math.ceil(count / most) for count in runs) < split.processes:
        most -= 1
    return max(math.ceil(count / math.ceil(count / most)) for count in runs)  # rather 3 and 2 than 4 and 1


# ---- choosing ------------------------------------------------------------------------------------------


def default_split(suite: Suite, missing: Sequence[Run], max_replicas: int) -> Split:
    """One single-threaded process per core, and groups whose parameters fit into a core's cache.

    Small suites stay in one process, where starting others costs more than it saves. The rule does not look at the
    processor's speed, so that the same suite has the same groups on every machine.

    Args:
        suite: that is trained.
        missing: its runs that are still to be done.
        max_replicas: most replicas in a group.
    """
    if not missing:
        return Split()
    largest = max(
        groups(suite, missing, max_replicas), key=lambda group: len(group.runs) * group.spec.n_agents
    )
    replicas = replicas_in_cache(_parameter_bytes(largest), max_replicas)
    small = sum(suite.updates_on(run.source.entry) for run in missing) < WORTH_SPLITTING
    return Split(replicas=replicas) if small or cores() == 1 else Split(cores(), 1, replicas)


def replicas_in_cache(parameter_bytes: int, most: int) -> int:
    """Replicas whose parameters, gradients and both moments of Adam fit into ``CACHE_BYTES``, from 1 to ``most``."""
    return max(1, min(most, CACHE_BYTES // (4 * parameter_bytes)))


def _parameter_bytes(group: Group) -> int:
    """Size of one replica's parameters, targets included."""
    learner = make(group.learner.method, group.spec, seeds=[0], **group.settings_of(0))
    return sum(parameter.nbytes for parameter in learner.parameters())


# ---- processes -----------------------------------------------------------------------------------------


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    part: Part | None = None


class _Pool:
    """Processes that train what they are sent; they end with this process, however it ends."""

    def __init__(self, processes: int, threads: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []
        with _uninterrupted():
            for _ in range(processes):
                mine, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, threads), daemon=True)
                process.start()
                theirs.close()
                self.workers.append(_Worker(process, mine))

    def answer(self, worker: _Worker) -> Any:
        """The next message of a worker, ``(kind, ...)``.

        Raises:
            MarlzooError: it failed; the error is the worker's own.
        """
        try:
            kind, *rest = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            worker.process.join()
            raise MarlzooError(
                f"a training process ended (exit code {worker.process.exitcode}; -9: the system killed it, mostly "
                "for want of memory); the same command goes on, with --processes 1 it needs the least memory"
            ) from None
        if kind == "failed":
            name, text = rest
            cls = getattr(errors, name, RuntimeError)
            raise cls.__new__(cls, text)  # made of its text only, whatever its constructor takes
        return (kind, *rest)

    def end(self) -> None:
        """End them at once: what they were doing stands in their checkpoints."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()


def train_side_by_side(
    trainer: Trainer, work: Sequence[tuple[Group, Stage]], split: Split, display: Display
) -> list[str]:
    """Train groups in ``split.processes`` processes, each taking the next one when it is done.

    Returns:
        Why groups failed, a line for each that did; see :meth:`marlzoo.benchmarks.trainer.Trainer.attempt`.

    Raises:
        MarlzooError: an error that concerns all groups, or a process died; the others are ended.
    """
    failures: list[str] = []
    team, left = _Pool(min(split.processes, max(len(work), 1)), split.threads), list(work)
    try:
        busy = [worker for worker in team.workers if _begin(worker, trainer, left, display)]
        while busy:
            ready = connection.wait([worker.pipe for worker in busy])
            for worker in [worker for worker in busy if worker.pipe in ready]:
                kind, *rest = team.answer(worker)
                assert worker.part is not None
                if kind != "done":
                    getattr(worker.part, kind)(*rest)
                    continue
                worker.part.finish(failed=any(rest))
                failures += filter(None, rest)
                trainer.results.publish(lazy=True)
                if not _begin(worker, trainer, left, display):
                    busy.remove(worker)
    finally:
        team.end()
    return failures


def _begin(worker: _Worker, trainer: Trainer, left: list[tuple[Group, Stage]], display: Display) -> bool:
    if not left:
        return False
    group, stage = left.pop(0)
    worker.part = display.begin(stage)
    worker.pipe.send(("train", trainer, group))
    return True


class _Remote:
    """Passes on to the first process what a group reports (a :class:`marlzoo.benchmarks.progress.Report`)."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def resumed(self, done: float) -> None:
        self._pipe.send(("resumed", done))

    def advance(self, done: float, note: str = "") -> None:
        self._pipe.send(("advance", done, note))

    def log(self, text: str) -> None:
        self._pipe.send(("log", text))

    def evaluated(self, found: Returns) -> None:
        self._pipe.send(("evaluated", found))


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Processes started in the block ignore Ctrl-C, which a terminal sends to all: the first one ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _serve(pipe: Connection, threads: int) -> None:
    """A process of the team: does what it is sent, until the first process ends it or is gone."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    report, mine = _Remote(pipe), None
    with torch_threads(threads):
        while True:
            kind, *rest = pipe.recv()
            try:
                assert kind == "train"
                trainer, group = rest
                mine = mine or trainer  # the first one keeps the data that it has loaded
                pipe.send(("done", mine.attempt(group, report)))
            except MarlzooError as error:
                pipe.send(("failed", type(error).__name__, str(error)))
            except Exception:  # told whole, it is not the user's fault
                pipe.send(("failed", "", f"a training process failed:\n{traceback.format_exc()}"))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)
