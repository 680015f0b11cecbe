"""Files of behavior policies: where they are found, what comes back, and which hash guards what."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from marlzoo.errors import DataError, UnknownNameError
from marlzoo.families import task_spec
from marlzoo.registry import make
from marlzoo.system.files import sha256_file
from marlzoo.teachers import store
from marlzoo.teachers.store import (
    BehaviorPolicy,
    Snapshot,
    behavior_policy_names,
    behavior_policy_path,
    load_behavior_policy,
    save_behavior_policy,
    verify_behavior_policy,
)

TASK = "games/xor"
CURVE = "updates,return_mean\n1,2.5\n"


@pytest.fixture(scope="module")
def behavior() -> BehaviorPolicy:
    spec, config = task_spec(TASK), {"hidden": 8}
    states = [make("mappo", spec, seeds=[k], **config).policy().state_dict() for k in range(3)]
    return BehaviorPolicy(
        task=TASK,
        method="mappo",
        config=config,
        seed=4,
        spec=spec,
        snapshots=tuple(Snapshot(k, 100 * k, 2, float(k), 0.5, 10.0, k / 4) for k in range(3)),
        qualities={"random": (0,), "mixed": (2, 0, 1)},
        command="marlzoo data teach games/xor",
        versions={"marlzoo": "0"},
        sha256="to be filled in",
        arrays={name: np.concatenate([state[name].numpy() for state in states]) for name in states[0]},
    )


def test_what_was_saved_comes_back(behavior: BehaviorPolicy, tmp_path: Path) -> None:
    path = save_behavior_policy(behavior, CURVE, tmp_path)
    assert path == behavior_policy_path(TASK, tmp_path) == tmp_path / "games--xor.json"
    assert path.with_suffix(".csv").read_text() == CURVE
    found = load_behavior_policy(TASK, tmp_path)
    assert found.sha256 == sha256_file(path.with_suffix(".npz"))
    for name, array in behavior.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], array)
    assert replace(found, arrays={}, sha256="") == replace(behavior, arrays={}, sha256="")
    for k in range(3):
        state = make("mappo", behavior.spec, seeds=[k], hidden=8).policy().state_dict()
        for name, tensor in found.policy(k).state_dict().items():
            assert torch.equal(tensor, state[name]), (k, name)


def test_the_users_own_come_first(
    behavior: BehaviorPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, shipped, other = (tmp_path / name for name in ("own", "shipped", "other"))
    monkeypatch.setattr(store, "FOLDER", shipped)
    monkeypatch.setattr(store, "own_folder", lambda: own)
    assert behavior_policy_names() == []
    assert behavior_policy_path(TASK) == shipped / "games--xor.json"
    save_behavior_policy(replace(behavior, seed=1), CURVE, shipped)
    save_behavior_policy(replace(behavior, task="games/bridge"), CURVE, shipped)
    assert load_behavior_policy(TASK).seed == 1
    save_behavior_policy(replace(behavior, seed=2), CURVE, own)
    assert load_behavior_policy(TASK).seed == 2
    save_behavior_policy(replace(behavior, task="games/t-maze"), CURVE, own)
    assert behavior_policy_names() == ["games/bridge", "games/t-maze", "games/xor"]
    assert behavior_policy_names(own) == ["games/t-maze", "games/xor"]
    assert behavior_policy_path(TASK, other) == other / "games--xor.json"
    with pytest.raises(DataError, match=r"no behavior policy for games/xor \(there are: none\)"):
        load_behavior_policy(TASK, other)
    with pytest.raises(UnknownNameError, match="Did you mean games/xor"):
        load_behavior_policy("games/xro", other)


def test_each_file_has_its_hash(behavior: BehaviorPolicy, tmp_path: Path) -> None:
    path = save_behavior_policy(behavior, CURVE, tmp_path)
    verify_behavior_policy(TASK, tmp_path)
    curve = path.with_suffix(".csv")
    curve.write_bytes(CURVE.replace("\n", "\r\n").encode())  # as a version control system may
    verify_behavior_policy(TASK, tmp_path)
    curve.write_text(CURVE.replace("2.5", "2.6"))
    load_behavior_policy(TASK, tmp_path)
    with pytest.raises(DataError, match=r"games--xor\.csv: its content is not what the description says"):
        verify_behavior_policy(TASK, tmp_path)
    described = json.loads(path.read_text())
    del described["curve_sha256"], described["seal"]  # as older versions wrote
    path.write_text(json.dumps(described))
    verify_behavior_policy(TASK, tmp_path)
    weights = path.with_suffix(".npz")
    np.savez(weights, allow_pickle=False, **{name: array + 1 for name, array in behavior.arrays.items()})
    for check in (load_behavior_policy, verify_behavior_policy):
        with pytest.raises(DataError, match=r"games--xor\.npz: its content is not what the description says"):
            check(TASK, tmp_path)


def test_every_tensor_has_all_snapshots(behavior: BehaviorPolicy, tmp_path: Path) -> None:
    name = next(iter(behavior.arrays))
    arrays = {**behavior.arrays, name: behavior.arrays[name][:2]}
    save_behavior_policy(replace(behavior, arrays=arrays), CURVE, tmp_path)
    with pytest.raises(DataError, match="it does not hold 3 snapshots"):
        load_behavior_policy(TASK, tmp_path)


def test_a_description_is_sealed(behavior: BehaviorPolicy, tmp_path: Path) -> None:
    path = save_behavior_policy(behavior, CURVE, tmp_path)
    path.write_text(path.read_text().replace('"seed": 4', '"seed": 5'))
    with pytest.raises(DataError, match="was changed or damaged after it was written"):
        load_behavior_policy(TASK, tmp_path)
