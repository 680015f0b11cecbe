"""What games share whose state is a point in a box, moved by continuous actions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs._rules import Bools, Floats


class BoxState:
    """Part of the :class:`marlzoo.envs._rules.Rules` of games whose state, in [-1, 1], is shown as it is."""

    actions = 0

    def recover(self, shown: Floats) -> tuple[Any, Bools]:
        """The state is shown as it is."""
        return shown, np.asarray((np.abs(shown) <= 1.0).all(-1))

    def action_mask(self, state: NDArray[Any]) -> Bools | None:
        """Actions are continuous."""
        return None
