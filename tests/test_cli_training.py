"""``marlzoo train``, ``eval``, ``bench`` and ``table``: what they write, print and hand on to each other."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from marlzoo.benchmarks.results import ResultsFile

import marlzoo
from marlzoo.data.convert import convert
from marlzoo.data.dataset import Dataset
from marlzoo.data.formats.native import write_omiga
from marlzoo.data.load import load_dataset
from marlzoo.families import task_spec
from marlzoo.registry import find_method
from marlzoo.system.array_files import load_arrays
from marlzoo.training.checkpoint import save
from tests.command_line import call
from tests.recordings import HOPPER
from tests.test_results import ROW

pytestmark = pytest.mark.usefixtures("own_home")

TINY = ["--updates", "4", "--eval-every", "2", "--episodes", "2", "--horizon", "5", "--hidden", "8"]


def test_train_evaluate_and_tabulate(
    capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path
) -> None:
    arguments = ["train", "omiga", "--data", recording, "--alpha", 1, "--seeds", 4, 5, *TINY]
    status, out, _ = call(capsys, *arguments)
    assert status == 0
    assert "Settings: alpha=1.0, hidden=8." in out
    folder = tmp_path / "results" / "train-omiga-mamujoco-hopper-3x1"
    rows = {row.seed: row for row in ResultsFile(folder / "rows.csv").rows() if row.updates == 4}
    assert set(rows) == {4, 5}
    (checkpoint,) = (folder / "checkpoints").glob("*.npz")
    status, out, _ = call(capsys, "eval", checkpoint, "--episodes", 2, "--horizon", 5, "--json")
    assert status == 0
    for line in json.loads(out):  # the same starts as in training, so the same numbers
        assert line["mean_return"] == rows[line["seed"]].mean_return
    again = call(capsys, "eval", checkpoint, "--json")[1]  # the checkpoint knows how it was evaluated
    timed = re.compile(r'"action_us": [0-9.]+')
    assert timed.sub("", again) == timed.sub("", out) != out
    assert "seed 4, 4 updates: return" in call(capsys, "eval", checkpoint, "--episodes", 1, "--seed", 7)[1]
    assert "| dataset |" in call(capsys, "table", folder, "--format", "markdown")[1]
    assert r"\toprule" in call(capsys, "table", folder, "--format", "latex")[1]
    assert "iqm_low" in call(capsys, "table", folder, "--format", "csv")[1]
    assert "Probability" not in call(capsys, "table", folder)[1]  # one learner only
    assert call(capsys, "table", folder, "--write", tmp_path / "tables")[0] == 0
    assert (tmp_path / "tables" / "table.tex").exists()


def test_a_training_ends_with_its_own_checkpoint(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder holds those of runs with other settings, too."""
    small = [
        "train",
        "bc",
        "--data",
        "games/xor/marlzoo/D1",
        "--updates",
        2,
        "--eval-every",
        2,
        "--episodes",
        1,
    ]

    def named(width: int) -> list[str]:
        return re.findall("Or: marlzoo eval (.*)", call(capsys, *small, "--hidden", width)[1])

    first = {width: named(width) for width in (4, 5, 6)}
    assert sorted(found for (found,) in first.values()) == sorted(
        str(file.relative_to(tmp_path)) for file in (tmp_path / "results/train-bc-games-xor").glob("*/*.npz")
    )
    assert {width: named(width) for width in first} == first  # nothing is trained

    def fail(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(find_method("bc"), "update", fail)
    assert named(7) == []


def test_data_of_a_task_without_a_simulator(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Trained on, judged and exported; whoever wants them evaluated is told how to go on without."""
    rng = np.random.default_rng(0)
    episode = {"obs": rng.normal(size=(4, 2, 3)), "action": np.zeros((3, 2), int), "reward": np.ones(3)}
    for number, task in enumerate(("lab/walk", "games/xo", "")):
        file = tmp_path / f"mine{number}.hdf5"
        marlzoo.save_dataset(Dataset.from_episodes([episode] * 4, task=task, n_actions=2), file)
        given = ["train", "bc", "--data", file, "--updates", 2, "--hidden", 8, "--name", f"of-{task[:3]}"]
        status, _, told = call(capsys, *given)
        assert (status, "trained on with --episodes 0" in told.splitlines()[-1]) == (2, True)
        assert ("Did you mean games/xor" in told) == (task == "games/xo")
        status, out, told = call(capsys, *given, "--episodes", 0)
        folder = tmp_path / "results" / f"of-{task[:3]}"
        (checkpoint,) = (folder / "checkpoints").iterdir()
        assert (status, f"Checkpoint: {checkpoint.relative_to(tmp_path)}" in out) == (0, True)
        assert "Next: marlzoo ope " in told
        judged = ["ope", folder, "--data", file, "--updates", 2, "--members", 2, "--hidden", 8]
        status, out, told = call(capsys, *judged)
        assert (status, "fitted Q evaluation" in out) == (0, True)
        assert f"Next: marlzoo export {folder}" in told
        assert call(capsys, "export", folder, "--format", "torch", "--out", tmp_path / "team.pt2")[0] == 0


@pytest.mark.parametrize("task", ["lab/walk", "games/xo", ""])
@pytest.mark.parametrize("command", ["eval", "eval --cross-play", "render -o team.gif --seed 0", "finetune"])
def test_who_plays_a_run_of_a_task_without_a_simulator_is_told_what_can_be_done(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, task: str, command: str
) -> None:
    spec = replace(task_spec("games/xor"), task=task)
    learner = marlzoo.make("cql_ma", spec, seeds=[0, 1], hidden=8)
    save(tmp_path / "run.npz", learner, meta={"task": task})
    name, *options = command.split()
    steps = ["--env-steps", 100, "--data-share", 0, "--data-share-end", 0] if name == "finetune" else []
    status, _, told = call(capsys, name, tmp_path / "run.npz", *options, *steps)
    cause = f"nothing here plays {task}, the task of its training" if task else "does not name its task"
    assert (status, f"{tmp_path / 'run.npz'}: {cause}" in told) == (2, True)
    assert "marlzoo ope estimates returns from data" in told
    assert ("docs/own_environment.md" in told) == bool(task)
    assert ("Did you mean games/xor" in told) == (task == "games/xo")
    # A slip of this command is named as one.
    told = call(capsys, name, tmp_path / "run.npz", *options, *steps, "--task", "games/xo")[2]
    assert told.count("unknown task 'games/xo'. Did you mean games/xor") == 1
    assert "training" not in told


def test_data_without_a_card_are_trained_on_and_the_checkpoint_keeps_the_task(
    capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path
) -> None:
    data = load_dataset(recording)
    bare = {
        name: getattr(data, name) for name in ("obs", "action", "reward", "terminal", "truncated", "starts")
    }
    np.savez(tmp_path / "bare.npz", **bare)
    convert(tmp_path / "bare.npz", tmp_path / "bare.hdf5", horizon=1000)
    given = ["train", "bc", "--data", tmp_path / "bare.hdf5", *TINY, "--env", "threads=1"]
    assert "give it with --task" in call(capsys, *given)[2]
    assert call(capsys, *given, "--task", HOPPER)[0] == 0
    (checkpoint,) = (tmp_path / "results" / "train-bc-mamujoco-hopper-3x1" / "checkpoints").glob("*.npz")
    meta = load_arrays(checkpoint)[1]
    assert (meta["task"], meta["env"], meta["horizon"], meta["episodes"]) == (HOPPER, {"threads": 1}, 5, 2)
    status, out, _ = call(capsys, "eval", checkpoint, "--json")
    assert (status, json.loads(out)[0]["task"], json.loads(out)[0]["episodes"]) == (0, HOPPER, 2)
    # without the simulator, and without a task
    few = ["train", "bc", "--data", tmp_path / "bare.hdf5", "--updates", 4, "--episodes", 0, "--hidden", 8]
    status, out, told = call(capsys, *few)
    assert (status, "Trained for 4 updates, not evaluated, in 0:00:" in told) == (0, True)
    assert "Next: marlzoo ope " in told  # no simulator is known
    assert "Nothing trained, the checkpoint has 4 updates already, in 0:00:" in call(capsys, *few)[2]
    assert "Trained for 4 updates, not evaluated," in call(capsys, *few, "--force")[2]
    (unevaluated,) = (tmp_path / "results" / "train-bc" / "checkpoints").glob("*.npz")
    assert unevaluated.name in out
    assert "does not name its task; give it with --task" in call(capsys, "eval", unevaluated)[2]
    assert call(capsys, "eval", unevaluated, "--task", HOPPER, "--episodes", 1, "--horizon", 3)[0] == 0
    assert "must not be negative" in call(capsys, "eval", unevaluated, "--episodes", -1)[2]


def test_without_evaluation_a_replica_that_diverged_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for name, size in (("small", 1.0), ("large", 1e38)):
        obs = np.full((3, 2, 2), size)
        episode = {"obs": obs, "action": np.zeros((2, 2, 1)), "reward": np.ones(2), "terminal": True}
        marlzoo.save_dataset(Dataset.from_episodes([episode]), tmp_path / f"{name}.hdf5")
    data = [tmp_path / f"{name}.hdf5" for name in ("small", "large")]
    command = ["train", "td3_bc", "--data", *data, "--seeds", 3, "--updates", 2, "--episodes", 0]
    status, out, _ = call(capsys, *command, "--out", tmp_path)
    (told,) = [line for line in out.splitlines() if line.startswith("Diverged")]
    assert status == 0
    assert told.startswith(f"Diverged: seed 3 on {data[1]}: its parameters are not finite")


def test_a_flavor_that_fits_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shape = task_spec("smac/3m", flavor="original")
    rng, rows = np.random.default_rng(0), 20
    data = Dataset.create(
        shape,
        obs=rng.random((rows, 3, shape.obs_size)),
        state=rng.random((rows, shape.state_size)),
        action=np.zeros((rows, 3), int),
        reward=np.ones(rows),
        terminal=np.arange(rows) == rows - 2,
        truncated=np.zeros(rows, bool),
        starts=[0],
        action_mask=np.ones((rows, 3, shape.action_size), bool),
    )
    write_omiga(data, tmp_path / "3m.hdf5")
    status, _, err = call(capsys, "train", "bc", "--data", tmp_path / "3m.hdf5", "--task", "smac/3m", *TINY)
    assert (status, "(--env flavor=original) the task has the shape of the data" in err) == (2, True)


def test_options_of_the_environment_reach_it(
    capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path
) -> None:
    given = ["train", "bc", "--data", recording, *TINY]
    assert call(capsys, *given, "--env", "threads=1", "action_mapping=concat")[0] == 0
    (checkpoint,) = (tmp_path / "results/train-bc-mamujoco-hopper-3x1/checkpoints").glob("*.npz")
    commands = ([*given, "--out", tmp_path / "other"], ["data", "check", recording], ["eval", checkpoint])
    for command in commands:
        assert (
            "unknown option of mamujoco/hopper-3x1 'thread'" in call(capsys, *command, "--env", "thread=1")[2]
        )
        assert "--env 'threads': write it as NAME=VALUE" in call(capsys, *command, "--env", "threads")[2]
    assert "data and environment agree" in call(capsys, "data", "check", recording, "--env", "threads=1")[1]


def test_train_online(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    small = ["--num-envs", 2, "--rollout", 8, "--batch-size", 16, "--epochs", 1, "--hidden", 8]
    status, _, _ = call(capsys, "train", "mappo", "--task", HOPPER, "--steps", 32, "--log-every", 1, *small)
    assert status == 0
    folder = tmp_path / "results" / "train-mappo-mamujoco-hopper-3x1"
    assert (folder / "curve.csv").read_text().splitlines()[0].startswith("seed,updates,steps")
    assert [line.split(",")[:2] for line in (folder / "metrics.csv").read_text().splitlines()[1:]] == [
        ["1", "0"], ["2", "0"],
    ]  # fmt: skip
    status, out, _ = call(capsys, "eval", folder / "checkpoint.npz", "--episodes", 1, "--horizon", 5)
    assert (status, f"mappo on {HOPPER}, seed 0, 2 updates" in out) == (0, True)


def test_train_online_with_options_of_the_environment(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    small = ["--num-envs", 2, "--rollout", 9, "--batch-size", 18, "--epochs", 1, "--hidden", 8]
    command = ["train", "mappo", "--task", "games/bridge", "--steps", 36, *small]
    assert call(capsys, *command, "--env", "horizon=9")[0] == 0
    checkpoint = tmp_path / "results" / "train-mappo-games-bridge" / "checkpoint.npz"
    team = marlzoo.load(checkpoint)
    assert (team.spec.horizon, team.env_options) == (9, {"horizon": 9})
    assert call(capsys, "eval", checkpoint, "--episodes", 1)[0] == 0  # in the environment of the training
    status, _, said = call(capsys, *command, "--env", "horizon=8")
    assert (status, "belongs to another" in said) == (2, True)


def test_runs_of_different_kinds_have_folders_of_their_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    offline = ["train", "qmix_cql", "--data", "games/xor/marlzoo/D3", "--updates", 2, "--history", "mlp"]
    online = ["train", "mappo", "--task", "games/xor", "--steps", 8, "--num-envs", 2, "--rollout", 4]
    small = ["--rollout", 2, "--learn-steps", 1, "--warmup", 0]
    finetune = ["finetune", "results/offline", "--env-steps", 24, *small, "--episodes", 2]
    assert call(capsys, *offline, "--name", "offline")[0] == 0
    assert call(capsys, *online, "--batch-size", 8, "--name", "online")[0] == 0
    (tmp_path / "results" / "file").touch()
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    taken = "results/offline holds the results of an offline run or a suite, .*; choose another --name"
    for command, place, message in [
        (finetune, ["--name", "offline"], taken),
        (online, ["--name", "offline"], taken),
        (offline, ["--name", "online"], "results/online holds an online training or a fine-tuning; choose"),
        (finetune, ["--name", "file"], "results/file is a file; name a folder for the results"),
        (online, ["--out", "results/file"], "results/file is a file; name a folder for the results"),
    ]:
        status, _, said = call(capsys, *command, *place)
        assert (status, bool(re.search(message, said))) == (2, True), said
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


def test_the_commands_that_are_named_next_can_be_pasted(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "my results"
    data = ["--data", "games/xor/marlzoo/D3", "--updates", 2, "--out", out]
    offline = ["train", "qmix_cql", *data, "--history", "mlp", "--episodes", 1]
    online = ["train", "mappo", "--task", "games/xor", "--steps", 8, "--num-envs", 2, "--rollout", 4]
    small = ["--rollout", 2, "--learn-steps", 1, "--warmup", 0]
    for command in (
        offline,
        [*offline, "--hidden", 8],  # other runs in the same folder
        [
            "finetune",
            out / "train-qmix_cql-games-xor",
            "--env-steps",
            24,
            *small,
            "--name",
            "f",
            "--out",
            out,
        ],
        [*online, "--batch-size", 8, "--name", "online", "--out", out],
        ["train", "bc", *data, "--episodes", 0],
        ["eval", out / "online", "--episodes", 1],
        ["new-method", "pasted", "--package", out / "package"],
    ):
        if command[0] == "finetune":
            command[1] = next((out / "train-qmix_cql-games-xor").rglob("*.npz"))
        status, said, progress = call(capsys, *command)
        assert status == 0
        lines = (said + progress).splitlines()
        told = [line for line in lines if re.search("Next: |Or: |shows all", line)]
        named = [word for line in told for word in shlex.split(line) if "my results" in word]
        assert named, said + progress
        for word in named:
            assert Path(word.rstrip(";")).exists(), word


def test_bench_with_changes(capsys: pytest.CaptureFixture[str], recording: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        f'updates = 4\nepisodes = 1\nhorizon = 5\n[[data]]\nfile = "{recording}"\n'
        '[[learners]]\nmethod = "omiga"\n[[learners]]\nmethod = "bc"\nconfig = { hidden = 8 }\n'
    )
    arguments = ["bench", "mine.toml", "--methods", "bc", "--seeds", 7, "--updates", 2, "--out", "out"]
    assert call(capsys, *arguments)[0] == 0
    rows = ResultsFile(tmp_path / "out" / "mine" / "rows.csv").rows()
    assert [(row.method, row.seed, row.updates) for row in rows] == [("bc", 7, 1), ("bc", 7, 2)]
    command = "marlzoo bench mine.toml --methods bc --seeds 7 --updates 2 --out out"
    assert f"`{command}`" in (tmp_path / "out" / "mine" / "table.md").read_text()


def test_what_bench_would_do_is_json_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing else is on standard output, as for the table."""
    monkeypatch.chdir(tmp_path)
    some = ("--methods", "bc", "--seeds", "0", "--updates", "2", "--set", "eval_every=1")
    _, out, _ = call(capsys, "bench", "xor", *some, "--show", "--json")
    shown = json.loads(out)
    assert (shown["name"], shown["seeds"], shown["updates"]) == ("xor", [0], 2)
    _, out, err = call(capsys, "bench", "xor", *some, "--dry-run", "--json", "--hours", "1")
    found = json.loads(out)
    assert {line["dataset"] for line in found} == {"games/xor D1", "games/xor D3"}
    assert [(line["runs"], line["missing"], line["left_out"]) for line in found] == [(1, 1, False)] * 2
    assert "By learner" in err


def test_table_of_several_places(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from dataclasses import replace

    ResultsFile(tmp_path / "a" / "rows.csv").append([ROW])
    ResultsFile(tmp_path / "b" / "rows.csv").append([replace(ROW, method="second")])
    out = call(capsys, "table", "a", "b/rows.csv", "--format", "csv")[1]
    assert out.count(HOPPER) == 2
    status, _, _ = call(capsys, "table", "a", "b", "--write", "made")
    assert status == 0
    assert out == (tmp_path / "made" / "table.csv").read_text(), "the same columns, with the names"
    assert json.loads(call(capsys, "table", "a", "b", "--json")[1])[1]["learner"] == "second"
