"""Data actions exactly on the bounds: what they do to policies that are fitted by likelihood.

    python benchmarks/studies/bound_actions.py

The behavior policies of the regenerated data act with a Gaussian clipped to the box, so that many actions lie on its
bounds. A tanh-Gaussian has no mass there: its likelihood takes such an action as the sample 8.4 before
squashing, far from those of all other actions, and bends mean and width towards it. With ``bound_margin`` the action
counts as censored instead: the sample lay beyond atanh(1 - margin), however far. Behavior cloning and OMIGA are
trained with several margins (0: off), and cloning by squared error for comparison; all margins and seeds of a method
are replicas of one run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.sources import Source

from marlzoo.data.dataset import Dataset

EXPERT = study.Logged(
    task="mamujoco/hopper-3x1", quality="expert", transitions=100_000, updates=5000, episodes=10
)
NAMES = ["method", "loss", "margin", "seed", "return"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    methods: tuple[str, ...] = ("bc", "omiga")  # fitted by likelihood
    margins: tuple[float, ...] = (0.0, 0.01, 0.02, 0.05, 0.1)  # all in one run
    logged: Annotated[study.Logged, tyro.conf.arg(name="")] = EXPERT


def on_bounds(data: Dataset) -> list[float]:
    """Share of each agent's action entries that lie on a bound."""
    action = np.abs(data.action[data.sources])
    sizes = data.spec.action_sizes
    return [float((action[:, agent, :size] >= 1.0).mean()) for agent, size in enumerate(sizes)]


def returns(options: Options, source: Source, data: Dataset) -> pd.DataFrame:
    """One line per method, loss, margin and seed."""
    _, earned = options.logged.train("bc", source, data, seeds=options.seeds, loss="mse")
    lines = [("bc", "squared error", 0.0, *pair) for pair in zip(options.seeds, earned, strict=True)]
    every = study.replicas(options.seeds, bound_margin=options.margins)
    for method in options.methods:
        _, earned = options.logged.train(method, source, data, **every)
        for margin, *pair in zip(every["bound_margin"], every["seeds"], earned, strict=True):
            lines.append((method, "likelihood", margin, *pair))
    return pd.DataFrame(lines, columns=NAMES)


def report(options: Options, source: Source, data: Dataset, lines: pd.DataFrame) -> study.Study:
    """The table by method and margin; returns over margins as plot."""
    parts = list(lines.groupby(["method", "loss", "margin"], sort=False))
    body = [
        [*key[:2], f"{key[2]:g}" if key[2] else "off", study.over_seeds(part["return"].to_numpy(), 0)]
        for key, part in parts
    ]
    shares = ", ".join(f"{share:.1%}" for share in on_bounds(data))
    notes = [
        f"Returns of the deterministic policies, mean and 95 % bootstrap interval over {len(options.seeds)} seeds. "
        f"Share of actions exactly on a bound, agent by agent: {shares}.",
        options.logged.describe(source, data),
        f"Made by `{study.command('bound_actions')}`.",
    ]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for method in options.methods:
            part = lines[(lines["method"] == method) & (lines["loss"] == "likelihood")]
            samples = [part[part["margin"] == m]["return"].to_numpy() for m in options.margins]
            study.curve(ax, options.margins, samples, method)
        ax.axhline(
            lines[lines["loss"] == "squared error"]["return"].mean(),
            color="k",
            ls="--",
            label="squared error",
        )
        ax.axhline(source.behavior, color="gray", ls=":", label="data")
        ax.set(xlabel="margin", ylabel="return")
        ax.legend()

    sheet = study.plain_sheet("Actions on the bounds", ["method", "loss", "margin", "return"], body, notes)
    numbers = lines.assign(**{f"on_bound_{k}": share for k, share in enumerate(on_bounds(data))})
    return study.Study("bound_actions", sheet, numbers, draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    source, data = options.logged.load(options.out)
    study.write_study(report(options, source, data, returns(options, source, data)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
