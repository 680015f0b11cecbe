"""Runs the code blocks of a Markdown page in order, as its reader would.

Blocks that the text says to save (``Save this as `mine.py```) are written below the working directory, Python blocks
share one namespace, and commands of shell blocks run in this process with small budgets. What only prepares a
machine (``make``, ``pip``, ``git``) is compared with the repository instead.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import io
import re
import shlex
import sys
import tomllib
import unittest
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, SkipParser

import marlzoo
from marlzoo.cli import main

ROOT = Path(__file__).parents[1]
SAVED = re.compile(r"[Ss]ave (?:this|it) as `([\w./-]+)`")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

MODEL = "--model-updates 2 --members 2 --elites 1 --model-hidden 8 --model-layers 1 --model-batch 8"

# Arguments added to commands so that they take a second; None: too long even so, only the flags are compared with
# the command's help. The first entry that a command begins with counts.
SHORTER: tuple[tuple[str, str | None], ...] = (
    ("train mappo", "--steps 64 --num-envs 4 --rollout 8 --batch-size 16 --hidden 8"),
    (
        "train iql --dyna",
        "--updates 4 --eval-every 4 --episodes 1 --horizon 3 --hidden 8 --dyna-starts 4 " + MODEL,
    ),
    ("data model", MODEL),
    ("train omiga --data spread.hdf5 --episodes 0", "--updates 2 --hidden 8"),
    ("train", "--updates 2 --eval-every 1 --episodes 1 --horizon 3 --hidden 8"),
    ("finetune", "--env-steps 40 --learn-steps 1 --warmup 0 --episodes 1"),
    ("bench smoke", ""),
    ("bench", None),
    ("sweep", None),
    ("data collect meeting/line", "--transitions 100"),
    ("data collect", None),
    ("data teach", None),
    ("data download", None),
    ("doctor", None),
    ("push", None),
    ("pull", None),
)


@dataclass
class Runner:
    """Executes the examples of one page in a folder.

    Args:
        folder: working directory of the page's commands.
        monkeypatch: undoes what a page exports.
    """

    folder: Path
    monkeypatch: pytest.MonkeyPatch

    def page(self, path: Path) -> list[str]:
        """Run all blocks of ``path``; returns the kinds of blocks, in order."""
        kinds: list[str] = []
        languages: dict[str, Callable[[Example], object]] = {
            "python": self.python,
            "bash": self.shell,
            "console": self.shell,
            "toml": self.saved,
        }

        def parser(language: str) -> CodeBlockParser:
            def evaluate(example: Example) -> None:
                kinds.append(language)
                languages[language](example)

            return CodeBlockParser(language, evaluate)

        document = Sybil([*map(parser, languages), SkipParser()]).parse(path)
        for example in document.examples():
            with contextlib.suppress(unittest.SkipTest):  # "<!-- skip: next -->" leaves out one block
                example.evaluate()
        return kinds

    def saved(self, example: Example) -> bool:
        """Write the block where the text above it says, if it says so."""
        name = _file_name(example)
        if name is None:
            return False
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(example.parsed)
        if file.parent.name in ("algorithms", "baselines"):
            self.register(file.parent)
        return True

    def register(self, folder: Path) -> None:
        """Let the methods in ``folder`` be found, as those of the checkout's folders are."""
        package = f"documented_{folder.name}"
        (self.folder / package).symlink_to(folder, target_is_directory=True)
        (folder / "__init__.py").touch()
        entry = importlib.metadata.EntryPoint("documented", package, "marlzoo.plugins")
        true = importlib.metadata.entry_points
        self.monkeypatch.setattr(
            "marlzoo.plugins.entry_points",
            lambda group: [*true(group=group), *([entry] if group == entry.group else [])],
        )
        importlib.invalidate_caches()

    def python(self, example: Example) -> None:
        """Save or execute a block."""
        if self.saved(example):
            return
        code = "\n" * (example.line + example.parsed.line_offset) + example.parsed
        exec(compile(code, example.path, "exec", dont_inherit=True), example.namespace)

    def shell(self, example: Example) -> None:
        """Save a script, or run a block's commands, line by line."""
        if self.saved(example):
            return
        joined = example.parsed.replace("\\\n", " ")
        for line in joined.splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                self.command(words)

    def command(self, words: list[str]) -> None:
        """Run one command, or compare it with the repository."""
        program, *arguments = words
        if program == "export":
            for assignment in arguments:
                name, _, value = assignment.partition("=")
                self.monkeypatch.setenv(name, value)
        elif program == "marlzoo":
            self.marlzoo(arguments)
        elif program == "make":
            targets = [word for word in arguments if "=" not in word]
            makefile = (ROOT / "Makefile").read_text()
            assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets), words
        elif "install" in arguments:
            for extra in re.findall(r"\[([\w,-]+)\]", " ".join(arguments)):
                assert set(extra.split(",")) <= set(EXTRAS), words
        elif program == "python" and arguments[0].endswith(".py"):
            assert (ROOT / arguments[0]).exists() or (self.folder / arguments[0]).exists(), words
        else:
            assert program in PREPARING, f"{program} is not known; run it in tests/snippets.py"

    def marlzoo(self, arguments: list[str]) -> None:
        """Run a command of the program, made shorter."""
        called = " ".join(arguments)
        more = next((more for start, more in SHORTER if called.startswith(start)), "")
        if more is None:
            _compare_with_help(arguments)
        else:
            shorter = shlex.split(more)
            assert main([*_without(arguments, shorter), *shorter]) == 0, called


PREPARING = (
    "source",
    "git",
    "cd",
    "uv",
    "pipx",
    "python",
    "python3",
    "pre-commit",
    "nvidia-cuda-mps-control",
    "pytest",
    ".ci/run",
    "rm",
    "sbatch",
)


def _file_name(example: Example) -> str | None:
    document: Document = example.document
    before = document.text[: example.start].rstrip().rpartition("\n\n")[2]
    found = SAVED.findall(before)
    return found[-1] if found else None


def _without(arguments: list[str], replacing: list[str]) -> list[str]:
    """The arguments without the flags, and their values, that others replace."""
    flags, kept, dropping = {word for word in replacing if word.startswith("--")}, list[str](), False
    for word in arguments:
        dropping = word in flags or (dropping and not word.startswith("--"))
        if not dropping:
            kept.append(word)
    return kept


def _compare_with_help(arguments: list[str]) -> None:
    flags = [word.partition("=")[0] for word in arguments if word.startswith("--")]
    command = [word for word in arguments if not word.startswith("-")]
    depth = 2 if command[0] == "data" else 1
    text = _printed([*command[:depth], "--help"])
    for flag in flags:
        assert flag in text, f"marlzoo {' '.join(command[:depth])} has no {flag}"


def _printed(arguments: list[str]) -> str:
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        main(arguments)
    return text.getvalue()


def short_budgets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``marlzoo.train`` make two updates and short evaluations, whatever a page asks for."""
    true = marlzoo.train

    def train(*arguments: Any, updates: int, **options: Any) -> Any:
        budget = {"updates": min(updates, 2), "episodes": 1, "horizon": 3}
        return true(*arguments, **{**options, **budget})

    monkeypatch.setattr(marlzoo, "train", train)


def forget_modules(folder: Path) -> None:
    """Let modules that were imported from ``folder`` be found anew."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and Path(file).is_relative_to(folder):
            del sys.modules[name]
