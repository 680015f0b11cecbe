"""Batches that mix offline data and collected experience in a given share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch, Rollout, as_transitions
from marlzoo.data.dataset import Dataset
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.replay_buffer import NEXT_FIELDS, ReplayBuffer, ReplaySettings
from marlzoo.training.trainer import make_sampler

SAMPLER = "sampler/"
REPLAY = "replay/"


class MixedReplay:
    """Offline data and a replay of new steps, from which a learner's batches are put together.

    A batch has a whole number of offline rows; what rounding leaves over is carried to the next one, so that the
    share is met over many batches.

    Args:
        algorithm: the learner, whose batches have the layout that it was trained with.
        datasets: one for all replicas, or one per replica; none where no share is to be offline.
        settings: sizes of the replay.
        task: named in errors.

    Raises:
        SpecError: data and learner differ in shape.
        ConfigError: the replay has no room.
    """

    def __init__(
        self, algorithm: Algorithm, datasets: Sequence[Dataset], settings: ReplaySettings, task: str = ""
    ) -> None:
        self.algorithm = algorithm
        self._carried = 0.0
        self.sampler = make_sampler(algorithm, datasets, task) if datasets else None
        self._sequences = algorithm.sampling == "sequence"
        length = 1
        if self._sequences:
            longest = max((int(data.lengths.max()) for data in datasets), default=algorithm.spec.horizon)
            length = algorithm.config.sequence_length or longest
        base = [name for name in algorithm.fields if not name.startswith("next_")]
        later = [name.removeprefix("next_") for name in algorithm.fields if name.startswith("next_")]
        fields = tuple(dict.fromkeys([*base, *later]))
        self._pairs = "next_action" in algorithm.fields
        self.replay = ReplayBuffer(
            algorithm, length + self._pairs, not self._sequences, settings, fields, followed=self._pairs
        )

    def add(self, rollout: Rollout) -> None:
        """Take in new steps."""
        self.replay.add(rollout)

    def batch(self, share: float, random: ReplicaRandom) -> Batch:
        """The next batch of every replica, ``share`` of it offline."""
        size = self.algorithm.batch_rows
        offline = self._rows(share * size) if self.sampler else 0
        noise = {name: random.draw(kind, *shape) for name, (kind, shape) in self.algorithm.noise().items()}
        parts = []
        if offline and self.sampler:
            rows, _ = self.sampler.draw()
            parts.append(self.sampler.gather(rows[:, :offline], {}))
        if offline < size:
            new = self.replay.batch(random.uniform(size - offline), {})
            parts.append(self._laid_out(new))
        fields = [*self.algorithm.fields, *(["filled"] if self._sequences else [])]
        joined = {name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in fields}
        return Batch.of(noise, **joined)

    def _laid_out(self, new: Batch) -> Batch:
        """New steps in the layout of the learner's batches."""
        if self._sequences:
            return new
        if not self._pairs:
            return as_transitions(new)[0]
        following = new.action[:, :, 1]
        rows = {name: 2 if name in NEXT_FIELDS else 1 for name in new.tensors()}
        first = Batch.of({}, **{name: value[:, :, : rows[name]] for name, value in new.tensors().items()})
        return Batch.of({}, **as_transitions(first)[0].tensors(), next_action=following)

    def _rows(self, wanted: float) -> int:
        self._carried += wanted
        rows = int(self._carried + 1e-9)
        self._carried -= rows
        return rows

    def state(self) -> dict[str, NDArray[Any]]:
        """Arrays that :meth:`restore` needs."""
        sampler = self.sampler.state() if self.sampler else {}
        return {
            **{f"{SAMPLER}{name}": value for name, value in sampler.items()},
            **{f"{REPLAY}{name}": value for name, value in self.replay.state().items()},
            "carried": np.float64(self._carried).reshape(1),
        }

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Continue from a :meth:`state`."""
        if self.sampler:
            self.sampler.restore(_part(arrays, SAMPLER))
        self.replay.restore(_part(arrays, REPLAY))
        self._carried = float(arrays["carried"][0])


def _part(arrays: Mapping[str, NDArray[Any]], prefix: str) -> dict[str, NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
