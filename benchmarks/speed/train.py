"""Seed-updates per second of every method, its share of the machine's matrix rate, and where the slow ones spend it.

    python benchmarks/speed/train.py [--method omiga|all ...] [--task mamujoco/halfcheetah-6x1] [--replicas 1 2 4 8]

Trains on random numbers of the task's shape, so it needs no dataset; the default task has the sizes of OMIGA's
HalfCheetah-6x1 (6 agents, observation 23), and every method has its settings for the task's family. One update of R
replicas counts as R seed-updates; sampling is included. Rounds alternate between the cases, so that other load meets
all; medians are shown. With one thread (the default) seconds are those of the processor, which other work on the
machine hardly changes; with more they are those of the clock. ``--method all`` measures every offline method that
fits the task. Every stage of a method is measured; the line with its plain name is the last one's, which trains the
policies.

* ``relative``: seed-updates per second over those of the case of ``--relative-to`` with the same R.
* ``GFLOP``: counted operations of the matrix products of one seed-update.
* ``roof %``: GFLOP times seed-updates per second, over the float32 rate of matrix products in the same run (one
  thread's, times the threads).
* ``sampling %`` of an update's time, and ``evaluation %``: what ten episodes of 1000 steps per 5000 updates add.

The cases with the lowest ``roof %`` are profiled; the table, the profiles and what made them stand in a Markdown file
beside the CSV. All methods of the default task take about ten minutes.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import tyro
from measuring import best_matrix_rate, command, machine, random_dataset, show, write_csv
from torch.utils.flop_counter import FlopCounterMode

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler
from marlzoo.families import make_env, task_spec
from marlzoo.registry import find_method, method_names
from marlzoo.system.files import write_text_atomic
from marlzoo.training.compilation import Update, compiled, freed_memory_kept
from marlzoo.training.evaluation import evaluate
from marlzoo.training.precision import Arithmetic, choose_arithmetic
from marlzoo.training.trainer import make_sampler, prepare

# OMIGA's evaluation protocol.
EPISODES = 10
STEPS = 1000
UPDATES = 5000
PROFILED = 3  # slowest cases
SHOWN = 8  # operations of each


@dataclass(frozen=True)
class Options:
    """What to measure."""

    method: tuple[str, ...] = ("omiga",)  # methods, or "all"
    task: str = "mamujoco/halfcheetah-6x1"  # gives the sizes
    replicas: tuple[int, ...] = (1, 2, 4, 8)  # numbers of replicas R
    relative_to: str = "omiga"  # the method that others are compared with
    compile: bool = False  # measure compiled updates
    threads: int = 1  # of torch
    rounds: int = 5  # alternating rounds
    seconds: float = 1.0  # per measurement
    rows: int = 100_000  # of the random dataset
    evaluation: bool = True  # time evaluation too
    output: Path = field(default_factory=lambda: Path("results/speed/train.csv"))  # table as CSV


@dataclass
class TrainCase:
    """One learner with its sampler, and its measurements in seconds per update."""

    method: str
    replicas: int
    algorithm: Algorithm
    sampler: Sampler
    arithmetic: Arithmetic
    update: Update  # the learner's, compiled or not
    operations: int  # of the matrix products of one seed-update
    sampling: list[float] = field(default_factory=list)
    updating: list[float] = field(default_factory=list)
    evaluation: float = float("nan")

    @property
    def rate(self) -> float:
        """Seed-updates per second."""
        return self.replicas / statistics.median(map(sum, zip(self.sampling, self.updating, strict=True)))


def now() -> float:
    """Seconds of the processor with one thread, else those of the clock."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def build(method: str, replicas: int, data: Dataset, options: Options) -> list[TrainCase]:
    """A case of every stage of a method, named ``METHOD: STAGE`` but for the last, which trains the policies."""
    algorithm = marlzoo.make(method, data.spec, seeds=list(range(replicas)))
    before = [stage.updates for stage in algorithm.stages()[:-1]]
    cases = [build_stage(method, replicas, data, options, sum(before[:k])) for k in range(len(before) + 1)]
    for case, stage in zip(cases[:-1], algorithm.stages(), strict=False):
        case.method = f"{method}: {stage.name}"
    return cases


def build_stage(method: str, replicas: int, data: Dataset, options: Options, done: int) -> TrainCase:
    """A learner after ``done`` updates, with the settings that the command line gives it, and a warm sampler."""
    algorithm = marlzoo.make(method, data.spec, seeds=list(range(replicas)))
    prepare(algorithm, [data])
    algorithm.updates = done  # which say what stage it is in; what was learned before changes no cost
    sampler = make_sampler(algorithm, [data])
    arithmetic = choose_arithmetic(algorithm)
    with FlopCounterMode(display=False) as counter:
        algorithm.update(sampler.next())
    update = compiled(algorithm) if options.compile else algorithm.update
    with arithmetic.applied(algorithm):
        for _ in range(3):
            update(sampler.next())
    return TrainCase(
        method, replicas, algorithm, sampler, arithmetic, update, counter.get_total_flops() // replicas
    )


def measure(case: TrainCase, seconds: float) -> None:
    """Updates for about ``seconds``; keeps the mean of this round."""
    sampling = updating = 0.0
    updates = 0
    with case.arithmetic.applied(case.algorithm):
        while sampling + updating < seconds:
            started = now()
            batch = case.sampler.next()
            drawn = now()
            case.update(batch)
            sampling += drawn - started
            updating += now() - drawn
            updates += 1
    case.sampling.append(sampling / updates)
    case.updating.append(updating / updates)


def evaluation_seconds(case: TrainCase, task: str, steps: int = 100) -> float:
    """Seconds of one evaluation of the protocol, from ``steps`` steps of all its episodes."""
    env = make_env(task, case.replicas * EPISODES)
    policy = case.algorithm.policy()
    evaluate(policy, env, seeds=case.algorithm.seeds, horizon=3)
    started = now()
    evaluate(policy, env, seeds=case.algorithm.seeds, horizon=steps)
    spent = now() - started
    env.close()
    return spent * STEPS / steps


def offline_methods(kind: str) -> list[str]:
    """Methods that train on logged data with this kind of actions."""
    found = [(name, find_method(name)) for name in method_names()]
    return [name for name, cls in found if cls.sampling != "online" and kind in cls.actions]


def profiled(case: TrainCase, updates: int = 5) -> list[tuple[str, float, int]]:
    """Operations by their share of an update's processor time, in %, and how often each is called per update."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    with case.arithmetic.applied(case.algorithm), torch.profiler.profile(activities=activities) as profile:
        for _ in range(updates):
            case.algorithm.update(case.sampler.next())
    events = profile.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    parts = [(e.key, 100 * e.self_cpu_time_total / total, e.count // updates) for e in events]
    return sorted(parts, key=lambda part: part[1], reverse=True)


def lines(cases: Sequence[TrainCase], options: Options, roof: float) -> list[list[str]]:
    """The table's rows."""
    rows = []
    for case in cases:
        sampling = statistics.median(case.sampling)
        updating = statistics.median(case.updating)
        base = [c for c in cases if (c.method, c.replicas) == (options.relative_to, case.replicas)]
        reached = 100 * case.operations * case.rate / roof
        rows.append(
            [
                case.method,
                str(case.replicas),
                f"{case.rate:.1f}",
                f"{case.rate / base[0].rate:.2f}" if base else "",
                f"{case.operations * 1e-9:.3f}",
                f"{reached:.0f}",
                f"{100 * sampling / (sampling + updating):.1f}",
                f"{100 * case.evaluation / UPDATES / (sampling + updating + case.evaluation / UPDATES):.1f}",
            ]
        )
    return rows


def note(header: Sequence[str], rows: Sequence[Sequence[str]], profiles: Sequence[str], title: str) -> str:
    """The table and the profiles as Markdown."""
    text = [f"# {title}", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    text += ["| " + " | ".join(row) + " |" for row in rows]
    text += ["", *profiles, f"Made by `{command()}` on {machine()}.", ""]
    return "\n".join(text)


def profile_text(case: TrainCase) -> str:
    """What a case spends its time on, as a paragraph."""
    parts = profiled(case)
    calls = sum(count for _, _, count in parts)
    top = "; ".join(
        f"{name.removeprefix('aten::')} {share:.0f} % ({count})" for name, share, count in parts[:SHOWN]
    )
    return (
        f"**{case.method}**, R = {case.replicas}: {calls} operations per update. Share of the processor's time "
        f"(calls per update): {top}.\n"
    )


@freed_memory_kept()
def main(options: Options) -> int:
    """Measure and report."""
    torch.set_num_threads(options.threads)
    spec = task_spec(options.task)
    data = random_dataset(spec, options.rows)
    every = "all" in options.method
    methods = offline_methods(spec.action_kind) if every else options.method
    cases = []
    for method in methods:
        print(f"building {method}", flush=True)
        cases += [case for size in options.replicas for case in build(method, size, data, options)]
    products = []
    for _ in range(options.rounds):
        products.append(best_matrix_rate(0.2))
        for case in cases:
            measure(case, options.seconds)
    roof = 1e9 * options.threads * statistics.median(products)
    for case in cases if options.evaluation else ():
        case.evaluation = evaluation_seconds(case, options.task)
    header = ["method", "R", "seed-updates/s", "relative", "GFLOP", "roof %", "sampling %", "evaluation %"]
    rows = lines(cases, options, roof)
    kind = "compiled" if options.compile else "eager"
    title = f"{options.task}, {kind}, {options.threads} threads, products {roof * 1e-9:.0f} GFLOP/s"
    show(title, header, rows)
    same = [options.task, kind, options.threads, f"{roof * 1e-9:.0f}"]
    write_csv(
        options.output,
        ["task", "update", "threads", "GFLOP/s", *header],
        [[*same, *row] for row in rows],
    )
    slowest = sorted(cases, key=lambda case: case.operations * case.rate)[:PROFILED]
    profiles = [] if options.compile else [profile_text(case) for case in slowest]
    write_text_atomic(options.output.with_suffix(".md"), note(header, rows, profiles, title))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
