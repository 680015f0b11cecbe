"""What several methods share, against its definition: returns, densities, mixers, the optimizer.

Nothing here repeats how the package computes a thing: sums instead of recursions, integrals instead of densities,
SciPy's and PyTorch's own distributions and optimizer instead of formulas.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.baselines._ppo_networks import PPOActor, ValueNorm
from scipy import integrate, stats
from torch import Tensor, nn

from marlzoo import objectives as losses
from marlzoo.batch import gae
from marlzoo.modules.layers import LayerNorm
from marlzoo.modules.policies import (
    categorical_action,
    categorical_log_prob,
    log_softmax,
    mask_logits,
    select_action,
    tanh_gaussian_log_prob,
    tanh_gaussian_sample,
)
from marlzoo.modules.teams import ConvexMixer, LinearMixer, MonotonicMixer, SumMixer
from marlzoo.objectives import td_lambda
from marlzoo.replicas import Init, ReplicaRandom, StackedAdam
from marlzoo.spec import ActionKind, Spec

DOUBLE = torch.float64
REPLICAS = 3


def f64(*values: float) -> Tensor:
    return torch.tensor(values, dtype=DOUBLE)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# ---- returns ---------------------------------------------------------------------------------------------


def n_step(reward: Sequence[float], bootstrap: Sequence[float], gamma: float, n: int) -> float:
    """Discounted sum of n rewards and of the value after them (already 0 where the task ended)."""
    return sum(gamma**k * reward[k] for k in range(n)) + gamma**n * bootstrap[n - 1]


def mixture(reward: Sequence[float], bootstrap: Sequence[float], gamma: float, trace: float) -> float:
    """The lambda-return of a stretch of steps: ``(1 - lambda) sum_n lambda^{n-1} G^(n)``, the rest on the last."""
    longest = len(reward)
    total = trace ** (longest - 1) * n_step(reward, bootstrap, gamma, longest)
    for n in range(1, longest):
        total += (1.0 - trace) * trace ** (n - 1) * n_step(reward, bootstrap, gamma, n)
    return total


def stretches(ends: Sequence[bool]) -> list[range]:
    """For every step, the steps until its episode's end or the end of the data."""
    found = []
    for t in range(len(ends)):
        last = next((k for k in range(t, len(ends)) if ends[k]), len(ends) - 1)
        found.append(range(t, last + 1))
    return found


def test_advantages_are_a_mixture_of_n_step_advantages() -> None:
    """Schulman et al. 2016, equation 16, over episodes that end, are cut by a time limit, or go on."""
    num_envs, steps = 4, 9
    gamma, trace = f64(0.99, 0.9, 0.5), f64(0.95, 0.0, 1.0)
    reward, value = torch.randn(2, REPLICAS, num_envs, steps, dtype=DOUBLE)
    ends = torch.rand(REPLICAS, num_envs, steps) < 0.3
    terminal = ends & (torch.rand(REPLICAS, num_envs, steps) < 0.5)
    after = torch.randn(REPLICAS, num_envs, steps, dtype=DOUBLE)
    after[..., :-1] = torch.where(ends[..., :-1], after[..., :-1], value[..., 1:])
    mask = 1.0 - terminal.to(DOUBLE)
    found = gae(reward, value, after, mask, ends.to(DOUBLE), gamma.unsqueeze(1), trace.unsqueeze(1))
    for r, e in itertools.product(range(REPLICAS), range(num_envs)):
        for t, stretch in enumerate(stretches(ends[r, e].tolist())):
            rows = list(stretch)
            bootstrap = (mask * after)[r, e, rows].tolist()
            target = mixture(reward[r, e, rows].tolist(), bootstrap, gamma[r].item(), trace[r].item())
            assert found[r, e, t].item() == pytest.approx(target - value[r, e, t].item(), rel=1e-9)


@pytest.mark.parametrize("agents", [0, 2])
def test_td_lambda_targets_are_a_mixture_of_n_step_targets(agents: int) -> None:
    """Sutton and Barto, equation 12.2; a cut sequence ends with its own final row's value."""
    samples, steps = 5, 6
    gamma, trace = f64(0.99, 0.9, 0.5), f64(0.6, 0.0, 1.0)
    filled = (torch.arange(steps) < torch.tensor([6, 1, 4, 3, 5]).unsqueeze(-1)).to(DOUBLE)
    filled = filled.expand(REPLICAS, samples, steps)
    shape = (agents,) if agents else ()
    reward = torch.randn(REPLICAS, samples, steps, *shape, dtype=DOUBLE)
    values = torch.randn(REPLICAS, samples, steps + 1, *shape, dtype=DOUBLE)
    mask = (torch.rand(REPLICAS, samples, steps) < 0.8).to(DOUBLE)
    rates = gamma.view(-1, 1, 1), trace.view(-1, 1, 1)
    found = td_lambda(reward, values, mask, filled, *rates)
    for r, b, i in itertools.product(range(REPLICAS), range(samples), range(max(agents, 1))):
        r_i, u_i, found_i = (x[r, b, :, i] if agents else x[r, b] for x in (reward, values[:, :, 1:], found))
        length = int(filled[r, b].sum())
        over = (mask[r, b, :length] == 0).tolist()
        for t, stretch in enumerate(stretches(over)):
            rows = list(stretch)
            bootstrap = (mask[r, b, rows] * u_i[rows]).tolist()
            target = mixture(r_i[rows].tolist(), bootstrap, gamma[r].item(), trace[r].item())
            assert found_i[t].item() == pytest.approx(target, rel=1e-9)
        assert not found_i[length:].any()


def test_value_norm_is_the_weighted_average_of_all_batches() -> None:
    """Batch k of K counts ``decay^(K-k)``; the deviation is at least 0.1; both directions are inverse."""
    decay = f64(0.5, 0.9, 0.99999)
    norm, seen = ValueNorm(Init(range(REPLICAS), dtype=DOUBLE), decay), []
    for k in range(4):
        seen.append(torch.randn(REPLICAS, 5, 2, dtype=DOUBLE) * (k + 1.0) + k)
        norm.observe(seen[-1])
    x = torch.randn(REPLICAS, 6, dtype=DOUBLE)
    found = norm.normalize(x)
    for r in range(REPLICAS):
        weights = np.array([decay[r].item() ** (len(seen) - 1 - k) for k in range(len(seen))])
        values = np.stack([batch[r].flatten().numpy() for batch in seen])
        each = np.repeat(weights / weights.sum() / values.shape[1], values.shape[1])
        mean = np.average(values.flatten(), weights=each)
        deviation = math.sqrt(np.average((values.flatten() - mean) ** 2, weights=each))
        np.testing.assert_allclose(found[r], (x[r] - mean) / deviation, rtol=1e-9)
    torch.testing.assert_close(norm.denormalize(found), x)
    still = ValueNorm(Init([0], dtype=DOUBLE), f64(0.9))
    still.observe(torch.full((1, 3), 7.0, dtype=DOUBLE))
    torch.testing.assert_close(still.normalize(f64(7.0, 8.0).unsqueeze(0)), f64(0.0, 10.0).unsqueeze(0))


# ---- densities -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.7), (-2.5, 0.5), (1.0, 1.6)])
def test_tanh_gaussian_density_integrates_to_the_distribution(mean: float, std: float) -> None:
    """Its integral up to any a is ``Phi((atanh a - mean) / std)``."""

    def density(a: float) -> float:
        return tanh_gaussian_log_prob(f64(mean), f64(math.log(std)), f64(a)).exp().item()

    for a in (-0.9, -0.2, 0.6, 0.99):
        area, _ = integrate.quad(density, -1.0, a, limit=200)
        assert area == pytest.approx(stats.norm.cdf(math.atanh(a), mean, std), abs=1e-6)


def test_tanh_gaussian_density_multiplies_over_an_agents_own_dimensions() -> None:
    mean, log_std, noise = torch.randn(3, 7, 2, 3, dtype=DOUBLE)
    used = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]], dtype=DOUBLE)
    action = tanh_gaussian_sample(mean, log_std, noise, used)
    assert (action[:, used == 0] == 0).all()
    found = tanh_gaussian_log_prob(mean, log_std, action, used)
    squashed: Any = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), torch.distributions.TanhTransform()
    )
    torch.testing.assert_close(found, (squashed.log_prob(action) * used).sum(-1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(action, torch.tanh(mean + log_std.exp() * noise) * used)


def test_tanh_gaussian_density_is_finite_with_finite_slopes_everywhere() -> None:
    mean = torch.linspace(-20.0, 20.0, 9, dtype=DOUBLE).view(-1, 1, 1).requires_grad_()
    log_std = f64(-5.0, 0.0, 2.0).view(1, -1, 1, 1).requires_grad_()
    action = f64(-1.5, -1.0, -0.5, 0.0, 1.0, 1.5).view(1, 1, -1, 1)
    shape = 9, 3, 6, 1
    found = tanh_gaussian_log_prob(mean.unsqueeze(1).expand(shape), log_std.expand(shape), action)
    assert found.isfinite().all()
    for slope in torch.autograd.grad(found.sum(), (mean, log_std)):
        assert slope.isfinite().all()
    inside = tanh_gaussian_log_prob(f64(8.0), f64(0.0), f64(1.0))
    assert inside > tanh_gaussian_log_prob(f64(7.0), f64(0.0), f64(1.0)), "a bound draws the mean outwards"
    for far, clipped in ((20.0, 9.0), (-9.5, -9.0)):
        assert tanh_gaussian_log_prob(f64(far), f64(0.0), f64(0.5)) == tanh_gaussian_log_prob(
            f64(clipped), f64(0.0), f64(0.5)
        )


def test_actions_of_networks_for_both_kinds() -> None:
    """The mode, and draws: the softmax's shares, and the Gaussian's sample before it is squashed."""
    logits = f64(2.0, 1.0, 0.0, 0.0).expand(1, 40_000, 4)
    action_mask = torch.tensor([True, True, True, False]).expand(1, 40_000, 4)
    drawn = select_action(logits, f64(), action_mask, ReplicaRandom([0], "x"))
    share = torch.bincount(drawn[0], minlength=4) / drawn.shape[1]
    torch.testing.assert_close(
        share.double(), log_softmax(logits, action_mask)[0, 0].exp(), rtol=0, atol=0.01
    )
    assert categorical_action(logits, action_mask, None).unique().tolist() == [0]
    mean, log_std, used = (
        torch.randn(1, 5, 2, 2),
        torch.randn(1, 5, 2, 2),
        torch.tensor([[1.0, 1.0], [1.0, 0.0]]),
    )
    torch.testing.assert_close(select_action((mean, log_std), used, None, None), torch.tanh(mean) * used)
    noise = ReplicaRandom([0], "x").normal(5, 2, 2)
    found = select_action((mean, log_std), used, None, ReplicaRandom([0], "x"))
    torch.testing.assert_close(found, torch.tanh(mean + log_std.exp() * noise) * used)


def test_masked_categorical_is_the_distribution_of_the_legal_actions_alone() -> None:
    """The softmax of a shorter vector; illegal actions have no probability and their logits no slope."""
    logits = (3.0 * torch.randn(20, 6, dtype=DOUBLE)).requires_grad_()
    action_mask = torch.rand(20, 6) < 0.5
    action_mask[:, 2] |= ~action_mask.any(-1)
    whole = log_softmax(logits, action_mask)
    for row in range(len(logits)):
        own = action_mask[row].nonzero().flatten()
        alone: Any = torch.distributions.Categorical(logits=logits[row, own])
        for k, action in enumerate(own):
            found = categorical_log_prob(mask_logits(logits[row], action_mask[row]), action)
            torch.testing.assert_close(found, alone.log_prob(torch.tensor(k)), rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(whole[row, action], found, rtol=1e-12, atol=1e-12)
        assert not whole[row, ~action_mask[row]].exp().any()
    (slope,) = torch.autograd.grad(whole[action_mask].sum(), logits)
    assert not slope[~action_mask].any()
    assert torch.equal(mask_logits(logits, None), logits)


def test_plain_densities_equal_scipys() -> None:
    deviation, used = torch.randn(4, 3, dtype=DOUBLE), f64(1.0, 0.0, 1.0)
    found = losses.normal_log_density(deviation, 0.3, used)
    expected = stats.norm.logpdf(deviation.numpy(), scale=0.3)[:, [0, 2]].sum(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert losses.uniform_log_density(used).item() == pytest.approx(
        2 * stats.uniform.logpdf(0.0, loc=-1.0, scale=2.0)
    )
    mean, log_std = torch.randn(2, 4, 3, dtype=DOUBLE)
    normal, unit = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
    kl = torch.distributions.kl_divergence(normal, unit)
    torch.testing.assert_close(losses.gaussian_kl(mean, log_std), kl, rtol=1e-12, atol=1e-12)


# ---- the policies of on-policy methods ---------------------------------------------------------------------


def actor(kind: ActionKind, own: bool) -> PPOActor:
    """Three agents with one, two and three dimensions (or two, three and four actions)."""
    sizes = (1, 2, 3) if kind == "continuous" else (2, 3, 4)
    spec = Spec(3, 4, 5, kind, max(sizes), horizon=9, action_sizes=sizes)
    used = (torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(-1)).to(DOUBLE)
    x, y = f64(1.0, 2.0).view(2, 1, 1), f64(0.5, 0.9).view(2, 1, 1)
    found = PPOActor(Init([0, 1], dtype=DOUBLE), spec, 6, used, x, y, own)
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, dtype=DOUBLE))
    return found


@pytest.mark.parametrize("own", [False, True])
def test_on_policy_densities_and_entropies(own: bool) -> None:
    """Of every agent among all, and of one agent alone where it has a network of its own."""
    for kind in ("continuous", "discrete"):
        policy = actor(kind, own)
        obs, action_mask = torch.randn(2, 8, 3, 4, dtype=DOUBLE), None
        if kind == "continuous":
            action = torch.randn(2, 8, 3, 3, dtype=DOUBLE) * policy.used
            outside: Any = torch.distributions.Normal(policy.mean(obs), policy.std().unsqueeze(1))
            log_prob = (outside.log_prob(action) * policy.used).sum(-1)
            entropy = (outside.entropy() * policy.used).sum(-1)
        else:
            action_mask = (torch.rand(2, 8, 3, 4) < 0.6) & (policy.used > 0)
            action_mask[..., 0] |= ~action_mask.any(-1)
            action = (action_mask * torch.rand(action_mask.shape)).argmax(-1)
            masked = policy.mean(obs).masked_fill(~action_mask, -math.inf)
            outside = torch.distributions.Categorical(logits=masked)
            log_prob, entropy = outside.log_prob(action), outside.entropy()
        found = policy.log_prob(obs, action, action_mask)
        torch.testing.assert_close(found[0], log_prob, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found[1], entropy, rtol=1e-9, atol=1e-9)
        if own:
            agent, replica = torch.tensor([2, 1]), torch.arange(2)
            mine = [None if x is None else x[replica, :, agent] for x in (obs, action, action_mask)]
            own_alone = policy.log_prob(mine[0], mine[1], mine[2], agent)
            for one, all_of_them in zip(own_alone, found, strict=True):
                torch.testing.assert_close(one, all_of_them[replica, :, agent])


def test_the_logged_deviation_is_that_of_real_dimensions() -> None:
    policy = actor("continuous", own=False)
    expected = (policy.std() * policy.used).sum((1, 2)) / policy.used.sum()
    torch.testing.assert_close(policy.mean_std(), expected)


# ---- mixers ----------------------------------------------------------------------------------------------

Mix = Callable[[Tensor, Tensor], Tensor]


def mixers() -> dict[str, Mix]:
    """Every way of making a team's value from the agents'."""
    init, n, size = Init(range(REPLICAS), dtype=DOUBLE), 4, 5
    return {
        "sum": SumMixer(),
        "monotonic": MonotonicMixer(init, size, n, embed=3, hidden=6),
        "linear": LinearMixer(init, size, 6, n),
        "convex": ConvexMixer(init, size, n, embed=3, bias=True),
    }


@pytest.mark.parametrize("name", ["sum", "monotonic", "linear", "convex"])
def test_mixers_are_monotone_so_each_agents_best_is_the_teams(name: str) -> None:
    """The best team action of all is made of the agents' own best (the condition IGM of QTRAN's paper)."""
    mix, n, actions, samples = mixers()[name], 4, 3, 6
    state = 2.0 * torch.randn(REPLICAS, samples, 5, dtype=DOUBLE)
    values = 3.0 * torch.randn(REPLICAS, samples, n, actions, dtype=DOUBLE)
    greedy = mix(values.amax(-1), state)
    for team in itertools.product(range(actions), repeat=n):
        other = torch.stack([values[:, :, i, a] for i, a in enumerate(team)], dim=-1)
        assert (mix(other, state) <= greedy + 1e-12).all()


@pytest.mark.parametrize("name", ["monotonic", "linear", "convex"])
def test_mixers_depend_on_the_state_and_keep_replicas_apart(name: str) -> None:
    mix = mixers()[name]
    values, state = torch.randn(REPLICAS, 6, 4, dtype=DOUBLE), torch.randn(REPLICAS, 6, 5, dtype=DOUBLE)
    before = mix(values, state)
    assert not torch.isclose(mix(values, state + 1.0), before).any()
    changed = values.clone()
    changed[1] += 1.0
    rows = torch.tensor([0, 2])
    assert torch.equal(mix(changed, state)[rows], before[rows])
    assert not torch.isclose(mix(changed, state)[1], before[1]).any()


# ---- normalization and the optimizer -----------------------------------------------------------------------


def test_layer_norm_equals_torchs() -> None:
    ours, theirs = LayerNorm(Init([0, 1], dtype=DOUBLE), 5, (3,)), nn.LayerNorm(5, dtype=DOUBLE)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=DOUBLE))
        theirs.weight.copy_(ours.scale[1, 2])
        theirs.bias.copy_(ours.offset[1, 2])
    x = 3.0 * torch.randn(2, 3, 7, 5, dtype=DOUBLE) + 1.0
    torch.testing.assert_close(ours(x)[1, 2], theirs(x[1, 2]), rtol=1e-12, atol=1e-12)


def test_adam_with_rows_that_step_in_turn_equals_torchs() -> None:
    """Every replica and row is one Adam of PyTorch's; the clip counts what is stepped, an idle row keeps still."""
    rates, clips, eps, rows = [1e-2, 1e-3, 1e-1], [0.5, math.inf, 2.0], 1e-5, 2
    stacked = [nn.Parameter(torch.randn(REPLICAS, rows, *shape, dtype=DOUBLE)) for shape in ((3, 4), (4,))]
    single = {
        (r, i): [nn.Parameter(p[r, i].detach().clone()) for p in stacked]
        for r, i in itertools.product(range(REPLICAS), range(rows))
    }
    theirs = {k: torch.optim.Adam(single[k], lr=rates[k[0]], eps=eps) for k in single}
    ours = StackedAdam(stacked, f64(*rates), f64(*clips), eps=eps, rows=(rows,))
    for step in range(12):
        active = torch.zeros(REPLICAS, rows, dtype=torch.bool)
        for r in range(REPLICAS):
            active[r, (step + r) % 3 % rows] = step % 4 != r
        grads = [torch.randn(p.shape, dtype=DOUBLE) for p in stacked]
        for g in grads:
            g[~active] = 0.0  # the loss of the row whose turn it is does not depend on the others
        norms = ours.step(grads, active)
        for r in range(REPLICAS):
            whole = torch.cat([g[r].flatten() for g in grads])
            torch.testing.assert_close(norms[r], whole.norm())
        for r, i in single:
            if active[r, i]:
                for p, g in zip(single[r, i], grads, strict=True):
                    p.grad = g[r, i].clone()
                nn.utils.clip_grad_norm_(single[r, i], clips[r])
                theirs[r, i].step()
    for (r, i), parameters in single.items():
        for mine, other in zip(stacked, parameters, strict=True):
            torch.testing.assert_close(mine[r, i], other, rtol=1e-9, atol=1e-12)


def test_a_step_that_is_not_due_leaves_no_trace() -> None:
    """As if it had not been: parameters, moments and the count of the bias correction."""
    rate, clip = f64(1e-2, 1e-3), f64(1.0, math.inf)
    waiting, plain = ([nn.Parameter(torch.ones(2, 3, dtype=DOUBLE))] for _ in range(2))
    ours, theirs = StackedAdam(waiting, rate, clip), StackedAdam(plain, rate, clip)
    for step in range(9):
        gradient = [torch.randn(2, 3, dtype=DOUBLE)]
        due = torch.tensor(step % 3 == 2)
        norm = ours.step(gradient, due)
        torch.testing.assert_close(norm, gradient[0].norm(dim=1))
        if due:
            theirs.step(gradient)
    state = theirs.state_tensors()
    for name, value in ours.state_tensors().items():
        assert torch.equal(value, state[name]), name
    assert torch.equal(waiting[0], plain[0])
