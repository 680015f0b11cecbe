"""The styles of tables, in the terminal, Markdown and LaTeX: marks, escapes, and columns that fit the width."""

from __future__ import annotations

import re

import pytest
from marlzoo.benchmarks import tables
from marlzoo.benchmarks.results import frame
from marlzoo.benchmarks.sheet import Sheet
from marlzoo.benchmarks.styles import latex, markdown

from marlzoo.console import shortened
from tests.table_rows import cell, grid, printed


def test_styles_escape_and_mark() -> None:
    rows = cell("a_b", [1.0, 2.0]) + cell("c|d", [3.0, 4.0])
    sheet = tables.sheets(frame(rows), "50 % & more", "marlzoo bench x")[0]
    text = markdown(sheet)
    assert "**3.5\u00a0±\u00a00.7**" in text  # not broken between number and spread
    assert "c\\|d" in text
    assert all(
        line.count("|") - line.count("\\|") == 3 for line in text.splitlines() if line.startswith("| ")
    )
    source = latex(sheet)
    assert r"50 \% \& more" in source
    assert r"a\_b" in source
    assert r"\textbf{3.5 $\pm$ 0.7}" in source
    assert "3.5 ± 0.7*" in printed(sheet)


def test_latex_has_minus_signs_options_as_they_are_typed_and_no_letter_that_it_does_not_know() -> None:
    rows = grid({"low": [-2.0, -1.0, -0.5], "high": [1.0, 2, 3]}, ["a", "b-3x1"])
    made = tables.sheets(frame(rows), "t", "marlzoo table t --format latex --set lr=1e-4 a|b")
    source = "".join(map(latex, made))
    assert source.isascii()
    assert r"$-$1.2 $\pm$ 0.8" in source
    assert re.search(r"\[\$-\$\d+\.\d, ", source), "in an interval, too"
    assert r"$\geq$ 25" in source
    assert r"-{}-format latex -{}-set lr=1e-4 a\textbar{}b" in source
    assert "--" not in source
    assert "b-3x1" in source
    assert source.count("{") == source.count("}")
    assert r"\textendash{}" in source


LONG = "marlzoo bench suite --out a/long/path/that/is/wider/than/any/terminal/" + "and/goes/on/" * 6


@pytest.fixture(scope="module")
def wide() -> list[Sheet]:
    learners = {f"method_number_{k}": [1000.0 + k, 2000.0, 3000.0] for k in range(6)}
    qualities = ["medium-replay", "medium-expert", "expert", "a-quality-with-a-long-name"]
    return tables.sheets(frame(grid(learners, qualities)), "Title", LONG)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_terminal_never_breaks_a_word_and_shows_every_number(wide: list[Sheet], width: int) -> None:
    for sheet in wide:
        lines = printed(sheet, width).splitlines()
        words = set(" ".join(lines).split())
        longest = max((len(word) for note in sheet.notes for word in note.split()), default=0)
        assert all(len(line.rstrip()) <= max(width, longest) for line in lines)
        assert {word for note in sheet.notes for word in note.split()} <= words
        for text in (
            word for cells in (sheet.header[1:], *(line[1:] for line in sheet.body)) for word in cells
        ):
            assert {part.rstrip("*") for part in text.split()} <= {word.rstrip("*") for word in words}
        for cells in sheet.body:
            for text in cells[1:]:
                assert any(text in line for line in lines)  # a number is not split over lines


def test_columns_that_do_not_fit_stand_below_with_the_names_again() -> None:
    sheet = Sheet(
        "t", ["name", "one two", "three"], [["a", "1.0 ± 2.0", "x"], ["b", "3", "4.0 ± 5.0"]], [{1}, set()]
    )
    assert [line.rstrip() for line in printed(sheet, 20).splitlines()] == [
        "t",
        "",
        "name     one two",
        "────────────────",
        "a     1.0 ± 2.0*",
        "b             3",
        "",
        "name       three",
        "────────────────",
        "a             x",
        "b     4.0 ± 5.0",
        "",
    ]


def test_a_header_of_several_words_ends_at_the_rule() -> None:
    sheet = Sheet("t", ["name", "alpha beta", "c"], [["a", "1", "2"]])
    assert [line.rstrip() for line in printed(sheet).splitlines()][2:5] == [
        "      alpha",
        "name   beta  c",
        "──────────────",
    ]


def test_names_are_shortened_in_the_middle() -> None:
    assert shortened("short", 8) == "short"
    assert shortened("mamujoco/hopper-3x1 medium", 11) == "mamuj…edium"
    assert len(shortened("x" * 50, 8)) == 8
    sheet = Sheet("t", ["name", "n"], [["a_very_long_name_of_a_line_of_a_table", "1.0 ± 2.0"]])
    assert re.search(r"^a_\w+…\w+e +1\.0 ± 2\.0$", printed(sheet, 30), re.MULTILINE)


def test_transposing_twice_is_the_table() -> None:
    sheet = Sheet("t", ["d", "a", "b"], [["x", "1", "2"], ["y", "3", "4"]], [{1}, {1, 2}], ["n"])
    turned = sheet.transposed()
    assert (turned.header, turned.body) == (["d", "x", "y"], [["a", "1", "3"], ["b", "2", "4"]])
    assert turned.best == [{1, 2}, {2}]
    assert turned.transposed() == sheet
