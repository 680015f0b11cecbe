"""Reference numbers for tables: published scores, and the returns that normalize a score.

``reference/published.csv``: scores on the published OMIGA datasets as the paper named in each line reports
them (last checkpoint, population standard deviation), made by ``reference/derive.py``.
``reference/returns.csv``: mean return of uniformly random actions, made by
``python -m marlzoo.benchmarks.references TASK ...``, and of the published expert dataset. Tasks without the latter
are normalized by what their family knows in advance (``known_returns(name)`` in its module: random actions and the
best ones), else by the returns of the shipped behavior policy that made the data: the expert (or good) one's, and
those of the random one where the file does not say what random actions bring.
"""

from __future__ import annotations

import csv
import math
import re
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from marlzoo.errors import PluginError

RANDOM_EPISODES = 100


@dataclass(frozen=True)
class Published:
    """A published score: its metric is ``return`` or ``win_rate``."""

    mean: float
    std: float
    seeds: int
    reference: str


def published_result(task: str, quality: str, method: str, metric: str = "return") -> Published | None:
    """The published score of a method on the published dataset of that task and quality, if there is one."""
    return _published().get((task, quality, bare_name(method), metric))


@dataclass(frozen=True)
class Ends:
    """The returns that are 0 and 100 on a task's normalized scale, and where the second is from."""

    random: float
    expert: float
    source: str


def ends(task: str, quality: str = "", source: str = "marlzoo") -> Ends | None:
    """Returns that normalize scores: listed, known, or of a behavior policy of the task; None if there are none.

    Args:
        task: full task name.
        quality: of the data that were learned from; marlzoo's ``expert-v2`` is of the task's second behavior policy.
        source: of these data.
    """
    from marlzoo.teachers.offers import version_of

    return _ends(task, version_of(quality, source))


def normalized_score(task: str, value: float, quality: str = "", source: str = "marlzoo") -> float | None:
    """Score with 0 for random actions and 100 for the expert reference of :func:`ends`; None without one."""
    found = ends(task, quality, source)
    return None if found is None else 100.0 * (value - found.random) / (found.expert - found.random)


def bare_name(method: str) -> str:
    """A method's name without case, punctuation and the suffix -MA, in which papers and files differ."""
    return re.sub(r"[^a-z0-9]", "", re.sub(r"[-_ ]ma$", "", method.lower()))


def random_return(task: str, episodes: int = RANDOM_EPISODES, seed: int = 0) -> float:
    """Mean return of random actions up to the task's horizon: uniform in [-1, 1], or over the allowed actions."""
    import numpy as np

    from marlzoo.envs.episodes import Play
    from marlzoo.families import make_env

    env = make_env(task, episodes)
    env.seed([seed + episode for episode in range(episodes)])
    play = Play(env)
    rng = np.random.default_rng(seed)
    shape = (episodes, env.spec.n_agents, env.spec.action_size)
    while play.live.size and play.time < env.spec.horizon:
        draw = rng.uniform(-1, 1, shape)
        if env.spec.discrete:  # the largest of equally distributed numbers is a uniform choice
            allowed = True if play.seen.action_mask is None else play.seen.action_mask
            play.step(np.where(allowed, draw, -2.0).argmax(-1))
        else:
            play.step(draw.astype(np.float32))
    env.close()
    return float(play.returns.mean())


@cache
def _published() -> dict[tuple[str, str, str, str], Published]:
    return {
        (line["task"], line["quality"], bare_name(line["method"]), line["metric"]): Published(
            float(line["mean"]), float(line["std"] or "nan"), int(line["seeds"]), line["reference"]
        )
        for line in _read("published.csv")
    }


@cache
def _returns() -> dict[str, Ends]:
    return {
        line["task"]: Ends(float(line["random"]), float(line["expert"]), line["expert_source"])
        for line in _read("returns.csv")
        if line["expert"]
    }


@cache
def _random() -> dict[str, float]:
    return {line["task"]: float(line["random"]) for line in _read("returns.csv")}


def _known(task: str) -> Ends | None:
    from marlzoo.families import Task, foreign_code, task_families

    found = Task.parse(task)
    if not found.exists:  # rows may be of a family, or a task, that is not installed here
        return None
    with foreign_code(found.family, f"{task}: known_returns({found.name!r})"):
        known = getattr(found.module, "known_returns", lambda name: None)(found.name)
    if known is None:
        return None
    try:
        random, best = map(float, known)
    except (TypeError, ValueError):
        random = best = math.nan
    if not (math.isfinite(random) and math.isfinite(best)) or random == best:
        raise PluginError(
            f"{task}: known_returns({found.name!r}) returned {known!r:.80}; let {task_families()[found.family]} "
            "return two different finite numbers, what random actions bring and the best return, or None"
        )
    return Ends(random, best, "known optimum")


@cache
def _ends(task: str, version: int) -> Ends | None:
    return _returns().get(task) or _known(task) or _taught(task, version)


def _taught(task: str, version: int) -> Ends | None:
    from marlzoo.teachers.store import behavior_policy_names, load_behavior_policy, versioned_name

    there = behavior_policy_names()
    name = next((name for name in (versioned_name(task, version), task) if name in there), None)
    if name is None:
        return None
    behavior = load_behavior_policy(name)
    stages = {name: behavior.snapshots[rows[-1]].mean_return for name, rows in behavior.qualities.items()}
    expert = stages.get("expert", stages.get("good"))
    random = stages.get("random", _random().get(task))
    if expert is None or random is None:
        return None
    return Ends(random, expert, "marlzoo's behavior policy")


def _read(name: str) -> list[dict[str, str]]:
    text = files(__package__).joinpath("reference", name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print(f"{name},{random_return(name):.5g}")
