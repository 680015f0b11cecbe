"""Train two methods on logged data of a coordination game and compare their returns.

On XOR two agents must choose differently. The data hold both ways to do so, and mistakes. Behavior cloning takes what
each agent does most often, which is the same for both; AlberDICE learns to agree. Takes about a minute.
"""

from __future__ import annotations

import tyro

import marlzoo

TASK = "games/xor"


def main(updates: int = 2000, episodes: int = 50) -> dict[str, float]:
    """Return the mean evaluation return of each method.

    Args:
        updates: gradient steps per method.
        episodes: evaluation episodes.
    """
    data = marlzoo.load_dataset(f"{TASK}/marlzoo/D3")
    print(f"{TASK}: {data.transitions} transitions, mean return {data.card.mean_return:.2f}")

    found = {}
    for method in ("bc", "alberdice"):
        learner = marlzoo.make(method, data.spec, seeds=[0])
        evaluations = marlzoo.train(
            learner,
            data,
            updates=updates,
            env=lambda num_envs: marlzoo.make_env(TASK, num_envs),
            episodes=episodes,
            eval_every=updates,
        )
        found[method] = float(evaluations[-1].episodes.returns.mean())
        print(f"{method}: mean return {found[method]:.2f} after {updates} updates")
    return found


if __name__ == "__main__":
    tyro.cli(main)
