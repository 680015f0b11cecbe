"""Adaptive sweeps: Optuna proposes settings from what earlier ones reached (extra ``optuna``)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from marlzoo.errors import MissingExtraError

from .analysis import DATASET
from .suites import Learner
from .summary import spoiled

if TYPE_CHECKING:
    from .analysis import Results
    from .space import Values

SEEDS = 2**32  # that the sampler takes
LEAST_BATCHES = 4  # with fewer, a search would hardly adapt


def search(
    learners: Sequence[Learner],
    spaces: Sequence[Mapping[str, Values]],
    at: Callable[[Learner, Mapping[str, Any]], Learner],
    train: Callable[[Sequence[Learner]], Results],
    *,
    trials: int,
    batch: int,
    seed: int,
) -> list[Learner]:
    """Try settings of every learner, each with a study of its own, and return all that were tried.

    The trials of a batch train side by side, as replicas where they differ in floats only; the sampler (TPE) takes
    those of its own batch for bad ones meanwhile. It is seeded and told results in a fixed order, so the same call
    proposes the same settings again, and resumes where it was interrupted.

    Args:
        learners: to tune.
        spaces: for each learner the settings that it has, with their values; one without is trained once.
        at: makes a learner with settings.
        train: trains learners, or finds their results.
        trials: of each learner.
        batch: trials between two proposals.
        seed: of the sampler.

    Raises:
        MissingExtraError: optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise MissingExtraError("optuna", "optuna", "an adaptive sweep") from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    samplers = [
        optuna.samplers.TPESampler(seed=(seed + k) % SEEDS, constant_liar=True) for k in range(len(learners))
    ]
    studies = [optuna.create_study(direction="maximize", sampler=sampler) for sampler in samplers]
    tried: list[Learner] = []
    for first in range(0, trials, batch):
        asked: list[tuple[Any, Any, Learner]] = []
        for study, learner, space in zip(studies, learners, spaces, strict=True):
            for _ in range(min(batch, trials - first) if space else first == 0):
                trial = study.ask()
                point = {name: propose(trial, name, values) for name, values in space.items()}
                asked.append((study, trial, at(learner, point)))
        found = _each_once([learner for _, _, learner in asked])
        tried = _each_once([*tried, *found])
        reached = objectives(train(found))
        for study, trial, learner in asked:
            value = reached.get((learner.method, learner.variant), math.nan)
            if math.isfinite(value):
                study.tell(trial, value)
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return tried


def _each_once(learners: Sequence[Learner]) -> list[Learner]:
    return [learner for k, learner in enumerate(learners) if learner not in learners[:k]]


def batch_size(trials: int, replicas: int, per_setting: int) -> int:
    """Trials that train side by side: what one lockstep group holds, but no more than a quarter of all.

    Args:
        trials: in all.
        replicas: most of a group.
        per_setting: replicas that one setting takes (seeds times datasets of a task).
    """
    return max(1, min(replicas // per_setting, math.ceil(trials / LEAST_BATCHES)))


def propose(trial: Any, name: str, values: Values) -> Any:
    """A value of one setting."""
    if values.choices:
        return trial.suggest_categorical(name, list(values.choices))
    return values.rounded(trial.suggest_float(name, values.low, values.high, log=values.log))


def objectives(results: Results) -> dict[tuple[str, str], float]:
    """What is maximized, by method and variant: the mean over datasets of the score, or else of the return.

    NaN where a run diverged, failed or has not finished. Returns stand in for all scores where a task of the sweep
    has no reference.
    """
    cells = results.table()
    known = cells.assign(scored=np.isfinite(cells["score"]))[~spoiled(cells)]
    column = "score" if known.groupby(DATASET)["scored"].any().all() else "mean"
    values = cells.assign(value=cells[column].where(~spoiled(cells)))
    parts = values.groupby(["method", "variant"], sort=False)
    return {(str(m), str(v)): float(part["value"].mean(skipna=False)) for (m, v), part in parts}
