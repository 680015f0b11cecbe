"""Remaining cost of a suite on this machine (runs, data, disk, hours), from a short measurement.

Every learner makes a few updates on random numbers of each task's shape, and plays a few steps in its simulator.
What counts is the time that a core spends on them, so that other work on the machine does not matter; hours are those
of all cores, each busy with a run of its own. Updates are timed uncompiled, and long runs are compiled: they take
rather less than what is estimated.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.console import counted
from marlzoo.data.catalog import published
from marlzoo.data.dataset import Dataset
from marlzoo.data.names import DatasetName
from marlzoo.data.once import reading_once
from marlzoo.errors import ConfigError, MissingDataError, MissingExtraError, MissingSimulatorError
from marlzoo.families import make_env, task_spec
from marlzoo.registry import make
from marlzoo.spec import Spec
from marlzoo.training.evaluation import evaluate

from .plan import (
    Run,
    config_hash,
    pending,
    runs_of,
    settings,
    takes_part,
)
from .results import ResultsFile
from .sheet import Sheet
from .sources import Source, is_missing, named, obtain, recipe_file, task_of
from .split import cores, torch_threads
from .suites import Data, Learner, Suite

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm

SECONDS = 0.15  # of each measurement, of one core
NUM_ENVS = 64  # of the simulator that is timed
STEPS = 5  # that are timed
HOUR = 3600.0
DOWNLOAD = "marlzoo data download"
MEGABYTE = 1e6


@dataclass(frozen=True)
class Rate:
    """Seconds of a core for one learner on one task, per seed."""

    update: float
    step: float  # of an evaluation episode
    checkpoint: int  # bytes of a replica's state


@dataclass
class Cost:
    """What one dataset of a suite still needs.

    Attributes:
        data: the dataset.
        there: whether it need not be made.
        bytes: of the dataset.
        runs: of all learners and seeds on it.
        missing: how many of them are not done, by learner.
        seconds: of one core, for the missing runs, by learner; making the data is under ``""``.
        checkpoints: bytes of the missing runs' states.
        lacks: how to get what is not here, the data and the simulator.
        absent: whether the data are not here and cannot be made.
    """

    data: Data
    there: bool
    bytes: int
    runs: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    checkpoints: int = 0
    lacks: tuple[str, ...] = ()
    absent: bool = False

    @property
    def label(self) -> str:
        """For people."""
        return f"{self.data.task} {self.data.quality}" if self.data.task else self.data.file

    @property
    def measured(self) -> bool:
        """Whether the hours of what is missing are known; without a simulator they are not."""
        return all(self.seconds.get(name) for name, count in self.missing.items() if count)

    @property
    def hours(self) -> float:
        """Of all cores, for everything that is missing."""
        return in_hours(sum(self.seconds.values()))


def in_hours(seconds: float) -> float:
    """Hours of this machine for seconds of one core."""
    return seconds / HOUR / cores()


def shown_hours(hours: float) -> str:
    """Hours for people, two digits after the point; less than they can show as ``<0.01``."""
    return "<0.01" if 0.0 < hours < 0.005 else f"{hours:.2f}"


@reading_once()
def costs(
    suite: Suite,
    out: Path,
    log: Callable[[str], None] = lambda text: None,
    rates: dict[str, Rate] | None = None,
    rerun: Collection[str] = (),
) -> list[Cost]:
    """What every dataset of a suite still needs, in the suite's order.

    Args:
        suite: expanded and validated.
        out: folder of the results.
        log: called with one line per measurement.
        rates: what other suites were measured with; what is new is added.
        rerun: methods that are trained again although they have results.

    Raises:
        MarlzooError: a dataset is broken, or does not fit its task.
    """
    results = ResultsFile(out / suite.name / "rows.csv")
    measured = _Rates(suite, log, {} if rates is None else rates)
    found = []
    # All data first: what is broken or does not fit is said before anything is measured.
    looked_up = [_looked_up(data, out / "data") for data in suite.data]
    for data, (source, there, lacks) in zip(suite.data, looked_up, strict=True):
        regenerated = recipe_file(data, out / "data") is not None
        task = task_of(data)
        spec = task_spec(task, **data.env)
        size = data.transitions * row_bytes(spec) if regenerated else 0
        cost = Cost(data, there, size, lacks=lacks, absent=bool(lacks))
        waiting = pending(suite, [source], results)
        runs = [r for r in runs_of(suite, [source]) if r.learner.method in rerun or r in waiting]
        for learner in suite.learners:
            if not takes_part(learner, source):
                continue
            missing = [run for run in runs if run.learner == learner]
            cost.runs += len(suite.seeds)
            cost.missing[_label(learner)] = len(missing)
            cost.seconds[_label(learner)] = 0.0
            rate = measured.of(learner, task, data, spec) if missing else None
            if rate is not None:
                _add(cost, suite, learner, missing, rate, spec)
            elif missing:
                cost.lacks = (*lacks, measured.absent[task])
        if not there and not lacks:
            cost.seconds[""] = data.transitions * measured.step(task)
        found.append(cost)
    return found


def _looked_up(data: Data, folder: Path) -> tuple[Source, bool, tuple[str, ...]]:
    """A dataset, whether it is there, and how to get it where it is neither there nor can be made."""
    if is_missing(data, folder):
        return named(data), False, ()
    try:
        return obtain(data, folder, lambda done, total: None), True, ()
    except MissingDataError as error:
        name = str(DatasetName(data.task, data.source, data.quality))
        known = not data.file and name in published()
        return named(data), False, (f"{DOWNLOAD} {name}" if known else str(error),)


class _Rates:
    """Measurements of a suite's learners, each taken when it is first asked for.

    Args:
        suite: with its seeds.
        log: called with one line per measurement.
        rates: those that are known already; what is new is added.
    """

    def __init__(self, suite: Suite, log: Callable[[str], None], rates: dict[str, Rate]) -> None:
        self.suite = suite
        self.log = log
        self.rates = rates
        self.absent: dict[str, str] = {}  # by task: how to install the simulator that is not there

    def of(self, learner: Learner, task: str, data: Data, spec: Spec) -> Rate | None:
        """A learner's rate on a task; None where the simulator is not there."""
        hashed = config_hash(self.suite, learner, task, data)
        key = json.dumps([task, dict(data.env), learner.method, hashed])
        if key not in self.rates and task not in self.absent:
            self.log(f"measuring {_label(learner)} on {task}")
            try:
                with torch_threads(1):
                    self.rates[key] = measure(self.suite, learner, task, data, spec)
            except (MissingExtraError, MissingSimulatorError) as error:
                self.absent[task] = str(error)
        return self.rates.get(key)

    def step(self, task: str) -> float:
        """The fewest seconds of a step of a task's simulator; 0 where nothing was measured."""
        return min((rate.step for key, rate in self.rates.items() if json.loads(key)[0] == task), default=0.0)


def _label(learner: Learner) -> str:
    return f"{learner.method} {learner.variant}".strip()


def _add(cost: Cost, suite: Suite, learner: Learner, missing: list[Run], rate: Rate, spec: Spec) -> None:
    """Put a learner's runs into a dataset's cost."""
    name = _label(learner)
    cost.seconds[name] = len(missing) * run_seconds(suite, cost.data, rate, spec)
    cost.checkpoints += len(missing) * rate.checkpoint


def run_seconds(suite: Suite, data: Data, rate: Rate, spec: Spec) -> float:
    """Seconds of one core for a run of a suite on a dataset: its updates, and episodes at full length."""
    updates = suite.updates_on(data)
    evaluations = -(-updates // suite.eval_every_on(data))
    episodes = evaluations * suite.episodes + suite.final_episodes
    return updates * rate.update + episodes * (suite.horizon or spec.horizon) * rate.step


def row_bytes(spec: Spec) -> int:
    """Bytes of a transition in a file, compression left out."""
    return sum(array.new(1).nbytes for array in spec.layout().values())


def measure(suite: Suite, learner: Learner, task: str, data: Data, spec: Spec) -> Rate:
    """A learner's costs per seed in a lockstep group of the suite's seeds."""
    replicas = len(suite.seeds)
    algorithm = make(
        learner.method,
        spec,
        seeds=list(suite.seeds),
        preset=learner.preset or None,
        **settings(suite, learner, data),
    )
    env = make_env(task, NUM_ENVS // replicas * replicas or replicas, **data.env)
    try:
        evaluate(algorithm.policy(), env, seeds=algorithm.seeds, horizon=STEPS)
        started = time.process_time()
        played = evaluate(algorithm.policy(), env, seeds=algorithm.seeds, horizon=STEPS)
        step = (time.process_time() - started) / max(int(played.lengths.sum()), 1)
    finally:
        env.close()
    state = sum(tensor.nbytes for tensor in algorithm.state_tensors().values())
    return Rate(_update(algorithm, rehearsal(spec)) / replicas, step, state // replicas)


def _update(algorithm: Algorithm, data: Dataset) -> float:
    """Seconds of a core for an update of all replicas."""
    from marlzoo.training.compilation import freed_memory_kept
    from marlzoo.training.trainer import make_sampler, prepare

    prepare(algorithm, [data])
    sampler = make_sampler(algorithm, [data])
    with freed_memory_kept():
        algorithm.update(sampler.next())  # the first one is slower
        done = 0
        started = time.process_time()
        while (spent := time.process_time() - started) < SECONDS or not done:
            algorithm.update(sampler.next())
            done += 1
    return spent / done


def rehearsal(spec: Spec) -> Dataset:
    """Two episodes of random numbers of a task's shape."""
    rng = np.random.default_rng(0)
    length = spec.horizon
    rows = 2 * (length + 1)
    terminal = np.zeros(rows, np.bool_)
    terminal[[length - 1, rows - 2]] = True
    shape = (rows, spec.n_agents)
    sizes = np.array(spec.action_sizes)
    action_mask = None
    if spec.discrete:
        action_mask = np.broadcast_to(
            np.arange(spec.action_size) < sizes[:, None], (*shape, spec.action_size)
        )
        action: NDArray[Any] = rng.integers(sizes, size=shape)
    else:
        used = np.arange(spec.action_size) < sizes[:, None]
        action = rng.uniform(-1.0, 1.0, (*shape, spec.action_size)) * used
    return Dataset.create(
        spec,
        obs=rng.normal(size=(*shape, spec.obs_size)),
        state=rng.normal(size=(rows, spec.state_size)),
        action=action,
        reward=rng.normal(size=shape if spec.reward_per_agent else rows),
        terminal=terminal,
        truncated=np.zeros(rows, np.bool_),
        starts=[0, length + 1],
        action_mask=action_mask,
    )


def _hours_of(name: str, found: Sequence[Cost]) -> str:
    """Hours of a learner on all data; unknown where nothing of it could be measured."""
    hours = in_hours(sum(cost.seconds.get(name, 0.0) for cost in found))
    return "?" if not hours and any(cost.missing.get(name) for cost in found) else shown_hours(hours)


def lacking(found: Sequence[Cost]) -> list[str]:
    """How to get what is not here, a line each, downloads as one command."""
    texts = dict.fromkeys(text for cost in found for text in cost.lacks)
    names = [text.removeprefix(f"{DOWNLOAD} ") for text in texts if text.startswith(DOWNLOAD)]
    others = [text for text in texts if not text.startswith(DOWNLOAD)]
    return [*([f"To fetch: {DOWNLOAD} {' '.join(names)}"] if names else []), *others]


def left_out(left: Sequence[Cost]) -> list[str]:
    """What is not trained because it does not fit in the hours, or is not here: a line each."""
    return [
        f"left out: {cost.label}, {'missing' if cost.lacks else f'about {shown_hours(cost.hours)} hours'}"
        for cost in left
    ]


def require_hours(hours: float) -> None:
    """Refuse a time in which nothing can be trained; 0 stands for any.

    Raises:
        ConfigError: negative, infinite or no number.
    """
    if not 0.0 <= hours < math.inf:
        raise ConfigError(f"hours is {hours:g}; it must be positive, or 0 to train everything")


def suite_within(suite: Suite, found: list[Cost], hours: float) -> tuple[Suite, list[Cost]]:
    """The suite's cheapest datasets, with all learners and seeds, that fit in some hours, and what is left out.

    Datasets and simulators that are not there are left out.

    Raises:
        ConfigError: not even the cheapest one fits.
    """
    spent = 0.0
    chosen = list[Data]()
    order = sorted((cost for cost in found if not cost.lacks), key=lambda cost: cost.hours)
    out_of_reach = [cost for cost in found if cost.lacks]
    if not order:
        raise ConfigError(f"suite {suite.name!r}: nothing can be trained yet: {out_of_reach[0].lacks[0]}")
    for cost in order:
        spent += cost.hours
        if spent > hours:
            break
        chosen.append(cost.data)
    if not chosen:
        raise ConfigError(
            f"suite {suite.name!r}: the cheapest dataset, {order[0].label}, needs about {order[0].hours:.2g} hours; "
            "give more, or fewer --tasks, --methods, --seeds or --updates"
        )
    left = [cost for cost in (*order, *out_of_reach) if cost.data not in chosen]
    return replace(suite, data=tuple(data for data in suite.data if data in chosen)), left


def sheets(suite: Suite, found: list[Cost]) -> list[Sheet]:
    """The plan as tables: one line per dataset, one line per learner."""
    body = []
    for cost in found:
        state = "there" if cost.there else f"to make, {cost.bytes / MEGABYTE:.0f} MB"
        state = "missing" if cost.absent else state
        hours = shown_hours(cost.hours) if cost.measured else "?"
        body.append([cost.label, state, f"{sum(cost.missing.values())} of {cost.runs}", hours])
    disk = sum(cost.checkpoints + (0 if cost.there else cost.bytes) for cost in found) / MEGABYTE
    runs = counted(sum(cost.runs for cost in found), "run")
    notes = [
        f"{runs}, {sum(sum(c.missing.values()) for c in found)} missing: about "
        f"{shown_hours(sum(cost.hours for cost in found))} hours on this machine's {cores()} cores and "
        f"{disk:.0f} MB of disk{'' if all(c.measured for c in found) else ', without those marked ?'}.",
        "Measured now on one core, uncompiled, episodes at full length: rather too much than too little.",
    ]
    names = dict.fromkeys(name for cost in found for name in cost.seconds if name)
    learners = [
        [
            name,
            str(sum(cost.missing.get(name, 0) for cost in found)),
            _hours_of(name, found),
        ]
        for name in names
    ]
    return [
        Sheet(f"Suite {suite.name}", ["dataset", "data", "runs missing", "hours"], body, notes=notes),
        Sheet("By learner", ["learner", "runs missing", "hours"], learners),
    ]
