"""A plan for the team keeps XOR's conventions, a plan of every agent's own mixes them: MADiff's two modes.

    python benchmarks/studies/madiff.py [--seeds 0 1 2]

XOR's data D2 hold the joint actions (A, B) and (B, A), worth 1 each; (A, A) is worth 0 and (B, B) -2. Episodes
have one step, and an agent's next observation is its own action, so that a plan of observations is one of actions.
Shown is the value, and the share of joint actions that are one of the data's (``coherent``): one half is what agents
reach that choose between both conventions on their own.
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
from marlzoo.envs.games import payoffs
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.trainer import train

LEARNER: dict[str, Any] = {
    **{"hidden": 64, "layers": 2, "lr": 2e-3, "batch_size": 128, "tau": 0.05, "sequence_length": 1},
    **{"diffusion_steps": 20, "eval_steps": 10},
}
MODES = ("centralized", "decentralized")
COLUMNS = ["mode", "execution", "calls", "seed", "value", "coherent"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each
    transitions: int = 2000  # of the data
    updates: int = 600  # of training
    episodes: int = 1000  # of the evaluation, per replica


def xor_with_traces(transitions: int) -> Dataset:
    """D2 with observations that show the agent's last action, one-hot; zeros before."""
    first = np.arange(transitions) % 2
    action = np.repeat(np.stack((first, 1 - first), axis=1), 2, axis=0)  # a row for the final observation too
    last = np.arange(2 * transitions) % 2 == 1
    obs = np.eye(2, dtype=np.float32)[action] * last[:, None, None]
    return Dataset.create(
        marlzoo.Spec(2, 2, 4, "discrete", 2, 1),
        obs=obs,
        state=obs.reshape(len(obs), -1),
        action=action,
        reward=np.where(last, 0.0, 1.0).astype(np.float32),
        terminal=~last,
        truncated=np.zeros_like(last),
        starts=np.arange(0, 2 * transitions, 2),
        action_mask=np.ones((*action.shape, 2), np.bool_),
        card=Card(task="study/xor", source="marlzoo", quality="D2"),
    )


def lines(options: Options) -> pd.DataFrame:
    """One line per mode and seed."""
    data = xor_with_traces(options.transitions)
    table = np.array(payoffs("xor"))
    found = list[tuple[Any, ...]]()
    for mode in MODES:
        learner: Any = marlzoo.make("madiff", data.spec, seeds=options.seeds, mode=mode, **LEARNER)
        train(learner, data, updates=options.updates, compile="off")
        policy = learner.policy()
        policy.reset(options.episodes)
        obs = torch.zeros(len(options.seeds), options.episodes, 2, 2)
        mask = torch.ones_like(obs, dtype=torch.bool)
        with torch.no_grad():
            action = policy.act(obs, mask, ReplicaRandom(options.seeds, "act")).numpy()
        value = table[action[..., 0], action[..., 1]].mean(1)
        coherent = (action[..., 0] != action[..., 1]).mean(1)
        calls = 2 * LEARNER["eval_steps"] + 1  # with and without the return; and the inverse dynamics
        rows = zip(options.seeds, value, coherent, strict=True)
        found += [(mode, policy.execution, calls, *row) for row in rows]
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table by mode, the values as plot."""
    body = []
    groups = []
    for key, part in numbers.groupby(COLUMNS[:3], sort=False):
        shown = [study.over_seeds(part[name].to_numpy()) for name in ("value", "coherent")]
        body.append([*map(str, key), *shown])
        groups.append((str(key[0]), part["value"].to_numpy()))
    notes = [
        "Over seeds with 95 % intervals; calls are those of a network per action.",
        f"Made by `{study.command('madiff')}`.",
    ]

    sheet = study.plain_sheet("MADiff's modes on XOR D2", [*COLUMNS[:3], "value", "coherent"], body, notes)
    return study.Study("madiff", sheet, numbers, study.seed_marks(groups))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
