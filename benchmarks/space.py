"""The settings of a sweep: values of each, as lists or ranges, and the points of a grid or at random."""

from __future__ import annotations

import itertools
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np

from marlzoo.errors import ConfigError

_RANGE = re.compile(r"(?P<low>.+?)\.\.(?P<high>[^:]+)(?P<log>:log)?(?::(?P<count>\d+))?")
DIGITS = 3  # significant ones of a value that is computed
MOST = 10_000  # settings of a sweep, each of which is a run at least


@dataclass(frozen=True)
class Values:
    """The values of one setting: a list, or a range of numbers.

    Attributes:
        choices: the values; empty for a range.
        low: end of a range.
        high: end of a range.
        log: whether a range is even in the logarithm.
        count: points of a range in a grid; 0: none was given.
    """

    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    count: int = 0

    def grid(self, name: str) -> tuple[Any, ...]:
        """The points of a grid.

        Raises:
            ConfigError: a range without a number of points.
        """
        if self.choices:
            return self.choices
        if not self.count:
            raise ConfigError(f"{name}: a grid needs the number of points, LOW..HIGH:log:3, or use --random")
        _require_count(f"{name}: points of the range", self.count)
        space = np.geomspace if self.log else np.linspace
        return tuple(self.rounded(value) for value in space(self.low, self.high, self.count))

    def draw(self, rng: np.random.Generator) -> Any:
        """One value at random."""
        if self.choices:
            return self.choices[int(rng.integers(len(self.choices)))]
        if self.log:
            return self.rounded(math.exp(rng.uniform(math.log(self.low), math.log(self.high))))
        return self.rounded(rng.uniform(self.low, self.high))

    def rounded(self, value: float) -> float:
        """As many digits as tell the points of the range apart, and never outside of it."""
        width = (self.high - self.low) / max(abs(self.low), abs(self.high))
        digits = max(DIGITS, 2 + math.ceil(-math.log10(width)))
        return min(max(float(f"{value:.{digits}g}"), self.low), self.high)


def parse_values(name: str, given: Sequence[Any] | str) -> Values:
    """The values of a setting: a sequence, ``a,b,c``, ``LOW..HIGH``, ``LOW..HIGH:log`` or these with ``:COUNT``.

    Raises:
        ConfigError: none, or text of another form.
    """
    if not isinstance(given, str | Iterable):
        raise ConfigError(f"{name} is {given!r}; give a list of values, such as {[given]!r}")
    if not isinstance(given, str):
        choices = tuple(given)
    elif ".." in given:
        return _range(name, given)
    else:
        choices = tuple(_plain(text.strip()) for text in given.split(",") if text.strip())
    if not choices:
        raise ConfigError(f"{name}: no values; write {name}=0.3,1,3 or {name}=1e-4..1e-3:log:3")
    return Values(tuple(dict.fromkeys(choices)))


def grid_points(space: Mapping[str, Values]) -> list[dict[str, Any]]:
    """Every combination of values."""
    if not space:
        raise ConfigError("nothing to sweep; name a setting with its values, for instance alpha=0.3,1,3")
    axes = [values.grid(name) for name, values in space.items()]
    _require_count("combinations of values", math.prod(map(len, axes)))
    return [dict(zip(space, point, strict=True)) for point in itertools.product(*axes)]


def random_points(space: Mapping[str, Values], count: int, seed: int) -> list[dict[str, Any]]:
    """Different combinations at random; fewer than ``count`` where there are no more."""
    if not space:
        raise ConfigError("nothing to sweep; name a setting with its values, for instance alpha=0.3,1,3")
    require_whole(1, random=count)
    require_whole(0, random_seed=seed)
    _require_count("random", count)
    rng = np.random.default_rng(seed)
    found = dict[str, dict[str, Any]]()
    for _ in range(100 * count):
        point = {name: values.draw(rng) for name, values in space.items()}
        found.setdefault(repr(point), point)
        if len(found) == count:
            break
    return list(found.values())


def require_whole(least: int, **numbers: Any) -> None:
    """Refuse what is no integer, or a smaller one.

    Raises:
        ConfigError: with name and value.
    """
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, Integral):
            raise ConfigError(f"{name} is {number!r}; it must be an integer")
        if number < least:
            raise ConfigError(f"{name} is {number}; it must be at least {least}")


def _require_count(name: str, count: int) -> None:
    if count > MOST:
        raise ConfigError(f"{name}: {count}; a sweep has {MOST:,} settings at most")


def _range(name: str, text: str) -> Values:
    match = _RANGE.fullmatch(text)
    try:
        if match is None:
            raise ValueError
        low = float(match["low"])
        high = float(match["high"])
        count = int(match["count"] or 0)
    except ValueError:
        raise ConfigError(
            f"{name}={text}: write a range as LOW..HIGH, LOW..HIGH:log or LOW..HIGH:log:COUNT"
        ) from None
    if not low < high or (match["log"] and low <= 0.0):
        raise ConfigError(f"{name}={text}: the low end must be below the high one, and above 0 for log")
    return Values((), low, high, bool(match["log"]), count)


def _plain(text: str) -> Any:
    """A value as TOML has it, or else text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
