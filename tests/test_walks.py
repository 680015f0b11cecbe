"""What is learned on the walks: policies of every cell, averaged over the last half of a training."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.benchmarks import walks as module
from marlzoo.benchmarks.walks import HORIZON, Training, Walks, distance, learn, probabilities


def test_distances_of_distributions() -> None:
    pairs = (([0.5, 0.5], [1.0, 0.0]), ([0.2, 0.8], [0.2, 0.8]), ([1.0, 0.0], [0.0, 1.0]))
    first, second = (np.array([pair[k] for pair in pairs]) for k in (0, 1))
    np.testing.assert_allclose(distance(first, second), [0.5, 0.0, 1.0])


class Linear:
    """Logits of two agents in three cells, for two replicas."""

    def __init__(self) -> None:
        self.weight = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))

    def parameters(self) -> Iterator[torch.Tensor]:
        yield self.weight

    def __call__(self, seen: torch.Tensor) -> torch.Tensor:
        return torch.einsum("rcno,roa->rcna", seen, self.weight)


def test_probabilities_of_every_cell_and_agent() -> None:
    actor = Linear()
    spec: Any = SimpleNamespace(obs_size=3, n_agents=2)
    found = probabilities(actor, spec)
    assert found.shape == (2, 2, 3, 4)
    for replica in range(2):
        for agent in range(2):
            for cell in range(3):
                weight = actor.weight[replica].double().numpy()
                logits = weight[cell] + weight[3 + agent]
                wanted = np.exp(logits) / np.exp(logits).sum()
                np.testing.assert_allclose(found[replica, agent, cell], wanted, rtol=1e-5)


def test_the_last_half_of_a_training_is_averaged(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def make(method: str, spec: Any, **settings: Any) -> Any:
        asked.update(settings, method=method)
        return SimpleNamespace(actor="actor")

    def train(
        algorithm: Any, data: Any, *, updates: int, log_every: int, on_progress: Any, **options: Any
    ) -> None:
        asked.update(updates=updates, log_every=log_every)
        for done in range(log_every, updates + 1, log_every):
            asked["done"] = float(done)
            on_progress(done, {})

    monkeypatch.setattr(module, "make", make)
    monkeypatch.setattr(module, "train", train)
    monkeypatch.setattr(module, "probabilities", lambda actor, spec: np.full(2, asked["done"]))
    spec: Any = None
    training = Training(updates=100, every=25, hidden=7, lr=0.5)
    assert learn(spec, [], training, (3, 4), alpha=2.0, lr=0.25).tolist() == [75.0, 75.0]  # 50, 75, 100
    assert (asked["method"], asked["seeds"], asked["hidden"], asked["lr"]) == ("omiga", (3, 4), 7, 0.25)
    assert (asked["alpha"], asked["mixer_hidden"], asked["log_every"]) == (2.0, 16, 25)
    learn(spec, [], Training(updates=10, every=25), (0,))
    assert asked["log_every"] == 10


def test_the_task_as_drawn() -> None:
    walks = Walks.random(agents=3, cells=400, seed=1)
    assert (walks.behavior.min(), walks.behavior.sum(-1).min()) == pytest.approx((0.1, 1.0), abs=0.02)
    assert walks.behavior.min() >= 0.1
    np.testing.assert_allclose(walks.reward.max((1, 2)), [1, 2, 3], rtol=0.01)
    small = Walks.random(cells=3)
    assert small.moves.tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 2]]
    data = small.dataset(HORIZON + 1, seed=0)
    assert data.episodes == 2  # rounded up
    assert np.flatnonzero(data.truncated).tolist() == [HORIZON - 1, 2 * HORIZON]
    starts = small.dataset(2000 * HORIZON, seed=0)
    first = starts.obs[starts.starts].argmax(-1)
    np.testing.assert_allclose(np.bincount(first.ravel()) / first.size, 1 / 3, atol=0.03)


def test_a_value_by_counting_steps() -> None:
    """One agent that goes right from the first of two cells and stays."""
    reward = np.zeros((1, 2, 3))
    reward[0, 0, 2], reward[0, 1, 1] = 1.0, 0.5
    walks = Walks(reward, np.full((1, 2, 3), 1 / 3), 0.5)
    policy = np.zeros((1, 2, 3))
    policy[0, 0, 2] = policy[0, 1, 1] = 1.0
    # From the second cell 0.5 + 0.25 + ... = 1; from the first 1 + 1 / 2.
    assert walks.value(policy) == pytest.approx((1.5 + 1.0) / 2)
    cost = 0.2 * np.log(3.0)
    assert walks.value(policy, 0.2) == pytest.approx((1.5 + 1.0) / 2 - cost / (1 - 0.5))
