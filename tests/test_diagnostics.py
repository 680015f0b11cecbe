"""The metrics that all learners share: by hand, and reported by every method that has what they measure."""

from __future__ import annotations

import re

import pytest
import torch

from marlzoo.objectives import effective_sample_size, exponent_quantiles, saturation
from marlzoo.registry import find_method, find_methods
from marlzoo.spec import ActionKind
from marlzoo.testing.cases import Case

WEIGHTED = {
    "alberdice", "comadice", "cql_ma", "eql", "focal", "icq", "inspo", "iql", "mabcq", "maiql", "omac", "omiga",
    "oryx", "sql",
}  # fmt: skip
WEIGHTED_CONTINUOUS = {"lomaq"}  # which is OMIGA's there
CLONING = {"bc", "madiff", "madt"}  # have no values
OFFLINE = sorted(name for name in find_methods().modules if find_method(name).sampling != "online")


def test_effective_sample_size_by_hand() -> None:
    """All equal: 1; one of four: 1/4; (3, 1): 16/20; padding does not count; no weight at all: 0."""

    def share(weight: torch.Tensor, filled: torch.Tensor | None = None) -> float:
        return float(effective_sample_size(weight, filled)["weight/ess"])

    assert share(torch.full((1, 4, 1), 7.0)) == pytest.approx(1.0)
    assert share(torch.tensor([0.0, 0.0, 5.0, 0.0]).view(1, 4, 1)) == pytest.approx(0.25)
    assert share(torch.tensor([3.0, 1.0]).view(1, 2, 1)) == pytest.approx(0.8)
    assert share(torch.tensor([1e30, 1e30]).view(1, 2, 1)) == pytest.approx(1.0)  # its square is no float32
    assert share(torch.zeros(1, 4, 1)) == 0.0
    agents = torch.tensor([[1.0, 0.0], [1.0, 1.0]]).unsqueeze(0)  # agent 0: 1, agent 1: 1/2
    assert share(agents) == pytest.approx(0.75)
    padded = torch.tensor([2.0, 2.0, 99.0]).view(1, 1, 3, 1)
    assert share(padded, torch.tensor([[[1.0, 1.0, 0.0]]])) == pytest.approx(1.0)


def test_quantiles_are_numpys() -> None:
    exponent = torch.randn(3, 7, 2, dtype=torch.float64)
    found = exponent_quantiles(exponent)
    for quantile in (0.5, 0.9, 0.99):
        expected = torch.quantile(exponent.flatten(1), quantile, dim=1)
        torch.testing.assert_close(found[f"weight/exponent_q{round(100 * quantile)}"], expected)


def test_saturation_leaves_padding_out() -> None:
    action = torch.tensor([[1.0, 0.0], [0.995, -0.5]]).view(1, 1, 2, 2)
    used = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    assert float(saturation(action, used)["policy/saturation"]) == pytest.approx(2 / 3)


@pytest.mark.parametrize("name", OFFLINE)
def test_methods_report_them(name: str) -> None:
    """Every offline method but cloning says its values' scale, every weighted one its effective sample size."""
    for kind in find_method(name).actions:
        metrics = _metrics(name, kind)
        assert [metric for metric in metrics if not re.fullmatch(r"[a-z_]+/[a-z0-9_]+", metric)] == []
        assert ("value/data_mean" in metrics) == (
            name not in CLONING | {"moma_ppo"}
        )  # which first learns a model
        weighted = WEIGHTED | WEIGHTED_CONTINUOUS if kind == "continuous" else WEIGHTED
        assert ("weight/ess" in metrics) == (name in weighted)
        if "weight/ess" in metrics:
            assert ((metrics["weight/ess"] >= 0) & (metrics["weight/ess"] <= 1)).all()


def _metrics(name: str, kind: ActionKind) -> dict[str, torch.Tensor]:
    case = Case(name, kind)
    return case.updated(case.learner((0, 1)), 1)
