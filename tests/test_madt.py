"""MADT: what a token may see, acting with a cache, and what the joint form is for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from marlzoo.baselines.madt import shifted
from torch import Tensor

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.errors import ConfigError
from marlzoo.modules.attention import Cache, CausalTransformer
from marlzoo.replicas import Init
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import make_sampler, prepare
from tests.toys import toy_dataset, toy_spec

DOUBLE = torch.float64


def transformer(context: int = 3) -> CausalTransformer:
    return CausalTransformer(Init((0, 1), dtype=DOUBLE), 8, 2, 2, context)


def learner(kind: Any = "discrete", **settings: Any) -> Any:
    small = {"hidden": 8, "heads": 2, "batch_size": 4, "seeds": (0, 1), "dtype": DOUBLE}
    return marlzoo.make("madt", toy_spec(kind), **(small | settings))


def test_tokens_see_the_past_of_their_context_only() -> None:
    """Two tokens per step, a context of three steps, two blocks: token 8 (step 4) sees steps 0 to 4, not beyond."""
    net, x, step = transformer(), torch.randn(2, 1, 14, 8, dtype=DOUBLE), torch.arange(7).repeat_interleave(2)
    x.requires_grad_()
    slope = torch.autograd.grad(net(x, step)[:, :, 8, 0].sum(), x)[0].abs().sum((0, 1, 3))
    assert (slope > 0).tolist() == [True] * 9 + [False] * 5
    one = CausalTransformer(Init((0, 1), dtype=DOUBLE), 8, 2, 1, 3)
    slope = torch.autograd.grad(one(x, step)[:, :, 8, 0].sum(), x)[0].abs().sum((0, 1, 3))
    assert (slope > 0).tolist() == [False] * 4 + [True] * 5 + [False] * 5


def test_the_cache_gives_what_the_full_pass_gives() -> None:
    net, x, step = transformer(), torch.randn(2, 3, 12, 8, dtype=DOUBLE), torch.arange(6).repeat_interleave(2)
    whole, cache, parts = net(x, step), Cache(), []
    for t in range(6):
        if t >= 3:
            cache.keep(t - 2)
        parts.append(net(x[:, :, 2 * t : 2 * t + 2], step[2 * t : 2 * t + 2], cache))
    torch.testing.assert_close(torch.cat(parts, 2), whole, rtol=1e-9, atol=1e-11)
    assert cache.keys[0].shape[-2] == 6


def test_only_the_distance_between_tokens_counts() -> None:
    net, x = transformer(), torch.randn(2, 1, 5, 8, dtype=DOUBLE)
    later = Cache(tokens=100)
    torch.testing.assert_close(net(x, torch.arange(5)), net(x, torch.arange(5) + 40, later))


def test_no_token_shows_the_action_that_it_predicts() -> None:
    action = torch.arange(6.0).view(1, 1, 6, 1)
    assert shifted(action).flatten().tolist() == [0.0, 0.0, 1.0, 2.0, 3.0, 4.0]
    algorithm = learner()
    batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
    batch.action_mask[:] = True
    found = []
    for last in (0, 3):  # the last real step's own action
        batch.filled[:], batch.action[:, :, -1] = 1.0, last
        seen: list[Tensor] = []
        algorithm.data_log_prob = lambda out, b, s=seen: s.append(out) or out.sum(-1)
        algorithm.update(batch)
        found.append(seen[0][:, :, -1])
        algorithm = learner()
    torch.testing.assert_close(*found)


def test_the_return_to_ask_for_falls_by_what_was_earned() -> None:
    algorithm = learner(target="p90")
    prepare(algorithm, [toy_dataset("discrete")])
    policy: Any = algorithm.policy()
    policy.reset(2)
    obs, mask = torch.randn(2, 2, 3, 5, dtype=DOUBLE), torch.ones(2, 2, 3, 4, dtype=torch.bool)
    policy.act(obs, mask)
    policy.receive(torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=DOUBLE))
    expected = algorithm.returns.target[:, None] - torch.tensor([[1.0, 0.0], [0.5, 2.0]], dtype=DOUBLE)
    torch.testing.assert_close(policy._to_go, expected)
    policy.reset(2, torch.tensor([1]))
    assert policy._to_go[:, 1].tolist() == algorithm.returns.target.tolist()


@pytest.mark.parametrize("settings", [{}, {"joint": True}, {"sequence_length": 2}])
def test_a_copy_that_starts_anew_forgets(settings: Any) -> None:
    """Its actions are those of a fresh policy, its neighbor's go on as if nothing had happened."""
    algorithm = learner("continuous", **settings)
    obs = torch.randn(6, 2, 2, 3, 5, dtype=DOUBLE)
    going, fresh, undisturbed = (algorithm.policy() for _ in range(3))
    for policy in (going, fresh, undisturbed):
        policy.reset(2)
    for t in range(3):
        going.act(obs[t])
        undisturbed.act(obs[t])
    going.reset(2, torch.tensor([0]))
    for t in range(3, 6):
        found = going.act(obs[t])
        torch.testing.assert_close(found[:, 0], fresh.act(obs[t])[:, 0], rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(found[:, 1], undisturbed.act(obs[t])[:, 1], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"joint": True, "tokens": "obs"}, "set tokens to"),
        ({"reward_mode": "reward"}, "must be 'rtg'"),
        ({"hidden": 10, "heads": 4}, "multiple of 8"),
    ],
)
def test_settings_that_do_not_fit(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learner(**settings)


def test_a_context_beyond_the_longest_episode() -> None:
    with pytest.raises(ConfigError, match="sequence_length is 40, but the longest episode"):
        prepare(learner(sequence_length=40), [toy_dataset("discrete")])


def test_agents_in_turn_keep_a_convention() -> None:
    """Data of four agents, half "all 0", half "all 1": alone they agree one time in eight, in turn always."""
    data, reached = game_data.dataset("modes-4", "modes"), []
    for joint in (False, True):
        algorithm: Any = marlzoo.make(
            "madt",
            games.spec("modes-4"),
            joint=joint,
            hidden=16,
            heads=2,
            layers=1,
            lr=1e-2,
            eval_mode="sample",
        )
        prepare(algorithm, [data])
        sampler = make_sampler(algorithm, [data])
        for _ in range(80):
            algorithm.update(sampler.next())
        reached.append(evaluate(algorithm.policy(), games.make("modes-4", 400), seeds=[0]).returns.mean())
    assert reached == pytest.approx([0.125, 1.0], abs=0.06)
