"""What every offline method passes by existing: the checks are made by listing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from marlzoo.registry import method_names
from marlzoo.testing import Check, battery
from marlzoo.testing.cases import cases

# test_reference.py compares every replica's updates with an account of that replica alone, for every option: here the
# plain form of each action kind is enough, for what comes before and after the updates.
REFERENCED = {"lockstep_equals_single_runs", "nan_stays_in_its_replica"}
TRACED = {"update_is_one_graph"}  # in test_compile.py, with as little as shows a fault: tracing takes seconds


def checks() -> Iterator[Check]:
    """The batteries of all methods, without what another test sees."""
    for method in method_names():
        plain = {str(case) for case in cases(method) if not case.variant}
        for check in battery(method):
            what, _, form = check.name.partition("-")
            if what in TRACED:
                continue
            if what not in REFERENCED or form in plain:
                yield check


@pytest.mark.parametrize("check", list(checks()), ids=str)
def test_battery(check: Check, tmp_path: Path) -> None:
    check(tmp_path)
