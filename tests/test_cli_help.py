"""``--help``: narrow, clear and quick, with a method's settings read from its source."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys

import pytest

from marlzoo.cli import COMMANDS
from marlzoo.cli._options import Offline, Online, Where
from marlzoo.cli.data import ACTIONS
from marlzoo.commands.methods import MethodFile
from marlzoo.registry import find_method, find_methods, method_names, unread_settings
from tests.command_line import call

pytestmark = pytest.mark.usefixtures("own_home")


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys)
    assert status == 0
    assert all(f"  {name} " in out for name in COMMANDS)
    assert call(capsys, "--version")[1].startswith("marlzoo ")
    for command in ("list", "data", "train", "doctor"):
        status, out, _ = call(capsys, command, "--help")
        assert (status, out.startswith(f"usage: marlzoo {command}")) == (0, True)


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
