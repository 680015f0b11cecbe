"""Turn arrays of your own into a dataset, save it, and train on it.

The arrays below are drawn at random; replace them with yours. Two agents with continuous actions, ten episodes of
different lengths. An episode of L steps has L + 1 rows, and its last row holds only the final observation.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tyro

import marlzoo
from marlzoo.data.card import Card
from marlzoo.data.formats.native import write_omiga

N_AGENTS, OBS_SIZE, ACTION_SIZE, HORIZON = 2, 4, 1, 20


def main(updates: int = 500, out: Path = Path("mine.hdf5")) -> marlzoo.Dataset:
    """Return the dataset, read back from the file.

    Args:
        updates: gradient steps.
        out: file to write.
    """
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, HORIZON + 1, 10)
    starts = np.append(0, np.cumsum(lengths + 1)[:-1])  # first row of every episode
    rows = int((lengths + 1).sum())

    obs = rng.normal(size=(rows, N_AGENTS, OBS_SIZE))
    action = rng.uniform(-1, 1, (rows, N_AGENTS, ACTION_SIZE))
    reward = -np.square(action[..., 0] - obs[..., 0].clip(-1, 1)).mean(axis=1)

    # Flags belong to the last step of an episode: the row before its final one.
    last_steps = starts + lengths - 1
    terminal, truncated = np.zeros(rows, bool), np.zeros(rows, bool)
    terminal[last_steps[lengths < HORIZON]] = True
    truncated[last_steps[lengths == HORIZON]] = True

    data = marlzoo.Dataset.create(
        marlzoo.Spec(N_AGENTS, OBS_SIZE, N_AGENTS * OBS_SIZE, "continuous", ACTION_SIZE, HORIZON),
        obs=obs,
        action=action,
        reward=reward,
        terminal=terminal,
        truncated=truncated,
        starts=starts,
        card=Card(source="mine", quality="random"),
    )
    write_omiga(data, out)
    data = marlzoo.load_dataset(out)
    print(f"{out}: {data.episodes} episodes, {data.transitions} transitions")

    learner = marlzoo.make("td3_bc", data.spec, hidden=32, batch_size=32)
    marlzoo.train(learner, data, updates=updates, on_progress=lambda done, metrics: print(done, "updates"))
    return data


if __name__ == "__main__":
    tyro.cli(main)
