"""``marlzoo.report``: one HTML file of tables and curves from result rows (extra ``report``).

The file needs no network and no server: its data, its style and the scripts that draw are part of it, and its content
security policy forbids the browser to fetch anything. All text from rows is escaped.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd

from marlzoo.console import counted
from marlzoo.errors import ConfigError
from marlzoo.system.files import write_text_atomic
from marlzoo.version import __version__

from . import aggregate, charts
from .analysis import DATASET, LEARNER, Results, records, scope_name
from .commands import read_commands
from .data_cards import Described, described
from .drift import ESS, VALUE
from .sheet import Sheet
from .styles import html
from .tables import decimals, estimate, number, plus_minus

POINTS = 60  # of a curve
DIGITS = 5  # significant ones of a number in a chart


def report(
    *paths: str | os.PathLike[str],
    out: str | os.PathLike[str] = "report.html",
    title: str = "",
    reference: str = "",
    command: str = "",
) -> Path:
    """Write a report: leaderboard, tables, learning curves, profiles, ranks, value scales, datasets,
    compute and provenance.

    Args:
        paths: folders that hold ``rows.csv``, or such files.
        out: the file, ending in .html.
        title: of the page; default: the paths.
        reference: method that the others' probability of improvement is over; default: the first.
        command: named as what made the report.

    Returns:
        The file.

    Raises:
        ConfigError: the file's name ends otherwise.
        DataError: no rows, or rows of another version.
        MissingExtraError: altair or vl-convert is not installed.
        UnknownNameError: no such reference among the rows.
        OutputError: the file cannot be written.
    """
    path = Path(out)
    if path.suffix not in (".html", ".htm"):
        raise ConfigError(f"{path}: end the file's name in .html")
    scripts = charts.scripts()  # a missing extra is found before any work
    results = Results(*paths)
    title = title or results.title
    write_text_atomic(path, _page(results, title, reference, command, scripts))
    return path


def _page(results: Results, title: str, reference: str, command: str, scripts: str) -> str:
    data = list(described(results))
    parts = {
        "title": escape(title),
        "style": _asset("page.css"),
        "summary": _summary(results, command),
        "leaderboard": "\n".join(map(html, leaderboard(results))),
        "tables": "\n".join(html(sheet) for sheet in results.sheets(title, command, reference)),
        "compute": html(compute(results)),
        "provenance": _provenance(results),
        "cards": html(_cards(data)),
        "data": _json(_data(results) | _histograms(data)),
        "charts": _json(_specs(results)),
        "scripts": scripts.replace("</script", "<\\/script"),
        "code": _asset("page.js"),
    }
    # In one pass, so that a mark inside a text is left as it is.
    return re.sub(r"@(\w+)@", lambda mark: parts[mark[1]], _asset("page.html"))


def leaderboard(results: Results) -> list[Sheet]:
    """For each suite and execution class the learners, the best mean rank first."""
    made = []
    cells = results.table()
    for (suite, kind), runs in results.scopes().items():
        shown = [(each, each.of(runs, "")) for each in (aggregate.RANK, aggregate.SCORE)]
        places = shown[0][1]
        header = [
            "learner",
            *(each.head() for each, _ in shown),
            "datasets",
            "runs",
            "diverged",
            "failed",
            "unfinished",
        ]
        sheet = Sheet(f"{scope_name(suite, kind)} execution", header, [])
        for name in sorted(runs.learners, key=lambda name: places[name][0] if name in places else math.inf):
            mine = cells[
                (cells[LEARNER] == name) & (cells["execution"] == kind) & cells[DATASET].isin(runs.datasets)
            ]
            sheet.body.append(
                [
                    name,
                    *(estimate(of[name], each.digits) if name in of else "–" for each, of in shown),
                    f"{len(runs.returns[name])}",
                    f"{mine['seeds'].sum()}",
                    f"{mine['diverged'].sum()}",
                    f"{mine['failed'].sum()}",
                    f"{mine['unfinished'].sum()}",
                ]
            )
        made.append(sheet)
    meanings = "; ".join(each.caption() for each in (aggregate.RANK, aggregate.SCORE))
    made[-1].notes = [
        f"{meanings}. In brackets 95 % bootstrap intervals over seeds. –: not run on all of these datasets, no "
        "reference, or a run without a finite return."
    ]
    return made


def compute(results: Results) -> Sheet:
    """What the runs cost: time, devices and machines by learner."""
    rows = results.named_rows()
    last = rows.sort_values("updates", kind="stable").drop_duplicates("run", keep="last")
    sheet = Sheet("Compute", ["learner", "runs", "updates", "hours", "seconds per run", "device"], [])
    for learner, part in last.groupby(LEARNER, sort=False):
        each = part["seconds_per_run"]
        known = each.notna().all()
        sheet.body.append(
            [
                str(learner),
                f"{len(part)}",
                f"{part['updates'].sum()}",
                f"{each.sum() / 3600:.2f}" if known else "–",
                number(each.mean()) if known else "–",
                ", ".join(dict.fromkeys(part["device"])),
            ]
        )
    sheet.notes = [
        "hours: training and evaluation of all runs, each with its share of its lockstep group; –: rows of an older "
        "version do not say."
    ]
    return sheet


def _summary(results: Results, command: str) -> str:
    rows = results.frame()
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = (
        f"{counted(rows['run'].nunique(), 'run')} of {counted(len(results.learners), 'learner')} on "
        f"{counted(len(results.datasets), 'dataset')}, {counted(len(rows), 'row')}. "
        f"Written by marlzoo {__version__} on {now}."
    )
    made = f"<p>Made by <code>{escape(command)}</code></p>" if command else ""
    return f"<p>{escape(text)}</p>{made}"


def _provenance(results: Results) -> str:
    """Commands, versions, machines, commits, settings and datasets of the rows."""
    rows = results.named_rows()
    commands = [line for folder in results.folders for line in read_commands(folder)]
    parts = [_listing("Commands", commands or ["The rows do not say which commands made them."])]
    for name, column in (("Versions", "versions"), ("Machines", "machine"), ("Commits", "commit")):
        parts.append(_listing(name, sorted({text for text in rows[column] if text}) or ["not recorded"]))
    settings = Sheet("Settings", ["learner", "preset", "settings"], [])
    for (learner, preset, config), _ in rows[rows["config"] != ""].groupby(
        [LEARNER, "preset", "config"], sort=False
    ):
        settings.body.append([str(learner), str(preset) or "defaults", str(config)])
    data = Sheet(
        "Datasets", ["dataset", "task", "source", "quality", "transitions", "mean return", "hash"], []
    )
    columns = [DATASET, "task", "source", "quality", "data_transitions", "behavior_return", "data_hash"]
    for line in rows[columns].drop_duplicates([DATASET, "data_hash"]).itertuples(index=False, name=None):
        name, task, source, quality, size, mean, digest = line
        count = "–" if math.isnan(size) else f"{size:.0f}"
        data.body.append([name, task, source, quality, count, number(mean, decimals([mean])), digest[:12]])
    return "\n".join([*parts, html(data), *([html(settings)] if settings.body else [])])


def _listing(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li><code>{escape(line)}</code></li>" for line in dict.fromkeys(lines))
    return f"<h3>{escape(title)}</h3><ul>{items}</ul>"


def _data(results: Results) -> dict[str, Any]:
    """Rows of the charts."""
    profiles = _scoped(results.profiles().rename(columns={"score": "x", "share": "mean"}))
    ranks = _scoped(results.ranks().rename(columns={"rank": "mean"}))
    return {
        "learners": results.learners,
        "datasets": results.datasets,
        "behavior": records(results.table().groupby(DATASET, sort=False)["behavior"].first().reset_index()),
        "curves": _curve(results.curves()),
        "values": _curve(results.metrics(VALUE, POINTS, required=False)),
        "weights": _curve(results.metrics(ESS, POINTS, required=False)),
        "profiles": records(profiles, DIGITS),
        "ranks": records(ranks, DIGITS),
    }


def _scoped(found: pd.DataFrame) -> pd.DataFrame:
    """With one name in place of suite and class."""
    names = [scope_name(*scope) for scope in zip(found["suite"], found["execution"], strict=True)]
    return found.drop(columns=["suite", "execution"]).assign(scope=names)


def _curve(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Curves as columns, one line per dataset and learner, so that every name stands once; ``page.js`` unpacks them.

    A long curve is thinned to every k-th point, :data:`POINTS` to twice as many; the last one is kept.
    """
    lines = []
    for (dataset, learner), curve in found.groupby([DATASET, LEARNER], sort=False):
        thinned = curve[:: -max(1, len(curve) // POINTS)][::-1]
        columns = thinned[["updates", "mean", "low", "high"]].rename(columns={"updates": "x"})
        rows = records(columns.dropna(axis="columns", how="all"), DIGITS)
        values = {name: [row[name] for row in rows] for name in rows[0]}
        lines.append({DATASET: dataset, LEARNER: learner, **values})
    return lines


def _specs(results: Results) -> dict[str, Any]:
    learners = results.learners
    return {
        "curves": charts.line_with_band("updates", "return", learners, level="behavior"),
        "values": charts.line_with_band("updates", "mean value of the data's actions", learners),
        "weights": charts.line_with_band("updates", "effective sample size / batch", learners),
        "profiles": charts.line_with_band("normalized score", "share of runs", learners),
        "ranks": charts.points_with_interval("mean rank", learners),
        "returns": charts.bars("undiscounted return", "episodes"),
        "lengths": charts.bars("length in steps", "episodes"),
    }


def _histograms(data: Sequence[Described]) -> dict[str, Any]:
    """Rows of the datasets' charts."""
    return {
        kind: [line | {DATASET: each.name} for each in data for line in getattr(each, kind)]
        for kind in ("returns", "lengths")
    }


def _cards(data: Sequence[Described]) -> Sheet:
    """The cards of the datasets."""
    header = ["dataset", "recorded by", "transitions", "episodes", "return", "length", "license", "made by"]
    sheet = Sheet("Dataset cards", header, [])
    for each in data:
        card = each.card
        digits = decimals([card.mean_return])
        sheet.body.append(
            [
                each.name,
                " ".join(filter(None, (card.source, card.quality))),
                f"{card.transitions}",
                f"{card.episodes}",
                plus_minus(card.mean_return, card.std_return, digits),
                number(card.mean_length),
                card.license or "not stated",
                json.dumps(card.recipe, sort_keys=True) if card.recipe else "not stated",
            ]
        )
    sheet.notes = [f"{each.name}: {note}" for each in data for note in each.card.notes]
    return sheet


def _json(value: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _asset(name: str) -> str:
    return files(__package__).joinpath("report_page", name).read_text(encoding="utf-8")
