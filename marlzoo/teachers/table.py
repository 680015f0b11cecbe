"""The document about the teachers, made from their descriptions: ``python -m marlzoo.teachers.table FILE``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from marlzoo.data.catalog import published
from marlzoo.files import write_text_atomic
from marlzoo.teachers.plans import plans
from marlzoo.teachers.store import FOLDER, Teacher, load_teacher, teacher_names

HEAD = """# Teachers

`marlzoo data collect TASK --quality QUALITY` records data with the teams below, which ship with the package. Returns
are means ± standard deviations over {episodes} episodes of each snapshot, acting with exploration as when data are
recorded; a quality of several snapshots counts each by the number of its episodes in equal shares of steps. The
published mean is that of the dataset that the quality stands for; ours were made by other learners, so only the level
is meant to agree. Learning curves lie beside the teachers, `marlzoo/teachers/*.csv`.

Made by `python -m marlzoo.teachers.table docs/teachers.md`.

| task | quality | return | published mean | dataset |
| --- | --- | ---: | ---: | --- |
"""
COMMANDS = """
## Commands

Each runs on one core, goes on where it was interrupted, and gives the same teacher again with the same versions. On a
larger machine, `marlzoo data teach TASK --steps N` trains longer; a training that was stopped by `--until` goes on
with the same command without it.

| task | trained steps | minutes | command |
| --- | ---: | ---: | --- |
"""
MISSING = """
## Not shipped

These have a plan but no teacher; the hours are estimates for one core.

| task | steps | hours | command |
| --- | ---: | ---: | --- |
"""


def level(teacher: Teacher, quality: str) -> tuple[float, float]:
    """Mean and standard deviation of the episode returns in data of a quality."""
    found = [teacher.snapshots[k] for k in teacher.qualities[quality]]
    mean, std = (np.array([getattr(s, name) for s in found]) for name in ("return_mean", "return_std"))
    weight = 1.0 / np.array([s.length_mean for s in found])
    weight /= weight.sum()
    centre = float(weight @ mean)
    return centre, float(np.sqrt(weight @ (std**2 + (mean - centre) ** 2)))


def document(folder: Path = FOLDER) -> str:
    """The whole text."""
    teachers = [load_teacher(task, folder) for task in teacher_names(folder)]
    episodes = " or ".join(map(str, sorted({s.episodes for t in teachers for s in t.snapshots})))
    shipped = {teacher.task for teacher in teachers}
    missing = {task: plan for task, plan in plans().items() if task not in shipped}
    parts = [HEAD.format(episodes=episodes), *(row for t in teachers for row in _levels(t)), COMMANDS]
    parts += [_command(teacher, folder) for teacher in teachers]
    if missing:
        parts.append(MISSING)
        parts += [
            f"| {task} | {plan.options['steps']:,} | {plan.hours:g} | `marlzoo data teach {task}` |\n"
            for task, plan in missing.items()
        ]
    return "".join(parts)


def _levels(teacher: Teacher) -> Iterator[str]:
    """One line per quality."""
    plan = plans().get(teacher.task)
    source = plan.published if plan else ""
    for quality in teacher.qualities:
        mean, std = level(teacher, quality)
        entry = published().get(f"{source}/{quality}")
        known = entry is not None and entry.return_mean is not None
        theirs = f"{entry.return_mean:.1f} | {entry.name}" if entry is not None and known else "— | —"
        yield f"| {teacher.task} | {quality} | {mean:.1f} ± {std:.1f} | {theirs} |\n"


def _command(teacher: Teacher, folder: Path) -> str:
    curve = (folder / f"{teacher.task.replace('/', '--')}.csv").read_text(encoding="utf-8").splitlines()
    seconds = float(curve[-1].split(",")[curve[0].split(",").index("seconds")])
    steps = teacher.snapshots[-1].steps
    return f"| {teacher.task} | {steps:,} | {seconds / 60:.0f} | `{teacher.command}` |\n"


if __name__ == "__main__":
    write_text_atomic(Path(sys.argv[1]), document())
