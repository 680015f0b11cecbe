"""Mixers against closed forms: sums, convex weights, monotonicity, many team actions at once."""

from __future__ import annotations

import itertools

import torch

from marlzoo.modules.teams import ConvexMixer, MonotonicMixer, SumMixer, normalized_product
from marlzoo.replicas import Init


def test_convex_weights_by_hand() -> None:
    k = normalized_product(torch.tensor([[1.0, 2.0], [0.0, 1.0]]), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(k, torch.tensor([0.8, 0.2]))


def test_convex_mixer_is_a_mean() -> None:
    """Weights are non-negative and sum to one, so equal values mix to themselves; no bias unless asked for."""
    mixer, state = ConvexMixer(Init([0, 1], dtype=torch.float64), 7, 3), torch.randn(2, 5, 7).double()
    k, b = mixer.coefficients(state)
    assert k.shape == (2, 5, 3)
    assert (k >= 0).all()
    torch.testing.assert_close(k.sum(-1), torch.ones(2, 5).double())
    assert (b == 0).all()
    same = torch.full((2, 5, 3), 2.5).double()
    torch.testing.assert_close(mixer(same, state), same[..., 0])
    biased = ConvexMixer(Init([0, 1], dtype=torch.float64), 7, 3, bias=True)
    _, b = biased.coefficients(state)
    assert (b != 0).all()
    torch.testing.assert_close(biased(same, state), same[..., 0] + b)


def test_sum_mixer_makes_joint_logsumexp_a_sum() -> None:
    """VDN: log-sum-exp over all team actions is the sum of the agents' own."""
    q = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]], dtype=torch.float64)
    joint = torch.stack([q[0, i] + q[1, j] for i, j in itertools.product(range(3), repeat=2)])
    mixed = SumMixer()(torch.stack([q[0, [0, 1]], q[1, [2, 0]]], -1), torch.zeros(2, 1))
    torch.testing.assert_close(mixed, torch.tensor([4.0, 2.0]).double())
    own = torch.logsumexp(q, -1)
    torch.testing.assert_close(own, torch.tensor([2.407606, 3.065884]).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.logsumexp(joint, 0), own.sum())
    torch.testing.assert_close(own.sum(), torch.tensor(5.473490).double(), atol=1e-6, rtol=0)


def test_monotonic_mixer_never_falls_in_any_agents_value() -> None:
    torch.manual_seed(0)
    mixer = MonotonicMixer(Init([0, 1, 2], dtype=torch.float64), 7, 4, embed=8, hidden=16)
    state = 3.0 * torch.randn(3, 200, 7).double()
    values = (5.0 * torch.randn(3, 200, 4).double()).requires_grad_()
    (slope,) = torch.autograd.grad(mixer(values, state).sum(), values)
    assert (slope >= 0).all()
    assert (slope > 0).any()
    step = 1e-4 * torch.eye(4).double()
    risen = mixer(values.detach().unsqueeze(-2) + step, state) - mixer(values.detach(), state).unsqueeze(-1)
    torch.testing.assert_close(risen / 1e-4, slope, rtol=1e-2, atol=1e-3)


def test_monotonic_mixer_by_hand() -> None:
    """One replica computed with plain matrices, and with K team actions per state."""
    torch.manual_seed(1)
    mixer = MonotonicMixer(Init([5, 6], dtype=torch.float64), 7, 3, embed=4, hidden=8)
    state, values = torch.randn(2, 6, 7).double(), torch.randn(2, 6, 5, 3).double()
    many = mixer(values, state)
    assert many.shape == (2, 6, 5)
    torch.testing.assert_close(many[:, :, 2], mixer(values[:, :, 2], state))

    def affine(layer: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return x @ layer.weight[1] + layer.bias[1, 0]

    def two(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return affine(net.layers[1], affine(net.layers[0], x).relu())

    s, q = state[1, 3], values[1, 3, 2]
    hidden = torch.nn.functional.elu(q @ two(mixer.first, s).abs().view(3, 4) + affine(mixer.first_bias, s))
    expected = hidden @ two(mixer.last, s).abs() + two(mixer.value, s)[0]
    torch.testing.assert_close(many[1, 3, 2], expected)
