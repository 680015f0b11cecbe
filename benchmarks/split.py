"""How a suite's groups are spread over processes, threads and replicas.

A replica's numbers do not depend on the split (up to float rounding): every run has its own streams and rows. What
it changes is the time, and into which checkpoints unfinished runs go; the default is a rule, so that the same command
resumes with the same groups.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from marlzoo.errors import ConfigError
from marlzoo.registry import make

from .plan import Group, Run, groups
from .sources import Source
from .suites import Suite

WORTH_SPLITTING = 30_000  # seed-updates; fewer take seconds, and starting further processes takes some, too
# Larger groups lose to the cache: of OMIGA's networks this admits about 5 replicas at width 256, 20 at width 64
# (results/speed/ratios.md).
CACHE_BYTES = 16 << 20
MOST_THREADS = 256  # of a process, unless it has more cores


@dataclass(frozen=True)
class Split:
    """Processes, torch threads of each (0: torch's own number), and most replicas in a group (0: no limit).

    Raises:
        ConfigError: a negative number, or no process.
    """

    processes: int = 1
    threads: int = 0
    replicas: int = 0

    def __post_init__(self) -> None:
        for name, least in (("processes", 1), ("threads", 0), ("replicas", 0)):
            if (value := getattr(self, name)) < least:
                raise ConfigError(f"{name} is {value}; it must be at least {least}")
        if self.threads > max(
            MOST_THREADS, os.cpu_count() or 1
        ):  # OpenMP ends the process where memory is short
            raise ConfigError(
                f"threads is {self.threads}; it must be at most {MOST_THREADS}, or the number of cores"
            )


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def split_of(processes: int, threads: int) -> Split | None:
    """The requested split; None if no processes are given, so that it has to be chosen.

    Raises:
        ConfigError: a negative number, or threads without processes.
    """
    if not processes and threads:
        raise ConfigError("threads are those of each process; give a positive --processes too")
    return Split(processes, threads or max(1, cores() // processes)) if processes else None


def split_on(on: str, processes: int, threads: int) -> Split | None:
    """The split that was asked for on a place; see :class:`marlzoo.benchmarks.launchers.Place`.

    Raises:
        ConfigError: a negative number, or processes on a cluster.
    """
    if on == "local":
        return split_of(processes, threads)
    if processes:
        raise ConfigError(
            f"--processes is for --on local; with --on {on} --array limits the groups that train at a time"
        )
    return Split(1, threads)


def require_replicas(most: int) -> None:
    """Refuse groups without replicas.

    Raises:
        ConfigError: less than one.
    """
    if most < 1:
        raise ConfigError(f"max_replicas is {most}; it must be at least 1")


@contextlib.contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use ``count`` threads (0: as many as before) until the block ends."""
    if not count:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def group_size(suite: Suite, sources: Sequence[Source], split: Split, max_replicas: int) -> int:
    """Most replicas of a group, so that every process has one to train.

    It follows from the whole suite and not from what is missing, so that groups stay the same over interruptions.
    """
    most = min(max_replicas, split.replicas or max_replicas)
    per_task = [sum(source.task == task for source in sources) for task in {s.task for s in sources}]
    runs = [count * len(suite.seeds) for count in per_task for _ in suite.learners]
    while most > 1 and sum(math.ceil(count / most) for count in runs) < split.processes:
        most -= 1
    return most


def default_split(suite: Suite, missing: Sequence[Run], max_replicas: int) -> Split:
    """One single-threaded process per core, and groups whose parameters fit into a core's cache.

    Small suites stay in one process, where starting others costs more than it saves. The rule does not look at the
    processor's speed, so that the same suite has the same groups on every machine.

    Args:
        suite: that is trained.
        missing: its runs that are still to be done.
        max_replicas: most replicas in a group.
    """
    if not missing:
        return Split()
    replicas = _largest_in_cache(suite, missing, max_replicas)
    small = sum(suite.updates_on(run.source.entry) for run in missing) < WORTH_SPLITTING
    return Split(replicas=replicas) if small or cores() == 1 else Split(cores(), 1, replicas)


def cluster_split(
    suite: Suite, runs: Sequence[Run], max_replicas: int, device: str, asked: Split | None
) -> Split:
    """How groups are trained on a cluster: each in a process of its own, on a CPU with parameters that fit a cache.

    It looks at all runs, so that a suite has the same groups however much of it is done.

    Args:
        suite: that is trained.
        runs: all of them.
        max_replicas: most replicas in a group.
        device: that groups train on.
        asked: the threads of each group; None: one.
    """
    threads = max(asked.threads, 1) if asked else 1
    if not runs or device != "cpu":
        return Split(threads=threads)
    return Split(threads=threads, replicas=_largest_in_cache(suite, runs, max_replicas))


def _largest_in_cache(suite: Suite, runs: Sequence[Run], max_replicas: int) -> int:
    """Number of replicas whose parameters fit into the cache, for the group with the largest networks."""
    made = groups(suite, runs, max_replicas)
    largest = max(made, key=lambda group: len(group.runs) * group.spec.n_agents)
    return replicas_in_cache(_parameter_bytes(largest), max_replicas)


def replicas_in_cache(parameter_bytes: int, most: int) -> int:
    """Replicas whose parameters, gradients and both moments of Adam fit into ``CACHE_BYTES``, from 1 to ``most``."""
    return max(1, min(most, CACHE_BYTES // (4 * parameter_bytes)))


def _parameter_bytes(group: Group) -> int:
    """Size of one replica's parameters, targets included."""
    learner = make(group.learner.method, group.spec, seeds=[0], **group.settings_of(0))
    return sum(parameter.nbytes for parameter in learner.parameters())
