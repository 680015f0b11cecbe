"""How much a joint critic says about one of many agents: TD3+BC on agreement of 4 to 64 agents.

    python benchmarks/studies/critic_share.py [--agents 4 8 16 32 64] [--alphas 0.5 2.5]

In the suite `scaling` TD3+BC (MADDPG+BC) loses the agreement of 8 agents and keeps that of 32. Its policy follows the
critic through every agent's own action, so what the critic adds to an agent's loss is lambda times the gap between
its values of that agent's two actions, the others acting as in the data. Every reward of these data is 1: the gap is
all extrapolation, and the data's part of the loss has to hold against it. Shown are the gap after the last update, a
mean over rows of the data and agents, and the return.
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
from numpy.typing import NDArray

import marlzoo
from marlzoo.batch import as_sequences
from marlzoo.data.dataset import Dataset
from marlzoo.modules.layers import one_hot
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import make_sampler, train

# As in the suite.
SETTINGS: dict[str, Any] = {
    "variant": "maddpg_bc",
    "hidden": 32,
    "critic_hidden": 32,
    "lr": 3e-3,
    "tau": 0.05,
    "batch_size": 64,
    "history": "mlp",
}
COLUMNS = ["agents", "alpha", "seed", "gap", "return"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = tuple(range(10))
    agents: tuple[int, ...] = (4, 8, 16, 32, 64)
    alphas: tuple[float, ...] = (0.5, 2.5)  # weight of the critic
    updates: int = 400
    episodes: int = 320


@torch.no_grad()
def gap(learner: Any, data: Dataset) -> NDArray[np.float64]:
    """Lambda times the gap between the critic's values of an agent's actions, mean over rows and agents, ``[R]``."""
    batch = as_sequences(make_sampler(learner, [data]).next())
    obs = batch.obs[:, :, :-1]
    state = batch.state[:, :, :-1]
    size = learner.spec.action_size
    taken = one_hot(batch.action, size, learner.dtype)
    values = torch.stack(
        [
            learner.q.first(obs, state, one_hot(torch.full_like(batch.action, a), size, learner.dtype), taken)
            for a in range(size)
        ]
    )
    # lambda without the noise of the policy's samples: the critic's mean size over both actions.
    scale = learner.hyperparameter("alpha") / values.abs().mean((0, 2, 3, 4))
    found: NDArray[np.float64] = (scale * (values.amax(0) - values.amin(0)).mean((1, 2, 3))).double().numpy()
    return found


def lines(options: Options) -> pd.DataFrame:
    """One line per number of agents, weight and seed."""
    found: list[tuple[Any, ...]] = []
    for agents in options.agents:
        data = marlzoo.load_dataset(f"games/modes-{agents}/marlzoo/modes")
        for alpha in options.alphas:
            learner = marlzoo.make("td3_bc", data.spec, seeds=options.seeds, alpha=alpha, **SETTINGS)
            train(learner, data, updates=options.updates, compile="off", show_progress=False)
            said = gap(learner, data)
            env = marlzoo.make_env(f"games/modes-{agents}", len(options.seeds) * options.episodes)
            returns = evaluate(learner.policy(), env, seeds=options.seeds).returns.mean(1)
            found += [(agents, alpha, seed, said[r], returns[r]) for r, seed in enumerate(options.seeds)]
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the gaps as plot."""
    groups = [
        (f"{agents} agents, alpha {alpha:g}", part)
        for (agents, alpha), part in numbers.groupby(["agents", "alpha"], sort=False)
    ]
    body = [
        [name, *(study.over_seeds(part[column].to_numpy()) for column in COLUMNS[3:])]
        for name, part in groups
    ]
    notes = [
        "gap: lambda times the gap between the critic's values of an agent's two actions, the others acting as in "
        "the data; mean over rows and agents. return: 1 where all agents agree in every episode. Means over seeds "
        "with 95 % intervals.",
        f"Made by `{study.command('critic_share')}`.",
    ]
    draw = study.seed_marks([(name, part["gap"].to_numpy()) for name, part in groups])
    sheet = study.plain_sheet(
        "What a joint critic says about one agent", ["TD3+BC", *COLUMNS[3:]], body, notes
    )
    return study.Study("critic_share", sheet, numbers, draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
