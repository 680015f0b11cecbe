"""MAC-Flow's and MoSDOT's joint flows keep conventions that students mix, unless these share their noise.

    python benchmarks/studies/mac_flow.py [--seeds 0 1 2] [--coupling mosdot]

XOR's data D2 hold (A, B) and (B, A), each worth 1; (A, A) is worth 0 and (B, B) -2. Data of modes-4 hold "all 0" and
"all 1", worth 1 if all four agents agree. ``cloning`` is the value of the product of the data's marginals, which
policies without anything in common cannot exceed by imitation. One learner is trained per kind of noise; its flow,
which sees all observations, is deployed too, with the number of network calls per action. ``coupling`` is how noise
meets actions in the flow's training: ``independent`` as in MAC-Flow, or MoSDOT's, which gives each vector of noise to
one joint action of the data; its results are a study of their own.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from numpy.typing import NDArray

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.modules.policies import Policy
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

DATA = (("xor", "D2", 0.0), ("modes-4", "modes", 0.125))  # and the product of the marginals
LEARNER: dict[str, Any] = {
    "hidden": 64,
    "layers": 3,
    "lr": 1e-3,
    "batch_size": 256,
    "tau": 0.05,
    "eval_steps": 10,
}
# By coupling: name of the study, and of the method.
NAMES = {"independent": ("mac_flow", "MAC-Flow"), "mosdot": ("mosdot", "MoSDOT")}
COLUMNS = ["game", "data", "deployed", "noise", "execution", "calls", "seed", "value", "cloning"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each
    updates: int = 1000  # of training
    episodes: int = 1000  # of the evaluation, per replica
    games: tuple[str, ...] = ("xor", "modes-4")  # which
    coupling: Literal["independent", "mosdot"] = "independent"  # of noise and actions


def returns(policy: Policy, game: str, options: Options) -> NDArray[np.float64]:
    """Mean return of every replica."""
    env = games.make(game, len(options.seeds) * options.episodes)
    return np.asarray(evaluate(policy, env, seeds=list(options.seeds)).returns.mean(1))


def lines(options: Options) -> pd.DataFrame:
    """One line per game, noise, policy and seed."""
    found: list[tuple[Any, ...]] = []
    for game, quality, cloning in DATA:
        if game not in options.games:
            continue
        settings = {**LEARNER, "coupling": options.coupling}
        for noise in ("per_step", "shared"):
            learner: Any = marlzoo.make(
                "mac_flow", games.spec(game), seeds=options.seeds, noise=noise, **settings
            )
            train(learner, game_data.dataset(game, quality), updates=options.updates, compile="off")
            policies = {"students": (learner.policy(), 1)}
            if noise == "per_step":  # the flow is the same for all kinds of noise
                flow = marlzoo.make(
                    "mac_flow", games.spec(game), seeds=options.seeds, deploy="flow", **settings
                )
                flow.load_state_tensors(learner.state_tensors())
                policies["flow"] = (flow.policy(), LEARNER["eval_steps"])
            for name, (policy, calls) in policies.items():
                about = (
                    game,
                    quality,
                    name,
                    noise if name == "students" else "joint",
                    policy.execution,
                    calls,
                )
                for seed, value in zip(options.seeds, returns(policy, game, options), strict=True):
                    found.append((*about, seed, value, cloning))
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame, coupling: str) -> study.Study:
    """The table over seeds, the values as plot."""
    name, method = NAMES[coupling]
    keys = COLUMNS[:6]
    body = []
    groups = []
    for key, part in numbers.groupby(keys, sort=False):
        body.append(
            [*map(str, key), study.over_seeds(part["value"].to_numpy()), f"{part['cloning'].iloc[0]:.3f}"]
        )
        groups.append(("\n".join(map(str, (key[0], *key[2:4]))), part["value"].to_numpy()))
    notes = [
        "Mean value over seeds with its 95 % interval; calls are those of a network per action.",
        f"Made by `{study.command('mac_flow')}`.",
    ]

    sheet = study.plain_sheet(
        f"{method} on data with two conventions", [*keys, "value", "cloning"], body, notes
    )
    return study.Study(name, sheet, numbers, study.seed_marks(groups))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options), options.coupling), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
