"""Stacked networks: every member computes what it would compute alone."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own short name

from marlzoo.modules import layers as layers_module
from marlzoo.modules.critics import Ensemble
from marlzoo.modules.layers import MLP, BatchNorm, Linear, PerAgent
from marlzoo.modules.teams import DeterministicActor
from marlzoo.replicas import Init

R, B, N = 2, 6, 3


def init(seeds: tuple[int, ...] = (0, 1)) -> Init:
    return Init(seeds, dtype=torch.float64)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(mlp: MLP, place: tuple[int, ...], x: torch.Tensor) -> torch.Tensor:
    """One member's output for ``x [..., in]``."""
    layers = list(mlp.layers)
    for k, layer in enumerate(layers):
        assert isinstance(layer, Linear)
        x = x @ layer.weight[place] + layer.bias[place]
        x = x if k == len(layers) - 1 else F.relu(x)
    return x


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("stack", [(), (2,), (2, 3)])
@pytest.mark.parametrize("n_out", [1, 3, 20])
def test_every_way_of_multiplying_gives_each_members_outputs(
    monkeypatch: pytest.MonkeyPatch, plain: bool, stack: tuple[int, ...], n_out: int
) -> None:
    monkeypatch.setattr(layers_module, "PLAIN_ON_CPU", plain)  # both ways, whatever this machine's processor
    mlp = MLP(init(), (5, 7, 6, n_out), stack=stack)
    for rows in ((B,), (B, N), (B, N, 2)):
        x = randn(R, *stack, *rows, 5)
        out = mlp(x)
        assert out.shape == (*x.shape[:-1], n_out)
        for place in itertools.product(range(R), *map(range, stack)):
            assert torch.allclose(out[place], by_hand(mlp, place, x[place]), rtol=1e-12, atol=1e-12)


def test_ensemble_members_are_independent_networks_on_one_input() -> None:
    q = Ensemble(init(), (7, 8, 1), members=2)
    obs, action = randn(R, B, N, 5), randn(R, B, N, 2, seed=1)
    out = q(obs, action)
    assert out.shape == (R, 2, B, N, 1)
    x = torch.cat((obs, action), -1)
    for r in range(R):
        for k in range(2):
            torch.testing.assert_close(out[r, k], by_hand(q.members, (r, k), x[r]))
    assert not torch.allclose(out[:, 0], out[:, 1])


def test_per_agent_ensemble_uses_each_agents_own_parameters() -> None:
    q = Ensemble(init(), (5, 8, 1), members=2, agents=N)
    obs = randn(R, 4, B, N, 5)
    out = q(obs)
    assert out.shape == (R, 2, 4, B, N, 1)
    for n in range(N):
        torch.testing.assert_close(out[1, 1, :, :, n], by_hand(q.members, (1, 1, n), obs[1, :, :, n]))


def test_parts_that_broadcast_equal_parts_that_are_copied() -> None:
    for agents in (0, N):
        q = Ensemble(init(), (7, 8, 1), agents=agents)
        obs, candidates = randn(R, 1, B, N, 5), randn(R, 4, B, N, 2, seed=1)
        copied = q(obs.expand(R, 4, B, N, 5), candidates)
        torch.testing.assert_close(q(obs, candidates), copied)
        torch.testing.assert_close(q.first(obs, candidates), copied[:, 0])


def test_per_agent_actor_matches_single_agents_and_starts_near_zero() -> None:
    actor = PerAgent(DeterministicActor(init(), (5, 8, 2), stack=(N,), last_bound=3e-3))
    obs = randn(R, B, N, 5)
    out = actor(obs)
    assert out.shape == (R, B, N, 2)
    body = actor.network.body
    assert isinstance(body, MLP)
    assert float(body.layers[-1].weight.detach().abs().max()) <= 3e-3  # type: ignore[operator]
    for n in range(N):
        torch.testing.assert_close(out[0, :, n], torch.tanh(by_hand(body, (0, n), obs[0, :, n])))


def test_a_replica_starts_as_it_would_alone() -> None:
    both, alone = Ensemble(init((3, 4)), (5, 8, 1), agents=N), Ensemble(init((4,)), (5, 8, 1), agents=N)
    for a, b in zip(both.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a[1], b[0])


def test_orthogonal_stack_has_orthonormal_columns() -> None:
    weight = Linear(init(), 6, 4, gain=2.0, stack=(3,)).weight
    assert weight.shape == (R, 3, 6, 4)
    product = weight.mT @ weight
    torch.testing.assert_close(product, 4 * torch.eye(4, dtype=torch.float64).expand_as(product))


def test_batch_norm_matches_torch_in_both_modes() -> None:
    ours, theirs = BatchNorm(init(), 5, stack=(2,)), torch.nn.BatchNorm1d(5, dtype=torch.float64)
    x = 3 * randn(R, 2, B, 5) + 1
    torch.testing.assert_close(ours(x, batch=True)[1, 1], theirs(x[1, 1]))
    torch.testing.assert_close(ours.running_mean[1, 1], theirs.running_mean)
    torch.testing.assert_close(ours.running_var[1, 1], theirs.running_var)
    before = ours.running_mean.clone()
    torch.testing.assert_close(ours(x)[1, 1], theirs.eval()(x[1, 1]))
    assert torch.equal(before, ours.running_mean)  # acting does not move the statistics
