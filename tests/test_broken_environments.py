"""Environments that break their API end the run as their own fault: one sentence with task, copy, step and remedy."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import Env, spaces

from marlzoo.data.card import Card
from marlzoo.envs._time_limit import call_seconds, time_limit
from marlzoo.envs.base import BatchedEnv, Observation, Step
from marlzoo.envs.games import Game, make
from marlzoo.envs.guard import Guard
from marlzoo.envs.pettingzoo import PettingZooEnv, from_parallel_env
from marlzoo.errors import ConfigError, MarlzooError, SpecError
from marlzoo.modules.policies import Policy
from marlzoo.recording.collect import dataset_of, record
from marlzoo.testing import env_battery
from marlzoo.training.evaluation import evaluate
from tests.broken_environments import NAMES, Sound


class Stays(Sound):
    """Says that everybody has ended and leaves ``agents`` as it is."""

    def step(self, actions: Any) -> Any:
        answer = super().step(actions)
        self.agents = list(NAMES)
        return answer


class Limited(Stays):
    """The same, with a time limit."""

    def step(self, actions: Any) -> Any:
        seen, rewards, terminations, truncations, infos = super().step(actions)
        return seen, rewards, truncations, terminations, infos


def env_of(kind: type[Any], num_envs: int = 1, horizon: int = 20) -> PettingZooEnv:
    return from_parallel_env(
        kind, num_envs, task=f"own/{kind.__name__.lower()}", horizon=horizon, reward="mean"
    )


class Constant(Policy):
    """Action 0 of everybody."""

    def act(self, obs: Any, action_mask: Any = None, random: Any = None) -> Any:
        return torch.zeros(obs.shape[:3], dtype=torch.int64)


def played(env: BatchedEnv) -> Any:
    return evaluate(Constant(), env, seeds=[0])


def test_an_end_that_is_flagged_is_an_end() -> None:
    for kind, terminal in ((Sound, True), (Stays, True), (Limited, False)):
        found = played(env_of(kind, 3))
        assert found.returns.tolist() == [[5.0] * 3], kind
        assert found.lengths.tolist() == [[5] * 3], kind
        env = env_of(kind)
        data = dataset_of(env.spec, record(Constant(), env, 60, seed=0), Card())
        assert data.lengths.tolist() == [5] * 12
        assert (data.terminal.sum(), data.truncated.sum()) == ((12, 0) if terminal else (0, 12))


def test_one_who_is_cut_and_one_who_ends() -> None:
    """Truncated, if somebody was truncated and had not ended."""

    class Half(Stays):
        def step(self, actions: Any) -> Any:
            seen, rewards, ends, _, infos = super().step(actions)
            over = ends["one"]
            return seen, rewards, {"one": over, "two": False}, {"one": over, "two": over}, infos

    env = env_of(Half)
    env.reset()
    steps = [env.step(np.zeros((1, 2), int)) for _ in range(5)]
    assert [bool(s.truncated[0]) for s in steps] == [False] * 4 + [True]
    assert not any(s.terminal[0] for s in steps)


def broken(method: str, change: Callable[[Any], Any]) -> type[Sound]:
    """A sound environment one of whose methods returns something else."""
    sound: Callable[..., Any] = getattr(Sound, method)

    def wrong(self: Sound, *arguments: Any, **named: Any) -> Any:
        return change(sound(self, *arguments, **named))

    return type("Broken", (Sound,), {method: wrong})


def part(number: int, value: Any, agent: str = "two") -> type[Sound]:
    """A step whose part of this number holds another value for one agent (or lacks it: ``del``)."""

    def change(answer: Any) -> Any:
        answer = list(answer)
        answer[number] = {name: v for name, v in answer[number].items() if name != agent}
        if not isinstance(value, str) or value != "del":
            answer[number][agent] = value
        return tuple(answer)

    return broken("step", change)


class OldReset(Sound):
    def reset(self) -> Any:  # type: ignore[override]
        return super().reset()


class Attributes(Sound):
    observation_space = dict.fromkeys(NAMES, spaces.Box(-1, 1, (2,)))  # type: ignore[assignment]


class StateAttribute(Sound):
    state = np.zeros(3)  # type: ignore[assignment]


class Grows(Sound):
    def state(self) -> Any:
        return np.zeros(1 + self.time)


class Nobody(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = []


class NoNames(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = None


class Stranger(Sound):
    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        answer = super().reset(seed)
        self.agents = [*NAMES, "three"]
        return answer


class Raises(Sound):
    def step(self, actions: Any) -> Any:
        if self.time == 2:
            raise ZeroDivisionError("no wheels")
        return super().step(actions)


class Leaves(Sound):
    def step(self, actions: Any) -> Any:
        sys.exit()


class Recurses(Sound):
    def step(self, actions: Any) -> Any:
        return self.step(actions)


class Single(Env[Any, Any]):
    observation_space, action_space = spaces.Box(-1, 1, (2,)), spaces.Discrete(2)


class Turns:
    """Of the AEC API."""

    possible_agents = agents = NAMES
    agent_selection = "one"

    def agent_iter(self) -> None: ...

    def last(self) -> None: ...


MADE: dict[str, tuple[Any, str]] = {
    "old-reset": (OldReset, r"copy 0, reset\): it failed in reset .*seed"),
    "reset-alone": (broken("reset", lambda a: a[0]), r"a dict of 2 entries from reset; .*\(observations, infos\)"),
    "no-infos": (broken("reset", lambda answer: (answer[0], None)), "None as infos"),
    "attributes": (Attributes, r"no method observation_space.*observation_space\(agent\)"),
    "nobody": (Nobody, "no agent in possible_agents"),
    "no-names": (NoNames, "None as possible_agents"),
    "stranger": (Stranger, "the agent 'three', which possible_agents lacks"),
    "state-attribute": (StateAttribute, "an array of shape .* as state; .*a method state"),
    "state-dict": (broken("state", lambda state: {"all": state}), "a dict of 1 entries as state"),
    "nothing": (lambda: None, r"\(NoneType, copy 0\): it is no environment"),
    "gymnasium": (Single, "an environment of a single agent"),
    "aec": (Turns, "AEC API.*turn_based_aec_to_parallel"),
    "missing-observation": (broken("reset", lambda a: ({"one": a[0]["one"]}, a[1])), "no observation of"),
    "fails-at-once": (broken("__init__", lambda _: sys.exit()), r"cannot be made \(SystemExit"),
}  # fmt: skip
STEPPED: dict[str, tuple[Any, str]] = {
    "four-values": (broken("step", lambda answer: answer[:4]), "a tuple of 4 entries from step.*truncations"),
    "wrong-shape": (part(0, np.zeros(3)), "step 1.*3 numbers as observation of 'two'.*shape .2,."),
    "no-observation": (part(0, "del"), "step 1.*no observation of the agent 'two'"),
    "text": (part(0, "there"), "observation of 'two'.*array of numbers"),
    "no-reward": (part(1, None), "None as reward of 'two'|as reward of 'two'"),
    "reward-missing": (part(1, "del"), "no reward of the agent 'two'"),
    "two-rewards": (part(1, [1.0, 2.0]), "as reward of 'two'.*one number"),
    "flags": (part(2, "yes"), "in terminations of 'two'.*True or False"),
    "flags-list": (broken("step", lambda a: (*a[:2], [True], *a[3:])), "a list of 1 entries as terminations"),
    "growing-state": (Grows, "state of 2 entries, 1 before"),
    "raises": (Raises, r"copy 0, step 3\): it failed in step \(ZeroDivisionError: no wheels"),
    "leaves": (Leaves, r"failed in step \(SystemExit"),
    "recurses": (Recurses, r"failed in step \(RecursionError"),
    "nan-reward": (part(1, np.nan), "returned NaN .reward of copy 0 at step 1"),
    "nan-observation": (part(0, np.array([np.inf, 0.0])), "returned infinity .observation of copy 0 at step 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_what_is_no_parallel_environment_is_refused(name: str) -> None:
    factory, text = MADE[name]
    with pytest.raises(SpecError, match=text) as found:
        from_parallel_env(factory, 1, task="own/broken", horizon=20)
    assert str(found.value).startswith("own/broken")


@pytest.mark.parametrize("name", STEPPED)
def test_what_a_step_breaks_ends_the_run(name: str) -> None:
    factory, text = STEPPED[name]
    env = from_parallel_env(factory, 1, task="own/broken", horizon=20)
    with pytest.raises(SpecError, match=text):
        played(env)


@pytest.mark.parametrize("name", [*MADE, *STEPPED])
def test_the_battery_names_it(name: str, tmp_path: Path) -> None:
    factory = {**MADE, **STEPPED}[name][0]

    def make(num_envs: int) -> BatchedEnv:
        return from_parallel_env(factory, num_envs, task="own/broken", horizon=20)

    failed = []
    for check in env_battery("own/broken", make, most=60):
        try:
            check(tmp_path)
        except (MarlzooError, AssertionError) as error:
            failed.append(error)
    assert failed
    assert all("own/broken" in str(error) for error in failed if isinstance(error, MarlzooError))


class Twice(Sound):
    def __init__(self) -> None:
        super().__init__()
        self.possible_agents = ["one", "one"]


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        (Twice, "a list of 2 entries as possible_agents.*different names"),
        (broken("reset", lambda answer: (*answer, {})), "a tuple of 3 entries from reset"),
        (broken("observation_space", lambda _: 3), r"a value of type int from observation_space\('one'\)"),
        (part(0, np.zeros(2), agent="three"), "an observation of 'three', which possible_agents lacks"),
        (part(2, [True, False]), "in terminations of 'two'.*True or False"),
        (part(3, 1.0), "in truncations of 'two'.*True or False"),
    ],
)
def test_more_that_the_api_does_not_have(factory: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        played(from_parallel_env(factory, 1, task="own/broken", horizon=20))


def test_flags_that_are_missing_or_both_set() -> None:
    """No flag: nobody has ended. Both: the task has ended it. One who is cut while others go on ends nothing."""

    class Both(Stays):
        def step(self, actions: Any) -> Any:
            seen, rewards, ends, _, infos = super().step(actions)
            return seen, rewards, ends, ends, infos

    class Unflagged(Stays):
        def step(self, actions: Any) -> Any:
            seen, rewards, _, _, infos = super().step(actions)
            return seen, rewards, {}, {}, infos

    class OneCut(Stays):
        def step(self, actions: Any) -> Any:
            seen, rewards, _, _, infos = super().step(actions)
            return seen, rewards, {}, {"one": True}, infos

    for kind, length, terminal in ((Both, 5, True), (Unflagged, 8, False), (OneCut, 8, False)):
        env = env_of(kind, horizon=8)
        env.reset()
        steps = [env.step(np.zeros((1, 2), int)) for _ in range(length)]
        assert [bool(step.terminal[0]) for step in steps] == [False] * (length - 1) + [terminal], kind
        assert [bool(step.truncated[0]) for step in steps] == [False] * (length - 1) + [not terminal], kind


def test_a_reward_in_an_array_of_one_is_a_reward() -> None:
    found = played(env_of(part(1, np.array([3.0]))))
    assert found.returns.tolist() == [[10.0]]


class Hangs(Sound):
    """Waits in its third step, whatever is raised, for something that never comes."""

    def step(self, actions: Any) -> Any:
        for _ in range(600 if self.time == 2 else 0):
            with contextlib.suppress(Exception):  # as some simulators do
                time.sleep(0.1)
        return super().step(actions)


@pytest.mark.skipif(sys.platform == "win32", reason="nothing can be interrupted there")
def test_a_call_that_does_not_return_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARLZOO_ENV_SECONDS", "0.3")
    with pytest.raises(SpecError, match=r"copy 0, step 3\): it did not return from step within 0.3 seconds"):
        played(env_of(Hangs))
    with pytest.raises(SpecError, match=r"games/bridge: did not return from step 2 within 0.3 seconds"):
        played(faulty(lambda step: time.sleep(60)))
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL
    monkeypatch.setenv("MARLZOO_ENV_SECONDS", "0")
    with time_limit(call_seconds(), str):
        assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_thread_that_does_not_return_ends_the_process() -> None:
    code = """if True:
        import threading, time
        from marlzoo.envs import _time_limit
        from marlzoo.envs._time_limit import time_limit
        _time_limit._POLL = 0.01
        def called():
            with time_limit(100.0, lambda: "too early"):
                time.sleep(0.2)
            with time_limit(0.1, lambda: "it did not return"):
                time.sleep(60)
        thread = threading.Thread(target=called)
        thread.start()
        thread.join()
    """
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (1, "it did not return\n")


@pytest.mark.parametrize("value", ["soon", "-1", "nan", "inf"])
def test_a_limit_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("MARLZOO_ENV_SECONDS", value)
    with pytest.raises(ConfigError, match=f"MARLZOO_ENV_SECONDS is '{value}'"):
        env_of(Sound)


def test_copies_must_be_different_objects() -> None:
    one = Sound()
    with pytest.raises(SpecError, match="one environment several times"):
        from_parallel_env(lambda: one, 2, task="own/broken", horizon=20)


class Turned(Sound):
    """The agent whose turn it is not has no legal action."""

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.taken: list[Any] = []
        return super().reset(seed)

    def observation_space(self, agent: str) -> Any:
        box = super().observation_space(agent)
        return spaces.Dict({"observation": box, "action_mask": spaces.MultiBinary(2)})

    def seen(self) -> Any:
        turn = NAMES[self.time % 2]
        return {
            agent: {"observation": seen, "action_mask": np.array([0, int(agent == turn)])}
            for agent, seen in super().seen().items()
        }

    def step(self, actions: Any) -> Any:
        self.taken.append(actions)
        return super().step(actions)


def test_an_agent_without_a_legal_action_takes_the_first(tmp_path: Path) -> None:
    env = env_of(Turned)
    seen = env.reset()
    assert seen.action_mask is not None
    assert seen.action_mask[0].tolist() == [[False, True], [True, False]]
    seen = env.step(np.array([[1, 0]]))
    assert env.envs[0].taken == [{"one": 1, "two": 0}]  # type: ignore[attr-defined]
    with pytest.raises(SpecError, match="not legal"):
        env.step(np.array([[1, 0]]))
    for check in env_battery("own/turned", lambda num_envs: env_of(Turned, num_envs), most=60):
        check(tmp_path)


# Environments written for marlzoo ------------------------------------------------------------------------------


class Faulty(Game):
    """A game that does ``fault`` to its second step."""

    may_hang = True

    fault: Callable[[Step], Any]

    def reset(self, ids: Any = None) -> Observation:
        self.calls = 0
        return super().reset(ids)

    def step(self, action: Any, ids: Any = None) -> Step:
        step, self.calls = super().step(action, ids), self.calls + 1
        if self.calls == 2:
            answer: Step = type(self).fault(step)
            return answer
        return step


def faulty(fault: Callable[[Step], Any]) -> Faulty:
    sound = make("bridge", 1, horizon=4)
    kind: Any = type("Kind", (Faulty,), {"fault": staticmethod(fault)})
    made: Faulty = kind("bridge", sound.rules, sound.spec, 2)
    return made


def put(name: str, value: Any) -> Callable[[Step], Step]:
    def change(step: Step) -> Step:
        setattr(step, name, value(getattr(step, name)))
        return step

    return change


def spoil(value: float) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array = array.copy()
        array[1] = value
        return array

    return change


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (put("reward", spoil(np.nan)), r"games/bridge: returned NaN \(reward of copy 1 at step 2\)"),
        (put("obs", spoil(np.inf)), r"returned infinity \(observation of copy 1 at step 2\)"),
        (put("state", spoil(np.nan)), r"returned NaN \(state of copy 1 at step 2\)"),
        (put("obs", lambda a: a[:, :, :-1]), r"obs is float32 of shape \(2, 2, 7\).*\(2, 2, 8\)"),
        (put("state", lambda a: a[:, :-1]), r"state is float32 of shape \(2, 7\).*\(2, 8\)"),
        (put("terminal", lambda a: a.astype(float)), "terminal is float64"),
        (put("action_mask", lambda a: None), "action_mask is NoneType"),
        (put("action_mask", lambda a: np.zeros_like(a)), "agent 0 of copy 0 has no legal action"),
        (
            put("action_mask", lambda a: a & (np.arange(2) < 1)[:, None]),
            "agent 1 of copy 0 has no legal action",
        ),
        (put("info", lambda a: {}), r"info\['win'\] is NoneType"),
        (lambda step: None, "step returned a NoneType, not a Step"),
        (lambda step: sys.exit(), r"step 2 failed \(SystemExit"),
        (lambda step: [][1], r"step 2 failed \(IndexError"),
    ],
)
def test_the_guard_names_the_fault(fault: Any, text: str) -> None:
    with pytest.raises(SpecError, match=text):
        played(faulty(fault))


def test_the_guard_finds_an_episode_without_an_end() -> None:
    class Endless(Game):
        def step(self, action: Any, ids: Any = None) -> Step:
            step = super().step(action, ids)
            step.truncated[:] = False
            return step

    sound = make("bridge", 1, horizon=4)
    guard = Guard(Endless("bridge", sound.rules, sound.spec, 2))
    guard.reset()
    for _ in range(3):
        guard.step(np.zeros((2, 2), int))
    with pytest.raises(SpecError, match="copy 0 did not end at its time limit of 4 steps"):
        guard.step(np.zeros((2, 2), int))
    guard.reset()  # the steps of the next episode count from its own start
    for _ in range(3):
        guard.step(np.zeros((2, 2), int))


def test_the_guard_counts_the_steps_of_each_copy() -> None:
    guard = Guard(make("bridge", 2, horizon=4))
    guard.reset()
    for _ in range(3):
        guard.step(np.zeros((2, 2), int), [0])
    assert guard._time.tolist() == [3, 0]


def test_the_guard_asks_no_choice_of_a_copy_that_was_cut() -> None:
    def cut(step: Step) -> Step:
        step.truncated[:] = True
        assert step.action_mask is not None
        step.action_mask = np.zeros_like(step.action_mask)
        return step

    assert played(faulty(cut)).lengths.tolist() == [[2, 2]]


def test_the_guard_leaves_errors_that_say_what_to_do() -> None:
    def fault(step: Step) -> Step:
        raise ConfigError("say it")

    with pytest.raises(ConfigError, match=r"^say it$"):
        played(faulty(fault))
