"""Sequences: TD(lambda) against numbers by hand, the layout, random legal actions, networks with memory."""

from __future__ import annotations

import pytest
import torch
from marlzoo.baselines.qmix_cql import joint_values, random_valid_actions

import marlzoo
from marlzoo.batch import Batch, as_sequences, known_actions
from marlzoo.modules.layers import RecurrentNet, with_agent_id, with_last_action
from marlzoo.modules.policies import CategoricalPolicy, RecurrentPolicy
from marlzoo.objectives import td_lambda
from marlzoo.replicas import Init
from marlzoo.spec import ActionKind
from tests.toys import toy_spec


def targets(
    trace: float, gamma: float, mask: list[float], filled: list[float] | None = None, per_agent: int = 0
) -> torch.Tensor:
    """TD(lambda) for r = (1, 2, 3), U = (10, 20, 30, 40)."""
    r = torch.tensor([1.0, 2.0, 3.0]).double().view(1, 1, 3)
    u = torch.tensor([10.0, 20.0, 30.0, 40.0]).double().view(1, 1, 4)
    if per_agent:
        r, u = r.unsqueeze(-1).expand(1, 1, 3, per_agent), u.unsqueeze(-1).expand(1, 1, 4, per_agent)
    m, f = (torch.tensor(x).double().view(1, 1, 3) for x in (mask, filled or [1.0, 1.0, 1.0]))
    g, t = (torch.tensor([x]).double().view(1, 1, 1) for x in (gamma, trace))
    return td_lambda(r, u, m, f, g, t)[0, 0]


@pytest.mark.parametrize(
    ("trace", "gamma", "mask", "filled", "expected"),
    [
        (0.5, 0.9, [1, 1, 0], None, (17.5825, 16.85, 3.0)),
        (0.0, 0.9, [1, 1, 0], None, (19.0, 29.0, 3.0)),
        (1.0, 0.9, [1, 1, 0], None, (5.23, 4.7, 3.0)),
        (0.5, 0.9, [1, 1, 1], None, (24.8725, 33.05, 39.0)),
        (0.75, 0.99, [1, 1, 0], None, (14.601981, 11.6525, 3.0)),
        (0.5, 0.9, [1, 0, 1], [1, 1, 0], (10.9, 2.0, 0.0)),
        # Cut after two steps: goes on with its own final row's value, 2 + 0.9 * 30.
        (0.5, 0.9, [1, 1, 1], [1, 1, 0], (1 + 0.9 * (10 + 14.5), 29.0, 0.0)),
    ],
)
def test_td_lambda_by_hand(
    trace: float, gamma: float, mask: list[float], filled: list[float] | None, expected: tuple[float, ...]
) -> None:
    wanted = torch.tensor(expected).double()
    torch.testing.assert_close(targets(trace, gamma, mask, filled), wanted, atol=1e-5, rtol=1e-7)
    both = targets(trace, gamma, mask, filled, per_agent=2)
    torch.testing.assert_close(both, wanted.unsqueeze(-1).expand(3, 2), atol=1e-5, rtol=1e-7)


def test_td_lambda_by_doubling_equals_the_recursion() -> None:
    torch.manual_seed(0)
    r, b, n = 2, 5, 13
    reward, values = torch.randn(r, b, n).double(), torch.randn(r, b, n + 1).double()
    mask = (torch.rand(r, b, n) < 0.8).double()
    filled = (torch.arange(n) < torch.tensor([13, 1, 7, 12, 8]).unsqueeze(-1)).double().expand(r, b, n)
    gamma, trace = (torch.tensor(x).double().view(2, 1, 1) for x in ((0.9, 0.99), (0.3, 0.95)))
    after, expected = values[:, :, -1], torch.zeros_like(reward)
    for t in reversed(range(n)):
        on = (1 - trace[..., 0]) * values[:, :, t + 1] + trace[..., 0] * after
        after = torch.where(
            filled[:, :, t] > 0, reward[:, :, t] + gamma[..., 0] * mask[:, :, t] * on, values[:, :, t]
        )
        expected[:, :, t] = after * filled[:, :, t]
    torch.testing.assert_close(td_lambda(reward, values, mask, filled, gamma, trace), expected)


def test_transitions_become_sequences_of_one_step() -> None:
    obs, after = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
    action = torch.randint(6, (2, 3, 4))
    batch = Batch.of(obs=obs, next_obs=after, action=action, mask=torch.ones(2, 3), next_action=action + 1)
    found = as_sequences(batch)
    assert found.obs.shape == (2, 3, 2, 4, 5)
    assert torch.equal(found.obs[:, :, 1], after)
    assert found.filled.shape == found.mask.shape == (2, 3, 1)
    actions, known = known_actions(found)
    assert torch.equal(actions[:, :, 1], action + 1)
    assert known.all()


def test_a_step_before_a_cut_has_no_known_next_action() -> None:
    """Rows: whole sequence cut at its end; terminal at its end; padded after a terminal; padded after a cut."""
    mask = torch.tensor([[1.0, 1, 1], [1, 1, 0], [1, 0, 1], [1, 1, 1]]).unsqueeze(0)
    filled = torch.tensor([[1.0, 1, 1], [1, 1, 1], [1, 1, 0], [1, 1, 0]]).unsqueeze(0)
    batch = Batch.of(action=torch.zeros(1, 4, 3, 2, dtype=torch.int64), mask=mask, filled=filled)
    actions, known = known_actions(batch)
    assert actions.shape == (1, 4, 4, 2)
    assert known[0].tolist() == [[1, 1, 0], [1, 1, 1], [1, 1, 0], [1, 0, 0]]


def test_random_actions_are_legal_and_uniform() -> None:
    torch.manual_seed(0)
    action_mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    drawn = random_valid_actions(action_mask.expand(1, 500, 3, 2, 4), torch.rand(1, 500, 40, 2))
    assert drawn.shape == (1, 500, 3, 40, 2)
    assert action_mask[0][drawn[..., 0]].all()
    assert (drawn[..., 1] == 1).all()
    share = torch.bincount(drawn[..., 0].flatten(), minlength=4) / drawn[..., 0].numel()
    torch.testing.assert_close(share, torch.tensor([1 / 3, 0.0, 1 / 3, 1 / 3]), atol=0.01, rtol=0)
    assert (drawn[:, :, 0] != drawn[:, :, 1]).any()  # rows of a sequence differ
    nothing = random_valid_actions(torch.zeros(1, 1, 1, 2, 4, dtype=torch.bool), torch.rand(1, 1, 3, 2))
    assert ((nothing >= 0) & (nothing < 4)).all()


def test_joint_values_picks_each_agents_own() -> None:
    values, actions = torch.randn(2, 3, 4, 5, 6), torch.randint(6, (2, 3, 4, 7, 5))
    found = joint_values(values, actions)
    assert found.shape == (2, 3, 4, 7, 5)
    assert found[1, 2, 3, 4, 0] == values[1, 2, 3, 0, actions[1, 2, 3, 4, 0]]


def test_memory_equals_torchs_and_acting_equals_reading() -> None:
    """The network on a whole episode, PyTorch's GRU, and the policy step by step agree."""
    torch.manual_seed(0)
    net = RecurrentNet(Init([0, 1], dtype=torch.float64), 5 + 4 + 3, 6, 4)
    obs, action = torch.randn(2, 3, 8, 3, 5).double(), torch.zeros(2, 3, 7, 3, dtype=torch.int64)
    policy = RecurrentPolicy(net, CategoricalPolicy, last_action=4)
    policy.reset(3)
    chosen = [policy.act(obs[:, :, t]) for t in range(8)]
    action = torch.stack(chosen[:-1], dim=2)
    x = with_agent_id(with_last_action(obs, action, 4))
    assert (x[:, :, 0, :, 5:9] == 0).all()
    out, last = net(x)
    assert torch.equal(out.argmax(-1), torch.stack(chosen, dim=2))
    gru = torch.nn.GRU(6, 6, batch_first=True).double()
    with torch.no_grad():
        for mine, name in ((net.gru.input, "ih"), (net.gru.recurrent, "hh")):
            getattr(gru, f"weight_{name}_l0").copy_(mine.weight[1].T)
            getattr(gru, f"bias_{name}_l0").copy_(mine.bias[1, 0])
    driven = net.encode(x).relu()[1].transpose(1, 2).flatten(0, 1)  # [B N, T, in]
    expected, end = gru(driven)
    head = expected @ net.head.weight[1] + net.head.bias[1, 0]
    torch.testing.assert_close(out[1].transpose(1, 2).flatten(0, 1), head)
    torch.testing.assert_close(last[1].flatten(0, 1), end[0])


@pytest.mark.parametrize("remembers", [False, True])
def test_one_replica_reads_as_one_of_several(remembers: bool) -> None:
    """The fused kernel and the loop over steps: outputs, last memory and gradients."""
    torch.manual_seed(0)
    alone, several = (RecurrentNet(Init(seeds, dtype=torch.float64), 5, 6, 4) for seeds in ([1], [0, 1]))
    x = torch.randn(2, 3, 7, 3, 5).double()
    hidden_state = torch.randn(2, 3, 3, 6).double() if remembers else None
    one = alone(x[1:], None if hidden_state is None else hidden_state[1:])
    both = several(x, hidden_state)
    for mine, theirs in zip(one, both, strict=True):
        torch.testing.assert_close(mine[0], theirs[1])
    mine = torch.autograd.grad(one[0].square().sum(), list(alone.parameters()))
    theirs = torch.autograd.grad(both[0].square().sum(), list(several.parameters()))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a[0], b[1])


def test_reset_forgets_only_the_copies_named() -> None:
    torch.manual_seed(0)
    policy = RecurrentPolicy(RecurrentNet(Init([0]), 5 + 4 + 3, 6, 4), CategoricalPolicy, last_action=4)
    obs = torch.randn(1, 2, 3, 5)
    policy.reset(2)
    fresh = policy._reader.network(with_agent_id(torch.cat((obs, torch.zeros(1, 2, 3, 4)), -1)).unsqueeze(2))
    for _ in range(3):
        policy.act(obs)
    policy.reset(2, torch.tensor([1]))
    policy.act(obs)
    hidden_state = policy._reader.hidden_state
    assert hidden_state is not None
    torch.testing.assert_close(hidden_state[:, 1], fresh[1][:, 1])
    assert not torch.allclose(hidden_state[:, 0], fresh[1][:, 0])


def test_a_relu_between_memory_and_head() -> None:
    """OG-MARL's network: negative entries of the memory do not reach the outputs, but stay in the memory."""
    plain, clipped = (RecurrentNet(Init([0]), 5, 6, 4, relu=relu) for relu in (False, True))
    x = torch.randn(1, 3, 7, 2, 5)
    hidden_state, last = plain.gru(torch.relu(plain.encode(x)))
    torch.testing.assert_close(clipped(x)[0], plain.head(torch.relu(hidden_state)))
    assert torch.equal(clipped(x)[1], last)
    assert (last < 0).any()


@pytest.mark.parametrize(
    ("method", "kind"), [("iql_cql", "discrete"), ("qmix_cql", "discrete"), ("maddpg_cql", "continuous")]
)
def test_methods_of_og_marl_have_it_by_default(method: str, kind: ActionKind) -> None:
    learner = marlzoo.make(method, toy_spec(kind), hidden=4)
    assert [net.relu for net in learner.modules() if isinstance(net, RecurrentNet)] == [True, True]
