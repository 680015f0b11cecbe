"""HATRPO: known divergences, the conjugate gradients, the Fisher products, the line search, and that it learns."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, cast

import numpy as np
import pytest
import torch
from marlzoo.baselines.hatrpo import HATRPO, _AgentPolicy, conjugate_gradients, dot
from torch import Tensor

import marlzoo
from marlzoo.batch import Rollout
from marlzoo.envs import games
from marlzoo.spec import ActionKind
from marlzoo.training.evaluation import evaluate
from marlzoo.training.online import train_online
from tests.test_happo import rollout
from tests.toys import toy_spec

SMALL = {"hidden": 8, "num_envs": 6, "rollout": 8, "batch_size": 48, "epochs": 2}
KINDS: tuple[ActionKind, ...] = ("continuous", "discrete")


def make(kind: ActionKind, n_agents: int = 3, **more: Any) -> HATRPO:
    made = marlzoo.make("hatrpo", toy_spec(kind, n_agents), seeds=(0, 1), dtype=torch.float64, **SMALL | more)
    return cast(HATRPO, made)


def experience(learner: HATRPO) -> dict[str, Tensor]:
    from marlzoo.baselines import _ppo

    return _ppo.experience(learner, learner.nets, rollout(learner))[0]


def agent_policy(kind: ActionKind, **more: Any) -> tuple[HATRPO, _AgentPolicy]:
    learner = make(kind, **more)
    return learner, _AgentPolicy(learner, experience(learner), torch.tensor([2, 0]))


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [((0.5, 0.5), (0.8, 0.2), 0.22314), ((0.7, 0.2, 0.1), (0.6, 0.3, 0.1), 0.026812)],
)
def test_divergence_of_discrete_policies(
    old: tuple[float, ...], new: tuple[float, ...], expected: float
) -> None:
    """The true one; without the weight the first is .44629 and the second .10583."""
    policy = cast(Any, _AgentPolicy.__new__(_AgentPolicy))
    policy._discrete = True
    p, q = (torch.tensor([x]).double().unsqueeze(0) for x in (old, new))
    policy._old = (p.log(), p)
    assert float(policy._divergence((q.log(), q))) == pytest.approx(expected, abs=1e-5)


def test_divergence_of_gaussians() -> None:
    """From N(0, 1) to N(1, 2); a padded dimension does not count."""
    policy = cast(Any, _AgentPolicy.__new__(_AgentPolicy))
    policy._discrete, policy._used = False, torch.tensor([[[1.0, 0.0]]])
    policy._old = (torch.zeros(1, 1, 2), torch.ones(1, 1, 2))
    assert float(policy._divergence((torch.ones(1, 1, 2), torch.full((1, 1, 2), 2.0)))) == pytest.approx(
        0.44315, abs=1e-5
    )


def test_rounding_does_not_grow_in_the_conjugate_gradients() -> None:
    """A few large eigenvalues are solved at once; the order of a sum must not decide what later steps find."""
    values = torch.cat((torch.tensor([3e5, 1e4, 2e3]), torch.linspace(0.1, 2.0, 37))).double()
    basis = torch.linalg.qr(torch.randn(40, 40, dtype=torch.float64))[0]
    matrix = (basis * values) @ basis.T
    b = torch.randn(1, 40, dtype=torch.float64)
    order = torch.randperm(40)
    (one,) = conjugate_gradients(lambda v: [v[0] @ matrix], [b], 10)
    (other,) = conjugate_gradients(lambda v: [v[0][:, order] @ matrix[order]], [b], 10)
    assert not torch.equal(one, other)
    torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_conjugate_gradients_solve() -> None:
    """Random positive definite 8 x 8 systems in 8 steps; two logits at (1/2, 1/2) with damping .1."""
    source = torch.Generator().manual_seed(0)
    root = torch.randn(2, 8, 8, generator=source, dtype=torch.float64)
    matrix, b = root @ root.mT + torch.eye(8), torch.randn(2, 8, generator=source, dtype=torch.float64)

    def product(v: list[Tensor]) -> list[Tensor]:
        return list((matrix @ torch.cat(v, 1).unsqueeze(-1)).squeeze(-1).split((3, 5), 1))

    (first, second) = conjugate_gradients(product, list(b.split((3, 5), 1)), 8)
    torch.testing.assert_close(
        (matrix @ torch.cat((first, second), 1).unsqueeze(-1)).squeeze(-1), b, rtol=0, atol=1e-6
    )
    logits = torch.tensor([[0.25, -0.25], [-0.25, 0.25]]).double() + 0.1 * torch.eye(2)
    g = torch.tensor([[1.0, -1.0]]).double()
    (x,) = conjugate_gradients(lambda v: [v[0] @ logits], [g], 10)
    torch.testing.assert_close(x, torch.tensor([[5 / 3, -5 / 3]]).double())
    beta = float((0.01 / (0.5 * x @ logits @ x.T)).sqrt())
    assert beta == pytest.approx(0.07746, abs=1e-5)
    assert torch.softmax(beta * x, 1)[0, 0].item() == pytest.approx(0.56419, abs=1e-5)
    zero = conjugate_gradients(lambda v: [v[0] @ logits], [torch.zeros(1, 2).double()], 3)
    assert torch.equal(zero[0], torch.zeros(1, 2).double())


class TwoLogits:
    """One state, two actions, equally often taken at first; the parameters of the policy are its logits."""

    def __init__(self, rows: int) -> None:
        self.parameters = [torch.zeros(1, 2, dtype=torch.float64)]
        policy = cast(Any, _AgentPolicy.__new__(_AgentPolicy))
        policy._discrete, policy._mask, policy.parameters = True, None, self.parameters
        policy._action = (torch.arange(rows) % 2).unsqueeze(0)
        policy._outputs = self.outputs
        policy.write = lambda parameters: setattr(self, "parameters", parameters)
        self.rows = rows
        policy._old = self.outputs(self.parameters)
        policy._old_log_prob = policy._log_prob(policy._old)
        self.policy = policy

    def outputs(self, parameters: list[Tensor]) -> tuple[Tensor, Tensor]:
        log_p = torch.log_softmax(parameters[0], -1).unsqueeze(-2)
        log_p = log_p.expand(*log_p.shape[:-2], self.rows, 2)
        return log_p, log_p.exp()


def test_a_step_of_two_logits_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradient (1, -1), F = [[.25, -.25], [-.25, .25]]: the step is (.1291, -.1291), its divergence .00831."""
    learner = cast(
        HATRPO,
        marlzoo.make("hatrpo", toy_spec("discrete"), dtype=torch.float64, kl_threshold=0.01, **SMALL),
    )
    made = TwoLogits(rows=4)
    monkeypatch.setattr("marlzoo.baselines.hatrpo._AgentPolicy", lambda *_: made.policy)
    old = [p.requires_grad_() for p in made.parameters]
    unit = [torch.tensor([[1.0, 0.0]]).double()]
    torch.testing.assert_close(
        made.policy.fisher_product(old, unit)[0], torch.tensor([[0.25, -0.25]]).double()
    )
    advantage = torch.tensor(
        [[2.0, -2.0, 2.0, -2.0]], dtype=torch.float64
    )  # d/dlogits of mean ratio A is (1, -1)
    ratio, told = learner.agent_step(
        {"advantage": advantage}, torch.zeros(1, dtype=torch.int64), torch.ones_like(advantage)
    )
    torch.testing.assert_close(
        made.parameters[0], torch.tensor([[0.12910, -0.12910]]).double(), rtol=0, atol=1e-5
    )
    probability = torch.softmax(made.parameters[0], -1)[0]
    assert probability.tolist() == pytest.approx([0.56419, 0.43581], abs=1e-5)
    assert float(told["policy/kl"]) == pytest.approx(0.00831, abs=1e-5)
    assert (float(told["policy/accepted"]), float(told["policy/step_scale"])) == (1.0, 1.0)
    torch.testing.assert_close(ratio, 2.0 * probability[made.policy._action])


@pytest.mark.parametrize("kind", KINDS)
def test_fisher_products_are_symmetric_and_not_negative(kind: ActionKind) -> None:
    _, policy = agent_policy(kind)
    old = [p.requires_grad_() for p in policy.parameters]
    gradient = torch.autograd.grad(policy.divergence(old).sum(), old)
    assert max(float(g.abs().max()) for g in gradient) < 1e-12  # the divergence is smallest where it is 0
    source = torch.Generator().manual_seed(0)
    u, v = ([torch.randn(p.shape, generator=source, dtype=p.dtype) for p in old] for _ in range(2))
    torch.testing.assert_close(dot(u, policy.fisher_product(old, v)), dot(v, policy.fisher_product(old, u)))
    assert (dot(v, policy.fisher_product(old, v)) > 0).all()
    assert (policy.divergence([p + 0.1 * d for p, d in zip(old, v, strict=True)]) > 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_rejected_step_changes_nothing(kind: ActionKind) -> None:
    """No advantage: no step at all. A step too far, though it promises much: none taken, and M stays."""
    learner = make(kind)
    x, agent = experience(learner), torch.tensor([1, 2])
    before = {name: p.clone() for name, p in learner.named_parameters()}
    policy, source = _AgentPolicy(learner, x, agent), torch.Generator().manual_seed(0)
    far = [100.0 * torch.randn(p.shape, generator=source, dtype=p.dtype) for p in policy.parameters]
    outcomes = [learner._line_search(policy, policy.parameters, far, torch.ones(2), x["advantage"])]
    none = torch.zeros_like(x["advantage"])
    outcomes.append(learner.agent_step(x | {"advantage": none}, agent, torch.ones_like(none)))
    for ratio, told in outcomes:
        assert told["policy/accepted"].tolist() == [0.0, 0.0]
        assert (ratio == 1.0).all()
        assert all(torch.equal(p, before[name]) for name, p in learner.named_parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_one_agent_is_trpo(kind: ActionKind) -> None:
    """The step of TRPO by a dense Fisher matrix: as long as the bound allows, then shortened until it is good."""
    settings: dict[str, Any] = {"n_agents": 1, "hidden": 2, "cg_steps": 60}
    learner, before, agent = make(kind, **settings), make(kind, **settings), torch.tensor([0, 0])
    x = experience(before)
    policy = _AgentPolicy(before, x, agent)
    shapes, delta = [p.shape[1:] for p in policy.parameters], 0.005
    old = torch.cat([p.flatten(1) for p in policy.parameters], dim=1)  # [R, P]

    def parts(flat: Tensor) -> list[Tensor]:
        sizes = [shape.numel() for shape in shapes]
        return [p.view(2, *shape) for p, shape in zip(flat.split(sizes, 1), shapes, strict=True)]

    def surrogate(flat: Tensor) -> Tensor:
        return (policy.ratio(parts(flat)) * x["advantage"]).mean(-1)

    matrix = torch.func.hessian(lambda flat: policy.divergence(parts(flat)).sum())(old)
    gradient = torch.func.grad(lambda flat: surrogate(flat).sum())(old)
    metrics = learner.update(rollout(learner))
    found = torch.cat([p.flatten(1) for p in _AgentPolicy(learner, x, agent).parameters], dim=1)
    for r in (0, 1):
        damped = matrix[r, :, r] + 0.1 * torch.eye(old.shape[1])
        direction = torch.linalg.solve(damped, gradient[r])
        full = (2.0 * delta / (direction @ damped @ direction)).sqrt() * direction
        assert float(0.5 * full @ damped @ full) == pytest.approx(delta, abs=1e-9)
        for k in range(10):
            tried = old.clone()
            tried[r] += 0.8**k * full
            kl = float(policy.divergence(parts(tried))[r])
            gain = float((surrogate(tried) - surrogate(old))[r])
            if kl < delta and gain > 0.5 * 0.8**k * float(gradient[r] @ full) > 0.0:
                break
        torch.testing.assert_close(found[r], tried[r], rtol=0, atol=3e-5)  # conjugate gradients stop at 1e-5
        assert float((tried[r] - old[r]).abs().max()) > 1e-2
        assert float(metrics["policy/kl"][r]) == pytest.approx(kl, abs=1e-5)
        assert float(metrics["policy/gain"][r]) == pytest.approx(gain, abs=1e-5)
        assert gain > 0.0


def test_steps_make_the_paying_action_likelier() -> None:
    """One step, reward 1 for action 0: its probability rises at every step taken, and the mean ratio stays near 1."""
    spec = marlzoo.Spec(2, 1, 1, "discrete", 3, 1)
    sizes: dict[str, Any] = {"num_envs": 8, "rollout": 16, "batch_size": 128, "epochs": 1, "hidden": 4}
    learner = cast(HATRPO, marlzoo.make("hatrpo", spec, seeds=(0, 1), dtype=torch.float64, **sizes))
    one, source, shares = torch.ones(2, 8, 16, 1).double(), torch.Generator().manual_seed(0), []
    obs = one.unsqueeze(-1).expand(-1, -1, -1, 2, -1)
    for _ in range(4):
        logits = learner.nets.actor.log_prob(
            obs.flatten(1, 2)[:, :1].repeat(1, 3, 1, 1), torch.arange(3).view(1, 3, 1).expand(2, 3, 2), None
        )[0]
        probability = logits.detach().exp()  # [R, A, N]
        shares.append(probability[:, 0])
        weights = probability.transpose(1, 2).reshape(4, 3)
        action = torch.multinomial(weights, 128, True, generator=source).view(2, 2, 8, 16).permute(0, 2, 3, 1)
        reward = (action == 0).double().mean(-1)
        batch = Rollout.of(
            {"order": torch.rand(2, 1, 128, generator=source), "turns": torch.rand(2, 2, generator=source)},
            obs=obs,
            state=one,
            next_state=one,
            action=action,
            reward=reward,
            mask=torch.zeros(2, 8, 16).double(),
            ends=torch.ones(2, 8, 16).double(),
            progress=torch.tensor(0.0).double(),
        )
        metrics = learner.update(batch)
        assert (metrics["policy/accepted"] == 1.0).all()
        assert (metrics["policy/kl"] < 0.005).all()
        assert (metrics["policy/compound_ratio"] - 1.0).abs().max() < 3 * 0.2 / 128**0.5
    for earlier, later in pairwise(shares):
        assert (later > earlier).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_compound_ratio_is_the_product_of_all_ratios(kind: ActionKind) -> None:
    learner, before = make(kind, kl_threshold=0.02), make(kind)
    data = rollout(learner)
    metrics = learner.update(data)
    flat = [x.flatten(1, 2) for x in (data.obs, data.action)]
    mask = data.action_mask.flatten(1, 2) if kind == "discrete" else None
    with torch.no_grad():
        new, old = (each.nets.actor.log_prob(*flat, mask)[0] for each in (learner, before))
    torch.testing.assert_close(metrics["policy/compound_ratio"], torch.exp(new - old).prod(-1).mean(1))
    assert (metrics["policy/accepted"] > 0).all()
    assert (metrics["policy/kl"] < 0.02).all()


def test_agrees_on_xor() -> None:
    """Two optima of value 1, no policy shared by the agents is one of them; every seed finds one."""
    sizes: dict[str, Any] = {"num_envs": 64, "rollout": 1, "batch_size": 64, "hidden": 16, "epochs": 2}
    learner = marlzoo.make("hatrpo", games.spec("xor"), seeds=range(3), lr=1e-2, kl_threshold=0.1, **sizes)
    train_online(learner, games.make("xor", 3 * 64), steps=64 * 36)
    found = evaluate(learner.policy(), games.make("xor", 3), seeds=range(3)).returns
    np.testing.assert_array_equal(found, 1.0)
