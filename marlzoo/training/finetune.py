"""``marlzoo.finetune``: continues the training of an offline team in the simulator.

Memory and sequential exploration are those of OVMSE (AAMAS 2025, arXiv 2410.19450), reconstructed from the paper:
no official code is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.algorithm import Algorithm
from marlzoo.config import replica_configs
from marlzoo.data.dataset import Dataset
from marlzoo.data.fitting import fitted
from marlzoo.data.load import load_dataset
from marlzoo.envs.base import BatchedEnv
from marlzoo.errors import ConfigError, DataError, MarlzooError, settings_apart
from marlzoo.families import make_env
from marlzoo.spec import Spec
from marlzoo.training.checkpoint import Saved, find_teams, load_learner, load_saved, task_of
from marlzoo.training.compilation import freed_memory_kept
from marlzoo.training.evaluation import Evaluation
from marlzoo.training.finetune_loop import Finetuning, OnEvaluation, OnRound
from marlzoo.training.finetune_settings import FinetuneSettings
from marlzoo.training.loggers import Logger, Loggers
from marlzoo.training.played_task import played_task
from marlzoo.training.value_memory import RemembersValues

EARLY = 0.2  # share of the environment steps in which the dip is looked for
Data = str | Path | Dataset


@dataclass(frozen=True)
class FinetuneSummary:
    """What fine-tuning did to one replica; all are mean returns of evaluations.

    Args:
        seed: of the replica.
        start: before the first environment step: the offline score.
        dip: how far the return fell below ``start`` within the first fifth of the steps; 0: it did not; NaN: no
            evaluation after the first step lies within it.
        area: area under the curve over environment steps, divided by their number.
        final: after the last step.
    """

    seed: int
    start: float
    dip: float
    area: float
    final: float


@dataclass(frozen=True)
class Finetuned:
    """Outcome of :func:`finetune`.

    Attributes:
        learner: the team, all replicas.
        steps: environment steps per replica at each evaluation, ``[K]``.
        evaluations: in order, the first before any step.
    """

    learner: Algorithm
    steps: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]

    @property
    def returns(self) -> NDArray[np.float64]:
        """Mean returns ``[K, R]``; NaN where a replica diverged."""
        return np.array([evaluation.episodes.returns.mean(-1) for evaluation in self.evaluations])

    @property
    def summaries(self) -> list[FinetuneSummary]:
        """One per replica."""
        steps = np.array(self.steps, np.float64)
        returns = self.returns
        early = steps <= EARLY * steps[-1]
        dip = returns[0] - returns[early].min(0)
        if early.sum() < 2:  # nothing but the start
            dip = np.full_like(dip, np.nan)
        between = 0.5 * (returns[1:] + returns[:-1]) * np.diff(steps)[:, None]
        area = between.sum(0) / steps[-1]
        rows = zip(self.learner.seeds, returns[0], dip, area, returns[-1], strict=True)
        return [FinetuneSummary(seed, *map(float, numbers)) for seed, *numbers in rows]

    def records(self) -> list[dict[str, Any]]:
        """One plain line per evaluation and replica."""
        return [
            {
                "seed": seed,
                "env_steps": steps,
                "updates": evaluation.updates,
                "mean_return": float(evaluation.episodes.returns[r].mean()),
                "std_return": float(evaluation.episodes.returns[r].std()),
                "diverged": bool(evaluation.diverged[r]),
            }
            for steps, evaluation in zip(self.steps, self.evaluations, strict=True)
            for r, seed in enumerate(self.learner.seeds)
        ]


@settings_apart(
    "A setting of fine-tuning is given as settings=marlzoo.FinetuneSettings(NAME=...), one of the method as "
    'overrides={"NAME": ...}.'
)
@freed_memory_kept()
def finetune(
    run: str | Path,
    env_steps: int,
    *,
    method: str = "",
    dataset: str = "",
    data: Data | Sequence[Data] = (),
    settings: FinetuneSettings | None = None,
    overrides: Mapping[str, Any] | None = None,
    task: str = "",
    env: Callable[[int], BatchedEnv] | None = None,
    env_options: Mapping[str, Any] | None = None,
    episodes: int = 0,
    horizon: int = 0,
    eval_every: int = 0,
    until: int | None = None,
    checkpoint: str | Path | None = None,
    device: torch.device | str = "cpu",
    on_evaluation: OnEvaluation | None = None,
    on_round: OnRound | None = None,
    loggers: Sequence[Logger] = (),
) -> Finetuned:
    """Let all replicas of an offline run go on in the simulator, from batches of offline and of new data.

    With ``checkpoint`` the fine-tuning resumes by itself where that file stands, and ends as an uninterrupted one
    does, bit for bit on the CPU.

    Args:
        run: a checkpoint, or the folder of a run or of a suite. It is only read.
        env_steps: team steps per replica, all copies together; rounded up to whole rounds.
        method: whose checkpoint to take, where the folder has several.
        dataset: fine-tune the replicas that were trained on these data alone: their name, that name without its
            source, or their quality.
        data: the offline data, names, files or datasets; default: those that the checkpoint names. One for all
            replicas, or those that the replicas were trained on.
        settings: see :class:`marlzoo.training.finetune_settings.FinetuneSettings`.
        overrides: settings of the method that change, for instance ``{"cql_weight": 0.0}``.
        task: full task name; default: the run's.
        env: makes an environment with the given number of copies; default: the task's.
        env_options: options of the task's environment; default: the run's.
        episodes: E per replica and evaluation; default: as in the run, or 10.
        horizon: limit of an evaluation episode; default: the run's.
        eval_every: environment steps between evaluations, rounded to whole rounds; default: a twentieth of all.
        until: stop after so many steps, rounded up to a restart of the copies; called again without it, the
            fine-tuning continues to its end.
        checkpoint: file to write at every restart of the copies and at the end, and to resume from.
        device: where to train.
        on_evaluation: called with environment steps and each evaluation, on resuming also with those already done.
        on_round: called with environment steps done and in all.
        loggers: receive metrics and evaluations.

    Raises:
        ConfigError: the method has no online form, or no values for a memory to remember; a number out of range.
        UnknownNameError: nothing here plays the task.
        CheckpointError: there is no such checkpoint, or several, or ``checkpoint`` belongs to another fine-tuning.
        DataError: no offline data is known.
        SpecError: data, environment and learner do not fit.
    """
    settings = settings or FinetuneSettings()
    _require(1, env_steps=env_steps, until=1 if until is None else until)
    _require(0, episodes=episodes, horizon=horizon, eval_every=eval_every)
    file, replicas = find_teams(run, method, dataset)
    meta = _of_replicas(load_saved(file), replicas)
    offline = load_learner(file, device, replicas)
    learner = _with(offline, overrides or {})
    require_online_form(learner, settings)
    task = played_task(file, task, task_of(meta)) if env is None else task or task_of(meta)
    options = dict(meta.get("env") or {}) if env_options is None else dict(env_options)
    about = {
        "task": task,
        "env": options,
        "sources": meta.get("sources", []),
        "datasets": meta.get("datasets", []),
        "data": meta.get("data", []),
        "episodes": episodes or meta.get("episodes") or 10,
        "horizon": horizon or meta.get("horizon"),
    }
    datasets = _datasets(data, meta, learner.spec, learner.replicas) if settings.uses_data else []
    make = env or (lambda num_envs: make_env(task, num_envs, **options))
    per_round = settings.steps_per_round
    total = -(-env_steps // per_round)
    if settings.warmup > total * per_round:
        raise ConfigError(
            f"warmup is {settings.warmup}, but all environment steps are {total * per_round}: nothing would be "
            "learned; take more env_steps, or less warmup"
        )
    rounds = max(1, round((eval_every or total * per_round / 20) / per_round))
    sizes = settings.num_envs, about["episodes"]
    collecting, arena = (make(learner.replicas * size) for size in sizes)
    try:
        tuning = Finetuning(learner, offline, collecting, arena, datasets, settings, about, total, rounds)
        updates = learner.updates + total * settings.learn_steps
        path = None if checkpoint is None else Path(checkpoint)
        if path is not None and path.exists():
            tuning.resume(path)
        with Loggers(loggers, learner, updates) as tuning.logging:
            tuning.go(until, path, on_evaluation, on_round)
    finally:
        collecting.close()
        arena.close()
    return Finetuned(learner, tuple(tuning.steps), tuple(tuning.evaluations))


def _of_replicas(saved: Saved, replicas: Sequence[int] | None) -> Mapping[str, Any]:
    """What a checkpoint says, and about its data what holds for some of its replicas alone."""
    if replicas is None or len(replicas) == len(saved.seeds):
        return saved.meta
    names = [saved.datasets[k] for k in replicas]
    known = {"datasets": names, "sources": list(dict.fromkeys(names))}
    hashes = saved.meta.get("data") or []
    if len(hashes) == len(saved.seeds):
        known["data"] = [hashes[k] for k in replicas]
    return {**saved.meta, **known}


def require_online_form(learner: Algorithm, settings: FinetuneSettings | None = None) -> None:
    """Refuse a learner that cannot be fine-tuned, or not with these settings.

    A method says by itself that it can (``finetunable = True``). One that says nothing can where its loss needs
    nothing but steps with their rewards and next actions: no look at all the data before training, no first steps.

    Raises:
        ConfigError: with the reason.
    """
    lacking = _without_online_form(learner)
    if lacking:
        raise ConfigError(f"{learner.name} cannot be fine-tuned: {lacking}")
    if settings and settings.remembers and not isinstance(learner, RemembersValues):
        reason = getattr(type(learner), "no_memory", "it has no values of logged actions (data_values)")
        raise ConfigError(
            f"{learner.name} cannot be fine-tuned with a memory of its values: {reason}; take strategy plain"
        )


def _without_online_form(learner: Algorithm) -> str:
    """Why a learner cannot be fine-tuned; empty where it can."""
    method = type(learner)
    fields = learner.fields
    if learner.sampling == "online":
        return f"it learns online from the start; see marlzoo train {learner.name} --help"
    if method.config_class().reward_mode != "reward":  # the method takes nothing else
        return "it reads returns-to-go, which are not known before an episode's end"
    if learner.config.reward_mode != "reward":
        return "returns-to-go (reward_mode) are not known before an episode's end; train it with reward_mode = reward"
    declared: bool | None = getattr(method, "finetunable", None)
    if declared is not None:
        return "" if declared else "the method declares that it has no online form"
    if method.prepare is not Algorithm.prepare:
        return "it learns from the whole dataset before the first update, which new data would change"
    if not {"reward", "agent_reward"} & set(fields):
        return "it does not learn from rewards"
    if "first" in fields:
        return "its loss needs first of logged data, which a replay does not keep"
    return ""


def _with(offline: Algorithm, overrides: Mapping[str, Any]) -> Algorithm:
    """A copy of a learner whose method has other settings."""
    method = type(offline)
    configs = [
        replica_configs(method.config_class, 1, {**config.to_dict(), **overrides})[0]
        for config in offline.configs
    ]
    learner = method(offline.spec, offline.seeds, configs, offline.device, offline.dtype)
    try:
        learner.load_state_tensors(offline.state_tensors())
    except MarlzooError as error:
        names = ", ".join(overrides)
        raise ConfigError(f"{names} cannot change in fine-tuning: the networks would differ") from error
    learner.preset = offline.preset
    learner.updates = offline.updates
    return learner


def _datasets(
    data: Data | Sequence[Data], meta: Mapping[str, Any], spec: Spec, replicas: int
) -> list[Dataset]:
    """The offline data of a task with this spec, one for all replicas or one per replica."""
    given = [data] if isinstance(data, str | Path | Dataset) else list(data)
    names = meta.get("sources") or []
    hashes = meta.get("data") or []
    remedy = "name them with --data, or take no offline data: --data-share 0 --data-share-end 0"
    if not given and not names:
        raise DataError(f"the checkpoint does not name its offline data; {remedy}")
    try:
        found = [
            item if isinstance(item, Dataset) else fitted(load_dataset(item), spec) for item in given or names
        ]
    except MarlzooError as error:
        if given:
            raise
        raise DataError(f"the offline data {', '.join(names)} are not found; {remedy}") from error
    known = {dataset.content_hash: dataset for dataset in found}
    if hashes and set(hashes) <= known.keys():
        return [known[content] for content in hashes]
    if not given:
        raise DataError(f"{', '.join(names)}: not the data that the run was trained on; {remedy}")
    if len(found) not in (1, replicas):
        raise DataError(
            f"{len(found)} datasets for {replicas} replicas; give one, one per replica, or those of the training"
        )
    return found


def _require(least: int, **numbers: int) -> None:
    for name, value in numbers.items():
        if value < least:
            raise ConfigError(f"{name} is {value!r}; it must be at least {least}")
