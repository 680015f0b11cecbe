"""What the speed scripts share: random data of a task's shape, clocks, and how tables are printed and written."""

from __future__ import annotations

import csv
import io
import math
import os
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
from marlzoo.spec import Spec
from marlzoo.system.files import write_text_atomic
from marlzoo.system.machine import processor
from marlzoo.training.precision import SETTINGS

FLOAT32_ERROR = 2e-6  # relative, of products over 1024 terms; tf32 and bf16 are beyond 1e-4
CPU = torch.device("cpu")
EDGE = 1024  # of the matrices whose products give the machine's rate


def load_average() -> float:
    """Processes that ran or waited to run in the last minute; NaN where the system does not tell (Windows)."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else math.nan


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
        reward=rng.standard_normal(shape if spec.reward_per_agent else rows, np.float32),
        terminal=np.zeros(rows, np.bool_),
        truncated=truncated,
        starts=np.arange(episodes) * per_episode,
        action_mask=np.ones((*shape, spec.action_size), np.bool_) if spec.discrete else None,
        card=Card(),
    )


def clocked(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of ``work``, the device's included."""
    started = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - started


def wait_for(device: torch.device) -> None:
    """Until a GPU has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def rate_of(work: Callable[[], object], seconds: float, device: torch.device = CPU) -> tuple[float, float]:
    """Calls per second, and per second of processor time, over about ``seconds``; the device's work included."""
    wait_for(device)
    done = 0
    start = time.perf_counter()
    busy = time.process_time()
    while not done or time.perf_counter() - start < seconds:
        work()
        done += 1
    wait_for(device)
    spent = time.perf_counter() - start
    return done / spent, done / (time.process_time() - busy)


def matrix_rate(setting: str, dtype: torch.dtype, seconds: float) -> tuple[float, float]:
    """GFLOP per second of the quickest large product, and its relative error against float64.

    Seconds are those of the processor with one thread, else those of the clock.
    """
    torch.set_float32_matmul_precision(setting)
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(EDGE, EDGE, generator=generator) for _ in range(2))
    exact = a.double() @ b.double()
    a = a.to(dtype)
    b = b.to(dtype)
    error = float((a @ b - exact).norm() / exact.norm())
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best = float("inf")
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        began = clock()
        torch.mm(a, b)
        best = min(best, clock() - began)
    return 2e-9 * EDGE**3 / best, error


def best_matrix_rate(seconds: float) -> float:
    """One thread's float32 GFLOP/s with the best of torch's settings that are accurate; leaves torch as it was."""
    before = torch.get_float32_matmul_precision()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        found = [matrix_rate(setting, torch.float32, seconds) for setting in SETTINGS]
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(before)
    return max(rate for rate, error in found if error < FLOAT32_ERROR)


def machine() -> str:
    """The processor and the versions that a figure depends on."""
    return (
        f"{processor()}, {platform.system()}, Python {platform.python_version()}, torch {torch.__version__}"
    )


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
