"""The plan of a suite: what identifies a run, which rows make it done, and which runs train together."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from marlzoo.benchmarks import plan, sources
from marlzoo.benchmarks.estimate import costs
from marlzoo.benchmarks.plan import Group, Run
from marlzoo.benchmarks.results import Row
from marlzoo.benchmarks.row import RUN
from marlzoo.benchmarks.runner import run_suite
from marlzoo.benchmarks.sources import Source
from marlzoo.benchmarks.suites import EVERY, Data, Learner, Suite

import marlzoo
from marlzoo.errors import ConfigError, DataError, PluginError, SpecError, UnknownNameError
from marlzoo.families import task_spec
from marlzoo.recording import recipes
from marlzoo.registry import find_method, find_methods, make
from tests.test_results import ROW

HOPPER, XOR = "mamujoco/hopper-3x1", "games/xor"
SMALL: dict[str, Any] = {"hidden": 8, "batch_size": 8}


def suite_of(**changes: Any) -> Suite:
    values: dict[str, Any] = {
        "name": "unit",
        "data": (Data(XOR, "D1"),),
        "learners": (Learner("bc", SMALL),),
        "seeds": (0, 1),
        "updates": 6,
        "episodes": 2,
    }
    return Suite(**values | changes)


def source(entry: Data, content: str = "") -> Source:
    """A dataset that nobody opens."""
    content = content or f"hash of {entry.quality}"
    return Source(entry, "unused", entry.task, entry.source, entry.quality, content, 0.0)


def runs_of(suite: Suite) -> list[Run]:
    return plan.runs_of(suite, [source(data) for data in suite.data])


def row_of(run: Run, suite: Suite, **changes: Any) -> Row:
    """The row that says that a run is done."""
    names = run.names(suite)
    last = {"episodes": suite.episodes, "updates": suite.updates_on(run.source.entry)}
    return replace(ROW, **{**names, **last, "error": "", **changes})


# ---- what identifies a run -------------------------------------------------------------------------------


def test_a_presets_settings_are_part_of_the_configuration() -> None:
    suite, entry = suite_of(), Data(HOPPER, "medium")
    preset = dict(find_method("icq").presets["mamujoco"])
    plain = plan.config_hash(suite, Learner("icq"), HOPPER, entry)
    assert plain == plan.config_hash(suite, Learner("icq", preset), HOPPER, entry)
    assert plain != plan.config_hash(suite, Learner("icq"), "", entry)
    bf16 = replace(suite, precision="bf16")
    assert plain != plan.config_hash(bf16, Learner("icq"), HOPPER, entry)
    assert plain != plan.config_hash(suite, Learner("icq"), HOPPER, replace(entry, config={"lr": 0.7}))


def test_a_learner_starts_from_the_preset_that_it_names() -> None:
    suite, entry = suite_of(), Data("smax/3m", "medium")
    other = Learner("icq", {"hidden": 8}, preset="recurrent")
    given = {**find_method("icq").presets["smac-recurrent"], "hidden": 8}
    hashed = plan.config_hash(suite, other, "smax/3m", entry)
    assert hashed == plan.config_hash(suite, Learner("icq", given), "smax/3m", entry)
    assert hashed != plan.config_hash(suite, Learner("icq", {"hidden": 8}), "smax/3m", entry)
    assert other.variant == "hidden=8, preset=recurrent"
    run = Run(source(entry), other, 0, hashed)
    assert plan.full_config(suite, run)["history"] == "rnn"
    with pytest.raises(UnknownNameError, match="unknown preset of ICQ 'recurent'"):
        plan.validate(replace(suite, data=(entry,), learners=(other, replace(other, preset="recurent"))))


def test_learners_of_different_presets_train_apart() -> None:
    """Their numbers could be stacked, but a learner says which preset it started from."""
    entry = Data("smax/3m", "medium")
    learners = (Learner("icq"), Learner("icq", preset="authors"), Learner("icq", preset="defaults"))
    suite = suite_of(data=(entry,), learners=learners, stack_settings=True)
    found = plan.groups(suite, runs_of(suite), 20)
    assert [(group.settings.get("preset"), len(group.runs)) for group in found] == [
        (None, 2), ("authors", 2), ("defaults", 2),
    ]  # fmt: skip
    assert make("icq", found[1].spec, **found[1].settings).preset == "smac-authors"
    same = replace(suite, learners=(Learner("icq"), Learner("icq", preset="smac")))  # one configuration
    files = {group.checkpoint(Path(), same) for group in plan.groups(same, runs_of(same), 20)}
    assert len(files) == 2


def test_a_run_is_done_by_a_row_of_the_same_run_and_no_other() -> None:
    suite = suite_of(data=(Data(XOR, "D1", updates=4),), final_episodes=7)
    run = runs_of(suite)[0]
    done = row_of(run, suite, episodes=7)
    assert plan.finished(suite, [run], [done]) == [(run, done)]
    for change in (
        *({name: f"another {name}"} for name in RUN if name != "seed"),
        {"seed": 5},
        {"episodes": suite.episodes},
        {"updates": suite.updates},
        {"error": "it failed"},
    ):
        assert plan.finished(suite, [run], [replace(done, **change)]) == [], change
    assert (done.task, done.method, done.seed, done.data_hash) == (XOR, "bc", 0, "hash of D1")
    assert done.config_hash == run.config_hash
    assert done.variant == "batch_size=8, hidden=8"
    assert run.name(suite) == done.run != runs_of(suite)[1].name(suite)


def test_runs_come_by_task_then_learner_dataset_and_seed() -> None:
    data = (Data(XOR, "D1"), Data("games/two-peaks", "peaks"), Data(XOR, "D3"))
    learners = (Learner("iql_cql", SMALL, where_possible=True), Learner("bc", SMALL))
    found = runs_of(suite_of(data=data, learners=learners))
    assert [(run.learner.method, run.source.quality, run.seed) for run in found] == [
        (method, quality, seed)
        for method, qualities in (("iql_cql", ("D1", "D3")), ("bc", ("D1", "D3", "peaks")))
        for quality in qualities
        for seed in (0, 1)
    ]


class Rows:
    """Results that hold some rows."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def rows(self) -> list[Row]:
        return self._rows


def test_what_is_pending_is_what_has_no_row() -> None:
    suite = suite_of(data=(Data(XOR, "D1"), Data(XOR, "D3")))
    runs = runs_of(suite)
    results: Any = Rows([row_of(runs[1], suite), row_of(runs[2], suite)])
    sources = [source(data) for data in suite.data]
    assert plan.pending(suite, sources, results) == [runs[0], runs[3]]
    assert len(plan.pending(suite, [source(suite.data[0], "other"), sources[1]], results)) == 3


# ---- what trains together --------------------------------------------------------------------------------


def groups_of(suite: Suite, most: int = 20) -> list[Group]:
    return plan.groups(suite, runs_of(suite), most)


def test_groups_share_task_options_method_settings_and_updates() -> None:
    data = (Data(XOR, "D1"), Data(XOR, "D3"), Data(XOR, "D4", updates=3), Data("games/additive", "uniform"))
    learners = (Learner("bc", SMALL), Learner("bc", {**SMALL, "lr": 0.1}), Learner("iql_cql", SMALL))
    found = groups_of(suite_of(data=data, learners=learners))
    assert len(found) == 9  # three learners on three kinds of data
    assert [(len(group.runs), group.updates) for group in found[:3]] == [(4, 6), (2, 3), (4, 6)]
    assert {run.source.quality for run in found[0].runs} == {"D1", "D3"}
    assert found[-1].task == "games/additive"
    assert found[0].eval_every == 1
    bridges = (Data("games/bridge", "mix"), Data("games/bridge", "mix", env={"horizon": 9}))
    wide = groups_of(suite_of(data=bridges, stack_settings=True))
    assert [dict(group.env) for group in wide] == [{}, {"horizon": 9}]
    assert wide[1].spec.horizon == 9
    assert [len(group.runs) for group in groups_of(suite_of(seeds=(0, 1, 2, 3, 4)), 2)] == [2, 2, 1]


def test_groups_are_even_and_stay_the_same_where_others_are_finished() -> None:
    suite = suite_of(seeds=tuple(range(10)))
    runs = runs_of(suite)
    for count, most, sizes in (
        (4, 3, [2, 2]),
        (10, 4, [4, 3, 3]),
        (7, 3, [3, 2, 2]),
        (3, 5, [3]),
        (6, 3, [3, 3]),
    ):
        made = plan.groups(suite, runs[:count], most)
        assert [len(group.runs) for group in made] == sizes
        assert [run for group in made for run in group.runs] == runs[:count]
        for done in made:
            left = [group.runs for group in made if group is not done]
            rest = plan.groups(suite, [run for group in left for run in group], most)
            assert [group.runs for group in rest] == left


def test_settings_that_are_numbers_may_be_stacked() -> None:
    learners = tuple(
        Learner("bc", {"hidden": hidden, "batch_size": 8, "lr": lr})
        for hidden, lr in ((8, 0.1), (8, 0.2), (4, 0.1))
    )
    suite = suite_of(learners=learners, stack_settings=True)
    first, second = groups_of(suite)
    assert first.settings["lr"] == [0.1, 0.1, 0.2, 0.2]
    assert [first.settings_of(k)["lr"] for k in range(4)] == [0.1, 0.1, 0.2, 0.2]
    assert first.settings_of(2)["hidden"] == 8
    assert [run.seed for run in first.runs] == [0, 1, 0, 1]
    assert dict(first.learner.config) == {"hidden": 8, "batch_size": 8}
    assert (second.settings["lr"], second.settings["hidden"]) == (0.1, 4)
    assert [len(group.runs) for group in groups_of(replace(suite, stack_settings=False))] == [2, 2, 2]


def test_a_state_belongs_to_all_that_decides_a_course() -> None:
    suite = suite_of()
    group = groups_of(suite)[0]
    runs = group.runs

    def name(suite: Suite = suite, **changes: Any) -> str:
        return replace(group, **changes).checkpoint(Path("x"), suite).name

    other = replace(runs[1], source=replace(runs[1].source, hash="other"))
    names = {
        name(),
        name(runs=(runs[0], other)),
        name(runs=(runs[0], replace(runs[1], seed=7))),
        name(runs=(runs[0], replace(runs[1], config_hash="other"))),
        name(runs=runs[:1]),
        name(runs=runs[::-1]),
        name(replace(suite, episodes=3)),
        name(task="games/additive"),
        name(learner=Learner("iql_cql")),
    }
    assert len(names) == 9
    assert name(replace(suite, updates=99)) == name(), "more updates go on from it"
    assert name().startswith("bc-games-xor-")


# ---- what is asked for -----------------------------------------------------------------------------------


def test_every_method_that_fits_some_of_the_data() -> None:
    suite = suite_of(learners=(Learner(EVERY, {"expectile": 0.6, "hidden": 8}), Learner("bc")))
    found = {learner.method: learner for learner in plan.expanded(suite).learners[:-1]}
    methods = {name: find_method(name) for name in find_methods().modules}
    assert set(found) == {
        name for name, cls in methods.items() if cls.sampling != "online" and "discrete" in cls.actions
    }
    assert dict(found["iql"].config) == {"expectile": 0.6, "hidden": 8}
    assert dict(found["bc"].config) == {"hidden": 8}
    assert all(learner.where_possible for learner in found.values())
    assert plan.expanded(suite).learners[-1] == Learner("bc")


def test_wrong_methods_and_qualities_are_found_before_any_work() -> None:
    with pytest.raises(
        SpecError,
        match=r"^suite 'unit': mappo learns online, not from data; train it with: marlzoo train mappo",
    ):
        plan.validate(suite_of(learners=(Learner("mappo"),)))
    with pytest.raises(UnknownNameError, match=r"^suite 'unit': unknown method 'cb'"):
        plan.validate(suite_of(learners=(Learner("cb"),)))
    with pytest.raises(ConfigError, match=r"^suite 'unit': setting 'lr' of BCConfig is -1"):
        plan.validate(suite_of(learners=(Learner("bc", {"lr": -1.0}),)))
    with pytest.raises(
        UnknownNameError, match=r"^suite 'unit': unknown setting 'hiden'. Did you mean hidden"
    ):
        plan.validate(suite_of(config={"alpha": 1.0, "hiden": 3}))
    plan.validate(suite_of(config={"alpha": 1.0}))  # a setting of methods that the suite does not have
    with pytest.raises(UnknownNameError, match=r"^unknown method 'cb'"):
        plan.require_valid(suite_of(learners=(Learner("cb"),)))
    with pytest.raises(UnknownNameError, match=r"quality of games/xor.*D9"):
        plan.validate(suite_of(data=(Data(XOR, "D9"),)))
    with pytest.raises(UnknownNameError, match=r"quality of mamujoco/hopper-3x1.*'expert-medim'"):
        plan.validate(suite_of(data=(Data(HOPPER, "expert-medim"),)))
    assert sources.parts_of(Data(HOPPER, "expert-medium")) == ("expert", "medium")
    assert sources.parts_of(Data(HOPPER, "medium-expert")) == ()  # has a recipe of its own


def test_a_broken_method_breaks_no_suite_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = find_method

    def find(name: str) -> Any:
        if name == "icq":
            raise PluginError("broken")
        return real(name)

    monkeypatch.setattr(plan, "find_method", find)
    plan.validate(suite_of(config={"alpha": 1.0}))
    with pytest.raises(UnknownNameError, match="'alfa'"):
        plan.validate(suite_of(config={"alfa": 1.0}))


def test_where_data_come_from() -> None:
    made = Data(HOPPER, "medium", transitions=40, seed=3)
    assert sources.recipe_file(made, Path("x")) == Path("x", HOPPER, "marlzoo", "medium-n40-s3.hdf5")
    for other in (Data(HOPPER, "medium", source="omiga"), Data(HOPPER, file="a.hdf5"), Data(XOR, "D1")):
        assert sources.recipe_file(other, Path("x")) is None
    assert sources.computed_options(Data("games/bridge", "mix", env={"horizon": 9}, seed=2)) == {
        "horizon": 9,
        "seed": 2,
    }
    assert sources.computed_options(Data(XOR, "D1")) == sources.computed_options(made) == {}
    found = sources.obtain(Data(XOR, "D3", seed=1), Path("unused"), lambda done, total: None)
    assert (found.task, found.source, found.quality, found.transitions) == (XOR, "marlzoo", "D3", 5000)
    assert found.hash == found.load().content_hash != source(Data(XOR, "D3")).hash
    assert found.behavior == found.load().card.mean_return


def test_data_are_regenerated_with_the_options_of_their_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(sources, "present_file", lambda data, folder: None)
    monkeypatch.setattr(sources, "collect", lambda *of, **more: asked.append((of[4], more["env"])))
    monkeypatch.setattr(sources, "read_card", lambda path: pytest.fail("made"))
    entries = [Data("mpe/spread", "random", env={"horizon": h}) for h in (9, 8)]
    for entry in (Data("mpe/spread", "random"), *entries):
        with pytest.raises(pytest.fail.Exception):
            sources.obtain(entry, tmp_path, lambda done, total: None)
    files, envs = zip(*asked, strict=True)
    assert envs == ({}, {"horizon": 9}, {"horizon": 8})
    assert len(set(files)) == 3


def test_what_data_collect_made_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    entry = Data(HOPPER, "random", transitions=40, seed=3)
    folder = tmp_path / "results" / "data"
    assert sources.is_missing(entry, folder)
    collected = marlzoo.data_collect(HOPPER, "random", transitions=40, seed=3)
    assert not sources.is_missing(entry, folder)
    monkeypatch.setattr(sources, "collect", lambda *arguments: pytest.fail("it is there"))
    found = sources.obtain(entry, folder, lambda done, total: None)
    assert found.path == str(collected)
    assert found.hash == found.load().content_hash
    assert not folder.exists()
    for other in (replace(entry, seed=4), replace(entry, transitions=41)):
        assert sources.is_missing(other, folder)
    assert sources.is_missing(replace(entry, env={"flavor": "original"}), folder)
    # Another policy's data, and another seed's, may lie in this place.
    monkeypatch.setattr(recipes, "load_behavior_policy", lambda task: SimpleNamespace(sha256="another"))
    assert sources.is_missing(entry, folder)
    monkeypatch.undo()
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    collected.rename(collected.with_name("random-n40-s5.hdf5"))
    assert sources.is_missing(replace(entry, seed=5), folder)


# ---- data of another shape -------------------------------------------------------------------------------


def own_file(
    place: Path, *, task: str = "games/xor", obs_size: int = 1, steps: int = 1, actions: int = 2
) -> Path:
    """A file of two agents; as it is by default it fits XOR."""
    episode = {
        "obs": np.ones((steps + 1, 2, obs_size)),
        "state": np.ones((steps + 1, 1 if task else 2)),
        "action": np.zeros((steps, 2), int),
        "reward": np.ones(steps),
        "terminal": True,
    }
    marlzoo.save_dataset(marlzoo.Dataset.from_episodes([episode] * 3, task=task, n_actions=actions), place)
    return place


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        (
            {"obs_size": 2},
            r"obs_size: 1 != 2; obs_sizes: .* \(left: the task's, right: the data's\); name the task",
        ),
        ({"steps": 3}, r"horizon: 1 != 3 .*marlzoo data convert FILE NEW.*horizon=50"),
        ({"actions": 3}, "action_size: 2 != 3"),
        ({"task": ""}, "state_size: 1 != 2"),
    ],
)
def test_a_file_of_another_shape_is_found_before_any_work(
    tmp_path: Path, changes: dict[str, Any], cause: str
) -> None:
    file = own_file(tmp_path / "mine.hdf5", **changes)
    mine = suite_of(
        data=(Data("games/xor", "D1"), Data("games/xor", file=str(file))), learners=(Learner("bc"),)
    )
    said: list[str] = []
    for start in (
        lambda: costs(mine, tmp_path, said.append),
        lambda: run_suite(mine, out=tmp_path),
    ):
        with pytest.raises(DataError, match=rf"^{file}: does not fit the task games/xor: {cause}"):
            start()
    assert said == []  # nothing was measured
    assert not (tmp_path / mine.name).exists()


def test_the_option_with_which_a_task_has_the_shape_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = own_file(tmp_path / "mine.hdf5", obs_size=2)
    monkeypatch.setattr(sources, "fitting_options", lambda task, shape: {"flavor": "wide"})
    with pytest.raises(
        DataError, match=r'with env = \{ flavor = "wide" \} in the suite \(--env flavor=wide\)'
    ):
        sources.obtain(Data("games/xor", file=str(file)), tmp_path, lambda done, total: None)


def test_a_reward_of_the_team_for_a_task_with_one_per_agent(tmp_path: Path) -> None:
    shape = task_spec("mpe/spread")
    steps = (25, shape.n_agents)
    episode = {
        "obs": np.zeros((26, shape.n_agents, shape.obs_size)),
        "action": np.zeros((*steps, shape.action_size)),
        "reward": np.ones(25),
    }
    data = marlzoo.Dataset.from_episodes([episode], task="mpe/spread", horizon=25)
    marlzoo.save_dataset(data, tmp_path / "team.hdf5")
    entry = Data("mpe/spread", file=str(tmp_path / "team.hdf5"))
    with pytest.raises(
        DataError, match=r"reward_per_agent: True != False .*np\.repeat\(reward\[:, None\], 3"
    ):
        sources.obtain(entry, tmp_path, lambda done, total: None)


def test_a_file_that_states_its_shape_is_not_read_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("was read")

    wrong = own_file(tmp_path / "wrong.hdf5", steps=3)
    right = own_file(tmp_path / "right.hdf5")
    monkeypatch.setattr(sources, "load_dataset", read)
    with pytest.raises(DataError, match="horizon: 1 != 3"):
        sources.obtain(Data("games/xor", file=str(wrong)), tmp_path, lambda done, total: None)
    assert (
        sources.obtain(Data("games/xor", file=str(right)), tmp_path, lambda done, total: None).task
        == "games/xor"
    )


def test_arrays_that_show_less_than_their_task_has_fit_it(tmp_path: Path) -> None:
    """Without a header neither time limit nor all actions are known; sizes and limit are then the task's."""
    place = tmp_path / "plain.npz"
    np.savez(
        place,
        obs=np.ones((6, 2, 2), np.float32),
        next_obs=np.ones((6, 2, 2), np.float32),
        action=np.zeros((6, 2), int),
        reward=np.ones(6, np.float32),
        terminal=np.ones(6, bool),
    )
    task = "games/bridge"
    with pytest.raises(DataError, match=r"plain\.npz: does not fit the task games/bridge"):
        sources.obtain(Data(task, file=str(place)), tmp_path, lambda done, total: None)
    shape = task_spec(task)
    rows = (6, shape.n_agents)
    state = np.ones((6, shape.state_size), np.float32)
    np.savez(
        place,
        obs=np.ones((*rows, shape.obs_size), np.float32),
        next_obs=np.ones((*rows, shape.obs_size), np.float32),
        state=state,
        next_state=state,
        action=np.zeros(rows, int),
        reward=np.ones(6, np.float32),
        terminal=np.ones(6, bool),
    )
    found = sources.obtain(Data(task, file=str(place)), tmp_path, lambda done, total: None)
    assert found.load().spec == shape
