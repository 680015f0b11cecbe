"""When values settle: what the runs of committed suites reported while they trained.

    python benchmarks/studies/values.py [--folders results/mujoco-small results/mpe]

Runs report the mean value of the data's actions and the effective sample size of their policy's weights
(``metrics/*.csv``). Here are the means over seeds after some numbers of updates, and the least number of updates
after which these means could have ended and no longer moved by the measure of the tables' warning, which counts
seeds that move apart, too. Methods value different things with different discounts (a team, or an agent), so only the
course of a value can be compared.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tyro
from marlzoo.benchmarks import study
from marlzoo.benchmarks.analysis import Results
from marlzoo.benchmarks.drift import ESS, STILL, VALUE, value_drift
from marlzoo.benchmarks.stats import Floats

POINTS = 400  # of a curve
ENDS = 20  # at which a run is thought to end


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to read."""

    folders: tuple[Path, ...] = (Path("results/mujoco-small"), Path("results/mpe"))  # of results
    looks: tuple[int, ...] = (1_000, 10_000, 30_000, 60_000, 100_000)  # numbers of updates


def settled(updates: Floats, values: Floats) -> float:
    """The least number of updates after which a run could have ended with values that had stopped moving.

    The test is that of the tables' warning, of the mean over seeds; it has to hold for all longer runs, too. NaN
    where there is none.
    """
    ends = updates[-1] * np.arange(1, ENDS + 1) / ENDS
    drifts = [value_drift(updates[updates <= end], values[updates <= end]) for end in ends]
    late = [k for k, drift in enumerate(drifts) if drift is None or abs(drift) > STILL]
    if not late:
        return float(ends[0])
    return float(ends[late[-1] + 1]) if late[-1] + 1 < ENDS else float("nan")


def lines(options: Options) -> pd.DataFrame:
    """One line per dataset and learner: values at the looks, where they settle, and the weights' sample size."""
    found: list[dict[str, Any]] = []
    for folder in options.folders:
        results = Results(folder)
        sizes = dict(iter(results.metrics(ESS, POINTS, required=False).groupby(["dataset", "learner"])))
        for key, curve in results.metrics(VALUE, POINTS, required=False).groupby(
            ["dataset", "learner"], sort=False
        ):
            updates = curve["updates"].to_numpy(np.float64)
            values = curve["mean"].to_numpy(np.float64)
            at = {f"value_{look}": values[np.abs(updates - look).argmin()] for look in options.looks}
            found.append(
                {
                    "suite": folder.name,
                    "dataset": key[0],
                    "learner": key[1],
                    **{name: value for name, value in at.items() if int(name[6:]) <= updates[-1]},
                    "settled": settled(updates, values),
                    "updates": updates[-1],
                    "ess": sizes[key]["mean"].iloc[-1] if key in sizes else np.nan,
                }
            )
    return pd.DataFrame(found)


def _short(value: float) -> str:
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if 10 <= abs(value) < 1e5 else f"{value:.2g}"


def report(numbers: pd.DataFrame, looks: Sequence[int]) -> study.Study:
    """A line for every learner on every dataset; the share of the last value that is reached as plot."""
    body = []
    for line in numbers.to_dict("records"):
        when = "moving" if np.isnan(line["settled"]) else f"{line['settled']:,.0f}"
        values = [_short(line.get(f"value_{look}", np.nan)) for look in looks]
        size = "–" if np.isnan(line["ess"]) else f"{line['ess']:.2f}"
        body.append([f"{line['suite']} {line['dataset']}", line["learner"], *values, when, size])
    still = int(sum(line[-2] == "moving" for line in body))
    notes = [
        "Mean value of the data's actions over seeds after so many updates; settled: the least number of updates "
        f"from which on its mean over a last quarter differs from that of the quarter before by {STILL:.0%} of "
        "its largest size at most; size: effective sample size of the policy's weights at the end, 1 where all are "
        "equal.",
        f"{len(body) - still} of {len(body)} had settled.",
        f"Made by `{study.command('values')}`.",
    ]
    header = ["dataset", "learner", *(f"{look:,}" for look in looks), "settled", "size"]
    sheet = study.plain_sheet("When values settle", header, body, notes)

    def draw(figure: Any) -> None:
        suites = list(dict.fromkeys(numbers["suite"]))
        axes = np.atleast_1d(figure.subplots(1, len(suites), sharey=True))
        for ax, suite in zip(axes, suites, strict=True):
            part = numbers[numbers["suite"] == suite]
            for place, (_, rows) in enumerate(part.groupby("learner", sort=False)):
                share = (rows["settled"] / rows["updates"]).fillna(1.1)
                ax.plot(share, [place] * len(rows), "o", alpha=0.6)
            ax.set_yticks(range(part["learner"].nunique()), list(dict.fromkeys(part["learner"])), fontsize=7)
            ax.set_xticks([0.25, 0.5, 0.75, 1.0, 1.1], ["1/4", "1/2", "3/4", "", "moving"], fontsize=8)
            ax.set_title(suite, fontsize=9)
            ax.set_xlabel("settled, as a share of the run")

    return study.Study("values", sheet, numbers, draw, (9.0, 4.0))


def main(options: Options) -> int:
    """Run the study."""
    study.write_study(report(lines(options), options.looks), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
