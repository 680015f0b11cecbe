"""Recipes of datasets: shares, streams and places, with stand-ins for what plays."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from marlzoo.data.load import load_dataset
from marlzoo.data.names import dataset_path
from marlzoo.errors import ConfigError
from marlzoo.families import task_spec
from marlzoo.modules.policies import UniformPolicy
from marlzoo.recording import recipes
from marlzoo.recording.recipes import collect, is_of_recipe, recipe_path
from marlzoo.recording.replicas import Replica
from marlzoo.replicas import derive
from marlzoo.teachers.store import Snapshot

TASK = "games/xor"


class Played:
    """What was asked of the stand-ins."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.record: list[tuple[Any, int, int]] = []
        self.made: list[Any] = []
        self.closed = 0
        self.metadata = {"engine": "e", "engine_version": "1", "engine_more": "x"}
        self.card: Any = None
        self.spec = task_spec(TASK)
        snapshots = tuple(Snapshot(10 * k, 1000 * k, 1, 0.0, 0.0, 1.0) for k in range(3))
        self.behavior = SimpleNamespace(
            spec=self.spec,
            qualities={"random": (0,), "all": (0, 1, 2), "last": (2,)},
            snapshots=snapshots,
            sha256="cafe",
            command="teach",
            policy=lambda k: f"policy {k}",
        )
        self.names = [TASK]
        monkeypatch.setattr(recipes, "load_behavior_policy", lambda task, folder=None: self.behavior)
        monkeypatch.setattr(recipes, "behavior_policy_names", lambda folder: self.names)
        monkeypatch.setattr(recipes, "make_env", self.make_env)
        monkeypatch.setattr(recipes, "record", self.play)
        monkeypatch.setattr(recipes, "dataset_of", lambda spec, episodes, card: (episodes, card))
        monkeypatch.setattr(recipes, "write_omiga", self.write)

    def make_env(self, task: str, num_envs: int, **options: Any) -> Any:
        self.made.append((task, num_envs, options))
        return self

    def close(self) -> None:
        self.closed += 1

    def play(self, policy: Any, env: Any, share: int, seed: int, progress: Any) -> list[Any]:
        self.record.append((policy, share, seed))
        if progress is not None:
            progress(share)
        return [policy]

    def write(self, made: Any, target: Path) -> None:
        self.episodes, self.card = made


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def streams(seed: int, *names: int | str) -> list[int]:
    return [derive(seed, "collect", TASK, name) for name in names]


def test_stages_share_the_steps(played: Played, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    path = collect(TASK, "all", 11, 5, tmp_path / "a.h5", lambda *steps: told.append(steps))
    assert path == tmp_path / "a.h5"
    assert played.record == [
        (f"policy {k}", share, stream)
        for k, (share, stream) in enumerate(zip((4, 4, 3), streams(5, 0, 10, 20), strict=True))
    ]
    assert told == [(4, 11), (8, 11), (11, 11)]
    assert played.closed == len(played.made) == 3
    assert played.card.recipe["stages"] == [
        {"steps_trained": 1000 * k, "transitions": share} for k, share in enumerate((4, 4, 3))
    ]
    assert played.card.recipe["command"] == (
        "marlzoo data collect games/xor --quality all --transitions 11 --seed 5"
    )
    assert (played.card.engine, played.card.license, played.card.source) == ("e 1", "Apache-2.0", "marlzoo")
    assert played.card.recipe["teacher"] == "cafe"


def test_what_is_there_is_asked_for_before_anything_is_played(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def require_free(*of: Any) -> None:
        asked.append((*of, len(played.record)))

    monkeypatch.setattr(recipes, "require_free", require_free)
    for force in (False, True):
        played.record.clear()
        collect(TASK, "last", 4, 3, tmp_path / "a.h5", force=force)
        assert asked.pop() == (tmp_path / "a.h5", played.card.recipe, force, 0)


def test_random_data_are_of_the_untrained_policy_where_there_is_one(played: Played, tmp_path: Path) -> None:
    collect(TASK, "random", 4, 0, tmp_path / "a.hdf5")
    assert played.record.pop()[0] == "policy 0"
    del played.behavior.qualities["random"]
    collect(TASK, "random", 4, 0, tmp_path / "a.hdf5")
    policy, _, stream = played.record.pop()
    assert type(policy).__name__ == "UniformPolicy"
    assert stream == streams(0, "uniform")[0]
    played.behavior.qualities["random"] = (0,)
    played.names = []
    collect(TASK, "random", 4, 0, tmp_path / "a.hdf5")
    assert type(played.record.pop()[0]).__name__ == "UniformPolicy"
    assert played.card.recipe["policy"] == "uniform"


def test_a_checkpoints_policy_acts(played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    checkpoint = tmp_path / "my team.npz"
    checkpoint.write_bytes(b"weights")
    found = SimpleNamespace(spec=played.spec, method="bc", updates=70, policy="it", task=TASK, env={})

    def load(path: Path, replica: int) -> Any:
        asked.append((path, replica))
        return found

    monkeypatch.setattr(recipes, "load_replica", load)
    collect(TASK, "mine", 4, 0, tmp_path / "a.h5", policy=checkpoint, replica=2)
    assert asked == [(checkpoint, 2)]
    assert played.record == [("it", 4, streams(0, "policy")[0])]
    recipe = played.card.recipe
    assert recipe["command"].endswith(f"--seed 0 --policy '{checkpoint}' --replica 2")
    assert (recipe["policy"], recipe["updates"]) == ("bc", 70)
    assert (played.card.source, played.card.license) == ("own", "")
    collect(TASK, "mine", 4, 0, tmp_path / "a.h5", policy=checkpoint)
    assert "--replica" not in played.card.recipe["command"]
    found.spec = replace(played.spec, obs_size=9, obs_sizes=(9, 9))
    differs = re.escape(found.spec.differences(played.spec)[0])
    with pytest.raises(
        ConfigError, match=f"bc was trained for another task than games/xor: {differs}; .* with --env"
    ):
        collect(TASK, "mine", 4, 0, tmp_path / "a.h5", policy=checkpoint)


def test_a_checkpoints_policy_acts_in_the_environment_that_it_was_trained_for(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tmp_path / "team.npz"
    checkpoint.write_bytes(b"weights")
    task = "games/bridge"
    found = Replica("bc", 70, task_spec(task, horizon=9), UniformPolicy(played.spec), task, {"horizon": 9})
    monkeypatch.setattr(recipes, "load_replica", lambda path, replica: found)
    collect(task, "mine", 4, 0, tmp_path / "a.h5", policy=checkpoint)
    assert played.made.pop()[2] == {"horizon": 9}
    assert played.card.recipe["env"] == {"horizon": 9}
    assert played.card.recipe["command"].endswith("--env horizon=9")
    with pytest.raises(ConfigError, match="bc was trained for another task than games/bridge: horizon"):
        collect(task, "mine", 4, 0, tmp_path / "a.h5", policy=checkpoint, env={"horizon": 8})
    elsewhere = replace(found, task="mine/bridge")
    monkeypatch.setattr(recipes, "load_replica", lambda path, replica: elsewhere)
    with pytest.raises(ConfigError, match="bc was trained for another task than games/bridge: horizon"):
        collect(task, "mine", 4, 0, tmp_path / "a.h5", policy=checkpoint)


def test_places_name_what_is_unusual() -> None:
    name = f"{TASK}/marlzoo/last"
    assert recipe_path(TASK, "last") == dataset_path(name)
    assert recipe_path(TASK, "last", 100, 3) == dataset_path(name, transitions=100, seed=3)
    assert recipe_path(TASK, "last", seed=3) == dataset_path(name, seed=3)
    assert recipe_path(TASK, "last", 100) == dataset_path(name, transitions=100)


def test_what_is_there_is_of_a_recipe_only_with_all_its_arguments(
    played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.h5"
    given: dict[str, Any] = {"task": TASK, "quality": "last", "transitions": 5, "seed": 2}
    assert not is_of_recipe(path, **given)
    path.write_bytes(b"")
    recipe: dict[str, Any] = {**given, "teacher": "cafe"}
    monkeypatch.setattr(recipes, "read_card", lambda path: SimpleNamespace(recipe=recipe))
    assert is_of_recipe(path, **given)
    for name, other in {"task": "games/bridge", "quality": "all", "transitions": 6, "seed": 3}.items():
        assert not is_of_recipe(path, **{**given, name: other}), name
    recipe["teacher"] = "another"
    assert not is_of_recipe(path, **given)
    del recipe["teacher"]
    assert is_of_recipe(path, **given)
    recipe.clear()
    assert not is_of_recipe(path, **given)


def test_counts_and_room(played: Played, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for transitions, least in ((2, 3), (True, 3)):
        with pytest.raises(ConfigError, match=f"must be an integer of at least {least}"):
            collect(TASK, "all", transitions, 0, tmp_path / "a.h5")
    for seed in (-1, True):
        with pytest.raises(ConfigError, match=f"seed is {seed}; it must be an integer of at least 0"):
            collect(TASK, "last", 4, seed, tmp_path / "a.h5")
    with pytest.raises(ConfigError, match=r"end the name in \.hdf5"):
        collect(TASK, "last", 4, 0, tmp_path / "a.npz")
    arrays = played.spec.layout()
    row = sum(array.new(1).nbytes for name, array in arrays.items() if name != "state")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=10 * row))
    collect(TASK, "last", 10, 0, tmp_path / "a.h5")
    with pytest.raises(ConfigError, match="11 transitions take at least"):
        collect(TASK, "last", 11, 0, tmp_path / "a.h5")


def test_options_of_the_environment_are_part_of_a_recipe(tmp_path: Path) -> None:
    path = tmp_path / "a.hdf5"
    for env in ({"horizon": 9}, {"horizon": 9}, {}):  # the same is made again, another one is not lost
        if not env:
            with pytest.raises(ConfigError, match="exists already"):
                collect("games/bridge", "random", 30, path=path)
        else:
            collect("games/bridge", "random", 30, path=path, env=env)
    data = load_dataset(path)
    assert data.spec == task_spec("games/bridge", horizon=9) != task_spec("games/bridge")
    assert data.card.recipe is not None
    assert data.card.recipe["command"].endswith("--transitions 30 --seed 0 --env horizon=9")
    assert is_of_recipe(path, "games/bridge", "random", 30, 0, {"horizon": 9})
    assert not is_of_recipe(path, "games/bridge", "random", 30, 0)
    collect("games/bridge", "random", 30, path=path, force=True)
    assert is_of_recipe(path, "games/bridge", "random", 30, 0)
    assert not is_of_recipe(path, "games/bridge", "random", 30, 0, {"horizon": 9})


def test_a_behavior_policy_acts_in_the_environment_that_was_asked_for(played: Played, tmp_path: Path) -> None:
    played.behavior.spec = task_spec("games/bridge")
    with pytest.raises(
        ConfigError, match=r"made for another shape than --env horizon=9 gives the task: horizon: "
    ):
        collect("games/bridge", "last", 4, 0, tmp_path / "a.h5", env={"horizon": 9})
    played.behavior.spec = task_spec("games/bridge", horizon=9)
    collect("games/bridge", "last", 4, 0, tmp_path / "a.h5", env={"horizon": 9})
    assert played.made.pop()[2] == {"horizon": 9}
    assert played.card.recipe["env"] == {"horizon": 9}
    assert played.card.recipe["command"].endswith("--seed 0 --env horizon=9")
