"""Agents that learn alone, from data recorded with other partners than they will have: the two corrections of MABCQ.

    python benchmarks/studies/mabcq.py [--seeds 0 1 2] [--games two-steps differential-2]

In the game in two steps the team's best state pays 5, but each agent's partner in its data takes its first action in
90 % of the episodes, which leads to the states that pay 4 and 0, or 4 and 2. Uncorrected values choose the joint
action that pays 4. Correcting only for better partners (value deviation) or only for rare transitions (transition
normalization) moves one agent and not the other, to states that pay 0 and 2; with both, the team meets at 5. ``q1_1``
and ``q2_1`` are both agents' values of their second action, which the exact corrections make 5 and 4.14.

The differential game of two agents is played on demand (``--games``): a narrow basin at the center pays up to 1 per
step and a broad ring 0.3, and each agent's data show random partners. ``return`` is the team's mean return.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.benchmarks import study

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

QUALITY = "decentralized"
FORMS: dict[str, tuple[float, float]] = {
    "BCQ": (0.0, 0.0),
    "value deviation": (1.0, 0.0),
    "transition normalization": (0.0, 1.0),
    "both (MABCQ)": (1.0, 1.0),
}
EXACT: dict[str, Any] = {
    "density": "counts",
    "weight_min": 0.0,
    "weight_max": 100.0,
    "gamma": 1.0,
    "lr": 3e-3,
    "tau": 0.02,
}
GAMES: dict[str, dict[str, Any]] = {"two-steps": EXACT, "differential-2": {}}
COLUMNS = ["game", "form", "seed", "return", "q1_1", "q2_1"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each
    games: tuple[str, ...] = ("two-steps",)  # which
    updates: int = 800  # of the game in two steps
    game_updates: int = 4000  # of the differential game
    data_episodes: int = 500  # of the data
    hidden: int = 32  # width of the networks
    batch_size: int = 128  # transitions per update
    episodes: int = 50  # of the evaluation, per seed


def trained(game: str, options: Options) -> Any:
    """All forms and seeds as replicas of one learner."""
    count = len(options.seeds)
    strengths: dict[str, Any] = {
        name: [values[k] for values in FORMS.values() for _ in range(count)]
        for k, name in enumerate(("deviation", "normalization"))
    }
    data = game_data.dataset(game, QUALITY, episodes=options.data_episodes)
    learner = marlzoo.make(
        "mabcq",
        data.spec,
        seeds=list(options.seeds) * len(FORMS),
        hidden=options.hidden,
        batch_size=options.batch_size,
        **GAMES[game],
        **strengths,
    )
    updates = options.updates if game == "two-steps" else options.game_updates
    train(learner, data, updates=updates, compile="off")
    return learner


@torch.no_grad()
def second_actions(learner: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Both agents' values of their second action at the start, ``[replicas, 2]``."""
    obs = torch.eye(5)[:1].expand(learner.replicas, 2, -1)
    inputs = torch.cat((obs, torch.eye(2).expand(learner.replicas, 2, 2)), dim=-1).unsqueeze(1)
    values: torch.Tensor = learner.action_q(inputs)
    return np.asarray(values[:, 0, :, 1].double())


def lines(options: Options) -> pd.DataFrame:
    """One line per game, form and seed."""
    found: list[tuple[Any, ...]] = []
    for game in options.games:
        learner = trained(game, options)
        env = games.make(game, learner.replicas * options.episodes)
        starts = list(options.seeds) * len(FORMS)
        returns = evaluate(learner.policy(), env, seeds=starts).returns.mean(1)
        blank = np.full((learner.replicas, 2), np.nan)
        values = second_actions(learner) if game == "two-steps" else blank
        for r, seed in enumerate(learner.seeds):
            form = list(FORMS)[r // len(options.seeds)]
            found.append((game, form, seed, returns[r], *values[r]))
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the returns as plot."""
    parts = [
        (f"{game}, {form}", part) for (game, form), part in numbers.groupby(["game", "form"], sort=False)
    ]
    body = [
        [name, *(study.over_seeds(part[column].to_numpy(), 2) for column in ("return", "q1_1", "q2_1"))]
        for name, part in parts
    ]
    notes = [
        "Mean over seeds with its 95 % interval. The exact values of the second actions are 0.50 and 2.30 (BCQ), "
        "5.00 and 2.65, 2.50 and 3.50, 5.00 and 4.14 (both).",
        f"Made by `{study.command('mabcq')}`.",
    ]

    def draw(figure: Any) -> None:
        axes = np.atleast_1d(figure.subplots(1, numbers["game"].nunique()))
        for ax, (game, rows) in zip(axes, numbers.groupby("game", sort=False), strict=True):
            for k, (form, part) in enumerate(rows.groupby("form", sort=False)):
                ax.plot([k] * len(part), part["return"], "o", label=form)
            ax.set_xticks(range(len(FORMS)), ["BCQ", "deviation", "normal.", "both"], fontsize=8)
            ax.set_title(str(game), fontsize=9)
            ax.set_ylabel("return")

    header = ["", "return", "agent 1, second action", "agent 2, second action"]
    sheet = study.plain_sheet("Learning alone from data of one's own", header, body, notes)
    return study.Study("mabcq", sheet, numbers, draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
