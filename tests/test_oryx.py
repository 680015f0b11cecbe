"""Oryx: retention in parallel and step by step, what the decoder may see, and what acting in turn is for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.errors import ConfigError
from marlzoo.modules.retention import Retention
from marlzoo.replicas import Init
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import make_sampler, prepare
from tests.padding import assert_padding_counts_for_nothing
from tests.toys import toy_dataset, toy_spec

DOUBLE = torch.float64
ORDER = torch.arange(3).expand(2, 3)


def learner(kind: Any = "continuous", **settings: Any) -> Any:
    small = {"hidden": 8, "heads": 2, "batch_size": 4, "seeds": (0, 1), "dtype": DOUBLE}
    return marlzoo.make("oryx", toy_spec(kind), **(small | settings))


@pytest.mark.parametrize("causal", [False, True])
def test_retention_in_parallel_is_retention_step_by_step(causal: bool) -> None:
    retention = Retention(Init((0, 1), dtype=DOUBLE), 8, 2, torch.tensor([0.9, 0.4]), causal)
    reader, source = torch.randn(2, 2, 3, 5, 4, 8, dtype=DOUBLE).unbind(0)
    state, parts = retention.start(reader), []
    for t in range(5):
        state = retention.decayed(state)
        turns = [slice(i, i + 1) for i in range(4)] if causal else [slice(None)]
        for agents in turns:
            seen, state = retention.step(reader[:, :, t, agents], source[:, :, t, agents], state)
            parts.append(seen)
    whole = retention(reader, source).flatten(2, 3)
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-9, atol=1e-11)


def test_heads_forget_at_different_rates() -> None:
    """The authors' four heads with their scaling: just below one half a step."""
    decay = Retention(Init((0, 1), dtype=DOUBLE), 8, 4, torch.tensor([0.5, 1.0]), causal=True).decay
    assert (decay[1] == 2 * decay[0]).all(), "every replica has its own"
    decay = decay[0]
    assert decay.tolist() == sorted(decay.tolist())
    assert decay[0] == pytest.approx(0.5 * (1 - 1 / 32))
    assert decay[-1] == pytest.approx(0.5 * (1 - 1 / 512))


def test_acting_gives_what_reading_the_episode_at_once_gives() -> None:
    """Also after a copy has started anew, whose neighbor goes on."""
    algorithm, obs, actions = learner(), torch.randn(6, 2, 2, 3, 5, dtype=DOUBLE), list[Tensor]()
    policy = algorithm.policy()
    policy.reset(2)
    for t in range(6):
        if t == 4:
            policy.reset(2, torch.tensor([0]))
        actions.append(policy.act(obs[t]))
    for copy, first in ((0, 4), (1, 0)):
        seen, done = (
            torch.stack(x)[first:, :, copy].movedim(0, 1).unsqueeze(1) for x in (list(obs), actions)
        )
        mean, _ = algorithm.net.output(algorithm.net(seen, done, ORDER))
        expected = torch.tanh(mean) * algorithm.action_dimensions
        torch.testing.assert_close(done, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_acting_on_a_log_gives_what_reading_it_gives(kind: Any) -> None:
    """Agents read what was taken in the steps before, and what those before them choose in the present one."""
    algorithm, obs, taken = learner(kind), torch.randn(6, 2, 2, 3, 5, dtype=DOUBLE), list[Tensor]()
    policy = algorithm.policy()
    policy.reset(2)
    for t in range(6):
        chosen = policy.act(obs[t])
        seen, done = (torch.stack(x).movedim(0, 2) for x in (list(obs[: t + 1]), [*taken, chosen]))
        out = algorithm.net.output(algorithm.net(seen, done, ORDER))
        if kind == "discrete":
            assert torch.equal(chosen, out[:, :, -1].argmax(-1))
        else:
            expected = torch.tanh(out[0][:, :, -1]) * algorithm.action_dimensions
            torch.testing.assert_close(chosen, expected, rtol=1e-9, atol=1e-11)
        taken.append((chosen + 1) % 4 if kind == "discrete" else torch.rand_like(chosen))
        policy.took(taken[-1])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_agents_see_the_actions_before_their_own(order: tuple[int, ...]) -> None:
    """Of the same step those of agents before them in the order, of earlier steps also others', never later ones."""
    net, places = learner("discrete").net, torch.tensor(order).expand(2, 3)
    obs, action = torch.randn(2, 1, 3, 3, 5, dtype=DOUBLE), torch.zeros(2, 1, 3, 3, dtype=torch.int64)
    before = net(obs, action, places)
    for place, agent in enumerate(order):
        other = action.clone()
        other[:, :, 1, agent] = 2
        changed = (net(obs, other, places) != before).any(-1).any(0).squeeze(0)  # [T, N]
        assert not changed[0].any()
        assert [bool(changed[1, i]) for i in order] == [later > place for later in range(3)]
        assert changed[2].all() == (place < 2)  # the last one's action is shown to nobody


def test_agents_in_turn_keep_a_convention() -> None:
    """XOR's data hold (A, B) and (B, A), worth 1 each; agents that choose at the same time mix them: worth 0."""
    data, reached = game_data.dataset("xor", "D2"), []
    for autoregressive in (True, False):
        algorithm: Any = marlzoo.make(
            "oryx",
            games.spec("xor"),
            autoregressive=autoregressive,
            hidden=16,
            policy_temperature=10.0,
            lr=3e-3,
            eval_mode="sample",
        )
        sampler = make_sampler(algorithm, [data])
        for _ in range(120):
            algorithm.update(sampler.next())
        reached.append(evaluate(algorithm.policy(), games.make("xor", 400), seeds=[0]).returns.mean())
    assert reached == pytest.approx([1.0, 0.0], abs=0.1)


def test_better_actions_weigh_more_so_that_xors_mistakes_are_left_out() -> None:
    """D3 holds (A, A), worth 0, as often as either convention: cloning is worth 2/3, actions in turn 1."""
    algorithm: Any = marlzoo.make(
        "oryx", games.spec("xor"), hidden=16, policy_temperature=0.3, lr=3e-3, eval_mode="sample"
    )
    sampler = make_sampler(algorithm, [game_data.dataset("xor", "D3")])
    for _ in range(200):
        algorithm.update(sampler.next())
    assert evaluate(algorithm.policy(), games.make("xor", 400), seeds=[0]).returns.mean() > 0.97


def test_a_lower_temperature_puts_more_weight_on_advantages_above_0() -> None:
    shares = []
    for temperature in (10.0, 1.0, 0.1):
        algorithm = learner("discrete", policy_temperature=temperature)
        batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
        batch.filled[:] = 1.0
        advantage = torch.randn(
            batch.agent_reward.shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(0)
        )
        weight = algorithm._weights(batch, advantage, "policy_temperature")
        shares.append(float((weight * (advantage > 0)).sum() / weight.sum()))
    assert shares == sorted(shares)
    assert shares[-1] > shares[0] + 0.2


def test_settings_that_do_not_fit() -> None:
    with pytest.raises(ConfigError, match="hidden is 10; with 4 heads it must be a multiple of 4"):
        learner(hidden=10, heads=4)
    with pytest.raises(ConfigError, match="sequence_length is 40, but the longest episode"):
        prepare(learner(sequence_length=40), [toy_dataset("continuous")])


def test_weights_are_one_on_average_and_one_each_where_all_values_are_equal() -> None:
    algorithm = learner("discrete", value_temperature=0.5)
    batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
    batch.filled[:] = 1.0
    values = torch.randn(batch.agent_reward.shape, dtype=DOUBLE)
    weight = algorithm._weights(batch, values, "value_temperature")
    torch.testing.assert_close(weight.mean(1), torch.ones_like(weight[:, 0]))
    assert (weight.argmax(1) == values.argmax(1)).all()
    same = algorithm._weights(batch, values[:, :1].expand_as(values), "value_temperature")
    torch.testing.assert_close(same, torch.ones_like(same))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_without_temperature_it_is_behavior_cloning(kind: Any) -> None:
    algorithm = learner(kind, policy_temperature=1e12)
    found = algorithm.update(make_sampler(algorithm, [toy_dataset(kind)]).next())
    torch.testing.assert_close(found["policy/loss"], -found["policy/data_log_prob"], rtol=1e-6, atol=1e-9)
    sharp = learner(kind, policy_temperature=1e-3)
    sampler = make_sampler(sharp, [toy_dataset(kind)])
    for _ in range(3):  # the target is a copy at first, and the advantage of continuous actions 0
        found = sharp.update(sampler.next())
    assert (found["policy/loss"] + found["policy/data_log_prob"]).abs().min() > 1e-3


def test_a_sure_policy_has_no_advantage_at_its_own_actions() -> None:
    algorithm = learner("discrete")
    batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
    batch.action_mask[:] = True
    values = torch.randn(*batch.action.shape, algorithm.spec.action_size, dtype=DOUBLE)
    own = 1e4 * torch.nn.functional.one_hot(batch.action, algorithm.spec.action_size).double()
    baseline = algorithm._baseline(batch, values, own, values, values[..., 0])
    torch.testing.assert_close(baseline, values.gather(-1, batch.action.unsqueeze(-1)).squeeze(-1))


def test_what_lies_k_steps_back_has_the_decay_to_the_power_k() -> None:
    retention = Retention(Init((0,), dtype=DOUBLE), 8, 4, torch.tensor([0.5]), causal=False)
    weight = retention._weights(4, 2)[0, 0]  # [H, T N, T N]
    for back in range(4):
        torch.testing.assert_close(weight[:, 7, 7 - 2 * back], retention.decay[0] ** back)
    assert (weight[:, 4, 5] == 1.0).all()  # of the same step, whatever the agent
    assert (weight[:, 3, 4:] == 0.0).all()


@pytest.mark.parametrize("own", [False, True])
def test_a_continuous_value_sees_its_own_action_only_where_it_is_shown(own: bool) -> None:
    """What changes where agent 1 takes another action in the second of three steps; the third reads of it."""
    net, source = learner(own_action=own).net, torch.Generator().manual_seed(0)
    obs = torch.randn(2, 1, 3, 3, 5, generator=source, dtype=DOUBLE)
    actions, outputs = [torch.zeros(2, 1, 3, 3, 2, dtype=DOUBLE) for _ in range(2)], []
    actions[1][:, :, 1, 1, 0] = 0.5
    for action in actions:
        read = net(obs, action, ORDER)
        outputs.append((net.output(read)[0], net.values(read, action).unsqueeze(-1)))
    policies, values = ((one != other).any(-1)[0, 0] for one, other in zip(*outputs, strict=True))  # [T, N]
    assert policies.tolist() == [[False] * 3, [False, False, True], [True] * 3]
    assert values.tolist() == [[False] * 3, [False, own, True], [True] * 3]


def test_without_their_numbers_agents_differ_by_their_place_in_the_order_alone() -> None:
    """So that over all orders agents that see and do the same have the same policy and the same values."""
    net, n, source = learner("discrete").net, 3, torch.Generator().manual_seed(0)
    with torch.no_grad():
        for part in (net.obs, net.acted):
            part.linear.weight[:, -n:] = 0.0
    obs = torch.randn(2, 1, 4, n, 5, generator=source, dtype=DOUBLE)
    action = torch.randint(4, (2, 1, 4, n), generator=source)
    agents, order = torch.tensor([2, 0, 1]), torch.tensor([1, 2, 0])
    found = net(obs[:, :, :, agents], action[:, :, :, agents], agents.argsort()[order].expand(2, n))
    torch.testing.assert_close(found, net(obs, action, order.expand(2, n))[:, :, :, agents])
    assert not torch.allclose(found, net(obs, action, ORDER)[:, :, :, agents])


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_what_lies_after_an_episodes_end_changes_nothing(kind: Any) -> None:
    settings = {"sequence_length": 12, "policy_temperature": 0.5, "value_temperature": 0.5}
    assert_padding_counts_for_nothing(lambda: learner(kind, **settings), kind)
