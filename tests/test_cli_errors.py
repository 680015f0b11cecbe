"""How the command line fails: one line that names the cause and the way out, and no fault of the program hidden."""

from __future__ import annotations

import errno
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks.recorder import one_line

from marlzoo.cli import main
from tests.command_line import call, raising

pytestmark = pytest.mark.usefixtures("own_home")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lst"], "unknown command 'lst'. Did you mean list?"),
        (["list"], "name a kind, one of methods"),
        (["data"], "name an action, one of collect"),
        (["list", "mehtods"], "Did you mean methods?"),
        (["data", "colect"], "Did you mean collect"),
        (
            ["data", "collect", "mamujoco/hoper-3x1", "--quality", "expert"],
            "Did you mean mamujoco/hopper-3x1",
        ),
        (["data", "inspect", "missing.hdf5"], "missing.hdf5: no such file"),
        (["data", "inspect", "mamujoco/hopper-3x1/omiga/expert"], "marlzoo data convert FILE"),
        (
            ["data", "inspect", "games/xor/omiga/D3"],
            "computed, not stored; their names: games/xor/marlzoo/D1",
        ),
        (["data", "collect", "games/xor", "--quality", "D3"], "use the name games/xor/marlzoo/D3"),
        (["data", "collect", "games/xor", "--quality", "D9"], "'D9'. Known: D1, D2, D3, D4."),
        (["data", "convert", "games/xor/marlzoo/D3", "x.npz", "--option", "seed=1"], "leave out --option"),
        (["train", "omga"], "Did you mean omiga"),
        (["train", "OMIGA"], "Did you mean omiga"),
        (["train", "omiga"], "marlzoo train omiga: give --data DATASET ... (names or files"),
        (["train", "omiga", "--dyna"], "marlzoo train omiga --dyna: give --data DATASET"),
        (
            ["train", "iql", "--data", "games/xor/marlzoo/D1", "--world-model=x.npz"],
            "--world-model is a setting of world models: marlzoo train iql --dyna --world-model ...",
        ),
        (["train", "omiga", "--data"], "no dataset is named; give at least one"),
        (["train", "mappo"], "marlzoo train mappo: give --task TASK"),
        (["train", "mappo", "--data", "games/xor/marlzoo/D1"], "takes no --data; give --task TASK"),
        (["train", "dyna_iql", "--data", "games/xor/marlzoo/D1"], "a form of iql: marlzoo train iql --dyna"),
        (["train", "dyna_", "--data", "games/xor/marlzoo/D1"], "unknown method 'dyna_'"),
        (["train", "bc", "--data", "missing.hdf5"], "missing.hdf5: no such file"),
        (["train", "mappo", "--task", "mamujoco/hoper-3x1"], "Did you mean mamujoco/hopper-3x1"),
        (["eval", "missing.npz"], "missing.npz: no such checkpoint"),
        (["bench", "dmo"], "Did you mean demo"),
        (["bench"], "name a suite, one of ant, demo"),
        (["bench", "demo", "--methods", "omga"], "Did you mean omiga?"),
        (["bench", "demo", "--device", "warp9"], "device 'warp9' cannot be used"),
        (["bench", "missing.toml"], "cannot read the suite missing.toml: no such file; marlzoo list suites"),
        (["bench", "xor", "--processes", "-1"], "processes is -1; it must be at least 1"),
        (["table"], "no results are named; give at least one folder"),
        (["table", "missing"], "no results at missing"),
        (["doctor", "--jsn"], "Did you mean --json?"),
    ],
)
def test_errors_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    status, _, err = call(capsys, *arguments)
    assert status == 2
    assert message in err
    assert err.startswith("marlzoo: error: ")
    assert err.count("\n") == 1


def test_debug_shows_the_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "marlzoo", "table", "missing", "--debug"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    quiet = subprocess.run(
        [sys.executable, "-m", "marlzoo", "table", "missing"], capture_output=True, text=True
    )
    assert (quiet.returncode, quiet.stdout) == (2, "")
    assert "Traceback" not in quiet.stderr


def test_an_option_that_occurs_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """The parser would take the last one only, and another suite than the one asked for would run."""
    status, _, err = call(capsys, "bench", "xor", "--set", "updates=2", "--dry-run", "--set=eval_every=1")
    assert status == 2
    remedy = "write it once, with all its values behind it; see marlzoo bench --help"
    assert err == f"marlzoo: error: --set occurs 2 times; {remedy}\n"


@pytest.mark.parametrize(
    ("flag", "command"),
    [
        ("--set", ["bench", "xor", "--show"]),
        ("--env", ["data", "check", "games/xor/marlzoo/D1"]),
        ("--option", ["data", "inspect", "games/xor/marlzoo/D1"]),
    ],
)
def test_a_name_that_an_option_holds_twice_is_refused(
    capsys: pytest.CaptureFixture[str], flag: str, command: list[str]
) -> None:
    """The last one would take the place of the first."""
    status, out, err = call(capsys, *command, flag, "updates=2", "updates=3")
    assert (status, out) == (2, "")
    assert err == f"marlzoo: error: {flag} gives updates twice, 2 and 3; leave one out\n"


def test_a_wrong_setting_is_named_with_the_nearest(
    capsys: pytest.CaptureFixture[str], recording: Path
) -> None:
    for given in (("--alpa", "1"), ("--alfa=1",)):
        status, _, err = call(capsys, "train", "omiga", "--data", recording, *given)
        assert (status, err.count("\n")) == (2, 1)
        assert f"unknown option of marlzoo train omiga '{given[0][:6]}'. Did you mean --alpha" in err
    status, _, err = call(capsys, "train", "omiga", "--data", recording, "--alpha", "-1")
    assert status == 2
    assert "'alpha' of OMIGAConfig is -1.0" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["eval", "x.npz", "--episodes", "three"],
            "--episodes takes a whole number, not 'three'; see marlzoo eval --help",
        ),
        (
            ["bench", "xor", "--seeds", "0,1", "x"],
            "--seeds takes numbers with spaces between them, for instance --seeds 0 1 2, not '0,1 x'; see marlzoo",
        ),
        (
            ["eval"],
            r"marlzoo eval: give RUN .*\(file ending in .npz, or the folder .*\); see marlzoo eval --help",
        ),
        (
            ["data", "collect"],
            r"marlzoo data collect: give TASK \(for instance .*\) and --quality QUALITY \(random.*\); see",
        ),
        (
            ["data", "collect", "games/xor", "--quality", "x", "--transitions", "y"],
            "--transitions takes a whole",
        ),
        (["eval", "x.npz", "--device"], "Missing value for argument '--device'. Expected 1 values; see"),
        (["eval", "x.npz", "y.npz"], "2 runs are named; give one, or --cross-play for their members"),
        (["table", "x", "--format", "word"], "invalid choice 'word' for argument '--format'"),
    ],
)
def test_wrong_arguments_are_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, _, err = call(capsys, *arguments)
    assert (status, err.count("\n")) == (2, 1)
    assert re.search(f"^marlzoo: error: {message}", err)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_wrong_arguments_are_one_line_on_a_terminal() -> None:
    mine, its = os.openpty()  # where tyro draws boxes in color
    command = [sys.executable, "-m", "marlzoo", "eval", "x.npz", "--episodes", "three"]
    done = subprocess.run(
        command, stdout=its, stderr=its, env=os.environ | {"COLUMNS": "50", "TERM": "xterm"}
    )
    os.close(its)
    text = os.read(mine, 10_000).decode()
    os.close(mine)
    assert done.returncode == 2
    assert text.startswith("marlzoo: error: --episodes takes a whole number, not 'three'")
    assert text.endswith("see marlzoo eval --help\r\n")
    assert text.count("\n") == 1
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "marlzoo: interrupted\n"),
        (OSError(errno.ENOSPC, "No space left on device", "x.hdf5"), 2, "No space left on device: 'x.hdf5'"),
        (ModuleNotFoundError("no pandas", name="pandas"), 2, "the package 'pandas' is not installed"),
    ],
)
def test_interruptions_and_system_errors(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr("marlzoo.cli.listing.run", raising(error))
    assert call(capsys, "list", "methods")[0] == status
    main(["list", "methods"])
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_method_that_does_not_handle_a_tasks_actions(capsys: pytest.CaptureFixture[str]) -> None:
    """There is one learner, so that nothing can be taken out of a suite."""
    status, _, err = call(capsys, "train", "iql_cql", "--data", "games/two-peaks/marlzoo/peaks")
    assert (status, err.count("\n")) == (2, 1)
    assert (
        "error: iql_cql handles discrete actions, but games/two-peaks has continuous ones; marlzoo list"
        in err
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--env", "name=x"), "name is not an option of an environment"),
        (("--env", "task=x"), "task is not an option of an environment"),
        (("--env", "num_envs=3"), "num_envs is not an option of an environment"),
        (("--device", "meta"), "device 'meta' cannot be used by torch"),
        (("--threads", 5000), "threads is 5000; it must be at most"),
        (("--threads", 10**6), "threads is 1000000; it must be at most"),
    ],
)
def test_values_beyond_the_edge_are_one_line(
    options: tuple[str, Any], text: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = ("--data", "games/xor/marlzoo/D1", "--updates", 2, "--out", tmp_path)
    status, out, told = call(capsys, "train", "bc", *data, *options)
    assert (status, out) == (2, "")
    assert re.fullmatch(f"marlzoo: error: .*{re.escape(text)}.*\n", told)


def test_networks_that_fit_no_machine_are_refused_before_they_are_drawn(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.rand", None)
    rest = ("--data", "games/xor/marlzoo/D3", "--hidden", "100000000", "--out", str(tmp_path))
    status, _, told = call(capsys, "train", "bc", *rest)
    assert status == 2
    assert "marlzoo: error: networks of 1e+16 parameters take 145,519.2 TiB" in told
    assert "take a smaller --hidden" in told


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 7.45 TiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
    ],
)
def test_memory_that_does_not_suffice_is_one_line(
    error: Exception, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("marlzoo.cli.listing.run", lambda rest: (_ for _ in ()).throw(error))
    status, _, told = call(capsys, "list", "tasks")
    assert (status, told.count("\n")) == (2, 1)
    assert told.startswith(f"marlzoo: error: not enough memory ({error}); take a smaller --hidden")
    assert one_line(error) == told.removeprefix("marlzoo: error: ").strip()  # as a benchmark says of a group
    with pytest.raises(type(error)):
        main(["list", "tasks", "--debug"])


def test_a_fault_of_the_program_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("marlzoo.cli.listing.run", raising(ZeroDivisionError("a fault")))
    with pytest.raises(ZeroDivisionError):
        main(["list", "methods"])


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&-"])
def test_a_closed_stream_is_no_reason_to_fail(closed: str) -> None:
    """The shell has closed standard output or error before the command starts."""
    command = f"{shlex.quote(sys.executable)} -m marlzoo list suites {closed}"
    assert subprocess.run(command, shell=True, check=False, capture_output=True).returncode == 0


def test_letters_that_the_output_does_not_know(recording: Path) -> None:
    command = [sys.executable, "-m", "marlzoo", "data", "inspect", str(recording)]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "return" in done.stdout
