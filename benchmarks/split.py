"""How a suite's groups are spread over processes, threads and replicas, and the processes that train them.

A replica's numbers do not depend on the split (up to float rounding): every run has its own streams and rows. What
it changes is the time, and into which checkpoints unfinished runs go. So the split of a suite is kept beside its
checkpoints, and the same command goes on with the same groups; for the next suite of learners of the same shapes on
this machine the measurement is remembered (:class:`marlzoo.system.machine.MeasurementCache`).
"""

from __future__ import annotations

import contextlib
import json
import math
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo import errors
from marlzoo.config import is_numeric
from marlzoo.errors import ConfigError, DataError, MarlzooError
from marlzoo.registry import make
from marlzoo.system.files import write_text_atomic
from marlzoo.system.machine import MeasurementCache, processor

from .plan import Group, Run, Source, groups
from .progress import Display, Part, Stage
from .suites import Suite

if TYPE_CHECKING:
    from .trainer import Trainer

WORTH_MEASURING = 100_000  # seed-updates; fewer are over before the measurement has paid
REPLICAS = (1, 4, 8, 20)  # sizes of groups that are tried
SECONDS = 1.5  # of each try
KEPT = "split.json"


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


def find_split(
    suite: Suite,
    missing: Sequence[Run],
    sources: Sequence[Source],
    folder: Path,
    max_replicas: int,
    log: Callable[[str], None],
) -> Split:
    """The split of a suite: as it was kept in ``folder``, remembered on this machine, or measured now.

    Measured is the learner that most of the missing updates belong to, uncompiled, on the suite's data; one process
    with all cores as threads, and one single-threaded process per core. Small suites are not split.

    Raises:
        DataError: what is kept cannot be read.
    """
    kept = folder / KEPT
    if kept.exists():
        try:
            return Split(**json.loads(kept.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise DataError(f"{kept}: cannot be read ({error}); delete it, it is made again") from error
    split = Split()
    if missing and len(missing) * suite.updates >= WORTH_MEASURING and cores() > 1:
        largest = max(groups(missing, max_replicas), key=lambda group: len(group.runs) * group.spec.n_agents)
        memory, key = MeasurementCache("split"), _key(largest, max_replicas)
        found = memory.recall(key)
        if found is None:
            log(f"measuring once how this machine trains {largest.learner.method} fastest")
            found = memory.remember(key, asdict(measured(largest, max_replicas)))
        split = Split(**found)
        log(
            f"split: {split.processes} x {split.threads} (processes x threads), groups of up to {split.replicas}"
        )
    if missing:
        write_text_atomic(kept, json.dumps(asdict(split)) + "\n")
    return split


def _key(group: Group, max_replicas: int) -> str:
    import torch

    algorithm = _learner(group, 1)
    config, cls = algorithm.config.to_dict(), type(algorithm.config)
    shared = {name: value for name, value in config.items() if not is_numeric(cls, name)}
    most = min(max_replicas, len(group.runs))
    parts = [
        processor(),
        torch.__version__,
        cores(),
        group.learner.method,
        group.spec.to_dict(),
        shared,
        most,
    ]
    return json.dumps(parts, sort_keys=True)


def _learner(group: Group, replicas: int) -> Any:
    family = group.task.partition("/")[0]
    return make(
        group.learner.method, group.spec, seeds=list(range(replicas)), domain=family, **group.learner.config
    )


def measured(group: Group, max_replicas: int) -> Split:
    """The split with most seed-updates per second; each is measured in processes of its own."""
    most = min(max_replicas, len(group.runs))
    sizes = [size for size in REPLICAS if size <= most] or [1]
    rates: dict[Split, float] = {}
    for processes, threads in ((1, cores()), (cores(), 1)):
        team = _Team(processes, threads)
        try:
            for size in sizes:
                for worker in team.workers:
                    worker.pipe.send(("try", group, size))
                rates[Split(processes, threads, size)] = sum(team.answer(worker) for worker in team.workers)
        finally:
            team.end()
    return max(rates, key=lambda split: rates[split])


def _tried(group: Group, replicas: int) -> float:
    """Seed-updates per second of ``replicas`` replicas in this process."""
    from marlzoo.training.compilation import freed_memory_kept
    from marlzoo.training.trainer import make_sampler, prepare

    algorithm, data = _learner(group, replicas), group.runs[0].source.load()
    prepare(algorithm, [data])
    sampler = make_sampler(algorithm, [data])
    with freed_memory_kept():
        algorithm.update(sampler.next())
        done, started = 0, time.perf_counter()
        while (spent := time.perf_counter() - started) < SECONDS:
            algorithm.update(sampler.next())
            done += 1
    return replicas * done / spent


# ---- processes -----------------------------------------------------------------------------------------


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    part: Part | None = None


class _Team:
    """Processes that train or try what they are sent; they end with this process, however it ends."""

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
        """The next message of a worker, ``(kind, ...)``, or the number that it measured.

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
        return rest[0] if kind == "tried" else (kind, *rest)

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
    team, left = _Team(min(split.processes, max(len(work), 1)), split.threads), list(work)
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
                worker.part.finish()
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
                if kind == "try":
                    pipe.send(("tried", _tried(*rest)))
                    continue
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
