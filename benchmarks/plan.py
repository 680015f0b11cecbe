"""From a suite to lockstep groups: which data, which settings, which runs are still to be done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from marlzoo.config import replica_configs
from marlzoo.data.computed import computed_qualities
from marlzoo.data.dataset import Dataset
from marlzoo.data.load import load_dataset, read_card
from marlzoo.errors import DataError, SpecError
from marlzoo.recording.recipes import collect
from marlzoo.registry import find_method, method_names, preset_of, task_spec
from marlzoo.spec import Spec

from .results import RUN, Results
from .suites import EVERY, REGENERATED, Data, Learner, Suite

ProgressReporter = Callable[[int, int], None]
"""Called while data are made: transitions so far, transitions in all."""


_DONE = (*RUN, "episodes", "updates")


@dataclass(frozen=True)
class Source:
    """A dataset that is there: where, under which names its rows go, and what identifies it.

    ``options`` are those of data that are computed.
    """

    entry: Data
    path: str
    task: str
    source: str
    quality: str
    hash: str
    behavior: float
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self) -> Dataset:
        """The dataset."""
        return load_dataset(self.path, **self.options)


@dataclass(frozen=True)
class Run:
    """One method with one configuration on one dataset with one seed."""

    source: Source
    learner: Learner
    seed: int
    config_hash: str

    def key(self, suite: Suite) -> tuple[Any, ...]:
        """Values of the columns :data:`_DONE` in the row that says that this run is done."""
        source, learner = self.source, self.learner
        names = (suite.name, source.task, source.source, source.quality, learner.method, learner.variant)
        return (*names, self.seed, self.config_hash, source.hash, suite.episodes, suite.updates)


@dataclass(frozen=True)
class Group:
    """Runs that train as the replicas of one learner: same task, method and settings."""

    task: str
    env: Mapping[str, Any]
    spec: Spec
    learner: Learner
    runs: tuple[Run, ...]

    @property
    def label(self) -> str:
        """For people: what is trained on what."""
        names = ", ".join(dict.fromkeys(run.source.quality for run in self.runs))
        settings = f" ({self.learner.variant})" if self.learner.variant else ""
        return f"{self.learner.method}{settings} on {self.task} {names}"

    def checkpoint(self, folder: Path, suite: Suite) -> Path:
        """File of this group's state: named after all that decides its course and its evaluations."""
        parts = [[run.source.hash, run.seed, run.config_hash] for run in self.runs]
        text = json.dumps([self.learner.method, self.task, parts, suite.episodes])
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        task = self.task.replace("/", "-")
        return folder / f"{self.learner.method}-{task}-{name}.npz"


def config_hash(suite: Suite, learner: Learner, task: str, env: Mapping[str, Any]) -> str:
    """Identifies a learner's settings (preset of the task's family included), its evaluation and its precision.

    Raises:
        UnknownNameError: no such method or setting.
        ConfigError: a setting out of its range.
    """
    cls = find_method(learner.method)
    preset = preset_of(cls, task.partition("/")[0])
    config = replica_configs(cls.config_class, 1, learner.config, preset)[0]
    parts: list[Any] = [config.to_dict(), suite.horizon, dict(env)]
    if suite.precision != "float32":
        parts.append(suite.precision)
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def expanded(suite: Suite) -> Suite:
    """The suite with every learner named ``*`` replaced by all methods that can learn from its data.

    Each method takes those of the learner's settings that it has.
    """
    if all(learner.method != EVERY for learner in suite.learners):
        return suite
    kinds = set()
    for data in suite.data:
        task = data.task or read_card(data.file).task  # a file's card names it
        if task:
            kinds.add(task_spec(task, **data.env).action_kind)
    learners: list[Learner] = []
    for learner in suite.learners:
        if learner.method != EVERY:
            learners.append(learner)
            continue
        for name in method_names():
            cls = find_method(name)
            if cls.sampling != "online" and kinds <= set(cls.actions):
                known = {setting.name for setting in fields(cls.config_class)}
                learners.append(Learner(name, {k: v for k, v in learner.config.items() if k in known}))
    return replace(suite, learners=tuple(learners))


def validate(suite: Suite) -> None:
    """Find wrong names and settings before any work is done.

    Raises:
        UnknownNameError: no such task, method or setting.
        ConfigError: a setting out of its range.
        SpecError: a method that does not handle a task, or learns online.
    """
    for learner in suite.learners:
        cls = find_method(learner.method)
        if cls.sampling == "online":
            raise SpecError(
                f"suite {suite.name!r}: {learner.method} learns online, not from data; "
                f"train it with: marlzoo train {learner.method} --task TASK"
            )
        for data in suite.data:
            config_hash(suite, learner, data.task, data.env)
            if data.task and (kind := task_spec(data.task, **data.env).action_kind) not in cls.actions:
                raise SpecError(
                    f"suite {suite.name!r}: {learner.method} handles {' and '.join(cls.actions)} actions, "
                    f"but {data.task} has {kind} ones"
                )


def recipe_file(data: Data, folder: Path) -> Path | None:
    """Where a regenerated dataset goes; None for one that is not regenerated, or computed when it is loaded."""
    if data.file or data.source != REGENERATED or computed_qualities(data.task):
        return None
    return folder / data.task / data.source / f"{data.quality}-n{data.transitions}-s{data.seed}.hdf5"


def obtain(data: Data, folder: Path, report: ProgressReporter) -> Source:
    """Find a dataset, or make it by its recipe under ``folder``.

    Raises:
        DataError: it is missing (the text says how to get it), broken, or of another task.
        OutputError: the regenerated file cannot be written.
    """
    file = recipe_file(data, folder)
    if file is None:
        path = data.file or f"{data.task}/{data.source}/{data.quality}"
    else:
        path = str(file)
        if not file.exists():
            collect(data.task, data.quality, data.transitions, data.seed, file, report)
    options = computed_options(data)
    card = read_card(path, **options)
    task = data.task or card.task
    if not task or card.task not in ("", task):
        raise DataError(
            f"{path}: the task asked for is {data.task or '?'}, the dataset's card says {card.task or '?'}; "
            "give the dataset's own task, or another dataset"
        )
    return Source(
        entry=data,
        path=path,
        task=task,
        source=(card.source or "file") if data.file else data.source,
        quality=data.quality or card.quality or Path(path).stem,
        hash=card.content_hash or load_dataset(path, **options).content_hash,
        behavior=card.mean_return,
        options=options,
    )


def computed_options(data: Data) -> dict[str, Any]:
    """Options with which a dataset is computed: those of its task's environment, and its seed."""
    if data.file or data.source != REGENERATED or not computed_qualities(data.task):
        return {}
    return {**data.env, **({"seed": data.seed} if data.seed else {})}


def pending(suite: Suite, sources: Sequence[Source], results: Results) -> list[Run]:
    """Runs without a row at the suite's last update, ordered by task, then learner, dataset and seed."""
    done = {tuple(getattr(row, name) for name in _DONE) for row in results.rows()}
    runs = []
    for task in dict.fromkeys(source.task for source in sources):
        for learner in suite.learners:
            for source in (source for source in sources if source.task == task):
                hashed = config_hash(suite, learner, task, source.entry.env)
                runs += [Run(source, learner, seed, hashed) for seed in suite.seeds]
    return [run for run in runs if run.key(suite) not in done]


def groups(runs: Sequence[Run], max_replicas: int) -> list[Group]:
    """Put runs that can share a lockstep learner together, at most ``max_replicas`` in each."""
    together: dict[str, list[Run]] = {}
    for run in runs:
        key = [run.source.task, dict(run.source.entry.env), run.learner.method, run.config_hash]
        together.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    made = []
    for members in together.values():
        for first in range(0, len(members), max_replicas):
            part = tuple(members[first : first + max_replicas])
            source = part[0].source
            spec = task_spec(source.task, **source.entry.env)
            made.append(Group(source.task, source.entry.env, spec, part[0].learner, part))
    return made
