"""The rules of the small games, each against a second account of them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from marlzoo.envs._bridge import FREE, GOALS, STARTS, Bridge, passages
from marlzoo.envs._differential import PEAK_WIDTH, Differential, TwoSteps
from marlzoo.envs._goals import CELLS, Cells, Goals
from marlzoo.envs._tmaze import TMaze

NEVER = np.zeros(1, bool)
RNG = np.random.default_rng(0)


# Goals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shown", [False, True])
def test_points_move_and_are_paid_for_where_they_are_then(shown: bool) -> None:
    game = Goals(shown=shown)
    state = np.array([[0.95, -0.5, 0.0, 0.25, 0.5, -0.25]])
    action = np.array([[[-3.0, -0.5], [-1.0, 0.1]]])
    after, earned, over = game.step(state, action, NEVER)
    np.testing.assert_allclose(after, [[0.85, -0.55, -0.1, 0.26, 0.5, -0.25]], atol=1e-7)
    wanted = -(np.hypot(0.35, 0.3) + np.hypot(0.6, 0.51)) / 2
    assert game.step(state, -action, NEVER)[0][0, 0] == 1.0  # the square's side
    assert earned[0] == pytest.approx(wanted, abs=1e-6)
    assert not over.any()
    seen, whole = game.observe(state)
    goal = [0.5, -0.25] if shown else []
    np.testing.assert_array_equal(seen[0], [[0.95, -0.5, 0, 0.25, *goal], [0, 0.25, 0.95, -0.5, *goal]])
    np.testing.assert_array_equal(whole, state)
    assert seen.shape[-1] == game.obs_size
    assert game.recover(np.array([[1.0] * 6, [1.0] * 5 + [1.01]]))[1].tolist() == [True, False]


def test_goals_for_training_and_others_are_apart_and_all_are_drawn() -> None:
    train, unseen = Goals(), Goals(unseen=True)
    assert (len(train.goals), len(unseen.goals)) == (40, 10)
    assert not {tuple(goal) for goal in train.goals} & {tuple(goal) for goal in unseen.goals}
    starts = train.start(RNG.random(4000))
    assert {tuple(goal) for goal in starts[:, 4:]} == {tuple(goal) for goal in train.goals}
    assert np.abs(starts[:, :4]).max() > 0.99
    assert abs(starts[:, :4].mean()) < 0.03
    numbers = [np.flatnonzero((train.goals == goal).all(1))[0] for goal in starts[:, 4:]]
    drawn = np.column_stack([starts[:, :4], numbers])
    assert np.abs(np.corrcoef(drawn.T) - np.eye(5)).max() < 0.06


def test_cells_pay_the_share_of_right_actions() -> None:
    game, other = Cells(), Cells(unseen=True)
    pairs = {tuple(pair) for pair in game.goals.tolist()}
    held = {tuple(pair) for pair in other.goals.tolist()}
    assert (len(pairs), len(held)) == (20, 5)
    assert pairs | held == set(itertools.product(range(CELLS), repeat=2))
    state = np.array([[3, 1], [3, 1], [3, 1]])
    after, earned, over = game.step(state, np.array([[3, 1], [3, 3], [1, 3]]), np.zeros(3, bool))
    assert earned.tolist() == [1.0, 0.5, 0.0]
    np.testing.assert_array_equal(after, state)
    assert not over.any()
    seen, whole = game.observe(state[:1])
    assert seen.tolist() == [[[1.0], [1.0]]]
    assert np.flatnonzero(whole[0]).tolist() == [3, 5 + 1]
    goal, fine = game.recover(np.concatenate([whole, 2 * whole]))
    assert (goal[0].tolist(), fine.tolist()) == ([3, 1], [True, False])
    drawn = {tuple(pair) for pair in game.start(RNG.random(2000)).tolist()}
    assert drawn == pairs


# Games of partners ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", sorted(PEAK_WIDTH))
def test_basins(n: int) -> None:
    game = Differential(n)
    width = {2: 0.12, 3: 0.25, 4: 0.38, 5: 0.51}[n]

    def pay(distance: float) -> float:
        """At a point of that distance."""
        return float(game.reward(np.full((1, n), distance / np.sqrt(2.0)))[0])

    assert pay(0.0) == 1.0
    assert pay(width / 2) == pytest.approx(0.5)
    assert pay(width * 1.001) == pytest.approx(0.0, abs=1e-4)
    assert pay(0.599) == 0.0
    assert pay(0.7) == pytest.approx(0.15 * (np.cos(1.5) + 1.0))
    assert pay(0.8) == pytest.approx(0.3)
    assert pay(1.001) == 0.0
    state = np.full((1, n), 0.95)
    state[0, 0] = 0.0
    action = np.full((1, n, 1), 0.9)
    action[0, 0] = -3.0
    after, earned, over = game.step(state, action, NEVER)
    np.testing.assert_allclose(after[0], [-0.1, *[1.0] * (n - 1)], atol=1e-7)
    np.testing.assert_allclose(earned, game.reward(state))  # where the point was
    assert not over.any()
    starts = game.start(RNG.random(2000))
    assert starts.shape == (2000, n)
    assert -1 <= starts.min() < -0.99 < 0.99 < starts.max() <= 1
    seen, _ = game.observe(state)
    np.testing.assert_array_equal(seen, np.repeat(state[:, None], n, axis=1))
    assert game.recover(np.array([[1.0] * n, [-1.01] * n]))[1].tolist() == [True, False]


def test_two_steps() -> None:
    game = TwoSteps()
    state = game.start(np.zeros(4))
    assert state.tolist() == [[0]] * 4
    action = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
    after, earned, over = game.step(state, action, np.zeros(4, bool))
    assert after.tolist() == [[1], [2], [3], [4]]
    assert not earned.any()
    assert not over.any()
    last, paid, ended = game.step(after, action[::-1], np.zeros(4, bool))
    assert paid.tolist() == [4.0, 2.0, 0.0, 5.0]
    assert ended.all()
    assert last.tolist() == after.tolist()
    seen, whole = game.observe(after)
    assert whole.argmax(1).tolist() == [1, 2, 3, 4]
    np.testing.assert_array_equal(seen[:, 0], seen[:, 1])
    number, fine = game.recover(np.array([[0, 0, 1, 0, 0], [0, 0, 1, 0, 1.0]]))
    assert (number[0, 0], fine.tolist()) == (2, [True, False])


# T-Maze -----------------------------------------------------------------------------------------------------


def slow_maze(length: int, arm: int, state: Any, action: Any) -> tuple[list[int], float]:
    """One step of one copy, cell by cell."""
    width = 2 * arm + 2

    def free(row: int, column: int) -> bool:
        return 0 <= column < width and (row == 0 or (0 < row <= length and column in (arm, arm + 1)))

    row0, column0, row1, column1, color0, color1, left, step = state
    if step == 0:
        return [row0, column0, row1, column1, action[0] - 5, action[1] - 5, left, 1], 0.0
    here, there = [(row0, column0), (row1, column1)], []
    for (row, column), move in zip(here, action, strict=True):
        down, right = {0: (0, 0), 1: (-1, 0), 2: (0, 1), 3: (1, 0), 4: (0, -1)}[move]
        target = (row + down, column + right)
        there.append(target if free(*target) else (row, column))
    if there[0] == there[1] or there == here[::-1]:
        there = here
    ends = [(0, 0) if color == left else (0, width - 1) for color in (color0, color1)]
    return [*there[0], *there[1], color0, color1, left, step + 1], float(there == ends)


@pytest.mark.parametrize(("length", "arm"), [(3, 2), (1, 1)])
def test_the_maze_is_walked_as_written(length: int, arm: int) -> None:
    game = TMaze(length, arm)
    starts = game.start(np.array([0.0, 0.49, 0.5, 0.99]))
    assert starts[:, 6].tolist() == [0, 0, 1, 1]
    assert starts[0].tolist() == [length, arm, length, arm + 1, -1, -1, 0, 0]
    assert game.goals(starts[0]) is None
    met = 0.0
    for copy, _ in itertools.product(range(4), range(15)):
        state = starts[copy : copy + 1]
        for step in range(12):
            mask = game.action_mask(state)
            assert mask is not None
            assert mask[0].tolist() == [[k >= 5 if step == 0 else k < 5 for k in range(7)]] * 2
            action = RNG.integers(5, 7, 2) if step == 0 else RNG.integers(0, 5, 2)
            if step and RNG.random() < 0.6:  # towards the ends
                action = np.where(state[0, [0, 2]] > 0, 1, RNG.integers(0, 2, 2) * 2 + 2)
            wanted, pay = slow_maze(length, arm, state[0].tolist(), action.tolist())
            before = state.copy()
            after, earned, over = game.step(state, action[None], NEVER)
            np.testing.assert_array_equal(state, before)
            assert (after[0].tolist(), earned[0], over[0]) == (wanted, pay, pay == 1)
            state, met = after, met + pay
            goals = game.goals(state[0])
            ends = [0 if color == state[0, 6] else 2 * arm + 1 for color in state[0, 4:6]]
            assert goals is not None
            assert goals.tolist() == [[0, column] for column in ends]
    assert met


def test_what_the_maze_shows() -> None:
    game = TMaze(2, 1)
    state = np.array([[0, 1, 1, 2, 0, 1, 1, 1]])  # agent 0 in the bar, agent 1 below and beside it
    (seen,), _ = game.observe(state)
    assert seen[0].tolist() == [-1, -1, -1, 0, 1, 0, -1, 0, 2, 1, 0]
    assert seen[1].tolist() == [2, 0, 0, 0, 1, -1, 0, 0, -1, -1, 0]
    state[0, 7] = 2
    assert game.observe(state)[0][0, :, 9:].tolist() == [[0, 0], [0, 0]]
    state[0, 7] = 0
    assert game.observe(state)[0][0, :, 9:].tolist() == [[0, 1], [0, 1]]
    assert game.free().tolist() == [[True] * 4, [False, True, True, False], [False, True, True, False]]
    shown = np.array([[0, 3, 2, 1, 0, 1, 1, 4], [1, 0, 2, 1, 0, 1, 1, 4], [0, 3, 2, 1, 0.5, 1, 1, 4]], float)
    shown = np.concatenate([shown, [[0, 9, 2, 1, 0, 1, 1, 4]]])
    states, fine = game.recover(shown)
    assert fine.tolist() == [True, False, False, False]
    assert states[0].tolist() == [0, 3, 2, 1, 0, 1, 1, 4]


# Bridge -----------------------------------------------------------------------------------------------------


def test_the_bridge_shows_places_and_goals() -> None:
    game = Bridge(STARTS["bridge-apart"])
    state = game.start(np.zeros(2))
    assert state.tolist() == [[1, 1, 1, 4]] * 2
    seen, whole = game.observe(state[:1])
    assert whole.tolist() == [[1, 1, 2, 5, 1, 4, 0, 0]]
    assert seen.tolist() == [whole.tolist() * 2]
    shown = np.repeat(whole, 5, axis=0)
    shown[1, 0] = 0.5
    shown[2, :2] = (0, 2)  # a wall
    shown[3, 7] = 1  # another goal
    shown[4, 5] = 6  # outside
    states, fine = game.recover(shown)
    assert states[0].tolist() == [1, 1, 1, 4]
    assert fine.tolist() == [True, False, False, False, False]


def test_ways_through_the_bridge_and_their_twins_arrive() -> None:
    for name, value in (("bridge", -1.2355), ("bridge-apart", -1.5517)):
        ways = passages(name)
        half = len(ways) // 2
        totals = []
        for way in ways:
            game = Bridge(STARTS[name])
            state, total, over = game.start(np.zeros(1)), 0.0, NEVER
            for action in way:
                assert not over[0]
                state, earned, over = game.step(state, action[None], NEVER)
                total += earned[0]
            assert over[0]
            assert state.reshape(2, 2).tolist() == GOALS.tolist()
            totals.append(total)
        assert totals[0] == totals[half] == pytest.approx(value, abs=1e-4)


def test_the_bridge_pays_agents_that_had_not_finished() -> None:
    game = Bridge(STARTS["bridge"])
    state = np.array([[2, 5, 0, 2 - 1]])  # agent 0 has finished
    after, earned, over = game.step(state, np.array([[1, 2]]), NEVER)
    assert after.tolist() == [[2, 5, 1, 1]]  # a finished agent stays
    assert earned[0] == pytest.approx(-0.05 * np.sqrt(2.0))
    assert not over[0]
    after, earned, over = game.step(state, np.array([[0, 4]]), NEVER)
    assert (over[0], earned[0]) == (True, 0.0)
    _, earned, over = game.step(state, np.array([[0, 0]]), np.ones(1, bool))
    assert (over[0], earned[0]) == (False, 0.0)  # the last step before the time limit
    assert FREE.sum() == 14


def test_the_bridge_lets_agents_into_the_cell_of_one_that_has_finished() -> None:
    game = Bridge(STARTS["bridge"])
    after, _, _ = game.step(np.array([[0, 1, 0, 0]]), np.array([[4, 0]]), NEVER)
    assert after.tolist() == [[0, 0, 0, 0]]
    after, _, _ = game.step(np.array([[2, 5, 2, 4]]), np.array([[0, 3]]), NEVER)
    assert after.tolist() == [[2, 5, 2, 5]]
    after, _, _ = game.step(np.array([[1, 1, 1, 0]]), np.array([[4, 0]]), NEVER)
    assert after.tolist() == [[1, 1, 1, 0]]  # one that merely stays is in the way
