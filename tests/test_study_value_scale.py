"""The study of mixers in one state: its data, its measure, and the fixed point of a sum of values."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import marlzoo
from tests.study_scripts import script, written

SMALL: dict[str, Any] = {"seeds": (0,), "lrs": (1e-2,), "scales": (2.0,), "updates": 1000, "every": 500}


def test_three_joint_actions_with_their_payoffs_in_episodes_cut_by_a_time_limit() -> None:
    data = script("value_scale").one_state(2, scale=10.0)
    paid: dict[tuple[int, ...], set[float]] = {}
    for row in range(25):
        paid.setdefault(tuple(map(int, data.action[row])), set()).add(float(data.reward[row]))
    assert paid == {(0, 1): {10.0}, (1, 0): {10.0}, (1, 1): {0.0}}
    assert np.flatnonzero(data.truncated).tolist() == [24, 50]
    assert not data.terminal.any()


@pytest.mark.parametrize("mixer", ["vdn", "qmix"])
def test_the_measure_is_the_largest_of_all_joint_actions(mixer: str) -> None:
    module = script("value_scale")
    learner: Any = marlzoo.make(
        "qmix_cql", module.one_state(1, 1.0).spec, seeds=[0, 1, 2], mixer=mixer, history="mlp", hidden=8
    )
    values = learner.team.agents.rows(torch.ones(3, 1, 2, 1))[:, 0]
    totals = [
        learner.team.total(torch.stack((values[:, 0, a], values[:, 1, b]), -1)[:, None], torch.ones(3, 1, 1))
        for a, b in product(range(2), repeat=2)
    ]
    expected = torch.stack(totals).abs().amax(0)[:, 0]
    np.testing.assert_allclose(module.largest(learner), expected.detach().numpy(), rtol=1e-6)


def test_a_sum_reaches_its_fixed_point_and_all_forms_are_shown(tmp_path: Path) -> None:
    module = script("value_scale")
    assert module.main(module.Options(out=tmp_path, target_period=2, **SMALL)) == 0
    lines = written(tmp_path / "value_scale")
    assert lines["form"].unique().tolist() == list(module.FORMS)
    assert sorted(lines["updates"].unique()) == [500, 1000]
    end = lines[lines["updates"] == 1000].set_index("form")["value"]
    assert end["sum (VDN)"] == pytest.approx(1.0, abs=0.06)
