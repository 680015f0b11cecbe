"""Turn arrays of your own into a dataset, save it, and train on it.

The arrays below are drawn at random; replace them with yours. Two agents with continuous actions play ten episodes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro

import marlzoo

N_AGENTS, OBS_SIZE, ACTION_SIZE, LENGTH, EPISODES = 2, 4, 1, 20, 10


def main(updates: int = 500, out: Path = Path("mine.hdf5")) -> marlzoo.Dataset:
    """Return the dataset, read back from the file.

    Args:
        updates: gradient steps.
        out: file to write.
    """
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(EPISODES, LENGTH + 1, N_AGENTS, OBS_SIZE))
    obs = seen[:, :-1].reshape(-1, N_AGENTS, OBS_SIZE)  # one row per step, one episode after another
    next_obs = seen[:, 1:].reshape(-1, N_AGENTS, OBS_SIZE)
    steps = len(obs)
    action = rng.uniform(-1, 1, (steps, N_AGENTS, ACTION_SIZE))
    reward = -np.square(action[..., 0] - obs[..., 0].clip(-1, 1)).mean(axis=1)
    last = np.arange(steps) % LENGTH == LENGTH - 1

    made = marlzoo.Dataset.from_steps(
        obs=obs,
        action=action,
        reward=reward,
        terminal=np.zeros(steps, bool),  # the task never ends by itself
        timeout=last,  # the time limit ends every episode
        next_obs=next_obs,
        source="mine",
        quality="random",
    )
    marlzoo.save_dataset(made, out, force=True)
    data = marlzoo.load_dataset(out)
    print(data)

    learner = marlzoo.make("td3_bc", data.spec, hidden=32, batch_size=32)
    marlzoo.train(learner, data, updates=updates)
    return data


if __name__ == "__main__":
    tyro.cli(main)
