"""How a behavior policy is made; needs no torch, so that the command line can show it at once."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from marlzoo.errors import ConfigError
from marlzoo.teachers.plans import default_method, own_folder


@dataclass(frozen=True)
class Options:
    """How a behavior policy is made."""

    method: str = field(default_factory=default_method)  # an online method, with the task's preset
    settings: tuple[str, ...] = ()  # settings to change, NAME=VALUE each (VALUE in JSON)
    steps: int = 4_000_000  # team steps of training
    until: int | None = None  # stop after so many, the step size falling as if it went on (default: never)
    seed: int = 0  # random seed of everything
    medium_return: float | None = None  # wanted of the medium policy (default: halfway from start to end)
    poor_return: float | None = (
        None  # wanted of the poor one: makes poor, medium, good in place of the five others
    )
    replay_return: float | None = (
        None  # wanted of medium-replay, which may go on beyond the medium one (default: it ends there)
    )
    stages: int = 8  # snapshots that make medium-replay, evenly spread over the training up to its end
    every: int = 6  # updates between two snapshots
    trial: int = 16  # episodes to measure each snapshot by when choosing those that are kept
    episodes: int = 100  # episodes to measure the kept snapshots by
    work: Path = Path("behavior-runs")  # folder for the unfinished training
    out: Path = field(default_factory=own_folder)  # folder for the behavior policy

    def command(self, task: str) -> str:
        """The command line that makes this behavior policy."""
        given = [(f.name, getattr(self, f.name)) for f in fields(self) if f.name not in ("work", "out")]
        words = ["python", "-m", "marlzoo.recording.teach", task]
        for name, value in given:
            if value not in (None, ()):
                several = value if isinstance(value, tuple) else (value,)
                words += [f"--{name.replace('_', '-')}", *map(str, several)]
        return shlex.join(words)

    def changed(self) -> dict[str, Any]:
        """The changed settings by name.

        Raises:
            ConfigError: one is not of the form NAME=VALUE.
        """
        changed = {}
        for word in self.settings:
            name, _, text = word.partition("=")
            try:
                changed[name] = json.loads(text)
            except ValueError as error:
                raise ConfigError(f"data teach: {word!r} is not NAME=VALUE with a JSON value") from error
        return changed
