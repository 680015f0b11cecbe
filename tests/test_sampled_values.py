"""Values of sampled actions, computed block by block: the numbers and the gradients of plain layers."""

from __future__ import annotations

import importlib

import pytest
import torch
from torch import Tensor

from marlzoo.modules import critics
from marlzoo.modules.critics import Ensemble
from marlzoo.modules.layers import reproducible_matmul
from marlzoo.replicas import Init
from tests.reference.harness import compare

R, K, B, N = 2, 7, 5, 3


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def critic(agents: int = 0, hidden: tuple[int, int] = (8, 6)) -> Ensemble:
    return Ensemble(Init((0, 1), dtype=torch.float64), (7, *hidden, 1), agents=agents)


def by_plain_layers(q: Ensemble, obs: Tensor, action: Tensor) -> Tensor:
    """The same with every input written out, so that nothing is shared."""
    return q(obs.expand(*action.shape[:-1], obs.shape[-1]), action)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[torch.Size]:
    """Shapes of the actions that are valued in blocks, however few."""
    seen: list[torch.Size] = []
    original = critics._ValuesInBlocks.apply

    def spying(partial: Tensor, action: Tensor, *layers: Tensor) -> Tensor:
        seen.append(action.shape)
        values: Tensor = original(partial, action, *layers)
        return values

    monkeypatch.setattr(critics._ValuesInBlocks, "apply", spying)
    monkeypatch.setattr(critics, "MIN_UNITS", 0)
    return seen


@pytest.mark.filterwarnings("error")  # torch warns of results that are written over tensors of another shape
@pytest.mark.parametrize("rows", [1, 30, 2048])
@pytest.mark.parametrize(("agents", "hidden"), [(0, (8, 8)), (N, (8, 6)), (N, (6, 8))])
def test_values_and_gradients_are_those_of_plain_layers(
    agents: int, hidden: tuple[int, int], rows: int, calls: list[torch.Size], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(critics, "BLOCK_ROWS", rows)
    q = critic(agents, hidden)
    obs, action = randn(R, 1, B, N, 5).requires_grad_(), randn(R, K, B, N, 2, seed=1)
    found, expected = q(obs, action), by_plain_layers(q, obs, action)
    assert len(calls) == 1
    torch.testing.assert_close(found, expected)
    inputs = [obs, *q.parameters()]
    weights = randn(*found.shape, seed=2)  # a loss whose gradient differs from value to value
    mine, theirs = (
        torch.autograd.grad((weights * torch.logsumexp(x, 2, keepdim=True) + x * x).sum(), inputs)
        for x in (found, expected)
    )
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(q.first(obs, action), expected[:, 0])


def test_blocks_have_about_as_many_rows_as_fit_into_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(critics, "BLOCK_ROWS", 30)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    layers = critics._Layers(*(randn(1, *shape) for shape in ((2, 4), (4, 4), (1, 4), (4, 1), (1, 1))))
    blocks = critics._Blocks(randn(1, 25, 4), randn(1, 7, 25, 2), layers)
    assert [(block.start, block.stop) for block in blocks] == [(0, 2), (2, 4), (4, 6), (6, 7)]
    assert len(blocks.first) == 50


def test_states_that_agents_share(calls: list[torch.Size]) -> None:
    """A central critic: one state for all agents' counterfactual team actions."""
    q, state, team = critic(), randn(R, 1, B, 1, 5), randn(R, K, B, N, 2, seed=1)
    torch.testing.assert_close(q(state, team), by_plain_layers(q, state, team))
    assert calls == [(2 * R, K, B * N, 2)]


def test_agents_numbers_beside_actions_that_they_share(calls: list[torch.Size]) -> None:
    """A joint critic that reads whose value is asked for: only the number has an axis of agents."""
    q, state, number = critic(), randn(R, 1, B, 1, 2), torch.eye(N, dtype=torch.float64).expand(R, 1, B, N, N)
    team = randn(R, K, B, 1, 2, seed=1)
    whole = (state.expand(R, K, B, N, 2), number.expand(R, K, B, N, N), team.expand(R, K, B, N, 2))
    found, expected = q(state, number, team), q(*whole)
    assert len(calls) == 1
    torch.testing.assert_close(found, expected)


def test_plain_layers_do_what_blocks_cannot(calls: list[torch.Size]) -> None:
    """Gradients to the actions, products in another type, reproducible numbers, other depths and outputs."""
    q, obs, action = critic(), randn(R, 1, B, N, 5), randn(R, K, B, N, 2, seed=1)
    wanted = action.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(q(obs, wanted).sum(), wanted)
    assert gradient.abs().sum() > 0
    with reproducible_matmul():
        q(obs, action)
    q.members.layers[1].products = torch.bfloat16  # type: ignore[assignment]
    q(obs, action)
    Ensemble(Init((0, 1), dtype=torch.float64), (7, 8, 1))(obs, action)
    Ensemble(Init((0, 1), dtype=torch.float64), (7, 8, 8, 2))(obs, action)
    assert calls == []


def test_plain_layers_do_what_is_small(calls: list[torch.Size], monkeypatch: pytest.MonkeyPatch) -> None:
    q, obs, action = critic(), randn(R, 1, B, N, 5), randn(R, K, B, N, 2, seed=1)
    for least, expected in ((K * B * N * 8 + 1, 0), (K * B * N * 8, 1)):
        monkeypatch.setattr(critics, "MIN_UNITS", least)
        q(obs, action)
        assert len(calls) == expected


def test_a_replica_that_is_not_a_number_leaves_the_other_alone(calls: list[torch.Size]) -> None:
    q, obs, action = critic(), randn(R, 1, B, N, 5), randn(R, K, B, N, 2, seed=1)
    whole = torch.autograd.grad(q(obs, action).square().sum(), list(q.parameters()))
    obs[1] = torch.nan
    found = torch.autograd.grad(q(obs, action).square().sum(), list(q.parameters()))
    assert len(calls) == 2
    for a, b in zip(found, whole, strict=True):
        assert torch.equal(a[0], b[0])


@pytest.mark.parametrize("method", ["cql_ma", "maddpg_cql", "omar"])
def test_methods_in_blocks_follow_their_references(method: str, calls: list[torch.Size]) -> None:
    reference = importlib.import_module(f"tests.reference.{method}")
    compare(method, reference, next(case for case in reference.CASES if case.kind == "continuous"))
    assert calls
