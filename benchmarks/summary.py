"""From result rows to numbers per dataset and learner, and from nothing else.

A run counts with its last checkpoint, never with the best one seen during training, and only where it has as many
updates as any run on the same data: runs of different length cannot be compared. Diverged replicas are counted, never
dropped. A run that failed has no result, nor has one that stopped earlier; their number is stated.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from marlzoo.errors import DataError

from .drift import moving
from .references import normalized_score, published_result
from .results import OF_READERS, RUN, ResultsFile
from .stats import Floats, interval, iqm

RESULTS = Path("results")  # where commands write unless they are told otherwise
DATASET = ["task", "source", "quality"]
LEARNER = ["method", "variant", "execution"]
DATA = ["suite", *DATASET, "data_hash"]
CELL = [*DATA, *LEARNER, "config_hash"]


def read(paths: Iterable[Path]) -> pd.DataFrame:
    """Rows of several result files or folders (which hold ``rows.csv``, or one folder that does), each of them once.

    Raises:
        DataError: none is named, no such file, no rows in it, not a results file, a folder that holds results of
            several runs, or two that have other returns for the same runs.
    """
    files = [results_at(path) for path in paths]
    if not files:
        raise DataError("no results are named; give at least one folder, such as results/SUITE")
    parts = [file.read() for file in files]
    _require_agreement(files, parts)
    rows = pd.concat(parts, ignore_index=True)
    if rows.empty:
        names = ", ".join(str(file.path) for file in files)
        raise DataError(
            f"no result rows in {names}; run a suite first (marlzoo bench SUITE), or name another path"
        )
    # Results that are named twice, or a copy of them, are the same evaluations.
    return rows.drop_duplicates(["run", "updates", "error"], keep="last", ignore_index=True)


def _require_agreement(files: Sequence[ResultsFile], parts: Sequence[pd.DataFrame]) -> None:
    """Refuse results that have other returns for the same runs: a table could show one of them only."""
    known: dict[Any, tuple[int, float]] = {}
    for k, part in enumerate(parts):
        done = part[part["error"] == ""]
        for run, updates, value in zip(
            *(done[name] for name in ("run", "updates", "mean_return")), strict=True
        ):
            other, before = known.setdefault((run, updates), (k, value))
            if before != value and not (math.isnan(before) and math.isnan(value)):
                raise DataError(
                    f"{files[other].path} and {files[k].path} have other returns for the same runs ({run} after "
                    f"{updates} updates: {before:g} and {value:g}); name one of them, or compare the two: marlzoo "
                    f"results compare {files[other].path.parent} {files[k].path.parent}"
                )


def results_at(path: Path) -> ResultsFile:
    """The results at a path, of the one run in it or in its folder ``results``, or in ``results`` under that name.

    Raises:
        DataError: there are none, or those of several runs.
    """
    place = path if path.exists() or not (RESULTS / path).is_dir() else RESULTS / path
    results = ResultsFile(place / "rows.csv" if place.is_dir() else place, OF_READERS)
    if results.exists():
        return results
    below = _runs_in(path) or _runs_in(path / RESULTS)
    if len(below) == 1:
        return below[0]
    if below:
        names = ", ".join(str(results.path.parent) for results in below)
        raise DataError(f"{path}: holds results of several runs; name one or more of them: {names}")
    raise DataError(f"no results at {path}; run a suite first (marlzoo bench SUITE) or name another path")


def _runs_in(folder: Path) -> list[ResultsFile]:
    """The results in the folders directly below one."""
    below = sorted(folder.iterdir()) if folder.is_dir() else []
    found = [ResultsFile(run / "rows.csv", OF_READERS) for run in below]
    return [results for results in found if results.exists()]


def last(rows: pd.DataFrame) -> pd.DataFrame:
    """Each run's row with the most updates; of a run that failed, the row that says so."""
    ordered = rows.assign(failed=rows["error"] != "").sort_values(["failed", "updates"], kind="stable")
    newest = ordered.drop_duplicates(list(RUN), keep="last")
    return newest.sort_index().drop(columns="failed")


def same_learners(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows in which one configuration has one name.

    Two variants of a method whose configurations are the same on every dataset that both ran on (``alpha=10.0`` and
    a default of 10) get the shorter of their names, and a seed that both have counts once.
    """
    renamed = with_one_name(rows)
    best = renamed.assign(done=renamed["error"] == "").sort_values(["done", "updates"], kind="stable")
    return best.drop_duplicates(list(RUN), keep="last").sort_index().drop(columns="done")


def outcomes(rows: pd.DataFrame) -> pd.DataFrame:
    """Each run's last row under one name per configuration; see :func:`last` and :func:`same_learners`.

    The column ``budget`` has the most updates of any run on the same data, ``finished`` whether the run has as many.
    """
    found = same_learners(last(rows))
    reached = found["updates"].where(found["error"] == "")
    most = reached.groupby([found[name] for name in DATA], sort=False, dropna=False).transform("max")
    return found.assign(budget=most, finished=reached.eq(most))


def with_one_name(rows: pd.DataFrame) -> pd.DataFrame:
    """All rows, variants that are one configuration under one name; see :func:`same_learners`."""
    renamed = rows.copy()
    for method, part in rows.groupby("method", sort=False):
        names = _one_name(part)
        mine = renamed["method"] == method
        renamed.loc[mine, "variant"] = renamed.loc[mine, "variant"].replace(names)
    return renamed


def _one_name(rows: pd.DataFrame) -> dict[str, str]:
    """For the variants of one method, under which name each goes."""
    hashes: dict[str, dict[Any, set[str]]] = {}
    told = rows[["variant", "suite", *DATASET, "data_hash", "config_hash"]]
    for row in told.drop_duplicates().itertuples(index=False, name=None):
        variant, *dataset, config = row
        hashes.setdefault(variant, {}).setdefault(tuple(dataset), set()).add(config)
    names: dict[str, str] = {}
    for variant in sorted(hashes, key=lambda name: (len(name), name)):
        names[variant] = next((n for n in names.values() if _agree(hashes[n], hashes[variant])), variant)
    return names


def _agree(first: dict[Any, set[str]], second: dict[Any, set[str]]) -> bool:
    shared = first.keys() & second.keys()
    return bool(shared) and all(first[dataset] == second[dataset] for dataset in shared)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per dataset and learner, over seeds.

    Columns beside the names: ``seeds`` (runs with a result), ``failed`` (runs that an error ended),
    ``unfinished`` (runs with fewer updates than others on the same data), ``reached`` (most updates of these),
    ``updates`` (of the runs with a result; without any, fewest and ``updates_max`` of the others), ``budget``
    (most updates of any run on the same data), ``episodes``, ``mean``, ``std`` (of a sample of seeds), ``best``
    (mean over seeds of the highest return that any evaluation of a run had; biased upwards, so nothing is ranked
    by it), ``evaluations`` (fewest of a run), ``chosen`` (mean over seeds of the return of the checkpoint with
    the highest estimate, where returns were estimated), ``estimates`` (fewest of a run), ``iqm``, ``iqm_low``,
    ``iqm_high`` (95 % bootstrap, from three seeds on), ``score`` and ``score_iqm`` (normalized, see
    :func:`marlzoo.benchmarks.references.ends`), ``win_rate``, ``diverged`` (replicas), ``value``, ``moving``
    (drift of values that had not converged, else NaN), ``weight_ess``, ``behavior`` (the dataset's mean return),
    ``published``, ``published_std``, ``published_in``, ``codes`` (versions of the code), ``tuning``, ``seconds``
    (training time of the lockstep groups that the runs were part of) and ``seconds_per_run``.
    """
    final = outcomes(rows).merge(_highest(rows), on=list(RUN), how="left")
    final = final.merge(_chosen(rows), on=list(RUN), how="left")
    # A run that failed does not say how its policy acts: it stands with the runs of its configuration that do.
    known = final[final["error"] == ""].drop_duplicates(["method", "config_hash"])
    execution = dict(
        zip(zip(known["method"], known["config_hash"], strict=True), known["execution"], strict=True)
    )
    keys = zip(final["method"], final["config_hash"], strict=True)
    final = final.assign(execution=[execution.get(key, "unknown") for key in keys])
    return pd.DataFrame(
        [
            dict(zip(CELL, names, strict=True)) | _cell(cell)
            for names, cell in final.groupby(CELL, sort=False, dropna=False)
        ]
    )


def spoiled(cells: pd.DataFrame) -> pd.Series:
    """Lines of a summary that no choice of settings may rest on: a run failed, has not finished, or none is there."""
    return (cells["failed"] > 0) | (cells["unfinished"] > 0) | (cells["seeds"] == 0)


def _highest(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every run the highest mean return of its evaluations, and how many these are."""
    renamed = with_one_name(rows[rows["error"] == ""])
    finite = renamed["mean_return"].where(np.isfinite(renamed["mean_return"]))
    by = renamed.assign(mean_return=finite).groupby(list(RUN), sort=False, dropna=False)["mean_return"]
    return pd.DataFrame({"highest": by.max(), "evaluations": by.size()}).reset_index()


def _chosen(rows: pd.DataFrame) -> pd.DataFrame:
    """Of every run the mean return of the checkpoint with the highest estimate, and how many have one."""
    renamed = with_one_name(rows[rows["error"] == ""])
    known = (
        renamed[renamed["estimate"].notna()] if "estimate" in renamed else renamed[:0].assign(estimate=0.0)
    )
    by = known.groupby(list(RUN), sort=False, dropna=False)["estimate"]
    best = known.loc[by.idxmax()].set_index(list(RUN))["mean_return"]
    return pd.DataFrame({"chosen": best, "estimates": by.size()}).reset_index()


def _cell(cell: pd.DataFrame) -> dict[str, Any]:
    """The numbers of one learner on one dataset."""
    done = cell[cell["finished"]]
    stopped = cell[~cell["finished"] & (cell["error"] == "")]
    values = done["mean_return"].to_numpy(dtype=np.float64)
    scores = scores_of(done)
    task, quality, method = (cell[name].iloc[0] for name in ("task", "quality", "method"))
    low, high = interval([values])
    known = published_result(task, quality, method)
    still = moving(done["value_drift"].to_numpy(dtype=np.float64))
    counted = done if len(done) else cell
    return {
        "seeds": len(done),
        "failed": int((cell["error"] != "").sum()),
        "unfinished": len(stopped),
        "reached": stopped["updates"].max(),
        "updates": int(counted["updates"].min()),
        "updates_max": int(counted["updates"].max()),
        "budget": counted["budget"].max(),
        "episodes": int(counted["episodes"].min()),
        "mean": values.mean() if len(values) else math.nan,
        "std": values.std(ddof=1) if len(values) > 1 and np.isfinite(values).all() else math.nan,
        "best": done["highest"].mean(skipna=False) if len(done) else math.nan,
        "evaluations": int(done["evaluations"].min()) if len(done) else 0,
        "chosen": done["chosen"].mean(skipna=False) if len(done) else math.nan,
        "estimates": int(done["estimates"].fillna(0).min()) if len(done) else 0,
        "iqm": _finite_iqm(values),
        "iqm_low": low,
        "iqm_high": high,
        "score": scores.mean() if len(scores) else math.nan,
        "score_iqm": _finite_iqm(scores),
        "win_rate": done["win_rate"].mean(skipna=False) if len(done) else math.nan,
        "diverged": int(done["diverged"].sum()),
        "value": done["value_mean"].mean(),
        "moving": math.nan if still is None else still,
        "weight_ess": done["weight_ess"].mean(),
        "behavior": cell["behavior_return"].mean(),
        "published": known.mean if known else math.nan,
        "published_std": known.std if known else math.nan,
        "published_in": known.reference if known else "",
        "codes": ", ".join(dict.fromkeys(filter(None, done["code"]))),
        "tuning": "; ".join(dict.fromkeys(filter(None, done["tuning"]))),
        "seconds": cell["seconds"].max(),
        "seconds_per_run": done["seconds_per_run"].mean(),
    }


def scores_of(rows: pd.DataFrame) -> Floats:
    """Normalized scores of rows, all by today's reference of their task and data; NaN without one."""
    lines = zip(rows["task"], rows["mean_return"], rows["quality"], rows["source"], strict=True)
    found = [normalized_score(*line) for line in lines]
    return np.array([math.nan if score is None else score for score in found], dtype=np.float64)


def _finite_iqm(values: Floats) -> float:
    return float(iqm(values)) if len(values) and np.isfinite(values).all() else math.nan
