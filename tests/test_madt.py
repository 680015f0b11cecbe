"""MADT: what a token may see, acting with a cache, and what the joint form is for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.baselines._returns import TargetReturn
from marlzoo.baselines.madt import shifted
from torch import Tensor

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.data.dataset import Dataset
from marlzoo.envs import games
from marlzoo.errors import ConfigError, DataError
from marlzoo.modules.attention import Cache, CausalTransformer, rotate
from marlzoo.modules.layers import with_agent_id
from marlzoo.modules.policies import tanh_gaussian_mode
from marlzoo.replicas import Init, ReplicaRandom
from marlzoo.training.evaluation import evaluate
from marlzoo.training.trainer import make_sampler, prepare
from tests.padding import assert_padding_counts_for_nothing
from tests.toys import toy_dataset, toy_spec

DOUBLE = torch.float64


def transformer() -> CausalTransformer:
    return CausalTransformer(Init((0, 1), dtype=DOUBLE), 8, 2, 2)


def learner(kind: Any = "discrete", **settings: Any) -> Any:
    small = {"hidden": 8, "heads": 2, "batch_size": 4, "seeds": (0, 1), "dtype": DOUBLE}
    return marlzoo.make("madt", toy_spec(kind), **(small | settings))


def test_tokens_see_the_past_only() -> None:
    net, x, step = transformer(), torch.randn(2, 1, 14, 8, dtype=DOUBLE), torch.arange(7).repeat_interleave(2)
    x.requires_grad_()
    slope = torch.autograd.grad(net(x, step)[:, :, 8, 0].sum(), x)[0].abs().sum((0, 1, 3))
    assert (slope > 0).tolist() == [True] * 9 + [False] * 5
    begin = torch.full((2, 1), 3)
    slope = torch.autograd.grad(net(x, step, begin=begin)[:, :, 8, 0].sum(), x)[0].abs().sum((0, 1, 3))
    assert (slope > 0).tolist() == [False] * 6 + [True] * 3 + [False] * 5


def test_the_cache_gives_what_the_full_pass_gives() -> None:
    net, x, step = transformer(), torch.randn(2, 3, 12, 8, dtype=DOUBLE), torch.arange(6).repeat_interleave(2)
    cache, parts = Cache(), []
    for t in range(6):
        parts.append(net(x[:, :, 2 * t : 2 * t + 2], step[2 * t : 2 * t + 2], cache))
    torch.testing.assert_close(torch.cat(parts, 2), net(x, step), rtol=1e-9, atol=1e-11)


def test_only_the_distance_between_tokens_counts() -> None:
    x, place = torch.randn(5, 4, dtype=DOUBLE), torch.arange(5)
    here, there = rotate(x, place), rotate(x, place + 40)
    torch.testing.assert_close(here @ here.mT, there @ there.mT)


@pytest.mark.parametrize(
    ("settings", "context"),
    [({"sequence_length": 3}, 3), ({"joint": True, "sequence_length": 4}, 4), ({"sequence_length": 1}, 1)],
)
@pytest.mark.parametrize("own", [True, False])
def test_acting_gives_what_the_window_of_training_gives(settings: Any, context: int, own: bool) -> None:
    """In an episode longer than the context every action is that of one full pass over the last steps alone.

    Also where other actions are taken (``own`` False), as in a log.
    """
    algorithm = learner("continuous", layers=2, target="p90", **settings)
    prepare(algorithm, [toy_dataset("continuous")])
    policy, joint = algorithm.policy(), settings.get("joint", False)
    policy.reset(2)
    obs = torch.randn(9, 2, 2, 3, 5, dtype=DOUBLE)  # [T, R, E, N, O]
    actions: list[Tensor] = []
    to_go = (algorithm.returns.target / algorithm.returns.scale).view(2, 1, 1)
    for t in range(9):
        present = policy.act(obs[t])
        first = max(t - context + 1, 0)
        seen = with_agent_id(obs[first : t + 1]).movedim(0, 2)  # [R, E, T, N, O + N]
        done = torch.stack([*actions[first:], torch.zeros_like(obs[0, ..., :2])]).movedim(0, 2)
        steps = torch.arange(t + 1 - first)
        if joint:
            seen, done, steps = seen.flatten(2, 3), done.flatten(2, 3), steps.repeat_interleave(3)
        else:
            seen, done = (x.transpose(2, 3).flatten(1, 2) for x in (seen, done))
        if joint:
            done[:, :, -3:] = present
        out = algorithm.model(to_go.expand(seen.shape[:3]), seen, shifted(done), steps)
        out = out[:, :, -3:] if joint else out[:, :, -1].view(2, 2, 3, -1)
        expected = tanh_gaussian_mode(out.chunk(2, -1)[0]) * algorithm.action_dimensions
        torch.testing.assert_close(present, expected, rtol=1e-9, atol=1e-11, msg=f"step {t}")
        taken = present if own else torch.rand_like(present)
        if not own:
            policy.took(taken)
        actions.append(taken)


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


def test_steps_are_told_the_rewards_that_are_still_to_come() -> None:
    """Rewards 1, 0, 2: the model reads (3, 2, 2) / 3, the largest return, and nothing of discounting."""
    data = Dataset.from_episodes(
        [
            {
                "obs": np.ones((4, 2, 1)),
                "action": np.zeros((3, 2, 1)),
                "reward": [1.0, 0.0, 2.0],
                "terminal": True,
            }
        ]
    )
    algorithm: Any = marlzoo.make("madt", data.spec, hidden=8, heads=2, batch_size=2, gamma=0.5, dtype=DOUBLE)
    prepare(algorithm, [data])
    batch = make_sampler(algorithm, [data]).next()
    assert batch.reward.tolist() == [[[3.0, 2.0, 2.0]] * 2]
    assert float(algorithm.returns.target) == 3.0
    seen: list[Tensor] = []
    algorithm.model.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    algorithm.update(batch)
    assert seen[0].shape == (1, 4, 3)  # every agent of every window is told
    torch.testing.assert_close(seen[0], torch.tensor([3.0, 2.0, 2.0], dtype=DOUBLE).expand(1, 4, 3) / 3.0)


@pytest.mark.parametrize(
    ("tokens", "rows"),
    [("return", [2, 5, 8, 11]), ("action", [1, 3, 5, 7]), ("obs", [0, 1, 2, 3])],
)
def test_the_last_token_of_a_step_predicts_its_action(tokens: Any, rows: list[int]) -> None:
    """The tokens are numbered and the head only passes the numbers on; the last one shows the action before."""
    net = learner(tokens=tokens, seeds=(0,)).model
    shown: list[Tensor] = []

    def numbered(x: Tensor, *_: Any) -> Tensor:
        shown.append(x.detach())
        return torch.arange(x.shape[2], dtype=DOUBLE).view(1, 1, -1, 1).expand_as(x)

    net.transformer.forward = numbered
    net.head = torch.nn.Identity()
    last = torch.randn(1, 1, 4, 4, dtype=DOUBLE)
    given = torch.randn(1, 1, 4, dtype=DOUBLE), torch.randn(1, 1, 4, 8, dtype=DOUBLE), last, torch.arange(4)
    assert net(*given)[0, 0, :, 0].tolist() == rows
    if tokens != "obs":
        torch.testing.assert_close(shown[0][:, :, rows], torch.tanh(net.action(last)))


@pytest.mark.parametrize(
    ("quality", "tokens", "share"), [("D2", "obs", 1 / 2), ("D3", "obs", 2 / 3), ("D3", "return", 1 / 2)]
)
def test_what_a_context_of_one_step_learns_on_xor(quality: str, tokens: Any, share: float) -> None:
    """The share of A: without returns cloning's, told a return of 1 that of (A, B) and (B, A). Both mix them: 0."""
    data = game_data.dataset("xor", quality)
    settings: dict[str, Any] = {"hidden": 8, "heads": 2, "layers": 1, "lr": 2e-2, "batch_size": 256}
    algorithm: Any = marlzoo.make(
        "madt", games.spec("xor"), tokens=tokens, sequence_length=1, eval_mode="sample", **settings
    )
    prepare(algorithm, [data])
    sampler = make_sampler(algorithm, [data])
    for _ in range(60):
        algorithm.update(sampler.next())
    env = games.make("xor", 4000)
    action = algorithm.policy().act(
        torch.ones(1, 4000, 2, 1), torch.ones(1, 4000, 2, 2, dtype=torch.bool), ReplicaRandom((0,), "act")
    )
    assert (action == 0).float().mean((0, 1)).tolist() == pytest.approx([share] * 2, abs=0.05)
    env.reset()
    value = env.step(action[0].numpy()).reward.mean()
    assert value == pytest.approx({1 / 2: 0.0, 2 / 3: 2 / 9}[share], abs=0.12)


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


@pytest.mark.parametrize("settings", [{}, {"joint": True}, {"sequence_length": 4, "layers": 2}])
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


def test_how_it_acts_is_what_was_asked_for() -> None:
    plain, joint = (
        learner("continuous").policy(),
        learner("continuous", joint=True, eval_mode="sample").policy(),
    )
    assert (plain.execution, plain.stochastic) == ("decentralized", False)
    assert (joint.execution, joint.stochastic) == ("sequential", True)


def test_a_better_return_than_the_best_of_costs_is_less_cost() -> None:
    data, algorithm = toy_dataset("discrete"), learner(target="above")
    data.reward[:] = -1.0
    prepare(algorithm, [data])
    best = -float(data.lengths.min())
    assert algorithm.returns.target.tolist() == pytest.approx([0.8 * best] * 2)


def test_a_recording_whose_episodes_do_not_end() -> None:
    cut = toy_dataset("discrete", episodes=1)
    with pytest.raises(DataError, match=r"no episode ends in it .* and madt learns from whole episodes"):
        prepare(learner(), [cut])
    cut.terminal[int(cut.ends[0]) - 1] = True
    prepare(learner(), [cut])


def test_the_return_to_ask_for_is_the_mean_over_agents() -> None:
    found = TargetReturn(Init([0], dtype=DOUBLE))
    found.read([SimpleNamespace(returns=np.array([[1.0, 3.0], [2.0, 6.0]]))], "max")
    assert (float(found.target), float(found.scale)) == (4.0, 4.0)


def test_a_context_beyond_the_longest_episode() -> None:
    with pytest.raises(ConfigError, match="sequence_length is 40, but the longest episode"):
        prepare(learner(sequence_length=40), [toy_dataset("discrete")])


def reached(game: str, data: Dataset, updates: int, **settings: Any) -> float:
    """Mean return of sampled actions after so many updates."""
    algorithm = marlzoo.make("madt", games.spec(game), layers=1, eval_mode="sample", **settings)
    prepare(algorithm, [data])
    sampler = make_sampler(algorithm, [data])
    for _ in range(updates):
        algorithm.update(sampler.next())
    return float(evaluate(algorithm.policy(), games.make(game, 500), seeds=[0]).returns.mean())


def test_agents_in_turn_keep_a_convention() -> None:
    """Data of four agents, half "all 0", half "all 1": alone they agree one time in eight, in turn always."""
    data = game_data.dataset("modes-4", "modes")
    settings: dict[str, Any] = {"hidden": 16, "heads": 2, "lr": 1e-2}
    assert reached("modes-4", data, 80, joint=False, **settings) == pytest.approx(0.125, abs=0.06)
    assert reached("modes-4", data, 80, joint=True, **settings) == pytest.approx(1.0, abs=0.06)


def test_what_was_shown_once_takes_a_context_of_more_than_its_step() -> None:
    """Late experts of T-Maze go where the second step alone has told them to go; a guess is half right."""
    data = game_data.dataset("t-maze", "late", episodes=200)
    settings: dict[str, Any] = {"joint": True, "hidden": 32, "lr": 5e-3, "batch_size": 32}
    assert reached("t-maze", data, 120, sequence_length=1, **settings) == pytest.approx(0.5, abs=0.08)
    assert reached("t-maze", data, 120, sequence_length=0, **settings) > 0.9


@pytest.mark.parametrize("joint", [False, True])
def test_no_illegal_action_is_ever_sampled(joint: bool) -> None:
    """Even where its logit is the largest by far; of the legal ones each is taken."""
    algorithm = learner(eval_mode="sample", joint=joint, sequence_length=3)
    with torch.no_grad():
        algorithm.model.head.bias[..., 3] += 50.0
    policy, source = algorithm.policy(), torch.Generator().manual_seed(0)
    random, taken = ReplicaRandom((0, 1), "act", dtype=DOUBLE), set[int]()
    policy.reset(200)
    for _ in range(4):
        mask = torch.rand(2, 200, 3, 4, generator=source) < 0.5
        mask[..., 3], mask[..., 0] = False, mask[..., 0] | ~mask[..., :3].any(-1)
        action = policy.act(torch.randn(2, 200, 3, 5, generator=source, dtype=DOUBLE), mask, random)
        assert mask.gather(-1, action.unsqueeze(-1)).all()
        taken |= set(action.unique().tolist())
    assert taken == {0, 1, 2}


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("joint", [False, True])
def test_what_lies_after_an_episodes_end_changes_nothing(kind: Any, joint: bool) -> None:
    assert_padding_counts_for_nothing(lambda: learner(kind, joint=joint, sequence_length=12), kind)
