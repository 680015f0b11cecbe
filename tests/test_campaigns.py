"""A few trials of every campaign (``tests/campaigns``); ``make campaigns`` runs as many as one likes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.campaigns import CAMPAIGNS, failures

TRIALS = {"kill": 25, "disk_full": 20, "damage": 150, "hostile": 20, "misbehaving": 40}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="trials run in processes that are forked")
@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_slice_of_each(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARLZOO_HOME", str(tmp_path / "home"))
    assert not list(failures(name, TRIALS[name], tmp_path))
