"""A node's side of training on a Ray cluster: trains one group in a folder of its own and sends what it makes."""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from marlzoo.errors import MarlzooError, PluginError, UnknownNameError
from marlzoo.registry import OWN_METHODS, own_methods

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
# What changes results, or names what is trained; a node has its own datasets, so MARLZOO_HOME is not among them.
VARIABLES = ("MARLZOO_ENVIRONMENTS", "MARLZOO_ENV_SECONDS", "MARLZOO_MATMUL")


@dataclass(frozen=True)
class Surroundings:
    """Where the driver finds code of one's own; a node's processes inherit what ``ray start`` had instead.

    Args:
        variables: marlzoo's, by name.
        path: the folders in ``PYTHONPATH``.
    """

    variables: Mapping[str, str]
    path: tuple[str, ...]

    @classmethod
    def here(cls) -> Surroundings:
        """Those of this process; paths are absolute, because a node works in another folder."""
        variables = {name: os.environ[name] for name in VARIABLES if name in os.environ}
        if named := own_methods():
            variables[OWN_METHODS] = ",".join(named)
        path = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
        return cls(variables, tuple(map(os.path.abspath, path)))

    def take_over(self) -> None:
        """Let this process find what that one finds."""
        os.environ.update(self.variables)
        sys.path += [folder for folder in self.path if folder not in sys.path]


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
    surroundings: Surroundings


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
    """Train a group in a folder of this node; the last message, ``done`` or ``failed``, is waited for."""
    try:
        order.surroundings.take_over()
        with tempfile.TemporaryDirectory(prefix="marlzoo-") as name, torch_threads(order.threads):
            _train(order, Path(name), datasets, box)
    except OSError as error:
        box.put(
            (
                "failed",
                "OutputError",
                f"a node of the Ray cluster cannot keep what it trains ({error}); free some space there, or "
                "start the node with TMPDIR=FOLDER",
            )
        )
    except BaseException:  # a thread that ends without a word would be waited for for ever
        box.put(("failed", "", f"training on a node failed:\n{traceback.format_exc()}"))


def _train(
    order: Order, folder: Path, datasets: dict[str, Dataset], box: queue.SimpleQueue[tuple[Any, ...]]
) -> None:
    for path, data in order.files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)

    def told(text: str) -> str:
        return text.replace(str(folder), order.folder)  # where the driver keeps it

    trainer = _NodeTrainer(order, folder, datasets, box)
    try:
        failure = trainer.attempt(order.group, _Report(box, told))
        logged = (path for log in order.log for path in (folder / log).rglob("*") if path.is_file())
        trainer.saved(*logged)
        box.put(("done", told(failure)))
    except MarlzooError as error:
        box.put(("failed", type(error).__name__, told(f"{error}{_remedy(error)}")))
    except Exception:  # told whole, it is not the user's fault
        box.put(("failed", "", f"training on a node failed:\n{told(traceback.format_exc())}"))


def _remedy(error: MarlzooError) -> str:
    """What to do where a node lacks what the driver has found."""
    if not isinstance(error, PluginError | UnknownNameError):
        return ""
    return (
        " (This is what a node of the Ray cluster says; give every node the packages, and the files in the same "
        "places, that are here.)"
    )


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
