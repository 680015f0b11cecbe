"""The maps of SMAC: teams, limits, and the sizes of what is observed, without the game.

Two flavors of observation and state exist in the literature: that of the SMAC package (``original``), and that
of the MAPPO code (``mappo``), on which OMIGA's and MADT's data were recorded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Flavor = Literal["original", "mappo"]
FLAVORS: tuple[Flavor, ...] = ("mappo", "original")
NO_ATTACK = 6  # actions before the attacks: no-op, stop, four moves
MOVES = 4


@dataclass(frozen=True)
class Map:
    """One scenario.

    Attributes:
        allies, enemies: units of each side.
        limit: steps until the time limit.
        races: of both sides; units of ``P`` have shields.
        types: bits of the one-hot unit type; 0 where each side has one type.
    """

    allies: int
    enemies: int
    limit: int
    races: str = "TT"
    types: int = 0

    @property
    def actions(self) -> int:
        """Actions of each agent."""
        return NO_ATTACK + self.enemies

    @property
    def shields(self) -> tuple[int, int]:
        """Entries for the shield of an ally and of an enemy."""
        return int(self.races[0] == "P"), int(self.races[1] == "P")

    def obs_size(self, flavor: Flavor) -> int:
        """Entries of an agent's observation."""
        ally, enemy = self.shields
        t = self.types
        n = self.allies
        m = self.enemies
        if flavor == "original":
            return MOVES + m * (5 + enemy + t) + (n - 1) * (5 + ally + t) + 1 + ally + t
        return (n - 1) * (5 + ally + t + self.actions) + m * (5 + enemy + t) + MOVES + self._own(5) + n

    def state_size(self, flavor: Flavor) -> int:
        """Entries of the state: the global one (``original``) or each agent's own (``mappo``)."""
        ally, enemy = self.shields
        t = self.types
        n = self.allies
        m = self.enemies
        if flavor == "original":
            return n * (4 + ally + t + self.actions) + m * (3 + enemy + t)
        return (n - 1) * (8 + ally + t + self.actions) + m * (8 + enemy + t) + MOVES + self._own(7) + n

    def _own(self, base: int) -> int:
        return base + self.shields[0] + self.types + self.actions


MAPS: dict[str, Map] = {
    "3m": Map(3, 3, 60),
    "8m": Map(8, 8, 120),
    "25m": Map(25, 25, 150),
    "5m_vs_6m": Map(5, 6, 70),
    "8m_vs_9m": Map(8, 9, 120),
    "10m_vs_11m": Map(10, 11, 150),
    "27m_vs_30m": Map(27, 30, 180),
    "MMM": Map(10, 10, 150, types=3),
    "MMM2": Map(10, 12, 180, types=3),
    "2s3z": Map(5, 5, 120, "PP", 2),
    "3s5z": Map(8, 8, 150, "PP", 2),
    "3s5z_vs_3s6z": Map(8, 9, 170, "PP", 2),
    "3s_vs_3z": Map(3, 3, 150, "PP"),
    "3s_vs_4z": Map(3, 4, 200, "PP"),
    "3s_vs_5z": Map(3, 5, 250, "PP"),
    "2m_vs_1z": Map(2, 1, 150, "TP"),
    "corridor": Map(6, 24, 400, "PZ"),
    "6h_vs_8z": Map(6, 8, 150, "ZP"),
    "2s_vs_1sc": Map(2, 1, 300, "PZ"),
    "so_many_baneling": Map(7, 32, 100, "PZ"),
    "bane_vs_bane": Map(24, 24, 200, "ZZ", 2),
    "2c_vs_64zg": Map(2, 64, 400, "PZ"),
}
