"""World models from files: methods start from what ``marlzoo data model`` wrote, or say why not."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.cli import main
from marlzoo.data.dataset import Dataset
from marlzoo.errors import CheckpointError, ConfigError
from marlzoo.models.settings import WorldModelConfig, flags, model_file
from marlzoo.models.world_model import WorldModel
from marlzoo.registry import find_method
from marlzoo.replicas import Init
from marlzoo.spec import Spec
from marlzoo.system.array_files import load_arrays, save_arrays
from marlzoo.testing.cases import SMALL
from marlzoo.training.checkpoint import load_learner
from marlzoo.training.trainer import make_sampler, prepare, train
from marlzoo.training.world_models import fit_world_model, load_world_model, save_world_model
from tests.toys import toy_dataset, toy_spec

OF_MODEL: dict[str, Any] = {
    name: value for name, value in SMALL.items() if name in vars(WorldModelConfig()) and name != "lr"
}
DYNA = {**SMALL, "dyna_starts": 4, "dyna_horizon": 2, "dyna_buffer": 8}
FORMS = ("moma_ppo", "dyna_td3_bc")


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of the toy's data, with the state, and another file beside it: one without it."""
    folder = tmp_path_factory.mktemp("models")
    for state in (False, True):
        model = fit_world_model(toy_dataset(seed=1), WorldModelConfig(**OF_MODEL), seed=5, state=state)
        save_world_model(folder / f"state-{state}.npz", model, toy_dataset(seed=1), 5)
    return folder


def saved_for(form: str, folder: Path) -> Path:
    """The file that fits a method: moma_ppo's frames are observations, td3_bc's learning needs the state, too."""
    return folder / f"state-{form != 'moma_ppo'}.npz"


def learner(form: str, spec: Spec | None = None, **settings: Any) -> Any:
    sizes = SMALL if form == "moma_ppo" else DYNA
    known = vars(find_method(form).config_class())
    given = {name: value for name, value in sizes.items() if name in known}
    return marlzoo.make(form, spec or toy_spec(), **({"seeds": (0, 1)} | given | settings))


def world(algorithm: Any) -> WorldModel:
    found: WorldModel = algorithm.world if hasattr(algorithm, "world") else algorithm.dyna_world
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_replica_starts_from_the_file(form: str, file: Path) -> None:
    """Networks, scale, bounds and errors are those of the file, whatever the data; the model's stage is left out."""
    path = saved_for(form, file)
    algorithm = learner(form, world_model=str(path))
    prepare(algorithm, [toy_dataset(seed=2)])
    theirs = load_world_model(path).state_dict()
    for name, value in world(algorithm).state_dict().items():
        assert torch.equal(value, theirs[name].expand_as(value)), name
    assert torch.equal(world(algorithm).elites()[0], load_world_model(path).elites()[0])
    assert [stage.name for stage in algorithm.stages()] == [learner(form).stages()[-1].name]
    assert "world model" in [stage.name for stage in learner(form).stages()]


@pytest.mark.parametrize("form", FORMS)
def test_the_model_is_not_trained_and_a_run_resumes_exactly_without_the_file(
    form: str, file: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.npz"
    shutil.copy(saved_for(form, file), path)
    whole = learner(form, world_model=str(path))
    train(whole, toy_dataset(), updates=5)
    theirs = load_world_model(path).state_dict()
    for name, value in world(whole).state_dict().items():
        assert torch.equal(value, theirs[name].expand_as(value)), name

    def stop(done: int, _: Any) -> None:
        if done == 4:
            raise KeyboardInterrupt

    stopped, resumed = (learner(form, world_model=str(path)) for _ in range(2))
    place = tmp_path / "run.npz"
    with pytest.raises(KeyboardInterrupt):
        train(
            stopped,
            toy_dataset(),
            updates=5,
            checkpoint=place,
            checkpoint_every=3,
            log_every=1,
            on_progress=stop,
        )
    path.unlink()
    train(resumed, toy_dataset(), updates=5, checkpoint=place)
    again = load_learner(place)  # also needs the checkpoint alone
    for name, value in whole.state_tensors().items():
        assert torch.equal(value, resumed.state_tensors()[name]), name
        assert torch.equal(value, again.state_tensors()[name]), name


def test_practice_is_in_the_files_model(file: Path) -> None:
    """The same policies, taught by another model, learn something else; the updates before the mixture do not."""
    ends = []
    for change in (0.0, 0.5):
        algorithm = learner("moma_ppo", world_model=str(saved_for("moma_ppo", file)))
        data = toy_dataset()
        prepare(algorithm, [data])
        with torch.no_grad():
            for parameter in algorithm.world.reward.parameters():
                parameter.add_(change)
        algorithm.update(make_sampler(algorithm, [data]).next())
        ends.append(torch.cat([p.detach().flatten() for p in algorithm.values.parameters()]))
    assert not torch.equal(*ends)


@pytest.mark.parametrize("form", FORMS)
def test_batches_hold_no_rows_for_a_model_that_is_not_trained(form: str, file: Path) -> None:
    plain = learner(form, model_batch=1000)
    given = learner(form, model_batch=1000, world_model=str(saved_for(form, file)))
    assert plain.batch_rows == world(plain).rows
    c = given.config
    needed = c.starts * c.rollout_horizon if form == "moma_ppo" else c.batch_size + c.dyna_starts
    assert given.batch_rows == needed


def test_the_setting_names_the_file_and_its_content(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    shutil.copy(saved_for("moma_ppo", file), path)
    config = learner("moma_ppo", world_model=str(path)).config
    name, found = model_file(config.world_model)
    assert (name, len(found)) == (str(path), 12)
    assert config.to_dict()["world_model"] == config.world_model
    assert replace(config, gamma=0.5).world_model == config.world_model
    shutil.copy(saved_for("dyna_td3_bc", file), path)
    os.utime(path, ns=(1, 1))
    other = learner("moma_ppo", world_model=str(path)).config
    assert other.world_model != config.world_model
    assert other.hash != config.hash
    plain = learner("moma_ppo").config
    assert "world_model" not in plain.to_dict(), "runs without a file keep their hash"


def test_a_file_that_changed_since_is_refused(file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.npz"
    shutil.copy(saved_for("moma_ppo", file), path)
    algorithm = learner("moma_ppo", world_model=str(path))
    arrays, meta = load_arrays(path)
    save_arrays(path, {name: value + 1 for name, value in arrays.items()}, meta)
    with pytest.raises(CheckpointError, match=r"model\.npz: is another file than when the run was set up"):
        prepare(algorithm, [toy_dataset()])


def refused(path: Path, match: str, error: type[Exception], **settings: Any) -> None:
    algorithm = learner("moma_ppo", **({"world_model": str(path)} | settings))
    before = {name: value.clone() for name, value in algorithm.state_tensors().items()}
    with pytest.raises(error, match=match):
        train(algorithm, toy_dataset(), updates=2)
    for name, value in algorithm.state_tensors().items():
        assert torch.equal(value, before[name]), name


def test_files_that_are_missing_broken_or_something_else(file: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"world_model=none\.npz: no such file; 'marlzoo data model DATASET"
    ):
        learner("moma_ppo", world_model="none.npz")
    with pytest.raises(ConfigError, match="no such file"):
        learner("moma_ppo", world_model=str(tmp_path))
    good = saved_for("moma_ppo", file)
    (tmp_path / "cut.npz").write_bytes(good.read_bytes()[:-500])
    refused(tmp_path / "cut.npz", r"cut\.npz: not a readable checkpoint", CheckpointError)
    train(learner("moma_ppo"), toy_dataset(), updates=5, checkpoint=tmp_path / "run.npz")
    refused(tmp_path / "run.npz", r"run\.npz: not a world model; 'marlzoo data model", CheckpointError)
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "pickled.npz", "not a readable checkpoint", CheckpointError)


def rewritten(good: Path, path: Path, change: Any) -> Path:
    """A copy of a model's file whose arrays and description are changed."""
    arrays, meta = load_arrays(good)
    meta = {name: value for name, value in meta.items() if name not in ("format", "arrays")}
    change(arrays, meta)
    save_arrays(path, arrays, meta)
    return path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda arrays, meta: meta.pop("state"), "state is missing"),
        (lambda arrays, meta: meta.update(settings=[]), "its settings or its spec are none"),
        (lambda arrays, meta: meta.update(spec=None), "its settings or its spec are none"),
        (
            lambda arrays, meta: meta["spec"].update(n_agents="many"),
            r"not a readable world model \(SpecError",
        ),
        (lambda arrays, meta: meta["settings"].pop("residual"), r"not a readable world model \(KeyError"),
        (lambda arrays, meta: arrays.pop("center"), "another shape: center"),
        (lambda arrays, meta: arrays.update(extra=np.zeros(1)), "another shape: extra"),
        (lambda arrays, meta: arrays.update(low=np.zeros((1, 3))), "another shape: low"),
        (lambda arrays, meta: arrays.update(low=np.zeros((2, 15))), "another shape: low"),
        (lambda arrays, meta: arrays["errors"].fill(np.nan), r"has diverged \(errors is not finite"),
    ],
)
def test_files_whose_content_is_wrong(file: Path, tmp_path: Path, change: Any, match: str) -> None:
    refused(rewritten(saved_for("moma_ppo", file), tmp_path / "m.npz", change), match, CheckpointError)


def test_models_that_do_not_fit(file: Path, tmp_path: Path) -> None:
    good = saved_for("moma_ppo", file)
    refused(
        rewritten(good, tmp_path / "a.npz", lambda arrays, meta: meta["spec"].update(n_agents=2)),
        r"a\.npz: not a readable world model",  # agents' sizes contradict it
        CheckpointError,
    )
    refused(
        rewritten(good, tmp_path / "b.npz", lambda arrays, meta: meta["spec"].update(state_size=9)),
        r"b\.npz: a world model of another task: state_size: 9 != 7",
        ConfigError,
    )
    refused(
        saved_for("dyna_td3_bc", file),
        r"predicts the global state.*must not; make one without --state",
        ConfigError,
    )
    algorithm = learner("dyna_td3_bc", world_model=str(good))
    with pytest.raises(ConfigError, match=r"does not predict the global state.*must; make one with --state"):
        prepare(algorithm, [toy_dataset()])
    refused(
        good,
        r"has model_hidden=16, residual=True, the learner model_hidden=9, residual=False; train with "
        r"--model-hidden 16 --residual,",
        ConfigError,
        model_hidden=9,
        residual=False,
    )
    refused(
        good,
        r"has members=3, the learner members=7; train with --members 3 --elites 3,",
        ConfigError,
        members=7,
        elites=5,
    )
    with pytest.raises(ConfigError, match="model=perfect has no use for world_model"):
        learner("moma_ppo", world_model=str(good), model="perfect")


def test_a_model_of_another_task_of_the_same_shape_is_refused(file: Path, tmp_path: Path) -> None:
    """Files of older versions name no task, and neither do specs of one's own; both pass."""
    good = saved_for("moma_ppo", file)
    assert load_arrays(good)[1]["task"] == "toy/walk"
    old = rewritten(good, tmp_path / "old.npz", lambda arrays, meta: meta.pop("task"))
    other = rewritten(good, tmp_path / "other.npz", lambda arrays, meta: meta.update(task="toy/run"))
    named = replace(toy_spec(), task="toy/walk")
    for path, spec, passes in (
        (good, named, True),
        (old, named, True),
        (other, toy_spec(), True),
        (other, named, False),
    ):
        algorithm: Any = learner("moma_ppo", spec, world_model=str(path))
        if passes:
            prepare(algorithm, [toy_dataset()])
            continue
        with pytest.raises(ConfigError, match=r"another task: task: toy/run != toy/walk \(left: in the file"):
            prepare(algorithm, [toy_dataset()])


def test_names_of_files_with_a_hash() -> None:
    assert model_file("a@b.npz@0123456789ab") == ("a@b.npz", "0123456789ab")
    assert model_file("a@b.npz") == ("a@b.npz", "")


def test_settings_as_flags() -> None:
    assert flags({"model_hidden": 8, "residual": False, "standardize": True}) == (
        "--model-hidden 8 --no-residual --standardize"
    )


def test_a_model_that_never_saw_data_is_refused(tmp_path: Path) -> None:
    model = WorldModel(Init([0]), toy_spec(), WorldModelConfig(**OF_MODEL))
    save_world_model(tmp_path / "m.npz", model, toy_dataset(), 0)
    with pytest.raises(CheckpointError, match="not finite"):  # bounds that no data set
        prepare(learner("moma_ppo", world_model=str(tmp_path / "m.npz")), [toy_dataset()])


def test_the_command_names_the_next_one_and_that_works(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data: Dataset = marlzoo.load_dataset("games/iterated-coordination/marlzoo/mix")
    marlzoo.save_dataset(data, "data.npz")
    sizes = "--members 2 --elites 2 --model-hidden 8 --model-layers 1 --no-residual"
    command = f"data model data.npz --out m.npz --steps 2 --model-updates 3 {sizes}"
    assert main(command.split()) == 0
    _, _, told = capsys.readouterr().err.partition("Next: marlzoo ")
    assert told.strip() == (
        "train METHOD --dyna --data data.npz --world-model m.npz "
        "--members 2 --model-hidden 8 --model-layers 1 --no-residual --elites 2"
    )
    arguments = told.replace("METHOD", "iql").split()
    assert main([*arguments, "--updates", "4", "--episodes", "1", "--hidden", "8", "--out", "runs"]) == 0
    (rows,) = Path("runs").glob("*/rows.csv")
    assert "world_model=m.npz@" in rows.read_text()
