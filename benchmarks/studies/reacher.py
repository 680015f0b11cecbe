"""The two-agent Reacher with data of two conventions: where imitation mixes them, and practice in a model does not.

    python benchmarks/studies/reacher.py [--seeds 0 1 2]

The arm reaches most targets with its elbow bent to either side. In one half of the data (``mix`` of
:mod:`marlzoo.benchmarks.reacher`) the team bends it to one side, in the other half to the other; a team's shoulder
does not fit the other's elbow. In ``2x1_full`` both agents see everything; in ``2x1first_0`` the elbow's agent does
not see the target and has to tell it from the shoulder's motion.

Scores are 0 for random actions and 1 for the expert of MOMA-PPO's authors. The data's teams, recorded with noise, are
in the lines ``expert-c``, ``expert-d`` and ``mix``. Cross-play pairs the shoulder of one seed with the elbow of
another. ``elbow`` is the mean angle at the end of an episode, ``one way`` the share of the episodes that end with the
elbow on its more frequent side: 1 for a team with a convention that holds for all targets, 1/2 for one without.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.benchmarks import reacher, study
from marlzoo.benchmarks.watched import Watched
from numpy.typing import NDArray

import marlzoo
from marlzoo.envs import moma
from marlzoo.families import make_env, task_spec
from marlzoo.training.ad_hoc import AdHocTeams
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

PLAIN: dict[str, Any] = {"hidden": 128, "batch_size": 128}
PRACTICE: dict[str, Any] = {
    **{
        "members": 5,
        "elites": 5,
        "model_hidden": 128,
        "model_layers": 3,
        "model_lr": 1e-3,
        "model_batch": 128,
    },
    **{"hidden": 128, "lr": 5e-4, "starts": 100, "batch_size": 250, "gamma": 0.95, "memory_size": 32},
    # Actions of the data are small, and the model knows no others: practice starts there, and disagreement costs.
    **{"standardize_actions": True, "scale_inputs": True, "start_std": 0.1, "penalty_ensemble": 5.0},
}
PERFECT: dict[str, Any] = {**PRACTICE, "model": "perfect"}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "BC": ("bc", PLAIN),
    "IQL": ("iql", PLAIN),
    "TD3+BC": ("td3_bc", {**PLAIN, "critic_hidden": 128, "variant": "independent"}),
    "MOMA-PPO": ("moma_ppo", PRACTICE),
    "MOMA-PPO, perfect model": ("moma_ppo", PERFECT),
    "MOMA-PPO, memory 10": ("moma_ppo", {**PRACTICE, "memory": 10}),
    "MOMA-PPO, memory 10, perfect model": ("moma_ppo", {**PERFECT, "memory": 10}),
}
# Where agent 0 sees the elbow's cosine and sine.
ELBOW: dict[str, list[int]] = {"2x1_full": [1, 3], "2x1first_0": [3, 4]}
COLUMNS = ["task", "form", "seed", "self_play", "score", "cross_play", "cross_score", "elbow", "one_way"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each
    teams: tuple[str, ...] = tuple(ELBOW)  # who sees what
    forms: tuple[str, ...] = tuple(FORMS)  # which; those with a memory for 2x1first_0 only
    data_episodes: int = 100  # of each convention
    updates: int = 2000  # of the methods without a model
    model_updates: int = 1000  # of the world model
    policy_updates: int = 100  # of MOMA-PPO's policies
    episodes: int = 50  # of each evaluation, per pair of seeds


def task_name(team: str) -> str:
    """Full name of a team's task."""
    return f"moma/reacher-{team}"


def score(value: Any) -> Any:
    """0 for random actions, 1 for the expert of MOMA-PPO's authors."""
    return moma.score("reacher-2x1_full", value)


def one_way(elbow: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of angles ``[..., E]`` on their more frequent side."""
    positive = (elbow > 0).mean(-1)
    return np.asarray(np.maximum(positive, 1.0 - positive))


def trained(form: str, team: str, options: Options) -> Any:
    """The learner of one form, all seeds in lockstep."""
    method, settings = FORMS[form]
    updates = options.updates
    if method == "moma_ppo":
        learned = settings.get("model") != "perfect"
        updates = options.policy_updates + (options.model_updates if learned else 0)
        settings = {**settings, "model_updates": options.model_updates}
    data = reacher.dataset(task_name(team), "mix", episodes=options.data_episodes)
    learner: Any = marlzoo.make(method, task_spec(task_name(team)), seeds=options.seeds, **settings)
    train(learner, data, updates=updates, compile="off")
    return learner


def measured(learner: Any, team: str, options: Options) -> list[tuple[float, ...]]:
    """Return and score in self-play and cross-play, elbow and its agreement in self-play; a line per seed."""
    r = len(options.seeds)
    pairs = np.stack(np.divmod(np.arange(r * r), r), axis=1)  # shoulder of one seed, elbow of another
    policy = Watched(AdHocTeams([learner], pairs))
    env = make_env(task_name(team), r * r * options.episodes)
    with torch.no_grad():
        played = evaluate(policy, env, seeds=[0] * (r * r))  # every pair has the same starts
    env.close()
    returns = played.returns.mean(1).reshape(r, r)
    own = returns.diagonal()
    cross = (returns.sum(1) - own) / (r - 1) if r > 1 else np.full(r, np.nan)
    cosine, sine = policy.seen[:: r + 1, :, 0, ELBOW[team]].double().numpy().transpose(2, 0, 1)
    elbow = np.arctan2(sine, cosine)
    columns = (own, score(own), cross, score(cross), elbow.mean(1), one_way(elbow))
    return list(zip(*columns, strict=True))


def references(team: str, options: Options) -> list[tuple[Any, ...]]:
    """Lines of the data: both conventions, and their mixture."""
    found = []
    for quality in reacher.PARTS:
        data = reacher.dataset(task_name(team), quality, episodes=options.data_episodes)
        value = float(data.returns.mean())
        last = data.state[data.starts + moma.spec(f"reacher-{team}").horizon - 1]
        elbow = reacher.angles(last)[:, 1]
        found.append(
            (team, quality, -1, value, score(value), np.nan, np.nan, elbow.mean(), float(one_way(elbow)))
        )
    return found


def lines(options: Options) -> pd.DataFrame:
    """One line per task, form and seed; those of the data have seed -1."""
    found: list[tuple[Any, ...]] = []
    for team in options.teams:
        found += references(team, options)
        for form in options.forms:
            if FORMS[form][1].get("memory") and team == "2x1_full":
                continue
            values = measured(trained(form, team, options), team, options)
            found += [(team, form, seed, *line) for seed, line in zip(options.seeds, values, strict=True)]
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the scores as plot."""
    parts = [(key, part) for key, part in numbers.groupby(["task", "form"], sort=False)]
    body = []
    for key, part in parts:
        shown = [
            study.over_seeds(part[name].to_numpy(), digits)
            for name, digits in (("self_play", 1), ("score", 2), ("cross_score", 2), ("one_way", 2))
        ]
        angles = ", ".join(f"{value:+.1f}" for value in part["elbow"])
        body.append([*map(str, key), *shown, angles])
    notes = [
        "Return and score in self-play, score in cross-play, and the share of episodes with the elbow on one side: "
        "means over seeds with 95 % intervals. The elbow's mean angle (rad) of every seed.",
        f"Made by `{study.command('reacher')}`.",
    ]
    header = ["task", "", "return", "score", "cross-play", "one way", "elbow"]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for k, (_, part) in enumerate(parts):
            for name, mark, label in (("score", "oC0", "self-play"), ("cross_score", "xC1", "cross-play")):
                ax.plot([k] * len(part), part[name].to_numpy(), mark, label=label if k == 0 else None)
        labels = [f"{team}\n{form}".replace(", ", "\n") for (team, form), _ in parts]
        ax.set_xticks(range(len(parts)), labels, fontsize=5, rotation=45)
        ax.set_ylabel("score")
        ax.legend()

    sheet = study.plain_sheet("The Reacher with data of two conventions", header, body, notes)
    return study.Study("reacher", sheet, numbers, draw, size=(9.0, 4.5))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
