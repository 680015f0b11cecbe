"""SMAC without the game: sizes, the MAPPO flavor's vectors, the adapter, and what is said when something lacks."""

from __future__ import annotations

import importlib
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marlzoo.envs import smac
from marlzoo.envs._smac_maps import MAPS
from marlzoo.envs._smac_units import Scene, Units, unit_observations
from marlzoo.errors import ConfigError, MissingSimulatorError, SpecError, UnknownNameError
from marlzoo.testing import Check, env_battery, random_actions
from tests import smac_stand_in
from tests.smac_stand_in import SHIELD, StarCraft2Env, Unit

# Agents, enemies, actions, limit, observation, per-agent state of the MAPPO flavor.
MAPPO = {
    "5m_vs_6m": (5, 6, 12, 70, 124, 156),
    "6h_vs_8z": (6, 8, 14, 150, 172, 213),
    "corridor": (6, 24, 30, 400, 346, 435),
    "2c_vs_64zg": (2, 64, 70, 400, 478, 675),
    "3s5z_vs_3s6z": (8, 9, 15, 170, 268, 318),
    "2s3z": (5, 5, 11, 120, 144, 173),
    "MMM2": (10, 12, 18, 180, 370, 435),
}
# Observation and state of the package, and the time limit, of all maps.
ORIGINAL = {
    "3m": (30, 48, 60),
    "8m": (80, 168, 120),
    "25m": (250, 950, 150),
    "5m_vs_6m": (55, 98, 70),
    "8m_vs_9m": (85, 179, 120),
    "10m_vs_11m": (105, 243, 150),
    "27m_vs_30m": (285, 1170, 180),
    "MMM": (160, 290, 150),
    "MMM2": (176, 322, 180),
    "2s3z": (80, 120, 120),
    "3s5z": (128, 216, 150),
    "3s5z_vs_3s6z": (136, 230, 170),
    "3s_vs_3z": (36, 54, 150),
    "3s_vs_4z": (42, 61, 200),
    "3s_vs_5z": (48, 68, 250),
    "2m_vs_1z": (16, 26, 150),
    "corridor": (156, 282, 400),
    "6h_vs_8z": (78, 140, 150),
    "2s_vs_1sc": (17, 27, 300),
    "so_many_baneling": (202, 397, 100),
    "bane_vs_bane": (336, 984, 200),
    "2c_vs_64zg": (332, 342, 400),
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``smac`` package whose game is the stand-in."""
    folder = tmp_path / "smac" / "env" / "starcraft2"
    folder.mkdir(parents=True)
    for parent in (folder, *folder.parents[:2]):
        (parent / "__init__.py").touch()
    (folder / "starcraft2.py").write_text("from tests.smac_stand_in import StarCraft2Env\n")
    use(tmp_path, monkeypatch)
    monkeypatch.setattr(StarCraft2Env, "failure", None)
    monkeypatch.setattr(StarCraft2Env, "overrides", {})
    return tmp_path


def use(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "smac"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(folder)


@pytest.mark.parametrize("name", MAPPO)
def test_sizes_of_the_mappo_flavor(name: str) -> None:
    n, m, actions, limit, obs, state = MAPPO[name]
    spec = smac.spec(name)
    assert (spec.n_agents, MAPS[name].enemies, spec.action_size, spec.horizon) == (n, m, actions, limit)
    assert (spec.obs_size, spec.state_size) == (obs, n * state)


@pytest.mark.parametrize("name", ORIGINAL)
def test_sizes_of_the_original_flavor(name: str) -> None:
    spec = smac.spec(name, flavor="original")
    assert (spec.obs_size, spec.state_size, spec.horizon) == ORIGINAL[name]


def test_sizes_are_listed_of_every_map() -> None:
    assert list(ORIGINAL) == list(smac.TASKS)


# The MAPPO flavor's vectors: composed a second time, entry by entry ------------------------------------------


def row(
    game: StarCraft2Env, me: Unit, other: Unit, agent: int, index: int, ally: bool, state: bool
) -> list[float]:
    """One unit as another sees it."""
    types, (ally_shield, enemy_shield) = game.map.types, game.map.shields
    shield = ally_shield if ally else enemy_shield
    distance = math.dist((me.pos.x, me.pos.y), (other.pos.x, other.pos.y))
    visible = distance < 9
    centered = [(other.pos.x - 16) / 30, (other.pos.y - 12) / 20] if state else []
    kind = [0.0] * types
    if types:
        kind[game.get_unit_type_id(other, ally)] = 1.0
    place = [distance / 9, (other.pos.x - me.pos.x) / 9, (other.pos.y - me.pos.y) / 9]
    life = [other.health / 45] + [other.shield / SHIELD] * shield
    if ally:
        heals = game.map_type == "MMM" and other.unit_type == game.medivac_id
        cooldown = [other.energy / 200 if heals else other.weapon_cooldown / 15] if state else []
        values = [float(visible), *place, *cooldown, *life, *centered, *kind, *game.last_action[index]]
    else:
        able = float(game.get_avail_agent_actions(agent)[6 + index])
        values = [able, *place, *([float(visible)] if state else []), *life, *kind, *centered]
    hidden = other.health <= 0 or not (state or visible)
    return [0.0] * len(values) if hidden else values


def vector(game: StarCraft2Env, agent: int, state: bool) -> list[float]:
    me = game.agents[agent]
    values: list[float] = []
    for i, other in game.agents.items():
        if i != agent:
            values += row(game, me, other, agent, i, True, state)
    for j, other in game.enemies.items():
        values += row(game, me, other, agent, j, False, state)
    values += game.get_avail_agent_actions(agent)[2:6]
    own = row(game, me, me, agent, agent, True, state)
    values += own[:4] + own[4 + state :]  # its own cooldown is not shown
    number = [float(i == agent) for i in range(game.n_agents)]
    return [0.0] * len(values) + number if me.health <= 0 else values + number


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize("name", ["5m_vs_6m", "6h_vs_8z", "corridor", "2c_vs_64zg", "2s3z", "MMM2"])
def test_vectors_entry_by_entry(name: str) -> None:
    env = smac.make(name, 1)
    rng, seen, dead, hidden = np.random.default_rng(0), env.reset(), 0, 0
    for _ in range(40):
        game = env.games[0]
        game.agents[0].health = 0.0 if rng.random() < 0.3 else game.agents[0].health
        env._look(0)
        seen.obs, seen.state, seen.action_mask = env._shown()
        states = seen.state.reshape(env.spec.n_agents, -1)
        for agent in range(env.spec.n_agents):
            np.testing.assert_allclose(seen.obs[0, agent], vector(game, agent, False), atol=1e-6)
            np.testing.assert_allclose(states[agent], vector(game, agent, True), atol=1e-6)
            dead += game.agents[agent].health <= 0
        places = [(u.pos.x, u.pos.y) for u in (*game.agents.values(), *game.enemies.values())]
        hidden += any(math.dist(a, b) > 9 for a in places[: game.n_agents] for b in places)
        step = env.step(random_actions(env, seen, rng))
        seen = env.reset() if (step.terminal | step.truncated)[0] else step
    assert dead
    assert hidden


@pytest.mark.usefixtures("package")
def test_a_scene_by_hand() -> None:
    env = smac.make("3m", 1)
    env.reset()
    game = env.games[0]
    places = ((10, 12), (13, 16), (25, 12), (14, 12), (10, 16), (30, 12))
    for unit, (x, y) in zip((*game.agents.values(), *game.enemies.values()), places, strict=True):
        unit.pos.x, unit.pos.y, unit.health = x, y, 45.0
    game.agents[1].weapon_cooldown = 3.0
    game.enemies[1].health = 0.0
    game.last_action[:] = np.eye(9)[[1, 6, 1]]
    env._look(0)
    ally, enemy = np.split(env._obs[0, 0, : 2 * 14 + 3 * 5], [28])
    stop, attack = np.eye(9)[[1, 6]].tolist()
    np.testing.assert_allclose(ally[:14], [1, 5 / 9, 3 / 9, 4 / 9, 1, *attack], atol=1e-6)
    np.testing.assert_allclose(ally[14:], 0)  # 15 away
    np.testing.assert_allclose(enemy, [1, 4 / 9, 4 / 9, 0, 1, *[0] * 10], atol=1e-6)
    np.testing.assert_allclose(env._obs[0, 0, 43:], [1, 1, 1, 1, 1, 0, 0, 0, 1, *stop, 1, 0, 0], atol=1e-6)
    state = env._state[0].reshape(3, -1)[0]
    np.testing.assert_allclose(
        state[:17], [1, 5 / 9, 3 / 9, 4 / 9, 0.2, 1, -3 / 30, 4 / 20, *attack], atol=1e-6
    )
    np.testing.assert_allclose(state[17:26], [0, 15 / 9, 15 / 9, 0, 0, 1, 9 / 30, 0, 0], atol=1e-6)
    np.testing.assert_allclose(state[34:42], [1, 4 / 9, 4 / 9, 0, 1, 1, -2 / 30, 0], atol=1e-6)


def test_who_sees_far_sees_who_does_not() -> None:
    """An own sight range of each ally; a unit just at it is out of sight."""
    side = {name: np.ones(2) for name in ("health", "shield", "cooldown")}
    rest = {"alive": np.ones(2, bool), "kind": np.zeros((2, 0)), "centered": np.zeros((2, 2))}
    allies = Units(np.array([[0.0, 0.0], [5.0, 0.0]]), **side, **rest)
    enemies = Units(np.array([[3.0, 0.0], [0.0, 2.0]]), **side, **rest)
    mask, last = np.ones((2, 8), bool), np.zeros((2, 8))
    scene = Scene(allies, enemies, np.array([3.0, 9.0]), mask, last, (0, 0))
    near, far = unit_observations(scene)
    assert not near[:13].any()  # the other ally
    np.testing.assert_allclose(far[:5], [1, 5 / 9, -5 / 9, 0, 1], rtol=1e-6)
    assert not near[13:18].any()  # an enemy at the sight range
    np.testing.assert_allclose(near[18:23], [1, 2 / 3, 0, 2 / 3, 1], rtol=1e-6)
    np.testing.assert_allclose(far[13:18], [1, 2 / 9, -2 / 9, 0, 1], rtol=1e-6)


# The adapter -------------------------------------------------------------------------------------------------


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A time limit of 30 steps, as the stand-in has it."""
    from dataclasses import replace

    charts = {name: replace(MAPS[name], limit=30) for name in ("3m", "2s3z")}
    monkeypatch.setattr(smac, "MAPS", charts)
    monkeypatch.setattr(smac_stand_in, "MAPS", charts)


@pytest.mark.usefixtures("package", "short")
@pytest.mark.parametrize("flavor", ["mappo", "original"])
@pytest.mark.parametrize("name", ["3m", "2s3z"])
def test_battery(name: str, flavor: str, tmp_path: Path) -> None:
    def make(num_envs: int) -> smac.SMAC:
        return smac.make(name, num_envs, flavor=flavor)

    checks: list[Check] = env_battery(
        f"smac/{name}", make, spec=lambda: smac.spec(name, flavor=flavor), most=400
    )
    for check in checks:
        check(tmp_path)


@pytest.mark.usefixtures("package")
def test_original_vectors_are_passed_on() -> None:
    env = smac.make("3m", 2, flavor="original")
    seen = env.reset()
    assert seen.obs[1, 2].tolist() == [k + 2 for k in range(30)]
    assert seen.state[0].tolist() == list(range(48))


@pytest.mark.usefixtures("package", "short")
def test_wins_losses_and_limits() -> None:
    env = smac.make("3m", 3)
    env.reset()
    for unit in env.games[0].enemies.values():
        unit.health = 0.0
    for unit in env.games[1].agents.values():
        unit.health = 0.0
    env.games[2].time = 29
    for copy in range(3):
        env._look(copy)
    step = env.step(env._masks.argmax(-1))
    assert step.terminal.tolist() == [True, True, False]
    assert step.truncated.tolist() == [False, False, True]
    assert step.info["win"].tolist() == [True, False, False]
    assert step.reward.tolist() == [10, 0, 0]


@pytest.mark.usefixtures("package")
def test_a_lost_connection_ends_the_episode_and_is_marked() -> None:
    env = smac.make("3m", 2)
    env.reset()
    env.games[1].step = lambda actions: (0, True, {})
    env.games[1].get_avail_actions = lambda: pytest.fail("asked a game that is gone")
    step = env.step(env._masks.argmax(-1))
    assert step.info["broken"].tolist() == [False, True]
    assert step.truncated.tolist() == [False, True]
    assert not step.terminal.any()


@pytest.mark.usefixtures("package")
def test_games_start_late_and_are_kept() -> None:
    before = StarCraft2Env.started
    env = smac.make("3m", 2)
    assert StarCraft2Env.started == before
    env.reset()
    env.reset()
    assert StarCraft2Env.started == before + 2
    first = env.games[1]
    env.seed([5, 6])
    env.reset(np.array([1]))
    assert first.closed
    assert StarCraft2Env.started == before + 3
    env.save_replay(1)
    assert env.games[1].saved
    last = env.games[1]
    assert [game.seed for game in env.games] == [0, 6]
    env.reset()
    assert [game.seed for game in env.games] == [5, 6]
    started = StarCraft2Env.started
    env.close()
    assert last.closed
    env.reset()
    assert StarCraft2Env.started == started + 2


@pytest.mark.usefixtures("package")
def test_every_reset_begins_one_episode_of_the_named_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    resets: list[int] = []
    begin = StarCraft2Env.reset

    def counted(game: StarCraft2Env) -> Any:
        resets.append(game.seed)
        return begin(game)

    monkeypatch.setattr(StarCraft2Env, "reset", counted)
    env = smac.make("3m", 2, difficulty=3)
    first = env.reset(np.array([0]))
    assert first.action_mask is not None
    np.testing.assert_array_equal(first.action_mask[1], [[True] + [False] * 8] * 3)  # not begun
    assert env.games[0].difficulty == "3"
    games: list[Any] = env.games
    assert games[1] is None
    env.reset(np.array([1]))
    step = env.step(env._masks.argmax(-1))
    seen = step.obs.copy()
    env.reset(np.array([1, 1]))
    assert resets == [0, 1, 1]
    assert [game.time for game in games] == [1, 0]
    np.testing.assert_array_equal(step.obs, seen)  # what was returned stays as it is
    env.games[0].step = lambda actions: (0.5, False, {})
    step = env.step(env._masks.argmax(-1))
    assert not step.info["broken"].any()
    assert not step.truncated.any()


@pytest.mark.usefixtures("package")
def test_an_illegal_action_is_named_by_its_own_copy() -> None:
    env = smac.make("3m", 2)
    env.reset()
    env._masks[1, 2] = np.eye(9, dtype=bool)[4]
    with pytest.raises(SpecError, match=r"agent 2 of copy 1 took the action 1, .* legal are \[4\]"):
        env.step(np.ones((2, 3), int), np.array([1]))


@pytest.mark.usefixtures("package")
def test_bad_input() -> None:
    env = smac.make("3m", 2)
    env.reset()
    with pytest.raises(SpecError, match="agent 1 of copy 1 took the action 0"):
        env.step(np.array([[1, 1, 1], [1, 0, 1]]))
    with pytest.raises(SpecError, match=r"shape \(2, 3\)"):
        env.step(np.ones((1, 3), int))
    with pytest.raises(ConfigError, match="seeds"):
        env.seed([1])
    with pytest.raises(UnknownNameError, match="3m"):
        smac.spec("3mm")
    with pytest.raises(UnknownNameError, match="flavor"):
        smac.spec("3m", flaver="mappo")
    with pytest.raises(ConfigError, match="mappo or original"):
        smac.spec("3m", flavor="omiga")
    for difficulty in ("Z", "", 10, "12"):
        with pytest.raises(ConfigError, match=r"difficulty must be one of 1, 2, .*, A, got"):
            smac.spec("3m", difficulty=difficulty)
    assert smac.spec("3m", difficulty=7) == smac.spec("3m", difficulty="A") == smac.spec("3m")
    with pytest.raises(ConfigError, match="num_envs"):
        smac.make("3m", 0)


# What lacks --------------------------------------------------------------------------------------------------


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "smac", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingSimulatorError, match=r"oxwhirl/smac.*SC2PATH.*SMAC_Maps\.zip"):
        smac.make("3m", 1)


def test_the_other_package_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "smac").mkdir()
    (tmp_path / "smac" / "__init__.py").write_text("__version__ = '2.4.1'\n")
    use(tmp_path, monkeypatch)
    with pytest.raises(MissingSimulatorError, match=r"another one of the same name.*pip uninstall smac"):
        smac.make("3m", 1)


def test_a_package_that_fails_to_import(package: Path) -> None:
    (package / "smac" / "env" / "starcraft2" / "starcraft2.py").write_text("import no_such_pysc2\n")
    with pytest.raises(MissingSimulatorError, match="No module named 'no_such_pysc2'"):
        smac.make("3m", 1)
    story = "Descriptors cannot be created directly.\\nIf this call came from a _pb2.py file, ..."
    (package / "smac" / "env" / "starcraft2" / "starcraft2.py").write_text(f'raise TypeError("{story}")\n')
    importlib.invalidate_caches()
    with pytest.raises(
        MissingSimulatorError, match=r"TypeError: Descriptors .* directly\..*reinstall"
    ) as caught:
        smac.make("3m", 1)
    assert "\n" not in str(caught.value)


class NoMapError(Exception):
    """As pysc2 calls it."""


@pytest.mark.usefixtures("package")
@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (
            FileNotFoundError(2, "No such file", "StarCraftII/Versions"),
            "StarCraft II did not start.*4.10",
        ),
        (NoMapError("Map doesn't exist: 3m"), "the map of smac/3m is missing.*StarCraftII/Maps"),
        (ValueError("Map SMAC_Maps/3m.SC2Map not found."), "the map of smac/3m is missing"),
        (RuntimeError("no license\n\nlong story"), "did not start .RuntimeError: no license"),
        (ConnectionError("refused"), "did not start .ConnectionError: refused"),
    ],
)
def test_missing_game_or_map(failure: Exception, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StarCraft2Env, "failure", failure)
    with pytest.raises(MissingSimulatorError, match=text) as caught:
        smac.make("3m", 1).reset()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("package")
def test_another_version_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StarCraft2Env, "overrides", {"episode_limit": 61})
    with pytest.raises(SpecError, match="episode_limit: 61 != 60"):
        smac.make("3m", 1).reset()
    monkeypatch.setattr(StarCraft2Env, "overrides", {"obs_shape": 31})
    smac.make("3m", 1).reset()  # its vectors are not the package's
    with pytest.raises(SpecError, match="obs_shape: 31 != 30"):
        smac.make("3m", 1, flavor="original").reset()
