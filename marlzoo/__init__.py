"""A zoo of offline multi-agent reinforcement learning methods.

The names below are imported when first used, so that listing and the command line start at once.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from marlzoo.version import __version__

_PLACES = {
    "make": "marlzoo.registry",
    "make_env": "marlzoo.families",
    "method_names": "marlzoo.registry",
    "task_names": "marlzoo.families",
    "load": "marlzoo.deployment.loading",
    "load_learner": "marlzoo.training.checkpoint",
    "save": "marlzoo.training.checkpoint",
    "load_dataset": "marlzoo.data.load",
    "save_dataset": "marlzoo.data.convert",
    "train": "marlzoo.training.trainer",
    "evaluate": "marlzoo.training.evaluation",
    "cross_play": "marlzoo.benchmarks.cross_play",
    "train_online": "marlzoo.training.online",
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
    "Spec": "marlzoo.envs.pettingzoo",  # which registers what Spec.from_env reads foreign environments with
    "Dataset": "marlzoo.data.dataset",
    "Algorithm": "marlzoo.algorithm",
    "Config": "marlzoo.config",
    "Policy": "marlzoo.modules.policies",
    "export": "marlzoo.deployment.export",
    "ope": "marlzoo.offpolicy.ope",
    "Recorder": "marlzoo.recording.recorder",
    "TeamPolicy": "marlzoo.deployment.team_policy",
    "list_methods": "marlzoo.commands.listing",
    "list_tasks": "marlzoo.commands.listing",
    "list_datasets": "marlzoo.commands.listing",
    "list_formats": "marlzoo.commands.listing",
    "list_suites": "marlzoo.commands.listing",
    "data_collect": "marlzoo.commands.data",
    "data_inspect": "marlzoo.commands.data",
    "data_check": "marlzoo.commands.data",
    "data_convert": "marlzoo.commands.data",
    "data_mix": "marlzoo.commands.data",
    "data_download": "marlzoo.commands.data",
    "data_published": "marlzoo.commands.data",
    "data_card": "marlzoo.commands.data",
    "data_teach": "marlzoo.commands.data",
    "data_model": "marlzoo.commands.data",
    "evaluate_run": "marlzoo.commands.scoring",
    "train_method": "marlzoo.commands.training",
    "new_method": "marlzoo.commands.new_method",
    "doctor": "marlzoo.commands.health",
    "doctor_verify": "marlzoo.commands.health",
    "results_compare": "marlzoo.commands.health",
    "results_migrate": "marlzoo.commands.health",
    "results_compress": "marlzoo.commands.health",
    "results_borrow": "marlzoo.commands.health",
    "bench_show": "marlzoo.benchmarks.bench",
    "bench_dry_run": "marlzoo.benchmarks.bench",
    "bench_status": "marlzoo.benchmarks.bench",
}

__all__ = ["__version__", *sorted(_PLACES)]

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm as Algorithm
    from marlzoo.benchmarks.analysis import Results as Results
    from marlzoo.benchmarks.analysis import table as table
    from marlzoo.benchmarks.bench import bench as bench
    from marlzoo.benchmarks.bench import bench_dry_run as bench_dry_run
    from marlzoo.benchmarks.bench import bench_show as bench_show
    from marlzoo.benchmarks.bench import bench_status as bench_status
    from marlzoo.benchmarks.cross_play import cross_play as cross_play
    from marlzoo.benchmarks.figures import plot as plot
    from marlzoo.benchmarks.report import report as report
    from marlzoo.benchmarks.sweeps import sweep as sweep
    from marlzoo.commands.data import data_card as data_card
    from marlzoo.commands.data import data_check as data_check
    from marlzoo.commands.data import data_collect as data_collect
    from marlzoo.commands.data import data_convert as data_convert
    from marlzoo.commands.data import data_download as data_download
    from marlzoo.commands.data import data_inspect as data_inspect
    from marlzoo.commands.data import data_mix as data_mix
    from marlzoo.commands.data import data_model as data_model
    from marlzoo.commands.data import data_published as data_published
    from marlzoo.commands.data import data_teach as data_teach
    from marlzoo.commands.health import doctor as doctor
    from marlzoo.commands.health import doctor_verify as doctor_verify
    from marlzoo.commands.health import results_borrow as results_borrow
    from marlzoo.commands.health import results_compare as results_compare
    from marlzoo.commands.health import results_compress as results_compress
    from marlzoo.commands.health import results_migrate as results_migrate
    from marlzoo.commands.listing import list_datasets as list_datasets
    from marlzoo.commands.listing import list_formats as list_formats
    from marlzoo.commands.listing import list_methods as list_methods
    from marlzoo.commands.listing import list_suites as list_suites
    from marlzoo.commands.listing import list_tasks as list_tasks
    from marlzoo.commands.new_method import new_method as new_method
    from marlzoo.commands.scoring import evaluate_run as evaluate_run
    from marlzoo.commands.training import train_method as train_method
    from marlzoo.config import Config as Config
    from marlzoo.data.convert import save_dataset as save_dataset
    from marlzoo.data.dataset import Dataset as Dataset
    from marlzoo.data.load import load_dataset as load_dataset
    from marlzoo.deployment.export import export as export
    from marlzoo.deployment.loading import load as load
    from marlzoo.deployment.rendering import render as render
    from marlzoo.deployment.team_policy import TeamPolicy as TeamPolicy
    from marlzoo.families import make_env as make_env
    from marlzoo.families import task_names as task_names
    from marlzoo.modules.policies import Policy as Policy
    from marlzoo.offpolicy.ope import ope as ope
    from marlzoo.recording.recorder import Recorder as Recorder
    from marlzoo.registry import make as make
    from marlzoo.registry import method_names as method_names
    from marlzoo.sharing.pull import pull as pull
    from marlzoo.sharing.push import push as push
    from marlzoo.spec import Spec as Spec
    from marlzoo.training.checkpoint import load_learner as load_learner
    from marlzoo.training.checkpoint import save as save
    from marlzoo.training.evaluation import evaluate as evaluate
    from marlzoo.training.finetune import finetune as finetune
    from marlzoo.training.finetune_settings import FinetuneSettings as FinetuneSettings
    from marlzoo.training.online import train_online as train_online
    from marlzoo.training.trainer import train as train


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'marlzoo' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
