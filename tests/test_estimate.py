"""What a suite still costs: sums, shares and tables by hand, from rates that are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from marlzoo.benchmarks import estimate
from marlzoo.benchmarks.estimate import Cost, Rate
from marlzoo.benchmarks.suites import Data, Learner, Suite

from marlzoo.errors import ConfigError, MissingExtraError
from marlzoo.families import task_spec
from marlzoo.spec import Spec
from tests.toys import toy_spec

ONE = Data("games/xor", "D1")
OTHER = Data("games/xor", "D3", updates=12)
BC = Learner("bc", {"hidden": 8})
SUITE = Suite(
    "unit",
    (ONE, OTHER),
    (BC,),
    seeds=(0, 1),
    updates=7,
    eval_every=3,
    episodes=2,
    final_episodes=5,
    horizon=4,
)


def test_hours_are_those_of_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "cores", lambda: 4)
    assert estimate.in_hours(7200.0) == 0.5
    assert Cost(ONE, True, 0, seconds={"a": 3600.0, "": 10800.0}).hours == 1.0


def test_a_learners_runs_are_added_up() -> None:
    spec = task_spec("games/xor")
    rate = Rate(update=2.0, step=0.5, checkpoint=10)
    runs: list[Any] = [object()] * 2
    cost = Cost(ONE, True, 0)
    estimate._add(cost, SUITE, BC, runs, rate, spec)
    # 7 updates; after 3, 6 and 7 two episodes and at last five, of four steps.
    assert cost.seconds == {"bc hidden=8": 2 * (7 * 2.0 + (3 * 2 + 5) * 4 * 0.5)}
    assert cost.checkpoints == 20
    long = Cost(OTHER, True, 0)
    estimate._add(long, replace(SUITE, horizon=0), BC, runs[:1], rate, replace(spec, horizon=9))
    assert long.seconds == {"bc hidden=8": 12 * 2.0 + (4 * 2 + 5) * 9 * 0.5}
    assert long.checkpoints == 10


def test_learners_of_one_method_are_measured_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def measure(suite: Suite, learner: Learner, task: str, data: Data, spec: Spec) -> Rate:
        asked.append(f"{learner.variant} on {task}")
        return Rate(1.0, float(len(asked)), 10)

    monkeypatch.setattr(estimate, "measure", measure)
    pair = (BC, Learner("bc", {"hidden": 16}))
    hopper = Data("mamujoco/hopper-3x1", "random", transitions=50)
    suite = replace(SUITE, learners=pair, data=(ONE, hopper))
    first, made = estimate.costs(suite, tmp_path)
    assert asked == [f"hidden={n} on {task}" for task in ("games/xor", hopper.task) for n in (8, 16)]
    assert first.missing == made.missing == {"bc hidden=8": 2, "bc hidden=16": 2}
    assert (first.runs, first.bytes, first.there) == (4, 0, True)
    assert (made.there, made.seconds[""]) == (False, 50 * 3.0)  # the quickest measured on that task


def test_what_is_not_here_is_named_beside_what_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset to fetch, a simulator to install: nothing is measured twice, and no hours are made up."""
    asked: list[str] = []

    def measure(suite: Suite, learner: Learner, task: str, data: Data, spec: Spec) -> Rate:
        asked.append(f"{learner.method} on {task}")
        if task.startswith("smax"):
            raise MissingExtraError("jax", "smax", task)
        return Rate(3600.0, 0.0, 10)

    monkeypatch.setattr(estimate, "measure", measure)
    monkeypatch.setattr(estimate, "cores", lambda: 1)
    published = Data("mamujoco/hopper-3x1", "expert", source="omiga")
    unknown = Data("mamujoco/hopper-3x1", "expert", source="mine")
    smax = Data("smax/3m", "poor", transitions=50)
    data = (published, replace(published, quality="medium"), unknown, smax, replace(smax, quality="good"))
    suite = replace(SUITE, data=data, learners=(Learner("bc"), Learner("icq")), updates=1)
    found = estimate.costs(suite, tmp_path)
    assert asked == [f"{method} on mamujoco/hopper-3x1" for method in ("bc", "icq")] + ["bc on smax/3m"]
    assert [(cost.there, cost.runs, sum(cost.missing.values()), cost.hours) for cost in found] == [
        (False, 4, 4, 4.0), (False, 4, 4, 4.0), (False, 4, 4, 4.0), (False, 4, 4, 0.0), (False, 4, 4, 0.0),
    ]  # fmt: skip
    assert all("" not in cost.seconds for cost in found[:3])  # nobody can make them
    sheet, learners = estimate.sheets(suite, found)
    assert [line[1:] for line in sheet.body] == [
        *[["missing", "4 of 4", "4.00"]] * 3, *[["to make, 0 MB", "4 of 4", "?"]] * 2,
    ]  # fmt: skip
    assert sheet.notes[0].endswith("MB of disk, without those marked ?.")
    assert learners.body == [["bc", "10", "6.00"], ["icq", "10", "6.00"]]
    fetch, mine, install = estimate.lacking(found)
    assert fetch == "To fetch: marlzoo data download " + " ".join(
        f"mamujoco/hopper-3x1/omiga/{quality}" for quality in ("expert", "medium")
    )
    assert mine.startswith("mamujoco/hopper-3x1/mine/expert: there is no such dataset; looked for")
    assert install.startswith("smax/3m needs the package 'jax', which is not installed. Install it with:")
    with pytest.raises(ConfigError, match="'unit': nothing can be trained yet: marlzoo data download"):
        estimate.suite_within(suite, found, 9.0)
    here = Cost(ONE, True, 0, seconds={"bc": 1.0})
    assert estimate.suite_within(replace(suite, data=(*data, ONE)), [*found, here], 9.0) == (
        replace(suite, data=(ONE,)), found,
    )  # fmt: skip
    both = Data("smax/3m", "good", source="omiga")
    (cost,) = estimate.costs(replace(suite, data=(both,), learners=(Learner("bc"),)), tmp_path)
    assert [text[:40] for text in cost.lacks] == [
        "smax/3m/omiga/good: there is no such dat", "smax/3m needs the package 'jax', which i",
    ]  # fmt: skip
    sheet, learners = estimate.sheets(suite, [cost])
    assert (sheet.body[0][1:], learners.body) == (["missing", "2 of 2", "?"], [["bc", "2", "?"]])


def test_a_preset_is_measured_as_it_is_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def make(method: str, spec: Spec, *, seeds: Any, preset: str | None = None, **settings: Any) -> Any:
        asked.append(preset)
        raise InterruptedError

    monkeypatch.setattr(estimate, "make", make)
    for learner in (Learner("icq", preset="recurrent"), Learner("icq")):
        with pytest.raises(InterruptedError):
            estimate.measure(SUITE, learner, "games/xor", ONE, task_spec("games/xor"))
    assert asked == ["recurrent", None]


def test_hours_too_few_to_show() -> None:
    assert [estimate.shown_hours(hours) for hours in (0.0, 0.004, 0.006, 2.0)] == [
        "0.00",
        "<0.01",
        "0.01",
        "2.00",
    ]


def test_the_cheapest_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "cores", lambda: 1)
    third = Data("games/xor", "D2")
    suite = replace(SUITE, data=(ONE, OTHER, third))
    hours = (3.0, 1.0, 2.0)
    pairs = zip(suite.data, hours, strict=True)
    costs = [Cost(data, True, 0, seconds={"bc": 3600 * each}) for data, each in pairs]
    part, left = estimate.suite_within(suite, costs, 3.5)
    assert (part.data, [cost.data for cost in left]) == ((OTHER, third), [ONE])
    assert estimate.suite_within(suite, costs, 6.0) == (suite, [])
    with pytest.raises(ConfigError, match="the cheapest dataset, games/xor D3, needs about 1 hours"):
        estimate.suite_within(suite, costs, 0.5)


def test_the_plan_as_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "cores", lambda: 2)
    there = Cost(ONE, True, 10**9, 4, {"bc": 1, "omiga": 2}, {"bc": 7200.0, "omiga": 14400.0}, 2 * 10**6)
    to_make = Cost(Data(file="a.h5"), False, 5 * 10**6, 4, {"bc": 2}, {"bc": 3600.0, "": 3600.0}, 10**6)
    done = Cost(OTHER, True, 0, 2, {"bc": 0}, {"bc": 0.0})
    assert estimate.sheets(SUITE, [done])[0].body == [["games/xor D3", "there", "0 of 2", "0.00"]]
    data, learners = estimate.sheets(SUITE, [there, to_make])
    assert data.body == [
        ["games/xor D1", "there", "3 of 4", "3.00"],
        ["a.h5", "to make, 5 MB", "2 of 4", "1.00"],
    ]
    assert data.notes[0] == "8 runs, 5 missing: about 4.00 hours on this machine's 2 cores and 8 MB of disk."
    assert learners.body == [["bc", "3", "1.50"], ["omiga", "2", "2.00"]]


def test_bytes_of_a_transition() -> None:
    spec = toy_spec()
    n, floats = spec.n_agents, 4
    wanted = floats * (n * spec.obs_size + spec.state_size + n * spec.action_size + 1) + 2
    assert estimate.row_bytes(spec) == wanted


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_random_numbers_of_a_tasks_shape(kind: Any) -> None:
    spec = replace(toy_spec(kind), action_sizes=(2, 1, 2), action_size=2, horizon=6, reward_per_agent=True)
    data = estimate.rehearsal(spec)
    assert (data.episodes, data.transitions) == (2, 12)
    assert np.flatnonzero(data.terminal).tolist() == [5, 12]
    assert data.reward.shape == (14, 3)
    if spec.discrete:
        assert not data.action[:, 1].any()
        assert data.action[:, 0].any()
        assert data.action_mask is not None
        np.testing.assert_array_equal(data.action_mask[0], [[1, 1], [1, 0], [1, 1]])
    else:
        taken = data.action[data.sources]
        assert not taken[:, 1, 1].any()
        assert taken[:, [0, 2]].all()
        assert taken[:, 1, 0].all()


def test_what_is_measured_is_of_one_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that moves by a second with each look: an update of all seeds takes 1, the episodes 1."""
    made: dict[str, Any] = {}

    class Environment:
        def close(self) -> None:
            made["closed"] = True

    state = {"a": np.zeros(10, np.float32), "b": np.zeros(5, np.float64)}
    algorithm = SimpleNamespace(policy=lambda: None, seeds=(0, 1, 2), state_tensors=lambda: state)

    def make_env(task: str, num_envs: int) -> Environment:
        made["num_envs"] = num_envs
        return Environment()

    ticks = iter(range(100))
    monkeypatch.setattr(estimate, "make", lambda *given, **settings: algorithm)
    monkeypatch.setattr(estimate, "make_env", make_env)
    monkeypatch.setattr(estimate.time, "process_time", lambda: float(next(ticks)))
    lengths = np.full((3, 2), 5)
    monkeypatch.setattr(estimate, "evaluate", lambda *given, **options: SimpleNamespace(lengths=lengths))
    monkeypatch.setattr(estimate, "_update", lambda *given: 6.0)
    suite = replace(SUITE, seeds=(0, 1, 2))
    rate = estimate.measure(suite, BC, "games/xor", ONE, task_spec("games/xor"))
    assert (rate.update, rate.step, rate.checkpoint) == (2.0, 1 / 30, 80 // 3)
    assert made == {"num_envs": 63, "closed": True}


def test_updates_are_timed_until_they_took_long_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    sampler = SimpleNamespace(next=lambda: None)
    from marlzoo.training import trainer

    def update(batch: Any) -> None:
        now[0] += 0.25

    monkeypatch.setattr(trainer, "prepare", lambda *given: None)
    monkeypatch.setattr(trainer, "make_sampler", lambda *given: sampler)
    monkeypatch.setattr(estimate.time, "process_time", lambda: now[0])
    monkeypatch.setattr(estimate, "SECONDS", 1.0)
    algorithm: Any = SimpleNamespace(update=update)
    data: Any = None
    assert estimate._update(algorithm, data) == 0.25
    assert now[0] == 1.25  # four, after a first one that does not count
