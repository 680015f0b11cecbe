"""The replay of online methods: what is drawn is what happened, starts, cuts, the ring, and saving."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.batch import Rollout
from marlzoo.errors import ConfigError
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.finetune_settings import FinetuneSettings
from marlzoo.training.mixed_replay import MixedReplay
from marlzoo.training.replay_buffer import ReplayBuffer
from tests.toys import toy_spec

NUM_ENVS, STEPS, SLOTS = 3, 4, 10


def learner(**settings: Any) -> Algorithm:
    small = {"hidden": 8, "num_envs": NUM_ENVS, "rollout": STEPS, "replay": NUM_ENVS * SLOTS, "warmup": 0}
    return marlzoo.make("matd3", toy_spec(), seeds=(0, 1), **{**small, "learn_steps": 3, **settings})


def rollout(number: int, ends: Tensor) -> Rollout:
    """Step t of copy e shows 1000 e + t, and leads to half a step more; ``ends [E, T]``."""
    time = torch.arange(STEPS) + number * STEPS
    tag = (1000.0 * torch.arange(NUM_ENVS).view(-1, 1) + time).expand(2, NUM_ENVS, STEPS)
    fields = {
        "obs": tag.view(2, NUM_ENVS, STEPS, 1, 1).expand(-1, -1, -1, 3, 5),
        "state": tag.unsqueeze(-1).expand(-1, -1, -1, 7),
        "action": tag.view(2, NUM_ENVS, STEPS, 1, 1).expand(-1, -1, -1, 3, 2),
        "reward": tag,
        "mask": torch.ones_like(tag),
        "ends": ends.float().expand(2, NUM_ENVS, STEPS),
    }
    later = {f"next_{name}": fields[name] + 0.5 for name in ("obs", "state")}
    return cast(Rollout, Rollout.of({}, **fields, **later))


def filled_replay(length: int, anywhere: bool, rollouts: int, ends: Tensor) -> ReplayBuffer:
    """``ends [E, rollouts * T]``."""
    replay = ReplayBuffer(learner(), length, anywhere)
    for number in range(rollouts):
        replay.add(rollout(number, ends[:, number * STEPS : (number + 1) * STEPS]))
    return replay


def drawn(replay: ReplayBuffer, draws: int = 600) -> set[tuple[int, ...]]:
    """Distinct sequences of replica 1 as steps, and a check that rows, ends and padding belong together."""
    place = torch.arange(draws).div(draws).expand(2, draws)
    batch = replay.batch(place, {})
    found = set()
    reward, state = batch.reward[1].numpy(), batch.state[1, :, :, 0].numpy()
    for k, count in enumerate(batch.filled[1].sum(-1).int().tolist()):
        assert batch.filled[1, k, :count].all(), "padding comes last"
        steps = reward[k, :count]
        assert (np.diff(steps) == 1).all()
        rows = [steps[0], *(steps + 0.5)]
        np.testing.assert_array_equal(state[k, : count + 1], rows)
        assert (state[k, count:] == steps[-1] + 0.5).all(), "the last row stands for what is not there"
        assert (batch.obs[1, k, : count + 1, 2, 4].numpy() == rows).all()
        found.add(tuple(int(step) for step in steps))
    return found


def expected(length: int, anywhere: bool, ends: np.ndarray[Any, Any]) -> set[tuple[int, ...]]:
    """By loops over copies and steps; the last SLOTS steps are there."""
    found, total = set(), ends.shape[1]
    for copy in range(NUM_ENVS):
        age = 0
        for start in range(total):
            if (anywhere or age % length == 0) and start >= total - SLOTS:
                steps = []
                for t in range(start, min(start + length, total)):
                    steps.append(1000 * copy + t)
                    if ends[copy, t]:
                        break
                found.add(tuple(steps))
            age = 0 if ends[copy, start] else age + 1
    return found


@pytest.mark.parametrize("anywhere", [True, False])
@pytest.mark.parametrize("length", [1, 3, 6])
@pytest.mark.parametrize("rollouts", [1, 2, 5])
def test_draws_are_what_happened(length: int, anywhere: bool, rollouts: int) -> None:
    """Before the ring is full and after it has turned twice."""
    ends = np.random.default_rng(rollouts).random((NUM_ENVS, rollouts * STEPS)) < 0.2
    replay = filled_replay(length, anywhere, rollouts, torch.from_numpy(ends))
    assert drawn(replay) == expected(length, anywhere, ends)
    assert replay.count == min(rollouts * STEPS, SLOTS)


def test_starts_are_equally_likely() -> None:
    replay = filled_replay(1, True, 2, torch.zeros(NUM_ENVS, 8))
    reward = replay.batch(ReplicaRandom([0, 1], "x").uniform(24_000), {}).reward[0, :, 0]
    counts = torch.unique(reward, return_counts=True)[1]
    assert len(counts) == 24
    assert (counts - 1000).abs().max() < 160


def test_pairs_of_steps_are_drawn_where_the_next_action_is_known_or_not_needed() -> None:
    """Not at a cut, nor at the newest step; once the ring has turned, either."""
    method = marlzoo.make("icq", toy_spec(), seeds=(0, 1), hidden=8, batch_size=400)
    sizes = FinetuneSettings(num_envs=NUM_ENVS, rollout=STEPS, replay=NUM_ENVS * SLOTS, data_share=0)
    mixed, cut, terminal = MixedReplay(method, [], sizes), 6, (1005, 2011)
    for number in range(3):  # steps 2 to 11 of each copy are there at last
        new = rollout(number, torch.zeros(NUM_ENVS, STEPS))
        new.ends = torch.isin(new.reward, torch.tensor([cut, *terminal])).float()
        new.mask = 1.0 - torch.isin(new.reward, torch.tensor(terminal)).float()
        mixed.add(new)
    batch = mixed.batch(0.0, ReplicaRandom([0, 1], "x"))
    steps = batch.reward[1]
    assert set(steps.int().tolist()) == {
        step
        for copy in range(NUM_ENVS)
        for step in range(1000 * copy + 2, 1000 * copy + 12)
        if step in terminal or (step != cut and step % 1000 != 11)
    }
    last = (steps == terminal[0]) | (steps == terminal[1])
    assert (batch.obs[1, :, 0, 0] == steps).all()
    assert (batch.next_obs[1, :, 0, 0] == steps + 0.5).all()
    assert (batch.next_action[1, :, 2, 1] == steps + ~last).all()
    alone = MixedReplay(method, [], FinetuneSettings(num_envs=NUM_ENVS, rollout=STEPS, data_share=0))
    alone.add(rollout(0, torch.ones(NUM_ENVS, STEPS)))
    with pytest.raises(ConfigError, match="icq learns from pairs of steps, of which the replay holds none"):
        alone.batch(0.0, ReplicaRandom([0, 1], "x"))


def test_a_restart_cuts() -> None:
    """Sequences do not reach over it, and the next episode counts from zero."""
    replay = filled_replay(3, False, 1, torch.zeros(NUM_ENVS, 4))
    replay.cut()
    replay.add(rollout(1, torch.zeros(NUM_ENVS, STEPS)))
    assert {steps for steps in drawn(replay) if steps[0] < 1000} == {(0, 1, 2), (3,), (4, 5, 6), (7,)}


def test_replicas_have_their_own() -> None:
    replay = ReplayBuffer(learner(), 1, True)
    mixed = rollout(0, torch.zeros(NUM_ENVS, STEPS))
    mixed.reward = mixed.reward * torch.tensor([1.0, -1.0]).view(2, 1, 1)
    replay.add(mixed)
    batch = replay.batch(torch.rand(2, 50, generator=torch.Generator().manual_seed(0)), {})
    assert (batch.reward[0] >= 0).all()
    assert (batch.reward[1] <= 0).all()
    replay = ReplayBuffer(learner(), 2, False)
    mixed.ends = torch.stack((torch.zeros(NUM_ENVS, STEPS), torch.ones(NUM_ENVS, STEPS)))
    replay.add(mixed)  # replica 1's episodes take one step each
    batch = replay.batch(torch.arange(48).div(48).expand(2, 48), {})
    assert [len(batch.reward[r, :, 0].unique()) for r in range(2)] == [
        NUM_ENVS * STEPS // 2,
        NUM_ENVS * STEPS,
    ]


@pytest.mark.parametrize("rollouts", [1, 2, 4])
def test_a_saved_replay_goes_on(rollouts: int) -> None:
    ends = torch.from_numpy(np.random.default_rng(0).random((NUM_ENVS, 24)) < 0.2)
    whole = filled_replay(3, False, rollouts, ends)
    again = ReplayBuffer(learner(), 3, False)
    again.restore(whole.state())
    assert drawn(again) == drawn(whole)
    for replay in (whole, again):
        replay.add(rollout(rollouts, ends[:, rollouts * STEPS : (rollouts + 1) * STEPS]))
    place = ReplicaRandom([0, 1], "x").uniform(200)
    one, other = (replay.batch(place, {}).tensors() for replay in (whole, again))
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def test_learning_begins_after_the_warm_up() -> None:
    algorithm = learner(warmup=30, batch_size=5)
    replay, counts = ReplayBuffer(algorithm, 1, True), []
    for number in range(4):  # 12, 24, 36, 48 steps
        replay.add(rollout(number, torch.zeros(NUM_ENVS, STEPS)))
        counts.append(len(list(replay.batches(ReplicaRandom([0, 1], "x")))))
        algorithm.updates += 1
    assert counts == [0, 0, 3, 3]


def test_every_batch_of_a_round_is_another() -> None:
    """Rows and noise; replica 1's are those that it draws alone."""
    algorithm = learner(batch_size=5)
    replay = ReplayBuffer(algorithm, 1, True)
    replay.add(rollout(0, torch.zeros(NUM_ENVS, STEPS)))
    found, random = list(replay.batches(ReplicaRandom([8, 9], "x"))), ReplicaRandom([8, 9], "x")
    places, (name, (kind, shape)) = random.uniform(3, 5), next(iter(algorithm.noise().items()))
    noise = random.draw(kind, 3, *shape)
    for k, batch in enumerate(found):
        assert torch.equal(batch.obs, replay.batch(places[:, k], {}).obs)
        assert torch.equal(batch.noise[name], noise[:, k])
        assert batch.obs.shape[1] == 5


def test_a_replay_without_room() -> None:
    with pytest.raises(ConfigError, match="no room for 4 steps of each of 3 copies"):
        ReplayBuffer(learner(replay=11), 1, True)
    assert ReplayBuffer(learner(replay=12), 1, True).capacity == STEPS
    with pytest.raises(ConfigError, match="no room for 11 steps of each of 3 copies"):
        ReplayBuffer(learner(), 11, False)
