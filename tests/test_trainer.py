"""The trainer's bookkeeping: what a learner is shown, when it is evaluated and saved, what its checkpoint tells."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from marlzoo.algorithm import Algorithm, Stage
from marlzoo.batch import Batch
from marlzoo.config import Config, Natural
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler
from marlzoo.data.validation import check_scale
from marlzoo.errors import CheckpointError, ConfigError, DataError, SpecError
from marlzoo.modules.layers import Linear
from marlzoo.modules.policies import Policy, SquashedPolicy
from marlzoo.registry import make
from marlzoo.spec import Spec
from marlzoo.system.array_files import load_arrays
from marlzoo.training import trainer
from marlzoo.training.evaluation import Evaluation
from marlzoo.training.trainer import make_sampler, train
from tests.toys import ToyEnv, toy_dataset, toy_spec


@dataclass(frozen=True)
class ProbeConfig(Config):
    """Settings of the probe."""

    batch_size: Natural = 4
    first: Natural = 0  # updates of a first stage


class Probe(Algorithm):
    """Learns next to nothing and keeps what it is shown."""

    config: ProbeConfig
    config_class = ProbeConfig
    actions = ("continuous",)
    fields: tuple[str, ...] = ("obs", "reward", "mask")
    presets: ClassVar[dict[str, Any]] = {}

    def build(self, spec: Spec) -> None:
        self.net = Linear(self.init, spec.obs_size + spec.n_agents, spec.action_size)
        self.add_optimizer(net=self.net)
        self.prepared: list[list[Dataset]] = []
        self.seen: list[Batch] = []
        self.made: list[str] = []

    def prepare(self, data: Sequence[Dataset], batches: Iterator[Batch]) -> None:
        self.prepared.append(list(data))
        self.looked_at = next(batches)

    def stages(self) -> tuple[Stage, ...]:
        last = Stage("second", self.update, traceable=False)
        first = Stage("first", self._first, self.config.first, traceable=False)
        return (first, last) if self.config.first else (last,)

    def _first(self, batch: Batch) -> dict[str, Tensor]:
        return self.update(batch) | {"first": torch.ones(self.replicas)}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        self.seen.append(batch)
        loss = sum(p.square().flatten(1).sum(1) for p in self.net.parameters())
        assert isinstance(loss, Tensor)
        return {"reward": batch.reward.mean(1), **self.step(net=loss)}

    def policy(self) -> Policy:
        return SquashedPolicy(self.net)


def probe(seeds: Sequence[int] = (0, 1), dtype: torch.dtype = torch.float32, **settings: Any) -> Probe:
    config = ProbeConfig(**settings)
    return Probe(toy_spec(), seeds, [config] * len(seeds), dtype=dtype)


def run(algorithm: Algorithm, data: Any = None, **more: Any) -> list[Evaluation]:
    usual: dict[str, Any] = {"updates": 5, "compile": "off", "check_data": False, "show_progress": False}
    usual |= {"env": ToyEnv, "episodes": 2, "eval_every": 2}
    return train(algorithm, toy_dataset() if data is None else data, **usual | more)


# ---- what a learner is shown -----------------------------------------------------------------------------


def test_a_new_learner_looks_once_at_its_replicas_data(tmp_path: Path) -> None:
    """What it draws while it looks does not change what it is trained on."""
    data, file = [toy_dataset(seed=1), toy_dataset(seed=2)], tmp_path / "run.npz"
    learner = probe()
    run(learner, data, checkpoint=file)
    assert learner.prepared == [data]
    expected = Sampler(data, [0, 1], batch_size=4, fields=("obs",))
    for k, batch in enumerate(learner.seen):
        obs = expected.next().obs
        assert torch.equal(batch.obs, obs)
        assert k or torch.equal(learner.looked_at.obs, obs)
    resumed = probe()
    run(resumed, data, updates=7, checkpoint=file)
    assert resumed.prepared == []
    assert torch.equal(resumed.seen[0].obs, expected.next().obs), "it goes on where the sampler was"
    shared = probe()
    run(shared, data[0], updates=1)
    assert shared.prepared == [[data[0], data[0]]]


def test_settings_reach_the_batches() -> None:
    data, batches = toy_dataset(), {}
    for name, settings in (
        ("plain", {"timeout_is_terminal": False}),
        ("limits", {"timeout_is_terminal": True}),
        ("to_go", {"reward_mode": "rtg", "timeout_is_terminal": False}),
    ):
        batches[name] = make_sampler(probe([7], batch_size=200, **settings), [data]).next()
    plain, limits, to_go = batches["plain"], batches["limits"], batches["to_go"]
    assert (limits.mask <= plain.mask).all()
    assert (limits.mask < plain.mask).any()
    assert torch.equal(plain.obs, to_go.obs)
    assert not torch.equal(plain.reward, to_go.reward)
    assert plain.obs.shape[:2] == (1, 200)
    assert make_sampler(probe(dtype=torch.float64), [data]).next().reward.dtype == torch.float64


def test_stages_follow_each_other_and_must_fit() -> None:
    told: list[tuple[int, bool]] = []
    note = lambda done, metrics: told.append((done, "first" in metrics))  # noqa: E731
    run(probe(first=3), updates=4, log_every=1, on_progress=note)
    assert told == [(1, True), (2, True), (3, True), (4, False)]
    with pytest.raises(ConfigError, match=r"3 updates end before the stage 'second' begins.*\(first 3\)"):
        run(probe(first=3), updates=3)


def test_methods_that_learn_online_are_refused() -> None:
    learner = probe()
    learner.sampling = "online"
    with pytest.raises(SpecError, match="learns online, not from logged data"):
        run(learner)


# ---- environments ----------------------------------------------------------------------------------------


class Watched(ToyEnv):
    """Tells how many copies there were, and whether it was closed."""

    made: ClassVar[list[int]] = []
    closed: ClassVar[list[int]] = []

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs)
        self.made.append(num_envs)

    def close(self) -> None:
        self.closed.append(self.num_envs)


def test_every_dataset_is_compared_once_and_the_environment_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Dataset] = []

    class Report:
        def raise_on_mismatch(self) -> None:
            if len(compared) == 3:
                raise ZeroDivisionError

    def check(data: Dataset, env: Any) -> Report:
        assert isinstance(env, Watched)
        compared.append(data)
        return Report()

    monkeypatch.setattr(trainer, "check", check)
    Watched.made.clear()
    Watched.closed.clear()
    one, other = toy_dataset(seed=1), toy_dataset(seed=2)
    run(probe([0, 1, 2]), [one, other, one], updates=1, env=Watched)
    assert compared == []
    run(probe([0, 1, 2]), [one, other, one], updates=1, env=Watched, check_data=True)
    assert compared == [one, other]
    with pytest.raises(ZeroDivisionError):
        run(probe([0, 1, 2]), [other, other, other], updates=1, env=Watched, check_data=True)
    assert Watched.made == Watched.closed == [6, 6, 6]


# ---- when ------------------------------------------------------------------------------------------------


class StopError(Exception):
    """Ends a run in the middle."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still unless the test moves it."""
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_the_order_of_events_and_the_seconds(tmp_path: Path, clock: list[float]) -> None:
    """Every update takes a second; the run is interrupted in its sixth, after its last save."""
    events: list[Any] = []
    seconds: dict[int, float] = {}
    stops = [6]

    def on_progress(done: int, _: Any) -> None:
        clock[0] += 1.0
        if done in stops:
            stops.clear()
            raise StopError

    def on_evaluation(evaluation: Evaluation) -> None:
        events.append(evaluation.updates)
        seconds[evaluation.updates] = evaluation.seconds

    def on_checkpoint(file: Path) -> None:
        events.append(f"saved {load_arrays(file)[1]['updates']}")

    options: dict[str, Any] = {"checkpoint": tmp_path / "run.npz", "eval_every": 4, "checkpoint_every": 3}
    options |= {"log_every": 1, "on_progress": on_progress, "on_evaluation": on_evaluation}
    said: list[str] = []
    with pytest.raises(StopError):
        run(probe(), updates=9, on_checkpoint=on_checkpoint, log=said.append, **options)
    assert not [line for line in said if "goes on" in line], "a new run goes on from nothing"
    assert events == ["saved 3", "saved 4", 4]
    clock[0] += 1000.0
    events.clear()
    said.clear()
    found = run(probe(), updates=9, on_checkpoint=on_checkpoint, log=said.append, **options)
    assert [line for line in said if "goes on" in line] == [f"{probe().name} goes on from update 4 of 9"]
    assert events == [4, "saved 6", "saved 8", 8, "saved 9", 9]
    assert seconds == {4: 4.0, 8: 8.0, 9: 9.0}
    assert [e.updates for e in found] == [4, 8, 9]
    assert load_arrays(tmp_path / "run.npz")[1]["seconds"] == 9.0
    said.clear()
    run(probe(), updates=9, log=said.append, **options)
    assert not said


def test_saves_have_a_time_between_them_and_evaluations_wait_for_them(
    tmp_path: Path, clock: list[float]
) -> None:
    """Every update takes a second; the run is interrupted in its seventh."""
    events: list[Any] = []
    stops = [7]

    def on_progress(done: int, _: Any) -> None:
        clock[0] += 1.0
        if done in stops:
            stops.clear()
            raise StopError

    options: dict[str, Any] = {"checkpoint": tmp_path / "run.npz", "eval_every": 2, "checkpoint_every": 3}
    options |= {"log_every": 1, "on_progress": on_progress, "checkpoint_seconds": 4.0, "updates": 9}
    options["on_evaluation"] = lambda evaluation: events.append(evaluation.updates)
    options["on_checkpoint"] = lambda file: events.append(f"saved {load_arrays(file)[1]['updates']}")
    with pytest.raises(StopError):
        run(probe(), **options)
    assert events == ["saved 4", 2, 4]
    clock[0] += 1000.0
    events.clear()
    found = run(probe(), **options)
    assert events == [2, 4, "saved 8", 6, 8, "saved 9", 9]
    assert [e.updates for e in found] == [2, 4, 6, 8, 9]


def test_progress_is_told_every_so_many_updates_and_at_the_end() -> None:
    told: list[int] = []
    run(probe(), updates=7, log_every=3, on_progress=lambda done, _: told.append(done))
    assert told == [3, 6, 7]


def test_evaluations_carry_the_metrics_of_their_update() -> None:
    learner = probe()
    found = run(learner, updates=4)
    for evaluation in found:
        reward = learner.seen[evaluation.updates - 1].reward.mean(1)
        np.testing.assert_array_equal(evaluation.metrics["reward"], reward.numpy())
        assert not evaluation.diverged.any()


# ---- checkpoints -----------------------------------------------------------------------------------------


def test_a_checkpoint_tells_what_the_run_was(tmp_path: Path) -> None:
    file, data = tmp_path / "run.npz", [toy_dataset(seed=1), toy_dataset(seed=2)]
    found = run(
        probe(), data, updates=3, checkpoint=file, horizon=5, task="toy/other", env_options={"speed": 2}
    )
    meta = load_arrays(file)[1]
    told = {name: meta[name] for name in ("task", "sources", "env", "horizon", "episodes", "owes")}
    assert told == {
        "task": "toy/other",
        "sources": ["toy/walk/test/seed1", "toy/walk/test/seed2"],
        "env": {"speed": 2},
        "horizon": 5,
        "episodes": 2,
        "owes": False,
    }
    assert [record["updates"] for record in meta["evaluations"]] == [2, 3]
    assert (found[0].episodes.lengths == 5).all()
    run(probe(), data, updates=2, checkpoint=tmp_path / "b.npz", env=None)
    meta = load_arrays(tmp_path / "b.npz")[1]
    assert (meta["task"], meta["episodes"], meta["evaluations"]) == ("toy/walk", None, [])


def test_other_data_of_one_replica_and_another_precision_are_refused(tmp_path: Path) -> None:
    file, data = tmp_path / "run.npz", [toy_dataset(seed=1), toy_dataset(seed=2)]
    run(probe(), data, updates=2, checkpoint=file)
    with pytest.raises(CheckpointError, match="trained on other data"):
        run(probe(), data[::-1], updates=3, checkpoint=file)
    with pytest.raises(CheckpointError, match="with precision float32, not bf16"):
        run(probe(), data, updates=3, checkpoint=file, precision="bf16")


def test_a_run_that_is_forced_begins_anew_and_nothing_goes_before_it_can(tmp_path: Path) -> None:
    file = tmp_path / "run.npz"
    run(probe(), checkpoint=file, updates=3)
    kept = file.read_bytes()
    with pytest.raises(ConfigError, match="precision"):
        run(probe(), checkpoint=file, updates=3, precision="tf32", force=True)
    assert file.read_bytes() == kept
    learner = probe()
    there: list[bool] = []
    first = learner.update

    def watched(batch: Batch) -> dict[str, Tensor]:
        there.append(file.exists())
        return first(batch)

    learner.update = watched  # type: ignore[method-assign]
    run(learner, checkpoint=file, updates=3, force=True, eval_every=9)
    assert there == [False] * 3
    assert run(probe(), checkpoint=file, updates=3)[-1].updates == 3  # what it left is a run to go on from


def test_data_of_another_shape_name_the_remedy() -> None:
    wider = replace(toy_spec(), horizon=99)
    learner = Probe(wider, [0], [ProbeConfig()])
    with pytest.raises(SpecError, match=r"does not fit .*horizon: 99 != 12.*marlzoo data convert FILE NEW"):
        run(learner)


def scaled(data: Dataset, size: float, first: int = 0) -> Dataset:
    """The data with rewards of this size from an episode on."""
    reward = np.where(np.arange(data.rows) < data.starts[first], data.reward, np.sign(data.reward) * size)
    arrays = {**data.arrays, "reward": reward.astype(np.float32)}
    return Dataset.create(data.spec, starts=data.starts, card=replace(data.card, content_hash=""), **arrays)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_rewards_that_no_error_can_be_squared_with_are_refused(kind: Any, tmp_path: Path) -> None:
    """The loss would be infinite and its gradient no step, and parameters that stay look like those of a run."""
    data = toy_dataset(kind)
    for method in ("iql", "icq"):
        learner = make(method, data.spec, hidden=8)
        told = (
            rf"episode that begins at row {data.starts[2]} add up to .*e\+\d+, whose .* divide all rewards by"
        )
        with pytest.raises(DataError, match=told):
            train(learner, [scaled(data, 1e30, first=2)], updates=1, checkpoint=tmp_path / "run.npz")
        assert learner.updates == 0
        train(learner, scaled(data, 1e15), updates=1)
    assert not list(tmp_path.iterdir())
    train(make("bc", data.spec, hidden=8), scaled(data, 1e30), updates=1)  # which reads no rewards


def test_sums_of_rewards_count_and_what_follows_an_episode_does_not() -> None:
    data = toy_dataset()
    largest = float(np.finfo(np.float32).max) ** 0.5
    length = int(data.lengths[0])
    rewards = np.zeros(data.rows)
    rewards[:length] = -largest / length / 1.01
    rewards[data.ends] = 1e30  # no step begins there
    check_scale(rewards, data.spans)
    rewards[:length] *= 1.02
    with pytest.raises(DataError, match="begins at row 0 add up to"):
        check_scale(rewards, data.spans)
    with pytest.raises(DataError, match="begins at row 0 add up to"):
        check_scale(np.stack([0 * rewards, rewards], 1), data.spans)
    rewards[data.ends] = 0.0  # each of them is small now, their sum is not
    rewards[data.starts[1]] = 1e25  # and a later episode's is what all have to be divided by
    with pytest.raises(DataError, match=r"begins at row 0 add up to .* for instance 1e\+25"):
        check_scale(rewards, data.spans)
    rewards[data.starts[1]] = 0.0
    with pytest.raises(DataError, match="begins at row 0 add up to"):
        check_scale(rewards, data.spans)
