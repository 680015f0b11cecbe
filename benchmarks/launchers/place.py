"""The place of training that the command line asks for, and the interface of launchers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from marlzoo.errors import ConfigError, UnknownNameError

from ..plan import Group
from ..progress import Display, WorkItem
from ..split import Split

if TYPE_CHECKING:
    from ..trainer import Trainer

On = Literal["local", "ray", "slurm"]
Work = Sequence[tuple[Group, WorkItem]]
"""Groups to train, each with its place on the display."""

_WHERE = {"address": ("ray",), "partition": ("slurm",), "time": ("slurm",)}
_CLUSTERS = ("ray", "slurm")


class Launcher(Protocol):
    """Trains groups somewhere."""

    def run(self, trainer: Trainer, work: Work, split: Split, display: Display) -> list[str]:
        """Train groups, from their checkpoints where there are some; all rows are in ``trainer.results`` at the end.

        Returns:
            Why groups failed, a line for each that did.

        Raises:
            MarlzooError: an error that concerns all groups; what was trained is kept.
        """


@dataclass(frozen=True)
class Place:
    """Where groups are trained, and the resources of each.

    Args:
        on: ``local`` for processes of this machine, ``ray`` or ``slurm``.
        address: ``HOST:PORT`` of a Ray cluster's head, or ``auto``; empty: a Ray of its own on this machine.
        gpus: for each group, on Ray also a fraction; None: one where the device is a GPU, on Ray a fourth where
            no group has layers of more than 64 units.
        array: most groups at a time on a cluster; 0: as many as it has room for.
        partition: of SLURM; empty: its default.
        time: limit of a SLURM job, in minutes or as ``D-HH:MM:SS``; a job that reaches it is requeued and resumes.
        storage: folder or URL that checkpoints are copied to, and fetched from where they are missing; empty: none.

    Raises:
        UnknownNameError: no such place.
        ConfigError: an option of another place, or a negative number.
    """

    on: str = "local"
    address: str = ""
    gpus: float | None = None
    array: int = 0
    partition: str = ""
    time: str = ""
    storage: str = ""

    def __post_init__(self) -> None:
        if self.on not in get_args(On):
            raise UnknownNameError("place to train on", self.on, get_args(On))
        for name in ("address", "gpus", "array", "partition", "time"):
            places = _WHERE.get(name, _CLUSTERS)
            if getattr(self, name) not in ("", 0, None) and self.on not in places:
                asked = " or ".join(f"--on {place}" for place in places)
                raise ConfigError(f"--{name} is for {asked}, not for --on {self.on}; leave it out")
        if (self.gpus or 0) < 0 or self.array < 0:
            raise ConfigError(f"--gpus {self.gpus} --array {self.array}: no number may be negative")

    def gpus_on(self, device: str) -> float:
        """GPUs of each group that trains on a device.

        Raises:
            ConfigError: GPUs for training on the processor, or none for training on a GPU.
        """
        needs = device.partition(":")[0] == "cuda"
        if needs and ":" in device:
            raise ConfigError(
                f"--device {device}: on a cluster each group is given its card; write --device cuda"
            )
        gpus = float(needs) if self.gpus is None else self.gpus
        if bool(gpus) != needs:
            raise ConfigError(
                f"--gpus {gpus:g} with --device {device}: groups that train on a GPU need one, others none"
            )
        return gpus
