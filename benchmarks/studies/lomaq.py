"""With local losses who earned what does not become harder to tell with more agents.

    python benchmarks/studies/lomaq.py [--agents 2 10 20 40] [--seeds 0 1 2]

The line game: every agent sees a bit of its own and is paid 1 where its action equals the bit, plus normal noise of
deviation 1; one step. From 300 uniform transitions LOMAQ learns with every agent's own error (``local``) or with the
error of the team's mean (``global``), in which an agent's own part is the smaller the larger the team. ``sum`` is
the team's error, too, of a plain sum of the agents' values (VDN): the global loss's mixer has weights and a bias that
read the state, which is all bits here, and with many agents these can fit the rewards' noise without the agents.
``global, no noise`` is the same from rewards without noise, where there is nothing else to fit.
Shown is the share of greedy actions that are right, over all agents and both bits. Each seed has data of its own.
There is no conservative penalty and no bootstrap: with uniform data and one step neither has a part in it.
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

SHARED: dict[str, Any] = {"hidden": 32, "batch_size": 64, "lr": 3e-3, "cql_weight": 0.0, "gamma": 0.0}
LOMAQ: dict[str, Any] = {**SHARED, "mixer_hidden": 8, "mixer_embed": 8, "reach": 0}
# Name: method, settings, and the deviation of the rewards' noise.
LEARNERS: dict[str, tuple[str, dict[str, Any], float]] = {
    "local": ("lomaq", {**LOMAQ, "loss": "local"}, 1.0),
    "global": ("lomaq", {**LOMAQ, "loss": "global"}, 1.0),
    "sum": ("qmix_cql", {**SHARED, "mixer": "vdn"}, 1.0),
    "global, no noise": ("lomaq", {**LOMAQ, "loss": "global"}, 0.0),
}


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # of data and networks, one replica each
    agents: tuple[int, ...] = (2, 10, 20, 40)  # sizes of the team
    transitions: int = 300  # of each dataset
    updates: int = 300  # of training


def line_game(n_agents: int, transitions: int, seed: int, noise: float = 1.0) -> Dataset:
    """Uniform data of the line game, whose rewards have noise of such a deviation."""
    rng = np.random.default_rng(seed)
    shape = (2 * transitions, n_agents)
    bit = rng.integers(2, size=shape)
    action = rng.integers(2, size=shape)
    reward = (bit == action) + noise * rng.normal(size=shape)
    last = np.arange(2 * transitions) % 2 == 1  # the final row of every episode of one step
    spec = marlzoo.Spec(n_agents, 1, n_agents, "discrete", 2, 1, reward_per_agent=True)
    return Dataset.create(
        spec,
        obs=bit[..., None].astype(np.float32),
        state=bit.astype(np.float32),
        action=action,
        reward=np.where(last[:, None], 0.0, reward).astype(np.float32),
        terminal=~last,
        truncated=np.zeros_like(last),
        starts=np.arange(0, 2 * transitions, 2),
        action_mask=np.ones((*shape, 2), np.bool_),
        card=Card(task="study/line", source="marlzoo", quality="uniform"),
    )


def right(learner: Any) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Share of right greedy actions of every replica, ``[R]``."""
    bit = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1).expand(learner.replicas, 2, learner.spec.n_agents, 1)
    action = learner.policy().act(bit, torch.ones(*bit.shape[:3], 2, dtype=torch.bool))
    return np.asarray((action == bit.squeeze(-1)).double().mean((1, 2)).numpy())


def lines(options: Options) -> pd.DataFrame:
    """One line per team size, loss and seed."""
    found = []
    for n_agents in options.agents:
        for loss, (method, settings, noise) in LEARNERS.items():
            data = [line_game(n_agents, options.transitions, seed, noise) for seed in options.seeds]
            learner = marlzoo.make(method, data[0].spec, seeds=options.seeds, **settings)
            train(learner, data, updates=options.updates, compile="off")
            found += [(n_agents, loss, s, x) for s, x in zip(options.seeds, right(learner), strict=True)]
    return pd.DataFrame(found, columns=["agents", "loss", "seed", "right"])


def report(numbers: pd.DataFrame, options: Options) -> study.Study:
    """The table by team size, both losses as curves."""

    def of(n_agents: int, loss: str) -> Any:
        chosen = numbers[(numbers["agents"] == n_agents) & (numbers["loss"] == loss)]
        return chosen["right"].to_numpy()

    body = [[str(n), *(study.over_seeds(of(n, loss)) for loss in LEARNERS)] for n in options.agents]
    notes = [
        f"Share of right greedy actions after {options.updates} updates with {options.transitions} transitions.",
        "local, global: LOMAQ with the errors of every agent, and of the team. sum: the team's error with a plain "
        "sum of the agents' values (VDN) instead of a mixer that reads the state. no noise: from rewards without "
        "noise.",
        f"Made by `{study.command('lomaq')}`.",
    ]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for loss in LEARNERS:
            study.curve(ax, options.agents, [of(n, loss) for n in options.agents], loss)
        ax.set_xlabel("agents")
        ax.set_ylabel("share of right actions")
        ax.legend()

    sheet = study.plain_sheet("LOMAQ on the line game", ["agents", *LEARNERS], body, notes)
    return study.Study("lomaq", sheet, numbers, draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options), options), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
