"""Ways to write a table: Markdown, LaTeX, and the terminal's."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from marlzoo.console import visible

if TYPE_CHECKING:
    from rich.console import RenderableType

    from .sheet import Sheet

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
    "¹": r"\textsuperscript{1}", "†": r"\textdagger{}", "‡": r"\textdaggerdbl{}", ">": "$>$", "<": "$<$",
}  # fmt: skip


def markdown(sheet: Sheet) -> str:
    """A Markdown table under its title, notes below."""
    lines = [f"## {_pipe(sheet.title)}", ""]
    lines.append("| " + " | ".join(map(_pipe, sheet.header)) + " |")
    lines.append("|" + "|".join(" --- " if k == 0 else " ---: " for k in range(len(sheet.header))) + "|")
    for cells, best in _lines(sheet):
        lines.append("| " + " | ".join(f"**{c}**" if k in best else c for k, c in enumerate(cells)) + " |")
    for note in sheet.notes:
        lines += ["", note]
    return "\n".join(lines) + "\n"


def latex(sheet: Sheet) -> str:
    """A LaTeX ``table`` (needs the package booktabs), notes in its caption."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (len(sheet.header) - 1)}}}",
        r"\toprule",
    ]
    lines += [" & ".join(map(_tex, sheet.header)) + r" \\", r"\midrule"]
    for cells, best in _lines(sheet):
        shown = [rf"\textbf{{{_tex(c)}}}" if k in best else _tex(c) for k, c in enumerate(cells)]
        lines.append(" & ".join(shown) + r" \\")
    caption = " ".join([f"{sheet.title}.", *(note.replace("`", "") for note in sheet.notes)])
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{_tex(caption)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def terminal(sheet: Sheet) -> RenderableType:
    """A table for rich to print."""
    from rich import box
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    table = Table(title=visible(sheet.title), box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for k, name in enumerate(sheet.header):
        table.add_column(Text(visible(name)), justify="left" if k == 0 else "right", overflow="fold")
    for cells, best in _lines(sheet):
        table.add_row(
            *(Text(visible(c), style="bold green" if k in best else "") for k, c in enumerate(cells))
        )
    return Group(table, *(Text(visible(note), style="dim") for note in sheet.notes))


def _lines(sheet: Sheet) -> list[tuple[list[str], set[int]]]:
    best = sheet.best or [set() for _ in sheet.body]
    return list(zip(sheet.body, best, strict=True))


def _pipe(text: str) -> str:
    """A Markdown cell: what would be markup or HTML there stands for itself."""
    return re.sub(r"([\\|`\[\]<])", r"\\\1", visible(text))


def _tex(text: str) -> str:
    return "".join(_LATEX.get(letter, letter) for letter in visible(text))
