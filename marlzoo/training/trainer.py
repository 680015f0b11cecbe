"""The trainer: sampling, updating, evaluating and saving, the same for every offline method."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import Tensor

from marlzoo.algorithm import Algorithm
from marlzoo.batch import Batch
from marlzoo.config import Precision, require_bits
from marlzoo.console import inform
from marlzoo.data.check import check
from marlzoo.data.dataset import Dataset
from marlzoo.data.sampler import Sampler
from marlzoo.data.validation import check_scale, reward_remedy
from marlzoo.envs.base import BatchedEnv
from marlzoo.errors import SMALLER, CheckpointError, ConfigError, DataError, SpecError
from marlzoo.families import fitting_options
from marlzoo.method_faults import require_policy
from marlzoo.registry import code_hash
from marlzoo.system.machine import require_memory
from marlzoo.system.provenance import now
from marlzoo.training import checkpoint as checkpoints
from marlzoo.training.background_eval import Evaluator
from marlzoo.training.compilation import Compile, freed_memory_kept
from marlzoo.training.evaluation import Evaluation, Metrics
from marlzoo.training.loggers import Logger, Loggers, to_numpy
from marlzoo.training.precision import Arithmetic, choose_arithmetic
from marlzoo.training.progress import ProgressBar
from marlzoo.training.steps import Steps


@dataclass
class _Progress:
    """Progress of a run besides its learner and sampler; saved with every checkpoint."""

    evaluations: list[Evaluation]
    seconds: float
    arithmetic: dict[str, Any] | None = None  # None: not chosen yet


@freed_memory_kept()
def train(
    algorithm: Algorithm,
    data: Dataset | Sequence[Dataset],
    *,
    updates: int,
    env: Callable[[int], BatchedEnv] | None = None,
    episodes: int = 10,
    eval_every: int = 5000,
    horizon: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 5000,
    checkpoint_seconds: float = 0.0,
    force: bool = False,
    log_every: int = 500,
    check_data: bool = True,
    compile: Compile = "auto",  # noqa: A002
    precision: Precision = "float32",
    background_eval: bool | None = None,
    task: str = "",
    env_options: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = inform,
    on_progress: Callable[[int, Metrics], None] | None = None,
    on_evaluation: Callable[[Evaluation], None] | None = None,
    on_checkpoint: Callable[[Path], None] | None = None,
    loggers: Sequence[Logger] = (),
    show_progress: bool = True,
) -> list[Evaluation]:
    """Train a learner on logged data and evaluate it on the way.

    With ``checkpoint`` the run resumes by itself where that file stands, and ends as an uninterrupted run does,
    bit for bit on the CPU. Evaluation draws from streams of its own and changes nothing in the training.

    Args:
        algorithm: R replicas.
        data: one dataset for all, or one per replica.
        updates: gradient steps in all.
        env: makes the evaluation environment with the given number of copies; None: no evaluation.
        episodes: E per replica and evaluation.
        eval_every: updates between evaluations; the last update is always evaluated.
        horizon: limit of an evaluation episode; default: the task's.
        checkpoint: file of the run's state.
        checkpoint_every: updates between saves; the end and every evaluation are always saved.
        checkpoint_seconds: time between saves, but for the last one; evaluations in between are reported with the
            next save. Where updates are quick, files would take longer than they do.
        force: begin anew; the file of an earlier run is removed before the first update.
        log_every: updates between calls of ``on_progress`` (which wait for the device).
        check_data: compare data and environment before training and refuse on a mismatch.
        compile: see :func:`marlzoo.training.compilation.make_update`.
        precision: of matrix products while training, see :mod:`marlzoo.training.precision`; evaluation with ``bf16``
            is in float32.
        background_eval: evaluate in a thread while training continues, which changes no number; evaluations are then
            reported with the next one, and one that an interruption cuts off is made again. Default: on a GPU.
        task: full name of the task, which the checkpoint keeps; default: as the data or the environment say.
        env_options: options of the task's environment, which the checkpoint keeps.
        log: called with a one-line message for notable events; default: the logger ``marlzoo`` of :mod:`logging`.
        on_progress: called with the updates done and the last metrics.
        on_evaluation: called with every evaluation, on resuming also with those already done.
        on_checkpoint: called with the file of the run's state after every save.
        loggers: receive metrics and evaluations, see :mod:`marlzoo.training.loggers`.
        show_progress: without ``on_progress``, show the updates on stderr.

    Returns:
        All evaluations, in order.

    Raises:
        MismatchError: data and environment disagree.
        DataError: rewards are too large to be learned from.
        CheckpointError: the checkpoint belongs to another run.
        ConfigError: a number of updates or episodes below one, fewer updates than the learner's stages take, or a
            precision that is not to be had.
        SpecError: data and learner differ in shape, or the method is not trained on logged data.
        MethodError: the method's own code breaks a rule that all methods keep.
    """
    _require(updates=updates, episodes=episodes, eval_every=eval_every, checkpoint_every=checkpoint_every)
    _require_trainable(algorithm, data, env, updates)
    datasets = [data] if isinstance(data, Dataset) else list(data)
    sampler = make_sampler(algorithm, datasets, task)
    arena = env(algorithm.replicas * episodes) if env else None
    try:
        if arena and check_data:
            for dataset in {id(d): d for d in datasets}.values():
                check(dataset, arena).raise_on_mismatch()
        task = task or datasets[0].card.task or (arena.task if arena else "")
        about = _about(task, datasets, algorithm.replicas, env_options, horizon, episodes if arena else None)
        run = _Run(algorithm, sampler, about, checkpoint, precision, log, force)
        if algorithm.updates == 0:
            prepare(algorithm, datasets)
        arithmetic = run.choose_arithmetic()
        clock = _Clock(run.progress.seconds)
        background_eval = algorithm.device.type == "cuda" if background_eval is None else background_eval
        with arithmetic.applied(algorithm), contextlib.ExitStack() as stack:
            run.loggers = stack.enter_context(Loggers(loggers, algorithm, updates))
            evaluator = None
            if arena is not None:
                evaluator = Evaluator(algorithm, arena, horizon, background_eval, clock.seconds)
                stack.enter_context(evaluator)
                if run.owes:
                    run.begin(evaluator, {}, str(arithmetic), wait=True)
            run.report(on_evaluation)
            if on_progress is None and show_progress:
                label = f"{algorithm.name} on {datasets[0].card.title}"
                on_progress = stack.enter_context(ProgressBar(label, algorithm.updates, updates))
            for metrics in run.steps(datasets, compile, updates):
                done = algorithm.updates
                last = done == updates
                evaluates = evaluator is not None and (done % eval_every == 0 or last)
                shows = on_progress is not None and (done % log_every == 0 or last)
                logs = bool(loggers) and (evaluates or run.loggers.wants(done))
                numbers = to_numpy(metrics) if shows or logs or evaluates else {}
                if logs:
                    run.loggers.log_metrics(done, numbers)
                if shows:
                    on_progress(done, numbers)  # type: ignore[misc]
                if evaluates or done % checkpoint_every == 0 or last:
                    run.settle()
                    if evaluates and evaluator is not None:
                        run.begin(evaluator, numbers, str(arithmetic), wait=last or not background_eval)
                    if last or run.unsaved(clock.seconds()) >= checkpoint_seconds:
                        run.keep(clock.seconds(), on_checkpoint, on_evaluation)
        return run.progress.evaluations
    finally:
        if arena:
            arena.close()


def _about(
    task: str,
    datasets: Sequence[Dataset],
    replicas: int,
    env_options: Mapping[str, Any] | None,
    horizon: int | None,
    episodes: int | None,
) -> dict[str, Any]:
    """What a checkpoint keeps besides the learner, so that it can be evaluated from its file alone."""
    return {
        "task": task,
        "sources": list(dict.fromkeys(dataset.card.name for dataset in datasets)),
        "datasets": [datasets[k % len(datasets)].card.name for k in range(replicas)],
        "env": dict(env_options or {}),
        "horizon": horizon,
        "episodes": episodes,
    }


class _Clock:
    """Seconds since now, added to those of the run before it was interrupted."""

    def __init__(self, before: float) -> None:
        self._before = before
        self._started = time.perf_counter()

    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._started


def make_sampler(algorithm: Algorithm, datasets: Sequence[Dataset], task: str = "") -> Sampler:
    """The sampler that a learner's declarations ask for; ``task`` is named in errors.

    Raises:
        SpecError: data and learner differ in shape, or the method is not trained on logged data.
        DataError: rewards are too large for the method, which reads them.
        ConfigError: the memory cannot hold a batch.
    """
    if algorithm.sampling == "online":
        raise SpecError(
            f"{algorithm.name} learns online, not from logged data; give it a task instead of a dataset"
        )
    for dataset in datasets:
        differences = algorithm.spec.differences(dataset.spec)
        fitting = fitting_options(task or dataset.card.task, dataset.spec) if differences else {}
        if not differences:
            continue
        fault = (
            f"{algorithm.name} does not fit {dataset.card.title}: {'; '.join(differences)} (left: expected by the "
            "learner, as its task has it; right: in the dataset)"
        )
        if fitting:
            options = " ".join(f"{name}={value}" for name, value in fitting.items())
            raise SpecError(f"{fault}. With --env {options} the task has the dataset's shape")
        if len(differences) == 1 and algorithm.spec.reward_per_agent != dataset.spec.reward_per_agent:
            raise SpecError(f"{fault}: {reward_remedy(algorithm.spec)}")
        raise SpecError(
            f"{fault}. Choose the dataset's own task with --task; where a file says too little about itself, convert "
            "it with 'marlzoo data convert FILE NEW', which takes what is missing as --option, such as horizon=50"
        )
    if {"reward", "agent_reward"} & set(algorithm.fields):  # cloning reads none
        _require_scale(datasets)
    _require_room(algorithm)
    config = algorithm.config
    return Sampler(
        datasets,
        algorithm.seeds,
        batch_size=algorithm.batch_rows,
        fields=algorithm.fields,
        noise=algorithm.noise(),
        sequence=config.sequence_length if algorithm.sampling == "sequence" else None,
        past_steps=algorithm.past_steps,
        timeout_is_terminal=config.timeout_is_terminal,
        reward_mode=config.reward_mode,
        device=algorithm.device,
        dtype=algorithm.dtype,
    )


def _require_room(algorithm: Algorithm) -> None:
    """Refuse batches of which the memory does not even hold the numbers of their rows."""
    require_memory(
        8 * algorithm.replicas * algorithm.batch_rows,
        f"batches of {algorithm.batch_rows:,} for each of {algorithm.replicas} replicas",
        SMALLER,
    )


def _require_scale(datasets: Sequence[Dataset]) -> None:
    """Refuse rewards from which nothing would be learned, and nothing would tell it."""
    for dataset in {id(each): each for each in datasets}.values():
        try:
            check_scale(dataset.reward, dataset.spans)
        except DataError as error:
            raise DataError(f"{dataset.card.title}: {error}") from error


def _part(
    algorithm: Algorithm, datasets: Sequence[Dataset], replicas: Sequence[int]
) -> tuple[Algorithm, Sampler]:
    """A new learner of some of the replicas, and its sampler."""
    part = type(algorithm)(
        algorithm.spec,
        [algorithm.seeds[k] for k in replicas],
        [algorithm.configs[k] for k in replicas],
        algorithm.device,
        algorithm.dtype,
    )
    return part, make_sampler(part, [datasets[k % len(datasets)] for k in replicas])


def prepare(algorithm: Algorithm, datasets: Sequence[Dataset]) -> None:
    """Let a new learner look at its data, and ask for its policy; replica r has dataset ``r modulo their number``."""

    def batches() -> Iterator[Batch]:
        # A sampler of its own: what preparing draws does not change what training draws.
        sampler = make_sampler(algorithm, datasets)
        while True:
            yield sampler.next()

    algorithm.prepare([datasets[k % len(datasets)] for k in range(algorithm.replicas)], batches())
    require_policy(algorithm)


class _Run:
    """A learner, its sampler and its record, kept together in one checkpoint."""

    def __init__(
        self,
        algorithm: Algorithm,
        sampler: Sampler,
        about: Mapping[str, Any],
        path: str | Path | None,
        precision: Precision,
        log: Callable[[str], None],
        anew: bool,
    ) -> None:
        self.algorithm = algorithm
        self.sampler = sampler
        self.precision = precision
        self._log = log
        self.path = Path(path) if path else None
        self.progress = _Progress([], 0.0)
        self._data = sampler.data_hashes
        self._about = about
        self._pending: Callable[[], Evaluation] | None = None
        self._told = 0
        self._steps: Steps | None = None
        self.loggers = Loggers((), algorithm, 0)
        self.owes = False  # an interruption cut off the evaluation that belongs to the checkpoint
        self._anew = anew
        if self.path and self.path.exists() and not anew:
            self._resume(self.path)

    def choose_arithmetic(self) -> Arithmetic:
        """That of the checkpoint, or what the precision means for a learner on its device."""
        chosen = choose_arithmetic(self.algorithm, self.precision, self.progress.arithmetic)
        self.progress.arithmetic = chosen.to_dict()
        return chosen

    def steps(
        self,
        datasets: Sequence[Dataset],
        compile: Compile,  # noqa: A002
        updates: int,
    ) -> Iterator[dict[str, Tensor]]:
        """Train to the last update; gives the metrics of each, when it has been counted."""
        done = self.algorithm.updates
        if self.path and self._anew:  # only here, where nothing is left to be refused
            self.path.unlink(missing_ok=True)
        elif self.path and 0 < done < updates:
            self._log(f"{self.algorithm.name} goes on from update {done} of {updates}")
        make = partial(_part, self.algorithm, datasets)
        self._steps = Steps(self.algorithm, self.sampler, datasets, make, compile, updates, self._log)
        return iter(self._steps)

    def begin(self, evaluator: Evaluator, metrics: Metrics, arithmetic: str, wait: bool) -> None:
        """Start an evaluation of the current policy; ``metrics`` are those of the last update.

        ``wait`` until it is done; it is then kept, as by :meth:`settle`.
        """
        done = self.algorithm.updates
        diverged = ~self.algorithm.finite().cpu().numpy()
        outcome = evaluator.start()

        def pending() -> Evaluation:
            episodes, seconds = outcome()
            return Evaluation(done, episodes, diverged, seconds, metrics, arithmetic, self._code, now())

        self._pending = pending
        if wait:
            self.settle()

    def settle(self) -> None:
        """Wait for the evaluation that was begun, if any, and keep it; the learner then is what was trained."""
        if self._steps:
            self._steps.spread()
        if self._pending:
            evaluation = self._pending()
            self.progress.evaluations.append(evaluation)
            self.loggers.log_evaluation(evaluation)
            self._pending = None

    def report(self, to: Callable[[Evaluation], None] | None) -> None:
        """Hand on the evaluations that were not handed on before."""
        new = self.progress.evaluations[self._told :]
        self._told = len(self.progress.evaluations)
        for evaluation in new if to else ():
            to(evaluation)  # type: ignore[misc]

    def unsaved(self, seconds: float) -> float:
        """Seconds since the last save, or since this training began, of a run that has taken ``seconds``."""
        return seconds - self.progress.seconds

    def keep(
        self,
        seconds: float,
        saved: Callable[[Path], None] | None,
        evaluated: Callable[[Evaluation], None] | None,
    ) -> None:
        """Save, then hand on what was evaluated: what is reported can be gone on from."""
        self.save(seconds, saved)
        self.report(evaluated)

    def save(self, seconds: float, saved: Callable[[Path], None] | None) -> None:
        """Write the checkpoint of a run that has taken so many seconds, then call ``saved`` with it."""
        self.progress.seconds = seconds
        self.loggers.flush()  # first, so that a resume finds all that lies before the checkpoint
        if self.path is None:
            return
        extra: dict[str, NDArray[Any]] = {f"sampler/{k}": v for k, v in self.sampler.state().items()}
        arrays, records = checkpoints.pack_evaluations(self.progress.evaluations)
        extra |= arrays
        meta = {
            **self._about,
            "data": self._data,
            "seconds": self.progress.seconds,
            "evaluations": records,
            "arithmetic": self.progress.arithmetic,
            "code": self._code,
            "owes": self._pending is not None,
        }
        checkpoints.save(self.path, self.algorithm, extra, meta)
        if saved is not None:
            saved(self.path)

    def _resume(self, path: Path) -> None:
        extra, meta = checkpoints.restore(path, self.algorithm)
        if meta.get("data") != json.loads(json.dumps(self._data)):
            raise CheckpointError(
                f"{path}: was trained on other data (content hash {meta.get('data')} there, {self._data} here); "
                "delete it or give another place for this run's checkpoint"
            )
        if meta["arithmetic"]["precision"] != self.precision:
            raise CheckpointError(
                f"{path}: was trained with precision {meta['arithmetic']['precision']}, not {self.precision}; "
                "delete it or give another place for this run's checkpoint"
            )
        prefix = "sampler/"
        self.sampler.restore({k.removeprefix(prefix): v for k, v in extra.items() if k.startswith(prefix)})
        self.progress.evaluations += checkpoints.unpack_evaluations(extra, meta["evaluations"])
        self.progress.seconds = float(meta["seconds"])
        self.progress.arithmetic = meta["arithmetic"]
        self.owes = meta.get("owes", False)
        before = str(meta.get("code", "")) or "unknown"
        if before.split("+")[-1] != self._code:
            self._log(
                f"{path}: the code of {self.algorithm.name} changed since this run was interrupted; it resumes, and "
                "its results name both versions; delete the file to start from scratch"
            )
            self._code = f"{before}+{self._code}"
        else:
            self._code = before

    @cached_property
    def _code(self) -> str:
        """Hashes of the code that the run was trained with."""
        return code_hash(type(self.algorithm))


def _require(**counts: int) -> None:
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} is {value!r}; it must be a positive integer")
        require_bits(name, value)


def _require_trainable(algorithm: Any, data: Any, env: Any, updates: int) -> None:
    """Refuse names where objects belong, and a training that its stages do not fit into.

    Raises:
        ConfigError: it is refused.
    """
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(
            f"train: the first argument is a {type(algorithm).__name__}, no learner; make one: "
            "marlzoo.make(METHOD, data.spec), or name the method: marlzoo.train_method(METHOD, data)"
        )
    given = [data] if isinstance(data, str | Path | Dataset) else list(data)
    for each in given:
        if not isinstance(each, Dataset):
            raise ConfigError(f"train: data is {each!r}, no dataset; load it: marlzoo.load_dataset({each!r})")
    if env is not None and not callable(env):
        task = env if isinstance(env, str) else getattr(env, "task", "TASK")
        raise ConfigError(
            f"train: env is a {type(env).__name__}; give a function that makes any number of copies: "
            f"env=lambda num_envs: marlzoo.make_env({task!r}, num_envs)"
        )
    require_all_stages(algorithm, updates)


def require_all_stages(algorithm: Algorithm, updates: int) -> None:
    """Refuse a training that ends before its last stage begins.

    Raises:
        ConfigError: it does.
    """
    stages = algorithm.stages()
    needed = sum(stage.updates for stage in stages[:-1])
    if updates <= needed:
        parts = ", ".join(f"{stage.name} {stage.updates}" for stage in stages[:-1])
        raise ConfigError(
            f"{algorithm.name}: {updates} updates end before the stage '{stages[-1].name}' begins, which {needed} "
            f"updates come before ({parts}); give more updates, or shorten those stages by their settings"
        )
