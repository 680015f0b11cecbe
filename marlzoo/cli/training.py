"""``marlzoo train METHOD``: one method with its settings as flags, from data or online."""

from __future__ import annotations

import shlex
import textwrap
import time
from collections.abc import Container, Sequence
from dataclasses import asdict, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from marlzoo.cli._help import WIDTH, train_help
from marlzoo.cli._lazy import tyro
from marlzoo.cli._options import Offline, Online
from marlzoo.cli._parse import first_argument, named_values, parse, peek
from marlzoo.cli._progress import closing, progress
from marlzoo.commands.methods import MethodFile
from marlzoo.config import Config
from marlzoo.errors import ConfigError
from marlzoo.system.machine import usable_device
from marlzoo.task import TaskName

if TYPE_CHECKING:
    from marlzoo.algorithm import Algorithm


OF_TRAINING = (
    "updates",
    "eval_every",
    "episodes",
    "horizon",
    "precision",
)  # options that are fields of a suite
OF_RUNNING = ("out", "device", "max_replicas", "check_data", "force", "log")  # and those of how it is run
DYNA_FLAG = "--dyna"  # the method's form that also learns from a world model


def run(arguments: Sequence[str]) -> int:
    """Look the method up, then parse the flags that it has."""
    from marlzoo.registry import DYNA, find_method, find_methods

    listing = find_methods()
    methods = listing.modules
    if listing.broken and arguments and not arguments[0].startswith("-") and arguments[0] not in methods:
        find_method(arguments[0])  # whose error says which plugins could not be looked into
    about = (
        f"{textwrap.fill('Methods: ' + ', '.join(methods), WIDTH)}\n\n"
        "marlzoo train METHOD --help        run options and settings of one\n"
        f"marlzoo train METHOD {DYNA_FLAG} ...   mix the data with a world model's steps"
    )
    _require_flag(arguments, methods)
    if first_argument("method", "train", arguments, methods, about) is None:
        return 0
    method = arguments[0]
    rest = [argument for argument in arguments[1:] if argument != DYNA_FLAG]
    method = DYNA + method if DYNA_FLAG in arguments else method
    plain = method.removeprefix(DYNA)
    if {"-h", "--help"} & set(rest) and len(methods.get(plain, ())) == 1:
        source = MethodFile(methods[plain][0])
        form = f" {DYNA_FLAG}" if method != plain else ""
        more = MethodFile("marlzoo.models.settings").settings_of("DynaConfig") if form else []
        print(train_help(plain + form, source, Online if source.online else Offline, more))
        return 0
    from marlzoo.data.once import reading_once  # here: help should not wait for numpy

    with reading_once():
        return _train(method, arguments, rest)


def _require_flag(arguments: Sequence[str], methods: Container[str]) -> None:
    """Refuse the name under which rows tell a method's form; here the form is a flag."""
    from marlzoo.registry import DYNA

    plain = arguments[0].removeprefix(DYNA) if arguments else ""
    if arguments and plain != arguments[0] and plain in methods:
        raise ConfigError(f"{arguments[0]!r} is a form of {plain}: marlzoo train {plain} {DYNA_FLAG}")


def _require_dyna(method: str, settings: type[Config], arguments: Sequence[str]) -> None:
    """Refuse settings of the form that learns from a world model, where that form is not asked for."""
    from marlzoo.models.settings import DynaConfig

    of_form = {setting.name for setting in fields(DynaConfig)} - {
        setting.name for setting in fields(settings)
    }
    flags = {f"--{name.replace('_', '-')}" for name in of_form}
    for flag in (argument.partition("=")[0] for argument in arguments):
        if flag in flags:
            raise ConfigError(
                f"{flag} is a setting of world models: marlzoo train {method} {DYNA_FLAG} {flag} ..."
            )


def _train(method: str, arguments: Sequence[str], rest: Sequence[str]) -> int:
    from marlzoo.registry import DYNA, find_method

    cls = find_method(method)
    if cls.sampling == "online" and peek(rest, "--data"):
        raise ConfigError(f"{method} learns by acting and takes no --data; give --task TASK")
    _require_dyna(method, cls.config_class, rest)
    name = f"{method.removeprefix(DYNA)} {DYNA_FLAG}" if method.startswith(DYNA) else method
    shape: type[Any] = Online if cls.sampling == "online" else Offline
    base, note = _defaults(method, rest)
    flat = tyro.conf.arg(name="")  # the method's settings are flags without a prefix
    both = make_dataclass(
        "Both",
        [
            ("options", Annotated[shape, flat]),
            ("settings", Annotated[cls.config_class, flat], field(default=base)),
        ],
    )
    both.__doc__ = f"{method}: {(shape.__doc__ or '').strip()}"
    parsed: Any = parse(both, f"train {name}", rest)
    if cls.sampling == "online" or parsed.options.where.on == "local":  # a cluster's nodes may have others
        usable_device(parsed.options.device)
    changed = _changed(cls, parsed.settings, base)
    if note:
        print(note)
    if cls.sampling == "online":
        return _online(method, parsed.options, changed)
    return _offline(method, parsed.options, changed, shlex.join(["marlzoo", "train", *arguments]))


def _defaults(method: str, arguments: Sequence[str]) -> tuple[Config, str]:
    """The method's settings for the task at hand, and a line that says so where its family has no preset of its own.

    They are those of the preset that is asked for, or of the task's family.
    """
    from marlzoo.data.load import read_card, read_description
    from marlzoo.families import Task, task_families, task_spec
    from marlzoo.registry import find_method, preset_of

    cls = find_method(method)
    named = peek(arguments, "--task")
    data = peek(arguments, "--data")
    chosen = peek(arguments, "--preset") or ""
    chosen = "" if chosen.startswith("-") else chosen
    if data and data.startswith("-"):
        data = None
    task = named or (read_card(data).task if data else "")
    # Data may be of a task that a family has not; a name that is given may be misspelt.
    if task and (Task.parse(task).exists or (named and TaskName.parse(task).family in task_families())):
        spec = task_spec(task)
    elif data:
        spec = replace(read_description(data)[0], task=task or "")
    else:
        return cls.config_class(), ""
    found = preset_of(cls, spec, chosen or None)
    note = ""
    if found.borrowed:
        note = (
            f"{method} has no preset for {spec.task} and starts from that of {found.name}; "
            "--preset NAME chooses another, --preset defaults none"
        )
    return cls.config_class(**found.settings), note


def _changed(cls: type[Algorithm], settings: Config, base: Config) -> dict[str, Any]:
    mine = asdict(settings)
    usual = asdict(base)
    return {name: value for name, value in mine.items() if value != usual[name]}


def _offline(method: str, options: Offline, settings: dict[str, Any], command: str) -> int:
    from marlzoo.benchmarks.launchers import Place
    from marlzoo.commands.training import one_task, run_method

    env = named_values(options.env, "--env")
    place = Place(**asdict(options.where))
    if options.episodes == 0:
        if place != Place():
            raise ConfigError("--on and --storage are for training with evaluation; leave --episodes 0 out")
        from marlzoo.cli._unevaluated import train_unevaluated

        train_unevaluated(method, options, settings, one_task(options.data, options.task), env)
        return 0
    finished = run_method(
        method,
        options.data,
        settings=settings,
        preset=options.preset,
        task=options.task,
        seeds=options.seeds,
        env=env,
        name=options.name,
        training={field: getattr(options, field) for field in OF_TRAINING},
        running={field: getattr(options, field) for field in OF_RUNNING} | {"command": command},
        threads=options.threads,
        place=place,
    )
    if not finished.failures:
        for checkpoint in finished.checkpoints[:1]:
            print(f"Or: marlzoo eval {shlex.quote(str(checkpoint))}")
    return 1 if finished.failures else 0


def _online(method: str, options: Online, settings: dict[str, Any]) -> int:
    from marlzoo.cli._folder import own_folder
    from marlzoo.families import make_env, task_spec
    from marlzoo.registry import make
    from marlzoo.system.files import write_text_atomic
    from marlzoo.training.loggers import MetricsFile
    from marlzoo.training.more_loggers import LogTarget, make_loggers
    from marlzoo.training.online import curve_csv, online_settings, train_online

    started = time.monotonic()
    name = options.name or f"train-{method}-{TaskName.parse(options.task).slug()}"
    folder = own_folder(options.out, name)
    loggers = make_loggers(options.log, LogTarget(folder, name, about={"task": options.task}))
    given = named_values(options.env, "--env")
    learner = make(
        method,
        task_spec(options.task, **given),
        seeds=options.seeds,
        device=options.device,
        preset=options.preset or None,
        **settings,
    )
    env = make_env(options.task, len(options.seeds) * online_settings(learner).num_envs, **given)
    try:
        with progress(name, f"{method} on {options.task}", options.steps) as shown:

            def report(done: int, total: int, points: Sequence[Any]) -> None:
                shown.advance(options.steps * done / total, f"{done} of {total} updates")
                means = [f"{p.mean_return:.1f}" for p in points if p.mean_return is not None]
                if means:
                    shown.log(f"{points[0].steps} steps, mean returns {', '.join(means)}")

            curve = train_online(
                learner,
                env,
                steps=options.steps,
                checkpoint=folder / "checkpoint.npz",
                log_every=options.log_every,
                env_options=given,
                on_progress=report,
                loggers=[MetricsFile(folder / "metrics.csv"), *loggers],
                notify=shown.log,
            )
    finally:
        env.close()
    write_text_atomic(folder / "curve.csv", curve_csv(curve))
    _tell_online(folder, learner.updates, started)
    return 0


def _tell_online(folder: Path, updates: int, started: float) -> None:
    checkpoint = folder / "checkpoint.npz"
    print(
        f"Learning curve: {folder / 'curve.csv'}\nMetrics: {folder / 'metrics.csv'}\n"
        f"Checkpoint, for marlzoo eval: {checkpoint}"
    )
    closing(f"Trained for {updates} updates", started, f"marlzoo eval {shlex.quote(str(checkpoint))}")
