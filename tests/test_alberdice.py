"""AlberDICE: the dual loss is blind to a constant, ratios by hand, who sees whose action."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from marlzoo.algorithms.alberdice import FLOOR
from torch import Tensor, nn

import marlzoo
from marlzoo.batch import Batch
from marlzoo.errors import ConfigError
from tests.fixed_nets import spec_of, transitions

SIZE = 4


def learner(n_agents: int = 3, **settings: Any) -> Any:
    small = {"hidden": 8, "batch_size": SIZE}
    return marlzoo.make("alberdice", spec_of(n_agents, 2), dtype=torch.float64, **(small | settings))


def batch(n_agents: int = 3, mask: float = 1.0, seed: int = 0) -> Any:
    source = torch.Generator().manual_seed(seed)
    action = torch.randint(2, (SIZE, n_agents), generator=source)
    between = torch.rand(1, SIZE // 2, 1, generator=source)
    return transitions(
        action,
        actions=2,
        noise={"between": between},
        reward=torch.randn(SIZE, generator=source),
        mask=torch.full((SIZE,), mask),
    )


class Shifted(nn.Module):
    def __init__(self, network: nn.Module, by: float) -> None:
        super().__init__()
        self.network, self.by = network, by

    def forward(self, state: Tensor) -> Tensor:
        value: Tensor = self.network(state)
        return value + self.by


@pytest.mark.parametrize("mask", [1.0, 0.0])
def test_nu_loss_does_not_see_a_constant(mask: float) -> None:
    algorithm, data = learner(), batch(mask=mask)
    kappa = torch.rand(1, 3, SIZE, dtype=torch.float64)
    weight = torch.softmax(torch.randn(1, 3, SIZE, dtype=torch.float64), -1)
    alpha = torch.tensor([0.3], dtype=torch.float64)
    losses = []
    network = algorithm.nu
    for by in (0.0, 7.0):
        algorithm.nu = Shifted(network, by)
        losses.append(algorithm._nu_loss(data, alpha, kappa, weight.log())[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=0, atol=1e-9)


def test_nu_loss_by_hand() -> None:
    """nu = 0: alpha log mean exp(e / alpha) per agent, over steps and absorbing steps."""
    algorithm = learner(2, gradient_penalty=0.0)
    with torch.no_grad():
        algorithm.nu.head.zero_()
    data = batch(2, mask=0.0)
    kappa, alpha = torch.zeros(1, 2, SIZE, dtype=torch.float64), 0.7
    weight = torch.full((1, 2, SIZE), 1 / SIZE, dtype=torch.float64)
    loss, e, _ = algorithm._nu_loss(data, torch.tensor([alpha]).double(), kappa, weight.log())
    rewards = torch.cat((data.reward[0], torch.zeros(SIZE)))
    expected = 2 * alpha * torch.exp(rewards / alpha).mean().log()
    torch.testing.assert_close(loss, expected.view(1))
    torch.testing.assert_close(e, data.reward[:, None].expand(1, 2, SIZE))


def test_slope_of_a_linear_function() -> None:
    algorithm = learner(2)

    class Plane(nn.Module):
        def forward(self, state: Tensor) -> Tensor:
            return 3.0 * state[..., 0] - 4.0 * state[..., 1]

    algorithm.nu = Plane()
    state = torch.randn(1, 1, SIZE, 4, dtype=torch.float64)
    between = torch.rand(1, 1, SIZE // 2, 1, dtype=torch.float64)
    torch.testing.assert_close(algorithm._slope(state, between), torch.full((1, 2), 25.0).double())


def test_equal_policies_have_ratio_one() -> None:
    algorithm = learner()
    with torch.no_grad():
        for parameter in algorithm.data_others.parameters():
            parameter.zero_()
    uniform = torch.full((1, 3, SIZE, 2), math.log(0.5), dtype=torch.float64)
    found = algorithm._ratios(batch(), uniform)
    torch.testing.assert_close(found.log_rho, torch.zeros_like(found.log_rho))
    torch.testing.assert_close(found.kappa, torch.zeros_like(found.kappa), atol=1e-8, rtol=0)


def test_ratios_by_hand() -> None:
    algorithm, data = learner(2, ratio_cap=1.5), batch(2)
    with torch.no_grad():
        for parameter in algorithm.data_others.parameters():
            parameter.zero_()
    pi = torch.tensor([[0.3, 0.7], [0.9, 0.1]], dtype=torch.float64)
    log_pi = pi.log().view(1, 2, 1, 2).expand(1, 2, SIZE, 2)
    found = algorithm._ratios(data, log_pi)
    kl = (pi * (pi / 0.5).log()).sum(-1)
    torch.testing.assert_close(found.kappa[0, :, 0], kl.flip(0))  # each agent's is the other's divergence
    other = data.action[0].flip(1).T  # [N, B]
    expected = torch.stack([pi[1 - i][other[i]] / (0.5 + FLOOR) for i in range(2)]).clamp(max=1.5)
    torch.testing.assert_close(found.log_rho[0].exp(), expected)
    torch.testing.assert_close(found.log_likelihood, torch.full((1, 2, SIZE), math.log(0.5)).double())


def test_who_sees_whose_action() -> None:
    """The model of agent j held by i reads the actions of i and of those before j, never that of j."""
    algorithm = learner()
    seen = algorithm.data_others.inputs.visible.view(3, 3, 3, 2)
    for i in range(3):
        for j in range(3):
            for k in range(3):
                if i != j:
                    assert seen[i, j, k].tolist() == [float(k == i or k < j)] * 2
    data, other = batch(), batch()
    other.action = data.action.clone()
    other.action[..., 2] = 1 - other.action[..., 2]  # nobody before agent 2 looks at it but agent 2 itself
    uniform = torch.full((1, 3, SIZE, 2), math.log(0.5), dtype=torch.float64)
    first, second = algorithm._ratios(data, uniform), algorithm._ratios(other, uniform)
    torch.testing.assert_close(first.kappa[:, :2], second.kappa[:, :2])
    assert not torch.allclose(first.kappa[:, 2], second.kappa[:, 2])


def test_alpha_anneals_geometrically_and_pretraining_moves_data_policies_only() -> None:
    algorithm = learner(2, alpha=4.0, alpha_end=1.0, anneal=2, pretrain=2)
    before = {name: value.clone() for name, value in algorithm.state_dict().items()}
    alphas = [algorithm.update(batch(2, seed=k))["policy/alpha"].item() for k in range(2)]
    assert alphas == pytest.approx([4.0, 2.0])
    for name, value in algorithm.state_dict().items():
        moved = not torch.equal(value, before[name])
        assert moved == name.startswith("data"), name
    assert algorithm.update(batch(2))["policy/alpha"].item() == pytest.approx(1.0)
    assert not torch.equal(algorithm.e.layers[0].weight, before["e.layers.0.weight"])


def test_projections_agree_where_the_policy_is_best_and_differ_where_it_is_saturated() -> None:
    """Gradient of the policy's logits: none at the best answer; far from it only the forward one has any."""
    norms = {}
    for projection in ("forward", "reverse"):
        for wrong in (0.0, 20.0):
            algorithm, data = learner(2, projection=projection, pretrain=0, alpha=1.0), batch(2)
            with torch.no_grad():
                for network in (algorithm.e, algorithm.data.network, algorithm.actor.network):
                    for parameter in network.parameters():
                        parameter.zero_()  # uniform data policy and equal e: the best answer is uniform
                algorithm.actor.network.network.layers[-1].bias[..., 0] = wrong
            norms[projection, wrong] = algorithm.update(data)["grad_norm/policy"].item()
    assert norms["forward", 0.0] == pytest.approx(0.0, abs=1e-12)
    assert norms["reverse", 0.0] == pytest.approx(0.0, abs=1e-12)
    assert norms["forward", 20.0] > 0.3
    assert norms["reverse", 20.0] < 1e-6


@pytest.mark.parametrize(("floor", "told"), [(0.0, False), (0.1, True)])
def test_actions_that_the_others_do_not_answer_are_told_apart(floor: float, told: bool) -> None:
    """Both act alike in the data and the other takes 0: the fit of e moves e(1) only with a floor under rho."""
    algorithm = learner(2, ratio_floor=floor, conservatism=0.0)
    data = batch(2)
    data.action = (torch.arange(SIZE) % 2)[None, :, None].expand(1, SIZE, 2).contiguous()
    with torch.no_grad():
        algorithm.actor.network.network.layers[-1].bias[..., 0] = 60.0
        for network in (algorithm.e, algorithm.data_others):
            for parameter in network.parameters():
                parameter.zero_()
    algorithm.update(data)
    moved = algorithm.e.layers[-1].bias[0].reshape(2, 2).abs()  # [N, A]
    assert (moved[:, 0] > 1e-6).all()
    assert (moved[:, 1] > 1e-6).all() == told


@pytest.mark.parametrize(("floor", "moves"), [(0.0, False), (0.1, True)])
def test_policies_learn_in_states_that_the_others_have_left(floor: float, moves: bool) -> None:
    """In the second state both are sure of action 0, where the data have 1: it has weight only through the floor."""
    algorithm = learner(2, ratio_floor=floor)
    data = batch(2)
    data.obs = torch.eye(2, dtype=torch.float64)[[0, 0, 1, 1]][None, :, None].expand(1, SIZE, 2, 2)
    data.action = torch.ones(1, SIZE, 2, dtype=torch.int64)
    with torch.no_grad():
        for network in (algorithm.e, algorithm.data.network, algorithm.data_others, algorithm.actor.network):
            for parameter in network.parameters():
                parameter.zero_()
        first, second, last = algorithm.actor.network.network.layers
        first.weight[..., 1, 0] = second.weight[..., 0, 0] = 1.0  # hidden unit 0: the second state
        last.weight[..., 0, 0] = 60.0
    before = last.weight[..., 0, :].clone()
    algorithm.update(data)
    assert ((last.weight[..., 0, :] - before).abs().max() > 1e-6) == moves


def test_strong_regularizer_gives_the_data_policy() -> None:
    """Agents that act independently in the data, 3/4 and 1/2: nothing but the divergence matters."""
    algorithm = learner(2, alpha=1e4, lr=1e-2, batch_size=16)
    first, second = torch.arange(16) % 4 == 3, torch.arange(16) >= 8
    data = transitions(
        torch.stack((first, second), 1).long(),
        actions=2,
        noise={"between": torch.rand(1, 8, 1)},
        reward=torch.arange(16.0),
    )
    for name in ("obs", "state", "next_state"):
        setattr(data, name, torch.zeros_like(getattr(data, name)))
    for _ in range(180):
        algorithm.update(data)
    obs = torch.cat((data.obs, torch.eye(2).double().expand(1, 16, 2, 2)), -1)
    pi = torch.softmax(algorithm.actor.network(obs), -1)[0, 0]
    torch.testing.assert_close(pi[:, 0], torch.tensor([0.75, 0.5]).double(), atol=0.03, rtol=0)


def test_exactly_uniform_policies_of_two_equal_modes_stay_uniform() -> None:
    """XOR, data D2: both actions are as good as each other, so only noise or the start breaks the tie."""
    algorithm = learner(2, conservatism=0.1)
    with torch.no_grad():
        for parameter in algorithm.parameters():
            parameter.zero_()
    data = transitions(
        [[0, 1], [1, 0], [0, 1], [1, 0]],
        actions=2,
        noise={"between": torch.full((1, SIZE // 2, 1), 0.5)},
        reward=torch.ones(SIZE),
        mask=torch.zeros(SIZE),
    )
    for _ in range(20):
        algorithm.update(data)
    e, logits = (net.layers[-1].bias for net in (algorithm.e, algorithm.actor.network.network))
    assert e.abs().max() > 1e-3
    torch.testing.assert_close(e[..., 0], e[..., 1], atol=1e-12, rtol=0)
    torch.testing.assert_close(logits, torch.zeros_like(logits), atol=1e-12, rtol=0)


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_a_large_team_of_sure_policies_stays_finite(floor: float) -> None:
    """Nine agents that all prefer, by 15, what the data never do: every ratio is below float32's smallest number."""
    n = 9
    algorithm = marlzoo.make(
        "alberdice", spec_of(n, 2), hidden=8, batch_size=SIZE, ratio_floor=floor, gradient_penalty=0.0
    )
    with torch.no_grad():
        last = algorithm.actor.network.network.layers[-1]
        last.weight.zero_()
        last.bias.copy_(torch.tensor([0.0, 15.0]).expand_as(last.bias))
    noise = {"between": torch.rand(1, SIZE // 2, 1)}
    data = transitions(torch.zeros(SIZE, n, dtype=torch.int64), actions=2, noise=noise)
    floats = {k: v.float() if v.dtype == torch.float64 else v for k, v in data.tensors().items()}
    single = Batch.of({k: v.float() for k, v in data.noise.items()}, **floats)
    for _ in range(3):
        metrics = algorithm.update(single)
    assert algorithm.finite().all()
    assert all(torch.isfinite(value).all() for value in metrics.values())
    assert float(metrics["policy/rho"]) == 0.0  # nothing is left outside log space
    assert float(metrics["weight/ess"]) > 0.1


def test_a_batch_of_one_step_has_no_slope() -> None:
    with pytest.raises(ConfigError, match=r"a batch is of one step, .* take a batch_size of at least two"):
        learner(batch_size=1)


def test_policies_that_are_the_datas_have_ratio_one_whatever_they_are() -> None:
    """Agents that act alone, with (0.3, 0.7): every step weighs alike and nothing is paid for a divergence."""
    algorithm, p = learner(), torch.tensor([0.3, 0.7], dtype=torch.float64)
    with torch.no_grad():
        for network in (algorithm.data_others.network, algorithm.actor.network):
            for parameter in network.parameters():
                parameter.zero_()
        algorithm.data_others.network.layers[-1].bias.copy_(p.log().expand(1, 3, 1, 2))
        algorithm.actor.network.network.layers[-1].bias.copy_(p.log().expand(1, 3, 1, 2))
    found = algorithm._ratios(batch(), p.log().expand(1, 3, SIZE, 2))
    torch.testing.assert_close(found.log_rho, torch.zeros_like(found.log_rho), atol=1e-7, rtol=0)
    torch.testing.assert_close(found.kappa, torch.zeros_like(found.kappa), atol=1e-7, rtol=0)
    metrics = algorithm.update(batch())
    assert float(metrics["weight/ess"]) == pytest.approx(1.0, abs=1e-6)
