"""Training as SLURM jobs: an array of which every element is a group. Needs submitit and a folder that nodes share.

A job that is preempted, or reaches its time limit, is requeued and resumes from its checkpoint. Rows go to the
job's own journal in the shared folder, as those of a process of this machine do. The command that submits follows
the jobs; it may be interrupted, and called again (without what would begin anew) to follow them further.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import sleep, time
from typing import Any

import submitit
from submitit.core.utils import FailedJobError, FailedSubmissionError

from marlzoo.errors import ConfigError, MarlzooError
from marlzoo.system.files import locked

from ..live import LatestEvaluation
from ..plan import Group
from ..progress import Display, WorkBar, WorkItem
from ..reuse import files
from ..split import Split, torch_threads
from ..status import ENDED, QUEUED, RUNNING, Listed, entry, list_groups, listed, note_jobs
from ..storage import Storage
from ..suites import Suite
from ..trainer import Trainer
from .place import Place, Work

CLUSTER = "slurm"  # of submitit; tests run the same jobs with its executor of this machine
POLL = 20.0  # seconds between two looks at the jobs
GRACE = 120.0  # seconds after which SLURM's accounting must know a job
MINUTES = 240
MOST_TIMEOUTS = 1000  # a group may reach the time limit as often as it needs
_AT_WORK = ("RUNNING", "COMPLETING")
_WAITING = ("PENDING", "REQUEUED", "PREEMPTED", "SUSPENDED", "CONFIGURING", "REQUEUE_HOLD", "RESIZING")
_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d\d))?(?::(\d\d))?")


@dataclass
class GroupJob:
    """What a job does; submitit calls it, and asks it what to submit where the job is requeued."""

    suite: Suite
    folder: Path
    device: str
    check_data: bool
    log: tuple[str, ...]
    group: Group
    threads: int
    storage: Storage | None = None
    cwd: str = field(default_factory=os.getcwd)  # paths of data may be relative

    def __call__(self) -> str:
        """Train the group; returns why it failed, or an empty text."""
        os.chdir(self.cwd)
        self._trainer = Trainer(self.suite, self.folder, self.device, self.check_data, self.log, self.storage)
        try:
            with torch_threads(self.threads):
                return self._trainer.attempt(self.group, _Printed())
        except MarlzooError as error:
            # The signal may come inside a simulator's step, whose guard takes any exit for its fault.
            if self._trainer.leaving:
                raise _exit_within(error) from error
            return f"{self.group.label}: {error}"

    def checkpoint(self) -> Any:
        """The same job again: its course is in the group's checkpoint."""
        self._trainer.leaving = True
        return submitit.helpers.DelayedSubmission(replace(self))


def _exit_within(error: BaseException) -> BaseException:
    """The exit of a preempted job that became an error on its way; the error itself if there was none."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, SystemExit):
        found = found.__context__
    return found or error


class _Printed:
    """Reports to the job's output."""

    def resumed(self, done: float) -> None:
        print("resumes from its checkpoint", flush=True)

    def advance(self, done: float, note: str = "") -> None:
        """Nothing: the file of metrics tells it."""

    def log(self, text: str) -> None:
        print(text, flush=True)

    def evaluated(self, found: LatestEvaluation) -> None:
        print(found.line, flush=True)


@dataclass
class _Followed:
    """A job whose group is waited for."""

    group: Group
    stage: WorkItem
    metrics: Path
    listed: Listed
    part: WorkBar | None = None


class Slurm:
    """Submits groups as jobs and follows them.

    Args:
        place: partition, time limit, GPUs of each job, and most jobs at a time.
        device: that groups train on.

    Raises:
        ConfigError: there is no SLURM here, or an option that it does not understand.
    """

    def __init__(self, place: Place, device: str) -> None:
        gpus = place.gpus_on(device)
        if gpus != int(gpus):
            raise ConfigError(f"--gpus {gpus:g}: SLURM gives whole GPUs; choose a whole number")
        self._place = place
        self._gpus = int(gpus)
        self._minutes = minutes(place.time)
        missing = [name for name in ("sbatch", "srun", "sacct") if shutil.which(name) is None]
        if CLUSTER == "slurm" and missing:
            raise ConfigError(
                f"--on slurm: there is no SLURM on this machine ({missing[0]} is not found); start the command on a "
                "login node of the cluster, or train with --on local"
            )

    def run(self, trainer: Trainer, work: Work, split: Split, display: Display) -> list[str]:
        """See :class:`marlzoo.benchmarks.launchers.Launcher`."""
        folder = trainer.folder.resolve()
        with locked(folder / "submission"):  # two commands at once submit a group once
            known = [group for group in listed(folder) if group.job]
            states = job_states(folder, known)
            alive = [group for group in known if states[group.job] != ENDED]
            new = [group for group, _ in work if self._is_new(group, folder, trainer.suite, alive)]
            list_groups(folder, trainer.suite, [group for group, _ in work])
            if new:
                self._submit(trainer, folder, new, split)
        jobs = {each.name: each for each in listed(folder)}
        followed = []
        for group, stage in work:
            _, metrics = files(group, folder, trainer.suite)
            followed.append(_Followed(group, stage, metrics, jobs[metrics.stem]))
        try:
            return _follow(folder, followed, display)
        except KeyboardInterrupt:
            ids = " ".join(sorted({each.listed.job.partition("_")[0] for each in followed}))
            display.log(
                "The jobs go on; the same command, without --force and --rerun, follows them again, "
                f"'scancel {ids}' ends them."
            )
            raise

    def _is_new(self, group: Group, folder: Path, suite: Suite, alive: Sequence[Listed]) -> bool:
        """Whether no job trains a group yet.

        Raises:
            ConfigError: jobs train some of its runs in other groups.
        """
        mine = entry(group, folder, suite)
        if any(other.name == mine.name for other in alive):
            return False
        for other in alive:
            if set(other.runs) & set(mine.runs):
                raise ConfigError(
                    f"{group.label}: the job {other.job} trains some of these runs in another group; wait for it, "
                    f"end it with 'scancel {other.job}', or give the options with which it was started"
                )
        return True

    def _submit(self, trainer: Trainer, folder: Path, new: Sequence[Group], split: Split) -> None:
        jobs = [
            GroupJob(
                trainer.suite,
                folder,
                trainer.device,
                trainer.check_data,
                trainer.log,
                group,
                split.threads,
                trainer.storage,
            )
            for group in new
        ]
        try:
            submitted = self._executor(trainer.suite, folder, len(jobs), split).submit_array(jobs)
        except (FailedSubmissionError, FailedJobError, OSError) as error:
            raise ConfigError(
                f"SLURM refused the jobs of suite {trainer.suite.name!r} ({_said(error)}); check --partition, "
                "--time, --gpus and --threads"
            ) from error
        names = [entry(group, folder, trainer.suite).name for group in new]
        note_jobs(folder, {name: job.job_id for name, job in zip(names, submitted, strict=True)}, time())
        _STARTED.update({job.job_id: job for job in submitted})

    def _executor(self, suite: Suite, folder: Path, jobs: int, split: Split) -> Any:
        executor = submitit.AutoExecutor(_logs(folder), cluster=CLUSTER, slurm_max_num_timeout=MOST_TIMEOUTS)
        executor.update_parameters(
            name=f"marlzoo-{suite.name}",
            timeout_min=self._minutes,
            cpus_per_task=max(split.threads, 1),
            gpus_per_node=self._gpus or None,
            slurm_partition=self._place.partition or None,
            slurm_array_parallelism=self._place.array or jobs,
            slurm_additional_parameters={"requeue": True},  # also where a node fails
        )
        return executor


_STARTED: dict[str, Any] = {}  # jobs that this process submitted


def minutes(text: str) -> int:
    """A time limit in minutes, rounded up.

    Args:
        text: minutes, ``HH:MM``, ``HH:MM:SS`` or with days before them, ``D-HH:MM:SS``; empty for the default.

    Raises:
        ConfigError: another text.
    """
    if not text:
        return MINUTES
    match = _TIME.fullmatch(text)
    if match is None or not re.search("[1-9]", text):
        raise ConfigError(f"--time {text!r}: write minutes, HH:MM:SS or D-HH:MM:SS")
    days, first, second, third = match.groups()
    if days is None and second is None:
        return int(first)
    seconds = 3600 * (24 * int(days or 0) + int(first)) + 60 * int(second or 0) + int(third or 0)
    return -(-seconds // 60)


def job_states(folder: Path, groups: Sequence[Listed]) -> dict[str, str]:
    """The states of a suite's jobs as SLURM tells them: queued, running, or over."""
    found = [(_job(folder, group.job), group.submitted) for group in groups if group.job]
    if CLUSTER == "slurm" and found:
        for job, _ in found:
            job.watcher.register_job(job.job_id)
        submitit.SlurmJob.watcher.update()  # one question for all
    return {job.job_id: _state(job, submitted) for job, submitted in found}


def _state(job: Any, submitted: float) -> str:
    if job.paths.result_pickle.exists():
        return ENDED
    info: Mapping[str, str] = job.get_info(mode="cache")
    if not info and time() - submitted < GRACE:
        return QUEUED
    word = info.get("State") or info.get("jobState") or ""
    if word in _AT_WORK:
        return RUNNING
    return QUEUED if word in _WAITING else ENDED


def _job(folder: Path, name: str) -> Any:
    if name in _STARTED:
        return _STARTED[name]
    kind = submitit.SlurmJob if CLUSTER == "slurm" else submitit.LocalJob
    return kind(_logs(folder), name)


def _logs(folder: Path) -> Path:
    """Folder of submitit's files and of the jobs' output."""
    return folder / "slurm"


def _follow(folder: Path, jobs: list[_Followed], display: Display) -> list[str]:
    """Show how jobs go on until all are over; returns why groups failed."""
    failures: list[str] = []
    while jobs:
        states = job_states(folder, [each.listed for each in jobs])
        for each in list(jobs):
            state = states[each.listed.job]
            if each.part is None and state != QUEUED:
                each.part = display.begin(each.stage)
            if state == RUNNING:
                _advance(each)
            elif state == ENDED:
                jobs.remove(each)
                why = _outcome(folder, each)
                failures += [why] if why else []
                if each.part is not None:
                    each.part.finish(failed=bool(why))
        if jobs:
            sleep(POLL)
    return failures


def _advance(followed: _Followed) -> None:
    """Show the last number of updates in the metrics file."""
    with contextlib.suppress(OSError, ValueError):
        with open(followed.metrics, "rb") as file:
            file.seek(-min(4096, followed.metrics.stat().st_size), os.SEEK_END)
            lines = file.read().decode().splitlines()
        done = int(lines[-1].partition(",")[0])
        group = followed.group
        if followed.part is not None:
            followed.part.advance(
                done * len(group.runs) * group.spec.n_agents, f"{done} of {group.updates} updates"
            )


def _outcome(folder: Path, followed: _Followed) -> str:
    """Why a finished job's group failed; empty if it did not."""
    job = _job(folder, followed.listed.job)
    label = followed.group.label
    if not job.paths.result_pickle.exists():
        state = job.get_info(mode="cache").get("State", "unknown to SLURM")
        return (
            f"{label}: the job {job.job_id} ended before the group was trained ({state}); its output: "
            f"{job.paths.stderr}"
        )
    kind, result = job._get_outcome_and_result()
    if kind == "success":
        return str(result)
    last = str(result).strip().splitlines()[-1:]
    return f"{label}: the job {job.job_id} failed ({' '.join(last)}); its output: {job.paths.stderr}"


def _said(error: Exception) -> str:
    """What sbatch printed, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join([line for line in lines if line.startswith("sbatch:")] or lines[-1:])
