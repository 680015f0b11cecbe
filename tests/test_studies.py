"""The studies: their exact sides against known numbers, and each with small settings from data to files."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from marlzoo.benchmarks import game_theory, study
from marlzoo.benchmarks.results import ResultsFile
from marlzoo.benchmarks.row import Row
from marlzoo.benchmarks.suites import Data, Learner, Suite
from marlzoo.benchmarks.walks import Training, Walks, distance

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.errors import DataError
from marlzoo.modules.layers import with_agent_id
from marlzoo.replicas import derive
from marlzoo.testing.toys import toy_dataset
from tests.recordings import uniform_recording
from tests.test_results import ROW

FOLDER = Path(__file__).parents[1] / "benchmarks" / "studies"
STUDIES = sorted(path.stem for path in FOLDER.glob("*.py"))
TINY = Training(updates=40, transitions=400, hidden=16, mixer_hidden=8, batch_size=32, every=5)


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"study_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look up their annotations
    spec.loader.exec_module(module)
    return module


def written(folder: Path) -> pd.DataFrame:
    """The numbers; the table names the command and shows the plot."""
    text = (folder / "table.md").read_text()
    assert "Made by `python benchmarks/studies/" in text
    assert ("![plot](plot.png)" in text) == (folder / "plot.png").exists()
    return pd.read_csv(folder / "table.csv")


@pytest.mark.parametrize("name", STUDIES)
def test_results_are_committed(name: str) -> None:
    assert len(written(FOLDER.parents[1] / "results" / "studies" / name))


# ---- V and its closed form -----------------------------------------------------------------------------


def test_closed_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """V* of Q = (0, 1) under the uniform behavior (specification of OMIGA, check 1)."""
    module = script("v_closed_form")
    monkeypatch.setattr(module, "WEIGHTS", np.array([[2.0], [1.0], [0.5]]))
    monkeypatch.setattr(module, "VALUES", np.array([[0.0, 1.0]]))
    monkeypatch.setattr(module, "COUNTS", np.array([[4, 4]]))
    one, ten = module.closed_form([1.0, 10.0])[..., 0]
    np.testing.assert_allclose(one, [0.71689, 0.620115, 0.561860], atol=1e-5)
    assert ten[1] == pytest.approx(0.512495, abs=1e-6)


def test_v_reaches_it(tmp_path: Path) -> None:
    module = script("v_closed_form")
    options = module.Options(out=tmp_path, seeds=(0,), alphas=(0.1, 1.0), updates=500, hidden=16)
    assert module.main(options) == 0
    lines = written(tmp_path / "v_closed_form").set_index(["z_clip", "alpha"])
    assert lines.loc[("linear", 1.0), "max_error"].max() < 2e-2
    assert lines.loc[("linear", 1.0), "mean_weight"].to_numpy() == pytest.approx(1.0, abs=5e-2)
    assert lines.loc[("hard", 0.1), "max_error"].max() > 1.0  # every action lies above the bound


def test_the_curve_holds_the_largest_error_and_the_table_both_ends_of_the_weights() -> None:
    module = script("v_closed_form")
    options = module.Options(seeds=(0,), alphas=(0.5, 2.0), updates=1, hidden=16)
    found, curve = module.train(options, "linear")
    error = np.abs(found - module.closed_form(options.alphas)[:, None])
    assert curve["max_error"].tolist() == pytest.approx([of_alpha.max() for of_alpha in error])
    assert curve["max_error"].tolist() != pytest.approx([of_alpha.min() for of_alpha in error])
    lines = pd.concat([module.numbers(options, clip, found) for clip in module.CLIPS])
    lines["mean_weight"] = np.linspace(0.25, 4.0, len(lines))
    row = module.report(options, lines, curve).sheet.body[0]
    first = lines[(lines["alpha"] == 0.5) & (lines["z_clip"] == module.CLIPS[0])]["mean_weight"]
    assert f"{first.min():.3g} to {first.max():.3g}" in row


# ---- known behavior -----------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.2, 1.0, 5.0])
def test_the_exact_optimum_of_the_walks(alpha: float) -> None:
    walks = Walks.random(agents=3)
    v, policy = walks.optimum(alpha)
    np.testing.assert_allclose(policy.sum(-1), 1.0, atol=1e-9)  # the mean weight is 1
    best = walks.value(policy, alpha)
    assert best == pytest.approx(v.mean(-1).sum())
    rng = np.random.default_rng(0)
    for other in (walks.behavior, walks.optimum(2 * alpha)[1], rng.dirichlet(np.ones(3), v.shape)):
        assert walks.value(other, alpha) < best
    assert distance(walks.optimum(1e6)[1], walks.behavior).max() < 1e-4
    assert np.isin(walks.optimum(1e-3)[1].round(6), (0.0, 1.0)).all()


def test_data_of_the_walks() -> None:
    walks = Walks.random()
    data = walks.dataset(40_000, seed=3)
    rows, agents = data.sources, np.arange(2)
    cell, action = data.obs.argmax(-1), data.action
    np.testing.assert_array_equal(cell[rows + 1], walks.moves[cell[rows], action[rows]])
    np.testing.assert_allclose(
        data.reward[rows], walks.reward[agents, cell[rows], action[rows]].sum(-1), rtol=1e-6
    )
    assert data.truncated.sum() == data.episodes == 2000
    counts = np.zeros(walks.behavior.shape)
    np.add.at(counts, (agents, cell[rows], action[rows]), 1.0)
    assert distance(counts / counts.sum(-1, keepdims=True), walks.behavior).max() < 0.02


def test_the_learned_policy_is_the_weighted_behavior(tmp_path: Path) -> None:
    module = script("known_behavior")
    training = Training(updates=700, transitions=8000, lr=2e-3, tau=0.05)
    options = module.Options(out=tmp_path, seeds=(0, 1, 2), alphas=(1.0,), training=training)
    assert module.main(options) == 0
    lines = written(tmp_path / "known_behavior")
    assert len(lines) == 2 * 3 * 3
    error, gap = (lines["learned"] - lines["exact"]).abs(), (lines["behavior"] - lines["exact"]).abs()
    assert error.mean() < 0.2 * gap.mean()
    assert ((lines["low"] <= lines["learned"]) & (lines["learned"] <= lines["high"])).all()


# ---- alpha ---------------------------------------------------------------------------------------------


def test_predictions_for_xor() -> None:
    """Local exponential weighting on D3, each value known (specification of the coordination games, section 1)."""
    module = script("alpha_sweep")
    mu, f = module.fit(marlzoo.load_dataset("games/xor/marlzoo/D3"))
    known = {0.1: -1.9995, 0.5: -0.9034, 1.0: -0.1754, 5.0: 0.1833, 100.0: 0.2207}
    for alpha, value in known.items():
        assert module.expected("xor", module.predicted(mu, f, alpha)) == pytest.approx(value, abs=2e-4)
    assert module.expected("xor", module.greedy(mu, f)) == -2.0
    assert module.expected("xor", mu) == pytest.approx(2 / 9, abs=1e-3)


def test_greedy_takes_what_the_data_hold_and_payoffs_have_rows_for_the_first_agent() -> None:
    module = script("alpha_sweep")
    mu, f = np.array([[0.5, 0.5, 0.0], [0.0, 0.2, 0.8]]), np.array([[1.0, 2.0, 3.0], [5.0, 2.0, 1.0]])
    assert module.greedy(mu, f).tolist() == [[0, 1, 0], [0, 1, 0]]  # a best value that no action has is none
    payoffs = np.array(games.payoffs("coordination-2x2"))
    assert payoffs[0, 1] != payoffs[1, 0]
    for one, other in ((0, 1), (1, 0), (1, 1)):
        assert module.expected("coordination-2x2", np.eye(2)[[one, other]]) == payoffs[one, other]


def test_alpha_moves_from_greedy_to_cloning(tmp_path: Path) -> None:
    module = script("alpha_sweep")
    training = Training(updates=250, hidden=16, mixer_hidden=8, batch_size=64, lr=6e-3)
    options = module.Options(out=tmp_path, seeds=(0, 1), alphas=(0.3, 30.0), training=training)
    assert module.main(options) == 0
    lines = written(tmp_path / "alpha_sweep")
    assert len(lines) == 2 * 2 * 2
    assert lines["to_prediction"].max() < 0.1
    small, large = (lines[lines["alpha"] == alpha] for alpha in (0.3, 30.0))
    assert (small["to_greedy"] < small["to_behavior"]).all()
    assert (large["to_behavior"] < large["to_greedy"]).all()


def test_alpha_moves_lines_are_of_what_was_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own return and the predicted policy's; the bound of the exponent that was asked for."""
    module, told = script("alpha_sweep"), []
    policy = np.array([[0.9, 0.1], [0.3, 0.7]])

    def learn(spec: Any, data: Any, training: Any, **settings: Any) -> Any:
        told.append(settings)
        return np.broadcast_to(policy[:, None], (2, 2, 1, 2))

    monkeypatch.setattr(module, "learn", learn)
    found = module.on_game(module.Options(seeds=(4,), alphas=(0.5, 2.0), z_clip="hard"), "xor", "D3")
    assert told[0]["z_clip"] == "hard"
    assert found["return"].tolist() == pytest.approx([module.expected("xor", policy)] * 2)
    mu, f = module.fit(game_data.dataset("xor", "D3"))
    exact = [module.expected("xor", module.predicted(mu, f, alpha)) for alpha in (0.5, 2.0)]
    assert found["predicted"].tolist() == pytest.approx(exact, rel=1e-3)


def test_alpha_moves_distances_are_from_cloning_with_the_same_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step in either direction counts alike."""
    module, asked = script("alpha_sweep"), []

    class Given:
        def train(self, method: str, source: Any, data: Any, **settings: Any) -> Any:
            asked.append((method, list(settings["seeds"])))
            learner = SimpleNamespace(replicas=len(settings["seeds"]), policy=lambda: method)
            return learner, np.arange(float(learner.replicas))

    def actions(policy: Any, obs: Any, action_mask: Any, replicas: int) -> Any:
        values = [0.5, -0.5] if policy == "bc" else [0.1, -0.1, 0.9, -0.9]
        return torch.tensor(values).view(-1, 1, 1, 1).expand(-1, 3, 3, 2)

    monkeypatch.setattr(module, "actions", actions)
    options = replace(module.Options(seeds=(3, 5), alphas=(0.5, 2.0)), logged=Given())
    found, reference = module.on_logged_data(options, None, toy_dataset())
    assert asked == [("bc", [3, 5]), ("omiga", [3, 5, 3, 5])]
    assert found["to_cloning"].tolist() == pytest.approx([0.4] * 4)
    assert found["return"].tolist() == [0.0, 1.0, 2.0, 3.0]
    assert reference.tolist() == [0.0, 1.0]


# ---- logged data, global weights -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["alpha_sweep", "global_weights"])
def test_on_logged_data(name: str, tmp_path: Path) -> None:
    file = uniform_recording(tmp_path / "recording.hdf5")
    module = script(name)
    logged = study.Logged(file=str(file), updates=3, hidden=8, episodes=1)
    assert module.main(module.Options(out=tmp_path, seeds=(0, 1), alphas=(0.5, 5.0), logged=logged)) == 0
    lines = written(tmp_path / name / "mamujoco-hopper-3x1-uniform")
    assert len(lines) == (4 if name == "alpha_sweep" else 8)
    assert np.isfinite(lines["return"]).all()


def test_global_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = script("global_weights")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)  # as if it were not installed
    assert module.main(module.Options(out=tmp_path, seeds=(0,), alphas=(1.0,), training=TINY)) == 0
    assert "matplotlib is not installed" in capsys.readouterr().out
    lines = written(tmp_path / "global_weights")
    assert lines["global_weights"].tolist() == [True, False]
    best = Walks.random().value(Walks.random().optimum(1.0)[1], 1.0)
    assert (lines["objective"] < best).all()
    assert lines["to_optimum"].between(0.0, 1.0).all()


# ---- actions on the bounds -----------------------------------------------------------------------------


def test_actions_on_the_bounds(tmp_path: Path) -> None:
    file = uniform_recording(tmp_path / "recording.hdf5")
    module = script("bound_actions")
    logged = study.Logged(file=str(file), updates=3, hidden=8, episodes=1)
    assert module.main(module.Options(out=tmp_path, seeds=(0, 1), margins=(0.0, 0.1), logged=logged)) == 0
    lines = written(tmp_path / "bound_actions")
    assert lines.groupby(["method", "loss", "margin"]).size().to_dict() == {
        ("bc", "squared error", 0.0): 2,
        **{(method, "likelihood", margin): 2 for method in ("bc", "omiga") for margin in (0.0, 0.1)},
    }
    assert np.isfinite(lines["return"]).all()


def test_shares_of_actions_on_the_bounds() -> None:
    """Padding, which is zero, counts for nothing; the last row of an episode holds no action."""
    data = toy_dataset()
    assert data.spec.action_sizes == (2, 1, 2)
    data.action[:] = 0.0
    data.action[data.sources[::2], :, 0] = -1.0
    found = script("bound_actions").on_bounds(data)
    half = len(data.sources[::2]) / len(data.sources)
    np.testing.assert_allclose(found, [half / 2, half, half / 2])


# ---- products in bfloat16 ------------------------------------------------------------------------------


def test_precision(tmp_path: Path) -> None:
    """Both precisions start alike and part by rounding; float32 against itself would agree."""
    file = uniform_recording(tmp_path / "recording.hdf5")
    module = script("precision")
    logged = study.Logged(file=str(file), updates=20, hidden=32, episodes=1)
    options = module.Options(out=tmp_path, seeds=(0, 1, 2), methods=("bc",), also=(), logged=logged)
    assert module.main(options) == 0
    lines = written(tmp_path / "precision")
    assert lines.groupby("method").size().to_dict() == {"bc": 3}
    assert (lines["float32"] != lines["bf16"]).all()
    described = ["the data"]
    same = module.report(options, lines.assign(bf16=lines["float32"]), described).sheet
    assert [line[-1] for line in same.body] == ["yes"]
    far = module.report(options, lines.assign(bf16=lines["float32"] + 1e6), described).sheet
    assert [line[-1] for line in far.body] == ["no"]


# ---- coordination games --------------------------------------------------------------------------------


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


# ---- Fine-tuning, and estimates without a simulator ----------------------------------------------------


def test_fine_tuning(tmp_path: Path) -> None:
    module = script("finetune")
    settings = marlzoo.FinetuneSettings(rollout=2, learn_steps=1, warmup=0)
    small: dict[str, Any] = {"updates": 2, "env_steps": 16, "episodes": 1, "settings": settings}
    assert module.main(module.Options(out=tmp_path, seeds=(0, 1), **small)) == 0
    lines = written(tmp_path / "finetune")
    assert lines.groupby("strategy").size().to_dict() == dict.fromkeys(module.STRATEGIES, 2 * 3)
    start = lines[lines["env_steps"] == 0].groupby("seed")["mean_return"]
    assert (start.nunique() == 1).all()


def test_ranks_and_regret_of_estimates() -> None:
    module = script("ope")
    lines = pd.DataFrame({"return": [0.0, 1.0, 2.0, 4.0], "fqe": [1.0, 2.0, 3.0, np.nan], "same": 1.0})
    lines = lines.assign(data="d", learner="bc", updates=1)  # four seeds of one learner

    def of(estimator: str, lines: pd.DataFrame = lines) -> tuple[float, float]:
        (rank, *ends), (lost, *_) = module.score(lines, estimator)
        assert ends[0] <= rank <= ends[1]
        return rank, lost

    assert of("fqe", lines.assign(fqe=lines["return"])) == pytest.approx((1.0, 0.0))
    rank, lost = of("fqe")  # the best team has no estimate
    assert lost == pytest.approx(0.5)
    assert rank == pytest.approx(-0.2)
    assert of("same") == pytest.approx((0.0, 1 - 7 / 16))


def test_estimates_meet_the_returns_of_their_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Teams that a suite trains, then those of a folder of results: each with the return of its own row."""
    module = script("ope")
    suite = tmp_path / "small.toml"
    suite.write_text(
        'learners = ["bc", "td3_bc"]\nepisodes = 2\n[config]\nhidden = 8\nbatch_size = 8\n'
        '[[data]]\ntask = "mpe/spread"\nquality = "medium"\ntransitions = 200\n'
    )
    monkeypatch.setattr(module, "estimated", lambda learner, *_, **__: [{"fqe": s} for s in learner.seeds])
    options = module.Options(out=tmp_path, suite=(str(suite),), looks=(2,), folder=tmp_path)
    assert module.main(options) == 0
    lines = written(tmp_path / "ope")
    rows = marlzoo.Results(tmp_path / "small-2").frame()
    assert lines["return"].tolist() == pytest.approx(rows["mean_return"].tolist(), rel=1e-5)
    assert lines[["learner", "seed"]].to_numpy().tolist() == rows[["method", "seed"]].to_numpy().tolist()
    assert (lines["fqe"] == lines["seed"]).all()
    assert "importance" in (tmp_path / "ope" / "table.md").read_text()
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    with pytest.raises(DataError, match="copy them there"):
        module.of_folder(tmp_path / "small-2", options)


def test_estimates_meet_last_rows_of_their_own_method_and_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two methods of the same settings on two datasets, each with an earlier row."""
    module = script("ope")
    suite = tmp_path / "small.toml"
    suite.write_text(
        'learners = ["iql", "maiql", { method = "iql", config = { hidden = 12 } }]\n'
        "episodes = 2\nseeds = [3, 4]\nupdates = 4\neval_every = 2\n"
        "[config]\nhidden = 8\nbatch_size = 8\n"
        '[[data]]\ntask = "mpe/spread"\nquality = ["medium", "random"]\ntransitions = 200\n'
    )
    marlzoo.bench(str(suite), out=tmp_path)
    asked: list[Any] = []

    def estimated(learner: Any, data: Any, **given: Any) -> list[dict[str, float]]:
        asked.append((learner.seeds, data.card.quality, given["gamma"], given["settings"].updates))
        return [{"fqe": seed} for seed in learner.seeds]

    monkeypatch.setattr(module, "estimated", estimated)
    found = module.of_folder(tmp_path / "small", module.Options(gamma=0.5, updates=7))
    assert sorted(asked) == sorted(3 * [([3, 4], quality, 0.5, 7) for quality in ("medium", "random")])
    rows = marlzoo.Results(tmp_path / "small").frame()
    last = rows[rows["updates"] == 4]
    wanted = {
        (f"mpe/spread {row.quality}", f"{row.method} {row.variant}".strip(), row.seed): row.mean_return
        for row in last.itertuples()
    }
    assert len(wanted) == len(found) == 12
    assert {(row.data, row.learner, row.seed): row[5] for row in found.itertuples()} == wanted
    assert (found["fqe"] == found["seed"]).all()
    (file,) = (tmp_path / "data").rglob("random*.hdf5")
    file.unlink()
    with pytest.raises(DataError, match="copy them there"):
        module.of_folder(tmp_path / "small", module.Options())


# ---- Convergence ---------------------------------------------------------------------------------------


def test_looks_are_even_in_the_logarithm() -> None:
    module = script("convergence")
    assert module.looks(12_000) == [1000, 2000, 3000, 5000, 10_000, 12_000]
    assert module.looks(500) == [500]


def test_discounted_returns_go_on_beyond_a_time_limit() -> None:
    """By hand: an episode that ends, and one that is cut off while it earns 2 a step."""
    module, data = script("convergence"), toy_dataset(episodes=3)
    data.reward[:] = 2.0
    found = module.discounted_returns(data, 0.5)
    for k, (start, length) in enumerate(zip(data.starts, data.lengths, strict=True)):
        for row in range(start, start + length):
            left = start + length - row
            beyond = 0.0 if data.terminal[start + length - 1] else 4.0 * 0.5**left
            assert found[row] == pytest.approx(4.0 * (1 - 0.5**left) + beyond), (k, row)


def test_values_have_converged_when_doublings_change_little() -> None:
    module = script("convergence")
    looks, level = [1, 2, 4, 8, 16], pd.DataFrame([[100.0, 100.0]])
    rising = pd.DataFrame({0: [0.0, 40, 60, 65, 66], 1: [0.0, 40, 60, 65, 66]}, index=looks)
    change = module.changes(rising, level)
    np.testing.assert_allclose(change, [0.4, 0.2, 0.05, 0.01])
    assert list(change.index) == [1, 2, 4, 8]
    assert module.converged(change) == 4
    half = pd.DataFrame({0: [29.2893219, 50, 75, 93.75, 99.6]}, index=looks)
    assert module.halving(half, level) == pytest.approx(2.0)
    assert module.halving(rising * 0 + 99, level) is None
    falling_late = pd.DataFrame({0: [0.0, 0, 0, 0, 50]}, index=looks)
    assert module.converged(module.changes(falling_late, level)) is None


def test_convergence_goes_on_and_looking_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = script("convergence")
    monkeypatch.setattr(module, "FIRST", 2)
    monkeypatch.setattr(module, "SAMPLE", 16)
    monkeypatch.setattr(module, "train", lambda *a, **k: marlzoo.train(*a, **k | {"compile": "off"}))
    monkeypatch.setattr(module, "TASKS", (Data("games/two-peaks", "peaks"),))
    started: list[list[int]] = []
    evaluate = module.evaluate

    def evaluated(*given: Any, seeds: list[int], **more: Any) -> Any:
        started.append(seeds)
        return evaluate(*given, seeds=seeds, **more)

    monkeypatch.setattr(module, "evaluate", evaluated)
    small = {"tasks": ("games/two-peaks",), "methods": ("omiga", "td3_bc"), "episodes": 1, "seeds": (0, 1)}
    small |= {"hidden": 8, "batch_size": 8}
    for folder, steps in (("whole", (12,)), ("parts", (3, 12))):
        for updates in steps:
            module.main(module.Options(out=tmp_path / folder, updates=updates, **small))
    whole, parts = (written(tmp_path / folder / "convergence") for folder in ("whole", "parts"))
    assert {"value", "data_return", "return"} <= set(whole["metric"])
    assert set(whole["updates"]) == {2, 4, 6, 10, 12}
    assert started[:2] == [[derive(seed, "evaluate", done) for seed in (0, 1)] for done in (2, 4)]
    columns = list(whole.columns)
    shared = parts[parts["updates"] != 3].sort_values(columns[:-1]).reset_index(drop=True)
    pd.testing.assert_frame_equal(shared, whole.sort_values(columns[:-1]).reset_index(drop=True))


# ---- replication --------------------------------------------------------------------------------------


def test_replication_compares_last_rows_of_runs_that_both_have(tmp_path: Path) -> None:
    """Two datasets differ and one does not; earlier rows and runs without a twin do not count."""
    module = script("replication")

    def rows(gap: float, quality: str, seeds: int, **values: Any) -> list[Row]:
        made = {"quality": quality, **values}
        return [replace(ROW, **{"seed": k, "mean_return": gap + k / 10, **made}) for k in range(seeds)]

    earlier = rows(-999.0, "low", 3, updates=10)
    fewer = rows(1.0, "few", 3, episodes=ROW.episodes - 1)  # not of a last checkpoint
    first = [*rows(100.0, "low", 3), *rows(0.0, "far", 3), *rows(50.0, "high", 3), *earlier, *fewer]
    again = [
        *rows(90.0, "low", 3),
        *rows(9.0, "far", 3),
        *rows(50.0, "high", 3),
        *rows(7.0, "other", 3),
        *fewer,
    ]
    ResultsFile(tmp_path / "suite" / "replaced.csv").overwrite(first)
    ResultsFile(tmp_path / "suite" / "rows.csv").overwrite(again)
    assert module.main(module.Options(out=tmp_path, folders=(tmp_path / "suite",))) == 0
    assert len(written(tmp_path / "replication")) == 18
    text = (tmp_path / "replication" / "table.md").read_text().replace("\xa0", " ")
    assert "| 100.1 ± 0.1 | 90.1 ± 0.1 | -10.0 [-10.1, -9.9] |" in text
    assert "| 50.1 ± 0.1 | 50.1 ± 0.1 | +0.0 [-0.1, 0.1] |" in text
    assert "2 of 3 intervals do not contain 0." in text


# ---- coverage -----------------------------------------------------------------------------------------


def test_ranks_of_gain_and_coverage() -> None:
    """A rising relation, a falling one, and one of too few datasets; what is not known is left out."""
    module, x = script("coverage"), np.arange(8.0)
    assert module.correlation(x, np.exp(x)) == pytest.approx((1.0, 1.0, 1.0))
    value, low, high = module.correlation(np.append(x, np.nan), np.append(-(x**3), 99.0))
    assert (value, low, high) == pytest.approx((-1.0, -1.0, -1.0))
    noisy = np.array([0.0, 3.0, 1.0, 2.0, 6.0, 4.0, 7.0, 5.0])
    value, low, high = module.correlation(x, noisy)
    assert low < value < high
    assert value == pytest.approx(1.0 - 6.0 * np.square(noisy - x).sum() / (8 * 63))
    assert np.isnan(module.correlation(x[:4], x[:4])).all()


def test_gains_are_over_cloning_on_the_same_data(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("coverage")
    seen: list[tuple[str, str, int]] = []

    def measured(data: Any, folder: Path) -> dict[str, float]:
        seen.append((data.task, data.quality, data.transitions))
        return dict.fromkeys(module.MEASURES, float(len(data.quality)))

    monkeypatch.setattr(module, "measured", measured)
    found = module.lines(module.Options(folders=(Path("results/mujoco-small"),)))
    assert len(seen) == len(set(seen)) == found.groupby(["task", "quality"]).ngroups
    assert {amount for *_, amount in seen} == {100_000}
    assert (found.loc[found["learner"] == "bc", "gain"] == 0).all()
    assert (found["spread"] == found["quality"].str.len()).all()
    rows = ResultsFile(Path("results/mujoco-small/rows.csv")).read()
    last = (
        rows[rows["updates"] == 100_000]
        .groupby(["task", "quality", "method", "variant"])["normalized_score"]
        .mean()
    )
    for line in found.itertuples():
        method, _, variant = line.learner.partition(" (")
        if variant:
            variant = {"iddpg_bc)": "variant=iddpg_bc", "independent)": "variant=independent"}.get(
                variant, variant[:-1]
            )
        gain = last[line.task, line.quality, method, variant] - last[line.task, line.quality, "bc", ""]
        assert line.gain == pytest.approx(gain, rel=1e-6, abs=1e-6)


# ---- values -------------------------------------------------------------------------------------------


def test_a_value_has_settled_where_no_longer_run_would_be_warned_of() -> None:
    updates = np.arange(5.0, 1001.0, 5.0)
    module = script("values")
    assert module.settled(updates, np.ones(200)) == 50.0
    rising = 1 - np.exp(-updates / 100)
    assert module.settled(updates, rising) == 450.0  # of ends every 50, the first beyond four constants
    assert np.isnan(module.settled(updates, updates))
    assert np.isnan(module.settled(updates, -updates))
    assert np.isnan(module.settled(updates, np.where(updates > 900, np.inf, 1.0)))
    jump = np.where(updates > 500, 2.0, 1.0)
    assert module.settled(updates, jump) == 1000.0  # when two quarters lie behind it


def test_values_of_committed_runs(tmp_path: Path) -> None:
    module = script("values")
    options = module.Options(
        out=tmp_path, folders=(FOLDER.parents[1] / "results" / "demo",), looks=(1000, 9999999)
    )
    assert module.main(options) == 0
    lines = written(tmp_path / "values")
    assert set(lines["learner"]) == {"omiga", "iql"}
    assert (lines["value_1000"] != 0).all()
    assert "value_9999999" not in lines


# ---- numbers by hand ----------------------------------------------------------------------------------


def test_tails_and_rewards_of_agents_of_discounted_returns() -> None:
    """The last ten steps' mean goes on for ever; where agents have rewards of their own, their mean counts."""
    module = script("convergence")
    reward = np.arange(13.0)[:, None] * np.array([0.0, 2.0])  # their mean is 0, 1, 2, ...
    data = SimpleNamespace(reward=reward, rows=13, starts=[0], lengths=[12], terminal=np.zeros(13, bool))
    found = module.discounted_returns(data, 0.5)
    assert found[11] == pytest.approx(11 + 0.5 * np.arange(2, 12).mean() / 0.5)
    short = SimpleNamespace(
        reward=np.array([9.0, 9.0, 1.0, 3.0, 0.0]),
        rows=5,
        starts=[0, 2],
        lengths=[1, 2],
        terminal=np.zeros(5, bool),
    )
    assert module.discounted_returns(short, 0.5)[2] == pytest.approx(1 + 0.5 * (3 + 0.5 * 2 / 0.5))


def test_numbers_of_convergence(tmp_path: Path) -> None:
    module = script("convergence")
    assert module.SHARED == {"history": "mlp", "timeout_is_terminal": False}
    assert module.looks(250_000)[-4:] == [50_000, 100_000, 200_000, 250_000]
    assert [module.plain(value) for value in (12.34, -99_999.0, -2e7)] == ["12.3", "-99999.0", "-2e+07"]
    assert [module.share(value) for value in (0.25, -0.5, -20.0)] == ["+25%", "-50%", "-2e+01 times"]
    looks = [1, 2, 4, 8, 16]
    level = pd.DataFrame([[-100.0]])
    falling = pd.DataFrame({0: [0.0, 40, 35, 65, 66]}, index=looks)
    change = module.changes(falling, level)
    np.testing.assert_allclose(change, [0.4, -0.05, 0.3, 0.01])  # of the size of a negative return
    assert module.converged(change) == 8  # small before a large one does not count
    assert module.converged(-change) == 8  # nor does a fall
    source = SimpleNamespace(task="a/b", quality="q")
    first = module.lines(source, "m", (3, 4), 10, {"value": np.array([1.0, 2.0])})
    assert first["value"].tolist() == [1.0, 2.0]
    module.record(tmp_path / "t.csv", first)
    again = module.lines(source, "m", (4,), 10, {"value": np.array([5.0])})
    module.record(tmp_path / "t.csv", again)
    kept = module.read(tmp_path / "t.csv").set_index("seed")["value"]
    assert kept.to_dict() == {3: 1.0, 4: 5.0}
    # The gap halves by half; it reaches the return, and opens again, which does not count.
    gap = np.array([1.2, 0.8, 0.4, 0.2, 0.05, 0.9])
    value = pd.DataFrame({0: 100 * (1 - gap)}, index=[0, 1, 2, 3, 4, 5])
    assert module.halving(value, pd.DataFrame([[100.0]])) == pytest.approx(1.0)
    assert module.halving(value.iloc[:3], pd.DataFrame([[100.0]])) is None  # two points are no line
    assert (
        module.halving(value.iloc[[3, 2, 1]].set_index(pd.Index([1, 2, 3])), pd.DataFrame([[100.0]])) is None
    )
    rows = pd.concat(
        module.lines(
            source, "m", (3, 4), look, {"value": np.array([look, look]), "data_return": np.full(2, 20.0),
                "weight/ess": np.full(2, look / 10),
                                        "return": np.array([look + 1.0, look + 1.0])},
        )
        for look in (1, 2, 4)
    )  # fmt: skip
    (line,) = module.body(rows)
    assert line[:4] == ["b m", "4", "20.0", "4.0"]
    assert (line[5], line[7]) == ("+10%", "0.40")
    assert line[-1].startswith("5.0")


def test_probes_read_the_learners_values_of_the_data() -> None:
    module, data = script("convergence"), toy_dataset("continuous")
    options = module.Options(seeds=(0, 1), hidden=8)
    mine, twin = (module.learner(options, "omiga", data, "toy/walk", size) for size in (8, 64))
    assert (mine.config.hidden, mine.config.timeout_is_terminal) == (8, False)
    probe = module.Probe(twin, data)
    first = probe.look(mine)
    assert (
        {name for name in first if "/" in name}
        == {name for name in first if name.startswith("weight/")}
        != set()
    )
    assert first["data_return"].shape == (2,)
    assert first["data_return"][0] != first["data_return"][1]  # of each replica's own rows
    again = probe.look(mine)
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])  # the twin starts from the learner each time


def test_which_teams_are_judged_and_how(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("ope")
    some = module.Options(tasks=("a",), qualities=("x",))
    assert [some.takes(*names) for names in (("a", "x"), ("a", "y"), ("b", "x"))] == [True, False, False]
    assert module.Options().takes("a", "x")
    asked: list[dict[str, Any]] = []

    def ope(learner: Any, data: Any, **given: Any) -> list[Any]:
        asked.append(given)
        return [
            SimpleNamespace(estimator=name, value=10 * k + v)
            for k in range(learner.replicas)
            for v, name in enumerate(("fqe", "pdwis", "dr"))
        ]

    monkeypatch.setattr(marlzoo, "ope", ope)
    monkeypatch.setattr(
        marlzoo, "make_env", lambda task, copies: SimpleNamespace(close=lambda: None, copies=copies)
    )
    returns = np.array([[1.0, 3.0], [5.0, 9.0]])
    monkeypatch.setattr(marlzoo, "evaluate", lambda policy, env, seeds: SimpleNamespace(returns=returns))
    learner = SimpleNamespace(replicas=2, seeds=[3, 4], policy=lambda: None)
    behavior = np.full(4, 0.25)
    found = module.judged(learner, toy_dataset(), behavior, module.Options())
    assert found == [
        {"seed": 3, "return": 2.0, "fqe": 0, "pdwis": 1, "dr": 2},
        {"seed": 4, "return": 7.0, "fqe": 10, "pdwis": 11, "dr": 12},
    ]
    ((given),) = asked
    assert (given["gamma"], given["settings"], given["bootstrap"]) == (1.0, module.FIT, 1)
    assert given["behavior"] is behavior


def test_teams_of_a_game_are_judged_on_episodes_that_are_over(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("ope")
    over = SimpleNamespace(spec="spec")
    monkeypatch.setattr(
        marlzoo, "load_dataset", lambda name: SimpleNamespace(timeouts_as_terminals=lambda: over)
    )
    monkeypatch.setattr(module, "fitted_log_prob", lambda data, updates: np.log([0.25, 0.5]))
    monkeypatch.setattr(
        marlzoo, "make", lambda method, spec, **given: SimpleNamespace(method=method, given=given)
    )
    seen: list[Any] = []

    def train(learner: Any, data: Any, updates: int, on_progress: Any, **_: Any) -> None:
        assert data is over
        for done in range(1, updates + 1):
            on_progress(done, None)

    def judged(learner: Any, data: Any, behavior: Any, options: Any) -> list[dict[str, Any]]:
        seen.append((learner.method, data is over, behavior.round(6).tolist()))
        return [{"seed": 0}]

    monkeypatch.setattr(marlzoo, "train", train)
    monkeypatch.setattr(module, "judged", judged)
    found = module.of_game("xor/D3", module.Options(looks=(2, 3), methods=("bc", "iql_cql")))
    assert found[["data", "learner", "updates"]].to_numpy().tolist() == [
        ["xor/D3", method, look] for method in ("bc", "iql_cql") for look in (2, 3)
    ]
    assert seen == [(method, True, [0.25, 0.5]) for method in ("bc", "bc", "iql_cql", "iql_cql")]


def test_suites_are_trained_once_for_every_look(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("ope")
    made: list[Any] = []
    monkeypatch.setattr(marlzoo, "bench", lambda suite, out: made.append((suite, out)))
    data = (Data("games/xor", "D1", updates=7), Data("games/xor", "D3"))
    suite = Suite(name="s", data=data, learners=(Learner("bc"), Learner("iql")))
    options = module.Options(looks=(2, 9), qualities=("D1",), folder=Path("f"), methods=("iql",), seeds=(5,))
    assert module.trained(suite, options) == [Path("f/s-2"), Path("f/s-9")]
    for (part, out), look in zip(made, (2, 9), strict=True):
        assert (part.name, part.updates, part.eval_every, part.seeds, out) == (
            f"s-{look}",
            look,
            look,
            (5,),
            Path("f"),
        )
        assert part.data == (replace(data[0], updates=0),)
        assert [learner.method for learner in part.learners] == ["iql"]


def test_correlation_and_regret_by_hand() -> None:
    module = script("ope")
    true = np.array([0.0, 1.0, 2.0, 4.0])
    assert module.correlation(true, -true) == pytest.approx(-1.0)
    assert module.correlation(true, np.array([0.0, 2.0, 1.0, 3.0])) == pytest.approx(0.8)
    assert module.correlation(true, np.ones(4)) == 0.0
    assert np.isnan(module.correlation(np.ones(4), true))
    both = module.correlation(np.stack([true, true]), np.stack([true, -true]))
    assert both == pytest.approx([1.0, -1.0])
    assert module.regret(true, np.array([0.0, 5.0, 5.0, 1.0])) == pytest.approx(
        (4 - 1.5) / 4
    )  # of two equal ones
    assert module.regret(np.ones(4), true) == 0.0
    assert module._cell(0.5, (0.25, 0.75)) == "0.50 [0.25, 0.75]"
    assert module._cell(0.5, (np.nan, 0.75)) == "0.50"
    lines = pd.DataFrame({"return": true, "fqe": [-3.0, -2.0, -1.0, np.nan]})
    lines = lines.assign(data="d", learner="bc", updates=1, seed=range(4))
    sheet = module.report(module.Options(), lines).sheet
    assert [line[1] for line in sheet.body] == ["fqe", "behavior"]
    assert [line[-1] for line in sheet.body] == ["1 of 4", "0 of 4"]
    assert module.score(lines, "fqe")[1][0] == pytest.approx(
        0.5
    )  # the best team has no estimate: the worst of them
    assert module._about(pd.Series(
        {"task": "t", "quality": "q", "method": "m", "variant": "", "updates": 3, "seed": 4, "mean_return": 5.0,
         "std_return": 6.0}
    ))["return"] == 5.0  # fmt: skip


def test_predictions_as_text_and_settings_of_a_group() -> None:
    module = script("coordination")
    assert module.expected(np.nan, np.nan) == "?"
    assert module.expected(-np.inf, 2.0) == "below 2.00"
    assert module.expected(1.0, 1.001) == "1.00"
    assert module.expected(-0.001, 1.0) == "0.00 to 1.00"
    form = module.DISCRETE[0]
    assert module.Games((), (), batch_size=9).settings(form) == {**form.settings, "batch_size": 9}
    assert module.Games((), ()).settings(form) == form.settings


def test_values_at_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("values")
    updates = np.arange(10.0, 1001.0, 10.0)

    def metrics(name: str, points: int) -> pd.DataFrame:
        rows = (
            {"iql": updates / 2, "omiga": np.where(updates > 500, 2.0, 1.0)}
            if name == module.VALUE
            else {"iql": 1 / updates}
        )
        return pd.concat(
            pd.DataFrame({"dataset": "d", "learner": name, "updates": updates, "mean": mean})
            for name, mean in rows.items()
        )

    monkeypatch.setattr(module, "Results", lambda folder: SimpleNamespace(metrics=metrics))
    found = module.lines(module.Options(folders=(Path("a/s"),), looks=(104, 1000, 1001)))
    assert found["suite"].tolist() == ["s", "s"]
    assert found["value_104"].tolist() == [50.0, 1.0]
    assert found["value_1000"].tolist() == [500.0, 2.0]
    assert "value_1001" not in found
    assert found["ess"].iloc[0] == 0.001
    assert np.isnan(found["ess"].iloc[1])
    assert np.isnan(found["settled"].iloc[0])
    assert found["settled"].iloc[1] == 1000.0
    sheet = module.report(found, (104, 1000, 1001)).sheet
    assert sheet.body[0] == ["s d", "iql", "50", "500", "–", "moving", "0.00"]
    assert sheet.body[1][2:] == ["1", "2", "–", "1,000", "–"]
    assert "1 of 2 had settled." in sheet.notes
    assert [module._short(value) for value in (-1234.0, 0.123, -2e5)] == ["-1234", "0.12", "-2e+05"]
    sheet = module.report(pd.concat([found, found.iloc[:1]]), (104,)).sheet
    assert "1 of 3 had settled." in sheet.notes
    assert module.settled(updates[:3], np.ones(3)) == 30.0  # before it there are too few points to say
    assert np.isnan(module.settled(updates, np.where(updates == 1000, np.inf, 1.0)))  # the last one counts


def test_replication_tells_variants_spreads_and_missing_rows(tmp_path: Path) -> None:
    module = script("replication")
    about = {"task": "mpe/spread", "quality": "q", "method": "m", "variant": "variant=x", "device": "cpu"}
    numbers = pd.DataFrame(
        {**about, "machine": "here", "seed": seed, "mean_return": value, "trained": trained}
        for trained, values in (("first", (1.0, 3.0)), ("again", (2.0, 6.0)))
        for seed, value in enumerate(values)
    )
    (line,) = module.report(numbers).sheet.body
    assert line[:4] == ["mpe/spread q", "m (x)", "2.0 ± 1.4", "4.0 ± 2.8"]
    ResultsFile(tmp_path / "rows.csv").overwrite([])
    with pytest.raises(DataError, match="no rows; give folders of results"):
        module.finished(tmp_path / "rows.csv")


def test_a_small_alpha_has_a_small_step() -> None:
    module = script("v_closed_form")
    options = module.Options(seeds=(0,), alphas=(0.01, 0.5, 5.0), lr=1e-2)
    found = module.learner(options, "hard").configs
    assert [config.lr for config in found] == pytest.approx([1e-3, 5e-3, 1e-2])
    assert {config.z_clip for config in found} == {"hard"}


# ---- the Reacher ---------------------------------------------------------------------------------------


def test_sides_of_the_elbow() -> None:
    module = script("reacher")
    elbow = np.array([[1.0, 2.0, 0.5, -1.0], [-1.0, -2.0, -0.1, -0.2], [1.0, -1.0, 1.0, -1.0]])
    assert module.one_way(elbow).tolist() == [0.75, 1.0, 0.5]
    assert module.score(-4.2370844) == pytest.approx(1.0)


def test_the_reacher_with_data_of_two_conventions(tmp_path: Path) -> None:
    """With small settings; the data's teams keep to a side each, and only leader-only has forms with a memory."""
    module = script("reacher")
    options = module.Options(
        out=tmp_path, seeds=(0, 1), data_episodes=4, updates=3, model_updates=3, policy_updates=1, episodes=4
    )
    assert module.main(options) == 0
    lines = written(tmp_path / "reacher")
    data = lines[lines["seed"] < 0].set_index(["task", "form"])
    for team in ("2x1_full", "2x1first_0"):
        assert data.loc[(team, "expert-c"), "elbow"] > 0.5 > -0.5 > data.loc[(team, "expert-d"), "elbow"]
        assert data.loc[team, "one_way"].tolist() == [1.0, 1.0, 0.5]
    forms = {team: set(part["form"]) for team, part in lines[lines["seed"] >= 0].groupby("task")}
    assert forms["2x1first_0"] == set(module.FORMS)
    assert forms["2x1_full"] == {form for form in module.FORMS if "memory" not in form}
    trained = lines[lines["seed"] >= 0]
    np.testing.assert_allclose(trained["score"], module.score(trained["self_play"]), atol=1e-4)
    assert trained["cross_score"].notna().all()
    assert trained["one_way"].between(0.5, 1.0).all()
