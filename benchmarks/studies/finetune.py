"""Fine-tuning online, plain, with a memory of the offline values, and with sequential exploration beside it.

    python benchmarks/studies/finetune.py [--game xor --quality D3] [--env-steps 10000] [--eval-every 200]
    python benchmarks/studies/finetune.py --name smax-3m --logged.task smax/3m --logged.quality medium --updates 2000
    python benchmarks/studies/finetune.py --name hopper --run CHECKPOINT --data FILE --strategies plain ovm ovmse

A team of QMIX with a conservative penalty is trained on the logged data of a game, or of another task with discrete
actions, and goes on in the simulator without the penalty. ``--run`` takes a trained team of another method and its
data. ``min`` is the memory with its sign turned (targets are lowered to the offline values, not lifted), a check
that the memory is what matters; ``fresh`` is plain fine-tuning without the logged data. The memory needs a method
that has values of logged actions. All seeds of a strategy are replicas of one run.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast
from unittest import mock

import numpy as np
import pandas as pd
import torch
import tyro
from marlzoo.benchmarks import study

import marlzoo
from marlzoo.data.dataset import Dataset
from marlzoo.training.checkpoint import load_saved
from marlzoo.training.finetune import Finetuned
from marlzoo.training.finetune_settings import Strategy

LEARNER: dict[str, Any] = {
    **{"history": "mlp", "hidden": 32, "batch_size": 64, "lr": 1e-3, "target_period": 0, "tau": 0.01},
    "mixer_hidden": 32,
}
STRATEGIES = ("plain", "ovm", "ovmse", "min")
COLUMNS = {"start": "return at step 0", "dip": "dip", "area": "mean over the steps", "final": "final return"}


@dataclass(frozen=True)
class Options(study.Common):  # type: ignore[misc] # Any to mypy, which runs in the checkout
    """What to run."""

    game: str = "xor"
    quality: str = "D3"  # of the logged data
    logged: study.Logged = study.Logged()  # noqa: RUF009 - of another task instead
    run: str = ""  # a checkpoint instead of an offline training; its replicas are the seeds
    data: str = ""  # that it was trained on
    strategies: tuple[str, ...] = STRATEGIES  # and fresh
    name: str = ""  # results go to OUT/finetune/NAME
    updates: int = 500  # of the offline training
    env_steps: int = 10_000  # of the fine-tuning
    eval_every: int = (
        0  # environment steps; with few evaluations a short dip is missed (0: a twentieth of all)
    )
    episodes: int = 20  # of an evaluation
    settings: marlzoo.FinetuneSettings = marlzoo.FinetuneSettings(learn_steps=25, data_share=0.25)  # noqa: RUF009


@dataclass(frozen=True)
class OfflineTeam:
    """The team that goes on: its checkpoint, its data, settings that change, and what it is for people."""

    checkpoint: Path
    data: Dataset
    overrides: dict[str, float]
    about: str


def offline(options: Options, folder: Path) -> OfflineTeam:
    """The team that is given, or trained on logged data."""
    if options.run:
        saved = load_saved(options.run)
        data = marlzoo.load_dataset(options.data)
        about = f"{saved.meta['method']} on {data.card.title}, {saved.meta['updates']} updates offline"
        return OfflineTeam(Path(options.run), data, {}, about)
    if options.logged.given:
        _, data = options.logged.load(options.out)
    else:
        data = marlzoo.load_dataset(f"games/{options.game}/marlzoo/{options.quality}")
    learner = marlzoo.make("qmix_cql", data.spec, seeds=options.seeds, **LEARNER)
    file = folder / "offline.npz"
    marlzoo.train(
        learner, data, updates=options.updates, checkpoint=file, task=data.card.task, show_progress=False
    )
    about = f"QMIX+CQL on {data.card.task} {data.card.quality}, {options.updates} updates offline"
    return OfflineTeam(file, data, {"cql_weight": 0.0}, about)


@contextlib.contextmanager
def turned(strategy: str) -> Iterator[None]:
    """With ``min`` the memory takes the smaller of both values."""
    with (
        mock.patch.object(torch, "maximum", torch.minimum) if strategy == "min" else contextlib.nullcontext()
    ):
        yield


def tune(options: Options, team: OfflineTeam, strategy: str) -> Finetuned:
    """Fine-tune all seeds with one strategy."""
    how = {"min": "ovm", "fresh": "plain"}.get(strategy, strategy)
    settings = replace(options.settings, strategy=cast(Strategy, how))
    if strategy == "fresh":
        settings = replace(settings, data_share=0.0, data_share_end=0.0)
    with turned(strategy):
        return marlzoo.finetune(
            team.checkpoint,
            options.env_steps,
            data=team.data,
            settings=settings,
            overrides=team.overrides,
            episodes=options.episodes,
            eval_every=options.eval_every,
        )


def report(options: Options, about: str, found: dict[str, Finetuned]) -> study.Study:
    """A line per strategy, and the learning curves."""
    lines = []
    body = []
    for strategy, outcome in found.items():
        lines += [{"strategy": strategy, **line} for line in outcome.records()]
        body.append([strategy])
        for name in COLUMNS:
            values = np.array([getattr(summary, name) for summary in outcome.summaries])
            body[-1].append(study.over_seeds(values, 2))
    signs = {"min": " `min` turns the memory's sign.", "fresh": " `fresh` takes no logged data."}
    notes = [
        f"{about}, then {options.env_steps} environment steps{'' if options.run else ' without the penalty'}. Mean "
        f"and 95 % bootstrap interval over {len(next(iter(found.values())).summaries)} seeds. The dip is the fall "
        "below the return at step 0 within the first fifth of the steps."
        + "".join(text for name, text in signs.items() if name in found),
        f"Made by `{study.command('finetune')}`.",
    ]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for strategy, outcome in found.items():
            study.curve(ax, outcome.steps, list(outcome.returns), strategy)
        ax.set(xlabel="environment steps per replica", ylabel="return")
        ax.legend()

    sheet = study.plain_sheet("Fine-tuning online", ["strategy", *COLUMNS.values()], body, notes)
    place = "/".join(filter(None, ("finetune", options.name)))
    return study.Study(place, sheet, pd.DataFrame(lines), draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        team = offline(options, Path(folder))
        found = {strategy: tune(options, team, strategy) for strategy in options.strategies}
    study.write_study(report(options, team.about, found), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
