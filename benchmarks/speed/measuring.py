"""What the speed scripts share: random data of a task's shape, clocks, and how tables are printed and written."""

from __future__ import annotations

import csv
import io
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.files import write_text_atomic
from marlzoo.spec import Spec


def random_dataset(spec: Spec, rows: int) -> Dataset:
    """Random numbers in episodes of the task's horizon."""
    rng = np.random.default_rng(0)
    per_episode = min(spec.horizon, 1000) + 1
    episodes = max(1, rows // per_episode)
    rows = episodes * per_episode
    truncated = np.zeros(rows, np.bool_)
    truncated[per_episode - 2 :: per_episode] = True
    shape = (rows, spec.n_agents)
    action = (
        rng.integers(0, spec.action_size, shape)
        if spec.discrete
        else rng.uniform(-1, 1, (*shape, spec.action_size)).astype(np.float32)
    )
    same = spec.state_size == spec.n_agents * spec.obs_size
    return Dataset.create(
        spec,
        obs=rng.standard_normal((*shape, spec.obs_size), np.float32),
        state=None if same else rng.standard_normal((rows, spec.state_size), np.float32),
        action=action,
        reward=rng.standard_normal(rows, np.float32),
        terminal=np.zeros(rows, np.bool_),
        truncated=truncated,
        starts=np.arange(episodes) * per_episode,
        legal=np.ones((*shape, spec.action_size), np.bool_) if spec.discrete else None,
        card=Card(),
    )


def clocked(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of ``work``, the device's included."""
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def machine() -> str:
    """The processor and the versions that a figure depends on."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = (
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        )
        name = next(lines, name)
    return f"{name}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"


def command() -> str:
    """The command that is running, from the repository's root."""
    return shlex.join(["python", f"benchmarks/speed/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[Any]], text_columns: int = 1) -> None:
    """Print a table, the first columns to the left and the others to the right."""
    table = Table(title=title)
    for k, name in enumerate(header):
        table.add_column(name, justify="left" if k < text_columns else "right", no_wrap=True)
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=max(Console().width, 110)).print(table)


def write_csv(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Write a table, each line with the machine and the command that made it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*header, "machine", "command"])
    writer.writerows([*row, machine(), command()] for row in rows)
    write_text_atomic(path, text.getvalue())
