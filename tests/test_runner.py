"""What running a suite hands on to its launcher, and what it says in the end; nothing is trained."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks import runner
from marlzoo.benchmarks.launchers import Place
from marlzoo.benchmarks.reuse import Found
from marlzoo.benchmarks.row import Row
from marlzoo.benchmarks.sources import recipe_file
from marlzoo.benchmarks.split import Split
from marlzoo.benchmarks.suites import Data, Learner, Suite
from rich.console import Console

from marlzoo.errors import ConfigError, DataError, UnknownNameError
from tests.suite_runs import SMALL, suite_of
from tests.test_results import ROW

GAMES = (Data("games/xor", "D1"), Data("games/modes-4", "modes"))


@dataclass
class Recorder:
    """A launcher that trains nothing and notes what it is given."""

    calls: list[Any] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)

    def run(self, trainer: Any, work: Any, split: Split, display: Any) -> list[str]:
        self.calls.append((trainer, work, split))
        trainer.results.append(self.rows)
        trainer.results.close()
        return self.failures


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    made = Recorder()

    def make_launcher(place: Place, device: str) -> Recorder:
        made.calls.append((place, device))
        return made

    monkeypatch.setattr(runner, "make_launcher", make_launcher)
    return made


def suite() -> Suite:
    return suite_of(data=GAMES, learners=(Learner("iql", SMALL), Learner("bc", SMALL)), seeds=(0, 1, 2))


def test_the_launcher_gets_what_the_caller_gave(recorder: Recorder, tmp_path: Path) -> None:
    recorder.failures = ["iql on games/xor: no"]
    text = io.StringIO()
    finished = runner.run_suite(
        suite(),
        out=tmp_path,
        device="cuda",
        max_replicas=2,
        check_data=False,
        split=Split(3, 1),
        log=("tensorboard",),
        console=Console(file=text, width=200),
    )
    (place, device), (trainer, work, split) = recorder.calls
    assert (place.on, device, split) == ("local", "cuda", Split(3, 1))
    assert (trainer.suite, trainer.folder) == (suite(), tmp_path / "unit")
    assert (trainer.device, trainer.check_data, trainer.log) == ("cuda", False, ("tensorboard",))
    assert trainer.storage is None
    assert sorted(len(group.runs) for group, _ in work) == [1, 1, 1, 1, 2, 2, 2, 2]
    for group, stage in work:
        agents = {"games/xor": 2, "games/modes-4": 4}[group.task]
        assert (stage.amount, stage.unit) == (6 * len(group.runs) * agents, agents)
        assert stage.kind == f"train/{group.learner.method}/{group.task}"
    assert (finished.trained, finished.there, finished.failures) == (0, 0, ("iql on games/xor: no",))
    assert finished.folder == tmp_path / "unit"
    assert len(finished.runs) == 12
    assert "0 runs trained" in text.getvalue()
    assert "iql on games/xor: no" in text.getvalue()


@pytest.mark.parametrize(("device", "expected"), [("cpu", Split(2, 1, 7)), ("cuda", Split())])
def test_a_split_that_nobody_gave_is_found_for_processors_only(
    device: str, expected: Split, recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def default_split(*given: Any) -> Split:
        asked.append(given)
        return Split(2, 1, 7)

    monkeypatch.setattr(runner, "default_split", default_split)
    runner.run_suite(suite(), out=tmp_path, device=device, split=None, console=Console(quiet=True))
    assert recorder.calls[-1][2] == expected
    assert [(len(missing), most) for _, missing, most in asked] == [(12, 20)] * (device == "cpu")


def test_a_cluster_has_a_split_of_its_own(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cluster_split(suite: Suite, runs: Any, max_replicas: int, device: str, asked: Any) -> Split:
        assert (len(runs), max_replicas, device, asked) == (12, 5, "cpu", Split(1, 4))
        return Split(threads=4, replicas=1)

    monkeypatch.setattr(runner, "cluster_split", cluster_split)
    place = Place("slurm", storage=str(tmp_path / "copies"))
    options: dict[str, Any] = {"max_replicas": 5, "split": Split(1, 4), "console": Console(quiet=True)}
    runner.run_suite(suite(), out=tmp_path, place=place, **options)
    (given, _), (trainer, work, split) = recorder.calls
    assert (given, split) == (place, Split(threads=4, replicas=1))
    assert {len(group.runs) for group, _ in work} == {1}
    assert trainer.storage is not None


@pytest.mark.parametrize(
    ("options", "again"), [({}, set()), ({"rerun": ["bc"]}, {"bc"}), ({"force": True}, {"bc", "iql"})]
)
def test_what_is_trained_anew(
    options: dict[str, Any],
    again: set[str],
    recorder: Recorder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[Any] = []

    def noted(plain: Any) -> Any:
        def call(*given: Any) -> Any:
            asked.append(given)
            return plain(*given)

        return call

    for name in ("find_done", "forget"):
        monkeypatch.setattr(runner.reuse, name, noted(getattr(runner.reuse, name)))
    runner.run_suite(suite(), out=tmp_path, console=Console(quiet=True), **options)
    (_, _, _, first), (_, _, _, second, folder, size, _) = asked
    assert first == second == again
    assert (folder, size) == (tmp_path / "unit", 20)


def test_runs_that_are_there_are_counted_and_warned_of(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = runner.reuse.find_done

    def find(*given: Any) -> Found:
        missing = plain(*given).missing
        return Found(tuple((run, ROW) for run in missing[2:]), missing[:2])

    monkeypatch.setattr(runner.reuse, "find_done", find)
    recorder.rows = [ROW]
    text = io.StringIO()
    finished = runner.run_suite(
        suite(), out=tmp_path, remedy="--again={method}", console=Console(file=text, width=200)
    )
    assert ROW.run in (tmp_path / "unit" / "rows.csv").read_text()  # out of the journal
    assert (finished.trained, finished.there, len(finished.runs)) == (2, 10, 12)
    assert sum(len(group.runs) for group, _ in recorder.calls[-1][1]) == 2
    assert "10 of 12 runs already have results" in text.getvalue()
    assert "to train them again: --again=bc" in text.getvalue()


def test_what_is_wrong_is_told_before_any_work(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="max_replicas is 0"):
        runner.run_suite(suite(), out=tmp_path, max_replicas=0)
    with pytest.raises(UnknownNameError, match="logger"):
        runner.run_suite(suite(), out=tmp_path, log=("tensorbord",))
    assert not recorder.calls
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(runner, "obtain", lambda *_: pytest.fail("made data"))
    (tmp_path / "unit").mkdir()
    (tmp_path / "unit" / "rows.csv").write_text("something else\n")
    with pytest.raises(DataError, match="not a file of this kind"):
        runner.run_suite(suite(), out=tmp_path, console=Console(quiet=True))


def test_data_that_are_missing_are_told_before_any_are_made(
    recorder: Recorder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that must be made come last, in the suite's order; what is found has the suite's order again."""
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path))
    asked: list[str] = []
    data = (Data("mpe/spread", "medium", transitions=200), *GAMES)
    mine = suite_of(data=data, learners=(Learner("td3_bc", SMALL),))
    sources = {entry.task: runner.obtain(entry, tmp_path, lambda done, total: None) for entry in GAMES}

    def obtain(entry: Data, folder: Path, progress: Any) -> Any:
        asked.append(entry.task)
        progress(100, 200)
        return sources.get(entry.task) or sources["games/xor"]

    monkeypatch.setattr(runner, "obtain", obtain)
    with runner.Display(Console(quiet=True), "unit") as display:
        found, made = runner._obtain_all(mine, tmp_path, display)
    assert asked == ["games/xor", "games/modes-4", "mpe/spread"]
    assert [source.task for source in found] == ["games/xor", "games/xor", "games/modes-4"]
    assert [(stage.kind, stage.amount) for stage in made] == [("data/mpe/spread", 200)]
    file = recipe_file(data[0], tmp_path)
    assert file is not None
    file.parent.mkdir(parents=True)
    file.touch()
    with runner.Display(Console(quiet=True), "unit") as display:
        _, made = runner._obtain_all(mine, tmp_path, display)
    assert made == []
    assert asked[3:] == ["mpe/spread", "games/xor", "games/modes-4"]
