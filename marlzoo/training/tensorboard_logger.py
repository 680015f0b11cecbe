"""``--log tensorboard``: one TensorBoard run per replica, below ``tensorboard`` in the run's folder."""

from __future__ import annotations

import json

from marlzoo.algorithm import Algorithm
from marlzoo.errors import MissingExtraError
from marlzoo.system.files import output_error
from marlzoo.training.evaluation import Evaluation, Metrics
from marlzoo.training.more_loggers import LogTarget, evaluation_values

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as import_error:
    raise MissingExtraError("tensorboard", "tensorboard", "--log tensorboard") from import_error


class TensorBoardLogger:
    """Writes metrics and evaluations as scalars, and the settings as text.

    A run that resumes from a checkpoint purges what was logged beyond it.

    Raises:
        OutputError: from ``start``: the folder cannot be written.
    """

    def __init__(self, target: LogTarget) -> None:
        self._target = target
        self._folder = target.folder / "tensorboard"
        self._writers: list[SummaryWriter] = []

    def start(self, algorithm: Algorithm) -> None:
        """Open one writer per replica."""
        done = algorithm.updates
        for replica, name in enumerate(self._target.names(algorithm)):
            try:
                writer = SummaryWriter(str(self._folder / name), purge_step=done + 1 if done else 0)
            except OSError as error:
                raise output_error(self._folder, error) from error
            self._writers.append(writer)
            if not done:
                text = json.dumps(self._target.config(algorithm, replica), indent=4)
                writer.add_text("config", "\n".join(f"    {line}" for line in text.splitlines()))

    def log_metrics(self, updates: int, metrics: Metrics) -> None:
        """Every metric as a scalar."""
        for replica in range(len(self._writers)):
            self._scalars(replica, {name: float(value[replica]) for name, value in metrics.items()}, updates)

    def log_evaluation(self, evaluation: Evaluation) -> None:
        """Return, length and wins as scalars."""
        for replica in range(len(self._writers)):
            self._scalars(replica, evaluation_values(evaluation, replica), evaluation.updates)

    def flush(self) -> None:
        """Bring everything to the disk."""
        for writer in self._writers:
            writer.flush()

    def close(self) -> None:
        """Close the files."""
        for writer in self._writers:
            writer.close()
        self._writers = []

    def _scalars(self, replica: int, values: dict[str, float], updates: int) -> None:
        for name, value in values.items():
            self._writers[replica].add_scalar(name, value, updates)
