"""``marlzoo render``: episodes of a trained team as a video, or as a strip of stills."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import named_values, parse
from marlzoo.cli._progress import closing
from marlzoo.cli._team import TeamOptions


@dataclass(kw_only=True)
class Options(TeamOptions):
    """Play episodes with a trained team and write a video, or with --strip stills side by side; needs no display."""

    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """file to write: .mp4 or .gif, with --strip .png"""
    episodes: int = 2
    """episodes to play"""
    strip: int = 0
    """number of stills of one episode, instead of a video (default: a video)"""
    task: str = ""
    """full task name (default: the one it was trained for)"""
    env: tuple[str, ...] = ()
    """options of the task's environment (default: those of the training)"""
    every: int = 0
    """show every so many steps (default: as many as keep an episode within 250 frames)"""
    fps: int = 25
    """frames per second"""
    size: tuple[int, int] = (480, 360)
    """width and height of a frame, in pixels"""
    episode_seed: int = 0
    """random seed of the starts"""


def run(arguments: Sequence[str]) -> int:
    """Render and print the file's name."""
    started = time.monotonic()
    options = parse(Options, "render", arguments)
    from marlzoo.deployment.rendering import render

    print(
        render(
            options.run,
            options.out,
            episodes=options.episodes,
            strip=options.strip,
            task=options.task,
            env=named_values(options.env, "--env") or None,
            every=options.every,
            fps=options.fps,
            size=options.size,
            episode_seed=options.episode_seed,
            method=options.method,
            dataset=options.dataset,
            seed=options.seed,
            replica=options.replica,
            best=options.best,
        )
    )
    closing("Rendered", started)
    return 0
