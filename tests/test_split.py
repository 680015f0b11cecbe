"""Splitting a suite over processes: the same rows, errors that arrive, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from marlzoo.benchmarks import plan, split
from marlzoo.benchmarks.launchers import local
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.sources import obtain
from marlzoo.benchmarks.split import Split, default_split, group_size, replicas_in_cache, split_of
from marlzoo.benchmarks.suites import Data, Learner

import marlzoo
from marlzoo.errors import CheckpointError, ConfigError, MarlzooError
from tests.suite_runs import SMALL, run, scores, suite_of

GAMES = (Data("games/xor", "D1"), Data("games/xor", "D3"))
TWO = Split(2, 1)


def test_a_group_has_a_replica() -> None:
    split.require_replicas(1)
    with pytest.raises(ConfigError, match="max_replicas is 0; it must be at least 1"):
        split.require_replicas(0)


def suite(**changes: Any) -> Any:
    return suite_of(data=GAMES, learners=(Learner("iql", SMALL), Learner("omiga", SMALL)), **changes)


def test_two_processes_make_the_rows_of_one(tmp_path: Path) -> None:
    """Up to float rounding, as groups have other sizes; and a worker's error is the error of the whole."""
    run(suite(), tmp_path / "one")
    printed = run(suite(), tmp_path / "two", split=replace(TWO, replicas=3))
    one, two = scores(tmp_path / "one"), scores(tmp_path / "two")
    assert one.keys() == two.keys()
    for key, row in one.items():
        same = replace(two[key], mean_return=row.mean_return, std_return=row.std_return)
        assert same == row
        assert two[key].mean_return == pytest.approx(row.mean_return, abs=1e-5)
    assert printed.count("6 updates, mean return") == 4
    with pytest.raises(CheckpointError, match="has 6 updates already, the suite asks for 5"):
        run(suite(updates=5), tmp_path / "two", split=replace(TWO, replicas=3))


def test_a_process_that_dies_is_told_of() -> None:
    team = local._Pool(1, 1)
    try:
        (worker,) = team.workers
        os.kill(worker.process.pid or 0, signal.SIGKILL)
        with pytest.raises(MarlzooError, match=r"ended \(exit code -9.*--processes 1"):
            team.answer(worker)
    finally:
        team.end()


# Takes its time after every row, so that the signal finds it at work on any machine; and listens to an interrupt also
# where the tests were started in the background, whose processes inherit that it is ignored.
CALL = """
import signal
import sys
import time
from pathlib import Path
from marlzoo.benchmarks import trainer
from marlzoo.benchmarks.results import ResultsFile
from tests.test_split import TWO, run, suite
trainer.CHECKPOINT_SECONDS = 0.0  # so that rows come before the end
plain = ResultsFile.append
def append(self, rows):
    plain(self, rows)
    time.sleep(0.2)
ResultsFile.append = append
if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        run(suite(updates=int(sys.argv[2]), eval_every=20), Path(sys.argv[1]), split=TWO)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in listed.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="finds processes as Linux lists them")
def test_interrupted_and_killed_it_goes_on_and_leaves_no_process(tmp_path: Path) -> None:
    file = tmp_path / "call.py"
    file.write_text(CALL)

    def start(out: Path) -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[1]
        variables = {**os.environ, "PYTHONPATH": str(root)}
        return subprocess.Popen([sys.executable, str(file), str(out), "300"], cwd=root, env=variables)

    broken = tmp_path / "broken"
    for kind, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process, seen = start(broken), len(scores(broken))
        while len(scores(broken)) <= seen:  # until it has added rows
            assert process.poll() is None
            time.sleep(0.01)
        workers = children(process.pid)
        assert len(workers) >= 2
        process.send_signal(kind)
        assert process.wait() == status
        limit = time.monotonic() + 20
        while any(map(alive, workers)):
            assert time.monotonic() < limit
            time.sleep(0.05)
    run(suite(updates=300, eval_every=20), broken)
    runs = {(row.method, row.task, row.quality, row.seed) for row in scores(broken).values()}
    assert len(scores(broken)) == 15 * len(runs) == 15 * 2 * 2 * 2


# ---- choosing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "size", "made_of"),
    [
        (Split(), 20, [4, 4]),
        (TWO, 20, [4, 4]),
        (Split(2, 1, 3), 3, [2] * 4),
        (Split(1, 1, 3), 3, [2] * 4),
        (Split(8, 1), 1, [1] * 8),
        (Split(1, 2, 8), 8, [4, 4]),
    ],
)
def test_every_process_gets_a_group(tmp_path: Path, asked: Split, size: int, made_of: list[int]) -> None:
    """Two learners times four runs each; what is finished does not change the groups of the rest."""
    mine = suite()
    sources = [obtain(data, tmp_path, lambda done, total: None) for data in mine.data]
    assert group_size(mine, sources, asked, 20) == size
    made = plan.groups(mine, plan.pending(mine, sources, ResultsFile(tmp_path / "rows.csv")), size)
    assert [len(group.runs) for group in made] == made_of


def test_five_seeds_of_one_learner_are_shared_evenly(tmp_path: Path) -> None:
    mine = suite_of(data=GAMES[:1], seeds=(0, 1, 2, 3, 4))
    sources = [obtain(data, tmp_path, lambda done, total: None) for data in mine.data]
    size = group_size(mine, sources, TWO, 20)
    made = plan.groups(mine, plan.pending(mine, sources, ResultsFile(tmp_path / "rows.csv")), size)
    assert [len(group.runs) for group in made] == [3, 2]


def test_large_suites_get_a_process_per_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "cores", lambda: 3)
    large, small = suite(updates=10**6), suite()
    sources = [obtain(data, tmp_path, lambda done, total: None) for data in large.data]
    missing = plan.pending(large, sources, ResultsFile(tmp_path / "rows.csv"))
    assert default_split(large, missing, 20) == Split(3, 1, 20)
    assert default_split(small, missing, 20) == Split(replicas=20)
    assert default_split(large, [], 20) == Split()
    short = replace(large, data=tuple(replace(data, updates=2) for data in large.data))
    sources = [obtain(data, tmp_path, lambda done, total: None) for data in short.data]
    missing_of_short = plan.pending(short, sources, ResultsFile(tmp_path / "rows.csv"))
    assert default_split(short, missing_of_short, 20) == Split(replicas=20)
    monkeypatch.setattr(split, "cores", lambda: 1)
    assert default_split(large, missing, 20) == Split(replicas=20)


@pytest.mark.parametrize(("megabytes", "replicas"), [(0.01, 20), (0.5, 8), (1, 4), (4, 1), (400, 1)])
def test_groups_fit_into_the_cache(megabytes: float, replicas: int) -> None:
    assert replicas_in_cache(int(megabytes * 2**20), 20) == replicas


def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split, "cores", lambda: 4)
    assert split_of(0, 0) is None
    assert split_of(2, 0) == Split(2, 2)
    assert split_of(3, 1) == Split(3, 1)
    with pytest.raises(ConfigError, match="give a positive --processes too"):
        split_of(0, 2)
    with pytest.raises(ConfigError, match="processes is -1; it must be at least 1"):
        split_of(-1, 0)


def test_threads_are_lent_and_given_back() -> None:
    before = torch.get_num_threads()
    with split.torch_threads(before + 2):
        assert torch.get_num_threads() == before + 2
        with split.torch_threads(0):
            assert torch.get_num_threads() == before + 2
        with split.torch_threads(before + 3):
            assert torch.get_num_threads() == before + 3
        assert torch.get_num_threads() == before + 2
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), split.torch_threads(before + 1):
        raise KeyError
    assert torch.get_num_threads() == before


def test_groups_on_a_cluster_follow_from_the_whole_suite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = suite_of(data=(*GAMES, Data("games/modes-16", "modes")), learners=(Learner("iql", SMALL),))
    sources = [obtain(data, tmp_path, lambda done, total: None) for data in mine.data]
    runs = plan.runs_of(mine, sources)
    small, large = sorted(plan.groups(mine, runs, 20), key=lambda group: group.spec.n_agents)
    learner = marlzoo.make("iql", small.spec, seeds=[0], **SMALL)
    assert split._parameter_bytes(small) == 4 * sum(each.numel() for each in learner.parameters())
    sizes: list[int] = []

    def parameter_bytes(group: plan.Group) -> int:
        sizes.append(group.spec.n_agents)
        return 2**20

    monkeypatch.setattr(split, "_parameter_bytes", parameter_bytes)
    for asked, threads in ((None, 1), (Split(1, 0), 1), (Split(1, 3), 3)):
        assert split.cluster_split(mine, runs, 20, "cpu", asked) == Split(threads=threads, replicas=4)
        assert split.cluster_split(mine, runs, 20, "cuda", asked) == Split(threads=threads)
        assert split.cluster_split(mine, [], 20, "cpu", asked) == Split(threads=threads)
    assert sizes == [16, 16, 16]
    assert len(small.runs) == 4  # more replicas, but of two agents
    assert len(large.runs) == 2


def test_numbers_that_no_split_can_have() -> None:
    for wrong, message in (
        ((0, 0, 0), "processes is 0; it must be at least 1"),
        ((1, -1, 0), "threads is -1; it must be at least 0"),
        ((1, 0, -1), "replicas is -1; it must be at least 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            Split(*wrong)
    assert split.split_on("slurm", 0, 3) == Split(1, 3)
    assert split.split_on("local", 3, 2) == Split(3, 2)
    with pytest.raises(ConfigError, match="--processes is for --on local"):
        split.split_on("ray", 2, 0)
    assert replicas_in_cache(10**9, 0) == 1
