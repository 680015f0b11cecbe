"""The study of what intervals are worth counts what it says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.study_scripts import script, written


def test_shares_of_trials_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every third difference lies beyond 0, every fourth interval of a mean misses it, every second one of an IQM."""
    module = script("intervals")
    calls = {"difference": 0, "mean": 0, "iqm": 0}

    def known(name: str, every: int) -> tuple[float, float]:
        calls[name] += 1
        return (10.0, 11.0) if calls[name] % every == 0 else (-10.0, 11.0)

    monkeypatch.setattr(module, "difference", lambda first, second: known("difference", 3))
    monkeypatch.setattr(module.study, "bounds", lambda values: known("mean", 4))
    monkeypatch.setattr(module, "interval", lambda samples: known("iqm", 2))
    found = module.counted(module.Options(sizes=(3,), trials=12))
    assert found[["apart", "mean", "iqm"]].to_numpy().tolist() == [pytest.approx([1 / 3, 3 / 4, 1 / 2])] * 2
    assert found["distribution"].tolist() == ["normal", "two peaks"]


def test_the_true_values_are_those_of_the_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    module, seen = script("intervals"), list[Any]()

    def trial(draw: Any, rng: Any, size: int, *true: float) -> tuple[bool, bool, bool]:
        seen.append(true)
        return (True, True, True)

    monkeypatch.setattr(module, "trial", trial)
    module.counted(module.Options(sizes=(3,), trials=1))
    np.testing.assert_allclose(seen, [(0.0, 0.0), (0.4, 0.3)], atol=0.01)


def test_few_seeds_make_too_narrow_intervals(tmp_path: Path) -> None:
    module = script("intervals")
    assert module.main(module.Options(out=tmp_path, sizes=(3, 20), trials=100)) == 0
    lines = written(tmp_path / "intervals").set_index(["distribution", "size"])
    assert lines.loc[("normal", 3), "apart"] > 0.1 > lines.loc[("normal", 20), "apart"]
    assert lines.loc[("normal", 3), "mean"] < 0.9 < lines.loc[("normal", 20), "mean"]
