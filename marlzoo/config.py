"""Typed configurations: each setting is declared once, with its range and comment, in its method's file."""

from __future__ import annotations

import functools
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar

from marlzoo.errors import ConfigError, UnknownNameError

BITS = 63  # of the whole numbers that torch, NumPy and tables take
_BITS_FLOAT = 1023  # and of those that become a float


@dataclass(frozen=True)
class Range:
    """Closed interval that a number must lie in; ``open_low`` excludes the lower end."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high and not (self.open_low and value == self.low)

    def __str__(self) -> str:
        high = "inf)" if self.high == math.inf else f"{self.high:g}]"
        return f"{'(' if self.open_low else '['}{self.low:g}, {high}"


Fraction = Annotated[float, Range(0.0, 1.0)]
Positive = Annotated[float, Range(0.0, open_low=True)]
NonNegative = Annotated[float, Range(0.0)]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]

History = Literal["mlp", "rnn"]
"""What a policy acts on: the observation, or, with a memory, the episode so far; the latter learns from sequences."""

Precision = Literal["float32", "tf32", "bf16"]
"""Of matrix products while training; see :mod:`marlzoo.training.precision`."""


# Of a setting added after results were recorded: at its default it does not identify a run, so that rows and
# checkpoints that lack it stay found.
ASSIGNED_LATER: Mapping[str, Any] = {"later": True}


@dataclass(frozen=True)
class Config:
    """Settings that every learner has. Methods derive from it, add their own and change defaults.

    Settings of type ``float`` may differ between the replicas of one learner; all others are shared by them.

    One rule for time limits holds for all methods, so that a table compares methods and not readings of the data: a
    step that the data mark as cut by a limit bootstraps from its next state, because nothing ended there and agents
    do not see the clock (Pardo et al., "Time Limits in Reinforcement Learning", ICML 2018). ``timeout_is_terminal``
    counts limits as terminal states instead, which is how code reads files that do not tell the two apart (OMIGA's,
    ComaDICE's); where a file holds terminal flags only, both readings are the same.

    Raises:
        ConfigError: a value of the wrong type or out of its range.
    """

    batch_size: Count = 128  # transitions (or sequences) per update and replica
    gamma: Fraction = 0.99  # discount
    lr: Positive = 5e-4  # step size of Adam
    grad_clip: Positive = math.inf  # bound on the global gradient norm of a parameter group
    timeout_is_terminal: bool = False  # whether a time limit cuts the bootstrap like a terminal state
    reward_mode: Literal["reward", "rtg"] = "reward"  # rtg: undiscounted return-to-go in place of the reward
    sequence_length: Natural = 0  # steps per sequence (0: whole episodes); sequence sampling only
    # one more ReLU between a recurrent network's hidden state and its last layer, as in OG-MARL
    memory_relu: bool = field(default=False, metadata=ASSIGNED_LATER)
    # likelihoods take continuous data actions this near the bounds as censored (0: as they are)
    bound_margin: Fraction = field(default=0.0, metadata=ASSIGNED_LATER)

    def __post_init__(self) -> None:
        for name, hint in _settings(type(self)).items():
            object.__setattr__(self, name, _checked(type(self), name, getattr(self, name), hint))

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; those marked :data:`ASSIGNED_LATER` only where they differ from the default."""
        values = {
            setting.name: getattr(self, setting.name)
            for setting in fields(self)
            if not (setting.metadata.get("later") and getattr(self, setting.name) == setting.default)
        }
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def hash(self) -> str:
        """First 12 hexadecimal digits of the SHA-256 of the settings in canonical JSON."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _settings(cls: Any) -> Mapping[str, Any]:
    """Type of every setting by name."""
    return _type_hints(cls)


@functools.cache  # evaluating annotations takes a millisecond, and every replica's settings are checked
def _type_hints(cls: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(cls, include_extras=True)


def is_numeric(cls: type[Config], name: str) -> bool:
    """Whether a setting is a plain ``float`` and may differ between replicas."""
    hint = _settings(cls)[name]
    base = typing.get_args(hint)[0] if typing.get_origin(hint) is Annotated else hint
    return base is float


def _checked(cls: type[Config], name: str, value: Any, hint: Any) -> Any:
    place = f"setting {name!r} of {cls.__name__}"
    limits: list[Range] = []
    if typing.get_origin(hint) is Annotated:
        hint, *extra = typing.get_args(hint)
        limits = [item for item in extra if isinstance(item, Range)]
    value = _converted(place, value, hint)
    for limit in limits:
        numbers = value if isinstance(value, tuple) else (value,)
        bad = [x for x in numbers if isinstance(x, int | float) and x not in limit]
        if bad:
            raise ConfigError(f"{place} is {bad[0]!r}; it must lie in {limit}")
    return value


def require_bits(place: str, value: Any, most: int = BITS) -> None:
    """Refuse a whole number that is too large to be computed with.

    Raises:
        ConfigError: it has more bits.
    """
    if isinstance(value, int) and value.bit_length() > most:
        raise ConfigError(
            f"{place} is a whole number of {value.bit_length()} bits; it must have at most {most}"
        )


def _converted(place: str, value: Any, hint: Any) -> Any:
    origin = typing.get_origin(hint)
    arguments = typing.get_args(hint)
    if origin is Literal:
        if value not in arguments:
            raise ConfigError(f"{place} is {value!r}; choose one of {', '.join(map(repr, arguments))}")
        return value
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_converted(place, item, arguments[0]) for item in value)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (hint,) = (a for a in arguments if a is not type(None))
        return _converted(place, value, hint)
    most = _BITS_FLOAT if hint is float else BITS
    require_bits(place, value, most)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    expected = origin or hint
    if not isinstance(value, expected) or (expected is int and isinstance(value, bool)):
        raise ConfigError(
            f"{place} is {value!r}; it must be of type {getattr(expected, '__name__', expected)}"
        )
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{place} is NaN")
    return value


C = TypeVar("C", bound=Config)


def replica_configs(
    cls: type[C], replicas: int, settings: Mapping[str, Any], preset: Mapping[str, Any] | None = None
) -> list[C]:
    """One configuration per replica; a list of length R for a ``float`` setting gives each its own value.

    Args:
        cls: the method's configuration class.
        replicas: R.
        settings: values by name; scalars, or sequences of length R for ``float`` settings.
        preset: values used where ``settings`` has none.

    Raises:
        UnknownNameError: a setting that ``cls`` does not have.
        ConfigError: a wrong value, or a list whose length is not R.
    """
    known = [field.name for field in fields(cls)]
    merged: dict[str, Any] = {**(preset or {}), **settings}
    for name in merged:
        if name not in known:
            raise UnknownNameError(f"setting of {cls.__name__}", name, known)
    result = []
    for replica in range(replicas):
        values = {}
        for name, value in merged.items():
            per_replica = is_numeric(cls, name) and isinstance(value, Sequence) and not isinstance(value, str)
            if per_replica and len(value) != replicas:
                raise ConfigError(
                    f"setting {name!r} of {cls.__name__} lists {len(value)} values for {replicas} replicas"
                )
            values[name] = value[replica] if per_replica else value
        result.append(cls(**values))
    return result


@dataclass(frozen=True)
class ReplayConfig(Config):
    """Settings of online methods that learn from a replay; ``batch_size`` counts sequences."""

    num_envs: Count = 20  # copies of the environment per replica
    rollout: Count = 50  # steps of each copy between two rounds of learning
    restart: Count = 100  # rounds after which all environments are reset; checkpoints are saved there
    replay: Count = 1_000_000  # team steps that the replay holds, per replica
    warmup: Natural = 10_000  # team steps per replica before the first learning
    learn_steps: Count = 50  # updates in a round


ONLY_OFFLINE = ("reward_mode",)
"""Settings of the sampler, which draws from recorded data; online methods have no use for them."""


# Settings that the methods of one table must share, whatever their papers took: network, batch and optimizer.
# SMAC's methods come from two schools, whose numbers do not compare: feed-forward networks on single transitions
# (OMIGA's paper), and recurrent networks on sequences (OG-MARL, PyMARL). Every method for discrete actions has
# both as presets, ``smac`` and ``smac-recurrent``; a table uses one of them for all. A method's own coefficients
# stay its own. Where its authors published settings of their own for SMAC, those are ``smac-authors``.
MLP_TRANSITIONS: Mapping[str, Any] = {"hidden": 256, "batch_size": 128, "lr": 5e-4, "grad_clip": 1.0}
"""OMIGA's for SMAC: two hidden layers of 256, 128 transitions, Adam with 5e-4, gradient norms clipped to 1."""


RECURRENT_SEQUENCES: Mapping[str, Any] = {
    "history": "rnn", "memory_relu": True, "hidden": 64, "batch_size": 32, "sequence_length": 20, "lr": 3e-4,
    "grad_clip": 10.0,
}  # fmt: skip
"""OG-MARL's: a GRU with 64 units and a ReLU behind it, 32 sequences of up to 20 steps, Adam with 3e-4; gradient norms
clipped to 10, which it does for some methods only."""
