"""Copies of checkpoints at another place, and ``marlzoo train`` on a cluster."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import pytest
from marlzoo.benchmarks import runner
from marlzoo.benchmarks.launchers import Place
from marlzoo.benchmarks.storage import Storage
from marlzoo.benchmarks.suites import Data

from marlzoo.cli import main
from marlzoo.errors import MissingExtraError, OutputError
from marlzoo.registry import find_method
from tests.suite_runs import run, scores, suite_of

DATA = "games/xor/marlzoo/D1"


def test_a_folder_that_lacks_checkpoints_goes_on_from_the_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_of(data=(Data("games/xor", "D1"),))
    place = Place(storage=f"memory://{tmp_path.name}/kept")
    run(suite, tmp_path / "lost", place=place)
    names = fsspec.filesystem("memory").find(f"/{tmp_path.name}/kept/unit")
    assert sorted(name.rsplit("/")[-2] for name in names) == ["checkpoints", "metrics"]

    def trained(*_: Any) -> None:
        pytest.fail("trained again")

    monkeypatch.setattr(find_method("bc"), "update", trained)
    run(suite, tmp_path / "new", place=place)  # its rows are those of the fetched state
    assert scores(tmp_path / "new") == scores(tmp_path / "lost")
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        run(suite, tmp_path / "new", place=place, force=True)  # from nothing, there too


def test_an_older_copy_replaces_no_newer_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    suite = suite_of(data=(Data("games/xor", "D1"),))
    place = Place(storage=f"memory://{tmp_path.name}/kept")
    run(suite, tmp_path, place=place)
    run(replace(suite, updates=12), tmp_path)  # without the storage
    update, made = find_method("bc").update, 0

    def counted(*given: Any) -> Any:
        nonlocal made
        made += 1
        return update(*given)

    monkeypatch.setattr(find_method("bc"), "update", counted)
    run(replace(suite, updates=15), tmp_path, place=place)
    assert made == 3


@pytest.mark.parametrize(
    ("url", "error", "message"),
    [
        ("nosuch://x", OutputError, "--storage nosuch://x: ValueError: Protocol not known"),
        ("gs://x", MissingExtraError, "--storage gs://x needs the package 'gcsfs'.*pip install"),
    ],
)
def test_a_storage_that_does_not_answer_is_found_before_any_work(
    url: str, error: type[Exception], message: str, tmp_path: Path
) -> None:
    if error is MissingExtraError and find_spec("gcsfs") is not None:
        pytest.skip("gcsfs is installed")
    with pytest.raises(error, match=message):
        run(suite_of(data=(Data("games/xor", "D1"),)), tmp_path / "out", place=Place(storage=url))
    assert not (tmp_path / "out").exists()


def test_a_storage_is_asked_before_any_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> bool:
        raise ConnectionError("no route to the place")

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "exists", unreachable)
    with pytest.raises(
        OutputError, match=r"--storage memory://away: ConnectionError: no route to the place; check"
    ):
        run(suite_of(data=(Data("games/xor", "D1"),)), tmp_path / "out", place=Place(storage="memory://away"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("bucket", "there"), [("mine", True), ("misspelled", False)])
def test_a_bucket_is_never_made(bucket: str, there: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    system = fsspec.filesystem("memory")
    system.makedirs("mine", exist_ok=True)
    monkeypatch.setattr(Storage, "_opened", lambda self: (system, f"{bucket}/runs/unit"))
    told = pytest.raises(OutputError, match="there is no bucket 'misspelled'")
    with contextlib.nullcontext() if there else told:
        Storage(f"s3://{bucket}/runs", "unit").require()


def test_train_goes_where_bench_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}

    def note(suite: Any, **options: Any) -> runner.Finished:
        asked.update(options)
        return runner.Finished(tmp_path, 0, 0)

    monkeypatch.setattr(runner, "run_suite", note)
    place = ["--on", "slurm", "--partition", "long", "--time", "90", "--array", "2", "--storage", "s3://b"]
    assert main(["train", "bc", "--data", DATA, *place, "--threads", "3"]) == 0
    assert asked["place"] == Place("slurm", array=2, partition="long", time="90", storage="s3://b")
    assert asked["split"].threads == 3
    assert main(["train", "bc", "--data", DATA, "--on", "ray", "--episodes", "0"]) == 2
    assert "leave --episodes 0 out" in capsys.readouterr().err
    assert main(["train", "bc", "--data", DATA, "--partition", "long"]) == 2
    assert "--partition is for --on slurm, not for --on local" in capsys.readouterr().err
