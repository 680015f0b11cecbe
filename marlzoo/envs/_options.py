"""Checks of environments' options."""

from __future__ import annotations

from marlzoo.errors import ConfigError


def positive(task: str, option: str, value: object) -> int:
    """An option that counts something.

    Raises:
        ConfigError: the value is no positive integer.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{task}: {option} must be a positive integer, got {value!r}")
    return value
