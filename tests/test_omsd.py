"""OMSD: scores of known distributions, whose gradient goes where, and what the condition is for."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.errors import ConfigError
from marlzoo.modules.diffusion import NoiseModel, Schedule
from marlzoo.replicas import Init
from marlzoo.training.trainer import make_sampler
from tests.toys import toy_dataset, toy_spec

SMALL: dict[str, Any] = {"hidden": 8, "layers": 2, "batch_size": 8, "model_updates": 1, "warm_start": 0}
SPREAD = 0.1  # of both peaks of the mixture below, at (1, -1) and (-1, 1)


def learner(**settings: Any) -> Algorithm:
    return marlzoo.make("omsd", toy_spec("continuous"), dtype=torch.float64, **{**SMALL, **settings})


def log_mixture(a: Tensor, peaks: Tensor) -> Tensor:
    """Log density of equal Gaussians around ``peaks [K, D]``, ``a [..., D] -> [...]``, without its constant."""
    return torch.logsumexp(-0.5 * (a.unsqueeze(-2) - peaks).square().sum(-1) / SPREAD**2, dim=-1)


class Exact(torch.nn.Module):
    """The exact noise model of the mixture's first agent (marginal) and second (given the first).

    Noise of variance v makes of a peak m with weight p the same with mean sqrt(a) m and variance a s^2 + v.
    """

    def __init__(
        self, schedule: Schedule, conditional: bool, ends: tuple[float, float] = (1.0, -1.0)
    ) -> None:
        super().__init__()
        self.schedule, self.conditional, self.ends = schedule, conditional, ends

    def forward(self, context: Tensor, x: Tensor, time: Tensor) -> Tensor:
        share = self.schedule.kept[(time * self.schedule.levels).round().long()].unsqueeze(-1)
        first, second = context[..., 1:2], context[..., 4:5] == 1.0  # after the state; the number comes last
        peaks = torch.tensor(self.ends, dtype=x.dtype)
        own = torch.where(second, -peaks, peaks)
        log_weight = torch.where(second, -0.5 * (first - peaks).square() / SPREAD**2, 0.0)
        variance = share * SPREAD**2 + 1.0 - share
        gap = share.sqrt() * own - x
        weight = torch.softmax(log_weight - 0.5 * gap.square() / variance, dim=-1)
        return -(1.0 - share).sqrt() * (weight * gap).sum(-1, keepdim=True) / variance


def pair(**settings: Any) -> Any:
    """A learner of two agents with one action each, whose noise model is the exact one."""
    spec = marlzoo.Spec(
        n_agents=2, obs_size=1, state_size=1, action_kind="continuous", action_size=1, horizon=1
    )
    algorithm: Any = marlzoo.make("omsd", spec, dtype=torch.float64, seeds=[0], **{**SMALL, **settings})
    algorithm.behavior = Exact(algorithm.schedule, algorithm.config.conditional)
    return algorithm


def scores(algorithm: Any, team: tuple[float, float], level: int = 0) -> Tensor:
    """Minus the pull without noise, ``[2]``, with w = 1: the agents' scores at the lowest level."""
    joint = torch.tensor(team, dtype=torch.float64).view(1, 1, 1, 2, 1).expand(1, 1, 2, 2, 1)
    levels, zero = torch.full((1, 1, 2), level), torch.zeros(1, 1, 2, 1, dtype=torch.float64)
    pull = algorithm.pull(torch.ones(1, 1, 1, dtype=torch.float64), joint, torch.arange(2), levels, zero)
    return -pull.flatten()


def test_the_second_agent_follows_the_first() -> None:
    """Given a_1 = 1 the second agent's score at 0 is -1 / s^2; without the condition it is 0."""
    found = scores(pair(level_weight="constant", diffusion_steps=500, score_levels=1), (1.0, 0.0))[1]
    assert float(found) == pytest.approx(-1.0 / SPREAD**2, rel=0.01)
    alone = scores(
        pair(level_weight="constant", conditional=False, diffusion_steps=500, score_levels=1), (1.0, 0.0)
    )
    assert float(alone[1]) == pytest.approx(0.0, abs=1e-9)


def test_the_chain_of_scores_is_the_joint_score() -> None:
    """log p(a_1) + log p(a_2 | a_1) = log p(a) on a grid; conventions of n agents against their marginals."""
    grid = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64)
    a = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), dim=-1)
    peaks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]], dtype=torch.float64)
    joint = log_mixture(a, peaks)
    first = log_mixture(a[..., :1], peaks[:, :1])
    given = torch.logsumexp(
        torch.log_softmax(-0.5 * (a[..., :1] - peaks[:, 0]).square() / SPREAD**2, dim=-1)
        - 0.5 * (a[..., 1:] - peaks[:, 1]).square() / SPREAD**2,
        dim=-1,
    )
    torch.testing.assert_close(first + given, joint)
    for n, gap in ((2, 0.5), (3, 0.75), (5, 0.9375)):
        product = np.full(2**n, 2.0**-n)
        both = np.zeros(2**n)
        both[[0, -1]] = 0.5
        assert 0.5 * np.abs(product - both).sum() == pytest.approx(gap)


def test_a_trained_model_knows_the_score_of_a_gaussian() -> None:
    """-eps / sigma_k of data N(m, s^2) is -(x - sqrt(a) m) / (a s^2 + 1 - a)."""
    m, s, rows, steps, source = 0.3, 0.4, 512, 300, torch.Generator().manual_seed(0)
    schedule, model = Schedule(Init([0]), 20), NoiseModel(Init([0]), 1, 1, 32, 2)
    adam = torch.optim.Adam(model.parameters(), 1e-2)
    slower = torch.optim.lr_scheduler.LinearLR(adam, 1.0, 0.0, steps)
    for _ in range(steps):
        eps, data = torch.randn(2, 1, rows, 1, generator=source)
        level = torch.randint(0, 20, (1, rows), generator=source)
        x = schedule.noised(m + s * data, eps, level)
        loss = (model(torch.ones(1, rows, 1), x, schedule.time(level, x)) - eps).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        slower.step()
    level = torch.full((1, 41), 10)
    share, sigma = float(schedule.kept[10]), float(schedule.noise_size(level, 3)[0, 0, 0])
    center, spread = math.sqrt(share) * m, math.sqrt(share * s**2 + 1.0 - share)
    x = (center + spread * torch.linspace(-1.5, 1.5, 41)).view(1, 41, 1)
    with torch.no_grad():
        found = -model(torch.ones(1, 41, 1), x, schedule.time(level, x)) / sigma
    wanted = -(x - center) / spread**2
    assert float((found - wanted).norm() / wanted.norm()) < 0.05


def climbed(algorithm: Any, updates: int) -> Tensor:
    """Actions [N] after some updates of the policies on one constant state, whose critics are as they started."""
    rows, source = algorithm.config.batch_size, torch.Generator().manual_seed(1)
    for _ in range(updates):
        noise = {
            "level": torch.rand(1, rows, 2, generator=source).double(),
            "noise": torch.randn(1, rows, 2, 1, generator=source).double(),
        }
        one = torch.ones(1, rows, 1, dtype=torch.float64)
        batch: Any = SimpleNamespace(obs=one.unsqueeze(-1).expand(1, rows, 2, 1), state=one, noise=noise)
        algorithm.update_policies(batch)
    return algorithm.policy().act(torch.ones(1, 1, 2, 1, dtype=torch.float64)).detach().flatten()


def test_the_score_alone_leads_to_one_convention() -> None:
    """Both agents end at a peak, on opposite sides."""
    settings: dict[str, Any] = {"warm_start": 10_000, "lr": 0.02, "batch_size": 32}
    first, second = climbed(pair(**settings), 200).tolist()
    assert abs(first) == pytest.approx(1.0, abs=0.15)
    assert second == pytest.approx(-first, abs=0.15)


@pytest.mark.parametrize(("sign", "low", "high"), [(1.0, 0.25, 0.35), (-1.0, 0.95, 1.0)])
def test_only_against_the_pull_is_there_a_peak(sign: float, low: float, high: float) -> None:
    """Data around (0.3, -0.3) draw the team there; with the other sign it flees to the bounds of the box."""
    algorithm = pair(warm_start=10_000, lr=0.02, batch_size=32)
    algorithm.behavior = Exact(algorithm.schedule, True, (0.3, 0.3))
    pull = algorithm.pull
    algorithm.pull = lambda *given: sign * pull(*given)
    reached = climbed(algorithm, 150).abs()
    assert low < float(reached.min())
    assert float(reached.max()) <= high


def test_the_condition_is_used_where_agents_agree() -> None:
    """Given other teams' first actions the model errs more about the second, unless the two are independent."""
    spec = marlzoo.Spec(2, 1, 1, "continuous", 1, 1)
    settings: dict[str, Any] = {"hidden": 32, "layers": 2, "batch_size": 256, "lr": 5e-3, "seeds": (0, 0)}
    algorithm: Any = marlzoo.make("omsd", spec, **settings)
    source, one = torch.Generator().manual_seed(0), torch.ones(2, 256, 1)

    def drawn() -> Batch:
        """Opposite signs in replica 0, independent ones in replica 1."""
        signs = 2.0 * torch.randint(0, 2, (2, 256, 2, 1), generator=source) - 1.0
        signs[0, :, 1] = -signs[0, :, 0]
        noise = {"level": torch.rand(2, 256, 2, generator=source)}
        noise["noise"] = torch.randn(2, 256, 2, 1, generator=source)
        action = 0.7 * signs + 0.05 * torch.randn(2, 256, 2, 1, generator=source)
        zero = torch.zeros(2, 256)
        return Batch.of(noise, state=one, next_state=one, action=action, reward=zero, mask=zero)

    for _ in range(120):
        algorithm.update_model(drawn())
    batch = drawn()
    level, noise, second = (
        algorithm._levels(batch, 8)[..., 1:],
        batch.noise["noise"][:, :, 1:],
        torch.tensor([1]),
    )
    errors = []
    for order in (torch.arange(256), torch.arange(256).roll(1)):
        team = torch.stack((batch.action[:, order, 0], batch.action[:, :, 1]), dim=2).unsqueeze(2)
        found = algorithm.predicted_noise(one, team, second, level, noise).detach()
        errors.append((found - noise).square().mean((1, 2, 3)))
    ratio = errors[1] / errors[0]
    assert float(ratio[0]) > 1.5
    assert float(ratio[1]) < 1.1


@pytest.mark.parametrize(("weight", "same"), [(0.0, False), (1e6, True)])
def test_the_weight_decides_between_value_and_score(weight: float, same: bool) -> None:
    """Without the score other critics lead elsewhere; with the score alone they do not matter."""
    found = []
    for sign in (1.0, -1.0):
        algorithm = pair(score_weight=weight, lr=0.02, grad_clip=1.0)
        with torch.no_grad():
            algorithm.q.members.layers[-1].weight.mul_(sign)
        found.append(climbed(algorithm, 40))
    assert torch.allclose(found[0], found[1], atol=1e-3) == same


def test_only_the_agent_in_turn_moves_and_the_next_sees_it() -> None:
    """Turns go round; the second agent's gradient depends on where the first one's step has led."""
    found = []
    for shift in (0.0, 0.5):
        algorithm: Any = learner(lr=[1e-2])
        batches = make_sampler(algorithm, [toy_dataset("continuous")])
        algorithm.update(batches.next())
        algorithm.updates += 1
        moved = []
        for turn in range(3):
            before = algorithm.actor.network.layers[-1].bias.detach().clone()
            metrics = algorithm.update(batches.next())
            after = algorithm.actor.network.layers[-1].bias
            moved.append((after != before).flatten(2).any(-1).squeeze(0).tolist())
            if turn == 0:
                with torch.no_grad():
                    after[:, 0] += shift
            if turn == 1:
                found.append(float(metrics["grad_norm/policy"]))
        assert moved == [[True, False, False], [False, True, False], [False, False, True]]
    assert found[0] != found[1]


def test_one_agent_is_srpo() -> None:
    """With one agent the condition is the state alone."""
    spec = marlzoo.Spec(
        n_agents=1, obs_size=1, state_size=1, action_kind="continuous", action_size=1, horizon=1
    )
    forms: list[Any] = [
        marlzoo.make("omsd", spec, dtype=torch.float64, conditional=conditional, **SMALL)
        for conditional in (True, False)
    ]
    state, team = torch.ones(1, 4, 1).double(), torch.linspace(-1, 1, 4).double().view(1, 4, 1, 1, 1)
    level, noise = torch.arange(4).view(1, 4, 1), torch.full((1, 4, 1, 1), 0.3).double()
    pulls = [form.pull(state, team, torch.zeros(1, dtype=torch.int64), level, noise) for form in forms]
    assert torch.equal(*pulls)
    x = forms[0].schedule.noised(team.squeeze(3), noise, level)
    context = torch.cat((state.unsqueeze(2), torch.zeros_like(x), torch.ones_like(x)), dim=-1)
    eps = forms[0].behavior(context, x, forms[0].schedule.time(level, x))
    torch.testing.assert_close(pulls[0], (eps - noise) * forms[0].schedule.noise_size(level, 4))


def test_more_score_levels_than_levels() -> None:
    with pytest.raises(
        ConfigError, match="score_levels is 15, but there are 9 levels of noise; set it to at"
    ):
        learner(diffusion_steps=9)


def test_policies_read_their_own_observation() -> None:
    policy, obs = learner().policy(), torch.randn(1, 2, 3, 5, dtype=torch.float64)
    other = obs.clone()
    other[:, :, 1] += 1.0
    moved = (policy.act(obs) != policy.act(other)).any(-1).any(1).squeeze(0)
    assert moved.tolist() == [False, True, False]
    assert policy.execution == "decentralized"
    assert not policy.stochastic
