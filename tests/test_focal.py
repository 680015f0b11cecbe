"""FOCAL: the metric's known numbers, codes of contexts, that codes tell tasks apart, and the families of goals."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
import torch
from marlzoo.baselines.focal import FOCAL, ContextPolicy, contexts, metric
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch
from marlzoo.data import games as game_data
from marlzoo.envs._goals import Cells, Goals
from marlzoo.errors import ConfigError
from marlzoo.spec import ActionKind, Spec

SMALL: dict[str, Any] = {"hidden": 8, "encoder_hidden": 16, "code_size": 2, "dtype": torch.float64}
LENGTH = 4


def spec(kind: ActionKind = "continuous") -> Spec:
    return Spec(2, 3, 5, kind, 2, LENGTH)


def learner(count: int = 1, **settings: Any) -> FOCAL:
    values = {"task_size": 1, "batch_size": 8} | settings
    return cast(FOCAL, marlzoo.make("focal", spec(), seeds=[0] * count, **SMALL, **values))


def batch(source: torch.Generator, count: int = 1, reward: float = 0.0) -> Batch:
    """Eight random sequences of two tasks in turn, the same for all replicas; rewards lie at -reward and reward."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(1, 8, *shape, generator=source, dtype=torch.float64).repeat(
            count, *(1,) * (len(shape) + 1)
        )

    task = (torch.arange(8) % 2 * 2 - 1).double().view(1, 8, 1)
    state = normal(LENGTH + 1, 5)
    state[..., -1] = task
    earned = 0.3 * normal(LENGTH) + reward * task
    return Batch.of(
        {"shared": torch.zeros(count, 8).double()},
        obs=normal(LENGTH + 1, 2, 3),
        state=state,
        action=normal(LENGTH, 2, 2).clamp(-0.9, 0.9),
        reward=earned,
        agent_reward=earned.unsqueeze(-1).expand(-1, -1, -1, 2),
        mask=torch.ones(count, 8, LENGTH).double(),
        filled=torch.ones(count, 8, LENGTH).double(),
    )


@pytest.mark.parametrize(
    ("d", "pull", "push"), [(0.0, 0.0316, 10.0), (0.5, 0.7078, 1.6667), (1.0, 1.0005, 0.9091)]
)
def test_known_numbers(d: float, pull: float, push: float) -> None:
    """Many pairs, so that the guard of their number does not show; the distance is a mean over entries."""
    code = torch.zeros(1, 40, 1, 4).double()
    code[:, 20:] = d**0.5
    valid, half = torch.ones(1, 40, dtype=torch.bool), torch.arange(40) < 20
    across = (half[:, None] != half).unsqueeze(0)
    assert float(metric(code, valid, across)[0]) == pytest.approx(pull, abs=1e-4)
    assert float(metric(code, valid, ~across)[1]) == pytest.approx(push, abs=1e-3)


def test_a_single_task_pushes_nothing() -> None:
    same = torch.ones(1, 6, 6, dtype=torch.bool)
    pull, push = metric(torch.randn(1, 6, 2, 3), torch.ones(1, 6, dtype=torch.bool), same)
    assert float(push) == 0.0
    assert torch.isfinite(pull).all()


@pytest.mark.parametrize("swapped", [False, True])
def test_codes_of_a_task_gather_and_tasks_part_unless_the_terms_change_places(swapped: bool) -> None:
    """Codes that follow the metric's gradient themselves: two tasks of six contexts each."""
    source = torch.Generator().manual_seed(0)
    code = (0.3 * torch.randn(1, 12, 1, 3, generator=source, dtype=torch.float64)).requires_grad_()
    same = (torch.arange(12) % 2)[:, None].eq(torch.arange(12) % 2).unsqueeze(0)
    itself = torch.eye(12, dtype=torch.bool)

    def distances() -> tuple[float, float]:
        apart = (code.unsqueeze(1) - code.unsqueeze(2)).square().mean((-2, -1))
        return apart[same & ~itself].mean().item(), apart[~same].mean().item()

    within, between = distances()
    for _ in range(40):
        pull, push = metric(code, torch.ones(1, 12, dtype=torch.bool), ~same if swapped else same)
        (slope,) = torch.autograd.grad((pull + push).sum(), code)
        code.data -= 2.0 * slope
    gathered, parted = distances()
    if swapped:
        assert gathered > 3.0 * within
        assert gathered > parted
    else:
        assert gathered < 0.1 * within
        assert parted > 10.0 * between


def test_each_loss_trains_its_own_part() -> None:
    """Replicas that differ in the learner's settings keep one encoder, those that differ in the metric one policy."""
    made = learner(3, beta=[3.0, 1.0, 3.0], expectile=[0.7, 0.9, 0.7], metric_weight=[10.0, 10.0, 1.0])
    made.update(batch(torch.Generator().manual_seed(0), 3))
    for name, p in made.named_parameters():
        other = 1 if name.startswith("encoder") else 2
        assert torch.equal(p[0], p[other]), name
    differ = {name for name, p in made.named_parameters() if not torch.equal(p[0], p[1])}
    assert {name.partition(".")[0] for name in differ} == {"actor", "q", "v", "target_q"}
    assert not torch.equal(made.encoder.network.layers[0].weight[0], made.encoder.network.layers[0].weight[2])


def test_codes_are_of_the_past_and_of_the_tasks_others() -> None:
    """Their order does not matter, and nothing of another task has a part."""
    source = torch.Generator().manual_seed(0)
    each = torch.randn(1, 4, LENGTH, 2, 3, generator=source, dtype=torch.float64)
    filled, shared = torch.ones(1, 4, LENGTH).double(), torch.tensor([[True, False, True, True]])
    same = (torch.arange(4) % 2)[:, None].eq(torch.arange(4) % 2).unsqueeze(0)
    code = contexts(each, filled, same, shared)
    torch.testing.assert_close(code[0, 0, 0], each[0, 2].mean(0))
    torch.testing.assert_close(code[0, 0, 2], torch.cat((each[0, 2], each[0, 0, :2])).mean(0))
    assert not code[0, 1, 0].any()
    torch.testing.assert_close(code[0, 1, 1], each[0, 1, 0])
    changed = each.clone()
    changed[:, 2] = each[:, 2].flip(1)
    changed[:, 1::2] += 5.0
    torch.testing.assert_close(contexts(changed, filled, same, shared)[:, 0], code[:, 0])


@pytest.mark.parametrize(("told", "least", "most"), [(1.0, 10.0, float("inf")), (0.0, 0.5, 2.0)])
def test_codes_tell_tasks_apart_by_rewards_alone(told: float, least: float, most: float) -> None:
    """Two tasks that differ in their mean reward only; an encoder that is not told rewards cannot tell them apart."""
    made, source = learner(lr=1e-2), torch.Generator().manual_seed(0)

    def halves() -> tuple[Tensor, Tensor]:
        drawn = batch(source, reward=1.0)
        each = made.encoder(drawn.obs[:, :, :-1], drawn.action, told * drawn.reward, drawn.obs[:, :, 1:])
        same = (drawn.state[:, :, 0, -1:] == drawn.state[:, :, 0, -1:].mT).repeat(1, 2, 2)
        return torch.cat((each[:, :, ::2].mean(2), each[:, :, 1::2].mean(2)), 1), same

    for _ in range(100):
        code, same = halves()
        pull, push = metric(code, torch.ones(1, 16, dtype=torch.bool), same)
        made.step(encoder=10.0 * (pull + push))
    code, same = halves()
    apart = (code.unsqueeze(1) - code.unsqueeze(2)).square().mean((-1, -2))
    ratio = (apart[~same].mean() / apart[same & ~torch.eye(16, dtype=torch.bool)].mean()).item()
    assert least < ratio < most


@pytest.mark.parametrize("read_next", [False, True])
def test_acting_has_the_codes_of_training(read_next: bool) -> None:
    """Step by step with the team's rewards, also after being told of transitions and after a new start."""
    made, drawn = learner(read_next=read_next), batch(torch.Generator().manual_seed(1), reward=1.0)
    policy = cast(ContextPolicy, made.policy())
    each = made.encoder(drawn.obs[:, :, :-1], drawn.action, drawn.reward, drawn.obs[:, :, 1:]).detach()

    @torch.no_grad()
    def played(first: int) -> list[Tensor]:
        codes = []
        for t in range(first, LENGTH):
            policy.act(drawn.obs[:, :, t])
            codes.append(policy.code)
            policy.took(drawn.action[:, :, t])
            policy.receive(drawn.reward[:, :, t])
        return codes

    policy.reset(8)
    same = torch.eye(8, dtype=torch.bool).unsqueeze(0)
    wanted = contexts(each, drawn.filled, same, same[:, 0])
    for t, code in enumerate(played(0)):
        torch.testing.assert_close(code, wanted[:, :, t])
    policy.reset(8, torch.tensor([3]))
    policy.act(drawn.obs[:, :, 0])
    assert not policy.code[:, 3].any()
    assert policy.code[:, 2].all()
    policy.took(drawn.action[:, :, 0])
    policy.receive(drawn.reward[:, :, 0])
    policy.act(drawn.obs[:, :, 1])
    torch.testing.assert_close(policy.code[:, 3], each[:, 3, 0])  # one step of the new episode alone
    policy.reset(8)
    policy.inform(drawn.obs[:, :, :-1], drawn.action, drawn.reward, drawn.obs[:, :, 1:])
    torch.testing.assert_close(played(1)[0], wanted[:, :, -1])


@pytest.mark.parametrize("size", [2, 0])
def test_tasks_are_the_same_where_all_of_their_entries_are(size: int) -> None:
    """Without entries that tell tasks each sequence is a task of its own, even one that starts as another does."""
    made, drawn = learner(task_size=size), batch(torch.Generator().manual_seed(0))
    drawn.state[:] = 0.0
    drawn.state[:, 1::2, :, -1] = drawn.state[:, 2:4, :, -2] = 1.0  # four tasks
    number = torch.tensor([0, 1, 2, 3, 0, 1, 0, 1])
    wanted = number[:, None] == number if size else torch.eye(8, dtype=torch.bool)
    assert torch.equal(made._same_task(drawn)[0], wanted)


def test_states_that_are_shorter_than_what_tells_tasks() -> None:
    with pytest.raises(ConfigError, match="task_size is 6, but states have 5 entries"):
        learner(task_size=6)


def test_goals_for_training_are_not_those_of_the_test() -> None:
    for family in (Goals, Cells):
        training, unseen = ({tuple(goal) for goal in family(unseen=u).goals.tolist()} for u in (False, True))
        assert training
        assert unseen
        assert not training & unseen
    for name, allowed in (("goals", Goals()), ("goals-unseen", Goals(unseen=True))):
        seen = np.unique(game_data.dataset(name, "noisy", episodes=100).state[:, 4:], axis=0)
        assert (seen[:, None] == allowed.goals).all(-1).any(1).all()


def test_points_move_and_pay_their_distance_to_the_goal() -> None:
    state = np.array([[0.0, 0.0, 0.95, 0.5, 0.0, 0.5]])
    after, reward, _ = Goals().step(state, np.array([[[1.0, -2.0], [1.0, 0.0]]]), np.zeros(1, bool))
    np.testing.assert_allclose(after[0], [0.1, -0.1, 1.0, 0.5, 0.0, 0.5], atol=1e-6)
    assert float(reward[0]) == pytest.approx(-(np.hypot(0.1, 0.6) + 1.0) / 2)
    obs, _ = Goals(shown=True).observe(state)
    np.testing.assert_allclose(obs[0, 1], [0.95, 0.5, 0.0, 0.0, 0.0, 0.5])


def test_cells_pay_the_share_of_right_actions() -> None:
    state = np.array([[1, 4], [1, 4]])
    _, reward, _ = Cells().step(state, np.array([[1, 4], [4, 4]]), np.zeros(2, bool))
    assert reward.tolist() == [1.0, 0.5]
