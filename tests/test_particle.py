"""The particle world: hand-computed steps, an independent account of the rules, the user's prey."""

from __future__ import annotations

import collections
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.data.card import Card
from marlzoo.data.check import check
from marlzoo.data.dataset import Dataset
from marlzoo.envs import particle
from marlzoo.envs._particle_world import SPREAD, TAG, WORLD, Scenario, World
from marlzoo.envs._prey import FORCE, SubstitutePrey, read_prey
from marlzoo.envs._streams import uniforms
from marlzoo.envs.particle import ParticleWorld
from marlzoo.errors import ConfigError, DataError, MismatchError, SpecError, UnknownNameError

SUBSTITUTES = ("tag-substitute-prey", "world-substitute-prey")
KEYLESS = ("spread", *SUBSTITUTES)


def placed(scenario: Scenario, *places: tuple[float, float]) -> World:
    """One copy at rest with entities at the places."""
    world = World(scenario, 1)
    world.position[:, :, 0] = places
    world.mark_forests()
    return world


def free(world: World, action: Any) -> tuple[Any, Any]:
    """Velocities and positions of the agents ``[agents, 2]`` after a step."""
    world.step(np.asarray(action, float)[:, :, None])
    return world.velocity[:, :, 0], world.position[: world.scenario.agents, :, 0]


def prey_arrays(size: int, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    arrays = {f"in_fn.{k}": rng.normal(size=size) for k in ("weight", "bias", "running_mean")}
    arrays["in_fn.running_var"] = rng.uniform(0.5, 2, size)
    for name, fan_in, out in (("fc1", size, 64), ("fc2", 64, 64), ("fc3", 64, 2)):
        arrays |= {f"{name}.weight": rng.normal(size=(out, fan_in)) / 8, f"{name}.bias": rng.normal(size=out)}
    return {name: value.astype(np.float32) for name, value in arrays.items()}


@pytest.fixture
def prey_file(tmp_path: Path) -> Path:
    """A checkpoint laid out like OMAR's, with a prey of tag."""
    arrays = prey_arrays(14)
    policy = collections.OrderedDict((k, torch.from_numpy(v)) for k, v in arrays.items())
    policy["in_fn.num_batches_tracked"] = torch.tensor(7)
    agents = [{"policy": collections.OrderedDict(w=torch.zeros(3))} for _ in range(3)]
    path = tmp_path / "pretrained_adv_model.pt"
    torch.save({"init_dict": {"gamma": 0.95}, "agent_params": [*agents, {"policy": policy}]}, path)
    return path


# Shapes ------------------------------------------------------------------------------------------------------


def test_sizes_of_the_published_data() -> None:
    shapes = {name: particle.spec(name) for name in particle.TASKS}
    assert {k: (s.n_agents, s.obs_size, s.state_size) for k, s in shapes.items()} == {
        "spread": (3, 18, 54),
        "tag": (3, 16, 48),
        "world": (3, 24, 72),
        "tag-substitute-prey": (3, 16, 48),
        "world-substitute-prey": (3, 24, 72),
    }
    assert {(s.action_kind, s.action_size, s.horizon) for s in shapes.values()} == {("continuous", 2, 25)}
    assert [s.reward_per_agent for s in shapes.values()] == [True, False, False, False, False]
    assert (TAG.obs_sizes[-1], WORLD.obs_sizes[-1]) == (14, 22)


def test_state_is_a_view_of_the_observations() -> None:
    seen = particle.make("spread", 3).reset()
    assert np.shares_memory(seen.obs, seen.state)


# Hand-computed steps -----------------------------------------------------------------------------------------


def test_a_free_step_of_each_kind_of_agent() -> None:
    far = ((-3.0, 0.0), (0.0, 3.0), (3.0, 0.0))
    velocity, position = free(placed(SPREAD, *far, *far), [(1, 0), (0, -1), (0.5, 0.5)])
    np.testing.assert_allclose(velocity, [(0.5, 0), (0, -0.5), (0.25, 0.25)], atol=1e-15)
    np.testing.assert_allclose(position, [(-2.95, 0), (0, 2.95), (3.025, 0.025)], atol=1e-15)
    world = placed(TAG, *far, (0.0, -3.0), (9, 9), (-9, 9))
    action = [(1, 0), (0.1, 0), (0, 0), (0.5, 0)]
    velocity, position = free(world, action)
    # Forces 9 and 16 times the action, times the time step 0.1; top speeds are 1 and 1.3.
    np.testing.assert_allclose(velocity[:, 0], [0.9, 0.09, 0, 0.8], atol=1e-15)
    velocity, position = free(world, action)
    np.testing.assert_allclose(velocity[:, 0], [1.0, 0.1575, 0, 1.3], atol=1e-12)  # 1.575 and 1.4 are cut
    np.testing.assert_allclose(position[:, 0], [-2.81, 0.02475, 3, 0.21], atol=1e-12)


def test_top_speed_bounds_the_length_not_the_coordinates() -> None:
    world = placed(TAG, (-3, 0), (0, 3), (3, 0), (0, -3), (9, 9), (-9, 9))
    velocity, _ = free(world, [(1, 1), (1, -1), (0.2, 0.2), (1, 1)])
    np.testing.assert_allclose(np.hypot(*velocity.T), [1, 1, 0.18 * np.sqrt(2), 1.3], atol=1e-12)


def test_collisions_push_both_apart_equally() -> None:
    world = placed(SPREAD, (0.0, 0.0), (0.2, 0.0), (5, 5), *((9.0, 9.0),) * 3)
    velocity, _ = free(world, np.zeros((3, 2)))
    # 0.1 deep: softplus(100) * .001 = 0.1, force 10, velocity 1.
    np.testing.assert_allclose(velocity, [(-1, 0), (1, 0), (0, 0)], atol=1e-12)
    world = placed(SPREAD, (0.0, 0.0), (0.18, 0.24), (5, 5), *((9.0, 9.0),) * 3)
    velocity, _ = free(world, np.zeros((3, 2)))
    depth = 1e-3 * np.log(2.0)  # touching exactly: the soft force is already there
    np.testing.assert_allclose(velocity[1], 0.1 * 100 * depth * np.array([0.6, 0.8]), rtol=1e-9)
    np.testing.assert_allclose(velocity[0], -velocity[1], rtol=1e-12)


def test_obstacles_push_and_are_not_pushed() -> None:
    world = placed(TAG, (0.2, 0), (3, 3), (-3, 3), (3, -3), (0, 0), (0.6, 0))
    velocity, _ = free(world, np.zeros((4, 2)))
    np.testing.assert_allclose(velocity[0], [0.75, 0.0], atol=1e-12)  # .075 deep in the first, off the second
    np.testing.assert_array_equal(world.position[4:, :, 0], [(0, 0), (0.6, 0)])
    food = placed(WORLD, (0.5, 0), (3, 3), (-3, 3), (3, -3), (9, 9), (0.5, 0), (0.5, 0), (0.5, 0), (0.5, 0))
    velocity, _ = free(food, np.zeros((4, 2)))
    assert not velocity.any()  # neither food nor forest collides


def test_coinciding_centres_stay_finite() -> None:
    world = placed(SPREAD, (0, 0), (0, 0), (5, 5), (0, 0), (0, 0), (0, 0))
    velocity, _ = free(world, np.zeros((3, 2)))
    assert np.isfinite(velocity).all()
    assert np.isfinite(world.reward()).all()


def test_copies_that_are_taken_out_go_back_to_their_places() -> None:
    world = World(TAG, 4)
    world.start(np.random.default_rng(0).random((2 * (TAG.agents + TAG.landmarks), 4)))
    before, ids = world.rows.copy(), np.array([3, 1])
    part = world.take(ids)
    np.testing.assert_array_equal(part.rows, before[:, ids])
    part.step(np.random.default_rng(1).uniform(-1, 1, (TAG.agents, 2, 2)))
    np.testing.assert_array_equal(world.rows, before)
    world.put(ids, part)
    np.testing.assert_array_equal(world.rows[:, [0, 2]], before[:, [0, 2]])
    np.testing.assert_array_equal(world.rows[:, ids], part.rows)
    assert (part.rows != before[:, ids]).any(0).all()


def test_covering_all_landmarks_pays_thirty() -> None:
    marks = ((-0.5, 0.0), (0.5, 0.0), (0.0, 0.7))
    near = tuple((x + 0.05, y - 0.05) for x, y in marks)
    assert placed(SPREAD, *near, *marks).reward()[:, 0].tolist() == [30, 30, 30]
    # One agent away: its landmark's nearest agent is at distance 1, agents 0 and 1 overlap.
    world = placed(SPREAD, (0, 0), (0.2, 0), (3, 3), (0, 0), (0.2, 0), (0.2, 1.0))
    np.testing.assert_allclose(world.reward()[:, 0], [16, 16, 21], rtol=1e-12)


def test_reward_of_the_hunt() -> None:
    at = ((0.0, 0.0), (0.1, 0.0), (0.0, 0.5), (0.05, 0.0))
    tag = placed(TAG, *at, (9, 9), (9, 9))
    total = 0.05 + 0.05 + np.hypot(0.05, 0.5)
    assert tag.reward()[:, 0] == pytest.approx([20 - 0.1 * total])
    assert tag.prey_reward()[0] == pytest.approx(0.1 * total - 20)
    out = placed(TAG, (9, 9), (9, 9), (9, 9), (0.95, -1.5), (5, 5), (5, 5))
    away = 3 * np.hypot(8.05, 10.5)
    assert out.prey_reward()[0] == pytest.approx(0.1 * away - 0.5 - np.exp(1.0))
    out.position[3, 1] = -4.0
    assert out.prey_reward()[0] == pytest.approx(0.3 * np.hypot(8.05, 13) - 0.5 - 10)
    fed = placed(WORLD, *at, (9, 9), (0.1, 0), (0.05, 1.0), (9, 9), (9, 9))
    assert fed.reward()[:, 0] == pytest.approx([10 - 0.1 * total])
    assert fed.prey_reward()[0] == pytest.approx(0.1 * total - 10 + 2 + 0.05 * 0.05)


def test_entries_of_observations() -> None:
    spread = placed(SPREAD, (0, 0), (1, 2), (3, 4), (0.5, 0), (0, 0.5), (7, 7))
    spread.velocity[:, :, 0] = [(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)]
    second = spread.observations()[18:36, 0]
    np.testing.assert_allclose(
        second, [0.3, 0.4, 1, 2, -0.5, -2, -1, -1.5, 6, 5, -1, -2, 2, 2, 0, 0, 0, 0], atol=1e-15
    )
    at = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (2.0, 2.0))
    marks = ((1, 1), (2, 0), (0, 2), (0.1, 0), (5, 5))
    world = placed(WORLD, *at, *marks)
    world.velocity[3, :, 0] = (0.7, -0.7)
    seen = world.observations()[:, 0]
    first, prey = seen[:24], seen[72:]
    assert first[:4].tolist() == [0, 0, 0, 0]
    np.testing.assert_allclose(first[4:14], np.ravel(marks), atol=1e-15)
    np.testing.assert_allclose(first[14:20], [1, 0, 0, 1, 2, 2], atol=1e-15)
    np.testing.assert_allclose(first[20:], [0.7, -0.7, 1, -1], atol=1e-15)
    assert prey[:4].tolist() == [0.7, -0.7, 2, 2]
    np.testing.assert_allclose(prey[14:20], [-2, -2, -1, -2, -2, -1], atol=1e-15)
    assert prey[20:].tolist() == [-1, -1]


# An independent account: one copy, entity by entity ----------------------------------------------------------


def slow_step(scenario: Scenario, position: Any, velocity: Any, action: Any) -> tuple[Any, Any]:
    n, radii = scenario.agents, [*scenario.radius, *scenario.landmark_radius]
    solid = [True] * n + list(scenario.solid)
    force = [scenario.gain[i] * np.array(action[i], float) for i in range(n)]
    for a in range(len(radii)):
        for b in range(a + 1, len(radii)):
            if not (solid[a] and solid[b]) or a >= n:
                continue
            delta = position[a] - position[b]
            d = float(np.linalg.norm(delta))
            push = 100 * delta / d * 1e-3 * np.logaddexp(0, -(d - radii[a] - radii[b]) / 1e-3)
            force[a] = force[a] + push
            if b < n:
                force[b] = force[b] - push
    after = position.copy()
    for i in range(n):
        velocity[i] = 0.75 * velocity[i] + 0.1 * force[i]
        speed = float(np.linalg.norm(velocity[i]))
        if scenario.top_speed is not None and speed > scenario.top_speed[i]:
            velocity[i] *= scenario.top_speed[i] / speed
        after[i] += 0.1 * velocity[i]
    return after, velocity


@pytest.mark.parametrize("scenario", [SPREAD, TAG, WORLD], ids=lambda s: s.name)
def test_whole_episodes_agree_with_an_independent_account(scenario: Scenario) -> None:
    num_envs, rng = 40, np.random.default_rng(0)
    world = World(scenario, num_envs)
    world.start(rng.random((2 * len(world.position), num_envs)))
    world.position *= 0.4  # crowded, so that much collides
    position, velocity = world.position.copy(), world.velocity.copy()
    touched = 0
    for _ in range(25):
        action = rng.uniform(-1, 1, (scenario.agents, 2, num_envs))
        for k in range(num_envs):
            position[..., k], velocity[..., k] = slow_step(
                scenario, position[..., k].copy(), velocity[..., k].copy(), action[..., k]
            )
        world.step(action)
        np.testing.assert_allclose(world.position, position, atol=1e-11)
        np.testing.assert_allclose(world.velocity, velocity, atol=1e-10)
        gap = np.linalg.norm(position[0] - position[1], axis=0) - scenario.radius[0] - scenario.radius[1]
        touched += int((gap < 0).sum())
    assert touched > 10


def test_random_return_is_the_published_one() -> None:
    """OMAR's random data of spread have a mean return of 159.6 and a deviation of 60.5 (OG-MARL's statistics)."""
    env, rng = particle.make("spread", 2000), np.random.default_rng(0)
    env.reset()
    total = np.zeros(2000)
    for _ in range(25):
        total += env.step(rng.uniform(-1, 1, (2000, 3, 2)).astype(np.float32)).reward.mean(axis=1)
    assert total.mean() == pytest.approx(159.57, abs=4)
    assert total.std() == pytest.approx(60.5, abs=6)


def test_starts() -> None:
    env = particle.make("world-substitute-prey", 3000)
    env.reset()
    agents, marks = env.world.position[:4], env.world.position[4:]
    assert not env.world.velocity.any()
    for values, bound in ((agents, 1.0), (marks, 0.9)):
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.999 * bound
        assert abs(values.mean()) < 0.01
        assert values.std() == pytest.approx(bound / np.sqrt(3), rel=0.02)
    flat = env.world.position.reshape(18, -1)
    assert np.abs(np.corrcoef(flat) - np.eye(18)).max() < 0.1  # independent of each other
    first = env.world.position.copy()
    env.reset()
    assert (env.world.position != first).all()


def test_the_kth_episode_is_decided_by_seed_and_k() -> None:
    env, world = particle.make("spread", 2), World(SPREAD, 2)
    env.seed([7, 8])
    for episode in range(2):
        env.reset()
        world.start(uniforms(np.array([7, 8], np.uint64), np.full(2, episode, np.uint64), 12))
        np.testing.assert_array_equal(env.world.position, world.position)
    env.reset(np.array([1]))
    env.reset()
    world.start(uniforms(np.array([7, 8], np.uint64), np.array([2, 3], np.uint64), 12))
    np.testing.assert_array_equal(env.world.position, world.position)


def test_each_action_moves_its_own_agent() -> None:
    env = particle.make("spread", 1)
    env.reset()
    env.world.position[:] = 5.0 * np.arange(6)[:, None, None]  # far apart
    action = np.zeros((1, 3, 2), np.float32)
    action[0, 2] = (0.5, -0.25)
    env.step(action)
    moved = env.world.velocity[:, :, 0]
    assert not moved[:2].any()
    assert moved[2, 0] == -2 * moved[2, 1] > 0


def test_stepping_some_copies_leaves_the_others(prey_file: Path) -> None:
    env, whole = (particle.make("tag", 4, prey=prey_file) for _ in range(2))
    rng = np.random.default_rng(0)
    ids = np.array([3, 1])
    for each in (env, whole):
        each.reset()
    before = env._obs.copy()
    for _ in range(3):
        action = rng.uniform(-1, 1, (4, 3, 2)).astype(np.float32)
        part, full = env.step(action, ids), whole.step(action)
        np.testing.assert_array_equal(part.obs[[1, 3]], full.obs[[1, 3]])
        np.testing.assert_array_equal(part.reward[[1, 3]], full.reward[[1, 3]])
        np.testing.assert_array_equal(part.info["prey_reward"][[1, 3]], full.info["prey_reward"][[1, 3]])
    np.testing.assert_array_equal(part.obs[[0, 2]], before[[0, 2]])
    assert not part.reward[[0, 2]].any()


def test_only_copies_that_are_stepped_age_and_the_limit_is_exact() -> None:
    env = particle.make("spread", 2, horizon=3)
    env.reset()
    rest = np.zeros((2, 3, 2), np.float32)
    env.step(rest, np.array([1]))
    assert [env.step(rest).truncated.tolist() for _ in range(2)] == [[False, False], [False, True]]
    env.reset(np.array([1]))
    assert env.step(rest).truncated.tolist() == [True, False]


def test_what_the_prey_earns_is_told(prey_file: Path) -> None:
    env = particle.make("tag", 2, prey=prey_file)
    env.reset()
    step = env.step(np.zeros((2, 3, 2), np.float32))
    assert step.info["prey_reward"].all()
    np.testing.assert_allclose(step.info["prey_reward"], env.world.prey_reward(), rtol=1e-6)


# The prey ----------------------------------------------------------------------------------------------------


def test_the_users_prey_acts_like_the_network(prey_file: Path) -> None:
    arrays = {k: torch.from_numpy(v).double() for k, v in prey_arrays(14).items()}
    seen = torch.randn(50, 14, generator=torch.Generator().manual_seed(0)).double()
    norm = torch.nn.functional.batch_norm(
        seen, *(arrays[f"in_fn.{k}"] for k in ("running_mean", "running_var", "weight", "bias"))
    )
    x = torch.relu(norm @ arrays["fc1.weight"].T + arrays["fc1.bias"])
    x = torch.relu(x @ arrays["fc2.weight"].T + arrays["fc2.bias"])
    wanted = torch.tanh(x @ arrays["fc3.weight"].T + arrays["fc3.bias"])
    prey = read_prey(prey_file, 14)
    np.testing.assert_allclose(prey.act(World(TAG, 50), seen.numpy().T), wanted.numpy().T, atol=1e-6)


def test_the_prey_acts_on_what_it_saw_before_the_step(prey_file: Path) -> None:
    env = particle.make("tag", 5, prey=prey_file)
    env.reset()
    world, prey = env.world, env.prey
    assert prey is not None
    force = prey.act(world, world.observations()[-14:])
    velocity = world.velocity.copy()
    env.step(np.zeros((5, 3, 2), np.float32))
    unbounded = 0.75 * velocity[3] + 1.6 * force
    speed = np.linalg.norm(unbounded, axis=0)
    gaps = np.linalg.norm(world.position[3] - np.delete(world.position, 3, 0), axis=1).min(axis=0)
    clear = gaps > 0.5
    assert clear.any()
    wanted = unbounded * np.minimum(1, 1.3 / speed)
    np.testing.assert_allclose(world.velocity[3][:, clear], wanted[:, clear], rtol=1e-6)


def test_where_the_prey_is_looked_for(
    prey_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    with pytest.raises(DataError, match=r"mpe/tag-substitute-prey, whose scores compare with no published"):
        marlzoo.make_env("mpe/tag", 1)
    (tmp_path / "home" / "prey").mkdir(parents=True)
    np.savez(tmp_path / "home" / "prey" / "simple_tag.npz", **prey_arrays(14))
    found, given = marlzoo.make_env("mpe/tag", 2), marlzoo.make_env("mpe/tag", 2, prey=str(prey_file))
    action = np.zeros((2, 3, 2), np.float32)
    found.reset(), given.reset()
    np.testing.assert_allclose(found.step(action).obs, given.step(action).obs, atol=1e-6)
    assert found.metadata["prey"] != given.metadata["prey"]
    assert len(found.metadata["prey"]) == 16


def test_the_preys_force_is_rounded_as_the_networks(prey_file: Path) -> None:
    seen = np.random.default_rng(0).normal(size=(14, 9))
    force = read_prey(prey_file, 14).act(World(TAG, 9), seen)
    np.testing.assert_array_equal(force, force.astype(np.float32))


def test_substitute_is_another_task() -> None:
    env = particle.make("tag-substitute-prey", 1)
    assert env.metadata["prey"] == "substitute-2"
    assert env.task == "mpe/tag-substitute-prey"
    with pytest.raises(UnknownNameError, match="prey"):
        particle.make("tag-substitute-prey", 1, prey="x.npz")


def test_the_substitute_flees() -> None:
    world = placed(TAG, (-0.2, 0), (-5, 5), (-5, -5), (0, 0), (9, 9), (9, 9))
    force = SubstitutePrey().act(world, np.zeros((14, 1)))[:, 0]
    assert force[0] == FORCE
    assert abs(force[1]) < 0.01 * FORCE
    world.position[3, :, 0] = (1.2, 0.0)
    world.position[0, :, 0] = (0.6, 0.0)
    assert SubstitutePrey().act(world, np.zeros((14, 1)))[0, 0] == -FORCE  # back into view


def slow_flight(scenario: Scenario, position: Any) -> Any:
    """The substitute's force in one copy, term by term."""
    place, force = position[3], np.zeros(2)
    for hunter in position[:3]:
        away = place - hunter
        distance = np.linalg.norm(away)
        force += away / distance / max(distance, 0.05) ** 2
    for mark, radius, solid in zip(position[4:], scenario.landmark_radius, scenario.solid, strict=True):
        if solid:
            away = place - mark
            distance = np.linalg.norm(away)
            force += 0.5 * away / distance / max(distance - radius - scenario.radius[3], 0.05) ** 2
    for axis in range(2):
        beyond = abs(place[axis]) - 0.7
        force[axis] -= 30.0 * beyond * np.sign(place[axis]) if beyond > 0 else 0.0
    return 0.1 * force / np.abs(force).max()


@pytest.mark.parametrize("scenario", [TAG, WORLD], ids=lambda s: s.name)
def test_the_substitutes_force_is_the_written_rule(scenario: Scenario) -> None:
    world = World(scenario, 200)
    world.start(np.random.default_rng(0).random((2 * len(world.position), 200)))
    world.position[:, :, ::2] *= 0.4  # crowded: obstacles that are touched
    force = SubstitutePrey().act(world, np.zeros((14, 200)))
    for k in range(200):
        np.testing.assert_allclose(force[:, k], slow_flight(scenario, world.position[..., k]), atol=1e-12)


def test_nothing_in_a_preys_file_is_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "prey.npz", **prey_arrays(14), more=np.array([tmp_path], dtype=object))
    with pytest.raises(DataError, match="not an npz of plain arrays"):
        read_prey(tmp_path / "prey.npz", 14)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fc3.bias": np.array([0, np.nan], np.float32)}, "fc3.bias is missing or not finite"),
        ({"fc3.bias": np.zeros(2, np.int64)}, "fc3.bias is missing or not finite"),
        ({"fc1.weight": np.zeros((64, 16), np.float32)}, "fc1.weight has shape"),
        ({"fc3.bias": np.full(2, np.nan, np.float32)}, "fc3.bias is missing or not finite"),
        ({"in_fn.bias": None}, "in_fn.bias is missing"),
    ],
)
def test_bad_preys(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    arrays = {k: v for k, v in (prey_arrays(14) | change).items() if v is not None}
    np.savez(tmp_path / "prey.npz", **arrays)
    with pytest.raises(DataError, match=text):
        read_prey(tmp_path / "prey.npz", 14)


def test_damaged_preys(tmp_path: Path) -> None:
    for name, content in (("a.npz", b"PK\x03\x04nothing"), ("b.pt", b"nothing"), ("c.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            read_prey(tmp_path / name, 14)
    with pytest.raises(DataError, match="no such file"):
        read_prey(tmp_path / "d.npz", 14)
    torch.save({"agent_params": []}, tmp_path / "e.pt")
    with pytest.raises(DataError, match="agent_params"):
        read_prey(tmp_path / "e.pt", 14)


# Recorded data -----------------------------------------------------------------------------------------------


def recording(env: ParticleWorld) -> Dataset:
    """One episode of every copy under random actions."""
    rng, num_envs, spec = np.random.default_rng(0), env.num_envs, env.spec
    obs, actions, rewards = [env.reset().obs.copy()], [], []
    for _ in range(spec.horizon):
        actions.append(rng.uniform(-1, 1, (num_envs, spec.n_agents, 2)).astype(np.float32))
        step = env.step(actions[-1])
        obs.append(step.obs.copy())
        rewards.append(step.reward)
    actions.append(np.zeros_like(actions[0]))
    rewards.append(np.zeros_like(rewards[0]))
    rows = num_envs * (spec.horizon + 1)
    truncated = np.zeros((num_envs, spec.horizon + 1), bool)
    truncated[:, -2] = True

    def flat(arrays: list[Any]) -> Any:
        return np.stack(arrays, axis=1).reshape(rows, *arrays[0].shape[1:])

    return Dataset.create(
        spec,
        obs=flat(obs),
        action=flat(actions),
        reward=flat(rewards),
        terminal=np.zeros(rows, bool),
        truncated=truncated.reshape(rows),
        starts=np.arange(0, rows, spec.horizon + 1),
        card=Card(task=env.task, options=dict(env.metadata)),
    )


@pytest.mark.parametrize("name", KEYLESS)
def test_recorded_transitions_are_reproduced(name: str) -> None:
    env = particle.make(name, 100)
    report = check(recording(env), particle.make(name, 1))
    assert report.agrees, report.summary()
    assert report.compared > 1500
    assert report.observation is not None
    assert report.observation.p95 < 1e-5


def test_another_prey_is_noticed(prey_file: Path) -> None:
    data = recording(particle.make("tag", 20, prey=prey_file))
    report = check(data, particle.make("tag", 1, prey=prey_file))
    assert report.agrees, report.summary()
    other = prey_file.with_name("other.npz")
    np.savez(other, **prey_arrays(14, seed=1))
    assert "prey" in check(data, particle.make("tag", 1, prey=other)).failures[0]
    del data.card.options["prey"]  # as in published data, whose cards do not name it
    assert "end elsewhere" in check(data, particle.make("tag", 1, prey=other)).failures[0]


def test_observations_of_no_state_are_refused() -> None:
    env = particle.make("spread", 4)
    obs, action = env.reset().obs.copy(), np.zeros((4, 3, 2), np.float32)
    obs[0, 1] = np.nan
    assert env.replay(obs, action).valid.tolist() == [False, True, True, True]
    obs[2, 1, 5] += 0.1
    with pytest.raises(MismatchError, match="agent 1 in row 2"):
        env.replay(obs, action)
    with pytest.raises(SpecError, match="replay needs"):
        env.replay(obs[:, :2], action)


# Bad input ---------------------------------------------------------------------------------------------------


def test_the_edge_of_a_forest_may_lie_within_the_rounding() -> None:
    env = particle.make("world-substitute-prey", 50)
    obs = env.reset().obs.copy()
    action = np.zeros((50, 3, 2), np.float32)
    flipped = obs.copy()
    flipped[..., -2:] *= -1  # as if everybody stood on the other side
    assert env.replay(flipped, action).valid.all()


def test_bad_input() -> None:
    env = particle.make("spread", 3)
    env.reset()
    action = np.zeros((3, 3, 2), np.float32)
    action[1, 2, 0] = np.nan
    with pytest.raises(SpecError, match="copies 1 are not finite"):
        env.step(action)
    with pytest.raises(SpecError, match="copies 1 are not finite"):
        env.step(action, np.array([1, 2]))
    assert env.replay(env._obs, action).valid.tolist() == [True, False, True]
    with pytest.raises(SpecError, match=r"shape \(3, 3, 2\)"):
        env.step(action[:2])
    with pytest.raises(SpecError, match="indices"):
        env.step(action, np.array([True, False, True]))
    with pytest.raises(ConfigError, match="seeds"):
        env.seed([1])
    with pytest.raises(UnknownNameError, match="spread"):
        particle.make("spreat", 1)
    with pytest.raises(UnknownNameError, match="horizon"):
        particle.spec("spread", horizn=1)
    with pytest.raises(UnknownNameError, match="prey"):
        particle.spec("spread", prey="x.npz")
    with pytest.raises(ConfigError, match="horizon"):
        particle.spec("spread", horizon=0)
    with pytest.raises(ConfigError, match="num_envs"):
        particle.make("spread", 0)


def test_actions_are_clipped_to_the_box() -> None:
    env, same = particle.make("spread", 2), particle.make("spread", 2)
    env.reset(), same.reset()
    wild = np.full((2, 3, 2), 7.0, np.float32)
    np.testing.assert_array_equal(env.step(wild).obs, same.step(np.ones_like(wild)).obs)
