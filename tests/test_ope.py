"""Off-policy evaluation against closed forms: a two-step team task, bandits that can be enumerated, exact models."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

import marlzoo
from marlzoo.batch import Batch
from marlzoo.cli import main
from marlzoo.cli.judging import _text
from marlzoo.data.dataset import Dataset
from marlzoo.errors import ConfigError, DataError, SpecError
from marlzoo.modules.policies import Policy
from marlzoo.offpolicy.acting import policy_actions
from marlzoo.offpolicy.behavior import fitted_log_prob, known_log_prob, uniform_log_prob
from marlzoo.offpolicy.fqe import FittedValues, FQESettings, _chances, fit_values
from marlzoo.offpolicy.importance import (
    LoggedEpisodes,
    doubly_robust,
    effective_episodes,
    resamples,
    weighted_importance,
)
from marlzoo.offpolicy.ope import Estimate, _episodes, _of_starts, _percentiles, ope
from marlzoo.spec import Spec
from tests.toys import toy_dataset, toy_spec

GAMMA = 0.9
QUICK = FQESettings(updates=400, hidden=32, batch_size=64, lr=3e-3, tau=0.05, members=2)
JOINT = list(itertools.product((0, 1), repeat=2))


def outcome(first: tuple[int, int], second: tuple[int, int]) -> tuple[int, float, float]:
    """The two-step task: the second state and both rewards."""
    if first[0] == first[1]:
        return 1, 0.0, 2.0 * second[0]
    return 2, 1.0, -1.0 * second[1]


def two_steps(episodes: list[tuple[tuple[int, int], tuple[int, int]]]) -> Dataset:
    recorded = []
    for first, second in episodes:
        state, *reward = outcome(first, second)
        obs = np.eye(4, dtype=np.float32)[[0, state, 3]]
        steps = {"action": np.array([first, second]), "reward": np.array(reward), "terminal": True}
        recorded.append({"obs": np.stack([obs, obs], 1), **steps})
    return Dataset.from_episodes(recorded, n_actions=2)


def uniform_data(copies: int = 10) -> Dataset:
    """Every pair of joint actions equally often, as from uniform behavior and without chance."""
    return two_steps(list(itertools.product(JOINT, JOINT)) * copies)


class Always(Policy):
    """Replica r's team always takes the joint action ``actions[r]``."""

    def __init__(self, actions: list[tuple[int, int]]) -> None:
        super().__init__()
        self.actions = torch.tensor(actions)

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Any = None) -> Tensor:
        return self.actions[:, None].expand(*obs.shape[:3])


def teams(data: Dataset, actions: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> Any:
    learner = marlzoo.make("bc", data.spec, seeds=range(len(actions)), hidden=8, gamma=GAMMA)
    monkeypatch.setattr(learner, "policy", lambda: Always(actions))
    return learner


# ---- the whole -------------------------------------------------------------------------------------------


def test_all_estimators_find_the_known_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """(1, 1) earns 0 and then 2; (0, 1) earns 1 and then -1. The data's mean is neither."""
    data = uniform_data()
    found = ope(teams(data, [(1, 1), (0, 1)], monkeypatch), data, behavior="uniform", settings=QUICK)
    assert [(line.seed, line.estimator) for line in found] == [
        (r, name) for r in (0, 1) for name in ("fqe", "pdwis", "dr")
    ]
    for line in found:
        known = (2 * GAMMA, 1 - GAMMA)[line.seed]
        assert line.value == pytest.approx(known, abs=0.15 if line.estimator == "fqe" else 1e-6)
        assert line.low <= line.value <= line.high
        assert line.behavior == pytest.approx(0.5 + GAMMA * 0.25)
        assert line.effective_episodes == (None if line.estimator == "fqe" else pytest.approx(10))
    alone = ope(teams(data, [(1, 1)], monkeypatch), data, behavior="uniform", settings=QUICK)
    for line, other in zip(alone, found, strict=False):
        assert line.value == pytest.approx(other.value, abs=1e-4)


def test_each_team_is_fitted_with_its_discount_by_networks_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data, settings = uniform_data(1), replace(QUICK, updates=5)
    both, one = ([(1, 1), (0, 1)], [0.9, 0.1]), ([(1, 1)], [0.9])
    found = []
    for actions, gamma in (both, one):
        learner = teams(data, actions, monkeypatch)
        taken = policy_actions(learner, data)
        found.append(
            fit_values(learner, data, taken, torch.tensor(gamma), np.ones((2, data.episodes)), settings).v
        )
    np.testing.assert_allclose(found[0][:1], found[1], rtol=1e-5)
    start = fit_values(
        learner, data, taken, torch.tensor(gamma), np.ones((2, data.episodes)), replace(settings, updates=0)
    )
    assert np.abs(start.v[0, 0] - start.v[0, 1]).max() > 1e-3


def test_an_episode_is_drawn_as_often_as_it_counts() -> None:
    data = two_steps(list[Any](itertools.product(JOINT, JOINT))[:3])
    counts = np.array([[1.0, 1.0, 1.0], [0.0, 3.0, 1.0]])
    found = np.diff(_chances(data, counts).numpy(), axis=1, prepend=0.0)
    np.testing.assert_allclose(found, [[1 / 6] * 6, [0, 0, 3 / 8, 3 / 8, 1 / 8, 1 / 8]], atol=1e-6)


def test_an_estimate_is_that_of_all_episodes_and_weighs_by_the_behavior(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pairs: list[Any] = list(itertools.product(JOINT, JOINT))
    data = two_steps([pairs[k] for k in (0, 3, 3, 12, 15, 15, 15, 7)])
    learner = teams(data, [(1, 1), (0, 0)], monkeypatch)
    behavior = np.linspace(0.1, 1.0, data.transitions)
    taken = policy_actions(learner, data)
    episodes = _episodes(data, taken, np.log(behavior), None, False)
    agree = (taken[:, 0, data.sources] == torch.from_numpy(data.action[data.sources])).all(-1).numpy()
    np.testing.assert_allclose(episodes.ratio, np.cumprod((agree / behavior).reshape(2, -1, 2), -1))
    counts: list[NDArray[np.float64]] = []

    def counted(episodes: LoggedEpisodes, gamma: Any, times: NDArray[np.float64]) -> NDArray[np.float64]:
        counts.append(times)
        return weighted_importance(episodes, gamma, times)

    monkeypatch.setattr(sys.modules[ope.__module__], "weighted_importance", counted)
    found = ope(learner, data, estimators=("pdwis",), behavior=behavior, bootstrap=5)
    assert counts[0].shape == (6, data.episodes)
    assert (counts[0][0] == 1).all()
    whole = weighted_importance(episodes, np.full(2, GAMMA), np.ones((1, data.episodes)))[:, 0]
    assert [line.value for line in found] == pytest.approx(whole.tolist())


def test_intervals_have_their_ends_in_order_and_leave_the_estimate_out() -> None:
    value, low, high = _percentiles(np.array([[7.0, *range(100), np.nan]]))
    expected = np.quantile([*range(100), 7.0], [0.025, 0.975])
    assert (value[0], low[0], high[0]) == pytest.approx((7.0, *expected))
    data = two_steps([((0, 0), (1, 0)), ((0, 1), (1, 0))])
    v = np.zeros((1, 4, data.rows))
    v[0, :, data.starts] = np.array([[5.0, 7.0], [1.0, 1.0], [2.0, 2.0], [6.0, 6.0]]).T
    value, low, high = _of_starts(FittedValues(v, v[:, 0]), data, np.ones((4, 2)))
    spread = 1.96 * np.std([1.0, 2.0, 6.0], ddof=1)
    assert (value[0], low[0], high[0]) == pytest.approx((6.0, 6.0 - spread, 6.0 + spread), rel=1e-3)


def test_what_no_episode_shows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    data = two_steps([((0, 0), (1, 0)), ((0, 1), (1, 0))])
    pdwis, dr = ope(teams(data, [(1, 1)], monkeypatch), data, estimators=("pdwis", "dr"), settings=QUICK)
    assert np.isnan(pdwis.value)
    assert pdwis.effective_episodes == 0
    assert np.isfinite(dr.value)  # the model alone


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
def test_a_team_that_diverged_is_not_judged(kind: Any) -> None:
    """Of parameters that are not finite the largest logit is still some action."""
    learner = marlzoo.make("bc", toy_spec(kind), seeds=[3, 5], hidden=8)
    with torch.no_grad():
        for parameter in learner.parameters():
            parameter[0] = np.nan
    nothing, some = ope(learner, toy_dataset(kind), estimators=("fqe",), settings=replace(QUICK, updates=3))
    assert (nothing.diverged, some.diverged) == (True, False)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all()
    assert np.isfinite(some.value)
    assert _text(nothing).endswith("none, because the team diverged (its parameters are not finite)")


@pytest.mark.filterwarnings("ignore:.* encountered in:RuntimeWarning")
def test_a_fit_that_is_not_finite_is_no_lack_of_agreement() -> None:
    """Observations whose squares float32 cannot hold: every fit fails, whichever actions the team takes."""
    episodes = [
        {"obs": np.full((3, 2, 2), 1e38), "action": np.array(pair), "reward": np.ones(2), "terminal": True}
        for pair in itertools.product(JOINT, JOINT)
    ]
    data = Dataset.from_episodes(episodes, n_actions=2)
    learner = marlzoo.make("bc", data.spec, hidden=8)
    for line in ope(learner, data, settings=replace(QUICK, updates=3)):
        assert (np.isnan(line.value), line.diverged) == (True, False)
        assert _text(line).endswith(
            "what was fitted to the data is not finite; scale observations and rewards"
        )


# ---- importance weights ----------------------------------------------------------------------------------


def random_episodes(seed: int = 0) -> tuple[LoggedEpisodes, NDArray[np.float64], NDArray[np.float64]]:
    rng = np.random.default_rng(seed)
    ratio = np.cumprod(rng.gamma(1.0, size=(2, 6, 4)), -1)
    episodes = LoggedEpisodes(
        ratio, rng.normal(size=(6, 4)), rng.normal(size=(2, 6, 4)), rng.normal(size=(2, 6, 5))
    )
    return episodes, np.array([0.9, 0.5]), resamples(6, 3, seed)


def test_both_estimators_are_their_formulas() -> None:
    episodes, gamma, counts = random_episodes()
    assert episodes.q is not None
    assert episodes.v is not None
    assert (counts[0] == 1).all()
    assert (counts.sum(1) == 6).all()
    weighted, robust = weighted_importance(episodes, gamma, counts), doubly_robust(episodes, gamma, counts)
    for r, b in itertools.product(range(2), range(4)):
        c, w, reward = counts[b], episodes.ratio[r], episodes.reward
        value, corrected = 0.0, 0.0
        for t in range(5):
            before = c * (w[:, t - 1] if t else 1.0)
            corrected += gamma[r] ** t * (before * episodes.v[r, :, t]).sum() / before.sum()
            if t < 4:
                now = c * w[:, t] / (c * w[:, t]).sum()
                value += gamma[r] ** t * (now * reward[:, t]).sum()
                corrected += gamma[r] ** t * (now * (reward[:, t] - episodes.q[r, :, t])).sum()
        assert weighted[r, b] == pytest.approx(value)
        assert robust[r, b] == pytest.approx(corrected)


def test_weighting_is_biased_towards_the_behavior_and_less_so_with_more_episodes() -> None:
    """A bandit that pays the action; behavior 0.5, team 0.9. Expectations over all datasets of n episodes."""
    means = []
    for n in (1, 2, 6):
        values = []
        for actions in itertools.product((0.0, 1.0), repeat=n):
            reward = np.array(actions)[:, None]
            ratio = np.where(reward == 1, 0.9, 0.1)[None] / 0.5
            values.append(
                weighted_importance(LoggedEpisodes(ratio, reward), np.ones(1), np.ones((1, n)))[0, 0]
            )
        means.append(np.mean(values))
    assert means[:2] == pytest.approx([0.5, 0.7])
    assert 0.7 < means[2] < 0.9
    same = LoggedEpisodes(np.ones((1, 3, 1)), np.array([[1.0], [2.0], [6.0]]))
    assert weighted_importance(same, np.ones(1), np.ones((1, 3)))[0, 0] == 3.0
    np.testing.assert_allclose(effective_episodes(same.ratio), 3.0)
    np.testing.assert_allclose(effective_episodes(np.array([[[9.0, 1.0], [9.0, 3.0]]])), 1.6)
    assert not np.array_equal(resamples(6, 3, 0), resamples(6, 3, 1))


def test_doubly_robust_is_exact_if_either_part_is() -> None:
    """Exact values with wrong weights, and right weights with wrong values."""
    rng = np.random.default_rng(0)
    pairs = list(itertools.product(JOINT, JOINT))
    team = (1, 1)
    outcomes = [outcome(*pair) for pair in pairs]
    states, reward = [state for state, *_ in outcomes], np.array([earned for _, *earned in outcomes])
    after = np.array([outcome((0, 0) if state == 1 else (0, 1), team)[2] for state in states])
    v = np.stack([np.full(16, 2 * GAMMA), after, np.zeros(16)], -1)[None]
    q = np.stack([reward[:, 0] + GAMMA * after, reward[:, 1]], -1)[None]
    gamma, once = np.array([GAMMA]), np.ones((1, 16))
    unseen = LoggedEpisodes(
        np.zeros((1, 16, 2)), reward, q, v
    )  # no episode agrees: the first value stands alone
    assert doubly_robust(unseen, gamma, once)[0, 0] == pytest.approx(2 * GAMMA)
    wrong = np.cumprod(rng.gamma(1.0, size=(1, 16, 2)), -1)
    assert doubly_robust(LoggedEpisodes(wrong, reward, q, v), gamma, once)[0, 0] == pytest.approx(2 * GAMMA)
    agrees = np.array([[pair[0] == team, pair[1] == team] for pair in pairs])
    right = np.cumprod(agrees * 4.0, -1)[None]
    by_state = rng.normal(size=(3, 4))  # a wrong value of every state and joint action
    first, second = (np.array([JOINT.index(pair[k]) for pair in pairs]) for k in (0, 1))
    best = JOINT.index(team)
    bad_q = np.stack([by_state[0, first], by_state[states, second]], -1)[None]
    bad_v = np.stack([np.full(16, by_state[0, best]), by_state[states, best], np.zeros(16)], -1)[None]
    assert doubly_robust(LoggedEpisodes(right, reward, bad_q, bad_v), gamma, once)[0, 0] == pytest.approx(
        2 * GAMMA
    )


# ---- behavior and actions --------------------------------------------------------------------------------


def test_the_fitted_behavior_keeps_what_the_team_agreed_on() -> None:
    data = marlzoo.load_dataset("games/xor/marlzoo/D2")  # (0, 1) and (1, 0), never (0, 0) or (1, 1)
    np.testing.assert_allclose(np.exp(fitted_log_prob(data, updates=300)), 0.5, atol=0.03)
    legal = toy_dataset("discrete")
    assert legal.action_mask is not None
    counts = legal.action_mask[legal.sources].sum(-1).prod(-1)
    np.testing.assert_allclose(np.exp(-uniform_log_prob(legal)), counts)


def test_the_fitted_behavior_has_the_datas_shares() -> None:
    data = marlzoo.load_dataset("games/xor/marlzoo/D3")
    joint = data.action[data.sources].tolist()
    shares = [joint.count(pair) / len(joint) for pair in joint]
    np.testing.assert_allclose(np.exp(fitted_log_prob(data, updates=400)), shares, atol=0.02)


def test_known_probabilities_are_logged_and_checked() -> None:
    data = toy_dataset("discrete")
    given = np.linspace(0.1, 1.0, data.transitions)
    np.testing.assert_allclose(known_log_prob(data, given), np.log(given))
    for wrong in (0.0, 1.01):
        given[3] = wrong
        with pytest.raises(ConfigError, match=r"outside \(0, 1\]"):
            known_log_prob(data, given)


def test_a_recurrent_team_acts_on_the_logged_past() -> None:
    data = toy_dataset("discrete")
    learner = marlzoo.make("qmix_cql", data.spec, seeds=[0, 1], hidden=8, history="rnn", last_action=True)
    with torch.no_grad():  # so that the last action matters more than all else
        learner.team.agents.network.encode.weight[:, 5:9] *= 100.0  # type: ignore[operator, union-attr]
    found = policy_actions(learner, data)
    assert found.shape == (2, 1, data.rows, 3)
    for start, end in zip(data.starts, data.ends, strict=True):
        rows = slice(start, end + 1)
        obs = torch.from_numpy(data.obs[rows]).expand(2, 1, -1, -1, -1)
        action = torch.from_numpy(data.action[start:end]).expand(2, 1, -1, -1)
        mask = torch.from_numpy(np.array(data.action_mask)[rows])
        with torch.no_grad():
            values = learner.team.agents(Batch.of(obs=obs, action=action))[:, 0]  # type: ignore[operator, union-attr]
        best = values.masked_fill(~mask, -1e8).argmax(-1)
        assert torch.equal(found[:, 0, rows], best)


class Repeating(Policy):
    """Does what was done last."""

    def __init__(self, spec: Spec) -> None:
        super().__init__()
        self.shape = (spec.n_agents,) if spec.discrete else (spec.n_agents, spec.action_size)
        self.last: Tensor | None = None

    def act(self, obs: Tensor, action_mask: Tensor | None = None, random: Any = None) -> Tensor:
        return obs.new_zeros(*obs.shape[:2], *self.shape) if self.last is None else self.last

    def took(self, action: Tensor) -> None:
        self.last = action


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_a_policy_hears_of_the_logged_actions(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    data = toy_dataset(kind)
    learner = marlzoo.make("bc", data.spec, hidden=8)
    monkeypatch.setattr(learner, "policy", lambda: Repeating(data.spec))
    found = policy_actions(learner, data)[0, 0]
    for start, end in zip(data.starts, data.ends, strict=True):
        assert not found[start].any()
        np.testing.assert_array_equal(found[start + 1 : end + 1], data.action[start:end])


def test_sampled_policies_are_sampled_several_times() -> None:
    data = toy_dataset("discrete", episodes=5)
    learner = marlzoo.make("bc", data.spec, hidden=8, eval_mode="sample")
    found = policy_actions(learner, data)
    assert found.shape == (1, 16, data.rows, 3)
    assert (found[:, :1] != found).any()


def test_all_episodes_are_acted_in_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []
    monkeypatch.setattr(Always, "reset", lambda self, copies, ids=None: begun.append(copies))
    data = uniform_data(1)
    policy_actions(teams(data, [(1, 1)], monkeypatch), data)
    assert begun == [data.episodes]


# ---- command and bad input -------------------------------------------------------------------------------


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = marlzoo.load_dataset("games/xor/marlzoo/D3", episodes=30)
    learner = marlzoo.make("omiga", data.spec, seeds=[4, 6], hidden=8)
    marlzoo.save(tmp_path / "run.npz", learner)
    command = ["ope", f"{tmp_path}/run.npz", "--data", "games/xor/marlzoo/D3"]
    quick = ["--updates", "3", "--members", "1", "--hidden", "8", "--bootstrap", "20"]
    assert main([*command, *quick, "--json"]) == 0
    lines = json.loads(capsys.readouterr().out)
    assert [(line["seed"], line["estimator"]) for line in lines[2:4]] == [(4, "dr"), (6, "fqe")]
    assert main([*command, *quick, "--estimators", "pdwis", "--behavior", "uniform"]) == 0
    text = capsys.readouterr().out
    assert "not returns measured in the simulator" in text
    assert "seed 6, per-decision weighted importance sampling" in text


def test_noise_of_rounding_is_not_printed() -> None:
    found = Estimate(0, "fqe", 1.9e-8, -1.37e-6, 1234.5, 0.99, None, 0.667)
    assert _text(found).endswith(": 0 [0, 1234] (gamma 0.99; the data's own 1)")
    small = replace(found, value=1.9e-8, high=-7e-23, behavior=0.0123)
    assert _text(small).endswith(": 0.0000 [0.0000, 0.0000] (gamma 0.99; the data's own 0.0123)")


def test_no_interval_where_the_fitted_values_stand_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No episode agrees with the team: resampling episodes changes nothing, which is no certainty."""
    data = uniform_data()
    team = teams(data, [(1, 1)], monkeypatch)
    never = np.full_like(uniform_log_prob(data), np.inf)  # weights of 0
    monkeypatch.setattr("marlzoo.offpolicy.ope.uniform_log_prob", lambda _: never)
    fqe, pdwis, dr = ope(team, data, behavior="uniform", settings=QUICK)
    assert dr.effective_episodes == 0.0
    assert np.isfinite(dr.value)
    assert np.isnan([pdwis.value, dr.low, dr.high]).all()
    assert _text(dr).partition(": ")[2].partition(" (")[0].endswith(", no interval")
    assert _text(replace(fqe, low=float("nan"), high=float("nan"))).count("nan") == 0


def test_bad_input() -> None:
    continuous, discrete = toy_dataset(), toy_dataset("discrete")
    learner = marlzoo.make("bc", toy_spec(), hidden=8)
    with pytest.raises(
        SpecError, match="bc cannot be judged by toy/walk/test/seed0: action_kind: continuous != disc"
    ):
        ope(learner, discrete)
    with pytest.raises(SpecError, match="pdwis needs discrete actions"):
        ope(learner, continuous, estimators=("pdwis",))
    other: Any = ("magic",)
    with pytest.raises(ConfigError, match="estimator 'magic' is unknown; choose from fqe, pdwis, dr"):
        ope(learner, continuous, estimators=other)
    letters: Any = "fqe"
    with pytest.raises(ConfigError, match=r"estimators is 'fqe'; give a list, such as \['fqe'\]"):
        ope(learner, continuous, estimators=letters)
    with pytest.raises(ConfigError, match="hidden is 0; it must be an integer of at least 1"):
        ope(learner, continuous, settings=FQESettings(hidden=0))
    with pytest.raises(ConfigError, match=r"gamma is 1.5; it must lie in \[0, 1\]"):
        ope(learner, continuous, gamma=1.5)
    wrong: tuple[tuple[str, Any, str], ...] = (
        ("batch_size", 0, "an integer of at least 1"),
        ("updates", 2.5, "an integer of at least 1"),
        ("lr", -1.0, r"in \(0, 1\]"),
        ("tau", 5.0, r"in \(0, 1\]"),
        ("tau", 0.0, r"in \(0, 1\]"),
    )
    for name, value, text in wrong:
        with pytest.raises(ConfigError, match=f"{name} is {value}; it must .*{text}"):
            ope(learner, continuous, settings=FQESettings(**{name: value}))
    with pytest.raises(ConfigError, match="seed is -1; it must be an integer of at least 0"):
        ope(learner, continuous, seed=-1)
    with pytest.raises(ConfigError, match=r"gamma is 'x'; it must lie in \[0, 1\]"):
        ope(learner, continuous, gamma="x")  # type: ignore[arg-type]
    team = marlzoo.make("bc", discrete.spec, hidden=8)
    with pytest.raises(DataError, match="its source does not tell where episodes begin"):
        ope(team, discrete.with_card(replace(discrete.card, bounds_known=False)))
    with pytest.raises(ConfigError, match="give one probability per transition"):
        ope(team, discrete, estimators=("pdwis",), behavior=np.ones(3))
    with pytest.raises(ConfigError, match="outside"):
        ope(team, discrete, estimators=("pdwis",), behavior=np.zeros(discrete.transitions))
