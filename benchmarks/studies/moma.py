"""Data of two conventions: agents agree on one of them by practicing in a world model, and not by imitation.

    python benchmarks/studies/moma.py [--seeds 0 1 2]

In iterated coordination two agents walk to the same side of a line, each seeing its own place only; half of the
data's teams go left and half go right. The shortest way from the middle returns about -0.8; agents that end on
opposite sides get -2.56 per step. ``data`` is the mean return of the data. MOMA-PPO practices in the learned world
model, and in the simulator itself, which is what a perfect model would give. Cross-play pairs agent 0 of one seed
with agent 1 of the next: teams that agreed on different sides fail together.
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
from torch import Tensor

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.families import task_spec
from marlzoo.modules.policies import Policy
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

GAME = "iterated-coordination"
QUALITY = "mix"
SMALL: dict[str, Any] = {"hidden": 64, "lr": 1e-3, "batch_size": 128}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "BC": ("bc", SMALL),
    "IQL": ("iql", SMALL),
    "TD3+BC": ("td3_bc", SMALL),
    "MOMA-PPO": ("moma_ppo", {}),
    "MOMA-PPO, perfect model": ("moma_ppo", {"model": "perfect"}),
}
COLUMNS = ["form", "seed", "self_play", "cross_play", "data"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each
    updates: int = 1000  # of the methods without a model
    model_updates: int = 600  # of the world model
    policy_updates: int = 150  # of MOMA-PPO's policies
    episodes: int = 200  # of each evaluation, per replica
    forms: tuple[str, ...] = tuple(FORMS)  # which


class Crossed(Policy):
    """Agent 0 of every replica with agent 1 of the next."""

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.stochastic = policy.stochastic

    def act(
        self, obs: Tensor, action_mask: Tensor | None = None, random: ReplicaRandom | None = None
    ) -> Tensor:
        """Each network sees what it acts on."""
        own = self.policy.act(obs, action_mask, random)
        others = self.policy.act(obs.roll(1, 0), action_mask, random).roll(-1, 0)
        return torch.stack((own[:, :, 0], others[:, :, 1]), dim=2)


def returns(policy: Policy, options: Options) -> NDArray[np.float64]:
    """Mean return of every replica."""
    env = games.make(GAME, len(options.seeds) * options.episodes)
    return np.asarray(evaluate(policy, env, seeds=list(options.seeds)).returns.mean(1))


def trained(form: str, options: Options) -> Policy:
    """The policy of one form, all seeds in lockstep."""
    method, settings = FORMS[form]
    updates = options.updates
    if method == "moma_ppo":
        learned = settings.get("model") != "perfect"
        updates = options.policy_updates + (options.model_updates if learned else 0)
        settings = {**settings, "model_updates": options.model_updates}
    learner: Any = marlzoo.make(method, task_spec(f"games/{GAME}"), seeds=options.seeds, **settings)
    train(learner, game_data.dataset(GAME, QUALITY), updates=updates, compile="off")
    policy: Policy = learner.policy()
    return policy


def lines(options: Options) -> pd.DataFrame:
    """One line per form and seed."""
    data = float(game_data.dataset(GAME, QUALITY).returns.mean())
    found: list[tuple[Any, ...]] = []
    for form in options.forms:
        policy = trained(form, options)
        own = returns(policy, options)
        crossed = returns(Crossed(policy), options)
        found += [(form, *values, data) for values in zip(options.seeds, own, crossed, strict=True)]
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the returns as plot."""
    parts = [(str(form), part) for form, part in numbers.groupby("form", sort=False)]
    body = [
        [form, *(study.over_seeds(part[name].to_numpy(), 2) for name in ("self_play", "cross_play"))]
        for form, part in parts
    ]
    notes = [
        f"Mean return over seeds with its 95 % interval; the data's is {numbers['data'].iloc[0]:.2f}.",
        f"Made by `{study.command('moma')}`.",
    ]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for k, (_, part) in enumerate(parts):
            for name, mark in (("self_play", "o"), ("cross_play", "x")):
                values = part[name].to_numpy()
                ax.plot([k] * len(values), values, mark, label=name.replace("_", "-") if k == 0 else None)
        ax.axhline(numbers["data"].iloc[0], lw=1, ls=":", label="data")
        ax.set_xticks(range(len(parts)), [form.replace(", ", "\n") for form, _ in parts], fontsize=8)
        ax.set_ylabel("return")
        ax.legend()

    sheet = study.plain_sheet(
        "Iterated coordination, data of two conventions", ["", "self-play", "cross-play"], body, notes
    )
    return study.Study("moma", sheet, numbers, draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
