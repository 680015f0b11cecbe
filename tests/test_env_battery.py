"""What every environment passes by being registered: the checks are made by listing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marlzoo.envs import games
from marlzoo.envs.base import BatchedEnv, Observation, Step
from marlzoo.envs.games import Game
from marlzoo.errors import MissingExtraError, MissingSimulatorError, SpecError
from marlzoo.registry import family_tasks, task_names
from marlzoo.testing import Check, env_battery
from tests.test_particle import prey_arrays

# Options that keep a family's checks short; a family that is not named here is tested as it is.
ROBOTS, PACKAGES = ("mamujoco", "moma", "gmamujoco"), ("rware", "lbf")
OPTIONS: dict[str, dict[str, Any]] = {
    **{name: {"horizon": 7, "threads": 1} for name in ROBOTS},
    **{name: {"horizon": 7} for name in PACKAGES},
}
PLAY: dict[str, dict[str, int]] = {name: {"steps": 5, "most": 40} for name in (*ROBOTS, *PACKAGES)}


def checks(task: str) -> list[Check]:
    family = task.partition("/")[0]
    if family in PACKAGES and task != family_tasks(family)[0]:
        return []  # tasks of one package differ in sizes alone, and it is slow
    return env_battery(task, **PLAY.get(family, {}), **OPTIONS.get(family, {}))


@pytest.mark.parametrize("check", [check for task in task_names() for check in checks(task)], ids=str)
def test_battery(check: Check, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path))
    if check.name.endswith(("mpe/tag", "mpe/world")):
        scenario, size = ("simple_tag", 14) if check.name.endswith("tag") else ("simple_world", 22)
        (tmp_path / "prey").mkdir()
        np.savez(tmp_path / "prey" / f"{scenario}.npz", **prey_arrays(size))
    try:
        check(tmp_path)
    except (MissingExtraError, MissingSimulatorError) as error:
        pytest.skip(str(error))


class StepsAll(Game):
    """Steps every copy, whatever is asked for."""

    def step(self, action: Any, ids: Any = None) -> Step:
        return super().step(np.where(action < 0, 5, action))


class ResetsAll(Game):
    """Resets every copy, whatever is asked for."""

    def reset(self, ids: Any = None) -> Observation:
        return super().reset()


class OneStream(Game):
    """Starts that depend on the other copies' seeds."""

    def seed(self, seeds: Any) -> None:
        super().seed([sum(seeds)] * self.num_envs)


class Unseeded(Game):
    """Every call goes on with streams of its own: counted, so that the fault shows on every run."""

    calls = 0

    def seed(self, seeds: Any) -> None:
        type(self).calls += 1
        super().seed([len(seeds) * self.calls + k for k in range(len(seeds))])


class BothEnds(Game):
    """Says terminal at the time limit as well."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.terminal |= step.truncated
        return step


class TakesAll(Game):
    """Takes illegal actions."""

    def _checked(self, action: Any, rows: Any) -> Any:
        return np.clip(action, 0, 4)


class Infinite(Game):
    """Pays infinity in the end."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.reward[step.truncated] = np.inf
        return step


class Wider(Game):
    """Shows one entry more than its spec says."""

    def reset(self, ids: Any = None) -> Observation:
        seen = super().reset(ids)
        seen.state = np.pad(seen.state, ((0, 0), (0, 1)))
        return seen


FAULTS = {
    StepsAll: "copies_that_are_not_stepped_stay",
    ResetsAll: "single_copies_are_reset",
    OneStream: "copies_do_not_depend_on_each_other",
    Unseeded: "same_seed_same_episode",
    BothEnds: "time_limit_is_not_terminal",
    TakesAll: "legal_actions",
    Infinite: "random_play_is_finite",
    Wider: "shapes_and_types",
}


@pytest.mark.parametrize("broken", FAULTS, ids=lambda c: c.__name__)
def test_the_battery_finds_faults(broken: type[Game], tmp_path: Path) -> None:
    """On the T-Maze, whose start and first observation are drawn, and of whose actions some are illegal."""

    def make(num_envs: int) -> Game:
        sound = games.make("t-maze", 1)
        return broken("t-maze", sound.rules, sound.spec, num_envs)

    checks = env_battery("games/t-maze", make)
    (check,) = [check for check in checks if check.name == f"{FAULTS[broken]}-games/t-maze"]
    with pytest.raises(AssertionError):
        check(tmp_path)


class Plain(BatchedEnv):
    """Has what must be written, and nothing else."""

    task = "own/plain"

    def seed(self, seeds: Any) -> None: ...

    def reset(self, ids: Any = None) -> Observation:
        return Observation(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.float32))

    def step(self, action: Any, ids: Any = None) -> Step:
        return Step(np.zeros((1, 1, 1), np.float32), np.zeros((1, 1), np.float32))


def test_an_environment_claims_nothing_by_itself() -> None:
    plain = Plain()
    assert (plain.can_win, plain.replayable, plain.state_replayable) == (False, False, False)
    assert plain.may_hang
    assert (dict(plain.states_elsewhere), plain.exact_versions) == ({}, ())
    zeros = np.zeros((1, 1), np.float32)
    for call, text in (
        (lambda: plain.replay(zeros, zeros), "transitions cannot be replayed"),
        (lambda: plain.replay_states(zeros, zeros), "states cannot be replayed"),
        (lambda: plain.render(0, 8, 8), "cannot be drawn"),
    ):
        with pytest.raises(SpecError, match=f"^own/plain: .*{text}"):
            call()
    plain.close()
    assert plain.reset().action_mask is None
    step = plain.step(zeros)
    for array, kind in ((step.reward, np.float32), (step.terminal, np.bool_), (step.truncated, np.bool_)):
        assert array.size == 0
        assert array.dtype == kind
    assert step.info == {}
    for name in ("seed", "reset", "step"):
        left_out = type("LeftOut", (Plain,), {name: getattr(BatchedEnv, name)})
        with pytest.raises(TypeError, match=f"abstract method '?{name}"):
            left_out()
