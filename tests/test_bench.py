"""Suites and the runner: what is run, what is skipped, and that an interruption changes nothing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks import plan, runner, trainer
from marlzoo.benchmarks.progress import Clock, Stage
from marlzoo.benchmarks.results import Results, Row
from marlzoo.benchmarks.suites import SUITES, Data, Learner, Suite, find_suite
from rich.console import Console

from marlzoo.errors import CheckpointError, ConfigError, DataError, MismatchError, SpecError, UnknownNameError
from tests.recordings import HOPPER, uniform_recording

SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 8}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    first = uniform_recording(folder / "first.hdf5", "first", seed=0)
    return first, uniform_recording(folder / "second.hdf5", "second", seed=1)


def suite_of(*files: Path, **changes: Any) -> Suite:
    values: dict[str, Any] = {
        "name": "unit",
        "data": tuple(Data(file=str(file)) for file in files),
        "learners": (Learner("bc", SMALL),),
        "seeds": (0, 1),
        "updates": 6,
        "eval_every": 3,
        "episodes": 2,
        "horizon": 5,
    }
    return Suite(**values | changes)


def run(suite: Suite, out: Path, **options: Any) -> str:
    text = io.StringIO()
    runner.run_suite(suite, out=out, console=Console(file=text, width=200), **options)
    return text.getvalue()


def scores(out: Path, name: str = "unit") -> dict[tuple[Any, ...], Row]:
    rows = Results(out / name / "rows.csv").rows()
    return {
        (r.method, r.quality, r.seed, r.updates): replace(r, seconds=0.0, seconds_per_run=0.0, date="")
        for r in rows
    }


# ---- suites --------------------------------------------------------------------------------------------


def test_the_paper_suite_is_the_papers_protocol() -> None:
    suite = SUITES["omiga-mujoco"]
    tasks = {data.task for data in suite.data}
    assert tasks == {"mamujoco/hopper-3x1", "mamujoco/ant-2x4", "mamujoco/halfcheetah-6x1"}
    assert len(suite.data) == 3 * 4
    assert len(suite.seeds) == 5
    protocol = (suite.updates, suite.eval_every, suite.episodes, suite.horizon)
    assert protocol == (1_000_000, 5000, 10, 1000)


@pytest.mark.parametrize("name", sorted(SUITES))
def test_built_in_suites_name_what_exists(name: str) -> None:
    plan.validate(plan.expanded(SUITES[name]))


def test_a_suite_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'seeds = [3]\nupdates = 10\n[[data]]\ntask = "mamujoco/hopper-3x1"\nquality = "medium"\n'
        '[[data]]\nfile = "x.hdf5"\n[[learners]]\nmethod = "bc"\nconfig = { lr = 0.001 }\n'
    )
    suite = find_suite(str(path))
    assert (suite.name, suite.seeds, suite.updates, suite.episodes) == ("mine", (3,), 10, 10)
    assert suite.data == (Data(HOPPER, "medium"), Data(file="x.hdf5"))
    assert suite.learners[0].variant == "lr=0.001"


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("seeds = [0", DataError, "cannot read the suite"),
        ("sedes = [0]\n", UnknownNameError, "'sedes'.*seeds"),
        ("updates = 'many'\n", ConfigError, "updates is 'many'"),
        ("updates = 0\n", ConfigError, "updates is 0"),
        ("seeds = [-1]\n", ConfigError, "integers from 0 on"),
        ("seeds = [1, 1]\n", ConfigError, "twice"),
        ("seeds = []\n", ConfigError, "seeds is empty"),
        ("name = 'a/b'\n", ConfigError, "folder"),
    ],
)
def test_wrong_suites_are_one_clear_error(
    tmp_path: Path, text: str, error: type[Exception], message: str
) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text + '[[data]]\nfile = "x"\n[[learners]]\nmethod = "bc"\n')
    with pytest.raises(error, match=message):
        find_suite(str(path))


def test_a_suite_file_lists_data_and_learners_as_tables(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('data = "x"\n')
    with pytest.raises(ConfigError, match=r"\[\[data\]\]"):
        find_suite(str(path))
    with pytest.raises(DataError, match="cannot read"):
        find_suite(str(tmp_path / "missing.toml"))
    with pytest.raises(UnknownNameError, match="Did you mean demo"):
        find_suite("dmo")


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"learners": (Learner("omga"),)}, UnknownNameError, "Did you mean omiga"),
        ({"learners": (Learner("bc", {"hiden": 3}),)}, UnknownNameError, "Did you mean hidden"),
        ({"learners": (Learner("bc", {"lr": -1.0}),)}, ConfigError, "lr"),
        ({"learners": (Learner("mappo"),)}, SpecError, "learns online"),
        ({"data": (Data("mamujoco/hoper-3x1", "expert"),)}, UnknownNameError, "hopper-3x1"),
        ({"data": (Data(file="missing.hdf5"),)}, DataError, "missing.hdf5"),
        ({"data": (Data(HOPPER, "expert", source="omiga"),)}, DataError, "no such dataset"),
    ],
)
def test_wrong_names_end_the_run_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    with pytest.raises(error, match=message):
        run(suite_of(Path("unused"), **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- lockstep groups -----------------------------------------------------------------------------------


def test_seeds_and_datasets_of_one_task_train_together(files: tuple[Path, Path], tmp_path: Path) -> None:
    suite = suite_of(*files, learners=(Learner("bc", SMALL), Learner("bc", SMALL | {"lr": 1e-3})))
    sources = [plan.obtain(data, tmp_path, lambda done, total: None) for data in suite.data]
    todo = plan.pending(suite, sources, Results(tmp_path / "rows.csv"))
    assert len(todo) == 2 * 2 * 2
    together = plan.groups(todo, 20)
    assert [len(group.runs) for group in together] == [4, 4]
    assert {(run.source.quality, run.seed) for run in together[0].runs} == {
        ("first", 0), ("first", 1), ("second", 0), ("second", 1),
    }  # fmt: skip
    assert [len(group.runs) for group in plan.groups(todo, 3)] == [3, 1, 3, 1]
    names = {group.checkpoint(tmp_path, suite) for group in plan.groups(todo, 3)}
    assert len(names) == 4


def test_evaluation_and_settings_enter_the_configuration_hash() -> None:
    suite, learner = suite_of(Path("unused")), Learner("bc", SMALL)
    base = plan.config_hash(suite, learner, HOPPER, {})
    assert base == plan.config_hash(suite, Learner("bc", dict(reversed(SMALL.items()))), HOPPER, {})
    others = {
        plan.config_hash(replace(suite, horizon=7), learner, HOPPER, {}),
        plan.config_hash(suite, Learner("bc", SMALL | {"lr": 1e-3}), HOPPER, {}),
        plan.config_hash(suite, learner, HOPPER, {"action_mapping": "scatter"}),
    }
    assert len(others | {base}) == 4


# ---- running -------------------------------------------------------------------------------------------


def test_rows_and_tables_of_a_whole_suite(files: tuple[Path, Path], tmp_path: Path) -> None:
    suite = suite_of(*files, learners=(Learner("omiga", SMALL | {"mixer_hidden": 8}), Learner("bc", SMALL)))
    printed = run(suite, tmp_path, command="marlzoo bench unit")
    rows = scores(tmp_path)
    assert set(rows) == {
        (method, quality, seed, updates)
        for method in ("omiga", "bc")
        for quality in ("first", "second")
        for seed in (0, 1)
        for updates in (3, 6)
    }
    row = rows["omiga", "second", 1, 6]
    assert (row.suite, row.task, row.source, row.episodes) == ("unit", HOPPER, "marlzoo", 2)
    assert (row.execution, row.device, row.diverged, row.win_rate) == ("decentralized", "cpu", False, None)
    assert row.variant == "batch_size=8, hidden=8, mixer_hidden=8"
    assert row.normalized_score == pytest.approx(100 * (row.mean_return - 16.3) / (2452 - 16.3))
    assert "torch " in row.versions
    assert rows["bc", "first", 0, 6].data_hash != rows["bc", "second", 0, 6].data_hash
    table = (tmp_path / "unit" / "table.md").read_text()
    assert f"{HOPPER} first (marlzoo)" in table
    assert "Made by `marlzoo bench unit`" in table
    assert (tmp_path / "unit" / "table.csv").exists()
    assert "Suite unit" in printed


def test_a_second_call_finds_everything_done(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(files[0])
    run(suite, tmp_path)
    before = (tmp_path / "unit" / "rows.csv").read_bytes()
    monkeypatch.setattr(trainer, "make", lambda *_, **__: pytest.fail("trained again"))
    monkeypatch.setattr(trainer, "make_env", lambda *_, **__: pytest.fail("simulated again"))
    assert "Suite unit" in run(suite, tmp_path)
    assert (tmp_path / "unit" / "rows.csv").read_bytes() == before


def test_only_what_is_missing_is_trained(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(suite_of(files[0]), tmp_path)
    before = scores(tmp_path)
    printed = run(suite_of(files[0], seeds=(0, 1, 2)), tmp_path)
    after = scores(tmp_path)
    assert {key: after[key] for key in before} == before
    assert {key[2] for key in after.keys() - before.keys()} == {2}
    assert printed.count("3 updates, mean returns") == 1


def test_more_updates_go_on_from_the_checkpoint(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(suite_of(files[0]), tmp_path / "short")
    run(suite_of(files[0], updates=12), tmp_path / "short")
    run(suite_of(files[0], updates=12), tmp_path / "long")
    assert scores(tmp_path / "short") == scores(tmp_path / "long")
    assert len(list((tmp_path / "short" / "unit" / "checkpoints").glob("*.npz"))) == 1


def test_fewer_updates_than_the_checkpoint_has_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(suite_of(files[0]), tmp_path)
    with pytest.raises(CheckpointError, match="has 6 updates already, the suite asks for 5"):
        run(suite_of(files[0], updates=5), tmp_path)


def test_rows_that_were_lost_are_made_from_the_checkpoint(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(suite_of(files[0]), tmp_path)
    file = tmp_path / "unit" / "rows.csv"
    before = file.read_bytes()
    file.unlink()
    run(suite_of(files[0]), tmp_path)
    assert file.read_bytes() == before  # with the date and the code of the training


def test_computed_data_need_no_file(tmp_path: Path) -> None:
    """By task and quality, with a seed and options of the environment, and by name."""
    data = (
        Data("games/xor", "D3"),
        Data("games/xor", "D3", seed=1),
        Data("games/bridge", "optimal", env={"horizon": 20}),
        Data(file="games/xor/marlzoo/D1"),
    )
    suite = suite_of(data=data)
    run(suite, tmp_path)
    assert not (tmp_path / "data").exists()
    rows = Results(tmp_path / "unit" / "rows.csv").rows()
    assert {(r.task, r.source, r.quality) for r in rows} == {
        ("games/xor", "marlzoo", "D3"),
        ("games/xor", "marlzoo", "D1"),
        ("games/bridge", "marlzoo", "optimal"),
    }
    sources = [plan.obtain(entry, tmp_path, lambda done, total: None) for entry in data]
    assert len({source.hash for source in sources}) == len(data)
    assert [source.load().content_hash for source in sources] == [source.hash for source in sources]
    assert {r.data_hash for r in rows} == {source.hash for source in sources}
    with pytest.raises(UnknownNameError, match="quality of games/xor 'D9'"):
        run(suite_of(data=(Data("games/xor", "D9"),)), tmp_path)


def test_data_of_another_task_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    other = uniform_recording(tmp_path / "walker.hdf5", task="mamujoco/walker2d-2x3", transitions=50)
    wrong = Data(task=HOPPER, file=str(other))
    with pytest.raises(DataError, match=r"the task asked for is mamujoco/hopper-3x1.*walker2d-2x3"):
        run(suite_of(data=(wrong,)), tmp_path / "out")


def test_data_that_the_simulator_does_not_reproduce_are_refused(tmp_path: Path) -> None:
    import h5py

    path = tmp_path / "spoilt.hdf5"
    with h5py.File(uniform_recording(tmp_path / "true.hdf5")) as true, h5py.File(path, "w") as file:
        for key in "osrd":
            file[key] = true[key][...]
        file["a"] = -true["a"][...]
    with pytest.raises(MismatchError, match="disagree"):
        run(suite_of(data=(Data(task=HOPPER, quality="x", file=str(path)),)), tmp_path / "out")
    assert not (tmp_path / "out" / "unit" / "rows.csv").exists()


def test_a_broken_rows_file_is_found_before_any_work(files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit" / "rows.csv").write_text("something else\n")
    with pytest.raises(DataError, match="no file of this kind"):
        run(suite_of(files[0]), tmp_path)
    assert not (tmp_path / "unit" / "checkpoints").exists()


CALL = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from marlzoo.benchmarks import trainer
trainer.CHECKPOINT_EVERY = 20
from tests.test_bench import run, suite_of
run(suite_of(Path(sys.argv[1]), updates=120, eval_every=40), Path(sys.argv[2]))
"""


@pytest.mark.slow
def test_killed_at_any_moment_and_called_again_gives_the_same_rows(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    def start(out: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-c", CALL, str(files[0]), str(out)]
        return subprocess.Popen(command, cwd=Path(__file__).parents[1])

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(whole).wait() == 0
    kills = 0
    for _ in range(2):
        process = start(broken)
        seen = len(scores(broken))
        while process.poll() is None and len(scores(broken)) <= seen:  # until it has added rows
            time.sleep(0.005)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills
    assert start(broken).wait() == 0
    assert scores(broken) == scores(whole)


# ---- progress ------------------------------------------------------------------------------------------


def test_time_left_is_estimated_from_what_was_measured() -> None:
    stages = [Stage("train/a", "a", 100), Stage("train/b", "b", 100), Stage("data/x", "x", 10)]
    clock = Clock(stages)
    assert clock.left() is None
    clock.account("data/x", 10, 5.0)
    stages[2].done = 10
    assert clock.left() is None  # nothing is known of training
    clock.account("train/a", 10, 2.0)
    stages[0].done = 10
    assert clock.left() == pytest.approx(90 * 0.2 + 100 * 0.2)  # b counts like a
    clock.account("train/b", 10, 20.0)
    assert clock.left() == pytest.approx(90 * 0.2 + 100 * 2.0)


def test_rows_of_other_data_stay_but_are_not_in_the_table(tmp_path: Path) -> None:
    """Data regenerated elsewhere may differ: its rows are another experiment, kept and said to be left out."""
    mine = suite_of(data=(Data("games/xor", "D1"),), learners=(Learner("bc", SMALL),))
    run(mine, tmp_path)
    table, file = (tmp_path / "unit" / name for name in ("table.csv", "rows.csv"))
    before, rows = table.read_text(), Results(file).rows()
    Results(file).append([replace(row, data_hash="0" * 64, mean_return=-99.0) for row in rows])
    said = run(mine, tmp_path)
    assert f"{len(rows)} rows are of other data" in said
    assert "-99" not in said
    assert table.read_text() == before
    assert len(Results(file).rows()) == 2 * len(rows)
