"""``marlzoo ope``: a run's return, estimated from logged data alone."""

from __future__ import annotations

import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse
from marlzoo.cli._progress import closing, without_nan

if TYPE_CHECKING:
    from marlzoo.offpolicy.ope import Estimate


@dataclass
class Options:
    """Estimate the expected discounted return of every replica; nothing is measured in a simulator."""

    run: Annotated[Path, tyro.conf.Positional]
    """checkpoint ending in .npz, or the folder of a run or a suite"""
    data: str
    """name or file of logged data of the run's task; better not those that it was trained on"""
    method: str = ""
    """the checkpoint of this method, where the folder has several"""
    dataset: str = ""
    """only replicas trained on these data: their name, or their quality, for instance medium-expert"""
    estimators: tuple[Literal["fqe", "pdwis", "dr"], ...] = ()
    """fitted Q evaluation, per-decision weighted importance sampling, doubly robust (default: all for discrete
    actions, fqe for continuous)"""
    behavior: Literal["fitted", "uniform"] = "fitted"
    """how probable the logged actions were: fitted to the data, or uniform over the legal ones"""
    gamma: float = -1.0
    """discount (-1: the run's own; 1: undiscounted)"""
    updates: int = 3000
    """gradient steps of fqe, and of the fit of the behavior"""
    hidden: int = 64
    """width of fqe's hidden layers"""
    members: int = 8
    """networks fitted to resampled episodes, for fqe's interval"""
    bootstrap: int = 200
    """resamples of the episodes, for the others' intervals"""
    random_seed: int = 0
    """random seed of the estimation"""
    json: bool = False
    """print JSON"""


def run(arguments: Sequence[str]) -> int:
    """Estimate and print one line per replica and estimator."""
    started = time.monotonic()
    options = parse(Options, "ope", arguments)
    from marlzoo.offpolicy.fqe import FQESettings
    from marlzoo.offpolicy.ope import ope

    found = ope(
        options.run,
        options.data,
        method=options.method,
        dataset=options.dataset,
        estimators=options.estimators,
        behavior=options.behavior,
        gamma=None if options.gamma == -1.0 else options.gamma,
        settings=FQESettings(updates=options.updates, hidden=options.hidden, members=options.members),
        bootstrap=options.bootstrap,
        seed=options.random_seed,
    )
    if options.json:
        print(json.dumps([without_nan(asdict(line)) for line in found], indent=2))
        return 0
    print(f"Estimates from {options.data}, not returns measured in the simulator:")
    for line in found:
        print(_text(line))
    closing("Estimated", started, _next(options))
    return 0


def _next(options: Options) -> str:
    """The command that plays the same teams, or exports one where nothing here plays their task."""
    from marlzoo.families import Task
    from marlzoo.training.checkpoint import find_teams, load_saved, task_of

    file, _ = find_teams(options.run, options.method, options.dataset)
    playable = Task.parse(task_of(load_saved(file).meta)).exists
    given = ["--method", options.method] if options.method else []
    given += ["--dataset", options.dataset] if options.dataset else []
    return shlex.join(["marlzoo", "eval" if playable else "export", str(options.run), *given])


def _text(line: Estimate) -> str:
    from marlzoo.offpolicy.ope import MEANINGS

    start = f"seed {line.seed}, {MEANINGS[line.estimator]}: "
    if line.diverged:
        return f"{start}none, because the team diverged (its parameters are not finite)"
    if line.estimator == "pdwis" and line.effective_episodes == 0.0:
        return f"{start}none, because no logged episode agrees with the team"
    if math.isnan(line.value):
        return (
            f"{start}none, because what was fitted to the data is not finite; scale observations and rewards"
        )
    weights = "" if line.effective_episodes is None else f", {line.effective_episodes:.1f} effective episodes"
    value, low, high, behavior = _alike(line.value, line.low, line.high, line.behavior)
    interval = ", no interval" if math.isnan(line.low) else f" [{low}, {high}]"
    return f"{start}{value}{interval} (gamma {line.gamma:g}; the data's own {behavior}{weights})"


def _alike(*values: float) -> list[str]:
    """With as many decimals as give the largest three significant digits; smaller ones are compared with it."""
    largest = max(abs(value) for value in values if math.isfinite(value))
    decimals = max(0, 2 - math.floor(math.log10(largest))) if largest else 0
    return [f"{value:z.{decimals}f}" for value in values]
