"""Whether OMSD keeps one of two conventions of the data, with and without its condition, beside OMIGA and BC.

    python benchmarks/studies/omsd.py [--games signs-2 signs-8]

Data of signs-n hold "all near 0.8" and "all near -0.8" in equal shares, and one team in twenty that acts at random; a
team earns 1 if all signs agree. Agents that choose a side each for itself agree with probability 2^(1-n), the column
``alone``. ``omsd, marginal`` is OMSD without the condition on the agents before. ``score alone`` weighs the score so
that the value does not count: nothing but the condition then tells an agent what the others do. Data of
sign-agreement hold both sides; its payoff is the product of the two actions, so that the value itself leads to a
side.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd
import tyro
from marlzoo.benchmarks import study

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

DATA = {"signs-2": "modes", "signs-4": "modes", "signs-8": "modes", "sign-agreement": "agree"}
FAST: dict[str, Any] = {"hidden": 64, "batch_size": 32, "lr": 1e-3}
OMSD: dict[str, Any] = {"preset": "games", "model_updates": 800, "warm_start": 300}
ALONE = 1000.0  # beside such a weight of the score the value does not count
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "omsd": ("omsd", OMSD),
    "omsd, marginal": ("omsd", {**OMSD, "conditional": False}),
    "omsd, score alone": ("omsd", {**OMSD, "score_weight": ALONE}),
    "omsd, marginal, score alone": ("omsd", {**OMSD, "conditional": False, "score_weight": ALONE}),
    "omiga": ("omiga", {"alpha": 1.0}),
    "bc": ("bc", {}),
}
COLUMNS = ["game", "data", "learner", "seed", "value", "alone"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    updates: int = 1600  # of training; OMSD's first 800 fit critics and behavior
    games: tuple[str, ...] = ("signs-4",)  # which


def lines(options: Options) -> pd.DataFrame:
    """One line per game, learner and seed."""
    found: list[tuple[Any, ...]] = []
    for game in options.games:
        quality = DATA[game]
        spec = games.spec(game)
        alone = 2.0 ** (1 - spec.n_agents) if game.startswith("signs") else 0.0
        for label, (method, settings) in METHODS.items():
            learner: Any = marlzoo.make(method, spec, seeds=options.seeds, **{**FAST, **settings})
            train(learner, game_data.dataset(game, quality), updates=options.updates, compile="off")
            env = games.make(game, len(options.seeds))
            reached = evaluate(learner.policy(), env, seeds=list(options.seeds)).returns.mean(1)
            found += [
                (game, quality, label, seed, float(value), alone)
                for seed, value in zip(options.seeds, reached, strict=True)
            ]
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the values as plot."""
    keys = COLUMNS[:3]
    body = []
    groups = []
    for key, part in numbers.groupby(keys, sort=False):
        body.append(
            [*map(str, key), study.over_seeds(part["value"].to_numpy()), f"{part['alone'].iloc[0]:.3f}"]
        )
        groups.append((f"{key[0]}\n{key[2]}".replace(", ", "\n"), part["value"].to_numpy()))
    notes = [
        "Mean value over seeds with its 95 % interval.",
        f"Made by `{study.command('omsd')}`.",
    ]
    sheet = study.plain_sheet("OMSD on data with two conventions", [*keys, "value", "alone"], body, notes)
    return study.Study("omsd", sheet, numbers, study.seed_marks(groups))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
