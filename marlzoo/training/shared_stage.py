"""Stages that several replicas have in common: trained once for each seed and dataset, as in a sweep.

Replicas of a sweep often differ only in settings that an early stage does not know, such as the weight of a penalty
where the first stage fits a world model (:attr:`marlzoo.algorithm.Stage.ignores`). A smaller learner then trains that
stage for one replica of each kind; the others get its result. Since a replica's numbers depend on its own seed,
settings and data only, this changes no result beyond rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.config import is_numeric
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler


def kinds(algorithm: Algorithm, datasets: Sequence[Dataset]) -> list[int]:
    """For every replica the first one that goes through the present stage as it does.

    Args:
        algorithm: R replicas.
        datasets: one for all, or one per replica.

    Returns:
        R indices of replicas; a replica that shares with none before it has its own.
    """
    if not algorithm.stage.ignores:
        return list(range(algorithm.replicas))
    cls = algorithm.config_class
    known = [setting.name for setting in fields(cls) if is_numeric(cls, setting.name)]
    firsts: dict[tuple[object, ...], int] = {}
    found = []
    for replica, (seed, config) in enumerate(zip(algorithm.seeds, algorithm.configs, strict=True)):
        told = tuple(getattr(config, name) for name in known if name not in algorithm.stage.ignores)
        kind = (seed, id(datasets[replica % len(datasets)]), *told)
        found.append(firsts.setdefault(kind, replica))
    return found


class SharedStage:
    """The present stage of a learner, trained by a smaller one; call :meth:`spread` before the learner is used.

    Args:
        algorithm: R replicas, of which ``spread`` sets the state.
        sampler: likewise.
        small: makes the learner of some replicas, and its sampler.
        firsts: of :func:`kinds`.
    """

    def __init__(
        self,
        algorithm: Algorithm,
        sampler: Sampler,
        small: Callable[[Sequence[int]], tuple[Algorithm, Sampler]],
        firsts: Sequence[int],
    ) -> None:
        self._whole = algorithm
        self._sampler = sampler
        kept = sorted(set(firsts))
        self._place = torch.tensor([kept.index(first) for first in firsts], device=algorithm.device)
        self.learner, self.sampler = small(kept)
        self.learner.updates = algorithm.updates
        rows = torch.tensor(kept, device=algorithm.device)
        mine = self.learner.state_tensors()
        self._stacked = {
            name: value.shape != mine[name].shape for name, value in algorithm.state_tensors().items()
        }
        self.learner.load_state_tensors(
            {
                name: value.index_select(0, rows) if self._stacked[name] else value
                for name, value in algorithm.state_tensors().items()
            }
        )
        self.sampler.restore(
            {
                name: value[kept] if name.endswith(".generator") else value
                for name, value in sampler.state().items()
            }
        )
        # What the stage does not touch may depend on settings that it ignores, and stays every replica's own.
        self._before = {name: value.clone() for name, value in mine.items()}
        self._touched: set[str] = set()

    def count(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """An update is done; the smaller learner's metrics as those of all replicas."""
        self.learner.updates += 1
        return {name: value.index_select(0, self._place) for name, value in metrics.items()}

    @torch.no_grad()
    def spread(self) -> None:
        """Give every replica the state that the stage has reached for its kind, and its sampler the same place."""
        whole = self._whole.state_tensors()
        for name, value in self.learner.state_tensors().items():
            # What was handed out once is handed out again, also where it has its first value back.
            if name in self._touched or not torch.equal(value, self._before[name]):
                self._touched.add(name)
                whole[name].copy_(value.index_select(0, self._place) if self._stacked[name] else value)
        place = self._place.cpu().numpy()
        self._sampler.restore(
            {
                name: value[place] if name.endswith(".generator") else value
                for name, value in self.sampler.state().items()
            }
        )
