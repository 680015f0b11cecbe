"""What ``marlzoo.bench`` hands on of its options, and the functions beside it; nothing is trained."""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from marlzoo.benchmarks.estimate import Cost
from marlzoo.benchmarks.launchers import Place
from marlzoo.benchmarks.split import Split
from marlzoo.benchmarks.suites import Data, Learner, Suite, find_suite

from marlzoo.cli import main
from marlzoo.errors import ConfigError, DataError, UnknownNameError
from tests.test_results import ROW

# The function of this name hides its module in the package.
module = importlib.import_module("marlzoo.benchmarks.bench")

DATA = (Data("games/xor", "D1"), Data("games/xor", "D3", updates=12))
SUITE = Suite(
    "unit", DATA, (Learner("bc"), Learner("icq"), Learner("bc", {"lr": 0.1})), seeds=(0, 1), updates=6
)
FILE = 'seeds = [0]\nlearners = ["bc", "icq"]\nupdates = 6\n[[data]]\ntask = "games/xor"\nquality = "D1"\n'


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the runner is given."""
    given: dict[str, Any] = {}

    def run_suite(suite: Suite, *, out: Path, **options: Any) -> Any:
        given.update(options, suite=suite, out=out)
        return SimpleNamespace(failures=given.get("failures", []), folder=out / suite.name)

    monkeypatch.setattr(module, "run_suite", run_suite)
    monkeypatch.setattr(module, "Results", lambda folder: folder)
    return given


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"hours": -1.0}, "hours is -1; it must be positive, or 0 to train everything"),
        ({"hours": float("nan")}, "hours is nan; it must be positive"),
        ({"max_replicas": 0}, "max_replicas is 0; it must be at least 1"),
        ({"processes": -1}, "processes is -1; it must be at least 1"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_is_measured(
    given: dict[str, Any],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "a.toml").write_text(FILE)
    monkeypatch.setattr("marlzoo.benchmarks.estimate.measure", lambda *_: pytest.fail("it was measured"))
    with pytest.raises(ConfigError, match=message):
        module.bench(tmp_path / "a.toml", out=tmp_path, quiet=True, **({"hours": 1.0} | given))
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in given.items()]
    assert main(["bench", str(tmp_path / "a.toml"), "--dry-run", "--out", str(tmp_path), *flags]) == 2
    assert message in capsys.readouterr().err


def test_options_reach_the_runner(asked: dict[str, Any], tmp_path: Path) -> None:
    found: Any = module.bench(SUITE, out=tmp_path, quiet=True)
    assert found == tmp_path / "unit"
    assert asked["suite"] == asked["whole"] == SUITE
    assert (asked["device"], asked["max_replicas"], asked["check_data"]) == ("cpu", 20, True)
    assert (asked["split"], asked["place"]) == (Split(1, 0), Place("local", "", None, 0, "", "", ""))
    module.bench(
        SUITE,
        out=tmp_path,
        seeds=[7],
        methods=["icq"],
        updates=3,
        device="meta",
        precision="tf32",
        max_replicas=3,
        threads=2,
        check_data=False,
        rerun=["icq"],
        force=True,
        log=["jsonl"],
        quiet=True,
        on="slurm",
        gpus=0.5,
        array=4,
        partition="p",
        time="1:00",
        storage="s",
    )
    changed = replace(SUITE, updates=3, precision="tf32", data=(DATA[0], replace(DATA[1], updates=0)))
    assert asked["suite"] == replace(changed, seeds=(7,), learners=SUITE.learners[1:2])
    assert asked["whole"] == changed
    assert (asked["device"], asked["max_replicas"], asked["check_data"]) == ("meta", 3, False)
    assert (asked["rerun"], asked["force"], asked["log"]) == (["icq"], True, ["jsonl"])
    assert asked["split"] == Split(1, 2)
    assert asked["place"] == Place("slurm", "", 0.5, 4, "p", "1:00", "s")
    module.bench(SUITE, out=tmp_path, quiet=True, on="ray", address="a", gpus=0.5)
    assert asked["place"] == Place("ray", "a", 0.5)


def test_more_processes_are_split_over_the_machine(
    asked: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "split_on", lambda *given: given)
    module.bench(SUITE, out=tmp_path, processes=2, threads=3, quiet=True)
    assert asked["split"] == ("local", 2, 3)


def test_changes_of_a_file_are_read_with_it(asked: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "unit.toml"
    file.write_text(FILE)
    module.bench(file, out=tmp_path, set={"updates": 9, "config.hidden": 5}, quiet=True)
    assert (asked["suite"].updates, asked["suite"].config) == (9, {"hidden": 5})
    shown = module.bench_show(file, set={"updates": 9}, methods=["icq"], precision="bf16", seeds=[3])
    assert (shown.updates, shown.precision, shown.seeds) == (9, "bf16", (3,))
    assert [learner.method for learner in shown.learners] == ["icq"]


def test_only_what_fits_in_some_hours(
    asked: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    measured: list[Any] = []

    def costs(suite: Suite, out: Path, *log: Any, rerun: Any = ()) -> list[Cost]:
        measured.append((suite, out, sorted(rerun)))
        return [Cost(data, True, 0, seconds={"bc": 3600.0 * 64 * k}) for k, data in enumerate(suite.data)]

    monkeypatch.setattr(module, "costs", costs)
    module.bench(SUITE, out=tmp_path, hours=0.1, rerun=["icq"], quiet=True)
    assert asked["suite"].data == DATA[:1]
    assert capsys.readouterr().out == ""
    module.bench(SUITE, out=tmp_path, hours=0.1, force=True)
    told = capsys.readouterr().out.splitlines()
    assert told == ["left out: games/xor D3, about 32.00 hours"]
    assert measured == [(SUITE, tmp_path, ["icq"]), (SUITE, tmp_path, ["bc", "icq"])]
    module.bench(SUITE, out=tmp_path, quiet=True)
    assert len(measured) == 2
    assert [cost.data for cost in module.bench_dry_run(SUITE, out=tmp_path, rerun=["bc"])] == list(DATA)
    assert measured[2] == (SUITE, tmp_path, ["bc"])
    with pytest.raises(UnknownNameError, match="hiden"):
        module.bench_dry_run(replace(SUITE, config={"hiden": 3}), out=tmp_path)


def test_a_suite_of_which_nothing_ran_is_an_error(asked: dict[str, Any], tmp_path: Path) -> None:
    asked["failures"] = ["bc on xor: no luck", "more"]
    with pytest.raises(DataError, match="no run of suite unit finished: bc on xor: no luck"):
        module.bench(SUITE, out=tmp_path, quiet=True)
    module.ResultsFile(tmp_path / "unit" / "rows.csv").append([ROW])
    assert module.bench(SUITE, out=tmp_path, quiet=True) == tmp_path / "unit"


def test_the_status_is_of_the_suites_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "status", lambda folder, states: folder)
    assert module.bench_status(SUITE, out=tmp_path) == tmp_path / "unit"


def test_methods_are_chosen_among_all_that_a_star_stands_for() -> None:
    suite = replace(SUITE, learners=(Learner("*"),))
    found = module.select(suite, methods=["bc", "icq"])
    assert [learner.method for learner in found.learners] == ["bc", "icq"]
    with pytest.raises(UnknownNameError, match=r"method of suite 'unit' 'bcc'.*Did you mean bc"):
        module.select(SUITE, methods=["icq", "bcc"])
    assert module.select(SUITE, methods=["bc"]).learners == (SUITE.learners[0], SUITE.learners[2])
    assert module.select(SUITE) == SUITE
    assert find_suite("xor").name == "xor"


def test_data_are_chosen_by_task_and_quality(asked: dict[str, Any], tmp_path: Path) -> None:
    other = Data("games/equilibria", "balanced")
    suite = replace(SUITE, data=(*DATA, other))
    assert module.select(suite, tasks=["games/xor"]).data == DATA
    assert module.select(suite, qualities=["balanced", "D3"]).data == (DATA[1], other)
    assert module.select(suite, tasks=["games/xor"], qualities=["D3", "balanced"]).data == DATA[1:]
    assert module.bench_show(suite, tasks=["games/xor"], qualities=["D1"]).data == DATA[:1]
    module.bench(suite, out=tmp_path, tasks=["games/xor"], qualities=["D3", "balanced"], quiet=True)
    assert asked["suite"].data == DATA[1:]
    assert asked["whole"] == suite  # the tables keep what is there of the rest
    with pytest.raises(UnknownNameError, match=r"task of suite 'unit' 'games/xr'\. Did you mean games/xor"):
        module.select(suite, tasks=["games/xor", "games/xr"])
    with pytest.raises(UnknownNameError, match=r"quality of suite 'unit' 'D2'\. Known: D1, D3, balanced"):
        module.select(suite, qualities=["D2"])
    with pytest.raises(
        ConfigError, match="no data of games/equilibria with quality D1 or D3; marlzoo bench unit"
    ):
        module.select(suite, tasks=["games/equilibria"], qualities=["D1", "D3"])


def test_the_task_of_a_file_is_that_of_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    file = Data(file="there.npz")
    monkeypatch.setattr(module, "task_of", lambda entry: entry.task or "games/equilibria")
    assert module.select(replace(SUITE, data=(*DATA, file)), tasks=["games/equilibria"]).data == (file,)
    monkeypatch.setattr(module, "task_of", lambda entry: pytest.fail("opened for nothing"))
    assert module.select(replace(SUITE, data=(*DATA, file)), qualities=["D1"]).data == DATA[:1]
