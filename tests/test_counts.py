"""Counts that nothing can hold end in one error that names them, before anything is computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from marlzoo.benchmarks import plan, sources, trainer
from marlzoo.benchmarks.suites import Data

import marlzoo
from marlzoo.cli import main
from marlzoo.data.dataset import Dataset
from marlzoo.errors import ConfigError
from marlzoo.offpolicy.fqe import FQESettings
from marlzoo.offpolicy.ope import ope
from marlzoo.system import machine
from tests.suite_runs import run, suite_of
from tests.toys import toy_dataset

GAME = "games/xor/marlzoo/D1"
FEW = 30_000  # episodes; more than a megabyte holds, and yet nothing that would harm this machine


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with a megabyte of memory."""
    monkeypatch.setattr(machine, "memory_limit", lambda: 1e6)


# Each would end with another error if the number passed.
@pytest.mark.parametrize(
    ("command", "flag"),
    [
        (f"train bc --data {GAME} --device nowhere", "--updates"),
        (f"train bc --data {GAME} --device nowhere", "--episodes"),
        (f"train bc --data {GAME} --device nowhere", "--seeds 0"),
        ("train qmix --task games/xor --device nowhere", "--steps"),
        ("eval nowhere.npz", "--episodes"),
        ("eval nowhere.npz", "--seed"),
        (f"ope nowhere.npz --data {GAME}", "--members"),
        ("bench nowhere", "--updates"),
        ("sweep nowhere --over lr=0.1,0.2", "--random"),
        ("data collect no/where --quality random", "--transitions"),
        ("data mix nowhere.hdf5:0.5 none.hdf5:0.5 --out m.hdf5", "--seed"),
        ("render nowhere.npz --out a.gif", "--episodes"),
        ("finetune nowhere.npz", "--env-steps"),
    ],
)
def test_whole_numbers_that_nothing_counts_to_are_named(
    command: str, flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    told = f"{flag.split()[0]} is a whole number of 64 bits; it must have at most 63"
    assert main([*command.split(), *flag.split(), str(2**63)]) == 2
    assert told in capsys.readouterr().err
    assert main([*command.split(), *flag.split(), str(2**63 - 1)]) == 2
    assert "bits" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["updates", "eval_every", "episodes", "final_episodes", "horizon"])
def test_whole_numbers_of_suites_are_named(name: str) -> None:
    changes = {name: 2**63}
    with pytest.raises(ConfigError, match=f"suite 'unit': {name} is a whole number of 64 bits"):
        suite_of(Path("unused"), **changes)


def test_whole_numbers_in_python_are_named() -> None:
    data = toy_dataset("discrete")
    learner = marlzoo.make("bc", data.spec, hidden=8)
    with pytest.raises(ConfigError, match="updates is a whole number of 1329 bits"):
        marlzoo.train(learner, data, updates=10**400)
    with pytest.raises(ConfigError, match="seed is a whole number of 64 bits"):
        ope(learner, data, seed=2**63)


@pytest.mark.usefixtures("small")
def test_more_copies_than_the_memory_holds_are_refused() -> None:
    marlzoo.make_env("games/xor", 2).close()
    with pytest.raises(
        ConfigError, match=r"30,000 copies of games/xor, .* may use 0\.0; take fewer episodes"
    ):
        marlzoo.make_env("games/xor", FEW)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["episodes", "final_episodes"])
def test_evaluations_that_do_not_fit_are_found_before_any_training(name: str, tmp_path: Path) -> None:
    """Those of the last checkpoint, too, in the whole suite and in a group that trains on another machine."""
    changes: dict[str, Any] = {name: FEW}
    suite = suite_of(data=(Data("games/xor", "D1"),), **changes)
    with pytest.raises(ConfigError, match=f"^{name} on games/xor D1: 60,000 copies of games/xor"):
        run(suite, tmp_path)
    found = [sources.obtain(data, tmp_path / "data", lambda done, total: None) for data in suite.data]
    (group,) = plan.groups(suite, plan.runs_of(suite, found), 20)
    unused: Any = None
    with pytest.raises(ConfigError, match=f"^{name} on games/xor D1: 60,000 copies of games/xor"):
        trainer.Trainer(suite, tmp_path / "unit", "cpu", check_data=False).attempt(group, unused)
    assert not list(tmp_path.glob("**/*.npz"))
    assert not list(tmp_path.glob("**/rows.csv"))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("settings", "bootstrap", "message"),
    [
        (FQESettings(updates=1, members=20_000), 2, "20,000 resamples of"),
        (FQESettings(updates=1, members=40), 2, r"41 networks for each of 1 replicas"),
        (FQESettings(updates=1, members=2, hidden=4), 20_000, "20,000 resamples of"),
    ],
)
def test_resamples_and_networks_that_do_not_fit_are_refused(
    settings: FQESettings, bootstrap: int, message: str
) -> None:
    data: Dataset = toy_dataset("discrete")
    learner = marlzoo.make("bc", data.spec, hidden=8)
    assert ope(learner, data, settings=FQESettings(updates=1, members=2, hidden=4), bootstrap=2)
    with pytest.raises(ConfigError, match=f"{message}.* GB of memory, and this process may use"):
        ope(learner, data, settings=settings, bootstrap=bootstrap)


@pytest.mark.usefixtures("small")
def test_batches_that_do_not_fit_are_refused() -> None:
    data = toy_dataset("discrete")
    marlzoo.train(marlzoo.make("bc", data.spec, hidden=8), data, updates=1)
    learner = marlzoo.make("bc", data.spec, seeds=[0, 1], hidden=8, batch_size=70_000)
    with pytest.raises(ConfigError, match=r"batches of 70,000 for each of 2 replicas take .* --batch-size"):
        marlzoo.train(learner, data, updates=1)
