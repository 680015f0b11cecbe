"""HATRPO beside HAPPO and MAPPO on spread: what a trust region reaches from few steps of the simulator.

    python benchmarks/studies/hatrpo.py [--seeds 0 1 2]

Three agents cover three landmarks. All three methods learn online from the same number of team steps, in rollouts of
the same size, with networks of the same width; HATRPO takes one step per agent and rollout, the others take several.
``return`` is the mean over episodes of a fixed set of starts, at equal distances in training. ``kl`` and ``accepted``
are means over training of the divergence of an agent's step and of the share of steps that its line search took.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study

import marlzoo
from marlzoo.families import make_env, task_spec
from marlzoo.training.evaluation import evaluate
from marlzoo.training.online import OnlineTrainer

TASK = "mpe/spread"
METHODS = ("mappo", "happo", "hatrpo")
# Columns that tell a metric's mean over training.
METRICS = {"kl": "policy/kl", "accepted": "policy/accepted"}
COLUMNS = ["method", "seed", "steps", "return", *METRICS]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = tuple(range(10))  # one replica each
    methods: tuple[str, ...] = METHODS  # which
    steps: int = 200_000  # team steps of training
    num_envs: int = 32  # copies of the environment per replica
    rollout: int = 25  # steps of each copy between two updates
    points: int = 10  # of the curve
    episodes: int = 32  # of each evaluation, per seed
    hidden: int = 64  # width of the networks


def lines(options: Options) -> pd.DataFrame:
    """One line per method, seed and point of the curve."""
    found: list[tuple[Any, ...]] = []
    for method in options.methods:
        found += curve(method, options)
    return pd.DataFrame(found, columns=COLUMNS)


def curve(method: str, options: Options) -> list[tuple[Any, ...]]:
    """Train one method; its returns at the start and at every point."""
    per_update = options.num_envs * options.rollout
    sizes: dict[str, Any] = {
        "num_envs": options.num_envs,
        "rollout": options.rollout,
        "batch_size": per_update,
    }
    learner = marlzoo.make(method, task_spec(TASK), seeds=options.seeds, hidden=options.hidden, **sizes)
    env = make_env(TASK, len(options.seeds) * options.num_envs)
    arena = make_env(TASK, len(options.seeds) * options.episodes)
    trainer = OnlineTrainer(learner, env)
    updates = options.steps // per_update
    known: dict[str, list[Any]] = {name: [] for name in METRICS}
    found: list[tuple[Any, ...]] = []
    for update in range(updates + 1):
        if update * options.points // updates > (update - 1) * options.points // updates:
            returns = evaluate(learner.policy(), arena, seeds=options.seeds).returns.mean(1)
            means = [
                np.mean(known[name], 0) if known[name] else np.full(len(returns), np.nan) for name in known
            ]
            told = zip(options.seeds, returns, *means, strict=True)
            found += [(method, seed, update * per_update, *values) for seed, *values in told]
        if update < updates:
            metrics = trainer.next(update / updates)
            for name, values in known.items():
                values += [metrics[METRICS[name]].numpy()] if METRICS[name] in metrics else []
    return found


def report(numbers: pd.DataFrame) -> study.Study:
    """Returns at the start and at the end as table, the curves as plot."""
    first = numbers["steps"].min()
    last = numbers["steps"].max()
    body = []
    for method, part in numbers.groupby("method", sort=False):
        end = part[part["steps"] == last]
        texts = [
            study.over_seeds(part[part["steps"] == first]["return"].to_numpy(), 1),
            study.over_seeds(end["return"].to_numpy(), 1),
            *("–" if end[name].isna().any() else f"{end[name].mean():.4f}" for name in METRICS),
        ]
        body.append([str(method), *texts])
    notes = [
        f"Mean return over seeds with its 95 % interval, before training and after {last} team steps.",
        f"Made by `{study.command('hatrpo')}`.",
    ]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for method, part in numbers.groupby("method", sort=False):
            at = [(steps, rows["return"].to_numpy()) for steps, rows in part.groupby("steps")]
            study.curve(ax, [steps for steps, _ in at], [values for _, values in at], str(method))
        ax.set_xlabel("team steps")
        ax.set_ylabel("return")
        ax.legend()

    header = ["", "return at the start", "return at the end", "KL of a step", "steps taken"]
    sheet = study.plain_sheet("Trust regions on spread", header, body, notes)
    return study.Study("hatrpo", sheet, numbers, draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
