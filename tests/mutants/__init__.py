"""Planted faults: small wrong changes of the source, each of which some test must notice.

The lists are the ``*.toml`` files of this package, one for each source file::

    file = "algorithms/omiga.py"
    tests = ["tests/test_reference.py", "-k", "test_five_updates and omiga-"]

    [[faults]]
    old = "policy_loss = -mean_over"
    new = "policy_loss = mean_over"

``tests`` are the arguments of pytest that select the tests which claim the file. ``old`` must occur in the file
exactly once. A fault that no test can see, because it changes nothing that matters, has ``survives = "reason"``.

``make mutants`` (``python -m tests.mutants``) plants the faults one at a time in a private copy of the repository.
With ``--out tests/mutants/RESULT.md`` it writes what died into the committed table, list by list; ``--again`` tries
only what survived there.
"""

from __future__ import annotations

import ast
import functools
import textwrap
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

LISTS = Path(__file__).parent
ROOT = LISTS.parents[1]


@dataclass(frozen=True)
class Fault:
    """One wrong change.

    Args:
        listing: name of the list that it is from.
        file: the source file, relative to the repository.
        tests: pytest's arguments for the tests that claim the file.
        old: text that occurs in the file exactly once.
        new: text in its place.
        survives: why no test sees it; empty where one must.
    """

    listing: str
    file: str
    tests: tuple[str, ...]
    old: str
    new: str
    survives: str = ""

    def __str__(self) -> str:
        return f"{self.file}: {self.old!r} -> {self.new!r}"


def read_faults(folder: Path = LISTS) -> list[Fault]:
    """All faults of the lists in a folder, in the order of the lists' names.

    Raises:
        ValueError: a list that is no TOML, or has other entries than the package's text says.
    """
    found = []
    for path in sorted(folder.glob("*.toml")):
        try:
            listing = tomllib.loads(path.read_text(encoding="utf-8"))
            shared = {"listing": path.stem, "file": listing["file"], "tests": tuple(listing["tests"])}
            found += [Fault(**shared, **entry) for entry in listing["faults"]]
        except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path}: not a list of faults: {error!r}; see tests/mutants/__init__.py"
            ) from None
    return found


def planted(fault: Fault, root: Path = ROOT) -> str:
    """The file's text with the fault.

    Raises:
        ValueError: the old text does not occur exactly once, or the new one is no Python or the same code.
    """
    source = (root / fault.file).read_text(encoding="utf-8")
    count = source.count(fault.old)
    if count != 1:
        raise ValueError(f"{fault}: the old text occurs {count} times; write one that occurs once")
    text = source.replace(fault.old, fault.new)
    if not changes(source, text, source.index(fault.old), len(fault.old)):
        try:
            changed = code(text) != code(source) or assertions(text) != assertions(source)
        except SyntaxError as error:
            raise ValueError(f"{fault}: the new text is no Python: {error}") from None
        if not changed:
            raise ValueError(f"{fault}: the new text changes no code")
    return text


def changes(source: str, text: str, place: int, length: int) -> bool:
    """Whether a change is seen to be one of code by the definition around it alone: the whole file takes long."""
    first, last = (source.count("\n", 0, end) for end in (place, place + length))
    around = [(start, stop) for start, stop in definitions(source) if start <= first and last < stop]
    if not around:
        return False
    start, stop = max(around)
    longer = text.count("\n") - source.count("\n")
    try:
        return part(text, start, stop + longer) != part(source, start, stop)
    except SyntaxError:
        return False


@functools.lru_cache(maxsize=8)
def definitions(source: str) -> list[tuple[int, int]]:
    """The lines, from and up to, of all functions, methods and classes, their decorators left out."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, kinds)]
    return [(node.lineno - 1, node.end_lineno or node.lineno) for node in nodes]


def part(source: str, start: int, stop: int) -> CodeType:
    """Some lines, compiled."""
    return code(textwrap.dedent("".join(source.splitlines(keepends=True)[start:stop])))


@functools.lru_cache(maxsize=64)
def code(source: str) -> CodeType:
    """Compiled without docstrings, comments and assertions; equal where the behavior is."""
    return compile(source, "fault", "exec", dont_inherit=True, optimize=2)


def assertions(source: str) -> list[str]:
    """Those of a file: the checks of a battery are assertions."""
    return [ast.dump(node) for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Assert)]


def errors(faults: Sequence[Fault], root: Path = ROOT) -> list[str]:
    """What is wrong with the lists: faults that cannot be planted, or that occur twice."""
    found = []
    for fault in faults:
        try:
            planted(fault, root)
        except (ValueError, OSError) as error:
            found.append(str(error))
    texts = [str(fault) for fault in faults]
    found += [f"{text}: listed twice" for text in sorted({text for text in texts if texts.count(text) > 1})]
    return found
