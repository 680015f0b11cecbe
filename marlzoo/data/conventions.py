"""Logged data whose teams all follow one convention, so that teams trained on them have nothing to disagree about."""

from __future__ import annotations

from fnmatch import fnmatchcase

_SINGLE = (
    "games/xor/marlzoo/D1",
    "games/iterated-coordination/marlzoo/left",
    "games/iterated-coordination/marlzoo/right",
    "moma/reacher-*/*/expert-c",
    "moma/reacher-*/*/expert-d",
)


def has_single_convention(name: str) -> bool:
    """Whether the dataset ``family/task/source/quality`` is known to hold a single convention."""
    return any(fnmatchcase(name, pattern) for pattern in _SINGLE)
