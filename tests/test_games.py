"""The coordination games: rules, golden returns, optimum by value iteration, logged data."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.data.check import check
from marlzoo.envs import games
from marlzoo.envs._bridge import FREE, GOALS, PASSAGES, STARTS, Bridge, passages
from marlzoo.envs._goals import Cells, Goals
from marlzoo.errors import ConfigError, DataError, MismatchError, SpecError, UnknownNameError

ALL_QUALITIES = [(name, quality) for name in games.TASKS for quality in game_data.qualities(name)]


def play(env: games.Game, joint: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Rewards [L, E] and ends [L, E] of joint actions [L, N], the same in all copies."""
    env.reset()
    steps = [env.step(np.repeat(a[None], env.num_envs, axis=0)) for a in joint]
    return np.stack([s.reward for s in steps]).astype(float), np.stack([s.terminal for s in steps])


def payoff_table(name: str, **options: Any) -> NDArray[np.float64]:
    env = games.make(name, games.spec(name).action_size ** 2, **options)
    size = env.spec.action_size
    env.reset()
    joint = np.array(list(itertools.product(range(size), repeat=2)))
    step = env.step(joint)
    assert step.terminal.all()  # nothing follows, not because the time is over
    assert not step.truncated.any()
    return step.reward.reshape(size, size).astype(float)


def bridge_optimum(name: str, horizon: int) -> tuple[float, list[tuple[int, int]]]:
    """Value of the start with ``horizon`` steps left, and the first joint moves that attain it."""
    rules, cells = Bridge(STARTS[name]), np.argwhere(FREE)
    index = np.full(FREE.shape, -1)
    index[tuple(cells.T)] = np.arange(len(cells))
    n = len(cells)
    pairs = np.array(list(itertools.product(range(n), range(n))))
    joint = np.array(list(itertools.product(range(5), repeat=2)))
    state = np.repeat(np.concatenate((cells[pairs[:, 0]], cells[pairs[:, 1]]), axis=1), len(joint), axis=0)
    actions = np.tile(joint, (len(pairs), 1))
    none = np.zeros(len(state), bool)
    after, reward, done = rules.step(state, actions, none)
    successor = index[after[:, 0], after[:, 1]] * n + index[after[:, 2], after[:, 3]]
    final = rules.step(state, actions, ~none)[1].reshape(-1, 25)  # the step that the limit ends
    q, value = final, final.max(1)
    for _ in range(horizon - 1):
        q = (reward + np.where(done, 0.0, value[successor])).reshape(-1, 25)
        value = q.max(1)
    start = np.array(STARTS[name])
    k = index[tuple(start[0])] * n + index[tuple(start[1])]
    best = np.flatnonzero(q[k] > value[k] - 1e-9)
    return float(value[k]), [(int(joint[b, 0]), int(joint[b, 1])) for b in best]


# Payoffs -----------------------------------------------------------------------------------------------------


def test_matrix_payoffs() -> None:
    assert payoff_table("xor").tolist() == [[0, 1], [1, -2]]
    assert payoff_table("additive").tolist() == [[0, 1], [1, 2]]
    assert payoff_table("coordination-3x3").mean() == pytest.approx(-10.556, abs=1e-3)
    four = payoff_table("xor-four", win=3.0)
    assert four[0, 0] == four[3, 3] == 3.0
    assert four[0, 1:].tolist() == [-2, -2, -2]
    assert four[1:3, 3].tolist() == [-2, -2]
    assert four[1:, 0].tolist() == [-1, -1, -1]
    assert four[3, 1:3].tolist() == [-1, -1]
    assert not four[1:3, 1:3].any()
    assert payoff_table("equilibria").mean() == pytest.approx(-9.444, abs=1e-3)


def test_additive_fits_have_the_stated_maxima() -> None:
    def fit(table: NDArray[np.float64]) -> NDArray[np.float64]:
        return table.mean(1, keepdims=True) + table.mean(0) - table.mean()

    small, large = fit(payoff_table("coordination-2x2")), fit(payoff_table("coordination-3x3"))
    assert small.tolist() == [[11.75, 7.25], [6.25, 1.75]]
    assert large.argmax() == 8
    assert large.max() == pytest.approx(10.556, abs=1e-3)
    assert fit(payoff_table("equilibria")).argmax() == 8


def test_two_state_game_by_its_table() -> None:
    env = games.make("xor-two-state", 1, win=3.0)
    reward, ends = play(env, np.array([(0, 3), (3, 0), (1, 2), (0, 1), (0, 0), (3, 3), (3, 3), (0, 3)]))
    # state 1: 1, 1, 0 (leaves); state 0: -2, win (back); state 1: -2 (leaves); state 0: win (back); state 1: 1
    assert reward[:, 0].tolist() == [1, 1, 0, -2, 3, -2, 3, 1]
    assert not ends.any()
    env.reset()
    for k in range(10):
        step = env.step(np.zeros((1, 2), int))
        assert step.truncated[0] == (k == 9)


def test_polynomial_games() -> None:
    def payoff(name: str, x: float, y: float) -> float:
        env = games.make(name, 1)
        env.reset()
        return float(env.step(np.array([[[x], [y]]])).reward[0])

    assert payoff("sign-agreement", -1, -1) == payoff("sign-agreement", 1, 1) == 1
    assert payoff("sign-agreement", 0.5, -0.5) == -0.25
    assert payoff("sign-agreement", 2.0, -0.5) == -0.5  # clipped to the box
    assert payoff("two-peaks", 0.6, 0.6) == pytest.approx(1.0, abs=1e-5)
    assert payoff("two-peaks", -0.6, -0.6) == pytest.approx(0.6, abs=1e-5)


@pytest.mark.parametrize("n", games.MODES)
def test_modes_product_of_marginals(n: int) -> None:
    env = games.make(f"modes-{n}", 4096)
    env.reset()
    action = np.random.default_rng(0).integers(0, 2, (4096, n))
    action[0], action[1] = 0, 1
    reward = env.step(action).reward
    assert reward[:2].tolist() == [1, 1]
    expected = 2.0 ** (1 - n)
    assert abs(reward[2:].mean() - expected) < 5 * np.sqrt(expected / 4094) + 1e-12


def test_signs() -> None:
    """A team earns 1 where no two signs differ; one team in twenty of the data acts at random."""
    env = games.make("signs-4", 3)
    env.reset()
    action = np.array([[0.1, 0.9, 0.3, 0.2], [-0.1, -0.9, -0.3, -0.2], [0.1, 0.9, -0.3, 0.2]])[..., None]
    assert env.step(action).reward.tolist() == [1, 1, 0]
    data = game_data.dataset("signs-4", "modes")
    rows = np.setdiff1d(np.arange(len(data.obs)), data.ends)
    near = (np.abs(np.abs(data.action[rows]) - 0.8) < 0.4).all((1, 2))
    assert 0.94 < near.mean() < 0.97
    assert 0.48 < (data.action[rows][near] > 0).mean() < 0.52
    assert games.known_returns("signs-2") == pytest.approx((0.5, 1.0), abs=0.01)
    assert games.known_returns("signs-8") is None


# Bridge ------------------------------------------------------------------------------------------------------


def test_bridge_step_rewards() -> None:
    joint = np.array([(3, 3), (3, 1), (2, 2), (3, 4), (0, 4), (0, 4), (0, 1), (0, 4)])
    reward, ends = play(games.make("bridge", 2), joint)
    expected = [-0.3180, -0.2707, -0.2562, -0.1581, -0.1118, -0.0707, -0.05, 0]
    np.testing.assert_allclose(reward[:, 0], expected, atol=5e-5)
    assert ends[:, 0].tolist() == [False] * 7 + [True]


@pytest.mark.parametrize(("name", "optimum"), [("bridge", -1.23545), ("bridge-apart", -1.55168)])
def test_bridge_optimum_by_value_iteration(name: str, optimum: float) -> None:
    for horizon in (20, 50):
        value, first = bridge_optimum(name, horizon)
        assert value == pytest.approx(optimum, abs=1e-5)
    if name == "bridge":
        assert sorted(first) == [(3, 3), (4, 4)]
    for way in passages(name)[:: len(PASSAGES[name])]:
        reward, ends = play(games.make(name, 1), way)
        assert reward.sum() == pytest.approx(optimum, abs=1e-5)
        assert ends[-1].all()


def bridge_move(places: tuple[int, ...], action: tuple[int, int]) -> list[int]:
    after, _, _ = Bridge(STARTS["bridge"]).step(np.array([places]), np.array([action]), np.zeros(1, bool))
    return [int(x) for x in after[0]]


def test_bridge_collisions() -> None:
    assert bridge_move((1, 2, 1, 3), (3, 4)) == [1, 2, 1, 3]  # exchanging places
    assert bridge_move((1, 2, 1, 3), (3, 0)) == [1, 2, 1, 3]  # into one that stays
    assert bridge_move((1, 2, 1, 3), (3, 2)) == [1, 2, 1, 3]  # into one that a wall stops
    assert bridge_move((1, 2, 1, 3), (3, 3)) == [1, 3, 1, 4]  # following
    assert bridge_move((1, 1, 1, 3), (3, 4)) == [1, 2, 1, 3]  # both want (1, 2): agent 0 gets it
    assert bridge_move((1, 1, 1, 2), (0, 4)) == [1, 1, 1, 2]
    assert bridge_move((2, 4, 2, 5), (3, 0)) == [2, 5, 2, 5]  # one's own goal always lets in
    assert bridge_move((2, 5, 1, 5), (4, 2)) == [2, 5, 2, 5]  # a finished agent neither moves nor blocks
    assert bridge_move((0, 1, 0, 4), (3, 4)) == [0, 1, 0, 4]  # walls


@pytest.mark.parametrize(
    ("places", "action", "after"),
    [
        ((0, 0, 0, 1), (3, 4), [0, 0, 0, 1]),  # no exchange, though agent 1 would enter its goal
        ((0, 0, 1, 0), (2, 1), [0, 0, 1, 0]),
        ((0, 1, 1, 0), (4, 1), [0, 0, 1, 0]),  # agent 0 takes agent 1's goal before it
        ((1, 0, 0, 1), (1, 4), [0, 0, 0, 1]),
        ((1, 5, 2, 4), (2, 3), [2, 5, 2, 4]),  # agent 0 enters its goal, agent 1 finds the cell taken
        ((2, 4, 1, 5), (3, 2), [2, 5, 1, 5]),
    ],
)
def test_bridge_goals_switch_no_rule_off(
    places: tuple[int, ...], action: tuple[int, int], after: list[int]
) -> None:
    """The situations in which the published transitions show whose wish for a goal counts."""
    assert bridge_move(places, action) == after


def test_bridge_goals_let_in_beside_an_agent_that_stays() -> None:
    assert bridge_move((0, 0, 0, 1), (0, 4)) == [0, 0, 0, 0]
    assert bridge_move((0, 0, 0, 1), (1, 4)) == [0, 0, 0, 0]  # agent 0 runs into the border: it stays
    assert bridge_move((2, 4, 2, 5), (3, 4)) == [
        2,
        5,
        2,
        4,
    ]  # agent 0 passes into its goal, agent 1 follows out


def test_bridge_limit_pays_nothing_in_the_last_step() -> None:
    env = games.make("bridge", 1, horizon=3)
    env.reset()
    steps = [env.step(np.zeros((1, 2), int)) for _ in range(3)]
    assert [s.reward[0] != 0 for s in steps] == [True, True, False]
    assert steps[-1].truncated[0]
    assert not steps[-1].terminal[0]


def test_bridge_random_return() -> None:
    data = game_data.dataset("bridge", "random", seed=3)
    assert data.returns.mean() == pytest.approx(-17.6, abs=0.6)
    assert data.returns.std() == pytest.approx(4.0, abs=0.6)


def test_bridge_optimal_data_as_published() -> None:
    data = game_data.dataset("bridge", "optimal")
    assert data.episodes == 500
    assert set(data.lengths) == {8}
    values, counts = np.unique(np.round(data.returns, 4), return_counts=True)
    np.testing.assert_allclose(values, [-1.2904, -1.2591, -1.2355], atol=1.5e-4)
    assert np.abs(counts - [173, 160, 167]).max() <= 1
    assert data.returns.mean() == pytest.approx(-1.262, abs=1e-3)
    assert data.returns.std() == pytest.approx(0.023, abs=1e-3)
    first = data.action[data.starts]
    assert (first[:, 0] == first[:, 1]).all()
    assert set(first[:, 0]) == {3, 4}
    assert (first[:, 0] == 3).sum() == 250
    mix = game_data.dataset("bridge", "mix")
    assert mix.episodes == 1000
    assert mix.returns.mean() == pytest.approx(-9.46, abs=0.3)
    assert (np.sort(data.returns) == np.sort(mix.returns[:500])).all()
    assert (data.state[0] == [1, 2, *GOALS[0], 1, 3, *GOALS[1]]).all()


# Replay ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "quality"), ALL_QUALITIES)
def test_recorded_states_are_replayed(name: str, quality: str) -> None:
    data, env = game_data.dataset(name, quality, episodes=40), games.make(name, 1)
    report = check(data, env, sample=400)
    assert report.agrees
    if quality == "decentralized" or name.startswith("line-"):
        return  # no joint transitions; noise that states do not show
    assert report.compared > 0
    assert report.skipped == 0
    assert report.observation is not None
    assert report.observation.max == 0


def test_replay_finds_another_rule() -> None:
    """Data of a Bridge in which agents pass each other freely."""
    data = game_data.dataset("bridge", "random", episodes=60)
    moved = data.obs.copy()
    moved[1:, :, :2] = np.clip(moved[1:, :, :2] + 1, 0, 2)
    report = check(replace(data, obs=moved, state=moved[:, 0].copy()), games.make("bridge", 1))
    assert not report.agrees
    assert "end elsewhere" in report.failures[0] or "None of" in report.failures[0]


def test_replay_leaves_out_states_that_do_not_exist() -> None:
    rules, shown = Bridge(STARTS["bridge"]), np.array([[1, 2, 2, 5, 1, 3, 0, 0]], float)
    assert rules.recover(shown)[1].all()
    for column, value in ((0, 0.5), (0, -1), (0, np.nan), (2, 1), (1, 9)):
        wrong = shown.copy()
        wrong[0, column] = value
        assert not rules.recover(wrong)[1].any()
    assert not rules.recover(np.array([[0, 2, 2, 5, 1, 3, 0, 0]], float))[1].any()  # a wall
    states = np.concatenate((shown, wrong)).astype(np.float32)
    replayed = games.make("bridge", 1).replay_states(states, np.zeros((2, 2), int))
    assert replayed.valid.tolist() == [True, False]


def test_replay_names_an_action_that_the_game_forbids() -> None:
    env = games.make("t-maze", 1)
    state = env.reset().state
    with pytest.raises(MismatchError, match="agent 0 took the action 1"):
        env.replay_states(state, np.array([[1, 5]]))


# T-Maze ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("length", "arm"), [(4, 2), (1, 2), (2, 1), (6, 5)])
def test_t_maze_experts_arrive(length: int, arm: int) -> None:
    data = game_data.dataset("t-maze", "expert", episodes=200, length=length, arm=arm)
    assert (data.returns == 1).all()
    lengths = np.unique(data.lengths)
    assert lengths.tolist() == [1 + length + arm, 3 + length + arm]  # straight, or exchanging columns first
    assert data.spec.horizon == 2 * (length + arm)


@pytest.mark.parametrize(("length", "arm"), [(4, 2), (1, 2), (2, 1)])
def test_late_t_maze_experts_show_nothing_in_the_stem(length: int, arm: int) -> None:
    """Where they stand, below its last row, does not depend on what they were told."""
    data = game_data.dataset("t-maze", "late", episodes=200, length=length, arm=arm)
    assert (data.returns == 1).all()
    assert np.unique(data.lengths).tolist() == [1 + length + arm, 3 + length + arm]
    positions = data.state[:, :4].reshape(-1, 2, 2)
    below = (positions[:, :, 0] > 1).any(1)
    assert (positions[below, :, 1] == [arm, arm + 1]).all()
    assert below.any() == (length > 1)
    early = game_data.dataset("t-maze", "expert", episodes=200, length=length, arm=arm)
    assert (early.content_hash == data.content_hash) == (length == 1), "there the only row is the last one"


def test_t_maze_shows_the_target_only_in_the_second_step() -> None:
    env = games.make("t-maze", 64)
    seen = env.reset()
    assert seen.action_mask is not None
    assert seen.action_mask[..., 5:].all()
    assert not seen.action_mask[..., :5].any()
    assert (seen.obs[..., 10] == 1).all()
    assert not seen.obs[..., 9].any()
    # Neighborhood at the foot of the stem: agent 0 has the team mate on its right and walls below and left.
    assert seen.obs[0, 0, :9].tolist() == [-1, 0, 0, -1, 1, 2, -1, -1, -1]
    step = env.step(np.tile([5, 6], (64, 1)))
    assert set(step.obs[:, 0, 9]) == {-1.0, 1.0}
    assert (step.obs[:, 0, 9] == -step.obs[:, 1, 9]).all()
    assert not step.obs[..., 10].any()
    assert step.action_mask is not None
    assert not step.action_mask[..., 5:].any()
    later = env.step(np.tile([1, 1], (64, 1)))
    assert not later.obs[..., 9].any()
    blocked = env.step(np.tile([2, 4], (64, 1)))  # exchanging places
    assert (blocked.obs == later.obs).all()


def test_t_maze_equal_colors_cannot_both_arrive() -> None:
    env = games.make("t-maze", 8)
    env.reset()
    env.step(np.tile([5, 5], (8, 1)))
    rng = np.random.default_rng(0)
    for _ in range(11):
        step = env.step(rng.integers(0, 5, (8, 2)))
        assert not step.terminal.any()
    assert step.truncated.all()
    assert not step.info["win"].any()


def test_t_maze_ends_in_random_order_by_stream() -> None:
    env = games.make("t-maze", 400)
    env.reset()
    left = env.current[:, 6].copy()
    assert 150 < left.sum() < 250
    env.reset(np.arange(200))
    assert (env.current[200:, 6] == left[200:]).all()
    assert (env.current[:200, 6] != left[:200]).any()
    alone = games.make("t-maze", 1)
    alone.seed([7])
    alone.reset()
    assert alone.current[0, 6] == left[7]


# Interface and data ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", games.TASKS)
def test_only_the_named_copies_move(name: str) -> None:
    env = games.make(name, 6)
    before = env.reset().obs.copy()
    spec = env.spec
    rng = np.random.default_rng(0)
    for _ in range(3):
        env.reset()
        action_mask = env.rules.action_mask(env.current)
        action = (
            rng.uniform(-1, 1, (6, spec.n_agents, spec.action_size))
            if action_mask is None
            else np.where(action_mask, rng.random(action_mask.shape), -1).argmax(-1)
        )
        step = env.step(action, np.array([1, 4]))
        still = [0, 2, 3, 5]
        assert not step.reward[still].any()
        assert not (step.terminal | step.truncated)[still].any()
        assert step.obs.shape == (6, spec.n_agents, spec.obs_size)
        assert step.state.shape == (6, spec.state_size)
        if not name.startswith(("t-maze", "iterated", "differential", "goals", "line")):  # start at random
            assert (step.obs[still] == before[still]).all()


@pytest.mark.parametrize(("name", "quality"), ALL_QUALITIES)
def test_data_fit_their_task_and_repeat(name: str, quality: str) -> None:
    data = game_data.dataset(name, quality, episodes=60, seed=2)
    again, other = (game_data.dataset(name, quality, episodes=60, seed=s) for s in (2, 3))
    assert data.content_hash == again.content_hash
    if quality in ("random", "mix", "D3", "imbalanced"):
        assert data.content_hash != other.content_hash
    check(data, games.make(name, 4)).raise_on_mismatch()


def test_xor_data_shares() -> None:
    for quality, cells in (("D1", 1), ("D2", 2), ("D3", 3), ("D4", 4)):
        data = game_data.dataset("xor", quality)
        assert data.transitions == 5000
        joint, counts = np.unique(data.action[data.sources], axis=0, return_counts=True)
        assert len(joint) == cells
        assert counts.max() - counts.min() <= 1
        assert [1, 1] not in joint.tolist() or quality == "D4"
    assert game_data.dataset("xor", "D3").returns.mean() == pytest.approx(2 / 3, abs=1e-3)


def test_shares_of_the_game_with_several_equilibria() -> None:
    data = game_data.dataset("equilibria", "imbalanced")
    joint, counts = np.unique(data.action[data.sources], axis=0, return_counts=True)
    shares = dict(zip(map(tuple, joint.tolist()), counts / 5000, strict=True))
    assert shares[0, 0] == pytest.approx(0.9, abs=1e-3)
    assert shares[1, 1] == pytest.approx(0.04, abs=1e-3)
    assert len(shares) == 9


def test_data_by_name() -> None:
    by_name = marlzoo.load_dataset("games/xor/marlzoo/D3", seed=1)
    assert by_name.content_hash == game_data.dataset("xor", "D3", seed=1).content_hash
    assert by_name.card.name == "games/xor/marlzoo/D3"
    assert marlzoo.make_env("games/bridge", 3).num_envs == 3
    with pytest.raises(UnknownNameError, match="quality of games/xor"):
        marlzoo.load_dataset("games/xor/marlzoo/expert")
    with pytest.raises(DataError, match="no such dataset"):
        marlzoo.load_dataset("games/xor/others/D3")


def test_bad_input() -> None:
    with pytest.raises(UnknownNameError, match="games/xor"):
        games.make("xorr", 1)
    with pytest.raises(UnknownNameError, match="option of games/xor"):
        games.make("xor", 1, win=2.0)
    with pytest.raises(ConfigError, match="horizon"):
        games.make("bridge", 1, horizon=0)
    with pytest.raises(ConfigError, match="positive integer"):
        games.make("bridge", 1, horizon=True)
    with pytest.raises(ConfigError, match="finite number"):
        games.make("xor-four", 1, win=float("nan"))
    with pytest.raises(ConfigError, match="num_envs"):
        games.make("bridge", 0)
    with pytest.raises(ConfigError, match="episodes"):
        game_data.dataset("xor", "D1", episodes=0)
    env = games.make("t-maze", 2)
    env.reset()
    with pytest.raises(SpecError, match="agent 1 of copy 0 took the action 1"):
        env.step(np.array([[5, 1], [5, 5]]))
    with pytest.raises(SpecError, match="agent 0 of copy 1 took the action 2"):
        env.step(np.array([[5, 1], [2, 5]]), np.array([1]))


def test_names_and_defaults_say_which_rules_are_made() -> None:
    for name, (unseen, shown) in games.GOALS.items():
        rules: Any = games.make(name, 1).rules
        assert (unseen, shown) == ("unseen" in name, "shown" in name)
        assert rules.shown == shown
        assert (rules.goals == Goals(unseen=unseen).goals).all()
    for name in ("cells", "cells-unseen"):
        cells: Any = games.make(name, 1).rules
        assert (cells.goals == Cells(unseen=name != "cells").goals).all()
    maze: Any = games.make("t-maze", 1).rules
    assert (maze.length, maze.arm) == (4, 2)
    limits = {name: games.spec(name).horizon for name in games.TASKS}
    longer = {name: steps for name, steps in limits.items() if steps != 1}
    goals = dict.fromkeys([*games.GOALS, "cells", "cells-unseen"], 20)
    basins = {f"differential-{n}": 25 for n in range(2, 6)}
    tables = {"xor-two-state": 10, "iterated-coordination": 10, "two-steps": 2}
    assert longer == {**goals, **basins, **tables, "bridge": 50, "bridge-apart": 50, "t-maze": 12}
    versions = {name: games.make(name, 1).metadata["rules_version"] for name in games.TASKS}
    assert {name for name, version in versions.items() if version == 2} == {"bridge", "bridge-apart"}


def test_iterated_coordination_by_hand() -> None:
    env = games.make("iterated-coordination", 200)
    start = env.reset().state
    assert 0.09 < start.max() <= 0.1
    assert -0.1 <= start.min() < -0.09
    assert abs(np.corrcoef(start.T)[0, 1]) < 0.3
    state = np.array([[0.7, 0.9], [-0.8, 0.8], [-0.7, -0.8], [0.9, 0.8]])
    action = np.array([[1.0, -2.0], [0.0, 0.0], [-0.4, 0.0], [1.0, 0.0]])[..., None]
    after, reward, ended = env.rules.step(state, action, np.zeros(4, bool))
    np.testing.assert_allclose(after, [[0.95, 0.65], [-0.8, 0.8], [-0.8, -0.8], [1.0, 0.8]], atol=1e-6)
    np.testing.assert_allclose(reward, [-0.045, -2.56, 0.0, -0.04], atol=1e-6)
    assert (after == after.astype(np.float32)).all()
    assert not ended.any()
    obs, shown = env.rules.observe(state)
    assert (obs[..., 0] == state).all()
    assert (shown == state).all()
    assert env.rules.recover(np.array([[1.0, -1.0], [0.0, 1.1]]))[1].tolist() == [True, False]


def test_an_agent_on_the_line_is_paid_for_its_own_bit() -> None:
    env = games.make("line-10", 4000)
    seen = env.reset()
    bits = seen.obs[..., 0]
    assert np.isin(bits, (0.0, 1.0)).all()
    assert bits.mean(0) == pytest.approx(np.full(10, 0.5), abs=0.04)
    assert np.abs(np.corrcoef(bits.T) - np.eye(10)).max() < 0.07
    assert (seen.state == bits).all()
    action = np.random.default_rng(0).integers(2, size=bits.shape)
    step = env.step(action)
    noise = step.reward - (action == bits)
    assert noise.std(0) == pytest.approx(np.ones(10), abs=0.05)
    assert noise.mean(0) == pytest.approx(np.zeros(10), abs=0.07)
    assert np.abs(np.corrcoef(noise.T, bits.T) - np.eye(20)).max() < 0.07
    assert step.terminal.all()
    assert not env.rules.recover(seen.state.astype(float))[1].any()  # the noise cannot be known
    assert games.known_returns("line-10") == (0.5, 1.0)


def test_shown_states_that_cannot_be_are_told() -> None:
    """The first of each pair exists, the second does not."""
    pairs = {
        "xor": ([1.0], [0.0]),
        "xor-two-state": ([0.0, 1.0], [1.0, 1.0]),
        "two-steps": ([0.0, 0, 1, 0, 0], [0.0, 0, 1, 1, 0]),
        "cells": ([1.0, 0, 0, 0, 0, 0, 0, 0, 0, 1], [1.0, 0, 0, 0, 0, 0, 0, 1, 0, 1]),
        "goals": ([1.0, -1.0, 0, 0, 0, 0], [1.1, 0.0, 0, 0, 0, 0]),
        "differential-2": ([1.0, -1.0], [0.0, -1.1]),
        "t-maze": ([4.0, 2, 4, 3, -1, -1, 1, 0], [4.0, 1, 4, 3, -1, -1, 1, 0]),
    }
    for name, shown in pairs.items():
        assert games.make(name, 1).rules.recover(np.array(shown))[1].tolist() == [True, False], name


def test_an_episode_is_numbered_by_the_resets_of_its_own_copy() -> None:
    often, once = (games.make("differential-2", 2) for _ in range(2))
    for env in (often, once):
        env.reset()
    for copy in (0, 0, 1):
        often.reset(np.array([copy]))
    once.reset(np.array([1]))
    assert (often.current[1] == once.current[1]).all()
