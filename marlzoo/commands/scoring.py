"""``marlzoo eval`` from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.errors import ConfigError, settings_apart

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm
    from marlzoo.training.evaluation import EpisodeResults


@dataclass(frozen=True)
class Score:
    """What the team of one replica reached.

    Attributes:
        method: its name.
        task: that was played.
        seed: of the training.
        updates: of the training.
        episodes: that were played.
        mean_return: over the episodes.
        std_return: over the episodes (n, not n - 1).
        mean_length: in steps.
        win_rate: share of episodes that were won; None where the task has no winners.
        action_us: microseconds that the policy took per action of one agent, all episodes in lockstep.
        execution: what the policies need beside the agents' own observations, see
            :attr:`marlzoo.modules.policies.Policy.execution`.
        dataset: name of the data of the training; empty where the checkpoint does not say it.
        diverged: whether a parameter of the replica is not finite, so that its returns say nothing of the method.
    """

    method: str
    task: str
    seed: int
    updates: int
    episodes: int
    mean_return: float
    std_return: float
    mean_length: float
    win_rate: float | None
    action_us: float
    execution: str
    dataset: str = ""
    diverged: bool = False


@settings_apart('A setting of how the policy acts is given as acting={"NAME": ...}.')
def evaluate_run(
    checkpoint: str | os.PathLike[str],
    *,
    method: str = "",
    dataset: str = "",
    task: str = "",
    env: Mapping[str, Any] | None = None,
    episodes: int = 0,
    horizon: int = 0,
    seed: int = -1,
    device: str = "cpu",
    acting: Mapping[str, Any] | None = None,
) -> list[Score]:
    """Play episodes with every replica of a checkpoint, deterministically as the method defines it.

    Args:
        checkpoint: file ending in .npz, or the folder of a run or of a suite.
        method: whose checkpoint to take, where the folder has several.
        dataset: play with the replicas that were trained on these data alone: their name, that name without its
            source, or their quality.
        task: full task name; default: the one it was trained for.
        env: options of the task's environment; default: those of the training.
        episodes: per replica; 0: as many as in training, or 10.
        horizon: step limit of an episode; 0: that of the training's evaluations, or the task's.
        seed: of the starts; -1: those of the training's own evaluation, whose row it repeats.
        device: of the policy.
        acting: settings of how the policy acts, in place of the training's, for instance ``{"eval_steps": 5}``.

    Returns:
        A score for each replica, in the checkpoint's order.

    Raises:
        CheckpointError: it is missing or broken, or there are several.
        ConfigError: it names no task, was trained for another one, or a number is negative.
        UnknownNameError: nothing here plays the task, or the method has no such setting of how it acts.
    """
    from marlzoo.families import make_env
    from marlzoo.training.checkpoint import find_teams, load_learner, load_saved, task_of
    from marlzoo.training.evaluation import evaluate
    from marlzoo.training.played_task import played_task

    for name, value in (("episodes", episodes), ("horizon", horizon)):
        if value < 0:
            raise ConfigError(f"{name} is {value}; it must not be negative")
    file, replicas = find_teams(Path(checkpoint), method, dataset)
    saved = load_saved(file)
    meta = saved.meta
    task = played_task(file, task, task_of(meta))
    same = task == task_of(meta)
    learner = load_learner(file, device, replicas, acting)
    episodes = episodes or meta.get("episodes") or 10
    options = env or (meta.get("env") or {} if same else {})
    simulator = make_env(task, learner.replicas * episodes, **options)
    try:
        differences = learner.spec.differences(simulator.spec)
        if differences:
            raise ConfigError(
                f"{file}: was trained for another task than {task}: {differences[0]}; "
                "name the one it was trained for with --task, or the options of its environment with --env"
            )
        policy = learner.policy()
        found = evaluate(
            policy,
            simulator,
            seeds=_starts(learner.seeds, learner.updates, seed),
            horizon=horizon or (meta.get("horizon") if same else None) or None,
            device=device,
            dtype=learner.dtype,
        )
    finally:
        simulator.close()
    data = [saved.datasets[k] for k in replicas or range(learner.replicas)]
    return [_score(learner, task, found, k, episodes, policy.execution, name) for k, name in enumerate(data)]


def _score(
    learner: Algorithm, task: str, found: EpisodeResults, k: int, episodes: int, execution: str, dataset: str
) -> Score:
    """Of one replica."""
    return Score(
        method=learner.name,
        task=task,
        seed=learner.seeds[k],
        updates=learner.updates,
        episodes=episodes,
        mean_return=float(found.returns[k].mean()),
        std_return=float(found.returns[k].std()),
        mean_length=float(found.lengths[k].mean()),
        win_rate=None if found.wins is None else float(found.wins[k].mean()),
        action_us=1e6 * (found.seconds_per_action or 0.0),
        execution=execution,
        dataset=dataset,
        diverged=not bool(learner.finite()[k]),
    )


def _starts(seeds: Sequence[int], updates: int, seed: int) -> list[int]:
    """Seeds of the evaluation, one per replica: the training's own for a negative ``seed``."""
    from marlzoo.replicas import derive

    if seed < 0:
        return [derive(each, "evaluate", updates) for each in seeds]
    return [derive(seed, "evaluate", k) for k in range(len(seeds))]
