"""Training in this process, or in several processes of this machine."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import TYPE_CHECKING, Any

from marlzoo import errors
from marlzoo.errors import MarlzooError

from ..live import LatestEvaluation
from ..plan import Group
from ..progress import Display, WorkBar, WorkItem
from ..split import Split, torch_threads
from ..status import list_groups
from .place import Work

if TYPE_CHECKING:
    from ..trainer import Trainer

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Local:
    """Trains groups in this process, or in several, each of which takes the next group when it is idle.

    Args:
        device: that groups train on; with ``cuda`` the processes take turns at the cards of the machine.
    """

    device: str = "cpu"

    def run(self, trainer: Trainer, work: Work, split: Split, display: Display) -> list[str]:
        """See :class:`marlzoo.benchmarks.launchers.Launcher`."""
        list_groups(trainer.folder, trainer.suite, [group for group, _ in work])
        if split.processes > 1:
            return _side_by_side(trainer, work, split, display, cards(self.device))
        failures: list[str] = []
        with torch_threads(split.threads):
            for group, stage in work:
                part = display.begin(stage)
                why = trainer.attempt(group, part)
                failures += [why] if why else []
                part.finish(failed=bool(why))
                trainer.results.publish(lazy=True)
        return failures


def cards(device: str) -> list[str]:
    """The GPUs that processes share out, as ``CUDA_VISIBLE_DEVICES`` names them; none where one device is named."""
    if device != "cuda":
        return []
    given = [name.strip() for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    if given:
        return given
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def error_of(name: str, text: str) -> Exception:
    """An error that another process met, from the name of its class among marlzoo's and its text."""
    cls = getattr(errors, name, RuntimeError)
    found: Exception = cls.__new__(cls, text)  # made of its text only, whatever its constructor takes
    return found


@dataclass
class _Worker:
    process: BaseProcess
    pipe: Connection
    part: WorkBar | None = None


class _Pool:
    """Processes that train what they are sent; they end with this process, however it ends."""

    def __init__(self, processes: int, threads: int, cards: Sequence[str] = ()) -> None:
        context = multiprocessing.get_context("spawn")
        self.workers: list[_Worker] = []
        with _uninterrupted():
            for number in range(processes):
                mine, theirs = context.Pipe()
                card = cards[number % len(cards)] if cards else ""
                process = context.Process(target=_serve, args=(theirs, threads, card), daemon=True)
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
                "for lack of memory); the same command resumes, and needs the least memory with --processes 1"
            ) from None
        if kind == "failed":
            raise error_of(*rest)
        return (kind, *rest)

    def end(self) -> None:
        """Kill the workers; their checkpoints hold the progress so far."""
        for worker in self.workers:
            worker.process.terminate()
        for worker in self.workers:
            worker.process.join()


def _side_by_side(
    trainer: Trainer, work: Work, split: Split, display: Display, cards: Sequence[str]
) -> list[str]:
    """Train groups in ``split.processes`` processes; one that dies, or meets an error of all, ends the others."""
    failures: list[str] = []
    team = _Pool(min(split.processes, max(len(work), 1)), split.threads, cards)
    left = list(work)
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


def _begin(worker: _Worker, trainer: Trainer, left: list[tuple[Group, WorkItem]], display: Display) -> bool:
    if not left:
        return False
    group, stage = left.pop(0)
    worker.part = display.begin(stage)
    worker.pipe.send(("train", trainer, group))
    return True


class _Remote:
    """Forwards a group's progress to the main process (a :class:`marlzoo.benchmarks.progress.ProgressReporter`)."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def resumed(self, done: float) -> None:
        self._pipe.send(("resumed", done))

    def advance(self, done: float, note: str = "") -> None:
        self._pipe.send(("advance", done, note))

    def log(self, text: str) -> None:
        self._pipe.send(("log", text))

    def evaluated(self, found: LatestEvaluation) -> None:
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


def _serve(pipe: Connection, threads: int, card: str) -> None:
    """Loop of a worker process: trains the groups it receives until the main process ends."""
    if sys.platform == "win32":  # where it is not inherited
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    if card:  # before the first use of a GPU, which is when it is read
        os.environ[VISIBLE] = card
    threading.Thread(target=_end_with_parent, daemon=True).start()
    report = _Remote(pipe)
    mine = None
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
