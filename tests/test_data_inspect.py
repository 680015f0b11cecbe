"""Inspection: numbers by hand, JSON, text and plot."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from marlzoo.cli import main
from marlzoo.data import arrays
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.diagnostics import coverage
from marlzoo.data.formats.native import write_omiga
from marlzoo.data.inspection import Ranges, _range_table, inspect, inspection_tables, plot_dataset
from marlzoo.errors import ConfigError, MissingExtraError, OutputError
from tests.data_samples import CARD, DISCRETE, SPEC, parts, sample


def test_counts_and_quantiles_by_hand() -> None:
    found = inspect(sample((2, 3, 4, 2, 3), reward=np.full(19, 2.0, np.float32)))
    assert (found.rows, found.transitions, found.episodes, found.agents) == (19, 14, 5, 2)
    assert (found.terminal, found.truncated, found.cut) == (2, 2, 1)
    assert (found.returns["0.0"], found.returns["0.5"], found.returns["1.0"]) == (4, 6, 8)
    assert found.lengths["0.25"] == 2
    assert found.state_is_obs
    uneven = inspect(sample((2, 3, 4, 2)))
    assert (uneven.terminal, uneven.truncated, uneven.cut) == (2, 1, 1)
    console = Console(file=io.StringIO(), width=120)
    console.print(inspection_tables(uneven))
    assert "2 terminal, 1 time limit, 1 cut" in console.file.getvalue()  # type: ignore[attr-defined]


def test_long_tables_are_cut_short() -> None:
    for entries, rows in ((12, 12), (15, 13)):
        ranges = Ranges(*[[[0.0] * entries]] * 4)
        assert _range_table("Observations", ranges).row_count == rows


@pytest.mark.parametrize("chunk", [8 << 20, 100])
def test_ranges_are_those_of_the_transitions(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    dataset = sample((20, 30, 40))
    dataset.obs[dataset.ends] = 1e6  # final observations are no source of a step
    dataset.obs[..., 2] += 1e4
    monkeypatch.setattr(arrays, "CHUNK_BYTES", chunk)
    found = inspect(dataset)
    for ranges, array in ((found.observation, dataset.obs), (found.action, dataset.action)):
        assert ranges is not None
        kept = array[dataset.sources].astype(np.float64)
        for values, reduce in ((ranges.low, np.min), (ranges.mean, np.mean), (ranges.std, np.std)):
            np.testing.assert_allclose(values, reduce(kept, axis=0), rtol=1e-5, atol=1e-9)
        np.testing.assert_allclose(ranges.high, kept.max(axis=0))


def test_actions_outside_and_at_the_bound_are_counted() -> None:
    action = parts()["action"] * 0.5
    action[0] = [[2.0, 1.0], [-1.0, 0.0]]
    with pytest.warns(UserWarning, match="clipped"):
        clipped = inspect(sample(action=action))
    assert clipped.action_outside == 1
    assert clipped.action_at_bound == pytest.approx(3 / 36)
    with pytest.warns(UserWarning, match="kept"):
        kept = inspect(sample(action=action, action_clip=False))
    assert kept.action_outside == 1
    assert kept.action_at_bound == pytest.approx(3 / 36)


def test_discrete_actions_are_counted() -> None:
    dataset = sample(spec=DISCRETE)
    found = inspect(dataset)
    taken = dataset.action[dataset.sources]
    assert found.action is None
    assert found.action_counts == [[int((taken[:, i] == a).sum()) for a in range(4)] for i in range(2)]


@pytest.mark.parametrize("discrete", [False, True])
def test_text_and_json(discrete: bool) -> None:
    found = inspect(sample(spec=DISCRETE) if discrete else sample())
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["episodes"] == 3
    console = Console(file=io.StringIO(), width=120)
    console.print(inspection_tables(found))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "toy/point/tests/random" in text
    assert "1 terminal, 1 time limit, 1 cut" in text
    assert "9 in 3 episodes (12 rows)" in text
    assert ("How often taken" in text) == discrete


def test_the_plot_is_a_png_and_repeats(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    dataset = sample()
    plot_dataset(dataset, tmp_path / "a.png")
    plot_dataset(dataset, tmp_path / "b.png")
    plot_dataset(sample(spec=DISCRETE), tmp_path / "c.png")
    assert (tmp_path / "a.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    with pytest.raises(OutputError, match="name a file, not a folder"):
        plot_dataset(dataset, tmp_path)
    with pytest.raises(ConfigError, match=r"end its name in \.png"):
        plot_dataset(dataset, tmp_path / "a.xyz")


def test_a_missing_plotting_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtraError, match=r'-m pip install "matplotlib[<>]'):
        plot_dataset(sample(), tmp_path / "a.png")


HOSTILE = (
    "[/x] [link=javascript:alert(1)]here"
    "[/link] \x1b[31mred <img src=x onerror=alert(1)> $a_ {b} :smile: @picture@"
)


def test_text_of_others_stands_for_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the terminal, in the page and in the plot: no markup, no links, no commands."""
    pytest.importorskip("matplotlib", reason="needs matplotlib: pip install 'marlzoo[plot]'")
    monkeypatch.setenv("COLUMNS", "400")
    card = Card(quality=HOSTILE, source=HOSTILE, license=HOSTILE, engine=HOSTILE, notes=(HOSTILE,))
    write_omiga(sample(card=card), tmp_path / "a[bold].hdf5")
    page = tmp_path / "page.html"
    assert main(["data", "inspect", str(tmp_path / "a[bold].hdf5"), "--html", str(page)]) == 0
    assert main(["data", "card", str(tmp_path / "a[bold].hdf5")]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    for part in ("[/x]", "[link=javascript:alert(1)]here[/link]", "\\x1b[31mred", ":smile:", "a[bold].hdf5"):
        assert part in out
    text = page.read_text(encoding="utf-8")
    assert "<a href" not in text
    assert text.count("<img") == 1
    assert "&lt;img src=x onerror" in text
    assert "\x1b" not in text
    assert main(["data", "convert", str(tmp_path / "a[bold].hdf5"), str(tmp_path / "o[bold]x.npz")]) == 0
    told = capsys.readouterr()
    assert "o[bold]x.npz" in told.out
    assert "\x1b" not in told.err


def test_what_fills_up_smaller_agents_counts_for_nothing() -> None:
    """Of actions in half of the box with every fourth entry on its bound, where the second agent has one entry."""
    spec = replace(SPEC, obs_sizes=(3, 2), action_sizes=(2, 1))
    values = parts([8] * 30, spec=spec)
    values["obs"][:, 1, 2] = 0.0
    values["action"][::4] = np.sign(values["action"][::4])
    dataset = Dataset.create(spec, **values, card=CARD)
    found = inspect(dataset)
    taken = dataset.action[dataset.sources]
    own = np.concatenate((taken[:, 0].ravel(), taken[:, 1, 0]))
    assert found.action_at_bound == pytest.approx((np.abs(own) == 1).mean())
    assert found.action is not None
    assert [len(row) for row in found.action.low] == [2, 1]
    assert [len(row) for row in found.observation.std] == [3, 2]
    assert not any("constant" in hint for hint in found.hints)
    assert any("%" in hint for hint in found.hints)


def test_random_actions_have_no_entries_that_smaller_agents_lack() -> None:
    """Where behavior is random, random joint actions are as near to the data as recorded ones, 95 % of which are."""
    spec = replace(SPEC, action_sizes=(2, 1))
    values = parts([20] * 100, spec=spec)
    found = coverage(Dataset.create(spec, **values | {"obs": 0 * values["obs"]}, card=CARD))
    assert found.uniform is not None
    assert found.uniform > 0.9
