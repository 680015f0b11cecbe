"""A table before it is drawn: header, rows, caption, notes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Sheet:
    """A table as text, for any of the styles.

    Attributes:
        title: above it.
        header: names of the columns; the first one names the lines.
        body: the lines.
        best: ``best[i]`` are the columns that are marked in line i; empty for no marks at all.
        notes: sentences below it.
        long: whether a terminal shows it only on demand.
    """

    title: str
    header: list[str]
    body: list[list[str]]
    best: list[set[int]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    long: bool = False

    def transposed(self) -> Sheet:
        """The same table with lines and columns exchanged."""
        lines = [self.header, *self.body]
        best = [{i + 1 for i, marked in enumerate(self.best) if k in marked} for k in range(len(self.header))]
        turned = [list(column) for column in zip(*lines, strict=True)]
        return Sheet(
            self.title, turned[0], turned[1:], best[1:] if self.best else [], list(self.notes), self.long
        )

    def width(self) -> int:
        """Characters of its widest line on a terminal, where headers are broken between words."""
        columns = zip(self.header, *self.body, strict=True)
        return sum(column_width(head, cells) + 2 for head, *cells in columns) - 2


def column_width(head: str, cells: list[str]) -> int:
    """Characters of a column whose header may be broken between words."""
    return max(len(text) for text in (*cells, *head.split(), ""))
