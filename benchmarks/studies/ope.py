"""How well estimates without a simulator rank teams that a simulator can rank.

    python benchmarks/studies/ope.py [--games xor/D3 ...] [--methods bc omiga ...] [--looks 10 100]

Teams of several methods, seeds and numbers of updates are trained on the logged data of a game, estimated from the
same data by every estimator of ``marlzoo.ope``, and played in the game. Shown are Spearman's rank correlation of
estimates and true returns, and regret@1: what is lost by taking the team with the best estimate instead of the best
one, as a share of the range of true returns. ``behavior`` takes every team for equally good, a choice at random.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from numpy.typing import NDArray

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.offpolicy.behavior import fitted_log_prob
from marlzoo.offpolicy.fqe import FQESettings
from marlzoo.offpolicy.ope import ESTIMATORS, MEANINGS

SMALL: dict[str, Any] = {"hidden": 32, "batch_size": 64, "lr": 1e-3}
FIT = FQESettings(updates=250, hidden=32, batch_size=128, lr=3e-3, tau=0.05, members=1)
FEEDFORWARD: dict[str, dict[str, Any]] = {"qmix_cql": {"history": "mlp"}, "iql_cql": {"history": "mlp"}}


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # of the teams, one replica each
    games: tuple[str, ...] = (
        "xor/D3",
        "xor/D4",
        "equilibria/imbalanced",
        "xor-two-state/mix",
    )  # with their data
    methods: tuple[str, ...] = ("bc", "omiga", "iql_cql", "qmix_cql")
    looks: tuple[int, ...] = (10, 100)  # updates after which teams are judged
    episodes: int = 50  # played by each team


def judged(
    learner: Any, data: Dataset, behavior: NDArray[np.float64], options: Options
) -> list[dict[str, Any]]:
    """Estimates and true returns of all replicas as they are."""
    env = marlzoo.make_env(data.card.task, learner.replicas * options.episodes)
    returns = marlzoo.evaluate(learner.policy(), env, seeds=learner.seeds).returns.mean(-1)
    env.close()
    found = marlzoo.ope(learner, data, behavior=behavior, gamma=1.0, settings=FIT, bootstrap=1)
    lines = [{"seed": seed, "return": value} for seed, value in zip(learner.seeds, returns, strict=True)]
    for k, estimate in enumerate(found):
        lines[k // len(ESTIMATORS)][estimate.estimator] = estimate.value
    return lines


def teams(game: str, options: Options) -> pd.DataFrame:
    """Every team of a game."""
    name, _, quality = game.partition("/")
    data = marlzoo.load_dataset(f"games/{name}/marlzoo/{quality}")
    # Episodes that a time limit ends are over: returns are undiscounted.
    data = data.timeouts_as_terminals()
    behavior = np.exp(fitted_log_prob(data, updates=500))
    lines: list[dict[str, Any]] = []
    for method in options.methods:
        settings = {**SMALL, **FEEDFORWARD.get(method, {})}
        learner = marlzoo.make(method, data.spec, seeds=options.seeds, **settings)

        def look(done: int, _: Any, method: str = method, learner: Any = learner) -> None:
            if done in options.looks:
                about = {"game": game, "method": method, "updates": done}
                lines.extend(about | line for line in judged(learner, data, behavior, options))

        marlzoo.train(learner, data, updates=max(options.looks), log_every=1, on_progress=look, compile="off")
    return pd.DataFrame(lines)


def score(lines: pd.DataFrame, estimator: str) -> tuple[float, float]:
    """Rank correlation and regret@1 of an estimator; teams without an estimate count as the worst."""
    true = lines["return"]
    estimate = lines[estimator].fillna(-np.inf)
    span = true.max() - true.min()
    if span == 0.0:
        return np.nan, 0.0
    correlation = true.rank().corr(estimate.rank()) if estimate.nunique() > 1 else 0.0
    best = true[estimate == estimate.max()].mean()
    return correlation, (true.max() - best) / span


def report(options: Options, lines: pd.DataFrame) -> study.Study:
    """A line per game and estimator; true returns against estimates as plot."""
    body = []
    for game in options.games:
        part = lines[lines["game"] == game].assign(behavior=0.0)
        for estimator in (*ESTIMATORS, "behavior"):
            correlation, regret = score(part, estimator)
            missing = f"{part[estimator].isna().sum()} of {len(part)}"
            body.append([game, estimator, f"{correlation:.2f}", f"{regret:.2f}", missing])
    meanings = "; ".join(f"`{name}`: {text}" for name, text in MEANINGS.items())
    notes = [
        f"{meanings}; `behavior`: every team taken for equally good. Rank correlation: Spearman's, over "
        f"{len(options.methods)} methods, {len(options.seeds)} seeds and {len(options.looks)} numbers of updates. "
        "Regret@1 as a share of the range of true returns. Teams whose actions no logged episode shows have no "
        "`pdwis` and count as the worst.",
        f"Made by `{study.command('ope')}`.",
    ]

    def draw(figure: Any) -> None:
        axes = figure.subplots(1, len(options.games), squeeze=False)[0]
        for ax, game in zip(axes, options.games, strict=True):
            part = lines[lines["game"] == game]
            for estimator in ESTIMATORS:
                ax.plot(part["return"], part[estimator], "o", ms=4, alpha=0.6, label=estimator)
            ax.axline((0, 0), slope=1, color="grey", linewidth=0.8)
            ax.set(title=game, xlabel="true return", ylabel="estimate")
        axes[0].legend()

    header = ["game", "estimator", "rank correlation", "regret@1", "teams without an estimate"]
    sheet = study.table("Estimates without a simulator", header, body, notes)
    return study.Study("ope", sheet, lines, draw, (4.0 * len(options.games), 3.8))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    lines = pd.concat([teams(game, options) for game in options.games], ignore_index=True)
    study.write(report(options, lines), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
