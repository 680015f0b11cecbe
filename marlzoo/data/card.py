"""A dataset's card: where it comes from, what made it, and what it holds, as plain values."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from marlzoo.errors import DataError

_KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "dict[str, str]": (dict,),
    "dict[str, Any]": (dict,),
    "dict[str, Any] | None": (dict, type(None)),
    "tuple[str, ...]": (list, tuple),
}
_FORMER = {"flavour": "flavor"}  # names of options in cards of earlier versions
_STATISTICS = (
    "transitions", "episodes", "mean_return", "std_return", "min_return", "max_return", "mean_length",
)  # fmt: skip


@dataclass(frozen=True)
class Card:
    """What is known about a dataset. Every value can be written as JSON.

    The statistics are filled in by :meth:`marlzoo.data.dataset.Dataset.create`; returns are undiscounted sums
    over an episode (mean over agents where rewards are per agent), ``std_return`` is the population's.

    Args:
        task: full task name, ``mamujoco/hopper-3x1``; empty when unknown.
        source: who recorded it, ``omiga`` or ``marlzoo``.
        quality: ``expert``, ``medium-replay``, ...
        engine: simulator that made it.
        versions: version of each package that took part.
        options: the environment's properties that the data depend on (its ``metadata``: flavor of the
            observations, order of actions, ...).
        transitions: number of transitions.
        episodes: number of episodes.
        mean_return: mean episode return.
        std_return: its standard deviation over episodes.
        min_return: lowest episode return.
        max_return: highest episode return.
        mean_length: mean episode length, in steps.
        clipped: action entries that lay outside [-1, 1] and were clipped when the file was read.
        content_hash: hash of the arrays and the spec as they stand in the dataset's file; empty when reading
            changed them (actions clipped, ends reinterpreted).
        license: license of the data, empty when none is stated.
        recipe: command and arguments that regenerate it, or None.
        notes: what the reader had to assume.
        bounds_known: whether the source tells where episodes begin; False where all rows had to be read as one, or
            are transitions in no order.
    """

    task: str = ""
    source: str = ""
    quality: str = ""
    engine: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    transitions: int = 0
    episodes: int = 0
    mean_return: float = 0.0
    std_return: float = 0.0
    min_return: float = 0.0
    max_return: float = 0.0
    mean_length: float = 0.0
    clipped: int = 0
    content_hash: str = ""
    license: str = ""
    recipe: dict[str, Any] | None = None
    notes: tuple[str, ...] = ()
    bounds_known: bool = True

    @property
    def name(self) -> str:
        """The dataset's name, ``family/task/source/quality``, with ``?`` for what is unknown."""
        return "/".join(part or "?" for part in (self.task, self.source, self.quality))

    @property
    def title(self) -> str:
        """For messages: what is known of the name, if that is the task at least."""
        if not self.task:
            return "the dataset"
        return "/".join(filter(None, (self.task, self.source, self.quality)))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self) | {"notes": list(self.notes)}

    def to_json(self) -> str:
        """One line of JSON, always the same for the same card."""
        return json.dumps(self.to_dict(), sort_keys=True, ensure_ascii=True, allow_nan=False)

    @classmethod
    def from_dict(cls, values: Any) -> Card:
        """Inverse of :meth:`to_dict`.

        Raises:
            DataError: a key that no card has, or a value of the wrong type.
        """
        if not isinstance(values, dict):
            raise DataError(f"dataset card: expected a JSON object, found {type(values).__name__}")
        kinds = {f.name: _KINDS[str(f.type)] for f in fields(cls)}
        for key, value in values.items():
            if key not in kinds:
                raise DataError(
                    f"dataset card: unknown entry {key!r}; the file may come from a newer marlzoo, update it"
                )
            wrong = isinstance(value, bool) and bool not in kinds[key]
            if wrong or not isinstance(value, kinds[key]):
                raise DataError(f"dataset card: {key} has the wrong type {type(value).__name__}")
        if not all(isinstance(note, str) for note in values.get("notes", ())):
            raise DataError("dataset card: notes must be texts")
        options = {_FORMER.get(name, name): value for name, value in values.get("options", {}).items()}
        return cls(**values | {"notes": tuple(values.get("notes", ())), "options": options})

    def differences(self, other: Card) -> list[str]:
        """Statistics in which another card differs, ``name: mine != theirs``; rounding is none."""
        pairs = ((name, getattr(self, name), getattr(other, name)) for name in _STATISTICS)
        return [
            f"{name} {mine:g} != {theirs:g}"
            for name, mine, theirs in pairs
            if not math.isclose(mine, theirs, rel_tol=1e-5, abs_tol=1e-6)
        ]

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Inverse of :meth:`to_json`.

        Raises:
            DataError: no valid JSON, or no card.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise DataError(f"dataset card: not valid JSON ({error})") from error
        return cls.from_dict(values)
