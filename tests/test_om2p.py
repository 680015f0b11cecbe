"""OM2P: the identity of mean velocities against closed forms, and what agents have to do with each other."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.modules.flow import average_target, carry
from marlzoo.training.trainer import make_sampler
from tests.toys import toy_dataset, toy_spec


def learner(**settings: Any) -> Any:
    small = {"hidden": 8, "layers": 2, "batch_size": 6, "dtype": torch.float64}
    return marlzoo.make("om2p", toy_spec("continuous"), **{**small, **settings})


def drawn(*shape: int) -> tuple[Tensor, Tensor, Tensor]:
    """Points and two times, with the first at most 0.9."""
    source = torch.Generator().manual_seed(0)
    x = torch.randn(*shape, 1, generator=source, dtype=torch.float64)
    t, s = torch.rand(2, *shape, 1, generator=source, dtype=torch.float64)
    return x, 0.9 * t, s


def test_the_mean_velocity_to_one_point() -> None:
    """Ways to a point are straight and their speed is constant: u = (a - x) / (1 - t) for every s."""
    x, t, s = drawn(1, 50)

    def exact(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (0.3 - x) / (1.0 - t)

    torch.testing.assert_close(average_target(exact, x, t, s, exact(x, t, s)), exact(x, t, s))
    end = carry(exact, x, 1)
    torch.testing.assert_close(end, torch.full_like(end, 0.3))


def test_the_mean_velocity_of_a_gaussian() -> None:
    """Noise becomes N(0, c^2) along x_s = x_t d(s) / d(t) with d(t)^2 = (1 - t)^2 + (c t)^2."""
    (x, t, s), c = drawn(1, 50), 0.4

    def size(t: Tensor) -> Tensor:
        return ((1.0 - t).square() + (c * t).square()).sqrt()

    def exact(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x * (size(s) / size(t) - 1.0) / (s - t)

    velocity = x * (c**2 * t - (1.0 - t)) / size(t).square()
    torch.testing.assert_close(average_target(exact, x, t, s, velocity), exact(x, t, s))
    for steps in (1, 5):
        torch.testing.assert_close(carry(exact, x, steps), c * x)


def test_the_change_along_the_path_of_a_network() -> None:
    """Equal times give the velocity itself; otherwise the change is that of small differences, without gradient."""
    algorithm = learner()
    obs, source = torch.ones(1, 4, 3, 5, dtype=torch.float64), torch.Generator().manual_seed(1)
    x, v = torch.randn(2, 1, 4, 3, 2, generator=source, dtype=torch.float64) * algorithm.action_dimensions
    t, s = torch.rand(2, 1, 4, 3, 1, generator=source, dtype=torch.float64)

    def field(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        found: Tensor = algorithm.actor(obs, x, t, s)
        return found

    assert torch.equal(average_target(field, x, t, t, v), v)
    found = average_target(field, x, t, s, v)
    assert not found.requires_grad
    change = (v - found) / (t - s)
    h = 1e-6
    difference = (field(x + h * v, t + h, s) - field(x - h * v, t - h, s)) / (2.0 * h)
    torch.testing.assert_close(change, difference.detach(), rtol=1e-4, atol=1e-6)


def test_agents_have_nothing_in_common() -> None:
    """What agent 0 learns does not depend on agent 1's data."""
    found = []
    for shift in (0.0, 0.5):
        algorithm = learner(normalize_q=True)
        batch = make_sampler(algorithm, [toy_dataset("continuous")]).next()
        for name in ("obs", "next_obs", "agent_reward"):
            value = getattr(batch, name).clone()
            value[:, :, 1] += shift
            setattr(batch, name, value)
        algorithm.update(batch)
        found.append(
            [p.detach().movedim(1 if "actor" in k else 2, 0) for k, p in algorithm.named_parameters()]
        )
    for one, other in zip(*found, strict=True):
        assert torch.equal(one[0], other[0])
    assert any(not torch.equal(one[1], other[1]) for one, other in zip(*found, strict=True))


@pytest.mark.parametrize("steps", [1, 3])
def test_every_part_of_the_way_is_one_call(steps: int) -> None:
    algorithm = learner(eval_steps=steps)
    calls: list[None] = []
    algorithm.actor.register_forward_hook(lambda *given: calls.append(None))
    algorithm.policy().act(torch.ones(1, 2, 3, 5, dtype=torch.float64))
    assert len(calls) == steps
