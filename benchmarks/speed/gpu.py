"""OMIGA on a GPU beside plain loops that share it, the knee over the replicas, and the projected time of a suite.

    python benchmarks/speed/gpu.py [--replicas 1 2 4 8 16 20 32 64] [--precisions float32 tf32] [--processes 1 16]

Every round measures in turn (a) the plain loop of ``reference_loop.py`` on the card, in one process and in sixteen
that share it, (b) the card's rate of matrix products in every precision, (c) ours: R replicas whose whole update is
recorded and replayed, as it is and compiled. Sampling is included, evaluation is not; data are random numbers of the
task's shape, on the card, one dataset for each of four qualities. Medians over rounds.

* ``rate``: seed-updates per second (of all processes together).
* ``ratio``: over one plain loop; ``of shared``: over the most plain processes that share the card. Medians of the
  rounds' ratios.
* ``TFLOP/s``: counted operations of the matrix products, times the rate; ``card %``: of (b) in the same precision.
* The knee is the least R with 80 % of the best rate of its kind.

Then one update of every method of the projection at R = ``--group`` and one evaluation of the suite's protocol are
timed for each task of the suite, and projected to all its datasets, seeds and updates: ``in turn``, updates and
evaluations one after another, and ``background_eval``, where the shorter of the two costs nothing; a run that
evaluates in the background lies between. The slice that proves it is a run of full length: ``marlzoo bench
omiga-mujoco-regenerated --device cuda``.

``--device cpu`` exercises the same code without a GPU; nothing is recorded there, and its figures mean nothing.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import tyro
from marlzoo.benchmarks.suites import POINTS, Suite, find_suite
from measuring import clocked, command, machine, random_dataset, rate_of, show, write_csv
from reference_loop import Buffer, Reference
from torch.utils.flop_counter import FlopCounterMode

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.config import Precision
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler
from marlzoo.families import make_env, task_spec
from marlzoo.training.compilation import freed_memory_kept, make_training_step
from marlzoo.training.evaluation import evaluate
from marlzoo.training.precision import Arithmetic, choose_arithmetic
from marlzoo.training.trainer import make_sampler, prepare

KNEE = 0.8  # share of the best rate
# The learners of the OMIGA paper's tables and those that later papers add.
METHODS = ("omiga", "bc", "bcq_ma", "cql_ma", "icq", "omar", "omac", "td3_bc")
Kind = tuple[Precision, bool, int]  # precision, compiled, replicas


@dataclass(frozen=True)
class Options:
    """What to measure."""

    task: str = "mamujoco/halfcheetah-6x1"  # gives the sizes
    replicas: tuple[int, ...] = (1, 2, 4, 8, 16, 20, 32, 64)  # numbers of replicas R
    precisions: tuple[Precision, ...] = ("float32", "tf32")  # of float32, tf32, bf16
    compiled: tuple[bool, ...] = (False, True)  # recorded as it is, and compiled
    processes: tuple[int, ...] = (1, 16)  # plain loops that share the card; the first is what ratio refers to
    qualities: int = 4  # datasets, shared out among the replicas
    rows: int = 100_000  # of each dataset
    hidden: int = 256  # width of the networks
    batch_size: int = 128
    edge: int = 8192  # of the matrices whose products give the card's rate
    rounds: int = 5  # alternating rounds
    seconds: float = 2.0  # per measurement
    suite: str = "omiga-mujoco"  # whose time is projected; empty: none
    methods: tuple[str, ...] = METHODS  # of the projection
    group: int = 20  # most replicas in a group of the projection
    steps: int = 100  # of the evaluation episodes that are timed
    device: str = "cuda"
    output: Path = field(default_factory=lambda: Path("results/speed/gpu.csv"))  # table as CSV


def serve(pipe: Connection, options: Options) -> None:
    """A process with a plain loop, which measures it for as many seconds as it is sent."""
    torch.set_num_threads(1)
    spec = task_spec(options.task)
    device = torch.device(options.device)
    buffer = Buffer(random_dataset(spec, options.rows))
    agent = Reference(
        spec.n_agents,
        spec.obs_size,
        spec.state_size,
        spec.action_size,
        options.hidden,
        device=options.device,
    )
    for _ in range(3):
        agent.update(buffer.sample(options.batch_size))
    pipe.send(0.0)
    while seconds := pipe.recv():
        pipe.send(rate_of(lambda: agent.update(buffer.sample(options.batch_size)), seconds, device)[0])


class Plain:
    """Processes with a plain loop each; those that are not asked wait."""

    def __init__(self, options: Options) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Connection] = []
        self.started: list[Any] = []
        for _ in range(max(options.processes)):
            mine, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, options), daemon=True)
            process.start()
            theirs.close()  # so that a process that fails ends the wait for it
            self.pipes.append(mine)
            self.started.append(process)

    def wait(self) -> None:
        """Until all have their data; they make them while the learners are recorded."""
        for pipe in self.pipes:
            pipe.recv()

    def rate(self, count: int, seconds: float) -> float:
        """Updates per second of ``count`` processes at once."""
        for pipe in self.pipes[:count]:
            pipe.send(seconds)
        return float(sum(pipe.recv() for pipe in self.pipes[:count]))

    def close(self) -> None:
        """Let them end."""
        for pipe in self.pipes:
            pipe.send(0.0)
        for process in self.started:
            process.join()


@dataclass
class Ours:
    """A learner whose step is ready, and the operations of the matrix products of one of its updates."""

    algorithm: Algorithm
    arithmetic: Arithmetic
    step: Callable[[], object]
    operations: int

    def rate(self, seconds: float) -> float:
        """Seed-updates per second."""
        with self.arithmetic.applied(self.algorithm):
            steps: float = rate_of(self.step, seconds, self.algorithm.device)[0]
        return self.algorithm.replicas * steps


def ready(algorithm: Algorithm, data: Sequence[Dataset], precision: Precision, compiled: bool) -> Ours:
    """Count the update's operations and record it."""
    per_replica = [data[k % len(data)] for k in range(algorithm.replicas)]
    prepare(algorithm, per_replica)
    sampler: Sampler = make_sampler(algorithm, per_replica)
    arithmetic = choose_arithmetic(algorithm, precision)
    with arithmetic.applied(algorithm):
        with FlopCounterMode(display=False) as counter:
            algorithm.update(sampler.next())
        # No updates in all: "auto" records without compiling.
        step = make_training_step(algorithm, sampler, "on" if compiled else "auto", 0, print)
        for _ in range(3):
            step()
    return Ours(algorithm, arithmetic, step, counter.get_total_flops())


def card_rate(precision: Precision, options: Options) -> float:
    """FLOP per second of large products in a precision, over about a quarter of a measurement."""
    device = torch.device(options.device)
    before = torch.get_float32_matmul_precision()
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    a, b = (torch.randn(options.edge, options.edge, device=device, dtype=dtype) for _ in range(2))
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        torch.mm(a, b)
        products: float = rate_of(lambda: torch.mm(a, b), options.seconds / 4, device)[0]
    finally:
        torch.set_float32_matmul_precision(before)
    return 2.0 * options.edge**3 * products


@dataclass(frozen=True)
class Measured:
    """Rates round by round: of plain loops by processes, of the card by precision, and of ours; ours' operations."""

    shared: dict[int, list[float]]
    card: dict[Precision, list[float]]
    rates: dict[Kind, list[float]]
    operations: dict[Kind, int]


def measure(options: Options) -> Measured:
    """Measure, and write the table after every round, so that an interruption keeps what was measured."""
    plain = Plain(options)
    try:
        learners = recorded(options)
        plain.wait()
        found = Measured(
            defaultdict(list),
            defaultdict(list),
            defaultdict(list),
            {k: o.operations for k, o in learners.items()},
        )
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds}", flush=True)
            for count in options.processes:
                found.shared[count].append(plain.rate(count, options.seconds))
            for precision in options.precisions:
                found.card[precision].append(card_rate(precision, options))
            for kind, ours in learners.items():
                found.rates[kind].append(ours.rate(options.seconds))
            write(options, found)
    finally:
        plain.close()
    return found


def recorded(options: Options) -> dict[Kind, Ours]:
    """A learner of every kind, whose step is recorded."""
    data = [random_dataset(task_spec(options.task), options.rows) for _ in range(options.qualities)]
    learners: dict[Kind, Ours] = {}
    for precision in options.precisions:
        for compiled in options.compiled:
            for replicas in options.replicas:
                print(f"recording {precision}{' compiled' if compiled else ''}, R = {replicas}", flush=True)
                algorithm = marlzoo.make(
                    "omiga",
                    data[0].spec,
                    seeds=list(range(replicas)),
                    device=options.device,
                    hidden=options.hidden,
                    batch_size=options.batch_size,
                )
                learners[precision, compiled, replicas] = ready(algorithm, data, precision, compiled)
    return learners


def ratio(rates: Sequence[float], others: Sequence[float]) -> str:
    """Median of the rounds' ratios."""
    return f"{statistics.median(a / b for a, b in zip(rates, others, strict=True)):.1f}"


def knee(rates: dict[int, float]) -> int:
    """The least R that reaches most of the best rate."""
    return min(replicas for replicas, rate in rates.items() if rate >= KNEE * max(rates.values()))


@dataclass(frozen=True)
class Projection:
    """Hours of one method on one task of a suite, evaluated in turn with the updates and beside them."""

    method: str
    task: str
    groups: int
    update_ms: float
    evaluation_s: float
    in_turn: float
    background_eval: float


def project(options: Options, suite: Suite) -> list[Projection]:
    """Time a group of every method and task, and multiply."""
    tasks = list(dict.fromkeys(data.task for data in suite.data))
    device = torch.device(options.device)
    found = []
    for task in tasks:
        data = [random_dataset(task_spec(task), options.rows) for _ in range(options.qualities)]
        runs = sum(entry.task == task for entry in suite.data) * len(suite.seeds)
        replicas = min(options.group, runs)
        groups = -(-runs // replicas)
        env = make_env(task, replicas * suite.episodes)
        for method in options.methods:
            print(f"projecting {method} on {task}", flush=True)
            algorithm = marlzoo.make(
                method,
                data[0].spec,
                seeds=list(range(replicas)),
                device=options.device,
            )
            ours = ready(algorithm, data, suite.precision, options.compiled[-1])
            update = replicas / ours.rate(options.seconds)
            policy = algorithm.policy()
            seeds = algorithm.seeds
            evaluate(policy, env, seeds=seeds, horizon=1, device=device)
            spent = clocked(
                lambda: evaluate(policy, env, seeds=seeds, horizon=options.steps, device=device),  # noqa: B023
                device,
            )
            evaluation = spent * (suite.horizon or env.spec.horizon) / options.steps
            parts = (
                suite.updates * update,
                suite.updates / (suite.eval_every or suite.updates / POINTS) * evaluation,
            )
            hours = [groups * seconds / 3600 for seconds in (sum(parts), max(parts))]
            found.append(Projection(method, task, groups, 1e3 * update, evaluation, *hours))
        env.close()
    return found


HEADER = ["update", "precision", "R", "rate", "ratio", "of shared", "TFLOP/s", "card %"]


def lines_of(options: Options, found: Measured) -> list[list[Any]]:
    """The table's lines, medians over the rounds that are over."""
    one = found.shared[options.processes[0]]
    most = found.shared[options.processes[-1]]
    lines: list[list[Any]] = []
    for count, rates in found.shared.items():
        lines.append([f"plain loop x {count}", "float32", 1, f"{statistics.median(rates):.1f}"])
        lines[-1] += [ratio(rates, one), ratio(rates, most), "", ""]
    for (precision, compiled, replicas), rates in found.rates.items():
        rate = statistics.median(rates)
        flops = found.operations[precision, compiled, replicas] / replicas * rate
        lines.append([f"recorded{', compiled' if compiled else ''}", precision, replicas, f"{rate:.1f}"])
        reached = 100 * flops / statistics.median(found.card[precision])
        lines[-1] += [ratio(rates, one), ratio(rates, most), f"{1e-12 * flops:.2f}", f"{reached:.1f}"]
    return lines


def card_name(options: Options) -> str:
    """Of the GPU; of another device the word for it."""
    if options.device.startswith("cuda"):
        return str(torch.cuda.get_device_name(options.device))
    return options.device


def write(options: Options, found: Measured) -> None:
    """Write the table as CSV."""
    name = card_name(options)
    write_csv(options.output, [*HEADER, "device"], [[*line, name] for line in lines_of(options, found)])


def report(options: Options, found: Measured) -> None:
    """Print the rates."""
    title = f"OMIGA on {card_name(options)}, {options.task}, medians of {options.rounds} rounds"
    show(title, HEADER, lines_of(options, found), 2)
    for precision in options.precisions:
        print(
            f"products {precision}: {1e-12 * statistics.median(found.card[precision]):.1f} TFLOP/s of the card"
        )
        for compiled in options.compiled:
            medians = {r: statistics.median(found.rates[precision, compiled, r]) for r in options.replicas}
            kind = f"{precision}, compiled" if compiled else precision
            print(f"knee of {kind}: R = {knee(medians)}")


def report_projection(options: Options, suite: Suite, found: Sequence[Projection]) -> None:
    """Print the projected hours and write them beside the rates."""
    header = [
        "method",
        "task",
        "groups",
        "ms per update",
        "s per evaluation",
        "hours in turn",
        "hours beside",
    ]
    lines = [
        [
            p.method,
            p.task,
            p.groups,
            *(f"{x:.3f}" for x in (p.update_ms, p.evaluation_s, p.in_turn, p.background_eval)),
        ]
        for p in found
    ]
    title = (
        f"Suite {suite.name}, {suite.precision}, {suite.updates} updates, at most {options.group} replicas"
    )
    show(title, header, lines, 2)
    runs = len(suite.data) * len(suite.seeds)
    least = sum(p.background_eval for p in found)
    most = sum(p.in_turn for p in found)
    print(
        f"{len(options.methods)} methods x {runs} runs of {suite.updates} updates: "
        f"{least:.1f} to {most:.1f} hours on this device"
    )
    write_csv(options.output.with_name(f"{options.output.stem}_suite.csv"), header, lines)


@freed_memory_kept()
def main(options: Options) -> int:
    """Measure and report."""
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        print("no CUDA device was found; --device cpu only exercises the code", file=sys.stderr)
        return 1
    report(options, measure(options))
    if options.suite:
        suite = find_suite(options.suite)
        report_projection(options, suite, project(options, suite))
    print(f"Made by `{command()}` on {machine()}.")
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
