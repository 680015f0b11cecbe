"""InSPO: values by hand, whose turn it is, and the equilibrium that it finds."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.algorithms.inspo import OthersDensity, SquashedEntropy, gaussian_divergence

import marlzoo
from marlzoo.batch import Batch
from marlzoo.data import games as game_data
from marlzoo.data.dataset import Dataset
from marlzoo.envs import games
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.policies import tanh_gaussian_log_prob
from marlzoo.replicas import Init
from marlzoo.training.trainer import make_sampler
from tests.fixed_nets import transitions
from tests.study_scripts import script
from tests.test_learning import greedy
from tests.toys import toy_dataset, toy_spec


def learner(**settings: Any) -> Any:
    small = {"hidden": 8, "batch_size": 8, "seeds": (0, 1), "dtype": torch.float64}
    return marlzoo.make("inspo", toy_spec("discrete"), **(small | settings))


def policies(algorithm: Any) -> list[torch.Tensor]:
    """Every policy's parameters, ``[R, N, ...]``, copied."""
    return [parameter.detach().clone() for parameter in algorithm.actor.parameters()]


def test_soft_value_by_hand() -> None:
    algorithm = learner()
    q, mask = torch.tensor([1.0, 2.0, 50.0, 3.0]).double(), torch.tensor([True, True, False, True])
    log_mu = torch.tensor([0.25, 0.75, 0.5, 1e-9]).double().log()
    shape, one = (2, 1, 1, 4), torch.ones(2, 1, 1, dtype=torch.float64)
    found = algorithm._soft_value(*(x.expand(shape) for x in (q, log_mu, mask)), 0.5 * one, 1.5 * one)
    terms = [mu**0.25 * math.exp(value / 2.0) for mu, value in ((0.25, 1.0), (0.75, 2.0), (1e-6, 3.0))]
    assert found.flatten().tolist() == pytest.approx([2.0 * math.log(sum(terms))] * 2)


def test_agents_step_in_turn() -> None:
    """One policy per update, each once in a round, in orders of the replicas' own that change from round to round."""
    algorithm = learner()
    sampler = make_sampler(algorithm, [toy_dataset("discrete")])
    for _ in range(3):  # in the first update all start as the behavior
        algorithm.update(sampler.next())
    orders = []
    for _ in range(4):
        order = []
        for _ in range(3):
            before = policies(algorithm)
            algorithm.update(sampler.next())
            moved = [(a != b).flatten(2).any(-1) for a, b in zip(before, policies(algorithm), strict=True)]
            stepped = torch.stack(moved).any(0)  # [R, N]
            assert stepped.sum(1).tolist() == [1, 1]
            order.append(stepped.long().argmax(1))
        rounds = torch.stack(order, dim=1)
        assert rounds.sort(1).values.tolist() == [[0, 1, 2]] * 2
        orders.append(rounds)
    assert any(not torch.equal(one[0], one[1]) for one in orders)
    assert any(not torch.equal(orders[0], other) for other in orders[1:])


def test_policies_start_as_the_behavior_of_the_data() -> None:
    algorithm = learner(pretrain=3, lr=1e-2)
    sampler = make_sampler(algorithm, [toy_dataset("discrete")])
    for _ in range(3):
        algorithm.update(sampler.next())
    behavior = [parameter.detach().clone() for parameter in algorithm.data.parameters()]
    first = policies(algorithm)
    algorithm.update(sampler.next())
    changed = [(a != b).flatten(2).any(-1) for a, b in zip(behavior, policies(algorithm), strict=True)]
    assert torch.stack(changed).any(0).sum(1).tolist() == [1, 1]  # all but the agent that stepped since
    assert any(not torch.equal(a, b) for a, b in zip(first, behavior, strict=True))


@pytest.mark.parametrize(
    ("quality", "alpha", "beta", "value"),
    [
        ("D3", 0.05, 0.0, 1.0),
        ("D3", 0.2, 0.0, 0.9933),
        ("D3", 1.0, 0.0, 0.7243),
        ("D3", 5.0, 0.0, 0.5035),
        ("D3", 0.2, 0.1, 0.9648),
        ("D3", 0.2, 0.5, 0.5542),
        ("D3", 0.2, 2.0, 0.1132),
        ("D4", 0.2, 0.0, 0.9933),
        ("D4", 1.0, 0.0, 0.186),
        ("D2", 1.0, 0.0, 0.0),  # both agents at 1/2: a fixed point
    ],
)
def test_the_closed_form_reaches_the_known_values(
    quality: str, alpha: float, beta: float, value: float
) -> None:
    """Sweeps from the marginals of XOR's data (specification of InSPO, its table of checks)."""
    module = script("inspo")
    form = module.MethodForm("xor", quality, alpha=(alpha, alpha), beta=(beta, beta))
    assert module.exact(form, tie=0.0) == pytest.approx(value, abs=3e-4)


def test_the_closed_form_leaves_the_favorite_of_the_data_only_with_entropy() -> None:
    module = script("inspo")
    without, annealed = (
        module.exact(module.MethodForm("equilibria", "imbalanced", beta=(b, 0.0))) for b in (0.0, 20.0)
    )
    assert (without, annealed) == pytest.approx((5.0, 20.0), abs=1e-3)


def test_the_closed_form_finds_the_best_from_a_uniform_start_but_not_where_the_data_weigh_too_much() -> None:
    """Without entropy and alpha 1; with beta from 50 to 0 and alpha 5."""
    module = script("inspo")
    data = game_data.dataset("equilibria", "imbalanced")
    counts = np.bincount(data.action[data.sources][:, 1])  # the two rare actions occur alike
    tie = math.log(counts[1:].mean() / counts[0])
    uniform = module.exact(module.MethodForm("equilibria", "imbalanced"), tie=tie)
    bound = module.exact(module.MethodForm("equilibria", "imbalanced", alpha=(5.0, 5.0), beta=(50.0, 0.0)))
    assert (uniform, bound) == pytest.approx((20.0, 4.998), abs=1e-3)


def test_answers_to_what_the_other_did_before_do_not_agree() -> None:
    """D2, both with A a little more often: in turn they take different actions, at once they both change sides."""
    form = script("inspo").MethodForm("xor", "D2", alpha=(1.0, 1.0))
    tie = math.log(0.51 / 0.49)
    in_turn, at_once = (
        [value for value, _ in script("inspo").closed_form(form, 20, tie, in_turn)]
        for in_turn in (True, False)
    )
    assert in_turn[-1] == pytest.approx(1.0, abs=1e-3)
    assert max(at_once[3:]) < 1e-3


@pytest.mark.parametrize(
    ("start", "values"), [(0.49, (-0.124, 0.947, 0.9997)), (0.51, (0.204, 0.982, 0.9997))]
)
def test_the_first_sweeps_have_the_values_of_the_specification(
    start: float, values: tuple[float, ...]
) -> None:
    """D2 from a second policy that takes A with this probability."""
    form = script("inspo").MethodForm("xor", "D2", alpha=(1.0, 1.0))
    found = list(script("inspo").closed_form(form, 3, tie=math.log(start / (1.0 - start))))
    assert [value for value, _ in found] == pytest.approx(values, abs=1e-3)


@pytest.mark.parametrize("alpha", [0.05, 1.0, 5.0])
@pytest.mark.parametrize("beta", [0.0, 2.0])
@pytest.mark.parametrize("data", [("xor", "D2"), ("xor", "D3"), ("xor", "D4"), ("equilibria", "imbalanced")])
def test_no_sweep_lowers_the_objective(data: tuple[str, str], alpha: float, beta: float) -> None:
    form = script("inspo").MethodForm(*data, alpha=(alpha, alpha), beta=(beta, beta))
    found = [objective for _, objective in script("inspo").closed_form(form, 50, tie=0.04)]
    assert all(after >= before - 1e-9 for before, after in itertools.pairwise(found))
    assert len(set(found)) > 1 or data[0] == "equilibria"  # where it begins at the end


def alone(**settings: Any) -> tuple[Any, Batch]:
    """One agent with three actions, and a batch of it."""
    spec = marlzoo.Spec(1, 2, 3, "discrete", 3, 10)
    small = {"hidden": 8, "batch_size": 16, "dtype": torch.float64, "anneal": 0}
    algorithm: Any = marlzoo.make("inspo", spec, **(small | settings))
    action = torch.arange(16).remainder(3).unsqueeze(-1)
    return algorithm, transitions(action, actions=3, noise={"turns": torch.zeros(1)})


@pytest.mark.parametrize(("alpha", "beta"), [(0.7, 0.0), (0.7, 0.5), (1e9, 0.0)])
def test_one_agents_weight_is_the_best_answer_over_the_behavior(alpha: float, beta: float) -> None:
    """Without entropy exp((Q - V) / alpha), with it rare actions weigh more; a large alpha leaves cloning."""
    algorithm, batch = alone(alpha=alpha, beta=beta)
    with torch.no_grad():
        log_mu = torch.log_softmax(algorithm.data.network(with_agent_id(batch.obs)), -1)
        q = algorithm.q(batch.obs)
        free = (q + alpha * log_mu) / (alpha + beta)
        best = free.exp() / free.exp().sum(-1, keepdim=True)
        taken, cloned = (x.gather(-1, batch.action.unsqueeze(-1)) for x in (best / log_mu.exp(), log_mu))
    metrics = algorithm.update(batch)  # policies begin as the behavior
    assert float(metrics["policy/loss"]) == pytest.approx(-float((taken * cloned).mean()), rel=1e-9)
    assert float(metrics["weight/mean"]) == pytest.approx(float(taken.mean()), rel=1e-9)
    if alpha > 1e6:
        assert float(metrics["policy/loss"]) == pytest.approx(
            -float(metrics["policy/data_log_prob"]), rel=1e-6
        )


def test_ratios_where_the_data_hold_one_convention_or_none() -> None:
    """D2 and a second agent that always takes B: (A, B) has ratio 1 to the first agent, (B, A) has 0."""
    algorithm: Any = marlzoo.make(
        "inspo", games.spec("xor"), hidden=8, dtype=torch.float64, support_floor=1e-9
    )
    batch = transitions([[0, 1], [1, 0]], actions=2)
    tiny = 1e-300
    opposite = (
        1.0 - torch.nn.functional.one_hot(batch.action, 2).double()
    )  # [R, B, N, A], given that agent's action
    given = opposite.movedim(2, 1).unsqueeze(3).expand(1, 2, 2, 2, 2)  # [R, N, B, N, A]
    algorithm.data_others.forward = lambda _: given.clamp_min(tiny).log()
    policy = (
        torch.tensor([[0.4, 0.6], [0.0, 1.0]]).double().expand(1, 2, 2, 2)
    )  # of both agents, in every row
    rho = algorithm._ratios(batch, policy.clamp_min(tiny).log()).log_rho.exp()
    torch.testing.assert_close(rho[0, 0], torch.tensor([1.0, 0.0]).double())
    torch.testing.assert_close(rho[0, 1], torch.tensor([0.4, 0.6]).double())
    marginal = torch.tensor([[0.3, 0.7], [0.8, 0.2]]).double()
    algorithm.data_others.forward = lambda _: marginal.log().expand(1, 2, 2, 2, 2)
    rho = algorithm._ratios(batch, marginal.log().expand(1, 2, 2, 2)).log_rho.exp()
    torch.testing.assert_close(rho, torch.ones_like(rho))


def test_it_agrees_on_one_convention() -> None:
    """On D3, and on D2 in at least nine of ten seeds, which do not all take the same."""
    algorithm: Any = marlzoo.make(
        "inspo",
        games.spec("xor"),
        seeds=range(11),
        hidden=16,
        batch_size=64,
        lr=2e-2,
        tau=0.2,
        pretrain=30,
        alpha=0.3,
    )
    sampler = make_sampler(algorithm, [game_data.dataset("xor", name) for name in ("D3", *["D2"] * 10)])
    for _ in range(100):
        algorithm.update(sampler.next())
    conventions = ([0, 1], [1, 0])
    first, *others = greedy(algorithm)
    assert first in conventions
    assert sum(pair in conventions for pair in others) >= 9
    assert all(pair in others for pair in conventions)


# Gaussian policies ------------------------------------------------------------------------------------------

ONE = torch.ones(1, 1, dtype=torch.float64)


def heads(mean: float, std: float) -> tuple[torch.Tensor, torch.Tensor]:
    return mean * ONE, math.log(std) * ONE


def density(grid: torch.Tensor, policy: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Log density at every point."""
    return tanh_gaussian_log_prob(policy[0][0], policy[1][0], grid.unsqueeze(-1))


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.7, 0.3), (-1.5, 0.6), (0.4, 0.05)])
def test_divergence_and_entropy_are_those_of_the_densities(mean: float, std: float) -> None:
    """Against sums over a fine grid of actions."""
    grid = torch.tanh(torch.linspace(-8.0, 8.0, 200_001, dtype=torch.float64))
    cell = torch.from_numpy(np.gradient(grid.numpy()))
    mine, theirs = heads(mean, std), heads(-0.2, 0.8)
    log_mine = density(grid, mine)
    share = log_mine.exp() * cell
    assert float(share.sum()) == pytest.approx(1.0, abs=1e-5)
    found = gaussian_divergence(mine, theirs, ONE)
    assert float(found) == pytest.approx(float((share * (log_mine - density(grid, theirs))).sum()), abs=1e-4)
    entropy = SquashedEntropy(Init((0,), dtype=torch.float64), ONE)
    assert float(entropy(mine)) == pytest.approx(float(-(share * log_mine).sum()), abs=1e-4)


def test_means_count_within_9() -> None:
    """As in densities, which a larger mean does not change."""
    far, bound = heads(20.0, 0.5), heads(9.0, 0.5)
    assert gaussian_divergence(far, bound, ONE) == 0.0
    assert gaussian_divergence(heads(-20.0, 0.5), bound, ONE) == gaussian_divergence(
        heads(-9.0, 0.5), bound, ONE
    )
    entropy = SquashedEntropy(Init((0,), dtype=torch.float64), ONE)
    assert entropy(far) == entropy(bound)


def test_padding_has_neither_divergence_nor_entropy() -> None:
    used = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    twice = tuple(torch.cat((part, part + 1.0), dim=-1) for part in heads(0.3, 0.5))
    once = heads(0.3, 0.5)
    other = heads(0.0, 1.0)
    both = tuple(part.expand(1, 2) for part in other)
    assert gaussian_divergence(twice, both, used) == gaussian_divergence(once, other, ONE)
    entropies = (SquashedEntropy(Init((0,), dtype=torch.float64), u) for u in (used, ONE))
    assert next(entropies)(twice) == next(entropies)(once)


def test_models_of_the_others_see_the_actions_before_theirs() -> None:
    """Agent i's model of j: those of i and of all before j, but not j's own or a later one."""
    spec = toy_spec()
    models = OthersDensity(Init((0,), dtype=torch.float64), spec, 8, torch.ones(3, 2, dtype=torch.float64))
    action = torch.rand(1, 5, 3, 2, dtype=torch.float64, requires_grad=True)
    mean, _ = models(Batch.of(action=action, state=torch.randn(1, 5, 7, dtype=torch.float64)))
    for i, j in itertools.permutations(range(3), 2):
        (slope,) = torch.autograd.grad(mean[:, i, :, j].sum(), action, retain_graph=True)
        seen = (slope != 0).any(-1).flatten(0, 1).any(0).tolist()
        assert seen == [k == i or k < j for k in range(3)]


@pytest.mark.parametrize("cap", [100.0, 0.5])
def test_the_value_rests_where_the_mean_weight_is_1(cap: float) -> None:
    """The slope of V's loss in V is 1 - w, for weights at their bound, too."""
    settings = {"hidden": 8, "batch_size": 64, "dtype": torch.float64, "weight_cap": cap, "alpha": 0.1}
    algorithm: Any = marlzoo.make("inspo", toy_spec(), **settings)
    batch = make_sampler(algorithm, [toy_dataset()]).next()
    taken: dict[str, torch.Tensor] = {}
    algorithm.step_if = lambda active, **losses: taken.update(losses) or {}
    metrics = algorithm.update(batch)
    bias = algorithm.v.network.layers[-1].bias
    (slope,) = torch.autograd.grad(taken["v"].sum(), bias)
    assert float(slope.sum()) == pytest.approx(1.0 - float(metrics["weight/mean"]), rel=1e-9)


def test_gaussian_policies_agree_on_one_of_two_conventions() -> None:
    """Near (0.6, -0.6) or (-0.6, 0.6), which pay alike: cloning takes the middle, where there is nothing."""
    rng = np.random.default_rng(0)
    action = rng.choice([-0.6, 0.6], (2000, 1, 1)) + 0.1 * rng.normal(size=(2000, 2, 1))
    action[:, 1] *= -1.0
    seen = np.ones((2, 2, 1))
    data = Dataset.from_episodes(
        [{"obs": seen, "action": a[None], "reward": [1.0], "terminal": True} for a in action]
    )
    settings = {"hidden": 32, "batch_size": 128, "lr": 5e-3, "tau": 0.05, "pretrain": 150, "gamma": 0.0}
    strength = {"alpha": 0.1, "alpha_end": 0.1, "beta": 0.0}
    algorithm: Any = marlzoo.make("inspo", data.spec, seeds=range(4), **settings, **strength)
    sampler = make_sampler(algorithm, [data])
    for k in range(500):
        algorithm.update(sampler.next())
        if k == 150:
            first = algorithm.policy().act(torch.ones(4, 1, 2, 1))
    assert first.abs().max() < 0.3
    one, other = algorithm.policy().act(torch.ones(4, 1, 2, 1))[:, 0, :, 0].unbind(1)
    assert (one.abs() - 0.6).abs().max() < 0.15
    assert (one + other).abs().max() < 0.15


def test_a_training_that_ends_before_the_policies_learn_is_refused() -> None:
    made = marlzoo.make("inspo", toy_spec("discrete"), pretrain=5, hidden=8)
    with pytest.raises(ConfigError, match="5 updates end before the stage 'policies' begins"):
        marlzoo.train(made, toy_dataset("discrete"), updates=5)
    plain = marlzoo.make("inspo", toy_spec("discrete"), pretrain=0)
    assert [stage.name for stage in plain.stages()] == ["policies"]


@pytest.mark.parametrize(("sign", "value"), [(1.0, 20.0), (-1.0, 5.0)])
def test_entropy_that_draws_to_frequent_actions_leaves_the_favorite(sign: float, value: float) -> None:
    """Sweeps by weights exp((E r - sign beta log mu_i - ...) / (alpha + beta)) over mu_i, beta from 20 to 0.

    With the sign of step 4 rare actions weigh more, and the sweeps are those of the closed form.
    """
    form = script("inspo").MethodForm("equilibria", "imbalanced", beta=(20.0, 0.0))
    table, data = np.array(games.payoffs("equilibria"), float), game_data.dataset("equilibria", "imbalanced")
    pairs = np.zeros_like(table)
    np.add.at(pairs, tuple(data.action[data.sources].T), 1.0 / len(data.sources))
    log_mu = np.log(np.maximum(pairs, script("inspo").SUPPORT))
    gain, policies = np.where(pairs > 0, table, 0.0), [pairs.sum(1), pairs.sum(0)]
    for k in range(200):
        beta = 20.0 * (1.0 - min(k / 150.0, 1.0))
        for own in range(2):
            joint, other = (gain, policies[1]) if own == 0 else (gain.T, policies[0])
            log_joint = log_mu if own == 0 else log_mu.T
            exponent = (joint @ other - sign * beta * (log_joint @ other)) / (1.0 + beta)
            answer = np.exp(log_joint @ other + exponent - (log_joint @ other + exponent).max())
            policies[own] = answer / answer.sum()
    found = float(policies[0] @ table @ policies[1])
    assert found == pytest.approx(value, abs=0.05)
    if sign > 0:
        assert found == pytest.approx(script("inspo").exact(form), abs=1e-3)
