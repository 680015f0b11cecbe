"""A zoo of offline multi-agent reinforcement learning methods.

The names below are imported when first used, so that listing and the command line start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from marlzoo.version import __version__

_PLACES = {
    "make": "marlzoo.registry",
    "make_env": "marlzoo.registry",
    "method_names": "marlzoo.registry",
    "task_names": "marlzoo.registry",
    "load": "marlzoo.deployment.loading",
    "load_learner": "marlzoo.training.checkpoint",
    "save": "marlzoo.training.checkpoint",
    "load_dataset": "marlzoo.data.load",
    "train": "marlzoo.training.trainer",
    "evaluate": "marlzoo.training.evaluation",
    "cross_play": "marlzoo.benchmarks.cross_play",
    "finetune": "marlzoo.training.finetune",
    "FinetuneSettings": "marlzoo.training.finetune_settings",
    "bench": "marlzoo.benchmarks.bench",
    "sweep": "marlzoo.benchmarks.sweeps",
    "table": "marlzoo.benchmarks.analysis",
    "plot": "marlzoo.benchmarks.figures",
    "render": "marlzoo.deployment.rendering",
    "report": "marlzoo.benchmarks.report",
    "push": "marlzoo.sharing.push",
    "pull": "marlzoo.sharing.pull",
    "Results": "marlzoo.benchmarks.analysis",
    "Spec": "marlzoo.spec",
    "Dataset": "marlzoo.data.dataset",
    "Algorithm": "marlzoo.algorithm",
    "Config": "marlzoo.config",
    "Policy": "marlzoo.modules.policies",
    "export": "marlzoo.deployment.export",
    "ope": "marlzoo.offpolicy.ope",
    "Recorder": "marlzoo.recording.recorder",
    "TeamPolicy": "marlzoo.deployment.team_policy",
}

__all__ = ["__version__", *sorted(_PLACES)]

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm as Algorithm
    from marlzoo.config import Config as Config
    from marlzoo.data.dataset import Dataset as Dataset
    from marlzoo.data.load import load_dataset as load_dataset
    from marlzoo.deployment.loading import load as load
    from marlzoo.deployment.team_policy import TeamPolicy as TeamPolicy
    from marlzoo.modules.policies import Policy as Policy
    from marlzoo.offpolicy.ope import ope as ope
    from marlzoo.recording.recorder import Recorder as Recorder
    from marlzoo.registry import make as make
    from marlzoo.registry import make_env as make_env
    from marlzoo.registry import method_names as method_names
    from marlzoo.registry import task_names as task_names
    from marlzoo.sharing.pull import pull as pull
    from marlzoo.sharing.push import push as push
    from marlzoo.spec import Spec as Spec
    from marlzoo.training.checkpoint import load_learner as load_learner
    from marlzoo.training.checkpoint import save as save
    from marlzoo.training.evaluation import evaluate as evaluate
    from marlzoo.training.finetune import finetune as finetune
    from marlzoo.training.finetune_settings import FinetuneSettings as FinetuneSettings
    from marlzoo.training.trainer import train as train


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'marlzoo' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
