"""Writes the document about shipped behavior policies.

python -m marlzoo.recording.behavior_policies_document FILE
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from marlzoo.data.catalog import published
from marlzoo.system.files import write_text_atomic
from marlzoo.teachers.plans import plans
from marlzoo.teachers.qualities import versioned_quality
from marlzoo.teachers.store import (
    FOLDER,
    BehaviorPolicy,
    behavior_policy_names,
    behavior_policy_stem,
    load_behavior_policy,
    mixed_return,
    versioned_name,
)

HEAD = """# Behavior policies

`marlzoo data collect TASK --quality QUALITY` records data with the policies below, which ship with the package. The
quality `random` is there for every task whose data are recorded: where none below makes it, a policy does that takes
every legal action (or every point of the box) with the same probability. The small games' data are computed, not
recorded; `marlzoo list datasets games` lists their qualities.

Returns are means ± standard deviations over {episodes} episodes of each snapshot, acting with exploration as when
data are recorded; a quality of several snapshots counts each by the number of its episodes in equal shares of steps.
The published mean is that of the dataset that the quality stands for; ours were made by other learners, so only the
level is meant to agree. Learning curves: `marlzoo/teachers/*.csv`. Qualities that end in `-v2` are of a task's
second behavior policy, which was made later and leaves the first one's data as they were.

Made by `python -m marlzoo.recording.behavior_policies_document docs/behavior_policies.md`.

| task | quality | return | wins | published mean | dataset |
| --- | --- | ---: | ---: | ---: | --- |
"""
COMMANDS = """
## Commands

Each runs on one core, resumes where it was interrupted, and gives the same policies again with the same versions on
the same kind of processor. Elsewhere sums differ in their last digits, and training turns them into other policies of
the same level.
Times are those of the training that made the policies, on one core of a machine of two that had other work too.

| task | trained steps | minutes | steps/s | command |
| --- | ---: | ---: | ---: | --- |
"""
BELOW = """
## Not reached

The last quality of these tasks lies below its goal: the published mean of the dataset, for SMAX a tenth of it
(the best return is 2 there and 20 in SMAC, and the opponents differ, as does the prey of tag and world). The command
trains, from the start, for ten million steps, as online trainings of the literature do, or for three times as many as
here where that is more; the hours are those steps at the speed above. Whether the goal is then reached is not known.

| task | steps | return | goal | from | steps to train | hours | command |
| --- | ---: | ---: | ---: | --- | ---: | ---: | --- |
"""
LONG = 10_000_000  # steps of online trainings in the literature
LONGER = 3  # times the steps of a training that was long itself


def level(behavior: BehaviorPolicy, quality: str) -> tuple[float, float]:
    """Mean and standard deviation of the episode returns in data of a quality."""
    return mixed_return([behavior.snapshots[k] for k in behavior.qualities[quality]])


def document(folder: Path = FOLDER) -> str:
    """The whole text."""
    policies = [load_behavior_policy(task, folder) for task in behavior_policy_names(folder)]
    episodes = " or ".join(map(str, sorted({s.episodes for t in policies for s in t.snapshots})))
    parts = [HEAD.format(episodes=episodes), *(row for t in policies for row in _levels(t)), COMMANDS]
    parts += [_command(behavior, folder) for behavior in policies]
    below = [row for t in policies for row in _below(t, folder)]
    parts += [BELOW, *below] if below else []
    return "".join(parts)


def _levels(behavior: BehaviorPolicy) -> Iterator[str]:
    """One line per quality."""
    plan = plans().get(behavior.name)
    source = plan.published if plan else ""
    for quality in behavior.qualities:
        mean, std = level(behavior, quality)
        found = [behavior.snapshots[k] for k in behavior.qualities[quality]]
        entry = published().get(f"{source}/{quality}")
        known = entry is not None and entry.mean_return is not None
        theirs = f"{entry.mean_return:.1f} | {entry.name}" if entry is not None and known else "— | —"
        ours = f"{_number(mean)} ± {_number(std)} | {_wins([s.win_rate for s in found])}"
        yield f"| {behavior.task} | {versioned_quality(quality, behavior.version)} | {ours} | {theirs} |\n"


def _wins(rates: list[float | None]) -> str:
    """Share of won episodes; a dash where the task cannot be won."""
    known = [rate for rate in rates if rate is not None]
    return f"{100 * np.mean(known):.0f} %" if known else "—"


def _number(value: float) -> str:
    """Two places for the returns of SMAX, which are at most 2."""
    return f"{value:.2f}" if abs(value) < 2.5 else f"{value:.1f}"


def _speed(behavior: BehaviorPolicy, folder: Path) -> tuple[int, float]:
    """Steps trained, and seconds that they took."""
    curve = (folder / f"{behavior_policy_stem(behavior.name)}.csv").read_text(encoding="utf-8").splitlines()
    seconds = float(curve[-1].split(",")[curve[0].split(",").index("seconds")])
    return behavior.snapshots[-1].steps, seconds


def _command(behavior: BehaviorPolicy, folder: Path) -> str:
    steps, seconds = _speed(behavior, folder)
    return f"| {behavior.name} | {steps:,} | {seconds / 60:.0f} | {steps / seconds:.0f} | `{behavior.command}` |\n"


def _below(behavior: BehaviorPolicy, folder: Path) -> Iterator[str]:
    """One line where the last quality does not reach its goal, and no later behavior policy is there."""
    plan = plans().get(behavior.name)
    best = list(behavior.qualities)[-1]
    if plan is None or not (plan.like or plan.published):
        return
    if versioned_name(behavior.task, behavior.version + 1) in behavior_policy_names(folder):
        return
    entry = published()[plan.like or f"{plan.published}/{best}"]
    mean, _ = level(behavior, best)
    if entry.mean_return is None or mean >= plan.scale * entry.mean_return:
        return
    steps, seconds = _speed(behavior, folder)
    more = max(LONG, LONGER * plan.options["steps"])
    command = f"marlzoo data teach {behavior.name} --steps {more}"
    goal = plan.scale * entry.mean_return
    hours = more / steps * seconds / 3600
    yield (
        f"| {behavior.name} | {steps:,} | {_number(mean)} | {_number(goal)} | {entry.name} | {more:,} "
        f"| {hours:.1f} | `{command}` |\n"
    )


if __name__ == "__main__":
    write_text_atomic(Path(sys.argv[1]), document())
