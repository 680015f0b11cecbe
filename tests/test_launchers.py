"""Places to train: options that do not fit, cards of processes, and clusters that give the rows of one machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

import pytest
from marlzoo.benchmarks.launchers import Place, local
from marlzoo.benchmarks.split import Split, split_on

from marlzoo.errors import ConfigError, DataError, MarlzooError, UnknownNameError


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        (lambda: Place("slrum"), UnknownNameError, "Did you mean slurm"),
        (lambda: Place(partition="long"), ConfigError, "--partition is for --on slurm, not for --on local"),
        (lambda: Place("slurm", address="a:1"), ConfigError, "--address is for --on ray"),
        (lambda: Place(gpus=1), ConfigError, "--gpus is for --on ray or --on slurm"),
        (lambda: Place("ray", gpus=-1.0), ConfigError, "may be negative"),
        (lambda: Place("ray", array=-1), ConfigError, "may be negative"),
        (lambda: Place("ray", gpus=1).gpus_on("cpu"), ConfigError, "need one, others none"),
        (lambda: Place("ray").gpus_on("cuda:1"), ConfigError, "write --device cuda"),
        (lambda: split_on("ray", 2, 0), ConfigError, "--processes is for --on local"),
    ],
)
def test_options_that_do_not_fit_their_place(
    wrong: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        wrong()


def test_what_a_group_needs_on_a_cluster() -> None:
    assert split_on("slurm", 0, 3) == Split(1, 3)
    assert [Place("ray").gpus_on(device) for device in ("cpu", "cuda")] == [0, 1]
    assert Place("ray", gpus=0.25).gpus_on("cuda") == 0.25


# ---- several cards of one machine ----------------------------------------------------------------------


def test_processes_take_turns_at_the_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv(local.VISIBLE, raising=False)
    assert local.cards("cuda") == ["0", "1"]
    assert local.cards("cuda:1") == local.cards("cpu") == []
    monkeypatch.setenv(local.VISIBLE, "3, GPU-5f")  # what a scheduler left of the machine
    assert local.cards("cuda") == ["3", "GPU-5f"]
    given: list[str] = []
    monkeypatch.setattr(local.BaseProcess, "start", lambda self: given.append(self._args[2]))
    local._Pool(3, 1, local.cards("cuda"))
    local._Pool(1, 1)
    assert given == ["3", "GPU-5f", "3", ""]


def test_a_process_sees_only_its_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(local.VISIBLE, "3,4")
    monkeypatch.setattr(local, "_end_with_parent", lambda: None)
    mine, theirs = Pipe()
    mine.close()
    with pytest.raises(EOFError):
        local._serve(theirs, 1, "4")
    assert os.environ[local.VISIBLE] == "4"


# ---- the first process and its team --------------------------------------------------------------------


class Told:
    """A display, and the parts of it: keeps what it is told."""

    def __init__(self) -> None:
        self.log_lines: list[str] = []
        self.finished: list[bool] = []

    def begin(self, stage: Any) -> Any:
        return self

    def log(self, text: str) -> None:
        self.log_lines.append(text)

    def finish(self, failed: bool = False) -> None:
        self.finished.append(failed)


class Answering:
    """The first process's end of a pipe whose other end has answered already; keeps what it is sent."""

    def __init__(self, *answers: tuple[Any, ...]) -> None:
        self.answers, self.sent = list(answers), list[Any]()

    def recv(self) -> Any:
        if not self.answers:
            raise EOFError
        return self.answers.pop(0)

    def send(self, message: Any) -> None:
        self.sent.append(message)


class Ended:
    """A process of the team: keeps what is done to it."""

    exitcode = -9

    def __init__(self) -> None:
        self.calls: list[str] = []

    def terminate(self) -> None:
        self.calls.append("terminate")

    def join(self) -> None:
        self.calls.append("join")


WORK: Any = [("first", None), ("second", None), ("third", None)]


def trainer_of(reasons: dict[str, str]) -> Any:
    """Groups fail as ``reasons`` says."""
    return SimpleNamespace(
        folder="out",
        suite="unit",
        attempt=lambda group, part: reasons.get(group, ""),
        results=SimpleNamespace(publish=lambda lazy: None),
    )


def test_groups_that_fail_here_are_named_and_shown_as_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    listed: list[Any] = []
    monkeypatch.setattr(local, "list_groups", lambda *told: listed.append(told))
    display: Any = Told()
    reasons = {"second": "second: it broke"}
    assert local.Local().run(trainer_of(reasons), WORK, Split(1, 1), display) == ["second: it broke"]
    assert display.finished == [False, True, False]
    assert listed == [("out", "unit", ["first", "second", "third"])]


def team_of(monkeypatch: pytest.MonkeyPatch, *pipes: Answering) -> list[Ended]:
    """A team whose processes have answered already."""
    processes = [Ended() for _ in pipes]

    def begin(self: Any, *_: Any) -> None:
        self.workers = [local._Worker(*pair) for pair in zip(processes, pipes, strict=True)]  # type: ignore[arg-type]

    monkeypatch.setattr(local._Pool, "__init__", begin)
    monkeypatch.setattr(local.connection, "wait", lambda pipes: pipes)
    return processes


def test_a_process_takes_the_next_group_and_its_failures_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pipes = (
        Answering(("log", "x"), ("done", "first: it broke"), ("done", "")),
        Answering(*[("log", "y")] * 2, ("done", "")),
    )
    processes, display = team_of(monkeypatch, *pipes), Told()
    told: Any = display
    assert local._side_by_side(trainer_of({}), WORK, Split(2, 1), told, []) == ["first: it broke"]
    assert [[group for _, _, group in pipe.sent] for pipe in pipes] == [["first", "third"], ["second"]]
    assert display.log_lines == ["x", "y", "y"]
    assert sorted(display.finished) == [False, False, True]
    assert [process.calls for process in processes] == [["terminate", "join"]] * 2


@pytest.mark.parametrize(
    ("answers", "error", "message"),
    [
        ((("failed", "DataError", "no such file"),), DataError, "no such file"),
        ((("failed", "", "a training process failed"),), RuntimeError, "a training process failed"),
        ((), MarlzooError, r"ended \(exit code -9.*--processes 1"),
    ],
)
def test_an_error_of_all_ends_the_team(
    monkeypatch: pytest.MonkeyPatch, answers: Any, error: type[Exception], message: str
) -> None:
    processes, display = team_of(monkeypatch, Answering(*answers)), Told()
    told: Any = display
    with pytest.raises(error, match=message):
        local._side_by_side(trainer_of({}), WORK, Split(2, 1), told, [])
    assert processes[0].calls[-2:] == ["terminate", "join"]


def test_a_process_keeps_the_trainer_that_has_loaded_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "_end_with_parent", lambda: None)

    def broken(group: str, part: Any) -> str:
        raise DataError(f"{group}: no such file")

    first, second = trainer_of({"second": "it broke"}), SimpleNamespace(attempt=broken)
    pipe: Any = Answering(
        *[("train", trainer, group) for trainer, group in ((first, "a"), (second, "second"))]
    )
    with pytest.raises(EOFError):
        local._serve(pipe, 1, "")
    assert pipe.sent == [("done", ""), ("done", "it broke")]
    pipe = Answering(("train", second, "a"), ("what", None))
    with pytest.raises(EOFError):
        local._serve(pipe, 1, "")
    assert pipe.sent[0] == ("failed", "DataError", "a: no such file")
    assert pipe.sent[1][:2] == ("failed", "")


def test_a_process_ends_with_the_first_one(monkeypatch: pytest.MonkeyPatch) -> None:
    mine, theirs = Pipe()
    monkeypatch.setattr(local.multiprocessing, "parent_process", lambda: SimpleNamespace(sentinel=mine))
    codes: list[int] = []
    monkeypatch.setattr(local.os, "_exit", codes.append)
    theirs.close()
    local._end_with_parent()
    assert codes == [1]


def test_an_interrupt_is_for_the_first_process_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with local._uninterrupted():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)
