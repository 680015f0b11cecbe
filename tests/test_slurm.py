"""SLURM's jobs: what is submitted, how they stand, and that a preempted one goes on to the rows of this machine.

Real jobs run with submitit's executor of this machine; what SLURM is asked is seen by stand-ins of its commands.
"""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from pathlib import Path
from time import time
from types import SimpleNamespace
from typing import Any

import pytest
from marlzoo.benchmarks import plan, runner, sources, trainer
from marlzoo.benchmarks.launchers import Place
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.suites import Data, Learner
from rich.console import Console

from marlzoo.cli import main
from marlzoo.envs.games import Game
from marlzoo.errors import ConfigError, DataError
from tests.suite_runs import SMALL, run, scores, suite_of
from tests.test_split import children

pytest.importorskip("submitit")
if sys.platform == "win32":
    pytest.skip("SLURM does not run there", allow_module_level=True)

from marlzoo.benchmarks.launchers import slurm

GAME = (Data("games/xor", "D1"),)


def groups(out: Path, capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What ``--status`` tells of the suite ``unit``, which ``out`` holds."""
    (out / "unit.toml").write_text('learners = ["bc"]\n[[data]]\nfile = "x"\n')
    capsys.readouterr()
    assert main(["bench", str(out / "unit.toml"), "--out", str(out), "--status", "--json"]) == 0
    return list(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("text", "count"),
    [("", 240), ("90", 90), ("01:30", 90), ("01:30:01", 91), ("1-00:30:00", 1470), ("2-1", 49 * 60)],
)
def test_time_limits(text: str, count: int) -> None:
    assert slurm.minutes(text) == count
    for wrong in ("1h", "0", "1:2:3"):
        with pytest.raises(ConfigError, match="write minutes, HH:MM:SS or D-HH:MM:SS"):
            slurm.minutes(wrong)


def test_without_slurm_it_is_one_clear_error_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["bench", "xor", "--on", "slurm", "--out", str(tmp_path / "out")]) == 2
    assert "sbatch is not found); start the command on a login node" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="SLURM gives whole GPUs"):
        slurm.Slurm(Place("slurm", gpus=0.5), "cuda")
    with pytest.raises(DataError, match="run the suite first"):
        main(["bench", "xor", "--status", "--out", str(tmp_path), "--debug"])


@pytest.mark.slow
def test_a_preempted_job_goes_on_to_the_rows_of_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(slurm, "CLUSTER", "local")
    monkeypatch.setattr(slurm, "POLL", 0.1)
    advance = slurm._advance
    states: list[str] = []

    def preempt(followed: slurm._Followed) -> None:
        checkpoints = tmp_path / "slurm" / "unit" / "checkpoints"
        if not states and any(checkpoints.glob("*.npz")):
            states.append(groups(tmp_path / "slurm", capsys)[0]["state"])
            controller = slurm._job(tmp_path / "slurm" / "unit", followed.listed.job)._process
            for task in children(controller.pid):
                os.kill(task, signal.SIGUSR2)
        advance(followed)

    monkeypatch.setattr(slurm, "_advance", preempt)
    suite = suite_of(data=GAME, updates=6000, eval_every=500)  # longer than the time between two saves
    run(suite, tmp_path / "slurm", place=Place("slurm"))
    run(suite, tmp_path / "here")
    assert scores(tmp_path / "slurm") == scores(tmp_path / "here")
    assert states == ["running"]
    assert [group["state"] for group in groups(tmp_path / "slurm", capsys)] == ["done"]
    (output,) = (tmp_path / "slurm" / "unit" / "slurm").glob("*_log.out")
    assert "resumes from its checkpoint" in output.read_text()


def test_a_signal_within_a_simulators_step_is_no_fault_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "CHECKPOINT_SECONDS", 0.0)
    suite = suite_of(data=GAME)
    folder = tmp_path / "job" / "unit"
    found = [sources.obtain(data, tmp_path / "data", lambda done, total: None) for data in suite.data]
    (group,) = plan.groups(suite, plan.runs_of(suite, found), 20)
    job = slurm.GroupJob(suite, folder, "cpu", False, (), group, 1)
    step = Game.step
    left = 3  # the first step of the second evaluation

    def preempted(game: Game, *given: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0:  # as submitit's handler does
            job.checkpoint()
            sys.exit(144)
        return step(game, *given)

    monkeypatch.setattr(Game, "step", preempted)
    with pytest.raises(SystemExit) as leaving:
        job()
    assert leaving.value.code == 144  # by which submitit knows that the job goes on
    assert {row.updates for row in ResultsFile(folder / "rows.csv").rows()} == {3}  # no row of a failure
    assert job() == ""
    run(suite, tmp_path / "here")
    assert scores(folder.parent) == scores(tmp_path / "here")
    assert not (folder / "failures").exists()


@pytest.mark.parametrize(
    ("info", "age", "state"),
    [
        ({}, 60.0, slurm.QUEUED),  # the accounting lags
        ({}, 180.0, slurm.ENDED),
        ({"State": "PENDING"}, 180.0, slurm.QUEUED),
        ({"State": "RUNNING"}, 0.0, slurm.RUNNING),
        ({"jobState": "PREEMPTED"}, 0.0, slurm.QUEUED),
        ({"State": "CANCELLED by 0"}, 0.0, slurm.ENDED),
    ],
)
def test_states(tmp_path: Path, info: dict[str, str], age: float, state: str) -> None:
    paths = SimpleNamespace(result_pickle=tmp_path / "result.pkl")
    job = SimpleNamespace(paths=paths, get_info=lambda mode: info)
    assert slurm._state(job, time() - age) == state
    paths.result_pickle.touch()
    assert slurm._state(job, time() - age) == slurm.ENDED


def test_what_is_submitted_and_how_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sent, answer = tmp_path / "sent", tmp_path / "sacct.txt"
    commands = {
        "sbatch": f'cat "$1" >> {sent}; echo Submitted batch job 77',
        "srun": "exit 1",
        "sacct": f"cat {answer}",
    }
    (tmp_path / "bin").mkdir()
    for name, text in commands.items():
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    suite = suite_of(data=GAME, learners=(Learner("bc", SMALL), Learner("iql", SMALL)))
    place = Place("slurm", array=1, partition="long", time="1-00:30:00", gpus=2)

    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    def train(**options: Any) -> str:
        return run(suite, tmp_path, device="cuda", place=place, **options)

    monkeypatch.setattr(slurm, "sleep", interrupted)
    answer.write_text("JobID|State|NodeList\n77_0|RUNNING|n1\n77_1|PENDING|\n")
    for _ in range(2):  # the second call finds the jobs of the first
        with pytest.raises(KeyboardInterrupt):
            train()
    said = io.StringIO()
    console = Console(file=said, width=200)
    with pytest.raises(KeyboardInterrupt):
        runner.run_suite(suite, out=tmp_path, console=console, device="cuda", place=place, force=True)
    assert "command, without --force and --rerun, follows them again, 'scancel 77' ends" in said.getvalue()
    assert [group["state"] for group in groups(tmp_path, capsys)] == ["running", "queued"]
    lines = sent.read_text().splitlines()
    assert sum(line.startswith("#SBATCH --array") for line in lines) == 1
    for flag in (
        "array=0-1%1",
        "partition=long",
        "time=1470",
        "gpus-per-node=2",
        "requeue",
        "cpus-per-task=1",
    ):
        assert f"#SBATCH --{flag}" in lines
    with pytest.raises(ConfigError, match="job 77_0 trains some of these runs in another group"):
        train(max_replicas=1)
    answer.write_text("JobID|State|NodeList\n77_0|OUT_OF_MEMORY|n1\n77_1|CANCELLED by 0|n1\n")
    monkeypatch.setattr(slurm, "GRACE", 0.0)
    told = train()
    assert "the job 77_0 ended before the group was trained (OUT_OF_MEMORY); its output: " in told
    assert "the job 77_1 ended before the group was trained (CANCELLED by 0)" in told
