"""Whether a mixer that is not linear amplifies values offline, and what normalized errors change: one state for ever.

    python benchmarks/studies/value_scale.py [--lrs 1e-3 3e-3 --scales 1 100 --seeds 0 1 2 3 4]

Two agents with two actions each stay in one state, at a discount of 0.99. The data hold three of the four joint
actions again and again: (0, 1) and (1, 0) pay 1, (1, 1) pays 0. What (0, 0) would pay no row says, and the greedy
team takes it: each agent's first action is the better one in its data. A sum of agents' values (VDN) has an exact
fixed point, in which (0, 0) is worth 2 / (1 - 0.99) = 200; a team that keeps to the data earns 100. Learners are
QMIX+CQL without its penalty: with a sum, with QMIX's mixer, and with QMIX's mixer and errors divided by the spread
of the values in the batch (``value_normalization``). The paper of that normalization (arXiv 2603.08399) finds that
mixers which are not linear amplify values offline without it.

Shown is the largest absolute team value over all four joint actions as a multiple of the exact 200; payoffs are
multiplied by ``scales``, which a sum and normalized errors should not notice.
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
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.training.trainer import train

FORMS: dict[str, dict[str, Any]] = {
    "sum (VDN)": {"mixer": "vdn"},
    "QMIX's mixer": {"mixer": "qmix"},
    "QMIX's mixer, normalized": {"mixer": "qmix", "value_normalization": True},
}
GAMMA = 0.99
EXACT = 2.0 / (1.0 - GAMMA)  # of the joint action that no row holds, for a sum of values
LOGGED = ((0, 1, 1.0), (1, 0, 1.0), (1, 1, 0.0))  # both actions and their payoff
STEPS = 25  # of an episode, which a time limit ends
COLUMNS = ["form", "scale", "lr", "seed", "updates", "value"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    lrs: tuple[float, ...] = (1e-3, 3e-3)  # learning rates
    scales: tuple[float, ...] = (1.0, 100.0)  # that payoffs are multiplied by
    updates: int = 5000
    every: int = 500  # updates between two looks
    episodes: int = 8  # of the data
    hidden: int = 64  # width of the networks
    batch_size: int = 32  # transitions per update
    target_period: int = 10  # updates between copies of the targets


def one_state(episodes: int, scale: float) -> Dataset:
    """The three joint actions in equal shares, in turn."""
    rows = episodes * (STEPS + 1)
    place = np.arange(rows) % (STEPS + 1)
    table = np.array(LOGGED)[np.arange(rows) % len(LOGGED)]
    reward = np.where(place == STEPS, 0.0, scale * table[:, 2])
    spec = marlzoo.Spec(2, 1, 1, "discrete", 2, STEPS)
    return Dataset.create(
        spec,
        obs=np.ones((rows, 2, 1), np.float32),
        state=np.ones((rows, 1), np.float32),
        action=table[:, :2].astype(np.int64),
        reward=reward.astype(np.float32),
        terminal=np.zeros(rows, np.bool_),
        truncated=place == STEPS - 1,
        starts=np.arange(0, rows, STEPS + 1),
        action_mask=np.ones((rows, 2, 2), np.bool_),
        card=Card(task="study/one-state", source="marlzoo", quality="three"),
    )


@torch.no_grad()
def largest(learner: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The largest absolute team value over all joint actions, ``[R]``."""
    ones = torch.ones(learner.replicas, 1, 2, 1)
    values = learner.team.agents.rows(ones)  # [R, 1, agents, actions]
    joint = torch.cartesian_prod(torch.arange(2), torch.arange(2))
    taken = torch.stack([values[:, 0, i, joint[:, i]] for i in range(2)], dim=-1)
    total = learner.team.total(taken, torch.ones(learner.replicas, len(joint), 1))
    return np.asarray(total.abs().amax(1).double())


def lines(options: Options) -> pd.DataFrame:
    """One line per form, scale, learning rate, seed and look; ``value`` is a multiple of the exact one."""
    cells = [(scale, lr, seed) for scale in options.scales for lr in options.lrs for seed in options.seeds]
    data = {scale: one_state(options.episodes, scale) for scale in options.scales}
    found: list[tuple[Any, ...]] = []
    for form, settings in FORMS.items():
        learner = marlzoo.make(
            "qmix_cql",
            data[options.scales[0]].spec,
            seeds=[seed for _, _, seed in cells],
            lr=[lr for _, lr, _ in cells],
            hidden=options.hidden,
            batch_size=options.batch_size,
            target_period=options.target_period,
            gamma=GAMMA,
            history="mlp",
            cql_weight=0.0,
            timeout_is_terminal=False,
            **settings,
        )

        def look(updates: int, _: Any, form: str = form, learner: Any = learner) -> None:
            for cell, value in zip(cells, largest(learner), strict=True):
                found.append((form, *cell, updates, value / (EXACT * cell[0])))

        train(
            learner,
            [data[scale] for scale, _, _ in cells],
            updates=options.updates,
            log_every=options.every,
            on_progress=look,
            compile="off",
        )
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame, options: Options) -> study.Study:
    """The table at the end, the course over updates as plot."""
    end = numbers[numbers["updates"] == numbers["updates"].max()]
    body = []
    for (form, scale, lr), part in end.groupby(["form", "scale", "lr"], sort=False):
        values = part["value"].to_numpy()
        body.append([form, f"{scale:g}", f"{lr:g}", study.over_seeds(values, 2), f"{values.max():.2f}"])
    notes = [
        f"Largest absolute team value after {options.updates} updates as a multiple of {EXACT:g} times the scale, "
        "mean over seeds with its 95 % interval, and the largest seed.",
        f"Made by `{study.command('value_scale')}`.",
    ]

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(options.scales), sharey=True, squeeze=False)[0]
        for ax, scale in zip(panels, options.scales, strict=True):
            part = numbers[(numbers["scale"] == scale) & (numbers["lr"] == options.lrs[-1])]
            for form, rows in part.groupby("form", sort=False):
                looks = [(x, of["value"].to_numpy()) for x, of in rows.groupby("updates")]
                study.curve(ax, [x for x, _ in looks], [values for _, values in looks], str(form))
            ax.set_title(f"payoffs times {scale:g}, learning rate {options.lrs[-1]:g}", fontsize=9)
            ax.set_xlabel("updates")
        panels[0].set_ylabel("largest value / exact")
        panels[0].legend(fontsize=8)

    header = ["", "payoffs times", "learning rate", "largest value / exact", "largest seed"]
    sheet = study.plain_sheet("One state for ever: mixers and normalized errors", header, body, notes)
    return study.Study("value_scale", sheet, numbers, draw, (9.0, 4.0))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options), options), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
