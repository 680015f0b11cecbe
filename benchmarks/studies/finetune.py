"""Fine-tuning online, plain, with a memory of the offline values, and with sequential exploration beside it.

    python benchmarks/studies/finetune.py [--game xor --quality D3] [--seeds 0 1 2 3 4] [--env-steps 4000]

A team of QMIX with a conservative penalty is trained on the logged data of a game and goes on in the game without the
penalty. ``min`` is the memory with its sign turned (targets are lowered to the offline values instead of lifted), a
check that the memory is what matters. All seeds of a strategy are replicas of one run.
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
    updates: int = 500  # of the offline training
    env_steps: int = 4000  # of the fine-tuning
    episodes: int = 20  # of an evaluation
    settings: marlzoo.FinetuneSettings = marlzoo.FinetuneSettings(learn_steps=25, data_share=0.25)  # noqa: RUF009


def offline(options: Options, folder: Path) -> Path:
    """The offline team's checkpoint."""
    data = marlzoo.load_dataset(f"games/{options.game}/marlzoo/{options.quality}")
    learner = marlzoo.make("qmix_cql", data.spec, seeds=options.seeds, **LEARNER)
    file = folder / "offline.npz"
    marlzoo.train(learner, data, updates=options.updates, checkpoint=file, show_progress=False)
    return file


@contextlib.contextmanager
def turned(strategy: str) -> Iterator[None]:
    """With ``min`` the memory takes the smaller of both values."""
    with (
        mock.patch.object(torch, "maximum", torch.minimum) if strategy == "min" else contextlib.nullcontext()
    ):
        yield


def tune(options: Options, run: Path, strategy: str) -> Finetuned:
    """Fine-tune all seeds with one strategy."""
    how = cast(Strategy, "ovm" if strategy == "min" else strategy)
    with turned(strategy):
        return marlzoo.finetune(
            run,
            options.env_steps,
            settings=replace(options.settings, strategy=how),
            overrides={"cql_weight": 0.0},
            episodes=options.episodes,
        )


def report(options: Options, found: dict[str, Finetuned]) -> study.Study:
    """A line per strategy, and the learning curves."""
    lines, body = [], []
    for strategy, outcome in found.items():
        lines += [{"strategy": strategy, **line} for line in outcome.records()]
        body.append([strategy])
        for name in COLUMNS:
            values = np.array([getattr(summary, name) for summary in outcome.summaries])
            body[-1].append(study.over_seeds(values, 2))
    notes = [
        f"QMIX+CQL on games/{options.game} {options.quality}, {options.updates} updates offline, then "
        f"{options.env_steps} environment steps without the penalty. Mean and 95 % bootstrap interval over "
        f"{len(options.seeds)} seeds. The dip is the fall below the return at step 0 within the first fifth of the "
        "steps; `min` turns the memory's sign.",
        f"Made by `{study.command('finetune')}`.",
    ]

    def draw(figure: Any) -> None:
        ax = figure.subplots()
        for strategy, outcome in found.items():
            study.curve(ax, outcome.steps, list(outcome.returns), strategy)
        ax.set(xlabel="environment steps per replica", ylabel="return")
        ax.legend()

    sheet = study.table("Fine-tuning online", ["strategy", *COLUMNS.values()], body, notes)
    return study.Study("finetune", sheet, pd.DataFrame(lines), draw)


def main(options: Options) -> int:
    """Run the study."""
    study.use_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = offline(options, Path(folder))
        found = {strategy: tune(options, run, strategy) for strategy in STRATEGIES}
    study.write(report(options, found), options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Options, description=__doc__)))
