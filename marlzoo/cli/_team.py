"""The options that choose a trained team, of every command that uses one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from marlzoo.cli._lazy import tyro


@dataclass(kw_only=True)
class TeamOptions:
    """A run, and which of its replicas."""

    run: Annotated[Path, tyro.conf.Positional]
    """checkpoint ending in .npz, or the folder of a run or a suite"""
    method: str = ""
    """the team of this method, where the folder has several"""
    dataset: str = ""
    """the team trained on these data: their name, or their quality, for instance medium-expert"""
    seed: int | None = None
    """the replica with this seed"""
    replica: int | None = None
    """the replica with this index"""
    best: bool = False
    """the replica with the highest return in the last evaluation"""
