"""The generated parts of README.md, between ``<!-- NAME: generated -->`` and ``<!-- end of NAME -->``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from marlzoo.benchmarks import tables
from marlzoo.benchmarks.suites import FOLDER, find_suite

from marlzoo.data.catalog import published
from marlzoo.families import family_tasks, task_families, task_spec
from marlzoo.spec import Spec
from marlzoo.task import TaskName
from marlzoo.teachers.offers import collectable_qualities

from .methods import methods
from .published import overall
from .text import code, table

SUITE = "xor"  # the suite that the README shows
RESULTS = "games"  # the suite that it is a part of, whose rows are committed
FAMILIES = {
    "games": "coordination games with known best returns",
    "mpe": "particle world, OMAR's flavor",
    "mamujoco": "Gym's `-v2` robots divided among agents, OMIGA's flavor",
    "moma": "MOMA-PPO's teams on the same robots, and Reacher",
    "gmamujoco": "gymnasium-robotics' teams on Gymnasium's `-v5` robots, OG-MARL's modern sets",
    "smax": "StarCraft-like battles in JAX (extra `smax`)",
    "rware": "robots in a warehouse (extra `rware`), AlberDICE's sets",
    "lbf": "level-based foraging (extra `lbforaging`)",
    "smac": "StarCraft II, for those who have the game",
}


def parts(root: Path) -> dict[str, str]:
    """Texts by name.

    Args:
        root: of the repository.
    """
    return {
        "methods": methods_table(),
        "tasks": tasks_table(),
        "suite": f"```toml\n{(FOLDER / f'{SUITE}.toml').read_text(encoding='utf-8')}```",
        "results": results_table(root),
        "overall": overall(root),
    }


def rows(root: Path) -> pd.DataFrame:
    """The committed rows of the suite's learners and datasets."""
    suite = find_suite(SUITE)
    found = tables.read([root / "results" / RESULTS])
    methods = {learner.method for learner in suite.learners}
    data = {(data.task, data.quality) for data in suite.data}
    kept = [
        method in methods and (task, quality) in data
        for method, task, quality in zip(found["method"], found["task"], found["quality"], strict=True)
    ]
    return found[kept].reset_index(drop=True)


def results_table(root: Path) -> str:
    """The comparison that the rows give, with its notes."""
    sheet, *_ = tables.sheets(rows(root), SUITE, f"marlzoo bench {RESULTS}")
    return tables.markdown(sheet).partition("\n")[2].strip()


def fill(text: str, texts: dict[str, str], page: str = "README.md") -> str:
    """``text`` with every named part replaced.

    Raises:
        ValueError: the marks of a part are missing.
    """
    for name, part in texts.items():
        begin, end = f"<!-- {name}: generated -->\n", f"<!-- end of {name} -->"
        before, mark, rest = text.partition(begin)
        _, closing, after = rest.partition(end)
        if not mark or not closing:
            raise ValueError(f"{page}: put back the marks {begin.strip()!r} and {end!r}")
        text = f"{before}{begin}{part.strip()}\n{end}{after}"
    return text


def methods_table() -> str:
    """All methods, offline ones first."""
    known = sorted(methods(), key=lambda method: (method.source.online, method.name))
    rows = [
        [
            f"[{code(method.name)}]({method.file})",
            method.title,
            method.paper,
            " ".join(kind[:4] + "." for kind in method.source.actions),
            method.source.execution,
            method.data,
        ]
        for method in known
    ]
    return table(["name and file", "method", "paper", "actions", "execution", "learns"], rows)


def tasks_table() -> str:
    """One line per family of tasks."""
    rows = []
    for family in task_families():
        tasks = family_tasks(family)
        rows.append(
            [
                code(family),
                FAMILIES[family],
                str(len(tasks)),
                _agents([task_spec(task) for task in tasks]),
                _recipes(tasks),
                str(sum(TaskName.parse(name).family == family for name in published()) or ""),
            ]
        )
    alone = Counter(
        family for name in published() if (family := TaskName.parse(name).family) not in task_families()
    )
    rows += [
        [code(family), "data without a simulator here", "", "", "", str(count)]
        for family, count in sorted(alone.items())
    ]
    return table(
        ["family", "what", "tasks", "agents", "tasks with shipped policies", "published datasets"], rows
    )


def _agents(specs: Sequence[Spec]) -> str:
    counts = [spec.n_agents for spec in specs]
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def _recipes(tasks: Sequence[str]) -> str:
    """How many tasks have behavior policies beside the random one."""
    taught = sum(len(collectable_qualities(task)) > 1 for task in tasks)
    return str(taught or "")
