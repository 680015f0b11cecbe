"""``marlzoo data``: collect, download, mix, inspect, check, convert and model datasets, and show their cards."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import first_argument, named_values, parse
from marlzoo.cli._telling import closing, progress, reference
from marlzoo.console import visible
from marlzoo.defaults import SEED, TRANSITIONS
from marlzoo.errors import ConfigError, DataError
from marlzoo.recording.teach_options import Options as TeachOptions
from marlzoo.teachers.plans import plans

if TYPE_CHECKING:
    from marlzoo.data.card import Card


def run(arguments: Sequence[str]) -> int:
    """Do what the first argument names."""
    about = "Actions:\n" + "\n".join(
        f"  {name:<8} {(f.__doc__ or '').strip()}" for name, f in ACTIONS.items()
    )
    action = first_argument("action", "data", arguments, ACTIONS, about)
    return 0 if action is None else ACTIONS[action](arguments[1:])


@dataclass
class Collect:
    """Record a dataset with the behavior policies of a task, or with a checkpoint's; same arguments, same bytes."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """for instance mamujoco/hopper-3x1"""
    quality: str
    """random (any task), medium, medium-replay, medium-expert or expert; of SMAX poor, medium or good; with --policy
    a name of your choice"""
    transitions: int = TRANSITIONS
    """number of steps"""
    seed: int = SEED
    """of starts and exploration"""
    policy: Path | None = None
    """checkpoint whose policy acts; the dataset's name is then TASK/own/QUALITY"""
    replica: int = 0
    """which of the checkpoint's replicas, in the order of its datasets and seeds"""
    env: tuple[str, ...] = ()
    """options of the task's environment with --policy, for instance flavour=original"""
    out: Path | None = None
    """file to write, ending in .hdf5 (default: the place where the dataset's name is looked up)"""


def collect(arguments: Sequence[str]) -> int:
    """record a dataset with a task's behavior policies, or a checkpoint's"""
    started = time.monotonic()
    options = parse(Collect, "data collect", arguments)
    from marlzoo.data.computed import computed_qualities
    from marlzoo.data.load import read_card
    from marlzoo.recording.recipes import collect as regenerate

    if computed_qualities(options.task) and options.policy is None:
        name = f"{options.task}/marlzoo/{options.quality}"
        read_card(name)  # a wrong quality is named as such
        raise ConfigError(
            f"data of {options.task} are computed when they are loaded: use the name {name} as it is, or write a "
            f"file with: marlzoo data convert {name} FILE.hdf5"
        )

    with progress("data collect", f"{options.task} {options.quality}", options.transitions) as shown:
        path = regenerate(
            options.task,
            options.quality,
            options.transitions,
            options.seed,
            options.out,
            lambda done, _: shown.advance(done),
            policy=str(options.policy or ""),
            replica=options.replica,
            env=named_values(options.env, "--env"),
        )
    _tell(path, read_card(path))
    closing("Recorded", started, f"marlzoo train METHOD --data {reference(path)}")
    return 0


@dataclass
class Inspect:
    """Returns, lengths, ends, ranges; coverage, dependence between agents, modes and hints, from a seeded sample."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """a dataset's name, a file or a folder"""
    option: tuple[str, ...] = ()
    """how to read it, for instance uid=Good (marlzoo list formats shows all)"""
    json: bool = False
    """print JSON instead of tables"""
    plot: Path | None = None
    """also draw everything into this image file (needs the extra plot)"""
    html: Path | None = None
    """also write tables and plots as one page that needs no network (needs the extra plot)"""
    sample: int = 20_000
    """transitions that coverage, dependence and modes look at"""
    seed: int = 0
    """of the sample"""


def inspect(arguments: Sequence[str]) -> int:
    """show what a dataset holds"""
    options = parse(Inspect, "data inspect", arguments)
    from marlzoo.console import console
    from marlzoo.data.inspection import inspect as measure
    from marlzoo.data.inspection import plot, render, write_html
    from marlzoo.data.load import load_dataset, typed_options

    dataset = load_dataset(options.dataset, **typed_options(options.dataset, options.option))
    if options.sample < 100 or options.seed < 0:
        raise ConfigError("data inspect: --sample must be at least 100 and --seed 0 or more")
    found = measure(dataset, sample=options.sample, seed=options.seed)
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        console().print(render(found))
    if options.plot is not None:
        plot(dataset, options.plot)
    if options.html is not None:
        write_html(dataset, found, options.html)
    return 0


@dataclass
class Check:
    """Do a dataset and a simulator agree? Replays recorded transitions; exit status 1 if they do not."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """a dataset's name, a file or a folder"""
    option: tuple[str, ...] = ()
    """how to read it, for instance team=2x3_0 (marlzoo list formats shows all)"""
    task: str = ""
    """full task name (default: what the dataset's card says)"""
    sample: int = 2000
    """transitions to replay"""
    action_mapping: str = ""
    """which actuators an agent owns, concat or scatter (default: the task's)"""
    env: tuple[str, ...] = ()
    """other options of the task's environment, for instance flavour=original"""
    json: bool = False
    """print JSON"""


def check(arguments: Sequence[str]) -> int:
    """compare a dataset with the simulator"""
    options = parse(Check, "data check", arguments)
    from marlzoo.data.check import check as compare
    from marlzoo.data.load import load_dataset, typed_options
    from marlzoo.registry import make_env

    dataset = load_dataset(options.dataset, **typed_options(options.dataset, options.option))
    task = options.task or dataset.card.task
    if not task:
        raise DataError(f"{options.dataset}: its card names no task; give it with --task")
    chosen = {"action_mapping": options.action_mapping} if options.action_mapping else {}
    env = make_env(task, 1, **named_values(options.env, "--env"), **chosen)
    try:
        report = compare(dataset, env, sample=options.sample)
    finally:
        env.close()
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(visible(report.summary()))
    return 0 if report.agrees else 1


@dataclass
class Convert:
    """Read a dataset of any known format, which is found out, and write it in another; numbers unchanged."""

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    """a dataset's name, a file or a folder"""
    target: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    """what to write: a file ending in .hdf5 or .npz, a Minari folder ending in -v0, or a dataset's name
    family/task/source/quality"""
    option: tuple[str, ...] = ()
    """how to read the source, for instance team=2x3_0 horizon=1000 (marlzoo list formats shows all)"""
    format: str = ""
    """native, omiga (native, but refused where OMIGA's own code could not use it), npz or minari (default: as the
    target's name says)"""
    force: bool = False
    """replace a target that exists"""


def convert(arguments: Sequence[str]) -> int:
    """write a dataset of any known format in another"""
    started = time.monotonic()
    options = parse(Convert, "data convert", arguments)
    from marlzoo.data.load import convert as rewrite
    from marlzoo.data.load import typed_options

    reading = typed_options(options.source, options.option)

    def log(text: str) -> None:
        print(visible(text), file=sys.stderr)

    path = rewrite(
        options.source, options.target, form=options.format, force=options.force, log=log, **reading
    )
    print(visible(path))
    closing("Converted", started, f"marlzoo data inspect {reference(path)}")
    return 0


@dataclass
class Mix:
    """Draw whole episodes of several datasets in given shares of the transitions; same arguments, same bytes."""

    parts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATASET:SHARE ...")]
    """names or files of any format with shares that add up to 1, for instance good.hdf5:0.5 poor.hdf5:0.5"""
    out: str = ""
    """file to write, ending in .hdf5, or a dataset's name family/task/source/quality (default: a new name such as
    family/task/source/good-poor)"""
    transitions: int | None = None
    """number of steps, about (default: as many as the datasets allow)"""
    seed: int = 0
    """of the draw"""


def mix(arguments: Sequence[str]) -> int:
    """mix datasets in given shares"""
    started = time.monotonic()
    options = parse(Mix, "data mix", arguments)
    from marlzoo.data.load import read_card
    from marlzoo.data.mix import mix as combine
    from marlzoo.data.mix import parse_parts

    path = combine(
        parse_parts(options.parts), options.out or None, transitions=options.transitions, seed=options.seed
    )
    _tell(path, read_card(path))
    closing("Mixed", started, f"marlzoo train METHOD --data {reference(path)}")
    return 0


def _tell(path: Path, card: Card) -> None:
    print(
        f"{visible(path)}: {card.transitions} transitions in {card.episodes} episodes, "
        f"return {card.mean_return:.1f} ± {card.std_return:.1f}, content hash {card.content_hash}"
    )


@dataclass
class Download:
    """Fetch a published dataset (needs the extra hub), verify it, convert it and put it where its name is found."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")] = ""
    """its name, family/task/source/quality"""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """a file or folder fetched by hand instead"""
    list: bool = False
    """list all published datasets and where they are"""


def download(arguments: Sequence[str]) -> int:
    """fetch a published dataset"""
    started = time.monotonic()
    options = parse(Download, "data download", arguments)
    from marlzoo.data.catalog import published
    from marlzoo.data.download import download as fetch

    if options.list:
        for entry in published().values():
            print(f"{entry.name}: {entry.where()}")
        return 0
    if not options.dataset:
        raise ConfigError("marlzoo data download: name a dataset, or list all with --list")
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    from marlzoo.console import console, described

    screen = console(stderr=True)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(described(options.dataset), total=None)
        path = fetch(
            options.dataset,
            from_file=options.from_,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    print(visible(path))
    closing("Fetched, verified and converted", started, f"marlzoo data check {reference(path)}")
    return 0


@dataclass
class Teach:
    """Train the behavior policies of a task, as its plan says; the same command goes on after a stop."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """full task name, for instance mamujoco/hopper-3x1"""
    options: Annotated[TeachOptions, tyro.conf.arg(name="")] = field(default_factory=TeachOptions)
    """how they are made"""


def teach(arguments: Sequence[str]) -> int:
    """train the behavior policies that a task's data are recorded with"""
    started = time.monotonic()
    named = [word for word in arguments[:1] if not word.startswith("-")]
    parsed = parse(_planned(named[0]) if named else Teach, "data teach", arguments)
    from marlzoo.recording.teach import make_behavior_policy  # here, because it needs torch

    print(make_behavior_policy(parsed.task, parsed.options))
    closing("Trained", started, f"marlzoo data collect {parsed.task} --quality QUALITY")
    return 0


def _planned(task: str) -> type[Teach]:
    """The command's options with the defaults of a task's plan, if it has one."""
    plan = plans().get(task)
    if plan is None:
        return Teach
    base: Any = field(default=TeachOptions(**plan.options))
    made = make_dataclass("Planned", [("options", Teach.__annotations__["options"], base)], bases=(Teach,))
    made.__module__, made.__doc__ = __name__, Teach.__doc__  # where annotations are looked up
    return made


@dataclass
class ShowCard:
    """What is known about a dataset: origin, addresses, checksum, license, statistics, published scores."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """a dataset's name, published or not, or a file"""
    json: bool = False
    """print JSON"""


def card(arguments: Sequence[str]) -> int:
    """show a dataset's card, with addresses and published scores"""
    options = parse(ShowCard, "data card", arguments)
    from marlzoo.data.catalog import published, scores
    from marlzoo.data.download import recorded_checksum
    from marlzoo.data.load import find, read_card

    entry = published().get(options.dataset)
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
        place = find(options.dataset)
    except DataError:
        if entry is None:
            shown["card"] = read_card(
                options.dataset
            ).to_dict()  # computed data, or the error that says what to do
    else:
        shown |= {"file": str(place), "card": read_card(options.dataset).to_dict()}
    if options.json:
        print(json.dumps(shown, indent=2))
        return 0
    from rich.table import Table

    from marlzoo.console import console

    screen = console()
    for title, part in shown.items():
        if isinstance(part, str):
            screen.print(f"{title}: {visible(part)}", soft_wrap=True)
            continue
        table = Table(title=title, show_header=False)
        for key, value in part.items():
            if key != "scores" and value not in ("", None, [], {}):
                table.add_row(key, visible(json.dumps(value) if isinstance(value, dict) else value))
        screen.print(table)
        if part.get("scores"):
            rows = Table("method", "metric", "mean", "±", "seeds", "reference", title="published scores")
            for score in part["scores"]:
                texts = ("" if score[k] is None else str(score[k]) for k in ("mean", "std", "seeds"))
                rows.add_row(score["method"], score["metric"], *texts, score["reference"] or score["table"])
            screen.print(rows)
    return 0


def model(arguments: Sequence[str]) -> int:
    """train a world model of a dataset and measure it on held-out episodes"""
    from marlzoo.cli.modeling import model as train_model

    return train_model(arguments)


ACTIONS: dict[str, Callable[[Sequence[str]], int]] = {
    "collect": collect, "inspect": inspect, "check": check, "convert": convert,
    "download": download, "mix": mix, "card": card, "teach": teach,
    "model": model,
}  # fmt: skip
