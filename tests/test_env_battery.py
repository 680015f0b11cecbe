"""What every environment passes by being registered: the checks are made by listing."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marlzoo.envs import games
from marlzoo.envs.base import BatchedEnv, Observation, Step
from marlzoo.envs.games import Game
from marlzoo.errors import MissingExtraError, MissingSimulatorError, SpecError
from marlzoo.families import family_tasks, task_names
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


def unstepped(env: Game, ids: Any) -> Any:
    """The copies beside some; none where all or none are named."""
    some = np.arange(env.num_envs) if ids is None or len(ids) == 0 else ids
    return np.setdiff1d(np.arange(env.num_envs), some)


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
    """Pays one copy infinity in the end."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        if step.truncated[0]:
            step.reward[0] = np.inf
        return step


class Wider(Game):
    """Shows one entry more than its spec says."""

    def reset(self, ids: Any = None) -> Observation:
        seen = super().reset(ids)
        seen.state = np.pad(seen.state, ((0, 0), (0, 1)))
        return seen


class OtherName(Game):
    """Has another name than it was asked for by."""

    def __init__(self, name: str, *given: Any) -> None:
        super().__init__(name, *given)
        self.task = "games/other"


class OtherNumber(Game):
    """Makes one copy too many."""

    def __init__(self, name: str, rules: Any, shape: Any, num_envs: int) -> None:
        super().__init__(name, rules, shape, num_envs + 1)


class OtherShape(Game):
    """Has another time limit than is listed."""

    def __init__(self, name: str, rules: Any, shape: Any, num_envs: int) -> None:
        super().__init__(name, rules, replace(shape, horizon=shape.horizon + num_envs), num_envs)


class Unstated(Game):
    """Has properties that no card can state."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.metadata = {"rules": np.zeros(3)}


class Precise(Game):
    """Pays in another type."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        return replace(step, reward=step.reward.astype(np.float64))


class Counting(Game):
    """Flags ends by numbers."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        return replace(step, truncated=step.truncated.astype(np.int8))


class PerAgent(Game):
    """Pays every agent where its spec says that the team is paid."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        return replace(step, reward=np.repeat(step.reward[:, None], 2, 1))


class Telling(Game):
    """Tells more values than there are copies."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        return replace(step, info={**step.info, "more": np.zeros(self.num_envs + 1)})


class Padded(Game):
    """Shows something where an agent has nothing to see."""

    def __init__(self, name: str, rules: Any, shape: Any, num_envs: int) -> None:
        super().__init__(name, rules, replace(shape, obs_sizes=(11, 10)), num_envs)

    def reset(self, ids: Any = None) -> Observation:
        seen = super().reset(ids)
        seen.obs[:, 1, 10] = 1
        return seen


class Beyond(Game):
    """Offers an action that an agent does not have."""

    def __init__(self, name: str, rules: Any, shape: Any, num_envs: int) -> None:
        super().__init__(name, rules, replace(shape, action_sizes=(7, 6)), num_envs)

    def reset(self, ids: Any = None) -> Observation:
        seen = super().reset(ids)
        assert seen.action_mask is not None
        seen.action_mask[:, 1, 6] = True
        return seen


class SeesNaN(Game):
    """Shows a number that is none after a reset."""

    def reset(self, ids: Any = None) -> Observation:
        seen = super().reset(ids)
        seen.state[-1, 0] = np.nan
        return seen


class GoesOn(Game):
    """Seeding again does not begin again."""

    def seed(self, seeds: Any) -> None:
        before = getattr(self, "_episode", None)
        super().seed(seeds)
        if before is not None:
            self._episode = before


class ByPlace(Game):
    """A copy's start depends on its index."""

    def seed(self, seeds: Any) -> None:
        super().seed([seed + 5 * place for place, seed in enumerate(seeds)])


class Stuck(Game):
    """Offers the last agent nothing, and takes what it then does."""

    def _shown(self) -> Any:
        obs, state, mask = super()._shown()
        assert mask is not None
        mask[-1, 1] = False
        return obs, state, mask

    def _checked(self, action: Any, rows: Any) -> Any:
        mask = self.rules.action_mask(self._state[rows])
        assert mask is not None
        action = np.asarray(action).copy()
        last = (np.asarray(rows) == self.num_envs - 1) & (action[:, 1] == 0)
        action[:, 1] = np.where(last, mask[:, 1].argmax(-1), action[:, 1])
        return super()._checked(action, rows)


class Ignores(Game):
    """Does nothing where an action is illegal."""

    def step(self, action: Any, ids: Any = None) -> Step:
        try:
            return super().step(action, ids)
        except SpecError:
            return super().step(action, np.array([], np.intp))


class PerObject(Game):
    """Every object has streams of its own."""

    made = 0

    def __init__(self, *given: Any) -> None:
        type(self).made += 1
        self.number = self.made
        super().__init__(*given)

    def seed(self, seeds: Any) -> None:
        super().seed([seed + 5 * self.number for seed in seeds])


class Wraps(Game):
    """Counts actions from the other end where they are negative."""

    def _checked(self, action: Any, rows: Any) -> Any:
        return super()._checked(
            np.where(np.asarray(action) < 0, action % self.spec.action_size, action), rows
        )


class LooksAtAll(Game):
    """Looks at the actions of copies that are not stepped."""

    def step(self, action: Any, ids: Any = None) -> Step:
        if (np.asarray(action) < 0).any() and ids is not None:
            raise AssertionError("an action of a copy that is not stepped was looked at")
        return super().step(action, ids)


class TellsMore(PerObject):
    """Every second object tells more than the others."""

    def seed(self, seeds: Any) -> None:
        Game.seed(self, seeds)

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        more = {"more": np.zeros(self.num_envs)} if self.number % 2 == 0 else {}
        return replace(step, info={**step.info, **more})


class Hurried(Game):
    """A step of no copies moves one."""

    def step(self, action: Any, ids: Any = None) -> Step:
        none = ids is not None and len(ids) == 0
        step = super().step(action, ids)
        if none:
            step.obs[0, 0, 0] += 1
        return step


class Generous(Game):
    """Pays copies that are not stepped."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.reward[unstepped(self, ids)] += 1
        return step


class PaysNone(Game):
    """Pays where no copy is stepped."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.reward += float(ids is not None and len(ids) == 0)
        return step


class ShowsUnstepped(Game):
    """Copies that are not stepped are shown otherwise, and stay as they were."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.obs[unstepped(self, ids)] += 1
        return step


class EndsAll(Game):
    """Ends copies that are not stepped."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.terminal[unstepped(self, ids)] = True
        return step


class EndsNone(Game):
    """Ends copies where none is stepped."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.truncated |= ids is not None and len(ids) == 0
        return step


class Ticking(Game):
    """Clocks run where nothing is stepped."""

    def step(self, action: Any, ids: Any = None) -> Step:
        self._time += 0 if ids is None else 1
        if ids is not None:
            self._time[ids] -= 1
        return super().step(action, ids)


class EndsEarly(Game):
    """The time limit comes a step early."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._early = self.spec.horizon - 1

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.truncated |= (self._time == self._early) & ~step.terminal
        return step


class EndsLate(Game):
    """Goes on beyond the time limit for a step, which then ends the task."""

    def step(self, action: Any, ids: Any = None) -> Step:
        stated = self.spec
        self.spec = replace(stated, horizon=stated.horizon + 1)
        try:
            step = super().step(action, ids)
        finally:
            self.spec = stated
        return replace(step, terminal=step.terminal | step.truncated, truncated=np.zeros_like(step.truncated))


class PaysSome(Game):
    """Pays more where not all copies are stepped, the second among them."""

    place = 1

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.reward[self.place] += len(unstepped(self, ids)) > 0 and self.place in ids
        return step


class PaysFirst(PaysSome):
    """Pays more where not all copies are stepped, the first among them."""

    place = 0


class NeverEnds(Game):
    """Neither a goal nor the time limit ends it."""

    def step(self, action: Any, ids: Any = None) -> Step:
        step = super().step(action, ids)
        step.truncated[:] = step.terminal[:] = False
        return step


class ShowsOthers(Game):
    """Where some are reset, the others are shown otherwise, and go on as they were."""

    def reset(self, ids: Any = None) -> Observation:
        seen = super().reset(ids)
        seen.obs[unstepped(self, ids)] += 1
        return seen


class ResetsOthers(Game):
    """Where some are reset, the others begin anew with their next step."""

    def reset(self, ids: Any = None) -> Observation:
        seen = super().reset(ids)
        others = unstepped(self, ids)
        if len(others):
            self._state[others] = self.rules.start(np.full(len(others), 0.9))
        return seen


FAULTS = {
    StepsAll: "copies_that_are_not_stepped_stay",
    Generous: "copies_that_are_not_stepped_stay",
    PaysSome: "copies_that_are_not_stepped_stay",
    PaysFirst: "copies_that_are_not_stepped_stay",
    LooksAtAll: "copies_that_are_not_stepped_stay",
    PaysNone: "copies_that_are_not_stepped_stay",
    EndsNone: "copies_that_are_not_stepped_stay",
    ShowsUnstepped: "copies_that_are_not_stepped_stay",
    EndsAll: "copies_that_are_not_stepped_stay",
    ResetsAll: "single_copies_are_reset",
    ShowsOthers: "single_copies_are_reset",
    ResetsOthers: "single_copies_are_reset",
    OneStream: "copies_do_not_depend_on_each_other",
    ByPlace: "copies_do_not_depend_on_each_other",
    Unseeded: "same_seed_same_episode",
    PerObject: "same_seed_same_episode",
    TellsMore: "same_seed_same_episode",
    GoesOn: "same_seed_same_episode",
    BothEnds: "time_limit_is_not_terminal",
    EndsEarly: "time_limit_is_not_terminal",
    EndsLate: "time_limit_is_not_terminal",
    NeverEnds: "time_limit_is_not_terminal",
    Ticking: "time_limit_is_not_terminal",
    TakesAll: "legal_actions",
    Stuck: "legal_actions",
    Ignores: "legal_actions",
    Wraps: "legal_actions",
    Hurried: "legal_actions",
    Infinite: "random_play_is_finite",
    Wider: "shapes_and_types",
    Precise: "shapes_and_types",
    Counting: "shapes_and_types",
    PerAgent: "shapes_and_types",
    Telling: "shapes_and_types",
    Padded: "shapes_and_types",
    Beyond: "shapes_and_types",
    SeesNaN: "shapes_and_types",
    OtherName: "spec_is_the_listed_one",
    OtherNumber: "spec_is_the_listed_one",
    OtherShape: "spec_is_the_listed_one",
}


@pytest.mark.parametrize("broken", FAULTS, ids=lambda c: c.__name__)
def test_the_battery_finds_faults(broken: type[Game], tmp_path: Path) -> None:
    """On the T-Maze, whose start and first observation are drawn, and of whose actions some are illegal."""

    def make(num_envs: int) -> Game:
        sound = games.make("t-maze", 1)
        return broken("t-maze", sound.rules, sound.spec, num_envs)

    checks = env_battery("games/t-maze", make)
    (check,) = [check for check in checks if check.name == f"{FAULTS[broken]}-games/t-maze"]
    with pytest.raises((AssertionError, SpecError)):
        check(tmp_path)


class Unequal(Game):
    """Sound, with a second agent that sees and can do less."""

    def __init__(self, name: str, rules: Any, shape: Any, num_envs: int) -> None:
        super().__init__(name, rules, replace(shape, obs_sizes=(11, 10), action_sizes=(7, 6)), num_envs)

    def _shown(self) -> Any:
        obs, state, mask = super()._shown()
        assert mask is not None
        obs[:, 1, 10], mask[:, 1, 6] = 0, False
        obs[:, 0, 10], mask[:, 1, 0] = 1, True
        return obs, state, mask

    def _checked(self, action: Any, rows: Any) -> Any:
        return np.zeros_like(action) + 5


def test_agents_may_differ_in_size(tmp_path: Path) -> None:
    sound = games.make("t-maze", 1)
    checks = env_battery("games/t-maze", lambda copies: Unequal("t-maze", sound.rules, sound.spec, copies))
    checks[1](tmp_path)


def test_metadata_are_plain_values(tmp_path: Path) -> None:
    sound = games.make("t-maze", 1)
    checks = env_battery("games/t-maze", lambda copies: Unstated("t-maze", sound.rules, sound.spec, copies))
    with pytest.raises(TypeError, match="JSON"):
        checks[0](tmp_path)


def test_random_play_must_end(tmp_path: Path) -> None:
    """Where the time limit leaves room for the episodes that are asked for."""
    sound = games.make("t-maze", 1)

    def played(broken: type[Game], most: int) -> None:
        checks = env_battery(
            "games/t-maze", lambda copies: broken("t-maze", sound.rules, sound.spec, copies), most=most
        )
        checks[-1](tmp_path)

    played(Game, 1200)
    played(NeverEnds, 12 * 4 - 1)  # twelve episodes of twelve steps in four copies, and the rest of one
    with pytest.raises(AssertionError, match="0 episodes ended within 48 steps"):
        played(NeverEnds, 12 * 4)


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
        (
            lambda: plain.render(0, 8, 8),
            r"cannot be drawn: its class Plain has no method render\(index, width, height\),.*own_environment\.md",
        ),
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
