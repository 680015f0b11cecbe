"""MAPPO: its formulas by hand, replicas, exact resume, and that it learns."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from marlzoo.baselines.mappo import MAPPO
from numpy.typing import NDArray

import marlzoo
from marlzoo.algorithm import Algorithm
from marlzoo.data.sampler import Batch
from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.errors import CheckpointError, ConfigError, SpecError
from marlzoo.evaluate import evaluate
from marlzoo.nets import Init
from marlzoo.online import Collector, Rollout, train_online
from marlzoo.onpolicy import ValueNorm, gae, huber, take_rows
from marlzoo.random import ReplicaRandom
from marlzoo.spec import ActionKind, Spec
from tests.toys import ToyEnv, toy_spec

SMALL = {"hidden": 16, "copies": 6, "rollout": 8, "batch_size": 24, "epochs": 2, "restart": 3}


class Guess(BatchedEnv):
    """Two agents name a number (or a bit) that they see; best return 1 per step, episodes of 5 steps.

    Both must be right at once where actions are discrete, and action 2 is never legal.
    """

    def __init__(self, copies: int, kind: ActionKind) -> None:
        self.task, self.copies, self.metadata = f"toy/guess-{kind}", copies, {}
        self.spec = Spec(2, 3, 6, kind, 1 if kind == "continuous" else 3, 5)
        self.seed(range(copies))

    def seed(self, seeds: Sequence[int]) -> None:
        self._rng = [np.random.default_rng(s) for s in seeds]
        self._hidden, self._t = np.zeros((self.copies, 2)), np.zeros(self.copies, int)

    def _show(self) -> Observation:
        if self.spec.discrete:
            obs = np.stack([self._hidden == 0, self._hidden == 1, 0 * self._hidden], -1)
            legal = np.ones((self.copies, 2, 3), bool)
            legal[..., 2] = False
        else:
            obs, legal = np.stack([self._hidden, 0 * self._hidden, 0 * self._hidden + 1], -1), None
        obs = obs.astype(np.float32)
        return Observation(obs, obs.reshape(self.copies, -1), legal)

    def _draw(self, ids: Ids) -> None:
        for k in ids:
            draw = self._rng[k]
            self._hidden[k] = draw.integers(2, size=2) if self.spec.discrete else draw.uniform(-0.8, 0.8, 2)

    def reset(self, ids: Ids | None = None) -> Observation:
        rows = np.arange(self.copies) if ids is None else ids
        self._draw(rows)
        self._t[rows] = 0
        return self._show()

    def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
        if self.spec.discrete:
            assert (action < 2).all()
            reward = (action == self._hidden).all(-1).astype(np.float32)
        else:
            assert np.abs(action).max() <= 1.0
            reward = (1 - np.square(action[..., 0] - self._hidden).mean(-1)).astype(np.float32)
        self._t += 1
        self._draw(np.arange(self.copies))
        seen = self._show()
        done = self._t >= 5
        return Step(
            seen.obs, seen.state, seen.legal, reward=reward, terminal=np.zeros_like(done), truncated=done
        )


def make(seeds: Sequence[int] = (0,), kind: ActionKind = "continuous", **settings: Any) -> MAPPO:
    dtype = settings.pop("dtype", torch.float64)
    learner = marlzoo.make("mappo", toy_spec(kind), seeds=seeds, dtype=dtype, **{**SMALL, **settings})
    return cast(MAPPO, learner)


def toy_env(learner: Algorithm) -> ToyEnv:
    kind: ActionKind = "discrete" if learner.spec.discrete else "continuous"
    return ToyEnv(learner.replicas * 6, kind)


def assert_same(one: Algorithm, other: Algorithm) -> None:
    theirs = other.state_tensors()
    for key, value in one.state_tensors().items():
        assert torch.equal(value, theirs[key]), key


# ---- formulas --------------------------------------------------------------------------------------------


def advantages(mask: list[float], ends: list[float]) -> torch.Tensor:
    """The worked example of the specification: r = (1, 0, 2), V = (.5, .4, .3), V' = (.4, .3, .2)."""
    rows = [torch.tensor(x).double().view(1, 1, 3) for x in ([1, 0, 2], [0.5, 0.4, 0.3], [0.4, 0.3, 0.2])]
    flags = [torch.tensor(x).double().view(1, 1, 3) for x in (mask, ends)]
    rate = torch.tensor([[0.99]]).double()
    return gae(rows[0], rows[1], rows[2], flags[0], flags[1], rate, rate * 0 + 0.95)[0, 0]


def test_gae_bootstraps_at_a_time_limit_and_not_at_a_terminal_state() -> None:
    limit, terminal = advantages([1, 1, 1], [0, 0, 1]), advantages([1, 1, 0], [0, 0, 1])
    np.testing.assert_allclose(limit, [2.47799, 1.68207, 1.898], atol=1e-5)
    np.testing.assert_allclose(terminal, [2.30285, 1.49585, 1.7], atol=1e-5)


def test_gae_does_not_reach_over_an_episodes_end() -> None:
    found = advantages([1, 1, 1], [1, 0, 1])
    assert found[0] == pytest.approx(1 + 0.99 * 0.4 - 0.5)
    assert found[1:].tolist() == advantages([1, 1, 1], [0, 0, 1])[1:].tolist()


def test_value_norm_of_a_constant() -> None:
    norm = ValueNorm(Init([0, 1], dtype=torch.float64), torch.tensor([0.99999, 0.9]).double())
    assert norm.denormalise(torch.ones(2, 3).double()).tolist() == [[0.1] * 3] * 2  # the variance's floor
    for _ in range(50):
        norm.observe(torch.full((2, 7), 5.0).double())
    c = torch.full((2, 1), 5.0).double()
    torch.testing.assert_close(norm.normalise(c), torch.zeros_like(c), atol=1e-9, rtol=0)
    torch.testing.assert_close(norm.denormalise(torch.zeros_like(c)), c)


def test_value_norm_is_debiased_and_inverts() -> None:
    norm = ValueNorm(Init([0], dtype=torch.float64), torch.tensor([0.99999]).double())
    x = torch.tensor([[1.0, 5.0, 9.0, 5.0]]).double()
    norm.observe(x)
    mean, std = norm.mean_std(2)
    assert mean.item() == pytest.approx(5.0)
    assert std.item() == pytest.approx(math.sqrt(8.0))
    torch.testing.assert_close(norm.denormalise(norm.normalise(x)), x)


def test_initial_standard_deviation() -> None:
    learner = make(std_x=[1.0, 2.0], seeds=(0, 1))
    torch.testing.assert_close(learner.actor.std(), torch.full((2, 3, 2), 0.36552929).double())
    with torch.no_grad():
        learner.actor.raw_std.zero_()
    assert learner.actor.std().unique().tolist() == [0.25]


def test_huber() -> None:
    found = huber(torch.tensor([[-1.0, 10.0, 12.0]]), torch.tensor([[10.0]]))
    assert found.tolist() == [[0.5, 50.0, 70.0]]


def test_orthogonal_start() -> None:
    net = make().actor.net
    for layer, gain in ((net.first, math.sqrt(2.0)), (net.second, math.sqrt(2.0)), (net.out, 0.01)):
        weight = layer.weight[0].detach()
        small = weight.T @ weight if weight.shape[0] >= weight.shape[1] else weight @ weight.T
        torch.testing.assert_close(small, gain**2 * torch.eye(len(small)).double())
        assert not layer.bias.any()


def test_log_density_leaves_out_padding() -> None:
    learner = make()
    obs, action = torch.randn(1, 4, 3, 5).double(), torch.randn(1, 4, 3, 2).double()
    log_prob, entropy = learner.actor.log_prob(obs, action, None)
    mean, std = learner.actor.mean(obs), learner.actor.std().unsqueeze(1)
    sizes = torch.tensor(toy_spec().action_sizes)
    used = (torch.arange(2) < sizes.unsqueeze(-1)).double()
    density = torch.exp(-0.5 * ((action - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    torch.testing.assert_close(log_prob, (density.log() * used).sum(-1))
    each = 0.5 * math.log(2 * math.pi * math.e * 0.36552929**2)
    torch.testing.assert_close(entropy[0, 0], each * sizes.double(), rtol=1e-6, atol=0)


def policy_gradient_batch(learner: MAPPO) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    obs, action = torch.randn(1, 9, 3, 5).double(), torch.randn(1, 9, 3, 2).double()
    log_prob, _ = learner.actor.log_prob(obs, action, None)
    return {
        "obs": obs,
        "action": action,
        "log_prob": log_prob.detach(),
        "advantage": torch.randn(1, 9).double(),
    }


def test_policy_loss_by_hand() -> None:
    """With ratios of 1 the loss is -mean A; beyond the clip a sample's gradient is zero where A pushes on."""
    learner = make(clip=0.1)
    x = policy_gradient_batch(learner)
    torch.testing.assert_close(learner.policy_loss(x), -x["advantage"].mean(1))
    x["log_prob"] = x["log_prob"] - math.log(1.5)  # every ratio is 1.5 now
    expected = -torch.where(x["advantage"] > 0, 1.1 * x["advantage"], 1.5 * x["advantage"]).mean(1)
    torch.testing.assert_close(learner.policy_loss(x), expected)
    x["advantage"] = x["advantage"].abs()
    learner.policy_loss(x).sum().backward()
    assert not learner.actor.net.out.weight.grad.any()


def test_value_loss_takes_the_larger_of_plain_and_clipped() -> None:
    learner = make(clip=0.2)
    state = torch.randn(1, 3, 7).double()
    value = learner.value(state).detach()
    x = {"state": state, "value": value - 1.0, "target": value}
    # plain error 0; clipped value is V - 1 + 0.2, whose error is 0.8
    assert learner.value_loss(x).item() == pytest.approx(0.5 * 0.8**2)


def test_take_rows() -> None:
    x = torch.arange(12).view(2, 3, 2)
    rows = torch.tensor([[2, 0], [1, 1]])
    assert take_rows(x, rows).tolist() == [[[4, 5], [0, 1]], [[8, 9], [8, 9]]]


# ---- collecting ------------------------------------------------------------------------------------------


def test_rollout_holds_what_happened() -> None:
    learner = make((0, 1), rollout=30, batch_size=60, dtype=torch.float32)
    env = toy_env(learner)
    collector = Collector(learner, env)
    collector.restart(0)
    rollout = collector.collect(0.25)
    assert rollout.obs.shape == (2, 6, 30, 3, 5)
    assert rollout.action.shape == (2, 6, 30, 3, 2)
    assert rollout.reward.shape == rollout.mask.shape == rollout.ends.shape == (2, 6, 30)
    assert rollout.progress == 0.25
    assert rollout.noise["order"].shape == (2, 2, 180)
    assert rollout.mask.all(), "the toy task never ends by itself"
    going = rollout.ends[:, :, :-1] == 0
    assert torch.equal(rollout.next_obs[:, :, :-1][going], rollout.obs[:, :, 1:][going])
    over = ~going
    assert not torch.equal(rollout.next_obs[:, :, :-1][over], rollout.obs[:, :, 1:][over])
    executed, target = rollout.action.clamp(-1, 1), rollout.obs[..., :2]
    torch.testing.assert_close(rollout.reward, -(executed - target).square().mean((-1, -2)))
    # Copies' first episodes are cut at 2, 4, ..., 12 of 12 steps; then each has the horizon's length.
    first = rollout.ends[0].argmax(-1)
    assert first.tolist() == [1, 3, 5, 7, 9, 11]
    assert {length for _, _, length in collector.finished} == {12}


def test_a_replicas_rollout_does_not_depend_on_its_neighbours() -> None:
    both, alone = make((3, 4)), make((4,))
    rollouts = []
    for learner in (both, alone):
        collector = Collector(learner, toy_env(learner))
        collector.restart(2)
        rollouts.append(collector.collect(0.0))
    for name in ("obs", "state", "action", "reward", "ends"):
        torch.testing.assert_close(
            getattr(rollouts[0], name)[1], getattr(rollouts[1], name)[0], rtol=1e-9, atol=1e-12
        )


def test_wrong_environment_is_named() -> None:
    learner = make()
    with pytest.raises(SpecError, match="need an environment of 6 copies, got 7"):
        Collector(learner, ToyEnv(7))
    with pytest.raises(SpecError, match="action_kind"):
        Collector(learner, ToyEnv(6, "discrete"))


def test_wrong_settings() -> None:
    with pytest.raises(ConfigError, match="batch_size 25 must divide"):
        make(batch_size=25)
    learner = make()
    with pytest.raises(ConfigError, match="steps"):
        train_online(learner, toy_env(learner), steps=0)
    offline = marlzoo.make("bc", toy_spec())
    with pytest.raises(ConfigError, match="bc learns from a dataset"):
        train_online(offline, ToyEnv(6), steps=10)


# ---- training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_lockstep_equals_single_runs(kind: ActionKind) -> None:
    seeds = (7, 1, 5)
    together = make(seeds, kind, lr=[1e-3, 5e-4, 2e-3])
    train_online(together, toy_env(together), steps=48 * 5, log_every=2)
    for row, seed in enumerate(seeds):
        alone = make((seed,), kind, lr=[1e-3, 5e-4, 2e-3][row])
        curve = train_online(alone, toy_env(alone), steps=48 * 5, log_every=2)
        assert [point.updates for point in curve] == [2, 3, 4, 5]
        for key, value in alone.state_tensors().items():
            mine = together.state_tensors()[key]
            torch.testing.assert_close(
                mine if value.ndim == 0 else mine[row], value if value.ndim == 0 else value[0]
            )


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_resumes_exactly(kind: ActionKind, tmp_path: Path) -> None:
    whole, file = make((0, 1), kind, dtype=torch.float32), tmp_path / "run.npz"
    curve = train_online(whole, toy_env(whole), steps=48 * 8)

    def stop(done: int, total: int, points: object) -> None:
        if done == 5:  # two updates after the checkpoint
            raise InterruptedError

    first = make((0, 1), kind, dtype=torch.float32)
    with pytest.raises(InterruptedError):
        train_online(first, toy_env(first), steps=48 * 8, checkpoint=file, on_progress=stop)
    again, updates = make((0, 1), kind, dtype=torch.float32), list[int]()
    resumed = train_online(again, toy_env(again), steps=48 * 8, checkpoint=file, on_update=updates.append)
    assert updates == [4, 5, 6, 7, 8]
    assert_same(whole, again)
    assert_same(whole, marlzoo.load(file))
    strip = [[(p.seed, p.updates, p.steps, p.episodes, p.return_mean) for p in c] for c in (curve, resumed)]
    assert strip[0] == strip[1]


def test_a_checkpoint_of_another_training_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.npz"
    learner = make()
    train_online(learner, toy_env(learner), steps=48, checkpoint=file)
    other = make()
    with pytest.raises(CheckpointError, match="total_updates differ"):
        train_online(other, toy_env(other), steps=48 * 5, checkpoint=file)
    other = make(lr=1e-2)
    with pytest.raises(CheckpointError, match="lr"):
        train_online(other, toy_env(other), steps=48, checkpoint=file)


SCRIPT = """
import sys, torch, marlzoo
from marlzoo.online import train_online
from tests.toys import ToyEnv, toy_spec
torch.set_num_threads(1)
sizes = dict(hidden=16, copies=6, rollout=8, batch_size=24, epochs=2, restart=3)
learner = marlzoo.make("mappo", toy_spec(), seeds=[0], **sizes)
train_online(learner, ToyEnv(6), steps=48 * 80, checkpoint=sys.argv[1],
             on_progress=lambda done, total, points: print(done, flush=True))
"""


def test_killed_and_resumed_gives_the_same(tmp_path: Path) -> None:
    root = Path(__file__).parents[1]
    reference = make(dtype=torch.float32)
    train_online(reference, toy_env(reference), steps=48 * 80)
    file = tmp_path / "run.npz"
    environment = {**os.environ, "PYTHONPATH": str(root)}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(file)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=root,
        env=environment,
    )
    assert process.stdout is not None
    for line in process.stdout:
        if int(line) >= 10:
            process.send_signal(signal.SIGKILL)
            break
    process.wait()
    process.stdout.close()
    assert file.exists()
    again = make(dtype=torch.float32)
    train_online(again, toy_env(again), steps=48 * 80, checkpoint=file)
    assert_same(reference, again)


def test_nan_stays_in_its_replica() -> None:
    mixed, whole = make((0, 1, 2)), make((0, 1, 2))
    with torch.no_grad():
        mixed.actor.net.out.bias[1] = torch.nan
    curve = train_online(mixed, toy_env(mixed), steps=48 * 3, log_every=3)
    train_online(whole, toy_env(whole), steps=48 * 3, log_every=3)
    assert [point.diverged for point in curve] == [False, True, False]
    for key, value in whole.state_tensors().items():
        if value.ndim:
            torch.testing.assert_close(mixed.state_tensors()[key][[0, 2]], value[[0, 2]])


def test_step_size_falls_to_zero() -> None:
    """At progress 1 nothing moves any more, unless the decay is switched off."""
    for decay in (True, False):
        learner = make(lr_decay=decay)
        before = learner.actor.net.first.weight.detach().clone()
        collector = Collector(learner, toy_env(learner))
        collector.restart(0)
        learner.update(collector.collect(1.0))
        assert torch.equal(learner.actor.net.first.weight, before) is decay


def test_update_reports_every_replica() -> None:
    learner = make((0, 1))
    collector = Collector(learner, toy_env(learner))
    collector.restart(0)
    rollout = collector.collect(0.0)
    assert isinstance(rollout, Rollout)
    assert isinstance(rollout, Batch)
    for name, value in learner.update(rollout).items():
        assert value.shape == (2,), name
        assert torch.isfinite(value).all(), name
        assert not value.requires_grad, name


@pytest.mark.parametrize(("kind", "chance"), [("continuous", 4.0), ("discrete", 1.25)])
def test_learns_the_optimum(kind: ActionKind, chance: float) -> None:
    """From chance to the optimum of 5."""
    env = Guess(32, kind)
    sizes: dict[str, Any] = {"copies": 32, "rollout": 20, "batch_size": 320, "hidden": 32, "epochs": 4}
    learner = marlzoo.make("mappo", env.spec, seeds=[0], lr=3e-3, **sizes)
    before = evaluate(learner.policy(), Guess(64, kind), seeds=[1]).returns.mean()
    train_online(learner, env, steps=640 * 40)
    after = evaluate(learner.policy(), Guess(64, kind), seeds=[1]).returns.mean()
    assert before < chance + 0.4
    assert after > 4.9


def test_policy_stays_in_the_box_and_its_sample_need_not() -> None:
    learner = make()
    obs, random = torch.randn(1, 500, 3, 5).double(), ReplicaRandom([0], "x", dtype=torch.float64)
    with torch.no_grad():
        learner.actor.net.out.bias += 0.9
        sample = learner.explore(obs, None, random)
        acted = learner.policy().act(obs, None, random)
    assert sample.max() > 1.0
    assert acted.abs().max() == 1.0
    assert not sample[:, :, 1, 1].any(), "the second agent's second dimension is padding"
