"""Coverage, dependence, modes and hints, calibrated on data whose truth is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from marlzoo.data.dataset import Dataset
from marlzoo.data.diagnostics import (
    SPLIT,
    VARIANCE_FLOOR,
    _hashes,
    _split,
    coverage,
    dependence,
    hints,
    modes,
    sample_transitions,
)
from marlzoo.data.inspection import inspect, inspection_tables, write_html
from marlzoo.spec import Spec
from tests.data_samples import DISCRETE, sample

EPISODES, LENGTH, CHOICES = 60, 101, 4


def made(kind: str, discrete: bool = False, seed: int = 0, correlation: float = 0.6) -> Dataset:
    """Two agents that see three numbers each and act on them: independently, alike, or by shared conventions."""
    rng = np.random.default_rng(seed)
    rows = EPISODES * LENGTH
    obs = rng.standard_normal((rows, 2, 3)).astype(np.float32)
    if discrete:
        logits = obs @ rng.standard_normal((3, CHOICES))
        action: Any = (logits + rng.gumbel(size=logits.shape)).argmax(-1)
        if kind == "alike":
            action = np.repeat(rng.integers(0, CHOICES, (rows, 1)), 2, axis=1)
    else:
        mean, noise = 0.3 * obs @ np.array([1.0, -1.0, 0.5]), 0.2 * rng.standard_normal((rows, 2))
        if kind == "correlated":
            noise[:, 1] = correlation * noise[:, 0] + np.sqrt(1 - correlation**2) * noise[:, 1]
        if kind == "alike":
            mean = np.zeros_like(mean)
            noise[:, 1] = noise[:, 0]
        if kind == "conventions":
            mean = 0.6 * np.sign(rng.standard_normal((rows, 1))) + 0 * mean
            noise *= 0.3
        action = (mean + noise)[..., None].astype(np.float32)
    truncated = np.zeros(rows, np.bool_)
    truncated[LENGTH - 2 :: LENGTH] = True
    sizes = ("discrete", CHOICES) if discrete else ("continuous", 1)
    return Dataset.create(
        Spec(2, 3, 6, sizes[0], sizes[1], horizon=LENGTH),  # type: ignore[arg-type]
        obs=obs,
        action=action if discrete else np.clip(action, -1, 1),
        reward=rng.standard_normal(rows).astype(np.float32),
        terminal=np.zeros(rows, np.bool_),
        truncated=truncated,
        starts=np.arange(0, rows, LENGTH),
        action_mask=np.ones((rows, 2, CHOICES), np.bool_) if discrete else None,
    )


@pytest.mark.parametrize("discrete", [False, True], ids=["continuous", "discrete"])
def test_independent_agents_show_no_dependence(discrete: bool) -> None:
    """Over three seeds: never more than a hundredth of a nat, and the interval's lower end above 0 at most once."""
    found = [dependence(made("independent", discrete, seed)) for seed in range(3)]
    assert max(abs(each.given_observations) for each in found) < 0.01
    assert sum(each.low > 0 for each in found) <= 1
    assert all(each.high >= 0 for each in found)
    assert "no dependence" in next(each for each in found if each.low <= 0).verdict


@pytest.mark.parametrize("correlation", [0.2, 0.6, 0.9])
def test_known_dependence_of_gaussian_agents(correlation: float) -> None:
    """Weak, middling and strong, each near its own truth, so that their order is right, too."""
    truth = -0.5 * np.log(1 - correlation**2)
    found = dependence(made("correlated", correlation=correlation))
    assert found.low > 0
    assert found.given_observations == pytest.approx(truth, rel=0.15, abs=0.01)
    assert found.high - found.low < 0.1


def test_few_rows_show_no_dependence_where_there_is_none_and_some_where_it_is_strong() -> None:
    data = made("independent").episodes_subset(range(8))
    found = dependence(data)
    assert found.sample == 8 * (LENGTH - 1)
    assert found.low <= 0 <= found.high
    assert dependence(made("correlated").episodes_subset(range(8))).low > 0


def test_fully_correlated_agents() -> None:
    """Equal actions: the entropy of the action where it is finite, the ceiling of 5.1 nats where it is not."""
    discrete = dependence(made("alike", discrete=True))
    assert discrete.given_observations == pytest.approx(np.log(CHOICES), abs=0.02)
    assert discrete.unconditional == pytest.approx(np.log(CHOICES), abs=0.02)
    assert discrete.low > 1
    continuous = dependence(made("alike"))
    assert continuous.low > 3
    assert continuous.given_observations == pytest.approx(0.5 - 0.5 * np.log(VARIANCE_FLOOR), abs=0.1)
    assert "does not factorize" in continuous.verdict


def test_conventions_are_dependence_two_modes_and_gaps() -> None:
    """Both agents left or both right: half of the recombined joint actions never occur."""
    together, apart = made("conventions"), made("independent")
    assert dependence(together).low > 0.5
    assert min(modes(together).two_modes or ()) > 0.9
    assert max(modes(apart).two_modes or ()) < 0.05
    mixed, plain = coverage(together), coverage(apart)
    assert mixed.recombined is not None
    assert mixed.recombined < 0.7
    assert plain.recombined is not None
    assert plain.recombined > 0.85


def test_nearness_is_that_of_states_and_actions() -> None:
    """Where all actions are equal, random ones pass in states that are nearer than usual."""
    data = made("independent")
    data.action[:] = 0.0
    assert 0.2 < (coverage(data, sample=600).uniform or 0.0) < 0.8


def test_distinct_pairs_by_hand() -> None:
    data = sample((4, 4), spec=DISCRETE)
    for array in (data.obs, data.state):
        array[:] = 0
    data.action[:4] = [[0, 1], [0, 1], [1, 0], [0, 1]]
    data.action[5:9] = [[2, 2], [0, 1], [1, 0], [2, 2]]
    assert data.transitions == 8
    found = coverage(data)
    assert found.distinct == 3 / 8
    assert found.distinct_actions == 3 / 8  # of 16 possible ones 8 transitions can show at most 8
    assert (found.recombined, found.uniform) == (None, None)
    data.state[0] = 1.0  # the same actions in another state are another pair
    assert (coverage(data).distinct, coverage(data).distinct_actions) == (4 / 8, 3 / 8)


def test_equal_rows_have_equal_hashes_and_others_do_not() -> None:
    rows = np.random.default_rng(0).integers(0, 3, (20_000, 12)).astype(np.float32)
    truth = len(np.unique(rows, axis=0))
    assert len(np.unique(_hashes(rows))) == truth
    assert (_hashes(rows) == _hashes(rows.copy())).all()


def test_effective_actions() -> None:
    data = made("alike", discrete=True)
    assert modes(data).effective_actions == pytest.approx([CHOICES, CHOICES], rel=0.1)
    data.action[:] = (data.obs[..., 0] > 0).astype(np.int64)
    assert max(modes(data).effective_actions or ()) < 1.3


def test_agents_that_see_the_same_depend_on_each_other_through_it_alone() -> None:
    data = made("alike", discrete=True)
    data.obs[:, 1] = data.obs[:, 0]
    data.action[:] = (data.obs[..., 0] > 0).astype(np.int64)
    found = dependence(data, sample=600)
    assert found.unconditional == pytest.approx(np.log(2.0), abs=0.02)
    assert abs(found.given_observations) < 0.1


def test_a_stray_row_is_no_mode() -> None:
    values = np.linspace(-0.1, 0.1, 50)[None].repeat(2, axis=0)
    values[0, 0], values[1, :25] = -9.0, -9.0
    stray, two = _split(values)
    assert stray < SPLIT < two


def test_the_sample_is_seeded_and_named() -> None:
    data = made("independent")
    found = sample_transitions(data, 500, 0)
    assert len(np.unique(found)) == len(found) == 500
    np.testing.assert_array_equal(sample_transitions(data, 500, 0), sample_transitions(data, 500, 0))
    assert (sample_transitions(data, 500, 0) != sample_transitions(data, 500, 1)).any()
    one, again = (dependence(data, sample=500) for _ in range(2))
    assert one == again
    assert one.sample == 500
    assert not np.isin(sample_transitions(data, 500, 0), data.ends).any()


def test_hints() -> None:
    data = made("independent")
    mean, std = np.zeros(6), np.ones(6)
    assert [hint for hint in hints(data, mean, std, 0.0) if "span" not in hint] == []
    std[:3] = [0, 100, 1]
    text = " ".join(hints(data, mean, std, 0.3))
    for part in (
        "1 of 6 observation entries are constant",
        "reach from 1 to 1e+02",
        "30.0% of action entries",
    ):
        assert part in text
    steps = sample((1, 1), reward=np.array([0.015, 0, 0.015, 0], np.float32))
    assert not any("rewards are" in hint for hint in hints(steps, mean, std, 0.0)), (
        "final rows have no reward"
    )


@pytest.mark.parametrize("lengths", [(1,), (2, 3)])
@pytest.mark.parametrize("discrete", [False, True])
def test_tiny_datasets_are_measured(lengths: tuple[int, ...], discrete: bool) -> None:
    found = inspect(sample(lengths, spec=DISCRETE) if discrete else sample(lengths))
    assert inspection_tables(found)


def test_page_needs_no_network(tmp_path: Any) -> None:
    data = made("independent")
    found = inspect(data)
    write_html(data, found, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "data:image/png;base64,iVBOR" in page
    assert "dependence between agents" in page
    assert "http" not in page
    assert "src=" not in page.replace('src="data:', "")
