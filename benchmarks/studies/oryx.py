"""Acting in turn keeps conventions, memory keeps what was shown once, weights prefer success: Oryx and MADT.

    python benchmarks/studies/oryx.py [--seeds 0 1 2]

Data of modes-4 and modes-8 hold "all 0" and "all 1", worth 1 if all agents agree; policies that choose at the same
time agree with probability 2^(1-n) (``cloning``). T-Maze's experts choose the colors (0, 1) or (1, 0) in the first
step. Each agent sees only in the second one where its color lies; both get 1 when they stand on their colors at the
same time. Oryx is trained as it is and without one of its parts: acting in turn (``at once``) and memory (``no
memory``; MADT: a context of one step). Policies sample. MADT's ``joint`` form puts the agents of a step into one
sequence; otherwise its agents act alone. The usual experts (``expert``) walk to the column on their color's side at
once, so that the position tells later what was shown, and a policy that imitates them loses little without memory.
The other ones (``late``) stay in their columns until the end of the stem: nothing but memory tells there where to go,
and a guess is right in one of two episodes. Of ``mix`` half of the episodes are the usual experts' and the others
random; there Oryx is trained with its weights and with equal ones (``no weights``).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from numpy.typing import NDArray

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

# Game, data, and the value of the product of the marginals where it is known.
TASKS = (
    ("modes-4", "modes", 0.125),
    ("modes-8", "modes", 2.0**-7),
    ("t-maze", "expert", np.nan),
    ("t-maze", "late", np.nan),
    ("t-maze", "mix", np.nan),
)
# Enough to tell two kinds of data apart; T-Maze is longer, and weights need values first.
UPDATES = {"modes": 100, "expert": 300, "late": 300, "mix": 1500}
ORYX: dict[str, Any] = {"hidden": 32, "lr": 2e-3, "policy_temperature": 1.0, "batch_size": 32}
MADT: dict[str, Any] = {"hidden": 32, "layers": 1, "lr": 2e-3, "batch_size": 32}
WEIGHTED: dict[str, Any] = {**ORYX, "policy_temperature": 0.1, "tau": 0.02}
Forms = tuple[tuple[str, str, dict[str, Any]], ...]  # method, name, settings
TURNS: Forms = (
    ("oryx", "in turn", ORYX),
    ("oryx", "at once", {**ORYX, "autoregressive": False}),
    ("madt", "in turn", {**MADT, "joint": True}),
    ("madt", "at once", MADT),
)
MEMORY: Forms = (
    *TURNS,
    ("oryx", "no memory", {**ORYX, "decay_scaling": 0.0}),
    ("madt", "no memory", {**MADT, "joint": True, "sequence_length": 1}),
)
WEIGHTS: Forms = (
    ("oryx", "in turn", WEIGHTED),
    ("oryx", "no weights", {**WEIGHTED, "policy_temperature": 1e6}),
)
FORMS = {"modes": TURNS, "expert": MEMORY, "late": MEMORY, "mix": WEIGHTS}  # by data
COLUMNS = ["game", "data", "method", "form", "execution", "seed", "value", "cloning"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each
    episodes: int = 500  # of the evaluation, per replica
    games: tuple[str, ...] = ("modes-4", "modes-8", "t-maze")  # which
    updates: dict[str, int] = field(default_factory=lambda: dict(UPDATES))  # of training, by data


def lines(options: Options) -> pd.DataFrame:
    """One line per game, form and seed."""
    found: list[tuple[Any, ...]] = []
    for game, quality, cloning in TASKS:
        if game not in options.games:
            continue
        data = game_data.dataset(game, quality)
        for method, form, settings in FORMS[quality]:
            learner: Any = marlzoo.make(
                method, games.spec(game), seeds=options.seeds, eval_mode="sample", **settings
            )
            train(learner, data, updates=options.updates[quality], compile="off")
            policy = learner.policy()
            env = games.make(game, len(options.seeds) * options.episodes)
            reached = evaluate(policy, env, seeds=list(options.seeds)).returns.mean(1)
            about = (game, quality, method, form, policy.execution)
            found += [(*about, s, v, cloning) for s, v in zip(options.seeds, reached, strict=True)]
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the values as plot."""
    keys = COLUMNS[:5]
    body = []
    groups: list[tuple[str, NDArray[np.float64]]] = []
    for key, part in numbers.groupby(keys, sort=False):
        values = part["value"].to_numpy()
        cloning = part["cloning"].iloc[0]
        body.append([*map(str, key), study.over_seeds(values), "" if np.isnan(cloning) else f"{cloning:.3f}"])
        groups.append((f"{key[0]}\n{key[1]}\n{key[2]}\n{key[3]}", values))
    notes = [
        "Mean value of sampled actions over seeds with its 95 % interval.",
        f"Made by `{study.command('oryx')}`.",
    ]

    sheet = study.plain_sheet("Acting in turn and memory", [*keys, "value", "cloning"], body, notes)
    return study.Study("oryx", sheet, numbers, study.seed_marks(groups), size=(12.5, 4.5))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
