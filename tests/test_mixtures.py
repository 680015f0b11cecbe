"""The study of mixed data: which rows it reads, and gains over the parts by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from marlzoo.errors import DataError
from tests.study_scripts import script, written

TASK = "mamujoco/hopper-3x1"
SCORES = {"medium": (10.0, 20.0, 30.0), "expert": (60.0, 70.0, 80.0), "medium-expert": (50.0, 50.0, 80.0)}


def rows(scores: dict[str, tuple[float, ...]], **changed: Any) -> pd.DataFrame:
    """Rows at two numbers of updates; those of the first would give other gains."""
    found = [
        {
            **{
                "suite": "s",
                "task": TASK,
                "quality": quality,
                "learner": "x",
                "seed": seed,
                "updates": updates,
            },
            **{"normalized_score": value if updates == 200 else -7.0, "behavior_return": 1234.0, **changed},
        }
        for quality, values in scores.items()
        for seed, value in enumerate(values)
        for updates in (100, 200)
    ]
    return pd.DataFrame(found)


def together(*frames: pd.DataFrame) -> pd.DataFrame:
    return pd.concat(frames)


def test_gains_over_the_parts_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("mixtures")
    monkeypatch.setattr(module, "normalized_score", lambda task, value: value / 100)
    numbers = module.lines(rows(SCORES))
    assert len(numbers) == 10  # last rows of nine runs, and the data's
    value, low, high = module.gain(numbers, "over the mean")
    assert value == pytest.approx(60 - (20 + 70) / 2)
    assert low < value < high
    assert module.gain(numbers, "over the better")[0] == pytest.approx(60 - 70)
    assert module.gain(numbers, "over the data")[0] == pytest.approx(60 - 12.34)


def test_seeds_of_the_parts_are_drawn_like_those_of_the_mixture(monkeypatch: pytest.MonkeyPatch) -> None:
    module = script("mixtures")
    steady = {**SCORES, "medium-expert": (60.0, 60.0, 60.0)}
    numbers = module.lines(rows(steady))
    low, high = module.gain(numbers, "over the better")[1:]
    assert (low, high) == (pytest.approx(-20), pytest.approx(0))  # of 60 to 80 of the expert part alone
    assert module.gain(numbers, "over the data")[1] == module.gain(numbers, "over the data")[2]


def test_mixtures_count_alike_whatever_their_seeds() -> None:
    module = script("mixtures")
    more = {"good": (50.0,) * 5, "poor": (10.0,) * 5, "good-poor": (70.0,) * 5}
    numbers = module.lines(together(rows(SCORES), rows(more, task="smax/3m")))
    assert module.gain(numbers, "over the mean")[0] == pytest.approx((15 + 40) / 2)


def test_only_who_has_the_mixture_and_both_parts_is_compared() -> None:
    module = script("mixtures")
    lacking = rows({"expert": (1.0, 2.0, 3.0), "medium-expert": (1.0, 2.0, 3.0)}, learner="y")
    assert set(module.lines(together(rows(SCORES), lacking))["learner"]) == {"x"}
    with pytest.raises(DataError, match="both of its parts"):
        module.lines(lacking)


def test_gains_as_text() -> None:
    module = script("mixtures")
    assert module.text((1.25, -0.5, 3.0)) == "+1.2 [-0.5, +3.0]"
    assert module.text((-1.0, np.nan, np.nan)) == "-1.0"


def test_mixtures_of_committed_runs(tmp_path: Any) -> None:
    module = script("mixtures")
    assert module.main(module.Options(out=tmp_path)) == 0
    numbers = written(tmp_path / "mixtures")
    assert {"bc", "omiga"} <= set(numbers["learner"])
    assert set(numbers["part"]) >= {"mixture", "data", "medium", "expert"}
