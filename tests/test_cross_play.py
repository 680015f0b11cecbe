"""Cross-play: who plays in a composition, what counts for whom, and teams that cannot be composed."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.benchmarks.cross_play import CrossPlay, Team, cross_play, sheet
from numpy.typing import NDArray
from torch import Tensor

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.cli import main
from marlzoo.errors import ConfigError, SpecError
from marlzoo.families import make_env, task_spec
from marlzoo.modules.policies import Policy
from marlzoo.replicas import derive
from marlzoo.training.ad_hoc import AdHocTeams
from marlzoo.training.evaluation import evaluate

GAME = "games/iterated-coordination"


def teams(method: str = "bc", seeds: tuple[int, ...] = (0, 1), task: str = GAME, **more: Any) -> Algorithm:
    return marlzoo.make(method, task_spec(task), seeds=seeds, hidden=8, **more)


class Summing(Policy):
    """Agent i of replica r acts with 100 first + 10 r + i, and 1000 times the sum of all that it has seen."""

    def __init__(self, first: int) -> None:
        super().__init__()
        self.first, self.seen, self.earned = first, torch.zeros(()), torch.zeros(())

    def reset(self, num_envs: int, ids: Tensor | None = None) -> None:
        self.seen = torch.zeros(())

    def receive(self, reward: Tensor) -> None:
        self.earned = reward

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Any = None) -> Tensor:
        self.seen = self.seen + obs
        replica, agent = torch.arange(obs.shape[0]), torch.arange(obs.shape[2])
        own = 100 * self.first + 10 * replica.view(-1, 1, 1, 1) + agent.view(-1, 1)
        return own + 1000 * self.seen


def learner(first: int, replicas: int) -> Any:
    policy = Summing(first)
    return SimpleNamespace(
        replicas=replicas, policy=lambda: policy, dtype=torch.float32, device=torch.device("cpu")
    )


def test_part_i_is_played_by_agent_i_of_its_team_with_a_history_of_its_own() -> None:
    compositions = np.array([[0, 0, 0], [2, 1, 0], [1, 2, 2], [2, 0, 2]])  # team 2 is the second learner's
    both = [learner(1, 2), learner(2, 1)]
    policy = AdHocTeams(both, compositions)
    obs = torch.arange(4 * 5 * 3.0).view(4, 5, 3, 1)
    number = np.array([100, 110, 200])[compositions] + np.arange(3)
    for step in (1, 2, 1):
        if step == 1:
            policy.reset(5)
        expected = torch.from_numpy(number)[:, None, :, None] + 1000.0 * step * obs
        torch.testing.assert_close(policy.act(obs), expected.float())
    reward = torch.arange(20.0).view(4, 5)
    policy.receive(reward)
    of_last: Any = both[1].policy()
    torch.testing.assert_close(of_last.earned, reward[[1, 2, 3]].view(1, 15))


def test_a_team_by_itself_returns_what_its_evaluation_does() -> None:
    found = cross_play([teams(), teams("iql", (5,))], episodes=4, seed=2)
    start = derive(2, "cross-play")
    for learner, own in ((teams(), found.returns[:2]), (teams("iql", (5,)), found.returns[2:3])):
        env = make_env(GAME, 4 * learner.replicas)
        alone = evaluate(learner.policy(), env, seeds=[start] * learner.replicas).returns
        np.testing.assert_allclose(own, alone, rtol=1e-5)
    assert found.teams[2] == Team("iql (2)", "iql", 5, 0)
    matrix = found.matrix
    assert matrix is not None
    np.testing.assert_array_equal(matrix.diagonal(), found.self_play)
    pairs = matrix[0, 1:].sum() + matrix[1:, 0].sum()
    assert found.cross_play[0] == pytest.approx(pairs / 4)


def test_equal_teams_have_no_gap_even_where_they_act_by_sampling() -> None:
    same = teams("inspo", (3, 3, 3), task="games/modes-4")
    assert same.policy().stochastic
    found = cross_play([same], episodes=64, compositions=3)
    assert 0.0 < found.self_play[0] < 1.0
    np.testing.assert_array_equal(found.gap, 0.0)
    assert found.matrix is None
    assert found.summary()["gap"] == (0.0, 0.0, 0.0)


@pytest.mark.parametrize("samples", [3, 30])  # 30 copies are what a team acts in
def test_equal_teams_have_no_gap_where_an_action_is_the_best_of_several_samples(samples: int) -> None:
    same = teams("bcq_ma", (3, 3), task="games/differential-2", mixer_hidden=4, eval_samples=samples)
    with torch.no_grad():
        for p in same.parameters():
            p.add_(torch.randn(p.shape[1:], generator=torch.Generator().manual_seed(1)))
    found = cross_play([same], episodes=10)
    np.testing.assert_allclose(found.gap, 0.0, atol=1e-6)


def test_members_of_a_team_that_diverged_have_no_return() -> None:
    """With discrete actions they would play on, with an argmax over NaN."""
    learner = teams(task="games/xor", seeds=(0, 1, 2))
    with torch.no_grad():
        next(learner.parameters())[1] = torch.nan
    found = cross_play([learner], episodes=2)
    assert (np.isnan(found.returns).all(1) == (found.compositions == 1).any(1)).all()
    assert np.isnan(found.returns).sum() == 2 * 5


def test_sampled_compositions_have_one_member_of_their_team_on_any_place() -> None:
    found = cross_play([teams(seeds=(0, 1, 2), task="games/modes-4")], episodes=1, compositions=40)
    assert found.compositions[:3].tolist() == [[k] * 4 for k in range(3)]
    mixed, groups = found.compositions[3:], found.groups[3:]
    own = mixed == groups[:, None]
    assert (own.sum(1) == 1).all()
    assert own.sum(0).min() > 0
    for team in range(3):
        assert set(mixed[groups == team].ravel()) == {0, 1, 2}
        np.testing.assert_allclose(
            found.cross_play[team], found.returns[3:][groups == team].mean(), rtol=1e-12
        )


def known(returns: NDArray[np.float64]) -> CrossPlay:
    pairs = np.array([[0, 0], [1, 1], [2, 2], [0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]])
    listed = tuple(Team("run", "bc", k, 9) for k in range(3))
    return CrossPlay(GAME, listed, pairs, returns[:, None], pairs[:, 0])


def test_known_numbers() -> None:
    """MOMA-PPO's toy: teams on one of two conventions return 0 with their like and -1 with others."""
    found = known(np.array([0.0, 0.0, 0.0, -1.0, 0.0, -1.0, -1.0, -0.4, -1.0]))
    assert found.cross_play.tolist() == [-0.6, -1.0, -0.6]
    assert found.gap.tolist() == [0.6, 1.0, 0.6]
    mean, low, high = found.summary()["gap"]
    assert (mean, low, high) == (pytest.approx(2.2 / 3), 0.6, 1.0)
    shown = sheet(found)
    assert shown.body[2] == ["3: bc, seed 2", "0.00", "-0.60", "0.60", "-0.40", "-1.00", "0.00"]
    assert "gap 0.73 [0.60, 1.00]" in shown.notes[0]
    assert len(shown.notes) == 2
    several = tuple(Team(run, "bc", 0, 9) for run in ("one.npz", "two.npz", "one.npz"))
    shown = sheet(replace(found, teams=several))
    assert shown.notes[2] == "Teams 1, 3: one.npz; 2: two.npz."


def saved(path: Path, learner: Algorithm, **meta: Any) -> Path:
    marlzoo.save(path, learner, meta={"task": learner.spec.task, **meta})
    return path


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([{"seeds": (0,)}], r"at least two teams, but .*0\.npz holds one; name another run"),
        ([{}, {"task": "games/sign-agreement"}], r"1\.npz: its task is games/sign-agreement, that of .*0\.npz is"),
        ([{}, {"env": {"horizon": 5}}], r"1\.npz: its environment is \{'horizon': 5\}, that of .* is the default"),
        ([{"method": "oryx"}, {}], r"0\.npz: the execution of oryx is sequential"),
        (
            [{"sources": [f"{GAME}/marlzoo/left"]}, {"sources": [f"{GAME}/marlzoo/left"]}],
            f"all teams were trained on {GAME}/marlzoo/left, data of a single convention",
        ),
    ],
)  # fmt: skip
def test_teams_that_cannot_be_composed(tmp_path: Path, runs: list[dict[str, Any]], message: str) -> None:
    files = []
    for k, run in enumerate(runs):
        meta = {name: run[name] for name in ("env", "sources") if name in run}
        made = teams(**{name: value for name, value in run.items() if name not in meta})
        files.append(saved(tmp_path / f"{k}.npz", made, **meta))
    with pytest.raises(ConfigError, match=message):
        cross_play(files, episodes=1)


def test_teams_of_another_shape_than_the_task_that_is_named(tmp_path: Path) -> None:
    run = saved(tmp_path / "team.npz", teams(), task=GAME)
    with pytest.raises(
        SpecError, match=r"team\.npz: was trained for another task than games/bridge: .*--task, or .*--env"
    ):
        cross_play([run], task="games/bridge")


def test_data_of_different_conventions_are_no_error(tmp_path: Path) -> None:
    files = [
        saved(tmp_path / f"{side}.npz", teams(), sources=[f"{GAME}/marlzoo/{side}"])
        for side in ("left", "right")
    ]
    assert cross_play(files, episodes=1).returns.shape == (16, 1)
    with pytest.raises(ConfigError, match=r"left\.npz: is named twice"):
        cross_play([files[0], files[0]])


def test_an_episode_ends_where_it_does_in_the_evaluations_of_the_training(tmp_path: Path) -> None:
    files = [tmp_path / f"{steps}.npz" for steps in (3, 4)]
    for file, steps in zip(files, (3, 4), strict=True):
        marlzoo.train(
            teams(),
            marlzoo.load_dataset("games/iterated-coordination/marlzoo/mix"),
            updates=1,
            env=lambda num_envs: make_env(GAME, num_envs),
            episodes=1,
            horizon=steps,
            checkpoint=file,
        )
    short = cross_play(files[0], horizon=3)
    np.testing.assert_array_equal(cross_play(files[0]).returns, short.returns)
    assert (cross_play(files[0], horizon=10).returns != short.returns).any()
    with pytest.raises(
        ConfigError, match=r"4\.npz: its evaluations had 4 steps, those of .*3\.npz 3 steps; say with"
    ):
        cross_play(files)
    np.testing.assert_array_equal(cross_play(files, horizon=3).returns[:2], short.returns[:2])


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [saved(tmp_path / f"{k}.npz", teams(seeds=(k, k + 10))) for k in range(2)]
    assert main(["eval", *map(str, files), "--cross-play", "--episodes", "2", "--seed", "4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = cross_play(files, episodes=2, seed=4)
    assert told == json.loads(json.dumps(found.to_dict()))
    assert main(["eval", *map(str, files), "--cross-play", "--episodes", "1"]) == 0
    assert "Cross-play on games/iterated-coordination" in capsys.readouterr().out
