"""Online QMIX: its loss, exploration, memory, and that it learns where one must remember."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from marlzoo.baselines.qmix import QMIX
from numpy.typing import NDArray

import marlzoo
from marlzoo.envs.base import Ids, Observation, Step
from marlzoo.modules.policies import EpsilonGreedyPolicy
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.evaluation import evaluate
from marlzoo.training.online import train_online
from marlzoo.training.trainer import make_sampler
from tests.guess import Guess
from tests.toys import toy_dataset, toy_spec


def make(**settings: Any) -> QMIX:
    small: dict[str, Any] = {"hidden": 8, "mixer_hidden": 8, "num_envs": 6, "rollout": 10}
    spec = toy_spec("discrete")
    learner = marlzoo.make("qmix", spec, seeds=(0, 1), dtype=torch.float64, **{**small, **settings})
    return cast(QMIX, learner)


def test_its_loss_is_that_of_the_offline_method_without_penalty() -> None:
    settings = {"hidden": 8, "mixer_hidden": 8, "last_action": True, "batch_size": 16, "sequence_length": 0}
    more: dict[str, Any] = {
        "half_td": False,
        "cql_weight": 0.0,
        "grad_clip": 10.0,
        "lr": 5e-4,
        "memory_relu": False,
    }
    spec, seeds = toy_spec("discrete"), (0, 1)
    offline = marlzoo.make("qmix_cql", spec, seeds=seeds, dtype=torch.float64, **settings, **more)
    sampler, online = make_sampler(offline, [toy_dataset("discrete")]), make()
    for _ in range(3):
        batch = sampler.next()
        torch.testing.assert_close(online.update(batch)["q/loss"], offline.update(batch)["q/loss"])
    for one, other in zip(online.team.parameters(), offline.team.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_epsilon_falls_and_stays() -> None:
    learner = make(anneal=600, epsilon_end=[0.1, 0.2])  # 60 steps a round
    expected = {0: [1.0, 1.0], 5: [0.55, 0.6], 10: [0.1, 0.2], 50: [0.1, 0.2]}
    for updates, values in expected.items():
        learner.updates = updates
        assert learner.epsilon().flatten().tolist() == pytest.approx(values)


def test_sequences_are_as_long_as_asked_for() -> None:
    assert make(sequence_length=5).sequences() == (5, False)
    assert make(sequence_length=0).sequences() == (toy_spec("discrete").horizon, False)
    assert make(history="mlp").sequences() == (1, True)


def test_the_learner_explores_legally_and_evaluates_with_the_last_epsilon() -> None:
    learner = make(epsilon_start=1.0, epsilon_end=0.25)
    random, fresh = ReplicaRandom([0, 1], "x", dtype=torch.float64), torch.ones(2, 50, dtype=torch.bool)
    obs = torch.zeros(2, 50, 3, 5, dtype=torch.float64)
    action_mask = torch.tensor([False, True, True, False]).expand(2, 50, 3, 4)
    action = learner.explore(obs, action_mask, random, fresh)
    assert action.unique().tolist() == [1, 2]
    assert ((action == 1).double().mean(1) - 0.5).abs().max() < 0.3  # every agent tries both
    sure = make(epsilon_start=0.0, epsilon_end=0.0).explore(obs, action_mask, random, fresh)
    assert (sure == sure[:, :1]).all()
    policy = learner.policy()
    policy.reset(50)
    best = policy.act(obs, action_mask)
    policy.reset(50)
    share = (policy.act(obs, action_mask, random) != best).double().mean()
    assert 0.05 < share < 0.2  # a quarter, of which half happens to be the best


def test_explores_legal_actions_only_and_each_of_them() -> None:
    scores = torch.nn.Identity()
    policy = EpsilonGreedyPolicy(scores, lambda: torch.tensor([0.3]).view(1, 1, 1))
    obs = torch.tensor([3.0, 1.0, 2.0, 5.0]).expand(1, 20_000, 1, 4)
    action_mask = torch.tensor([True, True, True, False]).expand(1, 20_000, 1, 4)
    policy.scores = _Head()
    share = policy.act(obs, action_mask, ReplicaRandom([0], "x")).flatten().bincount(minlength=4) / 20_000
    assert share.tolist() == pytest.approx([0.8, 0.1, 0.1, 0.0], abs=0.015)
    assert (policy.act(obs, action_mask) == 0).all()


class _Head(torch.nn.Module):
    """The observation as values (the agent's number left out)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., :4]


def test_memory_begins_anew_with_each_episode_of_a_copy() -> None:
    """After a fresh start a copy acts as if nothing had been; the others, in either replica, go on."""
    learner = make(epsilon_start=0.0, epsilon_end=0.0)
    source = torch.Generator().manual_seed(0)
    obs = torch.randn(6, 2, 4, 3, 5, generator=source, dtype=torch.float64)
    random, none = ReplicaRandom([0, 1], "x", dtype=torch.float64), torch.zeros(2, 4).bool()

    def hidden_state() -> torch.Tensor:
        reader = cast(Any, learner._collecting[0])._reader
        return cast(torch.Tensor, reader.hidden_state).clone()

    with torch.no_grad():
        learner.explore(obs[0], None, random, ~none)
        first = hidden_state()
        for x in obs[1:5]:
            learner.explore(x, None, random, none)
        fresh = none.clone()
        fresh[1, 2] = True
        before = hidden_state()
        learner.explore(obs[0], None, random, fresh)
        after = hidden_state()
    torch.testing.assert_close(after[1, 2], first[1, 2])
    assert not torch.allclose(after[0, 2], first[0, 2])
    assert before.shape == after.shape
    assert not any("collecting" in name for name in learner.state_dict())


def test_learns_the_optimum() -> None:
    env = Guess(16, "discrete")
    sizes: dict[str, Any] = {"num_envs": 16, "rollout": 10, "hidden": 32, "learn_steps": 10}
    learner = marlzoo.make("qmix", env.spec, seeds=[0], lr=5e-3, anneal=1500, warmup=320, **sizes)
    train_online(learner, env, steps=160 * 20)
    assert evaluate(learner.policy(), Guess(64, "discrete"), seeds=[1]).returns.mean() > 4.9


class Recall(Guess):
    """The bits are shown and drawn in the first of three steps only; naming both in the last one pays."""

    def __init__(self, num_envs: int) -> None:
        super().__init__(num_envs, "discrete", horizon=3)

    def _draw(self, ids: Ids) -> None:
        super()._draw(ids[self._t[ids] % 3 == 0])

    def _show(self) -> Observation:
        seen = super()._show()
        seen.obs[self._t % 3 != 0] = 0.0
        return seen

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        step = super().step(action, ids)
        step.reward[~step.truncated] = 0.0
        return step


def test_remembers() -> None:
    """The best return is 1; without memory it is a quarter."""
    sizes: dict[str, Any] = {
        "num_envs": 16,
        "rollout": 6,
        "hidden": 32,
        "learn_steps": 10,
        "target_period": 30,
    }
    for history, low, high in (("rnn", 0.95, 1.0), ("mlp", 0.0, 0.6)):
        env = Recall(16)
        learning: dict[str, Any] = {"lr": 8e-3, "anneal": 1200, "warmup": 200, "history": history}
        learner = marlzoo.make("qmix", env.spec, seeds=[0], **sizes, **learning)
        train_online(learner, env, steps=96 * 25)
        found = evaluate(learner.policy(), Recall(200), seeds=[1]).returns.mean()
        assert low <= found <= high, (history, found)
