"""References of tables: published scores, the returns that normalize others, and the learner to compare with."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from marlzoo.benchmarks import references
from marlzoo.benchmarks.captions import references_note
from marlzoo.benchmarks.results import Row
from marlzoo.benchmarks.styles import markdown
from marlzoo.benchmarks.summary import scores_of
from numpy.typing import NDArray

from marlzoo.cli import tabling
from marlzoo.envs import games
from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.errors import ConfigError, PluginError
from marlzoo.spec import Spec
from tests.table_rows import HOPPER, cell, first, grid, titled


def test_published_scores_stand_in_a_table_of_their_own() -> None:
    known = references.published_result(HOPPER, "medium", "omiga")
    assert known is not None
    assert (known.mean, known.seeds) == (1189.26, 5)
    assert references.published_result(HOPPER, "medium", "BCQ_MA") is not None
    assert references.published_result(HOPPER, "random", "omiga") is None
    rate = references.published_result("smac/5m_vs_6m", "good", "omiga", "win_rate")
    assert rate is not None
    assert 0 <= rate.mean <= 1
    rows = cell("omiga", [1.0, 2.0]) + cell("omiga", [1.0], variant="alpha=1.0", config_hash="a")
    rows += cell("own", [3.0, 4.0])
    assert "1189.3" not in markdown(first(rows))
    sheet = titled(rows, "Published scores")
    assert sheet.header == ["method", "medium"]
    assert [line[0] for line in sheet.body] == ["omiga"]
    assert sheet.body[0][1].startswith("1189.3 ± ")
    assert any("regenerated" in note for note in sheet.notes)
    same = titled([replace(row, source="omiga") for row in rows], "Published scores")
    assert not any("regenerated" in note for note in same.notes)


def test_normalized_score_ends() -> None:
    assert references.normalized_score(HOPPER, 2452.0) == pytest.approx(100)
    assert references.normalized_score("mamujoco/halfcheetah-6x1", -280.6) == pytest.approx(0)
    assert references.normalized_score("mamujoco/swimmer-2x1", 5.0) is None


def test_tasks_without_a_listed_reference_are_normalized_by_their_behavior_policy() -> None:
    from marlzoo.teachers.store import load_behavior_policy

    behavior = load_behavior_policy("mpe/spread")
    stages = {name: behavior.snapshots[rows[-1]].mean_return for name, rows in behavior.qualities.items()}
    found = references.ends("mpe/spread")
    assert found is not None
    assert (found.random, found.expert) == (stages["random"], stages["expert"])
    assert references.normalized_score("mpe/spread", stages["expert"]) == pytest.approx(100)
    found = references.ends("games/equilibria")  # known in advance: three of nine payoffs are not -20
    assert (found.random, found.expert, found.source) == (
        round((5 + 10 + 20 - 6 * 20) / 9, 9),
        20.0,
        "known optimum",
    )
    assert references.ends("games/sign-agreement").random == pytest.approx(0.0, abs=1e-12)
    assert (
        references.ends("games/modes-64")
        is references.ends("games/bridge")
        is references.ends("no/task")
        is None
    )


@pytest.fixture
def own_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The module of an environment family of one's own, with the task ``scored/x``, to append to."""
    module = tmp_path / "scored.py"
    module.write_text("TASKS = ('x',)\n\ndef spec(name):\n    pass\n\nmake = spec\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MARLZOO_ENVIRONMENTS", "scored")
    monkeypatch.delitem(sys.modules, "scored", raising=False)
    references._ends.cache_clear()
    yield module
    references._ends.cache_clear()


def test_returns_that_a_family_of_ones_own_knows_normalize_its_scores(own_family: Path) -> None:
    own_family.write_text(own_family.read_text() + "def known_returns(name):\n    return [-60, 20]\n")
    assert references.normalized_score("scored/x", -20.0) == pytest.approx(50)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("return 'high'", "returned 'high'; let scored return two different finite numbers"),
        ("return 1.0", "returned 1.0; let scored return two"),
        ("return 1.0, 1.0", r"returned \(1.0, 1.0\); let scored return two"),
        ("return 0.0, float('inf')", r"returned \(0.0, inf\); let scored return two"),
        ("return {}[name]", "failed: KeyError: 'x'; correct scored"),
    ],
)
def test_returns_that_normalize_nothing_are_refused(own_family: Path, body: str, error: str) -> None:
    own_family.write_text(own_family.read_text() + f"def known_returns(name):\n    {body}\n")
    with pytest.raises(PluginError, match=rf"scored/x: known_returns\('x'\) {error}"):
        references.normalized_score("scored/x", 1.0)


def test_scores_on_data_of_a_second_behavior_policy_are_between_its_own_ends() -> None:
    from marlzoo.teachers.store import load_behavior_policy

    first, second = (load_behavior_policy(name).snapshots for name in ("mpe/spread", "mpe/spread@2"))
    found = references.ends("mpe/spread", "medium-v2")
    assert found is not None
    assert (found.random, found.expert) == (second[0].mean_return, second[-1].mean_return)
    assert references.normalized_score("mpe/spread", second[-1].mean_return, "expert-v2") == pytest.approx(
        100
    )
    assert references.ends("mpe/spread", "medium").expert == first[-1].mean_return
    assert references.ends("mpe/spread", "medium-v9") == references.ends("mpe/spread")  # none is shipped
    assert references.ends(HOPPER, "medium-v2") == references.ends(HOPPER)  # listed
    note = references_note(
        [
            ("mpe/spread", "expert-v2", "marlzoo"),
            ("mpe/spread", "medium-v2", "marlzoo"),
            ("mpe/spread", "medium", "marlzoo"),
            ("mpe/spread", "mine-v2", "own"),
            (HOPPER, "medium-v2", "marlzoo"),
        ]
    )
    assert "mpe/spread (data v2): 165.112 to 434.041 (" in note
    assert note.count("(data v2)") == 1
    assert note.count("mpe/spread: 165.112 to 289.711 (") == 1
    assert f"{HOPPER}: " in note
    rows = pd.DataFrame(
        {
            "task": ["mpe/spread"] * 3,
            "mean_return": [second[-1].mean_return] * 3,
            "quality": ["medium-v2", "medium", "mine-v2"],
            "source": ["marlzoo", "marlzoo", "own"],
        }
    )
    own, other, mine = scores_of(rows)
    assert own == pytest.approx(100)
    assert other == mine > 200  # data of one's own may be called as one likes
    assert references.ends("mpe/spread", "medium-v2-n500-s1") == references.ends("mpe/spread", "medium-v2")


def test_a_listed_random_return_serves_where_the_behavior_policy_has_no_random_stage() -> None:
    from marlzoo.teachers.store import load_behavior_policy

    behavior = load_behavior_policy("smax/3m")
    good = behavior.snapshots[behavior.qualities["good"][-1]].mean_return
    found = references.ends("smax/3m")
    assert found is not None
    assert found.expert == good
    assert 0.1 < found.random < 0.3  # a win pays 2; random actions remove a tenth of the enemies' health
    assert references.normalized_score("smax/3m", found.random) == 0.0
    assert references.ends("moma/reacher-2x1_0").expert == -4.2370844  # listed with both ends


def test_random_returns_of_discrete_tasks_take_allowed_actions_only() -> None:
    expected = np.mean(games.payoffs("xor"))
    assert references.random_return("games/xor", episodes=400) == pytest.approx(expected, abs=0.15)


def test_random_actions_are_allowed_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four actions are not: the action that is left pays 1 in each of three steps."""
    mask = np.tile(np.arange(4) == 2, (50, 2, 1))

    class Masked(BatchedEnv):
        task, num_envs, may_hang = "own/masked", 50, False
        spec = Spec(2, 1, 1, "discrete", 4, 3, reward_per_agent=True)
        seen = np.zeros((50, 2, 1), np.float32), np.zeros((50, 1), np.float32), mask

        def seed(self, seeds: Sequence[int]) -> None:
            self.time = 0

        def reset(self, ids: Ids | None = None) -> Observation:
            return Observation(*self.seen)

        def step(self, action: NDArray[Any], ids: Ids | None = None) -> Step:
            assert (action == 2).all()
            self.time += 1
            over = np.full(50, self.time == 3)
            return Step(*self.seen, np.ones((50, 2), np.float32), terminal=over, truncated=over & False)

    monkeypatch.setattr("marlzoo.families.make_env", lambda task, num_envs: Masked())
    assert references.random_return("own/masked", episodes=50) == 3.0


def test_a_reference_is_one_learner() -> None:
    """A method's name serves where it has one learner or one of its learners has no other name."""
    rows = grid({"low": [1.0] * 3, "high": [2.0] * 3}, ["a", "b"])
    one, two = (
        [replace(r, variant=f"alpha={k}.0", config_hash=str(k)) for r in rows if r.method == "high"]
        for k in (1, 2)
    )
    low = [row for row in rows if row.method == "low"]

    def than(rows: list[Row]) -> str:
        return titled(rows, "Over all datasets (2)", reference="high").header[-1]

    assert than([*low, *one]) == "P(> high)", "a setting that tells none apart is no part of a name"
    assert than([*rows, *one, *two]) == "P(> high)"
    each = [replace(r, variant=f"alpha={1 + (r.method == 'high')}.0", config_hash=r.method) for r in rows]
    assert than(each) == "P(> high (alpha=2.0))", "a label that others need, too"
    with pytest.raises(
        ConfigError, match=r"high has 2 learners.*'high \(alpha=1.0\)', 'high \(alpha=2.0\)'\."
    ):
        than([*low, *one, *two])


@pytest.mark.parametrize("form", [["--json"], ["--format", "csv"]])
def test_numbers_without_a_reference_take_none(form: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^--reference: numbers .* --write FOLDER$"):
        tabling.run([str(tmp_path), *form, "--reference", "bc"])
