"""Which groups of a suite are queued, running, done or failed: ``marlzoo bench SUITE --status``.

Every command that trains a suite lists its groups in ``groups.json`` beside the rows; SLURM's jobs stand there too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from marlzoo.errors import DataError
from marlzoo.system.checksums import CHECKSUM, checksum
from marlzoo.system.files import locked, write_text_atomic

from .plan import Group
from .results import ResultsFile, Row
from .reuse import files
from .sheet import Sheet
from .suites import Suite

GROUPS = "groups.json"
QUEUED = "queued"
RUNNING = "running"
DONE = "done"
FAILED = "failed"
UNFINISHED = "unfinished"
ENDED = ""  # state of a job that is over, or that nobody knows any more


@dataclass(frozen=True)
class Listed:
    """A group as ``groups.json`` has it.

    Attributes:
        name: of its checkpoint, without the suffix.
        label: for people.
        runs: their short names.
        updates: that it is trained for.
        job: of SLURM that trains it; empty: none.
        submitted: when the job was, in seconds of the system's clock.
    """

    name: str
    label: str
    runs: tuple[str, ...]
    updates: int
    job: str = ""
    submitted: float = 0.0


@dataclass(frozen=True)
class GroupStatus:
    """How a group stands.

    Attributes:
        group: what is trained.
        runs: how many replicas.
        state: ``queued``, ``running``, ``done``, ``failed``, or ``unfinished`` where no job of SLURM trains it.
        updates: the last of which every run has a row.
        of: updates in all.
        job: of SLURM.
        error: why it failed.
    """

    group: str
    runs: int
    state: str
    updates: int
    of: int
    job: str = ""
    error: str = ""


def listed(folder: Path) -> list[Listed]:
    """The groups of a suite's folder; empty where no command listed any.

    Raises:
        DataError: the list is broken.
    """
    path = folder / GROUPS
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(entries, list):
            raise ValueError("it is not a list")
        return [_checked(entry) for entry in entries]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: no list of groups ({error}); delete it, the next run writes it") from error


def _checked(entry: dict[str, Any]) -> Listed:
    """A group as it was read; files of older versions have no checksums.

    Raises:
        ValueError: its checksum is not that of the rest.
    """
    given = entry.pop(CHECKSUM, None)
    if given is not None and given != _checksum(entry):
        raise ValueError(f"damaged, the checksum of {entry.get('label')!r} is not that of the rest")
    return Listed(**{**entry, "runs": tuple(entry["runs"])})


def _checksum(entry: Mapping[str, Any]) -> str:
    return checksum([json.dumps(entry, sort_keys=True)])


JobStates = Callable[[Path, Sequence[Listed]], Mapping[str, str]]
"""From a suite's folder and groups with jobs to the jobs' states: queued, running, or :data:`ENDED`."""


def list_groups(folder: Path, suite: Suite, groups: Iterable[Group]) -> None:
    """Add groups to the list, replacing earlier ones that share runs; a group listed before keeps its jobs.

    Raises:
        DataError: the list is broken.
        OutputError: it cannot be written.
    """
    new = [entry(group, folder, suite) for group in groups]
    with locked(folder / GROUPS):
        before = {known.name: known for known in listed(folder)}
        runs = {run for made in new for run in made.runs}
        kept = [known for known in before.values() if not runs & set(known.runs)]
        _write(folder, [*kept, *(before.get(made.name, made) for made in new)])


def note_jobs(folder: Path, jobs: Mapping[str, str], submitted: float) -> None:
    """Remember the jobs of groups, by their names.

    Raises:
        OutputError: it cannot be written.
    """
    with locked(folder / GROUPS):
        known = listed(folder)
        _write(
            folder,
            [replace(g, job=jobs[g.name], submitted=submitted) if g.name in jobs else g for g in known],
        )


def entry(group: Group, folder: Path, suite: Suite) -> Listed:
    """A group as it is listed."""
    checkpoint, _ = files(group, folder, suite)
    return Listed(checkpoint.stem, group.label, tuple(run.name(suite) for run in group.runs), group.updates)


def _write(folder: Path, groups: Iterable[Listed]) -> None:
    lines = [asdict(group) for group in groups]
    text = ",\n".join(json.dumps({**line, CHECKSUM: _checksum(line)}) for line in lines)
    write_text_atomic(folder / GROUPS, f"[\n{text}\n]\n")


def status(folder: Path, job_states: JobStates) -> list[GroupStatus]:
    """How the groups of a suite's folder stand, after its rows and the scheduler.

    Raises:
        DataError: no command has trained the suite there; or the list or the rows are broken.
    """
    groups = listed(folder)
    if not groups:
        raise DataError(f"{folder}: no groups are listed there; run the suite first, or name its --out")
    states = job_states(folder, [group for group in groups if group.job])
    rows: dict[str, list[Row]] = {}
    for row in ResultsFile(folder / "rows.csv").rows():
        rows.setdefault(row.run, []).append(row)
    return [
        _status(group, [rows.get(run, []) for run in group.runs], states.get(group.job, ENDED))
        for group in groups
    ]


def _status(group: Listed, rows: Sequence[Sequence[Row]], job: str) -> GroupStatus:
    """How one group stands, given the rows of each of its runs and the state of its job."""
    reached = min(max((row.updates for row in mine if not row.error), default=0) for mine in rows)
    errors = [row.error for mine in rows for row in mine if row.error]
    state = job or (FAILED if errors else UNFINISHED)
    if reached >= group.updates:
        state = DONE
    why = errors[-1] if errors and state == FAILED else ""
    return GroupStatus(group.label, len(group.runs), state, reached, group.updates, group.job, why)


def sheet(name: str, found: Sequence[GroupStatus]) -> Sheet:
    """The status as a table."""
    header = ["group", "runs", "state", "updates", "job"]
    body = [[g.group, str(g.runs), g.state, f"{g.updates} of {g.of}", g.job or "–"] for g in found]
    states = [group.state for group in found]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    notes = [f"{counts}.", *(f"{group.group}: {group.error}" for group in found if group.error)]
    return Sheet(f"Suite {name}", header, body, notes=notes)
