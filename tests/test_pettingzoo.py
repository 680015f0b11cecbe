"""PettingZoo's parallel API as a task, and the documented way to bring an environment in one file."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from marlzoo.envs.pettingzoo import PettingZooEnv, from_parallel_env
from marlzoo.errors import ConfigError, PluginError, SpecError
from marlzoo.families import make_env, task_names, task_spec
from marlzoo.testing import Check, env_battery

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "own_environment.md"
NAMES = ("left", "right")


class Countdown:
    """Two agents of different sizes count down from a drawn number; ``right`` leaves at half of it.

    The parallel API by hand: an episode ends when the number is used up, or is truncated after eight steps.
    """

    def __init__(self, kind: str = "discrete", masks: str = "observation", state: bool = True) -> None:
        self.kind, self.masks = kind, masks
        self.possible_agents: list[str] = list(NAMES)
        self.agents: list[str] = []
        self.taken: list[dict[str, Any]] = []
        if state:
            self.state = lambda: np.array([self.left, self.start, self.time])

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        if agent == "right":
            return spaces.Discrete(20, start=1)
        box = spaces.Box(-9, 99, (2, 2))
        if self.kind == "discrete" and self.masks == "observation":
            return spaces.Dict({"observation": box, "action_mask": spaces.MultiBinary(3)})
        return box

    def action_space(self, agent: str) -> spaces.Space[Any]:
        if self.kind == "discrete":
            return spaces.Discrete(3 if agent == "left" else 2, start=1)
        low, high = np.array([[-2.0, 0.0], [2.0, 10.0]], np.float32)[:, None]
        return spaces.Box(low, high) if agent == "left" else spaces.Box(-1, 1, (1,))

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self.left = self.start = int(np.random.default_rng(seed).integers(4, 20))
        self.time, self.agents = 0, list(NAMES)
        return self._seen(), {agent: self._info(agent) for agent in self.agents}

    def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
        assert set(actions) == set(self.agents)
        self.taken.append(actions)
        acting, self.time = list(self.agents), self.time + 1
        self.left -= int(actions["left"]) if self.kind == "discrete" else 2
        over, cut = self.left <= 0, self.time >= 8 and self.left > 0
        gone = over or self.left < self.start / 2
        seen = {agent: self._seen()[agent] for agent in acting}
        terminations = {"left": over, "right": gone}
        self.agents = [] if over or cut else [a for a in acting if not terminations[a]]
        infos = {agent: {**self._info(agent), "solved": over} for agent in acting}
        rewards = {"left": 1.0, "right": 3.0}
        return (
            seen,
            {a: rewards[a] for a in acting},
            {a: terminations[a] for a in acting},
            dict.fromkeys(acting, cut),
            infos,
        )

    def close(self) -> None:
        self.closed = True

    def _seen(self) -> dict[str, Any]:
        table: Any = np.array([[self.left, self.start], [self.time, 0]], np.float32)
        if self.kind == "discrete" and self.masks == "observation":
            table = {"observation": table, "action_mask": self._mask()}
        return {"left": table, "right": max(1, self.left)}

    def _mask(self) -> Any:
        return np.array([1, self.left % 2, 1], np.int8)

    def _info(self, agent: str) -> dict[str, Any]:
        return {"action_mask": self._mask()} if self.masks == "info" and agent == "left" else {}


def made(num_envs: int, **options: Any) -> PettingZooEnv:
    how = {k: options.pop(k) for k in ("kind", "masks", "state") if k in options}
    return from_parallel_env(
        lambda: Countdown(**how), num_envs, **({"task": "own/countdown", "horizon": 8} | options)
    )


VARIANTS: dict[str, dict[str, Any]] = {
    "masks-in-observations": {},
    "masks-in-infos": {"masks": "info"},
    "no-masks": {"masks": "none", "state": False},
    "continuous": {"kind": "continuous"},
    "team-reward": {"reward": "sum", "win_key": "solved"},
}
BATTERY = [
    pytest.param(check, id=f"{check}-{name}")
    for name, options in VARIANTS.items()
    for check in env_battery("own/countdown", lambda num_envs, o=options: made(num_envs, **dict(o)), most=200)  # type: ignore[misc]
]


@pytest.mark.parametrize("check", BATTERY)
def test_battery(check: Check, tmp_path: Path) -> None:
    check(tmp_path)


def test_shapes() -> None:
    spec = made(1).spec
    assert (spec.obs_sizes, spec.obs_size, spec.state_size) == ((4, 20), 20, 3)
    assert (spec.action_kind, spec.action_sizes, spec.reward_per_agent) == ("discrete", (3, 2), True)
    spec = made(1, kind="continuous", state=False, reward="mean").spec
    assert (spec.action_kind, spec.action_sizes, spec.state_size) == ("continuous", (2, 1), 40)
    assert not spec.reward_per_agent


def test_what_is_shown() -> None:
    env = made(3)
    env.seed([5, 6, 7])
    seen = env.reset()
    for k, inner in enumerate(env.envs):
        assert isinstance(inner, Countdown)
        assert seen.obs[k, 0, :4].tolist() == [inner.left, inner.start, 0, 0]
        assert seen.obs[k, 1].argmax() == inner.left - 1
        assert seen.obs[k, 1].sum() == 1
        assert seen.state[k].tolist() == [inner.left, inner.start, 0]
        assert seen.action_mask is not None
        assert seen.action_mask[k].tolist() == [[True, inner.left % 2 == 1, True], [True, True, False]]


def test_actions_reach_the_environment() -> None:
    env = made(1)
    env.reset()
    env.step(np.array([[2, 1]]))
    assert env.envs[0].taken[-1] == {"left": 3, "right": 2}  # type: ignore[attr-defined]
    env = made(1, kind="continuous")
    env.reset()
    env.step(np.array([[[-1, 0.5], [0.25, 9]]], np.float32))
    taken = env.envs[0].taken[-1]  # type: ignore[attr-defined]
    np.testing.assert_allclose(taken["left"], [[-2, 7.5]])
    np.testing.assert_allclose(taken["right"], [0.25])
    env.step(np.array([[[5, -5], [0, 0]]], np.float32))
    np.testing.assert_allclose(env.envs[0].taken[-1]["left"], [[2, 0]])  # type: ignore[attr-defined]


def test_ends_rewards_and_agents_that_leave() -> None:
    env = made(1, win_key="solved", horizon=8)
    inner = env.envs[0]
    assert isinstance(inner, Countdown)
    env.reset()
    inner.left = inner.start = 7
    step = env.step(np.array([[2, 0]]))  # 4 left, more than half
    assert step.reward.tolist() == [[1, 3]]
    step = env.step(np.array([[2, 0]]))  # 1 left: right is told so, and leaves
    assert step.reward.tolist() == [[1, 3]]
    assert step.obs[0, 1].any()
    assert step.action_mask is not None
    assert step.action_mask[0, 1].tolist() == [True, False, False]
    assert not step.info["win"][0]
    with pytest.raises(SpecError, match="agent 1 in copy 0 is not legal"):
        env.step(np.array([[0, 1]]))
    step = env.step(np.array([[0, 0]]))
    assert inner.taken[-1] == {"left": 1}
    assert step.reward.tolist() == [[1, 0]]
    assert not step.obs[0, 1].any()
    assert (step.terminal[0], step.truncated[0], step.info["win"][0]) == (True, False, True)
    env.reset()
    inner.left = inner.start = 19
    steps = [env.step(np.array([[0, 0]])) for _ in range(8)]
    assert [s.truncated[0] for s in steps] == [False] * 7 + [True]
    assert not any(s.terminal[0] or s.info["win"][0] for s in steps)


def test_a_task_that_ends_in_the_last_step_was_not_cut() -> None:
    env = made(1, horizon=2)
    env.reset()
    env.envs[0].left = env.envs[0].start = 6  # type: ignore[attr-defined]
    env.step(np.array([[2, 0]]))
    step = env.step(np.array([[2, 0]]))
    assert (step.terminal[0], step.truncated[0]) == (True, False)


def test_an_episode_is_won_at_its_end_or_not() -> None:
    class Winning(Countdown):
        def step(self, actions: dict[str, Any]) -> tuple[Any, Any, Any, Any, Any]:
            *answer, _ = super().step(actions)
            return (*answer, {"left": {"won": True}})  # type: ignore[return-value]

    env = from_parallel_env(Winning, 1, task="own/countdown", horizon=3, win_key="won")
    env.reset()
    env.envs[0].left = env.envs[0].start = 19  # type: ignore[attr-defined]
    assert [bool(env.step(np.array([[0, 0]])).info["win"][0]) for _ in range(3)] == [False, False, True]


def test_an_episode_depends_on_its_stream_and_number() -> None:
    env = made(2)

    def starts(seeds: list[int]) -> list[list[int]]:
        env.seed(seeds)
        return [env.reset().obs[:, 0, 1].astype(int).tolist() for _ in range(6)]

    same = starts([5, 5])
    assert all(first == second for first, second in same)
    assert len({first for first, _ in same}) > 2
    assert [first for first, _ in starts([5, 6])] == [first for first, _ in same]
    assert [second for _, second in starts([5, 6])] != [second for _, second in same]


def test_states_and_masks_from_elsewhere() -> None:
    env = made(2, state=False)
    seen = env.reset()
    np.testing.assert_array_equal(seen.state, seen.obs.reshape(2, -1))
    assert not np.array_equal(seen.state[0], seen.state[1])
    env = made(1, masks="info")
    env.reset()
    env.envs[0].left = 19  # type: ignore[attr-defined]
    step = env.step(np.array([[0, 0]]))
    assert step.action_mask is not None
    assert step.action_mask[0, 0].tolist() == [True, False, True]

    class Short(Countdown):
        def _mask(self) -> Any:
            return np.ones(2, np.int8)

    with pytest.raises(SpecError, match="2 entries as action mask of 'left'"):
        from_parallel_env(Short, 1, task="own/x", horizon=1)
    names = iter((["left", "right"], ["right", "left"]))

    def turned() -> Any:
        env = Countdown()
        env.possible_agents = next(names)
        return env

    with pytest.raises(
        SpecError, match=r"has the agents \['right', 'left'\], the first copy \['left', 'right'\]"
    ):
        from_parallel_env(turned, 2, task="own/x", horizon=1)


def test_own_actions_are_mapped_back() -> None:
    found = made(1, kind="continuous").canonical({"left": np.array([[-2, 7.5]]), "right": np.array([0.25])})
    np.testing.assert_allclose(found, [[-1, 0.5], [0.25, 0]])
    assert made(1).canonical({"left": 3}).tolist() == [2, 0]


def test_a_shorter_limit_of_ones_own() -> None:
    env = made(1, horizon=2)
    env.reset()
    env.envs[0].left = env.envs[0].start = 19  # type: ignore[attr-defined]
    assert not env.step(np.array([[0, 0]])).truncated[0]
    assert env.step(np.array([[0, 0]])).truncated[0]


def test_team_rewards() -> None:
    for reward, value in (("sum", 4), ("mean", 2)):
        env = made(1, reward=reward)
        env.reset()
        assert env.step(np.array([[0, 0]])).reward.tolist() == [value]


def test_closing_closes_all() -> None:
    env = made(3)
    env.close()
    assert all(inner.closed for inner in env.envs)  # type: ignore[attr-defined]


def test_bad_input() -> None:
    with pytest.raises(ConfigError, match="horizon"):
        made(1, horizon=0)
    with pytest.raises(ConfigError, match="num_envs"):
        made(0)
    with pytest.raises(ConfigError, match="per_agent, mean, sum"):
        made(1, reward="max")

    def missing() -> Any:
        return importlib.import_module("no_such_package_of_games")

    with pytest.raises(PluginError, match=r'-m pip install "no_such_package_of_games"'):
        from_parallel_env(missing, 1, task="own/x", horizon=1)

    class Endless(Countdown):
        def action_space(self, agent: str) -> spaces.Space[Any]:
            return spaces.Box(-np.inf, np.inf, (2,))

    class Mixed(Countdown):
        def action_space(self, agent: str) -> spaces.Space[Any]:
            return spaces.Box(-1, 1, (2,)) if agent == "left" else spaces.Discrete(2)

    class Texts(Countdown):
        def observation_space(self, agent: str) -> spaces.Space[Any]:
            return spaces.Text(5)

    for broken, text in ((Endless, "finite bounds"), (Mixed, "some continuous"), (Texts, "of type Text")):
        with pytest.raises(SpecError, match=text):
            from_parallel_env(broken, 1, task="own/x", horizon=1)
    env = made(2, kind="continuous")
    env.reset()
    with pytest.raises(SpecError, match="agent 1 in copy 0 is not finite"):
        env.step(np.array([[[0, 0], [np.nan, 0]]] * 2, np.float32))
    with pytest.raises(SpecError, match="shape"):
        env.step(np.zeros((2, 2)))


# The document ------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the document's two modules, which marlzoo is told about."""
    meeting, _, pursuit, *_ = blocks("python")
    (tmp_path / "meeting.py").write_text(meeting)
    (tmp_path / "pursuit.py").write_text(pursuit)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", "meeting, pursuit")
    monkeypatch.chdir(tmp_path)
    for name in ("meeting", "pursuit"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return tmp_path


@pytest.mark.usefixtures("own")
def test_the_documents_environment_passes_the_battery(tmp_path: Path) -> None:
    assert {"meeting/line", "pursuit/spread"} <= set(task_names())
    names: dict[str, Any] = {}
    exec(blocks("python")[1], names)  # its own test file
    (marked,) = names["test_battery"].pytestmark
    for check in marked.args[1]:
        names["test_battery"](check, tmp_path)


def test_the_documents_commands_run(own: Path) -> None:
    first, *commands = [line[2:] for line in blocks("console")[0].splitlines()]
    settings = dict(word.split("=") for word in shlex.split(first)[1:])
    assert settings == {"PYTHONPATH": ".", "MARLZOO_ENVIRONMENTS": "meeting"}
    for command in commands:
        program, *words = shlex.split(command)
        assert program == "marlzoo"
        done = subprocess.run(
            [sys.executable, "-m", "marlzoo", *words],
            cwd=own,
            env={**os.environ, **settings, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    assert (own / "results" / "train-mappo-meeting-line" / "curve.csv").is_file()


@pytest.mark.usefixtures("own")
def test_the_documents_pettingzoo_environment(tmp_path: Path) -> None:
    pytest.importorskip("mpe2", reason="mpe2 is not installed")
    assert make_env("pursuit/spread", 1).spec == task_spec("pursuit/spread")
    for check in env_battery("pursuit/spread", steps=4, most=150):
        check(tmp_path)


def test_a_family_may_not_take_anothers_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", "elsewhere.games")
    with pytest.raises(PluginError, match=r"'games' is taken by marlzoo\.envs\.games"):
        task_names()
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", "no_such_module_of_mine")
    with pytest.raises(PluginError, match="importing no_such_module_of_mine failed"):
        task_names()
