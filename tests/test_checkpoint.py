"""Checkpoints: exact after SIGKILL at any moment, refused where they do not fit, never half-written."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import pickle
import re
import signal
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.cli import main
from marlzoo.errors import CheckpointError, ConfigError, OutputError, UnknownNameError
from marlzoo.families import make_env, task_spec
from marlzoo.registry import find_method
from marlzoo.replicas import derive
from marlzoo.system.array_files import load_arrays, save_arrays
from marlzoo.system.files import sealed, unsealed
from marlzoo.training.checkpoint import (
    build_replica,
    find_checkpoint,
    load_saved,
    pack_evaluations,
    restore,
    save,
    task_of,
    unpack_evaluations,
)
from marlzoo.training.evaluation import EpisodeResults, Evaluation, evaluate
from marlzoo.training.trainer import train
from tests.toys import ToyEnv, toy_dataset, toy_spec

KIND = "discrete"


def run(path: Path) -> None:
    """A run that saves every few updates."""
    torch.set_num_threads(1)
    algorithm = marlzoo.make(
        "omiga", toy_spec(KIND), seeds=[0, 1, 2], hidden=32, mixer_hidden=8, batch_size=64
    )
    options = {"episodes": 2, "eval_every": 100, "check_data": False, "show_progress": False}
    data, env = toy_dataset(KIND), lambda num_envs: ToyEnv(num_envs, KIND)
    train(algorithm, data, updates=200, env=env, checkpoint=path, checkpoint_every=7, **options)


def written(path: Path) -> int:
    """When the file was last written, in nanoseconds; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the runs that are killed are forked")
def test_killed_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole.npz", tmp_path / "killed.npz"
    for kill in range(4):
        before, process = (
            written(killed),
            multiprocessing.get_context("fork").Process(target=run, args=(killed,)),
        )
        process.start()
        while written(killed) == before:
            assert process.is_alive(), "ended before it saved"
            time.sleep(0.001)
        time.sleep(0.004 * kill)  # some way into the next updates, or the next save
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    run(killed)
    run(whole)
    mine, meta = load_arrays(killed)
    theirs, other = load_arrays(whole)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(mine[name], value, err_msg=name)
    assert meta["updates"] == other["updates"] == 200
    assert not list(tmp_path.glob(".*")), "temporary files were left"


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "c.npz"
    train(
        marlzoo.make("omiga", toy_spec(), hidden=8, mixer_hidden=4), toy_dataset(), updates=3, checkpoint=path
    )
    return path


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"alpha": 3.0}, "configs is alpha = 10.0 \\(here 3.0\\)"),
        ({"hidden": 16}, "hidden = 8"),
        ({"seeds": [1]}, "seeds is"),
        ({"dtype": torch.float64}, "dtype is"),
    ],
)
def test_another_configuration_is_refused(saved: Path, change: dict[str, object], text: str) -> None:
    other = marlzoo.make("omiga", toy_spec(), **{"hidden": 8, "mixer_hidden": 4, **change})  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=text):
        train(other, toy_dataset(), updates=5, checkpoint=saved)


def test_another_method_or_task_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="method is"):
        restore(saved, marlzoo.make("bc", toy_spec(), hidden=8))
    with pytest.raises(CheckpointError, match="spec is"):
        restore(saved, marlzoo.make("omiga", toy_spec("discrete"), hidden=8, mixer_hidden=4))


def test_other_data_are_refused(saved: Path) -> None:
    same = marlzoo.make("omiga", toy_spec(), hidden=8, mixer_hidden=4)
    with pytest.raises(CheckpointError, match="trained on other data"):
        train(same, toy_dataset(seed=5), updates=5, checkpoint=saved)


@pytest.mark.parametrize("size", [0, 10, 1000, -1, -100])
def test_truncated_files(saved: Path, size: int) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[:size])
    with pytest.raises(CheckpointError, match="not a readable checkpoint"):
        marlzoo.load_learner(saved)


def test_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        marlzoo.load_learner(tmp_path / "none.npz")

    class Hostile:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Hostile()))
    np.savez(tmp_path / "b.npz", meta=np.array([Hostile()], dtype=object))
    np.savez(tmp_path / "c.npz", meta=np.frombuffer(json.dumps({"format": "other"}).encode(), np.uint8))
    save_arrays(tmp_path / "d.npz", {}, {"method": "omiga"})
    with open(tmp_path / "e.npz", "wb") as file:
        np.save(file, np.zeros(3))
    for name in "abcde":
        with pytest.raises(CheckpointError) as caught:
            marlzoo.load_learner(tmp_path / f"{name}.npz")
        assert "unsafe" not in str(caught.value)  # as numpy advises for pickled data
    assert not (tmp_path / "executed").exists()


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, Any]], Any]) -> Path:
    """The checkpoint with its arrays and description changed by somebody who knows the format."""
    with np.load(path) as stored:
        arrays = dict(stored)
    meta = unsealed(json.loads(arrays.pop("meta").tobytes()), "it")
    change(arrays, meta)
    meta["arrays"] = sorted(arrays)
    text = np.frombuffer(json.dumps(sealed(meta)).encode(), np.uint8)
    target = path.with_name("changed.npz")
    np.savez(target, meta=text, **arrays)
    return target


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda a, m: a.update({k: v.astype("M8[s]") for k, v in list(a.items())[:1]}),
            "has the type datetime64",
        ),
        (lambda a, m: m["configs"][0].update(hidden=10**12), "not a learner's checkpoint"),
        (lambda a, m: m.update(seeds="x"), "not a learner's checkpoint"),
        (lambda a, m: m.pop("updates"), "not a learner's checkpoint"),
        (lambda a, m: m["spec"].update(n_agents=-1), "not a learner's checkpoint"),
        (lambda a, m: m.update(dtype=3), "not a learner's checkpoint"),
        (lambda a, m: a.pop(next(iter(a))), "missing"),
    ],
)
def test_headers_that_lie(saved: Path, change: Any, text: str) -> None:
    with pytest.raises(CheckpointError, match=text):
        marlzoo.load_learner(rewritten(saved, change))


def test_members_that_lie(saved: Path, tmp_path: Path) -> None:
    def npy(header: str) -> bytes:
        return b"\x93NUMPY\x01\x00\x76\x00" + header.ljust(117).encode() + b"\n" + bytes(64)

    headers = (
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (" + "(" * 60,
        "{'descr': '|O', 'fortran_order': False, 'shape': (8,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (8,)}",  # half of what is stored
        "\\",
    )
    for header in headers:
        with zipfile.ZipFile(saved) as good, zipfile.ZipFile(tmp_path / "bad.npz", "w") as bad:
            for k, name in enumerate(good.namelist()):
                bad.writestr(name, npy(header) if k == 1 else good.read(name))
        with pytest.raises(CheckpointError, match="not a readable checkpoint"):
            marlzoo.load_learner(tmp_path / "bad.npz")


def test_single_bits(saved: Path, tmp_path: Path) -> None:
    """Every flipped bit is found, or was in what carries nothing; the end of the file holds the list of members."""
    content, rng = saved.read_bytes(), np.random.default_rng(0)
    good = marlzoo.load_learner(saved).state_tensors()
    places = [*rng.integers(0, 8 * len(content), 60), *range(8 * (len(content) - 22), 8 * len(content))]
    for place in places:
        changed = bytearray(content)
        changed[place // 8] ^= 1 << (place % 8)
        (tmp_path / "flipped.npz").write_bytes(changed)
        try:
            found = marlzoo.load_learner(tmp_path / "flipped.npz").state_tensors()
        except CheckpointError:
            continue
        assert all(torch.equal(found[name], value) for name, value in good.items())


def test_arrays_in_any_order_come_back(tmp_path: Path) -> None:
    arrays: dict[str, Any] = {
        "turned": np.arange(6.0).reshape(2, 3).T,
        "number": np.float32(3.0),
        "flags": np.array([True, False]),
        "nothing": np.zeros((0, 3)),
    }
    save_arrays(tmp_path / "a.npz", arrays, {"x": (1, 2)})
    found, meta = load_arrays(tmp_path / "a.npz")
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert meta["x"] == [1, 2]


def test_full_disk_keeps_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = saved.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        save(saved, marlzoo.make("omiga", toy_spec(), hidden=8, mixer_hidden=4))
    assert saved.read_bytes() == content
    assert sorted(p.name for p in saved.parent.iterdir()) == ["c.npz"]


def test_loading_gives_the_same_policy(saved: Path) -> None:
    loaded = marlzoo.load_learner(saved)
    twin = marlzoo.make("omiga", toy_spec(), hidden=8, mixer_hidden=4)
    train(twin, toy_dataset(), updates=3)
    obs = torch.randn(1, 4, 3, 5)
    assert torch.equal(loaded.policy().act(obs), twin.policy().act(obs))


@pytest.fixture
def three(tmp_path: Path) -> tuple[Any, Path]:
    """A learner of three replicas with a setting each, and its checkpoint."""
    learner = marlzoo.make("bc", toy_spec(), seeds=[4, 5, 6], hidden=8, lr=[1e-3, 2e-3, 3e-3])
    path = tmp_path / "three.npz"
    run = {"updates": 2, "checkpoint": path, "compile": "off", "show_progress": False}
    train(learner, [toy_dataset(seed=k) for k in range(3)], **run)  # type: ignore[arg-type]
    return learner, path


def test_a_checkpoint_names_the_preset_that_its_learner_started_from(tmp_path: Path) -> None:
    learner = marlzoo.make("bc", task_spec("mpe/spread"), seeds=[3, 4], hidden=8)
    file = tmp_path / "run.npz"
    save(file, learner)
    assert load_saved(file).meta["preset"] == learner.preset == "mpe"
    assert marlzoo.load_learner(file).preset == "mpe"
    assert build_replica(file, load_saved(file), 1).preset == "mpe"
    arrays, meta = load_arrays(file)
    del meta["preset"]  # as earlier versions wrote it
    save_arrays(
        file, arrays, {name: value for name, value in meta.items() if name not in ("arrays", "format")}
    )
    assert marlzoo.load_learner(file).preset == "defaults"


def test_replicas_are_rebuilt_alone(three: tuple[Any, Path]) -> None:
    whole, path = three
    obs = torch.randn(3, 4, 3, 5)
    action = whole.policy().act(obs)
    part = marlzoo.load_learner(path, replicas=[2, 0])
    assert (part.seeds, [c.lr for c in part.configs], part.updates) == ([6, 4], [3e-3, 1e-3], 2)
    torch.testing.assert_close(part.policy().act(obs[[2, 0]]), action[[2, 0]])
    alone = build_replica(path, load_saved(path), 1)
    assert (alone.seeds, alone.config.lr, alone.updates) == ([5], 2e-3, 2)
    torch.testing.assert_close(alone.policy().act(obs[1:2]), action[1:2])
    all_of_them = marlzoo.load_learner(path)
    for name, value in whole.state_tensors().items():
        assert torch.equal(all_of_them.state_tensors()[name], value), name


def test_every_replica_must_be_the_one_that_was_saved(three: tuple[Any, Path]) -> None:
    path = three[1]

    def made(**changes: Any) -> Any:
        usual: dict[str, Any] = {"hidden": 8, "lr": [1e-3, 2e-3, 3e-3], "seeds": [4, 5, 6]}
        return marlzoo.make("bc", toy_spec(), **usual | changes)

    extra, meta = restore(path, twin := made())
    assert twin.updates == meta["updates"] == 2
    assert any(name.startswith("sampler/") for name in extra)
    assert not any(name.startswith("learner/") for name in extra)
    with pytest.raises(CheckpointError, match="configs is"):
        restore(path, made(lr=[1e-3, 2e-3, 4e-3]))
    with pytest.raises(CheckpointError, match="seeds is"):
        restore(path, made(seeds=[4, 5, 7]))


def test_descriptions_are_sealed_and_name_their_arrays(saved: Path) -> None:
    with np.load(saved) as stored:
        arrays = dict(stored)
    meta = json.loads(arrays.pop("meta").tobytes())
    changed = {**meta, "updates": 4}
    np.savez(saved.with_name("a.npz"), meta=np.frombuffer(json.dumps(changed).encode(), np.uint8), **arrays)
    np.savez(
        saved.with_name("b.npz"),
        meta=np.frombuffer(json.dumps(meta).encode(), np.uint8),
        **arrays,
        x=np.ones(1),
    )
    for name, text in (("a.npz", "its description"), ("b.npz", "its description and its arrays differ in x")):
        with pytest.raises(CheckpointError, match=text):
            load_saved(saved.with_name(name))

    def other_format(arrays: Any, meta: Any) -> None:
        meta["format"] = "marlzoo-checkpoint-2"

    with pytest.raises(CheckpointError, match="its format is marlzoo-checkpoint-2, this version's is"):
        load_saved(rewritten(saved, other_format))
    with pytest.raises(UnknownNameError, match="nobody"):
        marlzoo.load_learner(rewritten(saved, lambda a, m: m.update(method="nobody")))
    with pytest.raises(CheckpointError, match="its seeds are none"):
        load_saved(rewritten(saved, lambda a, m: m.update(seeds=[])))


def test_evaluations_come_back() -> None:
    returns, lengths = np.array([[1.0, np.nan], [3.0, 4.0]]), np.array([[5, 6], [7, 8]])
    first = Evaluation(
        10,
        EpisodeResults(returns, lengths, returns > 2),
        np.array([True, False]),
        1.5,
        {},
        "plain",
        "abc",
        "today",
    )
    second = Evaluation(20, EpisodeResults(returns + 1, lengths, None), np.array([False, False]), 2.5)
    arrays, records = pack_evaluations([first, second])
    found = unpack_evaluations(arrays, json.loads(json.dumps(records)))
    for mine, theirs in zip(found, (first, second), strict=True):
        for name in ("updates", "seconds", "arithmetic", "code", "date"):
            assert getattr(mine, name) == getattr(theirs, name)
        np.testing.assert_array_equal(mine.diverged, theirs.diverged)
        for name in ("returns", "lengths", "wins"):
            np.testing.assert_array_equal(getattr(mine.episodes, name), getattr(theirs.episodes, name))


def test_a_checkpoint_is_named_by_its_folder(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint; name a run's folder or a file"):
        find_checkpoint(tmp_path)
    for run, part in (("b", "checkpoints"), ("a", "checkpoints"), ("data", "hdf5")):
        (tmp_path / "all" / run / part).mkdir(parents=True)
    (tmp_path / "all" / "online").mkdir()
    (tmp_path / "all" / "online" / "checkpoint.npz").touch()
    runs = ", ".join(str(tmp_path / "all" / run) for run in ("a", "b", "online"))
    with pytest.raises(
        CheckpointError, match=re.escape(f"holds no checkpoint; name one of its runs: {runs}") + "$"
    ):
        find_checkpoint(tmp_path / "all")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "b.npz").touch()
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / "b.npz"
    (tmp_path / "checkpoint.npz").touch()
    with pytest.raises(
        CheckpointError, match=r"holds 2 checkpoints; name one of checkpoint\.npz, checkpoints/b\.npz"
    ):
        find_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path / "any.npz") == tmp_path / "any.npz"
    assert task_of({"task": "a/b"}) == "a/b"
    assert task_of({"online": {"task": "c/d"}}) == "c/d"
    assert task_of({}) == ""


# ---- acting otherwise than in training -----------------------------------------------------------------


def test_an_evaluation_says_which_team_diverged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With discrete actions its returns are finite."""
    team = marlzoo.make("bc", task_spec("games/xor"), seeds=[3, 4], hidden=8)
    with torch.no_grad():
        next(team.parameters())[1] = torch.nan
    save(tmp_path / "run.npz", team, meta={"task": "games/xor", "episodes": 2})
    assert [score.diverged for score in marlzoo.evaluate_run(tmp_path / "run.npz")] == [False, True]
    assert main(["eval", str(tmp_path / "run.npz")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert ["its parameters are not finite" in line for line in lines[:2]] == [False, True]


def test_the_steps_of_a_flow_are_chosen_when_it_is_evaluated(tmp_path: Path) -> None:
    """The same numbers as those of a learner that was made with them; the training's where nothing is asked for."""
    made = {
        steps: marlzoo.make("om2p", task_spec("games/sign-agreement"), seeds=(3,), hidden=8, eval_steps=steps)
        for steps in (1, 4)
    }
    save(tmp_path / "run.npz", made[1], meta={"task": "games/sign-agreement", "episodes": 20})

    def reached(**acting: Any) -> float:
        (score,) = marlzoo.evaluate_run(tmp_path / "run.npz", acting=acting)
        return score.mean_return

    def expected(steps: int) -> float:
        made[steps].load_state_tensors(made[1].state_tensors())
        env = make_env("games/sign-agreement", 20)
        seeds = [derive(3, "evaluate", 0)]
        return float(evaluate(made[steps].policy(), env, seeds=seeds).returns.mean())

    assert reached() == expected(1)
    assert reached(eval_steps=4) == expected(4) != expected(1)
    with pytest.raises(ConfigError, match="'eval_steps' of OM2PConfig is 0"):
        reached(eval_steps=0)
    with pytest.raises(UnknownNameError, match=r"'hidden'.*eval_steps"):
        reached(hidden=4)


def test_more_steps_than_levels_are_no_fault_of_the_file(tmp_path: Path) -> None:
    learner = marlzoo.make("madiff", task_spec("games/sign-agreement"), hidden=8, heads=1)
    save(tmp_path / "run.npz", learner, meta={"task": "games/sign-agreement"})
    with pytest.raises(ConfigError, match="eval_steps is 60, but there are 50 levels"):
        marlzoo.evaluate_run(tmp_path / "run.npz", acting={"eval_steps": 60})


@pytest.mark.parametrize("method", sorted(marlzoo.method_names()))
def test_settings_of_how_a_policy_acts_are_settings(method: str) -> None:
    cls = find_method(method)
    assert set(cls.acting) <= set(vars(cls.config_class()))
    assert set(cls.acting) == {"eval_steps", "eval_mode", "guidance"} & set(vars(cls.config_class()))
