"""``marlzoo data`` from Python: ``marlzoo data inspect`` is :func:`data_inspect`, and so on."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from marlzoo.defaults import SEED, TRANSITIONS
from marlzoo.errors import ConfigError, DataError, UnknownNameError, settings_apart

if TYPE_CHECKING:
    from marlzoo.data.check import CheckReport
    from marlzoo.data.dataset import Dataset
    from marlzoo.data.inspection import Inspection
    from marlzoo.models.settings import WorldModelConfig
    from marlzoo.models.world_model import WorldModel
    from marlzoo.recording.teach_options import Options
    from marlzoo.training.world_models import StepErrors

Name = str | os.PathLike[str]


def data_collect(
    task: str,
    quality: str,
    *,
    transitions: int = TRANSITIONS,
    seed: int = SEED,
    policy: Name | None = None,
    replica: int = 0,
    env: Mapping[str, Any] | None = None,
    out: Name | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Record a dataset with the behavior policies of a task, or with a checkpoint's; same arguments, same bytes.

    Args:
        task: full task name, for instance ``mamujoco/hopper-3x1``.
        quality: ``random``, ``medium``, ... as the task has them; with ``policy`` a name of your choice.
        transitions: number of steps.
        seed: random seed of starts and exploration.
        policy: checkpoint whose policy acts; the dataset's name is then ``TASK/own/QUALITY``.
        replica: which of the checkpoint's replicas.
        env: options of the task's environment; without any, those that the checkpoint's had.
        out: file to write, ending in .hdf5; default: the place where the dataset's name is looked up.
        force: replace a file that exists and is not the same recording.
        progress: called with the transitions recorded and those in all.

    Returns:
        The file, for :func:`marlzoo.load_dataset`.

    Raises:
        UnknownNameError: unknown task or quality.
        ConfigError: data of the task are computed, the checkpoint is of another task, or the file exists.
        OutputError: the file cannot be written.
    """
    from marlzoo.data.computed import computed_qualities
    from marlzoo.data.load import read_card
    from marlzoo.recording.recipes import collect

    if policy is None and computed_qualities(task):
        name = f"{task}/marlzoo/{quality}"
        read_card(name)  # a wrong quality is named as such
        raise ConfigError(
            f"data of {task} are computed when they are loaded: use the name {name} as it is, or write a "
            f"file with: marlzoo data convert {name} FILE.hdf5"
        )
    return collect(
        task,
        quality,
        transitions,
        seed,
        out,
        progress,
        policy=policy or "",
        replica=replica,
        env=env,
        force=force,
    )


def data_inspect(
    dataset: Name | Dataset,
    *,
    option: Mapping[str, Any] | None = None,
    sample: int = 20_000,
    seed: int = 0,
    probes: bool = False,
    plot: Name | None = None,
    html: Name | None = None,
) -> Inspection:
    """Measure a dataset: returns, lengths, ends, ranges; coverage, dependence between agents, modes and hints.

    Args:
        dataset: its name, a file, a folder, or the dataset itself.
        option: how to read it, by the names that ``marlzoo list formats`` shows.
        sample: transitions that coverage, dependence and modes look at, at least 100.
        seed: of the sample.
        probes: also probe what actions depend on: the past, what others see, do and did
            (``marlzoo.data.probes`` says what they mean); takes some seconds for each agent.
        plot: image file to draw everything into (extra ``plot``).
        html: page to write (extra ``plot``).

    Raises:
        DataError: it is missing or broken.
        ConfigError: a sample below 100, or a negative seed.
    """
    from marlzoo.data import inspection

    if sample < 100 or seed < 0:
        raise ConfigError("data inspect: sample must be at least 100 and seed 0 or more")
    data = _loaded(dataset, option)
    found = inspection.inspect(data, sample=sample, seed=seed, probes=probes)
    if plot is not None:
        inspection.plot_dataset(data, Path(plot))
    if html is not None:
        inspection.write_html(data, found, Path(html))
    return found


def data_check(
    dataset: Name | Dataset,
    *,
    option: Mapping[str, Any] | None = None,
    task: str = "",
    sample: int = 2000,
    action_mapping: str = "",
    env: Mapping[str, Any] | None = None,
) -> CheckReport:
    """Replay recorded transitions in the simulator, to see whether dataset and simulator agree.

    Args:
        dataset: its name, a file, a folder, or the dataset itself.
        option: how to read it, by the names that ``marlzoo list formats`` shows.
        task: full task name; default: what the dataset's card says.
        sample: transitions to replay.
        action_mapping: which actuators an agent owns, ``concat`` or ``scatter``; default: the task's.
        env: other options of the task's environment.

    Returns:
        The report; ``report.agrees`` says whether they agree.

    Raises:
        DataError: the dataset is missing or broken, or names no task.
    """
    from marlzoo.data.check import check
    from marlzoo.data.fitting import fitted
    from marlzoo.families import make_env

    data = _loaded(dataset, option)
    task = task or data.card.task
    if not task:
        raise DataError(
            f"{data.card.title}: its card names no task; give it with --task (task=... in Python)"
        )
    chosen = {"action_mapping": action_mapping} if action_mapping else {}
    simulator = make_env(task, 1, **(env or {}), **chosen)
    try:
        return check(fitted(data, replace(simulator.spec, task=task)), simulator, sample=sample)
    finally:
        simulator.close()


def data_convert(
    source: Name,
    target: Name,
    *,
    option: Mapping[str, Any] | None = None,
    format: str = "",  # noqa: A002 - the option's name
    force: bool = False,
    log: Callable[[str], None] | None = None,
) -> Path:
    """Read a dataset of any known format, which is found out, and write it in another; numbers unchanged.

    Args:
        source: a dataset's name, a file or a folder.
        target: a file ending in .hdf5 or .npz, a Minari folder ending in ``-v0``, or a dataset's name.
        option: how to read the source, by the names that ``marlzoo list formats`` shows.
        format: ``native``, ``omiga``, ``npz`` or ``minari``; default: as the target's name says.
        force: replace a file that exists; a folder is never replaced.
        log: called with what the reader assumed, a line each.

    Returns:
        The file or folder written.

    Raises:
        DataError: the source cannot be read.
        ConfigError: the target's name asks for no known format, or it exists.
        OutputError: the target cannot be written.
    """
    from marlzoo.data.convert import convert

    return convert(source, target, form=format, force=force, log=log, **_options(source, option))


def data_mix(
    parts: Mapping[str, float] | Sequence[str],
    *,
    out: Name | None = None,
    transitions: int | None = None,
    seed: int = 0,
    force: bool = False,
) -> Path:
    """Draw whole episodes of several datasets in given shares of the transitions; same arguments, same bytes.

    Args:
        parts: names or files with shares that add up to 1, as a mapping or as ``DATASET:SHARE``.
        out: file to write, ending in .hdf5, or a dataset's name; default: ``family/task/source/good-poor``.
        transitions: number of steps, about; default: as many as the datasets allow.
        seed: of the draw.
        force: replace a file that exists and is not the same mixture.

    Returns:
        The file.

    Raises:
        ConfigError: shares that do not add up to 1, datasets that do not fit together, or a file that exists.
        DataError: a dataset is missing or broken.
    """
    from marlzoo.data.mix import mix, parse_parts

    texts = [f"{name}:{share}" for name, share in parts.items()] if isinstance(parts, Mapping) else parts
    return mix(parse_parts(texts), out, transitions=transitions, seed=seed, force=force)


def data_download(
    dataset: str, *, from_: Name | None = None, progress: Callable[[int, int | None], None] | None = None
) -> Path:
    """Fetch a published dataset (extra ``hub``), verify it, convert it and put it where its name is found.

    Args:
        dataset: its name, ``family/task/source/quality``; :func:`data_published` lists them.
        from_: a file or folder fetched by hand instead.
        progress: called with the bytes fetched and those in all.

    Returns:
        The file, in the native format.

    Raises:
        UnknownNameError: no such published dataset.
        MissingExtraError: huggingface-hub is not installed.
        DataError: it cannot be fetched, has another checksum, or is another dataset.
    """
    from marlzoo.data.download import download

    return download(dataset, from_file=from_, progress=progress)


def data_published() -> dict[str, str]:
    """Names of the published datasets, and where each of them is."""
    from marlzoo.data.catalog import published

    return {entry.name: entry.where() for entry in published().values()}


def data_card(dataset: Name) -> dict[str, Any]:
    """What is known about a dataset, as plain values.

    Returns:
        Of a published one ``published`` (addresses, license, checksum, scores); of one that is here or is computed
        ``card`` (origin, statistics, content hash), and ``file`` where it lies in one.

    Raises:
        DataError: neither published nor here.
    """
    from marlzoo.data.catalog import published, scores
    from marlzoo.data.download import recorded_checksum
    from marlzoo.data.load import find_dataset, read_card

    entry = published().get(os.fspath(dataset))
    shown: dict[str, Any] = {}
    if entry is not None:
        checksum = entry.sha256 or recorded_checksum(entry)
        kept = {key: value for key, value in asdict(entry).items() if value not in ("", None)}
        shown["published"] = kept | {
            "where": entry.where(),
            "sha256": checksum
            or "none is published; the first download's is recorded, later ones must match",
            "scores": [asdict(score) for score in scores(entry.name)],
        }
    try:
        place = find_dataset(dataset)
    except DataError:
        if entry is None:  # computed data, or the error that says what to do
            shown["card"] = read_card(dataset).to_dict()
    else:
        shown |= {"file": str(place), "card": read_card(dataset).to_dict()}
    return shown


def data_teach(task: str, options: Options | None = None, **changes: Any) -> Path:
    """Train the behavior policies of a task; the same call resumes after a stop.

    Args:
        task: full task name.
        options: how they are made; default: as the task's plan says, else the defaults.
        changes: options by name that go before these.

    Returns:
        The description of the behavior policies, a JSON file beside their arrays.

    Raises:
        UnknownNameError: unknown task, method or option.
        ConfigError: the training is too short for its snapshots, or the method does not learn online.
        OutputError: a file cannot be written.
    """
    from marlzoo.recording.teach import make_behavior_policy

    base = options or planned_options(task)
    known = [field.name for field in fields(base)]
    for name in changes:
        if name not in known:
            raise UnknownNameError("option of data_teach", name, known)
    return make_behavior_policy(task, replace(base, **changes))


def planned_options(task: str) -> Options:
    """How the behavior policies of a task are made, after its plan where it has one."""
    from marlzoo.recording.teach_options import Options
    from marlzoo.teachers.plans import plans

    plan = plans().get(task)
    return Options(**plan.options) if plan else Options()


@dataclass(frozen=True)
class TrainedModel:
    """A world model that was trained.

    Attributes:
        file: that holds it, for :func:`marlzoo.training.world_models.load_world_model`.
        model: itself.
        errors: on held-out episodes, for one step ahead and more.
    """

    file: Path
    model: WorldModel
    errors: StepErrors


@settings_apart(
    "A setting of the model is given as settings=marlzoo.models.settings.WorldModelConfig(NAME=...)."
)
def data_model(
    dataset: Name | Dataset,
    *,
    option: Mapping[str, Any] | None = None,
    out: Name = "world-model.npz",
    plot: Name | None = None,
    steps: int = 10,
    seed: int = 0,
    state: bool = False,
    settings: WorldModelConfig | None = None,
    progress: Callable[[int, dict[str, float]], None] | None = None,
) -> TrainedModel:
    """Train a world model of a dataset and measure it on the tenth of the episodes that is held out.

    Methods that practice in a world model start from the file with their setting ``world_model``.

    Args:
        dataset: its name, a file, a folder, or the dataset itself.
        option: how to read it, by the names that ``marlzoo list formats`` shows.
        out: file to write.
        plot: image file to draw the errors over the steps ahead into (extra ``plot``).
        steps: steps ahead, at most, that errors are measured for.
        seed: of initial values and batches.
        state: predict the global state, too.
        settings: of the model.
        progress: called with the updates done and the metrics.

    Raises:
        DataError: the dataset is missing or broken, or has no episode to hold out.
        ConfigError: fewer than one step, or a negative seed.
        OutputError: a file cannot be written.
    """
    from marlzoo.models.settings import WorldModelConfig
    from marlzoo.training.world_models import fit_world_model, save_world_model, step_errors

    if steps < 1 or seed < 0:
        raise ConfigError("data model: steps must be at least 1 and seed 0 or more")
    data = _loaded(dataset, option)
    model = fit_world_model(data, settings or WorldModelConfig(), seed, state, progress)
    save_world_model(Path(out), model, data, seed)
    errors = step_errors(model, data, steps)
    if plot is not None:
        from marlzoo.commands.model_figure import draw

        draw(errors, data.card.title, Path(plot))
    return TrainedModel(Path(out), model, errors)


def _loaded(dataset: Name | Dataset, option: Mapping[str, Any] | None) -> Dataset:
    from marlzoo.data.dataset import Dataset
    from marlzoo.data.load import load_dataset

    if isinstance(dataset, Dataset):
        if option:
            raise ConfigError("options say how a file is read; this dataset has been read already")
        return dataset
    return load_dataset(dataset, **_options(dataset, option))


def _options(source: Name, option: Mapping[str, Any] | None) -> dict[str, Any]:
    """Options of a reader; those given as texts are brought to the types that it declares."""
    from marlzoo.data.load import typed_options

    given = dict(option or {})
    texts = {name: value for name, value in given.items() if isinstance(value, str)}
    return given | typed_options(source, [f"{name}={value}" for name, value in texts.items()])
