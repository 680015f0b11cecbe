"""``marlzoo completion``: a script for the shell that completes commands, methods, options and fixed values."""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import field, make_dataclass
from typing import Annotated, Any, Union

from marlzoo.cli._lazy import tyro
from marlzoo.cli._options import Offline, Online
from marlzoo.cli._parse import first_argument
from marlzoo.commands.methods import MethodFile

SHELLS = {
    "bash": "marlzoo completion bash > ~/.local/share/bash-completion/completions/marlzoo",
    "zsh": "marlzoo completion zsh > FOLDER/_marlzoo   with a FOLDER of $fpath",
    "fish": "marlzoo completion fish > ~/.config/fish/completions/marlzoo.fish",
}


def run(arguments: Sequence[str]) -> int:
    """Print the script."""
    ways = "\n".join(f"  {shell}:\n    {way}" for shell, way in SHELLS.items())
    about = f"Print a script that completes commands and options. Shells, and where it goes:\n{ways}"
    asked = ["--help"] if {"-h", "--help"} & set(arguments) else arguments
    shell = first_argument("shell", "completion", asked, SHELLS, about)
    if shell is not None:
        print(script(shell))
    return 0


def script(shell: str) -> str:
    """The completion script of a shell; methods are read as text, none is imported."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.suppress(SystemExit):
        tyro.cli(
            _one_of(_commands()),
            prog="marlzoo",
            args=["--tyro-print-completion", shell],
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes),
        )
    return text.getvalue()


def _commands() -> dict[str, Any]:
    """The arguments of every command."""
    from marlzoo.cli import COMMANDS, data, modeling
    from marlzoo.cli.doctoring import FLAGS
    from marlzoo.cli.resulting import ACTIONS

    nested: dict[str, dict[str, Any]] = {
        "train": _methods(),
        "data": {
            "collect": data.CollectCommand,
            "inspect": data.InspectCommand,
            "check": data.CheckCommand,
            "convert": data.ConvertCommand,
            "download": data.DownloadCommand,
            "mix": data.MixCommand,
            "card": data.CardCommand,
            "model": modeling.ModelCommand,
            "teach": make_dataclass("Teach", [("task", str)]),
        },
        "results": {**ACTIONS, "help": _flags("Help", ())},
        "completion": {shell: _flags(shell, ()) for shell in SHELLS},
    }
    found: dict[str, Any] = {}
    for name, (module, _) in COMMANDS.items():
        if name in nested:
            found[name] = make_dataclass(name.title(), [("action", _one_of(nested[name]))])
        elif name == "doctor":
            found[name] = _flags("Doctor", FLAGS)
        else:
            found[name] = importlib.import_module(f"marlzoo.cli.{module}").Options
    return found


def _methods() -> dict[str, Any]:
    """Run options and settings of every method."""
    from marlzoo.registry import find_methods

    made = {}
    for name, modules in find_methods().modules.items():
        source = MethodFile(modules[0])
        shape = Online if source.online else Offline
        settings = [
            (
                setting.name,
                Annotated[bool if setting.kind == "bool" else str, tyro.conf.arg(help=setting.about)],
                field(default=False if setting.kind == "bool" else ""),
            )
            for setting in source.settings()
            if setting.name not in source.unread
        ]
        made[name] = make_dataclass(name, [("options", shape), ("settings", make_dataclass("S", settings))])
    return made


def _one_of(shapes: Mapping[str, Any]) -> Any:
    """Subcommands by name."""
    named = [Annotated[shape, tyro.conf.subcommand(name)] for name, shape in shapes.items()]
    return Union[tuple(named)]  # noqa: UP007 - of as many as there are


def _flags(name: str, flags: Sequence[str]) -> Any:
    return make_dataclass(name, [(flag.lstrip("-"), bool, field(default=False)) for flag in flags])
