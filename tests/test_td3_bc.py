"""TD3+BC against closed forms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from marlzoo.baselines.td3_bc import TD3BC
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch, as_sequences
from marlzoo.errors import ConfigError
from marlzoo.modules.critics import TeamCritics
from marlzoo.modules.layers import MLP
from marlzoo.objectives import straight_through
from marlzoo.registry import find_method
from marlzoo.replicas import Init
from marlzoo.spec import ActionKind
from tests.fixed_nets import OBS, FixedCritics, set_table, spec_of, transitions


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def learner(
    kind: ActionKind = "continuous", n: int = 2, actions: int = 1, size: int = 2, **more: Any
) -> TD3BC:
    settings = {"hidden": 8, "critic_hidden": 8, "batch_size": size, **more}
    algorithm = marlzoo.make("td3_bc", spec_of(n, actions, kind), seeds=[0], dtype=torch.float64, **settings)
    assert isinstance(algorithm, TD3BC)
    return algorithm


def batch_for(algorithm: TD3BC, action: Any, **fields: Any) -> Batch:
    source = torch.Generator().manual_seed(1)
    noise = {name: torch.rand(shape, generator=source) for name, (_, shape) in algorithm.noise().items()}
    actions = algorithm.spec.action_size if algorithm.spec.discrete else 0
    return transitions(action, actions=actions, noise=noise, **fields)


def constant_actor(algorithm: TD3BC, value: float, target: bool = False) -> None:
    """Make the policy act ``value`` always."""
    actor = algorithm.target_actor if target else algorithm.actor
    assert isinstance(actor.network, MLP)
    n, a = algorithm.spec.n_agents, algorithm.spec.action_size
    set_table(actor.network, torch.atanh(f64(value)).expand(n, a), OBS)


def policy_parts(algorithm: TD3BC, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The policy's loss, the data's part of it and lambda."""
    rows = as_sequences(batch)
    data = algorithm._data_actions(rows)
    loss, metrics = algorithm._policy_loss(rows, rows.obs[:, :, :-1], rows.state[:, :, :-1], data)
    return loss, metrics["policy/bc_loss"], metrics["policy/lambda"]


@pytest.mark.parametrize("values", [(1.0, 2.0, 3.0), (1.0, -3.0, 2.0)])
def test_scale_is_a_constant_for_the_gradient(values: tuple[float, ...]) -> None:
    """Alpha 2.5 and mean |Q| = 2: lambda = 1.25, dL/dQ = -1.25/3 for every sample."""
    algorithm = learner(n=1, size=3)
    q = f64(*values).view(1, 3, 1, 1).requires_grad_()
    algorithm.q = FixedCritics(lambda action: (q, q))  # type: ignore[assignment]
    loss, _, scale = policy_parts(algorithm, batch_for(algorithm, torch.zeros(3, 1, 1)))
    assert float(scale) == pytest.approx(1.25)
    (gradient,) = torch.autograd.grad(loss.sum(), q)
    torch.testing.assert_close(gradient.flatten(), f64(*(-1.25 / 3,) * 3))


def test_policy_gradient_ignores_the_scale_of_values() -> None:
    gradients, scales = [], []
    for factor, shift in ((1.0, 0.0), (10.0, 0.0), (1.0, 5.0)):
        algorithm = learner(n=1)
        algorithm.q = FixedCritics(lambda a, f=factor, s=shift: (f * a[..., 0] + f + s,) * 2)  # type: ignore[assignment]
        loss, _, scale = policy_parts(algorithm, batch_for(algorithm, torch.zeros(2, 1, 1)))
        gradients.append(torch.autograd.grad(loss.sum(), list(algorithm.actor.parameters()))[0])
        scales.append(float(scale))
    torch.testing.assert_close(gradients[0], gradients[1])
    assert scales[2] != pytest.approx(scales[0])


@pytest.mark.parametrize(("reduce", "expected"), [("mean", 0.04), ("sum", 0.08)])
def test_without_the_critic_it_is_cloning(reduce: str, expected: float) -> None:
    algorithm = learner(n=2, actions=2, alpha=0.0, bc_reduce=reduce)
    constant_actor(algorithm, 0.3)
    loss, cloning, _ = policy_parts(algorithm, batch_for(algorithm, torch.full((2, 2, 2), 0.5)))
    assert float(loss.detach()) == pytest.approx(expected)
    assert float(cloning.detach()) == pytest.approx(expected)
    penalized = learner(n=2, actions=2, alpha=0.0, action_penalty=1e-3)
    constant_actor(penalized, 0.3)
    loss, _, _ = policy_parts(penalized, batch_for(penalized, torch.full((2, 2, 2), 0.5)))
    assert float(loss.detach()) == pytest.approx(0.04 + 1e-3 * 0.09)


def test_stationary_point_of_a_parabola() -> None:
    """Q = -(a - .8)^2, data .2, alpha .1: at a = .2 lambda = .2778 and the frozen optimum is .330435."""
    algorithm = learner(n=1, alpha=0.1)
    algorithm.q = FixedCritics(lambda a: (-(a[..., 0] - 0.8).square(),) * 2)  # type: ignore[assignment]
    constant_actor(algorithm, 0.2)
    batch = batch_for(algorithm, torch.full((2, 1, 1), 0.2))
    scale = float(policy_parts(algorithm, batch)[2])
    assert scale == pytest.approx(0.1 / 0.36)
    assert (0.2 + scale * 0.8) / (1 + scale) == pytest.approx(0.330435, abs=1e-6)
    # There the gradient of the loss with that lambda vanishes: of values that are lower by what keeps their size.
    lower = 0.36 - (0.330435 - 0.8) ** 2
    algorithm.q = FixedCritics(lambda a: (-(a[..., 0] - 0.8).square() - lower,) * 2)  # type: ignore[assignment]
    for action, slope in ((0.330435, 0.0), (0.2, 2.0 * scale * (0.2 - 0.8) * (0.36 / (0.36 + lower)))):
        constant_actor(algorithm, action)
        loss, _, _ = policy_parts(algorithm, batch)
        assert isinstance(algorithm.actor.network, MLP)
        (found,) = torch.autograd.grad(loss.sum(), algorithm.actor.network.layers[-1].bias)
        assert float(found) / (1.0 - action**2) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize(("mask", "expected"), [(1.0, 3.97), (0.0, 1.0)])
@pytest.mark.parametrize("variant", ["independent", "iddpg_bc", "maddpg_bc"])
def test_target_takes_the_minimum(variant: str, mask: float, expected: float) -> None:
    algorithm = learner(variant=variant)
    algorithm.target_q = FixedCritics(lambda action: (4.0, 3.0))  # type: ignore[assignment]
    algorithm.soft_update = lambda *_: None  # type: ignore[method-assign]
    batch = batch_for(
        algorithm, torch.zeros(2, 2, 1), agent_reward=torch.ones(2, 2), mask=torch.full((2,), mask)
    )
    assert float(algorithm.update(batch)["critic/target"]) == pytest.approx(expected)


def test_targets_see_smoothed_actions() -> None:
    seen: list[Tensor] = []

    def record(action: Tensor) -> tuple[float, float]:
        seen.append(action)
        return 0.0, 0.0

    algorithm = learner(n=1, size=3, smoothing_sigma=1.0, smoothing_clip=0.5)
    constant_actor(algorithm, 0.3, target=True)
    algorithm.target_q = FixedCritics(record)  # type: ignore[assignment]
    algorithm.soft_update = lambda *_: None  # type: ignore[method-assign]
    batch = batch_for(algorithm, torch.zeros(3, 1, 1))
    batch.noise["next"] = f64(-1.2, 0.1, 0.8).view(1, 3, 1, 1, 1)
    algorithm.update(batch)
    torch.testing.assert_close(seen[0].flatten(), f64(-0.2, 0.4, 0.8))


@pytest.mark.parametrize("after", [True, False])
def test_policy_and_targets_move_at_every_second_update(after: bool) -> None:
    algorithm = learner(policy_delay=2, policy_after_critic=after)
    moved = []
    for _ in range(4):
        watched = (algorithm.actor, algorithm.q, algorithm.target_actor, algorithm.target_q)
        before = [[p.clone() for p in module.parameters()] for module in watched]
        algorithm.update(batch_for(algorithm, torch.full((2, 2, 1), 0.4), agent_reward=torch.ones(2, 2)))
        pairs = zip(watched, before, strict=True)
        moved.append(
            [any((a != b).any() for a, b in zip(m.parameters(), old, strict=True)) for m, old in pairs]
        )
    steps = [k for k, (policy, *_) in enumerate(moved) if policy]
    assert steps == [1, 3]
    assert all(critic for _, critic, *_ in moved)
    assert [k for k, row in enumerate(moved) if row[2]] == steps
    assert [k for k, row in enumerate(moved) if row[3]] == steps


def test_targets_follow_with_rate_tau() -> None:
    algorithm = learner(tau=0.005)
    for target, online in zip(algorithm.target_q.parameters(), algorithm.q.parameters(), strict=True):
        target.data.zero_()
        online.data.fill_(1.0)
    for _ in range(3):
        algorithm.soft_update(algorithm.target_q, algorithm.q, algorithm.hyperparameter("tau"))
    for target in algorithm.target_q.parameters():
        torch.testing.assert_close(target, torch.full_like(target, 0.014925), atol=1e-6, rtol=0)


def test_twins_start_different_and_targets_equal() -> None:
    algorithm = learner()
    batch = batch_for(algorithm, torch.zeros(2, 2, 1))
    values = algorithm.q(batch.obs, batch.state, batch.action)
    assert not torch.allclose(values[:, 0], values[:, 1])
    torch.testing.assert_close(values, algorithm.target_q(batch.obs, batch.state, batch.action))


@pytest.mark.parametrize("agent_id", [True, False])
def test_joint_critics_read_own_action_beside_the_datas(agent_id: bool) -> None:
    spec = spec_of(3, 1, "continuous")
    critics = TeamCritics(Init([0], dtype=torch.float64), spec, (8,), "joint", agent_id=agent_id)
    seen: list[Tensor] = []
    critics.networks.register_forward_pre_hook(lambda module, parts: seen.append(parts[-1]))
    own = f64(1, 2, 3).view(1, 1, 3, 1).requires_grad_()
    data, obs, state = f64(10, 20, 30).view(1, 1, 3, 1), torch.zeros(1, 1, 3, OBS), torch.zeros(1, 1, 3)
    values = critics(obs.double(), state.double(), own, data)
    assert values.shape == (1, 2, 1, 3)
    assert seen[0][0, 0].tolist() == [[1, 20, 30], [10, 2, 30], [10, 20, 3]]
    (gradient,) = torch.autograd.grad(values[0, 0, 0, 1], own)
    assert gradient[0, 0, 0] == 0
    assert gradient[0, 0, 2] == 0
    assert gradient[0, 0, 1] != 0
    together = critics(obs.double(), state.double(), data)
    torch.testing.assert_close(together, critics(obs.double(), state.double(), data, data))
    assert bool((together[..., :1] == together).all()) != agent_id


def test_independent_agents_share_nothing() -> None:
    algorithm = learner(variant="independent", policy_delay=1)
    batch = batch_for(algorithm, torch.full((2, 2, 1), 0.5), agent_reward=torch.ones(2, 2))
    batch.obs[:, :, 1], batch.action[:, :, 1] = 3.0, -0.5
    other = learner(variant="independent", policy_delay=1)
    algorithm.update(batch)
    other.update(batch_for(other, torch.full((2, 2, 1), 0.5), agent_reward=torch.ones(2, 2)))
    pairs = list(zip(algorithm.actor.parameters(), other.actor.parameters(), strict=True))
    for a, b in pairs:
        torch.testing.assert_close(a[:, 0], b[:, 0])
    assert any(not torch.allclose(a[:, 1], b[:, 1]) for a, b in pairs)
    with pytest.raises(ConfigError, match="history"):
        learner(variant="independent", history="rnn", sequence_length=5)


def test_sequences_need_a_length() -> None:
    with pytest.raises(ConfigError, match="sequence_length"):
        learner(history="rnn")


def test_straight_through_samples_legal_actions_from_the_softmax() -> None:
    logits = f64(1.0, 0.0, 4.0).expand(1, 20000, 3).clone().requires_grad_()
    action_mask = torch.tensor([True, True, False])
    uniform = torch.rand(1, 20000, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sample = straight_through(logits, action_mask, uniform)
    torch.testing.assert_close(sample.sum(-1), torch.ones(1, 20000, dtype=torch.float64))
    share = sample.detach().mean(1)[0]
    torch.testing.assert_close(share[:2], torch.softmax(f64(1, 0), 0), atol=0.02, rtol=0)
    assert share[2] == 0
    (gradient,) = torch.autograd.grad((sample * f64(1, 2, 3)).sum(), logits)
    assert bool((gradient[..., 2] == 0).all())
    assert bool((gradient[..., :2] != 0).any())


def test_discrete_cloning_leaves_illegal_actions_out() -> None:
    algorithm = learner("discrete", n=1, actions=3, alpha=0.0)
    assert isinstance(algorithm.actor.network, MLP)
    set_table(algorithm.actor.network, ((1.0, 0.0, 50.0),))
    action_mask = torch.tensor([True, True, False]).expand(2, 1, 3)
    loss, _, _ = policy_parts(algorithm, batch_for(algorithm, [[0], [0]], action_mask=action_mask))
    assert float(loss.detach()) == pytest.approx(float(torch.log1p(torch.exp(f64(-1.0)))))


def test_iddpg_bc_has_og_marls_settings() -> None:
    """The table of its specification, and the paper's settings of the particle world."""
    published = {
        **{"variant": "iddpg_bc", "policy_delay": 1, "policy_q": "min", "policy_after_critic": False},
        **{"smoothing_sigma": 0.0, "alpha": 2.5, "action_penalty": 1e-3, "memory_relu": True},
        **{"hidden": 64, "critic_hidden": 128, "history": "rnn", "sequence_length": 20, "batch_size": 32},
        **{"lr": 3e-4, "tau": 0.005, "gamma": 0.99},
    }
    config = vars(find_method("iddpg_bc").config_class())
    assert {name: config[name] for name in published} == published
    kinds: tuple[tuple[ActionKind, str], ...] = (("continuous", "mpe"), ("discrete", "smac"))
    for kind, preset in kinds:
        algorithm: Any = marlzoo.make("iddpg_bc", spec_of(2, 3, kind), preset=preset, hidden=8)
        assert (algorithm.config.history, algorithm.sampling) == ("mlp", "transition")


def test_a_large_weight_leaves_the_data_out() -> None:
    """Alpha 1e9, Q = 2 a + 5: the slope by the action before its tanh is -2 (1 - a^2), wherever the data are."""
    for logged in (-0.5, 0.9):
        algorithm = learner(n=1, alpha=1e9)
        algorithm.q = FixedCritics(lambda a: (2.0 * a[..., 0] + 5.0,) * 2)  # type: ignore[assignment]
        constant_actor(algorithm, 0.3)
        loss, _, scale = policy_parts(algorithm, batch_for(algorithm, torch.full((2, 1, 1), logged)))
        assert isinstance(algorithm.actor.network, MLP)
        (slope,) = torch.autograd.grad(loss.sum() / scale.abs(), algorithm.actor.network.layers[-1].bias)
        torch.testing.assert_close(slope.flatten(), f64(-2.0 * (1.0 - 0.09)))
