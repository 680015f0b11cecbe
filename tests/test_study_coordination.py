"""The study of coordination games: predictions, training, resuming, and what is compared."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from marlzoo.benchmarks import game_theory

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.modules.layers import with_agent_id
from tests.study_scripts import script, written


def predicted(family: str, game: str, quality: str, **options: Any) -> float:
    form = game_theory.Form("a method", family, **options)
    low, high = game_theory.prediction(form, game, game_data.dataset(game, quality))
    assert high - low < 1e-3 or np.isnan((low, high)).all()
    return float(low)


def test_predictions_of_the_coordination_games() -> None:
    """Each value known (specification of the coordination games, section 1); NaN where chance decides."""
    table = {
        "cloning": (1, 0, 2 / 9, 0),
        "additive, any": (np.nan, np.nan, -2, 0),
        "additive, in-sample": (1, np.nan, -2, 0),
        "sequential": (1, 1, 1, 1),
        "critic": (np.nan,) * 4,
        "monotone": (np.nan, np.nan, -2, np.nan),
    }
    for family, known in table.items():
        found = [predicted(family, "xor", f"D{k}") for k in range(1, 5)]
        np.testing.assert_allclose(found, known, atol=1e-3)
    assert predicted("cloning", "xor-four", "optimal") == pytest.approx(-0.25)
    assert predicted("cloning", "modes-16", "modes") == pytest.approx(2.0**-15)
    assert predicted("additive, in-sample", "equilibria", "imbalanced") == 20.0
    assert predicted("independent", "equilibria", "imbalanced") == 20.0  # the mean reward of rare actions
    assert predicted("additive, in-sample", "equilibria", "imbalanced", threshold=0.4) == 5.0
    assert (
        predicted("additive, in-sample", "equilibria", "balanced", threshold=0.9) == 20.0
    )  # all are as likely


def test_best_answers_end_in_an_equilibrium() -> None:
    """Not always the best one: nobody leaves the zeros in the middle of XOR with four actions alone."""
    assert predicted("sequential", "xor-four", "optimal") == pytest.approx(1, abs=1e-3)
    assert predicted("sequential", "xor-four", "uniform") == pytest.approx(0, abs=1e-3)
    assert predicted("sequential", "equilibria", "balanced") == pytest.approx(20, abs=1e-3)
    found = game_theory.best_answers("equilibria", game_data.dataset("equilibria", "imbalanced"))
    np.testing.assert_allclose(found, (5, 20), atol=1e-3)
    data = game_data.dataset("xor-four", "uniform", episodes=50)
    data.action[:] = [0, 1]  # no other pair is in the data; the reversed one pays -1
    np.testing.assert_allclose(game_theory.best_answers("xor-four", data), (-2, -2), atol=1e-3)


def test_bounded_weights_of_the_team_cannot_tell_better_from_best() -> None:
    """Where the bound of 100 binds at all three equilibria, they are equally likely: a mean over nine cells."""
    mixed = script("coordination").MIXED

    def value(game: str, quality: str, beta: float) -> float:
        form = game_theory.Form("maiql", "team weights", settings={**mixed, "beta": beta})
        low, high = game_theory.prediction(form, game, game_data.dataset(game, quality))
        assert high - low < 0.02
        return float(low + high) / 2

    for quality, known in (("D1", 1), ("D2", 0), ("D3", 0), ("D4", 0)):
        assert value("xor", quality, 10.0) == pytest.approx(known, abs=1e-3)
    form = game_theory.Form("maiql", "team weights", settings={**mixed, "beta": 10.0})
    game = "coordination-3x3"  # whether 5 weighs as much as 100 hangs on half a percent of V
    low, high = game_theory.prediction(form, game, game_data.dataset(game, "uniform"))
    assert low == pytest.approx(1.25, abs=0.01)
    assert high > 90
    assert value("equilibria", "balanced", 10.0) == pytest.approx(-85 / 9, abs=1e-3)
    assert value("equilibria", "balanced", 0.0) == pytest.approx(-85 / 9, abs=1e-3)  # cloning
    weight = np.exp(0.1 * np.array([5, 10, 20])) + 2 * np.exp(0.1 * -20)  # the bound does not bind
    p = weight / weight.sum()
    expected = (p**2 * [25, 30, 40]).sum() - 20
    assert value("equilibria", "balanced", 0.1) == pytest.approx(expected, rel=5e-3)


def test_weights_of_the_team_are_those_of_values_around_the_exact_one() -> None:
    reward = np.array([0.0, 1.0, 4.0])
    form = game_theory.Form(
        "maiql", "team weights", settings={"beta": 0.5, "expectile": 0.7, "weight_cap": 1e9}
    )
    values = reward - np.log(game_theory.team_weights(form, reward)) / 0.5  # one for each error and reward
    exact = values[2]
    np.testing.assert_allclose(exact, exact[0], atol=1e-9)
    above = np.maximum(reward - exact[0], 0.0).sum()
    assert 0.7 * above == pytest.approx(0.3 * np.maximum(exact[0] - reward, 0.0).sum())
    np.testing.assert_allclose(values[:, 0] - exact[0], 0.04 * np.linspace(-1, 1, 5), atol=1e-9)


def test_cloning_of_the_two_state_game_is_predicted_exactly() -> None:
    data = game_data.dataset("xor-two-state", "random", episodes=20_000)
    found = game_theory.two_state(game_theory.Form("bc", "cloning"), data)
    assert found[0] == found[1] == pytest.approx(data.returns.mean(), abs=0.15)
    assert np.isnan(
        game_theory.two_state(
            game_theory.Form("bc", "cloning"), game_data.dataset("xor-two-state", "optimal")
        )
    ).all()


def test_cloning_of_the_two_state_game_is_of_each_state_apart() -> None:
    best = game_data.dataset("xor-two-state", "optimal", episodes=20)
    data = game_data.dataset("xor-two-state", "random", episodes=200)
    data.action[data.state.argmax(-1) == 1] = best.action[best.sources][0]
    assert best.returns.mean() == 10.0
    assert game_theory.two_state(game_theory.Form("bc", "cloning"), data) == pytest.approx((10.0, 10.0))


def test_the_first_agents_action_is_the_row_of_the_payoffs() -> None:
    table, policy = games.payoffs("xor-four"), np.array([[0.1, 0.2, 0.3, 0.4], [0.6, 0.1, 0.1, 0.2]])
    value = sum(policy[0, i] * policy[1, j] * table[i][j] for i in range(4) for j in range(4))
    assert game_theory.product("xor-four", policy) == pytest.approx(value)
    assert value != pytest.approx(game_theory.product("xor-four", policy[::-1]))


def test_predictions_that_are_stated() -> None:
    """Those of the surfaces follow from the data: cloning plays the mean of a, or tanh of the mean of atanh(a)."""

    def ends(family: str, game: str, quality: str) -> tuple[float, float]:
        form = game_theory.Form("a method", family)
        return game_theory.prediction(form, game, game_data.dataset(game, quality, episodes=2000))

    for game, quality in (
        ("sign-agreement", "opposite"),
        ("sign-agreement", "agree"),
        ("two-peaks", "peaks"),
    ):
        action = game_data.dataset(game, quality, episodes=2000)
        taken = np.clip(action.action[action.sources][..., 0].astype(float), -0.999, 0.999)
        played = [taken.mean(0), np.tanh(np.arctanh(taken).mean(0))]
        low, high = ends("cloning", game, quality)
        for joint in played:
            value = float(games.SURFACES[game](joint[None])[0])
            assert low - 0.02 <= value <= high + 0.02, (game, quality, value)
    assert ends("cloning", "sign-agreement", "opposite") == (-0.36, -0.25)
    assert ends("response to the data", "sign-agreement", "opposite") == (-1, -0.8)
    assert ends("moved together", "two-peaks", "peaks") == (0.5, 1)
    assert ends("cloning", "t-maze", "expert") == (0.5, 0.5)
    for game, optimum in (("bridge", -1.23545), ("bridge-apart", -1.55168)):
        assert ends("sequential", game, "optimal") == pytest.approx((optimum - 0.065, optimum), abs=2e-3)
        assert ends("cloning", game, "optimal") == pytest.approx((-np.inf, optimum - 0.065))
        assert np.isnan(ends("critic", game, "optimal")).all()
    assert ends("sequential", "xor-two-state", "optimal") == (10, 10)
    assert np.isnan(ends("sequential", "xor-two-state", "random")).all()
    assert ends("sequential", "modes-4", "modes") == (1, 1)
    assert np.isnan(ends("additive, any", "coordination-2x2", "optimal")).all()


def test_a_mean_agrees_within_a_twentieth_of_the_values_range() -> None:
    widths = {
        "xor": 0.15,
        "sign-agreement": 0.1,
        "two-peaks": 0.05,
        "t-maze": 0.05,
        "bridge": 0.0,
        "modes-4": 0.05,
    }
    for game, slack in widths.items():
        for value, agrees in (
            (-slack - 0.01, False),
            (-slack, True),
            (1 + slack, True),
            (1.01 + slack, False),
        ):
            assert game_theory.agrees(game, value, 0.0, 1.0) == agrees, (game, value)


def test_coordination_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("coordination")
    forms = (
        module.Form("bc", "cloning", settings=module.SMALL),
        module.Form("iql", "independent", "x", module.SMALL),
    )
    group = module.Games((("xor", "D1"), ("xor", "D2")), forms, updates=3)
    monkeypatch.setattr(module, "GROUPS", {"small": group})
    options = module.Options(out=tmp_path, seeds=(0, 1), only=("small",))
    assert module.main(options) == 0
    lines = written(tmp_path / "coordination")
    assert len(lines) == len(written(tmp_path / "coordination" / "small")) == 2 * 2 * 2
    assert lines["low"].isna().sum() == 2  # a tie: values learned alone from D2
    rows = (tmp_path / "coordination" / "rows.csv").read_text()
    monkeypatch.setattr(module, "trained", lambda *arguments: pytest.fail("trained again"))
    assert module.main(options) == 0
    assert (tmp_path / "coordination" / "rows.csv").read_text() == rows


def test_coordination_values_are_of_sampled_or_greedy_actions() -> None:
    """Exact where one step decides: of the softmax of each agent's scores, or of the best actions."""
    module = script("coordination")
    algorithm: Any = marlzoo.make("bc", games.spec("xor"), seeds=(0, 1), hidden=8)
    policy = algorithm.policy()
    obs = torch.ones(2, 1, 2, algorithm.spec.obs_size)
    with torch.no_grad():
        scores = policy.scores(with_agent_id(obs))[:, 0].double().numpy() * 1.0
        best = policy.act(obs)[:, 0].numpy()
    chances = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    for sampled, pi in ((True, chances), (False, np.eye(2)[best])):
        form = game_theory.Form("bc", "cloning", sampled=sampled)
        found = module.scored(algorithm, form, "xor", [0, 1])
        assert found.tolist() == pytest.approx([game_theory.product("xor", one) for one in pi])


@pytest.mark.parametrize(("task", "horizon"), [("bridge", 20), ("t-maze", games.spec("t-maze").horizon)])
def test_coordination_plays_games_of_several_steps(
    task: str, horizon: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Episodes of every replica, by policies that sample if the form does."""
    module = script("coordination")
    algorithm: Any = marlzoo.make("bc", games.spec(task), seeds=(0, 1), hidden=8)
    seen: list[tuple[bool, int, int, list[int]]] = []

    def evaluate(policy: Any, env: Any, seeds: Any) -> Any:
        seen.append((policy.stochastic, env.spec.horizon, env.num_envs, list(seeds)))
        return SimpleNamespace(returns=np.array([[1.0, 2.0, 6.0], [4.0, 5.0, 0.0]]))

    monkeypatch.setattr(module, "evaluate", evaluate)
    for sampled in (True, False):
        form = game_theory.Form("bc", "cloning", sampled=sampled)
        assert module.scored(algorithm, form, task, [7, 8]).tolist() == [3.0, 3.0]
    copies = 2 * module.EPISODES
    assert seen == [(True, horizon, copies, [7, 8]), (False, horizon, copies, [7, 8])]


def test_coordination_trains_every_seed_on_every_data(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replica by replica; a form's own number of updates counts before the group's."""
    module = script("coordination")
    told: list[Any] = []
    monkeypatch.setattr(
        module, "train", lambda algorithm, data, updates: told.append((algorithm, data, updates))
    )
    values = {"xor": np.arange(6.0), "additive": 10.0 + np.arange(6.0)}
    monkeypatch.setattr(module, "scored", lambda algorithm, form, game, seeds: values[game])
    pairs = (("xor", "D1"), ("additive", "uniform"))
    group = module.Games(pairs, (), updates=3, batch_size=17)
    monkeypatch.setattr(module, "GROUPS", {"small": group})
    options = module.Options(seeds=(4, 9, 5))
    for own, expected in ((7, 7), (0, 3)):
        form = game_theory.Form("bc", "cloning", settings=module.SMALL, updates=own)
        found = module.trained(options, "small", form)
        algorithm, data, updates = told[-1]
        assert updates == expected
        assert set(found["updates"]) == {expected}
        assert algorithm.config.batch_size == 17
        assert algorithm.seeds == found["seed"].tolist() == [4, 9, 5, 4, 9, 5]
        hashes = [game_data.dataset(*pair).content_hash for pair in pairs]
        assert [one.content_hash for one in data] == [hashes[0]] * 3 + [hashes[1]] * 3
        assert found["game"].tolist() == ["xor"] * 3 + ["additive"] * 3
        assert found["value"].tolist() == [0.0, 1.0, 2.0, 13.0, 14.0, 15.0]


def test_coordination_keeps_what_is_complete_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forms of one name count by their family; those that a group has no more go; other seeds are no match."""
    module = script("coordination")
    monkeypatch.setattr(module, "train", lambda *_, **__: None)
    first, second, third = (
        game_theory.Form("bc", family, settings=module.SMALL, updates=own)
        for family, own in (("cloning", 5), ("critic", 0), ("sequential", 0))
    )

    def main(*forms: Any, seeds: tuple[int, ...] = (0, 1)) -> tuple[int, list[str]]:
        calls: list[str] = []
        whole = module.trained

        def trained(options: Any, name: str, form: Any) -> Any:
            calls.append(form.family)
            return whole(options, name, form)

        with monkeypatch.context() as patch:
            patch.setattr(module, "GROUPS", {"small": module.Games((("xor", "D1"),), forms, updates=3)})
            patch.setattr(module, "trained", trained)
            assert module.main(module.Options(out=tmp_path, seeds=seeds, only=("small",))) == 0
        return len(pd.read_csv(tmp_path / "coordination" / "rows.csv")), calls

    assert main(first, second) == (4, ["cloning", "critic"])
    assert main(first, second) == (4, [])
    assert main(first, third) == (4, ["sequential"])
    assert main(first, third, seeds=(0,)) == (2, ["cloning", "sequential"])


def test_coordination_compares_means_with_predictions(monkeypatch: pytest.MonkeyPatch) -> None:
    """One seed beside the prediction does no harm where the mean agrees."""
    module = script("coordination")
    form = game_theory.Form("bc", "cloning", settings=module.SMALL)
    monkeypatch.setattr(module, "GROUPS", {"small": module.Games((("xor", "D1"),), (form,))})
    lines = pd.DataFrame(
        [
            ("small", "xor", "D1", "cloning", "bc", seed, value, "c", 3, 0.0, 0.0)
            for seed, value in ((0, 0.5), (1, -0.5))
        ],
        columns=[*module.COLUMNS, "low", "high"],
    )
    options = module.Options(seeds=(0, 1), only=("small",))
    assert "**no**" not in module.by_group(options, "small", lines).sheet.body[0][-1]
    lines["value"] += 0.5
    assert "**no**" in module.by_group(options, "small", lines).sheet.body[0][-1]


def test_predictions_as_text_and_settings_of_a_group() -> None:
    module = script("coordination")
    assert module.expected(np.nan, np.nan) == "?"
    assert module.expected(-np.inf, 2.0) == "below 2.00"
    assert module.expected(1.0, 1.001) == "1.00"
    assert module.expected(-0.001, 1.0) == "0.00 to 1.00"
    form = module.DISCRETE[0]
    assert module.Games((), (), batch_size=9).settings(form) == {**form.settings, "batch_size": 9}
    assert module.Games((), ()).settings(form) == form.settings
