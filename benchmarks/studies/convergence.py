"""How many updates values, policy weights and returns need, for six methods on one task of each family.

    python benchmarks/studies/convergence.py [--tasks mamujoco/hopper-3x1 --methods omiga --updates 1000000]

While replicas of a method train, a fixed sample of the data is looked at after 1, 2, 3, 5, 10, ... thousand updates:

* the mean value of the data's actions, beside the discounted return that the same rows really have;
* the spread of the policy's weights, for methods that clone the data with weights: effective sample size as a
  fraction of the sample, and for OMIGA and IQL quantiles of the exponent;
* the return of the policy in the simulator.

Values have converged at the first look from which on twice as many updates change them, in the median over seeds, by
less than a tenth of the data's return: the budget that a comparison of methods needs. Seeds whose values end beyond
ten times that return are counted apart. Before values converge the table tells in how many updates half
of the gap between value and return closes. Where values bootstrap for ever, targets that follow with rate tau and a
discount gamma let the gap fall like exp(-tau (1 - gamma) updates) at the fastest, whatever the method: by half in
14,000 updates at the usual 0.005 and 0.99. All methods have the same width and batch size, read
single transitions, and bootstrap through time limits. Rows are written at every look and a run goes on from its
checkpoint, so the same command continues after an interruption, and one with more updates extends the runs there are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.sources import Source, obtain
from marlzoo.benchmarks.stats import Floats
from marlzoo.benchmarks.suites import Data

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.data.dataset import Dataset
from marlzoo.families import make_env
from marlzoo.registry import find_method, make
from marlzoo.replicas import derive
from marlzoo.system.files import locked, write_text_atomic
from marlzoo.task import TaskName
from marlzoo.training.evaluation import evaluate
from marlzoo.training.loggers import to_numpy
from marlzoo.training.trainer import make_sampler, train

NAME = "convergence"
TASKS = (
    Data("mamujoco/hopper-3x1", "medium-expert", transitions=100_000),
    Data("mpe/spread", "medium-replay", transitions=100_000),
    Data("smax/3m", "medium", transitions=50_000),
)
METHODS = ("omiga", "iql", "td3_bc", "icq", "bcq_ma", "cql_ma")
PER_DECADE = (1, 2, 3, 5)
FIRST = 1000
UPDATES = 300_000
CHECKPOINT_EVERY = 5000
SAMPLE = 1024  # rows of the fixed sample
TAIL = 10  # last steps of an episode, whose mean reward is taken to go on beyond a time limit
NEAR = 0.1  # of the data's return: what a doubling of the updates may change in values that have converged
SMALL = 10.0  # values and returns below are shown with a digit more
OFF = 10.0  # times the data's return: values beyond have left its scale
SHARED = {"history": "mlp", "timeout_is_terminal": False}
# What learners call the mean value of the data's team actions.
VALUES = tuple(f"{critics}/{value}" for value in ("total", "mean", "target") for critics in ("q", "critic"))
KEYS = ["task", "quality", "method", "seed", "updates"]
COLUMNS = [*KEYS, "metric", "value"]


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    seeds: tuple[int, ...] = (0, 1, 2)
    methods: tuple[str, ...] = METHODS
    tasks: tuple[str, ...] = tuple(data.task for data in TASKS)
    updates: int = UPDATES
    hidden: int = 64  # width of all networks
    batch_size: int = 32
    episodes: int = 32  # per evaluation and seed
    train: bool = True  # False: only write the table and the plot of the looks that are there


def looks(updates: int) -> list[int]:
    """After how many updates a run is looked at: about evenly in the logarithm, the last update included."""
    found = {updates}
    decade = FIRST
    while decade <= updates:
        found |= {decade * k for k in PER_DECADE if decade * k <= updates}
        decade *= 10
    return sorted(found)


def discounted_returns(data: Dataset, gamma: float) -> Floats:
    """Discounted team return from every row to its episode's end, ``[T]``.

    Beyond a time limit, or a cut, the mean reward of the episode's last steps is taken to go on for ever, as learners
    bootstrap there.
    """
    reward = data.reward.astype(np.float64)
    reward = reward.mean(-1) if reward.ndim > 1 else reward
    to_go = np.zeros(data.rows)
    for start, length in zip(data.starts, data.lengths, strict=True):
        end = start + length
        if not data.terminal[end - 1]:
            to_go[end] = reward[max(start, end - TAIL) : end].mean() / (1.0 - gamma)
        for row in range(end - 1, start - 1, -1):
            to_go[row] = reward[row] + gamma * to_go[row + 1]
    return to_go


class Probe:
    """Looks at a learner through a fixed sample of the data, without changing it.

    A twin with a batch as large as the sample takes over the learner's state and makes one update, whose metrics are
    read; the twin is overwritten at the next look.
    """

    def __init__(self, twin: Algorithm, data: Dataset) -> None:
        self.twin = twin
        sampler = make_sampler(twin, [data])
        rows, noise = sampler.draw()
        self.batch: Batch = sampler.gather(rows, noise)
        to_go = discounted_returns(data, twin.config.gamma)
        self.data_return: Floats = to_go[rows.cpu().numpy()].mean(1)

    def look(self, algorithm: Algorithm) -> dict[str, Floats]:
        """Metrics ``[R]``: the data's return and value, and what the learner says about its weights."""
        self.twin.load_state_tensors(algorithm.state_tensors())
        metrics = to_numpy(self.twin.update(self.batch))
        value = next(metrics[name] for name in VALUES if name in metrics)
        weights = {name: metrics[name] for name in metrics if name.startswith("weight/")}
        return {"data_return": self.data_return, "value": value, **weights}


def learner(options: Options, method: str, data: Dataset, task: str, batch_size: int) -> Algorithm:
    """One replica per seed, with the study's settings as far as the method has them."""
    known = {setting.name for setting in fields(find_method(method).config_class)}
    width = dict.fromkeys(("hidden", "critic_hidden", "vae_hidden"), options.hidden)
    settings: dict[str, Any] = {k: v for k, v in (SHARED | width).items() if k in known}
    return make(method, data.spec, seeds=options.seeds, batch_size=batch_size, **settings)


def run(options: Options, method: str, source: Source, data: Dataset, folder: Path) -> None:
    """Train one method on one task; rows are written at every look."""
    algorithm = learner(options, method, data, source.task, options.batch_size)
    probe = Probe(learner(options, method, data, source.task, SAMPLE), data)
    due = set(looks(options.updates))
    env = make_env(source.task, len(options.seeds) * options.episodes)

    def look(done: int, _: Any) -> None:
        if done not in due:
            return
        seeds = [derive(seed, "evaluate", done) for seed in algorithm.seeds]
        found = evaluate(algorithm.policy(), env, seeds=seeds)
        metrics = {**probe.look(algorithm), "return": found.returns.mean(1)}
        if found.wins is not None:
            metrics["win_rate"] = found.wins.mean(1)
        record(folder / "table.csv", lines(source, method, options.seeds, done, metrics))
        print(f"{source.task} {method}: {done} updates", *(f"{k} {v.mean():.4g}" for k, v in metrics.items()))

    try:
        train(
            algorithm,
            data,
            updates=options.updates,
            checkpoint=folder / "checkpoints" / f"{method}-{TaskName.parse(source.task).slug()}.npz",
            checkpoint_every=CHECKPOINT_EVERY,
            log_every=FIRST,
            compile="on",
            on_progress=look,
        )
    finally:
        env.close()


def lines(
    source: Source, method: str, seeds: Sequence[int], updates: int, metrics: dict[str, Floats]
) -> pd.DataFrame:
    """One line per seed and metric."""
    names = (source.task, source.quality, method)
    return pd.DataFrame(
        [
            (*names, seed, updates, metric, float(values[k]))
            for metric, values in metrics.items()
            for k, seed in enumerate(seeds)
        ],
        columns=COLUMNS,
    )


def record(path: Path, new: pd.DataFrame) -> None:
    """Add lines to the file of numbers; a line that is there is replaced."""
    with locked(path):
        old = read(path)
        merged = pd.concat([old, new], ignore_index=True) if len(old) else new
        merged = merged.drop_duplicates([*KEYS, "metric"], keep="last")
        write_text_atomic(path, merged.to_csv(index=False, lineterminator="\n", float_format="%.6g"))


def read(path: Path) -> pd.DataFrame:
    """The lines that are there."""
    return pd.read_csv(path) if path.exists() else pd.DataFrame(columns=COLUMNS)


def curves(numbers: pd.DataFrame, task: str, method: str) -> dict[str, pd.DataFrame]:
    """Every metric of a run as a table of looks by seeds."""
    part = numbers[(numbers["task"] == task) & (numbers["method"] == method)]
    return {
        str(metric): lines.pivot(index="updates", columns="seed", values="value")
        for metric, lines in part.groupby("metric")
    }


def changes(value: pd.DataFrame, data_return: pd.DataFrame) -> pd.Series:
    """By how much the seeds' median value changes until there are twice as many updates, over the data's return.

    One entry for every look that another one with at least twice its updates follows.
    """
    middle = value.median(axis=1)
    scale = abs(float(data_return.to_numpy().mean()))
    later = {look: min((u for u in middle.index if u >= 2 * look), default=None) for look in middle.index}
    found = {look: (middle[u] - middle[look]) / scale for look, u in later.items() if u is not None}
    return pd.Series(found, dtype=np.float64)


def converged(change: pd.Series) -> int | None:
    """First look from which on no doubling of the updates changes the value by more than :data:`NEAR`."""
    calm = change.abs().le(NEAR)[::-1].cummin()[::-1]
    return int(change.index[calm][0]) if calm.any() else None


def halving(value: pd.DataFrame, data_return: pd.DataFrame) -> float | None:
    """Updates in which half of the gap between value and the data's return closes.

    By a straight line through the gap's logarithm, over the looks before values get near the return; None where
    fewer than three are.
    """
    gap = 1.0 - value.median(axis=1) / float(data_return.to_numpy().mean())
    open_ = gap[(gap > NEAR).cummin() & (gap < 1.0)]
    if len(open_) < 3:
        return None
    slope = np.polyfit(open_.index.to_numpy(dtype=np.float64), np.log(open_.to_numpy()), 1)[0]
    return float(-np.log(2.0) / slope) if slope < 0 else None


def off_scale(value: pd.DataFrame, data_return: pd.DataFrame) -> str:
    """How many seeds' last values are beyond :data:`OFF` times the data's return, ``1 of 3``; empty for none."""
    last = value.iloc[-1]
    beyond = int((~(last.abs() <= OFF * abs(float(data_return.to_numpy().mean())))).sum())
    return f"{beyond} of {len(last)}" if beyond else ""


def plain(value: float) -> str:
    """A value with a decimal, a small one with two; one that has left every scale by its order of magnitude."""
    if abs(value) >= 1e5:
        return f"{value:.0e}"
    return f"{value:.2f}" if abs(value) < SMALL else f"{value:.1f}"


def share(change: float) -> str:
    """A change in percent; one beyond a thousand of them by its order of magnitude."""
    return f"{change:+.0%}" if abs(change) < 10 else f"{change:+.0e} times"


def body(numbers: pd.DataFrame) -> list[list[str]]:
    """One line per run: the last look, and where the values converged."""
    found = []
    for task, method in numbers[["task", "method"]].drop_duplicates().itertuples(index=False):
        metrics = curves(numbers, task, method)
        change = changes(metrics["value"], metrics["data_return"])
        settled = converged(change)
        returns = metrics["return"].iloc[-1].to_numpy()
        half = halving(metrics["value"], metrics["data_return"])
        end = {name: f"{table.iloc[-1].median():.2f}" for name, table in metrics.items()}
        found.append(
            [
                f"{TaskName.parse(task).name} {method}",
                f"{metrics['value'].index[-1]:,}",
                plain(metrics["data_return"].iloc[-1].mean()),
                plain(metrics["value"].iloc[-1].median()),
                off_scale(metrics["value"], metrics["data_return"]),
                "—" if settled is None else f"{settled:,}",
                share(change.iloc[-1]) if len(change) else "—",
                "—" if half is None else f"{half:,.0f}",
                end.get("weight/ess", "—"),
                end.get("weight/exponent_q99", "—"),
                study.over_seeds(returns, 2 if np.abs(returns).mean() < SMALL else 1),
            ]
        )
    return found


def longer(numbers: pd.DataFrame) -> list[str]:
    """What made the runs that go beyond the study's usual number of updates."""
    ends = numbers.groupby(["task", "method"], sort=False, as_index=False)["updates"].max()
    return [
        f"{method} on {TaskName.parse(task).name} with `--methods {method} --tasks {task} --updates {end}`"
        for task, method, end in ends[ends["updates"] > UPDATES].itertuples(index=False)
    ]


HEADER = [
    "run", "updates", "data's return", "value", "off the scale", "converged at", "last doubling", "gap halves in",
    "effective samples", "exponent, 99 %", "return",
]  # fmt: skip


def report(options: Options, numbers: pd.DataFrame) -> study.Study:
    """The table, and a figure with a row per quantity and a column per task."""
    about = {data.task: f"{data.task} {data.quality} ({data.transitions:,} transitions)" for data in TASKS}
    notes = [
        "data's return: mean discounted return of the sampled rows, the tail beyond a time limit extrapolated; "
        "value: the learner's mean value of the same rows, the median over seeds; off the scale: seeds whose value "
        f"is beyond {OFF:.0f} times the data's return. converged at: first look from which on no doubling of the "
        f"updates changes the value by more than {NEAR:.0%} of the data's return (—: none yet); last "
        "doubling: that change, for the last look that has another at twice its updates; gap halves in: updates in "
        "which half of the gap between value and return closes, as long as it is wide. effective samples: Kish's "
        f"effective sample size of the policy's weights, as a fraction of the {SAMPLE} rows, and quantiles of their "
        "exponents, medians over seeds.",
        f"return: mean of {options.episodes} episodes, with the 95 % bootstrap interval over {len(options.seeds)} "
        f"seeds. Hidden width {options.hidden}, batch size {options.batch_size}.",
        f"Data: {'; '.join(about[task] for task in numbers['task'].unique())}.",
        # The command that trains, also where this table is only written anew from the looks that are there.
        f"Made by `python benchmarks/studies/{NAME}.py`, which goes on where these runs end"
        + "".join(f"; {command}" for command in longer(numbers))
        + ".",
    ]
    tasks = list(numbers["task"].unique())
    sheet = study.plain_sheet("When values have converged", HEADER, body(numbers), notes)
    size = (4.0 * len(tasks), 9.0)
    return study.Study(NAME, sheet, numbers, lambda figure: draw(figure, numbers, tasks), size)


def draw(figure: Any, numbers: pd.DataFrame, tasks: Sequence[str]) -> None:
    """Value, effective sample size and return over updates."""
    rows = {"value": "mean value of the data", "weight/ess": "effective samples", "return": "return"}
    axes = figure.subplots(len(rows), len(tasks), squeeze=False)
    for column, task in enumerate(tasks):
        for row, (metric, text) in enumerate(rows.items()):
            ax = axes[row][column]
            for method in numbers[numbers["task"] == task]["method"].unique():
                metrics = curves(numbers, task, method)
                if metric in metrics:
                    table = metrics[metric]
                    study.curve(ax, list(table.index), list(table.to_numpy()), method)
                if metric == "value":
                    level = float(metrics["data_return"].to_numpy().mean())
                    ax.axhline(level, color="black", lw=0.8, ls=":")
            ax.set(xscale="log", ylabel=text)
        axes[0][column].set(title=task)
        axes[-1][column].set(xlabel="updates")
    axes[0][0].legend(fontsize="x-small")


def main(options: Options) -> int:
    """Run what is missing of the study, method by method."""
    study.use_threads(options.threads)
    folder = options.out / NAME
    chosen = [data for data in TASKS if data.task in options.tasks] if options.train else []
    sources = [obtain(data, options.out.parent / "data", lambda done, total: None) for data in chosen]
    loaded = [source.load() for source in sources]
    for method in options.methods:
        for source, data in zip(sources, loaded, strict=True):
            run(options, method, source, data, folder)
    study.write_study(report(options, read(folder / "table.csv")), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
