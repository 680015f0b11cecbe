"""``marlzoo data``: collect, download, mix, inspect, check, convert and model datasets, and show their cards."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import first_argument, named_values, parse, text_values
from marlzoo.cli._progress import closing, progress, reference
from marlzoo.commands.data import planned_options
from marlzoo.console import counted, visible
from marlzoo.defaults import SEED, TRANSITIONS
from marlzoo.errors import ConfigError
from marlzoo.recording.teach_options import Options as TeachOptions

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
class CollectCommand:
    """Record a dataset with the behavior policies of a task, or with a checkpoint's; same arguments, same bytes."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """for instance mamujoco/hopper-3x1"""
    quality: str
    """random, medium, medium-replay, medium-expert or expert (SMAX: poor, medium or good); with --policy a name of
    your choice"""
    transitions: int = TRANSITIONS
    """number of steps"""
    seed: int = SEED
    """random seed of starts and exploration"""
    policy: Path | None = None
    """checkpoint whose policy acts; the dataset's name is then TASK/own/QUALITY"""
    replica: int = 0
    """which of the checkpoint's replicas, in the order of its datasets and seeds"""
    env: tuple[str, ...] = ()
    """options of the task's environment, for instance flavor=original (default: those of the checkpoint's)"""
    out: Path | None = None
    """file to write, ending in .hdf5 (default: the place where the dataset's name is looked up)"""
    force: bool = False
    """replace a file that exists and is not the same recording"""


def collect(arguments: Sequence[str]) -> int:
    """record a dataset with a task's behavior policies, or a checkpoint's"""
    started = time.monotonic()
    options = parse(CollectCommand, "data collect", arguments)
    from marlzoo.commands.data import data_collect
    from marlzoo.data.load import read_card

    with progress("data collect", f"{options.task} {options.quality}", options.transitions) as shown:
        path = data_collect(
            options.task,
            options.quality,
            transitions=options.transitions,
            seed=options.seed,
            policy=options.policy,
            replica=options.replica,
            env=named_values(options.env, "--env"),
            out=options.out,
            force=options.force,
            progress=lambda done, _: shown.advance(done),
        )
    _print_dataset(path, read_card(path))
    closing("Recorded", started, f"marlzoo train METHOD --data {reference(path)}")
    return 0


@dataclass
class InspectCommand:
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
    """random seed of the sample"""
    probes: bool = False
    """also probe what actions depend on: the past, what others see, do and did (some seconds for each agent)"""


def inspect(arguments: Sequence[str]) -> int:
    """show what a dataset holds"""
    options = parse(InspectCommand, "data inspect", arguments)
    from marlzoo.commands.data import data_inspect
    from marlzoo.console import console
    from marlzoo.data.inspection import inspection_tables

    found = data_inspect(
        options.dataset,
        option=text_values(options.option, "--option"),
        sample=options.sample,
        seed=options.seed,
        probes=options.probes,
        plot=options.plot,
        html=options.html,
    )
    if options.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        console().print(inspection_tables(found))
    return 0


@dataclass
class CheckCommand:
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
    """other options of the task's environment, for instance flavor=original"""
    json: bool = False
    """print JSON"""


def check(arguments: Sequence[str]) -> int:
    """compare a dataset with the simulator"""
    options = parse(CheckCommand, "data check", arguments)
    from marlzoo.commands.data import data_check

    report = data_check(
        options.dataset,
        option=text_values(options.option, "--option"),
        task=options.task,
        sample=options.sample,
        action_mapping=options.action_mapping,
        env=named_values(options.env, "--env"),
    )
    if options.json:
        print(json.dumps(report.to_dict(), indent=2))
    else:
        print(visible(report.summary()))
    return 0 if report.agrees else 1


@dataclass
class ConvertCommand:
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
    """replace a file that exists; a folder is never replaced"""


def convert(arguments: Sequence[str]) -> int:
    """write a dataset of any known format in another"""
    started = time.monotonic()
    options = parse(ConvertCommand, "data convert", arguments)
    from marlzoo.commands.data import data_convert

    path = data_convert(
        options.source,
        options.target,
        option=text_values(options.option, "--option"),
        format=options.format,
        force=options.force,
        log=lambda text: print(visible(text), file=sys.stderr),
    )
    print(visible(path))
    closing("Converted", started, f"marlzoo data inspect {reference(path)}")
    return 0


@dataclass
class MixCommand:
    """Draw whole episodes of several datasets in given shares of the transitions; same arguments, same bytes."""

    parts: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATASET:SHARE ...")]
    """names or files of any format with shares that add up to 1, for instance good.hdf5:0.5 poor.hdf5:0.5"""
    out: str = ""
    """file to write, ending in .hdf5, or a dataset's name family/task/source/quality (default: a new name such as
    family/task/source/good-poor)"""
    transitions: int | None = None
    """number of steps, about (default: as many as the datasets allow)"""
    seed: int = 0
    """random seed of the draw"""
    force: bool = False
    """replace a file that exists and is not the same mixture"""


def mix(arguments: Sequence[str]) -> int:
    """mix datasets in given shares"""
    started = time.monotonic()
    options = parse(MixCommand, "data mix", arguments)
    from marlzoo.commands.data import data_mix
    from marlzoo.data.load import read_card

    path = data_mix(
        options.parts,
        out=options.out or None,
        transitions=options.transitions,
        seed=options.seed,
        force=options.force,
    )
    _print_dataset(path, read_card(path))
    closing("Mixed", started, f"marlzoo train METHOD --data {reference(path)}")
    return 0


def _print_dataset(path: Path, card: Card) -> None:
    print(
        f"{visible(path)}: {card.transitions} transitions in {counted(card.episodes, 'episode')}, "
        f"return {card.mean_return:.1f} ± {card.std_return:.1f}, content hash {card.content_hash}"
    )


@dataclass
class DownloadCommand:
    """Fetch published datasets (needs the extra hub), verify and convert them, and put them where they are found."""

    datasets: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DATASET ...")] = ()
    """their names, family/task/source/quality"""
    from_: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """a file or folder fetched by hand instead, of one dataset"""
    list: bool = False
    """list all published datasets and where they are"""


def download(arguments: Sequence[str]) -> int:
    """fetch published datasets"""
    started = time.monotonic()
    options = parse(DownloadCommand, "data download", arguments)
    from marlzoo.commands.data import data_published

    if options.list:
        for name, where in data_published().items():
            print(f"{name}: {where}")
        return 0
    if not options.datasets:
        raise ConfigError("marlzoo data download: name a dataset, or list all with --list")
    if options.from_ is not None and len(options.datasets) > 1:
        raise ConfigError(f"--from is a file of one dataset, and {len(options.datasets)} are named")
    from marlzoo.data.catalog import find_entry

    for name in options.datasets:  # a misspelt one is found before the first is fetched
        find_entry(name)
    paths = [_fetched(name, options.from_) for name in options.datasets]
    closing("Fetched, verified and converted", started, f"marlzoo data check {reference(paths[0])}")
    return 0


def _fetched(name: str, from_: Path | None) -> Path:
    """Fetch a dataset with a progress bar, and print its file."""
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    from marlzoo.commands.data import data_download
    from marlzoo.console import console, escaped

    screen = console(stderr=True)
    columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        bar = progress.add_task(escaped(name), total=None)
        path = data_download(
            name,
            from_=from_,
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
        )
    print(visible(path))
    return path


@dataclass
class TeachCommand:
    """Train the behavior policies of a task, as its plan says; the same command resumes after a stop."""

    task: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="TASK")]
    """full task name, for instance mamujoco/hopper-3x1; TASK@2 is a second one beside the first"""
    plan: bool = True
    """take the options that are not given from the task's plan, where it has one"""
    options: Annotated[TeachOptions, tyro.conf.arg(name="")] = field(default_factory=TeachOptions)
    """how they are made"""


def teach(arguments: Sequence[str]) -> int:
    """train the behavior policies that a task's data are recorded with"""
    started = time.monotonic()
    named = [word for word in arguments[:1] if not word.startswith("-") and "--no-plan" not in arguments]
    parsed = parse(_planned(named[0]) if named else TeachCommand, "data teach", arguments)
    from marlzoo.commands.data import data_teach

    print(data_teach(parsed.task, parsed.options))
    from marlzoo.teachers.qualities import versioned_quality
    from marlzoo.teachers.store import task_and_version

    task, version = task_and_version(parsed.task)
    closing(
        "Trained", started, f"marlzoo data collect {task} --quality {versioned_quality('QUALITY', version)}"
    )
    return 0


def _planned(task: str) -> type[TeachCommand]:
    """The command's options with the defaults of a task's plan, if it has one."""
    base: Any = field(default=planned_options(task))
    made = make_dataclass(
        "Planned", [("options", TeachCommand.__annotations__["options"], base)], bases=(TeachCommand,)
    )
    made.__module__ = __name__  # where annotations are looked up
    made.__doc__ = TeachCommand.__doc__
    return made


@dataclass
class CardCommand:
    """What is known about a dataset: origin, addresses, checksum, license, statistics, published scores."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """a dataset's name, published or not, or a file"""
    json: bool = False
    """print JSON"""


def card(arguments: Sequence[str]) -> int:
    """show a dataset's card, with addresses and published scores"""
    options = parse(CardCommand, "data card", arguments)
    from marlzoo.commands.data import data_card

    shown = data_card(options.dataset)
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
        table.add_column(no_wrap=True)
        table.add_column(overflow="fold")  # addresses are copied, so that nothing of them may be cut
        for key, value in part.items():
            if key != "scores" and value not in ("", None, [], {}):
                table.add_row(key, visible(json.dumps(value) if isinstance(value, dict) else value))
        screen.print(table)
        if part.get("scores"):
            screen.print(_scores(part["scores"]))
    return 0


def _scores(scores: Sequence[Mapping[str, Any]]) -> Any:
    """Published scores as a table; a metric that all have in common is named in the title."""
    from rich.table import Table

    metrics = dict.fromkeys(score["metric"] for score in scores)
    table = Table(title=f"published scores: {', '.join(metrics).replace('_', ' ')}")
    table.add_column("method", overflow="fold", min_width=12)
    if len(metrics) > 1:
        table.add_column("metric", overflow="fold")
    for name in ("mean", "±", "seeds"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reference", overflow="fold", min_width=16)
    for score in scores:
        texts = ["" if score[k] is None else str(score[k]) for k in ("mean", "std", "seeds")]
        names = [score["method"], *([score["metric"]] if len(metrics) > 1 else [])]
        table.add_row(*names, *texts, score["reference"] or score["table"])
    return table


def model(arguments: Sequence[str]) -> int:
    """train a world model of a dataset and measure it on held-out episodes"""
    from marlzoo.cli.modeling import model as train_model

    return train_model(arguments)


ACTIONS: dict[str, Callable[[Sequence[str]], int]] = {
    "collect": collect, "inspect": inspect, "check": check, "convert": convert,
    "download": download, "mix": mix, "card": card, "teach": teach,
    "model": model,
}  # fmt: skip
