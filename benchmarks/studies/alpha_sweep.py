"""OMIGA's alpha from small to large moves from in-sample greedy to behavior cloning.

    python benchmarks/studies/alpha_sweep.py [--task mamujoco/hopper-3x1 --quality medium | --file DATA]

All values of alpha and all seeds are replicas of one run. Without arguments: two one-step games with their logged
data. There the local values are the least-squares fit r ~ sum_i f_i(a_i) over the data, so that the prediction is
pi_i(a) ~ mu_i(a) exp(f_i(a) / alpha): mu_i (cloning) for a large alpha, the best action in the data for a small one.
In the additive game that is the optimum; in XOR with the data D3 it is each agent's best guess and the worst pair.
With a task or a file: returns on logged data, and how far the policy is from behavior cloning.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.sources import Source
from marlzoo.benchmarks.walks import Training, distance, learn
from numpy.typing import NDArray

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.envs.games import payoffs
from marlzoo.modules.policies import Policy

Floats = NDArray[np.float64]
GAMES = {"additive": "uniform", "xor": "D3"}
SMALL = Training(updates=2000, hidden=16, mixer_hidden=8, batch_size=64, lr=2e-3)
ROWS = 1000  # observations of logged data on which policies are compared


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)  # one replica each per alpha
    alphas: tuple[float, ...] = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 20.0, 100.0)  # all in one run
    z_clip: str = "linear"  # hard: the authors', which can lose actions when alpha is small
    training: Training = SMALL
    logged: Annotated[study.Logged, tyro.conf.arg(name="")] = study.Logged()  # noqa: RUF009


def fit(data: Dataset) -> tuple[Floats, Floats]:
    """Of a one-step game's data: the behavior mu ``[N, A]`` and the additive fit f ``[N, A]`` of the reward."""
    joint = data.action[data.sources]
    reward = data.reward[data.sources].astype(np.float64)
    chosen = np.eye(data.spec.action_size)[joint]
    f = np.linalg.lstsq(chosen.reshape(len(joint), -1), reward)[0]
    return chosen.mean(0), f.reshape(data.spec.n_agents, -1)


def predicted(mu: Floats, f: Floats, alpha: float) -> Floats:
    """pi ``[N, A]``: the behavior, exponentially weighted."""
    weight = mu * np.exp((f - f.max(-1, keepdims=True)) / alpha)
    policy: Floats = weight / weight.sum(-1, keepdims=True)
    return policy


def greedy(mu: Floats, f: Floats) -> Floats:
    """The limit for alpha to 0, ``[N, A]``: the best action that the data hold."""
    best: Floats = np.eye(mu.shape[-1])[np.where(mu > 0, f, -np.inf).argmax(-1)]
    return best


def expected(game: str, policy: Floats) -> Floats:
    """Expected return of two agents' independent policies, ``[..., 2, A] -> [...]``."""
    value: Floats = np.einsum(
        "...a,...b,ab->...", policy[..., 0, :], policy[..., 1, :], np.array(payoffs(game))
    )
    return value


def on_game(options: Options, game: str, quality: str) -> pd.DataFrame:
    """One line per alpha and seed."""
    data = marlzoo.load_dataset(f"games/{game}/marlzoo/{quality}")
    every = study.replicas(options.seeds, alpha=options.alphas)
    (mu, f) = fit(data)
    found = learn(data.spec, [data], options.training, z_clip=options.z_clip, **every)[:, :, 0]
    lines = []
    for alpha, seed, policy in zip(every["alpha"], every["seeds"], found, strict=True):
        exact = predicted(mu, f, alpha)
        moved = [distance(policy, other).mean() for other in (exact, greedy(mu, f), mu)]
        lines.append((game, quality, alpha, seed, *moved, expected(game, policy), expected(game, exact)))
    names = [
        "game",
        "data",
        "alpha",
        "seed",
        "to_prediction",
        "to_greedy",
        "to_behavior",
        "return",
        "predicted",
    ]
    return pd.DataFrame(lines, columns=names)


def of_games(options: Options) -> study.Study:
    """The sweep on the games."""
    lines = pd.concat([on_game(options, game, quality) for game, quality in GAMES.items()])
    header = ["game, alpha", "to greedy", "to behavior", "to prediction", "return", "predicted return"]
    body = []
    for (game, alpha), part in lines.groupby(["game", "alpha"], sort=False):
        near = [study.over_seeds(part[f"to_{x}"].to_numpy()) for x in ("greedy", "behavior", "prediction")]
        returns = [study.over_seeds(part["return"].to_numpy()), f"{part['predicted'].iloc[0]:.3f}"]
        body.append([f"{game}, {alpha:g}", *near, *returns])
    notes = [
        "Total-variation distances, averaged over agents, to the best actions in the data (in-sample greedy), to the "
        "behavior (cloning) and to the predicted mu exp(f / alpha); expected return of the sampled policies. Mean "
        f"and 95 % bootstrap interval over {len(options.seeds)} seeds, {options.training.updates} updates, z_clip = "
        f"{options.z_clip}.",
        f"Made by `{study.command('alpha_sweep')}`.",
    ]

    def draw(figure: Any) -> None:
        axes = figure.subplots(2, len(GAMES), sharex=True, squeeze=False)
        for game, (near, earned) in zip(GAMES, axes.T, strict=True):
            parts = [lines[(lines["game"] == game) & (lines["alpha"] == alpha)] for alpha in options.alphas]
            for label in ("greedy", "behavior"):
                samples = [part[f"to_{label}"].to_numpy() for part in parts]
                study.curve(near, options.alphas, samples, f"to {label}")
            study.curve(earned, options.alphas, [part["return"].to_numpy() for part in parts], "learned")
            earned.plot(
                options.alphas, [part["predicted"].iloc[0] for part in parts], "k--", label="predicted"
            )
            near.set(title=f"{game} {GAMES[game]}", xscale="log", ylabel="distance")
            earned.set(xlabel="alpha", ylabel="expected return")
            near.legend(fontsize="small")
            earned.legend(fontsize="small")

    sheet = study.plain_sheet("From in-sample greedy to cloning", header, body, notes)
    return study.Study("alpha_sweep", sheet, lines, draw, (9, 6))


def actions(
    policy: Policy, obs: torch.Tensor, action_mask: torch.Tensor | None, replicas: int
) -> torch.Tensor:
    """What the policies do when evaluated, on the same observations ``[E, N, O]``: ``[R, E, N, ...]``."""
    policy.reset(len(obs))
    everywhere = None if action_mask is None else action_mask.expand(replicas, *action_mask.shape)
    with torch.no_grad():
        return policy.act(obs.expand(replicas, *obs.shape), everywhere)


def on_logged_data(options: Options, source: Source, data: Dataset) -> tuple[pd.DataFrame, Floats]:
    """One line per alpha and seed; the returns of behavior cloning ``[seeds]``."""
    every = study.replicas(options.seeds, alpha=options.alphas)
    seeds = len(options.seeds)
    cloned, reference = options.logged.train("bc", source, data, seeds=options.seeds)
    learner, returns = options.logged.train("omiga", source, data, z_clip=options.z_clip, **every)
    rows = data.sources[np.linspace(0, len(data.sources) - 1, ROWS).astype(int)]
    obs = torch.from_numpy(data.obs[rows])
    action_mask = None if data.action_mask is None else torch.from_numpy(data.action_mask[rows])
    mine = actions(learner.policy(), obs, action_mask, learner.replicas)
    theirs = actions(cloned.policy(), obs, action_mask, seeds).repeat(
        len(options.alphas), *(1,) * (mine.ndim - 1)
    )
    gap = (mine != theirs).double() if data.spec.discrete else (mine - theirs).abs()
    lines = zip(every["alpha"], every["seeds"], gap.flatten(1).mean(1).tolist(), returns, strict=True)
    return pd.DataFrame(lines, columns=["alpha", "seed", "to_cloning", "return"]), reference


def of_logged_data(options: Options) -> study.Study:
    """The sweep on logged data."""
    source, data = options.logged.load(options.out)
    lines, reference = on_logged_data(options, source, data)
    parts = [lines[lines["alpha"] == alpha] for alpha in options.alphas]
    gaps, returns = ([part[name].to_numpy() for part in parts] for name in ("to_cloning", "return"))
    body = [
        [f"{alpha:g}", study.over_seeds(gap), study.over_seeds(earned, 1)]
        for alpha, gap, earned in zip(options.alphas, gaps, returns, strict=True)
    ]
    body.append(["cloning", "0", study.over_seeds(reference, 1)])
    what = "share of actions that differ" if data.spec.discrete else "mean distance of actions"
    notes = [
        f"{what.capitalize()} from those of behavior cloning with the same seed, on {ROWS} observations of the "
        f"data. Mean and 95 % bootstrap interval over {len(options.seeds)} seeds, z_clip = {options.z_clip}. "
        f"{options.logged.describe(source, data)}",
        f"Made by `{study.command('alpha_sweep')}`.",
    ]

    def draw(figure: Any) -> None:
        near, earned = figure.subplots(1, 2)
        study.curve(near, options.alphas, gaps, "OMIGA")
        study.curve(earned, options.alphas, returns, "OMIGA")
        earned.axhline(reference.mean(), color="k", ls="--", label="cloning")
        earned.axhline(source.behavior, color="gray", ls=":", label="data")
        near.set(xscale="log", xlabel="alpha", ylabel=f"{what} from cloning")
        earned.set(xscale="log", xlabel="alpha", ylabel="return")
        earned.legend(fontsize="small")

    header = ["alpha", "distance to cloning", "return"]
    sheet = study.plain_sheet(f"Alpha on {source.task} {source.quality}", header, body, notes)
    return study.Study(study.place("alpha_sweep", source), sheet, lines, draw, (9, 4))


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    made = of_logged_data(options) if options.logged.given else of_games(options)
    study.write_study(made, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
