"""LOMAQ: neighborhoods, shared rewards, and that values are local."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from marlzoo.algorithms.lomaq import LocalLinearMixers, LocalMixers, neighborhoods
from torch import Tensor

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.modules.teams import LinearMixer
from marlzoo.replicas import Init
from marlzoo.spec import Spec
from marlzoo.training.trainer import make_sampler
from tests.study_scripts import script
from tests.toys import toy_dataset, toy_spec

FOUR = Spec(4, 2, 3, "discrete", 2, 5)


def learner(**settings: Any) -> Any:
    return marlzoo.make("lomaq", FOUR, hidden=8, batch_size=4, dtype=torch.float64, **settings)


def test_neighborhoods() -> None:
    assert neighborhoods("line", 4, 1)[0].tolist() == [1, 1, 0, 0]
    assert neighborhoods("line", 4, 1)[1].tolist() == [1, 1, 1, 0]
    assert neighborhoods("ring", 4, 1)[0].tolist() == [1, 1, 0, 1]
    assert neighborhoods("complete", 4, 1).min() == 1
    for graph in ("line", "ring", "complete"):
        assert torch.equal(neighborhoods(graph, 4, 0), torch.eye(4, dtype=torch.float64))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reward", "local"), [((1, 0, 0, 0), (1 / 2, 1 / 2, 0, 0)), ((0, 1, 0, 0), (1 / 3, 1 / 3, 1 / 3, 0))]
)
def test_rewards_are_shared_out(reward: tuple[int, ...], local: tuple[float, ...]) -> None:
    """On a line and over distance 1: an end agent's among two, an inner one's among three."""
    found = learner(reward_reach=1).shares @ torch.tensor(reward, dtype=torch.float64)
    torch.testing.assert_close(found, torch.tensor(local, dtype=torch.float64))


def test_values_see_their_neighborhood_only_and_rise_with_it() -> None:
    mixers = LocalMixers(Init((0,), dtype=torch.float64), FOUR, neighborhoods("line", 4, 1), 8, 8)
    utilities = torch.randn(1, 6, 4, dtype=torch.float64, requires_grad=True)
    state, near = torch.randn(1, 6, 3, dtype=torch.float64), neighborhoods("line", 4, 1)
    for i in range(4):
        (slope,) = torch.autograd.grad(mixers(utilities, state)[..., i].sum(), utilities)
        assert ((slope != 0).flatten(0, 1).any(0) == near[i].bool()).all()
        assert (slope >= 0).all()


def test_an_agents_error_reaches_its_own_mixer_only() -> None:
    mixers = LocalMixers(Init((0,), dtype=torch.float64), FOUR, neighborhoods("line", 4, 1), 8, 8)
    q = mixers(torch.randn(1, 6, 4, dtype=torch.float64), torch.randn(1, 6, 3, dtype=torch.float64))
    gradients = torch.autograd.grad(q[..., 2].sum(), list(mixers.parameters()))
    for gradient in gradients:
        assert (gradient != 0).flatten(2).any(-1).flatten().tolist() == [False, False, True, False]


def test_the_line_game_of_the_study() -> None:
    """An agent's reward is 1 where its action is its bit, plus noise of its own; the team's is their mean."""
    data = script("lomaq").line_game(n_agents=5, transitions=400, seed=0)
    right = data.action[data.sources] == data.obs[data.sources][..., 0]
    noise = data.reward[data.sources] - right
    assert abs(noise.mean()) < 0.1
    assert noise.std() == pytest.approx(1.0, abs=0.1)
    assert right.mean() == pytest.approx(0.5, abs=0.05)
    assert data.spec.reward_per_agent


@pytest.mark.parametrize("graph", ["line", "ring", "complete"])
@pytest.mark.parametrize("distance", range(4))
def test_sharing_out_keeps_the_sum(graph: str, distance: int) -> None:
    reward = torch.randn(50, 4, dtype=torch.float64)
    local = reward @ learner(graph=graph, reward_reach=distance).shares.mT
    torch.testing.assert_close(local.sum(-1), reward.sum(-1))


def test_each_agents_best_action_is_the_teams() -> None:
    """Of all 3^4 joint actions none has a larger sum of values than the agents' own best ones."""
    mixers = LocalMixers(Init((0,), dtype=torch.float64), FOUR, neighborhoods("line", 4, 1), 8, 8)
    every = torch.randn(1, 20, 4, 3, dtype=torch.float64)
    state = torch.randn(1, 20, 3, dtype=torch.float64)
    joint = torch.cartesian_prod(*[torch.arange(3)] * 4)  # [81, N]
    utilities = torch.stack([every[:, :, i, joint[:, i]] for i in range(4)], dim=-1)  # [1, 20, 81, N]
    total = mixers(utilities, state.unsqueeze(2).expand(1, 20, 81, 3)).sum(-1)
    own = mixers(every.amax(-1), state).sum(-1)
    torch.testing.assert_close(total.amax(-1), own)


def test_who_earned_what_changes_the_targets_but_not_their_sum() -> None:
    """Targets of an update are the reward's alone where the episode ends; rewards change places between agents."""
    found = []
    for order in ((0, 1, 2, 3), (3, 0, 2, 1)):
        data = script("lomaq").line_game(n_agents=4, transitions=20, seed=0)
        algorithm: Any = marlzoo.make("lomaq", data.spec, hidden=8, batch_size=16, dtype=torch.float64)
        batch = make_sampler(algorithm, [data]).next()
        batch.agent_reward = batch.agent_reward[..., list(order)]
        seen: dict[str, Tensor] = {}
        algorithm.step = lambda seen=seen, **losses: seen.update(losses) or {}
        metrics = algorithm.update(batch)
        found.append((float(metrics["q/target"]), float(metrics["q/loss"])))
    (mean, loss), (other_mean, other_loss) = found
    assert other_mean == pytest.approx(mean, abs=1e-12)
    assert abs(other_loss - loss) > 1e-3


def beside(method: str, settings: dict[str, Any], **mine: Any) -> tuple[Any, Any]:
    """LOMAQ and another method of logged transitions with the same utilities, whose targets are half as large."""
    shared: dict[str, Any] = {"hidden": 8, "batch_size": 16, "cql_weight": 1.0, "dtype": torch.float64}
    spec = toy_spec("discrete")
    other: Any = marlzoo.make(method, spec, history="mlp", half_td=False, **shared, **settings)
    algorithm: Any = marlzoo.make("lomaq", spec, **shared, **mine)
    with torch.no_grad():
        for network, factor in ((other.team, 1.0), (other.target, 0.5)):
            target = algorithm.agents if factor == 1.0 else algorithm.target_agents
            for own, theirs in zip(target.parameters(), network.agents.parameters(), strict=True):
                theirs *= factor
                own.copy_(theirs)
    return algorithm, other


def losses_of_one_update(algorithm: Any, earned: Tensor | None = None) -> list[float]:
    """Errors of values and penalty; ``earned`` are the agents' rewards."""
    batch = make_sampler(algorithm, [toy_dataset("discrete")]).next()
    if earned is not None:
        batch.agent_reward = earned
    metrics = algorithm.update(batch)
    return [float(metrics[name]) for name in ("q/loss", "q/penalty")]


def test_all_utilities_in_every_value_and_the_teams_reward_is_qmix() -> None:
    """On a line of three agents a distance of 2 reaches everybody; every mixer is QMIX's."""
    sizes = {"mixer_hidden": 6, "mixer_embed": 4}
    algorithm, other = beside("qmix_cql", {"penalty": "individual", **sizes}, graph="line", reach=2, **sizes)
    with torch.no_grad():
        for mixers, team in ((algorithm.mixers, other.team), (algorithm.target_mixers, other.target)):
            theirs = dict(team.mixer.named_parameters())
            for name, value in mixers.named_parameters():
                value.copy_(theirs[name].unsqueeze(1).expand_as(value))
    assert losses_of_one_update(algorithm) == pytest.approx(losses_of_one_update(other), rel=1e-9)


def test_no_neighbors_and_own_rewards_are_independent_q_learning() -> None:
    """Every value is made of its agent's utility alone; here by the identity, which is monotone."""
    algorithm, other = beside("iql_cql", {}, reach=0, reward_reach=0, mixer_embed=1)
    with torch.no_grad():
        for mixers in (algorithm.mixers, algorithm.target_mixers):
            for part, bias in (("first", 1.0), ("first_bias", 100.0), ("last", 1.0), ("value", -100.0)):
                layer = getattr(mixers, part)
                layer = layer if part == "first_bias" else layer.layers[-1]  # 100 is far from the ELU's bend
                layer.weight.zero_()
                layer.bias.fill_(bias)
    source = torch.Generator().manual_seed(0)
    earned = torch.randn(1, 16, 3, generator=source, dtype=torch.float64)
    found, wanted = (losses_of_one_update(each, earned) for each in (algorithm, other))
    assert found == pytest.approx(wanted, rel=1e-9)
    assert abs(losses_of_one_update(algorithm, earned.flip(-1))[0] - wanted[0]) > 1e-3


def test_on_the_line_local_errors_teach_forty_agents() -> None:
    """300 uniform transitions: at least 98 % of the greedy actions are right."""
    module = script("lomaq")
    numbers = module.lines(module.Options(agents=(40,), seeds=(0,), updates=60))
    right = numbers.groupby("loss")["right"].mean()
    assert right["local"] >= 0.98 > right["global"]


# Continuous actions -----------------------------------------------------------------------------------------

BOX = Spec(4, 2, 8, "continuous", 1, 5)


def test_linear_mixers_see_their_neighborhood_only_and_rise_with_it() -> None:
    """Weights of others are 0, none is negative, and what others observe changes nothing."""
    near = neighborhoods("line", 4, 1)
    mixers = LocalLinearMixers(Init((0,), dtype=torch.float64), BOX, near, 8)
    obs = torch.randn(1, 6, 4, 2, dtype=torch.float64, requires_grad=True)
    weight, bias = mixers.coefficients(obs)
    assert (weight >= 0).all()
    assert ((weight != 0).flatten(0, 1).any(0) == near.bool()).all()
    for i in range(4):
        for told in (weight[..., i, :], bias[..., i]):
            (slope,) = torch.autograd.grad(told.sum(), obs, retain_graph=True)
            assert ((slope != 0).any(-1).flatten(0, 1).any(0) == near[i].bool()).all()
    values = torch.randn(1, 6, 4, dtype=torch.float64)
    whole = torch.stack([(weight[..., i, :] * values).sum(-1) + bias[..., i] for i in range(4)], dim=-1)
    torch.testing.assert_close(mixers(values, obs), whole)


def continuous_line(n_agents: int, transitions: int, agents_earn: bool = True) -> Dataset:
    """One step; agent i earns 1 less the distance of its action from what it sees, plus noise of its own."""
    rng = np.random.default_rng(0)
    obs, action = (rng.uniform(-1, 1, (transitions, n_agents, 1)) for _ in range(2))
    reward = 1.0 - np.abs(action - obs)[..., 0] + rng.normal(size=(transitions, n_agents))
    reward = reward if agents_earn else reward.mean(-1)
    return Dataset.from_episodes(
        [
            {"obs": np.stack((o, o)), "action": a[None], "reward": r[None], "terminal": True}
            for o, a, r in zip(obs, action, reward, strict=True)
        ]
    )


def test_one_mixer_of_everything_and_the_teams_reward_is_omiga() -> None:
    """Every agent's mixer is OMIGA's, and its state all observations: the losses of an update are OMIGA's."""
    data = continuous_line(3, 40, agents_earn=False)
    given = {"hidden": 8, "mixer_hidden": 5, "batch_size": 16, "alpha": 0.5, "dtype": torch.float64}
    omiga: Any = marlzoo.make("omiga", data.spec, stabilize_v=False, **given)
    mine: Any = marlzoo.make("lomaq", data.spec, graph="complete", target_period=0, **given)
    assert isinstance(omiga.mixer, LinearMixer)
    with torch.no_grad():
        for target in ("", "target_"):
            for part in ("body", "weight", "bias"):
                theirs = getattr(getattr(omiga, f"{target}mixer"), part)
                for name, value in getattr(getattr(mine, f"{target}linear_mixers"), part).named_parameters():
                    value.copy_(theirs.get_parameter(name).unsqueeze(1).expand_as(value))
        for old, new in zip(omiga.actor.parameters(), mine.actor.parameters(), strict=True):
            new.copy_(old)
        for name in ("v", "target_v"):
            getattr(mine, name).load_state_dict(getattr(omiga, name).state_dict())
        for name in ("q", "target_q"):  # here the number stands before the action
            getattr(mine, name).load_state_dict(getattr(omiga, name).state_dict())
            first = getattr(mine, name).layers[0].weight
            first.copy_(torch.cat((first[:, :1], first[:, 2:], first[:, 1:2]), dim=1))
    batches = [make_sampler(each, [data]).next() for each in (omiga, mine)]
    torch.testing.assert_close(batches[0].obs, batches[1].obs)
    found, own = (each.update(batch) for each, batch in zip((omiga, mine), batches, strict=True))
    for name in ("q/loss", "v/loss", "policy/loss"):
        torch.testing.assert_close(own[name], found[name])
    torch.testing.assert_close(own["q/mean"], found["q/total"])


def test_on_a_continuous_line_local_errors_teach_more_than_the_teams() -> None:
    """Distance of eight agents' actions from the best ones, learned from 1000 uniform transitions."""
    data = continuous_line(8, 1000)
    settings = {"reach": 0, "alpha": 0.01, "hidden": 32, "lr": 5e-3, "tau": 0.1, "target_period": 0}
    off = {}
    for loss in ("local", "global"):
        algorithm: Any = marlzoo.make("lomaq", data.spec, loss=loss, **settings)
        sampler = make_sampler(algorithm, [data])
        for _ in range(150):
            algorithm.update(sampler.next())
        seen = torch.from_numpy(data.obs[data.sources]).unsqueeze(0)
        off[loss] = float((algorithm.policy().act(seen) - seen).abs().mean().detach())
    assert off["local"] < 0.1
    assert off["global"] > 1.5 * off["local"]
