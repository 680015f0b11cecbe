"""The options of ``marlzoo train``: from data, or online."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from marlzoo.cli._lazy import tyro
from marlzoo.config import Precision
from marlzoo.defaults import UPDATES


@dataclass(frozen=True)
class Where:
    """Where a suite's groups are trained; see :class:`marlzoo.benchmarks.launchers.Place`."""

    on: Literal["local", "ray", "slurm"] = "local"
    """train on this machine, on a Ray cluster, or in SLURM jobs"""
    address: str = ""
    """with --on ray: HOST:PORT of the cluster's head, or auto (default: a Ray of its own on this machine)"""
    gpus: float | None = None
    """on a cluster: GPUs of each group, with Ray also a fraction (default: one with --device cuda; with Ray
    a fourth where no layer has more than 64 units)"""
    array: int = 0
    """on a cluster: largest number of groups at a time (default: as many as it has room for)"""
    partition: str = ""
    """with --on slurm: its partition (default: SLURM's)"""
    time: str = ""
    """with --on slurm: limit of each job, minutes or D-HH:MM:SS, after which it is requeued (default: 4 hours)"""
    storage: str = ""
    """folder or URL (s3://, gs://: extra storage) that checkpoints are copied to, and fetched from if missing"""


@dataclass
class Offline:
    """Train on datasets and evaluate in the simulator; the same command resumes after an interruption."""

    data: tuple[str, ...]
    """names or files of datasets of one task; every seed is trained on each of them, all in lockstep"""
    task: str = ""
    """task to evaluate in, where a dataset's card names none"""
    seeds: tuple[int, ...] = (0,)
    """one replica per seed and dataset"""
    env: tuple[str, ...] = ()
    """options of the task's environment, for instance flavor=original"""
    preset: str = ""
    """preset that the method starts from (default: the task's)"""
    updates: int = UPDATES
    """gradient updates"""
    eval_every: int = 5000
    """updates between evaluations"""
    episodes: int = 10
    """evaluation episodes per seed (0: train without the simulator, and evaluate nothing)"""
    horizon: int = 0
    """step limit of an evaluation episode (default: the task's)"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    precision: Precision = "float32"
    """precision of matrix products: tf32 (on GPUs) and bf16 are faster and less accurate"""
    out: Path = Path("results")
    """results go to OUT/NAME: rows.csv, tables and checkpoints"""
    name: str = ""
    """name of the run (default: train-METHOD-TASK)"""
    log: tuple[str, ...] = ()
    """further loggers beside the CSV files: tensorboard, wandb, or one that a plugin registers"""
    max_replicas: int = 20
    """largest number of replicas that train together"""
    threads: int = 0
    """threads of torch (default: as torch is set); with --on: CPUs of each group (default: one)"""
    where: Annotated[Where, tyro.conf.arg(name="")] = Where()
    """where groups are trained"""
    check_data: bool = True
    """compare data and simulator before training"""
    force: bool = False
    """train everything again; the old rows go to replaced.csv"""


@dataclass
class Online:
    """Train by acting in the simulator; the same command resumes after an interruption."""

    task: str
    """full task name, for instance mamujoco/hopper-3x1"""
    steps: int = 1_000_000
    """team steps per seed, summed over all environments"""
    seeds: tuple[int, ...] = (0,)
    """one replica per seed"""
    env: tuple[str, ...] = ()
    """options of the task's environment, for instance flavor=original"""
    preset: str = ""
    """preset that the method starts from (default: the task's)"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    out: Path = Path("results")
    """results go to OUT/NAME: curve.csv, metrics.csv and checkpoint.npz"""
    name: str = ""
    """name of the run (default: train-METHOD-TASK)"""
    log: tuple[str, ...] = ()
    """further loggers beside the CSV files: tensorboard, wandb, or one that a plugin registers"""
    log_every: int = 10
    """updates between two points of the learning curve"""
