"""Metrics are kept: which updates, in which columns, over interruptions, and offline as online."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.envs.games import make as make_game
from marlzoo.errors import DataError
from marlzoo.system.checksums import faults, has_checksums
from marlzoo.training.evaluation import Evaluation, Metrics
from marlzoo.training.loggers import Loggers, MetricsFile, logging_interval
from marlzoo.training.online import train_online
from marlzoo.training.trainer import train
from tests.toys import ToyEnv, toy_dataset, toy_spec


def learner(seeds: tuple[int, ...] = (3, 5)) -> Algorithm:
    return marlzoo.make("bc", toy_spec(), seeds=seeds, hidden=4, batch_size=4)


def run(algorithm: Algorithm, updates: int, **more: Any) -> list[Evaluation]:
    options: dict[str, Any] = {"check_data": False, "compile": "off", "episodes": 2, "horizon": 3}
    return train(algorithm, toy_dataset(), updates=updates, **options | more)


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


class Listening:
    """Keeps the calls in their order."""

    def __init__(self) -> None:
        self.calls: list[Any] = []
        self.metrics: dict[int, Metrics] = {}

    def start(self, algorithm: Algorithm) -> None:
        self.calls.append(("start", algorithm.updates))

    def log_metrics(self, updates: int, metrics: Metrics) -> None:
        self.calls.append(updates)
        self.metrics[updates] = metrics

    def log_evaluation(self, evaluation: Evaluation) -> None:
        self.calls.append(("evaluation", evaluation.updates))

    def flush(self) -> None:
        self.calls.append("flush")

    def close(self) -> None:
        self.calls.append("close")


def test_a_long_run_has_two_hundred_points() -> None:
    assert [logging_interval(total) for total in (1, 199, 200, 201, 1_000_000)] == [1, 1, 1, 2, 5000]


def test_the_first_every_nth_each_evaluated_and_the_last_update_are_logged() -> None:
    heard = Listening()
    found = run(learner(), 401, env=ToyEnv, eval_every=100, loggers=[heard])
    logged = [call for call in heard.calls if isinstance(call, int)]
    assert logged == sorted({1, *range(3, 401, 3), 100, 200, 300, 400, 401})
    assert heard.calls[0] == ("start", 0)
    assert heard.calls[-1] == "close"
    assert [call[1] for call in heard.calls if isinstance(call, tuple)] == [0, 100, 200, 300, 400, 401]
    before_evaluation = heard.calls.index(("evaluation", 100))
    assert heard.calls[before_evaluation - 1] == 100
    assert heard.calls[before_evaluation + 1] == "flush"  # before the checkpoint
    for evaluation in found:
        for name, value in evaluation.metrics.items():
            np.testing.assert_array_equal(value, heard.metrics[evaluation.updates][name])


def test_the_last_update_is_logged_without_an_evaluation() -> None:
    loggers = Loggers([Listening()], learner(), 401)
    assert [updates for updates in range(1, 402) if loggers.wants(updates)] == [1, *range(3, 401, 3), 401]


def test_what_is_written_is_what_update_returned(tmp_path: Path) -> None:
    heard, file = Listening(), MetricsFile(tmp_path / "new" / "metrics.csv")
    run(learner(), 7, loggers=[heard, file])
    written = lines(file.path)
    assert [(line["updates"], line["seed"]) for line in written] == [
        (str(updates), seed) for updates in range(1, 8) for seed in ("3", "5")
    ]
    for k, line in enumerate(written):
        metrics = heard.metrics[int(line["updates"])]
        assert line.keys() == {"updates", "seed", *metrics, "checksum"}
        for name, value in metrics.items():
            assert float(line[name]) == pytest.approx(float(value[k % 2]), rel=1e-5)
    updates, curve = file.curve("policy/data_log_prob", last=5)
    assert updates.tolist() == [1, 2, 3, 4, 5]
    np.testing.assert_allclose(curve[4], heard.metrics[5]["policy/data_log_prob"], rtol=1e-5)
    assert file.at(7)["policy/data_log_prob"].shape == (2,)
    assert file.at(8) == {}
    assert file.curve("unknown", 7)[1].shape == (0, 2)


class StopError(Exception):
    pass


def stop_at(updates: int) -> Any:
    def on_progress(done: int, _: Metrics) -> None:
        if done == updates:
            raise StopError

    return on_progress


def test_an_interrupted_run_has_the_file_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole, broken = MetricsFile(tmp_path / "whole.csv"), MetricsFile(tmp_path / "broken.csv")
    run(learner(), 30, loggers=[whole])
    options: dict[str, Any] = {"checkpoint": tmp_path / "c.npz", "checkpoint_every": 10, "log_every": 1}
    with pytest.raises(StopError):
        run(learner(), 30, loggers=[broken], on_progress=stop_at(17), **options)
    assert lines(broken.path)[-1]["updates"] == "17"
    sound = whole.path.read_text()
    with broken.path.open("a") as file:  # a kill may cut the last line
        file.write(sound[sound.index("\n18,3,") + 1 : sound.index("\n18,5,") + 9])
    again = MetricsFile(broken.path)
    run(learner(), 30, loggers=[again], **options)
    assert broken.path.read_bytes() == whole.path.read_bytes()
    curves = [file.curve("policy/data_log_prob", 30)[1] for file in (again, whole)]
    np.testing.assert_array_equal(curves[0], curves[1])


def test_a_new_run_starts_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("of something else\n")
    run(learner(), 5, loggers=[MetricsFile(path)])
    run(learner(), 3, loggers=[MetricsFile(path)])
    assert {line["updates"] for line in lines(path)} == {"1", "2", "3"}


def older(text: str) -> str:
    """A file of metrics as it was before lines had checksums."""
    return "".join(line.rpartition(",")[0] + "\n" for line in text.splitlines())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: "a,b\n1,2\n", "its columns are a, b"),
        (lambda text: older(text).replace("\n2,3,", "\n2,4,"), "line 4 is of another replica"),
        (lambda text: older(text).replace("\n2,3,", "\n2,3,x"), "line 4: could not convert"),
        (lambda text: text.replace("\n2,3,", "\n2,4,"), "line 4: damaged"),
        (lambda text: text.replace("policy/loss", "policy_lost"), "line 1: damaged"),
        (lambda text: text.replace("checksum", "checksul"), "line 1: damaged"),
    ],
)
def test_a_foreign_file_is_one_clear_error_and_stays(
    tmp_path: Path,
    damage: Any,
    message: str,
) -> None:
    path = tmp_path / "metrics.csv"
    options: dict[str, Any] = {"checkpoint": tmp_path / "c.npz"}
    run(learner(), 5, loggers=[MetricsFile(path)], **options)
    path.write_text(damage(path.read_text()))
    before = path.read_bytes()
    with pytest.raises(DataError, match=message) as caught:
        run(learner(), 8, loggers=[MetricsFile(path)], **options)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == before


def test_a_file_without_checksums_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    options: dict[str, Any] = {"checkpoint": tmp_path / "c.npz"}
    run(learner(), 5, loggers=[MetricsFile(path)], **options)
    whole = path.read_text()
    path.write_text(older(whole))
    assert not has_checksums(path)
    run(learner(), 8, loggers=[MetricsFile(path)], **options)
    assert path.read_text().startswith(whole)


def test_every_flipped_bit_of_the_metrics_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    run(learner(), 2, loggers=[MetricsFile(path)])
    sound = path.read_bytes()
    assert (has_checksums(path), faults(path)) == (True, [])
    for at in range(0, len(sound), 3):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        assert has_checksums(path), at
        assert faults(path), at
    for cut in range(sound.index(b"\n") + 1, len(sound)):  # a kill may have cut the last line
        path.write_bytes(sound[:cut])
        assert not has_checksums(path) or not faults(path), cut


def test_metrics_that_come_later_get_a_column(tmp_path: Path) -> None:
    file = MetricsFile(tmp_path / "metrics.csv")
    file.start(learner())
    file.log_metrics(1, {"a": np.array([1.0, 2.0])})
    file.log_metrics(2, {"a": np.array([3.0, 4.0]), "b": np.array([np.nan, np.inf])})
    file.log_metrics(3, {"a": np.array([5.0, 6.0])})
    file.close()
    assert [(line["a"], line["b"]) for line in lines(file.path)] == [
        ("1", ""), ("2", ""), ("3", "nan"), ("4", "inf"), ("5", ""), ("6", ""),
    ]  # fmt: skip


def test_what_a_stage_does_not_report_stays_unknown_after_a_resume(tmp_path: Path) -> None:
    """A cell that is empty is no value that is not a number: a run's drift would be infinite."""
    algorithm = learner()
    whole = MetricsFile(tmp_path / "metrics.csv")
    whole.start(algorithm)
    for updates in (1, 2, 3):
        values = {"second": [2.0, np.nan]} if updates > 1 else {}
        whole.log_metrics(updates, {"first": np.array([1.0, 1.0])} | {k: np.array(v) for k, v in values.items()})
    whole.close()
    algorithm.updates = 3
    resumed = MetricsFile(tmp_path / "metrics.csv")
    resumed.start(algorithm)
    assert list(resumed.at(1)) == list(whole.at(1)) == ["first"]
    assert resumed.curve("second", 3)[0].tolist() == whole.curve("second", 3)[0].tolist() == [2.0, 3.0]
    np.testing.assert_array_equal(resumed.curve("second", 3)[1], [[2.0, np.nan]] * 2)
    assert resumed._columns == ["first", "second"]


def test_online_training_keeps_its_metrics(tmp_path: Path) -> None:
    def make() -> Algorithm:
        spec = make_game("xor", 1).spec
        return marlzoo.make(
            "mappo", spec, seeds=(0, 1), hidden=4, num_envs=2, rollout=4, restart=5, batch_size=8
        )

    whole, heard = MetricsFile(tmp_path / "whole.csv"), Listening()
    train_online(make(), make_game("xor", 4), steps=8 * 20, loggers=[whole, heard])
    assert [call for call in heard.calls if isinstance(call, int)] == list(range(1, 21))
    assert len(lines(whole.path)) == 40
    broken, checkpoint = tmp_path / "broken.csv", tmp_path / "c.npz"
    options: dict[str, Any] = {"steps": 8 * 20, "checkpoint": checkpoint}

    def stop(done: int, *_: Any) -> None:
        if done == 13:
            raise StopError

    with pytest.raises(StopError):
        train_online(make(), make_game("xor", 4), on_progress=stop, loggers=[MetricsFile(broken)], **options)
    train_online(make(), make_game("xor", 4), loggers=[MetricsFile(broken)], **options)
    assert broken.read_bytes() == whole.path.read_bytes()
