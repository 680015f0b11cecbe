"""The studies: their exact sides against known numbers, and each with small settings from data to files."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from marlzoo.benchmarks import study
from marlzoo.benchmarks.walks import Training, Walks, distance

import marlzoo
from marlzoo.data import games as game_data
from marlzoo.envs import games
from marlzoo.testing.toys import toy_dataset
from tests.recordings import uniform_recording
from tests.study_scripts import FOLDER, STUDIES, script, written

TINY = Training(updates=40, transitions=400, hidden=16, mixer_hidden=8, batch_size=32, every=5)


@pytest.mark.parametrize("name", STUDIES)
def test_results_are_committed(name: str) -> None:
    assert len(written(FOLDER.parents[1] / "results" / "studies" / name))


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


def test_a_small_alpha_has_a_small_step() -> None:
    module = script("v_closed_form")
    options = module.Options(seeds=(0,), alphas=(0.01, 0.5, 5.0), lr=1e-2)
    found = module.learner(options, "hard").configs
    assert [config.lr for config in found] == pytest.approx([1e-3, 5e-3, 1e-2])
    assert {config.z_clip for config in found} == {"hard"}


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
