"""Figures of given tables: which numbers are drawn where."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
from marlzoo.benchmarks import figures
from marlzoo.benchmarks.figures import COLORS, STYLES, draw, look, panels, save_figure
from matplotlib.colors import to_hex

from marlzoo.errors import ConfigError, DataError
from tests.full_disk import full_disk

LEARNERS = ["first", "second"]


def results(**changes: Any) -> Any:
    """Two learners on two datasets."""
    index = pd.MultiIndex.from_product([("a_$x$", "b"), LEARNERS], names=["dataset", "learner"]).to_frame(
        index=False
    )
    curves = pd.concat([index.assign(updates=u) for u in (5, 10)]).reset_index(drop=True)
    number = np.arange(float(len(curves)))
    curves = curves.assign(mean=number, low=number - 1.0, high=number + 2.0)
    profiles = pd.DataFrame(
        {
            "suite": "s",
            "execution": ["decentralized"] * 4,
            "learner": ["first", "first", "second", "second"],
            "score": [0.0, 1.0, 0.0, 1.0],
            "share": [1.0, 0.5, 0.9, 0.2],
            "low": [0.8, 0.4, 0.7, 0.1],
            "high": [1.0, 0.6, 1.0, 0.3],
        }
    )
    returns = {
        "first": {"a_$x$": np.array([1.0, 3.0, 8.0]), "b": np.array([2.0, 4.0])},
        "second": {"a_$x$": np.array([5.0, 6.0, 7.0])},
    }
    found = {
        "title": "T",
        "learners": LEARNERS,
        "datasets": ["a_$x$", "b"],
        "curves": lambda: curves,
        "profiles": lambda: profiles,
        "table": lambda: index.assign(behavior=[7.0, 7.0, 3.0, 3.0]),
        "index": index,
        "classes": lambda: {"x": SimpleNamespace(learners=LEARNERS, returns=returns)},
    }
    return SimpleNamespace(**found | changes)


def lines(axis: Any) -> dict[str, tuple[list[float], list[float]]]:
    return {line.get_label(): (list(line.get_xdata()), list(line.get_ydata())) for line in axis.get_lines()}


def bands(axis: Any) -> list[list[float]]:
    """Lowest and highest end of each band at its last place."""
    found = []
    for band in axis.collections:
        points = band.get_paths()[0].vertices
        last = points[points[:, 0] == points[:, 0].max(), 1]
        found.append([last.min(), last.max()])
    return found


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_curves() -> None:
    figure = draw(results(), "curves", columns=1)
    first, second = figure.axes
    assert [axis.get_title() for axis in figure.axes] == ["a_$x$", "b"]
    assert lines(first) == {
        "first": ([5, 10], [0.0, 4.0]),
        "second": ([5, 10], [1.0, 5.0]),
        "(data)": ([0, 1], [7.0, 7.0]),
    }
    assert bands(first) == [[3.0, 6.0], [4.0, 7.0]]
    assert lines(second)["(data)"] == ([0, 1], [3.0, 3.0])
    assert legend(figure) == ["first", "second", "(data)"]
    assert figure.get_size_inches().tolist() == [5.5, 5.6]  # one above the other


def test_a_curve_of_one_evaluation_is_a_point_with_its_interval() -> None:
    curves = results().curves()
    second = (curves["learner"] == "second") & (curves["dataset"] == "b")
    kept = curves[~second | (curves["updates"] == 10)].copy()
    (axis, other) = (a for a in draw(results(curves=lambda: kept)).axes)
    markers = {line.get_label(): line.get_marker() for a in (axis, other) for line in a.get_lines()}
    assert markers["first"] == "None"
    assert [line.get_marker() for line in other.get_lines() if line.get_label() == "second"] == ["o"]
    spans = [c for c in other.collections if hasattr(c, "get_segments")]
    point = kept[(kept["learner"] == "second") & (kept["dataset"] == "b")].iloc[0]
    assert [segment[:, 1].tolist() for c in spans for segment in c.get_segments()] == [
        [point["low"], point["high"]]
    ]
    assert not [c for c in axis.collections if hasattr(c, "get_segments")]


@pytest.mark.filterwarnings("error")
def test_a_run_without_a_return_has_no_bar(tmp_path: Path) -> None:
    lost = {"first": {"a_$x$": np.array([1.0, 3.0, 8.0])}, "second": {"a_$x$": np.array([5.0, -np.inf])}}
    kinds = {"x": SimpleNamespace(learners=LEARNERS, returns=lost)}
    figure = draw(results(classes=lambda: kinds), "bars")
    save_figure(figure, tmp_path / "a.svg")
    assert np.isfinite([*figure.axes[0].get_ylim(), *figure.axes[0].get_xlim()]).all()
    assert "second" in figure.axes[0].get_legend_handles_labels()[1]


def test_profiles() -> None:
    (axis,) = draw(results(), "profile").axes
    assert lines(axis) == {"first": ([0.0, 1.0], [1.0, 0.5]), "second": ([0.0, 1.0], [0.9, 0.2])}
    assert bands(axis) == [[0.4, 0.6], [0.1, 0.3]]


def test_bars() -> None:
    first, second = draw(results(), "bars").axes
    bars = {bar.get_label(): bar[0] for bar in first.containers if bar.get_label() in LEARNERS}
    assert {name: bar.get_height() for name, bar in bars.items()} == {"first": 4.0, "second": 6.0}
    assert [round(bar.get_x() + bar.get_width() / 2) for bar in bars.values()] == [0, 1]
    assert [to_hex(bar.get_facecolor()) for bar in bars.values()] == list(COLORS[:2])
    (low, high) = first.collections[0].get_segments()[0][:, 1]
    ends = [end[0] for end in figures.bands(np.array([[1.0, 3.0, 8.0]]))]
    np.testing.assert_allclose((low, high), ends)
    assert ends[0] < 4.0 < ends[1]
    assert lines(first)["(data)"] == ([0, 1], [7.0, 7.0])
    assert [bar.get_height() for bar in second.patches] == [3.0]
    assert not second.collections  # of two seeds there is no interval
    assert [line.get_ydata()[0] for line in second.get_lines()] == [3.0]


@pytest.mark.parametrize("kind", ["curves", "bars"])
def test_data_without_a_return_have_no_line(kind: Any) -> None:
    unknown = results().index.assign(behavior=[np.nan, np.nan, 3.0, 3.0])
    first, second = draw(results(table=lambda: unknown), kind).axes
    assert "(data)" not in lines(first)
    assert "(data)" in lines(second)


def test_looks_repeat_after_all_pairs_of_color_and_style() -> None:
    looks = [look(k) for k in range(len(COLORS) * len(STYLES))]
    assert len(set(looks)) == len(looks)
    assert looks[:3] == [(color, "-") for color in COLORS[:3]]
    assert looks[len(COLORS)] == (COLORS[0], "--")
    assert look(len(looks)) == looks[0]
    many = [f"l{k}" for k in range(8)]
    runs = SimpleNamespace(learners=many, returns={name: {"b": np.ones(1)} for name in many})
    figure = draw(results(learners=many, classes=lambda: {"x": runs}, datasets=["b"]), "bars")
    assert [bar.get_hatch() for bar in figure.axes[0].patches] == [""] * 7 + ["//"]


def test_panels_fill_rows_and_unused_ones_are_blank() -> None:
    drawn: list[str] = []
    figure = panels(["a", "b", "c"], 2, lambda axis, name: drawn.append(name))
    assert drawn == ["a", "b", "c"]
    assert [axis.axison for axis in figure.axes] == [True, True, True, False]
    assert figure.get_size_inches().tolist() == [9.0, 5.6]
    assert panels(["a"], 3, lambda axis, name: None).get_size_inches().tolist() == [5.5, 2.8]


@pytest.mark.parametrize("suffix", [".svg", ".pdf", ".png"])
def test_the_same_figure_gives_the_same_bytes(suffix: str, tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        save_figure(draw(results(), "curves"), tmp_path / f"{name}{suffix}")
        written.append((tmp_path / f"{name}{suffix}").read_bytes())
    assert written[0] == written[1]
    assert b"Software" not in written[0]
    for stamp in (b"CreationDate", b"<dc:date>"):
        assert stamp not in written[0]


def test_names_are_no_formulas() -> None:
    figure = draw(results(), "curves")
    assert not figure.axes[0].title.get_parse_math()
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())


def test_a_figure_is_written_where_it_shall_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "Results", lambda *paths: results())
    assert figures.plot("rows.csv", kind="bars", out=tmp_path / "f.png").axes
    assert (tmp_path / "f.png").read_bytes().startswith(b"\x89PNG")
    for name in ("f.gif", "f.txt", "f"):
        with pytest.raises(ConfigError, match=r"end the file's name in \.pdf, \.png, \.svg"):
            figures.plot("rows.csv", out=tmp_path / name)


@pytest.mark.parametrize("suffix", [".pdf", ".png", ".svg"])
def test_a_full_disk_leaves_what_was_there(suffix: str, tmp_path: Path) -> None:
    with full_disk(tmp_path / f"f{suffix}"):
        save_figure(draw(results(), "curves"), tmp_path / f"f{suffix}")


def test_what_cannot_be_drawn() -> None:
    nothing = pd.DataFrame({"dataset": [], "suite": [], "execution": []})
    with pytest.raises(DataError, match="T: nothing to draw: every run failed"):
        draw(results(curves=lambda: nothing), "curves")
    with pytest.raises(DataError, match="nothing to draw: a profile needs"):
        draw(results(profiles=lambda: nothing), "profile")
    with pytest.raises(DataError, match="nothing to draw: every run failed"):
        draw(results(classes=dict), "bars")
    with pytest.raises(ConfigError, match="columns is 0; it must be at least 1"):
        draw(results(), "curves", columns=0)
    wrong: Any = "pie"
    with pytest.raises(ConfigError, match="it must be one of curves, profile, bars"):
        draw(results(), wrong)
