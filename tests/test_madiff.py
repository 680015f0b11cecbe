"""MADiff: schedule and sampler against closed forms, what is known, and what a plan of one's own cannot do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.errors import ConfigError
from marlzoo.modules.diffusion import Schedule, guided, sample
from marlzoo.replicas import Init, ReplicaRandom
from marlzoo.training.trainer import make_sampler, prepare
from tests.toys import toy_dataset, toy_spec

DOUBLE = torch.float64


def learner(kind: Any = "continuous", **settings: Any) -> Any:
    small = {"hidden": 8, "heads": 2, "layers": 1, "batch_size": 4, "diffusion_steps": 8, "eval_steps": 3}
    return marlzoo.make("madiff", toy_spec(kind), dtype=DOUBLE, **(small | settings))


def schedule(levels: int) -> Schedule:
    return Schedule(Init((0,), dtype=DOUBLE), levels)


def test_the_schedule_goes_from_data_to_noise() -> None:
    kept = schedule(50).kept
    assert kept[0] > 0.99
    assert kept[-1] < 1e-3
    assert (kept[1:] < kept[:-1]).all()
    assert 1.0 - (kept[1:] / kept[:-1]).min() <= 0.999 + 1e-12


def test_the_right_noise_gives_the_data_back() -> None:
    levels, data, noise = torch.arange(20).view(1, 20), *torch.randn(2, 1, 20, 3, dtype=DOUBLE)
    made = schedule(20)
    torch.testing.assert_close(made.clean(made.noised(data, noise, levels), noise, levels), data)


@pytest.mark.parametrize("steps", [1, 4, 20])
def test_sampling_with_the_exact_field_ends_at_the_data_and_keeps_what_is_known(steps: int) -> None:
    """Data that are one point: the noise of x is (x - sqrt(a) x_0) / sqrt(1 - a)."""
    made, point = schedule(20), torch.tensor([0.3, -0.8, 0.5], dtype=DOUBLE)

    def exact(x: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        kept = made.kept[level].unsqueeze(-1)
        return (x - kept.sqrt() * point) / (1.0 - kept).sqrt()

    def pin(x: torch.Tensor) -> torch.Tensor:
        return torch.cat((torch.full_like(x[..., :1], 7.0), x[..., 1:]), dim=-1)

    found = sample(exact, made, torch.randn(1, 6, 3, dtype=DOUBLE), steps, pin)
    expected = torch.tensor([7.0, -0.8, 0.5], dtype=DOUBLE).expand(1, 6, 3)
    torch.testing.assert_close(found, expected)


def test_the_right_data_give_the_noise_back() -> None:
    levels, data, noise = torch.arange(20).view(1, 20), *torch.randn(2, 1, 20, 3, dtype=DOUBLE)
    made = schedule(20)
    torch.testing.assert_close(made.noise_of(made.noised(data, noise, levels), data, levels), noise)


@pytest.mark.parametrize(("predicts", "least", "most"), [("window", 0.0, 0.05), ("noise", 0.3, 1.0)])
def test_a_planner_narrower_than_a_window_cannot_tell_noise(predicts: Any, least: float, most: float) -> None:
    """Windows of 40 entries that are always the same, 8 hidden units: how far plans are from them."""
    steps = {"obs": np.ones((5, 2, 8)), "action": np.zeros((4, 2, 1)), "reward": np.zeros(4)}
    data = Dataset.from_episodes([{**steps, "terminal": True} for _ in range(4)])
    small: dict[str, Any] = {"hidden": 8, "heads": 2, "layers": 1, "sequence_length": 4, "batch_size": 64}
    algorithm: Any = marlzoo.make("madiff", data.spec, predicts=predicts, lr=1e-2, tau=0.05, **small)
    prepare(algorithm, [data])
    sampler = make_sampler(algorithm, [data])
    for _ in range(150):
        algorithm.update(sampler.next())
    present = torch.zeros(1, 20, 2, 8)  # scaled, what never changes is 0
    policy: Any = algorithm.policy()
    with torch.no_grad():
        plan = policy._planned(present, torch.zeros(1, 20), ReplicaRandom([3], "test"))
    assert least < float(plan.square().mean().sqrt()) < most


def test_guidance() -> None:
    with_condition, without = torch.tensor([2.0]), torch.tensor([1.0])
    assert [float(guided(with_condition, without, w)) for w in (0.0, 1.0, 1.2)] == pytest.approx([1, 2, 2.2])


@pytest.mark.parametrize("mode", ["centralized", "decentralized"])
def test_only_a_plan_for_the_team_reads_the_others(mode: Any) -> None:
    """What agent 0 does after the others' observations changed, with attention that is in use."""
    algorithm = learner(mode=mode)
    with torch.no_grad():
        algorithm.slow.planner.attention[0].weight.fill_(1.0)
    source = torch.Generator().manual_seed(0)  # one copy in five sees no difference: eight are looked at
    policy, obs = algorithm.policy(), torch.randn(1, 8, 3, 5, dtype=DOUBLE, generator=source)
    other = obs.clone()
    other[:, :, 1:] += 1.0
    actions = []
    for seen in (obs, other):
        policy.reset(8)
        actions.append(policy.act(seen, None, ReplicaRandom([3], "test", dtype=DOUBLE)).detach()[:, :, 0])
    assert torch.equal(*actions) == (mode == "decentralized")
    assert policy.execution == mode


@pytest.mark.parametrize(("mode", "plans"), [("centralized", 1), ("decentralized", 3)])
def test_every_plan_starts_at_noise_of_its_own(mode: Any, plans: int) -> None:
    """Windows of all agents for each plan: standard normal numbers, none of which is used twice."""
    algorithm = learner(mode=mode, sequence_length=3)
    policy: Any = algorithm.policy()
    sampled, started = policy._sampled, list[tuple[torch.Tensor, ...]]()

    def watched(*given: torch.Tensor) -> torch.Tensor:
        started.append(given)
        found: torch.Tensor = sampled(*given)
        return found

    policy._sampled = watched
    policy.reset(2)
    obs = torch.randn(1, 2, 3, 5, dtype=DOUBLE)
    policy._to_go = torch.tensor([[0.25, 0.75]], dtype=DOUBLE)
    policy.act(obs, None, ReplicaRandom([3], "test", dtype=DOUBLE))
    ((noise, present, known, to_go),) = started
    drawn = ReplicaRandom([3], "test", dtype=DOUBLE).normal(2, 3, plans * 4 * 5)
    assert noise.shape == (1, 2 * plans, 3, 4, 5)
    assert torch.equal(noise.flatten().sort().values, drawn.flatten().sort().values)
    for plan in range(2 * plans):  # a copy's plans lie beside each other
        copy = plan // plans
        assert torch.equal(present[0, plan], (algorithm.scaling(obs) * policy.real)[0, copy])
        assert float(to_go[0, plan]) == (0.25, 0.75)[copy]
        whose = [1.0] * 3 if plans == 1 else [float(i == plan % plans) for i in range(3)]
        assert known[0, plan].tolist() == whose


def test_actions_stay_within_their_bounds() -> None:
    """The inverse model's last layer, a regression, is made to ask for more."""
    algorithm = learner()
    policy = algorithm.policy()
    policy.model.action = lambda present, following: torch.full((1, 2, 3, 2), 3.0, dtype=DOUBLE)
    policy.reset(2)
    found = policy.act(torch.randn(1, 2, 3, 5, dtype=DOUBLE), None, ReplicaRandom([3], "test", dtype=DOUBLE))
    assert found.unique().tolist() in ([1.0], [0.0, 1.0])  # 0 where an agent has no such action


def test_what_is_known_has_no_share_in_the_loss() -> None:
    """The noise of a known row, which is overwritten."""
    algorithm, data = learner(sequence_length=12), toy_dataset("continuous")
    prepare(algorithm, [data])
    batch = make_sampler(algorithm, [data]).next()
    window = algorithm.scaling(batch.obs).movedim(2, 3) * algorithm.obs_dimensions.unsqueeze(1)
    before = algorithm._diffusion_loss(batch, window)
    target = batch.noise["noise"].clone()
    batch.noise["noise"][:, :, :, 0] += 5.0  # overwritten in x and left out of the loss
    torch.testing.assert_close(algorithm._diffusion_loss(batch, window), before)
    batch.noise["noise"] = target
    batch.noise["noise"][:, :, :, 1] += 5.0
    assert not torch.allclose(algorithm._diffusion_loss(batch, window), before)


@pytest.mark.parametrize("mode", ["centralized", "decentralized"])
def test_what_lies_after_an_episodes_end_changes_no_loss(mode: Any) -> None:
    """Neither rows nor noise, with a planner whose agents read each other."""
    algorithm, data = learner(sequence_length=12, mode=mode), toy_dataset("continuous")
    prepare(algorithm, [data])
    with torch.no_grad():
        algorithm.model.planner.attention[0].weight.fill_(1.0)
    batch = make_sampler(algorithm, [data]).next()
    window = algorithm.scaling(batch.obs).movedim(2, 3) * algorithm.obs_dimensions.unsqueeze(1)
    before = algorithm._diffusion_loss(batch, window)
    behind = torch.cat((torch.zeros_like(batch.filled[:, :, :1]), 1.0 - batch.filled), dim=2)
    assert 0 < behind.sum() < behind.numel()
    behind = behind[:, :, None, :, None]
    torch.testing.assert_close(algorithm._diffusion_loss(batch, window + 5.0 * behind), before)
    batch.noise["noise"] = batch.noise["noise"] + 5.0 * behind
    torch.testing.assert_close(algorithm._diffusion_loss(batch, window), before)
    batch.noise["noise"] = batch.noise["noise"] - 5.0 * behind
    assert not torch.allclose(algorithm._diffusion_loss(batch, window + 5.0 * (1.0 - behind)), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"diffusion_steps": 0}, "'diffusion_steps' of MADiffConfig is 0"),
        ({"eval_steps": 0}, "'eval_steps' of MADiffConfig is 0"),
        ({"eval_steps": 9}, "eval_steps is 9, but there are 8 levels of noise"),
        ({"reward_mode": "reward"}, "must be 'rtg'"),
        ({"hidden": 10, "heads": 4}, "multiple of 4"),
    ],
)
def test_settings_that_do_not_fit(settings: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learner(**settings)


def test_a_plan_beyond_the_longest_episode() -> None:
    with pytest.raises(ConfigError, match="sequence_length is 40, but the longest episode"):
        prepare(learner(sequence_length=40), [toy_dataset("continuous")])


def test_before_training_no_agent_reads_another() -> None:
    """The attention's weight starts at 0, with a gradient that moves it."""
    algorithm = learner()
    planner, source = algorithm.model.planner, torch.Generator().manual_seed(0)
    shape = (1, 4, 3, algorithm.config.sequence_length + 1, 5)
    x = torch.randn(shape, dtype=DOUBLE, generator=source, requires_grad=True)
    ones, told = torch.ones(1, 4, 3, dtype=DOUBLE), torch.ones(1, 4, dtype=DOUBLE)
    noise = planner(x, ones, told, told, told)
    (slope,) = torch.autograd.grad(noise[:, :, 0].sum(), x, retain_graph=True)
    assert slope[:, :, 0].abs().max() > 0
    assert slope[:, :, 1:].abs().max() == 0
    (weight,) = torch.autograd.grad(noise.square().sum(), [planner.attention[0].weight])
    assert weight.abs().max() > 0


def test_agents_that_change_places_change_plans() -> None:
    """Without what tells their numbers the planner treats all alike, with attention that is in use."""
    planner, source = learner().model.planner, torch.Generator().manual_seed(0)
    n, length = 3, planner.leave.bias.shape[-1] // 5
    with torch.no_grad():
        planner.attention[0].weight.fill_(1.0)
        planner.enter.weight[:, -n:] = 0.0
    x = torch.randn(1, 4, n, length, 5, dtype=DOUBLE, generator=source)
    known = torch.rand(1, 4, n, dtype=DOUBLE, generator=source)
    told, order = torch.ones(1, 4, dtype=DOUBLE), torch.tensor([2, 0, 1])
    noise = planner(x, known, told, told, told)
    torch.testing.assert_close(
        planner(x[:, :, order], known[:, :, order], told, told, told),
        noise[:, :, order],
        rtol=1e-9,
        atol=1e-11,
    )
    other = x.clone()
    other[:, :, 1] += 1.0
    assert (planner(other, known, told, told, told) - noise)[:, :, 0].abs().max() > 1e-6


def test_the_return_to_ask_for_falls_by_what_was_earned() -> None:
    """A return of 20 at scale 20; after a reward of 2 the planner reads 18 / 20, and a copy that starts anew 1."""
    algorithm = learner()
    algorithm.returns.target.fill_(20.0)
    algorithm.returns.scale.fill_(20.0)
    policy: Any = algorithm.policy()
    seen: list[torch.Tensor] = []
    policy.model.planner.register_forward_pre_hook(lambda _, given: seen.append(given[3]))
    policy.reset(2)
    obs = torch.randn(1, 2, 3, 5, dtype=DOUBLE)
    for wanted in ([1.0, 1.0], [0.9, 0.975], [1.0, 0.95]):
        seen.clear()
        policy.act(obs)
        assert seen[-1].flatten().tolist() == pytest.approx(wanted)
        policy.receive(torch.tensor([[2.0, 0.5]], dtype=DOUBLE))
        if wanted == [0.9, 0.975]:
            policy.reset(2, torch.tensor([0]))


def test_the_inverse_model_finds_the_action_between_two_observations() -> None:
    """Where an action moves the observation by half of itself, whoever acts: errors below 0.01."""
    rng = np.random.default_rng(0)
    obs, action = 0.5 * rng.uniform(-1, 1, (1000, 2, 1)), rng.uniform(-1, 1, (1000, 2, 1))
    data = Dataset.from_episodes(
        [
            {"obs": np.stack((o, o + 0.5 * a)), "action": a[None], "reward": [0.0], "terminal": True}
            for o, a in zip(obs, action, strict=True)
        ]
    )
    small = {"hidden": 32, "layers": 1, "heads": 2, "diffusion_steps": 4, "eval_steps": 2, "lr": 1e-2}
    algorithm: Any = marlzoo.make("madiff", data.spec, sequence_length=1, batch_size=64, **small)
    prepare(algorithm, [data])
    sampler = make_sampler(algorithm, [data])
    for k in range(250):
        algorithm.scale_learning_rates(torch.tensor(1.0 - k / 250))
        algorithm.update(sampler.next())
    seen = algorithm.scaling(torch.from_numpy(data.obs).view(1, 1000, 2, 2, 1).float())
    found = algorithm.model.action(seen[:, :, 0], seen[:, :, 1])[0].detach().numpy()
    assert np.abs(found - action).mean() < 0.01
