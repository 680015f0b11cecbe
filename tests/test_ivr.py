"""SQL and EQL: closed forms of V and of the policy's weights."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor

import marlzoo
from marlzoo.training.trainer import make_sampler, prepare
from tests.fixed_nets import set_mixer, set_table, spec_of, transitions
from tests.toys import toy_dataset, toy_spec

U = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64).view(1, 3, 1)


def learner(name: str, **settings: Any) -> Any:
    small = {"hidden": 8, "mixer_hidden": 8, "batch_size": 4}
    return marlzoo.make(name, spec_of(1, 3), dtype=torch.float64, **(small | settings))


def slope(algorithm: Any, value: float, u: Tensor = U) -> float:
    """Derivative of the loss of V at ``value``."""
    v = torch.full_like(u, value, requires_grad=True)
    loss = algorithm._value_loss(u - v, v).mean()
    return float(torch.autograd.grad(loss, v)[0].sum())


def minimizer(algorithm: Any, u: Tensor = U) -> float:
    low, high = u.min().item() - 0.5, u.max().item() + 0.5
    return float(brentq(lambda value: slope(algorithm, value, u), low, high, xtol=1e-12))


@pytest.mark.parametrize(
    ("alpha", "v", "weights"),
    [
        (0.5, 2.0, [0.0, 0.0, 3.0]),
        (1.0, 1.6667, [0.1667, 0.6667, 2.1667]),
        (2.0, 1.6667, None),
        (10.0, 1.6667, None),
    ],
)
def test_sql_values_and_weights(alpha: float, v: float, weights: list[float] | None) -> None:
    algorithm = learner("sql", alpha=alpha)
    found = minimizer(algorithm)
    assert found == pytest.approx(v, abs=1e-4)
    weight = algorithm._weight(U - found).flatten()
    assert weight.mean().item() == pytest.approx(1.0, abs=1e-9)
    if weights:
        torch.testing.assert_close(weight, torch.tensor(weights).double(), atol=1e-4, rtol=0)
    torch.testing.assert_close(
        learner("sql", alpha=alpha, weight="code")._weight(U - found), (U - found).clamp(min=0)
    )


@pytest.mark.parametrize(("alpha", "v"), [(0.5, 3.4521), (1.0, 2.9673), (2.0, 2.4155), (10.0, 1.8149)])
def test_eql_values_and_weights(alpha: float, v: float) -> None:
    algorithm = learner("eql", alpha=alpha, x_cap=math.inf)
    found = minimizer(algorithm)
    assert found == pytest.approx(v, abs=1e-4)
    assert found == pytest.approx(alpha * math.log(torch.exp(U / alpha).mean()), abs=1e-9)
    assert algorithm._weight(U - found).mean().item() == pytest.approx(1.0, abs=1e-9)
    code = learner("eql", alpha=alpha, weight="code", weight_cap=math.inf)
    torch.testing.assert_close(code._weight(U - found), torch.exp(10 * (U - found) / alpha))


def test_limits_of_alpha() -> None:
    assert minimizer(learner("eql", alpha=1e5)) == pytest.approx(5 / 3, abs=1e-3)
    assert minimizer(learner("sql", alpha=1e5)) == pytest.approx(5 / 3, abs=1e-3)
    assert minimizer(learner("eql", alpha=0.01, x_cap=math.inf)) == pytest.approx(4.0, abs=0.02)


@pytest.mark.parametrize("name", ["sql", "eql"])
def test_shifting_all_values_shifts_v(name: str) -> None:
    algorithm = learner(name, alpha=0.7, **({"x_cap": math.inf} if name == "eql" else {}))
    here, there = minimizer(algorithm), minimizer(algorithm, U + 2.5)
    assert there - here == pytest.approx(2.5, abs=1e-8)


def test_eql_gradient_without_the_cap() -> None:
    alpha, v = 1.7, 0.4
    algorithm = learner("eql", alpha=alpha, x_cap=math.inf)
    m = max(((U - v) / alpha).max().item(), -1.0)
    expected = (1 - torch.exp((U - v) / alpha).mean().item()) / alpha
    assert slope(algorithm, v) * math.exp(m) == pytest.approx(expected, rel=1e-12)


def test_mixed_eql_is_omigas_loss_of_v() -> None:
    """OMIGA's recorded example: w = 1.3, alpha = 2."""
    algorithm = learner("eql", alpha=2.0)
    q, v = (torch.tensor(x).double().view(1, 3, 1) for x in ([0.5, -2.0, 3.0], [0.2, 0.1, -0.4]))
    loss = algorithm._value_loss(1.3 * (q - v), 1.3 * v).mean()
    assert loss.item() == pytest.approx(0.384735, abs=1e-6)


def test_mixed_target_and_critic_by_hand() -> None:
    spec = spec_of(2, 2)
    algorithm: Any = marlzoo.make("sql", spec, dtype=torch.float64, mixing="linear", hidden=8, mixer_hidden=4)
    for mixer in (algorithm.nets.mixer, algorithm.nets.target_mixer):
        set_mixer(mixer, (0.5, 2.0), 0.25)
    set_table(algorithm.nets.q.networks.members, [[2.0, 0.0], [-0.5, 0.0]])
    set_table(algorithm.nets.v.network, [[2.0], [-0.5]])
    set_table(algorithm.nets.target_q.networks.members, [[2.0, 0.0], [-0.5, 0.0]])
    with torch.no_grad():  # V's step would change the target
        algorithm._optimizers["v"].lr.zero_()
    found = algorithm.update(transitions([[0, 0]], actions=2, reward=[1.0]))
    y, q_total = 1.0 + 0.99 * 0.25, 0.25
    torch.testing.assert_close(found["q/target"], torch.tensor([y]).double())
    torch.testing.assert_close(found["q/loss"], torch.tensor([2 * (y - q_total) ** 2]).double())
    assert found["weight/mean"] == 1.0  # u = V


@pytest.mark.parametrize("mixing", ["none", "linear"])
@pytest.mark.parametrize("name", ["sql", "eql"])
def test_rewards_are_scaled_to_the_range_of_the_datas_returns(name: str, mixing: str) -> None:
    """As the authors do for the alpha that is the default; the value metric is in the data's own scale."""
    narrow, wide = toy_dataset("continuous", seed=1), toy_dataset("continuous", seed=1)
    wide.reward[:] = 10.0 * wide.reward
    small = {"hidden": 8, "mixer_hidden": 8, "batch_size": 16, "mixing": mixing}
    found = []
    for scaling in ("range", "none"):
        algorithm: Any = marlzoo.make(
            name, toy_spec(), seeds=(2, 2), dtype=torch.float64, reward_scaling=scaling, **small
        )
        prepare(algorithm, [narrow, wide])
        found.append(algorithm.update(make_sampler(algorithm, [narrow, wide]).next()))
        factor = algorithm.nets.reward_scale
    assert torch.equal(factor, torch.ones(2, dtype=torch.float64))
    torch.testing.assert_close(found[0]["q/target"][0], found[0]["q/target"][1])
    assert abs(float(found[1]["q/target"][0] - found[1]["q/target"][1])) > 0.1
    torch.testing.assert_close(10.0 * found[0]["value/data_mean"][0], found[0]["value/data_mean"][1])
    spread = narrow.returns.max() - narrow.returns.min()
    algorithm = marlzoo.make(name, toy_spec(), **small)
    prepare(algorithm, [narrow])
    assert algorithm.nets.reward_scale.item() == pytest.approx(1000.0 / spread, rel=1e-5)
