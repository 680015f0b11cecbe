"""The study of what a joint critic says about one agent: its measure, and that it fills its results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from marlzoo.modules.critics import TeamCritics
from tests.study_scripts import FOLDER, script, written

critic_share = script("critic_share")


def test_the_gap_of_known_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values of 1 and 4, in the second replica of 5 and 8: lambda is alpha / 2.5 and alpha / 6.5."""
    data = marlzoo.load_dataset("games/modes-4/marlzoo/modes")
    learner: Any = marlzoo.make("td3_bc", data.spec, seeds=(0, 1), alpha=[0.5, 2.5], **critic_share.SETTINGS)

    def first(self: Any, obs: Any, state: Any, action: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
        assert torch.equal(others.sum(-1), torch.ones_like(others[..., 0])), "the data's actions"
        assert others[..., 0].unique().numel() == 2
        return torch.tensor([1.0, 5.0]).view(2, 1, 1, 1) + 3.0 * action[..., 1]

    monkeypatch.setattr(TeamCritics, "first", first)
    np.testing.assert_allclose(critic_share.gap(learner, data), [0.5 * 3.0 / 2.5, 2.5 * 3.0 / 6.5], rtol=1e-6)


def test_results_are_filled(tmp_path: Path) -> None:
    small = critic_share.Options(
        out=tmp_path, seeds=(0, 1), agents=(2, 4), alphas=(0.0, 2.5), updates=3, episodes=5
    )
    assert critic_share.main(small) == 0
    lines = written(tmp_path / "critic_share")
    committed = written(FOLDER.parents[1] / "results" / "studies" / "critic_share")
    assert lines.columns.tolist() == committed.columns.tolist()
    assert lines.groupby(["agents", "alpha"]).size().tolist() == [2] * 4
    assert (lines["gap"][lines["alpha"] == 0.0] == 0.0).all()
    assert (lines["gap"][lines["alpha"] > 0.0] > 0.0).all()
