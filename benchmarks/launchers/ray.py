"""Training on a Ray cluster: each group is a task. Needs the package ray, and no folder that nodes share.

The driver, which is the command itself, keeps everything. A task works in a folder of its node and sends what it
makes: rows, which the driver alone writes, and after each save the checkpoint. Where a node dies, the group is sent
to another one with its last checkpoint. Datasets go into Ray's object store under their content hash, so that each
node fetches one once, whichever groups train on it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError, RayTaskError

from marlzoo.errors import ConfigError, MarlzooError
from marlzoo.system.files import atomic_write

from ..live import LatestEvaluation
from ..plan import Group
from ..progress import Display, WorkBar, WorkItem
from ..recorder import record_failure
from ..results import Estimated, Row, RowEpisodes
from ..reuse import files
from ..sources import Source
from ..split import Split, cores, torch_threads
from ..status import list_groups
from ..suites import Suite
from ..trainer import Trainer
from .local import error_of
from .place import Place, Work

if TYPE_CHECKING:
    from marlzoo.data.dataset import Dataset

MOST_LOSSES = 3  # of one group in a row, without a new checkpoint between them
PATIENCE = 60.0  # seconds for which a cluster may lack a node that a group fits on
TOLD_EVERY = 0.5  # seconds between two reports of progress of a group
WAIT = 1.0  # seconds after which the driver looks at the nodes again


@dataclass(frozen=True)
class _Order:
    """What a task is sent."""

    suite: Suite
    folder: str  # of the driver, for texts
    device: str
    check_data: bool
    log: tuple[str, ...]
    group: Group
    threads: int
    files: dict[str, bytes]
    rows: list[Row]
    data: dict[str, Any]


class Ray:
    """Sends groups to a cluster, or to a Ray that it starts on this machine and ends again.

    Args:
        place: address, GPUs of each group, and most groups at a time.
        device: that groups train on.

    Raises:
        ConfigError: nothing answers at the address.
    """

    def __init__(self, place: Place, device: str) -> None:
        self._place = place
        self._gpus = place.gpus_on(device)
        if place.address and place.address != "auto":
            _require_answer(place.address)

    def run(self, trainer: Trainer, work: Work, split: Split, display: Display) -> list[str]:
        """See :class:`marlzoo.benchmarks.launchers.Launcher`."""
        list_groups(trainer.folder, trainer.suite, [group for group, _ in work])
        if not work:
            return []
        driver = _Driver(trainer, work, max(split.threads, 1), self._gpus, self._place.array, display)
        with _connected(self._place.address):
            return driver.run()


def _require_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise ConfigError(
            f"--address {address}: Ray's client (ray://) cannot hear what groups report while they train; start the "
            "command on a node of the cluster, with HOST:PORT of its head or auto"
        )
    if "://" in address or not host or not port.isdigit():
        raise ConfigError(
            f"--address {address}: write HOST:PORT of the cluster's head, or auto, and start the command on a node "
            "of the cluster"
        )
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"--address {address}: no Ray cluster can be joined there ({_first_line(error)}); start one with "
        "'ray start --head' and give the address that it prints, or leave --address out for a Ray of this machine "
        "alone"
    )


def _not_started(error: Exception) -> ConfigError:
    return ConfigError(
        f"--on ray: no Ray could be started on this machine ({_first_line(error)}); where it is busy, give Ray more "
        "time (RAY_raylet_start_wait_time_s=300 in the environment), or train with --on local"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connected to a cluster until the block ends, which ends a Ray of its own with all its processes."""
    if ray.is_initialized():  # by a program that calls marlzoo.bench; it is that program's
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that it is used
    own = {"address": "local", "num_cpus": cores(), "include_dashboard": False}
    options = {"address": address} if address else own
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of a class without a name where a node does not start in time
        raise _unreachable(address, error) if address else _not_started(error) from error
    try:
        yield
    finally:
        ray.shutdown()


# ---- the driver ----------------------------------------------------------------------------------------


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


class _Driver:
    """Sends groups, hears how they go on, and keeps what they send."""

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
            kept = {
                _inside(trainer, p): p.read_bytes() for p in (task.checkpoint, task.metrics) if p.exists()
            }
            runs = {run.name(trainer.suite) for run in task.group.runs}
            rows = [row for row in trainer.results.rows() if row.run in runs]
        order = _Order(
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
                f"{label}: its node or process is gone ({cause}); it goes on from its checkpoint"
            )
            self._active.remove(task)
            self._left.insert(0, task)
            return
        trainer = self._trainer
        lost = MarlzooError(
            f"its node or process was lost {task.losses} times without a checkpoint in between ({cause}); look for "
            "want of memory, lower --max-replicas"
        )
        place = trainer.folder / "failures" / f"{task.checkpoint.stem}.txt"
        why = record_failure(trainer.results, trainer.suite, task.group, 0, trainer.device, lost, place)
        self._end(task, f"{label}: {why}")


def _inside(trainer: Trainer, path: Path) -> str:
    return path.relative_to(trainer.folder).as_posix()


# ---- a node --------------------------------------------------------------------------------------------


def train_group(order: _Order) -> Iterator[tuple[Any, ...]]:
    """Train a group on a node; yields what the driver has to know."""
    datasets = {name: ray.get(stored) for name, stored in order.data.items()}
    box: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    threading.Thread(target=_work, args=(order, datasets, box), daemon=True).start()
    yield ("started", ray.get_runtime_context().get_node_id())
    while True:
        message = box.get()
        yield message
        if message[0] in ("done", "failed"):
            return


def _work(order: _Order, datasets: dict[str, Dataset], box: queue.SimpleQueue[tuple[Any, ...]]) -> None:
    with tempfile.TemporaryDirectory(prefix="marlzoo-") as name, torch_threads(order.threads):
        folder = Path(name)
        for path, data in order.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)

        def told(text: str) -> str:
            return text.replace(name, order.folder)  # where the driver keeps it

        trainer = _NodeTrainer(order, folder, datasets, box)
        try:
            failure = trainer.attempt(order.group, _Report(box, told))
            logged = (path for log in order.log for path in (folder / log).rglob("*") if path.is_file())
            trainer.saved(*logged)
            box.put(("done", told(failure)))
        except MarlzooError as error:
            box.put(("failed", type(error).__name__, told(str(error))))
        except Exception:  # told whole, it is not the user's fault
            box.put(("failed", "", f"training on a node failed:\n{told(traceback.format_exc())}"))


class _NodeTrainer(Trainer):
    """Sends what it makes to the driver."""

    def __init__(
        self,
        order: _Order,
        folder: Path,
        datasets: dict[str, Dataset],
        box: queue.SimpleQueue[tuple[Any, ...]],
    ) -> None:
        super().__init__(order.suite, folder, order.device, order.check_data, order.log)
        self.sink = _Outbox(box, order.rows)
        self._fetched = datasets
        self._box = box

    def load(self, source: Source) -> Dataset:
        """The dataset of a source, from the object store."""
        return self._fetched[source.hash]

    def saved(self, *files: Path) -> None:
        """Send files."""
        for path in files:
            self._box.put(("file", _inside(self, path), path.read_bytes()))


class _Outbox:
    """Rows on their way to the driver (a :class:`marlzoo.benchmarks.recorder.RowSink`)."""

    def __init__(self, box: queue.SimpleQueue[tuple[Any, ...]], known: list[Row]) -> None:
        self._box = box
        self._known = known

    def append(
        self, rows: Iterable[Row], episodes: Iterable[RowEpisodes] = (), estimates: Iterable[Estimated] = ()
    ) -> None:
        self._box.put(("rows", list(rows), list(episodes), list(estimates)))

    def rows(self) -> list[Row]:
        return self._known

    def close(self) -> None:
        """Nothing: the driver ends the file."""


class _Report:
    """Reports progress to the driver, not more often than a person can see."""

    def __init__(self, box: queue.SimpleQueue[tuple[Any, ...]], told: Any) -> None:
        self._box = box
        self._text = told
        self._last = 0.0

    def resumed(self, done: float) -> None:
        self._box.put(("resumed", done))

    def advance(self, done: float, note: str = "") -> None:
        if time.monotonic() - self._last >= TOLD_EVERY:
            self._last = time.monotonic()
            self._box.put(("advance", done, note))

    def log(self, text: str) -> None:
        self._box.put(("log", self._text(text)))

    def evaluated(self, found: LatestEvaluation) -> None:
        self._box.put(("evaluated", found))
