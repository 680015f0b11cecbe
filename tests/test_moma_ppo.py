"""MOMA-PPO: its stages, the simulator in the model's place, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import marlzoo
from marlzoo.batch import gae
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.errors import ConfigError
from marlzoo.families import make_env, task_spec
from marlzoo.models.simulator import Simulator
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.trainer import make_sampler, prepare, train
from tests.toys import toy_dataset, toy_spec

GAME = "games/iterated-coordination"
SMALL: dict[str, Any] = {
    **{"members": 2, "elites": 2, "model_hidden": 8, "model_layers": 1, "model_batch": 8, "model_updates": 3},
    **{"starts": 4, "rollout_horizon": 3, "batch_size": 6, "hidden": 8, "epochs": 1, "seeds": (0, 1)},
}


@pytest.mark.parametrize(
    ("lam", "mask", "expected"),
    [
        (0.95, 1.0, (2.47799, 1.68207, 1.898)),
        (0.95, 0.0, (2.30285, 1.49585, 1.7)),
        (0.98, 1.0, (2.58263, 1.73844, 1.898)),
        (0.98, 0.0, (2.39626, 1.54634, 1.7)),
    ],
)
def test_advantages_have_the_values_of_the_specification(
    lam: float, mask: float, expected: tuple[float, ...]
) -> None:
    """A time limit (mask 1) or the end of the task after three steps."""

    def row(*values: float) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64).view(1, 1, 3)

    gamma, lams = torch.full((1, 1), 0.99, dtype=torch.float64), torch.full((1, 1), lam, dtype=torch.float64)
    known = (
        row(1.0, 0.0, 2.0),
        row(0.5, 0.4, 0.3),
        row(0.4, 0.3, 0.2),
        row(1.0, 1.0, mask),
        row(0.0, 0.0, 1.0),
    )
    assert gae(*known, gamma, lams).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_a_run_that_stops_between_its_stages_goes_on_exactly(tmp_path: Path) -> None:
    file, data = tmp_path / "run.npz", toy_dataset()
    whole = marlzoo.make("moma_ppo", toy_spec(), **SMALL)
    names: list[set[str]] = []
    train(whole, data, updates=5, log_every=1, on_progress=lambda _, metrics: names.append(set(metrics)))
    assert ["world/loss" in found for found in names] == [True] * 3 + [False] * 2
    assert ["policy/loss" in found for found in names] == [False] * 3 + [True] * 2

    def stop(done: int, _: Any) -> None:
        if done == 4:
            raise KeyboardInterrupt

    stopped, resumed = (marlzoo.make("moma_ppo", toy_spec(), **SMALL) for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        train(stopped, data, updates=5, checkpoint=file, checkpoint_every=3, log_every=1, on_progress=stop)
    seen: list[int] = []
    train(
        resumed, data, updates=5, checkpoint=file, log_every=1, on_progress=lambda done, _: seen.append(done)
    )
    assert seen == [4, 5]
    state = resumed.state_tensors()
    for name, value in whole.state_tensors().items():
        assert torch.equal(value, state[name]), name


def test_each_stage_leaves_the_others_networks_alone() -> None:
    learner: Any = marlzoo.make("moma_ppo", toy_spec(), **SMALL)
    parts = {"world": learner.world, "actor": learner.actor, "mixer": learner.mixer}

    def snapshot() -> dict[str, torch.Tensor]:
        return {k: torch.cat([p.detach().flatten() for p in part.parameters()]) for k, part in parts.items()}

    moved: list[set[str]] = []
    before = snapshot()

    def watch(_: int, __: Any) -> None:
        after = snapshot()
        moved.append({k for k in parts if not torch.equal(before[k], after[k])})
        before.update(after)

    train(learner, toy_dataset(), updates=5, log_every=1, on_progress=watch)
    assert moved == [{"world"}] * 3 + [{"actor", "mixer"}] * 2


def test_too_few_updates_for_all_stages_are_refused() -> None:
    learner = marlzoo.make("moma_ppo", toy_spec(), **SMALL)
    with pytest.raises(ConfigError, match=r"3 updates end before the stage 'policy' begins.*world model 3"):
        train(learner, toy_dataset(), updates=3)
    with pytest.raises(ConfigError, match="batch_size 13 must be at most"):
        marlzoo.make("moma_ppo", toy_spec(), **(SMALL | {"batch_size": 13}))
    with pytest.raises(ConfigError, match="elites is 1, but a rollout's penalties"):
        marlzoo.make("moma_ppo", toy_spec(), **(SMALL | {"elites": 1}))
    marlzoo.make("moma_ppo", toy_spec(), **(SMALL | {"elites": 1, "model": "perfect"}))


def test_the_simulator_steps_as_the_game_does() -> None:
    spec = task_spec(GAME)
    env = games.make("iterated-coordination", 6)
    env.seed(range(6))
    frame = torch.from_numpy(env.reset().state.copy()).double().view(2, 3, 2)
    action = torch.randn(2, 3, 2, 1, dtype=torch.float64)
    found = Simulator(spec).step(frame, action, torch.zeros(2, 3).double())
    step = env.step(action.flatten(0, 1).numpy())
    assert found.frame.flatten(0, 1).numpy() == pytest.approx(step.state, abs=1e-6)
    assert found.reward[..., 1].flatten().numpy() == pytest.approx(step.reward, abs=1e-6)
    assert found.mask.min() == 1.0
    assert found.uncertainty.ensemble.abs().max() == 0.0


@pytest.mark.parametrize("team", ["2x1_full", "2x1first_0", "2x1notip_0"])
def test_the_simulator_steps_as_the_robot_does(team: str) -> None:
    """Also where agents see columns of the state that end to end are not the state, which can be replayed, too."""
    task = f"moma/reacher-{team}"
    env = make_env(task, 6)
    env.seed(range(6))
    frame = torch.from_numpy(env.reset().obs.copy()).double().flatten(1).view(2, 3, -1)
    action = torch.rand(2, 3, 2, 1, dtype=torch.float64)
    found = Simulator(task_spec(task)).step(frame, action, torch.zeros(2, 3).double())
    step = env.step(action.flatten(0, 1).numpy())
    assert found.frame.flatten(0, 1).numpy() == pytest.approx(step.obs.reshape(6, -1), abs=1e-4)
    assert found.reward[..., 0].flatten().numpy() == pytest.approx(step.reward, abs=1e-5)


def test_policies_start_at_the_deviation_that_is_asked_for() -> None:
    learner: Any = marlzoo.make("moma_ppo", toy_spec(), dtype=torch.float64, start_std=[0.1, 0.5], **SMALL)
    batch = ready(learner)
    with torch.no_grad():
        learner.actor.net.network.layers[-1].weight.zero_()
        mean, log_std = learner.actor(batch.obs)
    assert mean.abs().max() == 0.0
    for std, found in zip((0.1, 0.5), log_std, strict=True):
        torch.testing.assert_close(found.exp(), torch.full_like(found, std))
    with pytest.raises(ConfigError, match=r"start_std.*\[0.01, 1\]"):
        marlzoo.make("moma_ppo", toy_spec(), start_std=1.5, **SMALL)


def test_scaled_inputs_are_standardized_and_bounded() -> None:
    settings = SMALL | {"memory": 2, "memory_size": 8}
    learner: Any = marlzoo.make("moma_ppo", toy_spec(), dtype=torch.float64, scale_inputs=True, **settings)
    batch = ready(learner)
    obs = torch.from_numpy(toy_dataset().obs).double().expand(2, -1, -1, -1)
    varies = obs[0].std(0) > 0
    scaled = learner.scale(obs)
    inside = (scaled.abs() < 5).all()
    assert inside
    torch.testing.assert_close(scaled[0].mean(0), torch.zeros_like(obs[0, 0]), atol=1e-5, rtol=0)
    assert scaled[0].std(0, correction=0)[varies].numpy() == pytest.approx(1.0, abs=1e-5)
    assert learner.scale(1e9 * obs).abs().max() == 5.0

    past = torch.zeros(2, 4, 2, toy_spec().n_agents, toy_spec().obs_size + toy_spec().action_size).double()
    assert learner.scale.past(past).abs().max() == 0.0
    assert learner.scale.past(past + 1e9)[..., : toy_spec().obs_size].max() == 5.0

    # values and acting read what is scaled
    frame = batch.obs.flatten(-2)[:, :4]
    with torch.no_grad():
        far = [learner.value(x, learner.seen(x, past)) for x in (1e6 * frame.sign(), 1e9 * frame.sign())]
        torch.testing.assert_close(*far)
        acted = learner.policy().act(batch.obs[:, :4])
        shown = learner.actor(learner.seen(frame, past))[0]
    torch.testing.assert_close(acted, (shown * learner.action_dimensions).clamp(-1.0, 1.0))


def test_a_perfect_model_needs_a_simulator_that_can_be_set() -> None:
    data = game_data.dataset("iterated-coordination", "mix", episodes=20)
    learner: Any = marlzoo.make("moma_ppo", task_spec(GAME), model="perfect", **SMALL)
    before = [parameter.detach().clone() for parameter in learner.world.parameters()]
    train(learner, data, updates=1, compile="on")  # it is not compiled, as the simulator cannot be
    assert all(torch.equal(a, b) for a, b in zip(before, learner.world.parameters(), strict=True))
    with pytest.raises(ConfigError, match="names no task"):
        train(marlzoo.make("moma_ppo", toy_spec(), model="perfect", **SMALL), toy_dataset(), updates=1)


def test_the_first_step_of_an_epoch_sees_no_change() -> None:
    """Ratio 1: the policy's loss is minus the mean advantage; without advantages it has no gradient."""
    learner: Any = marlzoo.make("moma_ppo", toy_spec(), dtype=torch.float64, **SMALL)
    batch = ready(learner)
    whole, _ = learner.experience(learner.rollouts(batch))
    experience = {name: value[:, :5] for name, value in whole.items()}  # the mean of all advantages is 0
    losses, _ = learner.losses(experience)
    torch.testing.assert_close(losses["policy/loss"], -experience["advantage"].mean(1))
    (slope,) = torch.autograd.grad(losses["policy/loss"].sum(), learner.actor.net.network.layers[-1].bias)
    assert slope.abs().max() > 0
    none = experience | {"advantage": torch.zeros_like(experience["advantage"])}
    slopes = torch.autograd.grad(
        learner.losses(none)[0]["policy/loss"].sum(), list(learner.actor.parameters())
    )
    assert all((slope == 0).all() for slope in slopes)


def test_means_outside_the_box_cost_their_squared_excess() -> None:
    """(1.2, -0.5): 0.04; inside: nothing. The toy's second agent has one dimension, whose padding costs nothing."""
    learner: Any = marlzoo.make("moma_ppo", toy_spec(), dtype=torch.float64, **SMALL)
    experience, _ = learner.experience(learner.rollouts(ready(learner)))
    for mean, cost in (((1.2, -0.5), 0.04), ((0.9, -1.0), 0.0), ((0.5, -1.3), 0.09)):
        shown = torch.tensor(mean, dtype=torch.float64).expand_as(experience["action"])
        learner.actor.log_prob = lambda obs, action, shown=shown: (experience["log_prob"], shown)
        full = sum(size == 2 for size in toy_spec().action_sizes)
        agents = (
            toy_spec().n_agents if abs(mean[0]) > 1 else full
        )  # whose excess is in the first entry, or the second
        assert learner.losses(experience)[0]["policy/bound_loss"].tolist() == pytest.approx(
            [agents * cost] * 2
        )


def test_the_entropys_weight_follows_its_target() -> None:
    """H below the target raises alpha, H above it lowers alpha, and never below 0."""
    for target, change in ((100.0, 1.0), (-100.0, -1.0)):
        learner: Any = marlzoo.make("moma_ppo", toy_spec(), entropy=0.05, entropy_target=target, **SMALL)
        learner.update_policy(ready(learner, torch.float32))
        assert ((learner.alpha - 0.05) * change > 0).all()
    lowest: Any = marlzoo.make("moma_ppo", toy_spec(), entropy=1e-9, entropy_target=-100.0, **SMALL)
    lowest.update_policy(ready(lowest, torch.float32))
    assert (lowest.alpha == 0).all()


def test_with_threshold_0_every_rollout_has_one_step_and_bootstraps() -> None:
    learner: Any = marlzoo.make("moma_ppo", toy_spec(), dtype=torch.float64, threshold=0.0, **SMALL)
    found = learner.rollouts(ready(learner))
    assert (found.ensemble > 0).all()
    assert (found.ends == 1).all()
    assert found.mask.any()  # which the value after the step has a part in


def test_equal_members_cost_their_own_uncertainty_only_and_more_weight_costs_more() -> None:
    learner: Any = marlzoo.make("moma_ppo", toy_spec(), dtype=torch.float64, **SMALL)
    batch = ready(learner)
    costs = []
    for weight in (0.1, 0.4):
        learner._settings["penalty_ensemble"] = torch.full((2,), weight, dtype=torch.float64)
        costs.append(learner.penalty(learner.rollouts(batch)))
    assert (costs[1] >= costs[0]).all()
    assert (costs[1] > costs[0]).any()
    with torch.no_grad():
        for parameter in learner.world.parameters():
            parameter.copy_(parameter[:, :1].expand_as(parameter))
    found = learner.rollouts(batch)
    assert found.ensemble.abs().max() < 1e-12
    assert found.reward_variance.abs().max() < 1e-12
    torch.testing.assert_close(learner.penalty(found), 0.1 * found.aleatoric.clamp(max=2.0))


def ready(learner: Any, dtype: torch.dtype = torch.float64) -> Any:
    """A batch of a learner that has looked at its data."""
    prepare(learner, [toy_dataset()])
    return make_sampler(learner, [toy_dataset()]).next()


def test_a_sample_is_the_mean_and_the_deviation_times_the_noise() -> None:
    """Clipped to the box; each agent's own numbers, and none in padding."""
    made: Any = marlzoo.make("moma_ppo", toy_spec("continuous"), hidden=8, start_std=0.8)
    policy, obs = made.policy(), torch.randn(1, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    mean, log_std = made.actor(obs)
    noise = ReplicaRandom([3], "test").normal(4, 3, 2)
    wanted = (mean + log_std.exp() * noise).clamp(-1.0, 1.0) * made.action_dimensions
    assert (wanted.abs() == 1.0).any()
    torch.testing.assert_close(policy.act(obs, None, ReplicaRandom([3], "test")), wanted)


def test_what_was_taken_is_remembered_in_place_of_what_was_chosen() -> None:
    made: Any = marlzoo.make("moma_ppo", toy_spec("continuous"), hidden=8, memory=3, memory_size=8)
    policy, obs = made.policy(), torch.randn(2, 1, 4, 3, 5)
    policy.reset(4)
    before = policy.act(obs[0])
    policy.act(obs[1])
    policy.took(torch.full_like(before, 0.5))
    past = policy.state()["past"]
    torch.testing.assert_close(past[:, :, -2:, :, :5], obs.permute(1, 2, 0, 3, 4))
    torch.testing.assert_close(past[:, :, -2, :, 5:], before)
    assert (past[:, :, -1, :, 5:] == 0.5).all()
