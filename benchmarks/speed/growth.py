"""How OMIGA's cost grows with replicas, agents, rows of data and network width.

    python benchmarks/speed/growth.py [--axes replicas agents rows hidden] [--rounds 3]

Random data, uncompiled updates, one thread; seconds are those of the processor, which other work on the machine
hardly changes. Along each axis everything else stays as it is (HalfCheetah's sizes: 6 agents, observations of 23
numbers, one action, hidden width 256, batch 128, one replica; for the rows 2 agents with observations of 8 numbers,
so that ten million fit). Rounds alternate between the sizes; medians.

* ``seed-updates/s``: sampling included; ``sampling us``: microseconds of sampling in one update.
* ``us/GFLOP``: time over counted operations of the matrix products. It falls while fixed costs are spread over more
  work and is flat beyond the knee; where it rises, cost grows faster than the operations.

Takes about five minutes and 3 GB of memory.
"""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from measuring import random_dataset, show, write_csv
from torch.utils.flop_counter import FlopCounterMode

import marlzoo
from marlzoo.errors import pip_install
from marlzoo.spec import Spec
from marlzoo.system.files import atomic_write
from marlzoo.training.compilation import freed_memory_kept
from marlzoo.training.precision import choose_arithmetic
from marlzoo.training.trainer import make_sampler

AXES: dict[str, tuple[int, ...]] = {
    "replicas": (1, 2, 4, 8, 16, 32, 64),
    "agents": (2, 4, 8, 16, 32, 64),
    "rows": (100_000, 1_000_000, 10_000_000),
    "hidden": (64, 128, 256, 512, 1024),
}
HORIZON = 1000


@dataclass(frozen=True)
class Options:
    """What to measure."""

    axes: tuple[str, ...] = tuple(AXES)  # of replicas, agents, rows, hidden
    rounds: int = 3  # alternating rounds
    seconds: float = 0.5  # per measurement
    output: Path = field(
        default_factory=lambda: Path("results/speed/growth.csv")
    )  # table; the plot beside it


class GrowthCase:
    """One size along one axis, and its measurements in seconds per update."""

    def __init__(self, axis: str, size: int) -> None:
        self.axis = axis
        self.size = size
        agents = 2 if axis == "rows" else 6
        if axis == "agents":
            agents = size
        obs = 8 if axis == "rows" else 23
        self.replicas = size if axis == "replicas" else 1
        data = random_dataset(
            Spec(agents, obs, agents * obs, "continuous", 1, HORIZON), size if axis == "rows" else 20_000
        )
        self.algorithm = marlzoo.make(
            "omiga",
            data.spec,
            seeds=list(range(self.replicas)),
            hidden=size if axis == "hidden" else 256,
        )
        self.sampler = make_sampler(self.algorithm, [data])
        self.arithmetic = choose_arithmetic(self.algorithm)
        with FlopCounterMode(display=False) as counter:
            self.algorithm.update(self.sampler.next())
        self.operations = counter.get_total_flops()
        self.sampling: list[float] = []
        self.updating: list[float] = []

    def measure(self, seconds: float) -> None:
        """Updates for about ``seconds``, five at least; keeps the means of this round."""
        sampling = updating = 0.0
        updates = 0
        with self.arithmetic.applied(self.algorithm):
            while sampling + updating < seconds or updates < 5:
                started = time.process_time()
                batch = self.sampler.next()
                drawn = time.process_time()
                self.algorithm.update(batch)
                sampling += drawn - started
                updating += time.process_time() - drawn
                updates += 1
        self.sampling.append(sampling / updates)
        self.updating.append(updating / updates)

    def row(self) -> list[Any]:
        """Axis, size and the table's figures."""
        sampling = statistics.median(self.sampling)
        updating = statistics.median(self.updating)
        whole = sampling + updating
        figures = [
            f"{self.replicas / whole:.1f}",
            f"{1e6 * sampling:.0f}",
            f"{1e15 * whole / self.operations:.0f}",
        ]
        return [self.axis, self.size, *figures, f"{self.operations * 1e-9:.3f}"]


def plot(rows: list[list[Any]], path: Path) -> None:
    """Microseconds per GFLOP along every axis."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print(f"No plot: matplotlib is not installed ({pip_install('matplotlib')}).")
        return
    axes = list(dict.fromkeys(row[0] for row in rows))
    figure = Figure(figsize=(3.2 * len(axes), 3.2), layout="constrained")
    for ax, axis in zip(figure.subplots(1, len(axes), squeeze=False)[0], axes, strict=True):
        mine = [row for row in rows if row[0] == axis]
        column, label = (3, "µs of sampling per update") if axis == "rows" else (4, "µs per GFLOP")
        ax.plot([row[1] for row in mine], [float(row[column]) for row in mine], "o-", ms=3)
        ax.set(xscale="log", xlabel=axis, ylabel=label)
        ax.set_ylim(bottom=0)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, dpi=120, metadata={"Software": None})


@freed_memory_kept()
def main(options: Options) -> int:
    """Measure and report, one axis after another."""
    torch.set_num_threads(1)
    rows = []
    for axis in options.axes:
        cases = [GrowthCase(axis, size) for size in AXES[axis]]
        for _ in range(options.rounds):
            for case in cases:
                case.measure(options.seconds)
        rows += [case.row() for case in cases]
    header = ["axis", "size", "seed-updates/s", "sampling us", "us/GFLOP", "GFLOP per update"]
    show("OMIGA's growth", header, rows)
    write_csv(options.output, header, rows)
    plot(rows, options.output.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
