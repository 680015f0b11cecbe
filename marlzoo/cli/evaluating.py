"""``marlzoo eval``: a checkpoint's policies in the simulator, or members of several teams together."""

from __future__ import annotations

import contextlib
import json
import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import named_values, parse
from marlzoo.cli._progress import closing, without_nan
from marlzoo.errors import ConfigError
from marlzoo.system.machine import usable_device

if TYPE_CHECKING:
    from marlzoo.commands.scoring import Score


@dataclass
class Options:
    """Play episodes with every replica of a checkpoint, acting as it does when it is evaluated in training.

    With --cross-play, the replicas of all runs named are teams whose members play with each other.
    """

    checkpoint: Annotated[Path, tyro.conf.Positional]
    """file ending in .npz, or the folder of a run or a suite"""
    others: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()
    """further runs, for --cross-play"""
    cross_play: bool = False
    """compose teams of members of different teams: returns, and the gap to the teams themselves"""
    compositions: int = 10
    """with --cross-play and more than two agents: compositions sampled per team"""
    method: str = ""
    """the checkpoint of this method, where the folder has several"""
    dataset: str = ""
    """only replicas trained on these data: their name, or their quality, for instance medium-expert"""
    task: str = ""
    """full task name (default: the one it was trained for)"""
    env: tuple[str, ...] = ()
    """options of the task's environment, for instance flavor=original (default: those of the training)"""
    episodes: int = 0
    """episodes per replica (0: as many as in training, or 10; with --cross-play always 10)"""
    horizon: int = 0
    """step limit of an episode (0: that of the training's evaluations, or the task's)"""
    seed: int = -1
    """seed of the starts (-1: those of the training's own evaluation, whose row it repeats; 0 in cross-play)"""
    acting: tuple[str, ...] = ()
    """how the policy acts, in place of the training's settings, for instance eval_steps=5"""
    device: str = "cpu"
    """cpu, cuda, cuda:1, ..."""
    json: bool = False
    """print JSON"""


def run(arguments: Sequence[str]) -> int:
    """Evaluate and print one line per replica."""
    started = time.monotonic()
    options = parse(Options, "eval", arguments)
    usable_device(options.device)
    _require(options)
    if options.cross_play:
        return _cross_play(options, started)
    from marlzoo.commands.scoring import evaluate_run

    scores = evaluate_run(
        options.checkpoint,
        method=options.method,
        dataset=options.dataset,
        task=options.task,
        env=named_values(options.env, "--env") or None,
        episodes=options.episodes,
        horizon=options.horizon,
        seed=options.seed,
        device=options.device,
        acting=_settings(options.acting),
    )
    if options.json:
        print(json.dumps([without_nan(asdict(score)) for score in scores], indent=2))
        return 0
    several = len({score.dataset for score in scores}) > 1
    for score in scores:
        print(_text(score, several))
    closing(
        "Evaluated",
        started,
        f"marlzoo data collect {scores[0].task} --quality NAME --policy {shlex.quote(str(options.checkpoint))}",
    )
    return 0


def _settings(texts: Sequence[str]) -> dict[str, Any]:
    """The values of ``--acting``; numbers with a fraction, too."""
    found = named_values(texts, "--acting")
    for name, value in found.items():
        with contextlib.suppress(TypeError, ValueError):
            found[name] = float(value) if isinstance(value, str) else value
    return found


def _text(score: Score, several: bool) -> str:
    """One line; with the data's name where others have other data."""
    wins = "" if score.win_rate is None else f", won {100 * score.win_rate:.0f} %"
    data = f"data {score.dataset}, " if several else ""
    fault = "; it diverged: its parameters are not finite" if score.diverged else ""
    other = "" if score.execution == "decentralized" else f" ({score.execution.replace('_', ' ')} execution)"
    return (
        f"{score.method}{other} on {score.task}, {data}seed {score.seed}, {score.updates} updates: return "
        f"{score.mean_return:.1f} ± {score.std_return:.1f} over {score.episodes} episodes of "
        f"{score.mean_length:.0f} steps{wins}, {float(f'{score.action_us:.3g}'):g} us per action{fault}"
    )


def _require(options: Options) -> None:
    for flag, value in (("episodes", options.episodes), ("horizon", options.horizon)):
        if value < 0:
            raise ConfigError(f"--{flag} is {value}; it must not be negative")
    if (options.method or options.dataset) and options.cross_play:
        raise ConfigError("--method and --dataset are for one run; name the checkpoints of --cross-play")
    if options.acting and options.cross_play:
        raise ConfigError("--acting is for one run; teams of --cross-play act as in their training")
    if options.others and not options.cross_play:
        raise ConfigError(
            f"{1 + len(options.others)} runs are named; give one, or --cross-play for their members to play together"
        )


def _cross_play(options: Options, started: float) -> int:
    """Print the matrix or the returns of the compositions, and their summary."""
    from marlzoo.benchmarks.cross_play import cross_play

    runs = [options.checkpoint, *options.others]
    found = cross_play(
        runs,
        task=options.task,
        env_options=named_values(options.env, "--env") or None,
        episodes=options.episodes or 10,
        compositions=options.compositions,
        horizon=options.horizon or None,
        seed=max(options.seed, 0),
        device=options.device,
    )
    if options.json:
        print(json.dumps(_plain(found.to_dict()), indent=2))
        return 0
    from marlzoo.benchmarks.cross_play import sheet
    from marlzoo.benchmarks.styles import terminal
    from marlzoo.console import console

    console().print(terminal(sheet(found)), soft_wrap=True)
    closing("Evaluated", started, f"marlzoo eval {shlex.quote(str(options.checkpoint))}")
    return 0


def _plain(value: Any) -> Any:
    """With None for numbers that are not finite."""
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
