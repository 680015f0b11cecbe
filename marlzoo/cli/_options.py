"""The options of ``marlzoo train``: from data, or online."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from marlzoo.config import Precision
from marlzoo.defaults import UPDATES


@dataclass
class Offline:
    """Train on datasets and evaluate in the simulator; the same command goes on after an interruption."""

    data: tuple[str, ...]
    """names or files of datasets of one task; every seed is trained on each of them, all in lockstep"""
    task: str = ""
    """task to evaluate in, where a dataset's card names none"""
    seeds: tuple[int, ...] = (0,)
    """one replica per seed and dataset"""
    env: tuple[str, ...] = ()
    """options of the task's environment, for instance flavour=original"""
    updates: int = UPDATES
    """gradient updates"""
    eval_every: int = 5000
    """updates between evaluations"""
    episodes: int = 10
    """evaluation episodes per seed (0: train without the simulator, and evaluate nothing)"""
    horizon: int = 0
    """step limit of an evaluation episode (0: the task's)"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    precision: Precision = "float32"
    """of matrix products: tf32 on GPUs and bf16 are faster and less accurate"""
    out: Path = Path("results")
    """results go to OUT/NAME: rows.csv, tables and checkpoints"""
    name: str = ""
    """default: train-METHOD-TASK"""
    log: tuple[str, ...] = ()
    """further loggers beside the CSV files: tensorboard, wandb, or one that a plugin registers"""
    max_replicas: int = 20
    """most replicas in one lockstep group"""
    check_data: bool = True
    """compare data and simulator before training"""
    force: bool = False
    """train anew what is there; the old rows go to replaced.csv"""


@dataclass
class Online:
    """Train by acting in the simulator; the same command goes on after an interruption."""

    task: str
    """full task name, for instance mamujoco/hopper-3x1"""
    steps: int = 1_000_000
    """team steps per seed, all copies together"""
    seeds: tuple[int, ...] = (0,)
    """one replica per seed"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    out: Path = Path("results")
    """results go to OUT/NAME: curve.csv, metrics.csv and checkpoint.npz"""
    name: str = ""
    """default: train-METHOD-TASK"""
    log: tuple[str, ...] = ()
    """further loggers beside the CSV files: tensorboard, wandb, or one that a plugin registers"""
    log_every: int = 10
    """updates between two points of the learning curve"""
