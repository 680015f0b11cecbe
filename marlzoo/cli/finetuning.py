"""``marlzoo finetune``: a run's team continues learning in the simulator."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import named_values, parse, toml_values
from marlzoo.cli._progress import closing, progress, without_nan
from marlzoo.system.machine import usable_device
from marlzoo.training.finetune_settings import FinetuneSettings

if TYPE_CHECKING:
    from marlzoo.training.evaluation import Evaluation
    from marlzoo.training.finetune import Finetuned


@dataclass
class Options:
    """Fine-tune all replicas of an offline run in the simulator; the same command resumes after an interruption."""

    run: Annotated[Path, tyro.conf.Positional]
    """checkpoint ending in .npz, or the folder of a run or a suite"""
    env_steps: int
    """team steps per replica, summed over all environments"""
    method: str = ""
    """the checkpoint of this method, where the folder has several"""
    dataset: str = ""
    """only replicas trained on these data: their name, or their quality, for instance medium-expert"""
    data: tuple[str, ...] = ()
    """names or files of the offline data (default: those that the checkpoint names)"""
    settings: Annotated[FinetuneSettings, tyro.conf.arg(name="")] = FinetuneSettings()  # noqa: RUF009
    """how to explore and what to learn from"""
    set: tuple[str, ...] = ()
    """settings of the method that change, for instance cql_weight=0.0"""
    task: str = ""
    """full task name (default: the run's)"""
    env: tuple[str, ...] = ()
    """options of the task's environment (default: the run's)"""
    episodes: int = 0
    """episodes per replica and evaluation (0: as in the run, or 10)"""
    horizon: int = 0
    """step limit of an evaluation episode (0: the run's)"""
    eval_every: int = 0
    """environment steps between evaluations (0: a twentieth of all)"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    out: Path = Path("results")
    """results go to OUT/NAME: curve.csv, summary.json, metrics.csv and checkpoint.npz"""
    name: str = ""
    """name of the run (default: finetune-STRATEGY-, the name of the offline run's checkpoint, and --dataset)"""
    log: tuple[str, ...] = ()
    """further loggers beside the CSV files: tensorboard, wandb, or one that a plugin registers"""
    json: bool = False
    """print the summary as JSON, and everything else on stderr"""


def run(arguments: Sequence[str]) -> int:
    """Fine-tune, write curve and summary, and print one line per replica."""
    options = parse(Options, "finetune", arguments)
    usable_device(options.device)
    from marlzoo.cli._folder import own_folder
    from marlzoo.system.files import write_text_atomic
    from marlzoo.training.checkpoint import find_teams, load_saved, task_of
    from marlzoo.training.finetune import finetune
    from marlzoo.training.loggers import MetricsFile
    from marlzoo.training.more_loggers import LogTarget, make_loggers

    started = time.monotonic()
    offline, _ = find_teams(options.run, options.method, options.dataset)
    meta = load_saved(offline).meta
    task = options.task or task_of(meta)
    run = offline.parent.absolute().name if offline.name == "checkpoint.npz" else offline.stem
    parts = ["finetune", options.settings.strategy, run, re.sub(r"[^\w.+-]", "-", options.dataset)]
    name = options.name or "-".join(filter(None, parts))
    folder = own_folder(options.out, name)
    loggers = make_loggers(options.log, LogTarget(folder, name, about={"task": task}))
    with progress(name, f"{meta['method']} on {task}", options.env_steps) as shown:

        def report(steps: int, evaluation: Evaluation) -> None:
            means = ", ".join(f"{value:.1f}" for value in evaluation.episodes.returns.mean(-1))
            shown.log(f"{steps} steps, mean returns {means}")

        found = finetune(
            options.run,
            options.env_steps,
            method=options.method,
            dataset=options.dataset,
            data=options.data,
            settings=options.settings,
            overrides=toml_values(options.set),
            task=options.task,
            env_options=named_values(options.env, "--env") or None,
            episodes=options.episodes,
            horizon=options.horizon,
            eval_every=options.eval_every,
            checkpoint=folder / "checkpoint.npz",
            device=options.device,
            on_evaluation=report,
            on_round=lambda done, total: shown.advance(options.env_steps * done / total, f"{done} steps"),
            loggers=[MetricsFile(folder / "metrics.csv"), *loggers],
        )
    summary = json.dumps([without_nan(asdict(line)) for line in found.summaries], indent=2)
    write_text_atomic(folder / "curve.csv", _csv(found))
    write_text_atomic(folder / "summary.json", summary + "\n")
    print(summary if options.json else _text(found, options.settings))
    closing("Fine-tuned", started, f"marlzoo eval {shlex.quote(str(folder))}")
    return 0


def _text(found: Finetuned, settings: FinetuneSettings) -> str:
    from marlzoo.training.finetune import EARLY

    lines = [
        f"{found.learner.name}, seed {line.seed}: return {line.start:.2f} before, {line.final:.2f} after "
        f"{found.steps[-1]} steps; dip {_dip(line.dip)}, mean over the steps {line.area:.2f}"
        for line in found.summaries
    ]
    if all(steps > EARLY * found.steps[-1] for steps in found.steps[1:]):
        lines.append(
            "The dip was not measured: no evaluation lies within the first fifth of the steps; evaluate more often "
            "(--eval-every)"
        )
    elif settings.warmup >= EARLY * found.steps[-1]:
        lines.append(
            f"The dip says nothing: the first fifth of the steps is warm-up (--warmup {settings.warmup}); take more "
            "--env-steps, or less warm-up"
        )
    return "\n".join(lines)


def _dip(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.2f}"


def _csv(found: Finetuned) -> str:
    text = io.StringIO()
    lines = found.records()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
