"""From docstrings and values to Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr):`~?([^`]+)`")
_NUMBERED = re.compile(r"^ *\d+\. ", re.MULTILINE)
_CODE = re.compile(r"(``.*?``|`[^`]*`)", re.DOTALL)


def from_docstring(docstring: str) -> str:
    """A method's text as Markdown.

    Paragraphs with numbered steps or with indented lines hold equations that are aligned by spaces; they become
    literal blocks. All others are prose and lists.
    """
    return "\n\n".join(map(_paragraph, re.split(r"\n\s*\n", docstring.strip("\n"))))


def _paragraph(text: str) -> str:
    is_list = text.lstrip().startswith("* ")
    if not is_list and (_NUMBERED.search(text) or text.startswith(" ")):
        return f"```text\n{text.rstrip()}\n```"
    text = _ROLE.sub(lambda role: f"`{role[1].rpartition('.')[2]}`", text)
    return prose(text)


def prose(text: str) -> str:
    """Text whose stars and angle brackets mean themselves, outside of code and list marks."""
    parts = _CODE.split(text)
    parts[::2] = [re.sub(r"(?<!^)(?<!\n)\*", r"\\*", part.replace("<", "&lt;")) for part in parts[::2]]
    return "".join(parts)


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; bars in cells are escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def code(value: object) -> str:
    """A value as inline code; numbers short, nothing for an empty text."""
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"`{text}`" if text else ""
