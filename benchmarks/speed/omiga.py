"""OMIGA's seed-updates per second beside a plain loop's and the machine's matrix rate, all in alternating rounds.

    python benchmarks/speed/omiga.py [--rounds 5] [--cases halfcheetah ant small] [--no-compiled] [--bf16]

Every round measures in turn (a) the plain loop of ``reference_loop.py`` in one process with all threads, (b) the rate
of matrix products, (c) ours, eager and compiled, with R replicas, in one process with all threads and in one process
per core. Sampling is included, evaluation is not; data are random numbers of the task's shape. Medians over rounds.

* ``layout``: processes x threads of each; ``rate``: seed-updates per second of all processes together.
* ``ratio``: the rate over that of the plain loop in one process with all threads, median of the rounds' ratios.
* ``roof %``: the floating-point operations of the plain loop's matrix products, times the rate, over the float32 rate
  of all cores (one thread each, the best setting with float32 accuracy).
* ``core rate``, ``core ratio``, ``core roof %``: the same per second of processor time, for one thread per process,
  the ratio to the plain loop in that layout. They tell the cost on a machine busy with other work, where ``ratio``
  and ``roof %`` mean little.

Two cores and the default options need about ten minutes, half of them for compiling the first time.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import tyro
from marlzoo.benchmarks.sheet import Sheet
from marlzoo.benchmarks.styles import markdown
from measuring import (
    FLOAT32_ERROR,
    command,
    load_average,
    machine,
    matrix_rate,
    random_dataset,
    rate_of,
    show,
    write_csv,
)
from reference_loop import Buffer, Reference
from torch.utils.flop_counter import FlopCounterMode

import marlzoo
from marlzoo.families import task_spec
from marlzoo.system.files import write_text_atomic
from marlzoo.training.compilation import compiled, freed_memory_kept
from marlzoo.training.precision import SETTINGS, products_in
from marlzoo.training.trainer import make_sampler

SIZES = {  # task, hidden width, batch size, numbers of replicas
    "halfcheetah": ("mamujoco/halfcheetah-6x1", 256, 128, (1, 4)),
    "ant": ("mamujoco/ant-2x4", 256, 128, (1, 4)),
    "small": ("mamujoco/halfcheetah-6x1", 64, 32, (1, 16)),
}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    cases: tuple[str, ...] = tuple(SIZES)  # of halfcheetah, ant, small
    rounds: int = 5  # alternating rounds
    seconds: float = 1.5  # per measurement
    replicas: tuple[int, ...] = ()  # instead of each case's own
    eager: bool = True  # measure uncompiled updates
    compiled: bool = True  # measure compiled updates
    bf16: bool = False  # measure both with bfloat16 products too
    cores: int = os.cpu_count() or 1  # processes, and threads of one process
    rows: int = 100_000  # of the random data
    output: Path = field(default_factory=lambda: Path("results/speed/omiga.csv"))  # table as CSV


@dataclass(frozen=True)
class Variant:
    """One learner in one kind of process."""

    case: str
    name: str  # reference, eager, compiled, and the last two with bf16 products
    replicas: int
    processes: int
    threads: int

    @property
    def label(self) -> str:
        """How its processes are laid out."""
        return f"{self.processes} x {self.threads}"


def build(variant: Variant, rows: int, setting: str) -> Callable[[], object]:
    """A function that samples a batch and makes one update."""
    task, hidden, batch_size, _ = SIZES[variant.case]
    spec = task_spec(task)
    data = random_dataset(spec, rows)
    torch.set_float32_matmul_precision("highest" if variant.name == "reference" else setting)
    if variant.name == "reference":
        agent = Reference(spec.n_agents, spec.obs_size, spec.state_size, spec.action_size, hidden)
        buffer = Buffer(data)
        return lambda: agent.update(buffer.sample(batch_size))
    seeds = list(range(variant.replicas))
    algorithm = marlzoo.make("omiga", spec, seeds=seeds, hidden=hidden, batch_size=batch_size)
    sampler = make_sampler(algorithm, [data])
    update = compiled(algorithm) if "compiled" in variant.name else algorithm.update

    def work() -> None:
        with products_in(algorithm, torch.bfloat16 if "bf16" in variant.name else None):
            update(sampler.next())

    return work


@freed_memory_kept()
def serve(pipe: Connection, threads: int) -> None:
    """A process of ``threads`` threads that builds and measures what it is asked for."""
    torch.set_num_threads(threads)
    built: dict[Variant, tuple[Callable[[], object], str]] = {}
    while request := pipe.recv():
        kind, *arguments = request
        if kind == "build":
            variant, rows, setting = arguments
            work = build(variant, rows, setting)
            for _ in range(3):
                work()
            built[variant] = (work, torch.get_float32_matmul_precision())
            pipe.send(None)
        elif kind == "measure":
            variant, seconds = arguments
            work, setting = built[variant]
            torch.set_float32_matmul_precision(setting)
            work()
            pipe.send(rate_of(work, seconds))
        else:
            pipe.send(matrix_rate(*arguments))


class Processes:
    """One process with all threads, and one per core with a single thread."""

    def __init__(self, cores: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: dict[int, list[Connection]] = {}
        self.started: list[Any] = []
        for threads, count in ((cores, 1), (1, cores)):
            self.pipes[threads] = []
            for _ in range(count):
                mine, theirs = context.Pipe()
                process = context.Process(target=serve, args=(theirs, threads), daemon=True)
                process.start()
                self.pipes[threads].append(mine)
                self.started.append(process)

    def ask(self, threads: int, *request: Any, together: bool = True, count: int = 0) -> list[Any]:
        """The answers of the processes of that many threads, asked at once or one after another."""
        pipes = self.pipes[threads][: count or None]
        answers = []
        for pipe in pipes:
            pipe.send(request)
            if not together:
                answers.append(pipe.recv())
        return answers if not together else [pipe.recv() for pipe in pipes]

    def close(self) -> None:
        """End them."""
        for pipes in self.pipes.values():
            for pipe in pipes:
                pipe.send(())
        for process in self.started:
            process.join()


def variants(options: Options) -> list[Variant]:
    """Everything that is measured, the plain loop first in each case."""
    found = []
    layouts = ((1, options.cores), (options.cores, 1))
    for case in options.cases:
        found += [Variant(case, "reference", 1, *layout) for layout in layouts]
        ours = {"eager": options.eager, "compiled": options.compiled}
        ours |= {f"{name} bf16": options.bf16 and wanted for name, wanted in ours.items()}
        for name in (name for name, wanted in ours.items() if wanted):
            for replicas in options.replicas or SIZES[case][3]:
                found += [Variant(case, name, replicas, *layout) for layout in layouts]
    return found


def operations(case: str) -> int:
    """Floating-point operations of the matrix products of one update of the plain loop."""
    work = build(Variant(case, "reference", 1, 1, 1), 2000, "highest")
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())


def measure(options: Options) -> tuple[dict[Variant, list[tuple[float, float]]], dict[str, list[float]]]:
    """Rates of all variants (wall clock, processor), and of products by setting and threads, round by round."""
    processes = Processes(options.cores)
    every = variants(options)
    rates: dict[Variant, list[tuple[float, float]]] = defaultdict(list)
    products: dict[str, list[float]] = defaultdict(list)
    try:
        setting = _products(processes, options.cores, products)
        for variant in every:
            print(f"building {variant.case} {variant.name} R={variant.replicas} {variant.label}", flush=True)
            processes.ask(variant.threads, "build", variant, options.rows, setting, together=False)
        for _ in range(options.rounds):
            for variant in every:
                found = processes.ask(variant.threads, "measure", variant, options.seconds)
                wall, busy = (variant.replicas * sum(column) for column in zip(*found, strict=True))
                rates[variant].append((wall, busy))
            _products(processes, options.cores, products)
    finally:
        processes.close()
    return rates, products


def _products(processes: Processes, cores: int, into: dict[str, list[float]]) -> str:
    """Measure the rate of products; returns the fastest setting of those with float32 accuracy."""
    best = 0.0
    chosen = "highest"
    for setting in SETTINGS:
        for threads in (1, cores):
            ((rate, error),) = processes.ask(threads, "products", setting, torch.float32, 0.2, count=1)
            accurate = error < FLOAT32_ERROR
            into[f"float32 {setting}{'' if accurate else ' (not float32 accuracy)'}, {threads}"].append(rate)
            if threads == 1 and accurate:
                into["float32 best, 1"] += [rate] if setting == SETTINGS[0] else []
                into["float32 best, 1"][-1] = max(into["float32 best, 1"][-1], rate)
                if rate > 1.03 * best:
                    best = rate
                    chosen = setting
    for threads in (1, cores):
        ((rate, _),) = processes.ask(threads, "products", "highest", torch.bfloat16, 0.2, count=1)
        into[f"bfloat16, {threads}"].append(rate)
    return chosen


def report(
    options: Options, rates: dict[Variant, list[tuple[float, float]]], products: dict[str, list[float]]
) -> None:
    """Print the tables and write them as CSV."""
    roof = options.cores * statistics.median(products["float32 best, 1"])
    load = f"{load_average():.1f}"
    lines = [[name, f"{statistics.median(found):.0f}"] for name, found in products.items()]
    show("Matrix products", ["precision and setting, threads", "GFLOP/s"], lines)
    header = [
        "case",
        "update",
        "layout",
        "R",
        "rate",
        "ratio",
        "roof %",
        "core rate",
        "core ratio",
        "core roof %",
    ]
    body = []
    share = {
        case: 1e-7 * operations(case) / roof for case in options.cases
    }  # of the roof, in %, per update/s
    for variant, found in rates.items():
        whole, single = (
            rates[Variant(variant.case, "reference", 1, *layout)]
            for layout in ((1, options.cores), (options.cores, 1))
        )
        wall = statistics.median(w for w, _ in found)
        ratio = statistics.median(w / r for (w, _), (r, _) in zip(found, whole, strict=True))
        line = [
            variant.case,
            variant.name,
            variant.label,
            str(variant.replicas),
            f"{wall:.1f}",
            f"{ratio:.2f}",
        ]
        line.append(f"{share[variant.case] * wall:.0f}")
        if variant.threads == 1:
            busy = statistics.median(b for _, b in found)
            free = statistics.median(b / r for (_, b), (_, r) in zip(found, single, strict=True))
            line += [f"{busy / variant.processes:.1f}", f"{free:.2f}", f"{share[variant.case] * busy:.0f}"]
        body.append([*line, *[""] * (len(header) - len(line))])
    show(f"OMIGA, medians of {options.rounds} rounds, load {load}", header, body, 3)
    extra = ["GFLOP per update", "float32 GFLOP/s of all cores", "rounds", "load"]
    more = [f"{roof:.0f}", options.rounds, load]
    numbers = [[*line, f"{share[line[0]] * roof / 100:.3f}", *more] for line in body]
    write_csv(options.output, [*header, *extra], numbers)
    write_text_atomic(options.output.with_name("ratios.md"), markdown(ratios(options, body)))
    write_csv(options.output.with_name("products.csv"), ["product, threads", "GFLOP/s"], lines)


def ratios(options: Options, body: list[list[str]]) -> Sheet:
    """For readers in a hurry: seed-updates per second over those of the plain loop, the best of each column.

    Args:
        options: what was measured.
        body: lines of the whole table.
    """

    def best(case: str, bf16: bool, several: bool) -> str:
        found = [
            (float(line[5]), line[6])
            for line in body
            if line[0] == case and line[1] != "reference" and ("bf16" in line[1]) == bf16
            if (line[2].startswith("1 ") and line[3] == "1") != several
        ]
        return "{:.1f} ({} %)".format(*max(found)) if found else ""

    columns = [("one run", False, False), ("several runs", False, True)]
    columns += [("one run, bf16", True, False), ("several runs, bf16", True, True)] if options.bf16 else []
    lines = [
        [
            f"{task}, hidden {hidden}, batch {batch}",
            *(best(case, bf16, several) for _, bf16, several in columns),
        ]
        for case, (task, hidden, batch, _) in SIZES.items()
        if case in options.cases
    ]
    notes = [
        "OMIGA's seed-updates per second over those of a plain PyTorch loop on the same machine, and in brackets the "
        "share of the machine's float32 matrix rate. One run: a single seed in one process with all "
        f"{options.cores} threads. Several: the best number of replicas and split into processes. Medians of "
        f"{options.rounds} alternating rounds; {machine()}.",
        f"Made by `{command()}`.",
    ]
    header = ["sizes", *(name for name, *_ in columns)]
    return Sheet("OMIGA beside a plain loop", header, lines, notes=notes)


def main(options: Options) -> int:
    """Measure and report."""
    rates, products = measure(options)
    report(options, rates, products)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
