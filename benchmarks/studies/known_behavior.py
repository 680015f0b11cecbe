"""Where the behavior is known, OMIGA's learned policy is the exponentially weighted behavior.

    python benchmarks/studies/known_behavior.py

The task (``marlzoo.benchmarks.walks``) splits exactly over agents, so that the regularized optimum
pi_i(a | o) = mu_i(a | o) exp((Q_i - V_i) / alpha) is known. Every seed draws data of its own from the behavior mu
and trains Q, V, mixer and policy from them, nothing else given; all alphas and seeds are replicas of one run.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.walks import Training, Walks, distance, learn
from numpy.typing import NDArray

ACTIONS = ("left", "stay", "right")


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    alphas: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)  # all in one run
    training: Training = Training()  # noqa: RUF009


def run(options: Options, walks: Walks) -> NDArray[np.float64]:
    """Learned policies ``[K, seeds, N, C, A]``."""
    every = study.replicas(options.seeds, alpha=options.alphas)
    drawn = [walks.dataset(options.training.transitions, seed) for seed in options.seeds]
    data = drawn * len(options.alphas)
    settings = {"gamma": walks.gamma, "timeout_is_terminal": False, **every}
    found = learn(walks.spec, data, options.training, **settings)
    policies: NDArray[np.float64] = found.reshape(len(options.alphas), len(options.seeds), *found.shape[1:])
    return policies


def numbers(options: Options, walks: Walks, found: NDArray[np.float64]) -> pd.DataFrame:
    """One line per alpha, agent, cell and action."""
    lines = []
    for alpha, policies in zip(options.alphas, found, strict=True):
        _, exact = walks.optimum(alpha)
        for place in np.ndindex(exact.shape):
            values = policies[(slice(None), *place)]
            agent, cell, action = place
            known = (walks.behavior[place], exact[place])
            lines.append((alpha, agent, cell, ACTIONS[action], *known, values.mean(), *study.bounds(values)))
    columns = ["alpha", "agent", "cell", "action", "behavior", "exact", "learned", "low", "high"]
    return pd.DataFrame(lines, columns=columns).assign(seeds=len(options.seeds))


def report(options: Options, walks: Walks, found: NDArray[np.float64], lines: pd.DataFrame) -> study.Study:
    """The table by alpha; learned against exact probabilities as plot."""
    body = []
    for alpha, policies in zip(options.alphas, found, strict=True):
        _, exact = walks.optimum(alpha)
        part = lines[lines["alpha"] == alpha]
        body.append(
            [
                f"{alpha:g}",
                f"{distance(walks.behavior, exact).mean():.3f}",
                study.over_seeds(distance(policies, exact).mean((1, 2)), 4),
                f"{(part['learned'] - part['exact']).abs().max():.3f}",
                f"{walks.value(walks.behavior):.3f}",
                study.over_seeds(walks.value(policies)),
                f"{walks.value(exact):.3f}",
            ]
        )
    header = [
        "alpha", "behavior to optimum", "learned to optimum", "largest error of a probability",
        "return of the behavior", "return of the learned policy", "return of the optimum",
    ]  # fmt: skip
    notes = [
        "Total-variation distances, averaged over agents and cells, to the optimum mu exp((Q - V) / alpha) of the "
        "known behavior mu; mean and 95 % bootstrap interval over seeds, each with data of its own. The largest "
        "error is that of the mean over seeds. Returns are expected discounted ones, computed exactly.",
        f"{len(options.seeds)} seeds, {options.training.transitions} transitions each, {options.training.updates} "
        f"updates. Made by `{study.command('known_behavior')}`.",
    ]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        ax.axline((0, 0), slope=1, color="gray", linewidth=0.8)
        for alpha in options.alphas:
            part = lines[lines["alpha"] == alpha]
            spread = np.maximum([part["learned"] - part["low"], part["high"] - part["learned"]], 0.0)
            ax.errorbar(
                part["exact"], part["learned"], spread, fmt="o", ms=3, lw=1, label=f"alpha = {alpha:g}"
            )
        ax.set(
            xlabel="exponentially weighted behavior (exact)", ylabel="learned probability, mean over seeds"
        )
        ax.legend()

    sheet = study.plain_sheet(
        "The learned policy and the exponentially weighted behavior", header, body, notes
    )
    return study.Study("known_behavior", sheet, lines, draw, (5.5, 5))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    walks = Walks.random()
    found = run(options, walks)
    study.write_study(report(options, walks, found, numbers(options, walks, found)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
