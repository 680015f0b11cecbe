"""Ray: a task or a node that dies changes no row; and what is told where groups cannot be trained."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from marlzoo.benchmarks import trainer
from marlzoo.benchmarks.launchers import Place
from marlzoo.benchmarks.progress import Display, WorkItem
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.split import Split
from marlzoo.benchmarks.suites import Data, Learner
from marlzoo.benchmarks.trainer import Trainer
from rich.console import Console

from marlzoo.cli import main
from marlzoo.errors import ConfigError
from tests.suite_runs import SMALL, run, scores, suite_of
from tests.test_split import alive

pytest.importorskip("ray")
if sys.platform != "linux":
    pytest.skip("clusters of several nodes on one machine are for Linux", allow_module_level=True)

import ray
from marlzoo.benchmarks.launchers import _ray_driver, _ray_node
from marlzoo.benchmarks.launchers import ray as launcher
from ray.cluster_utils import Cluster

GAMES = (Data("games/xor", "D1"), Data("games/xor", "D3"))
LEARNERS = (Learner("iql", SMALL), Learner("bc", SMALL))  # the rows of the first one hold values, too
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    patiently(lambda: made.add_node(**NODE, include_dashboard=False))
    yield made
    ray.shutdown()
    made.shutdown()


def patiently(start: Callable[[], Any]) -> Any:
    """Start a node. Ray gives one 30 seconds, which a machine with much other work may need several times."""
    for _ in range(5):
        with contextlib.suppress(Exception):
            return start()
    return start()


@pytest.mark.cluster
def test_a_lost_node_changes_no_row(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = patiently(lambda: cluster.add_node(**NODE))
    suite = suite_of(data=GAMES, learners=LEARNERS, updates=300, eval_every=20)
    take = _ray_driver.Driver._take
    node_of: dict[str, str] = {}
    killed: list[str] = []

    def kill(driver: Any, task: Any, kind: str, rest: list[Any]) -> None:
        take(driver, task, kind, rest)
        if kind == "started":
            node_of[task.group.label] = rest[0]
        if kind == "rows" and not killed and node_of[task.group.label] == second.node_id:
            cluster.remove_node(second, allow_graceful=False)
            killed.append(task.group.label)

    monkeypatch.setattr(_ray_driver.Driver, "_take", kill)
    told = run(suite, tmp_path / "ray", place=Place("ray", address=cluster.address))
    assert f"{killed[0]}: its node or process is gone" in told
    run(suite, tmp_path / "here", split=Split(1, 1))
    assert scores(tmp_path / "ray") == scores(tmp_path / "here")
    for kind in ("checkpoints/*.npz", "metrics/*.csv"):
        names = [{path.name for path in (tmp_path / each / "unit").glob(kind)} for each in ("ray", "here")]
        assert names[0] == names[1]


class InProcess:
    """What the launcher asks of Ray, done in this process; the first task dies after ``alive`` checkpoints."""

    def __init__(self, alive: int) -> None:
        self.alive = alive
        self.orders: list[Any] = []

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": {"CPU": 1.0}}, {"Alive": False, "Resources": {"CPU": 9.0}}]

    def remote(self, **options: Any) -> Any:
        assert options == {"num_returns": "streaming", "max_retries": 0}
        return lambda function: SimpleNamespace(
            options=lambda **needs: SimpleNamespace(remote=lambda order: self.messages(function, order))
        )

    def messages(self, function: Callable[[Any], Iterator[Any]], order: Any) -> Iterator[Any]:
        self.orders.append(order)
        first, left = len(self.orders) == 1, self.alive
        for message in function(pickle.loads(pickle.dumps(order))):
            yield message
            left -= message[0] == "file" and message[1].startswith("checkpoints")
            if first and left == 0:
                raise ray.exceptions.WorkerCrashedError

    def put(self, value: Any) -> Any:
        return value

    get = put

    def wait(self, streams: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return streams, []

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here")


def test_a_lost_task_changes_no_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a cluster: what a task sends is all that another one needs to go on from."""
    suite = suite_of(data=GAMES, learners=LEARNERS, updates=60, eval_every=10, final_episodes=3)
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(launcher, "_connected", lambda address: contextlib.nullcontext())
    stand_in = InProcess(alive=3)
    monkeypatch.setattr(_ray_driver, "ray", stand_in)
    monkeypatch.setattr(_ray_node, "ray", stand_in)
    told = run(suite, tmp_path / "ray", place=Place("ray"))
    assert "its node or process is gone (WorkerCrashedError); it resumes from its checkpoint" in told
    again = stand_in.orders[-1]
    assert sorted(again.files) != []
    assert len(again.rows) == 2 * 4  # of two evaluations; those after the last checkpoint are made again
    run(suite, tmp_path / "here", split=Split(1, 1))
    assert scores(tmp_path / "ray") == scores(tmp_path / "here")
    for kind in ("checkpoints/*.npz", "metrics/*.csv"):
        names = [{path.name for path in (tmp_path / each / "unit").glob(kind)} for each in ("ray", "here")]
        assert names[0] == names[1] != set()
    for metrics in (tmp_path / "here" / "unit").glob("metrics/*.csv"):
        assert (tmp_path / "ray" / "unit" / "metrics" / metrics.name).read_text() == metrics.read_text()


def test_a_failing_group_leaves_its_traceback_with_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ValueError("on purpose")

    monkeypatch.setattr(launcher, "_connected", lambda address: contextlib.nullcontext())
    stand_in = InProcess(alive=-1)
    monkeypatch.setattr(_ray_driver, "ray", stand_in)
    monkeypatch.setattr(_ray_node, "ray", stand_in)
    monkeypatch.setattr(trainer, "make", broken)
    told = run(suite_of(data=GAMES[:1]), tmp_path, place=Place("ray"))
    (file,) = (tmp_path / "unit" / "failures").iterdir()
    assert f"failed, ValueError: on purpose; traceback: {file}" in told
    assert "on purpose" in file.read_text()
    assert {row.error for row in ResultsFile(tmp_path / "unit" / "rows.csv").rows()} == {
        "ValueError: on purpose"
    }


@pytest.mark.cluster
def test_what_no_node_can_hold(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_ray_driver, "PATIENCE", 0.0)
    monkeypatch.setattr(_ray_driver, "WAIT", 0.01)
    place = Place("ray", address=cluster.address)
    with pytest.raises(ConfigError, match=r"needs 64 CPUs and 0 GPUs.*alive: 1 CPUs, 0 GPUs.*ray start"):
        run(suite_of(data=GAMES[:1]), tmp_path, place=place, split=Split(1, 64))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster can be joined there (Connection refused); start one with 'ray start --head'"),
        ("nowhere", "write HOST:PORT"),
        ("ray://127.0.0.1:1", "Ray's client (ray://) cannot hear what groups report"),
        ("http://127.0.0.1:1", "write HOST:PORT"),
    ],
)  # fmt: skip
def test_an_address_where_no_ray_is(
    address: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "xor", "--on", "ray", "--address", address, "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert message.replace("(Connection", "([Errno 111] Connection") in told
    assert len(told.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_ray_that_does_not_start_is_one_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def slow(**_: Any) -> None:
        raise Exception("The current node timed out during startup.\nMuch else.")

    monkeypatch.setattr(ray, "init", slow)
    assert main(["bench", "xor", "--on", "ray", "--out", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert (
        "no Ray could be started on this machine (The current node timed out during startup.); where it"
        in told
    )


def test_a_cluster_that_refuses_is_told_with_how_tokens_are_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(**_: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 127.0.0.1.")

    monkeypatch.setattr(ray, "init", refused)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        command = ["bench", "xor", "--on", "ray", "--address", address, "--out", str(tmp_path / "out")]
        assert main(command) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    assert "(Failed to connect to Ray cluster at 127.0.0.1.)" in told
    assert "RAY_AUTH_MODE=token" in told


def test_a_group_that_ends_every_process_fails_and_not_the_suite(tmp_path: Path) -> None:
    from marlzoo.benchmarks import plan
    from marlzoo.benchmarks.sources import obtain

    suite = suite_of(data=GAMES[:1])
    sources = [obtain(data, tmp_path, lambda done, total: None) for data in suite.data]
    (group,) = plan.groups(suite, plan.runs_of(suite, sources), 20)
    display = Display(Console(quiet=True), "unit")
    mine = Trainer(suite, tmp_path / "unit", "cpu", True)
    driver = _ray_driver.Driver(mine, [(group, WorkItem("a", "a", 1.0))], 1, 0, 0, display)
    for _ in range(_ray_driver.MOST_LOSSES):
        assert driver.failures == []
        task = driver._left.pop()
        driver._active.append(task)
        driver._lost(task, ray.exceptions.WorkerCrashedError())
    (failure,) = driver.failures
    assert "was lost 3 times without a checkpoint in between (WorkerCrashedError)" in failure
    assert {row.error for row in ResultsFile(tmp_path / "unit" / "rows.csv").rows()} != {""}
    assert (driver._left, driver._active) == ([], [])


@pytest.mark.cluster
def test_an_interrupt_leaves_no_process_and_no_half_row(tmp_path: Path) -> None:
    """Of the Ray that the command starts itself; its processes are found by a variable that they inherit."""
    call = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from marlzoo.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    options = ["--on", "ray", "--set", "updates=1000000", "eval_every=20", "--out", str(tmp_path)]
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-c", call, "bench", "xor", *options], env={**os.environ, "MARK": mark}
    )
    rows = ResultsFile(tmp_path / "xor" / "rows.csv")
    while not rows.rows():
        assert process.poll() is None
        time.sleep(0.1)
    assert len(marked(mark)) > 3
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    limit = time.monotonic() + 60
    while marked(mark):
        assert time.monotonic() < limit, marked(mark)
        time.sleep(0.1)
    assert rows.faults() == []


def marked(mark: str) -> list[int]:
    """The processes that inherited a variable with this value."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [process for process in found if alive(process)]
