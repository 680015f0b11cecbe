"""MAC-Flow: exact fields, and whose noise a student sees for how long."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from marlzoo.algorithms.mac_flow import StudentPolicy
from torch import Tensor

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.deployment.step import PolicyStep, example_inputs, next_inputs
from marlzoo.envs import games
from marlzoo.modules.flow import integrate
from marlzoo.modules.layers import with_agent_id
from marlzoo.replicas import ReplicaRandom
from marlzoo.training.trainer import make_sampler, train
from tests.fixed_nets import spec_of, transitions
from tests.toys import toy_dataset, toy_spec

COPIES = 4


def learner(**settings: Any) -> Any:
    return marlzoo.make("mac_flow", toy_spec("continuous"), hidden=8, layers=2, batch_size=4, **settings)


def actions(policy: Any, steps: int, reset: Tensor | None = None) -> Tensor:
    """``[steps, R, E, N, A]`` on one observation; before the last step the copies ``reset`` start anew."""
    random, found = ReplicaRandom([3], "test"), []
    policy.reset(COPIES)
    for t in range(steps):
        if t == steps - 1 and reset is not None:
            policy.reset(COPIES, reset)
        found.append(policy.act(torch.ones(1, COPIES, 3, 5), None, random).detach())
    return torch.stack(found)


def test_the_flow_of_one_point_ends_there() -> None:
    """The exact field of data that are all a is (a - x) / (1 - t)."""
    point, noise = torch.tensor([0.3, -0.8]), torch.randn(1, 50, 2)
    end = integrate(lambda context, x, t: (point - x) / (1.0 - t), noise, noise, 10)
    torch.testing.assert_close(end, point.expand_as(end), rtol=0, atol=1e-5)


def test_the_flow_of_two_points_ends_at_the_nearer() -> None:
    """Data at 1 and -1 in equal shares: v = (tanh(t x / (1 - t)^2) - x) / (1 - t)."""
    noise = torch.tensor([0.05, 0.3, 1.0, -1.0, -0.05]).view(1, 5, 1)
    end = integrate(
        lambda context, x, t: (torch.tanh(t * x / (1.0 - t) ** 2) - x) / (1.0 - t), noise, noise, 10
    )
    torch.testing.assert_close(end, noise.sign(), rtol=0, atol=1e-3)


def test_the_field_does_not_read_padding() -> None:
    """The toy's second agent has one action dimension of two."""
    algorithm = learner()
    noise = torch.randn(1, COPIES, 3, 2)
    other = noise.clone()
    other[:, :, 1, 1] += 5.0
    with torch.no_grad():
        ends = [
            integrate(algorithm.flow, torch.ones(1, COPIES, 15), z.flatten(-2), 3) for z in (noise, other)
        ]
    unlike = (ends[0] != ends[1]).any(1).squeeze(0)
    assert unlike.tolist() == [False, False, False, True, False, False]


@pytest.mark.parametrize(("noise", "same"), [("per_step", False), ("per_episode", True), ("zero", True)])
def test_a_memory_is_trained_on_the_noise_that_it_acts_on(noise: Any, same: bool) -> None:
    """Noise that is kept for an episode is one noise in all steps of a sequence."""
    algorithm = learner(noise=noise, history="rnn", sequence_length=5)
    seen: list[Tensor] = []
    algorithm.student.register_forward_pre_hook(lambda module, given: seen.append(given[0][..., 5:7]))
    algorithm.update(make_sampler(algorithm, [toy_dataset("continuous")]).next())
    assert bool((seen[0] == seen[0][:, :, :1]).all()) == same


@pytest.mark.parametrize(
    "ids", [torch.tensor([2]), torch.tensor([[False, False, True, False]])], ids=["ids", "mask"]
)
def test_an_episode_keeps_its_noise(ids: Tensor) -> None:
    found = actions(learner(noise="per_episode").policy(), 4, reset=ids)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    same = (found[3] == found[0]).flatten(2).all(-1).squeeze(0)
    assert same.tolist() == [True, True, False, True]
    fresh = actions(learner(noise="per_step").policy(), 2)
    assert not (fresh[0] == fresh[1]).flatten(2).all(-1).any()
    still = actions(learner(noise="zero").policy(), 2)
    assert torch.equal(still[0], still[1])


@pytest.mark.parametrize("history", ["mlp", "rnn"])
def test_an_exported_step_gives_its_noise_on_through_the_episode(history: Any) -> None:
    """The noise of the first step stands in the state, and what is drawn later is not used."""
    algorithm = learner(noise="per_episode", history=history, sequence_length=5)
    step, generator = PolicyStep(algorithm.policy(), algorithm.spec), torch.Generator().manual_seed(0)
    first = example_inputs(step, 4, generator)
    then = step(first)
    later = next_inputs(step, then, generator) | {"obs": first["obs"]}
    later |= {
        name: x for name, x in first.items() if name == "hidden_state"
    }  # noise alone could change the action
    assert not torch.equal(later["noise_0"], first["noise_0"])
    assert torch.equal(step(later)["action"], then["action"])
    anew = later | {name: torch.zeros_like(later[name]) for name in ("episode_noise", "begun")}
    assert not torch.equal(step(anew)["action"], then["action"])
    torch.testing.assert_close(step(first)["action"], then["action"])  # whatever it did in between


def test_a_policy_with_a_memory_and_noise_of_the_episode_continues_from_its_state() -> None:
    algorithm = learner(noise="per_episode", history="rnn", sequence_length=5)
    policy, other = algorithm.policy(), algorithm.policy()
    actions(policy, 2)
    other.load_state(policy.state())
    obs, random = torch.ones(1, COPIES, 3, 5), [ReplicaRandom([seed], "test") for seed in (4, 5)]
    assert torch.equal(*(p.act(obs, None, r) for p, r in zip((policy, other), random, strict=True)))


@pytest.mark.parametrize(
    ("noise", "execution"), [("per_step", "decentralized"), ("shared", "shared_randomness")]
)
def test_only_shared_noise_reaches_the_others(noise: Any, execution: str) -> None:
    """What agent 0 does after agent 2's noise changed."""
    algorithm = learner(noise=noise)
    policy, z = algorithm.policy(), torch.zeros(1, COPIES, 3, 2)
    assert isinstance(policy, StudentPolicy)
    found = []
    for value in (0.0, 1.0):
        z[:, :, 2] = value
        policy._drawn = lambda obs, random: z  # type: ignore[method-assign]
        found.append(policy.act(torch.ones(1, COPIES, 3, 5))[:, :, 0].detach())
    assert torch.equal(*found) == (noise == "per_step")
    assert policy.execution == execution


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("noise", ["per_step", "per_episode", "shared", "zero"])
def test_students_act_on_the_noise_that_they_were_trained_on(kind: Any, noise: Any) -> None:
    """Standard normal numbers, other ones for every agent and copy; ``zero`` leaves them out."""
    algorithm: Any = marlzoo.make("mac_flow", toy_spec(kind), hidden=8, layers=2, batch_size=4, noise=noise)
    seen: list[Tensor] = []
    algorithm.student.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    obs, size = torch.ones(1, COPIES, 3, 5), algorithm.spec.action_size
    policy = algorithm.policy()
    policy.reset(COPIES)
    policy.act(obs, None, ReplicaRandom([3], "test"))
    z = ReplicaRandom([3], "test").normal(COPIES, 3, size) * (noise != "zero")
    team = z.flatten(-2).unsqueeze(2).expand(-1, -1, 3, -1)
    assert torch.equal(seen[0], with_agent_id(torch.cat((obs, team if noise == "shared" else z), dim=-1)))


def test_the_acting_flow_starts_at_the_noise_that_it_was_trained_on() -> None:
    algorithm = learner(deploy="flow", eval_steps=3)
    obs = torch.ones(1, COPIES, 3, 5)
    found = algorithm.policy().act(obs, None, ReplicaRandom([3], "test"))
    z = ReplicaRandom([3], "test").normal(COPIES, 3, 2)
    end = integrate(algorithm.flow, obs.flatten(-2), z.flatten(-2), 3).view_as(z)
    torch.testing.assert_close(found, end.clamp(-1.0, 1.0) * algorithm.action_dimensions)


def test_the_acting_flow_is_centralized() -> None:
    assert learner(deploy="flow").policy().execution == "centralized"


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_students_move_neither_flow_nor_critics(kind: Any) -> None:
    """Whatever weighs the distillation; with a large weight their loss is the distance from the flow alone."""
    made = {}
    for alpha in (0.0, 1e6):
        algorithm: Any = marlzoo.make(
            "mac_flow", toy_spec(kind), hidden=8, layers=2, batch_size=4, alpha=alpha
        )
        metrics = algorithm.update(make_sampler(algorithm, [toy_dataset(kind)]).next())
        made[alpha] = (algorithm.state_tensors(), metrics)
    (free, _), (bound, metrics) = made[0.0], made[1e6]
    for name, value in free.items():
        if name.startswith(("flow.", "q.", "target_q.")):
            assert torch.equal(value, bound[name]), name
    assert any(not torch.equal(v, bound[name]) for name, v in free.items() if name.startswith("student."))
    share = metrics["student/loss"] / (1e6 * metrics["student/distillation"])
    assert float(share) == pytest.approx(1.0, abs=1e-3)


def test_an_agents_share_of_the_value_depends_on_itself_alone() -> None:
    """The slope of Q_tot by agent 0's action does not change with the others' actions and observations."""
    algorithm = learner()
    slopes = []
    for shift in (0.0, 0.7):
        obs, action = torch.ones(1, 6, 3, 5), torch.full((1, 6, 3, 2), 0.2)
        obs[:, :, 1:] += shift
        action[:, :, 1:] -= shift
        action.requires_grad_()
        total = algorithm._value(algorithm.q, obs, action, None)
        slopes.append(torch.autograd.grad(total.sum(), action)[0][:, :, 0])
    assert slopes[0].abs().max() > 0
    torch.testing.assert_close(*slopes)


class OfTwoPoints(torch.nn.Module):
    """The exact field of joint actions (1, -1) and (-1, 1): it ends where the difference of the noise points to."""

    def forward(self, context: Tensor, x: Tensor, t: Tensor) -> Tensor:
        apart = x[..., :1] - x[..., 1:]
        center = torch.tanh(t * apart / (1.0 - t).square()) * torch.tensor([1.0, -1.0], dtype=x.dtype)
        return (center - x) / (1.0 - t)


class BestStudent(torch.nn.Module):
    """The mean of what the flow makes of a student's own noise, or of all; ``more`` is added, rows are rolled."""

    def __init__(self, shared: bool, more: float = 0.0, roll: int = 0) -> None:
        super().__init__()
        self.shared, self.more, self.roll = shared, more, roll

    def forward(self, seen: Tensor) -> Tensor:
        side = seen[..., -2:-1] - seen[..., -1:]  # 1 for the first agent, -1 for the second
        z = (seen[..., 2:4] if self.shared else seen[..., 2:3]).roll(self.roll, 1)
        if self.shared:
            return torch.sign(z[..., :1] - z[..., 1:]) * side
        return torch.erf(z / 2.0**0.5) + self.more  # 2 Phi(z) - 1, for either agent


def distilled(noise: Any, student: BestStudent) -> tuple[float, Any]:
    """Distance of given students from the exact flow of two conventions, and the policy that they are."""
    settings: dict[str, Any] = {"hidden": 8, "layers": 2, "batch_size": 20_000, "seeds": [0], "noise": noise}
    algorithm: Any = marlzoo.make("mac_flow", spec_of(2, 1, "continuous"), dtype=torch.float64, **settings)
    algorithm.flow, algorithm.student = OfTwoPoints(), student
    algorithm.step = lambda **_: {}
    source = torch.Generator().manual_seed(0)
    drawn = {
        name: (torch.rand if kind == "uniform" else torch.randn)(shape, generator=source)
        for name, (kind, shape) in algorithm.noise().items()
    }
    batch = transitions(torch.zeros(20_000, 2, 1), noise=drawn)
    return float(algorithm.update(batch)["student/distillation"]), algorithm.policy()


def test_students_of_their_own_noise_cannot_copy_two_conventions() -> None:
    """XOR: the best ones play 2 Phi(z) - 1 and err by 2/3 each; those that know all noise do not err at all."""
    best = BestStudent(shared=False)
    at = torch.tensor([[1.0], [0.5]])
    found = best(torch.cat((torch.zeros(2, 2), at, torch.tensor([[1.0, 0.0]] * 2)), dim=-1))
    assert found.flatten().tolist() == pytest.approx([0.6827, 0.3829], abs=1e-4)
    least, policy = distilled("per_step", best)
    assert least == pytest.approx(4 / 3, abs=0.03)
    assert distilled("per_step", BestStudent(shared=False, more=0.1))[0] == pytest.approx(
        least + 0.02, abs=0.01
    )
    assert distilled("per_step", BestStudent(shared=False, roll=1))[0] == pytest.approx(8 / 3, abs=0.05)
    none, together = distilled("shared", BestStudent(shared=True))
    assert none < 1e-6
    payoffs = torch.tensor(games.payoffs("xor"), dtype=torch.float64)
    for acting, value in ((policy, 0.0), (together, 1.0)):
        random = ReplicaRandom([3], "test", dtype=torch.float64)
        chosen = (acting.act(torch.ones(1, 20_000, 2, 2).double(), None, random) < 0).long().squeeze(-1)
        assert float(payoffs[chosen[..., 0], chosen[..., 1]].mean()) == pytest.approx(value, abs=0.04)
    apart = []
    for seed in (3, 4):  # noise that is not the same
        random = ReplicaRandom([seed], "test", dtype=torch.float64)
        apart.append(
            (together.act(torch.ones(1, 20_000, 2, 2).double(), None, random) < 0).long().squeeze(-1)
        )
    assert float(payoffs[apart[0][..., 0], apart[1][..., 1]].mean()) == pytest.approx(0.0, abs=0.04)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_students_that_follow_the_value_alone_raise_it(kind: Any) -> None:
    """Discrete ones too, whose value is an expectation: an argmax would have no gradient."""
    algorithm: Any = marlzoo.make(
        "mac_flow", toy_spec(kind), hidden=8, layers=2, batch_size=8, alpha=0.0, lr=1e-2, dtype=torch.float64
    )
    algorithm._optimizers["critic"].lr = algorithm._optimizers["critic"].lr * 0.0
    batch = make_sampler(algorithm, [toy_dataset(kind)]).next()

    @torch.no_grad()
    def value() -> float:
        z = batch.noise["student"][:, :, 0]
        out = algorithm.student(with_agent_id(torch.cat((batch.obs, z), dim=-1)))
        mask = batch.action_mask if kind == "discrete" else None
        return float(algorithm._value(algorithm.q, batch.obs, out, mask).mean())

    found = []
    for _ in range(5):
        found.append(value())
        algorithm.update(batch)
    assert all(later > earlier for earlier, later in pairwise(found))


def test_the_teacher_takes_no_joint_action_that_the_data_lack() -> None:
    """MoSDOT on (A, B) and (B, A): at most a hundredth of its teacher's actions are others, and both are there."""
    settings: dict[str, Any] = {
        **{"coupling": "mosdot", "deploy": "flow", "hidden": 64, "layers": 2, "lr": 3e-3, "batch_size": 256},
        "eval_steps": 10,
    }
    learner: Any = marlzoo.make("mac_flow", games.spec("xor"), seeds=(0,), **settings)
    train(learner, game_data.dataset("xor", "D2"), updates=400, compile="off")
    with torch.no_grad():
        seen = torch.ones(1, 1000, 2, 1)
        action = learner.policy().act(
            seen, torch.ones(1, 1000, 2, 2, dtype=torch.bool), ReplicaRandom((0,), "act")
        )
    first, second = ((action == torch.tensor(pair)).all(-1).float().mean() for pair in ((0, 1), (1, 0)))
    assert first + second >= 0.99
    assert 0.4 < first < 0.6
    z = torch.randn(1, 1000, 4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # noise ends in the mode that it belongs to
        end = integrate(learner.flow, torch.ones(1, 1000, 2), z, 10).view(1, 1000, 2, 2).argmax(-1)
    belongs = learner.coupling(torch.ones(1, 1000, 2), z, torch.zeros(1, 1000)).view(1, 1000, 2, 2).argmax(-1)
    assert (end == belongs).all(-1).float().mean() >= 0.95


def test_data_of_one_joint_action_leave_nothing_to_couple() -> None:
    """The one mode gets all noise, and the flow's loss is that of noise and actions that are drawn apart."""
    data, losses = game_data.dataset("xor", "D1"), []
    small: dict[str, Any] = {"hidden": 8, "layers": 2, "batch_size": 16, "contexts": 2, "modes": 2}
    for coupling in ("independent", "mosdot"):
        algorithm: Any = marlzoo.make("mac_flow", games.spec("xor"), coupling=coupling, **small)
        algorithm.prepare([data], iter(()))
        losses.append(algorithm.update(make_sampler(algorithm, [data]).next())["flow/loss"])
    torch.testing.assert_close(*losses)


def test_every_replica_looks_for_modes_in_its_own_data() -> None:
    """Two replicas of different data and seeds find what they find alone."""
    data, seeds = [toy_dataset("continuous", seed=k) for k in (1, 2)], (7, 1)
    small: dict[str, Any] = {"hidden": 8, "layers": 2, "coupling": "mosdot", "contexts": 3, "modes": 4}
    together: Any = marlzoo.make("mac_flow", toy_spec("continuous"), seeds=seeds, **small)
    together.prepare(data, iter(()))
    for k, seed in enumerate(seeds):
        alone: Any = marlzoo.make("mac_flow", toy_spec("continuous"), seeds=(seed,), **small)
        alone.prepare([data[k]], iter(()))
        for name, found in alone.coupling.named_buffers():
            assert torch.equal(getattr(together.coupling, name)[k], found[0]), name


@pytest.mark.parametrize(("alpha", "same"), [(1e9, True), (0.0, False)])
def test_the_distillations_weight_decides_whether_students_see_the_value(alpha: float, same: bool) -> None:
    """A large one leaves no part to the critics, whatever they are."""
    found = []
    for sign in (1.0, -1.0):
        algorithm = learner(alpha=alpha, dtype=torch.float64)
        with torch.no_grad():
            for parameter in algorithm.q.parameters():
                parameter *= sign
        algorithm.update(make_sampler(algorithm, [toy_dataset("continuous")]).next())
        found.append(torch.cat([parameter.flatten() for parameter in algorithm.student.parameters()]))
    assert torch.allclose(found[0], found[1], rtol=0, atol=1e-8) == same


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_rewards_move_the_critics_alone(kind: Any) -> None:
    """The next action of the target is the students', who learn nothing from its error."""
    found = []
    for shift in (0.0, 5.0):
        algorithm: Any = marlzoo.make("mac_flow", toy_spec(kind), hidden=8, layers=2, batch_size=4)
        batch = make_sampler(algorithm, [toy_dataset(kind)]).next()
        batch.reward = batch.reward + shift
        algorithm.update(batch)
        found.append(algorithm.state_tensors())
    moved = {name.split(".")[0] for name, value in found[0].items() if not torch.equal(value, found[1][name])}
    assert {"q", "target_q"} <= moved
    assert not moved & {"student", "flow"}
