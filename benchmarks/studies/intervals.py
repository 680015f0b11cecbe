"""What the tables' 95 % intervals are worth with few seeds.

    python benchmarks/studies/intervals.py [--sizes 3 5 10 20] [--trials 1000]

Seeds' returns are drawn from a known distribution: a normal one, and one of two peaks, as of a walker that either
balances or falls. Counted is in how many of the trials two methods that are equal are told apart by the interval of
the difference of their means, as the tables' marks do it, and how often the interval of a mean and of an
interquartile mean holds the true one. A percentile bootstrap resamples the seeds there are, so that with few it is
too narrow: were it exact, two equal methods would be told apart in 5 of 100 trials, and a mean be held in 95.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.stats import Floats, difference, interval, iqm

Draws = Callable[[np.random.Generator, int], Floats]

UPPER = 0.4  # share of seeds at the upper of the two peaks
SHOWN = ("apart", "mean", "iqm")
MANY = 1_000_000  # draws of which the true values are taken


def normal(rng: np.random.Generator, size: int) -> Floats:
    """Mean 0, deviation 1."""
    return rng.normal(size=size)


def two_peaks(rng: np.random.Generator, size: int) -> Floats:
    """Near 1 with the probability ``UPPER``, else near 0."""
    return (rng.random(size) < UPPER) + 0.02 * rng.normal(size=size)


DISTRIBUTIONS: dict[str, Draws] = {"normal": normal, "two peaks": two_peaks}


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0,)  # of the draws
    sizes: tuple[int, ...] = (3, 5, 10, 20)  # seeds of a method
    trials: int = 1000  # of each size


def holds(bounds: tuple[float, float], value: float) -> bool:
    """Whether an interval contains a value."""
    return bounds[0] <= value <= bounds[1]


def trial(
    draw: Draws, rng: np.random.Generator, size: int, mean: float, middle: float
) -> tuple[bool, bool, bool]:
    """Whether two equal methods are told apart, and whether the intervals of the first hold the true values."""
    first = draw(rng, size)
    apart = not holds(difference(first, draw(rng, size)), 0.0)
    return apart, holds(study.bounds(first), mean), holds(interval([first]), middle)


def counted(options: Options) -> pd.DataFrame:
    """One line per distribution and size: shares of the trials."""
    lines = []
    for name, draw in DISTRIBUTIONS.items():
        known = draw(np.random.default_rng(options.seeds), MANY)
        for size in options.sizes:
            rng = np.random.default_rng([*options.seeds, size])
            found = [trial(draw, rng, size, known.mean(), iqm(known)) for _ in range(options.trials)]
            lines.append((name, size, *np.mean(found, axis=0)))
    return pd.DataFrame(lines, columns=["distribution", "size", *SHOWN])


def report(numbers: pd.DataFrame, options: Options) -> study.Study:
    """The table, and the share of equal methods told apart over the number of seeds."""
    body = [
        [line.distribution, str(line.size), *(f"{getattr(line, name):.3f}" for name in SHOWN)]
        for line in numbers.itertuples(index=False)
    ]
    notes = [
        f"Shares of {options.trials} trials. equal, told apart: the interval of the difference of two equal methods "
        "does not contain 0 (0.05 were right). mean held, IQM held: the interval contains the true value (0.95 were "
        "right). Two peaks: near 1 in two of five seeds, else near 0.",
        f"Made by `{study.command('intervals')}`.",
    ]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for name, part in numbers.groupby("distribution", sort=False):
            ax.plot(part["size"], part["apart"], "o-", label=name)
        ax.axhline(0.05, color="black", lw=1, ls=":")
        ax.set(xlabel="seeds", ylabel="equal methods told apart", ylim=(0, None))
        ax.legend()

    header = ["returns", "seeds", "equal, told apart", "mean held", "IQM held"]
    sheet = study.plain_sheet("What 95 % intervals are worth with few seeds", header, body, notes)
    return study.Study("intervals", sheet, numbers, draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(counted(options), options), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
