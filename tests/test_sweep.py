"""``marlzoo sweep``: the space of settings, lockstep over them, ranking and the record."""

from __future__ import annotations

import json
import math
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from marlzoo.benchmarks import adaptive, captions, plan, stats, sweep_figure, sweeps
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.runner import Finished
from marlzoo.benchmarks.sources import obtain
from marlzoo.benchmarks.space import grid_points, parse_values, random_points
from marlzoo.benchmarks.split import Split
from marlzoo.benchmarks.suites import Data, Learner, find_suite
from marlzoo.benchmarks.sweeps import Sweep, _at

import marlzoo
from marlzoo.cli import main
from marlzoo.errors import ConfigError, DataError, UnknownNameError
from tests.test_analysis import rows_of, written

SUITE = """
updates = 2
eval_every = 2
episodes = 1
seeds = [0, 1]
learners = ["omiga", { method = "bc", tuning = "by hand" }]
config = { hidden = 8, mixer_hidden = 4 }
data = [{ task = "games/xor", quality = "D1" }]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(SUITE)
    return path


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.3,1,3", (0.3, 1, 3)),
        ("mlp, rnn", ("mlp", "rnn")),
        ("true,false", (True, False)),
        ("1e-4..1e-2:log:3", (1e-4, 1e-3, 1e-2)),
        (".5..1.5:3", (0.5, 1.0, 1.5)),
        ("0.995..0.9995:3", (0.995, 0.99725, 0.9995)),
        ("1000..1005:6", (1000, 1001, 1002, 1003, 1004, 1005)),
        ([1, 2, 1], (1, 2)),
    ],
)
def test_grids(text: Any, values: tuple[Any, ...]) -> None:
    assert parse_values("x", text).grid("x") == values


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--random", "2", "--random-seed", "-1"], "random_seed is -1; it must be at least 0"),
        (["--optuna", "2", "--random-seed", "-1"], "random_seed is -1; it must be at least 0"),
        (["--over", "alpha=1", "alpha=2"], "--over names alpha twice; write alpha=1,2 or one range"),
    ],
)
def test_a_slip_on_the_command_line_is_one_error(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    given = ["--over", "alpha=0.1..30:log"] * ("--over" not in arguments)
    assert main(["sweep", str(suite), "--out", str(tmp_path / "out"), *given, *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("over", "options", "said"),
    [
        ("alpha=1", {}, r"^over is 'alpha=1'; give values by setting, such as \{'alpha': \[0.3, 1, 3\]\}$"),
        ({"alpha": 1.0}, {}, r"^alpha is 1.0; give a list of values, such as \[1.0\]$"),
        ({"alpha": "1..3"}, {"random": 2.5}, "^random is 2.5; it must be an integer$"),
        ({"alpha": "1..3"}, {"random": True}, "^random is True; it must be an integer$"),
        ({"alpha": "1..3"}, {"optuna": 2.5}, "^optuna is 2.5; it must be an integer$"),
        ({"alpha": "1..3"}, {"random": 2, "random_seed": 0.5}, "^random_seed is 0.5; it must be an integer$"),
    ],
)
def test_a_slip_in_python_is_one_error(
    suite: Path, tmp_path: Path, over: Any, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        marlzoo.sweep(suite, over, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_sampler_takes_any_seed() -> None:
    pytest.importorskip("optuna")
    sizes = {"trials": 0, "batch": 1, "seed": 2**40}
    assert adaptive.search([Learner("bc")], [{}], lambda learner, _: learner, rows_of, **sizes) == []


@pytest.mark.parametrize("text", ["", "1..", "2..1:3", "0..1:log:3", "1..2:lin:3", "a..b", []])
def test_values_that_cannot_be_read(text: Any) -> None:
    with pytest.raises(ConfigError, match="x"):
        parse_values("x", text)


def test_points() -> None:
    space = {"a": parse_values("a", "1,2"), "b": parse_values("b", "x,y")}
    assert grid_points(space) == [{"a": a, "b": b} for a in (1, 2) for b in ("x", "y")]
    assert len(random_points(space, 9, 0)) == 4  # there are no more
    drawn = [p["a"] for p in random_points({"a": parse_values("a", "1e-4..1:log")}, 200, 3)]
    assert drawn == [p["a"] for p in random_points({"a": parse_values("a", "1e-4..1:log")}, 200, 3)]
    assert abs(np.log10(drawn).mean() + 2.0) < 0.3  # even in the logarithm
    assert drawn != [p["a"] for p in random_points({"a": parse_values("a", "1e-4..1:log")}, 200, 4)]
    even = parse_values("a", "0.1..0.9")
    assert all(p["a"] == round(p["a"], 3) for p in random_points({"a": even}, 9, 0))
    assert parse_values("a", "0.12345..0.9").rounded(0.12345) == 0.12345  # not 0.123, which lies outside
    with pytest.raises(ConfigError, match="random is 0; it must be at least 1"):
        random_points({"a": even}, 0, 0)
    with pytest.raises(ConfigError, match="a grid needs the number of points"):
        grid_points({"a": parse_values("a", "1e-4..1:log")})


def test_sweeps_that_nothing_could_run() -> None:
    """Much larger numbers filled the memory, or never ended."""
    even = {"a": parse_values("a", "0.1..0.9")}
    assert len(random_points(even, 500, 0)) == 500
    with pytest.raises(ConfigError, match="random: 20001; a sweep has 10,000 settings at most"):
        random_points(even, 20_001, 0)
    with pytest.raises(ConfigError, match="a: points of the range: 20001; a sweep has 10,000"):
        grid_points({"a": parse_values("a", "0.1..0.9:20001")})
    many = parse_values("a", "0.1..0.9:101")
    assert len(grid_points({"a": many})) == 101
    with pytest.raises(ConfigError, match="combinations of values: 10201; a sweep has 10,000"):
        grid_points({"a": many, "b": many})
    with pytest.raises(ConfigError, match="nothing to sweep"):
        grid_points({})


def test_float_settings_are_replicas_of_one_run(suite: Path, tmp_path: Path) -> None:
    base = find_suite(str(suite))
    learners = tuple(
        Learner("omiga", {"alpha": a, "z_clip": z}) for a in (1.0, 3.0) for z in ("hard", "linear")
    )
    swept = plan.replace(base, learners=learners, stack_settings=True)
    sources = [obtain(data, tmp_path, lambda done, total: None) for data in swept.data]
    made = plan.groups(swept, plan.pending(swept, sources, ResultsFile(tmp_path / "rows.csv")), 20)
    assert [group.settings["z_clip"] for group in made] == ["hard", "linear"]
    assert all(group.settings["alpha"] == [1.0, 1.0, 3.0, 3.0] for group in made)
    assert [run.seed for run in made[0].runs] == [0, 1, 0, 1]
    assert made[0].label == "omiga (z_clip=hard) on games/xor D1"
    assert made[0].settings_of(2)["alpha"] == 3.0
    alone = plan.groups(plan.replace(swept, stack_settings=False), plan.runs_of(swept, sources), 20)
    assert len(alone) == 4


GRID = '{"search": "grid", "over": {"alpha": []}}'


def test_settings_are_ranked_by_returns(tmp_path: Path) -> None:
    rows = [
        *rows_of("first", [1.0, 2.0], variant="alpha=1.0", config_hash="a"),
        *rows_of("first", [3.0, 4.0], variant="alpha=3.0", config_hash="b"),
        *rows_of("first", [9.0, float("nan")], variant="alpha=9.0", config_hash="c", diverged=True),
        *rows_of("first", [99.0], variant="alpha=99.0", config_hash="d"),  # of another sweep
    ]
    learners = tuple(Learner("first", {"alpha": alpha}) for alpha in (1.0, 3.0, 9.0))
    found = Sweep(marlzoo.Results(written(tmp_path, rows)), learners, GRID)
    table = found.table()
    assert table["variant"].tolist() == ["alpha=3.0", "alpha=1.0", "alpha=9.0"]
    assert table["rank"].tolist() == [1.0, 2.0, 3.0]
    assert table["mean"].tolist()[:2] == [3.5, 1.5]
    (best,) = tomllib.loads(found.toml())["learners"]
    assert best == {"method": "first", "config": {"alpha": 3.0}, "tuning": GRID}


def test_learners_of_one_method_are_ranked_apart(tmp_path: Path) -> None:
    """TD3+BC and IDDPG+BC are settings of one method, and are two learners of a suite."""
    returns = {
        ("x", 1.0): 5.0,
        ("x", 3.0): 6.0,
        ("x", 9.0): 9.0,
        ("y", 1.0): 2.0,
        ("y", 3.0): 4.0,
        ("y", 9.0): 1.0,
    }
    learners = tuple(Learner("td3_bc", {"variant": form, "alpha": alpha}) for form, alpha in returns)
    rows = [
        row
        for k, (learner, value) in enumerate(zip(learners, returns.values(), strict=True))
        for row in rows_of("td3_bc", [value], variant=learner.variant, config_hash=str(k))
    ]
    found = Sweep(marlzoo.Results(written(tmp_path, rows)), learners, GRID)
    assert found.table()["rank"].tolist() == [1.0, 2.0, 3.0] * 2
    assert [each["config"] for each in tomllib.loads(found.toml())["learners"]] == [
        {"variant": "x", "alpha": 9.0},
        {"variant": "y", "alpha": 3.0},
    ]
    assert list(found.best()) == ["td3_bc (variant=x)", "td3_bc (variant=y)"]
    (edge,) = found.edges()
    assert edge.startswith("td3_bc (variant=x): the best alpha, 9, is the largest that was tried")
    drawn = sweep_figure.points(found.results, learners, found.names())
    assert drawn.groupby("learner")["setting"].unique().map(list).to_dict() == {
        "td3_bc (variant=x)": ["alpha"],
        "td3_bc (variant=y)": ["alpha"],
    }


def test_settings_are_ranked_over_datasets_and_those_that_lack_one_come_last() -> None:
    """Two datasets of very different returns: the mean of ranks counts before the mean of returns."""
    lines = [  # variant, dataset, mean, score, seeds, diverged, failed
        ("a", "small", 3.0, 30.0, 3, 0, 0),
        ("a", "large", 100.0, 10.0, 2, 1, 0),
        ("b", "small", 1.0, 10.0, 3, 0, 0),
        ("b", "large", 300.0, 30.0, 3, 0, 0),
        ("c", "small", 2.0, math.nan, 3, 0, 0),
        ("c", "large", 200.0, 20.0, 3, 1, 0),
        ("d", "small", 9.0, 90.0, 3, 0, 0),
        ("d", "large", math.nan, math.nan, 3, 3, 0),
        ("e", "small", 8.0, 80.0, 3, 0, 0),
        ("f", "small", 0.5, 5.0, 3, 0, 0),
        ("f", "large", math.inf, math.nan, 3, 3, 0),
        ("g", "small", 0.1, 1.0, 3, 0, 0),  # worse than d and e, which lack one
        ("g", "large", 50.0, 1.0, 3, 0, 0),
    ]
    columns = ["variant", "dataset", "mean", "score", "seeds", "diverged", "failed"]
    table = sweeps._ranked(pd.DataFrame(lines, columns=columns).assign(method="m", unfinished=0)).set_index(
        "variant"
    )
    # Ranks on (small, large): a 3, 3; b 5, 1; c 4, 2; d 1, 6; e 2, 6; f 6, 6; g 7, 4. Equal ones by their mean.
    assert table.index.tolist() == ["b", "c", "a", "g", "d", "e", "f"]
    assert table["rank"].tolist() == [3.0, 3.0, 3.0, 5.5, 3.5, 4.0, 6.0]
    np.testing.assert_array_equal(table["mean"], [150.5, 101.0, 51.5, 25.05, math.nan, 8.0, math.inf])
    np.testing.assert_array_equal(table["score"], [20.0, math.nan, 20.0, 1.0, math.nan, 80.0, math.nan])
    assert table["datasets"].tolist() == [2, 2, 2, 2, 2, 1, 2]
    assert table["seeds"].tolist() == [3, 3, 2, 3, 3, 3, 3]
    assert table["diverged"].tolist() == [0, 1, 1, 0, 3, 0, 3]
    assert table["failed"].tolist() == [0] * 7


@pytest.mark.parametrize("spoiled", [{"failed": 1}, {"unfinished": 1}, {"seeds": 0}])
def test_a_setting_of_which_a_run_failed_or_is_missing_comes_last(spoiled: dict[str, int]) -> None:
    """What its other seeds reached says nothing about it; an adaptive search does not choose it either."""
    cells = pd.DataFrame(
        {
            "method": "m",
            "variant": ["risky", "safe", "worse"],
            "dataset": "d",
            "mean": [91.0, 90.0, 80.0], "score": math.nan,
            "seeds": 5, "diverged": 0, "failed": 0, "unfinished": 0,
        }
    )  # fmt: skip
    for name, value in spoiled.items():
        cells.loc[0, name] = value
    ranked = sweeps._ranked(cells)
    assert ranked["variant"].tolist() == ["safe", "worse", "risky"]
    assert ranked["rank"].tolist() == [1.0, 2.0, 3.0]
    results: Any = SimpleNamespace(table=lambda: cells)
    reached = {variant: value for (_, variant), value in adaptive.objectives(results).items()}
    assert (reached["safe"], reached["worse"]) == (90.0, 80.0)
    assert math.isnan(reached["risky"])


def test_a_sweep_trains_as_it_is_told(suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []

    def run_suite(swept: Any, **options: Any) -> None:
        told.append((swept, options))
        raise InterruptedError

    monkeypatch.setattr(sweeps, "run_suite", run_suite)

    def tried(over: dict[str, Any], **options: Any) -> Any:
        with pytest.raises(InterruptedError):
            marlzoo.sweep(mine, over, out=tmp_path, **options)
        return told[-1]

    known = (
        Learner("omiga", {"hidden": 9, "z_clip": "linear"}),
        Learner("bc", {"hidden": 9}),
        Learner("iql"),
    )
    mine = plan.replace(find_suite(str(suite)), learners=known)
    options = {"device": "cuda", "max_replicas": 3, "check_data": False, "command": "said"}
    over = {"alpha": [1, 3], "hidden": "16.0,16,4", "history": "mlp,rnn"}
    swept, found = tried(
        over, seeds=[5], methods=["omiga", "bc"], updates=7, processes=2, threads=3, **options
    )
    assert (swept.name, swept.seeds, swept.updates, swept.stack_settings) == ("mine-sweep", (5,), 7, True)
    assert len(swept.learners) == 2 * 2 * 2 + 2 * 2  # bc, which has no alpha, once for each of the others
    cloning = [learner.config for learner in swept.learners if learner.method == "bc"]
    assert cloning == [{"hidden": h, "history": kind} for h in (16, 4) for kind in ("mlp", "rnn")]
    assert {learner.config["z_clip"] for learner in swept.learners if learner.method == "omiga"} == {"linear"}
    assert all(type(learner.config["hidden"]) is int for learner in swept.learners)
    assert {**found, **options} == found
    assert found["split"] == Split(2, 3)
    assert found["remedy"] == "another --out"  # where code has changed; it has no --rerun
    swept, found = tried({"alpha": [1, 3, True]}, methods=["omiga"])
    assert [learner.config["alpha"] for learner in swept.learners] == [1.0, 3.0]
    assert type(swept.learners[0].config["alpha"]) is float
    assert found["split"] == Split(1)
    assert tried({"alpha": [1]}, threads=2)[1]["split"] == Split(1, 2)
    space = {"alpha": parse_values("alpha", "0.1..10:log")}
    for seed in (4, 5):
        swept, _ = tried({"alpha": "0.1..10:log"}, methods=["omiga"], random=2, random_seed=seed)
        drawn = [point["alpha"] for point in random_points(space, 2, seed)]
        assert [learner.config["alpha"] for learner in swept.learners] == drawn


def test_rows_of_other_sweeps_in_the_folder_do_not_count(
    suite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_suite(swept: Any, **options: Any) -> Finished:
        rows = [
            row
            for k, each in enumerate(swept.learners)
            for row in rows_of(each.method, [float(k)], variant=each.variant, config_hash=str(k))
        ]
        other = rows_of("omiga", [99.0], variant=swept.learners[0].variant, config_hash="other")
        folder = written(tmp_path / "mine-sweep", [*rows, *other])
        return Finished(folder, 2, 0, runs=frozenset(row.run for row in rows))

    monkeypatch.setattr(sweeps, "run_suite", run_suite)
    over = {"alpha": "0.1..10:log"}
    found = marlzoo.sweep(str(suite), over, methods=["omiga"], random=2, out=tmp_path)
    assert found.table()["mean"].tolist() == [1.0, 0.0]
    record = json.loads(found.record)
    assert (record["search"], record["trials"]) == ("random", 2)
    assert found.best() == {"omiga": plan.replace(found.learners[1], tuning=found.record)}


@pytest.mark.parametrize(
    ("tried", "best", "told"),
    [
        ((0.3, 1.0, 3.0), 0.3, "omiga: the best alpha, 0.3, is the smallest that was tried"),
        ((0.3, 1.0, 3.0), 3.0, "omiga: the best alpha, 3, is the largest that was tried"),
        ((0.3, 1.0, 3.0), 1.0, ""),
        ((3.0, 1.0), 1.0, ""),  # of two values each is an end
        (("mlp", "rnn", "x"), "x", ""),
    ],
)
def test_a_best_value_at_the_end_of_its_grid_is_named(tried: Any, best: Any, told: str) -> None:
    learners = (*(Learner("omiga", {"alpha": value}) for value in tried), Learner("bc", {"alpha": 0.01}))

    class Found(Sweep):  # type: ignore[misc] # Any to mypy, which runs in the checkout
        def best(self) -> dict[str, Learner]:
            return {"omiga": Learner("omiga", {"alpha": best})}

    found: Any = SimpleNamespace()
    lines = Found(found, learners, '{"search": "grid", "over": {"alpha": []}}').edges()
    assert [line.partition(";")[0] for line in lines] == ([told] if told else [])
    assert Found(found, learners, '{"search": "random", "over": {"alpha": []}}').edges() == []
    assert Found(found, learners, '{"search": "grid", "over": {"lr": []}}').edges() == []


def test_a_later_sweep_of_another_method_keeps_what_was_found(tmp_path: Path) -> None:
    file = tmp_path / "best.toml"
    one, two = Learner("first", {"alpha": 3.0}, "grid"), Learner("second", {"beta": 1.0})
    assert sweeps.with_other_methods(file, sweeps.learners_toml((one,)), {"first"}) == sweeps.learners_toml(
        (one,)
    )
    file.write_text(sweeps.learners_toml((one,)))
    both = sweeps.with_other_methods(file, sweeps.learners_toml((two,)), {"second"})
    assert [each["method"] for each in tomllib.loads(both)["learners"]] == ["first", "second"]
    file.write_text(both)
    again = Learner("first", {"alpha": 9.0})
    found = tomllib.loads(sweeps.with_other_methods(file, sweeps.learners_toml((again,)), {"first"}))[
        "learners"
    ]
    assert found == [
        {"method": "second", "config": {"beta": 1.0}},
        {"method": "first", "config": {"alpha": 9.0}},
    ]
    table = tmp_path / "sweep.csv"
    table.write_text("method,variant,rank\nfirst,alpha=3.0,1.0\nsecond,beta=1.0,1.0\n")
    new = "method,variant,rank\nfirst,alpha=9.0,1.0\n"
    assert sweeps.with_other_methods(table, new, {"first"}) == (
        "method,variant,rank\nsecond,beta=1.0,1.0\nfirst,alpha=9.0,1.0\n"
    )
    table.write_text("method,rank\nsecond,1.0\n")
    assert sweeps.with_other_methods(table, new, {"first"}) == new, "of an older version"
    table.write_text("")
    assert sweeps.with_other_methods(table, new, {"first"}) == new, "of a file that was emptied"
    table.write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"damaged .* move it away"):
        sweeps.with_other_methods(table, new, {"first"})


def test_a_value_keeps_its_kind() -> None:
    given = [(1, True), (True, True), (None, True), (2.0, False), (0.5, False), (2, False), ("rnn", False)]
    found = [sweeps._typed(value, numeric) for value, numeric in given]
    assert found == [1.0, True, None, 2, 0.5, 2, "rnn"]
    assert [type(value) for value in found] == [float, bool, type(None), int, float, int, str]


def test_the_record_of_a_search_holds_what_it_looked_at() -> None:
    data = (Data("games/xor", "D1"), Data(file="own.hdf5"))
    space = {"alpha": parse_values("alpha", "0.1..10:log:3"), "history": parse_values("history", "mlp,rnn")}
    suite = plan.replace(find_suite("smoke"), data=data, seeds=(3, 4), updates=11)
    record = json.loads(sweeps._record(suite, space, 6, "random"))
    assert record == {
        "search": "random",
        "over": {"alpha": {"low": 0.1, "high": 10.0, "log": True, "count": 3}, "history": ["mlp", "rnn"]},
        "trials": 6,
        "seeds": [3, 4],
        "updates": 11,
        "data": ["games/xor D1", "own.hdf5"],
    }
    changed = json.loads(sweeps._record(suite, space, 6, "random", ["config.hidden=8"]))
    assert changed == {**record, "set": ["config.hidden=8"]}


def test_returns_are_drawn_against_every_setting(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'marlzoo[plot]'")
    tried = {
        ("hard", 1.0): [1.0, 2.0, 6.0],
        ("hard", 30.0): [3.0, 4.0, 5.0],
        ("linear", 1.0): [7.0, 8.0, 9.0],
    }
    learners = [Learner("omiga", {"hidden": 8, "z_clip": clip, "alpha": alpha}) for clip, alpha in tried]
    rows = [
        row
        for k, (learner, values) in enumerate(zip(learners, tried.values(), strict=True))
        for row in rows_of("omiga", values, variant=learner.variant, config_hash=str(k))
    ]
    diverged = Learner("omiga", {"hidden": 8, "z_clip": "hard", "alpha": 9.0})
    rows += rows_of("omiga", [0.0, float("nan"), 1.0], variant=diverged.variant, config_hash="x")
    names = {("omiga", each.variant): "omiga" for each in (*learners, diverged)}
    found = sweep_figure.points(marlzoo.Results(written(tmp_path, rows)), [*learners, diverged], names)
    by = {(line.setting, line.value, line.mean) for line in found.itertuples()}
    assert by == {
        *(("z_clip", clip, np.mean(values)) for (clip, _), values in tried.items()),
        *(("alpha", alpha, np.mean(values)) for (_, alpha), values in tried.items()),
    }
    first = found[(found["setting"] == "alpha") & (found["mean"] == 3.0)].iloc[0]
    assert (first["low"], first["high"]) == stats.interval([np.array([1.0, 2.0, 6.0])], np.mean)
    clip, alpha = sweep_figure.draw(found).axes[:2]
    assert [text.get_text() for text in clip.get_xticklabels()] == ["hard", "linear"]
    assert sorted(clip.containers[0].lines[0].get_xdata()) == [0.0, 0.0, 1.0]
    assert (clip.get_title(), alpha.get_xscale()) == ("omiga: z_clip", "log")
    marks = alpha.containers[0]
    assert sorted(marks.lines[0].get_xdata()) == [1.0, 1.0, 30.0]
    assert len(marks.lines[2]) == 1  # the intervals


def test_a_search_adapts_repeats_itself_and_batches_its_trials(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs optuna: pip install 'marlzoo[optuna]'")
    space = {"alpha": parse_values("alpha", "1e-3..1e3:log"), "z_clip": parse_values("z_clip", "hard,linear")}

    def run(sign: float, where: str) -> tuple[list[list[Learner]], list[Learner]]:
        batches: list[list[Learner]] = []

        def train(learners: Any) -> marlzoo.Results:
            batches.append(list(learners))
            rows = []
            for k, learner in enumerate(learners):
                value = sign * learner.config.get("alpha", 1.0)
                bad = learner.config.get("z_clip") == "linear"  # never tells a number
                changes = {"variant": learner.variant, "config_hash": f"{len(batches)}-{k}", "diverged": bad}
                rows += rows_of(learner.method, [float("nan") if bad else value] * 2, **changes)
            return marlzoo.Results(written(tmp_path / f"{where}-{len(batches)}", rows))

        learners = (Learner("omiga"), Learner("bc"))
        made = adaptive.search(learners, [space, {}], _at, train, trials=22, batch=6, seed=3)
        return batches, made

    batches, made = run(1.0, "up")
    assert [len(batch) for batch in batches] == [7, 6, 6, 4]  # bc has nothing to tune, and is trained once
    assert len(made) == 23
    assert all(1e-3 <= learner.config["alpha"] <= 1e3 for learner in made if learner.method == "omiga")
    assert run(1.0, "again") == (batches, made)
    other, _ = run(-1.0, "down")
    assert other[0] == batches[0]
    assert other[-1] != batches[-1]
    sizes = [
        np.mean([np.log10(each.config["alpha"]) for batch in found[2:] for each in batch])
        for found in (batches, other)
    ]
    assert sizes[0] > sizes[1]  # it looks where more was reached
    assert [adaptive.batch_size(*given) for given in ((20, 20, 3), (100, 20, 3), (3, 20, 30))] == [5, 6, 1]


def test_an_adaptive_trial_is_asked_for_all_values_of_a_setting() -> None:
    asked: list[Any] = []

    class Trial:
        def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
            asked.append((name, choices))
            return choices[-1]

        def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            asked.append((name, low, high, log))
            return high

    for name, text in (("history", "mlp,rnn"), ("alpha", "0.1..30:log"), ("tau", "0..1")):
        adaptive.propose(Trial(), name, parse_values(name, text))
    assert asked == [("history", ["mlp", "rnn"]), ("alpha", 0.1, 30.0, True), ("tau", 0.0, 1.0, False)]


def test_what_an_adaptive_sweep_maximizes() -> None:
    """The score where the tasks have references, else the return; nothing where a run failed or is missing."""

    def reached(**columns: list[float]) -> list[float]:
        size = len(columns["mean"])
        cells = {
            "method": ["m"] * size,
            "score": [math.nan] * size,
            "failed": [0] * size,
            "unfinished": [0] * size,
        }
        cells |= {"variant": [str(k // 2) for k in range(size)], "seeds": [2] * size}
        cells |= {"dataset": [str(k % 2) for k in range(size)], **columns}
        results: Any = SimpleNamespace(table=lambda: pd.DataFrame(cells))
        return list(adaptive.objectives(results).values())

    assert reached(mean=[1.0, 3.0, 5.0, 7.0]) == [2.0, 6.0]
    assert reached(mean=[1.0, 3.0], score=[10.0, 20.0]) == [15.0]
    # Dataset 1 has no reference: returns stand in for the scores of both.
    nothing = math.nan
    assert reached(mean=[1.0, 3.0, 5.0, 7.0], score=[10.0, nothing, 30.0, nothing]) == [2.0, 6.0]
    # One setting has diverged on dataset 1, which has a reference.
    first, second = reached(mean=[1.0, math.inf, 5.0, 7.0], score=[10.0, nothing, 30.0, 50.0])
    assert (math.isnan(first), second) == (True, 40.0)
    for spoiled in ({"failed": [1, 0]}, {"unfinished": [1, 0]}, {"seeds": [0, 2]}):
        assert math.isnan(*reached(mean=[1.0, 3.0], **spoiled))


def test_an_adaptive_sweep_goes_on_where_it_was(suite: Path, tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="needs optuna: pip install 'marlzoo[optuna]'")
    options: dict[str, Any] = {"out": tmp_path, "seeds": [0], "methods": ["omiga"], "optuna": 2}
    found = marlzoo.sweep(str(suite), {"alpha": "0.1..10:log"}, **options)
    assert len(found.learners) == 2
    (best,) = tomllib.loads((tmp_path / "mine-sweep" / "best.toml").read_text())["learners"]
    record = json.loads(best["tuning"])
    assert (record["search"], record["trials"]) == ("optuna (TPE)", 2)
    before = ResultsFile(tmp_path / "mine-sweep" / "rows.csv").read()
    again = marlzoo.sweep(str(suite), {"alpha": "0.1..10:log"}, **options)
    assert again.learners == found.learners
    assert ResultsFile(tmp_path / "mine-sweep" / "rows.csv").read().equals(before)  # nothing is trained twice
    with pytest.raises(ConfigError, match="choose one of random and optuna"):
        marlzoo.sweep(str(suite), {"alpha": "0.1..10:log"}, random=3, **options)


def test_the_command(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sweep, "edges", lambda found: ["the end of a grid"])
    command = ["sweep", str(suite), "--over", "alpha=1,3", "--out", str(tmp_path), "--seeds", "0"]
    assert main([*command, "--json"]) == 0
    table = json.loads(capsys.readouterr().out)
    assert sorted(line["variant"] for line in table) == ["", "alpha=1.0", "alpha=3.0"]  # bc has no alpha
    assert main(command) == 0
    assert capsys.readouterr().out.endswith("\nthe end of a grid\n")
    rows = marlzoo.Results(tmp_path / "mine-sweep").frame()
    assert len(rows) == 3
    configs = {json.loads(text)["alpha"] for text in rows[rows["method"] == "omiga"]["config"]}
    assert configs == {1.0, 3.0}
    assert rows.set_index("method")["tuning"].to_dict() == {"omiga": "", "bc": "by hand"}
    assert (tmp_path / "mine-sweep" / "sweep.png").exists()
    best = (tmp_path / "mine-sweep" / "best.toml").read_text()
    (tmp_path / "tuned.toml").write_text(f"{best}data = [{{ task = 'games/xor', quality = 'D1' }}]\n")
    tuned = find_suite(str(tmp_path / "tuned.toml"))
    assert [learner.method for learner in tuned.learners] == ["omiga", "bc"]
    record = json.loads(tuned.learners[0].tuning)
    assert (record["search"], record["trials"], record["over"]) == ("grid", 2, {"alpha": [1, 3]})


def test_what_a_sweep_costs(suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The dry run names the runs that the sweep itself would train, and leaves no results."""
    command = [
        "sweep",
        str(suite),
        "--over",
        "alpha=1,3",
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "0",
        "1",
        "2",
    ]
    assert main([*command, "--dry-run", "--json", "--set", 'data=[{task="games/xor",quality="D3"}]']) == 0
    (cost,) = json.loads(capsys.readouterr().out)
    assert cost["dataset"] == "games/xor D3"
    assert (cost["runs"], cost["missing"]) == (3 * 3, 3 * 3)  # omiga twice, bc once
    assert main([*command, "--dry-run", "--methods", "omiga", "--updates", "4", "--random", "1"]) == 0
    shown = capsys.readouterr().out
    assert "omiga" in shown
    assert "bc" not in shown
    assert not (tmp_path / "out" / "mine-sweep" / "rows.csv").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        ["--processes", "1", "--threads", "-1"],
        ["--processes", "0", "--threads", "2"],
        ["--processes", "-1"],
        ["--max-replicas", "0"],
    ],
)
def test_a_dry_run_refuses_what_the_sweep_refuses(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str]
) -> None:
    command = ["sweep", str(suite), "--over", "alpha=1,3", "--out", str(tmp_path / "out"), *wrong]
    refusals = []
    for dry in ([], ["--dry-run"]):
        assert main([*command, *dry]) == 2
        refusals.append(capsys.readouterr().err)
    assert refusals[0] == refusals[1]


def test_settings_that_a_search_chooses_have_no_dry_run(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(suite), "--over", "alpha=0.1..10:log", "--optuna", "2", "--dry-run"]
    assert main([*command, "--out", str(tmp_path)]) == 2
    assert "Optuna chooses settings as it goes" in capsys.readouterr().err


def test_a_setting_that_no_method_has(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnknownNameError, match=r"'alhpa'\. Did you mean alpha"):
        marlzoo.sweep(suite, {"alhpa": [1.0]}, out=tmp_path)
    assert main(["sweep", str(suite), "--over", "alpha", "--out", str(tmp_path)]) == 2
    assert "write it as NAME=VALUES" in capsys.readouterr().err


def test_what_was_changed_of_the_suite_is_in_the_record(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sweep", str(suite), "--over", "alpha=1", "--out", str(tmp_path), "--methods", "omiga"]
    assert main([*command, "--seeds", "0", "--set", "updates=3", "--json"]) == 0
    capsys.readouterr()
    tuned = tmp_path / "tuned.toml"
    best = (tmp_path / "mine-sweep" / "best.toml").read_text()
    tuned.write_text(f"{best}data = [{{ task = 'games/xor', quality = 'D1' }}]\n")
    (learner,) = find_suite(str(tuned)).learners
    assert json.loads(learner.tuning)["set"] == ["updates=3"]
    assert captions._search(learner.tuning).endswith("on games/xor D1; set updates=3)")
