"""The canonical dataset: structure, statistics, identity, and every fault it refuses."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from marlzoo.data import arrays
from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.errors import DataError
from marlzoo.spec import Spec
from tests.data_samples import CARD, DISCRETE, SPEC, parts, sample


def test_sizes_and_statistics_by_hand() -> None:
    reward = np.array([1, 2, 99, 3, 99, 4, 5, 6, 99], np.float32)  # 99 stands on final rows
    values = parts((2, 1, 3)) | {"reward": reward}
    dataset = Dataset.create(SPEC, **values)
    assert (dataset.rows, dataset.episodes, dataset.transitions) == (9, 3, 6)
    np.testing.assert_array_equal(dataset.starts, [0, 3, 5])
    np.testing.assert_array_equal(dataset.ends, [2, 4, 8])
    np.testing.assert_array_equal(dataset.lengths, [2, 1, 3])
    np.testing.assert_array_equal(dataset.sources, [0, 1, 3, 5, 6, 7])
    np.testing.assert_array_equal(dataset.returns, [3, 3, 15])
    card = dataset.card
    assert (card.transitions, card.episodes) == (6, 3)
    assert (card.mean_return, card.min_return, card.max_return, card.mean_length) == (7, 3, 15, 2)
    assert card.std_return == pytest.approx(np.sqrt(32))


def test_returns_are_summed_in_double_precision() -> None:
    reward = np.zeros(1002, np.float32)
    reward[:1001] = [1e8, *[1.0] * 999, 2.0]
    dataset = sample((1001,), spec=replace(SPEC, horizon=2000), reward=reward)
    assert float(dataset.returns[0]) == 1e8 + 1001  # as a Python float, which no comparison rounds


def test_rewards_per_agent_are_averaged() -> None:
    spec = replace(SPEC, reward_per_agent=True)
    dataset = sample((2,), spec=spec, reward=np.array([[1, 3], [2, 2], [9, 9]], np.float32))
    np.testing.assert_array_equal(dataset.returns, [4])


def test_state_shares_the_memory_of_equal_observations() -> None:
    values = parts()
    dataset = Dataset.create(SPEC, **values)
    assert dataset.obs is values["obs"]
    assert np.shares_memory(dataset.state, dataset.obs)
    assert dataset.state_is_obs
    copied = Dataset.create(SPEC, **values, state=values["obs"].reshape(12, 6).copy())
    assert np.shares_memory(copied.state, copied.obs)
    other = values["obs"].reshape(12, 6).copy()
    other[-1, -1] += 1
    apart = Dataset.create(SPEC, **values, state=other)
    assert not apart.state_is_obs
    assert apart.content_hash != dataset.content_hash == copied.content_hash


def test_final_rows_hold_zeros_and_inputs_are_left_alone() -> None:
    values = parts()
    before = values["action"].copy()
    dataset = Dataset.create(SPEC, **values)
    assert not dataset.action[dataset.ends].any()
    assert not dataset.reward[dataset.ends].any()
    np.testing.assert_array_equal(values["action"], before)


@pytest.mark.parametrize("name", ["obs", "action", "reward", "terminal", "truncated", "action_mask", "state"])
def test_the_hash_sees_every_array(name: str) -> None:
    values = parts(spec=DISCRETE)
    plain = Dataset.create(DISCRETE, **values)
    changed = values[name].copy()
    if name in ("terminal", "truncated"):
        changed[plain.ends[2] - 1] = True
    elif name == "action_mask":
        changed[1] = True
    elif name == "action":
        values["action_mask"] = np.ones_like(values["action_mask"])
        plain = Dataset.create(DISCRETE, **values)
        changed[1] = (changed[1] + 1) % 4
    else:
        changed[0] += 1
    assert Dataset.create(DISCRETE, **values | {name: changed}).content_hash != plain.content_hash


def test_the_hash_is_stable_and_ignores_the_card() -> None:
    fixed: dict[str, Any] = {
        "obs": np.arange(18, dtype=np.float32).reshape(3, 2, 3),
        "action": np.zeros((3, 2, 2), np.float32),
        "reward": np.ones(3, np.float32),
        "terminal": np.array([False, True, False]),
        "truncated": np.zeros(3, np.bool_),
        "starts": [0],
    }
    plain = Dataset.create(SPEC, **fixed)
    assert plain.content_hash == Dataset.create(SPEC, **fixed, card=CARD).content_hash
    other = Dataset.create(replace(SPEC, horizon=51), **fixed)
    assert other.content_hash != plain.content_hash
    # A golden value: result rows of earlier runs refer to data by it.
    assert plain.content_hash == "1d29b4f52faebd26e05342769d9e10afc9751b4a6b23a01f9b4b60d29dd3fb69"


def test_a_subset_has_its_episodes_in_order() -> None:
    dataset = sample((2, 3, 4))
    subset = dataset.episodes_subset([2, 0])
    np.testing.assert_array_equal(subset.lengths, [4, 2])
    np.testing.assert_array_equal(subset.obs[:5], dataset.obs[7:])
    np.testing.assert_array_equal(subset.obs[5:], dataset.obs[:3])
    np.testing.assert_array_equal(subset.returns, dataset.returns[[2, 0]])
    assert subset.state_is_obs
    assert subset.card.episodes == 2
    assert "2 of 3 episodes" in subset.card.notes[-1]
    subset.validate()
    for wrong in ([], [3], [-1]):
        with pytest.raises(DataError, match=r"numbers in 0\.\.2"):
            dataset.episodes_subset(wrong)


def test_timeouts_can_be_read_as_terminals() -> None:
    dataset = sample((2, 3, 4))
    read = dataset.timeouts_as_terminals()
    np.testing.assert_array_equal(np.flatnonzero(read.terminal), [1, 5])
    assert not read.truncated.any()
    np.testing.assert_array_equal(np.flatnonzero(dataset.truncated), [5])
    assert "1 time-limit ends" in read.card.notes[-1]


def test_actions_outside_the_box_warn_with_count_and_share() -> None:
    action = parts()["action"]
    action[0, 0] = [1.5, -3.0]
    with pytest.warns(UserWarning, match=r"2 action entries \(5\.56%\) lie outside .* they were clipped"):
        dataset = sample(action=action)
    np.testing.assert_array_equal(dataset.action[0, 0], [1, -1])
    assert dataset.card.clipped == 2
    assert action[0, 0, 0] == 1.5
    with pytest.warns(UserWarning, match="they are kept"):
        kept = sample(action=action, action_clip=False)
    assert kept.action[0, 0, 0] == 1.5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dataset.validate()


def spoiled(name: str, index: Any, value: Any, spec: Spec = SPEC) -> dict[str, Any]:
    values = parts(spec=spec)
    values[name] = values[name].copy()
    values[name][index] = value
    return values


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (spoiled("obs", (4, 1, 2), np.nan), r"obs holds NaN, first at row 4, entry \[1, 2\]"),
        (spoiled("obs", (11, 0, 0), -np.inf), "obs holds infinity, first at row 11"),
        (spoiled("reward", 1, np.inf), "reward holds infinity, first at row 1"),
        (spoiled("action", (3, 0, 1), np.nan), r"action holds NaN, first at row 3"),
        (parts() | {"reward": np.zeros(11, np.float32)}, "lengths differ: obs has 12 rows, reward has 11"),
        (
            parts() | {"obs": np.zeros((12, 2, 4))},
            r"obs has shape \(T, 2, 4\), the spec asks for \(T, 2, 3\)",
        ),
        (parts() | {"action": np.zeros((12, 2))}, r"action has shape \(T, 2\)"),
        (parts() | {"state": np.zeros((12, 5))}, r"state has shape \(T, 5\), the spec asks for \(T, 6\)"),
        (parts() | {"reward": np.zeros((12, 2))}, r"reward has shape \(T, 2\)"),
        (parts() | {"starts": [0, 3, 3]}, "starts must increase"),
        (parts() | {"starts": [0, 3, 12]}, "starts must increase and stay below the number of rows 12"),
        (parts() | {"starts": [1, 3]}, "begins with 0"),
        (parts() | {"starts": []}, "begins with 0"),
        (parts() | {"starts": [0, 3, 4]}, "an episode without a transition begins at row 3"),
        (spoiled("terminal", 2, True), "terminal is set at row 2, which is not an episode's last step"),
        (spoiled("truncated", 0, True), "truncated is set at row 0, which is not an episode's last step"),
        (
            parts((2, 51)),
            "an episode of 51 steps begins at row 3, but the horizon is 50; .* at least 51 steps",
        ),
    ],
)
def test_faults_of_continuous_data_are_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        Dataset.create(SPEC, **values)


@pytest.mark.parametrize("chunk", [50, 8 << 20])
def test_the_first_row_is_named_in_pieces_of_any_size(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(arrays, "CHUNK_BYTES", chunk)
    with pytest.raises(DataError, match="obs holds NaN, first at row 7, entry"):
        Dataset.create(SPEC, **spoiled("obs", (slice(7, 9), 1, 2), np.nan))


def test_an_empty_dataset_is_refused() -> None:
    values = {name: array[:0] for name, array in parts().items()}
    with pytest.raises(DataError, match="the dataset is empty"):
        Dataset.create(SPEC, **values)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (spoiled("action", (4, 1), 4, DISCRETE), r"action 4 of agent 1 at row 4 is outside 0\.\.3"),
        (spoiled("action", (4, 1), -1, DISCRETE), "action -1 of agent 1 at row 4"),
        (spoiled("action_mask", (5, 0), False, DISCRETE), "agent 0 has no legal action at row 5"),
        (
            parts(spec=DISCRETE) | {"action": np.zeros((12, 2))},
            "discrete actions must be integers, not float64",
        ),
        (
            parts(spec=DISCRETE) | {"action_mask": np.ones((12, 2, 3), bool)},
            r"action_mask has shape \(T, 2, 3\)",
        ),
        (spoiled("state", (7, 4), np.nan, DISCRETE), "state holds NaN, first at row 7"),
    ],
)
def test_faults_of_discrete_data_are_named(values: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError, match=text):
        Dataset.create(DISCRETE, **values)


def test_illegal_actions_are_refused_but_not_in_final_rows() -> None:
    values = parts(spec=DISCRETE)
    values["action_mask"][2] = False
    values["action_mask"][2, :, 3] = True  # final row of the first episode: its action is a dummy
    Dataset.create(DISCRETE, **values)
    taken = int(values["action"][0, 1])
    values["action_mask"][0, 1] = True
    values["action_mask"][0, 1, taken] = False
    with pytest.raises(DataError, match=f"agent 1 took action {taken} at row 0"):
        Dataset.create(DISCRETE, **values)


def test_agents_with_fewer_actions_are_held_to_their_own() -> None:
    spec = replace(DISCRETE, action_sizes=(4, 2))
    values = parts(spec=DISCRETE) | {"action_mask": None, "action": np.ones((12, 2), np.int64)}
    Dataset.create(spec, **values)
    values["action"][5] = 2
    with pytest.raises(DataError, match=r"action 2 of agent 1 at row 5 is outside 0\.\.1"):
        Dataset.create(spec, **values)


def test_a_card_survives_json_and_refuses_what_it_is_not() -> None:
    card = replace(CARD, recipe={"command": "collect", "seed": 1}, notes=("a", "b"), mean_return=0.1)
    assert Card.from_json(card.to_json()) == card
    former = replace(card, options={"flavour": "omiga", "gain": 0.5}).to_json()  # as it was spelled once
    assert Card.from_json(former).options == {"flavor": "omiga", "gain": 0.5}
    assert card.name == "toy/point/tests/random"
    assert Card().name == "?/?/?"
    for text, cause in {
        "{": "not valid JSON",
        "[]": "expected a JSON object",
        '{"task": 1}': "task has the wrong type int",
        '{"transitions": true}': "transitions has the wrong type",
        '{"color": 1}': "unknown entry 'color'",
        '{"notes": [1]}': "notes must be texts",
    }.items():
        with pytest.raises(DataError, match=cause):
            Card.from_json(text)


def test_what_others_state_is_verified_on_request() -> None:
    plain, values = sample(), parts()
    stated = replace(plain.card, content_hash=plain.content_hash)
    assert Dataset.create(SPEC, **values, card=stated, verify=True).card.mean_return == plain.card.mean_return
    wrong = {
        "content_hash": replace(stated, content_hash="0" * 64),
        "statistics": replace(stated, min_return=9.0),
    }
    for card, text in zip(
        wrong.values(), ("its content is not what its card says", "min_return"), strict=True
    ):
        with pytest.raises(DataError, match=text):
            Dataset.create(SPEC, **values, card=card, verify=True)
        Dataset.create(SPEC, **values, card=card)
    assert Dataset.create(replace(SPEC, task=""), **values, card=CARD).spec.task == CARD.task
    assert Dataset.create(replace(SPEC, task="a/b"), **values, card=CARD).spec.task == "a/b"
    with pytest.raises(DataError, match="the task's actions are continuous; leave it out"):
        Dataset.create(SPEC, **values, action_mask=np.ones((12, 2, 2), bool))


def test_derived_data_state_no_hash_of_others() -> None:
    made = sample((2, 3, 4), card=replace(CARD, content_hash="old", recipe={"command": "x"}, clipped=3))
    outside = replace(made, action=made.action * np.float32(100.0))
    assert made.content_hash != outside.content_hash
    with pytest.warns(UserWarning, match="outside"):
        clipped = outside.clipped()
    derived = [made.episodes_subset([0]), made.timeouts_as_terminals(), made.limits_as_truncations(), clipped]
    for other in derived:
        assert other.card.content_hash == ""
        assert other.content_hash == replace(other).content_hash
    assert made.with_notes("more").card.content_hash == "old"
    assert derived[0].card.recipe is None
    assert np.abs(clipped.action).max() == 1.0
    assert clipped.card.clipped == 3 + int((np.abs(outside.action) > 1).sum())


def test_terminal_ends_at_the_limit_can_be_read_as_time_limits() -> None:
    """Of five episodes three end terminal; the last two take the 4 steps of the limit."""
    values = parts((2, 3, 1, 4, 4), spec=replace(SPEC, horizon=4))
    last = values["starts"] + np.array([2, 3, 1, 4, 4]) - 1
    values |= {
        "terminal": np.isin(np.arange(19), last[[0, 1, 4]]),
        "truncated": np.isin(np.arange(19), last[3]),
    }
    made = Dataset.create(replace(SPEC, horizon=4), **values)
    assert made.terminal_at_limit.tolist() == [False] * 4 + [True]
    read = made.limits_as_truncations()
    assert np.flatnonzero(read.terminal).tolist() == [last[0], last[1]]
    assert np.flatnonzero(read.truncated).tolist() == [last[3], last[4]]
    assert made.terminal.sum() == 3
    assert "1 terminal ends after exactly 4 steps" in read.card.notes[-1]


@pytest.mark.parametrize("spec", [SPEC, DISCRETE])
def test_iteration_gives_the_rows_of_each_episode(spec: Spec) -> None:
    made = sample((2, 3, 4), spec=spec)
    found = list(made)
    assert len(found) == len(made) == 3
    assert [(e.terminal, e.truncated) for e in found] == [(True, False), (False, True), (False, False)]
    for episode, first, steps in zip(found, (0, 3, 7), (2, 3, 4), strict=True):
        for name in ("obs", "state", *(["action_mask"] if spec.discrete else [])):
            np.testing.assert_array_equal(
                getattr(episode, name), getattr(made, name)[first : first + steps + 1]
            )
        for name in ("action", "reward"):
            np.testing.assert_array_equal(getattr(episode, name), getattr(made, name)[first : first + steps])


def test_without_masks_all_of_an_agents_own_actions_are_legal() -> None:
    spec = replace(DISCRETE, action_sizes=(4, 2), state_size=6)
    rng = np.random.default_rng(0)
    obs, action = rng.normal(size=(4, 2, 3)).astype(np.float32), np.ones((3, 2), np.int64)
    made = Dataset.from_steps(obs[:3], action, np.ones(3), [0, 0, 1], next_obs=obs[1:], spec=spec)
    assert made.action_mask is not None
    assert made.action_mask[0].tolist() == [[True] * 4, [True, True, False, False]]


def test_numbers_in_action_dimensions_that_an_agent_lacks_are_refused() -> None:
    spec = replace(SPEC, action_sizes=(1, 2))
    values = parts()
    with pytest.raises(
        DataError, match="action of agent 0 at row 0 holds numbers behind its 1 entries; write zeros"
    ):
        Dataset.create(spec, **values)
    values["action"][:, 0, 1] = 0.0
    dataset = Dataset.create(spec, **values)
    dataset.action[5, 0, 1] = 0.5
    with pytest.raises(DataError, match="action of agent 0 at row 5"):
        dataset.validate()
