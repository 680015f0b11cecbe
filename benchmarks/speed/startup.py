"""How long the parts take that come before the work: imports, the command line, the first compiled update.

    python benchmarks/speed/startup.py [--rounds 5] [--no-compiled] [--method omiga] [--replicas 4]

Every figure is that of a fresh process, in alternating rounds, medians over them: seconds of the clock, and of the
processor (its own and its children's), which other work on the machine hardly changes.

* ``import torch``, ``import marlzoo``: the interpreter's start included; their difference is marlzoo's own share.
* ``marlzoo list methods``: nothing heavy is imported to list.
* ``first compiled update``: learner, data of random numbers, compilation and one update at the sizes of OMIGA's
  HalfCheetah-6x1, once with an empty cache of compiled code and then with the cache that this left.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import tyro
from measuring import random_dataset, show, write_csv

import marlzoo
from marlzoo.families import task_spec
from marlzoo.training.compilation import compiled
from marlzoo.training.trainer import make_sampler, prepare

IMPORTS = {
    "import torch": ("-c", "import torch"),
    "import marlzoo": ("-c", "import marlzoo"),
    "import torch and marlzoo": ("-c", "import torch, marlzoo"),
    "marlzoo list methods": ("-m", "marlzoo", "list", "methods"),
}
FIRST = "first compiled update, empty cache"
AGAIN = "first compiled update, cache of an earlier run"


@dataclass(frozen=True)
class Options:
    """What to measure."""

    rounds: int = 5  # alternating rounds (of the compiled update with a cache, too)
    compiled: bool = True  # measure compiled updates, about a minute
    method: str = "omiga"  # that is compiled
    task: str = "mamujoco/halfcheetah-6x1"  # gives the sizes
    replicas: int = 4  # R
    output: Path = field(default_factory=lambda: Path("results/speed/startup.csv"))  # table as CSV
    update_once: bool = False  # compile, update once and end: what the measured processes do


def run(arguments: tuple[str, ...], cache: str) -> tuple[float, float]:
    """Seconds of the clock and of the processor that a fresh interpreter takes."""
    before = os.times()
    started = time.perf_counter()
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache, "MARLZOO_MATMUL": "highest"}
    subprocess.run([sys.executable, *arguments], check=True, env=environment, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - started
    after = os.times()
    user = after.children_user - before.children_user
    return wall, user + after.children_system - before.children_system


def update_once(options: Options) -> None:
    """Build the learner, compile it and make one update."""
    spec = task_spec(options.task)
    algorithm = marlzoo.make(options.method, spec, seeds=list(range(options.replicas)))
    data = random_dataset(spec, 2000)
    sampler = make_sampler(algorithm, [data])
    prepare(algorithm, [data])
    compiled(algorithm)(sampler.next())


def main(options: Options) -> int:
    """Measure and report."""
    if options.update_once:
        update_once(options)
        return 0
    found: dict[str, list[tuple[float, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as cache:
        sizes = ("--method", options.method, "--task", options.task, "--replicas", str(options.replicas))
        update = (__file__, "--update-once", *sizes)
        if options.compiled:
            found[FIRST].append(run(update, cache))
        for _ in range(options.rounds):
            for name, arguments in IMPORTS.items():
                found[name].append(run(arguments, cache))
            if options.compiled:
                found[AGAIN].append(run(update, cache))
    order = [*IMPORTS, FIRST, AGAIN] if options.compiled else list(IMPORTS)
    lines = [
        [
            name,
            *(f"{statistics.median(column):.2f}" for column in zip(*found[name], strict=True)),
            len(found[name]),
        ]
        for name in order
    ]
    header = ["what", "seconds", "processor seconds", "rounds"]
    show("Before the work", header, lines)
    write_csv(options.output, header, lines)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
