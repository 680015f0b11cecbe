"""Teams whose agents act together by a coin that nobody shows: what learners of factored policies keep of it.

    python benchmarks/studies/correlated.py [--forms OMIGA BC --updates 20000]

Three scripted teams on spread (:mod:`marlzoo.benchmarks.spread`): ``one`` sends every agent to its own landmark, in
``agreed`` a coin of the team decides between two such assignments, in ``split`` every agent tosses its own. Policies
that factor over agents and imitate cannot tell ``agreed`` from ``split`` at the start of an episode: what an agent
does alone is the same. ``agreed`` breaks what the factorization of OMIGA and its kin assumes; ``one`` and ``split``
do not. What could help is a value of the team's action, which tells agreement from disagreement, or a common source
of noise; acting in turn, which helps, too, is left to Oryx's study (``oryx.py``).

For every learner: its return, and the share of episodes at whose end every landmark has an agent. The lines of the
data show both of the scripted teams. Rows are written learner by learner, and the same command goes on where it
stopped.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import spread, study
from marlzoo.benchmarks.stats import Floats
from marlzoo.benchmarks.watched import Watched

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.families import make_env
from marlzoo.modules.policies import Policy
from marlzoo.spec import Spec
from marlzoo.system.files import write_text_atomic
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

NAME = "correlated"
SIZES: dict[str, Any] = {
    "hidden": 64,
    "critic_hidden": 64,
    "vae_hidden": 64,
    "batch_size": 128,
    "history": "mlp",
}
# Even a few actions on the bounds spoil the fit of densities (bound_actions.py): some forms take them as censored.
# Values of spread reach hundreds, beside which MAC-Flow's distillation counts for nothing unless they are normalized.
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "BC": ("bc", {}),
    "OMIGA": ("omiga", {}),
    "IQL": ("iql", {}),
    "IQL, bounds censored": ("iql", {"bound_margin": 0.05}),
    "IQL without weights": ("iql", {"beta": 0.0}),
    "IQL without weights, bounds censored": ("iql", {"beta": 0.0, "bound_margin": 0.05}),
    "MAIQL": ("maiql", {}),
    "ComaDICE": ("comadice", {}),
    "ComaDICE, bounds censored": ("comadice", {"bound_margin": 0.05}),
    "TD3+BC": ("td3_bc", {"variant": "independent"}),
    "MADDPG+BC": ("td3_bc", {"variant": "maddpg_bc"}),
    "MAC-Flow, own noise": ("mac_flow", {"layers": 2, "noise": "per_episode", "normalize_q": True}),
    "MAC-Flow, shared noise": ("mac_flow", {"layers": 2, "noise": "shared", "normalize_q": True}),
}
COLUMNS = ["data", "form", "execution", "updates", "seed", "return", "covered"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each
    qualities: tuple[str, ...] = spread.QUALITIES  # of the data
    forms: tuple[str, ...] = tuple(FORMS)  # which
    data_episodes: int = 800
    updates: int = 4000  # of every method
    episodes: int = 100  # of the evaluation, per replica


def measured(policy: Policy, options: Options) -> list[tuple[float, float]]:
    """Return, and share of episodes in which all landmarks are covered at the last action; a pair per seed."""
    watched = Watched(policy)
    env = make_env(spread.TASK, len(options.seeds) * options.episodes)
    played = evaluate(watched, env, seeds=list(options.seeds))
    env.close()
    covered = spread.covered(watched.seen.cpu().numpy()).mean(-1)
    return list(zip(played.returns.mean(1).tolist(), covered.tolist(), strict=True))


def learner(form: str, spec: Spec, options: Options) -> Any:
    """One replica per seed, with the study's sizes as far as the method has them."""
    method, settings = FORMS[form]
    known = marlzoo.registry.find_method(method).config_class.__dataclass_fields__
    sizes = {name: value for name, value in SIZES.items() if name in known}
    return marlzoo.make(method, spec, seeds=options.seeds, **{**sizes, **settings})


def of_data(quality: str, data: Dataset) -> list[tuple[Any, ...]]:
    """The line of a dataset, with seed -1."""
    last = spread.covered(data.obs[data.starts + data.spec.horizon - 1])
    return [(quality, "data", "", 0, -1, float(data.returns.mean()), float(last.mean()))]


def of_learner(quality: str, form: str, data: Dataset, options: Options) -> list[tuple[Any, ...]]:
    """A line per seed of one learner."""
    team = learner(form, data.spec, options)
    train(team, data, updates=options.updates, compile="off")
    policy = team.policy()
    found = zip(options.seeds, measured(policy, options), strict=True)
    return [(quality, form, policy.execution, options.updates, seed, *values) for seed, values in found]


def lines(options: Options) -> pd.DataFrame:
    """One line per dataset, learner and seed; what an earlier run of the command has written is kept."""
    path = options.out / NAME / "table.csv"
    found = pd.read_csv(path).fillna({"execution": ""}) if path.exists() else pd.DataFrame(columns=COLUMNS)
    found = found[found["updates"].isin((0, options.updates))]
    for quality in options.qualities:
        data = spread.dataset(quality, episodes=options.data_episodes)
        for form in ("data", *options.forms):
            if len(found[(found["data"] == quality) & (found["form"] == form)]):
                continue
            new = of_data(quality, data) if form == "data" else of_learner(quality, form, data, options)
            print(*map(str, new), sep="\n", flush=True)
            found = pd.DataFrame([*found.itertuples(index=False, name=None), *new], columns=COLUMNS)
            write_text_atomic(path, found.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    return found


def report(numbers: pd.DataFrame, options: Options) -> study.Study:
    """A table with a line per learner, and the share of covered episodes as plot."""
    qualities = list(numbers["data"].unique())
    forms = sorted(numbers.groupby("form"), key=lambda found: ["data", *FORMS].index(str(found[0])))
    body = [
        [
            str(form),
            max(part["execution"].astype(str)),
            *(study.over_seeds(_of(part, quality, "return"), 0) for quality in qualities),
            *(study.over_seeds(_of(part, quality, "covered"), 2) for quality in qualities),
        ]
        for form, part in forms
    ]
    notes = [
        "Return, and the share of episodes at whose last action every landmark has an agent, on data of each team: "
        f"means over seeds with 95 % intervals, {options.episodes} episodes each.",
        f"Made by `{study.command(NAME)}`.",
    ]
    header = ["", "execution", *(f"return, {q}" for q in qualities), *(f"covered, {q}" for q in qualities)]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for k, (_, part) in enumerate(forms):
            for shift, quality in enumerate(qualities):
                values = _of(part, quality, "covered")
                label = quality if k == 0 else None
                ax.plot([k + 0.2 * (shift - 1)] * len(values), values, f"oC{shift}", label=label)
        ax.set_xticks(
            range(len(forms)), [str(form).replace(", ", "\n") for form, _ in forms], fontsize=6, rotation=45
        )
        ax.set_ylabel("episodes with all landmarks covered")
        ax.legend()

    sheet = study.plain_sheet("A team that tosses a coin nobody shows", header, body, notes)
    return study.Study(NAME, sheet, numbers, draw, size=(8.0, 4.5))


def _of(part: pd.DataFrame, quality: str, column: str) -> Floats:
    """Values of one dataset ``[seeds]``."""
    return np.asarray(part.loc[part["data"] == quality, column], np.float64)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options), options), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
