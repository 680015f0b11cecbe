"""What a suite is going to train and what that costs; what cannot be trained is found before any work."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks import estimate, plan, sources
from marlzoo.benchmarks.split import cores
from marlzoo.benchmarks.suites import Data, Learner

from marlzoo.cli import main
from marlzoo.errors import ConfigError, DataError, SpecError, UnknownNameError
from marlzoo.families import task_spec
from tests.recordings import HOPPER, uniform_recording
from tests.suite_runs import SMALL, run, scores, suite_of


def test_settings_of_suite_data_and_learner(tmp_path: Path) -> None:
    """The nearest one wins; a setting that a method lacks is no fault, one that no method has is."""
    entry = Data("games/xor", "D1", config={"lr": 0.2, "tau": 0.3})
    suite = suite_of(data=(entry,), learners=(Learner("bc", {"lr": 0.3}),), config={"lr": 0.1, "hidden": 4})
    assert plan.settings(suite, suite.learners[0], entry) == {"lr": 0.3, "hidden": 4}
    assert plan.settings(suite, Learner("bc"), entry) == {"lr": 0.2, "hidden": 4}
    assert plan.settings(suite, Learner("iql"), entry)["tau"] == 0.3
    plan.validate(suite)
    with pytest.raises(UnknownNameError, match=r"hiden.*Did you mean hidden"):
        plan.validate(replace(suite, config={"hiden": 3}))


def test_methods_that_do_not_fit_are_refused_or_left_out_where_that_is_said(tmp_path: Path) -> None:
    both = (Data("games/xor", "D1"), Data("games/two-peaks", "peaks"))
    suite = suite_of(data=both, learners=(Learner("bc", SMALL), Learner("iql_cql", SMALL)))
    with pytest.raises(
        SpecError, match="iql_cql handles discrete actions, but games/two-peaks has continuous"
    ):
        run(suite, tmp_path)
    assert not list(tmp_path.iterdir())
    suite = replace(suite, learners=(suite.learners[0], replace(suite.learners[1], where_possible=True)))
    run(suite, tmp_path)
    assert {key[:2] for key in scores(tmp_path)} == {("bc", "D1"), ("bc", "peaks"), ("iql_cql", "D1")}


@pytest.mark.parametrize(
    ("learner", "message"),
    [
        ('{ method = "madt", config = { reward_mode = "reward" } }', "madt .*reward_mode is 'reward'"),
        (
            '{ method = "moma_ppo", config = { model_updates = 9 } }',
            "moma_ppo .*: 5 updates end before the stage",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_found_before_any_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], learner: str, message: str
) -> None:
    (tmp_path / "own.toml").write_text(
        f'updates = 5\nseeds = [0]\nlearners = ["bc", {learner}]\n'
        '[[data]]\ntask = "games/iterated-coordination"\nquality = "mix"\n'
    )
    assert main(["bench", str(tmp_path / "own.toml"), "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert re.search(f"suite 'own', {message}", said), said
    assert not list(tmp_path.glob("out/**/rows.csv"))
    assert not list(tmp_path.glob("out/**/*.npz"))


def test_qualities_without_a_recipe_are_mixed_or_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def collected(
        task: str,
        quality: str,
        transitions: int,
        seed: int,
        target: Path,
        *_: Any,
        env: Mapping[str, Any],
        force: bool,
    ) -> None:
        assert not env
        assert force, "what is in the folder of a benchmark is its own"
        uniform_recording(target, quality, seed=int(quality == "random"), transitions=transitions)

    monkeypatch.setattr(sources, "collect", collected)
    data = Data(HOPPER, "expert-random", transitions=40)
    made = sources.obtain(data, tmp_path, lambda done, total: None)
    assert (made.quality, made.load().card.quality) == ("expert-random", "expert-random")
    names = {file.name for file in tmp_path.rglob("*.hdf5")}
    assert names == {f"{quality}-n40-s0.hdf5" for quality in ("expert", "random", "expert-random")}
    assert 20 <= made.load().transitions <= 60
    wrong = suite_of(data=(Data(HOPPER, "random"), Data(HOPPER, "medim")))
    with pytest.raises(UnknownNameError, match=r"quality of mamujoco.*'medim'\. Did you mean medium"):
        run(wrong, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"learners": (Learner("omga"),)}, UnknownNameError, "Did you mean omiga"),
        ({"learners": (Learner("bc", {"hiden": 3}),)}, UnknownNameError, "Did you mean hidden"),
        ({"learners": (Learner("bc", {"lr": -1.0}),)}, ConfigError, "lr"),
        ({"learners": (Learner("mappo"),)}, SpecError, "learns online"),
        ({"data": (Data("mamujoco/hoper-3x1", "expert"),)}, UnknownNameError, "hopper-3x1"),
        ({"data": (Data(file="missing.hdf5"),)}, DataError, "missing.hdf5"),
        (
            {"data": (Data(HOPPER, "random"), Data(HOPPER, "expert", source="omiga"))},
            DataError,
            "no such dataset",
        ),
        (
            {"data": (Data(HOPPER, "random"), Data("games/xor", "D9"))},
            UnknownNameError,
            "quality of games/xor 'D9'",
        ),
    ],
)
def test_wrong_names_end_the_run_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    error: type[Exception],
    message: str,
) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    with pytest.raises(error, match=message):
        run(suite_of(Path("unused"), **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_evaluation_and_settings_enter_the_configuration_hash() -> None:
    suite, learner = suite_of(Path("unused")), Learner("bc", SMALL)
    entry = Data(HOPPER, "medium")
    base = plan.config_hash(suite, learner, HOPPER, entry)
    assert base == plan.config_hash(suite, Learner("bc", dict(reversed(SMALL.items()))), HOPPER, entry)
    others = {
        plan.config_hash(replace(suite, horizon=7), learner, HOPPER, entry),
        plan.config_hash(suite, Learner("bc", SMALL | {"lr": 1e-3}), HOPPER, entry),
        plan.config_hash(suite, learner, HOPPER, replace(entry, env={"action_mapping": "scatter"})),
    }
    assert len(others | {base}) == 4


def test_the_plan_counts_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "measure", lambda *_: estimate.Rate(update=2.0, step=1.0, checkpoint=10))
    data = (
        Data("games/xor", "D1"),
        Data("games/xor", "D3", updates=12),
        Data(HOPPER, "random", transitions=50),
    )
    suite = suite_of(data=data, final_episodes=3)
    run(replace(suite, data=data[:1], seeds=(0,)), tmp_path)
    one, three, hopper = estimate.costs(suite, tmp_path)
    assert [(c.runs, sum(c.missing.values()), c.there) for c in (one, three, hopper)] == [
        (2, 1, True), (2, 2, True), (2, 2, False),
    ]  # fmt: skip
    # Updates at 2 s; evaluations of 2 episodes and at last 3, of 5 steps at most, at 1 s a step.
    assert one.seconds == {"bc batch_size=8, hidden=8": 6 * 2 + (2 * 2 + 3) * 5}
    assert three.hours == pytest.approx(2 * (12 * 2 + (4 * 2 + 3) * 5) / 3600 / cores())
    assert hopper.seconds[""] == 50.0
    assert one.checkpoints == 10
    assert hopper.bytes == 50 * (4 * (3 * (14 + 1) + 42 + 1) + 2)
    text = str([[*sheet.body, sheet.notes] for sheet in estimate.sheets(suite, [one, three, hopper])])
    assert "6 runs, 5 missing" in text
    part, left = estimate.suite_within(suite, [one, three, hopper], (one.hours + hopper.hours) * 1.01)
    assert (part.data, [cost.data for cost in left]) == ((data[0], data[2]), [data[1]])
    with pytest.raises(ConfigError, match="games/xor D1, needs about"):
        estimate.suite_within(suite, [one, three, hopper], one.hours / 2)
    run(replace(suite, data=data[:1]), tmp_path)
    monkeypatch.setattr(estimate, "measure", lambda *_: pytest.fail("measured although nothing is missing"))
    (one,) = estimate.costs(replace(suite, data=data[:1]), tmp_path)
    assert (one.runs, one.missing, one.hours) == (2, {"bc batch_size=8, hidden=8": 0}, 0.0)
    monkeypatch.setattr(estimate, "measure", lambda *_: estimate.Rate(update=2.0, step=1.0, checkpoint=10))
    (one,) = estimate.costs(replace(suite, data=data[:1]), tmp_path, rerun=["bc"])
    assert one.missing == {"bc batch_size=8, hidden=8": 2}


@pytest.mark.parametrize("task", ["games/xor", "games/two-peaks", "mpe/spread"])
def test_costs_are_measured_on_the_tasks_shape(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "SECONDS", 0.0)
    entry, suite = Data(task, "D1"), suite_of(Path("unused"))
    for method in ("bc", "icq"):
        learner = Learner(method, SMALL)
        rate = estimate.measure(suite, learner, task, entry, task_spec(task))
        assert min(rate.update, rate.step, rate.checkpoint) > 0
