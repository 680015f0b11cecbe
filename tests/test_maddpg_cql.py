"""MADDPG+CQL against closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from marlzoo.baselines.maddpg_cql import MADDPGCQL
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch, as_sequences, draw_rows, priorities
from marlzoo.errors import ConfigError
from marlzoo.objectives import near_rows
from marlzoo.registry import find_method
from marlzoo.training.trainer import make_sampler
from tests.fixed_nets import FixedCritics, spec_of, transitions
from tests.toys import toy_dataset, toy_spec


def learner(n: int = 2, actions: int = 2, size: int = 2, **more: Any) -> MADDPGCQL:
    settings = {"hidden": 8, "critic_hidden": 8, "batch_size": size, "history": "mlp", **more}
    spec = spec_of(n, actions, "continuous")
    algorithm = marlzoo.make("maddpg_cql", spec, seeds=[0], dtype=torch.float64, **settings)
    assert isinstance(algorithm, MADDPGCQL)
    return algorithm


def batch_for(algorithm: MADDPGCQL, action: Any, **fields: Any) -> Batch:
    source = torch.Generator().manual_seed(1)
    noise = {
        name: torch.rand(shape, generator=source)
        if kind == "uniform"
        else torch.randn(shape, generator=source)
        for name, (kind, shape) in algorithm.noise().items()
    }
    return transitions(action, noise=noise, **fields)


def penalty(algorithm: MADDPGCQL, values: Callable[[Tensor], tuple[Any, Any]], batch: Batch) -> float:
    """The penalty of critics with known values."""
    algorithm.q = FixedCritics(values)  # type: ignore[assignment]
    algorithm.step = lambda **_: {}  # type: ignore[method-assign]
    algorithm.soft_update = lambda *_: None  # type: ignore[method-assign]
    return float(algorithm.update(batch)["critic/penalty"])


@pytest.mark.parametrize("sigma", [0.2, 0.3])
@pytest.mark.parametrize("noisy", [False, True])
def test_penalty_of_constant_values(sigma: float, noisy: bool) -> None:
    """log(K e^{A log 2} + sum_k e^{-l_k}); with no noise and sigma .2: 3.807252."""
    algorithm = learner(cql_sigma=sigma)
    batch = batch_for(algorithm, torch.zeros(2, 2, 2))
    batch.noise["normal"] *= float(noisy)
    density = (-0.5 * batch.noise["normal"].square() - math.log(sigma * math.sqrt(2 * math.pi))).sum(-1)
    expected = float(torch.log(40.0 + torch.exp(-density.flatten(1, 2)).sum(1)).mean())
    if not noisy and sigma == 0.2:
        assert expected == pytest.approx(3.807252, abs=1e-6)
    assert penalty(algorithm, lambda action: (7.0, 7.0), batch) == pytest.approx(expected, abs=1e-6)


def test_density_may_count_all_agents() -> None:
    own, joint = learner(n=3), learner(n=3, cql_logprob_scope="joint")
    batch = batch_for(own, torch.zeros(2, 3, 2))
    policy = torch.zeros(1, 2, 2, 3, 2).double()
    mine, all_agents = (a._samples(as_sequences(batch), policy)[1] for a in (own, joint))
    torch.testing.assert_close(all_agents, mine.sum(-1, keepdim=True))


def test_samples_lie_around_the_policy_now_and_next() -> None:
    algorithm = learner(cql_sigma=1e-3)
    policy = torch.tensor([0.5, -0.5]).view(1, 1, 2, 1, 1).expand(1, 2, 2, 2, 2).double()
    samples, _ = algorithm._samples(as_sequences(batch_for(algorithm, torch.zeros(2, 2, 2))), policy)
    assert float((samples[:, 10:20] - 0.5).abs().max()) < 0.01
    assert float((samples[:, 20:] + 0.5).abs().max()) < 0.01
    assert float(samples[:, :10].std()) > 0.4


def test_each_critic_has_its_own_penalty() -> None:
    """A constant added to the second critic changes nothing; another function of the action does."""

    def found(second: Callable[[Tensor], Tensor]) -> float:
        algorithm = learner()
        batch = batch_for(algorithm, torch.zeros(2, 2, 2))
        return penalty(algorithm, lambda action: (action[..., 0], second(action[..., 0])), batch)

    zero = found(lambda x: 0 * x)
    assert found(lambda x: 0 * x + 5) == pytest.approx(zero)
    assert found(lambda x: 3 * x) > zero + 0.1


@pytest.mark.parametrize(("mask", "expected"), [(1.0, 3.97), (0.0, 1.0)])
@pytest.mark.parametrize("variant", ["maddpg_cql", "iddpg_cql"])
def test_target(variant: str, mask: float, expected: float) -> None:
    algorithm = learner(variant=variant)
    algorithm.target_q = FixedCritics(lambda action: (4.0, 3.0))  # type: ignore[assignment]
    algorithm.soft_update = lambda *_: None  # type: ignore[method-assign]
    batch = batch_for(
        algorithm, torch.zeros(2, 2, 2), agent_reward=torch.ones(2, 2), mask=torch.full((2,), mask)
    )
    assert float(algorithm.update(batch)["critic/target"]) == pytest.approx(expected)


def test_agents_without_number_learn_the_rewards_mean() -> None:
    found = {}
    for agent_id in (False, True):
        algorithm = learner(n=3, actions=1, cql_weight=0.0, critic_agent_id=agent_id, lr=2e-2)
        rewards = torch.tensor([1.0, 2.0, 3.0]).expand(2, 3)
        batch = batch_for(algorithm, torch.zeros(2, 3, 1), agent_reward=rewards, mask=torch.zeros(2))
        for _ in range(140):
            algorithm.update(batch)
        found[agent_id] = algorithm.q(batch.obs, batch.state, batch.action)[0, 0, 0].detach()
    torch.testing.assert_close(found[False], torch.full((3,), 2.0).double(), atol=0.05, rtol=0)
    torch.testing.assert_close(found[True], torch.tensor([1.0, 2.0, 3.0]).double(), atol=0.1, rtol=0)


def test_order_of_the_agents_matters_to_a_joint_critic() -> None:
    algorithm = learner(n=2, actions=1)
    obs, state = torch.zeros(1, 1, 2, 2).double(), torch.zeros(1, 1, 3).double()
    one, other = (
        torch.tensor([0.9, -0.9]).view(1, 1, 2, 1).double(),
        torch.tensor([-0.9, 0.9]).view(1, 1, 2, 1),
    )
    a, b = algorithm.q(obs, state, one), algorithm.q(obs, state, other.double())
    assert not torch.allclose(a, b)
    torch.testing.assert_close(a[..., 0], a[..., 1])


def test_strong_penalty_raises_the_data_above_all_else() -> None:
    algorithm = learner(n=1, actions=1, size=16, critic_hidden=32, lr=3e-3)
    batch = batch_for(algorithm, torch.full((16, 1, 1), 0.5), mask=torch.zeros(16))
    for _ in range(200):
        algorithm.update(batch)
    shape = (1, 16, 21, 1)
    obs, state = batch.obs.unsqueeze(2).expand(*shape, 2), batch.state.unsqueeze(2).expand(1, 16, 21, 3)
    grid = torch.linspace(-1, 1, 21).double().view(1, 1, 21, 1, 1).expand(*shape, 1)
    values: Tensor = algorithm.q(obs, state, grid)[0].mean((0, 1, 3))
    assert abs(float(grid[0, 0, values.argmax()]) - 0.5) < 0.25


@pytest.mark.parametrize("after", [True, False])
def test_without_a_policy_step_only_the_critics_move(after: bool) -> None:
    algorithm = learner(policy_after_critic=after, action_penalty=0.0)
    algorithm._policy_loss = lambda batch, action: 0.0 * action.sum((1, 2, 3, 4))  # type: ignore[method-assign]
    actor = [p.clone() for p in algorithm.actor.parameters()]
    critic = [p.clone() for p in algorithm.q.parameters()]
    algorithm.update(batch_for(algorithm, torch.zeros(2, 2, 2), agent_reward=torch.ones(2, 2)))
    assert all(torch.equal(a, b) for a, b in zip(actor, algorithm.actor.parameters(), strict=True))
    assert all(bool((a != b).any()) for a, b in zip(critic, algorithm.q.parameters(), strict=True))


def test_sequences_need_a_length() -> None:
    with pytest.raises(ConfigError, match="sequence_length"):
        learner(history="rnn", sequence_length=0)


def test_priorities() -> None:
    """exp(-(k d)^2) to the power .99, at least 1e-4; k = 0 makes all equal. Draws have these shares."""
    distance = torch.tensor([[0.0, 0.25, 1.0]], dtype=torch.float64)
    weight = priorities(distance, 4.0)
    expected = [1.0, math.exp(-0.99), 1e-4**0.99]
    torch.testing.assert_close(weight, torch.tensor([expected], dtype=torch.float64))
    assert priorities(distance, 0.0).tolist() == [[1.0, 1.0, 1.0]]
    share = torch.tensor([[0.2, 0.0, 0.5, 0.3]])
    uniform = (torch.arange(1000).view(1, -1) + 0.5) / 1000
    assert torch.bincount(draw_rows(7.0 * share, uniform)[0], minlength=4).tolist() == [200, 0, 500, 300]


def test_near_rows_lead_to_the_team_that_is_there() -> None:
    """R = xy, policies at (.5, .5), half of the data at either sign: dR/dx = .4999 of .5, from 0 (specification)."""
    x = torch.full((100, 2), 0.5, dtype=torch.float64)
    x[50:] = -0.5
    weight = priorities((0.5 - x).abs().mean(-1).unsqueeze(0), 4.0) ** (1 / 0.99)
    assert float((weight * x[:, 1]).sum() / weight.sum()) == pytest.approx(0.4999, abs=1e-5)
    far = torch.tensor([[1.0, 1.2, 2.0]], dtype=torch.float64)  # nothing near: no row is preferred
    assert priorities(far, 4.0).unique().numel() == 1


def test_a_steepness_of_0_is_the_plain_method_on_uniform_rows() -> None:
    """Bit for bit, whatever the actions; a steep one learns from other rows."""
    found = {}
    for name, settings in (("plain", {}), ("flat", {"steepness": 0.0}), ("steep", {"steepness": 8.0})):
        more: dict[str, Any] = settings and {"prioritize": "joint_action", "candidates": 4, **settings}
        algorithm = learner(size=4, lr=1e-2, **more)
        for step in range(3):
            source = torch.Generator().manual_seed(step)
            action = 2.0 * torch.rand(16, 2, 2, generator=source) - 1.0
            batch = batch_for(learner(size=4, prioritize="joint_action"), action, seed=step)
            batch.agent_reward = torch.rand(1, 16, 2, generator=source).double()
            if name == "plain":
                rows = (16 * batch.noise["row"]).long()[0]
                drawn = {key: value[:, rows] for key, value in batch.tensors().items()}
                batch = Batch.of(batch.noise, **drawn)
            algorithm.update(batch)
        found[name] = algorithm.state_tensors()
    for key, value in found["plain"].items():
        assert torch.equal(value, found["flat"][key]), key
    assert any(not torch.equal(value, found["steep"][key]) for key, value in found["plain"].items())


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("td3_bc", {"variant": "maddpg_bc"}),
        ("td3_bc", {"variant": "independent"}),
        ("omar", {}),
        ("omar", {"mixed": True}),
    ],
)
def test_other_methods_of_deterministic_policies_take_near_rows_too(
    method: str, settings: dict[str, Any]
) -> None:
    """What an update learns from lies nearer to the team than the candidates do, and with k = 0 as near."""
    found = {}
    for steepness in (0.0, 8.0):
        more: dict[str, Any] = {
            "prioritize": "joint_action",
            "steepness": steepness,
            "candidates": 16,
            **settings,
        }
        algorithm: Any = marlzoo.make(
            method, toy_spec(), hidden=8, batch_size=64, dtype=torch.float64, **more
        )
        assert algorithm.batch_rows == 16 * 64
        metrics = algorithm.update(make_sampler(algorithm, [toy_dataset()]).next())
        found[steepness] = float(metrics["critic/action_distance"]), float(metrics["critic/priority_ess"])
    assert found[0.0][1] == pytest.approx(1.0)
    assert found[8.0][0] < 0.9 * found[0.0][0]
    assert found[8.0][1] < 0.8


@pytest.mark.parametrize("method", ["td3_bc", "omar"])
def test_discrete_actions_have_no_distance(method: str) -> None:
    with pytest.raises(
        ConfigError, match=f'{method}: prioritize is "joint_action", which needs continuous actions'
    ):
        marlzoo.make(method, toy_spec("discrete"), prioritize="joint_action")


def test_an_agents_value_follows_its_own_action_beside_the_others_logged_ones() -> None:
    algorithm, source = learner(n=3), torch.Generator().manual_seed(0)
    obs, state = (
        torch.randn(1, 4, 3, 2, generator=source).double(),
        torch.randn(1, 4, 3, generator=source).double(),
    )
    own, logged = (torch.rand(1, 4, 3, 2, generator=source).double().requires_grad_() for _ in range(2))
    for i in range(3):
        value = algorithm.q(obs, state, own, logged)[..., i].sum()
        for action, wanted in ((own, [j == i for j in range(3)]), (logged, [j != i for j in range(3)])):
            (slope,) = torch.autograd.grad(value, action, retain_graph=True)
            assert (slope != 0).any(-1).any(1)[0].tolist() == wanted


def test_rows_are_chosen_near_the_target_policies() -> None:
    """Of candidates in two groups the nearer one is learned from; far ones alone are all alike."""
    algorithm = learner(size=4, prioritize="joint_action", candidates=2, sequence_length=1)
    team = torch.tanh(algorithm.target_actor.rows(torch.zeros(1, 1, 2, algorithm.spec.obs_size).double()))
    near = team.detach()[0].expand(8, 2, 2).clone()
    near[::2] += 1.0
    batch = batch_for(algorithm, near)
    batch.obs, batch.next_obs = torch.zeros_like(batch.obs), torch.zeros_like(batch.next_obs)
    policy, steepness = team.detach().expand(1, 8, 2, 2).unsqueeze(2), torch.full((1, 1), 4.0)
    chosen, metrics = near_rows(as_sequences(batch), policy, torch.ones(2, 2), steepness)
    assert float(metrics["critic/action_distance"]) == pytest.approx(0.0, abs=1e-12)
    assert float(metrics["critic/priority_ess"]) == pytest.approx(0.5, abs=1e-3)
    assert len(chosen.action[0]) == 4
    torch.testing.assert_close(chosen.action, near[1].expand_as(chosen.action))


def stepped(method: str, **settings: Any) -> dict[str, Tensor]:
    """State after two updates on the same batches, whatever the backup; ``mark`` moves the target policies first."""
    mark = settings.pop("mark", 0.0)
    sizes: dict[str, Any] = {"hidden": 8, "batch_size": 8, "history": "mlp", "tau": 0.0}
    known = vars(find_method(method).config_class())
    data = toy_dataset()
    made = [
        marlzoo.make(
            method, data.spec, dtype=torch.float64, **{k: v for k, v in sizes.items() if k in known}, **more
        )
        for more in ({"backup": "partial"}, settings)
    ]
    sampler = make_sampler(made[0], [data])
    learner = made[1]
    with torch.no_grad():
        for parameter in learner.target_actor.parameters():
            parameter += mark
    for _ in range(2):
        learner.update(sampler.next())
    return learner.state_tensors()


@pytest.mark.parametrize("method", ["maddpg_cql", "cfcql"])
def test_replacing_all_agents_is_the_plain_target_and_none_needs_no_policy(method: str) -> None:
    def critics(**settings: Any) -> Tensor:
        return torch.cat([v.flatten() for k, v in stepped(method, **settings).items() if k.startswith("q.")])

    plain = critics(backup="policy")
    assert torch.equal(critics(backup="partial", replaced=toy_spec().n_agents), plain)
    assert not torch.equal(critics(backup="partial", replaced=1), plain)
    none = critics(backup="partial", replaced=0)
    assert torch.equal(critics(backup="partial", replaced=0, mark=0.3), none)
    assert not torch.equal(critics(backup="partial", replaced=1, mark=0.3), critics(backup="partial"))
    assert not torch.equal(critics(backup="soft"), critics(backup="soft", mark=0.3))


@pytest.mark.parametrize("method", ["maddpg_cql", "cfcql"])
def test_more_replaced_agents_than_there_are(method: str) -> None:
    with pytest.raises(ConfigError, match="replaced is 9, but the task has"):
        stepped(method, backup="partial", replaced=9)


@pytest.mark.parametrize("weight", [0.0, 5.0])
def test_without_the_penalty_it_is_maddpg_with_twins(weight: float) -> None:
    """Both losses by hand; the penalty adds to the critics' alone."""
    algorithm, source, caught = learner(n=3, size=4, cql_weight=weight), torch.Generator().manual_seed(0), {}
    with torch.no_grad():
        for target in (algorithm.target_actor, algorithm.target_q):
            for parameter in target.parameters():
                parameter *= 0.5
    fields = {"agent_reward": torch.randn(4, 3, generator=source), "mask": torch.tensor([1.0, 1.0, 0.0, 1.0])}
    batch = batch_for(algorithm, torch.rand(4, 3, 2, generator=source), **fields)
    algorithm.step = lambda **losses: caught.update(losses) or {}  # type: ignore[method-assign]
    penalty = algorithm.update(batch)["critic/penalty"]
    with torch.no_grad():
        for target, online in ((algorithm.target_actor, algorithm.actor), (algorithm.target_q, algorithm.q)):
            for old, new in zip(target.parameters(), online.parameters(), strict=True):
                old.copy_(0.5 * new)  # as before the targets followed
        after = torch.tanh(algorithm.target_actor.rows(batch.next_obs))
        least = algorithm.target_q(batch.next_obs, batch.next_state, after).amin(1)
        y = batch.agent_reward + 0.99 * batch.mask.unsqueeze(-1) * least
        error = algorithm.q(batch.obs, batch.state, batch.action) - y.unsqueeze(1)
        own = torch.tanh(algorithm.actor.rows(batch.obs))
        value = algorithm.q(batch.obs, batch.state, own, batch.action).amin(1)
    torch.testing.assert_close(caught["critic"], 0.5 * error.square().mean((1, 2, 3)) + weight * penalty)
    torch.testing.assert_close(caught["policy"], 1e-3 * own.square().mean((1, 2, 3)) - value.mean((1, 2)))


@pytest.mark.parametrize("method", ["maddpg_cql", "td3_bc", "omar"])
def test_nearness_is_that_to_the_target_policies(method: str) -> None:
    """Other policies choose the same rows, other targets do not; neither of them is moved by the choice."""
    found = []
    for moved in ("none", "actor", "target_actor"):
        known = vars(find_method(method).config_class())
        more: dict[str, Any] = {"history": "mlp"} if "history" in known and method != "omar" else {}
        algorithm: Any = marlzoo.make(
            method,
            toy_spec(),
            hidden=8,
            batch_size=16,
            prioritize="joint_action",
            dtype=torch.float64,
            **more,
        )
        with torch.no_grad():
            for parameter in getattr(algorithm, moved).parameters() if moved != "none" else ():
                parameter += 0.3
        found.append(
            algorithm.update(make_sampler(algorithm, [toy_dataset()]).next())["critic/action_distance"]
        )
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
