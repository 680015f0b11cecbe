"""``marlzoo sweep``: settings by grid, at random or adaptively, and which of them reached most."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse
from marlzoo.errors import ConfigError
from marlzoo.system.machine import usable_device


@dataclass
class Options:
    """Train a suite's learners with many settings and rank them; float settings are replicas of one run."""

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """name of a built-in suite (marlzoo list suites) or a file ending in .toml"""
    over: tuple[str, ...]
    """NAME=VALUE,VALUE,... or NAME=LOW..HIGH:log:COUNT (without :log evenly), for instance alpha=0.3,1,3"""
    random: int = 0
    """draw so many settings at random instead of the whole grid; ranges then need no COUNT"""
    optuna: int = 0
    """let Optuna propose so many settings per method instead, from what earlier ones reached (extra optuna)"""
    random_seed: int = 0
    """random seed of the draw or the proposals"""
    out: Path = Path("results")
    """results go to OUT/SUITE-sweep: rows.csv, sweep.csv, sweep.png and best.toml"""
    seeds: tuple[int, ...] = ()
    """one replica per seed and dataset (default: the suite's)"""
    methods: tuple[str, ...] = ()
    """only these methods (default: all of the suite's)"""
    updates: int = 0
    """gradient updates (default: the suite's)"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    max_replicas: int = 20
    """largest number of replicas that train together"""
    processes: int = 1
    """number of training processes (0: one per core for large suites)"""
    check_data: bool = True
    """compare data and simulator before training"""
    json: bool = False
    """print the ranking as JSON, and everything else on stderr"""


def run(arguments: Sequence[str]) -> int:
    """Sweep, and print the ranking and the best settings."""
    options = parse(Options, "sweep", arguments)
    usable_device(options.device)
    over = {}
    for text in options.over:
        name, sign, values = text.partition("=")
        if not name or not sign:
            raise ConfigError(f"--over {text!r}: write it as NAME=VALUES")
        over[name] = values
    from marlzoo.benchmarks.analysis import records
    from marlzoo.benchmarks.sweeps import sweep
    from marlzoo.console import console as plain_console

    found = sweep(
        options.suite,
        over,
        random=options.random,
        optuna=options.optuna,
        random_seed=options.random_seed,
        out=options.out,
        seeds=options.seeds,
        methods=options.methods,
        updates=options.updates,
        device=options.device,
        max_replicas=options.max_replicas,
        processes=options.processes,
        check_data=options.check_data,
        command=shlex.join(["marlzoo", "sweep", *arguments]),
        console=plain_console(stderr=True),
    )
    if options.json:
        print(json.dumps(records(found.table()), indent=2))
    else:
        print(found.table().to_string(index=False, float_format=lambda value: f"{value:.4g}"))
        print(
            f"\nBest settings, for a suite's file ({found.results.folders[0] / 'best.toml'}):\n\n{found.toml()}"
        )
    return 0
