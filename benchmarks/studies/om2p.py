"""OM2P makes an action of noise in one call: what it draws, and what the critic makes of it, on data of two peaks.

    python benchmarks/studies/om2p.py [--seeds 0 1 2]

Half of the data's teams act near (0.6, 0.6), which pays about 0.9, the other half near (-0.6, -0.6), which pays about
0.5. A cloned Gaussian acts at its center, which lies between the peaks, and earns nothing; its samples spread over
both. OM2P without a value (``q_weight`` 0) is the flow alone: each agent draws one of the peaks by itself, so that
half of the teams mix them; ``near`` is the share of sampled actions within 0.25 of a peak, in one call and in ten.
With the value agents move to the better peak together, as their critics learned from data in which the partner had
the same convention.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.baselines.om2p import MeanFlowPolicy
from marlzoo.benchmarks import study
from numpy.typing import NDArray

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.modules.policies import Policy
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

GAME = "two-peaks"
QUALITY = "peaks"
PEAK = 0.6
NEAR = 0.25
SMALL: dict[str, Any] = {"hidden": 64, "lr": 1e-3, "batch_size": 256}
FLOW = {**SMALL, "layers": 3}
# Label: method, settings, and calls of a network per action that are tried.
FORMS: dict[str, tuple[str, dict[str, Any], tuple[int, ...]]] = {
    "BC": ("bc", SMALL, (1,)),
    "OM2P, flow alone": ("om2p", {**FLOW, "q_weight": 0.0}, (1, 10)),
    "OM2P": ("om2p", FLOW, (1, 10)),
}
COLUMNS = ["form", "updates", "calls", "seed", "value", "near", "size", "data"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each
    updates: tuple[int, ...] = (2000, 8000)  # of training, each anew
    episodes: int = 500  # of the evaluation, per replica
    forms: tuple[str, ...] = tuple(FORMS)  # which


@torch.no_grad()
def actions(policy: Policy, options: Options) -> NDArray[np.float64]:
    """Actions ``[R, E * N]`` at the game's only observation."""
    seen = torch.as_tensor(games.make(GAME, options.episodes).reset().obs)
    random = ReplicaRandom(options.seeds, "study")
    policy.reset(options.episodes)
    acted = policy.act(seen.expand(len(options.seeds), *seen.shape), None, random)
    return np.asarray(acted.flatten(1).double())


def lines(options: Options) -> pd.DataFrame:
    """One line per form, number of updates and of calls, and seed."""
    data = game_data.dataset(GAME, QUALITY)
    found: list[tuple[Any, ...]] = []
    for form, updates in product(options.forms, options.updates):
        method, settings, tried = FORMS[form]
        learner: Any = marlzoo.make(method, games.spec(GAME), seeds=options.seeds, **settings)
        train(learner, data, updates=updates, compile="off")
        for calls in tried:
            policy = learner.policy() if calls == 1 else MeanFlowPolicy(learner.actor, calls)
            env = games.make(GAME, len(options.seeds) * options.episodes)
            value = evaluate(policy, env, seeds=list(options.seeds)).returns.mean(1)
            size = np.abs(actions(policy, options))
            near = (np.abs(size - PEAK) <= NEAR).mean(1)
            for r, seed in enumerate(options.seeds):
                numbers = (value[r], near[r], size[r].mean(), float(data.returns.mean()))
                found.append((form, updates, calls, seed, *numbers))
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the values as plot."""
    groups = [
        (str(form), f"{updates:,}", str(calls), part)
        for (form, updates, calls), part in numbers.groupby(["form", "updates", "calls"], sort=False)
    ]
    body = [
        [
            form,
            updates,
            calls,
            *(study.over_seeds(part[column].to_numpy()) for column in ("value", "near", "size")),
        ]
        for form, updates, calls, part in groups
    ]
    notes = [
        f"Mean over seeds with its 95 % interval; the data's value is {numbers['data'].iloc[0]:.3f}. near: share of "
        "sampled actions within 0.25 of a peak; size: their mean size, 0.6 in the data. BC plays its center.",
        f"Made by `{study.command('om2p')}`.",
    ]
    draw = study.seed_marks(
        [
            (f"{form}\n{updates} updates\ncalls: {calls}", part["value"].to_numpy())
            for form, updates, calls, part in groups
        ]
    )
    header = ["", "updates", "calls", "value", "near", "size"]
    return study.Study(
        "om2p",
        study.plain_sheet("One call of a mean velocity on data of two peaks", header, body, notes),
        numbers,
        draw,
    )


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
