"""Environment steps per second: our batched robots against one gymnasium-robotics environment.

    python benchmarks/speed/env.py [--family mamujoco] [--num-envs 160] [--rounds 5] [--seconds 2]

Needs gymnasium-robotics beside marlzoo (pip install gymnasium-robotics imageio). Both sides run in this
process under uniformly random actions, in alternating rounds so that other load on the machine meets both,
and both reset the episodes that end. One step of E copies counts as E steps. Of the family ``mamujoco`` the physics
differ slightly (ours is that of the -v2 tasks), the number of physics steps per environment step does not; those of
``gmamujoco`` are the package's own.

On a machine busy with other work our threads do not get their cores and the ratio of wall-clock rates falls
short of what an idle machine gives. The processor time per step tells both sides' cost without that, and
``ratio_free`` follows from it: threads times their cost over ours, the ratio if each thread had a core.
It is an upper estimate: full caches slow both sides, the interpreted one more. Quote ``ratio_median`` of an
idle machine.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import load_average, write_csv

from marlzoo.errors import pip_install
from marlzoo.families import make_env

# By family: our task, gymnasium-robotics' scenario and partition.
TASKS = {
    "mamujoco": (
        ("halfcheetah-6x1", "HalfCheetah", "6x1"),
        ("hopper-3x1", "Hopper", "3x1"),
        ("ant-2x4", "Ant", "2x4"),
    ),
    "gmamujoco": (
        ("6halfcheetah", "HalfCheetah", "6x1"),
        ("3hopper", "Hopper", "3x1"),
        ("2ant", "Ant", "2x4"),
    ),
}
OUTPUTS = {"mamujoco": Path("results/speed/env.csv"), "gmamujoco": Path("results/speed/gmamujoco.csv")}
POOL = 64  # random joint actions drawn before the clock starts


def ours(task: str, num_envs: int) -> tuple[Callable[[], int], int]:
    """A function that makes one step and says how many environment steps it was; the threads used."""
    env: Any = make_env(task, num_envs)
    spec = env.spec
    rng = np.random.default_rng(0)
    pool = rng.uniform(-1, 1, (POOL, num_envs, spec.n_agents, spec.action_size)).astype(np.float32)
    env.reset()
    turn = 0

    def step() -> int:
        nonlocal turn
        turn += 1
        result = env.step(pool[turn % POOL])
        over = np.flatnonzero(result.terminal | result.truncated)
        if len(over):
            env.reset(over)
        return num_envs

    return step, env.threads


def theirs(scenario: str, partition: str) -> Callable[[], int]:
    """One gymnasium-robotics environment, as :func:`ours`."""
    from gymnasium_robotics import mamujoco_v1 as robotics

    env: Any = robotics.parallel_env(scenario, partition)
    rng = np.random.default_rng(0)
    pool = [
        {
            agent: rng.uniform(-1, 1, env.action_space(agent).shape).astype(np.float32)
            for agent in env.possible_agents
        }
        for _ in range(POOL)
    ]
    env.reset(seed=0)
    turn = 0

    def step() -> int:
        nonlocal turn
        turn += 1
        _, _, terminal, truncated, _ = env.step(pool[turn % POOL])
        if any(terminal.values()) or any(truncated.values()):
            env.reset()
        return 1

    return step


def rate(step: Callable[[], int], seconds: float) -> tuple[float, float]:
    """Environment steps per second over about ``seconds``, and processor time per step in microseconds."""
    done = 0
    start = time.perf_counter()
    busy = time.process_time()
    while (spent := time.perf_counter() - start) < seconds:
        done += step()
    return done / spent, 1e6 * (time.process_time() - busy) / done


def measure(name: str, scenario: str, partition: str, options: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    task = f"{options.family}/{name}"
    mine, threads = ours(task, options.num_envs)
    other = theirs(scenario, partition)
    rate(mine, options.seconds / 4)  # warm up
    rate(other, options.seconds / 4)
    pairs = [(rate(mine, options.seconds), rate(other, options.seconds)) for _ in range(options.rounds)]
    ratios = [a[0] / b[0] for a, b in pairs]
    cost, other_cost = (statistics.median(pair[side][1] for pair in pairs) for side in (0, 1))
    return {
        "task": task,
        "num_envs": options.num_envs,
        "threads": threads,
        "cores": os.cpu_count(),
        "rounds": options.rounds,
        "load_before": round(load_average(), 1),
        "ours_steps_per_s": round(statistics.median(a[0] for a, _ in pairs)),
        "gymnasium_robotics_steps_per_s": round(statistics.median(b[0] for _, b in pairs)),
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_min": round(min(ratios), 2),
        "ours_cpu_us_per_step": round(cost, 1),
        "gymnasium_robotics_cpu_us_per_step": round(other_cost, 1),
        "ratio_free": round(threads * other_cost / cost, 2),
        "mujoco": importlib.metadata.version("mujoco"),
        "gymnasium_robotics": importlib.metadata.version("gymnasium-robotics"),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--family", choices=sorted(TASKS), default="mamujoco")
    parser.add_argument("--num-envs", type=int, default=160)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="length of one measurement")
    parser.add_argument("--output", type=Path, help="default: the family's file in results/speed")
    options = parser.parse_args()
    try:
        importlib.import_module("gymnasium_robotics")
    except ImportError as error:
        print(
            f"The comparison needs another package ({error}): {pip_install('gymnasium-robotics', 'imageio')}",
            file=sys.stderr,
        )
        return 2
    rows = []
    print(
        f"{'task':<26}{'ours':>10}{'g.-robotics':>13}{'ratio':>8}{'min':>7}{'free':>7}   (steps/s, medians)"
    )
    for name, scenario, partition in TASKS[options.family]:
        row = measure(name, scenario, partition, options)
        rows.append(row)
        print(
            f"{row['task']:<26}{row['ours_steps_per_s']:>10}{row['gymnasium_robotics_steps_per_s']:>13}"
            f"{row['ratio_median']:>8}{row['ratio_min']:>7}{row['ratio_free']:>7}",
            flush=True,
        )
    output = options.output or OUTPUTS[options.family]
    write_csv(output, list(rows[0]), [list(row.values()) for row in rows])
    print(f"written to {output}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
