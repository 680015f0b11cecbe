"""A task's second behavior policy: its own files and qualities, and the first one's data stay what they were."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from marlzoo.cli import main
from marlzoo.data import load
from marlzoo.data.load import load_dataset
from marlzoo.errors import DataError, UnknownNameError
from marlzoo.families import task_spec
from marlzoo.recording import behavior_policies_document as pages
from marlzoo.recording import recipes
from marlzoo.recording.recipes import collect, is_of_recipe
from marlzoo.recording.teach import Options, make_behavior_policy
from marlzoo.registry import make
from marlzoo.system.files import sha256_file
from marlzoo.teachers import offers, qualities, store
from marlzoo.teachers.plans import Plan
from marlzoo.teachers.store import (
    BehaviorPolicy,
    Snapshot,
    behavior_policy_names,
    behavior_policy_path,
    load_behavior_policy,
    save_behavior_policy,
    verify_behavior_policy,
)

TASK = "mpe/spread"
SECOND = f"{TASK}@2"


def behavior(seed: int, level: float) -> BehaviorPolicy:
    spec, config = task_spec(TASK), {"hidden": 8}
    states = [make("mappo", spec, seeds=[seed + k], **config).policy().state_dict() for k in range(2)]
    return BehaviorPolicy(
        task=TASK,
        method="mappo",
        config=config,
        seed=seed,
        spec=spec,
        snapshots=tuple(Snapshot(k, 100 * k, 2, level + k, 0.5, 25.0) for k in range(2)),
        qualities={"random": (0,), "medium": (0,), "medium-expert": (0, 1), "expert": (1,)},
        command="marlzoo data teach mpe/spread",
        versions={},
        sha256="",
        arrays={name: np.concatenate([state[name].numpy() for state in states]) for name in states[0]},
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("teachers")
    save_behavior_policy(behavior(0, 100.0), "seconds\n1\n", place)
    save_behavior_policy(replace(behavior(5, 300.0), version=2), "seconds\n2\n", place)
    return place


def test_each_version_has_files_of_its_own(folder: Path) -> None:
    assert behavior_policy_names(folder) == [TASK, SECOND]
    assert behavior_policy_path(SECOND, folder) == folder / "mpe--spread@2.json"
    first, second = (load_behavior_policy(name, folder) for name in (TASK, SECOND))
    assert (first.task, first.version, first.name, first.seed) == (TASK, 1, TASK, 0)
    assert (second.task, second.version, second.name, second.seed) == (TASK, 2, SECOND, 5)
    verify_behavior_policy(SECOND, folder)
    with pytest.raises(
        DataError, match=r"no behavior policy for mpe/spread@3 \(there are: mpe/spread, mpe/spread@2"
    ):
        load_behavior_policy(f"{TASK}@3", folder)


def test_the_version_is_part_of_the_datas_quality(folder: Path, tmp_path: Path) -> None:
    known = ["random", "medium", "medium-expert", "expert"]
    assert offers.collectable_qualities(TASK, folder) == [*known, *(f"{name}-v2" for name in known)]
    before = tmp_path / "before"
    save_behavior_policy(behavior(0, 100.0), "seconds\n1\n", before)
    files = [
        collect(TASK, quality, 60, path=tmp_path / f"{k}.hdf5", folder=place)
        for k, (quality, place) in enumerate((("expert", before), ("expert", folder), ("expert-v2", folder)))
    ]
    assert sha256_file(files[0]) == sha256_file(files[1]) != sha256_file(files[2])
    data = load_dataset(files[2])
    assert data.card.name == f"{TASK}/marlzoo/expert-v2"
    recipe = data.card.recipe
    assert recipe is not None
    assert recipe["command"] == f"marlzoo data collect {TASK} --quality expert-v2 --transitions 60 --seed 0"
    assert recipe["teacher"] == load_behavior_policy(SECOND, folder).sha256
    other = load_dataset(files[0])
    assert not np.array_equal(data.action, other.action)


def test_random_data_of_the_second_are_its_own_first_snapshot(folder: Path, tmp_path: Path) -> None:
    first, second = (
        load_dataset(collect(TASK, quality, 60, path=tmp_path / f"{quality}.hdf5", folder=folder))
        for quality in ("random", "random-v2")
    )
    assert second.card.recipe is not None
    assert second.card.recipe["teacher"] == load_behavior_policy(SECOND, folder).sha256
    assert not np.array_equal(first.action, second.action)


def test_a_file_is_of_its_recipe_only_by_its_own_behavior_policy(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        recipes, "load_behavior_policy", lambda name, _=None: load_behavior_policy(name, folder)
    )
    for quality in ("expert", "expert-v2"):
        path = collect(TASK, quality, 60, path=tmp_path / f"{quality}.hdf5", folder=folder)
        assert is_of_recipe(path, TASK, quality, 60, 0)
    swapped = {TASK: SECOND, SECOND: TASK}
    monkeypatch.setattr(
        recipes, "load_behavior_policy", lambda name: load_behavior_policy(swapped[name], folder)
    )
    for quality in ("expert", "expert-v2"):
        assert not is_of_recipe(tmp_path / f"{quality}.hdf5", TASK, quality, 60, 0)


@pytest.mark.parametrize("quality", ["expert-v3", "exprt-v2", "expert-v1"])
def test_a_version_that_is_not_there(folder: Path, quality: str) -> None:
    with pytest.raises(UnknownNameError, match=r"expert-v2"):
        collect(TASK, quality, 60, folder=folder)


def test_names_of_versions() -> None:
    assert store.task_and_version(SECOND) == (TASK, 2)
    assert store.task_and_version(TASK) == (TASK, 1)
    assert [store.versioned_name(TASK, version) for version in (1, 2, 12)] == [TASK, SECOND, f"{TASK}@12"]
    for wrong in ("1", "two", "", "0"):
        with pytest.raises(UnknownNameError, match="version of the behavior policy of mpe/spread"):
            store.task_and_version(f"{TASK}@{wrong}")
    pairs = {"expert": ("expert", 1), "medium-expert-v2": ("medium-expert", 2), "good-v10": ("good", 10)}
    for quality, found in pairs.items():
        assert qualities.quality_and_version(quality) == found
        assert qualities.versioned_quality(*found) == quality
    assert qualities.quality_and_version("expert-v1") == ("expert-v1", 1)  # no name of anything


def test_a_second_version_is_collected_where_two_qualities_of_its_name_could_be_mixed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "FOLDER", folder)
    assert load._as_mix(f"{TASK}/marlzoo/medium-expert-v2") == ""
    assert "expert:0.5" in load._as_mix(f"{TASK}/marlzoo/random-expert")
    assert offers.how_to_collect(TASK, "medium-expert-v2-n50") == (
        f"marlzoo data collect {TASK} --quality medium-expert-v2 --transitions 50"
    )


def test_the_page_names_both_and_what_the_second_reached(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"steps": 100}
    plans = {name: Plan(options, published="mpe/spread/omar") for name in (TASK, SECOND)}
    monkeypatch.setattr(pages, "plans", lambda: plans)
    text = pages.document(folder)
    assert "| mpe/spread | expert | 101.0 ± 0.50 | — | 530.9 | mpe/spread/omar/expert |" in text
    assert "| mpe/spread | expert-v2 | 301.0 ± 0.50 | — | 530.9 | mpe/spread/omar/expert |" in text
    below = text.split("## Not reached")[1]
    assert "| mpe/spread@2 | 100 | 301.0 | 530.9 |" in below
    assert "| mpe/spread | 100 |" not in below  # the second is what is left to improve


def test_a_second_one_is_trained_beside_the_first(tmp_path: Path) -> None:
    settings = ("hidden=8", "num_envs=2", "rollout=25", "batch_size=50")
    options = Options(
        "mappo", settings, steps=400, every=1, trial=2, episodes=2, work=tmp_path / "w", out=tmp_path / "o"
    )
    for name in (TASK, SECOND):
        make_behavior_policy(name, options)
    assert behavior_policy_names(tmp_path / "o") == [TASK, SECOND]
    second = load_behavior_policy(SECOND, tmp_path / "o")
    assert (second.task, second.version) == (TASK, 2)
    assert second.command == options.command(SECOND)
    assert len(list((tmp_path / "w").iterdir())) == 2  # trainings of their own


def test_the_command_names_the_data_that_a_second_one_makes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = ["hidden=8", "num_envs=2", "rollout=25", "batch_size=50"]
    sizes = ["--steps", "400", "--every", "1", "--trial", "2", "--episodes", "2"]
    for name, quality in ((TASK, "QUALITY"), (SECOND, "QUALITY-v2")):
        words = ["data", "teach", name, "--no-plan", "--settings", *settings, *sizes]
        assert main([*words, "--work", str(tmp_path / "w"), "--out", str(tmp_path / "o")]) == 0
        told = capsys.readouterr().err
        assert re.search(rf"marlzoo data collect mpe/spread --quality {quality}$", told.strip()), told
