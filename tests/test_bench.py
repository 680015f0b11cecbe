"""The runner: what is run, evaluated and told, what is skipped, and that an interruption changes nothing."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from marlzoo.benchmarks import choice, membership, plan, recorder, runner, sources, trainer
from marlzoo.benchmarks.bench import bench
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.suites import Data, Learner

from marlzoo.console import console as plain_console
from marlzoo.data.card import Card
from marlzoo.errors import CheckpointError, ConfigError, DataError, MismatchError, UnknownNameError
from marlzoo.training import background_eval
from tests.recordings import HOPPER, uniform_recording
from tests.suite_runs import SMALL, run, scores, suite_of


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("data")
    first = uniform_recording(folder / "first.hdf5", "first", seed=0)
    return first, uniform_recording(folder / "second.hdf5", "second", seed=1)


def test_seeds_and_datasets_of_one_task_train_together(files: tuple[Path, Path], tmp_path: Path) -> None:
    suite = suite_of(*files, learners=(Learner("bc", SMALL), Learner("bc", SMALL | {"lr": 1e-3})))
    found = [sources.obtain(data, tmp_path, lambda done, total: None) for data in suite.data]
    todo = plan.pending(suite, found, ResultsFile(tmp_path / "rows.csv"))
    assert len(todo) == 2 * 2 * 2
    together = plan.groups(suite, todo, 20)
    assert [len(group.runs) for group in together] == [4, 4]
    assert {(run.source.quality, run.seed) for run in together[0].runs} == {
        ("first", 0), ("first", 1), ("second", 0), ("second", 1),
    }  # fmt: skip
    assert [len(group.runs) for group in plan.groups(suite, todo, 3)] == [2, 2, 2, 2]  # and not 3 and 1
    names = {group.checkpoint(tmp_path, suite) for group in plan.groups(suite, todo, 3)}
    assert len(names) == 4


def test_only_the_data_of_one_task_stay_in_memory(tmp_path: Path) -> None:
    suite = suite_of(
        data=(Data("games/xor", "D1"), Data("games/xor", "D3"), Data("games/equilibria", "balanced"))
    )
    found = [sources.obtain(data, tmp_path / "data", lambda done, total: None) for data in suite.data]
    of_xor, of_equilibria = plan.groups(suite, plan.runs_of(suite, found), 20)
    reader = trainer.Trainer(suite, tmp_path / "unit", "cpu", check_data=False)
    assert len({id(data) for data in reader._load(of_xor)}) == len(reader._datasets) == 2
    reader._load(of_equilibria)
    assert list(reader._datasets) == [found[2].hash]


def test_scores_are_those_of_the_data(
    files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data of a task's second behavior policy have ends of their own, so that a score needs the quality."""
    told = {"first": 1.0, "second": 2.0}
    monkeypatch.setattr(recorder, "normalized_score", lambda task, value, quality, source: told[quality])
    run(suite_of(*files, learners=(Learner("bc", SMALL),)), tmp_path)
    assert {(row.quality, row.normalized_score) for row in scores(tmp_path).values()} == set(told.items())


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
    assert "| first |" in table
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


def test_an_evaluation_prints_mean_and_range_of_each_dataset(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    printed = run(suite_of(*files), tmp_path)
    rows = [row for row in ResultsFile(tmp_path / "unit" / "rows.csv").rows() if row.updates == 3]
    line = next(line for line in printed.splitlines() if ": 3 updates, " in line)
    for quality in {row.quality for row in rows}:
        low, high = sorted(row.mean_return for row in rows if row.quality == quality)
        assert f"{quality} {(low + high) / 2:.2f} ({low:.2f} to {high:.2f})" in line
    assert len(rows) == 4


def test_datasets_of_one_quality_are_told_apart_by_what_differs() -> None:
    def source(quality: str, by: str, transitions: int, content: str) -> sources.Source:
        return sources.Source(
            Data("games/xor", quality), "", "games/xor", by, quality, content, 0.0, transitions
        )

    medium = source("medium", "marlzoo", 50, "aa")
    found = [medium, medium, source("medium", "omiga", 50, "bb"), source("expert", "omiga", 50, "cc")]
    assert trainer._names(found) == ["medium marlzoo", "medium marlzoo", "medium omiga", "expert"]
    larger = source("medium", "marlzoo", 90, "dd")
    assert trainer._names([medium, larger]) == ["medium n50", "medium n90"]
    other = source("medium", "marlzoo", 50, "ee")
    assert trainer._names([medium, other]) == ["medium aa", "medium ee"]


def test_a_reader_that_is_gone_fails_no_run(files: tuple[Path, Path], tmp_path: Path) -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            if "mean return" in text:
                raise BrokenPipeError
            return super().write(text)

    with pytest.raises(BrokenPipeError):
        runner.run_suite(suite_of(*files), out=tmp_path, console=plain_console(file=Gone(), width=80))
    assert not [row for row in ResultsFile(tmp_path / "unit" / "rows.csv").rows() if row.error]


def test_only_what_is_missing_is_trained(files: tuple[Path, Path], tmp_path: Path) -> None:
    run(suite_of(files[0]), tmp_path)
    before = scores(tmp_path)
    printed = run(suite_of(files[0], seeds=(0, 1, 2)), tmp_path)
    after = scores(tmp_path)
    assert {key: after[key] for key in before} == before
    assert {key[2] for key in after.keys() - before.keys()} == {2}
    assert printed.count("3 updates, mean return") == 1


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
    rows = ResultsFile(tmp_path / "unit" / "rows.csv").rows()
    assert {(r.task, r.source, r.quality) for r in rows} == {
        ("games/xor", "marlzoo", "D3"),
        ("games/xor", "marlzoo", "D1"),
        ("games/bridge", "marlzoo", "optimal"),
    }
    found = [sources.obtain(entry, tmp_path, lambda done, total: None) for entry in data]
    assert len({source.hash for source in found}) == len(data)
    assert [source.load().content_hash for source in found] == [source.hash for source in found]
    assert {r.data_hash for r in rows} == {source.hash for source in found}
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
    with pytest.raises(DataError, match="not a file of this kind"):
        run(suite_of(files[0]), tmp_path)
    assert not (tmp_path / "unit" / "checkpoints").exists()


CALL = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from marlzoo.benchmarks import trainer
trainer.CHECKPOINT_EVERY = 20
trainer.CHECKPOINT_SECONDS = 0.0
from tests.suite_runs import run, suite_of
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
    for folder in (broken, whole):
        run(suite_of(files[0], updates=120, eval_every=40), folder)
    assert scores(broken) == scores(whole)


# ---- evaluations ---------------------------------------------------------------------------------------


def test_budgets_of_datasets_and_the_last_checkpoints_episodes(tmp_path: Path) -> None:
    data = (Data("games/xor", "D1"), Data("games/xor", "D3", updates=4))
    suite = suite_of(data=data, eval_every=0, updates=20, final_episodes=7)
    run(suite, tmp_path)
    found = scores(tmp_path)
    assert [key[3] for key in found if key[1:3] == ("D1", 0)] == list(range(2, 21, 2))
    assert [key[3] for key in found if key[1:3] == ("D3", 0)] == [1, 2, 3, 4]
    episodes = {key[1:]: row.episodes for key, row in found.items()}
    assert (episodes["D1", 0, 18], episodes["D1", 0, 20], episodes["D3", 1, 4]) == (2, 7, 7)
    assert "mean return" not in run(suite, tmp_path)


def test_estimates_are_from_each_replicas_own_data(monkeypatch: pytest.MonkeyPatch) -> None:
    def ope(learner: Any, dataset: float, **settings: Any) -> list[Any]:
        return [SimpleNamespace(value=10.0 * dataset + replica) for replica in range(3)]

    monkeypatch.setattr("marlzoo.offpolicy.ope.ope", ope)
    unused: Any = None
    first, second = 1.5, 2.5
    data: Any = [first, second, first]
    assert choice.estimates(unused, data) == [15.0, 26.0, 17.0]


def test_a_resumed_run_keeps_the_estimates_of_its_earlier_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "estimates", lambda learner, data: [float(learner.updates)] * len(data))
    suite = suite_of(data=(Data("games/xor", "D1"),), seeds=(0,), select="ope")
    for updates in (6, 9):
        run(replace(suite, updates=updates), tmp_path)
    found = ResultsFile(tmp_path / "unit" / "rows.csv").estimates()
    assert {updates: value for (_, updates), value in found.items()} == {3: 3.0, 6: 6.0, 9: 9.0}


def test_returns_are_estimated_at_every_evaluation_and_change_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "UPDATES", 2)
    suite = suite_of(data=(Data("games/xor", "D1"), Data("games/xor", "D3")), final_episodes=3)
    run(suite, tmp_path / "plain")
    assert "chosen offline" in run(replace(suite, select="ope"), tmp_path) + str(
        (tmp_path / "unit" / "table.md").read_text()
    )
    assert scores(tmp_path) == scores(tmp_path / "plain")
    results = ResultsFile(tmp_path / "unit" / "rows.csv")
    found = results.estimates()
    assert set(found) == {(row.run, row.updates) for row in results.rows()}
    assert (
        len({value for (_, updates), value in found.items() if updates == 6}) == 4
    )  # of own replicas and data
    assert not ResultsFile(tmp_path / "plain" / "unit" / "rows.csv").estimates()
    unknown: Any = SimpleNamespace(card=Card(bounds_known=False))
    with pytest.raises(DataError, match="does not tell where episodes begin"):
        choice.require_starts(unknown)
    with pytest.raises(ConfigError, match="select is 'best'; choose one of nothing, ope"):
        replace(suite, select="best")


def test_the_last_evaluation_plays_episodes_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a method was chosen by on the way must not come back in the result."""
    seeds: dict[str, list[int]] = {"on the way": [], "last": []}

    def listened(module: Any, when: str) -> None:
        evaluate = module.evaluate

        def told(*given: Any, **options: Any) -> Any:
            seeds[when] += options["seeds"]
            return evaluate(*given, **options)

        monkeypatch.setattr(module, "evaluate", told)

    listened(background_eval, "on the way")
    listened(trainer, "last")
    run(suite_of(data=(Data("games/xor", "D1"),), final_episodes=2), tmp_path)
    assert [len(found) for found in seeds.values()] == [2 * 2, 2]
    assert not set(seeds["on the way"]) & set(seeds["last"])


def test_another_last_evaluation_is_made_and_recorded_once(tmp_path: Path) -> None:
    suite = suite_of(data=(Data("games/xor", "D1"),), final_episodes=3)
    run(suite, tmp_path)
    assert "2 runs trained" in run(replace(suite, final_episodes=5), tmp_path)
    assert "0 runs trained" in run(replace(suite, final_episodes=5), tmp_path)


@pytest.mark.parametrize("final", [0, 3])
def test_the_last_evaluation_of_a_run_is_told_as_such(final: int, tmp_path: Path) -> None:
    """Where progress goes to a file, others are left out when they come thick and fast."""
    suite = suite_of(data=(Data("games/xor", "D1"),), final_episodes=final)
    found = [sources.obtain(data, tmp_path / "data", lambda done, total: None) for data in suite.data]
    (group,) = plan.groups(suite, plan.runs_of(suite, found), 20)
    told: list[tuple[int, bool]] = []
    report: Any = SimpleNamespace(
        resumed=lambda done: None,
        advance=lambda done, note="": None,
        log=lambda text: None,
        evaluated=lambda found: told.append((found.updates, found.last)),
    )
    assert trainer.Trainer(suite, tmp_path / "unit", "cpu", check_data=False).attempt(group, report) == ""
    assert told == [(3, False), (6, True)]


# ---- tables --------------------------------------------------------------------------------------------


def test_tables_have_the_order_of_the_suite(tmp_path: Path) -> None:
    """And not that in which runs ended, which differs from machine to machine where several processes train."""
    suite = suite_of(
        data=(Data("games/xor", "D3"), Data("games/xor", "D1")),
        learners=(Learner("iql", SMALL), Learner("bc", SMALL)),
    )
    run(replace(suite, learners=suite.learners[1:], data=suite.data[1:]), tmp_path)
    run(suite, tmp_path)
    lines = (tmp_path / "unit" / "table.md").read_text().splitlines()
    shown = [line.split("|")[1].strip(" *") for line in lines if line.startswith("| D")]
    assert shown[:2] == ["D3", "D1"]
    header = next(line for line in lines if line.startswith("| dataset"))
    assert [cell.strip() for cell in header.split("|")[1:-1]] == ["dataset", "(data)", "iql", "bc"]


def test_a_part_that_is_run_alone_leaves_the_rest_of_the_suite_in_the_tables(tmp_path: Path) -> None:
    """Other methods, and other datasets, whose data need not be there."""
    suite = suite_of(
        data=(Data("games/xor", "D1"), Data("games/xor", "D3")),
        learners=(Learner("iql", SMALL), Learner("bc", SMALL)),
        seeds=(0,),
    )
    bench(suite, out=tmp_path, quiet=True)
    whole = (tmp_path / "unit" / "table.csv").read_text()
    bench(suite, methods=["bc"], out=tmp_path, quiet=True)
    assert (tmp_path / "unit" / "table.csv").read_text() == whole
    assert "Left out here" not in run(replace(suite, data=suite.data[:1]), tmp_path, whole=suite)
    assert (tmp_path / "unit" / "table.csv").read_text() == whole
    changed = membership.whole(suite, replace(suite, data=suite.data[1:], learners=suite.learners[1:]))
    assert changed == suite
    longer = replace(suite, data=(replace(suite.data[0], updates=12),), seeds=(7,))
    assert [entry.updates for entry in membership.whole(suite, longer).data] == [12, 0]
    assert membership.whole(suite, longer).seeds == (0, 7)
    presets = replace(
        suite, learners=tuple(Learner("icq", preset=name) for name in ("", "recurrent", "smac"))
    )
    assert membership.whole(presets, presets).learners == presets.learners


def test_rows_of_other_data_stay_but_are_not_in_the_table(tmp_path: Path) -> None:
    """Other data and other settings are another experiment: their rows are kept and said to be left out."""
    games = (Data("games/xor", "D1"), Data("games/xor", "D3"))
    mine = suite_of(data=games, learners=(Learner("bc", SMALL),))
    said = run(mine, tmp_path)
    assert "Suite unit" in said
    assert "Details" not in said  # that is in table.md
    table, file = (tmp_path / "unit" / name for name in ("table.csv", "rows.csv"))
    before, rows = table.read_text(), ResultsFile(file).rows()
    assert all(row.run in file.read_text() for row in rows)  # none is left in a journal
    ResultsFile(file).append([replace(row, data_hash="0" * 64, mean_return=-99.0) for row in rows])
    ResultsFile(file).append([replace(row, config_hash="0" * 12, mean_return=-99.0) for row in rows])
    ResultsFile(file).append([replace(rows[0], config_hash="f" * 12, error="ValueError: no")])
    said = " ".join(run(mine, tmp_path).split())
    assert (
        f"Left out here: {len(rows)} rows of other data (regenerated on another processor, or by another version), "
        f"{len(rows)} rows of other settings, 1 row of runs that failed; marlzoo table"
    ) in said
    assert "-99" not in said
    assert table.read_text() == before
    assert len(ResultsFile(file).rows()) == 3 * len(rows) + 1
