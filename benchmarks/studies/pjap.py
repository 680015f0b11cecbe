"""Whose actions a policy gradient takes for the others', and which rows: exact values, policies that are numbers.

    python benchmarks/studies/pjap.py [--seeds 0 1 2 3 4]

The game is sign-agreement, whose payoff is the product of the two actions; its value is known exactly. Each agent is
a number that follows the gradient with respect to its own action. ``own`` takes the other's present policy; ``data``
takes the other's logged action, as MADDPG does; ``data, joint action`` takes rows that lie near the team's joint
action (``prioritize = "joint_action"`` of MADDPG+CQL). Data ``both`` hold (0.5, 0.5) and (-0.5, -0.5) in equal
shares, ``uniform`` all of the box, ``far`` only (0.5, -0.5), which no agent starting at (-0.5, 0.5) is near.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
import tyro
from marlzoo.benchmarks import study
from torch import Tensor

from marlzoo.batch import draw_rows, priorities

PLACES = (("both", 0.5, 0.5), ("both", -0.5, 0.5), ("uniform", 0.5, 0.5), ("far", -0.5, 0.5))
GRADIENTS = ("own", "data", "data, joint action")
COLUMNS = ["data", "start", "gradient", "seed", "value", "x", "y"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    updates: int = 500  # steps of both policies
    rate: float = 0.02  # step size
    batch: int = 64  # rows per step
    candidates: int = 512  # rows that those near the team are chosen from
    steepness: float = 4.0  # of the priorities


def drawn(name: str, rows: int, source: torch.Generator) -> Tensor:
    """Joint actions of the data, ``[rows, 2]``."""
    if name == "far":
        return torch.tensor([[0.5, -0.5]]).expand(rows, 2)
    if name == "uniform":
        return 2.0 * torch.rand(rows, 2, generator=source) - 1.0
    side = torch.randint(0, 2, (rows, 1), generator=source).float() - 0.5
    return side.expand(rows, 2)


def followed(name: str, start: tuple[float, float], gradient: str, seed: int, options: Options) -> Tensor:
    """Where the two policies end."""
    source = torch.Generator().manual_seed(seed)
    team = torch.tensor(start)
    for _ in range(options.updates):
        others = team.flip(0)
        if gradient != "own":
            rows = drawn(name, options.candidates, source)
            distance = (team - rows).abs().mean(-1).unsqueeze(0)
            steepness = options.steepness if gradient == "data, joint action" else 0.0
            uniform = torch.rand(1, options.batch, generator=source)
            others = rows[draw_rows(priorities(distance, steepness), uniform)[0]].mean(0).flip(0)
        team = (team + options.rate * others).clamp(-1.0, 1.0)  # d(xy)/dx = y and the other way round
    return team


def lines(options: Options) -> pd.DataFrame:
    """One line per data, start, gradient and seed."""
    found: list[tuple[Any, ...]] = []
    for name, x, y in PLACES:
        for gradient in GRADIENTS:
            for seed in options.seeds:
                end = followed(name, (x, y), gradient, seed, options).tolist()
                found.append((name, f"({x:g}, {y:g})", gradient, seed, end[0] * end[1], *end))
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the values as plot."""
    keys = COLUMNS[:3]
    body = []
    groups = []
    for key, part in numbers.groupby(keys, sort=False):
        ends = [f"{part[axis].mean():.2f}" for axis in ("x", "y")]
        body.append([*key, study.over_seeds(part["value"].to_numpy()), *ends])
        groups.append(("\n".join(map(str, key)).replace(", joint", ",\njoint"), part["value"].to_numpy()))
    notes = [
        "Payoff at the end, mean over seeds with its 95 % interval; x and y are the policies' means.",
        f"Made by `{study.command('pjap')}`.",
    ]
    sheet = study.plain_sheet(
        "Policy gradients with the others' logged actions", [*keys, "value", "x", "y"], body, notes
    )
    return study.Study("pjap", sheet, numbers, study.seed_marks(groups), (11.0, 4.5))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
