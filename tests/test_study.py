"""What the scripts of the studies share: options, files, intervals and marks in figures, by hand."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from marlzoo.benchmarks import study
from marlzoo.benchmarks.sheet import Sheet
from marlzoo.benchmarks.sources import Source
from marlzoo.benchmarks.study import Logged, Study
from marlzoo.benchmarks.suites import Data
from rich.console import Console

SOURCE = Source(Data(), "data.h5", "games/xor", "marlzoo", "D1", hash="", behavior=1.26)
VALUES = np.array([1.0, 2.0, 4.0, 9.0])


def test_logged_data_are_given_by_task_or_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Logged().given, Logged(task="a").given, Logged(file="b").given] == [False, True, True]
    asked: list[Any] = []

    def obtain(entry: Data, folder: Path, progress: Any) -> Source:
        asked.append((entry, folder))
        return SOURCE

    monkeypatch.setattr(study, "obtain", obtain)
    monkeypatch.setattr(study, "load_dataset", lambda path: path)
    place = tmp_path / "studies"
    assert Logged(task="games/xor", quality="D1", transitions=7).load(place) == (SOURCE, SOURCE.path)
    Logged(task="games/xor", quality="D1", file="mine.h5").load(place)
    assert asked == [
        (Data(task="games/xor", quality="D1", transitions=7), tmp_path / "data"),
        (Data(task="games/xor", file="mine.h5"), tmp_path / "data"),
    ]


def test_replicas_are_trained_to_the_end_and_evaluated_there(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    evaluations = [SimpleNamespace(episodes=SimpleNamespace(returns=np.full((2, 3), 9.0)))]
    evaluations.append(SimpleNamespace(episodes=SimpleNamespace(returns=np.arange(6.0).reshape(2, 3))))

    def train(algorithm: Any, data: Any, **options: Any) -> Any:
        asked.update(options)
        return evaluations

    monkeypatch.setattr(study, "train", train)
    monkeypatch.setattr(study, "make", lambda method, spec, **settings: asked.update(settings) or method)
    monkeypatch.setattr(study, "make_env", lambda task, num_envs: (task, num_envs))
    data: Any = SimpleNamespace(spec=None, transitions=50)
    logged = Logged(task="games/xor", updates=70, hidden=5, episodes=4)
    algorithm, reached = logged.train("bc", SOURCE, data, precision="tf32", seeds=(1, 2))
    assert (algorithm, reached.tolist()) == ("bc", [1.0, 4.0])
    assert asked.pop("env")(3) == ("games/xor", 3)
    assert asked == {
        **{"hidden": 5, "seeds": (1, 2), "updates": 70, "episodes": 4},
        **{"eval_every": 70, "precision": "tf32"},
    }
    assert logged.describe(SOURCE, data) == (
        "games/xor D1: 50 transitions, mean return 1.3; 70 updates, hidden width 5, 4 episodes per seed."
    )


@pytest.mark.parametrize("drawn", [True, False])
def test_files_of_a_study(drawn: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not drawn:
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    sizes: list[Any] = []
    numbers = pd.DataFrame({"a": [1.23456789], "b": ["x"]})
    made = Study(
        "one",
        Sheet("Title", ["a"], [["1"]]),
        numbers,
        lambda figure: sizes.append(figure.get_size_inches().tolist()),
        (3.0, 2.0),
    )
    console = Console(record=True)
    folder = study.write_study(made, tmp_path, console)
    assert folder == tmp_path / "one"
    assert (folder / "table.csv").read_text() == "a,b\n1.23457,x\n"
    assert ("![plot](plot.png)" in (folder / "table.md").read_text()) == drawn
    assert (folder / "plot.png").exists() == drawn
    assert sizes == ([[3.0, 2.0]] if drawn else [])
    told = console.export_text()
    assert ("No plot: matplotlib is not installed" in told) == (not drawn)
    assert f"Written to {folder}" in told.replace("\n", "")


def test_the_command_and_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/somewhere/else.py", "--seeds", "0 1"])
    assert study.command("mine") == "python benchmarks/studies/mine.py --seeds '0 1'"
    asked: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    study.use_threads(3)
    assert asked == [3]


def test_means_and_intervals_as_text() -> None:
    low, high = study.bounds(VALUES)
    assert low < VALUES.mean() < high
    resamples = np.random.default_rng(0).choice(VALUES, (100_000, 4)).mean(axis=1)
    np.testing.assert_allclose((low, high), np.quantile(resamples, [0.025, 0.975]), atol=0.3)
    assert study.over_seeds(VALUES, 1) == f"4.0 [{low:.1f}, {high:.1f}]"
    assert study.over_seeds(np.array([1.25, 2.0]), 2) == "1.62"  # of two seeds there is no interval
    assert study.over_seeds(np.full(3, np.nan)) == "–"
    assert study.over_seeds(np.array([np.nan, 1.0, 2.0])) == "nan"


def test_replicas_are_value_by_value() -> None:
    assert study.replicas((4, 5), alpha=(0.1, 1.0, 3.0)) == {
        "seeds": [4, 5, 4, 5, 4, 5],
        "alpha": [0.1, 0.1, 1.0, 1.0, 3.0, 3.0],
    }


def test_the_folder_on_logged_data_names_task_and_quality() -> None:
    assert study.place("sweep", SOURCE) == "sweep/games-xor-D1"
    assert study.place("sweep", replace(SOURCE, quality="D3")) == "sweep/games-xor-D3"


def test_marks_of_every_seed() -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    figure = figure_module.Figure()
    study.seed_marks([("a", VALUES), ("b", VALUES[:2])])(figure)
    lines = figure.axes[0].get_lines()
    assert [line.get_xdata().tolist() for line in lines] == [[0] * 4, [1] * 2]
    assert [list(line.get_ydata()) for line in lines] == [VALUES.tolist(), VALUES[:2].tolist()]
    assert [text.get_text() for text in figure.axes[0].get_xticklabels()] == ["a", "b"]


@pytest.mark.parametrize("joined", [True, False])
def test_a_curve_of_means_with_intervals(joined: bool) -> None:
    figure_module = pytest.importorskip("matplotlib.figure")
    ax = figure_module.Figure().subplots()
    samples = [VALUES, 10 * VALUES]
    study.curve(ax, [1.0, 2.0], samples, "label", joined=joined)
    (container,) = ax.containers
    line, _, (bars,) = container
    assert line.get_ydata().tolist() == [4.0, 40.0]
    assert line.get_linestyle() == ("-" if joined else "None")
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [study.bounds(sample) for sample in samples])
