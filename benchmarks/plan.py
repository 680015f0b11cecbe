"""From a suite to lockstep groups: which settings, which runs are still to be done, which train together."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.config import is_numeric, replica_configs
from marlzoo.data.computed import computed_qualities
from marlzoo.errors import ConfigError, PluginError, SpecError, UnknownNameError, placed
from marlzoo.families import task_spec
from marlzoo.registry import find_method, method_names, preset_of, require_read, unread_settings
from marlzoo.spec import Spec
from marlzoo.task import TaskName

from .results import RUN, ResultsFile, Row
from .row import run_name
from .sources import Source, kind_of, parts_of, recipe_file, task_of
from .suites import EVERY, REGENERATED, Data, Learner, Suite

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm


_DONE = (*RUN, "episodes", "updates")


@dataclass(frozen=True)
class Run:
    """One method with one configuration on one dataset with one seed."""

    source: Source
    learner: Learner
    seed: int
    config_hash: str

    def names(self, suite: Suite) -> dict[str, Any]:
        """Values of the columns :data:`marlzoo.benchmarks.row.RUN`."""
        source = self.source
        learner = self.learner
        return {
            "suite": suite.name,
            "task": source.task,
            "source": source.source,
            "quality": source.quality,
            "method": learner.method,
            "variant": learner.variant,
            "seed": self.seed,
            "config_hash": self.config_hash,
            "data_hash": source.hash,
        }

    def name(self, suite: Suite) -> str:
        """The run's short name in rows and files."""
        return run_name(**self.names(suite))

    def key(self, suite: Suite) -> tuple[Any, ...]:
        """Values of the columns :data:`_DONE` in the row that says that this run is done."""
        episodes = suite.final_episodes or suite.episodes
        updates = suite.updates_on(self.source.entry)
        return (*self.names(suite).values(), episodes, updates)


@dataclass(frozen=True)
class Group:
    """Runs that train as the replicas of one learner: same task, method, shared settings and number of updates.

    ``settings`` are those of :func:`marlzoo.make`, a chosen preset included; a list gives every replica a value.
    """

    task: str
    env: Mapping[str, Any]
    spec: Spec
    learner: Learner
    settings: Mapping[str, Any]
    updates: int
    eval_every: int
    runs: tuple[Run, ...]

    def settings_of(self, replica: int) -> dict[str, Any]:
        """The settings of one replica, for a learner of its own."""
        cls = find_method(self.learner.method).config_class
        return {
            name: value[replica] if isinstance(value, list) and is_numeric(cls, name) else value
            for name, value in self.settings.items()
        }

    @property
    def label(self) -> str:
        """Readable name: learner and datasets."""
        settings = f" ({self.learner.variant})" if self.learner.variant else ""
        return f"{self.learner.method}{settings} on {self.data_label}"

    @property
    def data_label(self) -> str:
        """For people: the task and the qualities of its data."""
        return f"{self.task} {', '.join(dict.fromkeys(run.source.quality for run in self.runs))}"

    def checkpoint(self, folder: Path, suite: Suite) -> Path:
        """File of this group's state: named after all that decides its course and its evaluations."""
        parts = [[run.source.hash, run.seed, run.config_hash] for run in self.runs]
        chosen = [self.learner.preset] if self.learner.preset else []
        text = json.dumps([self.learner.method, self.task, parts, suite.episodes, *chosen])
        name = hashlib.sha256(text.encode()).hexdigest()[:12]
        return folder / f"{self.learner.method}-{TaskName.parse(self.task).slug()}-{name}.npz"


def settings(suite: Suite, learner: Learner, entry: Data) -> dict[str, Any]:
    """A learner's settings on a dataset: the suite's that it reads, overridden by the dataset's, then by its own.

    Raises:
        UnknownNameError: no such method, or a setting of its own that it does not have.
    """
    known = setting_names(find_method(learner.method))
    shared = {name: value for name, value in {**suite.config, **entry.config}.items() if name in known}
    return shared | dict(learner.config)


def setting_names(cls: type[Algorithm]) -> set[str]:
    """Names of the settings that a method reads."""
    return {setting.name for setting in fields(cls.config_class)} - set(unread_settings(cls))


def config_hash(suite: Suite, learner: Learner, task: str, entry: Data) -> str:
    """Identifies a learner's settings (preset of the task's family included), its evaluation and its precision.

    Raises:
        UnknownNameError: no such method, preset or setting.
        ConfigError: a setting out of its range.
    """
    cls = find_method(learner.method)
    # A dataset's file may name its task only when it is opened; until then the settings' names are checked.
    preset = _preset(learner, task, entry) if task else {}
    config = replica_configs(cls.config_class, 1, settings(suite, learner, entry), preset)[0]
    parts: list[Any] = [config.to_dict(), suite.horizon, dict(entry.env)]
    if suite.precision != "float32":
        parts.append(suite.precision)
    text = json.dumps(parts, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def expanded(suite: Suite) -> Suite:
    """The suite with every learner named ``*`` replaced by all methods that can learn from some of its data.

    Each method takes those of the learner's settings that it reads.
    """
    if all(learner.method != EVERY for learner in suite.learners):
        return suite
    tasks = [(task_of(data), data) for data in suite.data]
    kinds = {kind_of(task, data) for task, data in tasks if task}
    learners: list[Learner] = []
    for learner in suite.learners:
        if learner.method != EVERY:
            learners.append(learner)
            continue
        for name in method_names():
            cls = find_method(name)
            if cls.sampling != "online" and kinds & set(cls.actions):
                config = {k: v for k, v in learner.config.items() if k in setting_names(cls)}
                learners.append(Learner(name, config, where_possible=True))
    return replace(suite, learners=tuple(learners))


def validate(suite: Suite) -> None:
    """As :func:`require_valid`, with errors about names and settings that name the suite."""
    with placed(f"suite {suite.name!r}"):
        require_valid(suite)


def require_valid(suite: Suite) -> None:
    """Find wrong names and settings, missing files and methods that do not fit before any work is done.

    Raises:
        UnknownNameError: no such task, quality, method or setting.
        ConfigError: a setting out of its range.
        DataError: a file that names its task itself is missing or broken.
        SpecError: a method that does not handle a task, or learns online.
    """
    methods = [_method(learner) for learner in suite.learners]
    _check_settings(suite, methods)
    checked: set[str] = set()
    for data in suite.data:
        task = task_of(data)
        kind = kind_of(task, data) if task else None
        _check_quality(data)
        for learner, cls in zip(suite.learners, methods, strict=True):
            # Looking up presets is slow, and a suite's datasets mostly share them.
            same = json.dumps(
                [TaskName.parse(task).family, data.config, learner.method, learner.config, learner.preset],
                sort_keys=True,
            )
            if same not in checked:
                config_hash(suite, learner, task, data)
                checked.add(same)
            if kind and kind not in cls.actions and not learner.where_possible:
                raise SpecError(
                    f"{learner.method} handles {' and '.join(cls.actions)} actions, but {task} "
                    f"has {kind} ones; take it out, or say where_possible = true to leave it out there"
                )


def _check_settings(suite: Suite, methods: Sequence[type[Algorithm]]) -> None:
    """Raise an error for a learner's unknown settings, or for common settings that no method has."""
    for learner, cls in zip(suite.learners, methods, strict=True):
        replica_configs(cls.config_class, 1, learner.config)
    common = {**suite.config, **{k: v for data in suite.data for k, v in data.config.items()}}
    unused = common.keys() - set().union(*(setting_names(cls) for cls in methods))
    if not unused:
        return
    known = set[str]()
    for method in method_names():
        with contextlib.suppress(PluginError):  # one that is broken breaks no suite without it
            known |= setting_names(find_method(method))
    for name in common:
        if name in unused - known:
            raise UnknownNameError("setting", name, sorted(known))


def _check_quality(data: Data) -> None:
    """Refuse a quality that no recipe makes, of data that are made."""
    if recipe_file(data, Path()) is not None:
        parts_of(data)
    elif data.task and not data.file and data.source == REGENERATED:
        known = computed_qualities(data.task)
        if known and not data.quality:
            raise ConfigError(f"data of {data.task}: quality is missing; there are {', '.join(known)}")
        if data.quality not in known:
            raise UnknownNameError(f"quality of {data.task}", data.quality, known)


def _method(learner: Learner) -> type[Algorithm]:
    """The class of a learner's method, which must learn from data."""
    cls = find_method(learner.method)
    if cls.sampling == "online":
        raise SpecError(
            f"{learner.method} learns online, not from data; "
            f"train it with: marlzoo train {learner.method} --task TASK"
        )
    # Names and ranges, before any file is opened.
    require_read(learner.method, cls, replica_configs(cls.config_class, 1, learner.config))
    return cls


def takes_part(learner: Learner, source: Source) -> bool:
    """Whether a learner is run on a dataset."""
    kind = kind_of(source.task, source.entry)
    return not learner.where_possible or kind in find_method(learner.method).actions


def runs_of(suite: Suite, sources: Sequence[Source]) -> list[Run]:
    """All runs of a suite, ordered by task, then learner, dataset and seed."""
    runs = []
    for task in dict.fromkeys(source.task for source in sources):
        for learner in suite.learners:
            for source in (s for s in sources if s.task == task and takes_part(learner, s)):
                hashed = config_hash(suite, learner, task, source.entry)
                runs += [Run(source, learner, seed, hashed) for seed in suite.seeds]
    return runs


def finished(suite: Suite, runs: Sequence[Run], rows: Sequence[Row]) -> list[tuple[Run, Row]]:
    """Those of the runs that have a row at their last update, with that row."""
    last = {tuple(getattr(row, name) for name in _DONE): row for row in rows if not row.error}
    return [(run, last[run.key(suite)]) for run in runs if run.key(suite) in last]


def pending(suite: Suite, sources: Sequence[Source], results: ResultsFile) -> list[Run]:
    """Runs without a row at their last update."""
    runs = runs_of(suite, sources)
    done = {run.key(suite) for run, _ in finished(suite, runs, results.rows())}
    return [run for run in runs if run.key(suite) not in done]


def groups(suite: Suite, runs: Sequence[Run], max_replicas: int) -> list[Group]:
    """Put runs that can share a lockstep learner together, at most ``max_replicas`` in each.

    Groups that share runs are even, rather 2 and 2 than 3 and 1, because the largest one takes longest. The larger
    ones come first, so that the groups of the others stay the same where some are finished.
    """
    together: dict[str, list[Run]] = {}
    for run in runs:
        entry = run.source.entry
        same = _shared_settings(suite, run) if suite.stack_settings else run.config_hash
        learner = run.learner
        key = [
            run.source.task,
            dict(entry.env),
            learner.method,
            learner.preset,
            same,
            suite.updates_on(entry),
        ]
        together.setdefault(json.dumps(key, sort_keys=True), []).append(run)
    made = []
    for members in together.values():
        first = 0
        for left in range(math.ceil(len(members) / max_replicas), 0, -1):
            size = math.ceil((len(members) - first) / left)
            made.append(_group(suite, tuple(members[first : first + size])))
            first += size
    return made


def full_config(suite: Suite, run: Run) -> dict[str, Any]:
    """All settings of a run, those of its preset and the defaults included."""
    cls = find_method(run.learner.method)
    entry = run.source.entry
    preset = _preset(run.learner, run.source.task, entry)
    return replica_configs(cls.config_class, 1, settings(suite, run.learner, entry), preset)[0].to_dict()


def _preset(learner: Learner, task: str, entry: Data) -> Mapping[str, Any]:
    """The settings that a learner starts from on a dataset."""
    cls = find_method(learner.method)
    return preset_of(cls, task_spec(task, **entry.env), learner.preset or None).settings


def _shared_settings(suite: Suite, run: Run) -> dict[str, Any]:
    """The settings of a run that all replicas of a learner share."""
    cls = find_method(run.learner.method).config_class
    return {name: v for name, v in full_config(suite, run).items() if not is_numeric(cls, name)}


def _group(suite: Suite, runs: tuple[Run, ...]) -> Group:
    source = runs[0].source
    learner = runs[0].learner
    entry = source.entry
    given = settings(suite, learner, entry)
    if len({run.config_hash for run in runs}) > 1:
        given |= _stacked(suite, runs)
        learner = replace(learner, config={k: v for k, v in learner.config.items() if given[k] == v})
    if learner.preset:
        given["preset"] = learner.preset
    return Group(
        task=source.task,
        env=entry.env,
        spec=task_spec(source.task, **entry.env),
        learner=learner,
        settings=given,
        updates=suite.updates_on(entry),
        eval_every=suite.eval_every_on(entry),
        runs=runs,
    )


def _stacked(suite: Suite, runs: Sequence[Run]) -> dict[str, list[float]]:
    """The settings in which runs of one group differ, one value per replica."""
    configs = [full_config(suite, run) for run in runs]
    columns = {name: [config[name] for config in configs] for name in configs[0]}
    return {name: column for name, column in columns.items() if any(value != column[0] for value in column)}
