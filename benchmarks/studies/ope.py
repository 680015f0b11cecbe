"""How well estimates without a simulator rank teams that a simulator can rank.

    python benchmarks/studies/ope.py [--games xor/D3 ...] [--methods bc omiga ...] [--looks 10 100]
    python benchmarks/studies/ope.py --name robots --suite mpe mujoco-small --looks 300 2000 [--runs FOLDER ...]

Teams of several methods, seeds and numbers of updates are trained on logged data, estimated from the same data by
every estimator of ``marlzoo.ope``, and played. Shown are Spearman's rank correlation of estimates and true returns,
and regret@1: what is lost by taking the team with the best estimate instead of the best one, as a share of the range
of true returns. ``behavior`` takes every team for equally good, a choice at random.

Without a suite the teams are of games. With suites they are those of ``marlzoo bench SUITE``, for each number of
updates in a folder ``SUITE-UPDATES`` beside their data; what is there is not trained again. ``--runs`` takes folders
of results with their checkpoints, too. True returns are those of the rows.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.bench import select
from marlzoo.benchmarks.stats import interval
from marlzoo.benchmarks.suites import Suite, find_suite
from numpy.typing import NDArray
from scipy import stats

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.data.load import read_card
from marlzoo.errors import DataError
from marlzoo.offpolicy.behavior import fitted_log_prob
from marlzoo.offpolicy.fqe import FQESettings
from marlzoo.offpolicy.ope import ESTIMATORS, MEANINGS
from marlzoo.training.checkpoint import load_learner, load_saved

SMALL: dict[str, Any] = {"hidden": 32, "batch_size": 64, "lr": 1e-3}
FIT = FQESettings(updates=250, hidden=32, batch_size=128, lr=3e-3, tau=0.05, members=1)
FEEDFORWARD: dict[str, dict[str, Any]] = {"qmix_cql": {"history": "mlp"}, "iql_cql": {"history": "mlp"}}
GAME_METHODS = ("bc", "omiga", "iql_cql", "qmix_cql")
ABOUT = ["data", "learner", "updates"]  # teams that agree in these differ by their seeds
Floats = NDArray[np.float64]


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
    methods: tuple[str, ...] = ()  # default: four on games, all that a suite has
    looks: tuple[int, ...] = (10, 100)  # updates after which teams are judged
    episodes: int = 50  # played by each team of a game
    suite: tuple[str, ...] = ()  # train and judge their teams, not those of games
    tasks: tuple[str, ...] = ()  # of the suites (default: all)
    qualities: tuple[str, ...] = ()  # of their data (default: all)
    folder: Path = Path("runs")  # of their results and data
    runs: tuple[
        Path, ...
    ] = ()  # judge the checkpoints of these folders of results; their data lie beside them
    gamma: float = 0.99  # discount of estimates there
    updates: int = 3000  # of fitted Q evaluation there
    name: str = ""  # results go to OUT/ope/NAME

    @property
    def discounted(self) -> bool:
        """Whether teams of suites or folders are judged, not those of games."""
        return bool(self.suite or self.runs)

    def takes(self, task: str, quality: str) -> bool:
        """Whether teams of these data are judged."""
        return task in (self.tasks or (task,)) and quality in (self.qualities or (quality,))


def judged(learner: Any, data: Dataset, behavior: Floats, options: Options) -> list[dict[str, Any]]:
    """Estimates and true returns of all replicas as they are."""
    env = marlzoo.make_env(data.card.task, learner.replicas * options.episodes)
    returns = marlzoo.evaluate(learner.policy(), env, seeds=learner.seeds).returns.mean(-1)
    env.close()
    found = estimated(learner, data, behavior=behavior, gamma=1.0, settings=FIT)
    truth = [{"seed": seed, "return": value} for seed, value in zip(learner.seeds, returns, strict=True)]
    return [line | estimates for line, estimates in zip(truth, found, strict=True)]


def estimated(learner: Any, data: Dataset, **settings: Any) -> list[dict[str, float]]:
    """All estimates that the data allow, by estimator, for every replica."""
    found = marlzoo.ope(learner, data, bootstrap=1, **settings)
    each = len(found) // learner.replicas
    return [
        {estimate.estimator: estimate.value for estimate in found[k : k + each]}
        for k in range(0, len(found), each)
    ]


def of_game(game: str, options: Options) -> pd.DataFrame:
    """Every team of a game."""
    name, _, quality = game.partition("/")
    data = marlzoo.load_dataset(f"games/{name}/marlzoo/{quality}")
    # Episodes that a time limit ends are over: returns are undiscounted.
    data = data.timeouts_as_terminals()
    behavior = np.exp(fitted_log_prob(data, updates=500))
    lines: list[dict[str, Any]] = []
    for method in options.methods or GAME_METHODS:
        settings = {**SMALL, **FEEDFORWARD.get(method, {})}
        learner = marlzoo.make(method, data.spec, seeds=options.seeds, **settings)

        def look(done: int, _: Any, method: str = method, learner: Any = learner) -> None:
            if done in options.looks:
                about = {"data": game, "learner": method, "updates": done}
                lines.extend(about | line for line in judged(learner, data, behavior, options))

        marlzoo.train(learner, data, updates=max(options.looks), log_every=1, on_progress=look, compile="off")
    return pd.DataFrame(lines)


# ---- suites and folders of results ---------------------------------------------------------------------


def trained(suite: Suite, options: Options) -> list[Path]:
    """Folders of a suite's results after each number of updates; what is missing is trained."""
    suite = select(suite, options.seeds, options.methods)
    data = tuple(
        replace(entry, updates=0) for entry in suite.data if options.takes(entry.task, entry.quality)
    )
    made = [
        replace(suite, name=f"{suite.name}-{look}", data=data, updates=look, eval_every=look)
        for look in options.looks
    ]
    for part in made:
        marlzoo.bench(part, out=options.folder)
    return [options.folder / part.name for part in made]


def of_folder(folder: Path, options: Options) -> pd.DataFrame:
    """Every team of a folder of results that has a checkpoint and a row."""
    rows = marlzoo.Results(folder).frame()
    rows = rows.assign(config=rows["config"].map(lambda text: json.loads(text) if text else None))
    taken = map(options.takes, rows["task"], rows["quality"])
    rows = rows[np.fromiter(taken, np.bool_, len(rows))]
    beside = folder.parent / "data"
    files = {read_card(file).content_hash: file for file in sorted(beside.rglob("*.hdf5"))}
    lines: list[dict[str, Any]] = []
    for checkpoint in sorted((folder / "checkpoints").glob("*.npz")):
        meta = load_saved(checkpoint).meta
        mine = rows[(rows["method"] == meta["method"]) & (rows["updates"] == meta["updates"])]
        for digest in mine[mine["data_hash"].isin(meta["data"])]["data_hash"].unique():
            if digest not in files:
                raise DataError(
                    f"{checkpoint}: no file in {beside} has its data (content hash {digest[:12]}...); copy them there"
                )
            replicas = [k for k, each in enumerate(meta["data"]) if each == digest]
            learner = load_learner(checkpoint, replicas=replicas)
            fit = FQESettings(updates=options.updates, tau=FIT.tau, members=0)
            found = estimated(learner, marlzoo.load_dataset(files[digest]), gamma=options.gamma, settings=fit)
            for k, estimates in zip(replicas, found, strict=True):
                row = mine[(mine["data_hash"] == digest) & (mine["seed"] == meta["seeds"][k])]
                row = row[[config == meta["configs"][k] for config in row["config"]]]
                lines += [_about(each) | estimates for _, each in row.tail(1).iterrows()]
    return pd.DataFrame(lines)


def _about(row: pd.Series) -> dict[str, Any]:
    """The team of a row, and its true return."""
    return {
        "data": f"{row['task']} {row['quality']}",
        "learner": f"{row['method']} {row['variant']}".strip(),  # the same in all folders
        "updates": int(row["updates"]),
        "seed": int(row["seed"]),
        "return": row["mean_return"],
    }


# ---- what estimates are worth --------------------------------------------------------------------------


def score(lines: pd.DataFrame, estimator: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Rank correlation and regret@1 of an estimator, each with its 95 % interval over the teams' seeds.

    Teams without an estimate count as the worst.
    """
    true = lines["return"].to_numpy(np.float64)
    estimate = lines[estimator].fillna(-np.inf).to_numpy(np.float64)
    strata: list[Floats] = [np.asarray(rows, np.float64) for rows in lines.groupby(ABOUT).indices.values()]
    found = []
    for measure in (correlation, regret):

        def of(*drawn: Floats, axis: int = -1, measure: Any = measure) -> Any:
            rows = np.concatenate(drawn, axis=axis).astype(np.int64)
            return measure(true[rows], estimate[rows])

        found.append((float(of(*strata)), *interval(strata, of)))
    return found[0], found[1]


def correlation(true: Floats, estimate: Floats) -> Floats:
    """Spearman's rank correlation over the last axis; 0 where all estimates are equal, NaN where all returns are."""
    x, y = (stats.rankdata(values, axis=-1) for values in (true, estimate))
    x, y = (ranks - ranks.mean(-1, keepdims=True) for ranks in (x, y))
    spread = np.sqrt((x * x).sum(-1) * (y * y).sum(-1))
    known = np.where((y == 0.0).all(-1), 0.0, np.nan)
    found: Floats = np.divide((x * y).sum(-1), spread, out=known, where=spread > 0.0)
    return found


def regret(true: Floats, estimate: Floats) -> Floats:
    """What is lost by one of the teams with the best estimate, as a share of the range of returns."""
    best = estimate == estimate.max(-1, keepdims=True)
    taken = (true * best).sum(-1) / best.sum(-1)
    span = np.ptp(true, axis=-1)
    lost = true.max(-1) - taken
    found: Floats = np.divide(lost, span, out=np.zeros_like(lost), where=span > 0.0)
    return found


def report(options: Options, lines: pd.DataFrame) -> study.Study:
    """A line per dataset and estimator; true returns against estimates as plot."""
    present = [name for name in ESTIMATORS if name in lines]
    body = []
    for name, part in lines.assign(behavior=0.0).groupby("data", sort=False):
        for estimator in (*present, "behavior"):
            (rank, *rank_ends), (lost, *lost_ends) = score(part, estimator)
            missing = f"{part[estimator].isna().sum()} of {len(part)}"
            body.append([str(name), estimator, _cell(rank, rank_ends), _cell(lost, lost_ends), missing])
    meanings = "; ".join(f"`{name}`: {MEANINGS[name]}" for name in present)
    counts = lines.groupby("data", sort=False)[ABOUT].nunique().max()
    notes = [
        f"{meanings}; `behavior`: every team taken for equally good. Rank correlation: Spearman's, over "
        f"{counts['learner']} learners, {counts['updates']} numbers of updates and their seeds. Regret@1 as a "
        "share of the range of true returns. In brackets 95 % bootstrap intervals over seeds.",
        _limits(present, options),
        f"Made by `{study.command('ope')}`.",
    ]

    def draw(figure: Any) -> None:
        groups = list(lines.groupby("data", sort=False))
        axes = figure.subplots(1, len(groups), squeeze=False)[0]
        for ax, (name, part) in zip(axes, groups, strict=True):
            for estimator in present:
                ax.plot(part["return"], part[estimator], "o", ms=4, alpha=0.6, label=estimator)
            ax.set(title=name, xlabel="true return", ylabel="estimate")
            if not options.discounted:
                ax.axline((0, 0), slope=1, color="gray", linewidth=0.8)
        axes[0].legend()

    header = ["data", "estimator", "rank correlation", "regret@1", "teams without an estimate"]
    sheet = study.plain_sheet("Estimates without a simulator", header, body, notes)
    width = 4.0 * lines["data"].nunique()
    return study.Study("/".join(filter(None, ("ope", options.name))), sheet, lines, draw, (width, 3.8))


def _cell(value: float, ends: Sequence[float]) -> str:
    return f"{value:.2f}" if np.isnan(ends).any() else f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"


def _limits(present: Sequence[str], options: Options) -> str:
    """What estimators cannot do on these data."""
    if "pdwis" in present:
        return "Teams whose actions no logged episode shows have no `pdwis` and count as the worst."
    return (
        "Actions are continuous and teams deterministic: no logged action is ever a team's own, so that importance "
        "weights, and the doubly robust form with them, are zero everywhere and not computed. Estimates are of the "
        f"return discounted by {options.gamma:g} that goes on beyond time limits, returns undiscounted up to them. "
        f"Fitted Q evaluation: {options.updates} updates, tau {FIT.tau:g}."
    )


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    if options.discounted:
        folders = [folder for name in options.suite for folder in trained(find_suite(name), options)]
        made = [of_folder(folder, options) for folder in (*folders, *options.runs)]
    else:
        made = [of_game(game, options) for game in options.games]
    study.write_study(report(options, pd.concat(made, ignore_index=True)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
