"""OMIGA with and without global information in its local weights.

    python benchmarks/studies/global_weights.py [--task mamujoco/hopper-3x1 --quality medium | --file DATA]

The mixer's weights w_i(s) turn the global regularized problem into local ones: policy weight
exp(w_i(s) (Q_i - V_i) / alpha). ``global_weights = False`` (the paper's ablation) puts 1 in place of w_i(s) there.
Without arguments: the walks of ``marlzoo.benchmarks.walks``, where the optimum is known; the agents' rewards differ
in size there, which only w tells them. With a task or a file: returns on logged data, evaluated in the simulator.
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
from marlzoo.benchmarks.walks import Training, Walks, distance, learn

from marlzoo.data.dataset import Dataset

FORMS = {True: "with", False: "without"}


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    alphas: tuple[float, ...] = (0.3, 1.0, 3.0, 10.0)  # all in one run
    training: Training = Training()  # noqa: RUF009
    logged: Annotated[study.Logged, tyro.conf.arg(name="")] = study.Logged()  # noqa: RUF009


def on_walks(options: Options, walks: Walks) -> pd.DataFrame:
    """One line per form, alpha and seed."""
    every = study.replicas(options.seeds, alpha=options.alphas)
    drawn = [walks.dataset(options.training.transitions, seed) for seed in options.seeds]
    settings = {"gamma": walks.gamma, "timeout_is_terminal": False, **every}
    lines = []
    for form in FORMS:
        found = learn(
            walks.spec, drawn * len(options.alphas), options.training, global_weights=form, **settings
        )
        for alpha, seed, policy in zip(every["alpha"], every["seeds"], found, strict=True):
            _, exact = walks.optimum(alpha)
            lines.append((form, alpha, seed, distance(policy, exact).mean(), walks.value(policy, alpha)))
    return pd.DataFrame(lines, columns=["global_weights", "alpha", "seed", "to_optimum", "objective"])


def on_logged_data(options: Options, source: Source, data: Dataset) -> pd.DataFrame:
    """One line per form, alpha and seed."""
    every = study.replicas(options.seeds, alpha=options.alphas)
    lines: list[tuple[Any, ...]] = []
    for form in FORMS:
        _, returns = options.logged.train("omiga", source, data, global_weights=form, **every)
        lines += [(form, *line) for line in zip(every["alpha"], every["seeds"], returns, strict=True)]
    return pd.DataFrame(lines, columns=["global_weights", "alpha", "seed", "return"])


def report(
    options: Options, lines: pd.DataFrame, title: str, known: dict[str, list[str]], note: str, name: str
) -> study.Study:
    """Mean and interval of every measured column by alpha, with and without; known columns last."""
    texts = {"to_optimum": "distance to the optimum", "objective": "objective", "return": "return"}
    measured = [column for column in texts if column in lines]
    header = ["alpha", *(f"{texts[m]}, {word}" for m in measured for word in FORMS.values()), *known]
    body = []
    for k, alpha in enumerate(options.alphas):
        cells = [
            study.over_seeds(values(lines, form, alpha, m), 3 if m == "to_optimum" else 2)
            for m in measured
            for form in FORMS
        ]
        body.append([f"{alpha:g}", *cells, *(column[k] for column in known.values())])
    notes = [
        f"with: weights from the mixer; without: 1. Mean and 95 % bootstrap interval over {len(options.seeds)} "
        f"seeds. {note}",
        f"Made by `{study.command('global_weights')}`.",
    ]

    def draw(figure: Any) -> None:
        axes = np.atleast_1d(figure.subplots(1, len(measured)))
        for m, ax in zip(measured, axes, strict=True):
            for form, word in FORMS.items():
                study.curve(ax, options.alphas, [values(lines, form, a, m) for a in options.alphas], word)
            ax.set(xscale="log", xlabel="alpha", ylabel=texts[m])
        axes[0].legend()

    sheet = study.plain_sheet(title, header, body, notes)
    return study.Study(name, sheet, lines, draw, (4.5 * len(measured), 4))


def values(lines: pd.DataFrame, form: bool, alpha: float, column: str) -> Any:
    """A column's values over seeds."""
    part = lines[(lines["global_weights"] == form) & (lines["alpha"] == alpha)]
    return part[column].to_numpy(dtype=np.float64)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    known: dict[str, list[str]] = {}
    name = "global_weights"
    what = "walks with a known optimum"
    if options.logged.given:
        source, data = options.logged.load(options.out)
        name = study.place(name, source)
        what = f"{source.task} {source.quality}"
        lines = on_logged_data(options, source, data)
        note = options.logged.describe(source, data)
    else:
        walks = Walks.random()
        lines = on_walks(options, walks)
        best = [walks.value(walks.optimum(alpha)[1], alpha) for alpha in options.alphas]
        known = {"objective of the optimum": [f"{value:.2f}" for value in best]}
        note = (
            "Total-variation distance of the policy to the exact optimum, averaged over agents and cells; the "
            "regularized objective (discounted reward minus alpha times the log ratio to the behavior), computed "
            f"exactly ({walks.value(walks.behavior):.2f} for the behavior)."
        )
    study.write_study(report(options, lines, f"Global information: {what}", known, note, name), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
