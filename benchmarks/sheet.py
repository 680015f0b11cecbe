"""A table before it is drawn: header, rows, caption, notes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Sheet:
    """A table as text, for any of the styles: ``best[i]`` are the columns set in bold in line i."""

    title: str
    header: list[str]
    body: list[list[str]]
    best: list[set[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
