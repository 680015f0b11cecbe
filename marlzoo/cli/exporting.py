"""``marlzoo export``: a trained team, or one agent, as a file that needs no marlzoo."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from marlzoo.cli._parse import parse


@dataclass
class Options:
    """Write a trained team, or one of its agents, as ONNX or as a PyTorch program, and compare it with the policy."""

    run: Annotated[Path, tyro.conf.Positional]
    """checkpoint ending in .npz, or the folder of a run that has one"""
    format: Literal["onnx", "torch"] = "onnx"
    """ONNX needs the extra export"""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """file to write (default: policy.onnx or policy.pt2)"""
    agent: int | None = None
    """export this agent alone (default: the team)"""
    seed: int | None = None
    """the replica with this seed"""
    replica: int | None = None
    """the replica with this index"""
    best: bool = False
    """the replica with the highest return in the last evaluation"""


def run(arguments: Sequence[str]) -> int:
    """Export and print the file's name."""
    options = parse(Options, "export", arguments)
    from marlzoo.deployment.export import export

    print(
        export(
            options.run,
            options.out,
            format=options.format,
            agent=options.agent,
            seed=options.seed,
            replica=options.replica,
            best=options.best,
        )
    )
    return 0
