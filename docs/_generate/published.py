"""The generated parts of results/README.md: what is there of every suite, leaderboards, pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from marlzoo.benchmarks import aggregate, reached, tables
from marlzoo.benchmarks.analysis import Results
from marlzoo.benchmarks.figures import Kind, draw, save_figure
from marlzoo.benchmarks.reached import PUBLISHED
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.suites import Suite, find_suite

from .text import code, table

PICTURES: tuple[Kind, ...] = ("curves", "profile")
OVERALL = ("mujoco-small", "mpe")  # suites of the same methods, which one score can compare


def parts(root: Path) -> dict[str, str]:
    """Texts by name.

    Args:
        root: of the repository.
    """
    found = {name: results for name in PUBLISHED if (results := _results(root, name))}
    return {
        "state": state(root, found),
        "missing": missing(root, found),
        "overall": overall(root),
        "leaderboards": "\n\n".join(leaderboard(root, name, results) for name, results in found.items()),
    }


def pictures(root: Path) -> Iterator[Path]:
    """Draw each suite's pictures beside its rows; returns the files."""
    for name in PUBLISHED:
        if results := _results(root, name):
            for kind in PICTURES:
                # Curves are compared at equal updates, all else only where runs are over.
                drawn = results if kind == "curves" else finished(find_suite(name), results)
                if kind == "curves" or not drawn.profiles().empty:
                    path = root / "results" / name / f"{kind}.png"
                    save_figure(draw(drawn, kind), path)
                    yield path


def state(root: Path, found: dict[str, Results]) -> str:
    """One line per suite: the runs that are finished, what their training took, and what the others would take."""
    rates, _ = reached.read(root / "results")
    lines = []
    for name in PUBLISHED:
        suite = find_suite(name)
        done = _done(suite, found)
        runs = reached.planned(suite)
        spent = pd.to_numeric(done["seconds_per_run"]).sum() / 3600
        lines.append(
            [
                code(f"marlzoo bench {name}"),
                f"{len(set(_keys(done)) & set(runs))} of {len(runs)}",
                _parts(done, "method") or "none",
                _parts(done.assign(data=done["task"] + " " + done["quality"]), "data")
                if len(done)
                else "none",
                f"{spent:.1f}" if len(done) else "",
                _hours(reached.hours(reached.missing(suite, _keys(done)), rates)),
            ]
        )
    header = ["suite", "finished runs", "methods", "datasets", "hours of training", "hours of the rest"]
    return table(header, lines)


def missing(root: Path, found: dict[str, Results]) -> str:
    """One line per task: the command that does what is missing, and the hours that it would take."""
    rates, machines = reached.read(root / "results")
    lines = []
    for name in PUBLISHED:
        suite = find_suite(name)
        counts = reached.missing(suite, _keys(_done(suite, found)))
        for task in dict.fromkeys(key[1] for key in counts):
            of_task = {key: count for key, count in counts.items() if key[1] == task}
            cost = {key: count * rates.get(key, np.nan) / 3600 for key, count in of_task.items()}
            dearest = [key for key in sorted(cost, key=lambda key: -cost[key]) if cost[key] >= 1][:3]
            lines.append(
                [
                    code(f"marlzoo bench {name} --tasks {task}"),
                    str(sum(of_task.values())),
                    str(len(of_task)),
                    _hours(reached.hours(of_task, rates)),
                    ", ".join(f"{key[2]} {cost[key]:.0f}" for key in dearest),
                ]
            )
    header = ["command", "runs", "learners", "hours", "of which most"]
    return f"{table(header, lines)}\n\nMeasured on {' or '.join(dict.fromkeys(machines.values()))}."


def _hours(number: float | None) -> str:
    return "not measured" if number is None else f"{number:.1f}"


def _done(suite: Suite, found: dict[str, Results]) -> pd.DataFrame:
    """The last rows of a suite's finished runs."""
    columns = ["task", "quality", "method", "variant", "seed", "seconds_per_run"]
    if suite.name not in found:
        return pd.DataFrame(columns=columns)
    return _finished(suite, found[suite.name].frame())


def _keys(done: pd.DataFrame) -> list[tuple[str, str, str, str, int]]:
    """Finished runs as :func:`marlzoo.benchmarks.reached.planned` names them."""
    columns = [done[name] for name in ("task", "quality", "method", "variant", "seed")]
    return [tuple(key) for key in zip(*columns, strict=True)]


def _parts(done: pd.DataFrame, column: str) -> str:
    """Distinct values: all of them where they are few, else their number."""
    values = list(dict.fromkeys(done[column])) if len(done) else []
    return ", ".join(values) if len(values) <= 4 else str(len(values))


def _finished(suite: Suite, rows: pd.DataFrame) -> pd.DataFrame:
    """The last row of every run that reached the suite's number of updates."""
    wanted = {(data.task, data.quality): suite.updates_on(data) for data in suite.data}
    enough = [
        updates == wanted.get((task, quality))
        for task, quality, updates in zip(rows["task"], rows["quality"], rows["updates"], strict=True)
    ]
    kept = rows[enough]
    return kept[kept["error"] == ""].drop_duplicates("run", keep="last")


def finished(suite: Suite, results: Results) -> Results:
    """The runs that reached the suite's number of updates, which alone can be ranked."""
    return results.only(_finished(suite, results.frame())["run"])


def leaderboard(root: Path, name: str, results: Results) -> str:
    """A suite's methods by score, a table per execution class, and its pictures."""
    suite = find_suite(name)
    done = finished(suite, results)
    text = [f"### {name}", suite.about]
    for kind, runs in done.classes().items():
        scored = {learner: aggregate.interquartile_score(runs, learner) for learner in runs.learners}
        ranks = aggregate.ranks(runs)
        order = sorted(
            scored,
            key=lambda name: (
                -len(runs.returns[name]),
                -np.nan_to_num(scored[name][0], nan=-np.inf),
                ranks[name][0] if name in ranks else np.inf,
                name,
            ),
        )
        lines = [
            [
                learner,
                str(len(runs.returns[learner])),
                tables.estimate(scored[learner], 1),
                tables.estimate(ranks.get(learner, aggregate.UNKNOWN), 1),
            ]
            for learner in order
        ]
        text += [
            f"{kind.replace('_', ' ').capitalize()}:",
            table(["method", "datasets", "score [95 % interval]", "rank [95 % interval]"], lines),
        ]
    text += [note for note in done.notes if note.partition(":")[0] in done.learners]
    text += _left_out(results, done)
    drawn = [root / "results" / name / f"{kind}.png" for kind in PICTURES]
    text += [f"![{path.stem}]({name}/{path.name})" for path in drawn if path.exists()]
    packed = (root / "results" / name / "rows.csv.gz").exists()
    files = [f"[All tables]({name}/table.md)", f"[rows]({name}/rows.csv{'.gz' if packed else ''})"]
    if (root / "results" / name / "commands.txt").exists():
        files.append(f"[commands]({name}/commands.txt)")
    text.append(f"{', '.join(files)}. {made_with(_finished(suite, results.frame()))}")
    return "\n\n".join(text)


def made_with(done: pd.DataFrame) -> str:
    """When, with which versions and on which machines finished runs were made."""
    days = sorted(set(done["date"].str[:10]))
    period = days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}"
    versions = dict.fromkeys(done["versions"].str.partition("; products")[0].str.replace("; ", ", "))
    devices = dict.fromkeys(done["machine"] + " (" + done["device"] + ")")
    return f"Made {period} with {' or '.join(versions)}, on {' or '.join(devices)}."


def overall(root: Path) -> str:
    """Methods that have finished runs on all datasets of a suite, by their score over several suites and in each."""
    joined = Results(*(root / "results" / name for name in OVERALL))
    rows = joined.frame()
    done = joined.only(
        pd.concat([_finished(find_suite(name), rows[rows["suite"] == name]) for name in OVERALL])["run"]
    )
    cells = done.table()
    (runs,) = done.classes().values()
    ranks = aggregate.ranks(runs)
    datasets = {name: list(dict.fromkeys(cells[cells["suite"] == name]["dataset"])) for name in OVERALL}
    parts = [runs, *map(runs.over, datasets.values())]
    scored = {
        learner: [
            aggregate.interquartile_score(part, learner) if learner in part.complete() else aggregate.UNKNOWN
            for part in parts
        ]
        for learner in runs.learners
    }
    known = {
        learner: scores for learner, scores in scored.items() if np.isfinite([x[0] for x in scores]).any()
    }
    lines = [
        [
            learner,
            *(tables.estimate(each, 1) for each in (*known[learner], ranks.get(learner, aggregate.UNKNOWN))),
        ]
        for learner in sorted(
            known, key=lambda name: [-np.nan_to_num(x[0], nan=-np.inf) for x in known[name]]
        )
    ]
    header = ["method", "score", *(f"{name} ({len(d)})" for name, d in datasets.items()), "rank"]
    letters = [note for note in done.notes if note.partition(":")[0] in known]
    return "\n\n".join([table(header, lines), *([" ".join(letters)] if letters else [])])


def _left_out(results: Results, done: Results) -> list[str]:
    """Names the learners whose runs stop earlier, or failed, on all their datasets, and how far they got."""
    cells = results.table()
    late = cells[~cells["learner"].isin(done.learners)]
    if late.empty:
        return []
    each = [
        f"{learner} (at most {int(part['updates_max'].max())} updates)"
        for learner, part in late.groupby("learner", sort=False)
    ]
    return [f"Without a finished run, and so not ranked: {', '.join(each)}."]


def _results(root: Path, name: str) -> Results | None:
    folder = root / "results" / name
    return Results(folder) if ResultsFile(folder / "rows.csv").exists() else None
