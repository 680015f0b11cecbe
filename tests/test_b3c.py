"""B3C: the cap, the clipped target, the scale of the policy's loss."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.baselines.b3c import best_return_to_go
from torch import Tensor

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.errors import DataError
from marlzoo.modules.teams import MonotonicMixer
from marlzoo.replicas import Init
from marlzoo.training.trainer import make_sampler, prepare
from tests.fixed_nets import set_table, spec_of, transitions
from tests.toys import toy_dataset, toy_spec

ROWS = ("obs", "state", "action", "reward")


def learner(**settings: Any) -> Any:
    small = {"hidden": 8, "mixer_hidden": 8, "mixer_embed": 4, "batch_size": 2, "mixer": "vdn"}
    return marlzoo.make("b3c", spec_of(2, 1, "continuous"), dtype=torch.float64, **(small | settings))


def batch(seed: int = 0) -> Any:
    source = torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(2, 2, 1, generator=source) for name in ("now", "next")}
    return transitions(torch.zeros(2, 2, 1), noise=noise, reward=[1.0, 1.0])


@pytest.mark.parametrize(("c_clip", "expected"), [(1.0, 50.5), (0.5, 25.75), (torch.inf, 100.0)])
def test_clipped_target(c_clip: float, expected: float) -> None:
    """One state, reward 1, values of 100: the target is 1 + 0.99 min(100, c 50)."""
    algorithm = learner(c_clip=c_clip)
    algorithm.best.fill_(50.0)
    set_table(algorithm.target_q.networks.members, [[60.0], [40.0]], first_id=2)
    found = algorithm.update(batch())["q/target_total"]
    torch.testing.assert_close(found, torch.tensor([expected]).double())


def test_best_return_to_go_by_hand() -> None:
    data = toy_dataset("continuous", episodes=6)
    data.terminal[data.ends - 1] = True
    for gamma in (0.9, 1.0):
        best = max(
            sum(gamma**k * float(data.reward[start + first + k]) for k in range(length - first))
            for start, length in zip(data.starts, data.lengths, strict=True)
            for first in range(length)
        )
        assert best_return_to_go(data, gamma) == pytest.approx(best)


def short_episodes(terminal: bool) -> Dataset:
    """Two episodes of 5 steps, rewards 0 0 2 2 2 and 1 1 1 1 1, that end or reach their limit."""
    data = toy_dataset("continuous", episodes=2)
    starts, flags = np.array([0, 6]), np.isin(np.arange(12), [4, 10])
    rows = {name: np.resize(getattr(data, name), (12, *getattr(data, name).shape[1:])) for name in ROWS}
    rows["reward"] = np.array([0, 0, 2, 2, 2, 0, 1, 1, 1, 1, 1, 0], np.float32)
    ends = {"terminal": flags & terminal, "truncated": flags & (not terminal)}
    return Dataset.create(data.spec, **rows, **ends, starts=starts, card=data.card)


def test_the_cap_looks_beyond_time_limits() -> None:
    """gamma 0.9: the first episode's second half is worth 2 per step, 20 for ever, at and before the limit."""
    assert best_return_to_go(short_episodes(terminal=True), 0.9, True) == pytest.approx(5.42)
    cut = short_episodes(terminal=False)
    assert best_return_to_go(cut, 0.9) == pytest.approx(5.42)
    assert best_return_to_go(cut, 0.9, True) == pytest.approx(20.0)
    with pytest.raises(DataError, match="set a gamma below 1"):
        best_return_to_go(cut, 1.0, True)
    unflagged = dataclasses.replace(cut, truncated=np.zeros_like(cut.truncated))  # a recording's end
    assert best_return_to_go(unflagged, 0.9) == pytest.approx(20.0)
    for terminal, expected in ((False, 20.0), (True, 5.42)):
        algorithm = learner(gamma=0.9, timeout_is_terminal=terminal)
        prepare(algorithm, [cut])
        torch.testing.assert_close(algorithm.best, torch.tensor([expected]).double())


def test_each_replica_has_the_cap_of_its_data_and_discount() -> None:
    first, second = toy_dataset("continuous", seed=1), toy_dataset("continuous", seed=2)
    sizes = {"hidden": 8, "mixer_hidden": 8, "mixer_embed": 4}
    algorithm: Any = marlzoo.make(
        "b3c", toy_spec(), seeds=(0, 1, 2), dtype=torch.float64, gamma=[0.9, 0.9, 0.5], **sizes
    )
    prepare(algorithm, [first, second, second])
    expected = [best_return_to_go(d, g, True) for d, g in ((first, 0.9), (second, 0.9), (second, 0.5))]
    torch.testing.assert_close(algorithm.best, torch.tensor(expected).double())
    undiscounted: Any = marlzoo.make("b3c", toy_spec(), dtype=torch.float64, cap="return", **sizes)
    prepare(undiscounted, [first])
    assert undiscounted.best.item() == pytest.approx(first.returns.max())
    sampler = make_sampler(algorithm, [first, second, second])
    drawn = sampler.next()
    found = algorithm.update(drawn)["q/target_total"]
    bound = (drawn.reward + torch.tensor([[0.9], [0.9], [0.5]]) * drawn.mask * algorithm.best[:, None]).mean(
        1
    )
    assert (found <= bound + 1e-12).all()


@pytest.mark.parametrize("normalizer", ["mean", "abs_mean"])
def test_policy_loss_does_not_see_the_scale_of_q(normalizer: str) -> None:
    losses = []
    for factor in (1.0, 1000.0):
        algorithm = learner(normalizer=normalizer)
        with torch.no_grad():
            for parameter in algorithm.q.networks.members.layers[-1].parameters():
                parameter.mul_(factor)
        losses.append(algorithm.update(batch())["policy/loss"])
    torch.testing.assert_close(losses[0], losses[1])


def test_no_weight_of_the_critic_is_cloning() -> None:
    found = learner(w=0.0, w_bc=2.0).update(batch())
    torch.testing.assert_close(found["policy/loss"], 2.0 * found["policy/bc_loss"])


@pytest.mark.parametrize("monotone", [True, False])
def test_signs_of_the_mixer(monotone: bool) -> None:
    mixer = MonotonicMixer(Init([0], dtype=torch.float64), 3, 4, monotone=monotone)
    source = torch.Generator().manual_seed(1)
    values: Tensor = torch.randn(1, 50, 4, generator=source, dtype=torch.float64).requires_grad_()
    state = torch.randn(1, 50, 3, generator=source, dtype=torch.float64)
    (gradient,) = torch.autograd.grad(mixer(values, state).sum(), values)
    assert (gradient >= 0).all() == monotone


def test_an_infinite_cap_leaves_the_target_alone() -> None:
    """The method without its cap: whatever the data's best return is, the update is the same, and y is plain."""
    found = {}
    for c_clip in (torch.inf, 1.0):
        for best in (-3.0, 50.0):
            algorithm = learner(c_clip=c_clip)
            algorithm.best.fill_(best)
            algorithm.update(batch())
            found[c_clip, best] = torch.cat([p.flatten() for p in algorithm.q.parameters()])
    assert torch.equal(found[torch.inf, -3.0], found[torch.inf, 50.0])
    assert torch.equal(found[torch.inf, 50.0], found[1.0, 50.0])  # above all values
    assert not torch.equal(found[1.0, -3.0], found[1.0, 50.0])


@pytest.mark.parametrize("terminal", [True, False])
def test_the_cap_is_in_the_rewards_unit(terminal: bool) -> None:
    """Rewards seven times as large have seven times the cap, with and without time limits."""
    data = short_episodes(terminal)
    larger = dataclasses.replace(data, reward=7.0 * data.reward)
    one, seven = (best_return_to_go(each, 0.9, True) for each in (data, larger))
    assert seven == pytest.approx(7.0 * one)
