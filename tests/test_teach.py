"""Which snapshots of a training become a behavior policy, and how they are measured; nothing is trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from marlzoo.errors import ConfigError
from marlzoo.recording import teach
from marlzoo.recording.teach import Options, learner_of, make_behavior_policy, measure_policies, run_folder
from marlzoo.replicas import derive
from marlzoo.teachers.store import BehaviorPolicy, Snapshot
from marlzoo.training import progress

TASK = "games/xor"
SETTINGS = ("hidden=8", "num_envs=4", "rollout=5", "batch_size=20")
UPDATE = 4 * 5  # steps of an update


def options(folder: Path, **changes: Any) -> Options:
    given = Options("mappo", settings=SETTINGS, steps=9 * UPDATE, every=2, stages=3, trial=2, episodes=7)
    return replace(given, seed=3, work=folder / "work", out=folder / "out", **changes)


RETURNS = {0: 0.0, 2: 9.0, 4: 4.0, 6: 5.5, 8: 6.0, 9: 10.0}  # by updates


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A training of nine updates; what is measured and kept of it. An older one has left other files."""
    found: dict[str, Any] = {"measured": []}

    def train(learner: Any, task: str, options: Options, run: Path) -> list[Any]:
        run.mkdir(parents=True)
        for k in (9, 8, 6, 4, 2, 0, 3, 10, 12):
            (run / f"{k:06d}.npz").touch()
        (run / "training.npz").touch()
        learner.updates = 9
        return []

    def load(path: Path) -> Any:
        return {"w": np.full(2, float(path.stem), np.float32)}, None

    def measured(learner: Any, task: str, policies: Any, done: list[int], episodes: int) -> list[Snapshot]:
        assert [float(each["w"][0]) for each in policies] == done
        found["measured"].append((done, episodes))
        return [Snapshot(k, k * UPDATE, episodes, RETURNS[k], 0.0, 1.0) for k in done]

    def save(behavior: BehaviorPolicy, curve: str, out: Path) -> Path:
        found.update(behavior=behavior, out=out)
        return out

    monkeypatch.setattr(teach, "_train", train)
    monkeypatch.setattr(teach, "load_arrays", load)
    monkeypatch.setattr(teach, "measure_policies", measured)
    monkeypatch.setattr(teach, "save_behavior_policy", save)
    return found


def test_snapshots_up_to_the_medium_one_and_the_last(taught: dict[str, Any], tmp_path: Path) -> None:
    make_behavior_policy(TASK, options(tmp_path))
    assert taught["measured"] == [([0, 2, 4, 6, 8, 9], 2), ([0, 4, 6, 9], 7)]  # 5.5 is nearest to halfway
    behavior = taught["behavior"]
    assert behavior.qualities == {
        "random": (0,),
        "medium": (2,),
        "medium-replay": (0, 1, 2),
        "medium-expert": (2, 3),
        "expert": (3,),
    }
    assert behavior.arrays["w"].tolist() == [[0, 0], [4, 4], [6, 6], [9, 9]]
    assert [snapshot.updates for snapshot in behavior.snapshots] == [0, 4, 6, 9]
    assert (behavior.seed, behavior.method, taught["out"]) == (3, "mappo", tmp_path / "out")
    assert behavior.config["hidden"] == 8


def test_the_untrained_and_the_last_one_are_never_the_medium_one() -> None:
    tried = [Snapshot(k, 0, 1, value, 0.0, 1.0) for k, value in enumerate((0.0, 3.0, 8.0, 9.0))]
    assert teach._nearest(tried, 1, 3, 0.0) == 1
    assert teach._nearest(tried, 1, 3, 9.0) == 2
    assert teach._nearest(tried, 1, 3, None) == 1  # 4.5
    assert teach._nearest(tried, 0, 2, 0.0) == 0
    tried = [replace(each, mean_return=each.mean_return + 10) for each in tried]
    assert teach._nearest(tried, 1, 3, None) == 1  # 14.5
    steep = [replace(tried[0], mean_return=value) for value in (10.0, 11.0, 14.0, 19.0)]
    assert teach._nearest(steep, 1, 3, None) == 2  # 14.5
    assert teach._nearest(tried, 1, 3, 0.0) == 1


def test_poor_medium_and_good(taught: dict[str, Any], tmp_path: Path) -> None:
    make_behavior_policy(TASK, options(tmp_path, medium_return=5.9, poor_return=10.0))
    assert taught["measured"][1] == ([2, 8, 9], 7)  # the poor one is from before the medium one
    assert taught["behavior"].qualities == {"poor": (0,), "medium": (1,), "good": (2,)}


def test_a_replay_that_goes_on_beyond_the_medium_one(taught: dict[str, Any], tmp_path: Path) -> None:
    """Its mean return, each snapshot counting by its number of episodes, is nearest to the wanted one."""
    # Up to 6 updates: 0, 4, 5.5, whose mean is 3.2; up to 8: 0, 4, 6 with 3.3; up to 9: 0, 4, 10 with 4.7.
    make_behavior_policy(TASK, options(tmp_path, medium_return=5.0, replay_return=4.5))
    assert taught["measured"][1] == ([0, 4, 6, 9], 7)
    behavior = taught["behavior"]
    assert behavior.qualities["medium-replay"] == (0, 1, 3)
    assert behavior.qualities["medium"] == (2,)
    assert behavior.qualities["medium-expert"] == (2, 3)
    assert behavior.qualities["expert"] == (3,)
    assert "--replay-return 4.5" in behavior.command


@pytest.mark.parametrize(
    ("wanted", "told"), [(9.0, "4.7, 9.0 were wanted"), (1.0, "3.2, 1.0 were wanted"), (3.3, "")]
)
def test_a_replay_out_of_reach(
    wanted: float, told: str, taught: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        make_behavior_policy(TASK, options(tmp_path, medium_return=5.0, replay_return=wanted))
    assert ("medium-replay has a mean return of" in caplog.text) == bool(told)
    assert told in caplog.text


def test_the_medium_one_is_found_among_a_longer_replay(tmp_path: Path) -> None:
    tried = [Snapshot(k, 0, 1, value, 0.0, 1.0) for k, value in RETURNS.items()]
    given = replace(options(tmp_path, medium_return=4.0, replay_return=4.875), stages=4)
    kept, qualities = teach._chosen(tried, given)
    assert kept == [0, 2, 3, 5]  # up to the last one their mean return is 4.875
    assert qualities["medium"] == (1,)
    assert qualities["medium-replay"] == (0, 1, 2, 3)
    assert qualities["medium-expert"] == (1, 3)


def test_a_replay_counts_snapshots_by_their_episodes() -> None:
    """Returns 0, 8, 8 and lengths 1, 1, 4: up to the second one 4, up to the third 8 (1 + 1/4) / (2 + 1/4)."""
    tried = [
        Snapshot(k, 0, 1, value, 0.0, length) for k, (value, length) in enumerate(((0, 1), (8, 1), (8, 4)))
    ]
    assert teach._replay_end(tried, 1, 3, 4.2) == 1
    assert teach._replay_end(tried, 1, 3, 4.23) == 2  # 4.44 by episodes, 5.33 by snapshots
    assert teach._replay_end(tried, 1, 3, 4.6) == 2
    assert teach._replay_end(tried, 1, 3, None) == 1
    assert teach._replay_end(tried, 2, 3, 0.0) == 2  # never before the medium one


@pytest.mark.parametrize("name", ["poor_return", "medium_return", "replay_return"])
def test_a_return_that_is_no_number(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"{name} is nan; it must be a finite number"):
        make_behavior_policy(TASK, options(tmp_path, **{name: float("nan")}))


def test_a_wanted_replay_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="--replay-return is of medium-replay, which --poor-return leaves out"
    ):
        make_behavior_policy(TASK, options(tmp_path, poor_return=1.0, replay_return=2.0))
    assert not (tmp_path / "work").exists()


def test_the_medium_one_is_no_end(taught: dict[str, Any], tmp_path: Path) -> None:
    make_behavior_policy(TASK, options(tmp_path, medium_return=100.0, poor_return=4.1))
    assert taught["measured"][1][0] == [0, 2, 9]  # 9.0 of those between, 0.0 before it


def test_a_training_that_was_stopped_earlier(taught: dict[str, Any], tmp_path: Path) -> None:
    make_behavior_policy(TASK, options(tmp_path))
    assert 3 not in taught["measured"][0][0]
    assert 10 not in taught["measured"][0][0]


def test_a_ladder_of_different_snapshots() -> None:
    assert teach._ladder(6, 3) == [0, 3, 6]
    assert teach._ladder(2, 8) == [0, 1, 2]


def test_the_unfinished_training_has_a_place_of_its_own(tmp_path: Path) -> None:
    given = options(tmp_path)
    learner = learner_of(TASK, given)
    assert list(learner.seeds) == [3]
    assert learner.config.to_dict()["hidden"] == 8
    changes: list[dict[str, Any]] = [{}, {"seed": 4}, {"steps": 10 * UPDATE}, {"every": 3}]
    changes.append({"settings": ("hidden=16", *SETTINGS[1:])})
    others = [replace(given, **change) for change in changes]
    places = {run_folder(learner_of(TASK, other), TASK, other) for other in others}
    assert len(places) == len(changes)
    assert all(place.parent == tmp_path / "work" for place in places)


def test_snapshots_are_kept_every_few_updates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    asked: dict[str, Any] = {}

    class Environment:
        def close(self) -> None:
            asked["closed"] = True

    def train_online(learner: Any, env: Any, *, on_update: Any, **given: Any) -> str:
        asked.update(given)
        for k in range(8):
            on_update(k)
        learner.updates = 9
        return "curve"

    def make_env(task: str, num_envs: int) -> Environment:
        asked["num_envs"] = num_envs
        return Environment()

    monkeypatch.setattr(teach, "make_env", make_env)
    monkeypatch.setattr(teach, "train_online", train_online)
    monkeypatch.setattr(teach, "save_arrays", lambda path, arrays, meta: saved.append(int(path.stem)))
    given = options(tmp_path, until=5 * UPDATE)
    learner = learner_of(TASK, given)
    curve: Any = teach._train(learner, TASK, given, tmp_path)
    assert (curve, saved) == ("curve", [0, 2, 4, 6, 9])
    assert (asked["num_envs"], asked["steps"], asked["until"]) == (4, 9 * UPDATE, 5 * UPDATE)
    assert asked["closed"]
    least = 3 * 2 * UPDATE
    teach._train(learner, TASK, replace(given, steps=least), tmp_path)
    with pytest.raises(ConfigError, match=f"train for at least {least}"):
        teach._train(learner, TASK, replace(given, steps=least - 1), tmp_path)
    with pytest.raises(ConfigError, match="every is 0; it must be a positive"):
        teach._train(learner, TASK, replace(given, every=0), tmp_path)


@pytest.mark.parametrize("can_win", [True, False])
def test_policies_are_measured_by_their_own_episodes(
    can_win: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "PERIOD", 0.0)
    learner = learner_of(TASK, options(tmp_path))
    state = {name: tensor.numpy()[0] for name, tensor in learner.policy().state_dict().items()}
    name = next(iter(state))
    played: list[Any] = []
    env = SimpleNamespace(can_win=can_win, close=lambda: played.append("closed"))

    def play(policy: Any, env: Any, seed: int) -> list[Any]:
        played.append((float(policy.state_dict()[name].mean()), seed))
        return [SimpleNamespace(total=t, length=n, won=w) for t, n, w in ((1.0, 4, True), (4.0, 8, False))]

    monkeypatch.setattr(teach, "make_env", lambda task, num_envs: env)
    monkeypatch.setattr(teach, "play", play)
    policies = [{**state, name: np.full_like(state[name], value)} for value in (2.0, 5.0)]
    first, second = measure_policies(learner, TASK, policies, [6, 8], 2)
    assert played == [(2.0, derive(3, "measure", 6)), (5.0, derive(3, "measure", 8)), "closed"]
    assert (first.updates, first.steps, second.steps) == (6, 6 * UPDATE, 8 * UPDATE)
    assert (first.episodes, first.mean_return, first.std_return, first.mean_length) == (2, 2.5, 1.5, 6.0)
    assert first.win_rate == (0.5 if can_win else None)
    assert torch.is_tensor(next(iter(learner.policy().state_dict().values())))
    shown = [line.partition("measuring ")[2] for line in capsys.readouterr().err.splitlines()]
    assert shown == ["games/xor: 1 of 2 snapshots", "games/xor: 2 of 2 snapshots"]
