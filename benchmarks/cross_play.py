"""``marlzoo.cross_play``: how well members of separately trained teams play together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.algorithm import Algorithm
from marlzoo.data.conventions import has_single_convention
from marlzoo.errors import ConfigError, SpecError
from marlzoo.families import make_env
from marlzoo.replicas import derive
from marlzoo.training.ad_hoc import AdHocTeams
from marlzoo.training.checkpoint import find_checkpoint, load_learner, load_saved, task_of
from marlzoo.training.evaluation import evaluate
from marlzoo.training.played_task import played_task

from .sheet import Sheet
from .stats import Floats, interval

MEASURES = ("self_play", "cross_play", "gap")


@dataclass(frozen=True)
class Team:
    """One of the teams: a replica of a run.

    Attributes:
        run: its checkpoint, or the name of its method.
        method: that trained it.
        seed: of the replica.
        updates: of its training.
        dataset: name of its data; empty where that is not known.
    """

    run: str
    method: str
    seed: int
    updates: int
    dataset: str = ""


@dataclass(frozen=True)
class CrossPlay:
    """Returns of M teams and of compositions of their members.

    Attributes:
        task: its full name.
        teams: M of them.
        compositions: ``[C, N]``, the team that supplies each agent; the first M are the teams themselves.
        returns: ``[C, E]`` raw undiscounted team returns, from the same E starts for every composition; NaN where a
            member is of a team that diverged (its parameters are not finite).
        groups: ``[C]``, the team whose cross-play a composition counts for; with two agents, that of agent 0.
    """

    task: str
    teams: tuple[Team, ...]
    compositions: NDArray[np.int64]
    returns: Floats
    groups: NDArray[np.int64]

    @property
    def self_play(self) -> Floats:
        """Mean return of each team, ``[M]``."""
        return self._means[: len(self.teams)]

    @property
    def cross_play(self) -> Floats:
        """Mean return of each team's compositions with others, ``[M]``; with two agents, on either place."""
        mixed = np.arange(len(self._means)) >= len(self.teams)
        part = self.groups if self.matrix is None else self.compositions
        found = [self._means[mixed & _takes_part(part, team)].mean() for team in range(len(self.teams))]
        return np.array(found)

    @property
    def gap(self) -> Floats:
        """Self-play minus cross-play, ``[M]``: large where a team follows a convention of its own."""
        return self.self_play - self.cross_play

    @property
    def matrix(self) -> Floats | None:
        """``[M, M]`` mean return of agent 0 of one team with agent 1 of another; None for more than two agents."""
        if self.compositions.shape[1] != 2:
            return None
        found = np.full((len(self.teams),) * 2, np.nan)
        found[tuple(self.compositions.T)] = self._means
        return found

    def summary(self) -> dict[str, tuple[float, float, float]]:
        """Mean over teams of ``self_play``, ``cross_play`` and ``gap``, each with its 95 % bootstrap interval.

        Teams are resampled; the ends are NaN for fewer than three teams.
        """
        values = {name: getattr(self, name) for name in MEASURES}
        return {name: (float(v.mean()), *interval([v], _mean)) for name, v in values.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        teams = [
            {**vars(team), **{name: float(getattr(self, name)[k]) for name in MEASURES}}
            for k, team in enumerate(self.teams)
        ]
        summary = {
            name: dict(zip(("mean", "low", "high"), values, strict=True))
            for name, values in self.summary().items()
        }
        return {
            "task": self.task,
            "episodes": self.returns.shape[1],
            **summary,
            "teams": teams,
            "matrix": None if self.matrix is None else self.matrix.tolist(),
            "compositions": [
                {"teams": teams, "mean_return": mean}
                for teams, mean in zip(self.compositions.tolist(), self._means.tolist(), strict=True)
            ],
        }

    @property
    def _means(self) -> Floats:
        means: Floats = self.returns.mean(1)
        return means


def cross_play(
    runs: Sequence[str | Path | Algorithm] | str | Path | Algorithm,
    *,
    task: str = "",
    env_options: Mapping[str, Any] | None = None,
    episodes: int = 10,
    compositions: int = 10,
    horizon: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> CrossPlay:
    """Play teams composed of members of different teams; part i is always played by some team's agent i.

    Two agents: every team's agent 0 with every team's agent 1. More: for each team, sampled compositions of one of
    its members with members of the others, drawn with replacement (MOMA-PPO's evaluation of ad-hoc teams).

    Args:
        runs: checkpoints, folders of runs, or learners, of any methods, one or several; each of their replicas is a
            team.
        task: full task name; default: the one that the teams were trained for.
        env_options: of the environment; default: those of the training.
        episodes: of every composition, all from the same starts.
        compositions: sampled per team, with more than two agents.
        horizon: step limit of an episode; default: that of the trainings' evaluations, or the task's.
        seed: of starts, compositions and noise.
        device: of the policies.

    Raises:
        ConfigError: fewer than two teams, teams of different tasks or environments, a run named twice, teams whose
            agents do not act by themselves, or teams that were all trained on data of a single convention.
        CheckpointError: a run has no checkpoint, or it is broken.
        SpecError: a team does not fit the task.
    """
    _require(episodes=episodes, compositions=compositions)
    teams = _Teams.gather([runs] if isinstance(runs, str | Path | Algorithm) else runs, device)
    task = played_task(teams.names[0], task, teams.task)
    options = teams.env_options if env_options is None else dict(env_options)
    pairs, groups = _compose(len(teams.listed), teams.n_agents, compositions, seed)
    env = make_env(task, len(pairs) * episodes, **options)
    try:
        for run, learner in zip(teams.names, teams.learners, strict=True):
            differences = learner.spec.differences(env.spec)
            if differences:
                raise SpecError(
                    f"{run}: was trained for another task than {task}: {differences[0]}; "
                    "name the one it was trained for with --task, or the options of its environment with --env"
                )
        found = evaluate(
            AdHocTeams(teams.learners, pairs, seed),
            env,
            seeds=[derive(seed, "cross-play")] * len(pairs),
            horizon=horizon or teams.horizon(task),
            device=device,
        )
    finally:
        env.close()
    diverged = np.concatenate([~learner.finite().cpu().numpy() for learner in teams.learners])
    returns = np.where(diverged[pairs].any(1, keepdims=True), np.nan, found.returns)
    return CrossPlay(task, tuple(teams.listed), pairs, returns, groups)


def sheet(found: CrossPlay) -> Sheet:
    """A table of teams: self-play, cross-play, gap, and with two agents the matrix."""
    matrix = found.matrix
    data = {(team.run, team.dataset) for team in found.teams}
    mixed = {run for run, _ in data if sum(other == run for other, _ in data) > 1}
    numbers = [str(k + 1) for k in range(len(found.teams))] if matrix is not None else []
    body = [
        [
            f"{k + 1}: {team.method}, {f'{team.dataset}, ' if team.run in mixed else ''}seed {team.seed}",
            *(f"{getattr(found, name)[k]:.2f}" for name in MEASURES),
            *(f"{value:.2f}" for value in (matrix[k] if matrix is not None else ())),
        ]
        for k, team in enumerate(found.teams)
    ]
    told = [
        f"{name.replace('_', '-')} {mean:.2f}" + ("" if np.isnan(low) else f" [{low:.2f}, {high:.2f}]")
        for name, (mean, low, high) in found.summary().items()
    ]
    notes = [
        f"Mean over teams, with its 95 % bootstrap interval from three teams on: {', '.join(told)}.",
        f"Mean return over {found.returns.shape[1]} episodes from the same starts. "
        + (
            f"Cross-play: {len(found.returns) // len(found.teams) - 1} sampled compositions per team."
            if matrix is None
            else "Line i, column j: agent 0 of team i with agent 1 of team j."
        ),
    ]
    runs = dict.fromkeys(team.run for team in found.teams)
    if len(runs) > 1:
        of_run = {run: [str(k + 1) for k, team in enumerate(found.teams) if team.run == run] for run in runs}
        notes.append(
            "Teams " + "; ".join(f"{', '.join(places)}: {run}" for run, places in of_run.items()) + "."
        )
    header = ["team", *(name.replace("_", "-") for name in MEASURES), *numbers]
    return Sheet(f"Cross-play on {found.task}", header, body, notes=notes)


@dataclass(frozen=True)
class _Teams:
    """The teams of some runs, found to fit each other."""

    names: list[str]
    learners: list[Algorithm]
    datasets: list[list[str]]
    task: str
    env_options: dict[str, Any]
    horizons: dict[str, int | None]

    @classmethod
    def gather(cls, runs: Sequence[str | Path | Algorithm], device: str) -> _Teams:
        names = list[str]()
        learners = list[Algorithm]()
        data = list[list[str]]()
        tasks = dict[str, str]()
        options = dict[str, dict[str, Any]]()
        horizons = dict[str, int | None]()
        sources = set[str]()
        for run in runs:
            if isinstance(run, Algorithm):
                name = f"{run.name} ({len(names) + 1})"
                learner = run
                learned_on = {""}
                data.append([""] * run.replicas)
                tasks[name] = run.spec.task
            else:
                file = find_checkpoint(run)
                name = str(file)
                saved = load_saved(file)
                meta = saved.meta
                data.append(saved.datasets)
                learner = load_learner(file, device)
                if name in names:
                    raise ConfigError(f"{name}: is named twice; a team's cross-play with itself is self-play")
                tasks[name] = task_of(meta)
                options[name] = meta.get("env") or {}
                horizons[name] = meta.get("horizon") or None
                learned_on = set(meta.get("sources") or {""})
            sources |= learned_on
            names.append(name)
            learners.append(learner)
        _require_teams(names, learners, sources)
        task = _agreed("task", tasks)
        chosen = _agreed("environment", options)
        return cls(names, learners, data, task or "", chosen or {}, horizons)

    def horizon(self, played: str) -> int | None:
        """The step limit of the trainings' evaluations; None: the task's own, as in a task of another name."""
        known = self.horizons if played == self.task else {}
        (first, value), *others = known.items() or [("", None)]
        for run, limit in others:
            if limit != value:
                told = [f"{steps} steps" if steps else "the task's limit" for steps in (limit, value)]
                raise ConfigError(
                    f"{run}: its evaluations had {told[0]}, those of {first} {told[1]}; say with --horizon how many "
                    "steps an episode has"
                )
        return value

    @property
    def listed(self) -> list[Team]:
        return [
            Team(name, learner.name, seed, learner.updates, dataset)
            for name, learner, data in zip(self.names, self.learners, self.datasets, strict=True)
            for seed, dataset in zip(learner.seeds, data, strict=True)
        ]

    @property
    def n_agents(self) -> int:
        return self.learners[0].spec.n_agents


def _agreed(what: str, values: Mapping[str, Any]) -> Any:
    """The value that all runs that tell one share."""
    told = {run: value for run, value in values.items() if value or what != "task"}
    (first, value), *others = told.items() or [("", None)]
    for run, other in others:
        if other != value:
            raise ConfigError(
                f"{run}: its {what} is {other or 'the default'}, that of {first} is {value or 'the default'}; "
                "cross-play needs teams of one task and environment"
            )
    return value


def _require_teams(names: Sequence[str], learners: Sequence[Algorithm], sources: set[str]) -> None:
    count = sum(learner.replicas for learner in learners)
    if count < 2:
        held = f"{names[0]} holds one" if names else "none is named"
        raise ConfigError(
            f"cross-play needs at least two teams, but {held}; name another run, or train several seeds"
        )
    for name, learner in zip(names, learners, strict=True):
        execution = learner.policy().execution
        if execution != "decentralized":
            raise ConfigError(
                f"{name}: the execution of {learner.name} is {execution}, so its agents cannot play with others; "
                "leave it out"
            )
        if learner.spec.n_agents < 2:
            raise ConfigError(f"{name}: has a single agent; cross-play needs teams")
    if len(sources) == 1 and has_single_convention(*sources):
        raise ConfigError(
            f"all teams were trained on {next(iter(sources))}, data of a single convention, on which no teams can "
            "disagree; take teams trained on a mixture, or on different data"
        )


def _compose(
    teams: int, n_agents: int, sampled: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Compositions ``[C, N]``, those of each team alone first, and the team that each counts for ``[C]``."""
    alone = np.repeat(np.arange(teams)[:, None], n_agents, axis=1)
    if n_agents == 2:
        first, second = np.nonzero(~np.eye(teams, dtype=np.bool_))
        mixed = np.stack((first, second), 1)
        groups = first
    else:
        rng = np.random.default_rng(derive(seed, "compositions"))
        groups = np.repeat(np.arange(teams), sampled)
        others = rng.integers(teams - 1, size=(len(groups), n_agents))
        mixed = others + (others >= groups[:, None])  # any team but the group's own
        mixed[np.arange(len(groups)), rng.integers(n_agents, size=len(groups))] = groups
    return np.concatenate((alone, mixed)), np.concatenate((np.arange(teams), groups))


def _takes_part(part: NDArray[np.int64], team: int) -> NDArray[np.bool_]:
    own: NDArray[np.bool_] = (part == team).reshape(len(part), -1).any(1)
    return own


def _mean(values: Floats, axis: int = -1) -> Any:
    return np.mean(values, axis=axis)


def _require(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(f"{name} is {value!r}; it must be a positive integer")
