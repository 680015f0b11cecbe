"""CQL-MA against closed forms."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from marlzoo.baselines.cql_ma import CQLMA
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch
from marlzoo.errors import ConfigError
from marlzoo.modules.critics import Ensemble
from marlzoo.modules.layers import MLP, with_agent_id
from marlzoo.modules.policies import TanhGaussianActor, tanh_gaussian_log_prob
from marlzoo.modules.teams import AgentNet
from marlzoo.spec import ActionKind
from tests.fixed_nets import OBS, set_mixer, set_table, spec_of, transitions

Q = ((1.0, 2.0, 0.0), (0.0, -1.0, 3.0))
W, BIAS = (0.5, 2.0), 0.7


def learner(kind: ActionKind = "discrete", n: int = 2, actions: int = 3, size: int = 1, **more: Any) -> CQLMA:
    settings = {"hidden": 8, "mixer_hidden": 4, "batch_size": size, "cql_samples": 10, **more}
    algorithm = marlzoo.make("cql_ma", spec_of(n, actions, kind), seeds=[0], dtype=torch.float64, **settings)
    assert isinstance(algorithm, CQLMA)
    return algorithm


def tables(algorithm: CQLMA, q: Any, w: Any, b: float) -> None:
    """Fix Q (per agent, or per agent and action), and the mixer; targets too."""
    for net in (algorithm.q, algorithm.target_q):
        if isinstance(net, AgentNet):
            assert isinstance(net.network, MLP)
            set_table(net.network, q)
        else:
            assert isinstance(net, Ensemble)
            set_table(net.members, q)  # inputs are (o, id, a)
    for mixer in (algorithm.mixer, algorithm.target_mixer):
        set_mixer(mixer, w, b)


def continuous_batch(algorithm: CQLMA, action: Any, **fields: Any) -> Batch:
    source = torch.Generator().manual_seed(1)
    noise = {
        name: torch.rand(shape, generator=source)
        if kind == "uniform"
        else torch.randn(shape, generator=source)
        for name, (kind, shape) in algorithm.noise().items()
    }
    return transitions(action, noise=noise, **fields)


def close(a: Tensor, b: float, atol: float = 1e-6) -> None:
    assert float(a) == pytest.approx(b, abs=atol)


@pytest.mark.parametrize(("in_lse", "expected"), [(False, 0.683080), (True, 1.383080)])
def test_penalty_is_the_joint_one(in_lse: bool, expected: float) -> None:
    algorithm = learner(cql_bias_in_lse=in_lse)
    tables(algorithm, Q, W, BIAS)
    joint = [W[0] * a + W[1] * b + BIAS for a in Q[0] for b in Q[1]]
    close(torch.logsumexp(torch.tensor(joint), 0), 8.383080, 1e-5)
    close(algorithm.update(transitions([[1, 2]], actions=3))["q/penalty"], expected)


@pytest.mark.parametrize("in_lse", [False, True])
def test_penalty_of_constant_values_counts_samples(in_lse: bool) -> None:
    algorithm = learner("continuous", n=3, actions=2, cql_bias_in_lse=in_lse)
    tables(algorithm, (0.0, 0.0, 0.0), (0.5, 2.0, 1.0), BIAS)
    loss = algorithm.update(continuous_batch(algorithm, torch.zeros(1, 3, 2)))["q/penalty"]
    close(loss, 3 * math.log(30) + (2 * BIAS if in_lse else 0.0))


def test_importance_correction_subtracts_log_densities() -> None:
    algorithm = learner("continuous", n=1, actions=2, cql_importance=True)
    tables(algorithm, (0.0,), (1.0,), 0.0)
    batch = continuous_batch(algorithm, torch.zeros(1, 1, 2))
    used, obs = torch.ones(1, 2, dtype=torch.float64), (batch.obs, batch.next_obs)
    terms = [torch.full((10,), 2 * math.log(2), dtype=torch.float64)]
    for k in range(2):
        mean, log_std = (x[0, 0, 0].detach() for x in algorithm.actor(with_agent_id(obs[k])))
        action = torch.tanh(mean + log_std.exp() * batch.noise["policy"][0, k, :, 0, 0, 0])
        terms.append(-tanh_gaussian_log_prob(mean, log_std, action, used[0]))
    close(algorithm.update(batch)["q/penalty"], float(torch.logsumexp(torch.cat(terms), 0)))


def test_td_target() -> None:
    for kind, q in (("discrete", ((2.0,) * 3, (-0.5,) * 3)), ("continuous", (2.0, -0.5))):
        for mask, expected in ((1.0, 1.2475), (0.0, 1.0)):
            algorithm = learner(kind, size=2)  # type: ignore[arg-type]
            tables(algorithm, q, W, 0.25)
            fields = {"reward": torch.ones(2), "mask": torch.full((2,), mask)}
            if kind == "discrete":
                metrics = algorithm.update(transitions([[0, 1], [2, 2]], actions=3, **fields))
            else:
                metrics = algorithm.update(continuous_batch(algorithm, torch.zeros(2, 2, 3), **fields))
            close(metrics["q/target_total"], expected)
            close(metrics["q/loss"], (0.25 - expected) ** 2)


def test_next_value_follows_the_policy_or_the_best_legal_action() -> None:
    action_mask = torch.tensor([[[True, True, False]]])
    for mode, expected in (("policy", 1.5), ("argmax", 2.0)):
        algorithm = learner(n=1, td_next=mode, gamma=1.0)
        tables(algorithm, (Q[0],), (1.0,), 0.0)
        assert isinstance(algorithm.actor, AgentNet)
        assert isinstance(algorithm.actor.network, MLP)
        set_table(algorithm.actor.network, ((0.0, 0.0, 9.0),))
        batch = transitions([[0]], actions=3, next_action_mask=action_mask)
        close(algorithm.update(batch)["q/target_total"], expected)


def test_an_illegal_action_changes_nothing() -> None:
    found = []
    for value in (0.0, 100.0):
        algorithm = learner(n=1)
        tables(algorithm, ((1.0, 2.0, value),), (1.0,), 0.0)
        action_mask = torch.tensor([[[True, True, False]]])
        metrics = algorithm.update(
            transitions([[1]], actions=3, action_mask=action_mask, next_action_mask=action_mask)
        )
        found.append([float(metrics[name]) for name in ("q/penalty", "q/loss", "policy/loss")])
    assert found[0] == pytest.approx(found[1], abs=1e-12)
    assert found[0][0] == pytest.approx(math.log(math.e + math.e**2) - 2, abs=1e-6)


def test_an_agent_without_weight_contributes_a_constant() -> None:
    algorithm = learner(n=2)
    tables(algorithm, Q, (0.0, 1.0), 0.0)
    expected = math.log(3) + math.log(1 + math.exp(-1) + math.exp(3)) - 3
    close(algorithm.update(transitions([[1, 2]], actions=3))["q/penalty"], expected)


@pytest.mark.parametrize("value", [1.0, 0.0, -1.0])
def test_policy_loss_is_weighted_by_q(value: float) -> None:
    """As released: Q = 1 is behavior cloning, Q = 0 leaves the policy alone, Q = -1 moves it away from the data."""
    released = {"cql_policy": "q_weighted_bc", "cql_bias_in_lse": True}
    algorithm = learner("continuous", n=1, actions=1, size=4, lr=1e-2, **released)
    tables(algorithm, (value,), (1.0,), 0.0)
    batch = continuous_batch(algorithm, torch.tensor([0.3, -0.2, 0.5, 0.1]).view(4, 1, 1))

    def log_prob() -> Tensor:
        mean, log_std = algorithm.actor(with_agent_id(batch.obs))
        return tanh_gaussian_log_prob(mean, log_std, batch.action).detach().mean()

    before = log_prob()
    metrics = algorithm.update(batch)
    close(metrics["policy/loss"], -value * float(before))
    change = float(log_prob() - before)
    assert (change == 0.0) if value == 0 else (change * value > 0)


@pytest.mark.parametrize("level", [0.0, -50.0, 50.0])
def test_the_level_of_q_changes_no_weight(level: float) -> None:
    """Q_i + c with b - c sum w is the same team value; actions below the policy's mean have weight 0, never less."""
    values = torch.tensor([[0.0, 1.0, 5.0], [3.0, -1.0, 0.0]]) + level
    algorithm = learner(n=2)
    tables(algorithm, values.tolist(), W, BIAS - level * sum(W))
    assert isinstance(algorithm.actor, AgentNet)
    assert isinstance(algorithm.actor.network, MLP)
    set_table(algorithm.actor.network, ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)))
    metrics = algorithm.update(transitions([[2, 1]], actions=3))
    # Agent 0: 5 over a mean of 2; agent 1: -1 under a mean of 2/3.
    close(metrics["policy/loss"], 3.0 * math.log(3), 1e-4)
    close(metrics["value/data_mean"], 0.5 * 5.0 + 2.0 * -1.0 + BIAS, 1e-4)


def test_continuous_advantage_is_over_the_samples_at_the_observation() -> None:
    """Constant values: no advantage, so a policy that has nothing to gain stands still, whatever the level."""
    algorithm = learner("continuous", n=2, actions=2, size=4)
    tables(algorithm, (-7.0, -7.0), (1.0, 1.0), 0.0)
    metrics = algorithm.update(continuous_batch(algorithm, torch.zeros(4, 2, 2)))
    close(metrics["policy/loss"], 0.0)
    close(metrics["weight/ess"], 0.0)


def test_metrics_show_a_policy_on_the_bounds() -> None:
    algorithm = learner("continuous", n=1, actions=2, size=4)
    assert isinstance(algorithm.actor, TanhGaussianActor)
    with torch.no_grad():
        algorithm.actor.mean.bias[..., 0] = 30.0
    metrics = algorithm.update(continuous_batch(algorithm, torch.zeros(4, 1, 2)))
    close(metrics["policy/saturation"], 0.5)
    assert float(metrics["policy/data_log_prob"]) < -30.0


def test_negative_values_do_not_drive_the_policy_away_from_the_data() -> None:
    """The data's values are -10: as released the policy runs to the box's bounds, away from every logged action."""
    action = torch.linspace(-0.5, 0.7, 16).view(16, 1, 1)
    found = {}
    for form in ("advantage_weighted_bc", "q_weighted_bc"):
        algorithm = learner("continuous", n=1, actions=1, size=16, hidden=16, lr=1e-2, cql_policy=form)
        reward = torch.full((16,), -10.0)
        batch = continuous_batch(algorithm, action, reward=reward, mask=torch.zeros(16))
        with torch.no_grad():
            algorithm.q.members.layers[-1].bias.fill_(-10.0)
        for _ in range(40):
            metrics = algorithm.update(batch)
        found[form] = float(metrics["policy/saturation"])
    assert found["q_weighted_bc"] == 1.0
    assert found["advantage_weighted_bc"] == 0.0


def test_warm_up_clones_the_data() -> None:
    algorithm = learner(n=1, policy_bc_warmup=1, cql_policy="q_weighted_bc")
    tables(algorithm, ((5.0, 5.0, 5.0),), (1.0,), 0.0)
    assert isinstance(algorithm.actor, AgentNet)
    assert isinstance(algorithm.actor.network, MLP)
    set_table(algorithm.actor.network, ((0.0, 0.0, 0.0),))
    batch = transitions([[1]], actions=3)
    close(algorithm.update(batch)["policy/loss"], math.log(3))
    assert float(algorithm.update(batch)["policy/loss"]) > 4.0


def test_twins_with_discrete_actions_are_an_error() -> None:
    with pytest.raises(ConfigError, match="n_critics is 2, but the form for discrete actions has one critic"):
        learner(n_critics=2)


def test_bandit_reaches_the_stationary_point() -> None:
    """Arms with rewards (0, 1, 0), only the first two in the data: arm 1 > arm 0 > arm 2."""
    algorithm = learner(n=1, size=2, hidden=16, lr=5e-3, tau=1.0)
    batch = transitions([[0], [1]], actions=3, reward=torch.tensor([0.0, 1.0]), mask=torch.zeros(2))
    for name in ("obs", "state"):
        getattr(batch, name).zero_()
    for k in range(600):
        algorithm.scale_learning_rates(torch.tensor(1.0 - k / 600))
        algorithm.update(batch)
    rows = torch.stack((batch.obs, batch.next_obs), 2)
    values = algorithm.q(Batch.of(obs=rows, action=batch.action)).detach()[0, 0, 0, 0]
    w, b = (x.detach()[0, 0] for x in algorithm.mixer.coefficients(batch.state))
    total, soft = (w * values + b)[:2], torch.softmax(w * values, -1)[:2]
    condition = 2 * (total - torch.tensor([0.0, 1.0])) * 0.5 + soft - 0.5
    assert float(condition.abs().max()) < 1e-3  # arm 2 falls for ever, and moves the others' values a little
    assert values.argsort().tolist() == [2, 0, 1]


def test_strong_penalty_raises_the_data_above_all_else() -> None:
    algorithm = learner("continuous", n=1, actions=1, size=16, hidden=16, lr=3e-3, cql_alpha=10.0)
    batch = continuous_batch(algorithm, torch.full((16, 1, 1), 0.5), mask=torch.zeros(16))
    for _ in range(200):
        algorithm.update(batch)
    obs = with_agent_id(batch.obs)[:, :1]
    grid = torch.linspace(-1, 1, 21, dtype=torch.float64).view(1, 21, 1, 1)
    best = grid.flatten()[algorithm.q(obs.expand(1, 21, 1, OBS + 1), grid)[0, 0].argmax()]
    assert abs(float(best) - 0.5) < 0.25


@pytest.mark.parametrize("weights", [(0.5, 2.0), (0.0, 1.0)])
def test_slopes_of_error_and_penalty_by_hand(weights: tuple[float, float]) -> None:
    """Without penalty 2 w (Q_tot - y) at the data's action alone; the penalty's w (softmax - 1 there) sum to 0."""
    slopes = []
    for alpha in (0.0, 1.0):
        algorithm, caught = learner(cql_alpha=alpha), dict[str, Tensor]()
        tables(algorithm, Q, weights, BIAS)
        algorithm.step = lambda into=caught, **losses: into.update(losses) or {}  # type: ignore[method-assign]
        algorithm.update(transitions([[1, 2]], actions=3, reward=[1.5], mask=torch.zeros(1)))
        assert isinstance(algorithm.q, AgentNet)
        assert isinstance(algorithm.q.network, MLP)
        entries = algorithm.q.network.layers[-1].weight  # by agent and action, see `set_table`
        slopes.append(torch.autograd.grad(caught["q"].sum(), entries)[0][0, :2])
    w, data = torch.tensor(weights).double().unsqueeze(-1), torch.eye(3).double()[[1, 2]]
    error = float((w.squeeze(-1) * torch.tensor([2.0, 3.0])).sum()) + BIAS - 1.5
    torch.testing.assert_close(slopes[0], 2.0 * error * w * data)
    penalty = slopes[1] - slopes[0]
    torch.testing.assert_close(penalty, w * (torch.softmax(w * torch.tensor(Q).double(), -1) - data))
    close(penalty.sum(-1).abs().max(), 0.0, 1e-12)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_the_penalty_does_not_ask_whether_the_task_goes_on(kind: ActionKind) -> None:
    found = []
    for mask in (1.0, 0.0):
        algorithm, fields = learner(kind, size=2), {"mask": torch.full((2,), mask)}
        if kind == "discrete":
            batch = transitions([[0, 1], [2, 2]], actions=3, **fields)
        else:
            batch = continuous_batch(algorithm, torch.zeros(2, 2, 3), **fields)
        found.append(algorithm.update(batch))
    assert torch.equal(found[0]["q/penalty"], found[1]["q/penalty"])
    assert not torch.equal(found[0]["q/loss"], found[1]["q/loss"])


@pytest.mark.parametrize("importance", [False, True])
def test_the_policys_samples_at_both_observations_count_alike(importance: bool) -> None:
    """Where o' = o, those of o and of o' may change places; twice the noise is another penalty."""
    found = []
    for change in ("none", "places", "size"):
        algorithm = learner("continuous", size=4, actions=2, cql_importance=importance)
        batch = continuous_batch(algorithm, torch.zeros(4, 2, 2))
        batch.next_obs = batch.obs
        drawn = batch.noise["policy"]  # [R, 2, K, ...]
        batch.noise["policy"] = {"none": drawn, "places": drawn.flip(1), "size": 2.0 * drawn}[change]
        found.append(float(algorithm.update(batch)["q/penalty"]))
    assert found[1] == pytest.approx(found[0], rel=1e-12)
    assert abs(found[2] - found[0]) > 1e-6


def test_the_next_value_of_a_sure_team_is_that_of_its_actions() -> None:
    """Policies that always take 1 and 2: y = r + gamma (w_0 2 + w_1 3 + b), whatever else is worth more."""
    algorithm = learner(n=2)
    tables(algorithm, ((9.0, 2.0, 0.0), (0.0, 8.0, 3.0)), W, BIAS)
    assert isinstance(algorithm.actor, AgentNet)
    assert isinstance(algorithm.actor.network, MLP)
    set_table(algorithm.actor.network, ((0.0, 1e3, 0.0), (0.0, 0.0, 1e3)))
    found = algorithm.update(transitions([[0, 0]], actions=3, reward=[1.0]))["q/target_total"]
    close(found, 1.0 + 0.99 * (W[0] * 2.0 + W[1] * 3.0 + BIAS))
