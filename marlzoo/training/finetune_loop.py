"""Rounds of collecting and learning that fine-tune a learner, with exact resume."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.data.dataset import Dataset
from marlzoo.envs.base import BatchedEnv
from marlzoo.errors import CheckpointError
from marlzoo.registry import code_hash
from marlzoo.replicas import derive
from marlzoo.system.provenance import now
from marlzoo.training import checkpoint as checkpoints
from marlzoo.training.collector import Collector
from marlzoo.training.evaluation import Evaluation, evaluate
from marlzoo.training.exploration import TeamExplorer
from marlzoo.training.finetune_settings import FinetuneSettings
from marlzoo.training.loggers import Loggers, to_numpy
from marlzoo.training.mixed_replay import MixedReplay
from marlzoo.training.value_memory import RemembersValues, ValueMemory

OnEvaluation = Callable[[int, Evaluation], None]
OnRound = Callable[[int, int], None]


class Finetuning:
    """A learner that is fine-tuned, and all that belongs to it.

    Args:
        learner: whose training continues.
        offline: the same learner as it was, which stays so.
        env: with ``R * num_envs`` copies, to collect in.
        arena: with ``R * E`` copies, to evaluate in.
        datasets: the offline data.
        settings: of the fine-tuning.
        about: what the checkpoint keeps for a later use: task, env, episodes, horizon.
        total: rounds in all.
        eval_rounds: rounds between evaluations.

    Raises:
        SpecError: data, environment and learner do not fit.
        ConfigError: the replay has no room.
    """

    def __init__(
        self,
        learner: Algorithm,
        offline: Algorithm,
        env: BatchedEnv,
        arena: BatchedEnv,
        datasets: Sequence[Dataset],
        settings: FinetuneSettings,
        about: Mapping[str, Any],
        total: int,
        eval_rounds: int,
    ) -> None:
        self.learner = learner
        self.arena = arena
        self.settings = settings
        self.about = dict(about)
        self.total = total
        self.eval_rounds = eval_rounds
        self.round = 0
        self.replay = MixedReplay(learner, datasets, settings, str(about["task"]))
        self.explorer = TeamExplorer(
            learner, settings.deviation, offline.policy() if settings.sequential else None
        )
        self.collector = Collector(learner, env, settings, self.explorer)
        self.memory = None
        if settings.remembers and isinstance(offline, RemembersValues):
            self.memory = ValueMemory(offline)
        self.steps: list[int] = []
        self.evaluations: list[Evaluation] = []
        self.logging = Loggers((), learner, 0)
        self._code = code_hash(type(learner))
        self._before = 0.0
        self._began = time.perf_counter()
        self._identity = {
            "task": env.task,
            "engine": env.metadata,
            "offline": _fingerprint(offline),
            "data": [data.content_hash for data in datasets],
            "settings": asdict(settings),
            "rounds": total,
            "eval_rounds": eval_rounds,
        }

    def resume(self, path: Path) -> None:
        """Resume from a checkpoint; loggers start afterwards, since they drop entries beyond the learner's updates.

        Raises:
            CheckpointError: it is broken, or belongs to another fine-tuning.
        """
        extra, meta = checkpoints.restore(path, self.learner)
        theirs = meta.get("finetune")
        mine = json.loads(json.dumps(self._identity))
        if theirs != mine:
            different = [k for k in mine if not isinstance(theirs, dict) or theirs.get(k) != mine[k]]
            raise CheckpointError(
                f"{path}: belongs to another fine-tuning; {', '.join(different)} differ. "
                "Delete it or give another place for this one's checkpoint"
            )
        self.replay.restore(extra)
        self.explorer.trusted.copy_(torch.from_numpy(extra["trusted"]))
        self.evaluations = checkpoints.unpack_evaluations(extra, meta["evaluations"])
        self.steps = list(meta["steps"])
        self.round = int(meta["round"])
        self._before = float(meta["seconds"])

    def go(
        self,
        until: int | None,
        path: Path | None,
        on_evaluation: OnEvaluation | None,
        on_round: OnRound | None,
    ) -> None:
        """Fine-tune to the end, or to the first restart of the copies after ``until`` environment steps.

        ``path`` is the checkpoint to write; :meth:`resume` comes before.
        """
        s = self.settings
        last = self.total
        if until is not None:
            last = min(last, -(-until // (s.steps_per_round * s.restart)) * s.restart)
        for steps, evaluation in zip(self.steps, self.evaluations, strict=True):
            self._report(steps, evaluation, on_evaluation)
        if not self.evaluations:
            self._evaluate(on_evaluation)
        while self.round < last:
            metrics = self._next()
            if metrics and self.logging.wants(self.learner.updates):
                self.logging.log_metrics(self.learner.updates, to_numpy(metrics))
            if self.round % self.eval_rounds == 0 or self.round == self.total:
                self._evaluate(on_evaluation)
            if path is not None and (self.round % s.restart == 0 or self.round == self.total):
                self._save(path)
            if on_round is not None:
                on_round(self.round * s.steps_per_round, self.total * s.steps_per_round)

    def _next(self) -> dict[str, Tensor]:
        """One round; returns the metrics of its last update, none during the warm-up."""
        s = self.settings
        learner = self.learner
        progress = self.round / self.total
        if self.round % s.restart == 0:
            self.collector.restart(self.round // s.restart)
            self.replay.replay.cut()
        if progress >= s.anneal:  # a team that never acts is never taught what its own actions earn
            self.explorer.trusted.fill_(True)
        self.explorer.epsilon = s.epsilon_at(progress) if learner.spec.discrete else 1.0
        self.explorer.sigma = s.sigma
        if self.memory is not None:
            self.memory.weight = s.memory_at(progress)
        self.replay.add(self.collector.collect(progress))
        self.round += 1
        metrics = dict[str, Tensor]()
        if self.round * s.steps_per_round < s.warmup:
            return metrics
        for _ in range(s.learn_steps):
            metrics = self._update(self.replay.batch(s.share_at(progress), self.collector.learning))
            learner.updates += 1
        return metrics

    def _update(self, batch: Any) -> dict[str, Tensor]:
        """The learner's update, with the memory in its targets."""
        if self.memory is None or not isinstance(self.learner, RemembersValues):
            return self.learner.update(batch)
        self.learner.memory = self.memory
        try:
            metrics: dict[str, Tensor] = self.learner.update(batch)
        finally:
            self.learner.memory = None
        return metrics

    def _evaluate(self, on_evaluation: OnEvaluation | None) -> None:
        """Evaluate with the seeds of the training's own evaluation after so many updates."""
        learner = self.learner
        found = evaluate(
            learner.policy(),
            self.arena,
            seeds=[derive(seed, "evaluate", learner.updates) for seed in learner.seeds],
            horizon=self.about["horizon"],
            device=learner.device,
            dtype=learner.dtype,
        )
        diverged = ~learner.finite().cpu().numpy()
        done = Evaluation(learner.updates, found, diverged, self._seconds(), code=self._code, date=now())
        self.steps.append(self.round * self.settings.steps_per_round)
        self.evaluations.append(done)
        better = found.returns.mean(-1) > self.evaluations[0].episodes.returns.mean(-1)
        self.explorer.trusted |= torch.from_numpy(better).to(learner.device)
        self._report(self.steps[-1], done, on_evaluation)

    def _report(self, steps: int, evaluation: Evaluation, on_evaluation: OnEvaluation | None) -> None:
        self.logging.log_evaluation(evaluation)
        if on_evaluation is not None:
            on_evaluation(steps, evaluation)

    def _seconds(self) -> float:
        return self._before + time.perf_counter() - self._began

    def _save(self, path: Path) -> None:
        self.logging.flush()  # first, so that a resume finds all that lies before the checkpoint
        arrays, records = checkpoints.pack_evaluations(self.evaluations)
        extra: dict[str, NDArray[Any]] = {
            **arrays,
            **self.replay.state(),
            "trusted": self.explorer.trusted.cpu().numpy(),
        }
        meta = {
            **self.about,
            "finetune": self._identity,
            "round": self.round,
            "steps": self.steps,
            "evaluations": records,
            "seconds": self._seconds(),
        }
        checkpoints.save(path, self.learner, extra, meta)


def _fingerprint(learner: Algorithm) -> str:
    """Identifies a learner's numbers."""
    digest = hashlib.sha256(str(learner.updates).encode())
    for name, tensor in sorted(learner.state_tensors().items()):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensor.detach().cpu().numpy()).tobytes())
    return digest.hexdigest()[:16]
