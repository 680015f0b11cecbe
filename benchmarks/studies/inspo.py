"""InSPO finds the best equilibrium if its entropy's weight starts high, and agrees with AlberDICE on Bridge.

    python benchmarks/studies/inspo.py [--games equilibria] [--seeds 0 1 2 3 4 5 6 7 8 9]

In the game with three equilibria (5, 10 and 20; agents that disagree lose 20) 90 % of the data lie on the worst. A
policy that answers a team mate who plays it loses 25 by leaving it, so coordinate-wise improvement stays, unless the
entropy's weight beta first drives both towards all actions of the data: annealed from 20 to 0, the agents meet at the
best equilibrium. Learned, that takes annealing that the critics can follow: over 800 updates one of ten seeds falls
back, because beta passes from 5 to 0 in 200 of them, in which one policy turns to the best action before the other
does; over 3,200 none does. ``exact``
is the value that the closed form reaches in the same game without any learning: sweeps over the agents, pi_i
proportional to exp(E_{pi_j}[r + alpha log mu] / (alpha + beta)), mu floored at 1e-4. On XOR's
data D3 the pair (B, B), which the data lack, is what value decomposition plays; there it loses 2.

On Bridge, where both must leave the one-cell corridor to the same side, policies are evaluated by sampling; the best
return is -1.2355, the data's is -1.262. Replicas are seeds and settings of one run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.benchmarks import study
from numpy.typing import NDArray

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.modules.layers import with_agent_id
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import train

Floats = NDArray[np.float64]
SUPPORT = 1e-4  # mu of pairs that the data lack; nothing is known of their reward, which is taken for 0
SMALL = {"hidden": 32, "lr": 3e-3, "tau": 0.05, "pretrain": 200}
ON_MATRICES: dict[str, Any] = {**SMALL, "batch_size": 256}
COLUMNS = ["game", "data", "method", "alpha", "beta", "anneal", "seed", "value", "exact"]


@dataclass(frozen=True)
class MethodForm:
    """One setting of a method on one dataset."""

    game: str
    quality: str
    method: str = "inspo"
    alpha: tuple[float, float] = (1.0, 1.0)  # at the start and at the end
    beta: tuple[float, float] = (0.0, 0.0)
    anneal: int = 800  # updates from the start's alpha and beta to the end's
    updates: int = 1300


FORMS = (
    MethodForm("equilibria", "imbalanced"),
    MethodForm("equilibria", "imbalanced", beta=(20.0, 0.0)),
    MethodForm("equilibria", "imbalanced", beta=(20.0, 0.0), anneal=3200, updates=4000),
    MethodForm("xor", "D2", alpha=(1.0, 0.1)),
    MethodForm("xor", "D3", alpha=(1.0, 0.1)),
    MethodForm("bridge", "optimal", alpha=(1.0, 0.1), beta=(0.1, 0.0), anneal=3000, updates=4000),
    MethodForm("bridge", "optimal", "alberdice", alpha=(0.2, 0.05), anneal=3500, updates=4000),
)


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = tuple(range(10))  # one replica each
    games: tuple[str, ...] = ("equilibria", "xor", "bridge")  # which
    episodes: int = 200  # per replica on Bridge


def exact(form: MethodForm, sweeps: int = 200, tie: float = 0.02) -> float:
    """Value of the closed form after so many sweeps on a one-step game of two agents; nan on Bridge."""
    if form.game == "bridge":
        return float("nan")
    return [value for value, _ in closed_form(form, sweeps, tie)][-1]


def closed_form(
    form: MethodForm, sweeps: int, tie: float, in_turn: bool = True
) -> Iterator[tuple[float, float]]:
    """Value and J of the present weights after each sweep, which begin at the marginals.

    ``tie`` moves the policies away from the marginals, which on D2 are a fixed point. Unless ``in_turn`` the second
    one answers what the first one was before the sweep.
    """
    table = np.array(games.payoffs(form.game), np.float64)
    data = game_data.dataset(form.game, form.quality)
    pairs = np.zeros_like(table)
    np.add.at(pairs, tuple(data.action[data.sources].T), 1.0 / len(data.sources))
    gain = np.where(pairs > 0, table, 0.0)
    log_mu = np.log(np.maximum(pairs, SUPPORT))
    tilt = np.exp([tie, *[0.0] * (len(table) - 1)])  # ties break
    policies = [p * tilt / (p @ tilt) for p in (pairs.sum(1), pairs.sum(0))]
    for k in range(sweeps):
        share = min(k / (0.75 * sweeps), 1.0)
        alpha = form.alpha[0] * (form.alpha[1] / form.alpha[0]) ** share
        beta = (1.0 - share) * form.beta[0] + share * form.beta[1]
        joint = (gain + alpha * log_mu) / (alpha + beta)
        before = policies[0]
        policies[0] = softmax(joint @ policies[1])
        policies[1] = softmax((policies[0] if in_turn else before) @ joint)
        entropy = -sum(float(p @ np.log(np.maximum(p, np.finfo(np.float64).tiny))) for p in policies)
        objective = (alpha + beta) * (float(policies[0] @ joint @ policies[1]) + entropy)
        yield float(policies[0] @ table @ policies[1]), objective


def softmax(x: Floats) -> Floats:
    """Probabilities."""
    e = np.exp(x - x.max())
    return np.asarray(e / e.sum())


def settings(form: MethodForm) -> dict[str, Any]:
    """Of the learner."""
    if form.game == "bridge":
        return {"preset": "games", "anneal": form.anneal}
    pairs = {"alpha": form.alpha, "beta": form.beta}
    return {
        **ON_MATRICES,
        "anneal": form.anneal,
        **{f"{name}{end}": v[k] for name, v in pairs.items() for k, end in ((0, ""), (1, "_end"))},
    }


def values(form: MethodForm, options: Options) -> Floats:
    """What the trained policies reach, one value per seed."""
    learner: Any = marlzoo.make(form.method, games.spec(form.game), seeds=options.seeds, **settings(form))
    train(learner, game_data.dataset(form.game, form.quality), updates=form.updates, compile="off")
    policy = learner.policy()
    if form.game == "bridge":
        env = games.make("bridge", len(options.seeds) * options.episodes)
        return np.asarray(evaluate(policy, env, seeds=list(options.seeds)).returns.mean(1))
    seen = with_agent_id(torch.ones(learner.replicas, 1, 2, 1))
    pi = torch.softmax(policy.scores(seen)[:, 0], -1).detach().double().numpy()
    table = np.array(games.payoffs(form.game), np.float64)
    return np.asarray(np.einsum("ri,rj,ij->r", pi[:, 0], pi[:, 1], table))


def lines(options: Options) -> pd.DataFrame:
    """One line per form and seed."""
    found = []
    for form in FORMS:
        if form.game not in options.games:
            continue
        schedules = [f"{start:g} to {end:g}" for start, end in (form.alpha, form.beta)]
        for seed, value in zip(options.seeds, values(form, options), strict=True):
            found.append(
                (form.game, form.quality, form.method, *schedules, form.anneal, seed, value, exact(form))
            )
    return pd.DataFrame(found, columns=COLUMNS)


def report(numbers: pd.DataFrame) -> study.Study:
    """The table over seeds, the values as plot."""
    keys = COLUMNS[:6]
    body = []
    groups = []
    for key, part in numbers.groupby(keys, sort=False):
        reached = part["value"].to_numpy()
        known = part["exact"].iloc[0]
        body.append([*map(str, key), study.over_seeds(reached), "" if np.isnan(known) else f"{known:.3f}"])
        groups.append((" ".join(map(str, key[:3])) + f"\nbeta {key[4]} ({key[5]})", reached))
    notes = [
        "Mean value over seeds with its 95 % interval; exact is the closed form's value without learning.",
        f"Made by `{study.command('inspo')}`.",
    ]

    header = [*keys, "value", "exact"]
    sheet = study.plain_sheet("InSPO on games with several equilibria", header, body, notes)
    return study.Study("inspo", sheet, numbers, study.seed_marks(groups))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    study.write_study(report(lines(options)), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
