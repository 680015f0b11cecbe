"""ICQ-MA: weights by hand, in-sample targets, limits, where gradients go, data whose next action is cut off."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.algorithms.icq import legal_log_policy
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch, as_sequences, known_actions
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.policies import categorical_log_prob, mask_logits, tanh_gaussian_log_prob
from marlzoo.objectives import mean_over, softmax_weights
from marlzoo.spec import ActionKind
from marlzoo.training.trainer import make_sampler
from tests.toys import toy_dataset, toy_spec


def learner(kind: ActionKind = "discrete", seeds: tuple[int, ...] = (0, 1), **settings: Any) -> Any:
    small = {"hidden": 8, "critic_hidden": 8, "mixer_hidden": 8, "mixer_embed": 4, "batch_size": 16}
    return marlzoo.make("icq", toy_spec(kind), seeds=seeds, dtype=torch.float64, **(small | settings))


def batch_for(algorithm: Any, data: Any = None) -> Batch:
    return make_sampler(algorithm, [data or toy_dataset(algorithm.spec.action_kind)]).next()


def losses_of(algorithm: Any, batch: Batch) -> dict[str, Tensor]:
    """The losses of one update, with their graphs, and no step."""
    caught: dict[str, Tensor] = {}
    algorithm.step = lambda **losses: caught.update(losses) or {}
    algorithm.hard_update = lambda *_: None
    algorithm.update(batch)
    return caught


@pytest.mark.parametrize(
    ("values", "temperature", "expected"),
    [
        ((0.1, 0.0, 0.0, 0.0), 0.1, (1.9015, 0.6995, 0.6995, 0.6995)),
        ((0.1, 0.0), 0.1, (1.4621, 0.5379)),
        ((10.0, 20.0, 30.0), 1000.0, (0.990017, 0.999967, 1.010016)),
        ((10.0, 20.0, 30.0), 1e9, (1.0, 1.0, 1.0)),
        ((10.0, 20.0, 30.0), 1e-3, (0.0, 0.0, 3.0)),
    ],
)
def test_weights_by_hand(values: tuple[float, ...], temperature: float, expected: tuple[float, ...]) -> None:
    x = torch.tensor(values).double().unsqueeze(0)
    weight = softmax_weights(x, temperature)
    torch.testing.assert_close(weight[0], torch.tensor(expected).double(), atol=6e-5, rtol=0)
    torch.testing.assert_close(softmax_weights(x + 7.0, temperature), weight)
    # Entries that take no part have weight 0 and change nothing for the others.
    more = torch.cat((x, torch.full((1, 2), 99.0).double()), dim=1)
    valid = torch.cat((torch.ones_like(x), torch.zeros(1, 2).double()), dim=1)
    masked = softmax_weights(more, temperature, valid=valid)
    torch.testing.assert_close(masked[:, : len(values)], weight)
    assert (masked[:, len(values) :] == 0).all()
    assert (softmax_weights(more, temperature, valid=0 * valid) == 0).all()


def test_training_policy_by_hand() -> None:
    """Mixed with the uniform policy first, then restricted to legal actions."""
    logits = torch.tensor([0.5, 0.3, 0.2]).double().log()
    every, some = torch.tensor([True, True, True]), torch.tensor([True, False, True])
    half = torch.tensor(0.5).double()
    mixed = legal_log_policy(logits, every, half).exp()
    torch.testing.assert_close(mixed, torch.tensor([0.4167, 0.3167, 0.2667]).double(), atol=5e-5, rtol=0)
    action_mask = legal_log_policy(logits, some, half).exp()
    torch.testing.assert_close(action_mask, torch.tensor([0.6098, 0.0, 0.3902]).double(), atol=5e-5, rtol=0)
    plain = legal_log_policy(logits.requires_grad_(), some, torch.tensor(0.0).double())
    torch.testing.assert_close(plain, torch.log_softmax(mask_logits(logits, some), -1))
    plain[0].backward()
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_large_temperatures_give_cloning_and_sarsa(kind: ActionKind) -> None:
    """All weights 1: the policy clones the data, weighed by k; the critic learns r + gamma mask Q̄_tot(s', a')."""
    algorithm = learner(
        kind, policy_temperature=1e9, critic_temperature=1e9, gamma=0.9, timeout_is_terminal=True
    )
    batch = batch_for(algorithm)
    found = losses_of(algorithm, batch)
    k, _ = algorithm.mixer.coefficients(batch.state)
    out = algorithm.actor(as_sequences(batch))[:, :, 0] if kind == "discrete" else None
    if out is not None:
        log_prob = categorical_log_prob(mask_logits(out, batch.action_mask), batch.action)
    else:
        mean, log_std = algorithm.actor(with_agent_id(batch.obs))
        log_prob = tanh_gaussian_log_prob(mean, log_std, batch.action, algorithm.action_dimensions)
    torch.testing.assert_close(found["policy"], -(k * log_prob).mean((1, 2)))
    whole = as_sequences(batch)
    _, total, _ = algorithm._team_values(algorithm.target, whole, known_actions(whole)[0], slice(None))
    y = batch.reward + 0.9 * batch.mask * total[:, 0, :, 1]
    _, now, _ = algorithm._team_values(algorithm.critic, whole, whole.action, slice(0, 1))
    torch.testing.assert_close(found["critic"], (now[:, 0, :, 0] - y).square().mean(1))


def test_equal_values_bootstrap_undiminished() -> None:
    """Q̄_tot = c everywhere gives the target r + gamma mask c: the weights have mean 1 (not 1 / B)."""
    algorithm = learner(gamma=0.9, critic_temperature=10.0, history="rnn", td_lambda=0.0)
    head = algorithm.target[0].members.layers[-1]
    head.weight.data.zero_()
    head.bias.data.zero_()
    head.bias.data[..., 0] = 5.0
    batch = batch_for(algorithm)
    actions, known = known_actions(batch)
    y = algorithm._targets(batch, actions, known)
    torch.testing.assert_close(y, known * (batch.reward + 0.9 * batch.mask * 5.0))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_gradients_stay_in_their_group(kind: ActionKind) -> None:
    algorithm = learner(kind)
    found = losses_of(algorithm, batch_for(algorithm))

    def reached(loss: Tensor, module: torch.nn.Module) -> list[bool]:
        grads = torch.autograd.grad(
            loss.sum(), list(module.parameters()), allow_unused=True, retain_graph=True
        )
        return [g is not None for g in grads]

    assert not any(reached(found["policy"], algorithm.critic))
    assert all(reached(found["policy"], algorithm.actor))
    assert not any(reached(found["critic"], algorithm.actor))
    assert all(reached(found["critic"], algorithm.critic))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_constant_on_all_values_leaves_the_policy_loss(kind: ActionKind) -> None:
    results = []
    for shift in (0.0, 3.0):
        algorithm = learner(kind, history="rnn")
        algorithm.q.members.layers[-1].bias.data += shift  # discrete: on V and on every A
        results.append(losses_of(algorithm, batch_for(algorithm))["policy"])
    torch.testing.assert_close(*results)


def test_targets_look_at_the_datas_actions_only() -> None:
    algorithm = learner(history="rnn")
    batch = batch_for(algorithm)
    batch.action.clamp_(max=2)
    actions, known = known_actions(batch)
    before = algorithm._targets(batch, actions, known)
    algorithm.target[0].members.layers[-1].bias.data[..., 1 + 3] += 100.0
    assert torch.equal(algorithm._targets(batch, actions, known), before)
    algorithm.target[0].members.layers[-1].bias.data[..., 1 + 2] += 100.0
    assert not torch.equal(algorithm._targets(batch, actions, known), before)


@pytest.mark.parametrize("mask_softmax", [True, False])
def test_padding_may_hold_anything(mask_softmax: bool) -> None:
    """Rows beyond an episode's end change nothing, whether they count as zeros in the softmax or not at all."""
    results = []
    for garbage in (False, True):
        algorithm = learner(history="rnn", mask_softmax=mask_softmax, critic_temperature=1.0)
        batch = batch_for(algorithm)
        pad = batch.filled == 0
        assert pad.any()
        if garbage:
            batch.obs[:, :, 1:][pad] = 3.0
            batch.state[:, :, 1:][pad] = -3.0
            batch.action[pad] = 3 - batch.action[pad]
            batch.action_mask[:, :, 1:][pad] = False
            batch.reward[pad] = 50.0
        results.append(losses_of(algorithm, batch))
    for name in ("policy", "critic"):
        torch.testing.assert_close(results[0][name], results[1][name])


def test_padding_counts_as_rows_of_zeros_where_it_is_let_into_the_softmax() -> None:
    """By hand: all B rows of a time step share the normalizer, those that are over with the values of zeros."""
    algorithm = learner(history="rnn", mask_softmax=False, policy_after_critic=False, policy_temperature=0.3)
    batch = batch_for(algorithm)
    assert (batch.filled == 0).any()
    found = losses_of(algorithm, batch)["policy"]
    real = torch.cat((torch.ones_like(batch.filled[:, :, :1]), batch.filled), 2)
    obs, state = (batch.obs * real[..., None, None])[:, :, :-1], (batch.state * real[..., None])[:, :, :-1]
    action = batch.action * batch.filled.long().unsqueeze(-1)
    spread = state.unsqueeze(-2).expand(*obs.shape[:-1], -1)
    heads = algorithm.q(torch.cat((spread, with_agent_id(obs)), -1))[:, 0]
    q = heads[..., :1] + heads[..., 1:]
    log_pi = legal_log_policy(
        algorithm.actor(batch)[:, :, :-1], batch.action_mask[:, :, :-1], torch.zeros(2, 1, 1, 1, 1)
    )
    taken = q.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    advantage = torch.where(real[:, :, :-1, None] > 0, taken - (log_pi.exp() * q).sum(-1), taken)
    weight = 16 * torch.softmax(advantage / 0.3, dim=1)
    k, _ = algorithm.mixer.coefficients(state)
    log_prob = log_pi.gather(-1, action.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found, -mean_over(k * weight * log_prob, batch.filled))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_the_policy_sees_the_critic_after_its_step(kind: ActionKind) -> None:
    found = {}
    for after in (True, False):
        algorithm = learner(kind, critic_lr=0.1, policy_after_critic=after)
        batch = batch_for(algorithm)
        loss = losses_of(algorithm, batch)["policy"]
        moved = learner(kind, critic_lr=0.1, policy_after_critic=after)
        found[after] = moved.update(batch)["policy/loss"]
        assert torch.equal(found[after], loss.detach()) != after
    assert not torch.equal(found[True], found[False])


def test_targets_are_copied_every_tenth_batch() -> None:
    """Theirs are copied after 600 critic steps, one per time step: with episodes of 60 steps every tenth batch."""
    algorithm = learner()
    batch, copied = batch_for(algorithm), list[bool]()
    for _ in range(20):
        algorithm.update(batch)
        pairs = zip(algorithm.target.parameters(), algorithm.critic.parameters(), strict=True)
        copied.append(all(torch.equal(old, new) for old, new in pairs))
    assert [k + 1 for k, done in enumerate(copied) if done] == [10, 20]


def test_transitions_without_a_next_action_are_not_drawn() -> None:
    """An episode's last step counts only where the next value does not."""
    data = toy_dataset("discrete")
    data.obs[:, 0, 0] = np.arange(data.rows)
    for timeout, first in ((False, False), (True, True)):
        algorithm = learner(batch_size=512, timeout_is_terminal=timeout)
        batch = batch_for(algorithm, data)
        row = batch.obs[..., 0, 0].long().numpy()
        last = np.isin(row + 1, data.ends)
        assert (batch.mask.numpy()[last] == 0).all()
        assert last.any()
        at_limit = data.truncated[row]
        assert at_limit.any() == first


def test_one_critic_step_per_time_step_that_an_episode_has() -> None:
    """Replica 0's longest episode has 5 of 6 steps, replica 1's has 3: so many steps, and a copy when due."""
    algorithm = learner(history="rnn", critic_steps="time", sequence_length=6, target_period=8)
    batch = batch_for(algorithm)
    batch.mask.fill_(1.0)
    batch.filled.fill_(1.0)
    batch.filled[0, :, 5:] = 0.0
    batch.filled[1, :, 3:] = 0.0
    batch.mask[0, :, 4] = batch.mask[1, :, 2] = 0.0  # terminal, so that the last step has a target

    def copied() -> list[bool]:
        pairs = list(zip(algorithm.target.parameters(), algorithm.critic.parameters(), strict=True))
        return [all(torch.equal(old[r], new[r]) for old, new in pairs) for r in range(2)]

    algorithm.update(batch)
    assert algorithm._optimizers["critic"].count.tolist() == [5, 3]
    assert copied() == [False, False]
    algorithm.update(batch)
    assert copied() == [True, False]  # 10 steps are over 8, 6 are not
    algorithm.update(batch)
    assert algorithm._optimizers["critic"].count.tolist() == [15, 9]
    assert copied() == [False, True]


def test_k_inside_puts_the_mixers_weight_in_the_exponent() -> None:
    algorithm = learner("continuous", policy_weight="k_inside", policy_temperature=0.5)
    batch = batch_for(algorithm)
    found = losses_of(algorithm, batch)["policy"]
    whole = as_sequences(batch)
    q, _, k = algorithm._team_values(algorithm.critic, whole, whole.action, slice(0, -1))
    weight = 16 * torch.softmax(k * q[:, 0] / 0.5, dim=1)
    mean, log_std = algorithm.actor(with_agent_id(batch.obs))
    log_prob = tanh_gaussian_log_prob(mean, log_std, batch.action, algorithm.action_dimensions)
    torch.testing.assert_close(found, -mean_over(weight[:, :, 0] * log_prob))


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_equal_values_leave_cloning_weighed_by_the_mixer(kind: ActionKind) -> None:
    """Whatever the temperature; where it weighs n agents alike the loss is the n-th part of cloning's."""
    algorithm = learner(kind, policy_temperature=0.01)
    head = algorithm.q.members.layers[-1]
    with torch.no_grad():
        head.weight.zero_()
        head.bias.fill_(2.0)
    batch = batch_for(algorithm)

    def alike(state: Tensor) -> tuple[Tensor, Tensor]:
        return torch.full((*state.shape[:-1], 3), 1 / 3, dtype=torch.float64), torch.zeros_like(state[..., 0])

    algorithm.mixer.coefficients = alike
    found = losses_of(algorithm, batch)["policy"]
    if kind == "discrete":
        out = mask_logits(algorithm.actor(as_sequences(batch))[:, :, 0], batch.action_mask)
        log_prob = categorical_log_prob(out, batch.action)
    else:
        mean, log_std = algorithm.actor(with_agent_id(batch.obs))
        log_prob = tanh_gaussian_log_prob(mean, log_std, batch.action, algorithm.action_dimensions)
    torch.testing.assert_close(found, -log_prob.mean((1, 2)) / 3)
