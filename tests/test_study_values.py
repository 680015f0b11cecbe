"""The studies of values and rows: convergence, replication, coverage, when values had settled."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.row import Row
from marlzoo.benchmarks.suites import Data

import marlzoo
from marlzoo.errors import DataError
from marlzoo.replicas import derive
from marlzoo.testing.toys import toy_dataset
from tests.study_scripts import FOLDER, script, written
from tests.test_results import ROW


def test_looks_are_even_in_the_logarithm() -> None:
    module = script("convergence")
    assert module.looks(12_000) == [1000, 2000, 3000, 5000, 10_000, 12_000]
    assert module.looks(500) == [500]


def test_discounted_returns_go_on_beyond_a_time_limit() -> None:
    """By hand: an episode that ends, and one that is cut off while it earns 2 a step."""
    module, data = script("convergence"), toy_dataset(episodes=3)
    data.reward[:] = 2.0
    found = module.discounted_returns(data, 0.5)
    for k, (start, length) in enumerate(zip(data.starts, data.lengths, strict=True)):
        for row in range(start, start + length):
            left = start + length - row
            beyond = 0.0 if data.terminal[start + length - 1] else 4.0 * 0.5**left
            assert found[row] == pytest.approx(4.0 * (1 - 0.5**left) + beyond), (k, row)


def test_values_have_converged_when_doublings_change_little() -> None:
    module = script("convergence")
    looks, level = [1, 2, 4, 8, 16], pd.DataFrame([[100.0, 100.0]])
    rising = pd.DataFrame({0: [0.0, 40, 60, 65, 66], 1: [0.0, 40, 60, 65, 66]}, index=looks)
    change = module.changes(rising, level)
    np.testing.assert_allclose(change, [0.4, 0.2, 0.05, 0.01])
    assert list(change.index) == [1, 2, 4, 8]
    assert module.converged(change) == 4
    half = pd.DataFrame({0: [29.2893219, 50, 75, 93.75, 99.6]}, index=looks)
    assert module.halving(half, level) == pytest.approx(2.0)
    assert module.halving(rising * 0 + 99, level) is None
    falling_late = pd.DataFrame({0: [0.0, 0, 0, 0, 50]}, index=looks)
    assert module.converged(module.changes(falling_late, level)) is None


def test_convergence_goes_on_and_looking_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("convergence")
    monkeypatch.setattr(module, "FIRST", 2)
    monkeypatch.setattr(module, "SAMPLE", 16)
    monkeypatch.setattr(module, "train", lambda *a, **k: marlzoo.train(*a, **k | {"compile": "off"}))
    monkeypatch.setattr(module, "TASKS", (Data("games/two-peaks", "peaks"),))
    started: list[list[int]] = []
    evaluate = module.evaluate

    def evaluated(*given: Any, seeds: list[int], **more: Any) -> Any:
        started.append(seeds)
        return evaluate(*given, seeds=seeds, **more)

    monkeypatch.setattr(module, "evaluate", evaluated)
    small = {"tasks": ("games/two-peaks",), "methods": ("omiga", "td3_bc"), "episodes": 1, "seeds": (0, 1)}
    small |= {"hidden": 8, "batch_size": 8}
    for folder, steps in (("whole", (12,)), ("parts", (3, 12))):
        for updates in steps:
            module.main(module.Options(out=tmp_path / folder, updates=updates, **small))
    whole, parts = (written(tmp_path / folder / "convergence") for folder in ("whole", "parts"))
    assert {"value", "data_return", "return"} <= set(whole["metric"])
    assert set(whole["updates"]) == {2, 4, 6, 10, 12}
    assert started[:2] == [[derive(seed, "evaluate", done) for seed in (0, 1)] for done in (2, 4)]
    columns = list(whole.columns)
    shared = parts[parts["updates"] != 3].sort_values(columns[:-1]).reset_index(drop=True)
    pd.testing.assert_frame_equal(shared, whole.sort_values(columns[:-1]).reset_index(drop=True))


def test_replication_compares_last_rows_of_runs_that_both_have(tmp_path: Path) -> None:
    """Two datasets differ and one does not; earlier rows and runs without a twin do not count."""
    module = script("replication")

    def rows(gap: float, quality: str, seeds: int, **values: Any) -> list[Row]:
        made = {"quality": quality, **values}
        return [replace(ROW, **{"seed": k, "mean_return": gap + k / 10, **made}) for k in range(seeds)]

    earlier = rows(-999.0, "low", 3, updates=10)
    fewer = rows(1.0, "few", 3, episodes=ROW.episodes - 1)  # not of a last checkpoint
    first = [*rows(100.0, "low", 3), *rows(0.0, "far", 3), *rows(50.0, "high", 3), *earlier, *fewer]
    again = [
        *rows(90.0, "low", 3),
        *rows(9.0, "far", 3),
        *rows(50.0, "high", 3),
        *rows(7.0, "other", 3),
        *fewer,
    ]
    ResultsFile(tmp_path / "suite" / "replaced.csv").overwrite(first)
    ResultsFile(tmp_path / "suite" / "rows.csv").overwrite(again)
    assert module.main(module.Options(out=tmp_path, folders=(tmp_path / "suite",))) == 0
    assert len(written(tmp_path / "replication")) == 18
    text = (tmp_path / "replication" / "table.md").read_text().replace("\xa0", " ")
    assert "| 100.1 ± 0.1 | 90.1 ± 0.1 | -10.0 [-10.1, -9.9] |" in text
    assert "| 50.1 ± 0.1 | 50.1 ± 0.1 | +0.0 [-0.1, 0.1] |" in text
    assert "2 of 3 intervals do not contain 0." in text


def test_ranks_of_gain_and_coverage() -> None:
    """A rising relation, a falling one, and one of too few datasets; what is not known is left out."""
    module, x = script("coverage"), np.arange(8.0)
    assert module.correlation(x, np.exp(x)) == pytest.approx((1.0, 1.0, 1.0))
    value, low, high = module.correlation(np.append(x, np.nan), np.append(-(x**3), 99.0))
    assert (value, low, high) == pytest.approx((-1.0, -1.0, -1.0))
    noisy = np.array([0.0, 3.0, 1.0, 2.0, 6.0, 4.0, 7.0, 5.0])
    value, low, high = module.correlation(x, noisy)
    assert low < value < high
    assert value == pytest.approx(1.0 - 6.0 * np.square(noisy - x).sum() / (8 * 63))
    assert np.isnan(module.correlation(x[:4], x[:4])).all()


def test_only_intervals_that_are_known_are_counted() -> None:
    module, x = script("coverage"), np.arange(8.0)
    parts = [
        pd.DataFrame(
            {"learner": name, "task": "t", "quality": [str(k) for k in range(count)], "gain": x[:count]}
        )
        for name, count in (("many", 8), ("few", 3))
    ]
    numbers = pd.concat(parts, ignore_index=True)
    numbers = numbers.assign(**dict.fromkeys(module.MEASURES, numbers["gain"]))
    assert any(note.startswith("4 of 4 intervals") for note in module.report(numbers).sheet.notes)


def test_gains_are_over_cloning_on_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("coverage")
    seen: list[tuple[str, str, int]] = []

    def measured(data: Any, folder: Path) -> dict[str, float]:
        seen.append((data.task, data.quality, data.transitions))
        return dict.fromkeys(module.MEASURES, float(len(data.quality)))

    monkeypatch.setattr(module, "measured", measured)
    found = module.lines(module.Options(folders=(Path("results/mujoco-small"),)))
    assert len(seen) == len(set(seen)) == found.groupby(["task", "quality"]).ngroups
    assert {amount for *_, amount in seen} == {100_000}
    assert (found.loc[found["learner"] == "bc", "gain"] == 0).all()
    assert (found["spread"] == found["quality"].str.len()).all()
    rows = ResultsFile(Path("results/mujoco-small/rows.csv")).read()
    last = (
        rows[rows["updates"] == 100_000]
        .groupby(["task", "quality", "method", "variant"])["normalized_score"]
        .mean()
    )
    for line in found.itertuples():
        method, _, variant = line.learner.partition(" (")
        if variant:
            variant = {"iddpg_bc)": "variant=iddpg_bc", "independent)": "variant=independent"}.get(
                variant, variant[:-1]
            )
        gain = last[line.task, line.quality, method, variant] - last[line.task, line.quality, "bc", ""]
        assert line.gain == pytest.approx(gain, rel=1e-6, abs=1e-6)


def test_a_value_has_settled_where_no_longer_run_would_be_warned_of() -> None:
    updates = np.arange(5.0, 1001.0, 5.0)
    module = script("values")
    assert module.settled(updates, np.ones(200)) == 50.0
    rising = 1 - np.exp(-updates / 100)
    assert module.settled(updates, rising) == 450.0  # of ends every 50, the first beyond four constants
    assert np.isnan(module.settled(updates, updates))
    assert np.isnan(module.settled(updates, -updates))
    assert np.isnan(module.settled(updates, np.where(updates > 900, np.inf, 1.0)))
    jump = np.where(updates > 500, 2.0, 1.0)
    assert module.settled(updates, jump) == 1000.0  # when two quarters lie behind it


def test_values_of_committed_runs(tmp_path: Path) -> None:
    module = script("values")
    options = module.Options(
        out=tmp_path, folders=(FOLDER.parents[1] / "results" / "demo",), looks=(1000, 9999999)
    )
    assert module.main(options) == 0
    lines = written(tmp_path / "values")
    assert set(lines["learner"]) == {"omiga", "iql"}
    assert (lines["value_1000"] != 0).all()
    assert "value_9999999" not in lines


def test_tails_and_rewards_of_agents_of_discounted_returns() -> None:
    """The last ten steps' mean goes on for ever; where agents have rewards of their own, their mean counts."""
    module = script("convergence")
    reward = np.arange(13.0)[:, None] * np.array([0.0, 2.0])  # their mean is 0, 1, 2, ...
    data = SimpleNamespace(reward=reward, rows=13, starts=[0], lengths=[12], terminal=np.zeros(13, bool))
    found = module.discounted_returns(data, 0.5)
    assert found[11] == pytest.approx(11 + 0.5 * np.arange(2, 12).mean() / 0.5)
    short = SimpleNamespace(
        reward=np.array([9.0, 9.0, 1.0, 3.0, 0.0]),
        rows=5,
        starts=[0, 2],
        lengths=[1, 2],
        terminal=np.zeros(5, bool),
    )
    assert module.discounted_returns(short, 0.5)[2] == pytest.approx(1 + 0.5 * (3 + 0.5 * 2 / 0.5))


def test_numbers_of_convergence(tmp_path: Path) -> None:
    module = script("convergence")
    assert module.SHARED == {"history": "mlp", "timeout_is_terminal": False}
    assert module.looks(250_000)[-4:] == [50_000, 100_000, 200_000, 250_000]
    values = [module.plain(value) for value in (12.34, -99_999.0, -2e7, 0.654)]
    assert values == ["12.3", "-99999.0", "-2e+07", "0.65"]
    assert [module.share(value) for value in (0.25, -0.5, -20.0)] == ["+25%", "-50%", "-2e+01 times"]
    looks = [1, 2, 4, 8, 16]
    level = pd.DataFrame([[-100.0]])
    falling = pd.DataFrame({0: [0.0, 40, 35, 65, 66]}, index=looks)
    change = module.changes(falling, level)
    np.testing.assert_allclose(change, [0.4, -0.05, 0.3, 0.01])  # of the size of a negative return
    assert module.converged(change) == 8  # small before a large one does not count
    assert module.converged(-change) == 8  # nor does a fall
    source = SimpleNamespace(task="a/b", quality="q")
    first = module.lines(source, "m", (3, 4), 10, {"value": np.array([1.0, 2.0])})
    assert first["value"].tolist() == [1.0, 2.0]
    module.record(tmp_path / "t.csv", first)
    again = module.lines(source, "m", (4,), 10, {"value": np.array([5.0])})
    module.record(tmp_path / "t.csv", again)
    kept = module.read(tmp_path / "t.csv").set_index("seed")["value"]
    assert kept.to_dict() == {3: 1.0, 4: 5.0}
    # The gap halves by half; it reaches the return, and opens again, which does not count.
    gap = np.array([1.2, 0.8, 0.4, 0.2, 0.05, 0.9])
    value = pd.DataFrame({0: 100 * (1 - gap)}, index=[0, 1, 2, 3, 4, 5])
    assert module.halving(value, pd.DataFrame([[100.0]])) == pytest.approx(1.0)
    assert module.halving(value.iloc[:3], pd.DataFrame([[100.0]])) is None  # two points are no line
    assert (
        module.halving(value.iloc[[3, 2, 1]].set_index(pd.Index([1, 2, 3])), pd.DataFrame([[100.0]])) is None
    )
    rows = pd.concat(
        module.lines(
            source, "m", (3, 4), look, {"value": np.array([look, look]), "data_return": np.full(2, 20.0),
                "weight/ess": np.full(2, look / 10),
                                        "return": np.array([look + 1.0, look + 1.0])},
        )
        for look in (1, 2, 4)
    )  # fmt: skip
    (line,) = module.body(rows)
    assert line[:5] == ["b m", "4", "20.0", "4.00", ""]
    assert (line[6], line[8]) == ("+10%", "0.40")
    assert line[-1].startswith("5.00")


def test_convergence_counts_a_seed_off_the_scale_and_shows_the_others() -> None:
    module = script("convergence")
    level = pd.DataFrame([[-2.0, -2.0, -2.0]])
    value = pd.DataFrame([[1.0, 1, 1], [1.5, 1.5, -5], [1.5, 1.6, -1e9]], index=[1, 2, 4])
    np.testing.assert_allclose(module.changes(value, level), [0.25, 0.0])
    assert module.off_scale(value, level) == "1 of 3"
    assert module.off_scale(value.iloc[:2], level) == ""
    assert module.off_scale(pd.DataFrame([[np.nan, 20.0, 20.1]]), level) == "2 of 3"
    gap = np.array([0.8, 0.4, 0.2, 0.1])
    closing = pd.DataFrame({0: 1 - gap, 1: 1 - gap, 2: [9.0, 9, 9, 9]}, index=[0, 1, 2, 3])
    assert module.halving(closing, pd.DataFrame([[1.0]])) == pytest.approx(1.0)


def test_convergence_names_what_made_its_longer_runs() -> None:
    module = script("convergence")
    ends = [("a/b", "m", 1000), ("a/b", "m", 900_000), ("a/b", "n", 300_000), ("a/c", "n", 300_001)]
    found = module.longer(pd.DataFrame(ends, columns=["task", "method", "updates"]))
    assert found == [
        "m on b with `--methods m --tasks a/b --updates 900000`",
        "n on c with `--methods n --tasks a/c --updates 300001`",
    ]


def test_probes_read_the_learners_values_of_the_data() -> None:
    module, data = script("convergence"), toy_dataset("continuous")
    options = module.Options(seeds=(0, 1), hidden=8)
    mine, twin = (module.learner(options, "omiga", data, "toy/walk", size) for size in (8, 64))
    assert (mine.config.hidden, mine.config.timeout_is_terminal) == (8, False)
    probe = module.Probe(twin, data)
    first = probe.look(mine)
    assert (
        {name for name in first if "/" in name}
        == {name for name in first if name.startswith("weight/")}
        != set()
    )
    assert first["data_return"].shape == (2,)
    assert first["data_return"][0] != first["data_return"][1]  # of each replica's own rows
    again = probe.look(mine)
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])  # the twin starts from the learner each time


def test_values_at_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("values")
    updates = np.arange(10.0, 1001.0, 10.0)

    def metrics(name: str, points: int, required: bool) -> pd.DataFrame:
        assert not required  # a run of a method without values has no curve
        rows = (
            {"iql": updates / 2, "omiga": np.where(updates > 500, 2.0, 1.0)}
            if name == module.VALUE
            else {"iql": 1 / updates}
        )
        return pd.concat(
            pd.DataFrame({"dataset": "d", "learner": name, "updates": updates, "mean": mean})
            for name, mean in rows.items()
        )

    monkeypatch.setattr(module, "Results", lambda folder: SimpleNamespace(metrics=metrics))
    found = module.lines(module.Options(folders=(Path("a/s"),), looks=(104, 1000, 1001)))
    assert found["suite"].tolist() == ["s", "s"]
    assert found["value_104"].tolist() == [50.0, 1.0]
    assert found["value_1000"].tolist() == [500.0, 2.0]
    assert "value_1001" not in found
    assert found["ess"].iloc[0] == 0.001
    assert np.isnan(found["ess"].iloc[1])
    assert np.isnan(found["settled"].iloc[0])
    assert found["settled"].iloc[1] == 1000.0
    sheet = module.report(found, (104, 1000, 1001)).sheet
    assert sheet.body[0] == ["s d", "iql", "50", "500", "–", "moving", "0.00"]
    assert sheet.body[1][2:] == ["1", "2", "–", "1,000", "–"]
    assert "1 of 2 had settled." in sheet.notes
    assert [module._short(value) for value in (-1234.0, 0.123, -2e5)] == ["-1234", "0.12", "-2e+05"]
    sheet = module.report(pd.concat([found, found.iloc[:1]]), (104,)).sheet
    assert "1 of 3 had settled." in sheet.notes
    assert module.settled(updates[:3], np.ones(3)) == 30.0  # before it there are too few points to say
    assert np.isnan(module.settled(updates, np.where(updates == 1000, np.inf, 1.0)))  # the last one counts


def test_replication_tells_variants_spreads_and_missing_rows(tmp_path: Path) -> None:
    module = script("replication")
    about = {"task": "mpe/spread", "quality": "q", "method": "m", "variant": "variant=x", "device": "cpu"}
    numbers = pd.DataFrame(
        {**about, "machine": "here", "seed": seed, "mean_return": value, "trained": trained}
        for trained, values in (("first", (1.0, 3.0)), ("again", (2.0, 6.0)))
        for seed, value in enumerate(values)
    )
    (line,) = module.report(numbers).sheet.body
    assert line[:4] == ["mpe/spread q", "m (x)", "2.0 ± 1.4", "4.0 ± 2.8"]
    ResultsFile(tmp_path / "rows.csv").overwrite([])
    with pytest.raises(DataError, match="no rows; give folders of results"):
        module.finished(tmp_path / "rows.csv")
