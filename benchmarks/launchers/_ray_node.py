"""A node's side of training on a Ray cluster: trains one group in a folder of its own and sends what it makes."""

from __future__ import annotations

import queue
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from marlzoo.errors import MarlzooError

from ..live import LatestEvaluation
from ..plan import Group
from ..results import Estimated, Row, RowEpisodes
from ..sources import Source
from ..split import torch_threads
from ..suites import Suite
from ..trainer import Trainer

if TYPE_CHECKING:
    from marlzoo.data.dataset import Dataset

TOLD_EVERY = 0.5  # seconds between two reports of progress of a group


@dataclass(frozen=True)
class Order:
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


def train_group(order: Order) -> Iterator[tuple[Any, ...]]:
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


def _work(order: Order, datasets: dict[str, Dataset], box: queue.SimpleQueue[tuple[Any, ...]]) -> None:
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
        order: Order,
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
            self._box.put(("file", inside(self, path), path.read_bytes()))


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


def inside(trainer: Trainer, path: Path) -> str:
    """A file's path within the trainer's folder, as it is in the driver's."""
    return path.relative_to(trainer.folder).as_posix()
