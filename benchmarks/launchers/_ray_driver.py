"""The command's side of training on a Ray cluster: sends groups to nodes and keeps what they send back."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from marlzoo.errors import ConfigError, MarlzooError
from marlzoo.system.files import atomic_write

from ..plan import Group
from ..progress import Display, WorkBar, WorkItem
from ..recorder import record_failure
from ..results import Row
from ..reuse import files
from ..trainer import Trainer
from ._ray_node import Order, Surroundings, inside, train_group
from .local import error_of
from .place import Work

MOST_LOSSES = 3  # of one group in a row, without a new checkpoint between them
PATIENCE = 60.0  # seconds for which a cluster may lack a node that a group fits on
WAIT = 1.0  # seconds after which the driver looks at the nodes again


@dataclass
class _Task:
    """A group on its way."""

    group: Group
    stage: WorkItem
    checkpoint: Path
    metrics: Path
    losses: int = 0
    part: WorkBar | None = None
    stream: Any = None  # of messages from the node that trains it


class Driver:
    """Sends groups to nodes, receives their progress, and stores their results."""

    def __init__(
        self, trainer: Trainer, work: Work, cpus: int, gpus: float, most: int, display: Display
    ) -> None:
        self._trainer = trainer
        self._display = display
        self._cpus = cpus
        self._gpus = gpus
        self._most = most
        self._left = [_Task(g, stage, *files(g, trainer.folder, trainer.suite)) for g, stage in work]
        self._active: list[_Task] = []
        self._data: dict[str, Any] = {}
        self._lacking_since: float | None = None
        self.failures: list[str] = []

    def run(self) -> list[str]:
        """Train all groups; returns why some failed."""
        try:
            while self._left or self._active:
                room = self._room()
                while self._left and len(self._active) < (self._most or room + 1):
                    self._send(self._left.pop(0))
                self._hear()
        finally:
            for task in self._active:
                with contextlib.suppress(Exception):
                    ray.cancel(task.stream, force=True)
            self._trainer.results.close()
        return self.failures

    def _room(self) -> int:
        """Groups that the cluster's nodes hold at a time.

        Raises:
            ConfigError: for some time none has fitted on any node.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        room = sum(self._fitting(node) for node in nodes)
        if room:
            self._lacking_since = None
            return room
        self._lacking_since = self._lacking_since or time.monotonic()
        if time.monotonic() - self._lacking_since > PATIENCE:
            there = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes)
            raise ConfigError(
                f"a group needs {self._cpus} CPUs and {self._gpus:g} GPUs, which no node of the Ray cluster has "
                f"(nodes that are alive: {there or 'none'}); start a node with 'ray start --address=...', or ask for "
                "less with --threads and --gpus; the same command resumes from what is saved"
            )
        return 0

    def _fitting(self, node: dict[str, float]) -> int:
        """Groups that a node with these resources holds."""
        fitting = node.get("CPU", 0) / self._cpus
        return int(min(fitting, node.get("GPU", 0) / self._gpus) if self._gpus else fitting)

    def _send(self, task: _Task) -> None:
        trainer = self._trainer
        kept = {}
        rows: list[Row] = []
        trainer.fetch(task.group)
        if task.checkpoint.exists():
            kept = {inside(trainer, p): p.read_bytes() for p in (task.checkpoint, task.metrics) if p.exists()}
            runs = {run.name(trainer.suite) for run in task.group.runs}
            rows = [row for row in trainer.results.rows() if row.run in runs]
        order = Order(
            trainer.suite,
            str(trainer.folder),
            trainer.device,
            trainer.check_data,
            trainer.log,
            task.group,
            self._cpus,
            kept,
            rows,
            self._stored(task.group),
            Surroundings.here(),
        )
        remote = ray.remote(num_returns="streaming", max_retries=0)(train_group)
        task.stream = remote.options(num_cpus=self._cpus, num_gpus=self._gpus).remote(order)
        self._active.append(task)

    def _stored(self, group: Group) -> dict[str, Any]:
        """A group's datasets in the object store; those that no group needs any more are dropped."""
        waiting = [group, *(task.group for task in (*self._left, *self._active))]
        needed = {run.source.hash for each in waiting for run in each.runs}
        self._data = {name: stored for name, stored in self._data.items() if name in needed}
        for run in group.runs:
            if run.source.hash not in self._data:
                self._data[run.source.hash] = ray.put(self._trainer.load(run.source))
        return {run.source.hash: self._data[run.source.hash] for run in group.runs}

    def _hear(self) -> None:
        """Take the next message of each task that has one, or wait a little.

        Raises:
            MarlzooError: an error that concerns all groups.
        """
        if not self._active:
            time.sleep(WAIT)
            return
        ready, _ = ray.wait([task.stream for task in self._active], timeout=WAIT)
        for task in [task for task in self._active if task.stream in ready]:
            try:
                kind, *rest = ray.get(next(task.stream))
            except RayTaskError as error:  # a group's own errors arrive as messages
                last = str(error).strip().splitlines()[-1]
                raise ConfigError(
                    f"{task.group.label}: a node of the Ray cluster cannot train it ({last}); install the same "
                    "marlzoo, with what the suite needs, on every node"
                ) from error
            except (RayError, StopIteration) as error:
                self._lost(task, error)
            else:
                self._take(task, kind, rest)

    def _take(self, task: _Task, kind: str, rest: list[Any]) -> None:
        if kind == "started":
            task.part = task.part or self._display.begin(task.stage)
        elif kind == "rows":
            self._trainer.results.append(*rest)
        elif kind == "file":
            self._keep(task, *rest)
        elif kind == "failed":
            raise error_of(*rest)
        elif kind == "done":
            self._end(task, *rest)
        else:
            getattr(task.part, kind)(*rest)

    def _keep(self, task: _Task, name: str, data: bytes) -> None:
        path = self._trainer.folder / name
        with atomic_write(path) as temporary:
            temporary.write_bytes(data)
        self._trainer.saved(path)
        if path == task.checkpoint:
            task.losses = 0

    def _end(self, task: _Task, failure: str) -> None:
        self.failures += filter(None, [failure])
        self._active.remove(task)
        if task.part is not None:
            task.part.finish(failed=bool(failure))
        self._trainer.results.publish(lazy=True)

    def _lost(self, task: _Task, error: Exception) -> None:
        """Send a group again whose node or process died, unless it dies every time."""
        label = task.group.label
        cause = type(error).__name__
        task.losses += 1
        if task.losses < MOST_LOSSES:
            self._display.log(
                f"{label}: its node or process is gone ({cause}); it resumes from its checkpoint"
            )
            self._active.remove(task)
            self._left.insert(0, task)
            return
        trainer = self._trainer
        lost = MarlzooError(
            f"its node or process was lost {task.losses} times without a checkpoint in between ({cause}); it "
            "may have run out of memory: lower --max-replicas"
        )
        place = trainer.folder / "failures" / f"{task.checkpoint.stem}.txt"
        why = record_failure(trainer.results, trainer.suite, task.group, 0, trainer.device, lost, place)
        self._end(task, f"{label}: {why}")
