"""Seed-updates per second of training, and where the time goes.

    python benchmarks/speed/train.py [--method omiga|all] [--task mamujoco/halfcheetah-6x1] [--replicas 1 2 4 8]

Trains on random numbers of the task's shape, so it needs no dataset; the default task has the sizes of OMIGA's
HalfCheetah-6x1 (6 agents, observation 23, hidden 256, mixer 64, batch 128). One update of R replicas counts as R
seed-updates. Rounds alternate between the numbers of replicas, so that other load meets all; medians are printed.
With ``--method all`` every offline method is measured at R = ``--replicas[0]``, relative to the first one of them
that is named in ``--relative-to``. Evaluation is timed for one episode per replica and expressed as its share at
the protocol of one evaluation of ten 1000-step episodes per 5000 updates.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from measuring import clocked, random_dataset, show, write_csv

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler
from marlzoo.evaluate import evaluate
from marlzoo.registry import find_method, make_env, method_names, task_spec
from marlzoo.train import make_sampler

EPISODES, STEPS, UPDATES = 10, 1000, 5000  # OMIGA's evaluation protocol


@dataclass(frozen=True)
class Options:
    """What to measure."""

    method: str = "omiga"  # a method, or "all"
    task: str = "mamujoco/halfcheetah-6x1"  # gives the sizes
    replicas: tuple[int, ...] = (1, 2, 4, 8)  # numbers of replicas R
    relative_to: str = "omiga"  # the method that others are compared with
    threads: int = 0  # of torch; 0: one per core
    rounds: int = 5  # alternating rounds
    seconds: float = 2.0  # per measurement
    rows: int = 100_000  # of the random dataset
    output: Path = field(default_factory=lambda: Path("results/speed/train.csv"))  # table as CSV


@dataclass
class Case:
    """One learner with its sampler, and its measurements in seconds per update."""

    method: str
    replicas: int
    algorithm: Algorithm
    sampler: Sampler
    sampling: list[float] = field(default_factory=list)
    updating: list[float] = field(default_factory=list)
    evaluation: float = float("nan")

    @property
    def seconds(self) -> float:
        """Median seconds of sampling and update together."""
        return statistics.median(a + b for a, b in zip(self.sampling, self.updating, strict=True))

    @property
    def rate(self) -> float:
        """Seed-updates per second."""
        return self.replicas / self.seconds


def measure(case: Case, seconds: float) -> None:
    """Updates for about ``seconds``; keeps the mean of this round."""
    sampling = updating = 0.0
    updates = 0
    while sampling + updating < seconds:
        batch = None

        def sample() -> None:
            nonlocal batch
            batch = case.sampler.next()

        sampling += clocked(sample, case.algorithm.device)
        updating += clocked(lambda: case.algorithm.update(batch), case.algorithm.device)  # type: ignore[arg-type]  # noqa: B023
        updates += 1
    case.sampling.append(sampling / updates)
    case.updating.append(updating / updates)


def evaluation_seconds(case: Case, task: str, steps: int = 100) -> float:
    """Seconds of one evaluation of the protocol, from ``steps`` steps of all its episodes."""
    env = make_env(task, case.replicas * EPISODES)
    policy = case.algorithm.policy()
    evaluate(policy, env, seeds=case.algorithm.seeds, horizon=3)
    spent: float = clocked(
        lambda: evaluate(policy, env, seeds=case.algorithm.seeds, horizon=steps), case.algorithm.device
    )
    env.close()
    return spent * STEPS / steps


def build(method: str, replicas: int, data: Dataset) -> Case:
    """A learner at its defaults with a warm sampler."""
    algorithm = marlzoo.make(method, data.spec, seeds=list(range(replicas)))
    algorithm.prepare([data] * replicas)
    case = Case(method, replicas, algorithm, make_sampler(algorithm, [data]))
    for _ in range(3):
        algorithm.update(case.sampler.next())
    return case


def offline_methods(kind: str) -> list[str]:
    """Methods that train on logged data with this kind of actions."""
    found = [(name, find_method(name)) for name in method_names()]
    return [name for name, cls in found if cls.sampling != "online" and kind in cls.actions]


def report(cases: Sequence[Case], options: Options) -> None:
    """Print the table and write it as CSV."""
    base = next((case for case in cases if case.method == options.relative_to), cases[0])
    header = ["method", "R", "seed-updates/s", "relative", "sampling %", "update %", "evaluation %"]
    rows = []
    for case in cases:
        sampling, updating = statistics.median(case.sampling), statistics.median(case.updating)
        evaluating = case.evaluation / UPDATES
        total = sampling + updating + evaluating
        shares = (100 * part / total for part in (sampling, updating, evaluating))
        rows.append(
            [case.method, str(case.replicas), f"{case.rate:.1f}", f"{case.rate / base.rate:.2f}"]
            + [f"{share:.1f}" for share in shares]
        )
    threads = torch.get_num_threads()
    show(f"{options.task}, {threads} threads, torch {torch.__version__}", header, rows)
    write_csv(options.output, ["task", "threads", *header], [[options.task, threads, *row] for row in rows])


def main(options: Options) -> int:
    """Measure and report."""
    if options.threads:
        torch.set_num_threads(options.threads)
    spec = task_spec(options.task)
    data = random_dataset(spec, options.rows)
    if options.method == "all":
        cases = [build(name, options.replicas[0], data) for name in offline_methods(spec.action_kind)]
    else:
        cases = [build(options.method, replicas, data) for replicas in options.replicas]
    for _ in range(options.rounds):
        for case in cases:
            measure(case, options.seconds)
    for case in cases:
        case.evaluation = evaluation_seconds(case, options.task)
    report(cases, options)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
