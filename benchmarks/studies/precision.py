"""Matrix products in bfloat16 while training: whether the returns are those of float32.

    python benchmarks/studies/precision.py

Every method is trained twice on the same data, from the same starts and with the same batches, once with float32
products and once with ``precision = "bf16"`` (products of linear layers rounded to 8 bits; parameters, losses and
optimizer in float32); evaluation is in float32 both times. The two runs part by rounding, and rounding grows, so
single seeds differ. What counts is whether the mean over seeds stays where float32's seeds lie: ``agrees`` says that
bf16's mean is inside float32's 95 % interval.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Annotated, Any

import pandas as pd
import tyro
from marlzoo.benchmarks import study

LOGGED = study.Logged(
    task="mamujoco/hopper-3x1", quality="medium", transitions=100_000, updates=2000, episodes=10
)
NAMES = ["task", "method", "seed", "float32", "bf16"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    methods: tuple[str, ...] = ("omiga", "omac", "icq", "bc", "td3_bc")
    also: tuple[str, ...] = ("mamujoco/halfcheetah-6x1",)  # further tasks, with the same quality and budget
    logged: Annotated[study.Logged, tyro.conf.arg(name="")] = LOGGED


def returns(options: Options) -> tuple[pd.DataFrame, list[str]]:
    """One line per task, method and seed with the returns of both precisions; what the data were."""
    lines = list[tuple[Any, ...]]()
    described = list[str]()
    for task in (options.logged.task, *options.also):
        logged = replace(options.logged, task=task)
        source, data = logged.load(options.out)
        described.append(logged.describe(source, data))
        for method in options.methods:
            both = [
                logged.train(method, source, data, precision, seeds=options.seeds)[1]
                for precision in ("float32", "bf16")
            ]
            lines += [(source.task, method, *each) for each in zip(options.seeds, *both, strict=True)]
    return pd.DataFrame(lines, columns=NAMES), described


def report(options: Options, lines: pd.DataFrame, described: list[str]) -> study.Study:
    """The table by task and method; both precisions beside each other as plot."""
    body = []
    parts = list(lines.groupby(["task", "method"], sort=False))
    for (task, method), part in parts:
        usual = part["float32"].to_numpy()
        rounded = part["bf16"].to_numpy()
        low, high = study.bounds(usual)
        body.append(
            [
                task,
                method,
                study.over_seeds(usual, 0),
                study.over_seeds(rounded, 0),
                study.over_seeds(rounded - usual, 0),
                "yes" if low <= rounded.mean() <= high else "no",
            ]
        )
    notes = [
        f"Returns of the last policies, mean and 95 % bootstrap interval over {len(options.seeds)} seeds; "
        "the difference is taken seed by seed. agrees: bf16's mean lies inside float32's interval.",
        *described,
        f"Made by `{study.command('precision')}`.",
    ]

    def draw(figure: Any) -> None:
        tasks = list(dict.fromkeys(lines["task"]))
        for ax, task in zip(figure.subplots(1, len(tasks), squeeze=False)[0], tasks, strict=True):
            here = [(method, part) for (where, method), part in parts if where == task]
            for offset, name in ((-0.1, "float32"), (0.1, "bf16")):
                samples = [part[name].to_numpy() for _, part in here]
                study.curve(ax, [k + offset for k in range(len(here))], samples, name, joined=False)
            ax.set_xticks(range(len(here)), [method for method, _ in here], rotation=45)
            ax.set(title=task, ylabel="return")
            ax.legend()

    header = ["task", "method", "float32", "bf16", "difference", "agrees"]
    sheet = study.plain_sheet("Products in bfloat16", header, body, notes)
    return study.Study("precision", sheet, lines, draw, (9.0, 4.5))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    lines, described = returns(options)
    study.write_study(report(options, lines, described), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
