"""What each family of methods reaches on the coordination games, beside what theory says it reaches.

    python benchmarks/studies/coordination.py [--only xor matrices ...] [--seeds 0 1 2]

Every game has logged data in which each kind of learner fails, or succeeds, for a reason that can be computed. The
families, and the value that they are predicted to have:

* cloning: every agent plays its share of the data's actions; the team plays the product of these marginals.
* team weights: joint actions are cloned with the weights min(exp(beta (r - V)), 100), V the data's expectile; again
  the product of the marginals. Where the bound binds, better and best weigh the same: on the game with three
  equilibria all three, so that agents who pick one each meet as often as by chance. The range is that of values
  with V wrong by up to 1 % of the rewards' range.
* independent: each agent plays the action with the best average reward in the data.
* additive: each agent plays the best action of the least-squares fit r ~ sum_i f_i(a_i); ``in-sample`` only actions
  that the data hold, ``any`` all of them.
* monotone: the best of a monotone mixture; known for XOR's data D3 only, where it is the worst pair.
* sequential: the agents move in turn towards their best answers to each other within the data, the temperature
  falling as in training. Computed exactly, for slow and for fast moves. It ends in an equilibrium, which need not be
  the best: with uniform data of XOR with four actions all ways lead into the middle block of zeros, which no agent
  can leave alone without a loss (-1 or -2), so 0 is the method's own value there and not a fault of its learner. With
  the imbalanced data of three equilibria slow moves end in the best one and fast ones in the data's.
  In games of several steps: the best that the data hold.
* response to the data, moved together (continuous): follow a critic of all actions, the team mate's taken from the
  data or from its policy. TD3+BC's own pull towards the data is made negligible.
* critic: no closed form. Reported without prediction; so are ties, and values of actions that the data lack.

A value agrees with its prediction when the mean over seeds is within 5 % of the range of the game's rewards
(multi-step games: of the returns' range), or on the side that an inequality asks for. All data and seeds of a group
of games are replicas of one run. Rows are kept after every run, so an interrupted study goes on where it stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.game_theory import ANNEAL, Floats, Form, agrees, prediction, product

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.policies import CategoricalPolicy, Policy
from marlzoo.system.files import write_text_atomic
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

EPISODES = 200  # of a replica's evaluation where a game has several steps
COLUMNS = ["group", "game", "data", "family", "method", "seed", "value", "config", "updates"]


@dataclass(frozen=True)
class Games:
    """Games of one shape, so that all their data train together: ``(game, quality)`` pairs."""

    data: tuple[tuple[str, str], ...]
    forms: tuple[Form, ...]
    updates: int = 400
    batch_size: int = 0  # instead of the forms' own

    def settings(self, form: Form) -> dict[str, Any]:
        """Of a form in this group."""
        return {**form.settings, **({"batch_size": self.batch_size} if self.batch_size else {})}


SMALL: dict[str, Any] = {"hidden": 32, "lr": 3e-3, "batch_size": 64}
MIXED = {**SMALL, "mixer_hidden": 16, "tau": 0.05}
TEAM = {**SMALL, "mixer_hidden": 16, "history": "mlp"}
DICE: dict[str, Any] = {
    **{"hidden": 32, "batch_size": 64, "lr": 1e-3, "pretrain": 150},
    **ANNEAL,
    "conservatism": 0.02,
}

GREEDY_TEAM = {**SMALL, "history": "mlp"}
# Without the bound on V's exponent: above it V falls, and never comes back where rewards are large.
EXPONENTIAL = {**MIXED, "alpha": 0.1, "x_cap": float("inf")}
DISCRETE = (
    Form("bc", "cloning", settings=SMALL),
    Form("maiql", "team weights", settings={**MIXED, "beta": 10.0}),
    Form("iql", "independent", settings={**SMALL, "tau": 0.05, "beta": 10.0}),
    Form("eql", "independent", settings=EXPONENTIAL),
    Form("sql", "independent", settings={**MIXED, "alpha": 0.02}),
    Form("iql_cql", "independent", settings={**GREEDY_TEAM, "cql_weight": 0.02}, sampled=False),
    Form("omar", "independent", settings={**MIXED, "cql_alpha": 0.02}),
    Form("omiga", "additive, in-sample", settings={**MIXED, "alpha": 0.1, "z_clip": "linear"}),
    Form("omac", "additive, in-sample", settings={**MIXED, "beta": 10.0}),
    Form("eql", "additive, in-sample", "linear", {**EXPONENTIAL, "mixing": "linear"}),
    Form("sql", "additive, in-sample", "linear", {**MIXED, "alpha": 0.02, "mixing": "linear"}),
    Form("icq", "additive, in-sample", settings={**SMALL, "critic_lr": 3e-3, "critic_hidden": 32}),
    Form("bcq_ma", "additive, in-sample", "vdn", {**MIXED, "mixer": "vdn"}, sampled=False, threshold=0.4),
    Form("cql_ma", "additive, any", "sac", {**MIXED, "cql_policy": "sac", "cql_alpha": 0.02}, updates=1200),
    Form("qmix_cql", "additive, any", "vdn", {**TEAM, "mixer": "vdn", "cql_weight": 0.0}, sampled=False),
    Form("qmix_cql", "monotone", "qmix", {**TEAM, "cql_weight": 0.0}, sampled=False),
    Form("cfcql", "monotone", "", {**TEAM, "cql_weight": 0.02}, sampled=False),
    Form("comadice", "critic", settings={**MIXED, "alpha": 0.2}),
    Form("td3_bc", "critic", "maddpg_bc", {**SMALL, "critic_hidden": 32, "variant": "maddpg_bc"}, sampled=False),
    Form("alberdice", "sequential", settings=DICE, updates=1000),
)  # fmt: skip
ONE_POLICY = ("bc", "maiql", "iql", "omiga", "qmix_cql")
MEMORY = {"history": "rnn", "hidden": 32, "lr": 3e-3, "batch_size": 32, "sequence_length": 0}
CONTINUOUS = (
    Form("bc", "cloning", settings=SMALL),
    Form("bc", "cloning", "mse", {**SMALL, "loss": "mse"}),
    Form("omiga", "additive, in-sample", settings={**MIXED, "alpha": 0.1, "z_clip": "linear"}),
    Form("omac", "additive, in-sample", settings={**MIXED, "beta": 10.0}),
    Form("eql", "additive, in-sample", "linear", {**EXPONENTIAL, "mixing": "linear"}),
    Form("sql", "additive, in-sample", "linear", {**MIXED, "alpha": 0.1, "mixing": "linear"}),
    Form("icq", "additive, in-sample", settings={**SMALL, "critic_lr": 3e-3, "critic_hidden": 32}),
    Form("td3_bc", "response to the data", "maddpg_bc",
         {**SMALL, "critic_hidden": 32, "variant": "maddpg_bc", "alpha": 100.0}, updates=1200),
    Form("maddpg_cql", "response to the data", "",
         {**SMALL, "critic_hidden": 32, "history": "mlp", "cql_weight": 0.0}),
    Form("b3c", "moved together", settings={**MIXED, "mixer_embed": 16, "w": 10.0}),
    Form("iql", "critic", settings={**SMALL, "tau": 0.05, "beta": 10.0}),
    Form("maiql", "critic", settings={**MIXED, "beta": 10.0}),
    Form("comadice", "critic", settings={**MIXED, "alpha": 0.2}),
    Form("omar", "critic", settings={**MIXED, "cql_alpha": 0.1}),
    Form("cfcql", "critic", settings={**SMALL, "tau": 0.05, "cql_weight": 0.1}),
    Form("bcq_ma", "critic", settings=MIXED),
    Form("cql_ma", "critic", settings=MIXED),
    Form("td3_bc", "critic", "independent", {**SMALL, "critic_hidden": 32, "variant": "independent"}),
)  # fmt: skip


ON_BRIDGE = Form("alberdice", "sequential", settings={"preset": "games"}, updates=4000)
# For games whose rewards are large beside the temperatures. The imbalanced data hold the best action 4 times in 100:
# a batch without it says nothing about it, and to weights that are normalized over the batch it is then not the best.
LARGE: dict[str, int] = {"updates": 800, "batch_size": 512}
GROUPS: dict[str, Games] = {
    "xor": Games(
        (
            *(("xor", f"D{k}") for k in range(1, 5)),
            ("additive", "uniform"),
        ),
        DISCRETE,
    ),
    "matrices": Games(
        (("coordination-3x3", "uniform"), ("equilibria", "balanced"), ("equilibria", "imbalanced")),
        DISCRETE,
        **LARGE,
    ),
    "matrix-2x2": Games((("coordination-2x2", "uniform"),), DISCRETE),
    "xor-four": Games((("xor-four", "optimal"), ("xor-four", "uniform")), DISCRETE),
    "two-state": Games(tuple(("xor-two-state", quality) for quality in ("optimal", "mix", "random")), DISCRETE, 600),
    **{
        f"modes-{n}": Games(((f"modes-{n}", "modes"),), tuple(f for f in DISCRETE if f.method in ONE_POLICY), 200)
        for n in (8, 64)
    },
    "modes-4": Games((("modes-4", "modes"),), tuple(f for f in DISCRETE if f.method in (*ONE_POLICY, "alberdice"))),
    "bridge": Games(
        (("bridge", "optimal"), ("bridge-apart", "optimal")),
        tuple(form for form in DISCRETE if form.method != "alberdice"),
        600,
    ),
    "t-maze": Games(
        (("t-maze", "expert"),),
        (
            Form("bc", "cloning", "rnn", {**MEMORY, "eval_mode": "sample"}),
            Form("bc", "critic", "no memory", SMALL),
            Form("qmix_cql", "critic", "rnn", {**MEMORY, "mixer_hidden": 16}, sampled=False),
            Form("iql_cql", "critic", "rnn", MEMORY, sampled=False),
        ),
        600,
    ),
    "continuous": Games(
        (
            *(("sign-agreement", quality) for quality in ("uniform", "agree", "opposite")),
            *(("two-peaks", quality) for quality in ("uniform", "peaks")),
        ),
        CONTINUOUS,
    ),
    "bridge-alberdice": Games(
        (("bridge", "optimal"), ("bridge-apart", "optimal")),
        (
            ON_BRIDGE,
            replace(ON_BRIDGE, family="critic", label="no floor", settings={"preset": "games", "ratio_floor": 0.0}),
        ),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each per data
    only: tuple[str, ...] = tuple(GROUPS)  # groups of games


# ---- what is reached -----------------------------------------------------------------------------------


def scored(algorithm: Any, form: Form, task: str, seeds: Sequence[int]) -> Floats:
    """Mean value of every replica in a game, ``[R]``; exact where one step decides."""
    policy: Policy = algorithm.policy()
    replicas = algorithm.replicas
    spec = algorithm.spec
    if form.sampled and isinstance(policy, CategoricalPolicy):
        policy.stochastic = True
    if spec.horizon > 1:
        options = {"horizon": 20} if task.startswith("bridge") else {}
        env = games.make(task, EPISODES * replicas, **options)
        returns: Floats = evaluate(policy, env, seeds=seeds).returns.mean(1)
        return returns
    obs = torch.ones(replicas, 1, spec.n_agents, spec.obs_size)
    with torch.no_grad():
        if not spec.discrete:
            return np.asarray(games.SURFACES[task](policy.act(obs)[:, 0, :, 0].double().numpy()))
        if form.sampled and isinstance(policy, CategoricalPolicy):
            pi = policy.scores(with_agent_id(obs))[:, 0].double().softmax(-1)
        else:
            pi = torch.nn.functional.one_hot(policy.act(obs)[:, 0], spec.action_size).double()
    return np.array([product(task, one) for one in pi.numpy()])


def trained(options: Options, name: str, form: Form) -> pd.DataFrame:
    """One line per data and seed of a form in a group."""
    group = GROUPS[name]
    seeds = list(options.seeds)
    data = {key: game_data.dataset(*key) for key in group.data}
    every = [key for key in group.data for _ in seeds]
    updates = form.updates or group.updates
    first = data[group.data[0]]
    algorithm = marlzoo.make(form.method, first.spec, seeds=seeds * len(group.data), **group.settings(form))
    train(algorithm, [data[key] for key in every], updates=updates)
    values = {
        game: scored(algorithm, form, game, algorithm.seeds)
        for game in dict.fromkeys(g for g, _ in group.data)
    }
    lines = []
    for replica, ((game, quality), seed) in enumerate(zip(every, algorithm.seeds, strict=True)):
        found = (form.family, form.name, seed, values[game][replica], algorithm.config.hash, updates)
        lines.append((name, game, quality, *found))
    return pd.DataFrame(lines, columns=COLUMNS)


def rows(options: Options) -> pd.DataFrame:
    """All lines of the groups asked for, with predictions: those that are there already, and what is missing."""
    file = options.out / "coordination" / "rows.csv"
    found = pd.read_csv(file)[COLUMNS] if file.exists() else pd.DataFrame(columns=COLUMNS)
    known = {
        (name, *key, form.family, form.name)
        for name, group in GROUPS.items()
        for key in group.data
        for form in group.forms
    }
    keys = ["group", "game", "data", "family", "method"]
    asked = [key in known for key in found[keys].itertuples(index=False, name=None)]
    found = found[np.array(asked, np.bool_)]  # a group's data and forms may have changed since
    ranges = []
    for name in options.only:
        group = GROUPS[name]
        data = {key: game_data.dataset(*key) for key in group.data}
        for form in group.forms:
            mine = (
                (found["group"] == name) & (found["method"] == form.name) & (found["family"] == form.family)
            )
            if not complete(found[mine], options, group, form):
                print(f"{name}: {form.name}", flush=True)
                found = pd.concat(
                    [part for part in (found[~mine], trained(options, name, form)) if len(part)]
                )
                write_text_atomic(file, found.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
            for key in group.data:
                ranges.append((name, *key, form.family, form.name, *prediction(form, key[0], data[key])))
    return found.merge(pd.DataFrame(ranges, columns=[*keys, "low", "high"]), on=keys)


def complete(lines: pd.DataFrame, options: Options, group: Games, form: Form) -> bool:
    """Whether a form's lines are those that its settings, the seeds and the group's data ask for."""
    config = marlzoo.make(form.method, games.spec(group.data[0][0]), **group.settings(form)).config
    wanted = {
        (*key, seed, config.hash, form.updates or group.updates)
        for key in group.data
        for seed in options.seeds
    }
    made = lines[["game", "data", "seed", "config", "updates"]].itertuples(index=False, name=None)
    return set(made) == wanted


# ---- tables --------------------------------------------------------------------------------------------


def expected(low: float, high: float) -> str:
    """A prediction as text."""
    if np.isnan(low):
        return "?"
    if low == -np.inf:
        return f"below {high:.2f}"
    ends = [f"{round(end, 2) + 0.0:.2f}" for end in (low, high)]  # no minus before zero
    return ends[0] if ends[0] == ends[1] else " to ".join(ends)


def by_group(options: Options, name: str, lines: pd.DataFrame) -> study.Study:
    """Forms down, data across: reached value and prediction."""
    columns = [f"{game} {quality}" for game, quality in GROUPS[name].data]
    body = []
    for form in GROUPS[name].forms:
        mine = lines[(lines["method"] == form.name) & (lines["family"] == form.family)]
        cells = []
        for game, quality in GROUPS[name].data:
            part = mine[(mine["game"] == game) & (mine["data"] == quality)]
            value = part["value"].to_numpy()
            range_ = tuple(part[["low", "high"]].iloc[0])
            mark = "" if np.isnan(range_[0]) or agrees(game, value.mean(), *range_) else " **no**"
            cells.append(f"{study.over_seeds(value, 2)} ({expected(*range_)}){mark}")
        body.append([form.family, form.name, *cells])
    notes = [
        f"Reached value, mean and 95 % bootstrap interval over {len(options.seeds)} seeds, and in brackets what "
        "theory says (?: nothing). Values of one-step games are exact; others are means of "
        f"{EPISODES} episodes per seed.",
        f"Made by `{study.command('coordination')}`.",
    ]
    sheet = study.plain_sheet(f"Coordination games: {name}", ["family", "method", *columns], body, notes)
    return study.Study(f"coordination/{name}", sheet, lines, lambda figure: scatter(figure, lines))


def summary(options: Options, lines: pd.DataFrame) -> study.Study:
    """How many predictions of each family agree, and which do not."""
    keys = ["family", "group", "game", "data", "method"]
    means = lines.groupby(keys, sort=False)[["value", "low", "high"]].mean().reset_index()
    means = means[means["low"].notna()]
    kept = [agrees(*pair) for pair in means[["game", "value", "low", "high"]].itertuples(index=False)]
    means = means.assign(agrees=kept)
    body = []
    shown = ["method", "game", "data", "value", "low", "high"]
    for family, part in means.groupby("family", sort=False):
        wrong = [
            f"{method} on {game} {quality}: {value:.2f} ({expected(low, high)})"
            for method, game, quality, value, low, high in part.loc[~part["agrees"], shown].to_numpy()
        ]
        methods = ", ".join(dict.fromkeys(part["method"]))
        body.append(
            [str(family), methods, str(len(part)), str(part["agrees"].sum()), "; ".join(wrong) or "none"]
        )
    notes = [
        "Families, predictions and tolerance are those of the script's own text; each group of games has a table of "
        f"its own beside this one. {len(options.seeds)} seeds, {len(lines)} runs. All games use the same "
        "temperatures, chosen for XOR. AlberDICE finds an equilibrium, not always the best one: with uniform data of "
        "XOR with four actions theory has it end at 0 (the script's text says why). Which equilibrium is reached is "
        "decided while the temperature is high, so noise may lead a seed into another than exact answers reach.",
        f"Made by `{study.command('coordination')}`.",
    ]
    header = ["family", "methods", "predictions", "agree", "which do not: reached (predicted)"]
    sheet = study.plain_sheet("Coordination games: theory and practice", header, body, notes)
    return study.Study("coordination", sheet, lines, lambda figure: scatter(figure, lines))


def scatter(figure: Any, lines: pd.DataFrame) -> None:
    """Reached values over predicted ones."""
    ax = figure.subplots()
    exact = lines[lines["low"].notna() & (lines["low"] > -np.inf)]
    means = exact.groupby(["family", "game", "data", "method"], sort=False)[["value", "low", "high"]].mean()
    for family, part in means.groupby("family", sort=False):
        ax.plot(part[["low", "high"]].mean(axis=1), part["value"], "o", ms=4, alpha=0.6, label=family)
    ax.axline((0, 0), slope=1, color="gray", linewidth=0.8)
    ax.set(xlabel="predicted", ylabel="reached", xscale="symlog", yscale="symlog")
    ax.legend(fontsize="small")


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    lines = rows(options)
    for name in options.only:
        study.write_study(by_group(options, name, lines[lines["group"] == name]), options.out)
    study.write_study(summary(options, lines), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
