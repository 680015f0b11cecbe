"""OMAC-style learner: what is shared cancels, V is an expectile of the local values."""

from __future__ import annotations

from typing import Any

import torch

import marlzoo
from tests.fixed_nets import set_mixer, set_table, spec_of, transitions


def learner(seeds: tuple[int, ...] = (0,), **settings: Any) -> Any:
    small = {"hidden": 16, "mixer_hidden": 8, "batch_size": 4}
    return marlzoo.make("omac", spec_of(2, 3), seeds=seeds, dtype=torch.float64, **(small | settings))


def fixed(shared: float) -> Any:
    algorithm = learner(beta=2.0)
    for mixer in (algorithm.mixer, algorithm.target_mixer):
        set_mixer(mixer, (0.5, 2.0), shared)
    return algorithm


def test_the_shared_value_reaches_only_the_critic() -> None:
    batch = transitions([[0, 1], [2, 0], [1, 1]], actions=3, reward=[1.0, 0.0, 2.0])
    low, high = fixed(0.0).update(batch), fixed(5.0).update(batch)
    for key in ("v/loss", "policy/loss", "weight/mean"):
        torch.testing.assert_close(low[key], high[key], rtol=0, atol=0)
    torch.testing.assert_close(high["q/total"] - low["q/total"], torch.tensor([5.0]).double())


def test_losses_by_hand() -> None:
    algorithm = fixed(0.25)
    for network in (algorithm.q, algorithm.target_q):
        set_table(network.networks.members, [[3.0, 0.0, 0.0], [-1.0, 0.0, 0.0]])
    for value in (algorithm.v, algorithm.target_v):
        set_table(value.network, [[2.0], [-0.5]])
    found = algorithm.update(transitions([[0, 0]], actions=3, reward=[1.0]))
    y = 1.0 + 0.99 * (0.5 * 2.0 - 2.0 * 0.5 + 0.25)
    q_total = 0.5 * 3.0 - 2.0 * 1.0 + 0.25
    torch.testing.assert_close(found["q/loss"], torch.tensor([(q_total - y) ** 2]).double())
    v_loss = (0.8 * 1.0 + 0.2 * 0.25) / 2  # u = 1 and -0.5
    torch.testing.assert_close(found["v/loss"], torch.tensor([v_loss]).double())
    weight = (torch.tensor(2.0 * 0.5).exp() + torch.tensor(-2.0 * 2.0 * 0.5).exp()) / 2
    torch.testing.assert_close(found["weight/mean"], weight.double().view(1), rtol=1e-6, atol=0)


def test_v_goes_from_the_mean_to_the_in_sample_maximum() -> None:
    algorithm = learner((0, 0), expectile=[0.5, 0.999], tau=0.0, lr=0.02)
    set_table(algorithm.target_q.networks.members, [[0.0, 1.0, 9.0], [2.0, -2.0, 9.0]])
    one = transitions([[0, 0], [1, 1]], actions=3, obs=torch.zeros(2, 2, 2))
    for name, value in one.tensors().items():
        setattr(one, name, value.expand(2, *value.shape[1:]))
    for _ in range(300):
        algorithm.update(one)
    v = algorithm.v(torch.cat((one.obs, torch.eye(2).expand(2, 2, 2, 2).double()), -1))[:, 0]
    torch.testing.assert_close(v, torch.tensor([[0.5, 0.0], [1.0, 2.0]]).double(), atol=0.02, rtol=0)


def test_one_agent_of_weight_one_learns_as_iql_does() -> None:
    """Without a shared value, and IQL's twins equal (its loss of Q counts both)."""
    spec = spec_of(1, 3)
    small = {"hidden": 16, "batch_size": 4, "beta": 3.0, "expectile": 0.7}
    iql: Any = marlzoo.make("iql", spec, dtype=torch.float64, **small)
    omac: Any = marlzoo.make("omac", spec, dtype=torch.float64, mixer_hidden=8, **small)
    omac.actor.load_state_dict(iql.actor.state_dict())
    for mixer in (omac.mixer, omac.target_mixer):
        set_mixer(mixer, (1.0,), 0.0)
    for method in (iql, omac):
        for network in (method.q, method.target_q):
            set_table(network.networks.members, [[0.5, 2.0, -1.0]])
        set_table(method.v.network, [[0.25]])
        with torch.no_grad():
            method._optimizers["v"].lr.zero_()  # IQL steps V before the policy's loss, OMAC after
    set_table(omac.target_v.network, [[0.25]])
    reward = torch.tensor([1.0, 0.0, -2.0])
    batch = transitions([[0], [1], [2]], actions=3, reward=reward, agent_reward=reward[:, None])
    first, second = iql.update(batch), omac.update(batch)
    for key in ("v/loss", "policy/loss", "weight/mean"):
        torch.testing.assert_close(first[key], second[key])
    torch.testing.assert_close(first["q/loss"], 2 * second["q/loss"])
