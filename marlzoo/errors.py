"""User-facing exceptions: cause, location, fix.

Every error raised for bad input derives from :class:`MarlzooError` and says what is wrong, where, and
what to do. The command line prints its text without a traceback (``--debug`` shows the traceback).
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from typing import Any, NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_REQUIREMENT = re.compile(
    r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*([^;]*)(?:;.*extra\s*==\s*[\"']([^\"']+)[\"'])?"
)


class Requirement(NamedTuple):
    """A package that marlzoo needs: its name, the versions (``>=1.2,<2``), and the extra that brings it, if any."""

    name: str
    versions: str
    extra: str

    def __str__(self) -> str:
        return f"{self.name}{self.versions}"


def requirements() -> list[Requirement]:
    """Requirements in marlzoo's metadata, extras included; empty if marlzoo is not installed."""
    try:
        declared = metadata.requires("marlzoo") or []
    except metadata.PackageNotFoundError:
        return []
    matches = filter(None, map(_REQUIREMENT.match, declared))
    return [Requirement(match[1], match[2].strip(), match[3] or "") for match in matches]


def pip_install(*packages: str) -> str:
    """The command that installs packages for the interpreter at hand, in the versions that marlzoo requires."""
    known = {required.name: str(required) for required in requirements()}
    # Double quotes: Windows' shells know no others.
    python = f'"{sys.executable}"' if " " in sys.executable else sys.executable
    return " ".join([python, "-m pip install", *(f'"{known.get(name, name)}"' for name in packages)])


CLOSE = 0.6  # similarity from which a known name may be what was meant; below it, 'path' resembles 'updates'

SMALLER = "take a smaller --hidden, --batch-size, --rollout or --num-envs, or fewer replicas (--max-replicas)"
_NO_MEMORY = re.compile("allocate memory|out of memory", re.IGNORECASE)  # in torch's errors


class MarlzooError(Exception):
    """Base of all errors whose text is meant for the user: cause, place and remedy."""


class UnknownNameError(MarlzooError, KeyError):
    """A method, task, quality or setting that does not exist; the text lists the nearest names."""

    def __init__(self, kind: str, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        written = {each.casefold(): each for each in known}
        near = [
            written[each] for each in difflib.get_close_matches(name.casefold(), written, n=3, cutoff=CLOSE)
        ]
        if near:
            listed = f"Did you mean {' or '.join(near)}?"
        elif known:
            shown = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            listed = f"Known: {shown}."
        else:
            listed = "None is known."
        super().__init__(f"unknown {kind} {name!r}. {listed}{' ' + hint if hint else ''}")

    def __str__(self) -> str:  # KeyError would quote the text
        return str(self.args[0])


class ConfigError(MarlzooError, ValueError):
    """A setting with a wrong type or out of its range."""


class SpecError(MarlzooError, ValueError):
    """The shape of a task does not fit a method, a dataset or a checkpoint."""


class DataError(MarlzooError, ValueError):
    """A dataset or file that is missing, broken, or not what it claims to be."""


class MissingDataError(DataError):
    """No dataset of this name is here; the text says how to get it."""


class MismatchError(DataError):
    """Data and environment disagree; the text names both sides."""


class CheckpointError(MarlzooError, ValueError):
    """A checkpoint that is missing, broken, or belongs to another configuration."""


class ExportError(MarlzooError, RuntimeError):
    """A policy that cannot be exported, or an export that does not repeat its policy."""


class PluginError(MarlzooError, ImportError):
    """A plugin that cannot be imported or takes a name in use."""


class MethodError(MarlzooError, RuntimeError):
    """A method whose own code breaks a rule that all methods keep; the text names file, line and remedy."""


class MissingExtraError(MarlzooError, ImportError):
    """An optional package that is not installed; the text gives the install command."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        # The packages themselves are named, because marlzoo need not be on a package index.
        needed = [required.name for required in requirements() if required.extra == extra] or [package]
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. "
            f"Install it with: {pip_install(*needed)}"
        )


class MissingSimulatorError(MarlzooError, ImportError):
    """A simulator that is not here and that no extra of this package brings; the text says how to get it."""


class OutputError(MarlzooError, OSError):
    """A file that could not be written (full or read-only disk); nothing is left half-written."""

    def __str__(self) -> str:
        return str(self.args[0])


def settings_apart(way: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Let an unknown keyword of a function that takes settings as one argument be an error that shows how.

    Args:
        way: how settings are given, with ``NAME`` in the place of the keyword.
    """

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        known = inspect.signature(function).parameters

        @functools.wraps(function)
        def checked(*args: P.args, **given: P.kwargs) -> T:
            for name in given:
                if name not in known:
                    raise UnknownNameError(
                        f"argument of {function.__name__}", name, known, way.replace("NAME", name)
                    )
            return function(*args, **given)

        return checked

    return decorate


def require_lists(**given: Any) -> None:
    """Refuse a single value where a list belongs.

    The letters of a text would be taken one by one, and the seed 0 for no seeds at all.

    Args:
        given: arguments by name; None is one that is not given.

    Raises:
        ConfigError: one is a text, a path or no collection.
    """
    for name, value in given.items():
        single = isinstance(value, str | bytes | os.PathLike) or not isinstance(value, Iterable)
        if single and value is not None:
            shown = os.fspath(value) if isinstance(value, os.PathLike) else value
            raise ConfigError(f"{name} is {shown!r}; give a list, such as {[shown]!r}")


@contextlib.contextmanager
def placed(place: str) -> Iterator[None]:
    """Let the text of every error about names, settings and shapes in this block begin with its place."""
    try:
        yield
    except (UnknownNameError, ConfigError, SpecError) as error:
        error.args = (f"{place}: {error}",)
        raise


def lack_of_memory(error: BaseException) -> str | None:
    """One line with a remedy if an error of Python or torch means that memory ran out, otherwise None."""
    if not (
        isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)))
    ):
        return None
    reason = " ".join(str(error).split()) or "nothing says how much"
    return f"not enough memory ({reason}); {SMALLER}"
