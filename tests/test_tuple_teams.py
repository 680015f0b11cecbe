"""RWARE and level-based foraging: their packages' shapes, ends and states, and the error where they are missing."""

from __future__ import annotations

import importlib.metadata
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from marlzoo.envs import lbf, rware
from marlzoo.envs._tuple_team import TupleTeam, make_team, team_spec
from marlzoo.envs.pettingzoo import from_parallel_env
from marlzoo.errors import ConfigError, MissingExtraError, UnknownNameError
from marlzoo.families import fitting_options, task_spec


class Pair:
    """Two agents that earn 1 and 2; ends as it is told."""

    observation_space = spaces.Tuple([spaces.Box(0, 1, (2,)), spaces.Box(0, 1, (2,))])
    action_space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(3)])

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.ends = (False, False)
        self.begun: Any = None
        self.closed = False

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        self.begun = (seed, options)
        return (np.zeros(2), np.ones(2)), {}

    def step(self, actions: list[int]) -> Any:
        self.taken.append(actions)
        return (np.zeros(2), np.ones(2)), [1.0, 2.0], *self.ends, {}

    def close(self) -> None:
        self.closed = True


def test_tuples_over_agents() -> None:
    pair = Pair()
    env = from_parallel_env(
        lambda: TupleTeam(pair, lambda env: np.full(4, len(env.taken), np.float32)),
        1,
        task="toy/pair",
        horizon=9,
        reward="sum",
    )
    step = env.step(np.array([[1, 2]]))
    assert pair.taken == [[1, 2]]
    assert step.reward.tolist() == [3.0]
    assert step.obs.tolist() == [[[0, 0], [1, 1]]]
    assert step.state.tolist() == [[1, 1, 1, 1]]
    assert not step.terminal[0]
    pair.ends = (False, True)
    assert env.step(np.array([[0, 0]])).truncated[0]
    env.reset()
    pair.ends = (True, False)
    assert env.step(np.array([[0, 0]])).terminal[0]


class Unequal(Pair):
    observation_space = spaces.Tuple([spaces.Box(0, 1, (2,)), spaces.Box(0, 1, (3,))])
    action_space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(4)])


def test_each_agent_has_its_own_spaces() -> None:
    team = TupleTeam(Unequal())
    assert team.possible_agents == team.agents == ["agent_0", "agent_1"]
    assert [team.observation_space(agent).shape for agent in team.agents] == [(2,), (3,)]
    assert [team.action_space(agent).n for agent in team.agents] == [3, 4]
    assert not hasattr(team, "state")


def test_resets_and_closing_reach_the_package() -> None:
    pair = Pair()
    team = TupleTeam(pair)
    seen, _ = team.reset(seed=5, options={"a": 1})
    assert pair.begun == (5, {"a": 1})
    assert seen["agent_1"].tolist() == [1, 1]
    team.close()
    assert pair.closed


def test_a_team_says_what_it_is_made_of() -> None:
    env = make_team(
        "toy/pair", 1, Pair, package="gymnasium", properties={"level": 2}, horizon=9, reward="sum"
    )
    version = importlib.metadata.version("gymnasium")
    assert env.metadata == {**env.metadata, "engine": "gymnasium", "engine_version": version, "level": 2}
    with pytest.raises(MissingExtraError, match="the task toy/pair needs the package 'no_such_package'"):
        make_team("toy/pair", 1, Pair, package="no_such_package")


def test_rewards_and_limits_of_the_spec() -> None:
    sizes: dict[str, Any] = {
        "known": ("reward", "horizon"),
        "horizon": 7,
        "n_agents": 2,
        "obs_size": 3,
        "state_size": 4,
        "action_size": 5,
    }
    plain = team_spec("toy/pair", {}, **sizes)
    assert (plain.horizon, plain.obs_size, plain.state_size, plain.action_size) == (7, 3, 4, 5)
    shapes = {
        reward: team_spec("toy/pair", {"reward": reward}, **sizes).reward_per_agent
        for reward in ("sum", "mean", "per_agent")
    }
    assert shapes == {"sum": False, "mean": False, "per_agent": True}
    assert team_spec("toy/pair", {"horizon": 3}, **sizes).horizon == 3
    for wrong in (0, True, 1.0):
        with pytest.raises(ConfigError, match=f"horizon must be a positive integer, got {wrong}"):
            team_spec("toy/pair", {"horizon": wrong}, **sizes)


@pytest.mark.parametrize(("family", "package"), [(rware, "rware"), (lbf, "lbforaging")])
def test_shapes_are_the_packages(family: Any, package: str) -> None:
    pytest.importorskip(package, reason=f"needs {package}: pip install 'marlzoo[{package}]'")
    for name in family.TASKS:
        env = family.make(name, 1, horizon=3)
        assert env.spec == family.spec(name, horizon=3), name
        assert env.metadata["engine"] == package
        env.close()


def test_a_warehouse_lasts_until_the_limit() -> None:
    pytest.importorskip("rware", reason="needs rware: pip install 'marlzoo[rware]'")
    env = rware.make("tiny-2ag", 1, horizon=3, difficulty="hard")
    copy: Any = env.envs[0]
    warehouse = copy.env
    for last in (False, False, True):
        step = env.step(np.zeros((1, 2), np.int64))
        assert (step.truncated[0], step.terminal[0]) == (last, False)
    robots = [value for robot in warehouse.agents for value in (robot.x, robot.y, robot.dir.value)]
    (shelf,) = warehouse.request_queue  # half as many as agents
    assert step.state[0].tolist() == [*robots, shelf.x, shelf.y]


def test_foraging_ends_with_the_food() -> None:
    pytest.importorskip("lbforaging", reason="needs lbforaging: pip install 'marlzoo[lbforaging]'")
    env = lbf.make("8x8-2p-2f-coop", 1, horizon=3)
    rest = np.zeros((1, 2), np.int64)
    ends = [(step.truncated[0], step.terminal[0]) for step in (env.step(rest) for _ in range(3))]
    assert ends == [(False, False), (False, False), (True, False)]
    env.reset()
    copy: Any = env.envs[0]
    copy.env.field[:] = 0
    step = env.step(rest)
    assert (step.truncated[0], step.terminal[0]) == (False, True)


def test_published_warehouse_data_fit_the_easy_tasks() -> None:
    published = replace(task_spec("rware/small-4ag"), state_size=28)
    assert fitting_options("rware/small-4ag", published) == {"difficulty": "easy"}


@pytest.mark.parametrize(("family", "package"), [(rware, "rware"), (lbf, "lbforaging")])
def test_missing_package_and_bad_options(family: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = family.TASKS[0]
    with pytest.raises(UnknownNameError, match=name):
        family.spec(name + "x")
    with pytest.raises(UnknownNameError, match="reward"):
        family.spec(name, rewards="sum")
    with pytest.raises(ConfigError, match="reward must be one of sum, mean, per_agent, got 'all'"):
        family.spec(name, reward="all")
    with pytest.raises(ConfigError, match="horizon must be a positive integer, got 0"):
        family.make(name, 1, horizon=0)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=f"'{package}', which is not installed. .*{package}>="):
        family.make(name, 1)
