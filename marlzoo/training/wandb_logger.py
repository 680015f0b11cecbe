"""``--log wandb``: one Weights & Biases run per replica, below ``wandb`` in the run's folder.

Runs are written to the disk only, without an account, unless ``WANDB_MODE`` says otherwise (``online``);
``wandb sync FOLDER`` sends them later.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any

from marlzoo.algorithm import Algorithm
from marlzoo.errors import MissingExtraError
from marlzoo.training.evaluation import Evaluation, Metrics
from marlzoo.training.more_loggers import LogTarget, evaluation_values

try:
    import wandb
except ImportError as import_error:
    raise MissingExtraError("wandb", "wandb", "--log wandb") from import_error


class WandbLogger:
    """Logs metrics and evaluations over ``updates``, and the settings as the run's configuration.

    Resumed runs keep their identity. Points logged beyond its checkpoint stay, and the same
    points follow again.
    """

    def __init__(self, target: LogTarget) -> None:
        self._target = target
        self._runs: list[Any] = []

    def start(self, algorithm: Algorithm) -> None:
        """Begin or continue one run per replica."""
        # wandb makes its own folder "wandb" in dir, and falls back to a temporary one where dir is missing.
        self._target.folder.mkdir(parents=True, exist_ok=True)
        for replica, name in enumerate(self._target.names(algorithm)):
            run = wandb.init(
                project=self._target.project,
                name=name,
                id=hashlib.sha256(f"{self._target.folder.absolute()}/{name}".encode()).hexdigest()[:16],
                dir=str(self._target.folder),
                config=self._target.config(algorithm, replica),
                mode=os.environ.get("WANDB_MODE", "offline"),
                resume="allow",
                reinit="create_new",  # the runs of all replicas are open at the same time
            )
            run.define_metric("*", step_metric="updates")
            self._runs.append(run)

    def log_metrics(self, updates: int, metrics: Metrics) -> None:
        """Every metric of the update."""
        for replica, run in enumerate(self._runs):
            run.log({"updates": updates, **{name: float(value[replica]) for name, value in metrics.items()}})

    def log_evaluation(self, evaluation: Evaluation) -> None:
        """Return, length and wins."""
        for replica, run in enumerate(self._runs):
            run.log({"updates": evaluation.updates, **evaluation_values(evaluation, replica)})

    def flush(self) -> None:
        """Nothing: wandb writes by itself."""

    def close(self) -> None:
        """Finish the runs."""
        for run in self._runs:
            run.finish()
        self._runs = []
