"""``marlzoo data model``: train a world model of a dataset and measure it on held-out episodes."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse
from marlzoo.cli._telling import closing, progress
from marlzoo.models.settings import WorldModelConfig

if TYPE_CHECKING:
    from marlzoo.training.world_models import StepErrors


@dataclass
class Model:
    """Train a world model of a dataset; its errors are those on the tenth of the episodes that is held out."""

    dataset: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """a dataset's name, a file or a folder"""
    option: tuple[str, ...] = ()
    """how to read it, for instance uid=Good (marlzoo list formats shows all)"""
    out: Path = Path("world-model.npz")
    """file to write"""
    plot: Path | None = None
    """also draw the errors over the steps ahead into this image file (needs the extra plot)"""
    steps: int = 10
    """steps ahead, at most, that errors are measured for"""
    seed: int = 0
    """of initial values and batches"""
    state: bool = False
    """predict the global state, too"""
    json: bool = False
    """print JSON instead of a table"""
    settings: Annotated[WorldModelConfig, tyro.conf.arg(name="")] = field(default_factory=WorldModelConfig)


def model(arguments: Sequence[str]) -> int:
    """train a world model of a dataset and measure it"""
    started = time.monotonic()
    options = parse(Model, "data model", arguments)
    from marlzoo.console import visible
    from marlzoo.data.load import load_dataset, typed_options
    from marlzoo.errors import ConfigError
    from marlzoo.training.world_models import fit, save, step_errors

    if options.steps < 1 or options.seed < 0:
        raise ConfigError("data model: --steps must be at least 1 and --seed 0 or more")
    data = load_dataset(options.dataset, **typed_options(options.dataset, options.option))
    settings = options.settings
    with progress("data model", f"world model of {data.card.title}", settings.model_updates) as shown:

        def tell(done: int, metrics: dict[str, float]) -> None:
            shown.advance(done, ", ".join(f"{name} {value:.3g}" for name, value in metrics.items()))

        made = fit(data, settings, options.seed, options.state, tell)
    save(options.out, made, data, options.seed)
    errors = step_errors(made, data, options.steps)
    _show(errors, options.json)
    if options.plot is not None:
        _draw(errors, data.card.title, options.plot)
    print(f"World model: {visible(options.out)}")
    closing("Trained", started, f"marlzoo train moma_ppo --data {options.dataset}")
    return 0


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


def _draw(errors: StepErrors, title: str, path: Path) -> None:
    from marlzoo.errors import MissingExtraError
    from marlzoo.system.files import atomic_write

    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "plot", "plotting a world model's errors") from error
    figure = Figure(figsize=(6, 4), layout="constrained")
    ax: Any = figure.subplots()
    ahead = range(1, len(errors.frame) + 1)
    for values, label in ((errors.frame, "world model"), (errors.unchanged, "nothing changes")):
        ax.plot(ahead, values, "o-", label=label)
    ax.set(xlabel="steps ahead", ylabel="error, in deviations of the data", yscale="log")
    ax.set_title(title, fontsize=9, parse_math=False)
    ax.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary)
