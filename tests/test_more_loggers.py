"""Loggers by name: a plugin's own, TensorBoard's files read back, wandb's calls, and what is wrong with a name."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from marlzoo.cli import main
from marlzoo.errors import MissingExtraError, PluginError, UnknownNameError
from marlzoo.training.evaluation import EpisodeResults, Evaluation
from marlzoo.training.loggers import Logger
from marlzoo.training.more_loggers import BUILT_IN, LogTarget, evaluation_values, find_logger, make_loggers
from tests.test_loggers import StopError, learner, run, stop_at
from tests.toys import ToyEnv

DATA = "games/bridge/marlzoo/optimal"
OWN = """
import json
from pathlib import Path

class Own:
    def __init__(self, target):
        self.target, self.lines = target, []
    def start(self, algorithm):
        self.lines.append(["config", self.target.config(algorithm, 1)])
        self.lines.append(["names", self.target.names(algorithm)])
    def log_metrics(self, updates, metrics):
        self.lines.append([updates, sorted(metrics)])
    def log_evaluation(self, evaluation):
        self.lines.append(["evaluation", evaluation.updates])
    def flush(self): ...
    def close(self):
        (self.target.folder / "own.json").write_text(json.dumps(self.lines))

number = 3
"""


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package that declares loggers."""
    info = tmp_path / "site" / "own_loggers-1.dist-info"
    info.mkdir(parents=True)
    (info.parent / "own_loggers.py").write_text(OWN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-loggers\nVersion: 1\n")
    names = {"own": "own_loggers:Own", "gone": "own_loggers:Gone", "number": "own_loggers:number"}
    names["wandb"] = "own_loggers:Own"
    entries = "\n".join(f"{name} = {place}" for name, place in names.items())
    (info / "entry_points.txt").write_text(f"[marlzoo.loggers]\n{entries}\n")
    monkeypatch.syspath_prepend(str(info.parent))
    monkeypatch.delitem(sys.modules, "own_loggers", raising=False)


def scalars(folder: Path) -> dict[str, dict[int, float]]:
    """The scalars of one TensorBoard run, as TensorBoard reads them."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    return {tag: {e.step: e.value for e in events.Scalars(tag)} for tag in events.Tags()["scalars"]}


def test_a_command_logs_everywhere_that_it_is_told_to(plugin: None, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'marlzoo[tensorboard]'")
    command = ["train", "bc", "--data", DATA, "--seeds", "3", "5", "--updates", "4", "--eval-every", "2"]
    small = ["--episodes", "1", "--hidden", "4", "--batch-size", "4", "--name", "here"]
    assert main([*command, *small, "--out", str(tmp_path), "--log", "own", "tensorboard"]) == 0
    told = json.loads((tmp_path / "here" / "own.json").read_text())
    (config,) = [line[1] for line in told if line[0] == "config"]
    assert (config["method"], config["task"], config["seed"]) == ("bc", "games/bridge", 5)
    assert (config["hidden"], config["quality"]) == (4, "optimal")
    assert [line[1] for line in told if line[0] == "evaluation"] == [2, 4]
    assert [line[0] for line in told if isinstance(line[0], int)] == [1, 2, 3, 4]

    (names,) = [line[1] for line in told if line[0] == "names"]
    folders = sorted((tmp_path / "here" / "tensorboard").iterdir())
    assert sorted(names) == [folder.name for folder in folders]
    assert [name.rpartition("-")[0] for name in names] == ["bc-bridge-optimal-3", "bc-bridge-optimal-5"]
    (file,) = (tmp_path / "here" / "metrics").glob("*.csv")
    with file.open(newline="") as text:
        lines = [line for line in csv.DictReader(text) if line["seed"] == "5"]
    found = scalars(folders[1])
    for name in set(lines[0]) - {"updates", "run", "quality", "seed", "checksum"}:
        wanted = {int(line["updates"]): float(line[name]) for line in lines}
        assert found[name] == pytest.approx(wanted, rel=1e-4)
    assert list(found["evaluation/mean_return"]) == [2, 4]


def test_what_was_logged_beyond_a_checkpoint_is_purged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs tensorboard: pip install 'marlzoo[tensorboard]'")

    def loggers() -> list[Logger]:
        return make_loggers(["tensorboard"], LogTarget(tmp_path, "toy"))

    options: dict[str, Any] = {"checkpoint": tmp_path / "c.npz", "checkpoint_every": 10, "log_every": 1}
    with pytest.raises(StopError):
        run(learner(), 30, loggers=loggers(), on_progress=stop_at(17), **options)
    marked = loggers()
    log = marked[0].log_metrics
    marked[0].log_metrics = lambda updates, metrics: log(updates, {"again": metrics["policy/data_log_prob"]})
    run(learner(), 30, loggers=marked, **options)
    found = scalars(tmp_path / "tensorboard" / "bc-3")
    assert list(found["policy/data_log_prob"]) == list(range(1, 11))
    assert list(found["again"]) == list(range(11, 31))


def test_what_loggers_tell_of_an_evaluation(plugin: None, tmp_path: Path) -> None:
    played = EpisodeResults(
        np.array([[1.0, 3.0], [5.0, 9.0]]),
        np.array([[2, 4], [6, 10]]),
        np.array([[True, False], [True, True]]),
    )
    found = evaluation_values(Evaluation(7, played, np.zeros(2, bool), 0.0), 1)
    assert list(found.values()) == [7.0, 2.0, 8.0, 1.0]  # mean and spread of returns, length, wins
    target = LogTarget(tmp_path, "toy", [{"run": "1a", "quality": "a/b"}] * 2, {"task": "toy/point"})
    assert target.names(learner()) == ["bc-point-a-b-1a"] * 2
    assert len(make_loggers(["own", "own"], target)) == 1


def test_wandb_is_told_everything_and_needs_no_account(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []

    class Run:
        def __init__(self, **options: Any) -> None:
            self.options, self.lines, self.open = options, list[dict[str, float]](), True
            opened.append(self)

        def define_metric(self, *_: Any, **__: Any) -> None: ...

        def log(self, values: dict[str, float]) -> None:
            self.lines.append(values)

        def finish(self) -> None:
            self.open = False

    stand_in = ModuleType("wandb")
    stand_in.init = Run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    monkeypatch.delitem(sys.modules, "marlzoo.training.wandb_logger", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    for _ in range(2):
        target = LogTarget(tmp_path, "toy", about={"task": "toy/point"})
        run(learner(), 3, env=ToyEnv, eval_every=3, loggers=make_loggers(["wandb"], target))
    monkeypatch.delitem(sys.modules, "marlzoo.training.wandb_logger")
    first, second, *again = opened
    assert [each.options["name"] for each in (first, second)] == ["bc-point-3", "bc-point-5"]
    assert [each.options["id"] for each in again] == [first.options["id"], second.options["id"]]
    assert first.options["id"] != second.options["id"]
    assert first.options["mode"] == "offline"
    assert second.options["config"]["seed"] == 5
    assert [line["updates"] for line in first.lines] == [1, 2, 3, 3]
    assert "evaluation/mean_return" in first.lines[-1]
    assert not any(each.open for each in opened)


def test_wrong_names_are_one_clear_error(
    plugin: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["train", "bc", "--data", DATA, "--log", "tensorbord", "--out", str(tmp_path / "o")]) == 2
    assert "unknown logger 'tensorbord'. Did you mean tensorboard?" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()  # found before any work
    with pytest.raises(UnknownNameError, match="Known: gone, number, own, tensorboard, wandb"):
        find_logger("zzz")
    with pytest.raises(PluginError, match=r"'gone': loading own_loggers:Gone failed: AttributeError"):
        find_logger("gone")
    with pytest.raises(PluginError, match="own_loggers:number cannot be called"):
        find_logger("number")
    with pytest.raises(PluginError, match=r"taken by marlzoo\..*:WandbLogger and own_loggers:Own"):
        find_logger("wandb")
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delitem(sys.modules, "marlzoo.training.tensorboard_logger", raising=False)
    with pytest.raises(MissingExtraError, match=r"-m pip install \"?tensorboard"):
        find_logger("tensorboard")


def test_every_logger_of_the_package_names_an_extra() -> None:
    from importlib.metadata import metadata

    assert set(BUILT_IN) <= set(metadata("marlzoo").get_all("Provides-Extra") or [])
