"""Both sides of training on a Ray cluster by themselves: what is sent, kept, counted and told. No Ray is started."""

from __future__ import annotations

import contextlib
import importlib.util
import pickle
import queue
import signal
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from marlzoo.benchmarks.plan import groups, runs_of
from marlzoo.benchmarks.progress import WorkItem
from marlzoo.benchmarks.sources import obtain
from marlzoo.benchmarks.split import Split
from marlzoo.benchmarks.suites import Data, Learner
from marlzoo.benchmarks.trainer import Trainer
from rich.console import Console

from marlzoo.commands.skeleton import method_file
from marlzoo.envs._time_limit import call_seconds
from marlzoo.errors import ConfigError, OutputError
from marlzoo.families import task_families
from marlzoo.registry import OWN_METHODS, find_method
from tests.suite_runs import SMALL, suite_of

pytest.importorskip("ray")
if sys.platform != "linux":
    pytest.skip("clusters of several nodes on one machine are for Linux", allow_module_level=True)

from marlzoo.benchmarks.launchers import _ray_driver, _ray_node
from marlzoo.benchmarks.launchers import ray as ray_launcher
from marlzoo.benchmarks.launchers._ray_driver import Driver
from marlzoo.benchmarks.launchers.place import Place
from marlzoo.benchmarks.progress import Display
from ray.exceptions import RayTaskError, WorkerCrashedError

SUITE = suite_of(
    data=(Data("games/xor", "D1"), Data("games/xor", "D3")),
    learners=(Learner("bc", SMALL), Learner("iql", SMALL)),
)


class Rays:
    """Stands for Ray; ``alive`` are the nodes, ``said`` what was asked of it."""

    def __init__(self) -> None:
        self.alive: list[dict[str, float]] = [{"CPU": 4.0}]
        self.dead = [{"CPU": 99.0}]
        self.said: list[tuple[Any, ...]] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": alive, "Resources": each}
            for alive, nodes in ((True, self.alive), (False, self.dead))
            for each in nodes
        ]

    def remote(self, **options: Any) -> Any:
        def with_needs(**needs: Any) -> Any:
            def send(order: Any) -> Any:
                self.said.append(("order", options, needs, order))
                return iter(())

            return SimpleNamespace(remote=send)

        return lambda function: SimpleNamespace(options=with_needs)

    def put(self, value: Any) -> Any:
        self.said.append(("put", value))
        return f"stored {value}"

    def cancel(self, stream: Any, force: bool = False) -> None:
        self.said.append(("cancel", stream, force))
        raise ValueError("it is gone")

    def wait(self, streams: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return streams[:1], streams[1:]

    def get(self, value: Any) -> Any:
        return value


@pytest.fixture
def rays(monkeypatch: pytest.MonkeyPatch) -> Rays:
    made = Rays()
    monkeypatch.setattr(_ray_driver, "ray", made)
    return made


def driver_of(folder: Path, cpus: int = 1, gpus: float = 0, most: int = 0) -> Any:
    trainer = Trainer(SUITE, folder / "unit", "cpu", False, ("x",))
    sources = [obtain(data, folder, lambda done, total: None) for data in SUITE.data]
    each = groups(SUITE, runs_of(SUITE, sources), 1)
    made: Any = Driver(
        trainer, [(group, WorkItem(str(k), group.label, 1.0)) for k, group in enumerate(each)], cpus, gpus, most,
        Display(Console(quiet=True), "unit"),
    )  # fmt: skip
    made._trainer.load = lambda source: source.hash[:4]
    return made


def test_groups_that_a_cluster_holds(rays: Rays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(tmp_path, cpus=2)
    rays.alive = [{"CPU": 5.0}, {"CPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}]
    assert driver._room() == 4
    driver = driver_of(tmp_path, cpus=2, gpus=0.5)
    assert driver._room() == 2  # by the GPUs
    assert driver._fitting({"CPU": 3.0, "GPU": 9.0}) == 1  # by the CPUs
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    rays.alive = [{"CPU": 1.0, "GPU": 2.0}]
    for later in (0.0, _ray_driver.PATIENCE):
        now[0] = 100.0 + later
        assert driver._room() == 0
    rays.alive, kept = [{"CPU": 2.0, "GPU": 1.0}], rays.alive
    assert driver._room() == 1  # from here on it is waited anew
    rays.alive = kept
    now[0] += 50.0
    assert driver._room() == 0
    now[0] += _ray_driver.PATIENCE + 1
    with pytest.raises(ConfigError, match=r"needs 2 CPUs and 0.5 GPUs, .*alive: 1 CPUs, 2 GPUs\)"):
        driver._room()
    rays.alive = []
    with pytest.raises(ConfigError, match=r"alive: none\)"):
        driver._room()


def test_small_groups_share_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless somebody says how many each has; one wide group takes a whole one for all."""
    needs: list[float] = []

    class Noted:
        def __init__(self, trainer: Any, work: Any, cpus: int, gpus: float, *rest: Any) -> None:
            needs.append(gpus)

        def run(self) -> list[str]:
            return []

    monkeypatch.setattr(ray_launcher, "Driver", Noted)
    monkeypatch.setattr(ray_launcher, "_connected", lambda address: contextlib.nullcontext())
    sources = [obtain(data, tmp_path, lambda done, total: None) for data in SUITE.data]

    def asked(device: str, place: Place, *configs: dict[str, Any]) -> float:
        learners = tuple(Learner("omiga", config) for config in configs)
        suite = replace(SUITE, learners=learners, config={})
        each = groups(suite, runs_of(suite, sources), 5)
        trainer = Trainer(suite, tmp_path / "unit", device, False, ())
        work = [(group, WorkItem(group.label, group.label, 1.0)) for group in each]
        ray_launcher.Ray(place, device).run(trainer, work, Split(1), Display(Console(quiet=True), "unit"))
        return needs[-1]

    small, wide = {"hidden": 64, "mixer_hidden": 32}, {"hidden": 65}
    assert asked("cuda", Place("ray"), small) == 0.25
    assert asked("cuda", Place("ray"), small, wide) == 1.0
    assert asked("cuda", Place("ray"), {"hidden": 64, "mixer_hidden": 128}) == 1.0
    assert asked("cuda", Place("ray", gpus=0.5), small) == 0.5
    assert asked("cuda", Place("ray", gpus=2), small) == 2
    assert asked("cpu", Place("ray"), small) == 0.0


def test_sigterm_is_not_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its handler exits with a status of its own, and dumps the stack of the process."""
    heard: list[int] = []

    def mine(number: int, frame: Any) -> None:
        heard.append(number)
        raise KeyboardInterrupt

    def connect(**options: Any) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))

    def interrupted(**options: Any) -> None:
        connect()
        signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(ray_launcher.ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray_launcher.ray, "shutdown", lambda: None)
    before = signal.signal(signal.SIGTERM, mine)
    try:
        for begin in (connect, interrupted):
            monkeypatch.setattr(ray_launcher.ray, "init", begin)
            with pytest.raises(KeyboardInterrupt), ray_launcher._connected(""):
                signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is mine
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        monkeypatch.setattr(ray_launcher.ray, "init", connect)
        with ray_launcher._connected(""):  # of a program that has none: Ray's stays
            assert signal.getsignal(signal.SIGTERM) not in (mine, signal.SIG_DFL)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM] * 2


@pytest.mark.parametrize(("most", "side_by_side"), [(0, 3), (1, 1), (2, 2)])
def test_so_many_groups_are_on_their_way(
    rays: Rays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, side_by_side: int
) -> None:
    """One more than fit, so that no node waits for the driver; or as many as are asked for."""
    driver = driver_of(tmp_path, cpus=2, most=most)
    sent: list[str] = []
    counts: list[int] = []

    def send(task: Any) -> None:
        sent.append(task.group.label)
        driver._active.append(task)

    def hear() -> None:
        counts.append(len(driver._active))
        driver._end(driver._active[0], "" if len(counts) > 1 else "broken")

    monkeypatch.setattr(driver, "_send", send)
    monkeypatch.setattr(driver, "_hear", hear)
    labels = [task.group.label for task in driver._left]
    total = len(labels)
    assert driver.run() == ["broken"]
    assert sent == labels
    assert counts == [min(side_by_side, total - k) for k in range(total)]


def test_an_end_cancels_what_is_on_its_way(
    rays: Rays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = driver_of(tmp_path)
    closed: list[bool] = []
    monkeypatch.setattr(driver._trainer.results, "close", lambda: closed.append(True))

    def hear() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "_hear", hear)
    with pytest.raises(KeyboardInterrupt):
        driver.run()
    streams = [task.stream for task in driver._active]
    assert len(streams) == 5
    assert [said for said in rays.said if said[0] == "cancel"] == [("cancel", each, True) for each in streams]
    assert closed == [True]


def test_what_a_node_is_sent(rays: Rays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(tmp_path, cpus=3, gpus=0.5)
    trainer = driver._trainer
    first, second = driver._left[:2]
    (name,) = (run.name(SUITE) for run in first.group.runs)
    rows = [SimpleNamespace(run=name), SimpleNamespace(run="another")]
    monkeypatch.setattr(trainer.results, "rows", lambda: rows)

    def fetch(group: Any) -> None:  # from the storage, before anybody looks
        if group is first.group:
            first.checkpoint.parent.mkdir(parents=True, exist_ok=True)
            first.checkpoint.write_bytes(b"checkpoint")

    monkeypatch.setattr(trainer, "fetch", fetch)
    driver._send(first)
    _, options, needs, order = rays.said[-1]
    assert options == {"num_returns": "streaming", "max_retries": 0}
    assert needs == {"num_cpus": 3, "num_gpus": 0.5}
    assert (order.suite, order.folder, order.device, order.check_data) == (
        SUITE,
        str(tmp_path / "unit"),
        "cpu",
        False,
    )
    assert (order.log, order.group, order.threads) == (("x",), first.group, 3)
    assert order.files == {f"checkpoints/{first.checkpoint.name}": b"checkpoint"}
    assert order.rows == rows[:1]
    first.metrics.parent.mkdir()
    first.metrics.write_bytes(b"metrics")
    driver._send(first)
    assert rays.said[-1][-1].files[f"metrics/{first.metrics.name}"] == b"metrics"
    driver._send(second)
    assert (rays.said[-1][-1].files, rays.said[-1][-1].rows) == ({}, [])  # it begins at nothing


def test_data_are_stored_once_and_dropped(rays: Rays, tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    every = list(driver._left)
    by_data: dict[str, list[Any]] = {}
    for task in every:
        (run,) = task.group.runs
        by_data.setdefault(run.source.hash, []).append(task)
    (one, mine), (other, theirs) = by_data.items()
    for task in every:
        (run,) = task.group.runs
        stored = driver._stored(task.group)
        assert stored == {run.source.hash: f"stored {run.source.hash[:4]}"}
    assert [said[1] for said in rays.said] == [one[:4], other[:4]]
    for left, active in (([mine[0]], []), ([], [mine[0]])):  # waiting, or sent again if its node is lost
        driver._left, driver._active = left, active
        driver._stored(theirs[1].group)
        assert list(driver._data) == [one, other]
    driver._left, driver._active = [], [theirs[0]]
    driver._stored(theirs[1].group)
    assert list(driver._data) == [other]
    driver._left = [mine[0]]
    driver._stored(mine[0].group)
    assert len(rays.said) == 3


class Raising:
    """A stream whose next message is an error."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __next__(self) -> Any:
        raise self.error


def test_messages_are_heard(rays: Rays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(tmp_path)
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    driver._hear()
    assert slept == [_ray_driver.WAIT]
    first, second, third = driver._left[:3]
    driver._left = driver._left[3:]
    first.stream, second.stream, third.stream = (
        iter([("failed", "OutputError", "full")]),
        Raising(WorkerCrashedError()),
        iter(()),
    )
    driver._active = [first]
    with pytest.raises(OutputError, match="full"):
        driver._hear()
    driver._active = [second]
    driver._hear()
    assert (driver._active, driver._left[0], second.losses) == ([], second, 1)
    driver._active = [third]
    driver._hear()
    assert (driver._left[0], third.losses) == (third, 1)
    first.stream = Raising(
        RayTaskError("train_group", "first\nModuleNotFoundError: marlzoo\n", ValueError("x"))
    )
    driver._active = [first]
    with pytest.raises(ConfigError, match=r"a node .* cannot train it \(ModuleNotFoundError: marlzoo\)"):
        driver._hear()


def test_messages_are_taken(rays: Rays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(tmp_path)
    task = driver._left[0]
    begun: list[Any] = []
    told: list[Any] = []
    part = SimpleNamespace(
        advance=lambda *given: told.append(given), finish=lambda failed: told.append(("finished", failed))
    )

    def begin(stage: Any) -> Any:
        begun.append(stage)
        return part

    monkeypatch.setattr(driver._display, "begin", begin)
    appended: list[Any] = []
    published: list[bool] = []
    monkeypatch.setattr(driver._trainer.results, "append", lambda *given: appended.append(given))
    monkeypatch.setattr(driver._trainer.results, "publish", lambda lazy: published.append(lazy))
    for _ in range(2):  # also where it is sent again
        driver._take(task, "started", ["node"])
    assert begun == [task.stage]
    driver._take(task, "rows", [[1], [2], [3]])
    assert appended == [([1], [2], [3])]
    driver._take(task, "advance", [0.5, "note"])
    assert told == [(0.5, "note")]
    saved: list[Path] = []
    monkeypatch.setattr(driver._trainer, "saved", lambda *paths: saved.extend(paths))
    task.losses = 2
    driver._take(task, "file", [f"metrics/{task.metrics.name}", b"m"])
    assert (task.metrics.read_bytes(), task.losses) == (b"m", 2)
    driver._take(task, "file", [f"checkpoints/{task.checkpoint.name}", b"c"])
    assert (task.checkpoint.read_bytes(), task.losses) == (b"c", 0)
    assert saved == [task.metrics, task.checkpoint]
    driver._active = [task]
    driver._take(task, "done", [""])
    assert (driver._active, driver.failures, published) == ([], [], [True])
    driver._active = [task]
    driver._take(task, "done", ["broken"])
    assert (driver.failures, told[-2:]) == (["broken"], [("finished", False), ("finished", True)])


def test_a_group_is_lost_three_times(rays: Rays, tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    task, left = driver._left.pop(0), list(driver._left)
    for losses in (1, 2):
        driver._active = [task]
        driver._lost(task, WorkerCrashedError())
        assert (driver._left, driver._active, task.losses) == ([task, *left], [], losses)
        driver._left.pop(0)
    assert driver._trainer.results.rows() == []
    driver._active = [task]
    driver._lost(task, WorkerCrashedError())
    assert (driver._left, driver._active) == (left, [])
    (why,) = driver.failures
    assert why.startswith(f"{task.group.label}: MarlzooError: its node or process was lost 3 times")
    assert "(WorkerCrashedError)" in why
    (row,) = driver._trainer.results.rows()
    assert (row.updates, "lost 3 times" in row.error) == (0, True)
    assert (tmp_path / "unit" / "failures" / f"{task.checkpoint.stem}.txt").exists()


# ---- a node --------------------------------------------------------------------------------------------------------


def messages(box: queue.SimpleQueue[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    found = []
    while not box.empty():
        found.append(box.get())
    return found


def order_of(group: Any, log: tuple[str, ...] = ()) -> _ray_node.Order:
    files = {"checkpoints/a.npz": b"c", "metrics/a.csv": b"m"}
    nothing = _ray_node.Surroundings({}, ())
    return _ray_node.Order(SUITE, "/driver", "cpu", False, log, group, 1, files, [], {}, nothing)


def test_what_a_node_does_with_an_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    driver = driver_of(tmp_path)
    group = driver._left[0].group
    outcome: list[Any] = [""]
    seen: list[Any] = []

    def attempt(self: Any, asked: Any, report: Any) -> str:
        seen.append(
            (self.folder, asked, self.device, self.check_data, self.log, self.load(SimpleNamespace(hash="h")))
        )
        assert (self.folder / "checkpoints" / "a.npz").read_bytes() == b"c"
        assert (self.folder / "metrics" / "a.csv").read_bytes() == b"m"
        for log in ("jsonl", "other"):
            (self.folder / log / "deep").mkdir(parents=True)
            (self.folder / log / "deep" / "events").write_text(log)
        report.log(f"in {self.folder}")
        self.sink.append([1], [2], [3])
        if isinstance(outcome[0], Exception):
            raise type(outcome[0])(f"{outcome[0]}: {self.folder}")
        return f"{outcome[0]}{self.folder}"

    monkeypatch.setattr(Trainer, "attempt", attempt)
    box: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    _ray_node._work(order_of(group, ("jsonl",)), {"i": "other", "h": "data"}, box)  # type: ignore[dict-item]
    assert messages(box) == [
        ("log", "in /driver"),
        ("rows", [1], [2], [3]),
        ("file", "jsonl/deep/events", b"jsonl"),
        ("done", "/driver"),
    ]
    ((folder, *rest),) = seen
    assert rest == [group, "cpu", False, ("jsonl",), "data"]
    assert not folder.exists()
    outcome[0] = OutputError("full")
    _ray_node._work(order_of(group), {"i": "other", "h": "data"}, box)  # type: ignore[dict-item]
    assert messages(box)[-1] == ("failed", "OutputError", "full: /driver")
    outcome[0] = ValueError("on purpose")
    _ray_node._work(order_of(group), {"i": "other", "h": "data"}, box)  # type: ignore[dict-item]
    kind, name, text = messages(box)[-1]
    assert (kind, name) == ("failed", "")
    assert text.startswith("training on a node failed:\nTraceback")
    assert "ValueError: on purpose: /driver" in text


def test_what_keeps_a_node_from_work_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the node's last word would wait for ever."""
    group = driver_of(tmp_path)._left[0].group
    box: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()

    def fail(error: BaseException) -> Any:
        def make(*given: Any, **named: Any) -> None:
            raise error

        return make

    monkeypatch.setattr(
        _ray_node.tempfile, "TemporaryDirectory", fail(OSError(28, "No space left on device"))
    )
    _ray_node._work(order_of(group), {}, box)
    ((kind, name, text),) = messages(box)
    assert (kind, name) == ("failed", "OutputError")
    assert "a node of the Ray cluster cannot keep what it trains" in text
    assert "No space left on device); free some space there" in text
    monkeypatch.setattr(_ray_node.tempfile, "TemporaryDirectory", fail(SystemExit(3)))
    _ray_node._work(order_of(group), {}, box)
    ((kind, name, text),) = messages(box)
    assert (kind, name) == ("failed", "")
    assert "SystemExit: 3" in text


def test_a_method_of_ones_own_is_found_on_a_node(
    rays: Rays, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose processes have the variables and the folder of 'ray start', not those of the command."""
    driver = driver_of(tmp_path)
    for folder in ("here", "here/lib", "there"):
        (tmp_path / folder).mkdir()
    (tmp_path / "here" / "howler.py").write_text(method_file("howler"))
    (tmp_path / "here" / "lib" / "den.py").touch()
    named = {
        OWN_METHODS: "howler.py, marlzoo.baselines",
        "MARLZOO_ENVIRONMENTS": "den",
        "MARLZOO_ENV_SECONDS": "7",
        "PYTHONPATH": "lib",
    }
    monkeypatch.chdir(tmp_path / "here")
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    driver._send(driver._left[0])
    order = pickle.loads(pickle.dumps(rays.said[-1][-1]))
    monkeypatch.chdir(tmp_path / "there")
    for name in named:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "path", [*sys.path])
    box: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    learners: list[str] = []

    def attempt(trainer: Any, group: Any, report: Any) -> str:
        learners.append(find_method("howler").__name__)
        assert importlib.util.find_spec("den") is not None
        assert task_families()["den"] == "den"
        assert call_seconds() == 7
        find_method("lost")
        return ""

    monkeypatch.setattr(Trainer, "attempt", attempt)
    _ray_node._work(order, {}, box)
    assert learners == ["Howler"]
    ((kind, name, text),) = messages(box)
    assert (kind, name) == ("failed", "UnknownNameError")
    assert "unknown method 'lost'" in text
    assert "This is what a node of the Ray cluster says" in text


def test_a_node_says_where_it_is_and_ends_with_the_last_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = SimpleNamespace(
        get=lambda value: f"got {value}",
        get_runtime_context=lambda: SimpleNamespace(get_node_id=lambda: "here"),
    )
    monkeypatch.setattr(_ray_node, "ray", stand_in)
    given: list[Any] = []

    def work(last: str) -> Any:
        def put(order: Any, datasets: Any, box: Any) -> None:
            given.append(datasets)
            for message in (("log", "a"), (last, ""), ("log", "b")):
                box.put(message)

        return put

    order = SimpleNamespace(data={"h": "stored"})
    for last in ("done", "failed"):
        monkeypatch.setattr(_ray_node, "_work", work(last))
        found = list(_ray_node.train_group(order))  # type: ignore[arg-type]
        assert found == [("started", "here"), ("log", "a"), (last, "")]
    assert given == [{"h": "got stored"}] * 2


def test_a_node_reports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    box: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    report = _ray_node._Report(box, str.upper)
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    for later in (0.0, 0.4, 0.5, 0.9, 1.0):
        now[0] = 100.0 + later
        report.advance(later, "note")
    assert messages(box) == [("advance", later, "note") for later in (0.0, 0.5, 1.0)]
    report.resumed(0.25)
    report.log("text")
    report.evaluated("found")  # type: ignore[arg-type]
    assert messages(box) == [("resumed", 0.25), ("log", "TEXT"), ("evaluated", "found")]
    known: Any = ["row"]
    outbox = _ray_node._Outbox(box, known)
    outbox.append(iter([1]), iter([2]), iter([3]))  # type: ignore[arg-type]
    assert messages(box) == [("rows", [1], [2], [3])]
    assert outbox.rows() is known
    trainer = Trainer(SUITE, tmp_path, "cpu", False)
    assert _ray_node.inside(trainer, tmp_path / "a" / "b") == "a/b"
