"""Help of every command in one form, at 80 columns.

It needs neither tyro nor, for the settings of a method, the method: both take longer to import than a person waits.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin

from marlzoo import config
from marlzoo.commands.methods import MethodFile, Setting, settings_in

WIDTH = 80
COLUMN = 28
# What an option takes, by its name; other options take what their type says.
METAVARS = {
    "action_mapping": "MAPPING", "address": "HOST:PORT", "agent": "INDEX", "checkpoint": "RUN",
    "acting": "NAME=VALUE",
    "data": "DATASET", "dataset": "DATASET",
    "device": "DEVICE", "env": "NAME=VALUE", "episode_seed": "SEED", "file": "FILE",
    "first": "RESULTS", "second": "RESULTS",
    "folder": "FOLDER",
    "format": "FORMAT", "from_": "FILE", "hours": "HOURS", "html": "FILE", "kind": "KIND", "license": "LICENSE",
    "log": "LOGGER", "medium_return": "RETURN", "message": "MESSAGE", "method": "METHOD",
    "methods": "METHOD", "name": "NAME", "option": "NAME=VALUE", "others": "RUN", "out": "FILE",
    "over": "NAME=VALUES", "package": "FOLDER", "partition": "NAME", "paths": "RESULTS", "plot": "FILE",
    "policy": "CHECKPOINT", "poor_return": "RETURN", "preset": "NAME", "qualities": "QUALITY", "quality": "QUALITY",
    "random_seed": "SEED",
    "reference": "METHOD", "replay_return": "RETURN", "replica": "INDEX", "rerun": "METHOD",
    "revision": "REVISION", "run": "RUN",
    "seed": "SEED", "seeds": "SEED", "set": "NAME=VALUE", "settings": "NAME=VALUE", "size": "WIDTH HEIGHT",
    "storage": "FOLDER|URL", "task": "TASK", "tasks": "TASK", "time": "LIMIT", "title": "TITLE", "work": "FOLDER",
    "world_model": "FILE",
    "write": "FOLDER",
}  # fmt: skip
FOLDERS = ("folder", "results go")  # how the text of an --out begins that is none of a file
_KINDS = {
    "Positive": "NUMBER", "NonNegative": "NUMBER", "Fraction": "NUMBER", "float": "NUMBER",
    "Count": "N", "Natural": "N", "int": "N", "str": "TEXT", "Path": "PATH", "bool": "",
}  # fmt: skip


def command_help(command: str, shape: type) -> str:
    """Usage, description and options of a command.

    Args:
        command: its name.
        shape: dataclass of its options.
    """
    options = options_of(shape)
    named = [option for option in options if "Positional" not in option.kind]
    given = [option for option in options if "Positional" in option.kind]
    required = [f"{_flags(option)[0]} {_metavar(option)}" for option in named if _required(option)]
    free = ["[options]"] if len(named) > len(required) else []
    words = [*required, *free, *(_positional(option) for option in given)]
    parts = [_usage(command, words), _paragraphs(shape)]
    for title, some in (("arguments:", given), ("options:", named)):
        if some:
            parts.append("\n".join([title, *(line for option in some for line in _entry(option))]))
    return "\n\n".join(parts)


def required_options(shape: type) -> list[tuple[str, str]]:
    """Name with metavar, and text, of the options and arguments that must be given."""
    found = []
    for option in options_of(shape):
        if _required(option):
            flag = [] if "Positional" in option.kind else [_flags(option)[-1]]
            found.append((" ".join([*flag, _metavar(option)]), " ".join(option.about.split())))
    return found


def train_help(method: str, source: MethodFile, shape: type, more: Sequence[Setting] = ()) -> str:
    """Run options of ``marlzoo train``, then the settings of a method.

    Args:
        method: its name.
        source: of the method.
        shape: dataclass of the run options.
        more: settings that its form adds.
    """
    required = "--task TASK" if source.online else "--data DATASET ..."
    presets = source.presets
    about = (
        f"The preset goes before these defaults: the task's, or that of --preset (presets: "
        f"{', '.join(presets) or 'none'}); what it changes "
        f"stands behind its name. As a table: marlzoo list methods {method.partition(' ')[0]}"
    )
    read = [setting for setting in source.settings() if setting.name not in source.unread]
    own = {setting.name: setting for setting in (*more, *read)}
    settings = [
        *textwrap.wrap(f"settings of {method} ({source.summary.rstrip('.')})", WIDTH),
        *textwrap.wrap(about, WIDTH, break_on_hyphens=False),
        *(line for setting in own.values() for line in _entry(setting, presets)),
    ]
    return "\n\n".join(
        [
            _usage(f"train {method}", [required, "[options]", "[settings]"]),
            _paragraphs(shape),
            "\n".join(["run options:", *(line for option in options_of(shape) for line in _entry(option))]),
            "\n".join(settings),
        ]
    )


HIDDEN = "hidden"  # in a field's metadata: it is no option


def options_of(shape: type, values: object = None) -> list[Setting]:
    """The options of a dataclass with the texts at its fields; a nested dataclass adds its own.

    Args:
        shape: the dataclass.
        values: an instance whose values go before the defaults.
    """
    texts = {name: text for cls in reversed(shape.__mro__) for name, text in _texts(cls).items()}
    found: list[Setting] = []
    for item in fields(shape):
        if item.metadata.get(HIDDEN):
            continue
        written = str(item.type)  # as text, because their modules do not evaluate annotations
        value = _default(item) if values is None else getattr(values, item.name)
        made = next(iter(get_args(item.type)), None)  # a class that was made at run time has types, not texts
        if isinstance(made, type) and is_dataclass(made):
            found += options_of(made)
            continue
        nested = re.match(r"Annotated\[(\w+), tyro\.conf\.arg\(name=[\"']{2}", written)
        if nested:
            inner = _named(shape, item.name, nested[1])
            found += options_of(inner, None if value is MISSING else value)
            continue
        named = _named(shape, item.name, written)
        choice = get_args(named) if get_origin(named) is Literal else ()  # of a type with a name
        kind = f"Literal[{', '.join(map(repr, choice))}]" if choice else written
        default = "" if value is MISSING else repr(value)
        found.append(Setting(item.name, kind, default, texts.get(item.name, "")))
    return found


def _named(shape: type, field: str, name: str) -> Any:
    """The object that a name in a field's annotation refers to; None if it is not defined there."""
    owner = next(cls for cls in shape.__mro__ if field in vars(cls).get("__annotations__", {}))
    return vars(sys.modules[owner.__module__]).get(name)


def _default(item: Field[Any]) -> Any:
    return item.default_factory() if item.default_factory is not MISSING else item.default


def _texts(cls: type) -> dict[str, str]:
    """Comments of a class's fields, or its docstring's ``Args``, read from its source; may be empty."""
    try:
        text = textwrap.dedent(inspect.getsource(cls))
        (node,) = ast.parse(text).body
    except (OSError, TypeError, SyntaxError):  # built in, or made at run time
        return {}
    assert isinstance(node, ast.ClassDef)
    section = re.search(r"^Args:\n((?: .*\n|\n)*)", f"{inspect.getdoc(cls)}\n", re.MULTILINE)
    entries = re.findall(r"^    (\w+): (.*(?:\n     .*)*)", section[1] if section else "", re.MULTILINE)
    described = {name: " ".join(about.replace("``", "").split()).rstrip(".") for name, about in entries}
    at_fields = {setting.name: setting.about for setting in settings_in(node, text.splitlines())}
    return described | {name: about for name, about in at_fields.items() if about}


def _usage(command: str, words: list[str]) -> str:
    """A usage that is broken between options only."""
    lines = [f"usage: marlzoo {command}"]
    for word in words:
        if len(lines[-1]) + 1 + len(word) > WIDTH:
            lines.append(" " * 7)
        lines[-1] += f" {word}"
    return "\n".join(lines)


def _paragraphs(shape: type) -> str:
    texts = (inspect.getdoc(shape) or "").split("\n\n")
    return "\n\n".join("\n".join(textwrap.wrap(text, WIDTH, break_on_hyphens=False)) for text in texts)


def _entry(option: Setting, presets: Mapping[str, Mapping[str, str]] | None = None) -> list[str]:
    """The lines of an option, or of a setting of a method with ``presets``."""
    of_method = presets is not None
    metavar = _metavar(option)
    flags = _flags(option)
    if "Positional" in option.kind:
        left = f"  {_positional(option, brackets=False)}"
    elif metavar:
        left = f"  {', '.join(flags)} {metavar}"
    else:  # a run option that is off is switched on; a preset may have switched on a method's
        both = of_method or option.default == "True"
        left = f"  {flags[0]}, --no-{flags[0][2:]}" if both else f"  {flags[0]}"
    body = textwrap.wrap(option.about + _value(option, presets), WIDTH - COLUMN, break_on_hyphens=False)
    lines = [] if len(left) < COLUMN else [left]
    first = left.ljust(COLUMN) if len(left) < COLUMN else " " * COLUMN
    return [*lines, first + body[0], *(" " * COLUMN + line for line in body[1:])]


def _value(option: Setting, presets: Mapping[str, Mapping[str, str]] | None) -> str:
    """The default, unless the text mentions it, and the values of presets."""
    of_method = presets is not None
    if "default" in option.about and not (of_method or option.default in ("False", "True")):
        return ""
    if _required(option):
        return " (required)"
    plain = _plain(option.default)
    if not of_method and plain in ("", "None", "False"):
        return ""
    parts = [] if plain in ("", "None") else [f"default: {plain}"]
    names: dict[str, list[str]] = {}
    for name, settings in (presets or {}).items():
        value = _plain(settings.get(option.name, option.default))
        if value != plain:
            names.setdefault(value, []).append(name)
    parts += [f"{', '.join(those)}: {value}" for value, those in names.items()]
    return f" ({'; '.join(parts)})" if parts else ""


def _required(option: Setting) -> bool:
    return not option.default


def _flags(option: Setting) -> list[str]:
    named = re.search(r"name=[\"'](\w+)[\"']", option.kind)
    alias = re.search(r"aliases=\[[\"'](-\w)[\"']\]", option.kind)
    flag = f"--{(named[1] if named else option.name).replace('_', '-')}"
    return [alias[1], flag] if alias else [flag]


def _positional(option: Setting, brackets: bool = True) -> str:
    metavar = _metavar(option)
    return metavar if _required(option) or not brackets else f"[{metavar}]"


def _metavar(option: Setting) -> str:
    """What follows the flag: one word, a choice, or several."""
    given = re.search(r"metavar=[\"'](.*?)[\"']", option.kind)
    if given:
        return given[1]
    kind = option.kind
    if kind.startswith("Annotated["):
        kind = kind.removeprefix("Annotated[").partition(", tyro")[0]
    kind = kind.removesuffix(" | None").removesuffix(" | Literal['']").removesuffix(' | Literal[""]')
    several = re.fullmatch(r"tuple\[(.+), \.\.\.\]", kind)
    word = _word(option.name, several[1] if several else kind)
    if option.name == "out" and option.about.startswith(FOLDERS):
        word = "FOLDER"
    return f"{word} ..." if several else word


def _word(name: str, kind: str) -> str:
    choices = re.fullmatch(r"Literal\[(.*)\]", kind)
    if choices:
        return "{" + ",".join(part.strip(" '\"") for part in choices[1].split(",")) + "}"
    if kind == "bool":
        return ""
    if (name in METAVARS and not kind.startswith("tuple")) or name == "size":
        return METAVARS[name]
    named = get_args(getattr(config, kind, None))  # a choice with a name
    if named and kind not in _KINDS:
        return "{" + ",".join(map(str, named)) + "}"
    return _KINDS.get(kind, "VALUE")


def _plain(default: str) -> str:
    """A value as it is written on the command line."""
    if default in ("()", "''", '""'):
        return ""
    if default in ("float('inf')", 'float("inf")'):
        return "inf"
    path = re.search(r"Path\('(.*)'\)$", default)
    several = re.fullmatch(r"\((.*?),?\)", default)
    if several:
        return re.sub("[,'\"]", "", several[1])
    return path[1] if path else default.strip("'\"").removeprefix("math.")
