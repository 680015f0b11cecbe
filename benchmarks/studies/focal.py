"""Whether agents find unseen goals through FOCAL's code of their context.

    python benchmarks/studies/focal.py [--qualities noisy] [--context 20]

Two points shall meet at a goal that they do not see; 40 goals are in the data, episodes are scored with 10 others.
The data are of teams that walk to the goal with noise (``noisy``), or in equal shares of these and of random ones
(``mix``). ``no code`` is IQL on observations, ``goal shown`` IQL with the goal beside them. FOCAL's policy is either
told ``--context`` transitions of a team with the same goal before its episode starts, as in the paper, or has only
what it goes through itself. The team is a noisy one, whose actions point to the goal, or moves at random, so that
nothing but rewards tells the goal. ``map`` is the share of the variance of unseen goals that a linear map of the code
of one episode of such a team explains, fitted on the goals of the data.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.baselines.focal import ContextPolicy
from marlzoo.benchmarks import study
from torch import Tensor

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.data.dataset import Dataset
from marlzoo.envs import games
from marlzoo.modules.policies import Policy, Random
from marlzoo.replicas import derive
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

UNSEEN = "goals-unseen"
SIZES: dict[str, Any] = {"hidden": 32, "lr": 2e-3, "tau": 0.02}
CODES: dict[str, Any] = {"encoder_hidden": 64, "task_size": 2, **SIZES}
TEAMS = {"FOCAL, told": "noisy", "FOCAL, told at random": "random"}
COLUMNS = ["data", "learner", "seed", "return", "map"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each
    qualities: tuple[str, ...] = ("noisy", "mix")  # of the data
    data_episodes: int = 1000  # of each part of the data
    updates: int = 3000  # of every learner
    episodes: int = 50  # of the evaluation, per seed
    context: int = 20  # transitions that the policy is told of, at most an episode's 20


class Told(Policy):
    """FOCAL's policy that hears of transitions whenever its episodes start.

    Args:
        policy: of the agents.
        context: arguments of :meth:`marlzoo.baselines.focal.ContextPolicy.inform`.
    """

    def __init__(self, policy: ContextPolicy, context: tuple[Tensor, ...]) -> None:
        super().__init__()
        self.policy = policy
        self.context = context

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:  # noqa: D102
        self.policy.reset(num_envs, ids)
        self.policy.inform(*self.context)

    def receive(self, reward: Tensor) -> None:  # noqa: D102
        self.policy.receive(reward)

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Random = None) -> Tensor:  # noqa: D102
        action: Tensor = self.policy.act(obs, action_mask, random)
        return action


def steps_of(data: Dataset, episodes: Any, count: int) -> tuple[Tensor, ...]:
    """The first steps of episodes: observations, actions, rewards, next observations, ``[..., count, ...]`` each."""
    rows = torch.as_tensor(data.starts)[torch.as_tensor(episodes)].unsqueeze(-1) + torch.arange(count)
    fields = [torch.from_numpy(np.asarray(x)) for x in (data.obs, data.action, data.reward)]
    return (*(x[rows] for x in fields), fields[0][rows + 1])


def told(policy: ContextPolicy, team: str, seeds: tuple[int, ...], options: Options) -> Told:
    """The policy, told of an episode of a team with the goal that each copy is going to have."""
    data = game_data.dataset(UNSEEN, team, episodes=options.data_episodes, seed=1)
    goals = data.state[data.starts, -2:]
    twin = games.make(UNSEEN, len(seeds) * options.episodes)
    twin.seed([derive(seed, "episode", e) for seed in seeds for e in range(options.episodes)])
    ahead = twin.reset().state[:, -2:]
    same = (ahead[:, None] == goals).all(-1).argmax(1).reshape(len(seeds), -1)
    return Told(policy, steps_of(data, same, options.context))


@torch.no_grad()
def explained(learner: Any, team: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Share of the variance of unseen goals that a linear map of a team's code explains, ``[replicas]``."""
    codes = []
    goals = []
    for name in ("goals", UNSEEN):
        data = game_data.dataset(name, team, episodes=400, seed=2)
        each = learner.encoder(*(x.unsqueeze(0) for x in steps_of(data, np.arange(400), 20)))
        code = each.mean(2).flatten(2)
        codes.append(torch.cat((code, torch.ones_like(code[..., :1])), dim=-1))
        goals.append(torch.from_numpy(data.state[data.starts, -2:]))
    fitted = torch.linalg.lstsq(codes[0], goals[0].expand(len(codes[0]), -1, -1)).solution
    error = (codes[1] @ fitted - goals[1]).square().sum((1, 2))
    return np.asarray(1.0 - error / (goals[1] - goals[1].mean(0)).square().sum(), np.float64)


def lines(options: Options) -> pd.DataFrame:
    """One line per data, learner and seed."""
    found: list[tuple[Any, ...]] = []

    def trained(method: str, task: str, quality: str, **settings: Any) -> Any:
        data = game_data.dataset(task, quality, episodes=options.data_episodes)
        learner = marlzoo.make(method, data.spec, seeds=options.seeds, **settings)
        train(learner, data, updates=options.updates, compile="off")
        return learner

    def scored(label: str, policy: Policy, task: str, shares: Any = np.nan) -> None:
        env = games.make(task, len(options.seeds) * options.episodes)
        returns = evaluate(policy, env, seeds=options.seeds).returns.mean(1)
        shares = np.broadcast_to(shares, returns.shape)
        found.extend((quality, label, *line) for line in zip(options.seeds, returns, shares, strict=True))

    for quality in options.qualities:
        focal = trained("focal", "goals", quality, **CODES)
        scored("no code", trained("iql", "goals", quality, **SIZES).policy(), UNSEEN)
        scored("FOCAL, own context", focal.policy(), UNSEEN)
        for label, team in TEAMS.items():
            policy = told(focal.policy(), team, options.seeds, options)
            scored(label, policy, UNSEEN, explained(focal, team))
        scored("goal shown", trained("iql", "goals-shown", quality, **SIZES).policy(), "goals-shown-unseen")
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the returns as plot."""
    keys = COLUMNS[:2]
    body = []
    groups = []
    for key, part in numbers.groupby(keys, sort=False):
        reached = part["return"].to_numpy()
        shares = part["map"].to_numpy()
        known = "" if np.isnan(shares).any() else study.over_seeds(shares, 2)
        body.append([*map(str, key), study.over_seeds(reached, 1), known])
        groups.append((f"{key[0]}\n{key[1]}".replace(", ", "\n"), reached))
    notes = [
        "Mean return on unseen goals over seeds with its 95 % interval.",
        f"Made by `{study.command('focal')}`.",
    ]
    sheet = study.plain_sheet("Unseen goals", [*keys, "return", "map"], body, notes)
    return study.Study("focal", sheet, numbers, study.seed_marks(groups))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
