"""Every option of a command, and every argument of its function, arrives where the work is done."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from marlzoo.benchmarks.launchers import Place
from marlzoo.benchmarks.split import Split
from marlzoo.benchmarks.suites import Data, Learner, Suite, find_suite

import marlzoo
from marlzoo.cli import main
from marlzoo.cli.evaluating import _plain
from marlzoo.commands.health import doctor_verify
from marlzoo.commands.scoring import _starts
from marlzoo.errors import ConfigError, DataError, UnknownNameError
from marlzoo.models.settings import WorldModelConfig
from marlzoo.offpolicy.fqe import FQESettings
from marlzoo.offpolicy.ope import Estimate
from marlzoo.recording.teach_options import Options as TeachOptions
from marlzoo.replicas import derive
from marlzoo.testing.toys import toy_dataset
from marlzoo.training.finetune_settings import FinetuneSettings


class Arrived(BaseException):
    """The work would begin now; holds what it was asked for, by name."""


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Makes ``module:function`` say what it was called with instead of doing it."""

    def stand_in(place: str) -> None:
        module, _, name = place.partition(":")
        owner = importlib.import_module(f"marlzoo.{module}")
        signature = inspect.signature(getattr(owner, name))

        def say(*given: Any, **named: Any) -> None:
            bound = signature.bind(*given, **named)
            bound.apply_defaults()
            raise Arrived(dict(bound.arguments))

        monkeypatch.setattr(owner, name, say)

    return stand_in


def asked(call: Callable[[], object]) -> dict[str, Any]:
    with pytest.raises(Arrived) as caught:
        call()
    found: dict[str, Any] = caught.value.args[0]
    return found


# Command, where it arrives, and what must arrive there.
COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "eval run --method bc --dataset D3 --task t/a --env flavor=original n=3 on=true --episodes 3 --horizon 7 "
    "--seed 5 --acting eval_steps=5 std=0.5": (
        "commands.scoring:evaluate_run",
        {
            "checkpoint": Path("run"), "method": "bc", "dataset": "D3", "task": "t/a",
            "env": {"flavor": "original", "n": 3, "on": True},
            "episodes": 3, "horizon": 7, "seed": 5, "device": "cpu", "acting": {"eval_steps": 5, "std": 0.5},
        },
    ),
    "eval run": (
        "commands.scoring:evaluate_run",
        {
            "checkpoint": Path("run"), "task": "", "env": None, "episodes": 0, "horizon": 0, "seed": -1,
            "device": "cpu", "acting": {},
        },
    ),
    "eval a b c --cross-play --compositions 4 --task t/a --env n=3 --episodes 2 --horizon 7 --seed 5": (
        "benchmarks.cross_play:cross_play",
        {
            "runs": [Path("a"), Path("b"), Path("c")], "task": "t/a", "env_options": {"n": 3}, "episodes": 2,
            "compositions": 4, "horizon": 7, "seed": 5, "device": "cpu",
        },
    ),
    "eval a b --cross-play": (
        "benchmarks.cross_play:cross_play",
        {"env_options": None, "episodes": 10, "compositions": 10, "horizon": None, "seed": 0},
    ),
    "ope run --data d --method bc --dataset D3 --estimators fqe dr --behavior uniform --gamma 0.5 --updates 7 "
    "--hidden 9 --members 3 --bootstrap 11 --random-seed 13": (
        "offpolicy.ope:ope",
        {
            "run": Path("run"), "data": "d", "method": "bc", "dataset": "D3",
            "estimators": ("fqe", "dr"), "behavior": "uniform", "gamma": 0.5, "bootstrap": 11, "seed": 13,
            "settings": FQESettings(updates=7, hidden=9, members=3),
        },
    ),
    "ope run --data d": ("offpolicy.ope:ope", {"estimators": (), "behavior": "fitted", "gamma": None}),
    "data inspect d --option uid=Good --sample 200 --seed 3 --probes --plot p.png --html h.html": (
        "commands.data:data_inspect",
        {
            "dataset": "d", "option": {"uid": "Good"}, "sample": 200, "seed": 3, "probes": True,
            "plot": Path("p.png"), "html": Path("h.html"),
        },
    ),
    "data check d --option uid=7 --task t/a --sample 9 --action-mapping concat --env flavor=x": (
        "commands.data:data_check",
        {
            "dataset": "d", "option": {"uid": "7"}, "task": "t/a", "sample": 9, "action_mapping": "concat",
            "env": {"flavor": "x"},
        },
    ),
    "data convert s t.npz --option horizon=7 --format npz --force": (
        "commands.data:data_convert",
        {"source": "s", "target": "t.npz", "option": {"horizon": "7"}, "format": "npz", "force": True},
    ),
    "data mix a.hdf5:0.5 b.hdf5:0.5 --out o.hdf5 --transitions 70 --seed 3 --force": (
        "data.mix:mix", {"target": "o.hdf5", "transitions": 70, "seed": 3, "force": True}
    ),
    "data mix a.hdf5:0.5 b.hdf5:0.5": (
        "data.mix:mix", {"target": None, "transitions": None, "seed": 0, "force": False}
    ),
    "data download mamujoco/ant-2x4/omiga/expert --from file": (
        "data.download:download", {"name": "mamujoco/ant-2x4/omiga/expert", "from_file": Path("file")}
    ),
    "data collect toy/a --quality good --transitions 70 --seed 3 --policy run.npz --replica 2 --env n=3 "
    "--out o.hdf5 --force": (
        "recording.recipes:collect",
        {
            "task": "toy/a", "quality": "good", "transitions": 70, "seed": 3, "policy": Path("run.npz"),
            "replica": 2, "env": {"n": 3}, "path": Path("o.hdf5"), "force": True,
        },
    ),
    "data model d --option uid=7 --out o.npz --plot p.png --steps 3 --seed 5 --state --model-hidden 9": (
        "commands.data:data_model",
        {
            "dataset": "d", "option": {"uid": "7"}, "out": Path("o.npz"), "plot": Path("p.png"), "steps": 3,
            "seed": 5, "state": True, "settings": WorldModelConfig(model_hidden=9),
        },
    ),
    "train bc --data a b --task mpe/spread --seeds 3 4 --env n=3 --updates 7 --eval-every 5 --episodes 2 --horizon 9 "
    "--precision bf16 --out o --name mine --log x --max-replicas 6 --threads 2 --no-check-data --force "
    "--hidden 8": (
        "benchmarks.runner:run_suite",
        {
            "suite": Suite(
                name="mine", data=tuple(Data("mpe/spread", file=file, env={"n": 3}) for file in ("a", "b")),
                learners=(Learner("bc", {"hidden": 8}),), seeds=(3, 4), updates=7, eval_every=5, episodes=2,
                horizon=9, precision="bf16",
            ),
            "out": Path("o"), "device": "cpu", "max_replicas": 6, "check_data": False, "force": True, "log": ("x",),
            "split": Split(threads=2), "place": Place(), "remedy": "--force",
        },
    ),
    "plot a b -o o.png --bars --columns 2": (
        "benchmarks.figures:plot",
        {"paths": (Path("a"), Path("b")), "kind": "bars", "out": Path("o.png"), "columns": 2},
    ),
    "plot a -o o.png --profile": ("benchmarks.figures:plot", {"kind": "profile", "columns": 3}),
    "plot a -o o.png": ("benchmarks.figures:plot", {"kind": "curves"}),
    "report a b -o o.html --title T --reference bc": (
        "benchmarks.report:report",
        {
            "paths": (Path("a"), Path("b")), "out": Path("o.html"), "title": "T", "reference": "bc",
            "command": "marlzoo report a b -o o.html --title T --reference bc",
        },
    ),
    "results compare a b": ("benchmarks.summary:read", {"paths": [Path("a")]}),
    "results migrate f": ("benchmarks.migrate:migrate", {"folder": Path("f")}),
    "results borrow xor a b --out o": (
        "benchmarks.borrow:borrow", {"suite": find_suite("xor"), "out": Path("o"), "folders": [Path("a"), Path("b")]},
    ),
    "results compress f": ("benchmarks.results:compress", {"folder": Path("f"), "wanted": True}),
    "results compress f --undo": ("benchmarks.results:compress", {"folder": Path("f"), "wanted": False}),
    "render run -o o.gif --episodes 3 --strip 4 --task t/a --env n=3 --every 5 --fps 6 --size 70 80 "
    "--episode-seed 9 --replica 1 --method bc --dataset D3": (
        "deployment.rendering:render",
        {
            "path": Path("run"), "out": Path("o.gif"), "episodes": 3, "strip": 4, "task": "t/a", "env": {"n": 3},
            "every": 5, "fps": 6, "size": (70, 80), "episode_seed": 9, "seed": None, "replica": 1, "best": False,
            "method": "bc", "dataset": "D3",
        },
    ),
    "export run --format torch -o o --agent 2 --seed 3 --best --method bc --dataset D3": (
        "deployment.export:export",
        {
            "path": Path("run"), "out": Path("o"), "format": "torch", "agent": 2, "seed": 3, "replica": None,
            "best": True, "method": "bc", "dataset": "D3",
        },
    ),
    "push p u/n --name N --license MIT --private --message M": (
        "sharing.push:push",
        {"path": "p", "repository": "u/n", "name": "N", "license": "MIT", "private": True, "message": "M"},
    ),
    "pull u/n --file f --revision r -o o --force": (
        "sharing.pull:pull",
        {"repository": "u/n", "file": "f", "revision": "r", "out": Path("o"), "force": True},
    ),
    "new-method mine --baseline": (
        "commands.new_method:new_method", {"name": "mine", "baseline": True, "package": None}
    ),
    "new-method mine --package p": (
        "commands.new_method:new_method", {"name": "mine", "baseline": False, "package": Path("p")}
    ),
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_a_command_arrive(
    watch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    place, wanted = COMMANDS[command]
    watch(place)
    found = asked(lambda: main(command.split()))
    assert {name: found[name] for name in wanted} == wanted


def test_options_of_finetuning_arrive(
    watch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # Imported before what it imports is replaced, or it would keep the stand-in.
    watch("training.finetune:finetune")
    saved = importlib.import_module("marlzoo.training.checkpoint")
    looked: list[Any] = []

    def find_teams(run: Path, *which: str) -> tuple[Path, None]:
        looked.append(which)
        return run if run.suffix else run / "checkpoint.npz", None

    monkeypatch.setattr(saved, "find_teams", find_teams)
    monkeypatch.setattr(
        saved, "load_saved", lambda file: SimpleNamespace(meta={"method": "bc", "task": "t/a"})
    )
    command = (
        "finetune run --env-steps 70 --method bc --dataset D3 --data a b --set cql_weight=0.5 mode=x --task t/b "
        f"--env n=3 --episodes 2 --horizon 9 --eval-every 5 --out {tmp_path} --name mine"
    )
    found = asked(lambda: main(command.split()))
    wanted = {
        "env_steps": 70, "data": ("a", "b"), "settings": FinetuneSettings(), "task": "t/b", "env_options": {"n": 3},
        "overrides": {"cql_weight": 0.5, "mode": "x"}, "episodes": 2, "horizon": 9, "eval_every": 5,
        "checkpoint": tmp_path / "mine" / "checkpoint.npz", "device": "cpu", "method": "bc", "dataset": "D3",
    }  # fmt: skip
    assert {name: found[name] for name in wanted} == wanted
    assert looked == [("bc", "D3")]
    for run, named in (("a/run", "run"), ("a/run/checkpoints/bc-t-a-12.npz", "bc-t-a-12")):
        arguments = ["finetune", run, "--env-steps", "70", "--out", str(tmp_path)]
        found = asked(functools.partial(main, arguments))
        folder = f"finetune-{FinetuneSettings().strategy}-{named}"  # two runs of a method have two folders
        assert found["checkpoint"] == tmp_path / folder / "checkpoint.npz"
    assert found["env_options"] is None
    found = asked(lambda: main([*arguments, "--dataset", "mpe/tag/medium@2"]))  # as have two parts of one
    assert found["checkpoint"].parent.name == f"{folder}-mpe-tag-medium-2"


# ---- arguments of the functions ------------------------------------------------------------------------------------


def test_arguments_of_inspection_arrive(watch: Callable[[str], None]) -> None:
    data = toy_dataset()
    watch("data.inspection:inspect")
    found = asked(lambda: marlzoo.data_inspect(data, sample=100, seed=3, probes=True))
    assert found["dataset"] is data
    assert (found["sample"], found["seed"], found["probes"]) == (100, 3, True)
    for wrong in ({"sample": 99}, {"seed": -1}):
        with pytest.raises(ConfigError, match="sample must be at least 100 and seed 0 or more"):
            marlzoo.data_inspect(data, **wrong)
    with pytest.raises(ConfigError, match="has been read already"):
        marlzoo.data_inspect(data, option={"uid": 3})


def test_arguments_of_a_check_arrive(watch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_dataset()
    made: list[tuple[Any, ...]] = []
    closed: list[bool] = []

    def make_env(task: str, copies: int, **options: Any) -> Any:
        made.append((task, copies, options))
        return SimpleNamespace(spec=data.spec, close=lambda: closed.append(True))

    monkeypatch.setattr("marlzoo.families.make_env", make_env)
    watch("data.check:check")
    found = asked(
        lambda: marlzoo.data_check(data, task="t/a", sample=9, action_mapping="concat", env={"n": 3})
    )
    assert found["sample"] == 9
    asked(lambda: marlzoo.data_check(data))
    assert made == [("t/a", 1, {"n": 3, "action_mapping": "concat"}), (data.card.task, 1, {})]
    assert closed == [True, True]


def test_arguments_of_conversion_and_mixing_arrive(watch: Callable[[str], None]) -> None:
    watch("data.convert:convert")
    found = asked(lambda: marlzoo.data_convert("s", "t", format="npz", force=True))
    assert (found["source"], found["form"], found["force"]) == ("s", "npz", True)
    watch("data.mix:mix")
    found = asked(
        lambda: marlzoo.data_mix({"a": 0.25, "b": 0.75}, out="o", transitions=7, seed=3, force=True)
    )
    rest = {"target": "o", "transitions": 7, "seed": 3, "force": True}
    assert found == {"parts": [("a", 0.25), ("b", 0.75)]} | rest


def test_arguments_of_recording_arrive(watch: Callable[[str], None]) -> None:
    watch("recording.recipes:collect")
    assert asked(lambda: marlzoo.data_collect("mpe/spread", "medium", force=True))["force"] is True
    found = asked(lambda: marlzoo.data_collect("mpe/spread", "medium", env={"n": 3}))
    assert (found["transitions"], found["seed"], found["policy"], found["path"]) == (100_000, 0, "", None)
    with pytest.raises(ConfigError, match="data of games/xor are computed"):
        marlzoo.data_collect("games/xor", "D1")
    found = asked(lambda: marlzoo.data_collect("games/xor", "mine", policy="run.npz"))
    assert found["policy"] == "run.npz"


def test_arguments_of_teaching_arrive(watch: Callable[[str], None]) -> None:
    watch("recording.teach:make_behavior_policy")
    found = asked(lambda: marlzoo.data_teach("games/xor", steps=7))
    assert found["options"] == TeachOptions(steps=7)
    planned = asked(lambda: marlzoo.data_teach("mpe/spread", seed=3))["options"]
    assert planned.seed == 3
    assert planned.steps != TeachOptions().steps
    given = TeachOptions(steps=9, seed=4)
    assert asked(lambda: marlzoo.data_teach("mpe/spread", given))["options"] == given
    with pytest.raises(UnknownNameError, match="step"):
        marlzoo.data_teach("games/xor", step=7)


def test_arguments_of_a_world_model_arrive(
    watch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, kept = toy_dataset(), []
    watch("training.world_models:fit_world_model")
    settings = WorldModelConfig(model_hidden=9)
    found = asked(lambda: marlzoo.data_model(data, steps=1, seed=3, state=True, settings=settings))
    assert found["data"] is data
    assert (found["config"], found["seed"], found["state"]) == (settings, 3, True)
    assert asked(lambda: marlzoo.data_model(data, seed=0))["config"] == WorldModelConfig()
    monkeypatch.setattr("marlzoo.training.world_models.fit_world_model", lambda *given: "model")
    monkeypatch.setattr("marlzoo.training.world_models.save_world_model", lambda *given: kept.append(given))
    watch("training.world_models:step_errors")
    found = asked(lambda: marlzoo.data_model(data, out="o.npz", steps=7, seed=3))
    assert (found["model"], found["data"], found["steps"]) == ("model", data, 7)
    assert kept == [(Path("o.npz"), "model", data, 3)]
    for wrong in ({"steps": 0}, {"seed": -1}):
        with pytest.raises(ConfigError, match="steps must be at least 1 and seed 0 or more"):
            marlzoo.data_model(data, **wrong)


# ---- marlzoo eval --------------------------------------------------------------------------------------------------

POLICY = SimpleNamespace(execution="shared_randomness")
META = {"task": "games/xor", "episodes": 4, "horizon": 9, "env": {"n": 3}}


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A checkpoint of two replicas; notes which environment is made."""
    spec = toy_dataset().spec
    noted = SimpleNamespace(meta=dict(META), made=[], spec=spec, other=spec, closed=0)
    learner = SimpleNamespace(
        replicas=2, spec=spec, seeds=[5, 6], updates=70, name="bc", dtype="float64", policy=lambda: POLICY,
        finite=lambda: np.array([True, True]),
    )  # fmt: skip

    def close() -> None:
        noted.closed += 1

    def make_env(task: str, copies: int, **options: Any) -> Any:
        noted.made.append((task, copies, options))
        return SimpleNamespace(spec=noted.other, close=close)

    def load_learner(file: Path, device: str, replicas: Any = None, acting: Any = None) -> Any:
        assert replicas is None
        noted.loaded = (file, device, acting)
        return learner

    saved = "marlzoo.training.checkpoint"
    monkeypatch.setattr(f"{saved}.find_checkpoint", lambda path, by_team: Path("found.npz"))
    monkeypatch.setattr(
        f"{saved}.load_saved", lambda path: SimpleNamespace(meta=noted.meta, datasets=["a", "a"])
    )
    monkeypatch.setattr(f"{saved}.load_learner", load_learner)
    monkeypatch.setattr("marlzoo.families.make_env", make_env)
    return noted


def test_an_evaluation_repeats_the_trainings_own(
    watch: Callable[[str], None], trained: SimpleNamespace
) -> None:
    watch("training.evaluation:evaluate")
    found = asked(lambda: marlzoo.evaluate_run("run"))
    assert trained.made == [("games/xor", 8, {"n": 3})]
    assert found["seeds"] == [derive(5, "evaluate", 70), derive(6, "evaluate", 70)]
    assert (found["horizon"], found["dtype"], found["policy"]) == (9, "float64", POLICY)
    assert trained.loaded == (Path("found.npz"), "cpu", None)
    assert trained.closed == 1
    trained.meta = {"task": "games/xor"}
    assert asked(lambda: marlzoo.evaluate_run("run"))["horizon"] is None
    assert trained.made[-1] == ("games/xor", 20, {})


def test_what_an_evaluation_is_given_goes_before_the_trainings(
    watch: Callable[[str], None], trained: SimpleNamespace
) -> None:
    watch("training.evaluation:evaluate")
    found = asked(
        lambda: marlzoo.evaluate_run(
            "run", env={"n": 1}, episodes=2, horizon=5, seed=0, device="meta", acting={"a": 1}
        )
    )
    assert trained.made == [("games/xor", 4, {"n": 1})]
    assert found["seeds"] == [derive(0, "evaluate", 0), derive(0, "evaluate", 1)]
    assert (found["horizon"], found["device"]) == (5, "meta")
    assert trained.loaded == (Path("found.npz"), "meta", {"a": 1})
    found = asked(
        lambda: marlzoo.evaluate_run("run", task="games/bridge")
    )  # limit and options are the other task's
    assert (trained.made[-1], found["horizon"]) == (("games/bridge", 8, {}), None)
    assert _starts([5, 6], 70, -1) == _starts([5, 6], 70, -2)


def test_what_an_evaluation_cannot_do(trained: SimpleNamespace) -> None:
    for wrong in ({"episodes": -1}, {"horizon": -1}):
        with pytest.raises(ConfigError, match="must not be negative"):
            marlzoo.evaluate_run("run", **wrong)
    trained.other = toy_dataset("discrete").spec
    with pytest.raises(
        ConfigError, match=r"than games/xor: .* with --task, or the options of its environment with"
    ):
        marlzoo.evaluate_run("run")
    assert trained.closed == 1
    trained.meta = {}
    with pytest.raises(ConfigError, match="does not name its task"):
        marlzoo.evaluate_run("run")


def test_scores_are_each_replicas_own(
    trained: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    played = SimpleNamespace(
        returns=np.array([[1.0, 3.0], [5.0, np.nan]]), lengths=np.array([[2, 4], [6, 8]]), wins=None,
        seconds_per_action=2e-6,
    )  # fmt: skip
    monkeypatch.setattr("marlzoo.training.evaluation.evaluate", lambda *given, **named: played)
    one, two = marlzoo.evaluate_run("run", episodes=2)
    assert (one.method, one.task, one.seed, one.updates, one.episodes) == ("bc", "games/xor", 5, 70, 2)
    assert (one.mean_return, one.std_return, one.mean_length, one.win_rate) == (2.0, 1.0, 3.0, None)
    assert one.action_us == pytest.approx(2.0)
    assert one.execution == "shared_randomness"
    assert (two.seed, two.mean_length) == (6, 7.0)
    played.wins = np.array([[True, False], [True, True]])
    assert [score.win_rate for score in marlzoo.evaluate_run("run")] == [0.5, 1.0]
    assert main(["eval", "run", "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert [line["mean_return"] for line in lines] == [2.0, None]  # JSON has no NaN
    assert main(["eval", "run"]) == 0
    printed = capsys.readouterr().out.splitlines()[0]
    number = "seed 5, 70 updates: return 2.0 ± 1.0 over 4 episodes of 3 steps, won 50 %, 2 us per action"
    assert printed == f"bc (shared randomness execution) on games/xor, {number}"
    monkeypatch.setattr(POLICY, "execution", "decentralized")
    assert main(["eval", "run"]) == 0
    assert capsys.readouterr().out.splitlines()[0] == f"bc on games/xor, {number}"
    assert _plain({"a": [float("nan"), 1.0], "b": {"c": float("inf")}}) == {
        "a": [None, 1.0],
        "b": {"c": None},
    }


def test_results_are_verified_where_they_usually_are(
    watch: Callable[[str], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    watch("commands.verification:verify")
    assert asked(doctor_verify)["folders"] == []
    (tmp_path / "results").mkdir()
    assert asked(doctor_verify)["folders"] == [Path("results")]
    assert asked(lambda: doctor_verify(["other"]))["folders"] == [Path("other")]


def test_one_task_of_all_datasets() -> None:
    with pytest.raises(ConfigError, match="episodes is 0; a run is evaluated"):
        marlzoo.train_method("bc", "d", task="mpe/spread", episodes=0)
    with pytest.raises(ConfigError, match=r"several tasks \(games/bridge, games/xor\)"):
        marlzoo.train_method("bc", ["games/xor/marlzoo/D1", "games/bridge/marlzoo/optimal"])
    with pytest.raises(ConfigError, match=r"^setting 'lr' of BCConfig is -1"):  # it speaks of no suite
        marlzoo.train_method("bc", "games/xor/marlzoo/D1", settings={"lr": -1.0})
    with pytest.raises(DataError):
        marlzoo.train_method("bc", "no/such/data/set")


def test_arguments_of_training_arrive(watch: Callable[[str], None], tmp_path: Path) -> None:
    watch("benchmarks.runner:run_suite")
    found = asked(lambda: marlzoo.train_method("bc", "games/xor/marlzoo/D1"))
    suite = found["suite"]
    assert (suite.name, suite.seeds, suite.updates, suite.eval_every) == (
        "train-bc-games-xor",
        (0,),
        100_000,
        5000,
    )
    assert (suite.episodes, suite.horizon, suite.precision) == (10, 0, "float32")
    assert suite.data == (Data("games/xor", file="games/xor/marlzoo/D1"),)
    assert (found["out"], found["max_replicas"], found["check_data"], found["force"]) == (
        Path("results"),
        20,
        True,
        False,
    )
    place = Place(on="slurm", partition="p")
    found = asked(
        lambda: marlzoo.train_method(
            "bc", [tmp_path / "d"], task="t/a", seeds=[3], env={"n": 1}, updates=7, eval_every=6, episodes=5,
            horizon=4, device="cuda", precision="bf16", out=tmp_path, name="mine", log=["x"], max_replicas=3,
            threads=2, place=place, check_data=False, force=True, settings={"hidden": 8}, preset="defaults",
        )
    )  # fmt: skip
    data = (Data("t/a", file=str(tmp_path / "d"), env={"n": 1}),)
    assert found["suite"] == Suite(
        name="mine", data=data, learners=(Learner("bc", {"hidden": 8}, preset="defaults"),), seeds=(3,), updates=7,
        eval_every=6, episodes=5, horizon=4, precision="bf16",
    )  # fmt: skip
    assert (found["out"], found["device"], found["max_replicas"], found["log"]) == (
        tmp_path,
        "cuda",
        3,
        ["x"],
    )
    assert (found["check_data"], found["force"], found["split"], found["place"]) == (
        False,
        True,
        Split(threads=2),
        place,
    )


def test_the_preset_of_a_command_arrives(
    watch: Callable[[str], None], capsys: pytest.CaptureFixture[str]
) -> None:
    """Settings that it has need not be repeated, others are told apart from it and not from the task's preset."""
    watch("benchmarks.runner:run_suite")
    data = ["--data", "games/xor/marlzoo/D1"]
    given = ["train", "qmix_cql", *data, "--preset=smac", "--hidden", "8", "--history", "mlp"]
    (learner,) = asked(lambda: main(given))["suite"].learners
    assert learner == Learner("qmix_cql", {"hidden": 8}, preset="smac")
    assert main(["train", "qmix_cql", *data, "--preset", "--hidden", "8"]) == 2
    assert "unknown preset" not in capsys.readouterr().err
    watch("registry:make")
    assert asked(lambda: main([*given, "--episodes", "0"]))["preset"] == "smac"
    assert asked(lambda: main(["train", "qmix_cql", *data, "--episodes", "0"]))["preset"] is None
    online = ["train", "hatrpo", "--task", "mpe/spread"]
    assert asked(lambda: main([*online, "--preset", "mamujoco"]))["preset"] == "mamujoco"
    assert asked(lambda: main(online))["preset"] is None


def test_a_preset_of_other_tasks_is_not_taken_without_a_word(
    watch: Callable[[str], None], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = toy_dataset("discrete")
    file = marlzoo.save_dataset(data.with_card(replace(data.card, task="mine/a")), tmp_path / "mine.npz")
    watch("benchmarks.runner:run_suite")
    asked(lambda: main(["train", "icq", "--data", str(file)]))
    assert capsys.readouterr().out == (
        "icq has no preset for mine/a and starts from that of smac; --preset NAME chooses another, "
        "--preset defaults none\n"
    )
    for given in (["--data", str(file), "--preset", "smac"], ["--data", "games/xor/marlzoo/D1"]):
        asked(partial(main, ["train", "icq", *given]))
        assert capsys.readouterr().out == ""


def test_several_downloads(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that is not published is found before the first is fetched."""
    fetched: list[str] = []

    def data_download(name: str, **_: Any) -> Path:
        fetched.append(name)
        return Path(f"{len(fetched)}.hdf5")

    monkeypatch.setattr("marlzoo.commands.data.data_download", data_download)
    names = [f"mamujoco/ant-2x4/omiga/{quality}" for quality in ("expert", "medium")]
    assert main(["data", "download", *names, "no/such/data/set"]) == 2
    assert (fetched, "no/such/data/set" in capsys.readouterr().err) == ([], True)
    assert main(["data", "download", *names, "--from", "file"]) == 2
    assert "--from is a file of one dataset, and 2 are named" in capsys.readouterr().err
    assert main(["data", "download", *names]) == 0
    out, err = capsys.readouterr()
    assert (fetched, out.split()) == (names, ["1.hdf5", "2.hdf5"])
    assert "Next: marlzoo data check 1.hdf5" in err


def test_estimates_without_an_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    nan = float("nan")
    lines = [
        Estimate(3, "fqe", 2.0, nan, nan, 0.5, None, 1.0),
        Estimate(4, "pdwis", nan, nan, nan, 0.5, 0.0, 1.0),
    ]
    monkeypatch.setattr("marlzoo.offpolicy.ope.ope", lambda *given, **named: lines)
    monkeypatch.setattr("marlzoo.cli.judging._next", lambda options: "marlzoo eval run")  # there is none
    assert main(["ope", "run", "--data", "d", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [(line["value"], line["low"]) for line in found] == [(2.0, None), (None, None)]
    assert main(["ope", "run", "--data", "d"]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first == "seed 3, fitted Q evaluation: 2.00, no interval (gamma 0.5; the data's own 1.00)"
    assert second.endswith("none, because no logged episode agrees with the team")


def test_a_published_checksum_goes_before_a_recorded_one(monkeypatch: pytest.MonkeyPatch) -> None:
    catalog = importlib.import_module("marlzoo.data.catalog")
    entry = replace(catalog.find_entry("mamujoco/hopper-3x1/omiga/expert"), sha256="published")
    monkeypatch.setattr(catalog, "published", lambda: {entry.name: entry})
    monkeypatch.setattr("marlzoo.data.download.recorded_checksum", lambda entry: "recorded")
    assert marlzoo.data_card(entry.name)["published"]["sha256"] == "published"
    monkeypatch.setattr(catalog, "published", lambda: {entry.name: replace(entry, sha256="")})
    assert marlzoo.data_card(entry.name)["published"]["sha256"] == "recorded"
