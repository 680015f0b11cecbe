"""Closed-form checks of behavior cloning (section 8 of its specification)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.data.sampler import Sampler
from marlzoo.modules.policies import categorical_log_prob, mask_logits
from marlzoo.replicas import ReplicaRandom
from marlzoo.spec import ActionKind, Spec
from marlzoo.training.trainer import make_sampler
from tests.toys import toy_dataset, toy_spec

DOUBLE = torch.float64


def fit(kind: str, size: int, action: Tensor, updates: int, **config: Any) -> tuple[Algorithm, float]:
    """BC on one constant observation and the actions ``[B]`` or ``[B, A]`` of a single agent."""
    algorithm = marlzoo.make(
        "bc", Spec(1, 1, 1, kind, size, 5), hidden=16, lr=1e-2, dtype=DOUBLE, **config  # type: ignore[arg-type]
    )  # fmt: skip
    rows = len(action)
    batch = Batch.of(
        obs=torch.ones(1, rows, 1, 1, dtype=DOUBLE),
        action=action.view(1, rows, 1, *action.shape[1:]),
        action_mask=torch.ones(1, rows, 1, size, dtype=torch.bool),
    )
    loss = math.nan
    for step in range(updates):
        algorithm._optimizers["policy"].lr.fill_(1e-2 * (1 - step / updates))
        loss = algorithm.update(batch)["policy/loss"].item()
    return algorithm, loss


def test_cross_entropy_and_mask() -> None:
    """Check 1."""
    logits = torch.tensor([1.0, 2.0, 0.0, -1.0])
    assert -categorical_log_prob(logits, torch.tensor(1)).item() == pytest.approx(0.440190, abs=1e-6)
    masked = mask_logits(logits, torch.tensor([True, False, True, True]))
    assert -categorical_log_prob(masked, torch.tensor(0)).item() == pytest.approx(0.407606, abs=1e-6)
    assert masked.softmax(-1).tolist() == pytest.approx([0.6652, 0, 0.2447, 0.0900], abs=1e-4)


def sequence_loss(per_step: list[list[float]], filled: list[list[float]]) -> float:
    algorithm = marlzoo.make("bc", Spec(1, 1, 1, "discrete", 2, 3), history="rnn", hidden=4)
    values = torch.tensor(per_step)[None, ..., None]
    algorithm._loss = lambda obs, batch: values  # type: ignore[attr-defined]
    algorithm.step = lambda **losses: {}  # type: ignore[method-assign]
    steps = values.shape[2]
    batch = Batch.of(obs=torch.zeros(1, 2, steps + 1, 1, 1), filled=torch.tensor(filled)[None])
    return algorithm.update(batch)["policy/loss"].item()


def test_padding_does_not_count() -> None:
    """Check 2: (1, 2, [5]) and (3, [5], [5]) have mean 2."""
    assert sequence_loss([[1, 2, 5], [3, 5, 5]], [[1, 1, 0], [1, 0, 0]]) == 2.0


def test_padded_and_unpadded_batches_agree() -> None:
    """Check 10: the same losses and gradients with two more padded steps."""
    losses, grads = [], []
    for padding in (0, 2):
        algorithm = marlzoo.make("bc", toy_spec("discrete"), history="rnn", hidden=8, dtype=DOUBLE)
        rng = torch.Generator().manual_seed(0)
        obs = torch.randn(1, 4, 4 + padding, 3, 5, generator=rng, dtype=DOUBLE)
        obs[:, :, :4] = torch.randn(1, 4, 4, 3, 5, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
        filled = torch.ones(1, 4, 3 + padding, dtype=DOUBLE)
        filled[:, :, 3:] = 0
        action = torch.zeros(1, 4, 3 + padding, 3, dtype=torch.int64)
        action_mask = torch.ones(1, 4, 4 + padding, 3, 4, dtype=torch.bool)
        metrics = algorithm.update(Batch.of(obs=obs, filled=filled, action=action, action_mask=action_mask))
        losses.append(metrics["policy/loss"].item())
        grads.append([g.clone() for g in algorithm._optimizers["policy"].first])
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("action", "entropy"), [([0, 1, 2, 3], math.log(4)), ([0, 0, 0, 1], 0.562335), ([2, 2, 2, 2], 0.0)]
)
def test_discrete_optimum_is_the_entropy(action: list[int], entropy: float) -> None:
    """Checks 3 and 4: the optimum is the data's entropy; 0, not a double softmax's 1.04, on deterministic data."""
    _, loss = fit("discrete", 4, torch.tensor(action), 300)
    assert loss == pytest.approx(entropy, abs=0.02)
    assert loss >= entropy - 1e-9


def test_squared_error_averages_and_likelihood_spreads() -> None:
    """Check 5: actions -1 and 1 equally often."""
    action = torch.tensor([[-0.9], [0.9]], dtype=DOUBLE)
    _, loss = fit("continuous", 1, action, 200, loss="mse")
    assert loss == pytest.approx(0.81, abs=1e-3)
    algorithm, _ = fit("continuous", 1, action, 200)
    _, log_std = algorithm.actor(torch.ones(1, 1, 1, 2, dtype=DOUBLE))
    assert log_std.item() > -1.0


def test_deterministic_data() -> None:
    """Check 6: the mean before squashing becomes atanh(0.5); log-std falls to its bound of -5."""
    algorithm, _ = fit("continuous", 1, torch.full((4, 1), 0.5, dtype=DOUBLE), 600)
    mean, log_std = algorithm.actor(torch.ones(1, 1, 1, 2, dtype=DOUBLE))
    assert mean.item() == pytest.approx(0.549306, abs=5e-3)
    assert log_std.item() < -4.0
    acted = algorithm.policy().act(torch.ones(1, 1, 1, 1, dtype=DOUBLE))
    assert acted.item() == pytest.approx(0.5, abs=5e-3)


def test_agents_differ_through_their_number_only() -> None:
    """Check 7."""
    algorithm = marlzoo.make("bc", toy_spec(), hidden=8)
    obs = torch.ones(1, 1, 3, 5)
    acted = algorithm.policy().act(obs)[0, 0]
    assert not torch.allclose(acted[0], acted[2])  # agent 1 has fewer actions
    algorithm.actor.body.layers[0].weight.data[:, 5:] = 0
    acted = algorithm.policy().act(obs)[0, 0]
    torch.testing.assert_close(acted[0], acted[2])


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_every_parameter_moves_and_the_loss_falls(kind: Any) -> None:
    """Check 8: guards against a loss that is computed and never stepped."""
    algorithm = marlzoo.make("bc", toy_spec(kind), hidden=32, lr=3e-3)
    before = [p.detach().clone() for p in algorithm.parameters()]
    batch = make_sampler(algorithm, [toy_dataset(kind)]).next()
    losses = [algorithm.update(batch)["policy/loss"].item() for _ in range(100)]
    assert losses[-1] < losses[0] - 0.05
    for old, new in zip(before, algorithm.parameters(), strict=True):
        assert (old != new).any()


def test_order_of_agents_does_not_matter() -> None:
    """Check 9, with the agents' numbers permuted along."""
    losses = []
    order = [2, 0, 1]
    for permuted in (False, True):
        algorithm = marlzoo.make("bc", Spec(3, 5, 7, "discrete", 4, 12), hidden=8, dtype=DOUBLE)
        batch = Sampler(
            toy_dataset("discrete"), [0], batch_size=8, fields=algorithm.fields, dtype=DOUBLE
        ).next()
        if permuted:
            weight = algorithm.actor.layers[0].weight.data
            weight[:, 5:] = weight[:, 5:][:, order]
            batch.obs, batch.action, batch.action_mask = (
                x[:, :, order] for x in (batch.obs, batch.action, batch.action_mask)
            )
        losses.append(algorithm.update(batch)["policy/loss"].item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-12)


def test_sampling_evaluation_follows_the_probabilities() -> None:
    algorithm = marlzoo.make("bc", Spec(1, 1, 1, "discrete", 2, 3), eval_mode="sample", hidden=4)
    policy = algorithm.policy()
    assert policy.stochastic
    last = algorithm.actor.layers[-1]
    last.weight.data.zero_()
    last.bias.data[:] = torch.tensor([math.log(0.25), math.log(0.75)])
    acted = policy.act(
        torch.ones(1, 4000, 1, 1), torch.ones(1, 4000, 1, 2, dtype=torch.bool), ReplicaRandom([0], "x")
    )
    assert np.mean(acted.numpy()) == pytest.approx(0.75, abs=0.03)


def test_a_memory_samples_as_its_policy_does() -> None:
    """Recurrent policies too are evaluated by sampling where their method says so."""
    spec = Spec(1, 1, 1, "discrete", 2, 3)
    for mode in ("sample", "greedy"):
        algorithm = marlzoo.make("bc", spec, history="rnn", eval_mode=mode, hidden=4)
        with torch.no_grad():
            algorithm.actor.head.weight.zero_()
            algorithm.actor.head.bias[:] = torch.tensor([math.log(0.25), math.log(0.75)])
        policy = algorithm.policy()
        assert policy.stochastic == (mode == "sample")
        random = ReplicaRandom([0], "x") if policy.stochastic else None
        acted = policy.act(torch.ones(1, 4000, 1, 1), torch.ones(1, 4000, 1, 2, dtype=torch.bool), random)
        assert np.mean(acted.numpy()) == pytest.approx(0.75 if policy.stochastic else 1.0, abs=0.03)


@pytest.mark.parametrize(("kind", "settings"), [("discrete", {}), ("continuous", {"loss": "nll"})])
def test_it_reports_how_likely_the_data_are(kind: ActionKind, settings: dict[str, Any]) -> None:
    data = toy_dataset(kind)
    algorithm = marlzoo.make("bc", data.spec, hidden=8, dtype=DOUBLE, **settings)
    metrics = algorithm.update(make_sampler(algorithm, [data]).next())
    torch.testing.assert_close(metrics["policy/data_log_prob"], -metrics["policy/loss"])
