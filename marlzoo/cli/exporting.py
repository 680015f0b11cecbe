"""``marlzoo export``: a trained team, or one agent, as a file that needs no marlzoo."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from marlzoo.cli._lazy import tyro
from marlzoo.cli._parse import parse
from marlzoo.cli._progress import closing
from marlzoo.cli._team import TeamOptions


@dataclass(kw_only=True)
class Options(TeamOptions):
    """Write a trained team, or one of its agents, as ONNX or as a PyTorch program, and compare it with the policy."""

    format: Literal["onnx", "torch"] = "onnx"
    """ONNX needs the extra export"""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """file to write (default: policy.onnx or policy.pt2)"""
    agent: int | None = None
    """export this agent alone (default: the team)"""


def run(arguments: Sequence[str]) -> int:
    """Export and print the file's name."""
    started = time.monotonic()
    options = parse(Options, "export", arguments)
    from marlzoo.deployment.export import export

    print(
        export(
            options.run,
            options.out,
            format=options.format,
            agent=options.agent,
            method=options.method,
            dataset=options.dataset,
            seed=options.seed,
            replica=options.replica,
            best=options.best,
        )
    )
    closing("Exported and compared with the policy", started)
    return 0
