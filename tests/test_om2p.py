"""OM2P: the identity of mean velocities against closed forms, and what agents have to do with each other."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.modules.flow import average_target, carry
from marlzoo.modules.layers import with_agent_id
from marlzoo.replicas import GivenRandom, ReplicaRandom
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


def of_two_points(x: Tensor, t: Tensor) -> Tensor:
    """The velocity at which noise moves to data at .7 and -.7 in equal shares."""
    return (0.7 * torch.tanh(0.7 * t * x / (1.0 - t).square()) - x) / (1.0 - t)


def carried(x: Tensor, t: Tensor, s: Tensor, steps: int = 40) -> Tensor:
    """Where that velocity takes x from t to s; Runge and Kutta's steps."""
    h = (s - t) / steps
    for k in range(steps):
        now = t + k * h
        one = of_two_points(x, now)
        two = of_two_points(x + 0.5 * h * one, now + 0.5 * h)
        three = of_two_points(x + 0.5 * h * two, now + 0.5 * h)
        x = x + h / 6.0 * (one + 2.0 * two + 2.0 * three + of_two_points(x + h * three, now + h))
    return x


def test_the_mean_velocity_to_two_points() -> None:
    """The exact one keeps its target, which the other sign moves away; one call makes an action at either point."""
    x, t, s = (value.clone() for value in drawn(1, 40))
    t, s = 0.8 * t, 0.8 * s

    def exact(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return (carried(x, t, s) - x) / (s - t)

    velocity = of_two_points(x, t)
    found = average_target(exact, x, t, s, velocity)
    torch.testing.assert_close(found, exact(x, t, s), rtol=1e-4, atol=1e-5)
    opposite = 2.0 * velocity - found  # v + (t - s) du/dt
    assert float((opposite - exact(x, t, s)).square().mean()) > 0.05

    def to_the_end(x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        assert (s == 1.0).all()
        return (0.7 * x.sign() - x) / (1.0 - t)

    torch.testing.assert_close(carried(x, 0.0 * t, 0.0 * t + 0.9).sign(), x.sign())
    end = carry(to_the_end, x, 1)
    torch.testing.assert_close(end.abs(), torch.full_like(end, 0.7))
    assert 0.2 < float((end > 0).double().mean()) < 0.8


@pytest.mark.parametrize(("weight", "sign"), [(0.0, 0), (1e6, 1)])
def test_the_weight_of_the_value_decides_what_policies_follow(weight: float, sign: int) -> None:
    """0: the flow alone, whatever the critics; very large: the action's value rises. Critics learn alike in both."""
    found = []
    for turned in (1.0, -1.0):
        algorithm = learner(q_weight=weight, lr=1e-2, gamma=0.0)
        batch = make_sampler(algorithm, [toy_dataset("continuous")]).next()
        with torch.no_grad():
            for parameter in algorithm.q.parameters():  # other critics
                parameter.mul_(turned)
        zero = torch.zeros_like(batch.noise["now"])

        def made(algorithm: Any = algorithm, batch: Any = batch, zero: Tensor = zero) -> Tensor:
            action: Tensor = algorithm._action(batch.obs, zero).detach()
            return action

        judge = copy.deepcopy(algorithm.q)
        seen = with_agent_id(batch.obs)
        batch.noise["now"] = zero
        before = judge(seen, made()).mean().item()
        metrics = algorithm.update(batch)
        rise = judge(seen, made()).mean().item() - before
        assert not sign or rise > 0
        found.append((made(), float(metrics["policy/loss"] - metrics["flow/loss"])))
    assert torch.equal(found[0][0], found[1][0]) == (sign == 0)
    assert (found[0][1] == 0.0) == (sign == 0)


def test_policies_move_no_critic() -> None:
    """Nor does the value's weight: critics take the same step with and without it."""
    found = []
    for weight in (0.0, 1e3):
        algorithm = learner(q_weight=weight)
        algorithm.update(make_sampler(algorithm, [toy_dataset("continuous")]).next())
        found.append([p.detach() for p in algorithm.q.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


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


@pytest.mark.parametrize("steps", [1, 3])
def test_actions_start_at_the_noise_that_policies_were_trained_on(steps: int) -> None:
    """Standard normal numbers, other ones for every agent and copy: x <- x + u(o, x, t, s) / steps."""
    algorithm = learner(eval_steps=steps)
    obs = torch.ones(1, 4, 3, 5, dtype=torch.float64)
    found = algorithm.policy().act(obs, None, ReplicaRandom([3], "test", dtype=torch.float64))
    x = ReplicaRandom([3], "test", dtype=torch.float64).normal(4, 3, 2)
    ones = torch.ones_like(x[..., :1])
    for k in range(steps):
        x = x + algorithm.actor(obs, x, k / steps * ones, (k + 1) / steps * ones) / steps
    torch.testing.assert_close(found, x.clamp(-1.0, 1.0) * algorithm.action_dimensions)


def test_agents_act_on_their_own_noise() -> None:
    """So that data of two conventions become the product of what each agent does in them."""
    policy, source = learner().policy(), torch.Generator().manual_seed(0)
    noise, obs = torch.randn(2, 1, 4, 3, 5, generator=source, dtype=torch.float64).unbind(0)
    other = noise.clone()
    other[:, :, 1] += 1.0
    found = [policy.act(obs, None, GivenRandom([z[..., :2]])) for z in (noise, other)]
    assert (found[0] != found[1]).flatten(3).any(-1).any(1).flatten().tolist() == [False, True, False]
    assert policy.execution == "decentralized"
