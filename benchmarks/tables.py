"""Tables from result rows, and from nothing else.

Policies that need more than their own observation when they act have tables of their own, and are not ranked beside
decentralized ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from marlzoo.errors import ConfigError, UnknownNameError
from marlzoo.system.files import write_text_atomic
from marlzoo.task import TaskName

from . import aggregate
from .aggregate import Estimate, Runs
from .captions import captions, references_note
from .labels import labels_of
from .sheet import Sheet
from .stats import LEAST, Floats, top
from .styles import latex, markdown
from .summary import last as last
from .summary import read as read
from .summary import summary as summary

WIDTH = 80  # characters that a comparison should fit in, as terminals and pages have them
SHOWN = (0.0, 25.0, 50.0, 75.0, 100.0)  # scores of a performance profile in a table
NOTHING = "–"  # in place of a number that is not known
PARTLY = "†"  # after a comparison over some of the datasets
BEST = "best checkpoint"
CHOSEN = "chosen offline"
CLASSES = ("decentralized", "shared_randomness", "sequential", "centralized")


def sheets(rows: pd.DataFrame, title: str, command: str = "", reference: str = "") -> list[Sheet]:
    """All tables of a set of rows: for each execution class the comparison and what holds over datasets; details.

    Args:
        rows: of results, see :func:`read`.
        title: of the comparison.
        command: named as what made it.
        reference: learner, or method with one learner, that the others' probability of improvement is over;
            default: the first of each class.

    Raises:
        UnknownNameError: no such learner or method among the rows.
        ConfigError: the method has several learners, none of which has its plain name.
    """
    found, _ = aggregate.named(summary(rows))
    return _sheets(rows, found, title, command, reference)


def _sheets(rows: pd.DataFrame, found: pd.DataFrame, title: str, command: str, reference: str) -> list[Sheet]:
    """:func:`sheets` of rows whose named summary is ``found``."""
    _check_reference(found, reference)
    made = []
    for kind, cells in classes(found):
        runs = aggregate.select_runs(rows, cells)
        usual = found["execution"].nunique() == 1 and kind in (CLASSES[0], "unknown")
        name = title if usual else f"{title}: {kind.replace('_', ' ')} execution"
        notes = labels_of(found, found["execution"] == kind).notes
        made += [comparison(cells, runs, name, notes, command), *_published(cells)]
        made += _aggregates(cells, runs, reference)
    return [*made, details(found)]


def _check_reference(found: pd.DataFrame, reference: str) -> None:
    if not reference or reference in set(found["learner"]):
        return
    learners = list(dict.fromkeys(found.loc[found["method"] == reference, "learner"]))
    if not learners:
        raise UnknownNameError("method of the rows", reference, {*found["method"], *found["learner"]})
    if len(learners) > 1:
        names = ", ".join(repr(name) for name in learners)
        raise ConfigError(f"{reference} has {len(learners)} learners in these rows; name one of {names}.")


def comparison(
    cells: pd.DataFrame, runs: Runs, title: str, notes: Sequence[str] = (), command: str = ""
) -> Sheet:
    """The comparison of one execution class: mean and spread of every learner on every dataset.

    Methods are the columns where they fit and are no more than the datasets, else the lines.
    """
    learners = list(dict.fromkeys(cells["learner"]))
    datasets = list(dict.fromkeys(cells["dataset"]))
    sheet = Sheet(title, ["dataset", "(data)", *learners], [])
    for dataset in datasets:
        group = cells[cells["dataset"] == dataset].set_index("learner")
        found = {name: group.loc[name] for name in learners if name in group.index}
        digits = decimals([*group["mean"], *group["behavior"]])
        texts = [cell(found[name], digits) if name in found else "not run" for name in learners]
        sheet.body.append([dataset, number(group["behavior"].iloc[0], digits), *texts])
        marked = top(
            {name: runs.returns[name][dataset] for name in found if dataset in runs.returns.get(name, {})}
        )
        sheet.best.append({2 + learners.index(name) for name in marked if len(learners) > 1})
    sheet.notes = captions(cells, list(notes), command)
    if len(learners) > len(datasets) or sheet.width() + sum(map(bool, sheet.best)) > WIDTH:
        turned = sheet.transposed()
        turned.header[0] = "method"
        return turned
    return sheet


def _published(cells: pd.DataFrame) -> list[Sheet]:
    """Published scores of the same methods, in a table of their own."""
    quoted = cells[cells["published"].notna()].drop_duplicates(["dataset", "method"])
    if quoted.empty:
        return []
    methods = list(dict.fromkeys(quoted["method"]))
    datasets = list(dict.fromkeys(quoted["dataset"]))
    sheet = Sheet("Published scores", ["method", *datasets], [])
    for method in methods:
        part = quoted[quoted["method"] == method].set_index("dataset")
        known = [part.loc[d] if d in part.index else None for d in datasets]
        texts = ["–" if k is None else plus_minus(k["published"], k["published_std"]) for k in known]
        sheet.body.append([method, *texts])
    papers = ", ".join(dict.fromkeys(quoted["published_in"]))
    sheet.notes = [
        f"From {papers}: trained on the published OMIGA datasets with the paper's protocol and settings; "
        "± is the standard deviation that the paper gives."
    ]
    if set(quoted["source"]) != {"omiga"}:
        sheet.notes.append("Ours are on regenerated data, so the two tables are not the same experiment.")
    return [sheet]


def _aggregates(cells: pd.DataFrame, runs: Runs, reference: str) -> Iterator[Sheet]:
    """Aggregates over several datasets: overall, and per family if there are several."""
    if len(runs.learners) < 2 or len(runs.datasets) < 2:
        return
    families = cells["task"].map(lambda task: TaskName.parse(task).family)
    scopes = {"all": list(runs.datasets)}
    if families.nunique() > 1:
        scopes |= {
            name: list(dict.fromkeys(cells.loc[families == name, "dataset"]))
            for name in dict.fromkeys(families)
        }
    for name, datasets in scopes.items():
        if len(datasets) > 1:
            yield _aggregate(name, cells, runs.over(datasets), reference)
    shares = aggregate.profiles(runs, SHOWN)
    if not shares.empty:
        yield _profile(shares)


def _aggregate(scope: str, cells: pd.DataFrame, runs: Runs, reference: str) -> Sheet:
    mine = cells[cells["dataset"].isin(runs.datasets)]
    labels = dict(zip(mine["method"], mine["learner"], strict=True))
    than = reference if reference in runs.learners else labels.get(reference, "")
    than = than if than in runs.learners else runs.learners[0]
    complete = set(runs.complete())
    found = [(each, each.of(runs, than)) for each in aggregate.STATISTICS]
    shown = [(each, of) for each, of in found if of or each is not aggregate.RANK]  # one alone has no rank
    sheet = Sheet(
        f"Over {'all' if scope == 'all' else scope} datasets ({len(runs.datasets)})",
        ["method", *(each.head(than) for each, _ in shown)],
        [],
    )
    for name in runs.learners:
        values = []
        for each, of in shown:
            value = estimate(of.get(name, aggregate.UNKNOWN), each.digits)
            # Scores and ranks are over all datasets; only a comparison with one method may be over fewer.
            partly = each is aggregate.BETTER and not {name, than} <= complete and value != NOTHING
            values.append(value + PARTLY * partly)
        sheet.body.append([name, *values])
    meanings = "; ".join(each.caption(than) for each, _ in shown)
    sheet.notes = [
        f"{meanings}. In brackets 95 % bootstrap intervals over seeds, stratified by dataset, from {LEAST} seeds on.",
        references_note(zip(mine["task"], mine["quality"], mine["source"], strict=True)),
    ]
    if len(complete) < len(runs.learners):
        sheet.notes.append(
            f"–: not run on all of these datasets. {PARTLY}: over those that both methods ran on, and so of other "
            "datasets than the numbers above and below it."
        )
    lost = [name for name in runs.learners if name in complete and _lost(runs.returns[name].values())]
    if lost:
        sheet.notes.append(
            f"No score of {', '.join(lost)}: a run has no finite return. In ranks and probabilities it is below all "
            "others."
        )
    return sheet


def _lost(samples: Iterable[Floats]) -> bool:
    """Whether a run has no finite return."""
    return not all(np.isfinite(sample).all() for sample in samples)


def _profile(shares: pd.DataFrame) -> Sheet:
    """Performance profile at a few scores."""
    sheet = Sheet("Performance profile", ["method", *(f"≥ {score:.0f}" for score in SHOWN)], [], long=True)
    for learner, part in shares.groupby("learner", sort=False):
        values = part[["share", "low", "high"]].itertuples(index=False, name=None)
        sheet.body.append([str(learner), *(estimate(value, 2) for value in values)])
    sheet.notes = [
        "Share of runs whose normalized score is at least so high, averaged over datasets, with the 95 % bootstrap "
        "interval; at more scores in profile.csv."
    ]
    return sheet


def details(cells: pd.DataFrame) -> Sheet:
    """Per dataset and learner: seeds, updates, mean, interquartile mean with its interval, score, wins.

    Where runs were evaluated several times, the best of these stands beside the last one, and so does the checkpoint
    with the highest estimate where returns were estimated.
    """
    several = bool((cells["evaluations"] > 1).any())
    estimated = bool((cells["estimates"] > 1).any())
    header = ["dataset, learner", "seeds", "updates", "mean ± std", "IQM [95 % interval]", "score", "wins"]
    header += ([BEST] if several else []) + ([CHOSEN] if estimated else [])
    sheet = Sheet("Details", header, [], long=True)
    places = {name: decimals([*part["mean"], *part["behavior"]]) for name, part in cells.groupby("dataset")}
    for line in cells.to_dict("records"):
        digits = places[line["dataset"]]
        between = "" if line["updates"] == line["updates_max"] else f"–{line['updates_max']}"
        sheet.body.append(
            [
                f"{line['dataset']}, {line['learner']}",
                str(line["seeds"]),
                f"{line['updates']}{between}",
                cell(pd.Series(line), digits),
                estimate((line["iqm"], line["iqm_low"], line["iqm_high"]), digits),
                number(line["score"]),
                "–" if math.isnan(line["win_rate"]) else f"{100 * line['win_rate']:.0f} %",
                *([f"{number(line['best'], digits)} of {line['evaluations']}"] if several else []),
                *([f"{number(line['chosen'], digits)} of {line['estimates']}"] if estimated else []),
            ]
        )
    if several:
        sheet.notes = [
            f"{BEST}: mean over seeds of the highest return that any evaluation of a run had, and how many "
            "evaluations these were. Only the simulator can choose it, and the choice biases it upwards: it is shown "
            "beside the last checkpoint, and nothing is ranked or marked by it."
        ]
    if estimated:
        sheet.notes.append(
            f"{CHOSEN}: mean over seeds of the return of the checkpoint that fitted Q evaluation on the training "
            "data estimates to be the best, and how many checkpoints were estimated. It is shown beside the last "
            "checkpoint, and nothing is ranked or marked by it."
        )
    return sheet


def write(
    rows: pd.DataFrame, folder: Path, title: str, command: str = "", reference: str = ""
) -> list[Sheet]:
    """Write the tables of a set of rows into ``folder``; returns them.

    ``table.csv`` holds all numbers per dataset and learner, ``improvement.csv`` the probability of improvement of
    every pair, ``profile.csv`` the performance profiles, ``table.md`` and ``table.tex`` the tables.

    Raises:
        OutputError: a file cannot be written.
        UnknownNameError, ConfigError: see :func:`sheets`.
    """
    found, _ = aggregate.named(summary(rows))
    made = _sheets(rows, found, title, command, reference)
    _write_csv(folder / "table.csv", found)
    parts = [(kind, aggregate.select_runs(rows, cells)) for kind, cells in classes(found)]
    for name, numbers in (("improvement", aggregate.improvements), ("profile", aggregate.profiles)):
        frames = [numbers(runs).assign(execution=kind) for kind, runs in parts]
        filled = [frame for frame in frames if not frame.empty]
        if filled:
            _write_csv(folder / f"{name}.csv", pd.concat(filled, ignore_index=True))
    write_text_atomic(folder / "table.md", "\n".join(map(markdown, made)))
    write_text_atomic(folder / "table.tex", "\n".join(latex(sheet) for sheet in made if not sheet.long))
    return made


def decimals(returns: Iterable[float]) -> int:
    """Decimal places for the returns of one dataset: two where all are below 10 (a battle of SMAX is worth 2)."""
    return 1 if any(abs(value) >= 10 for value in returns if math.isfinite(value)) else 2


def number(value: float, digits: int = 1) -> str:
    """A number with so many decimals; a dash for one that is not finite."""
    return f"{round(value, digits) + 0.0:.{digits}f}" if math.isfinite(value) else "–"  # + 0.0: not -0.0


def plus_minus(mean: float, std: float, digits: int = 1) -> str:
    """A mean and its spread."""
    spread = f" ± {std:.{digits}f}" if math.isfinite(std) and math.isfinite(mean) else ""
    return number(mean, digits) + spread


def estimate(value: Estimate, digits: int) -> str:
    """A value with its interval, if it has one."""
    middle, low, high = value
    if not math.isfinite(middle):
        return NOTHING
    spread = f" [{number(low, digits)}, {number(high, digits)}]" if math.isfinite(low) else ""
    return f"{number(middle, digits)}{spread}"


def cell(line: pd.Series, digits: int = 1) -> str:
    """Mean and spread, with the number of replicas that diverged, failed or have not finished."""
    text = plus_minus(line["mean"], line["std"], digits)
    if line["diverged"]:
        text += f" d{line['diverged']}/{line['seeds']}"
    runs = line["seeds"] + line["failed"] + line["unfinished"]
    for letter, count in (("f", line["failed"]), ("u", line["unfinished"])):
        if count:
            text += f" {letter}{count}/{runs}"
    return text


def classes(cells: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Lines of a summary by execution class, the decentralized ones first."""
    kinds = list(dict.fromkeys(cells["execution"]))
    for kind in sorted(
        kinds, key=lambda k: (CLASSES.index(k) if k in CLASSES else len(CLASSES), kinds.index(k))
    ):
        yield kind, cells[cells["execution"] == kind]


def _write_csv(path: Path, table: pd.DataFrame) -> None:
    write_text_atomic(path, table.to_csv(index=False, lineterminator="\n"))
