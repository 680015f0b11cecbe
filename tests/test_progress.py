"""Progress fits the terminal, and a log file gets a line a minute."""

from __future__ import annotations

import inspect
import io
import logging
import re
import time
from pathlib import Path

import pytest
from marlzoo.benchmarks.live import LatestEvaluation
from marlzoo.benchmarks.progress import Clock, Display, WorkItem, fitting, last_lines
from rich.console import Console

import marlzoo
from marlzoo.console import inform, shortened
from marlzoo.training import progress

LABEL = "omiga (alpha=0.1, hidden=256) on mamujoco/halfcheetah-6x1, medium-replay"


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [("short", 5, "short"), ("medium-replay", 9, "medi…play"), ("medium-replay", 8, "med…play"), ("", 3, "")],
)
def test_the_ends_of_long_names_are_kept(text: str, width: int, expected: str) -> None:
    assert shortened(text, width) == expected


@pytest.mark.parametrize("seconds", [1e-5, 1.0, 1e3, 1e7])  # of a busy machine, and of an idle one
@pytest.mark.parametrize("width", [60, 80])
def test_bars_fit_the_terminal(width: int, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    stage = WorkItem("train", LABEL, 200_000.0)
    display = Display(
        console, "suite with-a-rather-long-name-of-its-own-that-goes-on"
    )  # not started: nothing moves
    display.plan([stage])
    part = display.begin(stage)
    now = seconds
    part.advance(100_000.0, "100000 of 200000 updates, value 123.4, effective sample size 0.51")
    with console.capture() as capture:
        console.print(display.progress.get_renderable())
    whole, *bars = capture.get().splitlines()
    assert len(bars) == 1
    assert all(len(line) <= width and " 50 %" in line for line in (whole, *bars))
    assert re.match(r"omiga .*….*replay ", bars[0])
    assert "100000 of 2" in bars[0]


def test_time_left_is_estimated_from_what_was_measured() -> None:
    stages = [WorkItem("train/a", "a", 100), WorkItem("train/b", "b", 100), WorkItem("data/x", "x", 10)]
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
    clock.account("train/a", 30, 2.0)
    clock.side_by_side = 2
    assert clock.left() == pytest.approx((90 * 0.1 + 100 * 2.0) / 2)
    clock.account("train/d", 10, 1.0)
    clock.stages.append(WorkItem("train/c", "c", 10))
    assert clock.left() == pytest.approx((90 * 0.1 + 100 * 2.0 + 10 * 2.0) / 2)  # c counts like the slowest


def test_the_share_that_is_done_goes_by_time() -> None:
    data = [WorkItem("data/a", "", 100.0), WorkItem("data/b", "", 100.0)]
    runs = [WorkItem("train/x", "", 1000.0, unit=1.0), WorkItem("train/y", "", 1000.0, unit=1.0)]
    clock = Clock([*data, *runs])
    data[0].done = 100.0
    assert clock.share() == 0.25  # nothing is measured
    clock.account("data/a", 100.0, 1.0)
    assert clock.share() == 0.0  # made data say nothing about the training
    data[1].done, runs[0].done = 50.0, 100.0
    clock.account("train/x", 100.0, 10.0)
    # Seconds: 1 of 1, 0.5 of 1 at a's pace, 10 of 100, and 0 of 100 at x's pace.
    assert clock.share() == pytest.approx(11.5 / 202)
    clock.account("train/y", 100.0, 40.0)
    runs[1].done = 1000.0
    assert clock.share() == pytest.approx((1.5 + 10 + 400) / (2 + 100 + 400))
    for stage in clock.stages:
        stage.done = stage.amount
    assert clock.share() == 1.0
    assert Clock([]).share() == 0.0


@pytest.mark.parametrize(
    ("note", "expected"),
    [
        ("20 of 2000 updates, value 0.178", "20 of 2000 updates, value 0.178"),
        ("1740 of 2000 updates, value -0.178", "1740 of 2000, value -0.178"),
        ("100000 of 200000 updates, value 123, ess 0.512", "100000 of 200000, value 123"),
        ("1 of 2 updates, value 1.23e+123456789012345", "1 of 2"),
    ],
)
def test_a_number_is_shown_whole_or_not(note: str, expected: str) -> None:
    assert fitting(note, 31) == expected  # half of 80 columns, beside bar and percentage


def test_a_terminal_shows_groups_speed_and_the_latest_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    display = Display(console, "suite unit")  # not started: nothing moves
    stages = [WorkItem("train/a", f"{LABEL} {k}", 3000.0, unit=3.0) for k in range(4)]
    display.plan([WorkItem("data/x", "data", 10.0, done=10.0), *stages])
    first, second, third, before = (display.begin(stage) for stage in stages)
    before.finish()
    first.resumed(900.0)
    for seconds in range(1, 201):
        now = float(seconds)
        first.advance(900.0 + 3.0 * now)
        if now > 100:  # faster of late: one seed-update a second in the first half, three in the second
            second.advance(6.0 * (now - 100))
    first.evaluated(
        LatestEvaluation("omiga", "mamujoco/hopper-3x1 medium-replay, expert", 1000, [10.0, 30.0])
    )
    second.evaluated(LatestEvaluation("bc", "mamujoco/hopper-3x1 medium", 500, [5.0]))
    first.evaluated(
        LatestEvaluation("omiga", "mamujoco/hopper-3x1 medium-replay, expert", 2000, [20.0, 40.0])
    )
    third.finish(failed=True)
    with console.capture() as capture:
        console.print(display.progress.get_renderable())
    shown = capture.get().splitlines()
    assert all(len(line) <= 80 for line in shown)
    assert "1 of 4 groups done, 2 running, 1 failed; 3.0 seed-updates/s" in shown[3]
    assert [line.split()[0] for line in shown[5:]] == ["bc", "omiga"]
    assert shown[5].split()[-2:] == ["500", "5.00"]
    assert shown[6].endswith(" 30.0 (20.0 to 40.0)")


def test_the_first_report_gives_no_rate_while_its_piece_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    display = Display(Console(file=io.StringIO(), width=80), "suite unit")
    display.plan([WorkItem("train/a", LABEL, 1000.0), WorkItem("train/a", LABEL, 1000.0)])
    part = display.begin(display.clock.stages[0])
    now = 100.0  # most of it compiles
    part.advance(20.0)
    assert display.clock.left() is None
    now = 118.0
    part.advance(200.0)
    assert display.clock.left() == pytest.approx(180.0)  # 800 and 1000 units, ten a second
    now = 198.0
    part.finish()
    assert display.clock.left() == pytest.approx(198.0)  # the second piece is to compile as well


def test_a_log_file_gets_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    text = io.StringIO()
    stage = WorkItem("train", LABEL, 400.0)
    with Display(Console(file=text, width=200), "suite unit") as display:
        display.plan([stage])
        part = display.begin(stage)
        for second in range(0, 181, 20):
            now = float(second)
            part.advance(float(second), f"{second} updates")
    lines = [line for line in text.getvalue().splitlines() if "done" in line]
    assert len(lines) == 3
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d suite unit: 15% done, 0:05:40 left; omiga", lines[0])
    assert lines[0].endswith("medium-replay: 60 updates")


def test_a_log_file_gets_an_evaluation_a_minute_and_each_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    printed = {}
    for terminal in (False, True):
        text = io.StringIO()
        with Display(Console(file=text, width=200, force_terminal=terminal), "suite unit") as display:
            part = display.begin(WorkItem("train", LABEL, 400.0))
            for now in (0.0, 20.0, 40.0, 70.0, 80.0):
                last = now == 80.0
                part.evaluated(
                    LatestEvaluation("bc", "hopper", int(now), [1.0], f"mean return at {now:.0f}", last)
                )
        printed[terminal] = re.findall(r"(?m)^(.*?)mean return at (\d+)", text.getvalue())
    assert [at for _, at in printed[False]] == ["0", "70", "80"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", stamp) for stamp, _ in printed[False])
    assert {at for _, at in printed[True]} == {"0", "20", "40", "70", "80"}


def test_the_last_lines_say_what_was_done_and_what_comes_next() -> None:
    folder = Path("results/unit")
    assert last_lines(folder, 3, 1, [], 75.4) == [
        f"3 runs trained in 0:01:15; 1 had results already. Rows, metrics and tables: {folder}",
        f"Next: marlzoo table {folder} --format markdown",
    ]
    failed = last_lines(folder, 1, 0, ["bc on hopper: no memory"], 1.0)
    assert failed[1:] == ["1 group failed; the same command tries again:", "  bc on hopper: no memory"]


def test_messages_go_through_logging(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    inform("to those who listen")
    assert [(record.name, record.levelname) for record in caplog.records] == [("marlzoo", "INFO")]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # of a program that configures nothing
    inform("a line \x1b[31m with 100 %")
    assert capsys.readouterr() == ("", "a line \\x1b[31m with 100 %\n")
    monkeypatch.setattr(logging.getLogger("marlzoo"), "level", logging.WARNING)
    monkeypatch.setattr(logging.getLogger("marlzoo"), "_cache", {})
    inform("not wanted")
    assert capsys.readouterr() == ("", "")
    assert inspect.signature(marlzoo.train).parameters["log"].default is inform


@pytest.mark.parametrize(("shown", "lines"), [(True, 2), (False, 0)])
def test_training_from_python_shows_progress(
    shown: bool, lines: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PERIOD", 0.0)
    data = marlzoo.load_dataset("games/xor/marlzoo/D1")
    learner = marlzoo.make("bc", data.spec, hidden=8, batch_size=8)
    marlzoo.train(learner, data, updates=4, log_every=2, show_progress=shown)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == lines
    assert all(re.search(r"^\d{4}.* bc on games/xor/marlzoo/D1: [24] of 4 updates$", line) for line in told)
