"""What every offline method passes by existing: the checks are made by listing."""

from __future__ import annotations

from pathlib import Path

import pytest

from marlzoo.registry import method_names
from marlzoo.testing import Check, battery


@pytest.mark.parametrize("check", [check for name in method_names() for check in battery(name)], ids=str)
def test_battery(check: Check, tmp_path: Path) -> None:
    check(tmp_path)
