"""``marlzoo.load``: one team from a checkpoint, numpy in and out."""

from __future__ import annotations

import shlex
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.cli import main
from marlzoo.errors import CheckpointError, ConfigError, SpecError
from marlzoo.families import task_spec
from marlzoo.offpolicy.fqe import FQESettings
from marlzoo.training.checkpoint import Saved, load_learner, load_saved, pack_evaluations, save
from marlzoo.training.evaluation import EpisodeResults, Evaluation
from marlzoo.training.trainer import train
from tests.toys import ToyEnv, toy_dataset, toy_spec

SMALL = {"hidden": 8}
FORMS: list[tuple[str, Any, dict[str, Any]]] = [
    ("bc", "continuous", {}),
    ("bc", "discrete", {"history": "rnn", "eval_mode": "sample"}),
    ("icq", "discrete", {"history": "rnn"}),
]


def made(folder: Path, method: str, kind: Any, settings: dict[str, Any], seeds: Any = (4, 7, 9)) -> Any:
    learner = marlzoo.make(method, toy_spec(kind), seeds=seeds, **SMALL, **settings)
    save(folder / "team.npz", learner)
    return learner


def inputs(kind: str, num_envs: int, steps: int = 3) -> list[tuple[Any, Any]]:
    rng = np.random.default_rng(0)
    masks = rng.random((steps, num_envs, 3, 4)) < 0.6
    masks[..., 0] = True
    obs = rng.normal(size=(steps, num_envs, 3, 5)).astype(np.float32)
    return [(obs[t], masks[t] if kind == "discrete" else None) for t in range(steps)]


@pytest.mark.parametrize(("method", "kind", "settings"), FORMS)
def test_a_replica_acts_as_it_does_among_all(
    method: str, kind: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    learner = made(tmp_path, method, kind, settings)
    policy = marlzoo.load(tmp_path / "team.npz", seed=7)
    whole = learner.policy()
    whole.reset(4)
    if policy.stochastic:
        assert policy.seed == 7
        return  # its noise is its own; see test_noise_repeats
    for obs, mask in inputs(kind, 4):
        together = torch.from_numpy(obs).expand(3, *obs.shape)
        masks = None if mask is None else torch.from_numpy(mask).expand(3, *mask.shape)
        with torch.no_grad():
            expected = whole.act(together, masks)[1].numpy()
        np.testing.assert_allclose(policy.act(obs, mask), expected, atol=1e-6)


@pytest.mark.parametrize(("method", "kind", "settings"), FORMS)
def test_one_agent_acts_as_in_its_team(
    method: str, kind: Any, settings: dict[str, Any], tmp_path: Path
) -> None:
    made(tmp_path, method, kind, settings, seeds=(0,))
    team, alone = (marlzoo.load(tmp_path / "team.npz") for _ in range(2))
    sizes = team.spec.action_sizes
    for obs, mask in inputs(kind, 4):
        action = team.act(obs, mask)
        for k in (2, 0, 1):
            own = alone.act(obs[:, k], None if mask is None else mask[:, k], agent=k)
            expected = action[:, k] if kind == "discrete" else action[:, k, : sizes[k]]
            np.testing.assert_allclose(own, expected, atol=1e-6)


def test_some_environments_start_anew(tmp_path: Path) -> None:
    made(tmp_path, "icq", "discrete", {"history": "rnn"}, seeds=(0,))
    both, fresh = (marlzoo.load(tmp_path / "team.npz") for _ in range(2))
    steps = inputs("discrete", 2)
    both.act(*steps[0])
    both.reset(ids=[1])
    state = both.policy.state()["hidden_state"].clone()
    assert (state[0, 0] != 0).any()
    assert (state[0, 1] == 0).all()
    obs, mask = steps[1]
    both.act(obs, mask)
    fresh.act(obs[1], mask[1])
    torch.testing.assert_close(
        both.policy.state()["hidden_state"][0, 1], fresh.policy.state()["hidden_state"][0, 0]
    )


def test_rewards_reach_policies_that_ask_for_a_return(tmp_path: Path) -> None:
    made(tmp_path, "bc", "continuous", {}, seeds=(0,))
    policy, seen = marlzoo.load(tmp_path / "team.npz"), list[Any]()
    policy.policy.receive = seen.append  # type: ignore[assignment]
    policy.receive(1.0)  # nothing was done for it
    policy.act(inputs("continuous", 2)[0][0])
    policy.receive([1.0, 2.0])
    assert [reward.tolist() for reward in seen] == [[[1.0, 2.0]]]
    with pytest.raises(SpecError, match="3 rewards for 2 environments"):
        policy.receive([1.0, 2.0, 3.0])


def test_noise_repeats(tmp_path: Path) -> None:
    made(tmp_path, "bc", "discrete", {"eval_mode": "sample"}, seeds=(0,))
    policy = marlzoo.load(tmp_path / "team.npz")
    obs, mask = inputs("discrete", 64)[0]
    rounds = []
    for seed in (3, 4, 3):
        policy.reset(seed=seed)
        rounds.append(policy.act(obs, mask))
    np.testing.assert_array_equal(rounds[0], rounds[2])
    assert (rounds[0] != rounds[1]).any()


def test_the_best_of_the_last_evaluation(tmp_path: Path) -> None:
    learner = marlzoo.make("bc", toy_spec(), seeds=(0, 1, 2), **SMALL)
    found = train(
        learner,
        toy_dataset(),
        updates=2,
        checkpoint=tmp_path / "team.npz",
        env=ToyEnv,
        episodes=2,
        eval_every=1,
    )
    means = found[-1].episodes.returns.mean(-1)
    policy = marlzoo.load(tmp_path / "team.npz", best=True)
    assert policy.seed == int(means.argmax())
    assert policy.task == "toy/walk"


def test_a_run_is_named_by_its_folder(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        marlzoo.load(tmp_path)
    made(tmp_path / "checkpoints", "bc", "continuous", {}, seeds=(5,))
    assert marlzoo.load(tmp_path).seed == 5
    (tmp_path / "checkpoints" / "team.npz").rename(tmp_path / "checkpoints" / "a.npz")
    made(tmp_path / "checkpoints", "bc", "continuous", {})
    with pytest.raises(CheckpointError, match=r"holds 2 checkpoints; name one of checkpoints.a\.npz"):
        marlzoo.load(tmp_path)


def test_the_choice_of_a_replica(tmp_path: Path) -> None:
    made(tmp_path, "bc", "continuous", {}, seeds=(4, 7, 7))
    file = tmp_path / "team.npz"
    assert marlzoo.load(file, seed=4).seed == marlzoo.load(file, replica=0).seed == 4
    for choice, text in (
        ({}, r"holds replicas 0 \(seed 4\)"),
        ({"seed": 3}, "no replica has seed 3"),
        ({"seed": 7}, r"replicas 1 \(seed 7\), 2 \(seed 7\) have seed 7; choose by dataset or replica"),
        ({"replica": 3}, "replicas 0 to 2"),
        ({"replica": -1}, "replicas 0 to 2, not -1"),
        ({"replica": 1.0}, r"replica is 1\.0; it must be the index"),
        ({"replica": True}, "replica is True; it must be the index"),
        ({"seed": 4, "best": True}, "by one of"),
    ):
        with pytest.raises(ConfigError, match=text):
            marlzoo.load(file, **choice)
    with pytest.raises(CheckpointError, match="no evaluation"):
        marlzoo.load(file, best=True)


def suite(folder: Path) -> Path:
    """Checkpoints of two methods; bc's replicas were trained on two datasets with two seeds each."""
    (folder / "checkpoints").mkdir()
    qualities = ["medium", "expert", "medium", "expert"]
    data = [toy_dataset(seed=quality == "expert") for quality in qualities]
    data = [d.with_card(replace(d.card, quality=q)) for d, q in zip(data, qualities, strict=True)]
    for method, found in (("bc", data), ("omiga", data[:1])):
        learner = marlzoo.make(method, toy_spec(), seeds=[k // 2 for k in range(len(found))], **SMALL)
        file = folder / "checkpoints" / f"{method}-1.npz"
        train(learner, found, updates=2, checkpoint=file, env=ToyEnv, episodes=2, eval_every=1)
    return folder


def test_a_team_of_a_suite_is_chosen_by_method_data_and_seed(tmp_path: Path) -> None:
    folder = suite(tmp_path)
    whole = load_learner(folder / "checkpoints" / "bc-1.npz").policy().eval()
    obs, _ = inputs("continuous", 4)[0]
    together = torch.from_numpy(obs).expand(4, *obs.shape)
    with torch.no_grad():
        expected = whole.act(together, None)[:, :, :].numpy()
    for dataset, seed, place in (
        ("medium", 0, 0),
        ("expert", 0, 1),
        ("toy/walk/medium", 1, 2),
        ("toy/walk/test/expert", 1, 3),
    ):
        team = marlzoo.load(folder, method="BC", dataset=dataset, seed=seed)
        assert (team.method, team.seed) == ("bc", seed)
        np.testing.assert_allclose(team.act(obs), expected[place], atol=1e-6)
    assert marlzoo.load(folder, method="omiga").method == "omiga"
    returns = load_saved(folder / "checkpoints" / "bc-1.npz").arrays["extra/eval/1/returns"].mean(-1)
    for dataset, places in (("medium", [0, 2]), ("expert", [1, 3])):
        best = marlzoo.load(folder, method="bc", dataset=dataset, best=True)
        place = max(places, key=lambda k: returns[k])
        np.testing.assert_allclose(best.act(obs), expected[place], atol=1e-6)


def test_a_choice_that_names_no_team_or_several_lists_what_there_is(tmp_path: Path) -> None:
    folder = suite(tmp_path)
    for choice, text in (
        (
            {"method": "icq"},
            r"holds no team of icq; it holds bc on toy/walk/test/medium, bc on .*expert, omiga on",
        ),
        ({"method": "omiga", "dataset": "expert"}, "holds no team of omiga on expert; it holds"),
        ({"dataset": "pert"}, "holds no team of a method on pert"),
        (
            {"dataset": "medium", "seed": 0},
            r"several checkpoints hold teams of a method on medium; name one of",
        ),
        ({}, r"holds 2 checkpoints; name one of .*, or its method and dataset"),
    ):
        with pytest.raises(CheckpointError, match=text):
            marlzoo.load(folder, **choice)
    for choice, text in (
        (
            {"method": "bc"},
            r"replicas 0 \(toy/walk/test/medium, seed 0\), 1 \(toy/walk/test/expert, seed 0\)",
        ),
        (
            {"method": "bc", "seed": 1},
            r"replicas 2 \(toy/walk/test/medium, seed 1\), 3 .* have seed 1; choose by",
        ),
        (
            {"method": "bc", "dataset": "expert"},
            r"holds replicas 1 \(.*expert, seed 0\), 3 \(.*expert, seed 1\); choose",
        ),
        ({"method": "bc", "dataset": "expert", "replica": 0}, "has replicas 1, 3, not 0"),
        ({"method": "bc", "dataset": "expert", "seed": 2}, r"no replica has seed 2; it holds 1 \(.*\), 3 \("),
    ):
        with pytest.raises(ConfigError, match=text):
            marlzoo.load(folder, **choice)


def test_one_of_several_checkpoints_is_named_with_what_it_holds(tmp_path: Path) -> None:
    """What takes no method and no dataset does not offer them; files of a suite have hashes for names."""
    folder = suite(tmp_path)
    data = r"toy/walk/test/medium"
    names = rf"name one of checkpoints.bc-1\.npz \(bc on {data}, .*expert\), checkpoints.\S+ \(omiga on {data}\), "
    with pytest.raises(CheckpointError, match=rf"{names}such as \S+bc-1\.npz$"):
        marlzoo.cross_play(folder)
    for call in (
        lambda: marlzoo.load(folder),
        lambda: marlzoo.ope(folder, "games/xor/marlzoo/D1"),
        lambda: marlzoo.finetune(folder, 10),
    ):
        with pytest.raises(CheckpointError, match=f"{names}or its method and dataset$"):
            call()


def test_evaluations_name_the_data_of_every_replica(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = suite_of_game(tmp_path)
    scores = marlzoo.evaluate_run(folder, method="bc", episodes=3)
    assert [(s.dataset, s.seed) for s in scores] == [
        ("games/xor/marlzoo/D1", 0),
        ("games/xor/marlzoo/D3", 0),
        ("games/xor/marlzoo/D1", 1),
        ("games/xor/marlzoo/D3", 1),
    ]
    part = marlzoo.evaluate_run(folder, method="bc", dataset="D3", episodes=3)
    assert [asdict(s) | {"action_us": 0} for s in part] == [
        asdict(s) | {"action_us": 0} for s in scores[1::2]
    ]
    assert main(["eval", str(folder), "--method", "bc", "--episodes", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("bc on games/xor, data games/xor/marlzoo/D3, seed 0,")
    assert main(["eval", str(folder), "--method", "bc", "--dataset", "D3", "--episodes", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("bc on games/xor, seed 0,")  # all have the same data
    assert len([line for line in lines if line.startswith("bc")]) == 2
    assert main(["eval", str(folder), "--method", "bc", "--cross-play"]) == 2
    assert "--method and --dataset are for one run" in capsys.readouterr().err
    found = marlzoo.cross_play(folder / "checkpoints" / "bc-1.npz", episodes=2)
    assert [team.dataset for team in found.teams] == [score.dataset for score in scores]


def test_estimates_are_of_the_teams_that_method_and_data_choose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = suite_of_game(tmp_path, updates=60, lr=0.02)  # after which teams of other data act otherwise
    quick: dict[str, Any] = {
        "settings": FQESettings(updates=5, hidden=8, members=2),
        "estimators": ("fqe",),
        "data": "games/xor/marlzoo/D1",
    }
    assert [line.seed for line in marlzoo.ope(folder, method="iql", **quick)] == [0, 0, 1, 1]
    found = marlzoo.ope(folder, method="iql", dataset="D3", **quick)
    own = [
        marlzoo.ope(load_learner(folder / "checkpoints/iql-1.npz", replicas=k), **quick)
        for k in ([1, 3], [0, 2])
    ]
    assert found == own[0] != own[1]
    assert [line.seed for line in found] == [0, 1]
    chosen = [str(folder), "--method", "bc", "--dataset", "D1"]
    few = ["--updates", "5", "--members", "2", "--estimators", "fqe"]
    assert main(["ope", *chosen, "--data", "games/xor/marlzoo/D3", *few]) == 0
    told = capsys.readouterr()
    assert told.out.count("seed ") == 2
    assert told.err.endswith(f"Next: marlzoo eval {shlex.join(chosen)}\n")
    with pytest.raises(ConfigError, match="method and dataset choose among a run's checkpoints; leave them"):
        marlzoo.ope(marlzoo.make("bc", task_spec("games/xor")), "games/xor/marlzoo/D1", dataset="D1")


def test_the_teams_that_method_and_data_choose_are_fine_tuned_on_their_data(tmp_path: Path) -> None:
    folder = suite_of_game(tmp_path)
    file = tmp_path / "tuned.npz"
    settings = marlzoo.FinetuneSettings(num_envs=2, rollout=2, learn_steps=1, warmup=0)
    given: dict[str, Any] = {"settings": settings, "episodes": 3}
    found = marlzoo.finetune(folder, 8, method="iql", dataset="D3", checkpoint=file, **given)
    before = marlzoo.evaluate_run(folder, method="iql", dataset="D3", episodes=3)
    assert [line.start for line in found.summaries] == [score.mean_return for score in before]
    meta = load_saved(file).meta
    names = ["games/xor/marlzoo/D3"] * 2
    assert (meta["seeds"], meta["datasets"], meta["sources"]) == ([0, 1], names, names[:1])
    (content,) = {marlzoo.load_dataset(names[0]).content_hash}
    assert meta["data"] == meta["finetune"]["data"] == [content] * 2
    with pytest.raises(CheckpointError, match="belongs to another run: seeds is"):  # all of them
        marlzoo.finetune(folder, 8, method="iql", checkpoint=file, **given)


def suite_of_game(folder: Path, updates: int = 2, **settings: Any) -> Path:
    """As :func:`suite`, on XOR."""
    data = [marlzoo.load_dataset(f"games/xor/marlzoo/{quality}") for quality in ("D1", "D3", "D1", "D3")]
    for method in ("bc", "iql"):
        learner = marlzoo.make(method, data[0].spec, seeds=(0, 0, 1, 1), **SMALL, **settings)
        file = folder / "checkpoints" / f"{method}-1.npz"
        train(learner, data, updates=updates, checkpoint=file, task="games/xor")
    return folder


def test_older_checkpoints_say_what_they_know_of_their_data() -> None:
    for meta, names in (
        ({"sources": ["a/b/c/d"]}, ["a/b/c/d"] * 2),
        ({"sources": ["a/b/c/d", "a/b/c/e", "a/b/c/f"]}, ["", ""]),  # which one is whose is not known
        ({}, ["", ""]),
        ({"sources": ["x", "y"], "datasets": ["y", "x"]}, ["y", "x"]),
    ):
        assert Saved({}, {"seeds": [0, 1], **meta}).datasets == names


def test_wrong_inputs_are_named(tmp_path: Path) -> None:
    made(tmp_path, "icq", "discrete", {"history": "rnn"}, seeds=(0,))
    policy = marlzoo.load(tmp_path / "team.npz")
    obs, mask = inputs("discrete", 2)[0]
    policy.act(obs, mask)
    for arguments, text in (
        ((obs[..., :4], mask), r"obs: has shape \[2, 3, 4\], expected \[3, 5\] or \[E, 3, 5\]"),
        ((obs[:1], mask[:1]), "call reset"),
        ((obs, mask[..., :3]), "action_mask: has shape"),
        ((np.full_like(obs, np.nan), mask), "not finite"),
        ((obs, np.zeros_like(mask)), r"no action is legal at index \[0, 0\]"),
        ((obs[:, 0], mask[:, 0], 3), "agents 0 to 2"),
        ((obs, mask, 1), r"expected \[5\] or \[E, 5\]"),
    ):
        with pytest.raises(SpecError, match=text):
            policy.act(*arguments)
    with pytest.raises(SpecError, match="not all among the 2"):
        policy.reset(ids=[2])


def recurrent(folder: Path) -> Path:
    made(folder, "icq", "discrete", {"history": "rnn"}, seeds=(0,))
    return folder / "team.npz"


def test_a_mask_says_which_environments_start_anew(tmp_path: Path) -> None:
    """As Gymnasium's vector environments tell it; True and False are not the indices 1 and 0."""
    masked, indexed = (marlzoo.load(recurrent(tmp_path)) for _ in range(2))
    obs = np.random.default_rng(0).normal(size=(3, 3, 5)).astype(np.float32)
    for policy, ids in ((masked, [False, False, True]), (indexed, [2])):
        policy.act(obs)
        policy.reset(ids=ids)
        policy.act(obs)
    assert torch.equal(masked.policy.state()["hidden_state"], indexed.policy.state()["hidden_state"])
    with pytest.raises(SpecError, match="reset: the mask is of 2 environments, not of 3"):
        masked.reset(ids=[True, False])
    with pytest.raises(SpecError, match=r"reset: ids are neither integers"):
        masked.reset(ids=[0.5])


def test_what_is_no_array_of_numbers_is_named(tmp_path: Path) -> None:
    policy = marlzoo.load(recurrent(tmp_path))
    for obs in ([["a"] * 5] * 3, [[1.0, 2.0], [1.0]], {"agent": 1}):
        with pytest.raises(SpecError, match="obs: not an array of numbers"):
            policy.act(obs)  # type: ignore[arg-type]
    with pytest.raises(SpecError, match="reward: has values that are not finite"):
        policy.receive(np.nan)  # the return that is still asked for would be lost for the rest of the episode
    for agent in ("walker", 1.5, True):
        with pytest.raises(SpecError, match=r"agent .*: the team has agents 0 to 2"):
            policy.act(np.zeros(5), agent=agent)  # type: ignore[arg-type]


def test_a_continuous_task_has_no_masks(tmp_path: Path) -> None:
    marlzoo.save(tmp_path / "c.npz", marlzoo.make("bc", toy_spec("continuous"), hidden=8))
    policy = marlzoo.load(tmp_path / "c.npz")
    for agent, shape in ((None, (3, 5)), (0, (5,))):
        with pytest.raises(SpecError, match="action_mask: the task has continuous actions"):
            policy.act(np.zeros(shape), np.ones(2, bool), agent=agent)


def test_a_device_that_is_not_there_is_not_the_file_s_fault(tmp_path: Path) -> None:
    file = recurrent(tmp_path)
    for device in ("gpu", "cuda:77"):
        with pytest.raises(ConfigError, match=f"device '{device}' cannot be used by torch"):
            marlzoo.load(file, device=device)
        with pytest.raises(ConfigError, match=f"device '{device}' cannot be used by torch"):
            marlzoo.load_learner(file, device=device)


def test_another_file_than_a_checkpoint_is_not_to_be_deleted(tmp_path: Path) -> None:
    (tmp_path / "data.hdf5").write_bytes(b"measured for months")
    with pytest.raises(CheckpointError, match=r"data.hdf5: not .* checkpoint .*; name .* ending in .npz$"):
        marlzoo.load(tmp_path / "data.hdf5")


def test_loading_imports_no_data_or_simulator(tmp_path: Path) -> None:
    made(tmp_path, "omiga", "continuous", {"mixer_hidden": 4}, seeds=(0,))
    code = (
        "import sys, numpy as np, marlzoo; p = marlzoo.load(sys.argv[1]);"
        "print(p.act(np.zeros((3, 5))).shape);"
        "heavy = ('marlzoo.data', 'marlzoo.training.trainer', 'mujoco', 'h5py', 'pandas');"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "team.npz")], capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["(3, 2)", "[]"]


def test_eval_takes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", str(tmp_path)]) == 2
    assert "holds no checkpoint" in capsys.readouterr().err


def test_the_best_has_the_highest_mean_of_the_last_evaluation(tmp_path: Path) -> None:
    """Not the highest single return, nor the one that was best before; who diverged is out."""
    learner = marlzoo.make("bc", toy_spec(), seeds=(4, 7, 9), **SMALL)
    learner.updates, file = 3, tmp_path / "team.npz"

    def saved(last: list[list[float]]) -> None:
        rounds = [[[9.0, 9.0], [0.0, 0.0], [0.0, 0.0]], last]
        played = [EpisodeResults(np.array(each), np.ones((3, 2), int), None) for each in rounds]
        found = [Evaluation(k, each, np.zeros(3, bool), 0.0) for k, each in enumerate(played)]
        extra, records = pack_evaluations(found)
        save(file, learner, extra, {"evaluations": records, "task": "a/b", "env": {"horizon": 4}})

    saved([[1.0, 7.0], [5.0, 5.0], [np.inf, 1.0]])
    policy = marlzoo.load(file, best=True)
    assert (policy.seed, policy.task, policy.updates, policy.env_options) == (7, "a/b", 3, {"horizon": 4})
    obs = torch.randn(1, 2, 3, 5)
    expected = learner.policy().act(obs.expand(3, -1, -1, -1))[1]
    torch.testing.assert_close(torch.from_numpy(policy.act(obs[0].numpy())), expected.detach())
    saved([[np.nan, 1.0]] * 3)
    with pytest.raises(CheckpointError, match="all replicas diverged"):
        marlzoo.load(file, best=True)
