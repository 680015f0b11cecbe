"""``marlzoo sweep``: settings by grid, at random or adaptively, and which of them reached most."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from marlzoo.cli._costs import costs_json, shown_costs
from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse, toml_values
from marlzoo.errors import ConfigError
from marlzoo.system.machine import usable_device

if TYPE_CHECKING:
    from marlzoo.benchmarks.suites import Suite


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
    threads: int = 0
    """threads of torch in each process (default: cores / processes, or as torch is set for one process)"""
    check_data: bool = True
    """compare data and simulator before training"""
    set: tuple[str, ...] = ()
    """other fields of the suite, NAME=VALUE with a value as in TOML: config.hidden=32 data.transitions=5000"""
    dry_run: bool = False
    """print runs, data, disk and hours from a short measurement, and train nothing"""
    json: bool = False
    """print the ranking as JSON, or what --dry-run prints, and everything else on stderr"""


def run(arguments: Sequence[str]) -> int:
    """Sweep, and print the ranking and the best settings."""
    options = parse(Options, "sweep", arguments)
    usable_device(options.device)
    over: dict[str, str] = {}
    for text in options.over:
        name, sign, values = text.partition("=")
        if not name or not sign:
            raise ConfigError(f"--over {text!r}: write it as NAME=VALUES")
        if name in over:  # the later one would take the place of the earlier one
            raise ConfigError(f"--over names {name} twice; write {name}={over[name]},{values} or one range")
        over[name] = values
    from marlzoo.benchmarks.analysis import records
    from marlzoo.benchmarks.suites import find_suite
    from marlzoo.benchmarks.sweeps import sweep
    from marlzoo.console import console as plain_console

    suite = find_suite(options.suite, toml_values(options.set))
    if options.dry_run:
        return _show_costs(suite, over, options)
    found = sweep(
        suite,
        over,
        **_selection(options),
        optuna=options.optuna,
        out=options.out,
        device=options.device,
        max_replicas=options.max_replicas,
        processes=options.processes,
        threads=options.threads,
        check_data=options.check_data,
        changes=options.set,
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
        for line in found.edges():
            print(line)
    return 0


def _selection(options: Options) -> dict[str, Any]:
    """What decides which runs a sweep has."""
    return {name: getattr(options, name) for name in ("random", "random_seed", "seeds", "methods", "updates")}


def _show_costs(suite: Suite, over: Mapping[str, str], options: Options) -> int:
    """Print what a sweep still costs."""
    if options.optuna:
        raise ConfigError("--dry-run tells what a grid or a draw costs; Optuna chooses settings as it goes")
    from marlzoo.benchmarks.split import require_replicas
    from marlzoo.benchmarks.sweeps import sweep_split, swept_suite
    from marlzoo.console import console as plain_console

    # What would be refused is refused here, too.
    sweep_split(options.processes, options.threads)
    require_replicas(options.max_replicas)
    swept = swept_suite(suite, over, **_selection(options))
    found = shown_costs(swept, options.out, plain_console(stderr=options.json))
    if options.json:
        print(costs_json(found))
    return 0
