"""A time limit for calls into a simulator, which may hang."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from marlzoo.errors import ConfigError

SETTING = "MARLZOO_ENV_SECONDS"
DEFAULT = 600.0
_POLL = 0.5  # seconds between two looks of the watchdog


class OverdueError(BaseException):
    """The call did not return. Not an ``Exception``, which the simulator's own code could catch."""


def call_seconds() -> float:
    """Seconds that one call may take: those of the environment variable, or ten minutes; 0: no limit.

    Raises:
        ConfigError: the variable holds no such number.
    """
    text = os.environ.get(SETTING, "")
    try:
        seconds = float(text or DEFAULT)
    except ValueError:
        seconds = math.nan
    if not 0.0 <= seconds < math.inf:
        raise ConfigError(
            f"{SETTING} is {text!r}; set it to the seconds that a call of an environment may take, 0: no limit"
        )
    return seconds


def overdue(what: str, seconds: float) -> str:
    """Error message for a call that did not return."""
    return f"did not return from {what} within {seconds:g} seconds; mend it, or set {SETTING} (0: no limit)"


@contextlib.contextmanager
def time_limit(seconds: float, text: Callable[[], str]) -> Iterator[None]:
    """End a block that takes too long.

    In the main thread on POSIX, where nobody else uses the alarm, the block is interrupted by an exception, also
    while it waits for another process. Elsewhere no thread can be interrupted: the process ends. What is stuck in
    native code that holds Python's lock is not seen.

    Args:
        seconds: the limit; 0: none.
        text: the sentence that the process ends with.

    Raises:
        OverdueError: the limit was reached.
    """
    if not seconds:
        yield
    elif _alarm_is_free():
        yield from _alarmed(seconds)
    else:
        with _WATCHDOG.watching(time.monotonic() + seconds, text):
            yield


def _alarm_is_free() -> bool:
    if sys.platform == "win32" or threading.current_thread() is not threading.main_thread():
        return False
    unused = signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    return unused and signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def _alarmed(seconds: float) -> Iterator[None]:
    def ring(*_: object) -> NoReturn:
        raise OverdueError

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)


class _Watchdog:
    """A thread that ends the process when a block that it watches is not left in time."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._watched: dict[int, tuple[float, Callable[[], str]]] = {}
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def watching(self, deadline: float, text: Callable[[], str]) -> Iterator[None]:
        """Watch a block until it is left."""
        self._start()
        number = next(self._numbers)
        self._watched[number] = deadline, text
        try:
            yield
        finally:
            del self._watched[number]

    def _start(self) -> None:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # not there, or left behind by a fork
                self._thread = threading.Thread(
                    target=self._watch, daemon=True, name="environments' time limit"
                )
                self._thread.start()

    def _watch(self) -> None:
        while True:
            time.sleep(_POLL)
            for deadline, text in list(self._watched.values()):
                if time.monotonic() > deadline:
                    print(text(), file=sys.stderr, flush=True)
                    os._exit(1)


_WATCHDOG = _Watchdog()
