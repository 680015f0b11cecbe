"""``marlzoo.ope``: estimates of a team's return from logged data alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.config import require_bits
from marlzoo.data.dataset import Dataset
from marlzoo.data.fitting import fitted
from marlzoo.data.load import load_dataset
from marlzoo.errors import ConfigError, DataError, SpecError, require_lists, settings_apart
from marlzoo.offpolicy.acting import policy_actions
from marlzoo.offpolicy.behavior import fitted_log_prob, known_log_prob, uniform_log_prob
from marlzoo.offpolicy.fqe import FittedValues, FQESettings, fit_values
from marlzoo.offpolicy.importance import (
    LoggedEpisodes,
    doubly_robust,
    effective_episodes,
    resamples,
    weighted_importance,
)
from marlzoo.training.checkpoint import find_teams, load_learner

Estimator = Literal["fqe", "pdwis", "dr"]
ESTIMATORS: tuple[Estimator, ...] = ("fqe", "pdwis", "dr")
MEANINGS: Mapping[Estimator, str] = {
    "fqe": "fitted Q evaluation",
    "pdwis": "per-decision weighted importance sampling",
    "dr": "weighted doubly robust",
}
NORMAL_95 = 1.96
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """An estimate of one replica's expected discounted return. It was not measured in a simulator.

    Args:
        seed: of the replica.
        estimator: ``fqe``, ``pdwis`` or ``dr``.
        value: the estimate; NaN where the data say nothing about the team, or where it diverged.
        low: lower end of the 95 % bootstrap interval over episodes; NaN where there is none.
        high: upper end.
        gamma: discount.
        effective_episodes: how many equally weighted episodes the weights are worth; None for ``fqe``.
        behavior: mean discounted return of the data, for comparison.
        diverged: whether a parameter of the replica is not finite; nothing is then estimated.
    """

    seed: int
    estimator: Estimator
    value: float
    low: float
    high: float
    gamma: float
    effective_episodes: float | None
    behavior: float
    diverged: bool = False


@settings_apart("A setting of the fit is given as settings=marlzoo.offpolicy.fqe.FQESettings(NAME=...).")
def ope(
    run: str | Path | Algorithm,
    data: str | Path | Dataset,
    *,
    method: str = "",
    dataset: str = "",
    estimators: Sequence[Estimator] = (),
    behavior: Literal["fitted", "uniform"] | NDArray[np.floating] = "fitted",
    gamma: float | None = None,
    settings: FQESettings | None = None,
    bootstrap: int = 200,
    seed: int = 0,
) -> list[Estimate]:
    """Estimate the expected discounted return of every replica from logged data, without a simulator.

    Args:
        run: a checkpoint, the folder of a run or of a suite, or a learner.
        data: logged data of the same task; better not those that the run was trained on.
        method: whose checkpoint to take, where the folder has several.
        dataset: judge the replicas that were trained on these data alone: their name, that name without its source,
            or their quality.
        estimators: which of ``fqe``, ``pdwis`` and ``dr``; default: all for discrete actions, ``fqe`` for continuous.
        behavior: how probable the logged team actions were: ``fitted`` to the data, ``uniform`` over the legal
            actions, or their known probabilities, one per transition.
        gamma: discount; default: each replica's own. With 1, returns are undiscounted.
        settings: of the fit of values; the behavior is fitted with as many updates.
        bootstrap: resamples of the episodes for the interval of ``pdwis`` and ``dr``; that of ``fqe`` is normal, from
            networks fitted to resamples.
        seed: of all that is drawn.

    Returns:
        One estimate per replica and estimator, replica by replica.

    Raises:
        SpecError: the data are of another task; importance weights for continuous actions.
        ConfigError: an unknown estimator or behavior, a number out of its range, or ``method`` or ``dataset`` of a
            learner, which is one already.
        CheckpointError: there is no such checkpoint, or there are several.
        DataError: there are no such data, or their episodes' bounds are not known.
    """
    learner = _learner(run, method, dataset)
    logged = data if isinstance(data, Dataset) else fitted(load_dataset(data), learner.spec)
    wanted = _estimators(learner, logged, estimators)
    settings = settings or FQESettings()
    _require_numbers(settings, gamma, bootstrap, seed)
    discount = np.array([config.gamma if gamma is None else gamma for config in learner.configs])
    actions = policy_actions(learner, logged)
    values = None
    if {"fqe", "dr"} & set(wanted):
        counts = resamples(logged.episodes, settings.members, seed)
        values = fit_values(learner, logged, actions, torch.from_numpy(discount), counts, settings, seed)
    found: dict[str, tuple[Floats, Floats, Floats]] = {}
    if values is not None and "fqe" in wanted:
        found["fqe"] = _of_starts(values, logged, counts)
    effective = None
    if {"pdwis", "dr"} & set(wanted):
        log_behavior = _log_behavior(logged, behavior, seed, settings.updates)
        episodes = _episodes(logged, actions, log_behavior, values, learner.config.timeout_is_terminal)
        effective = effective_episodes(episodes.ratio)
        times = resamples(logged.episodes, bootstrap, seed)
        if "pdwis" in wanted:
            found["pdwis"] = _percentiles(weighted_importance(episodes, discount, times))
        if "dr" in wanted:
            value, low, high = _percentiles(doubly_robust(episodes, discount, times))
            # Without weights the fitted values stand alone, whose error resampled episodes do not show.
            weighs = effective > 0.0
            found["dr"] = value, np.where(weighs, low, np.nan), np.where(weighs, high, np.nan)
    return _estimates(learner, logged, wanted, found, discount, effective)


def _learner(run: str | Path | Algorithm, method: str, dataset: str) -> Algorithm:
    """The teams to be judged."""
    if not isinstance(run, Algorithm):
        file, replicas = find_teams(run, method, dataset)
        return load_learner(file, replicas=replicas)
    if method or dataset:
        raise ConfigError(
            "method and dataset choose among a run's checkpoints; leave them out with a learner"
        )
    return run


def _estimators(learner: Algorithm, data: Dataset, names: Sequence[Estimator]) -> tuple[Estimator, ...]:
    """The estimators that are wanted, and that the data allow."""
    require_lists(estimators=names)
    differences = learner.spec.differences(data.spec)
    if differences:
        raise SpecError(
            f"{learner.name} cannot be judged by {data.card.title}: {'; '.join(differences)} (left: the run's, "
            "right: the data's); give data of the run's own task"
        )
    if not data.card.bounds_known:
        raise DataError(
            f"{data.card.title}: its source does not tell where episodes begin, so that no starts are known; "
            "give the rows where episodes start (starts) and end (terminal, truncated)"
        )
    for name in names:
        if name not in ESTIMATORS:
            raise ConfigError(f"estimator {name!r} is unknown; choose from {', '.join(ESTIMATORS)}")
        if name != "fqe" and not data.spec.discrete:
            raise SpecError(
                f"{name} needs discrete actions; a deterministic team has no density to weigh {data.card.title}'s "
                "continuous actions by. Take the estimator fqe"
            )
    if names:
        return tuple(dict.fromkeys(names))
    return ESTIMATORS if data.spec.discrete else ("fqe",)


def _log_behavior(data: Dataset, behavior: str | NDArray[np.floating], seed: int, updates: int) -> Floats:
    if not isinstance(behavior, str):
        return known_log_prob(data, behavior)
    if behavior == "uniform":
        return uniform_log_prob(data)
    if behavior == "fitted":
        return fitted_log_prob(data, seed, updates)
    raise ConfigError(f"behavior {behavior!r} is unknown; choose fitted or uniform, or give probabilities")


def _episodes(
    data: Dataset,
    actions: Tensor,
    log_behavior: Floats,
    values: FittedValues | None,
    timeout_is_terminal: bool,
) -> LoggedEpisodes:
    """The data episode by episode, padded, with the ratios of all teams."""
    logged = torch.from_numpy(np.array(data.action))
    # Share of the policy's samples that are the logged team action, [R, M].
    agrees: Floats = (actions == logged).all(-1).double().mean(1).numpy()[:, data.sources]
    longest = int(data.lengths.max())
    steps = np.arange(longest + 1)
    rows = data.starts[:, None] + np.minimum(steps, data.lengths[:, None])  # [E, L + 1]
    real = steps[:-1] < data.lengths[:, None]
    ratio = np.ones((len(agrees), *real.shape))
    ratio[:, real] = agrees * np.exp(-log_behavior)
    ratio = np.multiply.accumulate(ratio, axis=-1)
    team = data.reward.mean(-1) if data.reward.ndim == 2 else data.reward
    reward = np.where(real, team[rows[:, :-1]], 0.0).astype(np.float64)
    if values is None:
        return LoggedEpisodes(ratio, reward)
    over = steps > data.lengths[:, None]
    ended = data.terminal | data.truncated if timeout_is_terminal else data.terminal
    over |= (steps == data.lengths[:, None]) & ended[data.ends - 1][:, None]  # nothing follows
    v = np.where(over, 0.0, values.v[:, 0][:, rows])
    q = np.where(real, values.q[:, rows[:, :-1]], 0.0)
    return LoggedEpisodes(ratio, reward, q, v)


def _of_starts(values: FittedValues, data: Dataset, counts: Floats) -> tuple[Floats, Floats, Floats]:
    """Value of the episodes' starts ``[R]``, with a normal interval from the networks of resampled episodes."""
    starts = values.v[:, :, data.starts]  # [R, K, E]
    means = (starts * counts).sum(-1) / counts.sum(-1)
    spread = NORMAL_95 * means[:, 1:].std(-1, ddof=1) if means.shape[1] > 2 else np.full(len(means), np.nan)
    return means[:, 0], means[:, 0] - spread, means[:, 0] + spread


def _percentiles(samples: Floats) -> tuple[Floats, Floats, Floats]:
    """Estimate and interval of ``samples [R, 1 + B]``, whose first is that of all episodes."""
    # A resample that no episode of agrees with the team adds nothing.
    known = np.where(np.isnan(samples), samples[:, :1], samples)[:, 1:]
    low, high = np.quantile(known, [0.025, 0.975], axis=1)
    return samples[:, 0], low, high


def _estimates(
    learner: Algorithm,
    data: Dataset,
    wanted: Sequence[Estimator],
    found: Mapping[str, tuple[Floats, Floats, Floats]],
    discount: Floats,
    effective: Floats | None,
) -> list[Estimate]:
    """What was found, replica by replica; of one that diverged nothing, since its actions mean nothing."""
    diverged = (~learner.finite()).tolist()

    def number(values: Floats, replica: int) -> float:
        return math.nan if diverged[replica] else float(values[replica])

    return [
        Estimate(
            replica,
            name,
            value=number(found[name][0], r),
            low=number(found[name][1], r),
            high=number(found[name][2], r),
            gamma=float(discount[r]),
            effective_episodes=None if name == "fqe" or effective is None else number(effective, r),
            behavior=_behavior_return(data, float(discount[r])),
            diverged=diverged[r],
        )
        for r, replica in enumerate(learner.seeds)
        for name in wanted
    ]


def _behavior_return(data: Dataset, gamma: float) -> float:
    """Mean discounted return of the logged episodes."""
    team = data.reward.mean(-1) if data.reward.ndim == 2 else data.reward
    age = np.arange(data.rows) - np.repeat(data.starts, data.lengths + 1)
    return float((team.astype(np.float64) * gamma**age).sum() / data.episodes)


def _require_numbers(settings: FQESettings, gamma: float | None, bootstrap: int, seed: int) -> None:
    """Refuse numbers that are out of their range, with which the estimates would be those of untrained networks."""
    counts: dict[str, tuple[Any, int]] = {"bootstrap": (bootstrap, 1), "seed": (seed, 0)}
    counts |= {name: (getattr(settings, name), 1) for name in ("updates", "hidden", "batch_size")}
    counts |= {"members": (settings.members, 0)}
    for name, (count, least) in counts.items():
        if isinstance(count, bool) or not isinstance(count, int | np.integer) or count < least:
            raise ConfigError(f"{name} is {count!r}; it must be an integer of at least {least}")
        require_bits(name, count)
    for name, value in {
        "gamma": 1.0 if gamma is None else gamma,
        "tau": settings.tau,
        "lr": settings.lr,
    }.items():
        number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
        if not (number and 0.0 <= value <= 1.0) or (value == 0.0 and name != "gamma"):
            raise ConfigError(f"{name} is {value!r}; it must lie in {'[' if name == 'gamma' else '('}0, 1]")
