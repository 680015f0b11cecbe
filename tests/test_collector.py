"""Collecting and the online loop against episodes whose rewards and ends are known."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from marlzoo.config import ReplayConfig
from marlzoo.envs.base import Ids, Observation, Step
from marlzoo.errors import ConfigError
from marlzoo.replicas import ReplicaRandom, derive
from marlzoo.training import online
from marlzoo.training.collector import Collector, online_settings
from marlzoo.training.online import CurvePoint, OnlineTrainer, train_online
from tests.test_evaluate import AGENTS, HORIZON, Script

SEEDS, COPIES, STEPS = [3, 4], 3, 10
SETTINGS = SimpleNamespace(num_envs=COPIES, rollout=STEPS, restart=2)


class Boxed(Script):
    """Copies that are stepped within the box only."""

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        assert np.abs(action).max() <= 1.0
        return super().step(action, ids)


def learner(env: Any, seeds: Any = SEEDS, **changes: Any) -> Any:
    """What a collector needs of a learner."""
    about: dict[str, Any] = {
        "replicas": len(seeds), "seeds": seeds, "spec": env.spec, "sampling": "online", "name": "test",
        "config": SimpleNamespace(timeout_is_terminal=False, **vars(SETTINGS)), "fields": ("agent_reward",),
        "device": torch.device("cpu"), "dtype": torch.float64, "noise": lambda: {"n": ("normal", (5,))},
        "updates": 0, "finite": lambda: torch.tensor([True, False]),
    }  # fmt: skip
    return SimpleNamespace(**about | changes)


class Wild:
    """Actions outside the box, and in the last copy none; keeps what it is given."""

    def __init__(self) -> None:
        self.fresh: list[Tensor] = []
        self.legal: list[Tensor | None] = []
        self.drawn: list[Tensor] = []
        self.seen: list[Tensor] = []

    def explore(
        self, obs: Tensor, action_mask: Tensor | None, random: ReplicaRandom, fresh: Tensor
    ) -> Tensor:
        self.fresh.append(fresh)
        self.legal.append(action_mask)
        self.drawn.append(random.uniform(2))
        self.seen.append(obs)
        if action_mask is not None:
            return torch.ones(obs.shape[:-1], dtype=torch.int64)
        action = torch.full((*obs.shape[:-1], 1), 5.0)
        action[-1, -1] = torch.nan
        return action


def by_loops(timeout_is_terminal: bool) -> dict[str, NDArray[Any]]:
    """What happens in the script's six copies; also the episodes that end by themselves."""
    found: dict[str, Any] = {name: np.zeros((6, STEPS)) for name in ("reward", "mask", "ends", "age")}
    found["finished"] = []
    for t in range(STEPS):
        for k in range(6):
            if t == 0:
                age, limit, total = 0, max(1, (k % 3 + 1) * HORIZON // 3), 0.0
            else:
                age, limit, total = found[f"state{k}"]
            found["age"][k, t] = age
            age, total = age + 1, total + 10.0**k * (age + 1)
            over = age == k + 1
            ended = over and (k % 2 == 0 or timeout_is_terminal)
            found["reward"][k, t], found["mask"][k, t] = 10.0**k * age, not ended
            found["ends"][k, t] = over or age >= limit
            if over:
                found["finished"].append((k // 3, total, age))
            found[f"state{k}"] = (0, HORIZON + 1, 0.0) if over or age >= limit else (age, limit, total)
    return found


@pytest.mark.parametrize("timeout_is_terminal", [False, True])
def test_a_rollout_is_what_loops_find(timeout_is_terminal: bool) -> None:
    env, wild = Boxed(6, per_agent=True), Wild()
    config = SimpleNamespace(timeout_is_terminal=timeout_is_terminal)
    collector = Collector(learner(env, config=config), env, SETTINGS, wild)
    collector.restart(0)
    rollout, expected = collector.collect(0.25), by_loops(timeout_is_terminal)
    for name in ("reward", "mask", "ends"):
        found = getattr(rollout, name).flatten(0, 1).numpy()
        np.testing.assert_allclose(found, expected[name], rtol=1e-6, err_msg=name)
    age = torch.from_numpy(expected["age"]).view(2, COPIES, STEPS)
    assert torch.equal(rollout.obs[..., 0, 1], age)
    assert torch.equal(rollout.next_obs[..., 0, 1], age + 1)
    assert torch.equal(rollout.state[..., 1], -age)
    assert torch.equal(rollout.next_state[..., 1], -age - 1)
    assert torch.equal(torch.stack(wild.fresh, -1), age == 0)
    assert torch.equal(wild.seen[4], rollout.obs[:, :, 4])
    np.testing.assert_allclose(
        (rollout.agent_reward - rollout.reward.unsqueeze(-1))[0, 0].numpy(), [[1.0, -1.0]] * STEPS
    )
    assert (rollout.action[0] == 5.0).all(), "what was chosen is kept, what is executed is in the box"
    assert rollout.progress == 0.25
    finished = sorted(collector.finished)
    assert [(r, n) for r, _, n in finished] == [(r, n) for r, _, n in sorted(expected["finished"])]
    assert [x for _, x, _ in finished] == pytest.approx([x for _, x, _ in sorted(expected["finished"])])


def test_each_restart_has_streams_of_its_own() -> None:
    env, wild, noise, ends = Boxed(6, per_agent=True), Wild(), [], []
    collector = Collector(learner(env), env, SETTINGS, wild)
    for number in (0, 1):
        collector.restart(number)
        assert env.seeds == [derive(s, "online", number, e) for s in SEEDS for e in range(COPIES)]
        rollout = collector.collect(0.0)
        noise.append(rollout.noise["n"])
        ends.append(rollout.ends)
        names = [derive(s, "online", number) for s in SEEDS]
        assert torch.equal(
            wild.drawn[-STEPS], ReplicaRandom(names, "explore", dtype=torch.float64).uniform(2)
        )
        assert torch.equal(noise[-1], ReplicaRandom(names, "noise", dtype=torch.float64).draw("normal", 5))
    assert torch.equal(ends[0], ends[1]), "the first episodes are cut again"
    for change in ({"config": ReplayConfig()}, {"sampling": "transition"}):
        other = Collector(learner(env, **change), env, SETTINGS, Wild())
        other.restart(0)
        assert other.collect(0.0).noise == {}, "a replay draws for each batch"
    with pytest.raises(ConfigError, match="learns from a dataset, not online"):
        online_settings(learner(env, sampling="transition"))


class Changing(Script):
    """After an odd number of steps only action 0 is legal."""

    def _seen(self) -> Observation:
        seen = super()._seen()
        assert seen.action_mask is not None
        seen.action_mask[self._t % 2 == 1, :, 1:] = False
        return seen


def test_discrete_teams_keep_their_legal_actions() -> None:
    env, wild = Changing(6, discrete=True), Wild()
    collector = Collector(learner(env), env, SETTINGS, wild)
    collector.restart(0)
    rollout = collector.collect(0.0)
    counts = torch.arange(1, 7).view(2, COPIES, 1, 1).expand(2, COPIES, STEPS, AGENTS)
    age = rollout.obs[..., 0, 1].long().unsqueeze(-1)
    assert torch.equal(rollout.action_mask.sum(-1), torch.where(age % 2 == 1, 1, counts))
    assert torch.equal(rollout.next_action_mask.sum(-1), torch.where(age % 2 == 0, 1, counts))
    assert torch.equal(torch.stack([mask for mask in wild.legal if mask is not None], 2), rollout.action_mask)
    assert (rollout.action == 1).all()


# ---- the online loop -------------------------------------------------------------------------------------


def test_copies_start_anew_and_the_replay_is_cut() -> None:
    told: list[Any] = []
    trainer = OnlineTrainer.__new__(OnlineTrainer)

    def update(batch: Any) -> dict[str, Any]:
        told.append(batch)
        return {"x": batch}

    trainer.algorithm = learner(Script(6), update=update)
    trainer.settings = SETTINGS  # type: ignore[assignment]
    trainer.collector = SimpleNamespace(  # type: ignore[assignment]
        restart=lambda number: told.append(f"restart {number}"), collect=lambda progress: progress, learning=7
    )
    trainer.replay = None
    trainer._looked_at = True
    assert [trainer.next(0.1 * k)["x"] for k in range(3)] == [0.0, 0.1, 0.2]
    assert told == ["restart 0", 0.0, 0.1, "restart 1", 0.2]
    told.clear()
    trainer.replay = SimpleNamespace(  # type: ignore[assignment]
        cut=lambda: told.append("cut"),
        add=lambda rollout: told.append("add"),
        batches=lambda random: [random, 8],
    )
    assert trainer.next(0.0) == {"x": 8}
    assert trainer.next(0.0) == {"x": 8}
    assert told == ["add", 7, 8, "restart 2", "cut", "add", 7, 8]
    assert trainer.algorithm.updates == 5


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The online loop around rounds in which replica 0 ends an episode of return k and length 2k at update k."""
    seen = SimpleNamespace(progress=[], saved=[], now=50.0)

    class Rounds:
        replay = None

        def __init__(self, algorithm: Any, env: Any) -> None:
            self.algorithm, self.collector = algorithm, SimpleNamespace(finished=[])

        def next(self, progress: float) -> dict[str, Tensor]:
            seen.progress.append(progress)
            seen.now += 2.0
            self.algorithm.updates += 1
            k = self.algorithm.updates
            self.collector.finished.append((0, float(k), 2 * k))
            return {}

    monkeypatch.setattr(online, "OnlineTrainer", Rounds)
    monkeypatch.setattr(time, "monotonic", lambda: seen.now)
    save = lambda path, lessons, identity, curve: seen.saved.append(lessons.algorithm.updates)  # noqa: E731
    monkeypatch.setattr(online, "_save", save)
    return seen


def test_the_curve_and_when_it_is_saved(loop: Any, tmp_path: Path) -> None:
    """Six updates of 30 steps make 151 steps; a point every third update and at every restart."""
    algorithm, updates = learner(Script(6)), list[int]()
    curve = train_online(
        algorithm, Script(6), steps=151, log_every=3, checkpoint=tmp_path / "c.npz", on_update=updates.append
    )
    assert loop.progress == pytest.approx([k / 6 for k in range(6)])
    assert updates == list(range(7))
    assert loop.saved == [2, 4, 6]
    mine = [point for point in curve if point.seed == 3]
    assert [(p.updates, p.steps, p.episodes, p.mean_return, p.std_return, p.mean_length) for p in mine] == [
        (2, 60, 2, 1.5, 0.5, 3.0),
        (3, 90, 1, 3.0, 0.0, 6.0),
        (4, 120, 1, 4.0, 0.0, 8.0),
        (6, 180, 2, 5.5, 0.5, 11.0),
    ]
    assert [p.seconds for p in mine] == [4.0, 6.0, 8.0, 12.0]
    other = [point for point in curve if point.seed == 4]
    assert {(p.episodes, p.mean_return, p.std_return, p.mean_length) for p in other} == {
        (0, None, None, None)
    }
    assert (mine[0].diverged, other[0].diverged) == (False, True)


def test_a_part_of_the_training(loop: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """61 of 300 steps take three of ten updates, and the restart after the fourth."""
    algorithm = learner(Script(6))
    train_online(algorithm, Script(6), steps=300, until=61)
    assert loop.progress == pytest.approx([0.0, 0.1, 0.2, 0.3])
    said: list[str] = []
    new = learner(Script(6))
    train_online(new, Script(6), steps=30, notify=said.append)
    assert said == [], "a new training goes on from nothing"
    train_online(algorithm, Script(6), steps=150, until=1000, checkpoint=tmp_path / "new.npz")
    assert algorithm.updates == 5
    assert loop.saved == [5], "the end is saved, too"
    (tmp_path / "c.npz").touch()
    before = CurvePoint(3, 5, 150, 0, None, None, None, False, 100.0)
    monkeypatch.setattr(online, "_resume", lambda path, lessons, identity: [before])
    curve = train_online(algorithm, Script(6), steps=180, checkpoint=tmp_path / "c.npz", notify=said.append)
    assert said == [f"{algorithm.name} goes on from update 5 of 6"]
    train_online(algorithm, Script(6), steps=180, notify=said.append)
    assert len(said) == 1, "nor does one that is done"
    assert curve[0] is before
    assert [point.seconds for point in curve[1:]] == [102.0, 102.0]
    for wrong in ({"steps": 0}, {"steps": 1, "log_every": 0}, {"steps": 1, "until": 0}):
        with pytest.raises(ConfigError, match=f"^{list(wrong)[-1]} is 0; it must be positive"):
            train_online(algorithm, Script(6), **wrong)  # type: ignore[arg-type]
