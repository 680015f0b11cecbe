"""Parsing of typed arguments and of the device, shared by the commands."""

from __future__ import annotations

import contextlib
import io
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from marlzoo.cli._help import command_help, required_options
from marlzoo.config import require_bits
from marlzoo.errors import ConfigError, UnknownNameError

T = TypeVar("T")


def parse(shape: type[T], command: str, arguments: Sequence[str]) -> T:
    """Arguments as an instance of the dataclass ``shape``; asking for help prints it and ends the process.

    ``shape`` may hold nested dataclasses whose options are flags without a prefix.

    Raises:
        UnknownNameError: a flag that there is not; lists the nearest ones.
        ConfigError: a value of the wrong type, one that is missing, or a flag that occurs twice.
    """
    if {"-h", "--help"} & set(arguments):
        print(command_help(command, shape))
        raise SystemExit(0)
    import tyro

    _refuse_repeated(command, arguments)
    report = io.StringIO()  # tyro tells errors in a box of many lines
    try:
        with contextlib.redirect_stderr(report):
            found = tyro.cli(shape, args=list(arguments), prog=f"marlzoo {command}")
    except SystemExit:
        fault = _first_part(report.getvalue())
        flag = re.search(r"Unrecognized options:.*?(--[\w-]+)", fault)
        if flag is None:
            raise ConfigError(f"{_plain(fault, command, shape)}; see marlzoo {command} --help") from None
        with contextlib.redirect_stdout(io.StringIO()) as text, contextlib.suppress(SystemExit):
            tyro.cli(shape, args=["--help"])
        flags = set(re.findall(r"--[a-z][a-z-]+", text.getvalue()))
        raise UnknownNameError(f"option of marlzoo {command}", flag[1], flags) from None
    sys.stderr.write(report.getvalue())
    _require_bits(found)
    return found


def _require_bits(options: Any) -> None:
    """Whole numbers that nothing can count, before anything is begun; those of a method check themselves."""
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            _require_bits(value)
            continue
        for number in value if isinstance(value, tuple) else (value,):
            require_bits(f"--{field.name.replace('_', '-')}", number)


def _plain(fault: str, command: str, shape: type) -> str:
    """An error of tyro in the words of the options instead of Python's types and exceptions."""
    if fault.startswith("Missing from"):
        required = required_options(shape)
        # tyro's line names what is missing by flag or, for arguments, by a word of its own and the text.
        missing = [
            f"{name} ({about})"
            for name, about in required
            if f"{name.split()[0]} " in fault or about in fault
        ]
        return f"marlzoo {command}: give {' and '.join(missing)}"
    number = re.fullmatch(
        r"Error parsing (\S+): (invalid literal for int|could not convert).*?: ('.*').?", fault
    )
    if number:
        kind = "a whole number" if "int" in number[2] else "a number"
        return f"{number[1]} takes {kind}, not {number[3]}"
    several = re.fullmatch(
        r"Error parsing (\S+): Could not find valid parse for arguments: \[(.*)\].?", fault
    )
    if several:  # lists of numbers alone: texts can always be parsed
        given = several[2].replace("', '", " ")
        return f"{several[1]} takes numbers with spaces between them, for instance {several[1]} 0 1 2, not {given}"
    return fault.rstrip(".")


def _refuse_repeated(command: str, arguments: Sequence[str]) -> None:
    """Only the last of several equal flags would count, without a word."""
    flags = [text.partition("=")[0].replace("_", "-") for text in arguments if text.startswith("--")]
    for flag, count in Counter(flags).items():
        if count > 1:
            raise ConfigError(
                f"{flag} occurs {count} times; write it once, with all its values behind it; "
                f"see marlzoo {command} --help"
            )


def _first_part(box: str) -> str:
    """The first section of tyro's error box as one line."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)  # without colors
    lines = [line.strip(" │|") for line in plain.splitlines()]
    rules = [k for k, line in enumerate(lines) if re.fullmatch(r"[─\-╭╮╰╯\s]{8,}", line)]
    # A title may stand inside the box's upper edge.
    titled = [k for k, line in enumerate(lines) if line.startswith("╭")]
    begin = next(iter(titled or rules), -1)
    end = next((k for k in rules if k > begin), len(lines))
    return " ".join(" ".join(lines[begin + 1 : end]).split())


def first_argument(
    kind: str, command: str, arguments: Sequence[str], choices: dict[str, Any], about: str
) -> str | None:
    """The first argument, one of ``choices``; None when help was asked for (and printed).

    Raises:
        ConfigError: there is none.
        UnknownNameError: it is another one.
    """
    if not arguments:
        article = "an" if kind[0] in "aeiou" else "a"
        raise ConfigError(f"marlzoo {command}: name {article} {kind}, one of {', '.join(choices)}")
    if arguments[0] in ("-h", "--help"):
        print(f"usage: marlzoo {command} {kind.upper()} ...\n\n{about}")
        return None
    if arguments[0] not in choices:
        raise UnknownNameError(kind, arguments[0], choices)
    return arguments[0]


def peek(arguments: Sequence[str], flag: str) -> str | None:
    """The (first) value of ``--flag VALUE`` or ``--flag=VALUE``, before the arguments are parsed."""
    for k, argument in enumerate(arguments):
        if argument == flag and k + 1 < len(arguments):
            return arguments[k + 1]
        if argument.startswith(flag + "="):
            return argument.removeprefix(flag + "=")
    return None


def named_values(texts: Sequence[str], flag: str) -> dict[str, Any]:
    """``NAME=VALUE`` texts as names and values: whole numbers, true and false, else text.

    Raises:
        ConfigError: a text of another form.
    """
    found: dict[str, Any] = {}
    for name, value in text_values(texts, flag).items():
        plain = {"true": True, "false": False}.get(value.lower(), value)
        found[name] = int(value) if re.fullmatch(r"-?\d+", value) else plain
    return found


def text_values(texts: Sequence[str], flag: str) -> dict[str, str]:
    """``NAME=VALUE`` texts as names and texts.

    Raises:
        ConfigError: a text of another form, or a name that is there twice.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not name or not sign:
            raise ConfigError(f"{flag} {text!r}: write it as NAME=VALUE")
        if name in found:
            raise ConfigError(f"{flag} gives {name} twice, {found[name]} and {value}; leave one out")
        found[name] = value
    return found


def toml_values(texts: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` texts as names and values; a value is one of TOML, or else text.

    Raises:
        ConfigError: a text of another form.
    """
    found: dict[str, Any] = {}
    for name, value in text_values(texts, "--set").items():
        try:
            found[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[name] = value
    return found
