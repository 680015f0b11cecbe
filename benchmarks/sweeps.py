"""``marlzoo.sweep``: settings by grid, at random or adaptively, and which of them reached most."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from marlzoo.config import is_numeric
from marlzoo.errors import ConfigError, DataError, MissingExtraError, UnknownNameError
from marlzoo.registry import find_method
from marlzoo.system.files import write_text_atomic

from .adaptive import batch_size, search
from .analysis import DATASET, Results
from .bench import select
from .figures import save_figure
from .plan import expanded, setting_names
from .runner import run_suite
from .space import Values, grid_points, parse_values, random_points, require_whole
from .split import Split, split_of
from .suite_toml import learners_toml
from .suites import Learner, Suite, find_suite
from .summary import spoiled
from .sweep_figure import draw, points

# The method of a line of sweep.csv, or of best.toml
_METHOD = re.compile(r'(?: +{ method = ")?(\w+)[,"]')


@dataclass(frozen=True)
class Sweep:
    """What a sweep found.

    Attributes:
        results: of all its runs.
        learners: every method with every setting that was tried.
        record: how the settings were found, as rows carry it in the column ``tuning``.
    """

    results: Results
    learners: tuple[Learner, ...]
    record: str

    def table(self) -> pd.DataFrame:
        """One line per learner of the suite and setting, each learner's best first.

        Columns: ``method``, ``variant`` (the setting), ``rank`` (among the learner's settings by mean return,
        averaged over datasets; 1 is the best), ``score`` (mean normalized score; NaN where a task has no reference),
        ``mean`` (return, averaged over datasets), ``datasets``, ``seeds``, ``diverged``, ``failed``. Settings without
        a finite return on every dataset come last.
        """
        names = self.names()
        cells = self.results.table()
        of = pd.Series(
            [names.get(key) for key in zip(cells["method"], cells["variant"], strict=True)], dtype=object
        )
        parts = [_ranked(part) for _, part in cells.groupby(of.to_numpy(), sort=False)]
        if not parts:
            raise DataError("no run of the sweep has a result")
        return pd.concat(parts, ignore_index=True)

    def names(self) -> dict[tuple[str, str], str]:
        """The learner of the suite that each method and variant is a setting of: its method, or both if several."""
        over = json.loads(self.record)["over"]
        rest = {}
        for each in self.learners:
            kept = {name: value for name, value in each.config.items() if name not in over}
            rest[each.method, each.variant] = (each.method, replace(each, config=kept).variant)
        forms = Counter(method for method, _ in set(rest.values()))
        return {
            key: f"{method} ({kept})" if forms[method] > 1 else method for key, (method, kept) in rest.items()
        }

    def best(self) -> dict[str, Learner]:
        """The best setting of every learner of the suite, with the record of how it was found."""
        names = self.names()
        known = {(learner.method, learner.variant): learner for learner in self.learners}
        found = self.table()
        first: dict[str, Learner] = {}
        for key in zip(found["method"], found["variant"], strict=True):
            first.setdefault(names[key], replace(known[key], tuning=self.record))
        return first

    def edges(self) -> list[str]:
        """A line for every number whose best value is the smallest or largest of three or more of its grid."""
        record = json.loads(self.record)
        if record["search"] != "grid":  # of values that were drawn one is always the smallest
            return []
        lines = []
        names = self.names()
        for learner, best in self.best().items():
            for name in (name for name in record["over"] if name in best.config):
                value = best.config[name]
                given = [
                    each.config[name]
                    for each in self.learners
                    if names[each.method, each.variant] == learner and name in each.config
                ]
                tried = sorted({each for each in given if type(each) in (int, float)})
                if len(tried) > 2 and value in (tried[0], tried[-1]):
                    end = "smallest" if value == tried[0] else "largest"
                    lines.append(
                        f"{learner}: the best {name}, {value:g}, is the {end} that was tried; the best of all may "
                        "lie beyond it"
                    )
        return lines

    def toml(self) -> str:
        """The best settings as learners for a suite's file."""
        return learners_toml(tuple(self.best().values()))


def sweep(
    suite: str | os.PathLike[str] | Suite,
    over: Mapping[str, Sequence[Any] | str],
    *,
    random: int = 0,
    optuna: int = 0,
    random_seed: int = 0,
    out: str | os.PathLike[str] = "results",
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
    updates: int = 0,
    device: str = "cpu",
    max_replicas: int = 20,
    processes: int = 1,
    threads: int = 0,
    check_data: bool = True,
    changes: Sequence[str] = (),
    command: str = "",
    console: Console | None = None,
) -> Sweep:
    """Train the learners of a suite with many settings and rank these.

    Settings that are floats are replicas of one lockstep run; others are runs of their own. What is there is not
    trained again. The results go to ``out/SUITE-sweep`` with ``sweep.csv`` (:meth:`Sweep.table`), ``best.toml``
    (:meth:`Sweep.toml`) and, where matplotlib is installed, ``sweep.png`` (returns against each setting). The
    best return is biased upwards by the choice: train the best setting with other seeds before comparing it.

    Args:
        suite: name of a built-in suite, a file ending in .toml, or a suite.
        over: values by setting: a sequence, or text as on the command line (``0.3,1,3`` or ``1e-4..1e-3:log:3``). A
            method takes those settings that it has.
        random: draw so many settings at random instead of the whole grid.
        optuna: let Optuna propose so many settings for each method instead, from what earlier ones reached (extra
            ``optuna``), a few at a time.
        random_seed: of the draw or the proposals.
        out: folder of the results.
        seeds: instead of the suite's.
        methods: only these of the suite's methods.
        updates: instead of the suite's.
        device: where to train.
        max_replicas: largest number of replicas that train together.
        processes: number of training processes; see :func:`marlzoo.bench`.
        threads: of torch in each process; likewise.
        check_data: compare data and simulator before training.
        changes: fields of the suite that differ from its file, as ``--set`` takes them, for the record of how the
            settings were found.
        command: named as what made the tables.
        console: where to print; None: nothing is printed.

    Raises:
        UnknownNameError: a setting that no method of the suite has.
        ConfigError: no values, or some that cannot be read.
        DataError: no run has a result.
        MissingExtraError: optuna is asked for and not installed.
    """
    if random and optuna:
        raise ConfigError("choose one of random and optuna")
    base = _selected(suite, seeds, methods, updates)
    space = _space(base, over)

    def train(learners: Sequence[Learner]) -> Results:
        finished = run_suite(
            _with(base, learners),
            out=Path(out),
            device=device,
            max_replicas=max_replicas,
            check_data=check_data,
            split=sweep_split(processes, threads),
            command=command,
            remedy="another --out",
            console=console or Console(quiet=True),
        )
        # The folder may hold rows of other sweeps, with other data or settings.
        return Results(finished.folder).only(finished.runs)

    if optuna:
        learners = _adapted(base, space, train, optuna, random_seed, max_replicas)
        trials = optuna
        kind = "optuna (TPE)"
    else:
        points = _points(space, random, random_seed)
        kind = "random" if random else "grid"
        learners = _learners(base.learners, points)
        trials = len(points)
    made = Sweep(train(learners), learners, _record(base, space, trials, kind, changes))
    (folder,) = made.results.folders
    searched = {learner.method for learner in made.learners}
    table = made.table().to_csv(index=False, lineterminator="\n")
    for file, text in ((folder / "sweep.csv", table), (folder / "best.toml", made.toml())):
        write_text_atomic(file, with_other_methods(file, text, searched))
    _draw(made, folder / "sweep.png", console)
    return made


def with_other_methods(file: Path, text: str, methods: Collection[str]) -> str:
    """The text of a sweep's file, and the lines that earlier sweeps of other methods left there.

    Args:
        file: ``sweep.csv`` or ``best.toml``, if there is one.
        text: of this sweep.
        methods: that it searched; their earlier lines are replaced.

    Raises:
        DataError: the file is damaged.
    """
    if not file.exists():
        return text
    head, *mine = text.splitlines(keepends=True)
    try:
        first, *theirs = file.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file}: damaged ({error}); move it away, the same command writes it again"
        ) from error
    if first != head:  # of another version
        return text
    named = ((line, _METHOD.match(line)) for line in theirs)
    return "".join([head, *(line for line, found in named if found and found[1] not in methods), *mine])


def sweep_split(processes: int, threads: int) -> Split | None:
    """How a sweep is spread; None: as measured.

    Raises:
        ConfigError: a negative number, or threads without processes.
    """
    return Split(1, threads) if processes == 1 else split_of(processes, threads)


def swept_suite(
    suite: str | os.PathLike[str] | Suite,
    over: Mapping[str, Sequence[Any] | str],
    *,
    random: int = 0,
    random_seed: int = 0,
    seeds: Sequence[int] = (),
    methods: Sequence[str] = (),
    updates: int = 0,
) -> Suite:
    """What :func:`sweep` trains with these arguments, as a suite; nothing is trained.

    Raises:
        UnknownNameError: a setting that no method of the suite has.
        ConfigError: no values, or some that cannot be read.
    """
    base = _selected(suite, seeds, methods, updates)
    return _with(base, _learners(base.learners, _points(_space(base, over), random, random_seed)))


def _selected(
    suite: str | os.PathLike[str] | Suite, seeds: Sequence[int], methods: Sequence[str], updates: int
) -> Suite:
    found = suite if isinstance(suite, Suite) else find_suite(os.fspath(suite))
    return expanded(select(found, seeds, methods, updates))


def _space(base: Suite, over: Mapping[str, Sequence[Any] | str]) -> dict[str, Values]:
    if not isinstance(over, Mapping):
        raise ConfigError(f"over is {over!r}; give values by setting, such as {{'alpha': [0.3, 1, 3]}}")
    space = {name: parse_values(name, values) for name, values in over.items()}
    _require_settings(base.learners, space)
    return space


def _points(space: Mapping[str, Values], random: int, random_seed: int) -> list[dict[str, Any]]:
    return random_points(space, random, random_seed) if random else grid_points(space)


def _with(base: Suite, learners: Sequence[Learner]) -> Suite:
    """The suite of a sweep: float settings are replicas of one run."""
    return replace(base, name=f"{base.name}-sweep", learners=tuple(learners), stack_settings=True)


def _draw(found: Sweep, path: Path, console: Console | None) -> None:
    """Draw the sweep, where there is something to draw, and something to draw it with."""
    shown = points(found.results, found.learners, found.names())
    if shown.empty:
        return
    try:
        save_figure(draw(shown), path)
    except MissingExtraError as error:
        if console is not None:
            console.print(f"No plot: {error}", markup=False, highlight=False)


def _require_settings(learners: Sequence[Learner], space: Mapping[str, Values]) -> None:
    """Refuse a setting that no method has."""
    known = set().union(*(setting_names(find_method(learner.method)) for learner in learners))
    for name in space:
        if name not in known:
            raise UnknownNameError("setting of the swept methods", name, known)


def _learners(learners: Sequence[Learner], points: Sequence[Mapping[str, Any]]) -> tuple[Learner, ...]:
    """Every learner at every point, each once."""
    made: list[Learner] = []
    for learner in learners:
        for point in points:
            swept = _at(learner, point)
            if swept not in made:
                made.append(swept)
    return tuple(made)


def _at(learner: Learner, point: Mapping[str, Any]) -> Learner:
    """A learner with those settings of a point that its method has."""
    cls = find_method(learner.method)
    known = setting_names(cls)
    # 1 and 1.0 are one setting, and have one name in rows.
    mine = {n: _typed(value, is_numeric(cls.config_class, n)) for n, value in point.items() if n in known}
    return replace(learner, config={**learner.config, **mine})


def _adapted(
    suite: Suite,
    space: Mapping[str, Values],
    train: Callable[[Sequence[Learner]], Results],
    trials: int,
    seed: int,
    max_replicas: int,
) -> tuple[Learner, ...]:
    """All learners that an adaptive search tried."""
    require_whole(0, random_seed=seed, optuna=max(trials, 0))
    if trials < 1 or not space:
        raise ConfigError("an adaptive sweep needs at least one trial and one setting with its values")
    per_task = max(sum(other.task == data.task for other in suite.data) for data in suite.data)
    known = [setting_names(find_method(learner.method)) for learner in suite.learners]
    found = search(
        suite.learners,
        [{name: values for name, values in space.items() if name in names} for names in known],
        _at,
        train,
        trials=trials,
        batch=batch_size(trials, max_replicas, per_task * len(suite.seeds)),
        seed=seed,
    )
    return tuple(found)


def _record(
    suite: Suite, space: Mapping[str, Values], trials: int, kind: str, changes: Sequence[str] = ()
) -> str:
    """How the settings were found, in one line of JSON."""
    ranges = {
        name: list(v.choices) if v.choices else {"low": v.low, "high": v.high, "log": v.log, "count": v.count}
        for name, v in space.items()
    }
    data = [f"{d.task} {d.quality}".strip() or d.file for d in suite.data]
    about: dict[str, Any] = {
        "search": kind,
        "over": ranges,
        "trials": trials,
        "seeds": list(suite.seeds),
        "updates": suite.updates,
        "data": data,
    }
    return json.dumps(about | ({"set": list(changes)} if changes else {}))


def _ranked(cells: pd.DataFrame) -> pd.DataFrame:
    """The settings of one learner, the best first; those of which a run is missing, failed or diverged come last."""
    counted = cells.assign(mean=cells["mean"].where(~spoiled(cells)))
    means = counted.pivot_table("mean", index="variant", columns=DATASET, sort=False, dropna=False)
    finite = means.where(np.isfinite(means))
    ranks = finite.rank(ascending=False, na_option="bottom").mean(axis=1)
    by = cells.groupby("variant", sort=False)
    table = pd.DataFrame(
        {
            "method": by["method"].first(),
            "rank": ranks,
            "score": by["score"].apply(lambda values: values.mean(skipna=False)),
            "mean": by["mean"].apply(lambda values: values.mean(skipna=False)),
            "datasets": by[DATASET].nunique(),
            "seeds": by["seeds"].min(),
            "diverged": by["diverged"].sum(),
            "failed": by["failed"].sum(),
        }
    )
    complete = finite.notna().all(axis=1).reindex(table.index, fill_value=False)
    ordered = table.assign(last=~complete).sort_values(
        ["last", "rank", "mean"], ascending=[True, True, False]
    )
    return ordered.drop(columns="last").reset_index().loc[:, ["method", "variant", *table.columns[1:]]]


def _typed(value: Any, numeric: bool) -> Any:
    """A float for settings that may differ between replicas, otherwise an integer for a whole number."""
    if numeric:
        return float(value) if type(value) is int else value
    return int(value) if type(value) is float and value.is_integer() else value
