"""Numbers that tables set beside ours: published scores, and the returns that normalize a score.

``reference/published.csv``: scores on the published OMIGA datasets as the paper named in each line reports
them (last checkpoint, population standard deviation), made by ``reference/derive.py``.
``reference/returns.csv``: mean return of uniformly random actions, made by
``python -m marlzoo.benchmarks.references TASK ...``, and of the published expert dataset.
"""

from __future__ import annotations

import csv
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

RANDOM_EPISODES = 100


@dataclass(frozen=True)
class Published:
    """A published score: its metric is ``return`` or ``win_rate``."""

    mean: float
    std: float
    seeds: int
    reference: str


def published(task: str, quality: str, method: str, metric: str = "return") -> Published | None:
    """The published score of a method on the published dataset of that task and quality, if there is one."""
    return _published().get((task, quality, plain(method), metric))


def normalized(task: str, value: float) -> float | None:
    """Score with 0 for random actions and 100 for the published expert data; None without a reference."""
    ends = _returns().get(task)
    return None if ends is None else 100.0 * (value - ends[0]) / (ends[1] - ends[0])


def plain(method: str) -> str:
    """A method's name without case, punctuation and the suffix -MA, in which papers and files differ."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"[-_ ]ma$", "", method.lower()))


def random_return(task: str, episodes: int = RANDOM_EPISODES, seed: int = 0) -> float:
    """Mean return of actions drawn uniformly from [-1, 1] (continuous tasks), up to the task's horizon."""
    import numpy as np

    from marlzoo.registry import make_env

    env = make_env(task, episodes)
    env.seed([seed + episode for episode in range(episodes)])
    env.reset()
    random = np.random.default_rng(seed)
    total, alive = np.zeros(episodes), np.ones(episodes, dtype=bool)
    for _ in range(env.spec.horizon):
        shape = (episodes, env.spec.n_agents, env.spec.action_size)
        step = env.step(random.uniform(-1, 1, shape).astype(np.float32), np.flatnonzero(alive))
        total += step.reward
        alive &= ~(step.terminal | step.truncated)
        if not alive.any():
            break
    env.close()
    return float(total.mean())


@cache
def _published() -> dict[tuple[str, str, str, str], Published]:
    return {
        (line["task"], line["quality"], plain(line["method"]), line["metric"]): Published(
            float(line["mean"]), float(line["std"] or "nan"), int(line["seeds"]), line["reference"]
        )
        for line in _read("published.csv")
    }


@cache
def _returns() -> dict[str, tuple[float, float]]:
    return {line["task"]: (float(line["random"]), float(line["expert"])) for line in _read("returns.csv")}


def _read(name: str) -> list[dict[str, str]]:
    text = files(__package__).joinpath("reference", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name},{random_return(name):.1f}")
