"""The studies of fine-tuning and of estimates without a simulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from marlzoo.benchmarks.suites import Data, Learner, Suite

import marlzoo
from marlzoo.errors import DataError
from marlzoo.testing.toys import toy_dataset
from tests.study_scripts import script, written


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
