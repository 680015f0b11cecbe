"""Training on a Ray cluster: each group is a task. Needs the package ray, and no folder that nodes share.

The driver, which is the command itself, keeps everything. A task works in a folder of its node and sends what it
makes: rows, which the driver alone writes, and after each save the checkpoint. Where a node dies, the group is sent
to another one with its last checkpoint. Datasets go into Ray's object store under their content hash, so that each
node fetches one once, whichever groups train on it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator

import ray

from marlzoo.errors import ConfigError

from ..plan import Group, full_config
from ..progress import Display
from ..split import Split, cores
from ..status import list_groups
from ..suites import Suite
from ..trainer import Trainer
from ._ray_driver import Driver
from .place import Place, Work

SMALL_WIDTH = 64  # units of a hidden layer up to which a group leaves most of a card unused
SMALL_NEED = 0.25  # GPUs of such a group


class Ray:
    """Sends groups to a cluster, or to a Ray that it starts on this machine and ends again.

    Args:
        place: address, GPUs of each group, and most groups at a time.
        device: that groups train on.

    Raises:
        ConfigError: nothing answers at the address.
    """

    def __init__(self, place: Place, device: str) -> None:
        self._place = place
        self._gpus = place.gpus_on(device)
        if place.address and place.address != "auto":
            _require_answer(place.address)

    def run(self, trainer: Trainer, work: Work, split: Split, display: Display) -> list[str]:
        """See :class:`marlzoo.benchmarks.launchers.Launcher`."""
        list_groups(trainer.folder, trainer.suite, [group for group, _ in work])
        if not work:
            return []
        gpus = self._gpus
        if gpus and self._place.gpus is None:
            gpus = gpu_need(trainer.suite, (group for group, _ in work))
        driver = Driver(trainer, work, max(split.threads, 1), gpus, self._place.array, display)
        with _connected(self._place.address):
            return driver.run()


def gpu_need(suite: Suite, groups: Iterable[Group]) -> float:
    """GPUs of each group where nobody says: a part of one where the networks of all are small."""
    widths = [
        value
        for group in groups
        for name, value in full_config(suite, group.runs[0]).items()
        if name.endswith("hidden")
    ]
    return SMALL_NEED if widths and max(widths) <= SMALL_WIDTH else 1.0


def _require_answer(address: str) -> None:
    host, _, port = address.rpartition(":")
    if address.startswith("ray://"):
        raise ConfigError(
            f"--address {address}: Ray's client (ray://) cannot hear what groups report while they train; start the "
            "command on a node of the cluster, with HOST:PORT of its head or auto"
        )
    if "://" in address or not host or not port.isdigit():
        raise ConfigError(
            f"--address {address}: write HOST:PORT of the cluster's head, or auto, and start the command on a node "
            "of the cluster"
        )
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str, error: Exception) -> ConfigError:
    return ConfigError(
        f"--address {address}: no Ray cluster can be joined there ({_first_line(error)}); start one with "
        "'ray start --head' and give the address that it prints, or leave --address out for a Ray of this machine "
        "alone"
    )


def _not_joined(address: str, error: Exception) -> ConfigError:
    """A cluster that asks for a token refuses in the same words as one that is not there."""
    return ConfigError(
        f"--address {address}: no Ray cluster can be joined there ({_first_line(error)}); one that asks for a token "
        "is joined with RAY_AUTH_MODE=token in the environment and the head's token ('ray get-auth-token' prints "
        "it) in RAY_AUTH_TOKEN or ~/.ray/auth_token; otherwise compare the address and Ray's version with those of "
        "the head, or start a cluster with 'ray start --head'"
    )


def _not_started(error: Exception) -> ConfigError:
    return ConfigError(
        f"--on ray: no Ray could be started on this machine ({_first_line(error)}); where it is busy, give Ray more "
        "time (RAY_raylet_start_wait_time_s=300 in the environment), or train with --on local"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def _connected(address: str) -> Iterator[None]:
    """Connected to a cluster until the block ends, which ends a Ray of its own with all its processes."""
    if ray.is_initialized():  # by a program that calls marlzoo.bench; it is that program's
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports no usage statistics
    own = {"address": "local", "num_cpus": cores(), "include_dashboard": False}
    options = {"address": address} if address else own
    try:
        with _own_sigterm():
            ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # of a class without a name where a node does not start in time
        raise _not_joined(address, error) if address else _not_started(error) from error
    try:
        yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_sigterm() -> Iterator[None]:
    """Leave SIGTERM to the handler that it has; Ray's exits, and once it is connected dumps its stack."""
    before = signal.getsignal(signal.SIGTERM)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield
        return
    try:
        yield
    except SystemExit:  # of Ray's handler, while it was connecting
        before(signal.SIGTERM, None)
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
