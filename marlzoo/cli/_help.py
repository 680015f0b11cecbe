"""Help of ``marlzoo train METHOD``, made from source text: importing the method would import torch first."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap

from marlzoo.cli._methods import Setting, Source

WIDTH = 80
COLUMN = 28
_KINDS = {
    "Positive": "FLOAT", "NonNegative": "FLOAT", "Fraction": "FLOAT", "float": "FLOAT",
    "Count": "INT", "Natural": "INT", "int": "INT", "str": "TEXT", "Path": "PATH", "bool": "",
}  # fmt: skip


def train_help(method: str, source: Source, options: type) -> str:
    """The help text: run options, then the method's settings with defaults.

    Args:
        method: its name.
        source: of the method.
        options: dataclass of the run options, whose fields are followed by their texts.
    """
    usage = "--task TASK" if source.online else "--data DATASET [DATASET ...]"
    presets = ", ".join(source.presets) or "none"
    lines = [
        f"usage: marlzoo train {method} {usage} [options] [settings]",
        "",
        *textwrap.wrap(inspect.getdoc(options) or "", WIDTH),
        "",
        "run options:",
        *(line for setting in _run_options(options) for line in _entry(setting)),
        "",
        *textwrap.wrap(f"settings of {method} ({source.summary})", WIDTH),
        *textwrap.wrap(
            f"The task's preset goes before these defaults (presets: {presets}). "
            f"Their values: marlzoo list methods {method}",
            WIDTH,
            break_on_hyphens=False,
        ),
        *(line for setting in source.settings() for line in _entry(setting)),
    ]
    return "\n".join(lines)


def _run_options(options: type) -> list[Setting]:
    """The fields of a dataclass with the texts below them."""
    body = ast.parse(textwrap.dedent(inspect.getsource(options))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = []
    for item, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and isinstance(text, ast.Expr)
        ):
            assert isinstance(text.value, ast.Constant)
            default = repr(getattr(options, item.target.id)) if item.value is not None else ""
            kind, about = ast.unparse(item.annotation), " ".join(str(text.value.value).split())
            found.append(Setting(item.target.id, kind, default, about))
    return found


def _entry(setting: Setting) -> list[str]:
    flag = f"--{setting.name.replace('_', '-')}"
    metavar = _metavar(setting.kind)
    left = f"  {flag} {metavar}" if metavar else f"  {flag}, --no-{flag[2:]}"
    default = _plain(setting.default)
    about = f"{setting.about} (default: {default})" if default else f"{setting.about} (required)"
    body = textwrap.wrap(about.strip(), WIDTH - COLUMN, break_on_hyphens=False)
    if len(left) >= COLUMN:
        return [left, *(" " * COLUMN + line for line in body)]
    return [left.ljust(COLUMN) + body[0], *(" " * COLUMN + line for line in body[1:])]


def _metavar(kind: str) -> str:
    if kind in _KINDS:
        return _KINDS[kind]
    choices = re.match(r"Literal\[(.*)\]$", kind)
    if choices:
        return "{" + ",".join(part.strip(" '\"") or '""' for part in choices[1].split(",")) + "}"
    several = re.match(r"tuple\[(\w+),", kind)
    if several:
        name = _KINDS.get(several[1], "VALUE") or "VALUE"
        return f"[{name} ...]"
    named = re.search(r"\w+", kind.removeprefix("Annotated["))
    return _KINDS.get(named[0], "VALUE") if named else "VALUE"


def _plain(default: str) -> str:
    if default in ("()", "''", '""'):
        return "none"
    path = re.search(r"Path\('(.*)'\)$", default)
    several = re.fullmatch(r"\((.*?),?\)", default)
    return path[1] if path else several[1].replace(",", "") if several else default.strip("'\"")
