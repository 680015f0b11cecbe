"""What is given as a dataset of one's own is checked, and a fault named where its user finds it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.errors import DataError, SpecError
from marlzoo.spec import Spec

STEPS = 20  # two episodes of ten


def plain_steps(**changes: Any) -> dict[str, Any]:
    """Flat steps whose next observations follow each other."""
    seen = np.random.default_rng(0).normal(size=(2, 11, 2, 3))
    steps = {
        "obs": seen[:, :-1].reshape(STEPS, 2, 3),
        "next_obs": seen[:, 1:].reshape(STEPS, 2, 3),
        "action": np.zeros((STEPS, 2, 1)),
        "reward": np.ones(STEPS),
        "terminal": np.zeros(STEPS, bool),
        "timeout": np.arange(STEPS) % 10 == 9,
    }
    return {name: value for name, value in (steps | changes).items() if value is not None}


def with_nan(array: Any, *places: tuple[int, ...]) -> Any:
    array = np.array(array, float)
    for place in places:
        array[place] = np.nan
    return array


@pytest.mark.parametrize("followed", [True, False])
def test_a_fault_is_named_by_its_step(followed: bool) -> None:
    steps = plain_steps() if followed else plain_steps(next_obs=None)
    faults = {
        "reward": with_nan(steps["reward"], (15,)),
        "action": with_nan(steps["action"], (15, 1, 0)),
        "obs": with_nan(steps["obs"], (15, 1, 2)),
    }
    for name, wrong in faults.items():
        given = steps | {name: wrong}
        if name == "obs" and followed:
            given["next_obs"] = with_nan(steps["next_obs"], (14, 1, 2))
        with pytest.raises(DataError, match=rf"^{name} holds NaN, first at step 15[,;]"):
            Dataset.from_steps(**given)
    discrete = np.zeros((STEPS, 2), int)
    discrete[15, 1] = -1
    with pytest.raises(DataError, match=r"^action -1 of agent 1 at step 15 is outside"):
        Dataset.from_steps(**steps | {"action": discrete})
    with pytest.raises(
        DataError,
        match=rf"^an episode of {10 if followed else 9} steps begins at step 0, but the horizon is 5; let",
    ):
        Dataset.from_steps(**steps, horizon=5)


def test_what_a_step_led_to_is_not_blamed_on_the_order() -> None:
    steps = plain_steps()
    for place in (4, 9, 19):
        wrong = with_nan(steps["next_obs"], (place, 0, 0))
        with pytest.raises(DataError, match=rf"^next_obs holds NaN, first at step {place}, entry \[0, 0\]"):
            Dataset.from_steps(**steps | {"next_obs": wrong})
    final = np.ones((STEPS, 2, 2), bool)
    final[19] = False
    masked = {
        "action": np.zeros((STEPS, 2), int),
        "action_mask": np.ones_like(final),
        "next_action_mask": final,
    }
    with pytest.raises(DataError, match=r"no legal action at step 19 \(what it led to\)"):
        Dataset.from_steps(**steps | masked)


@pytest.mark.parametrize("followed", [True, False])
def test_texts_are_no_numbers(followed: bool) -> None:
    steps = plain_steps() if followed else plain_steps(next_obs=None)
    for name in ("obs", "action", "reward", *(["next_obs"] if followed else [])):
        with pytest.raises(DataError, match=rf"^{name} has type <U32, such as .*; give numbers"):
            Dataset.from_steps(**steps | {name: steps[name].astype(str)})
    for uneven in ([[[1.0, 2.0]], [[1.0]]], np.array([["a", "b"]] * STEPS, object)):
        with pytest.raises(DataError, match=r"^obs is no array of numbers"):
            Dataset.from_steps(**steps | {"obs": uneven})


def test_a_fault_is_named_by_its_episode_and_step() -> None:
    def episode(**changes: Any) -> dict[str, Any]:
        return {"obs": np.zeros((6, 2, 3)), "action": np.zeros((5, 2), int), "reward": np.ones(5)} | changes

    wrong = {
        "reward holds NaN, first at episode 1, step 3": {"reward": with_nan(np.ones(5), (3,))},
        "obs holds NaN, first at episode 1, step 5": {"obs": with_nan(np.zeros((6, 2, 3)), (5, 0, 0))},
        "episode 1: obs has type <U": {"obs": np.zeros((6, 2, 3)).astype(str)},
        "episode 1: reward is no array of numbers": {"reward": [[1.0], [], [], [], []]},
    }
    for said, changes in wrong.items():
        with pytest.raises(DataError, match=f"^{said}"):
            Dataset.from_episodes([episode(), episode(**changes)], n_actions=2)


def test_rewards_of_the_team_and_per_agent_become_each_other() -> None:
    steps = plain_steps()
    team = Dataset.from_steps(**steps)
    per_agent = replace(team.spec, reward_per_agent=True)
    with pytest.raises(DataError, match="every agent's own: write it once per agent") as error:
        Dataset.from_steps(**steps, spec=per_agent)
    reward = steps["reward"]
    (line,) = re.findall(r"np\.repeat\(.*\)$", str(error.value))
    spread = Dataset.from_steps(
        **steps | {"reward": eval(line, {"np": np, "reward": reward})}, spec=per_agent
    )
    assert np.array_equal(spread.returns, team.returns)
    with pytest.raises(DataError, match=r"as the task pays: reward\.mean\(axis=1\)$"):
        Dataset.from_steps(**steps | {"reward": np.ones((STEPS, 2))}, spec=team.spec)
    for asked, data, remedy in (
        (per_agent, team, r"np\.repeat\(reward\[:, None\], 2"),
        (team.spec, spread, r"reward\.mean\(axis=1\)"),
    ):
        with pytest.raises(SpecError, match=rf"does not fit .*reward_per_agent: .*{remedy}"):
            marlzoo.train(marlzoo.make("bc", asked, hidden=4), [data], updates=1)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"terminal": ["False"] * STEPS}, "terminal has type <U5, such as False; give numbers"),
        ({"terminal": np.full(STEPS, 0.5)}, r"terminal is 0.5 at \[0\]; give True or False, or 1 or 0"),
        ({"terminal": with_nan(np.zeros(STEPS), (3,))}, r"terminal is nan at \[3\]"),
        ({"timeout": np.arange(STEPS)}, r"timeout is 2 at \[2\]"),
        ({"terminal": None}, r"terminal is None; give one flag per step, for instance np.zeros\(20, bool\)"),
        (
            {"terminal": np.zeros((STEPS, 7))},
            r"terminal has shape \(20, 7\); it needs one flag per step, \(20,\)",
        ),
        ({"terminal": [[0], [0, 1]]}, "terminal is no array of numbers"),
        ({"state": np.zeros(STEPS)}, r"state has shape \(20,\); for a team it is \[M, S\]: steps, entries"),
        (
            {"obs": np.ma.masked_less(np.arange(STEPS * 6.0).reshape(STEPS, 2, 3), 9)},
            r"obs is no array .* masked",
        ),
        (
            {"reward": np.full(STEPS, -1e300)},
            r"reward holds -1e\+300 in step 0; .* float32, which ends at 3.4e\+38",
        ),
    ],
)
def test_what_is_no_flag_and_no_number_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        Dataset.from_steps(**plain_steps(next_obs=None) | changes)


def test_flags_may_be_numbers_and_columns() -> None:
    steps = plain_steps()
    plain = Dataset.from_steps(**steps)
    for flags in (steps["timeout"].astype(float), steps["timeout"].astype(int)[:, None]):
        assert Dataset.from_steps(**steps | {"timeout": flags}).content_hash == plain.content_hash


def test_masks_are_zeros_and_ones_of_every_agent() -> None:
    steps = plain_steps(next_obs=None) | {"action": np.zeros((STEPS, 2), int)}
    logits = np.zeros((STEPS, 2, 4))
    logits[2, 1, 3] = -1e9
    for mask, said in (
        (logits, r"action_mask is -1000000000.0 at \[2, 1, 3\]"),
        (np.ones((STEPS, 4)), r"action_mask has shape \(20, 4\); for a team it is \[M, N, A\]"),
        (np.ones((STEPS, 3, 4)), r"action_mask has shape \(20, 3, 4\), which is of 3 agents; obs has 2"),
    ):
        with pytest.raises(DataError, match=said):
            Dataset.from_steps(**steps, action_mask=mask)
    episode = {"obs": np.zeros((4, 2, 3)), "action": np.zeros((3, 2), int), "reward": np.ones(3)}
    with pytest.raises(DataError, match=r"episode 0: action_mask is 2.0 at \[0, 0, 0\]"):
        Dataset.from_episodes([episode | {"action_mask": np.full((4, 2, 4), 2.0)}])
    with pytest.raises(DataError, match=r"episode 0: terminal is 0\.5; give True or False"):
        Dataset.from_episodes([episode | {"terminal": 0.5}])


def test_episodes_come_from_a_generator_and_not_from_one_dictionary() -> None:
    episode = {"obs": np.zeros((4, 2, 3)), "action": np.zeros((3, 2), int), "reward": np.ones(3)}
    data = Dataset.from_episodes(episode | {"terminal": True, "truncated": True} for _ in range(2))
    assert (data.terminal.sum(), data.truncated.sum()) == (2, 0), "what is both is terminal"
    with pytest.raises(DataError, match=r"episodes is a dictionary; give a list .*: \[episode\]$"):
        Dataset.from_episodes(episode)  # type: ignore[arg-type]


def test_rewards_of_a_single_agent_are_its_own_where_the_spec_says_so() -> None:
    steps = plain_steps(next_obs=None)
    steps |= {name: steps[name][:, :1] for name in ("obs", "action")}
    team = Dataset.from_steps(**steps)
    own = replace(team.spec, reward_per_agent=True)
    for reward in (steps["reward"], steps["reward"][:, None]):
        assert np.array_equal(
            Dataset.from_steps(**steps | {"reward": reward}, spec=own).returns, team.returns
        )


def test_floats_that_look_like_discrete_actions_are_spoken_of() -> None:
    steps = plain_steps(next_obs=None)
    chosen = np.arange(2 * STEPS).reshape(STEPS, 2) % 3
    (note,) = (
        note
        for note in Dataset.from_steps(**steps | {"action": np.eye(3)[chosen]}).card.notes
        if "one-hot" in note
    )
    assert note.endswith("for discrete ones give integers, action.argmax(axis=2)")
    episode = {"obs": np.zeros((4, 2, 3)), "action": np.eye(3)[chosen[:3]], "reward": np.ones(3)}
    assert Dataset.from_episodes([episode]).card.notes == (note,)
    assert Dataset.from_steps(**plain_steps() | {"action": np.eye(3)[chosen]}).card.notes == (note,)
    for other in (np.eye(3)[chosen] / 2, 1 - np.eye(3)[chosen], np.full((STEPS, 2, 2), 0.5)):
        assert not any(
            "one-hot" in said for said in Dataset.from_steps(**steps | {"action": other}).card.notes
        )


def test_masks_leave_out_what_smaller_agents_lack() -> None:
    spec = Spec(2, 3, 6, "discrete", 4, horizon=9, action_sizes=(4, 3))
    steps = plain_steps() | {"action": np.zeros((STEPS, 2), int)}
    mask = np.ones((STEPS, 2, 4), bool)
    with pytest.raises(
        DataError, match=r"mask of agent 1 at step 0 allows an action beyond its 3; write 0 there"
    ):
        Dataset.from_steps(**steps, action_mask=mask, spec=replace(spec, horizon=99))
    mask[:, 1, 3] = False
    data = Dataset.from_steps(**steps, action_mask=mask, spec=replace(spec, horizon=99))
    assert data.action_mask is not None
    assert data.action_mask.sum(-1).tolist() == [[4, 3]] * data.rows, "final rows, too, which nobody gave"
