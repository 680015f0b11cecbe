"""The command line: what it prints, how it fails, and that it starts without what it does not need."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from marlzoo.benchmarks.recorder import one_line
from marlzoo.benchmarks.results import ResultsFile

import marlzoo
from marlzoo.cli import COMMANDS, listing, main
from marlzoo.cli._options import Offline, Online, Where
from marlzoo.cli.data import ACTIONS
from marlzoo.commands import diagnosis as doctor
from marlzoo.commands.methods import MethodFile
from marlzoo.data.convert import convert
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import write_omiga
from marlzoo.data.load import load_dataset
from marlzoo.errors import pip_install
from marlzoo.families import task_spec
from marlzoo.registry import find_method, find_methods, method_names, unread_settings
from marlzoo.system.array_files import load_arrays
from marlzoo.training.checkpoint import save
from tests.recordings import HOPPER, uniform_recording
from tests.test_results import ROW

TINY = ["--updates", "4", "--eval-every", "2", "--episodes", "2", "--horizon", "5", "--hidden", "8"]


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return uniform_recording(tmp_path_factory.mktemp("data") / "uniform.hdf5")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)


def call(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str, str]:
    status = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


# ---- lists ---------------------------------------------------------------------------------------------


def test_lists_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for kind in ("methods", "tasks", "datasets", "formats", "suites"):
        status, out, _ = call(capsys, "list", kind, "--json")
        assert status == 0
        found[kind] = {entry["name"]: entry for entry in json.loads(out)}
    assert found["methods"]["omiga"]["module"] == "marlzoo.algorithms.omiga"
    assert found["methods"]["bc"]["summary"].startswith("BC")
    task = found["tasks"][HOPPER]
    assert (task["agents"], task["observation"], task["actions"]) == (3, 14, "continuous")
    assert "demo" in found["suites"]
    assert "team" in found["formats"]["D4RL or MOMA-PPO"]["options"]
    for entry in found["formats"].values():  # where layout, mapping and assumptions are told
        assert "``" in (importlib.import_module(entry["module"]).__doc__ or ""), entry


def test_lists_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "list", "methods")
    assert status == 0
    assert any(line.startswith("omiga") for line in out.splitlines())
    reconstructed = {line.split()[0] for line in out.splitlines() if "reconstruction" in line}
    assert reconstructed == {"inspo", "mabcq"}


def test_no_path_in_a_list_is_broken(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [("a" * 30, "installed", "p"), ("b", "recipe", "q " * 60)]
    listing._print([dict(zip(("name", "state", "place"), row, strict=True)) for row in rows])
    assert [line.split() for line in capsys.readouterr().out.splitlines()[1:]] == [
        " ".join(row).split() for row in rows
    ]


def test_installed_datasets_and_recipes_are_listed(
    capsys: pytest.CaptureFixture[str], recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{HOPPER}/marlzoo/medium"
    monkeypatch.setattr("marlzoo.commands.listing._recipes", lambda: [(HOPPER, "medium"), (HOPPER, "expert")])
    assert call(capsys, "data", "convert", recording, name)[0] == 0
    entries = json.loads(call(capsys, "list", "datasets", "--json")[1])
    assert [(entry["name"], entry["state"]) for entry in entries if entry["state"] != "computed"] == [
        (name, "installed"),
        (f"{HOPPER}/marlzoo/expert", "recipe"),
    ]
    assert entries[1]["place"] == f"marlzoo data collect {HOPPER} --quality expert"


def test_every_listed_dataset_has_a_name_of_its_own_and_can_be_had(
    capsys: pytest.CaptureFixture[str],
) -> None:
    entries = json.loads(call(capsys, "list", "datasets", "--json")[1])
    states = {entry["name"]: entry["state"] for entry in entries}
    assert len(states) == len(entries)
    assert states[f"{HOPPER}/marlzoo/medium-v2"] == states[f"{HOPPER}/marlzoo/medium"] == "recipe"
    assert states["games/bridge/marlzoo/optimal"] == "computed"
    computed = [name for name, state in states.items() if state == "computed"]
    assert marlzoo.load_dataset(computed[0]).rows


def test_the_settings_of_a_methods_dyna_form_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(call(capsys, "list", "methods", "dyna_omiga", "--json")[1])
    about = {entry["setting"]: entry["meaning"] for entry in shown}
    assert about["alpha"].startswith("strength of the pull")
    assert about["dyna_share"]


def test_listing_starts_without_torch_and_simulators() -> None:
    code = (
        "import sys; from marlzoo.cli import main\n"
        "for kind in ('methods', 'tasks', 'datasets', 'formats', 'suites'): main(['list', kind, '--json'])\n"
        "bad = {'torch', 'mujoco', 'pandas', 'scipy', 'gymnasium'} & set(sys.modules)\n"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# ---- failing -------------------------------------------------------------------------------------------


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
        (["bench"], "name a suite, one of demo"),
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


def test_what_bench_would_do_is_json_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else is on standard output, as for the table."""
    monkeypatch.chdir(tmp_path)
    some = ("--methods", "bc", "--seeds", "0", "--updates", "2", "--set", "eval_every=1")
    _, out, _ = call(capsys, "bench", "xor", *some, "--show", "--json")
    shown = json.loads(out)
    assert (shown["name"], shown["seeds"], shown["updates"]) == ("xor", [0], 2)
    _, out, err = call(capsys, "bench", "xor", *some, "--dry-run", "--json", "--hours", "1")
    found = json.loads(out)
    assert {line["dataset"] for line in found} == {"games/xor D1", "games/xor D3"}
    assert [(line["runs"], line["missing"], line["left_out"]) for line in found] == [(1, 1, False)] * 2
    assert "By learner" in err


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


def raising(error: BaseException) -> Any:
    def run(arguments: Any) -> int:
        raise error

    return run


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


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys)
    assert status == 0
    assert all(f"  {name} " in out for name in COMMANDS)
    assert call(capsys, "--version")[1].startswith("marlzoo ")
    for command in ("list", "data", "train", "doctor"):
        status, out, _ = call(capsys, command, "--help")
        assert (status, out.startswith(f"usage: marlzoo {command}")) == (0, True)


def test_a_part_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, text in (("tasks", "MPE/"), ("datasets", "hopper"), ("suites", "tune-"), ("formats", "vault")):
        every = json.loads(call(capsys, "list", kind, "--json")[1])
        some = json.loads(call(capsys, "list", kind, text, "--json")[1])
        assert 0 < len(some) < len(every)
        assert some == [entry for entry in every if text.lower() in entry["name"].lower()]
    status, _, err = call(capsys, "list", "tasks", "hoppper")
    assert (status, "no name contains 'hoppper'; without it all are listed" in err) == (2, True)


def test_a_method_that_does_not_handle_a_tasks_actions(capsys: pytest.CaptureFixture[str]) -> None:
    """There is one learner, so that nothing can be taken out of a suite."""
    status, _, err = call(capsys, "train", "iql_cql", "--data", "games/two-peaks/marlzoo/peaks")
    assert (status, err.count("\n")) == (2, 1)
    assert (
        "error: iql_cql handles discrete actions, but games/two-peaks has continuous ones; marlzoo list"
        in err
    )


def test_help_of_train_shows_run_options_apart_from_settings(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "train", "omiga", "--help")
    assert status == 0
    options, settings = out.split("settings of omiga")
    assert "--updates N" in options
    assert "--alpha NUMBER" in settings
    assert "paper: α" in settings
    assert "presets: mamujoco, smac" in " ".join(settings.split())
    assert max(map(len, out.splitlines())) <= 80


def _every_help() -> list[list[str]]:
    nested = {
        "data": ACTIONS,
        "list": ("methods",),
        "results": ("migrate", "compress"),
        "train": ("omiga", "mappo", "comadice", "iql --dyna"),
    }
    words = [[name] for name in COMMANDS]
    words += [[name, *action.split()] for name, actions in nested.items() for action in actions]
    return [[], *words]


def test_help_is_narrow_says_what_is_meant_and_imports_little() -> None:
    code = (
        "import contextlib, sys; from marlzoo.cli import main\n"
        f"for words in {_every_help()}:\n"
        "    with contextlib.suppress(SystemExit): assert main([*words, '--help']) == 0\n"
        "sys.exit(','.join({'torch', 'pandas', 'numpy', 'tyro'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert sum(line.startswith("usage: ") for line in lines) == len(_every_help())
    assert [line for line in lines if len(line) > 80] == []
    unclear = re.compile(r"\b(STR|INT|FLOAT|TEXT)\b(?!\S)|\{None\}|default: \)|<class")
    assert [line for line in lines if unclear.search(line)] == []
    options = re.sub(r"\n {28}", " ", done.stdout)  # with the text behind its option
    assert re.findall(r"\n  --.*?  of .*|default: [a-z]+\(.*", options) == []  # half a sentence, or Python


@pytest.mark.parametrize("name", method_names())
def test_settings_read_from_source_are_those_of_the_class(name: str) -> None:
    (module,) = find_methods().modules[name]
    source, cls = MethodFile(module), find_method(name)
    found = {setting.name: setting for setting in source.settings()}
    assert found.keys() == {field.name for field in dataclasses.fields(cls.config_class)}
    assert all(setting.about for setting in found.values())
    assert source.actions == tuple(cls.actions)
    assert source.online == (cls.sampling == "online")
    assert source.unread == unread_settings(cls)
    presets = {preset: {k: repr(v) for k, v in values.items()} for preset, values in cls.presets.items()}
    assert source.presets == presets


def test_help_shows_what_each_preset_has_in_place_of_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    status, told, _ = call(capsys, "train", "icq", "--help")
    assert status == 0
    shown = " ".join(told.split())
    assert "presets: smac, smac-recurrent, smac-authors, mamujoco, mpe" in shown
    assert "alpha_pi (default: 0.1; mamujoco, mpe: 100.0)" in shown
    assert "(default: 256; smac-recurrent, smac-authors: 64)" in shown
    _, told, _ = call(capsys, "train", "eql", "--help")  # its presets are written in another module
    assert "presets: mamujoco, mpe, smac, smac-recurrent" in " ".join(told.split())
    assert "presets: none" in " ".join(call(capsys, "train", "mappo", "--help")[1].split())


def test_no_setting_of_a_method_has_the_name_of_a_run_option() -> None:
    """Both are flags of one command line, which could not be read."""
    taken = {field.name for shape in (Offline, Online, Where) for field in dataclasses.fields(shape)}
    for name in method_names():
        settings = {field.name for field in dataclasses.fields(find_method(name).config_class)}
        assert not settings & taken, name


def test_settings_and_presets_of_a_method(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "list", "methods", "icq", "--json")
    assert status == 0
    entries = {entry["setting"]: entry for entry in json.loads(out)}
    presets = find_method("icq").presets
    wanted = presets["mamujoco"]["critic_temperature"]
    assert entries["critic_temperature"]["mamujoco"] == wanted != entries["critic_temperature"]["default"]
    assert call(capsys, "list", "methods", "iqc")[0] == 2


# ---- data ----------------------------------------------------------------------------------------------


def test_data_collect(
    capsys: pytest.CaptureFixture[str], recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def collect(*arguments: Any, **options: Any) -> Path:
        options["policy"] = str(options["policy"])
        assert options == {"policy": "team.npz", "replica": 2, "env": {"flavor": "original"}}
        *values, progress = arguments
        asked.extend(values)
        progress(1, 2)
        return recording

    monkeypatch.setattr("marlzoo.recording.recipes.collect", collect)
    policy = ("--policy", "team.npz", "--replica", 2, "--env", "flavor=original")
    status, out, told = call(
        capsys, "data", "collect", HOPPER, "--quality", "medium", "--transitions", 50, "--seed", 3, *policy
    )
    assert re.search(rf"^Recorded in 0:00:\d\d. Next: marlzoo train METHOD --data {recording}$", told, re.M)
    assert (status, asked) == (0, [HOPPER, "medium", 50, 3, None])
    assert f"{recording}: 400 transitions" in out


def test_data_inspect(capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path) -> None:
    status, out, _ = call(capsys, "data", "inspect", recording, "--json", "--plot", tmp_path / "plot.png")
    assert status == 0
    assert json.loads(out)["transitions"] == 400
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "400 in" in call(capsys, "data", "inspect", recording)[1]


def test_data_check(capsys: pytest.CaptureFixture[str], recording: Path) -> None:
    status, out, _ = call(capsys, "data", "check", recording, "--sample", 100)
    assert (status, "data and environment agree" in out) == (0, True)
    status, out, _ = call(capsys, "data", "check", recording, "--task", "mamujoco/ant-2x4", "--json")
    assert (status, json.loads(out)["agrees"]) == (1, False)


def test_computed_data(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    name = "games/xor/marlzoo/D3"
    status, out, _ = call(capsys, "data", "inspect", name, "--json")
    assert (status, json.loads(out)["episodes"]) == (0, 5000)
    status, out, _ = call(capsys, "data", "check", name)
    assert (status, "data and environment agree" in out) == (0, True)
    small = ("--updates", 4, "--eval-every", 2, "--hidden", 8, "--batch-size", 8, "--episodes", 2)
    status, out, _ = call(capsys, "train", "omiga", "--data", name, *small, "--out", tmp_path)
    assert status == 0
    assert "D3" in (tmp_path / "train-omiga-games-xor" / "rows.csv").read_text()


def test_data_convert(capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path) -> None:
    status, out, told = call(capsys, "data", "convert", recording, tmp_path / "copy.hdf5")
    assert (status, Path(out.strip())) == (0, tmp_path / "copy.hdf5")
    assert "read as OMIGA or native HDF5" in told
    assert re.search(
        rf"^Converted in 0:00:\d\d. Next: marlzoo data inspect {tmp_path}/copy.hdf5$", told, re.M
    )
    before = (tmp_path / "copy.hdf5").read_bytes()
    status, _, told = call(capsys, "data", "convert", "games/xor/marlzoo/D1", tmp_path / "copy.hdf5")
    assert (status, (tmp_path / "copy.hdf5").read_bytes()) == (2, before)
    assert (
        "copy.hdf5: exists already and is left as it is; choose another name, or replace it with --force"
        in told
    )
    assert call(capsys, "data", "convert", recording, tmp_path / "copy.hdf5", "--force")[0] == 0
    first, second = (
        json.loads(call(capsys, "data", "inspect", path, "--json")[1])["card"]["content_hash"]
        for path in (recording, tmp_path / "copy.hdf5")
    )
    assert first == second


# ---- train, eval, table, bench -------------------------------------------------------------------------


def test_train_evaluate_and_tabulate(
    capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path
) -> None:
    arguments = ["train", "omiga", "--data", recording, "--alpha", 1, "--seeds", 4, 5, *TINY]
    status, out, _ = call(capsys, *arguments)
    assert status == 0
    assert "Settings: alpha=1.0, hidden=8." in out
    folder = tmp_path / "results" / "train-omiga-mamujoco-hopper-3x1"
    rows = {row.seed: row for row in ResultsFile(folder / "rows.csv").rows() if row.updates == 4}
    assert set(rows) == {4, 5}
    (checkpoint,) = (folder / "checkpoints").glob("*.npz")
    status, out, _ = call(capsys, "eval", checkpoint, "--episodes", 2, "--horizon", 5, "--json")
    assert status == 0
    for line in json.loads(out):  # the same starts as in training, so the same numbers
        assert line["mean_return"] == rows[line["seed"]].mean_return
    again = call(capsys, "eval", checkpoint, "--json")[1]  # the checkpoint knows how it was evaluated
    timed = re.compile(r'"action_us": [0-9.]+')
    assert timed.sub("", again) == timed.sub("", out) != out
    assert "seed 4, 4 updates: return" in call(capsys, "eval", checkpoint, "--episodes", 1, "--seed", 7)[1]
    assert "| dataset |" in call(capsys, "table", folder, "--format", "markdown")[1]
    assert r"\toprule" in call(capsys, "table", folder, "--format", "latex")[1]
    assert "iqm_low" in call(capsys, "table", folder, "--format", "csv")[1]
    assert "Probability" not in call(capsys, "table", folder)[1]  # one learner only
    assert call(capsys, "table", folder, "--write", tmp_path / "tables")[0] == 0
    assert (tmp_path / "tables" / "table.tex").exists()


def test_a_training_ends_with_its_own_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder holds those of runs with other settings, too."""
    small = [
        "train",
        "bc",
        "--data",
        "games/xor/marlzoo/D1",
        "--updates",
        2,
        "--eval-every",
        2,
        "--episodes",
        1,
    ]

    def named(width: int) -> list[str]:
        return re.findall("Or: marlzoo eval (.*)", call(capsys, *small, "--hidden", width)[1])

    first = {width: named(width) for width in (4, 5, 6)}
    assert sorted(found for (found,) in first.values()) == sorted(
        str(file.relative_to(tmp_path)) for file in (tmp_path / "results/train-bc-games-xor").glob("*/*.npz")
    )
    assert {width: named(width) for width in first} == first  # nothing is trained

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(find_method("bc"), "update", fail)
    assert named(7) == []


def test_data_of_a_task_without_a_simulator(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Trained on, judged and exported; whoever wants them evaluated is told how to go on without."""
    rng = np.random.default_rng(0)
    episode = {"obs": rng.normal(size=(4, 2, 3)), "action": np.zeros((3, 2), int), "reward": np.ones(3)}
    for number, task in enumerate(("lab/walk", "games/xo", "")):
        file = tmp_path / f"mine{number}.hdf5"
        marlzoo.save_dataset(Dataset.from_episodes([episode] * 4, task=task, n_actions=2), file)
        given = ["train", "bc", "--data", file, "--updates", 2, "--hidden", 8, "--name", f"of-{task[:3]}"]
        status, _, told = call(capsys, *given)
        assert (status, "trained on with --episodes 0" in told.splitlines()[-1]) == (2, True)
        assert ("Did you mean games/xor" in told) == (task == "games/xo")
        status, out, told = call(capsys, *given, "--episodes", 0)
        folder = tmp_path / "results" / f"of-{task[:3]}"
        (checkpoint,) = (folder / "checkpoints").iterdir()
        assert (status, f"Checkpoint: {checkpoint.relative_to(tmp_path)}" in out) == (0, True)
        assert "Next: marlzoo ope " in told
        judged = ["ope", folder, "--data", file, "--updates", 2, "--members", 2, "--hidden", 8]
        status, out, told = call(capsys, *judged)
        assert (status, "fitted Q evaluation" in out) == (0, True)
        assert f"Next: marlzoo export {folder}" in told
        assert call(capsys, "export", folder, "--format", "torch", "--out", tmp_path / "team.pt2")[0] == 0


@pytest.mark.parametrize("task", ["lab/walk", "games/xo", ""])
@pytest.mark.parametrize("command", ["eval", "eval --cross-play", "render -o team.gif --seed 0", "finetune"])
def test_who_plays_a_run_of_a_task_without_a_simulator_is_told_what_can_be_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, task: str, command: str
) -> None:
    spec = replace(task_spec("games/xor"), task=task)
    learner = marlzoo.make("cql_ma", spec, seeds=[0, 1], hidden=8)
    save(tmp_path / "run.npz", learner, meta={"task": task})
    name, *options = command.split()
    steps = ["--env-steps", 100, "--data-share", 0, "--data-share-end", 0] if name == "finetune" else []
    status, _, told = call(capsys, name, tmp_path / "run.npz", *options, *steps)
    cause = f"nothing here plays {task}, the task of its training" if task else "does not name its task"
    assert (status, f"{tmp_path / 'run.npz'}: {cause}" in told) == (2, True)
    assert "marlzoo ope estimates returns from data" in told
    assert ("docs/own_environment.md" in told) == bool(task)
    assert ("Did you mean games/xor" in told) == (task == "games/xo")
    # A slip of this command is named as one.
    told = call(capsys, name, tmp_path / "run.npz", *options, *steps, "--task", "games/xo")[2]
    assert told.count("unknown task 'games/xo'. Did you mean games/xor") == 1
    assert "training" not in told


def test_data_without_a_card_are_trained_on_and_the_checkpoint_keeps_the_task(
    capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path
) -> None:
    data = load_dataset(recording)
    bare = {
        name: getattr(data, name) for name in ("obs", "action", "reward", "terminal", "truncated", "starts")
    }
    np.savez(tmp_path / "bare.npz", **bare)
    convert(tmp_path / "bare.npz", tmp_path / "bare.hdf5", horizon=1000)
    given = ["train", "bc", "--data", tmp_path / "bare.hdf5", *TINY, "--env", "threads=1"]
    assert "give it with --task" in call(capsys, *given)[2]
    assert call(capsys, *given, "--task", HOPPER)[0] == 0
    (checkpoint,) = (tmp_path / "results" / "train-bc-mamujoco-hopper-3x1" / "checkpoints").glob("*.npz")
    meta = load_arrays(checkpoint)[1]
    assert (meta["task"], meta["env"], meta["horizon"], meta["episodes"]) == (HOPPER, {"threads": 1}, 5, 2)
    status, out, _ = call(capsys, "eval", checkpoint, "--json")
    assert (status, json.loads(out)[0]["task"], json.loads(out)[0]["episodes"]) == (0, HOPPER, 2)
    # without the simulator, and without a task
    few = ["train", "bc", "--data", tmp_path / "bare.hdf5", "--updates", 4, "--episodes", 0, "--hidden", 8]
    status, out, told = call(capsys, *few)
    assert (status, "Trained for 4 updates, not evaluated, in 0:00:" in told) == (0, True)
    assert "Next: marlzoo ope " in told  # no simulator is known
    assert "Nothing trained, the checkpoint has 4 updates already, in 0:00:" in call(capsys, *few)[2]
    assert "Trained for 4 updates, not evaluated," in call(capsys, *few, "--force")[2]
    (unevaluated,) = (tmp_path / "results" / "train-bc" / "checkpoints").glob("*.npz")
    assert unevaluated.name in out
    assert "does not name its task; give it with --task" in call(capsys, "eval", unevaluated)[2]
    assert call(capsys, "eval", unevaluated, "--task", HOPPER, "--episodes", 1, "--horizon", 3)[0] == 0
    assert "must not be negative" in call(capsys, "eval", unevaluated, "--episodes", -1)[2]


def test_a_flavor_that_fits_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shape = task_spec("smac/3m", flavor="original")
    rng, rows = np.random.default_rng(0), 20
    data = Dataset.create(
        shape,
        obs=rng.random((rows, 3, shape.obs_size)),
        state=rng.random((rows, shape.state_size)),
        action=np.zeros((rows, 3), int),
        reward=np.ones(rows),
        terminal=np.arange(rows) == rows - 2,
        truncated=np.zeros(rows, bool),
        starts=[0],
        action_mask=np.ones((rows, 3, shape.action_size), bool),
    )
    write_omiga(data, tmp_path / "3m.hdf5")
    status, _, err = call(capsys, "train", "bc", "--data", tmp_path / "3m.hdf5", "--task", "smac/3m", *TINY)
    assert (status, "(--env flavor=original) the task has the shape of the data" in err) == (2, True)


def test_options_of_the_environment_reach_it(
    capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path
) -> None:
    given = ["train", "bc", "--data", recording, *TINY]
    assert call(capsys, *given, "--env", "threads=1", "action_mapping=concat")[0] == 0
    (checkpoint,) = (tmp_path / "results/train-bc-mamujoco-hopper-3x1/checkpoints").glob("*.npz")
    commands = ([*given, "--out", tmp_path / "other"], ["data", "check", recording], ["eval", checkpoint])
    for command in commands:
        assert (
            "unknown option of mamujoco/hopper-3x1 'thread'" in call(capsys, *command, "--env", "thread=1")[2]
        )
        assert "--env 'threads': write it as NAME=VALUE" in call(capsys, *command, "--env", "threads")[2]
    assert "data and environment agree" in call(capsys, "data", "check", recording, "--env", "threads=1")[1]


def test_train_online(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = ["--num-envs", 2, "--rollout", 8, "--batch-size", 16, "--epochs", 1, "--hidden", 8]
    status, _, _ = call(capsys, "train", "mappo", "--task", HOPPER, "--steps", 32, "--log-every", 1, *small)
    assert status == 0
    folder = tmp_path / "results" / "train-mappo-mamujoco-hopper-3x1"
    assert (folder / "curve.csv").read_text().splitlines()[0].startswith("seed,updates,steps")
    assert [line.split(",")[:2] for line in (folder / "metrics.csv").read_text().splitlines()[1:]] == [
        ["1", "0"], ["2", "0"],
    ]  # fmt: skip
    status, out, _ = call(capsys, "eval", folder / "checkpoint.npz", "--episodes", 1, "--horizon", 5)
    assert (status, f"mappo on {HOPPER}, seed 0, 2 updates" in out) == (0, True)


def test_bench_with_changes(capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        f'updates = 4\nepisodes = 1\nhorizon = 5\n[[data]]\nfile = "{recording}"\n'
        '[[learners]]\nmethod = "omiga"\n[[learners]]\nmethod = "bc"\nconfig = { hidden = 8 }\n'
    )
    arguments = ["bench", "mine.toml", "--methods", "bc", "--seeds", 7, "--updates", 2, "--out", "out"]
    assert call(capsys, *arguments)[0] == 0
    rows = ResultsFile(tmp_path / "out" / "mine" / "rows.csv").rows()
    assert [(row.method, row.seed, row.updates) for row in rows] == [("bc", 7, 1), ("bc", 7, 2)]
    command = "marlzoo bench mine.toml --methods bc --seeds 7 --updates 2 --out out"
    assert f"`{command}`" in (tmp_path / "out" / "mine" / "table.md").read_text()


def test_table_of_several_places(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from dataclasses import replace

    ResultsFile(tmp_path / "a" / "rows.csv").append([ROW])
    ResultsFile(tmp_path / "b" / "rows.csv").append([replace(ROW, method="second")])
    out = call(capsys, "table", "a", "b/rows.csv", "--format", "csv")[1]
    assert out.count(HOPPER) == 2
    status, _, _ = call(capsys, "table", "a", "b", "--write", "made")
    assert status == 0
    assert out == (tmp_path / "made" / "table.csv").read_text(), "the same columns, with the names"
    assert json.loads(call(capsys, "table", "a", "b", "--json")[1])[1]["learner"] == "second"


# ---- doctor --------------------------------------------------------------------------------------------


def test_doctor_reports_every_requirement(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(out)}
    for package in ("python", "marlzoo", "torch", "numpy", "mujoco", "tyro", "tasks mamujoco", "methods"):
        assert found[package]["state"] == "ok", found[package]
    assert status == int(any(finding["state"] == "missing" for finding in found.values()))


def test_doctor_names_the_command_that_fixes(monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def missing(name: str) -> str:
        if name == "mujoco":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "numpy" else version(name)

    monkeypatch.setattr(metadata, "version", missing)
    found = {finding.what: finding for finding in doctor.diagnose()}
    assert (found["mujoco"].state, found["numpy"].state) == ("missing", "missing")
    assert found["mujoco"].remedy == pip_install("mujoco")
    assert sys.executable in found["mujoco"].remedy
    assert "1.0, but >=" in found["numpy"].found
    assert "methods" not in found, "without its packages every method would be reported as broken"
    assert "2 missing" in doctor.findings_text([found["mujoco"], found["numpy"]])


@pytest.mark.parametrize(
    ("version", "wanted", "expected"),
    [
        ("2.13.0+cpu", ">=2.6", True),
        ("3.16.9", "<4,>=3.17", False),
        ("4.0", "<4,>=3.17", False),
        ("3.17", ">=3.17,<4", True),
        ("1.10", ">=1.9", True),
        ("1.0", "", True),
    ],
)
def test_version_ranges(version: str, wanted: str, expected: bool) -> None:
    assert doctor.fits(version, wanted) is expected


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
