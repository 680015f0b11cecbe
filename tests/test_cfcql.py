"""CFCQL: penalty and weights by hand, one agent as CQL, where gradients go, delayed policies, both action kinds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from marlzoo.algorithms.cfcql import agent_weights, counterfactual_values
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch, as_sequences
from marlzoo.errors import ConfigError
from marlzoo.modules.critics import counterfactual_actions
from marlzoo.modules.teams import SumMixer
from marlzoo.objectives import masked_logsumexp
from marlzoo.spec import ActionKind
from marlzoo.training.trainer import make_sampler, prepare
from tests.toys import toy_dataset, toy_spec

Q = torch.tensor([[1.0, 2.0, 0.0], [0.0, -1.0, 3.0]]).double()
DATA = torch.tensor([1, 2])
BETA = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8]]).double()
LEGAL = torch.ones(2, 3, dtype=torch.bool)


def learner(kind: ActionKind = "discrete", **settings: Any) -> Any:
    small = {"hidden": 8, "mixer_hidden": 8, "mixer_embed": 4, "batch_size": 16}
    return marlzoo.make("cfcql", toy_spec(kind), seeds=(0, 1), dtype=torch.float64, **(small | settings))


def batch_for(algorithm: Any) -> Any:
    return make_sampler(algorithm, [toy_dataset(algorithm.spec.action_kind)]).next()


def close(found: Tensor, expected: Any, atol: float = 1e-6) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected).double(), atol=atol, rtol=0)


def additive_case() -> tuple[Tensor, Tensor, Tensor]:
    """C, LSE_i and Q_tot(data) of an additive team."""
    q = Q.gather(-1, DATA.unsqueeze(-1)).squeeze(-1)
    values = SumMixer()(counterfactual_values(Q, q), torch.zeros(1)).view(2, 3)
    return values, masked_logsumexp(values, LEGAL), q.sum()


def weights(mode: str, temperature: float = 1.0, action_mask: Tensor = LEGAL, beta: Tensor = BETA) -> Tensor:
    return agent_weights(
        additive_case()[0], beta.log(), action_mask, mode, torch.tensor(temperature).double()
    )


def test_penalty_of_an_additive_team_by_hand() -> None:
    """Per agent, uniformly weighted, and n times that: the joint penalty."""
    values, lse, data = additive_case()
    close(values, [[4.0, 5.0, 3.0], [2.0, 1.0, 5.0]])
    close(lse - data, [0.407606, 0.065884])
    close((weights("uniform") * lse).sum() - data, 0.236745)
    joint = torch.logsumexp((Q[0, :, None] + Q[1]).flatten(), 0) - data
    close(joint, 0.473490)
    close((weights("kl") * lse).sum() - data, 0.240979)
    close(torch.softmax(values, -1), [[0.2447, 0.6652, 0.0900], [0.0466, 0.0171, 0.9362]], atol=5e-5)


def test_actions_that_are_not_legal_have_no_part_in_the_weights() -> None:
    legal, temperature = LEGAL.clone(), torch.tensor(1.0).double()
    legal[0, 2] = False
    other = BETA.clone()
    other[0, 2] = 0.9
    values = additive_case()[0]
    first, second = (agent_weights(values, b.log(), legal, "kl", temperature) for b in (BETA, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("mode", "temperature", "expected"),
    [
        ("kl", 1.0, (0.512391, 0.487609)),
        ("kl", 0.5, (0.5062, 0.4938)),
        ("kl", 0.0, (0.5, 0.5)),
        ("uniform", 1.0, (0.5, 0.5)),
        ("argmax", 1.0, (1.0, 0.0)),
        ("kl", 100.0, (0.99302, 0.00698)),
        ("kl", 1e6, (1.0, 0.0)),
    ],
)
def test_weights_by_hand(mode: str, temperature: float, expected: tuple[float, float]) -> None:
    close(weights(mode, temperature), expected, atol=5e-5 if temperature == 0.5 else 2e-5)


def test_illegal_actions_have_no_part() -> None:
    """Not in the weights, whatever their value, and no NaN where nothing is legal."""
    values, _, _ = additive_case()
    action_mask = torch.tensor([[True, True, False], [True, True, True]])
    beta = torch.tensor([[0.4, 0.6, 0.0], [0.1, 0.1, 0.8]]).double()
    mu = torch.softmax(values[0, :2], -1)
    first = (mu * (mu / beta[0, :2]).log()).sum()
    mu = torch.softmax(values[1], -1)
    second = (mu * (mu / beta[1]).log()).sum()
    close(weights("kl", 1.0, action_mask, beta), torch.softmax(torch.stack((first, second)), 0), atol=2e-5)
    close(masked_logsumexp(values, action_mask)[0], math.log(math.exp(4) + math.exp(5)))
    nothing = torch.zeros_like(action_mask)
    assert torch.isfinite(weights("kl", 1.0, nothing)).all()


def test_counterfactuals_replace_one_agents_part() -> None:
    q = torch.tensor([10.0, 20.0])
    found = counterfactual_values(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), q)
    assert found.tolist() == [[1, 20], [2, 20], [10, 3], [10, 4]]
    data, own = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]]), torch.tensor([[[-1.0, -2.0], [-3.0, -4.0]]])
    assert counterfactual_actions(data, own)[0].tolist() == [[-1, -2, 3, 4], [1, 2, -3, -4]]


def test_gradient_of_the_penalty_by_hand() -> None:
    """-1 at the data's action of every agent, + sum_i lambda_i mu_ij; nothing through the weights."""
    table = Q.clone().requires_grad_()
    q = table.gather(-1, DATA.unsqueeze(-1)).squeeze(-1)
    values = SumMixer()(counterfactual_values(table, q), torch.zeros(1)).view(2, 3)
    weight = agent_weights(values, BETA.log(), LEGAL, "kl", torch.tensor(1.0).double())
    assert not weight.requires_grad
    ((weight * masked_logsumexp(values, LEGAL)).sum() - q.sum()).backward()
    mu = torch.softmax(values.detach(), -1)
    expected = weight.unsqueeze(-1) * mu
    # The other agent's data action is in all of an agent's counterfactuals.
    expected[[0, 1], DATA] += weight.flip(0) - 1.0
    torch.testing.assert_close(table.grad, expected)


def test_of_one_agent_it_is_cql() -> None:
    q = Q[:1].gather(-1, DATA[:1].unsqueeze(-1)).squeeze(-1)
    values = SumMixer()(counterfactual_values(Q[:1], q), torch.zeros(1)).view(1, 3)
    weight = agent_weights(values, BETA[:1].log(), LEGAL[:1], "kl", torch.tensor(3.0).double())
    penalty = (weight * masked_logsumexp(values, LEGAL[:1])).sum() - q.sum()
    torch.testing.assert_close(penalty, torch.logsumexp(Q[0], 0) - Q[0, 1])


def test_update_reports_the_penalty_of_its_networks() -> None:
    """The whole discrete step against a loop over agents and actions through the mixer."""
    algorithm = learner(agent_weights="uniform")
    batch = batch_for(algorithm)
    with torch.no_grad():
        q_all, state = algorithm.team(batch)[:, :, :-1], batch.state[:, :, :-1]
        q = q_all.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1)
        lse = []
        for agent in range(3):
            columns = []
            for action in range(4):
                changed = q.clone()
                changed[..., agent] = q_all[..., agent, action]
                value = algorithm.team.total(changed, state)
                columns.append(value.masked_fill(~batch.action_mask[:, :, :-1, agent, action], -torch.inf))
            lse.append(torch.logsumexp(torch.stack(columns, -1), -1))
        excess = torch.stack(lse).mean(0) - algorithm.team.total(q, state)
        filled = batch.filled > 0
        expected = torch.stack([excess[r][filled[r]].mean() for r in range(2)])
    torch.testing.assert_close(algorithm.update(batch)["q/penalty"], expected)


def test_behavior_is_cloned_before_or_beside() -> None:
    before = [p.clone() for p in learner().behavior.parameters()]
    for first in (0, 3):
        algorithm = learner(behavior_updates=first)
        prepare(algorithm, [toy_dataset("discrete")])
        after = [p.clone() for p in algorithm.behavior.parameters()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)) == (first == 0)
        algorithm.update(batch_for(algorithm))
        moved = zip(after, algorithm.behavior.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in moved) == (first > 0)


def test_target_is_copied_at_its_period() -> None:
    algorithm = learner(target_period=2, history="mlp")
    sampler = make_sampler(algorithm, [toy_dataset("discrete")])
    for update in range(1, 6):
        algorithm.update(sampler.next())
        pairs = zip(algorithm.target.parameters(), algorithm.team.parameters(), strict=True)
        assert all(torch.equal(old, new) for old, new in pairs) == (update % 2 == 0)


def moving(optimizer: Any) -> list[Tensor]:
    """All that a step changes."""
    return [*optimizer.parameters, *optimizer.state_tensors().values()]


def test_policies_wait_for_the_critic() -> None:
    """Five critic steps, then one policy step; neither policies nor their optimizer move in between."""
    algorithm = learner("continuous")
    sampler = make_sampler(algorithm, [toy_dataset("continuous")])
    state = algorithm._optimizers["policy"]
    before = [t.clone() for t in moving(state)]
    for update in range(1, 11):
        critic = [p.clone() for p in algorithm.q.parameters()]
        algorithm.update(sampler.next())
        assert not any(torch.equal(a, b) for a, b in zip(critic, algorithm.q.parameters(), strict=True))
        same = [torch.equal(a, b) for a, b in zip(before, moving(state), strict=True)]
        assert all(same) == (update % 5 != 0)
        assert any(same) == (update % 5 != 0)
        before = [t.clone() for t in moving(state)]
    assert state.count == 2


@pytest.mark.parametrize("policy_samples", [False, True])
def test_continuous_penalty_of_equal_values(policy_samples: bool) -> None:
    """Q = c: log of the summed inverse densities of the samples, the same for both critics."""
    algorithm = learner("continuous", policy_samples=policy_samples)
    head = algorithm.q.members.layers[-1]
    head.weight.data.zero_()
    head.bias.data.fill_(3.0)
    batch = batch_for(algorithm)
    used = algorithm.action_dimensions
    inverse = 10.0 * torch.exp(math.log(2.0) * used.sum(-1)).expand(2, 16, 3)
    if policy_samples:
        z = batch.noise["policy"]
        density = -0.5 * z.square() - math.log(0.2) - 0.5 * math.log(2.0 * math.pi)
        inverse = inverse + torch.exp(-(density * used).sum(-1)).sum((1, 2))
    expected = 2.0 * inverse.log().mean((1, 2))
    torch.testing.assert_close(algorithm.update(batch)["q/penalty"], expected)


def test_each_policy_is_improved_beside_the_others_logged_actions() -> None:
    """An agent's policy gets its gradient from its own counterfactual only."""
    algorithm = learner("continuous")
    batch = batch_for(algorithm)
    action = batch.action.clone().requires_grad_()
    team = counterfactual_actions(batch.action, action)
    q = algorithm.q.first(batch.state.unsqueeze(2), team).squeeze(-1)
    (slope,) = torch.autograd.grad(q[..., 1].sum(), action)
    assert (slope[:, :, [0, 2]] == 0).all()
    assert (slope[:, :, 1] != 0).any()


def test_padded_dimensions_change_nothing() -> None:
    """Agent 1 has one dimension: whatever its network's second output is, the step is the same."""
    results = []
    for shift in (0.0, 5.0):
        algorithm = learner("continuous", policy_period=1)
        for actor in (algorithm.actor, algorithm.target_actor):
            actor.network.body.layers[-1].bias.data[:, 1, :, 1] += shift
        results.append(algorithm.update(batch_for(algorithm)))
    for key, value in results[0].items():
        torch.testing.assert_close(value, results[1][key], msg=key)


def test_transitions_have_no_memory_and_no_padding() -> None:
    algorithm = learner(history="mlp")
    assert algorithm.sampling == "transition"
    batch = as_sequences(batch_for(algorithm))
    assert batch.obs.shape[2] == 2
    assert batch.filled.all()


@pytest.mark.parametrize("steps", ["policy", "critic"])
def test_continuous_targets_follow_with_the_policies(steps: str) -> None:
    """Theirs follow once per five critic steps, when the policies step."""
    algorithm = learner("continuous", target_period=0, target_steps=steps)
    sampler = make_sampler(algorithm, [toy_dataset("continuous")])
    for update in range(1, 11):
        before = [p.clone() for p in algorithm.target_q.parameters()]
        algorithm.update(sampler.next())
        pairs = zip(before, algorithm.target_q.parameters(), strict=True)
        moved = not all(torch.equal(old, new) for old, new in pairs)
        assert moved == (steps == "critic" or update % 5 == 0)


def test_targets_that_are_copied_do_not_follow_at_critic_steps() -> None:
    """The defaults copy them at every 25th update, which leaves ``target_steps`` without a meaning."""
    with pytest.raises(
        ConfigError, match='target_steps is "critic", but the targets are copied at every 25-th'
    ):
        learner("continuous", target_steps="critic")
    learner("continuous", target_steps="critic", target_period=0)
    assert learner("continuous").config.target_period == 25


@pytest.mark.parametrize("mode", ["uniform", "kl", "argmax"])
def test_the_penalty_of_one_agents_networks_is_cqls(mode: str) -> None:
    """However agents are weighed: log-sum-exp over the legal actions less the value of the data's."""
    spec, source = toy_spec("discrete", 1), torch.Generator().manual_seed(0)
    small: dict[str, Any] = {
        "hidden": 8,
        "mixer_hidden": 8,
        "mixer_embed": 4,
        "batch_size": 16,
        "history": "mlp",
    }
    algorithm: Any = marlzoo.make("cfcql", spec, agent_weights=mode, dtype=torch.float64, **small)
    mask = torch.rand(1, 16, 1, 4, generator=source) < 0.7
    mask[..., 0] = True
    rows: dict[str, Tensor] = {
        name: torch.randn(1, 16, *shape, generator=source, dtype=torch.float64)
        for name, shape in (
            ("obs", (1, 5)),
            ("next_obs", (1, 5)),
            ("state", (7,)),
            ("next_state", (7,)),
            ("reward", ()),
        )
    }
    action = torch.where(mask, torch.rand(mask.shape, generator=source), -1.0).argmax(-1)
    batch = Batch.of(
        **rows, action=action, action_mask=mask, next_action_mask=mask, mask=torch.ones(1, 16).double()
    )
    with torch.no_grad():
        every = algorithm.team(as_sequences(batch))[:, :, 0].movedim(-1, 1)  # [R, A, B, N]
        totals = torch.stack([algorithm.team.total(q, batch.state) for q in every.unbind(1)], dim=-1)
        excess = masked_logsumexp(totals, mask[:, :, 0]) - totals.gather(-1, action).squeeze(-1)
    torch.testing.assert_close(algorithm.update(batch)["q/penalty"], excess.mean(1))
