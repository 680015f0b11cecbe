"""Sweep a setting in one run: five values of OMIGA's alpha, two seeds each, as ten replicas of one learner."""

from __future__ import annotations

import numpy as np
import tyro

import marlzoo

TASK = "games/bridge"
ALPHAS = (0.03, 0.1, 0.3, 1.0, 10.0)
SEEDS = (0, 1)


def main(updates: int = 2000, episodes: int = 20) -> dict[float, float]:
    """Return the mean evaluation return of each value.

    Args:
        updates: gradient steps of every replica.
        episodes: evaluation episodes per replica.
    """
    data = marlzoo.load_dataset(f"{TASK}/marlzoo/optimal")
    pairs = [(alpha, seed) for alpha in ALPHAS for seed in SEEDS]
    learner = marlzoo.make(
        "omiga",
        data.spec,
        seeds=[seed for _, seed in pairs],
        alpha=[alpha for alpha, _ in pairs],  # a float setting takes one value per replica
        hidden=64,  # other settings are shared
    )
    evaluations = marlzoo.train(
        learner,
        data,
        updates=updates,
        env=lambda num_envs: marlzoo.make_env(TASK, num_envs),
        episodes=episodes,
        eval_every=updates,
    )
    returns = evaluations[-1].episodes.returns.mean(axis=1)  # [R]

    found = {}
    for alpha in ALPHAS:
        of_alpha = [value for (a, _), value in zip(pairs, returns, strict=True) if a == alpha]
        found[alpha] = float(np.mean(of_alpha))
        print(f"alpha {alpha:>5}: mean return {found[alpha]:.2f}")
    return found


if __name__ == "__main__":
    tyro.cli(main)
