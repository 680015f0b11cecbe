"""Environment steps per second: our particle world against one environment of mpe2.

    python benchmarks/speed/particle.py [--num-envs 2048] [--rounds 5] [--seconds 1] [--output FILE.csv]

Needs mpe2 beside marlzoo (pip install mpe2). Both sides run in this process on one thread under uniformly random
actions, in alternating rounds so that other load on the machine meets both, and both reset the episodes that end.
One step of E copies counts as E steps. ``ratio`` compares wall-clock rates and ``ratio_cpu`` rates per second of
processor time, on which other load has less influence; both are medians over the rounds. Forces, rewards and
some observations differ (see marlzoo.envs.particle); in mpe2 the prey acts at random too, while ours follows its
rule; and mpe2 has no world without messages, so that ours is set against world_comm, which has two agents more.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import show, write_csv

from marlzoo.envs import particle
from marlzoo.errors import pip_install

# Our task and mpe2's module.
TASKS = (
    ("spread", "simple_spread_v3"),
    ("tag-substitute-prey", "simple_tag_v3"),
    ("world-substitute-prey", "simple_world_comm_v3"),
)
POOL = 16  # random joint actions drawn before the clock starts
COLUMNS = ("task", "num_envs", "ours", "ours_cpu", "mpe2", "mpe2_cpu", "ratio", "ratio_cpu", "mpe2_version")


def ours(name: str, num_envs: int) -> Callable[[], int]:
    """A function that makes one step and says how many environment steps it was."""
    env = particle.make(name, num_envs)
    rng = np.random.default_rng(0)
    pool = rng.uniform(-1, 1, (POOL, num_envs, env.spec.n_agents, 2)).astype(np.float32)
    env.reset()
    turn = 0

    def step() -> int:
        nonlocal turn
        turn += 1
        if env.step(pool[turn % POOL]).truncated[0]:
            env.reset()
        return num_envs

    return step


def theirs(module: str) -> Callable[[], int]:
    """The same for one environment of mpe2, through its parallel interface."""
    options = {"continuous_actions": True, "dynamic_rescaling": False}
    env: Any = importlib.import_module(f"mpe2.{module}").parallel_env(**options)
    env.reset(seed=0)
    pool = [{agent: env.action_space(agent).sample() for agent in env.agents} for _ in range(POOL)]
    turn = 0

    def step() -> int:
        nonlocal turn
        turn += 1
        env.step(pool[turn % POOL])
        if not env.agents:
            env.reset()
        return 1

    return step


def rate(step: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Environment steps per second of wall-clock and of processor time."""
    count = 0
    start = time.perf_counter()
    spent = time.process_time()
    while (passed := time.perf_counter() - start) < seconds:
        count += step()
    return count / passed, count / (time.process_time() - spent)


def measure(name: str, module: str, num_envs: int, rounds: int, seconds: float) -> dict[str, Any]:
    """One row of the table: medians over the rounds."""
    sides = (ours(name, num_envs), theirs(module))
    for step in sides:
        rate(step, seconds / 5)
    pairs = [[rate(step, seconds) for step in sides] for _ in range(rounds)]
    mine, other = ([pair[k] for pair in pairs] for k in (0, 1))

    def ratio(clock: int) -> float:
        return statistics.median(a[clock] / b[clock] for a, b in zip(mine, other, strict=True))

    return {
        "task": f"{particle.FAMILY}/{name}",
        "num_envs": num_envs,
        "ours": round(statistics.median(r[0] for r in mine)),
        "ours_cpu": round(statistics.median(r[1] for r in mine)),
        "mpe2": round(statistics.median(r[0] for r in other)),
        "mpe2_cpu": round(statistics.median(r[1] for r in other)),
        "ratio": round(ratio(0), 1),
        "ratio_cpu": round(ratio(1), 1),
        "mpe2_version": importlib.metadata.version("mpe2"),
    }


def main() -> int:
    """Measure, print the table, write it where asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-envs", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    try:
        importlib.import_module("mpe2")
    except ImportError:
        print(f"mpe2 is not installed; install it with: {pip_install('mpe2')}", file=sys.stderr)
        return 1
    rows = []
    for name, module in TASKS:
        found = measure(name, module, options.num_envs, options.rounds, options.seconds)
        rows.append([found[column] for column in COLUMNS])
    show("Particle world, steps per second", COLUMNS, rows)
    if options.output:
        write_csv(options.output, COLUMNS, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
