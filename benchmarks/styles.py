"""Ways to write a table: Markdown, LaTeX, HTML, and the terminal's."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from html import escape
from typing import TYPE_CHECKING

from marlzoo.console import markdown_cell, shortened, visible

from .sheet import column_width

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.text import Text

    from .sheet import Sheet

_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
    "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": r"\textendash{}",
    "¹": r"\textsuperscript{1}", "†": r"\textdagger{}", "‡": r"\textdaggerdbl{}", ">": "$>$", "<": "$<$",
    "≥": r"$\geq$", "≤": r"$\leq$", "|": r"\textbar{}",
}  # fmt: skip
_NEGATIVE = re.compile(r"(?<![\w.)}-])-(?=\d)")
_PAIR = re.compile("-(?=-)")  # LaTeX makes a dash of two hyphens

MARK = "*"
LONG = 60  # characters of a cell that a browser may break
GAP = 2  # spaces between columns of a terminal
SHORTEST = 8  # characters that are left of a name that is shortened
_UNBROKEN = str.maketrans(" ", "\u00a0")  # spaces at which no line is broken


def markdown(sheet: Sheet) -> str:
    """A Markdown table under its title, notes below; a number and its spread stay on one line."""
    lines = [f"## {markdown_cell(sheet.title)}", ""]
    lines.append("| " + " | ".join(map(markdown_cell, sheet.header)) + " |")
    lines.append("|" + "|".join(" --- " if k == 0 else " ---: " for k in range(len(sheet.header))) + "|")
    for cells, best in _lines(sheet):
        shown = [cells[0], *(cell.translate(_UNBROKEN) for cell in cells[1:])]
        marked = [f"**{markdown_cell(c)}**" if k in best else markdown_cell(c) for k, c in enumerate(shown)]
        lines.append("| " + " | ".join(marked) + " |")
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


def html(sheet: Sheet) -> str:
    """An HTML table below its title, notes below; all text is escaped."""
    head = "".join(f"<th>{escape(text)}</th>" for text in sheet.header)
    lines = []
    for cells, best in _lines(sheet):
        made = [_html_cell(text, k in best) for k, text in enumerate(cells)]
        lines.append(f"<tr>{''.join(made)}</tr>")
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in sheet.notes)
    return (
        f'<h3>{escape(sheet.title)}</h3><div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>{notes}"
    )


def _html_cell(text: str, best: bool) -> str:
    kinds = ["best"] * best + ["long"] * (len(text) > LONG)
    return f'<td class="{" ".join(kinds)}">{escape(text)}</td>' if kinds else f"<td>{escape(text)}</td>"


class terminal:  # noqa: N801 # called like the other styles
    """A table for rich to print: as wide as the terminal, columns that do not fit below, no word broken.

    Marked entries are followed by ``*``, so that they are seen without colors too. Print it with ``soft_wrap=True``,
    or rich cuts off words that are longer than a line.
    """

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The lines of the table."""
        from rich.text import Text

        yield Text(self.sheet.title, style="bold", no_wrap=True, overflow="ignore")
        for block in blocks(self.sheet, options.max_width):
            yield Text("")
            yield from block
        for note in self.sheet.notes:
            yield Text("")
            for line in textwrap.wrap(
                note, options.max_width, break_long_words=False, break_on_hyphens=False
            ):
                yield Text(line, style="dim", no_wrap=True, overflow="ignore")
        yield Text("")


def blocks(sheet: Sheet, width: int) -> Iterator[list[Text]]:
    """The table as lines no longer than ``width``, in several blocks of columns where one does not hold them all.

    A column that alone is wider keeps its width; the names of the lines are shortened from the middle to make room.
    """
    marked = bool(sheet.best) and any(sheet.best)
    space = " " * marked
    body = [
        [cells[0], *(cell + (MARK if k in best else space) for k, cell in enumerate(cells[1:], 1))]
        for cells, best in _lines(sheet)
    ]
    columns = [[line[k] for line in body] for k in range(len(sheet.header))]
    widths = [column_width(head, cells) for head, cells in zip(sheet.header, columns, strict=True)]
    if len(widths) > 1:
        widths[0] = min(widths[0], max(SHORTEST, width - GAP - max(widths[1:])))
    for chosen in _split(widths, width):
        yield _block(sheet, body, chosen, widths)


def _split(widths: list[int], width: int) -> Iterator[list[int]]:
    """Columns of each block; the first one stands in all of them."""
    chosen: list[int] = []
    for k in range(1, len(widths)):
        used = widths[0] + sum(widths[j] + GAP for j in (*chosen, k))
        if chosen and used > width:
            yield [0, *chosen]
            chosen = []
        chosen.append(k)
    yield [0, *chosen]


def _block(sheet: Sheet, body: list[list[str]], chosen: list[int], widths: list[int]) -> list[Text]:
    from rich.text import Text

    heads = {k: textwrap.wrap(sheet.header[k], widths[k], break_on_hyphens=False) or [""] for k in chosen}
    height = max(map(len, heads.values()))
    lines = []
    for row in range(height):
        texts = {k: ([""] * (height - len(head)) + head)[row] for k, head in heads.items()}
        lines.append(Text(_joined(texts, widths), style="bold"))
    lines.append(Text("─" * (sum(widths[k] + GAP for k in chosen) - GAP)))
    for cells, (_, best) in zip(body, _lines(sheet), strict=True):
        text = Text()
        for k in chosen:
            cell = _joined({k: cells[k]}, widths)
            text.append(" " * GAP * (k != chosen[0]) + cell, style="bold green" if k in best else "")
        lines.append(text)
    for line in lines:
        line.rstrip()
        line.no_wrap = True
        line.overflow = "ignore"
    return lines


def _joined(texts: dict[int, str], widths: list[int]) -> str:
    """Texts side by side, the first column on the left of its place and the others on the right."""
    parts = [
        shortened(text, widths[0]).ljust(widths[0]) if k == 0 else text.rjust(widths[k])
        for k, text in texts.items()
    ]
    return (" " * GAP).join(parts)


def _lines(sheet: Sheet) -> list[tuple[list[str], set[int]]]:
    best = sheet.best or [set() for _ in sheet.body]
    return list(zip(sheet.body, best, strict=True))


def _tex(text: str) -> str:
    """Text for LaTeX, where a number has a minus and not a hyphen, and the two hyphens of an option stay two."""
    escaped = "".join(_LATEX.get(letter, letter) for letter in visible(text))
    return _PAIR.sub("-{}", _NEGATIVE.sub("$-$", escaped))
