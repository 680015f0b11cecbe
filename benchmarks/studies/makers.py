"""Whether a single state tells which of two behavior policies made it.

    python benchmarks/studies/makers.py [--tasks mamujoco/hopper-3x1] [--transitions 20000]

A clone of medium-expert data can act like the better half alone only where it sees whose state it is in: then its
policy may be the medium one in the medium one's states and the expert's in the expert's, and having started like the
expert it stays there. So a classifier is trained on states of both policies, with the maker as its label, and asked
about episodes that it has not seen, a fifth of each policy's. It is behavior cloning of one discrete action. Shown is
the share of states that it gives to their maker, at different steps of the episodes, every maker counting alike: 0.5
is chance. All episodes of a task begin alike, so that their first states cannot tell.
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
from marlzoo.data.dataset import Dataset
from marlzoo.task import TaskName
from marlzoo.training.trainer import train

MAKERS = ("medium", "expert")
SMALL: dict[str, Any] = {"hidden": 64, "lr": 1e-3, "batch_size": 256}
# Steps of an episode: its first state, then up to these.
PARTS = {
    "first": (0, 1),
    "2 to 10": (1, 10),
    "11 to 50": (10, 50),
    "later": (50, sys.maxsize),
    "all": (0, sys.maxsize),
}
HELD_OUT = 5  # one episode of so many
COLUMNS = ["task", "seed", *PARTS]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    tasks: tuple[str, ...] = ("mamujoco/hopper-3x1", "mamujoco/halfcheetah-6x1")  # whose data
    transitions: int = 50_000  # of each policy
    updates: int = 3000  # of training


@dataclass(frozen=True)
class States:
    """Steps of one policy.

    Attributes:
        state: ``[M, S]``, where the step started from.
        step: ``[M]``, its number in the episode.
        held_out: ``[M]``, of an episode that the classifier is asked about and does not learn from.
    """

    state: NDArray[np.float32]
    step: NDArray[np.int64]
    held_out: NDArray[np.bool_]


def states(data: Dataset) -> States:
    """What the dataset's steps started from."""
    lengths = data.lengths
    episode = np.repeat(np.arange(len(lengths)), lengths)
    step = np.concatenate([np.arange(length) for length in lengths])
    return States(data.state[data.sources], step, episode % HELD_OUT == 0)


def shares(makers: list[States], options: Options) -> NDArray[np.float64]:
    """Share of held-out states that are given to their maker, ``[R, parts]``; NaN where there are none."""
    seen = np.concatenate([made.state[~made.held_out] for made in makers])
    mean = seen.mean(0)
    std = seen.std(0) + 1e-6
    label = np.repeat(np.arange(len(makers)), [int((~made.held_out).sum()) for made in makers])
    data = Dataset.from_steps(
        ((seen - mean) / std)[:, None],
        label[:, None],
        np.zeros(len(seen), np.float32),
        np.ones(len(seen), np.bool_),
        n_actions=len(makers),
    )
    learner = marlzoo.make("bc", data.spec, seeds=options.seeds, **SMALL)
    train(learner, data, updates=options.updates, compile="off")
    found = []
    for number, made in enumerate(makers):
        asked = torch.as_tensor((made.state[made.held_out] - mean) / std)
        obs = asked[None, :, None].expand(len(options.seeds), -1, 1, -1)
        told = learner.policy().act(obs, torch.ones(*obs.shape[:3], len(makers), dtype=torch.bool))
        right = (told.squeeze(-1) == number).double().numpy()
        step = made.step[made.held_out]
        parts = [right[:, (step >= low) & (step < high)] for low, high in PARTS.values()]
        found.append([part.mean(1) if part.size else np.full(len(right), np.nan) for part in parts])
    alike: NDArray[np.float64] = np.asarray(found).mean(0)
    return alike.T


def lines(options: Options) -> pd.DataFrame:
    """One line per task and seed."""
    found: list[tuple[Any, ...]] = []
    for task in options.tasks:
        makers = []
        for quality in MAKERS:
            logged = study.Logged(task, quality, options.transitions)
            makers.append(states(logged.load(options.out)[1]))
        told = shares(makers, options)
        found += [(task, seed, *told[r]) for r, seed in enumerate(options.seeds)]
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the shares of all steps as plot."""
    groups = [(TaskName.parse(str(task)).name, part) for task, part in numbers.groupby("task", sort=False)]
    body = [[task, *(study.over_seeds(part[column].to_numpy()) for column in PARTS)] for task, part in groups]
    notes = [
        "Share of held-out states that a classifier gives to the policy that made them, medium or expert, by the "
        "step of the episode. 0.5: chance. Means over seeds of the classifier with 95 % intervals.",
        f"Made by `{study.command('makers')}`.",
    ]
    draw = study.seed_marks([(task, part["all"].to_numpy()) for task, part in groups])
    sheet = study.plain_sheet("Does a state tell who made it?", ["task", *PARTS], body, notes)
    return study.Study("makers", sheet, numbers, draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
