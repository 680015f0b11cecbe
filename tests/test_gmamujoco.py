"""The modern multi-agent MuJoCo against recordings of gymnasium-robotics, and its data read from a vault."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marlzoo.data.card import Card
from marlzoo.data.check import check
from marlzoo.data.dataset import Dataset
from marlzoo.data.download import download
from marlzoo.data.formats.vault import read_vault
from marlzoo.data.load import load_dataset, typed_options
from marlzoo.envs import gmamujoco
from marlzoo.envs._gmamujoco_teams import TEAMS
from marlzoo.envs._mujoco_v5 import ROBOTS_V5
from marlzoo.envs.mamujoco import MAMuJoCo
from marlzoo.errors import ConfigError, DataError, UnknownNameError
from tests.golden.record_gmamujoco import SCENARIOS, policy
from tests.test_format_vault import write

GOLDEN = Path(__file__).parent / "golden" / "gmamujoco.npz"
# Observation and action sizes of the agents, size of the state.
SIZES = {
    "2halfcheetah": ((12, 12), (3, 3), 17),
    "6halfcheetah": ((9, 9, 8, 9, 9, 8), (1,) * 6, 17),
    "2ant": ((63, 63), (4, 4), 105),
    "4ant": ((42,) * 4, (2,) * 4, 105),
    "3hopper": ((8, 9, 8), (1,) * 3, 11),
    "2walker": ((12, 12), (3, 3), 17),
    "2reacher": ((7, 10), (1, 1), 10),
    "2humanoid": ((242, 170), (9, 8), 348),
}


def test_sizes() -> None:
    assert tuple(SIZES) == gmamujoco.TASKS == tuple(SCENARIOS)
    for name, (sees, moves, state) in SIZES.items():
        spec = gmamujoco.spec(name)
        assert (spec.obs_sizes, spec.action_sizes, spec.state_size) == (sees, moves, state)
        assert spec.horizon == (50 if name == "2reacher" else 1000)
    assert gmamujoco.spec("2halfcheetah", obsk=0).obs_sizes == (11, 11)


def test_the_walkers_feet_have_the_same_friction_where_gymnasium_has_mended_it() -> None:
    """Which no recorded step shows; the right foot of the ``-v2`` robot slips more."""
    env = gmamujoco.make("2walker", 1, threads=1)
    feet = [env._sim.model.geom(name).friction[0] for name in ("foot_geom", "foot_left_geom")]
    assert feet == [1.9, 1.9]
    env.close()


def test_every_actuator_belongs_to_one_agent() -> None:
    for name, team in TEAMS.items():
        owned = sorted(actuator for own in team.owners() for actuator in own)
        assert owned == list(range(ROBOTS_V5[team.robot].nu)), name


def moves(env: MAMuJoCo, step: int) -> Any:
    """What :func:`policy` does in all copies."""
    action = np.zeros((env.num_envs, env.spec.n_agents, env.spec.action_size), np.float32)
    for agent, size in enumerate(env.spec.action_sizes):
        action[:, agent, :size] = policy(step, agent, size)
    return action


@pytest.mark.parametrize("name", SIZES)
def test_recorded_episode(name: str) -> None:
    with np.load(GOLDEN, allow_pickle=False) as file:
        gold = {key.partition(".")[2]: file[key] for key in file if key.startswith(f"{name}.")}
    env = gmamujoco.make(name, 2, threads=1)
    nq = env.robot.nq
    env._sim.set_state(np.arange(2), gold["start"][:nq], gold["start"][nq:])
    for step, reward in enumerate(gold["reward"]):
        seen = env.step(moves(env, step))
        shown = [seen.obs[1, agent, :size] for agent, size in enumerate(env.spec.obs_sizes)]
        np.testing.assert_allclose(np.concatenate(shown), gold["obs"][step], rtol=1e-5, atol=2e-4)
        np.testing.assert_allclose(seen.state[1], gold["state"][step], rtol=1e-5, atol=2e-4)
        assert seen.reward[1] == pytest.approx(reward, abs=1e-4)
        assert seen.terminal[1] == gold["terminal"][step]
    assert not any(seen.obs[:, agent, size:].any() for agent, size in enumerate(env.spec.obs_sizes))
    env.close()


def test_random_play_of_the_cheetah_until_the_time_limit() -> None:
    """The specification's return, -228 of five episodes, within 30 %; the limit is no end of the task."""
    env, rng = gmamujoco.make("2halfcheetah", 20, threads=1), np.random.default_rng(0)
    env.seed(range(20))
    env.reset()
    total = np.zeros(20)
    for step in range(1000):
        seen = env.step(rng.uniform(-1, 1, (20, 2, 3)).astype(np.float32))
        total += seen.reward
        assert not seen.terminal.any()
        assert seen.truncated.all() == (step == 999)
    assert total.mean() == pytest.approx(-228, rel=0.3)
    env.close()


def test_bad_options() -> None:
    with pytest.raises(UnknownNameError, match="2halfcheetah"):
        gmamujoco.spec("halfcheetah")
    with pytest.raises(UnknownNameError, match="obsk"):
        gmamujoco.make("2ant", 1, obs=1)
    with pytest.raises(ConfigError, match="obsk must be an integer, 0 or more, got -1"):
        gmamujoco.make("2ant", 1, obsk=-1)
    with pytest.raises(ConfigError, match="horizon must be a positive integer, got True"):
        gmamujoco.spec("2ant", horizon=True)


# Recorded data -----------------------------------------------------------------------------------------------


def recorded(name: str, steps: int = 60) -> dict[str, Any]:
    """One stream of episodes of random play as OG-MARL stores it: float32, padded to the largest agent."""
    env, rng = gmamujoco.make(name, 1, threads=1), np.random.default_rng(3)
    team, width = env.spec.n_agents, env.spec.action_size
    rows: dict[str, list[Any]] = {key: [] for key in ("observations", "actions", "rewards", "terminals")}
    rows["infos.state"] = []
    seen = env.reset()
    for _ in range(steps):
        action = rng.uniform(-1, 1, (1, team, width)).astype(np.float32)
        rows["observations"].append(seen.obs[0].copy())
        rows["infos.state"].append(seen.state[0].copy())
        rows["actions"].append(action[0])
        step = env.step(action)
        rows["rewards"].append(np.full(team, step.reward[0], np.float32))
        rows["terminals"].append(np.full(team, step.terminal[0], np.float32))
        seen = env.reset() if step.terminal[0] else step
    env.close()
    arrays = {key: np.stack(values)[None] for key, values in rows.items()}
    return arrays | {"truncations": np.zeros_like(arrays["terminals"])}


def test_published_data_are_read_from_their_vault_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensorstore = pytest.importorskip("tensorstore", reason="needs tensorstore: pip install 'marlzoo[vault]'")
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    arrays = recorded("3hopper")
    arrays["observations"][:, :, ::2, 8:] = 7.0  # whatever stands behind shorter observations
    folder = write(tensorstore, tmp_path / "3hopper.vlt" / "Replay", arrays)
    download("gmamujoco/3hopper/og-marl/replay", from_file=tmp_path / "3hopper.vlt")
    data = load_dataset("gmamujoco/3hopper/og-marl/replay")
    assert data.spec.obs_sizes == (8, 9, 8)
    assert not data.obs[:, ::2, 8:].any()
    assert data.spec.horizon == 1000
    env = gmamujoco.make("3hopper", 1, threads=1)
    report = check(data, env)
    assert report.agrees, report.summary()
    assert report.compared > 40
    assert any(note.startswith("the observation after") for note in report.notes)
    assert report.reward.max < 1e-4
    with pytest.raises(DataError, match="entry 7 of agent 0's observations changes"):
        read_vault(folder, **typed_options(folder, ["obs_sizes=7,9,8"]))
    with pytest.raises(DataError, match=r"obs_sizes must be 3 numbers from 1 to 9, got \[8, 9\]"):
        read_vault(folder, obs_sizes=(8, 9))
    with pytest.raises(ConfigError, match="must be whole numbers separated by commas, not 'many'"):
        typed_options(folder, ["obs_sizes=many"])


@pytest.mark.parametrize("name", ["2ant", "2walker", "2reacher"])
def test_states_are_replayed(name: str) -> None:
    arrays = recorded(name, steps=40)
    env = gmamujoco.make(name, 1, threads=1)
    found = env.replay_states(arrays["infos.state"][0], arrays["actions"][0])
    inner = np.flatnonzero(found.valid[:-1] & ~(arrays["terminals"][0, :-1, 0] > 0))
    wrong = np.abs(found.next_obs[inner] - arrays["observations"][0, inner + 1]).max(axis=(1, 2))
    paid = np.abs(found.reward[inner] - arrays["rewards"][0, inner, 0])
    assert len(inner) >= 5
    assert np.median(wrong) < 1e-4
    assert np.median(paid) < 1e-3
    env.close()


def test_data_of_another_version_are_refused_by_name() -> None:
    env = gmamujoco.make("2ant", 1, threads=1)
    shape = {"n_agents": 2, "obs_size": 63, "action_kind": "continuous", "action_size": 4, "horizon": 1000}
    data = Dataset.create(
        type(env.spec)(**shape, state_size=111),
        obs=np.zeros((3, 2, 63), np.float32),
        state=np.zeros((3, 111), np.float32),
        action=np.zeros((3, 2, 4), np.float32),
        reward=np.zeros(3, np.float32),
        terminal=np.array([False, True, False]),
        truncated=np.zeros(3, np.bool_),
        starts=np.array([0]),
        card=Card(task="gmamujoco/2ant"),
    )
    report = check(data, env)
    assert not report.agrees
    assert "111 entries are those of Ant-v2 to Ant-v4" in report.failures[0]
    assert "robot's v5 version" in report.failures[0]
