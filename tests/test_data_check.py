"""Data against environment: agreement of what belongs together, refusal of what does not."""

from __future__ import annotations

import functools
import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.check import Errors, check, rows_to_check
from marlzoo.data.dataset import Dataset
from marlzoo.data.decentralized import APART
from marlzoo.envs.base import BatchedEnv, Floats, Resimulation
from marlzoo.errors import MismatchError
from marlzoo.families import make_env, option_defaults
from tests.data_samples import CARD, SPEC, Point, record


@functools.cache
def plain() -> Dataset:
    """Episodes of the point; made once, and left as they are."""
    return record(Point())


def test_data_agree_with_their_own_environment() -> None:
    dataset = plain()
    report = check(dataset, Point())
    assert report.agrees
    assert report.compared == dataset.transitions - report.skipped
    assert report.observation is not None
    assert report.reward is not None
    assert report.observation.max == report.reward.max == report.terminal_mismatches == 0
    report.raise_on_mismatch()
    assert "data and environment agree" in report.summary()
    assert json.loads(json.dumps(report.to_dict()))["agrees"] is True


def test_error_statistics() -> None:
    errors = Errors.of(np.arange(101, dtype=np.float32))
    assert (errors.median, errors.p95, errors.max) == (50, 95, 100)
    assert Errors.of(np.array([0.0, np.nan])).max == np.inf


def test_the_sample_is_drawn_from_transitions_and_repeats() -> None:
    dataset = plain()
    rows = rows_to_check(dataset, 100, np.random.default_rng(0))
    assert len(rows) <= 100
    assert len(np.unique(rows)) == len(rows)
    assert np.isin(rows, dataset.sources).all()
    assert np.isin(dataset.ends - 1, rows).sum() >= 10
    np.testing.assert_array_equal(rows, rows_to_check(dataset, 100, np.random.default_rng(0)))
    assert len(rows_to_check(dataset, 10**9, np.random.default_rng(0))) == dataset.transitions


def test_a_variant_of_the_task_is_compared_by_what_it_holds() -> None:
    """A published name may leave open which observations its data have."""
    dataset = plain()
    assert check(dataset, Point(task="toy/point-obsk0")).agrees
    assert "task: toy/point != toy/pointer" in failure(dataset, Point(task="toy/pointer"))


def failure(dataset: Dataset, env: BatchedEnv, **options: Any) -> str:
    """The one line that refuses the pair."""
    with pytest.raises(MismatchError) as caught:
        check(dataset, env, **options).raise_on_mismatch()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sizes_task_and_properties_are_compared_and_both_sides_named() -> None:
    dataset = plain()
    text = failure(dataset, Point(gain=0.7))
    assert "Data: toy/point/tests/random, toy 1, 2 agents" in text
    assert "Environment: toy/point, 2 agents" in text
    assert "gain: 0.5 != 0.7" in text
    assert "task: toy/point != toy/line" in failure(dataset, Point(task="toy/line"))
    assert "horizon: 50 != 60" in failure(dataset, Point(spec=replace(SPEC, horizon=60)))
    assert "n_agents: 2 != 3" in failure(dataset, Point(spec=Spec3))


Spec3 = replace(SPEC, n_agents=3, state_size=9, obs_sizes=(), action_sizes=())


def test_options_of_a_foreign_environment_are_compared() -> None:
    """Where neither shape nor properties tell, the recording does; data that were not recorded here do not."""

    def differences(recipe: dict[str, Any] | None, **given: Any) -> tuple[str, ...]:
        env = Point()
        env.options = given
        return check(plain().with_card(replace(CARD, recipe=recipe)), env).differences

    assert differences({"env": {"places": 6}}, places=10) == ("option places: 6 != 10",)
    assert differences({"env": {"places": 6}}) == ("option places: 6 != None",)
    assert differences({"env": {"corners": [0, 1]}}, corners=(0, 1)) == ()
    without: list[dict[str, Any]] = [{"env": {}}, {"policy": "uniform"}, {"teacher": "hash"}]
    for recorded in without:
        assert differences(recorded, places=10) == ("option places: None != 10",)
    for unknown in (None, {"checkpoint": "hash", "policy": "bc"}):
        assert differences(unknown, places=10) == ()
    # What the environment states as a property is compared as one.
    assert differences({"env": {"gain": "half"}}, gain="a half") == ()


def test_this_packages_own_environments_tell_by_properties_what_depends_on_options() -> None:
    """A file's other place, for instance, makes no other environment."""
    card = replace(CARD, task="mpe/spread", recipe={"env": {"prey": "there.pt"}})
    env = Point(task="mpe/spread")
    env.options = {"prey": "here.pt"}
    assert check(plain().with_card(card), env).agrees


def test_an_option_of_its_usual_value_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it is written down or not, on either side."""
    monkeypatch.setattr("marlzoo.data.check.option_defaults", {"toy/point": {"places": 10}}.__getitem__)
    usual = {"places": 10}
    none: dict[str, int] = {}
    for recorded, given in ((none, usual), (usual, none)):
        env = Point()
        env.options = given
        assert check(plain().with_card(replace(CARD, recipe={"env": recorded})), env).agrees
        env.options = given | {"places": 6}
        assert not check(plain().with_card(replace(CARD, recipe={"env": recorded})), env).agrees


def test_options_are_those_that_the_environment_was_made_with() -> None:
    assert make_env("mamujoco/hopper-3x1", 1, action_mapping="concat").options == {"action_mapping": "concat"}
    assert option_defaults("mamujoco/hopper-3x1")["action_mapping"] == "concat"
    assert "num_envs" not in option_defaults("mamujoco/hopper-3x1")  # every environment gets it
    assert option_defaults("nowhere/known") == {}


def test_versions_are_noted_and_fail_where_they_must_be_exact() -> None:
    dataset = record(Point(), card=replace(CARD, options={"engine_version": "1.1.0"}))
    report = check(dataset, Point())
    assert report.agrees
    assert report.notes == ("versions differ, engine_version: 1.1.0 != 1.2.0",)
    env = Point()
    env.exact_versions = ("engine_version",)
    report = check(dataset, env)
    assert not report.agrees
    assert "engine_version: 1.1.0 != 1.2.0 (versions with other rules)" in report.failures[0]


def undeclared(dataset: Dataset, **changes: Any) -> Dataset:
    """The dataset with nothing said about its environment, and some arrays replaced."""
    return replace(dataset, card=Card(), **changes)


def test_other_physics_fail_although_nothing_was_declared() -> None:
    dataset = undeclared(plain())
    text = failure(dataset, Point(gain=0.52))
    assert "Replayed transitions end elsewhere" in text
    assert "another simulator version" in text
    assert check(dataset, Point(gain=0.500001)).agrees


def test_changed_actions_rewards_and_ends_fail() -> None:
    dataset = plain()
    noise = np.random.default_rng(0).normal(0, 0.1, dataset.action.shape).astype(np.float32)
    assert "end elsewhere" in failure(undeclared(dataset, action=dataset.action + noise), Point())
    text = failure(undeclared(dataset, reward=dataset.reward * np.float32(1.5)), Point())
    assert "the rewards do not" in text
    text = failure(undeclared(dataset, terminal=np.zeros_like(dataset.terminal)), Point())
    assert "terminal on one side only" in text


def test_a_few_wild_rows_do_not_fail() -> None:
    dataset = plain()
    obs = dataset.obs.copy()
    obs[dataset.sources[::50] + 1] += 1
    report = check(undeclared(dataset, obs=obs, state=obs.reshape(len(obs), -1)), Point())
    assert report.agrees
    assert report.observation is not None
    assert report.observation.max == pytest.approx(1, rel=1e-3)


def test_rewards_of_clipped_actions_are_left_out() -> None:
    env = Point()
    dataset = record(env)
    over = dataset.action.copy()
    over[dataset.sources] *= 3
    paid = env.replay(dataset.obs, over).reward
    moved = replace(dataset, action=over.clip(-1, 1), reward=paid, card=replace(CARD, clipped=7))
    exact = _Recorded(dataset)
    report = check(moved, exact)
    assert report.agrees
    assert "clipped actions were left out" in report.notes[0]
    assert not check(replace(moved, card=CARD), exact).agrees


class _Recorded(Point):
    """A simulator that clips actions, as MuJoCo does, so that the recorded successors stay true."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self._next = {row.tobytes(): after for row, after in pairwise(dataset.obs)}

    def replay(self, obs: Floats, action: NDArray[Any]) -> Resimulation:
        after = np.stack([self._next[row.tobytes()] for row in obs])
        return replace(super().replay(obs, action), next_obs=after, terminal=after[:, 0, 0] > 2)


def test_time_limits_read_as_terminals_do_not_count_as_mismatches() -> None:
    dataset = record(Point(), episodes=60)
    assert dataset.truncated.sum() > 3
    report = check(dataset.timeouts_as_terminals(), Point())
    assert report.terminal_mismatches == 0
    assert report.agrees


def test_unrecoverable_states() -> None:
    dataset = plain()
    obs = dataset.obs.copy()
    obs[:40] += 100
    report = check(undeclared(dataset, obs=obs, state=obs.reshape(len(obs), -1)), Point())
    assert report.skipped > 0
    assert report.compared > 0
    far = undeclared(dataset, obs=obs + 100, state=(obs + 100).reshape(len(obs), -1))
    assert "None of" in failure(far, Point())


def test_simulators_that_cannot_replay_are_compared_by_properties_only() -> None:
    env = Point()
    env.replayable = False
    report = check(plain(), env)
    assert report.agrees
    assert report.compared == 0
    assert "cannot replay" in report.notes[0]
    assert "nothing was replayed" in check(plain(), Point(), sample=0).notes[0]


def test_each_bound_counts_by_itself() -> None:
    dataset = undeclared(plain())
    found = check(dataset, Point(gain=0.505))
    assert found.observation is not None
    assert found.observation.p95 < 1e-2
    assert not found.agrees  # for its median
    obs = dataset.obs.copy()
    obs[dataset.sources[::12] + 1] += 1
    found = check(replace(dataset, obs=obs, state=obs.reshape(len(obs), -1)), Point())
    assert found.observation is not None
    assert found.observation.median == 0
    assert not found.agrees  # for its 95th percentile
    early = _Early(dataset)
    inner = np.setdiff1d(dataset.sources, dataset.ends - 1)
    assert 0.01 < early.replay(dataset.obs[inner], dataset.action[inner]).terminal.mean() < 0.05
    assert "terminal on one side only" in failure(dataset, early)


class _Early(Point):
    """Also ends episodes in states that the data go on from."""

    def __init__(self, dataset: Dataset) -> None:
        super().__init__()
        self._bound = np.quantile(dataset.obs[dataset.sources + 1, 0, 2], 0.97)

    def replay(self, obs: Floats, action: NDArray[Any]) -> Resimulation:
        found = super().replay(obs, action)
        return replace(found, terminal=found.terminal | (found.next_obs[:, 0, 2] > self._bound))


def test_rewards_per_agent_are_compared_by_their_mean() -> None:
    spec, team = replace(SPEC, reward_per_agent=True), plain()
    reward = team.reward[:, None] + np.array([[1, -1]], np.float32)
    report = check(replace(team, spec=spec, reward=reward), Point(spec=spec))
    assert report.agrees
    assert report.reward is not None
    assert report.reward.max < 1e-6


class _Agents(Point):
    """Names its agents, and keeps what it was asked to replay."""

    def __init__(self) -> None:
        super().__init__()
        self.metadata |= {"agents": ["a", "b"], "goals": (1, 2)}
        self.asked: list[bytes] = []

    def replay(self, obs: Floats, action: NDArray[Any]) -> Resimulation:
        self.asked.append(obs.tobytes())
        return super().replay(obs, action)

    def replay_states(self, state: Floats, action: NDArray[Any]) -> Resimulation:
        if not state.any():
            raise MismatchError("these states are none")
        self.asked.append(b"states")
        return super().replay(state.reshape(len(state), 2, 3), action)


def test_agents_are_compared_by_name() -> None:
    dataset, env = record(Point(), episodes=5), _Agents()
    for names, text in (
        (["b", "a"], r"agents: b, a != a, b \(another order: .* agents=a,b\)"),
        (["a", "c"], r"agents: a, c != a, b \(data != environment\)"),
    ):
        with pytest.raises(MismatchError, match=text):
            check(replace(dataset, card=replace(CARD, options={"agents": names})), env).raise_on_mismatch()
    for names in (["a", "b"], ["agent_0", "agent_1"]):
        options = {"agents": names, "goals": [1, 2]}
        assert check(replace(dataset, card=replace(CARD, options=options)), env).agrees


def test_what_is_replayed_is_drawn_by_the_seed_from_observations_or_states() -> None:
    dataset, env = plain(), _Agents()
    for seed in (0, 0, 1):
        assert check(dataset, env, sample=30, seed=seed).compared > 0
    assert env.asked[0] == env.asked[1] != env.asked[2]
    env.replayable, env.state_replayable = False, True
    assert check(dataset, env, sample=30).compared > 0
    assert env.asked[3:] == [b"states"]
    assert "these states are none." in failure(replace(dataset, state=np.zeros_like(dataset.state)), env)
    apart = replace(dataset, card=replace(CARD, options={APART: True}))
    report = check(apart, env)
    assert report.compared == 0
    assert "agents recorded apart from each other" in report.notes[0]


# ---- the real simulator ----------------------------------------------------------------------------------


def recorded(task: str, episodes: int, declared: bool = True, **options: Any) -> tuple[Dataset, BatchedEnv]:
    env = make_env(task, 1, threads=1, **options)
    card = Card(task, "tests", "random", options=dict(env.metadata)) if declared else Card()
    return record(env, episodes, card=card), env


def test_hopper_data_agree_within_float32() -> None:
    dataset, env = recorded("mamujoco/hopper-3x1", 20)
    report = check(dataset, env)
    assert report.agrees
    assert report.compared > 300
    assert report.observation is not None
    assert report.observation.median < 1e-6
    assert report.observation.p95 < 1e-5
    assert report.terminal_mismatches == 0


def test_perturbed_hopper_actions_fail() -> None:
    dataset, env = recorded("mamujoco/hopper-3x1", 20)
    noise = np.random.default_rng(0).normal(0, 0.05, dataset.action.shape).astype(np.float32)
    changed = (dataset.action + noise).clip(-1, 1)
    assert "end elsewhere" in failure(replace(dataset, action=changed), env)


def test_data_of_another_robot_fail() -> None:
    dataset, _ = recorded("mamujoco/walker2d-6x1", 10, declared=False)
    cheetah = make_env("mamujoco/halfcheetah-6x1", 1, threads=1)
    assert dataset.spec.differences(cheetah.spec) == []  # the shapes alone would let it pass
    assert "Environment: mamujoco/halfcheetah-6x1" in failure(dataset, cheetah)
    declared, _ = recorded("mamujoco/hopper-3x1", 2)
    assert "task: mamujoco/hopper-3x1 != mamujoco/halfcheetah-6x1" in failure(declared, cheetah)


def test_the_order_of_actions_is_found_out() -> None:
    dataset, _ = recorded("mamujoco/ant-2x4", 5, declared=False, action_mapping="scatter")
    env = make_env("mamujoco/ant-2x4", 1, threads=1)
    text = failure(dataset, env, sample=200)
    assert "with action_mapping='scatter' instead of 'concat' they agree" in text
    declared = replace(dataset, card=Card("mamujoco/ant-2x4", options={"action_mapping": "scatter"}))
    assert "action_mapping: scatter != concat" in failure(declared, env)
    assert check(declared, make_env("mamujoco/ant-2x4", 1, threads=1, action_mapping="scatter")).agrees


def test_the_unmodified_current_engine_fails() -> None:
    """Random actions on the current engine's own compilation of the same file, standardized as OMIGA's."""
    mujoco = pytest.importorskip("mujoco")
    from marlzoo.envs._standardized import standardize

    dataset, env = recorded("mamujoco/hopper-3x1", 20, declared=False)
    model = mujoco.MjModel.from_xml_path(_asset("hopper.xml"))
    data, rows = mujoco.MjData(model), dataset.sources
    raw = np.zeros((dataset.rows, 11))
    rng = np.random.default_rng(0)
    for start, end in zip(dataset.starts, dataset.ends, strict=True):
        mujoco.mj_resetData(model, data)
        data.qpos[:] += rng.uniform(-5e-3, 5e-3, model.nq)
        for row in range(start, end + 1):
            raw[row] = np.concatenate([data.qpos[1:], data.qvel.clip(-10, 10)])
            data.ctrl[:] = dataset.action[row, :, 0]
            mujoco.mj_step(model, data, 4)
    obs = standardize(raw, 3)
    modern = replace(dataset, obs=obs, state=obs.reshape(len(obs), -1))
    assert rows.size > 300
    assert "another simulator version" in failure(modern, env)


def _asset(name: str) -> str:
    from pathlib import Path

    import gymnasium

    return str(Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / name)
