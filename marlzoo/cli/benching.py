"""``marlzoo bench``: run a suite, or what is missing of it, and print its table."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from marlzoo.cli._parse import parse, usable_device
from marlzoo.config import Precision
from marlzoo.errors import ConfigError, UnknownNameError


@dataclass
class Options:
    """Run a suite: make its data, train, evaluate, write OUT/SUITE. The same command goes on where it stopped."""

    suite: Annotated[str, tyro.conf.Positional]
    """name of a built-in suite (marlzoo list suites) or a file ending in .toml"""
    out: Path = Path("results")
    """folder of the results"""
    seeds: tuple[int, ...] = ()
    """instead of the suite's"""
    methods: tuple[str, ...] = ()
    """only these of the suite's methods"""
    updates: int = 0
    """instead of the suite's"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    precision: Precision | Literal[""] = ""
    """of matrix products while training, instead of the suite's"""
    max_replicas: int = 20
    """most replicas in one lockstep group"""
    processes: int = 0
    """that train side by side (0: what this machine is measured to do best, once)"""
    threads: int = 0
    """of torch in each process, where processes are given (0: cores / processes)"""
    check_data: bool = True
    """compare data and simulator before training"""
    rerun: tuple[str, ...] = ()
    """train these methods anew; their rows go to replaced.csv"""
    force: bool = False
    """train all methods anew"""


def run(arguments: Sequence[str]) -> int:
    """Run the suite that the arguments name, with what they change."""
    from marlzoo.benchmarks.suites import SUITES, find_suite

    if not arguments:
        raise ConfigError(
            f"marlzoo bench: name a suite, one of {', '.join(SUITES)}, or a file ending in .toml"
        )
    options = parse(Options, "bench", arguments)
    suite = find_suite(options.suite)
    usable_device(options.device)
    from marlzoo.benchmarks.plan import expanded
    from marlzoo.benchmarks.runner import run_suite
    from marlzoo.benchmarks.split import split_of

    suite = expanded(suite)
    if options.methods:
        known = [learner.method for learner in suite.learners]
        for method in options.methods:
            if method not in known:
                raise UnknownNameError(f"method of suite {suite.name!r}", method, known)
        learners = tuple(learner for learner in suite.learners if learner.method in options.methods)
        suite = replace(suite, learners=learners)
    if options.seeds:
        suite = replace(suite, seeds=options.seeds)
    if options.updates:
        suite = replace(suite, updates=options.updates)
    if options.precision:
        suite = replace(suite, precision=options.precision)
    finished = run_suite(
        suite,
        out=options.out,
        device=options.device,
        max_replicas=options.max_replicas,
        check_data=options.check_data,
        split=split_of(options.processes, options.threads),
        rerun=options.rerun,
        force=options.force,
        command=shlex.join(["marlzoo", "bench", *_settled(arguments)]),
    )
    return 1 if finished.failures else 0


def _settled(arguments: Sequence[str]) -> list[str]:
    """The arguments that make the table again: without those that only say what is trained anew."""
    kept: list[str] = []
    skipping = False
    for argument in arguments:
        skipping = argument == "--rerun" or (skipping and not argument.startswith("--"))
        if not skipping and argument != "--force":
            kept.append(argument)
    return kept
