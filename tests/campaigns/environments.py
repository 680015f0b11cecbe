"""Environments that break the parallel API at a random step: one sentence that names task, copy and step."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from marlzoo.errors import SpecError
from tests.broken_environments import NAMES, Sound
from tests.test_broken_environments import env_of, played

VALUES: tuple[Any, ...] = (
    *(None, "text", -1, 2, True, np.nan, np.inf, -np.inf, 1e308, 10**400, 1 + 2j),
    *([], [1.0, 2.0], {}, (), {"one": 1}, b"bytes", object()),
    *(np.zeros(0), np.zeros(2), np.zeros(3), np.zeros((2, 2)), np.full(2, np.nan), np.array(["a", "b"])),
)
ERRORS = (RuntimeError, ValueError, KeyError, RecursionError, MemoryError, SystemExit, AssertionError)


def misbehaving(folder: Path) -> Callable[[random.Random], str]:
    """A sound environment that at one step raises, or returns something else in one place."""

    def trial(rng: random.Random) -> str:
        kind, how = _broken(rng)
        try:
            played(env_of(kind, num_envs=2))
        except SpecError as error:
            text = str(error)
            if "\n" in text or "own/broken" not in text:
                return f"{how}: the error does not name the environment in one line: {text!r}"
        except BaseException as error:
            return f"{how}: {type(error).__name__}: {error}"
        return ""  # a value that can be taken for what it stands for may pass

    return trial


def _broken(rng: random.Random) -> tuple[type[Sound], str]:
    """A kind of environment, and what is wrong with it."""
    method, moment = rng.choice(("step", "reset", "state")), rng.randrange(5)
    if rng.random() < 0.3:
        error = rng.choice(ERRORS)
        return _kind(method, moment, lambda answer: _raise(error)), f"{error.__name__} in {method} {moment}"
    value, agent, part = rng.choice(VALUES), rng.choice(NAMES), rng.randrange(5)

    def change(answer: Any) -> Any:
        if method == "state" or rng.random() < 0.2:
            return value
        parts = list(answer)
        chosen = part % len(parts)
        parts[chosen] = {**parts[chosen], agent: value}
        return tuple(parts)

    return _kind(method, moment, change), f"{value!r} for {agent} in part {part} of {method} {moment}"


def _kind(method: str, moment: int, change: Callable[[Any], Any]) -> type[Sound]:
    """A class whose method goes wrong at its call of this number (``reset``: at once)."""
    sound: Callable[..., Any] = getattr(Sound, method)

    def wrong(self: Any, *arguments: Any, **named: Any) -> Any:
        answer = sound(self, *arguments, **named)
        calls = self.__dict__.setdefault("calls", [0])
        calls[0] += 1
        return change(answer) if method == "reset" or calls[0] > moment else answer

    return type("Broken", (Sound,), {method: wrong})


def _raise(error: type[BaseException]) -> Any:
    raise error("on purpose")
