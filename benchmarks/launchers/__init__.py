"""Launchers: train a suite's groups in processes of this machine, on a Ray cluster, or as SLURM jobs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from marlzoo.errors import MissingExtraError

from ..status import Listed
from .local import Local
from .place import Launcher, Place, Work

__all__ = ["Launcher", "Local", "Place", "Work", "job_states", "make_launcher"]


def make_launcher(place: Place, device: str) -> Launcher:
    """The launcher of a place; finds out whether the place is there.

    Args:
        place: where to train.
        device: that each group trains on.

    Raises:
        MissingExtraError: the package that speaks to a cluster is not installed.
        ConfigError: there is no such cluster.
    """
    if place.on == "local":
        return Local(device)
    if place.on == "ray":
        with _extra("ray", "ray"):
            from .ray import Ray

        return Ray(place, device)
    with _extra("submitit", "slurm"):
        from .slurm import Slurm
    return Slurm(place, device)


def job_states(folder: Path, groups: Sequence[Listed]) -> Mapping[str, str]:
    """The states of SLURM's jobs, which are asked for only where there are some; see :mod:`.status`.

    Raises:
        MissingExtraError: there are jobs, and the package that speaks to SLURM is not installed.
    """
    if not groups:
        return {}
    with _extra("submitit", "slurm"):
        from .slurm import job_states as states
    return states(folder, groups)


@contextlib.contextmanager
def _extra(package: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(package, extra, f"--on {extra}") from error
