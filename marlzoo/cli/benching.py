"""``marlzoo bench``: run a suite, or its missing part, and print its table."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from marlzoo.cli._costs import costs_json, shown_costs
from marlzoo.cli._lazy import tyro
from marlzoo.cli._options import Where
from marlzoo.cli._parse import parse, toml_values
from marlzoo.config import Precision
from marlzoo.errors import ConfigError
from marlzoo.system.machine import usable_device

if TYPE_CHECKING:
    from marlzoo.benchmarks.launchers import Place
    from marlzoo.benchmarks.suites import Suite


@dataclass
class Options:
    """Run a suite: make its data, train, evaluate, write OUT/SUITE. The same command resumes where it stopped."""

    suite: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SUITE")]
    """name of a built-in suite (marlzoo list suites) or a file ending in .toml"""
    out: Path = Path("results")
    """folder of the results"""
    seeds: tuple[int, ...] = ()
    """one replica per seed and dataset (default: the suite's)"""
    methods: tuple[str, ...] = ()
    """only these methods (default: all of the suite's)"""
    tasks: tuple[str, ...] = ()
    """only data of these tasks (default: all of the suite's)"""
    qualities: tuple[str, ...] = ()
    """only data of these qualities (default: all of the suite's)"""
    updates: int = 0
    """gradient updates (default: the suite's)"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    precision: Precision | Literal[""] = ""
    """precision of matrix products while training (default: the suite's)"""
    max_replicas: int = 20
    """largest number of replicas that train together"""
    processes: int = 0
    """number of training processes (default: one, or one per core for large suites)"""
    threads: int = 0
    """threads of torch in each process, together with --processes (default: cores / processes)"""
    check_data: bool = True
    """compare data and simulator before training"""
    set: tuple[str, ...] = ()
    """other fields of the suite, NAME=VALUE with a value as in TOML: config.hidden=32 data.transitions=5000"""
    show: bool = False
    """print the suite as a TOML file, with all that its bases and these options say, and train nothing"""
    dry_run: bool = False
    """print runs, data, disk and hours from a short measurement, and train nothing"""
    hours: float = 0.0
    """train only the datasets, cheapest first, that are estimated to fit in so many hours (default: all)"""
    rerun: tuple[str, ...] = ()
    """train these methods again; their rows go to replaced.csv"""
    force: bool = False
    """train all methods again"""
    log: tuple[str, ...] = ()
    """further loggers beside the CSV files: tensorboard, wandb, or one that a plugin registers"""
    where: Annotated[Where, tyro.conf.arg(name="")] = Where()  # noqa: RUF009
    """where groups are trained"""
    status: bool = False
    """print which groups of the suite are queued, running, done or failed, and train nothing"""
    json: bool = False
    """print the table as JSON, or what --show, --dry-run and --status print, and everything else on stderr"""


def run(arguments: Sequence[str]) -> int:
    """Run the suite that the arguments name, with what they change."""
    if not arguments:
        from marlzoo.benchmarks.suites import SUITES

        raise ConfigError(
            f"marlzoo bench: name a suite, one of {', '.join(SUITES)}, or a file ending in .toml"
        )
    options = parse(Options, "bench", arguments)
    from marlzoo.benchmarks.bench import bench_show
    from marlzoo.benchmarks.suites import find_suite

    found = find_suite(options.suite, toml_values(options.set))
    suite = bench_show(
        found,
        seeds=options.seeds,
        methods=options.methods,
        tasks=options.tasks,
        qualities=options.qualities,
        updates=options.updates,
        precision=options.precision or None,
    )
    if options.show:
        from marlzoo.benchmarks.suite_toml import suite_toml

        text = suite_toml(suite)
        whole = {"name": suite.name} | tomllib.loads(text)
        print(json.dumps(whole, indent=2) if options.json else text.rstrip("\n"))
        return 0
    if options.status:
        return _status(suite, options)
    if options.where.on == "local":  # a cluster's nodes may have other devices
        usable_device(options.device)
    from marlzoo.benchmarks.estimate import require_hours
    from marlzoo.benchmarks.launchers import Place
    from marlzoo.benchmarks.plan import expanded
    from marlzoo.benchmarks.split import require_replicas, split_on

    # What the training would refuse is refused before its costs are measured.
    require_hours(options.hours)
    require_replicas(options.max_replicas)
    split_on(options.where.on, options.processes, options.threads)
    place = Place(**asdict(options.where))
    suite = expanded(suite)
    if options.dry_run or options.hours:
        suite = _planned(suite, options)
    if options.dry_run:
        return 0
    return _train(found, suite, options, place, shlex.join(["marlzoo", "bench", *_settled(arguments)]))


def _train(found: Suite, suite: Suite, options: Options, place: Place, command: str) -> int:
    """Train the missing runs of a suite, limited to what the options select."""
    from marlzoo.benchmarks.analysis import records, table
    from marlzoo.benchmarks.bench import select
    from marlzoo.benchmarks.membership import whole
    from marlzoo.benchmarks.runner import run_suite
    from marlzoo.benchmarks.split import split_on
    from marlzoo.benchmarks.suites import find_suite
    from marlzoo.console import console as plain_console

    full = whole(
        find_suite(options.suite),
        select(found, updates=options.updates, precision=options.precision or None),
    )
    finished = run_suite(
        suite,
        out=options.out,
        device=options.device,
        max_replicas=options.max_replicas,
        check_data=options.check_data,
        split=split_on(options.where.on, options.processes, options.threads),
        place=place,
        rerun=options.rerun,
        force=options.force,
        log=options.log,
        command=command,
        console=plain_console(stderr=options.json),
        whole=full,
    )
    if options.json:
        print(json.dumps(records(table(finished.folder)), indent=2))
    return 1 if finished.failures else 0


def _status(suite: Suite, options: Options) -> int:
    """Print how the groups of a suite stand."""
    from marlzoo.benchmarks.bench import bench_status
    from marlzoo.benchmarks.status import sheet
    from marlzoo.benchmarks.styles import terminal

    found = bench_status(suite, out=options.out)
    if options.json:
        print(json.dumps([asdict(group) for group in found], indent=2))
        return 0
    from marlzoo.console import console as plain_console

    plain_console().print(terminal(sheet(suite.name, found)), soft_wrap=True)
    return 0


def _settled(arguments: Sequence[str]) -> list[str]:
    """The arguments that make the table again: without those that only say what is trained again."""
    kept: list[str] = []
    skipping = False
    for argument in arguments:
        skipping = argument == "--rerun" or (skipping and not argument.startswith("--"))
        if not skipping and argument != "--force":
            kept.append(argument)
    return kept


def _planned(suite: Suite, options: Options) -> Suite:
    """Print what a suite still costs; the part of it that fits in the hours that were given."""
    from marlzoo.benchmarks import estimate
    from marlzoo.console import console as plain_console

    again = {learner.method for learner in suite.learners} if options.force else set(options.rerun)
    console = plain_console(stderr=options.json)
    found = shown_costs(suite, options.out, console, again)
    left = []
    if options.hours:
        suite, left = estimate.suite_within(suite, found, options.hours)
    if options.json and options.dry_run:
        print(costs_json(found, left))
    for line in estimate.left_out(left):
        console.print(line, highlight=False)
    return suite
