"""``marlzoo data model``: train a world model of a dataset and measure it on held-out episodes."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from marlzoo.cli._help import HIDDEN
from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse, text_values
from marlzoo.cli._progress import closing, progress
from marlzoo.config import Config
from marlzoo.errors import ConfigError
from marlzoo.models.settings import OF_NETWORKS, WorldModelConfig, flags

if TYPE_CHECKING:
    from marlzoo.training.world_models import StepErrors


# Settings that all methods have and a world model does not use: they are no options.
UNUSED = tuple(setting for setting in fields(Config) if setting.name != "grad_clip")
if TYPE_CHECKING:
    Shown = WorldModelConfig
else:
    Shown = make_dataclass(
        "Shown",
        [(each.name, each.type, field(default=each.default, metadata={HIDDEN: True})) for each in UNUSED],
        bases=(WorldModelConfig,),
        frozen=True,
    )
    Shown.__module__ = Config.__module__  # where annotations are looked up


@dataclass
class ModelCommand:
    """Train a world model of a dataset; its errors are those on the tenth of the episodes that is held out.

    Methods that practice in a world model start from the file with --world-model.
    """

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """a dataset's name, a file or a folder"""
    option: tuple[str, ...] = ()
    """how to read it, for instance uid=Good (marlzoo list formats shows all)"""
    out: Path = Path("world-model.npz")
    """file to write, for --world-model of marlzoo train"""
    plot: Path | None = None
    """also draw the errors over the steps ahead into this image file (needs the extra plot)"""
    steps: int = 10
    """steps ahead, at most, that errors are measured for"""
    seed: int = 0
    """random seed of initial values and batches"""
    state: bool = False
    """predict the global state, too"""
    json: bool = False
    """print JSON instead of a table"""
    settings: Annotated[Shown, tyro.conf.arg(name="")] = field(default_factory=Shown)


def model(arguments: Sequence[str]) -> int:
    """train a world model of a dataset and measure it"""
    started = time.monotonic()
    options = parse(ModelCommand, "data model", arguments)
    from marlzoo.commands.data import data_model
    from marlzoo.console import visible

    settings = _used(options.settings)
    with progress("data model", f"world model of {options.dataset}", settings.model_updates) as shown:

        def report(done: int, metrics: dict[str, float]) -> None:
            shown.advance(done, ", ".join(f"{name} {value:.3g}" for name, value in metrics.items()))

        made = data_model(
            options.dataset,
            option=text_values(options.option, "--option"),
            out=options.out,
            plot=options.plot,
            steps=options.steps,
            seed=options.seed,
            state=options.state,
            settings=settings,
            progress=report,
        )
    _show(made.errors, options.json)
    print(f"World model: {visible(options.out)}")
    closing("Trained", started, _next(options))
    return 0


def _used(given: WorldModelConfig) -> WorldModelConfig:
    """The settings; refuses those that say nothing about a world model."""
    for setting in UNUSED:
        if getattr(given, setting.name) != setting.default:
            flag = f"--{setting.name.replace('_', '-')}"
            raise ConfigError(
                f"{flag} is a setting of methods; of a world model's --model-lr and --model-batch count"
            )
    return WorldModelConfig(**{each.name: getattr(given, each.name) for each in fields(WorldModelConfig)})


def _next(options: ModelCommand) -> str:
    """The command that trains with the model that was written."""
    usual = WorldModelConfig()
    names = [*OF_NETWORKS, *(["elites"] if options.settings.members < usual.elites else [])]
    given = {name: getattr(options.settings, name) for name in names}
    other = flags({name: value for name, value in given.items() if value != getattr(usual, name)})
    files = shlex.join(["--data", options.dataset, "--world-model", str(options.out)])
    return f"marlzoo train METHOD --dyna {files} {other}".rstrip()


def _show(errors: StepErrors, as_json: bool) -> None:
    if as_json:
        print(json.dumps({name: value.tolist() for name, value in asdict(errors).items()}))
        return
    from rich.table import Table

    from marlzoo.console import console

    title = "Errors on held-out episodes (frames in units of the data's deviation)"
    table = Table("steps ahead", "frame", "frame if nothing changed", "reward", "starts", title=title)
    columns = (errors.frame, errors.unchanged, errors.reward, errors.starts)
    for k, (frame, unchanged, reward, starts) in enumerate(zip(*columns, strict=True), 1):
        table.add_row(str(k), f"{frame:.3g}", f"{unchanged:.3g}", f"{reward:.3g}", str(starts))
    console().print(table)
