"""Ray: a cluster of two nodes, one of them killed, gives the rows of this machine; and what it tells where it cannot."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks.launchers import Place
from marlzoo.benchmarks.progress import Display, Stage
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.split import Split
from marlzoo.benchmarks.suites import Data, Learner
from marlzoo.benchmarks.trainer import Trainer
from rich.console import Console

from marlzoo.cli import main
from marlzoo.errors import ConfigError
from tests.test_bench import SMALL, run, scores, suite_of
from tests.test_split import alive

pytest.importorskip("ray")
if sys.platform != "linux":
    pytest.skip("clusters of several nodes on one machine are for Linux", allow_module_level=True)

import ray
from marlzoo.benchmarks.launchers import ray as launcher
from ray.cluster_utils import Cluster

GAMES = (Data("games/xor", "D1"), Data("games/xor", "D3"))
LEARNERS = (Learner("bc", SMALL), Learner("iql", SMALL))
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.mark.slow
def test_a_lost_node_changes_no_row(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = cluster.add_node(**NODE)
    suite = suite_of(data=GAMES, learners=LEARNERS, updates=300, eval_every=20)
    take, node_of, killed = launcher._Driver._take, {}, []

    def kill(driver: Any, task: Any, kind: str, rest: list[Any]) -> None:
        take(driver, task, kind, rest)
        if kind == "started":
            node_of[task.group.label] = rest[0]
        if kind == "rows" and not killed and node_of[task.group.label] == second.node_id:
            cluster.remove_node(second, allow_graceful=False)
            killed.append(task.group.label)

    monkeypatch.setattr(launcher._Driver, "_take", kill)
    told = run(suite, tmp_path / "ray", place=Place("ray", address=cluster.address))
    assert f"{killed[0]}: its node or process is gone (NodeDiedError); it goes on from its checkpoint" in told
    run(suite, tmp_path / "here", split=Split(1, 1))
    assert scores(tmp_path / "ray") == scores(tmp_path / "here")
    for kind in ("checkpoints/*.npz", "metrics/*.csv"):
        names = [{path.name for path in (tmp_path / each / "unit").glob(kind)} for each in ("ray", "here")]
        assert names[0] == names[1]


@pytest.mark.slow
def test_what_no_node_can_hold(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "PATIENCE", 0.0)
    monkeypatch.setattr(launcher, "WAIT", 0.01)
    place = Place("ray", address=cluster.address)
    with pytest.raises(ConfigError, match=r"needs 64 CPUs and 0 GPUs.*alive: 1 CPUs, 0 GPUs.*ray start"):
        run(suite_of(data=GAMES[:1]), tmp_path, place=place, split=Split(1, 64))


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "no Ray cluster can be joined there (Connection refused); start one with 'ray start --head'"),
        ("nowhere", "write HOST:PORT"),
        ("ray://127.0.0.1:1", "write HOST:PORT"),
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


def test_a_group_that_ends_every_process_fails_and_not_the_suite(tmp_path: Path) -> None:
    from marlzoo.benchmarks import plan

    suite = suite_of(data=GAMES[:1])
    sources = [plan.obtain(data, tmp_path, lambda done, total: None) for data in suite.data]
    (group,) = plan.groups(suite, plan.runs_of(suite, sources), 20)
    trainer = Trainer(suite, tmp_path / "unit", "cpu", True)
    display = Display(Console(quiet=True), "unit")
    driver = launcher._Driver(trainer, [(group, Stage("a", "a", 1.0))], 1, 0, 0, display)
    for _ in range(launcher.MOST_LOSSES):
        assert driver.failures == []
        task = driver._left.pop()
        driver._active.append(task)
        driver._lost(task, ray.exceptions.WorkerCrashedError())
    (failure,) = driver.failures
    assert "was lost 3 times without a checkpoint in between (WorkerCrashedError)" in failure
    assert {row.error for row in ResultsFile(tmp_path / "unit" / "rows.csv").rows()} != {""}
    assert (driver._left, driver._active) == ([], [])


@pytest.mark.slow
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
