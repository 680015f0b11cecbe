"""Teams on the ``-v2`` robots: which agent owns which actuators, and what it sees of the joints around it.

Three orders of actuators exist in the literature under the same task names, so the order is explicit:
``concat`` gives agent i the i-th run of actuators (OMIGA, OMAR, TRPO-in-MARL, HARL), ``scatter`` follows the
labels of the partition (later multiagent_mujoco). Local observations follow the labels under both, as in
the forks that concatenate.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

from marlzoo.errors import ConfigError

ActionMapping = Literal["concat", "scatter"]
Owners = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Partition:
    """A robot's division among agents.

    Attributes:
        robot, label: key of the robot; name of the division, for instance ``2x3``.
        sizes: actuators per agent.
        scatter: actuators of each agent by label; None where the literature defines none.
        obsk: whether local observations are defined.
    """

    robot: str
    label: str
    sizes: tuple[int, ...]
    scatter: Owners | None = None
    obsk: bool = False

    @property
    def name(self) -> str:
        """Task name, for instance ``halfcheetah-2x3``."""
        return f"{self.robot}-{self.label}"

    def owners(self, mapping: ActionMapping) -> Owners:
        """Actuator indices of each agent, in the order of its action's entries.

        Raises:
            ConfigError: an unknown mapping, or ``scatter`` where the partition has no labels.
        """
        if mapping == "concat":
            ends = tuple(accumulate(self.sizes))
            return tuple(tuple(range(end - size, end)) for size, end in zip(self.sizes, ends, strict=True))
        if mapping != "scatter":
            raise ConfigError(f"action_mapping must be 'concat' or 'scatter', got {mapping!r}")
        if self.scatter is None:
            raise ConfigError(
                f"mamujoco/{self.name}: no scattered actuator order is defined for this partition. "
                "Use action_mapping='concat'"
            )
        return self.scatter


def _single(count: int) -> Owners:
    return tuple((i,) for i in range(count))


PARTITIONS: tuple[Partition, ...] = (
    Partition("halfcheetah", "6x1", (1,) * 6, ((2,), (1,), (0,), (5,), (4,), (3,)), obsk=True),
    Partition("halfcheetah", "2x3", (3, 3), ((2, 1, 0), (5, 4, 3)), obsk=True),
    Partition("halfcheetah", "3x2", (2, 2, 2)),
    Partition("hopper", "3x1", (1,) * 3, _single(3), obsk=True),
    Partition("ant", "2x4", (4, 4), ((2, 3, 4, 5), (6, 7, 0, 1)), obsk=True),
    Partition("ant", "2x4d", (4, 4), ((2, 3, 6, 7), (4, 5, 0, 1))),
    Partition("ant", "4x2", (2,) * 4, ((2, 3), (4, 5), (6, 7), (0, 1)), obsk=True),
    Partition("ant", "8x1", (1,) * 8),
    Partition("walker2d", "2x3", (3, 3), ((2, 1, 0), (5, 4, 3)), obsk=True),
    Partition("walker2d", "6x1", (1,) * 6),
    Partition(
        "humanoid",
        "9-8",
        (9, 8),
        ((14, 15, 2, 0, 1, 11, 12, 13, 16), (7, 9, 8, 3, 5, 4, 6, 10)),
        obsk=True,
    ),
    Partition("humanoid", "17x1", (1,) * 17),
    Partition("reacher", "2x1", (1, 1), _single(2), obsk=True),
    Partition("swimmer", "2x1", (1, 1), _single(2), obsk=True),
)


@dataclass(frozen=True)
class RobotTask:
    """A partition and what its agents see.

    Attributes:
        partition: the team.
        distance: joints up to this distance are seen; None: the full standardized observation (OMIGA).
    """

    partition: Partition
    distance: int | None = None

    @property
    def name(self) -> str:
        """Name without family, for instance ``halfcheetah-2x3-obsk1``."""
        return self.partition.name if self.distance is None else f"{self.partition.name}-obsk{self.distance}"

    @property
    def flavor(self) -> str:
        """``omiga`` or ``obskK``."""
        return "omiga" if self.distance is None else f"obsk{self.distance}"


TASK_TABLE: dict[str, RobotTask] = {
    task.name: task
    for partition in PARTITIONS
    for task in (RobotTask(partition), *(RobotTask(partition, k) for k in (0, 1) if partition.obsk))
}
