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
    return env.step(joint).reward.reshape(size, size).astype(float)


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
    if quality == "decentralized":
        return  # no joint transitions
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
        if not name.startswith(("t-maze", "iterated", "differential", "goals")):  # start at random
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
    with pytest.raises(ConfigError, match="num_envs"):
        games.make("bridge", 0)
    with pytest.raises(ConfigError, match="episodes"):
        game_data.dataset("xor", "D1", episodes=0)
    env = games.make("t-maze", 2)
    env.reset()
    with pytest.raises(SpecError, match="agent 1 of copy 0 took the action 1"):
        env.step(np.array([[5, 1], [5, 5]]))


def recorded(name: str, quality: str, **options: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Actions ``[T, N, ...]`` of all steps, and where each lies in its episode."""
    data = game_data.dataset(name, quality, **options)
    return data.action[data.sources], data.sources - np.repeat(data.starts, data.lengths)


def test_shares_are_as_near_as_whole_episodes_allow_and_in_random_order() -> None:
    drawn = game_data._shares(np.array([1.0, 2.0, 1.0]), 10, np.random.default_rng(0))
    assert np.bincount(drawn).tolist() == [2, 6, 2]
    assert (np.diff(drawn) < 0).any()


def test_boxes_modes_and_signs_in_equal_shares() -> None:
    anywhere = recorded("sign-agreement", "uniform")[0]
    assert np.histogram(anywhere, 4, (-1, 1))[0] / anywhere.size == pytest.approx([0.25] * 4, abs=0.02)
    agree = recorded("sign-agreement", "agree")[0][..., 0]
    assert (np.abs(agree) >= 0.5).all()
    assert (agree[:, 0] > 0).mean() == (agree[:, 1] > 0).mean() == 0.5
    assert (np.sign(agree[:, 0]) == np.sign(agree[:, 1])).all()
    opposite = recorded("sign-agreement", "opposite")[0][..., 0]
    assert (opposite[:, 0] >= 0).all()
    assert (opposite[:, 1] <= 0).all()
    modes = recorded("modes-4", "modes")[0]
    assert (modes == modes[:, :1]).all()
    assert modes.mean() == 0.5
    sides = recorded("signs-4", "modes", episodes=2000)[0]
    assert np.median(np.abs(sides)) == pytest.approx(0.8, abs=0.02)
    assert (np.abs(sides).min(1) < 0.3).mean() == pytest.approx(0.05 * (1 - 0.7**4), abs=0.015)
    assert recorded("xor-two-state", "optimal")[0].sum(1).tolist() == [3] * 5000
    assert recorded("coordination-2x2", "optimal")[0].tolist() == [[0, 0]] * 5000


def test_parts_of_a_mixture_and_seeds_differ() -> None:
    data = game_data.dataset("bridge", "mix", episodes=20)
    assert data.episodes == 40
    assert len(np.unique(data.returns[:20].round(4))) < 4 < len(np.unique(data.returns[20:].round(4)))
    for quality, first in (("left", -1.0), ("right", 1.0)):
        actions, time = recorded("iterated-coordination", quality, episodes=30)
        assert (actions[time == 0] == first).all()
        late = actions[time == time.max()]  # there they stay, but for the noise
        assert np.abs(late).std() < 0.4
    one, other = (game_data.dataset("iterated-coordination", "mix", episodes=30, seed=s) for s in (0, 1))
    assert not np.array_equal(one.obs[one.starts], other.obs[other.starts])
    assert len(np.unique(one.obs[one.starts], axis=0)) == 30
    goals, both = (game_data.dataset("goals", quality, episodes=20) for quality in ("noisy", "mix"))
    assert not np.array_equal(both.obs[both.starts[:20]], both.obs[both.starts[20:]])
    assert goals.returns.mean() > both.returns[20:].mean() + 5.0


def test_walks_to_the_center_and_half_right_answers() -> None:
    env = games.make("differential-3", 400)
    env.seed(list(range(400)))
    env.reset()
    rng = np.random.default_rng(0)
    home = np.clip(-env.current / 0.1, -1.0, 1.0)
    for noise, share in ((0.0, 1.0), (0.25, 0.75)):
        taken = game_data._to_center(noise)(env, rng)(env, 0)[..., 0]
        assert (taken == home).mean() == pytest.approx(share, abs=0.05)
    apart = game_data._with_random_partners(1)(env, rng)(env, 0)[..., 0]
    right = (apart == home).mean(0)
    assert right[[0, 2]].tolist() == [0.0, 0.0]
    assert right[1] == pytest.approx(0.25, abs=0.07)  # half of the episodes, half of their steps
    cells = games.make("cells", 400)
    cells.seed(list(range(400)))
    cells.reset()
    taken = game_data._half_right(cells, rng)(cells, 0)
    assert (taken == cells.current).mean() == pytest.approx(0.5 + 0.5 / 5, abs=0.05)


@pytest.mark.parametrize("agent", [0, 1])
def test_a_stubborn_partner_takes_its_first_action_in_nine_of_ten_first_steps(agent: int) -> None:
    env = games.make("two-steps", 400)
    act = game_data._with_stubborn_partner(agent)(env, np.random.default_rng(0))
    assert (act(env, 0) == 0).mean(0)[[agent, 1 - agent]] == pytest.approx([0.5, 0.9])
    assert (act(env, 1) == 0).mean() == pytest.approx(0.5, abs=0.07)


def test_each_agents_part_is_of_its_own_episodes() -> None:
    """Its partners moved at random in them, so that only its own moves lead to the center."""
    data = game_data.dataset("differential-2", "decentralized", episodes=200)
    where, moved = data.obs[data.sources], data.action[data.sources][..., 0]
    toward = [float((np.sign(moved[:, i]) == -np.sign(where[:, i, i])).mean()) for i in range(2)]
    assert min(toward) > 0.55
