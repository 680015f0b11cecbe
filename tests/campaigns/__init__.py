"""Campaigns: many random trials of what must never happen, each printed with the number that repeats it.

``make campaigns N=300`` runs N trials of every campaign; ``tests/test_campaigns.py`` runs a few of each. A campaign
prepares a folder once and is then asked for trials; a trial returns what went wrong, or an empty text.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.campaigns.crashes import disk_full, kill
from tests.campaigns.damage import damage
from tests.campaigns.environments import misbehaving
from tests.campaigns.hostile import hostile

Trial = Callable[[random.Random], str]

CAMPAIGNS: dict[str, Callable[[Path], Trial]] = {
    "kill": kill,
    "disk_full": disk_full,
    "damage": damage,
    "hostile": hostile,
    "misbehaving": misbehaving,
}


def failures(name: str, trials: int, folder: Path, first: int = 0) -> Iterator[str]:
    """What went wrong in the trials ``first``, ``first + 1``, ... of a campaign, a line each.

    Args:
        name: of the campaign.
        trials: how many.
        folder: to work in; must be empty.
        first: number of the first trial; a trial of one number always does the same.
    """
    trial = CAMPAIGNS[name](folder)
    for number in range(first, first + trials):
        wrong = trial(random.Random(f"{name} {number}"))
        if wrong:
            yield f"{name}, trial {number}: {wrong}"
