"""Save a trained team, load it elsewhere, and let it act in a loop of your own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro

import marlzoo

TASK = "games/bridge"


def main(updates: int = 2000, checkpoint: Path = Path("bridge.npz")) -> float:
    """Return the return of one episode.

    Args:
        updates: gradient steps before the team is saved.
        checkpoint: file of the team.
    """
    data = marlzoo.load_dataset(f"{TASK}/marlzoo/optimal")
    marlzoo.train(marlzoo.make("alberdice", data.spec), data, updates=updates, checkpoint=checkpoint)

    # From here on only the checkpoint is used.
    policy = marlzoo.load(checkpoint)
    env = marlzoo.make_env(TASK)
    env.seed([0])
    seen, total, done = env.reset(), 0.0, False
    policy.reset(seed=0)
    while not done:
        seen = env.step(policy.act(seen.obs, seen.action_mask))  # obs [E, N, O], actions [E, N]
        total += float(np.mean(seen.reward))
        done = bool(seen.terminal[0] or seen.truncated[0])
    print(f"return of one episode: {total:.2f}")
    return total


if __name__ == "__main__":
    tyro.cli(main)
