"""Plugins, environments and settings that would take others down: refused or named, by one line."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import torch

import marlzoo
from marlzoo import families, plugins, registry
from marlzoo.cli import main
from marlzoo.commands import diagnosis
from marlzoo.errors import ConfigError, PluginError, UnknownNameError
from marlzoo.system import provenance
from marlzoo.system.files import require_folder_name
from marlzoo.system.machine import home
from tests.toys import toy_spec


def declare(monkeypatch: pytest.MonkeyPatch, name: str, value: str, group: str) -> None:
    """As if an installed package declared one more entry."""
    true = entry_points

    def entries(**chosen: Any) -> Any:
        more = [EntryPoint(name, value, group)] if chosen.get("group") == group else []
        return [*true(**chosen), *more]

    monkeypatch.setattr(plugins, "entry_points", entries)


def test_a_family_in_use_is_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    declare(monkeypatch, "games", "somebody.games", plugins.ENVIRONMENTS)
    with pytest.raises(
        PluginError, match=r"'games' is declared by marlzoo\.envs\.games and by somebody\.games"
    ):
        marlzoo.make_env("games/xor")


def test_a_broken_method_hides_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    package = tmp_path / "brokenzoo"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "half.py").write_text("def half(:\n")
    monkeypatch.syspath_prepend(tmp_path)
    declare(monkeypatch, "broken", "brokenzoo", plugins.METHODS)
    assert main(["list", "methods", "--json"]) == 0
    told = capsys.readouterr()
    assert {"omiga", "half"} <= {entry["name"] for entry in json.loads(told.out)}
    assert "half.py: cannot be read (" in caplog.text
    assert main(["train", "half", "--data", "x.hdf5"]) == 2
    assert "importing brokenzoo.half failed: SyntaxError" in capsys.readouterr().err


@pytest.mark.parametrize(
    "text", ["raise RuntimeError('no license')", "import sys; sys.exit(3)", "TASKS = 5", "x = ("]
)
def test_a_broken_environment_hides_no_other(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    (tmp_path / "brokenenv.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", "brokenenv")
    monkeypatch.delitem(sys.modules, "brokenenv", raising=False)
    true = plugins.entries
    monkeypatch.setattr(  # one family is enough, and importing all takes long
        families, "entries", lambda group: [entry for entry in true(group) if entry.name == "games"]
    )
    assert main(["list", "tasks", "--json"]) == 0
    assert "games/xor" in capsys.readouterr().out
    assert "environment family 'brokenenv'" in caplog.text
    with pytest.raises(UnknownNameError, match="Did you mean games/bridge"):
        marlzoo.make_env("games/brdge")
    monkeypatch.delitem(sys.modules, "brokenenv", raising=False)


def test_an_environment_that_ends_the_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "leaving.py").write_text(
        "import sys\nfrom marlzoo.envs.games import spec as of\nTASKS = ('x',)\n"
        "def spec(name):\n    return of('xor')\n\ndef make(name, num_envs):\n    sys.exit()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", "leaving")
    with pytest.raises(PluginError, match="leaving/x: making the environment ended the process"):
        marlzoo.make_env("leaving/x")
    with pytest.raises(ConfigError, match="games/xor: name is not an option"):
        marlzoo.make_env("games/xor", **{"name": "x"})  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70, True, 1.5])
def test_seeds_that_no_table_can_hold(seed: Any) -> None:
    with pytest.raises(ConfigError, match=r"from 0 to 2\*\*63 - 1"):
        marlzoo.make("bc", toy_spec(), seeds=[seed])
    marlzoo.make("bc", toy_spec(), seeds=[2**63 - 1])


@pytest.mark.parametrize("name", ["", "..", "../x", "/tmp/x", "a/b", ".hidden", "a b", "a\\b", "c:x"])
def test_names_of_folders(name: str) -> None:
    with pytest.raises(ConfigError, match="the name becomes a folder"):
        require_folder_name(name)


def test_names_stay_in_the_results_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["--data", "games/xor/marlzoo/D3", "--updates", "1", "--hidden", "4"]
    online = ["mappo", "--task", "games/xor", "--steps", "8"]
    for command in (["bc", *data], ["bc", *data, "--episodes", "0"], online):
        assert main(["train", *command, "--out", "out", "--name", "../x"]) == 2
        assert "the name becomes a folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_user_without_a_home_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MARLZOO_HOME", raising=False)

    def none() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", none)
    with pytest.raises(ConfigError, match="MARLZOO_HOME"):
        home()


# ---- what is found, and with which settings --------------------------------------------------------------

PLUGIN = {
    "__init__": "",
    "_private": "raise RuntimeError",
    "mine": """
from marlzoo.baselines.bc import BC  # another method's class is none of this file's
class Mine(BC):
    presets = {"mamujoco": {"hidden": 4}, "mamujoco-wide": {"hidden": 16}, "games": {"hidden": 5}}
""",
    "two": "from mine_zoo.mine import Mine\nclass A(Mine): ...\nclass B(Mine): ...\n",
}


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed package with a method of one's own."""
    package = tmp_path / "mine_zoo"
    package.mkdir()
    for name, text in PLUGIN.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    declare(monkeypatch, "mine", "mine_zoo", plugins.METHODS)
    for name in ("mine_zoo", "mine_zoo.mine", "mine_zoo.two"):
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("plugin")
def test_a_methods_file_holds_one_method() -> None:
    assert {"mine", "two"} <= set(registry.method_names())
    assert not any(name.startswith("_") for name in registry.method_names())
    assert registry.find_method("mine").__name__ == "Mine"
    with pytest.raises(
        PluginError, match=r"mine_zoo\.two defines 2 subclasses of Algorithm; it must define one"
    ):
        registry.find_method("two")


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    ("task", "name", "found", "hidden"),
    [
        ("mamujoco/x", None, "mamujoco", 4),
        ("mamujoco/x", "wide", "mamujoco-wide", 16),
        ("mamujoco/x", "mamujoco-wide", "mamujoco-wide", 16),
        ("mamujoco/x", "games", "games", 5),
        ("mamujoco/x", "defaults", "defaults", 256),
        ("games/x", None, "games", 5),
        ("moma/x", "wide", "mamujoco-wide", 16),  # MOMA-PPO's teams take MuJoCo's
        ("moma/x", "moma-wide", "mamujoco-wide", 16),
        ("own/x", None, "mamujoco", 4),
        ("", None, "defaults", 256),
        ("lbf/x", None, "defaults", 256),  # its settings are those of smac, which this method has none for
    ],
)
def test_where_a_learner_starts_from(task: str, name: str | None, found: str, hidden: int) -> None:
    spec = replace(toy_spec(), task=task)
    made = marlzoo.make("mine", spec, preset=name)
    assert (made.preset, made.config.hidden, made.dtype) == (found, hidden, torch.float32)  # type: ignore[attr-defined]
    other = marlzoo.make(
        "mine", spec, seeds=[0, 1], preset=name, hidden=3, lr=[0.1, 0.2], dtype=torch.float64
    )
    assert (other.config.hidden, other.dtype) == (3, torch.float64)  # type: ignore[attr-defined]
    assert [config.lr for config in other.configs] == [0.1, 0.2]


def test_own_kinds_of_actions_have_a_benchmark_each() -> None:
    assert registry.SIMILAR == {"continuous": "mamujoco", "discrete": "smac"}


@pytest.mark.usefixtures("plugin")
def test_what_identifies_a_methods_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file, what samples its data and evaluates it; of a Dyna form also what makes it one."""
    monkeypatch.setattr(provenance, "source_hash", lambda modules: " ".join(sorted(modules)))
    shared = ["marlzoo.data.sampler", "marlzoo.training.evaluation"]
    for name, own in (("mine", ["mine_zoo.mine"]), ("dyna_mine", ["marlzoo.models.dyna", "mine_zoo.mine"])):
        assert registry.code_hash(registry.find_method(name)) == " ".join(sorted([*own, *shared]))


@pytest.mark.parametrize("tasks", ["5", "'xy'"])
def test_a_family_lists_its_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tasks: str) -> None:
    (tmp_path / "untold.py").write_text(f"TASKS = {tasks}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", "untold")
    monkeypatch.delitem(sys.modules, "untold", raising=False)
    with pytest.raises(PluginError, match="environment family 'untold': untold lists no TASKS"):
        families.family_tasks("untold")


def test_names_are_whole() -> None:
    assert all(task.startswith("games/") for task in families.family_tasks("games"))
    assert families.task_spec("games/xor").task == "games/xor"
    assert families.make_env("games/xor", 3).num_envs == 3


# ---- environments of one's own ---------------------------------------------------------------------------

SHAPE = (
    "from marlzoo.spec import Spec\n"
    "SHAPE = dict(n_agents=2, obs_size=2, state_size=4, action_kind='discrete', action_size=3, horizon=5)\n"
    "TASKS = ('a',)\n"
)
MADE = "def make(name, num_envs): pass\n"
FAULTY = {
    "raising at import": "raise RuntimeError('no license')",
    "no spec": f"{SHAPE}{MADE}",
    "no make": f"{SHAPE}def spec(name): return Spec(**SHAPE)\n",
    "a spec that raises": f"{SHAPE}{MADE}def spec(name): raise ValueError('no such map')\n",
    "a spec that is none": f"{SHAPE}{MADE}def spec(name): return SHAPE\n",
    "a spec that is refused": f"{SHAPE}{MADE}def spec(name): return Spec(**dict(SHAPE, horizon=0))\n",
    "a spec of no name": f"{SHAPE}{MADE}def spec(): return Spec(**SHAPE)\n",
    "a number for a name": f"{SHAPE}{MADE}TASKS = (1,)\ndef spec(name): return Spec(**SHAPE)\n",
    "a name with a slash": f"{SHAPE}{MADE}TASKS = ('x/a',)\ndef spec(name): return Spec(**SHAPE)\n",
}
CAUSES = {
    "raising at import": "importing faulty failed: RuntimeError: no license; correct faulty",
    "no spec": "faulty has no function spec; correct faulty",
    "no make": "faulty has no function make; correct faulty",
    "a spec that raises": r"faulty/a: spec\('a'\) failed: ValueError: no such map; correct faulty",
    "a spec that is none": r"faulty/a: spec\('a'\) returned a dict, not a marlzoo.Spec; correct faulty",
    "a spec that is refused": r"faulty/a: spec\('a'\): spec: horizon must be a positive integer, got 0",
    "a spec of no name": r"faulty/a: spec\('a'\) failed: TypeError: spec\(\) takes 0 positional arguments",
    "a number for a name": "faulty.TASKS holds 1; a task's name is a text without slash",
    "a name with a slash": "faulty.TASKS holds 'x/a'; a task's name is a text without slash",
}


@pytest.fixture
def few_families(monkeypatch: pytest.MonkeyPatch) -> None:
    """One family is enough, and importing all takes long."""
    true = plugins.entries
    monkeypatch.setattr(
        families,
        "entries",
        lambda group: [e for e in true(group) if group != plugins.ENVIRONMENTS or e.name == "games"],
    )


def own_environment(
    folder: Path, monkeypatch: pytest.MonkeyPatch, text: str, name: str = "faulty", named: str = ""
) -> None:
    """A module of one's own that marlzoo is told about."""
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", named or name)
    monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.mark.usefixtures("few_families")
@pytest.mark.parametrize("fault", FAULTY)
def test_a_faulty_environment_is_named_and_stops_only_who_needs_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    fault: str,
) -> None:
    own_environment(tmp_path, monkeypatch, FAULTY[fault])
    monkeypatch.chdir(tmp_path)
    assert main(["list", "tasks", "--json"]) == 0
    assert "games/xor" in capsys.readouterr().out
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1
    assert re.search(CAUSES[fault], told[0])

    finding = diagnosis._environment("faulty")
    assert (finding.state, finding.remedy) == ("missing", "")
    assert re.search(CAUSES[fault], finding.found)

    without = (  # nobody here asks for the family
        ["list", "datasets"],
        ["data", "download", "--list"],
        [
            "train",
            "bc",
            "--data",
            "games/xor/marlzoo/D3",
            "--updates",
            "1",
            "--episodes",
            "0",
            "--hidden",
            "4",
        ],
    )
    for command in without:
        assert main(command) == 0, command
    assert main(["data", "inspect", "games/xo/marlzoo/good"]) == 2
    assert "There is no task games/xo" in capsys.readouterr().err

    collected = ["data", "collect", "faulty/a", "--quality", "random", "--transitions", "9"]
    for command in (collected, ["train", "mappo", "--task", "faulty/a", "--steps", "9"]):
        assert main(command) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        if "TASKS" not in lines[0]:
            assert re.search(CAUSES[fault], lines[0]), lines
    monkeypatch.delitem(sys.modules, "faulty", raising=False)


@pytest.mark.usefixtures("few_families")
@pytest.mark.parametrize(
    ("named", "remedy"),
    [
        ("faulty:other", "separate modules by commas: faulty,other"),
        ("faulty;other", "separate modules by commas: faulty,other"),
        ("faulty other", "separate modules by commas: faulty,other"),
        ("here/faulty.py:other.py", "separate modules by commas: faulty,other"),
        ("faulty.py", "write faulty, without folder and ending"),
        ("/home/me/faulty.py", "write faulty, without folder and ending"),
        (r"C:\me\faulty.py", "write faulty, without folder and ending"),
        (".faulty", "write faulty, without folder and ending"),
        ("my-env", "write it as Python imports it"),
        ("faulty2", "name its folder in PYTHONPATH, or correct the name"),
    ],
)
def test_how_modules_are_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    named: str,
    remedy: str,
) -> None:
    text = f"{SHAPE}{MADE}def spec(name): return Spec(**SHAPE)\n"
    own_environment(tmp_path, monkeypatch, text, named=named)
    assert main(["list", "tasks"]) == 0
    (warning,) = [record.getMessage() for record in caplog.records]
    assert remedy in warning
    with pytest.raises(UnknownNameError, match="family of tasks 'faulty'") as error:
        marlzoo.make_env("faulty/a")
    assert remedy in str(error.value) or "faulty2" in named
    for together in ("faulty,games.xor", "faulty, faulty"):
        monkeypatch.setenv("MARLZOO_ENVIRONMENTS", together)
        assert families.task_spec("faulty/a").n_agents == 2


@pytest.mark.usefixtures("few_families")
def test_a_family_of_two_modules_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"{SHAPE}{MADE}def spec(name): return Spec(**SHAPE)\n"
    own_environment(tmp_path, monkeypatch, text, named="faulty,elsewhere.games")
    assert [entry["name"] for entry in marlzoo.list_tasks()] == ["faulty/a"]
    assert "the family 'games' is taken by marlzoo.envs.games; rename elsewhere.games" in caplog.text


@pytest.mark.parametrize(
    ("made", "cause"),
    [
        ("raise OSError('no display')", "making the environment failed: OSError: no display; correct faulty"),
        ("return 3", r"make\('a', num_envs=1\) returned a int, not a marlzoo.envs.base.BatchedEnv"),
        ("raise MemoryError", None),
    ],
)
def test_what_make_may_not_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: str, cause: str | None
) -> None:
    text = f"{SHAPE}def spec(name): return Spec(**SHAPE)\ndef make(name, num_envs): {made}\n"
    own_environment(tmp_path, monkeypatch, text)
    with pytest.raises(MemoryError if cause is None else PluginError, match=cause):
        marlzoo.make_env("faulty/a")


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"n_agents": 3, "state_size": 6}, "n_agents: 2 != 3; state_size: 4 != 6"),
        ({"obs_size": 3}, "obs_size: 2 != 3"),
        ({"action_size": 4}, "action_size: 3 != 4"),
        ({"action_kind": "continuous"}, "action_kind: discrete != continuous"),
        ({"reward_per_agent": True}, "reward_per_agent: False != True"),
    ],
)
def test_spec_and_environment_are_compared_before_a_step(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, Any],
    cause: str,
) -> None:
    own_environment(
        tmp_path,
        monkeypatch,
        f"{SHAPE}from marlzoo.envs.games import make as game\n"
        f"def spec(name): return Spec(**dict(SHAPE, **{change!r}))\n"
        "def make(name, num_envs):\n"
        "    env = game('xor', num_envs)\n"
        "    env.spec = Spec(**SHAPE)\n"
        "    return env\n",
    )
    assert main(["data", "collect", "faulty/a", "--quality", "random", "--transitions", "9"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the environment that make(...) returns has another shape than spec(...) states" in line
    assert cause in line
    assert "let both of faulty say the same" in line
