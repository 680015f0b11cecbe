"""Tests that every method and every environment passes, for those who write one.

A package that brings methods tests each of them with pytest by::

    import pytest
    from marlzoo.testing import Check, battery

    @pytest.mark.parametrize("check", battery("my_method"), ids=str)
    def test_battery(check: Check, tmp_path):
        check(tmp_path)

and each of its environments by ``env_battery("family/task")`` in place of ``battery("my_method")``.
"""

from __future__ import annotations

import sys

if "pytest" in sys.modules:  # so that a failed assertion below shows its values
    sys.modules["pytest"].register_assert_rewrite(
        "marlzoo.testing.battery",
        "marlzoo.testing.cases",
        "marlzoo.testing.compile_checks",
        "marlzoo.testing.environments",
        "marlzoo.testing.online_checks",
        "marlzoo.testing.toys",
    )

from marlzoo.testing.battery import Check, battery
from marlzoo.testing.cases import SMALL, Case, cases
from marlzoo.testing.environments import EnvCase, env_battery, random_actions
from marlzoo.testing.toys import TOYS, Toys

__all__ = [
    "SMALL",
    "TOYS",
    "Case",
    "Check",
    "EnvCase",
    "Toys",
    "battery",
    "cases",
    "env_battery",
    "random_actions",
]
