"""Slips in calls of the Python API: what is meant is done, or one error shows the right call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

import marlzoo
from marlzoo.errors import ConfigError, MarlzooError, SpecError, UnknownNameError
from marlzoo.families import task_spec

TASK = "games/modes-4"
Slip = Callable[[Any], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A learner of two replicas, its checkpoint, and a dataset."""
    learner = marlzoo.make("bc", task_spec(TASK), seeds=[0, 1], hidden=4)
    file = tmp_path_factory.mktemp("slips") / "team.npz"
    marlzoo.save(file, learner, meta={"task": TASK})
    data = marlzoo.load_dataset("games/xor/marlzoo/D1")
    return SimpleNamespace(learner=learner, file=file, data=data, xor=marlzoo.make("bc", data.spec, hidden=4))


SLIPS: dict[str, tuple[Slip, type[MarlzooError], str]] = {
    "save": (
        lambda m: marlzoo.save(m.learner, "x.npz"),
        ConfigError,
        r'marlzoo\.save\("mine\.npz", learner\)',
    ),  # type: ignore[arg-type]
    "save_dataset": (
        lambda m: marlzoo.save_dataset("x.hdf5", m.data),  # type: ignore[arg-type]
        ConfigError,
        "first argument is a str; the dataset comes first",
    ),
    "a dataset": (
        lambda m: marlzoo.train_method("bc", m.data),
        ConfigError,
        r"data is a Dataset; .* marlzoo\.save_dataset\(data, FILE\).* marlzoo\.train\(learner, data",
    ),
    "datasets": (
        lambda m: marlzoo.train_method("bc", [m.data]),
        ConfigError,
        "data is a Dataset; train_method",
    ),
    "a learner": (
        lambda m: marlzoo.train_method(m.xor, "x"),
        ConfigError,
        "method is a BC; train_method takes a",
    ),
    "a seed": (
        lambda _: marlzoo.train_method("bc", "games/xor/marlzoo/D1", seeds=3),  # type: ignore[arg-type]
        ConfigError,
        r"seeds is 3; give a list of integers, such as \[0, 1\]",
    ),
    "no episodes": (
        lambda _: marlzoo.train_method("bc", "games/xor/marlzoo/D1", episodes=0),
        ConfigError,
        r"episodes is 0; a run is evaluated\. marlzoo\.train trains without a simulator",
    ),
    "a setting of a method": (
        lambda _: marlzoo.train_method("bc", "games/xor/marlzoo/D1", hidden=4),  # type: ignore[call-arg]
        UnknownNameError,
        r'argument of train_method \'hidden\'.*A setting of the method is given as settings=\{"hidden": \.\.\.\}\.$',
    ),
    "the seed 0 of a suite": (  # which was taken for none, so that all seeds were trained
        lambda _: marlzoo.bench("smoke", seeds=0),  # type: ignore[arg-type]
        ConfigError,
        r"^seeds is 0; give a list, such as \[0\]$",
    ),
    "a method of a suite": (
        lambda _: marlzoo.bench_show("smoke", methods="bc"),
        ConfigError,
        r"^methods is 'bc'; give a list, such as \['bc'\]$",
    ),
    "a method to train again": (
        lambda _: marlzoo.bench_dry_run("smoke", rerun="bc"),
        ConfigError,
        r"^rerun is 'bc'; give a list",
    ),
    "a logger": (
        lambda _: marlzoo.train_method("bc", "games/xor/marlzoo/D1", log="tensorboard"),
        ConfigError,
        r"^log is 'tensorboard'; give a list",
    ),
    "a seed of a sweep": (
        lambda _: marlzoo.sweep("smoke", {"lr": [0.1]}, seeds=0),  # type: ignore[arg-type]
        ConfigError,
        r"^seeds is 0; give a list",
    ),
    "a folder to borrow from": (
        lambda _: marlzoo.results_borrow("smoke", Path("results/demo")),  # type: ignore[arg-type]
        ConfigError,
        r"^folders is 'results/demo'; give a list, such as \['results/demo'\]$",
    ),
    "a folder to verify": (
        lambda _: marlzoo.doctor_verify("results"),
        ConfigError,
        r"^folders is 'results'; give a list",
    ),
    "a list of results": (
        lambda _: marlzoo.table(["results/a", "results/b"]),  # type: ignore[arg-type]
        ConfigError,
        r"^a path is \['results/a', 'results/b'\]; give folders .*, each as an argument of its own$",
    ),
    "results": (
        lambda m: marlzoo.plot(marlzoo.Results.of(pd.DataFrame()), out="x.png"),  # type: ignore[arg-type]
        ConfigError,
        r"results stand in a path's place; give the folders that they are from: \*results\.folders",
    ),
    "a file to write": (
        lambda _: marlzoo.report("results/a", "mine.html"),
        ConfigError,
        r"^mine\.html stands among the results; the file to write is out='mine\.html'$",
    ),
    "a misspelt argument": (
        lambda _: marlzoo.train_method("bc", "games/xor/marlzoo/D1", update=4),  # type: ignore[call-arg]
        UnknownNameError,
        "argument of train_method 'update'. Did you mean updates?",
    ),
    "a setting of fine-tuning": (
        lambda m: marlzoo.finetune(m.file, 9, warmup=4),  # type: ignore[call-arg]
        UnknownNameError,
        r'settings=marlzoo\.FinetuneSettings\(warmup=\.\.\.\), one of the method as overrides=\{"warmup": ',
    ),
    "a setting of an estimate": (
        lambda m: marlzoo.ope(m.xor, m.data, members=2),  # type: ignore[call-arg]
        UnknownNameError,
        r"settings=marlzoo\.offpolicy\.fqe\.FQESettings\(members=\.\.\.\)",
    ),
    "a setting of a model": (
        lambda m: marlzoo.data_model(m.data, hidden=4),  # type: ignore[call-arg]
        UnknownNameError,
        r"settings=marlzoo\.models\.settings\.WorldModelConfig\(hidden=\.\.\.\)",
    ),
    "a setting of acting": (
        lambda m: marlzoo.evaluate_run(m.file, eval_steps=4),  # type: ignore[call-arg]
        UnknownNameError,
        r'acting=\{"eval_steps": \.\.\.\}',
    ),
    "a name in a dataset's place": (
        lambda m: marlzoo.train(m.xor, "games/xor/marlzoo/D1", updates=1),  # type: ignore[arg-type]
        ConfigError,
        r"load it: marlzoo\.load_dataset\('games/xor/marlzoo/D1'\)",
    ),
    "a name in a learner's place": (
        lambda m: marlzoo.train("bc", m.data, updates=1),  # type: ignore[arg-type]
        ConfigError,
        r"is a str, no learner; make one: marlzoo\.make\(METHOD, data\.spec\)",
    ),
    "an environment": (
        lambda m: marlzoo.train(m.xor, m.data, updates=1, env=marlzoo.make_env("games/xor", 10)),  # type: ignore[arg-type]
        ConfigError,
        r"env=lambda num_envs: marlzoo\.make_env\('games/xor', num_envs\)",
    ),
    "a learner that plays": (
        lambda m: marlzoo.evaluate(m.learner, marlzoo.make_env(TASK, 2), seeds=[0, 1]),
        SpecError,
        r"is a BC, no policy; of a learner give learner\.policy\(\)",
    ),
}


@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_one_error_with_the_right_call(
    made: Any, slip: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, error, said = SLIPS[slip]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=said):
        call(made)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["file", "text", "learner"])
def test_a_single_run_plays_with_itself(made: Any, kind: str) -> None:
    run = {"file": made.file, "text": str(made.file), "learner": made.learner}[kind]
    found = marlzoo.cross_play(run, episodes=1, compositions=2)
    assert [team.seed for team in found.teams] == [0, 1]
