"""Loggers by name: those of ``--log``, and any that an installed package declares.

A logger is found through the group ``marlzoo.loggers``: an entry ``name = "module:factory"``, where
``factory(target)`` takes a :class:`LogTarget` and returns a :class:`marlzoo.training.loggers.Logger`.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from marlzoo.algorithm import Algorithm
from marlzoo.errors import MarlzooError, PluginError, UnknownNameError
from marlzoo.plugins import LOGGERS, entries
from marlzoo.task import TaskName
from marlzoo.training.evaluation import Evaluation
from marlzoo.training.loggers import Logger

BUILT_IN = {
    "tensorboard": "marlzoo.training.tensorboard_logger:TensorBoardLogger",
    "wandb": "marlzoo.training.wandb_logger:WandbLogger",
}


@dataclass(frozen=True)
class LogTarget:
    """Destination of a lockstep group's logs, and a description of its replicas.

    Args:
        folder: of the run; a logger writes below ``folder/NAME_OF_THE_LOGGER``.
        project: name of the suite or of the run.
        replicas: for each replica, values that tell it apart, for instance run, quality and seed; empty: its seed.
        about: what all replicas have in common, for instance task and method.
    """

    folder: Path
    project: str
    replicas: Sequence[Mapping[str, Any]] = ()
    about: Mapping[str, Any] = field(default_factory=dict)

    def names(self, algorithm: Algorithm) -> list[str]:
        """A name per replica, ``bc-hopper-3x1-medium-0-1a2b3c``, that is a folder's, too."""
        replicas = self.replicas or [{"seed": seed} for seed in algorithm.seeds]
        task = TaskName.parse(str(self.about.get("task", "")))
        common = [algorithm.name, task.name or task.family]
        own = [[v for name, v in replica.items() if name != "run"] for replica in replicas]
        last = [replica.get("run", "") for replica in replicas]  # tells apart what the rest does not
        parts = [[*common, *map(str, values), str(run)] for values, run in zip(own, last, strict=True)]
        return ["-".join(part.replace("/", "-") for part in each if part) for each in parts]

    def config(self, algorithm: Algorithm, replica: int) -> dict[str, Any]:
        """All that identifies a replica: names, seed and settings, as plain values."""
        names = dict(self.replicas[replica]) if self.replicas else {}
        settings = algorithm.configs[replica].to_dict()
        seed = algorithm.seeds[replica]
        found = {**self.about, "method": algorithm.name, "seed": seed, **names, **settings}
        return dict(json.loads(json.dumps(found, default=str)))


Factory = Callable[[LogTarget], Logger]


def find_logger(name: str) -> Factory:
    """What makes the logger of a name.

    Raises:
        UnknownNameError: no such logger.
        MissingExtraError: its package is not installed.
        PluginError: it is broken, or two packages take the name.
    """
    known = [*BUILT_IN.items(), *((entry.name, entry.value) for entry in entries(LOGGERS))]
    places = [place for found, place in known if found == name]
    if not places:
        raise UnknownNameError("logger", name, {found for found, _ in known})
    if len(places) > 1:
        raise PluginError(f"logger {name!r} is taken by {' and '.join(places)}; uninstall one of them")
    module, _, attribute = places[0].partition(":")
    try:
        factory = getattr(importlib.import_module(module), attribute)
    except MarlzooError:
        raise
    except (Exception, SystemExit) as error:  # a foreign module may fail in any way
        raise PluginError(
            f"logger {name!r}: loading {places[0]} failed: {type(error).__name__}: {error}"
        ) from error
    if not callable(factory):
        raise PluginError(f"logger {name!r}: {places[0]} cannot be called")
    return factory  # type: ignore[no-any-return]


def make_loggers(names: Sequence[str], target: LogTarget) -> list[Logger]:
    """The loggers of several names, each once.

    Raises:
        UnknownNameError: no such logger.
        MissingExtraError: a package is not installed.
        PluginError: one is broken.
    """
    return [find_logger(name)(target) for name in dict.fromkeys(names)]


def evaluation_values(evaluation: Evaluation, replica: int) -> dict[str, float]:
    """A replica's evaluation under the names that loggers use, ``evaluation/mean_return`` for instance."""
    played = evaluation.episodes
    found = {
        "evaluation/mean_return": float(played.returns[replica].mean()),
        "evaluation/std_return": float(played.returns[replica].std()),
        "evaluation/mean_length": float(played.lengths[replica].mean()),
    }
    if played.wins is not None:
        found["evaluation/win_rate"] = float(played.wins[replica].mean())
    return found
