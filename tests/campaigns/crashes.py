"""Jobs that are killed, or that find the disk full, at a random moment."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from marlzoo.errors import OutputError
from tests.campaigns.jobs import JOBS, Job

# Names of functions after which, and before which, a process may be killed: all that brings data to the disk.
POINTS = ("fsync", "replace", "rename", "unlink", "rmdir", "mkdir")
MOST_POINTS = 60
MOST_BYTES = 40_000
FULL, CRASHED = 3, 4  # exit statuses of the process that works


def kill(folder: Path) -> Callable[[random.Random], str]:
    """Processes that vanish between two system calls, or within a write; then the same work is done again."""

    def trial(rng: random.Random) -> str:
        job = _fresh(rng, folder)
        moment, size = rng.randrange(MOST_POINTS), int(MOST_BYTES ** rng.random())
        if rng.random() < 0.5:
            how, limit = f"killed at point {moment}", lambda: _vanish_after(moment)
        else:
            how, limit = f"killed after {size} bytes", lambda: _limit_files(size, signal.SIG_DFL)
        said, status = _apart(job, limit)
        if status not in (0, CRASHED, -signal.SIGXFSZ):
            return f"{type(job).__name__} {how}: the process ended with {status}"
        return _judged(job, said, how)

    return trial


def disk_full(folder: Path) -> Callable[[random.Random], str]:
    """Processes that can write files up to a random size only; then there is space and they work again."""

    def trial(rng: random.Random) -> str:
        job = _fresh(rng, folder)
        size = int(MOST_BYTES ** rng.random())
        said, status = _apart(job, lambda: _limit_files(size, signal.SIG_IGN))
        if status not in (0, FULL):
            return f"{type(job).__name__} with files of {size} bytes: the process ended with {status}"
        left = list(job.left())
        if left:
            return f"{type(job).__name__} with files of {size} bytes: {left[0]} was left behind"
        return _judged(job, said, f"with files of {size} bytes")

    return trial


def _fresh(rng: random.Random, folder: Path) -> Job:
    place = folder / "work"
    shutil.rmtree(place, ignore_errors=True)
    return rng.choice(JOBS)(place)


def _judged(job: Job, said: set[int], how: str) -> str:
    """What is wrong after an interruption, and after the same work was done again."""
    name = f"{type(job).__name__} {how}"
    try:
        there = job.steps()
        if not {0, *said} <= there:
            return f"{name}: {sorted({0, *said} - there)} of {sorted(said)} are lost"
        job.work(lambda step: None)
        again = job.steps()
    except Exception as error:
        return f"{name}: {type(error).__name__}: {error}"
    if again != {0, *again} or max(again) < max(said, default=0):
        return f"{name}: done again, there are {sorted(again)}"
    left = list(job.left())
    return f"{name}: {left[0]} was left behind" if left else ""


def _apart(job: Job, limit: Callable[[], None]) -> tuple[set[int], int]:
    """Work in a process of its own under a limit; returns the steps that it said and its exit status."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        status = 1
        try:
            limit()
            job.work(lambda step: _say(writer, step))
            status = 0
        except OutputError:
            status = FULL
        finally:
            os._exit(status)  # without the clean-up of the process that it was forked from
    os.close(writer)
    with open(reader, "rb") as pipe:
        said = set(pipe.read())
    _, found = os.waitpid(process, 0)
    return said, os.waitstatus_to_exitcode(found)


def _say(pipe: int, step: int) -> None:
    os.write(pipe, bytes([step]))


def _limit_files(size: int, action: signal.Handlers) -> None:
    """Let a write beyond a file's size fail (``SIG_IGN``), or end the process (``SIG_DFL``)."""
    import resource  # which Windows lacks

    signal.signal(signal.SIGXFSZ, action)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def _vanish_after(moment: int) -> None:
    """End this process at a call of :data:`POINTS`, half of the time before it is made, else after it."""
    left, before = [moment // 2], moment % 2

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0 and before:
                os._exit(CRASHED)
            answer = call(*arguments, **named)
            if left[0] < 0:
                os._exit(CRASHED)
            return answer

        return wrapped

    for name in POINTS:
        setattr(os, name, counted(getattr(os, name)))
