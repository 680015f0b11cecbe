"""An interrupted command: its exit status, and whether the same command resumes."""

from __future__ import annotations

import contextlib
import signal
import time
import weakref
from typing import Any

import pytest

from marlzoo.cli import main
from tests.command_line import raising

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.mark.parametrize(
    ("command", "module", "resumes"),
    [
        ("train bc", "training", True),
        ("data teach mpe/spread", "data", True),
        ("data inspect x", "data", False),
        ("eval run", "evaluating", False),
        ("sweep xor", "sweeping", True),
    ],
)
def test_only_a_command_that_resumes_says_so(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    module: str,
    resumes: bool,
) -> None:
    monkeypatch.setattr(f"marlzoo.cli.{module}.run", raising(KeyboardInterrupt()))
    assert main(command.split()) == 130
    assert ("the same command resumes from what is saved" in capsys.readouterr().err) is resumes


@pytest.mark.parametrize(
    ("command", "module", "left_out"),
    [
        ("train bc --force", "training", "--force"),
        ("bench xor --rerun omiga icq --out x", "benching", "--rerun"),
        ("bench xor --rerun=omiga --force", "benching", "--rerun and --force"),
    ],
)
def test_what_would_begin_anew_is_left_out_to_go_on(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    module: str,
    left_out: str,
) -> None:
    monkeypatch.setattr(f"marlzoo.cli.{module}.run", raising(KeyboardInterrupt()))
    assert main(command.split()) == 130
    told = capsys.readouterr().err
    assert told == f"marlzoo: interrupted; the same command without {left_out} resumes from what is saved\n"


class Watched:
    """Something that a weak reference can be made of."""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_where_nothing_can_be_raised_comes_again(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals, status: int
) -> None:
    """Python drops what is raised in the callback of a weak reference; h5py's objects have such callbacks."""

    def run(arguments: Any) -> int:
        watched = Watched()
        kept = weakref.ref(watched, lambda _: signal.raise_signal(number))
        del watched
        time.sleep(1.5)  # less than a second SIGTERM is taken for the first
        return int(kept() is None)

    monkeypatch.setattr("marlzoo.cli.training.run", run)
    # A shell that starts the tests in its background has SIGINT ignored.
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, signal.SIG_DFL),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    try:
        assert main(["train", "bc"]) == status
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def test_sigterm_ends_a_command_as_an_interrupt_does(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cleaned: list[bool] = []

    def run(arguments: Any) -> int:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            signal.raise_signal(signal.SIGTERM)  # timeout sends two: the second does not break off the end
            cleaned.append(True)
        return 0

    monkeypatch.setattr("marlzoo.cli.training.run", run)
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert main(["train", "bc"]) == 143
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)
    assert cleaned == [True]
    assert capsys.readouterr().err == "marlzoo: interrupted; the same command resumes from what is saved\n"


def test_sigterm_is_left_to_a_program_that_listens_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: Any) -> int:
        signal.raise_signal(signal.SIGTERM)
        return 0

    monkeypatch.setattr("marlzoo.cli.training.run", run)
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        assert main(["train", "bc"]) == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_sigterm_that_something_swallowed_can_be_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: Any) -> int:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)
        return 0

    monkeypatch.setattr("marlzoo.cli.ONCE", 0.0)
    monkeypatch.setattr("marlzoo.cli.training.run", run)
    assert main(["train", "bc"]) == 143
