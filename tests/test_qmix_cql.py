"""QMIX+CQL and VDN+CQL: closed forms of the penalties, the mixed target, where gradients go.

Padding, the targets' period and the limit of a large weight are tested beside IQL+CQL's.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import marlzoo
from marlzoo.errors import ConfigError
from marlzoo.modules.layers import chosen
from marlzoo.objectives import mean_over
from marlzoo.spec import ActionKind
from marlzoo.training.trainer import make_sampler
from tests.toys import toy_dataset, toy_spec


def learner(**settings: Any) -> Any:
    small = {"hidden": 8, "mixer_hidden": 8, "batch_size": 16, "sequence_length": 0}
    spec = toy_spec("discrete")
    return marlzoo.make("qmix_cql", spec, seeds=(0, 1), dtype=torch.float64, **(small | settings))


def constant_values(algorithm: Any) -> None:
    head = algorithm.team.agents.network.head
    head.weight.data.zero_()
    head.bias.data.zero_()


@pytest.mark.parametrize(("data_action", "expected"), [(True, math.log(21)), (False, math.log(20))])
def test_joint_penalty_of_equal_values(data_action: bool, expected: float) -> None:
    algorithm = learner(data_action=data_action)
    constant_values(algorithm)
    penalty = algorithm.update(make_sampler(algorithm, [toy_dataset("discrete")]).next())["q/penalty"]
    torch.testing.assert_close(penalty, torch.full((2,), expected).double())


def test_individual_penalty_of_equal_values() -> None:
    algorithm = learner(penalty="individual", mixer="vdn")
    constant_values(algorithm)
    batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
    expected = mean_over(batch.action_mask[:, :, :-1].sum(-1).double().log(), batch.filled)
    torch.testing.assert_close(algorithm.update(batch)["q/penalty"], expected)


def test_vdn_one_step_loss_by_hand() -> None:
    """TD of VDN from transitions: r + gamma mask sum_i target(best legal) against the sum of the data's values."""
    algorithm = learner(mixer="vdn", penalty="individual", history="mlp", cql_weight=0.0, gamma=0.9)
    batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
    identity = torch.eye(3).double().expand(2, 16, 3, 3)
    net, target = algorithm.team.agents.network, algorithm.target.agents.network
    for parameter in target.parameters():
        parameter.data.mul_(0.5)  # so that online and target choose differently
    with torch.no_grad():
        q = chosen(net(torch.cat((batch.obs, identity), -1)), batch.action).sum(-1)
        after = torch.cat((batch.next_obs, identity), -1)
        best = net(after).masked_fill(~batch.next_action_mask, -torch.inf).argmax(-1)
        y = batch.reward + 0.9 * batch.mask * chosen(target(after), best).sum(-1)
    expected = 0.5 * (q - y).square().mean(1)
    torch.testing.assert_close(algorithm.update(batch)["q/loss"], expected)


def test_targets_get_no_gradient_and_stay_between_copies() -> None:
    algorithm = learner(target_period=1000)
    before = [p.clone() for p in algorithm.target.parameters()]
    sampler = make_sampler(algorithm, [toy_dataset("discrete")])
    for _ in range(3):
        algorithm.update(sampler.next())
    assert all(torch.equal(a, b) for a, b in zip(before, algorithm.target.parameters(), strict=True))
    assert not any(p.requires_grad for p in algorithm.target.parameters())


def test_normalized_errors_do_not_know_the_scale_of_values() -> None:
    """Rewards and all values 1000 times as large: the same loss; without normalization a million times the loss."""
    found = {}
    for scale in (1.0, 1000.0):
        for normalized in (True, False):
            algorithm = learner(mixer="vdn", history="mlp", cql_weight=0.0, value_normalization=normalized)
            with torch.no_grad():
                for team in (algorithm.team, algorithm.target):
                    for parameter in team.agents.network.layers[-1].parameters():
                        parameter *= scale
            batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
            batch.reward *= scale
            found[normalized, scale] = float(algorithm.update(batch)["q/loss"][0])
    assert found[True, 1000.0] == pytest.approx(found[True, 1.0], rel=1e-4)
    assert found[False, 1000.0] == pytest.approx(1e6 * found[False, 1.0], rel=1e-6)


def test_the_gradient_of_normalized_errors_by_hand() -> None:
    """VDN: mean (Q_tot - y) / d^2 times the slope of Q_tot, as if d were a number, whatever all values gain."""
    found = {}
    for shift, normalized in ((0.0, True), (50.0, True), (0.0, False)):
        algorithm = learner(
            mixer="vdn",
            penalty="individual",
            history="mlp",
            cql_weight=0.0,
            gamma=0.9,
            value_normalization=normalized,
        )
        batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
        net, target = algorithm.team.agents.network, algorithm.target.agents.network
        with torch.no_grad():
            for parameter in target.parameters():
                parameter *= 0.5
            for each in (net, target):
                each.layers[-1].bias += shift / 3
        batch.reward += shift * (1.0 - 0.9 * batch.mask)  # then targets and values move by the same
        identity = torch.eye(3).double().expand(2, 16, 3, 3)
        q = chosen(net(torch.cat((batch.obs, identity), -1)), batch.action).sum(-1)  # [R, B]
        with torch.no_grad():
            after = torch.cat((batch.next_obs, identity), -1)
            best = net(after).masked_fill(~batch.next_action_mask, -torch.inf).argmax(-1)
            y = batch.reward + 0.9 * batch.mask * chosen(target(after), best).sum(-1)
            d = (q - q.mean(1, keepdim=True)).abs().mean(1) + 1e-6
            slope = (q - y) / 16.0 / (d.unsqueeze(1).square() if normalized else 1.0)
        weights = list(net.parameters())
        expected = torch.autograd.grad((slope * q).sum(), weights)
        taken: dict[str, torch.Tensor] = {}
        algorithm.step = lambda taken=taken, **losses: taken.update(losses) or {}
        algorithm.update(batch)
        own = torch.autograd.grad(taken["q"].sum(), weights)
        for one, other in zip(own, expected, strict=True):
            torch.testing.assert_close(one, other)
        found[shift, normalized] = torch.cat([g.flatten() for g in own])
    torch.testing.assert_close(found[0.0, True], found[50.0, True], rtol=1e-6, atol=1e-9)
    assert not torch.allclose(found[0.0, True], found[0.0, False])


@pytest.mark.parametrize("method", ["qmix_cql", "cfcql", "cql_ma"])
def test_more_replaced_agents_than_there_are(method: str) -> None:
    spec = toy_spec("discrete")
    marlzoo.make(method, spec, backup="partial", replaced=spec.n_agents)
    with pytest.raises(
        ConfigError, match=rf"{method}: replaced is 9, but the task has {spec.n_agents} agents"
    ):
        marlzoo.make(method, spec, backup="partial", replaced=9)


def test_a_mixture_of_backups_needs_twins() -> None:
    with pytest.raises(ConfigError, match=r'backup is "soft", but .* discrete actions has no twins'):
        marlzoo.make("cfcql", toy_spec("discrete"), backup="soft")


@pytest.mark.parametrize("method", ["qmix_cql", "cfcql", "cql_ma"])
def test_replacing_all_agents_is_the_plain_target_and_none_is_that_of_the_datas_actions(method: str) -> None:
    """From the same transitions bit for bit; with nobody replaced what the team would do next has no part."""
    spec, data = toy_spec("discrete"), toy_dataset("discrete")
    small: dict[str, Any] = {"hidden": 8, "mixer_hidden": 8, "batch_size": 16, "history": "mlp"}

    def stepped(only: int | None = None, **settings: Any) -> torch.Tensor:
        partial, made = (
            marlzoo.make(method, spec, dtype=torch.float64, **small, **more)
            for more in ({"backup": "partial"}, settings)
        )
        learner: Any = made
        batch = make_sampler(partial, [data]).next()
        if only is not None:  # the team would do that and nothing else
            batch.next_action_mask = torch.arange(4).eq(only).expand_as(batch.next_action_mask)
        learner.update(batch)
        nets = learner.q if method == "cql_ma" else learner.team
        return torch.cat([p.flatten() for p in nets.parameters()])

    plain = stepped(backup="policy")
    assert torch.equal(stepped(backup="partial", replaced=3), plain)
    assert not torch.equal(stepped(backup="partial", replaced=1), plain)
    none = stepped(backup="partial", replaced=0)
    assert torch.equal(stepped(1, backup="partial", replaced=0), none)
    assert not torch.equal(stepped(1, backup="partial", replaced=1), stepped(backup="partial", replaced=1))


def test_errors_of_values_whose_deviation_is_one_are_the_plain_ones() -> None:
    """VDN with its values scaled until they deviate from their mean by 1 on average."""
    found = []
    for normalized in (True, False):
        algorithm = learner(mixer="vdn", history="mlp", value_normalization=normalized)
        batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
        net, identity = algorithm.team.agents.network, torch.eye(3).double().expand(2, 16, 3, 3)
        with torch.no_grad():
            q = chosen(net(torch.cat((batch.obs, identity), -1)), batch.action).sum(-1)
            for parameter in net.layers[-1].parameters():
                parameter /= (q - q.mean(1, keepdim=True)).abs().mean(1).view(2, 1, 1)
        found.append(algorithm.update(batch)["q/loss"])
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("method", "kind", "settings"),
    [
        ("qmix_cql", "discrete", {"sequence_length": 4}),
        ("qmix_cql", "discrete", {"history": "mlp"}),
        ("cfcql", "discrete", {"sequence_length": 4}),
        ("cfcql", "continuous", {}),
        ("cql_ma", "discrete", {"history": "rnn", "sequence_length": 4}),
        ("cql_ma", "continuous", {}),
        ("maddpg_cql", "continuous", {"sequence_length": 4}),
    ],
)
def test_replacing_all_agents_leaves_no_step_out(
    method: str, kind: ActionKind, settings: dict[str, Any]
) -> None:
    """Bit for bit what the plain method learns, also from cut episodes, whose last action has none after it."""
    found = []
    for backup in ({}, {"backup": "partial", "replaced": 3}):
        algorithm = marlzoo.make(method, toy_spec(kind), hidden=8, batch_size=8, **settings, **backup)
        sampler = make_sampler(algorithm, [toy_dataset(kind, episodes=3)])
        for _ in range(3):
            algorithm.update(sampler.next())
        found.append(algorithm.state_tensors())
    for name, value in found[0].items():
        assert torch.equal(value, found[1][name]), name
