"""Interruptions that wait: libraries call back into Python where no exception may arise."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def interrupts_held(tell: Callable[[], None]) -> Iterator[None]:
    """Let SIGINT and SIGTERM that come inside the block do at its end what they would have done at once.

    Signals that end the process without Python, and all in other threads than the first, are left as they are.

    Args:
        tell: called when the first of them comes, so that the block can hurry; it must not raise.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def hold(number: int, frame: Any) -> None:
        if not came:
            tell()
        came.append(number)

    before = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if callable(handler := signal.getsignal(number))
    }
    try:
        for number in before:
            signal.signal(number, hold)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for first in came[:1]:
            signal.raise_signal(first)
