"""Train a task's behavior policy: train a team online, measure it along the way, keep the snapshots that data need.

    marlzoo data teach mamujoco/hopper-3x1

takes the options that the task's plan says (:mod:`marlzoo.teachers.plans`), which flags change; with ``--no-plan``
it takes the defaults. ``python -m marlzoo.recording.teach TASK ...`` is the same command with ``--no-plan``.

It may be interrupted: called again it resumes where it stopped. The same command, versions and kind of
processor give the same policies (the training uses one thread of torch; the simulator's number of threads does not
matter).
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.algorithm import Algorithm
from marlzoo.console import inform
from marlzoo.errors import ConfigError
from marlzoo.families import make_env, task_spec
from marlzoo.recording.collect import play, repeatable
from marlzoo.recording.teach_options import Options as Options
from marlzoo.registry import make
from marlzoo.replicas import derive
from marlzoo.system.array_files import load_arrays, save_arrays
from marlzoo.teachers.store import (
    BehaviorPolicy,
    Snapshot,
    behavior_policy_stem,
    mixed_return,
    save_behavior_policy,
    task_and_version,
)
from marlzoo.training.online import CurvePoint, curve_csv, online_settings, train_online
from marlzoo.training.progress import ProgressBar
from marlzoo.version import __version__

Arrays = dict[str, NDArray[np.float32]]


def make_behavior_policy(name: str, options: Options) -> Path:
    """Train a task's behavior policy and write its snapshots; returns the description's path.

    Args:
        name: full task name; ``mpe/spread@2`` makes the task's second behavior policy, beside the first.
        options: how it is made.

    Raises:
        UnknownNameError: unknown task or method.
        ConfigError: the training is too short for its snapshots, the method does not learn online, or both
            ``poor_return`` and ``replay_return`` are given.
        OutputError: a file cannot be written.
    """
    o = options
    _check_returns(o)
    task, version = task_and_version(name)
    learner = learner_of(task, o)
    run = run_folder(learner, name, o)
    curve = _train(learner, task, o, run)
    last = learner.updates  # a training that once stopped elsewhere has left other files
    found = sorted(int(path.stem) for path in run.glob("[0-9]*.npz"))
    done = [k for k in found if k == last or (k < last and k % o.every == 0)]
    policies = [load_arrays(run / f"{k:06d}.npz")[0] for k in done]
    tried = measure_policies(learner, task, policies, done, o.trial)
    kept, qualities = _chosen(tried, o)
    snapshots = measure_policies(
        learner, task, [policies[k] for k in kept], [done[k] for k in kept], o.episodes
    )
    behavior = BehaviorPolicy(
        task=task,
        method=o.method,
        config=learner.config.to_dict(),
        seed=o.seed,
        spec=learner.spec,
        snapshots=tuple(snapshots),
        qualities=qualities,
        command=o.command(name),
        version=version,
        versions=_versions(task),
        sha256="",
        arrays={key: np.stack([policies[k][key] for k in kept]) for key in policies[0]},
    )
    return save_behavior_policy(behavior, curve_csv(curve), o.out)


def learner_of(task: str, options: Options) -> Algorithm:
    """The untrained learner."""
    spec = task_spec(task)
    return make(options.method, spec, seeds=[options.seed], **options.changed())


def run_folder(learner: Algorithm, name: str, options: Options) -> Path:
    """Folder of the unfinished training: ``training.npz``, and a snapshot ``NNNNNN.npz`` every few updates."""
    o = options
    return (
        o.work
        / f"{behavior_policy_stem(name)}-{o.method}-s{o.seed}-{o.steps}-{o.every}-{learner.config.hash}"
    )


def _check_returns(options: Options) -> None:
    for name in ("poor_return", "medium_return", "replay_return"):
        wanted = getattr(options, name)
        if wanted is not None and not np.isfinite(wanted):
            raise ConfigError(f"data teach: {name} is {wanted}; it must be a finite number")
    if options.poor_return is not None and options.replay_return is not None:
        raise ConfigError(
            "data teach: --replay-return is of medium-replay, which --poor-return leaves out; leave out one of them "
            "(--no-plan, where it is the task's plan that sets it)"
        )


def _train(learner: Algorithm, task: str, options: Options, run: Path) -> list[CurvePoint]:
    settings = online_settings(learner)
    steps = options.steps
    every = options.every
    if every < 1:
        raise ConfigError(f"data teach: every is {every}; it must be a positive number of updates")
    least = 3 * every * settings.num_envs * settings.rollout
    if steps < least:
        raise ConfigError(
            f"data teach: {steps} steps leave no room for a snapshot between the first and the last one; train for "
            f"at least {least}, or take snapshots more often (every, now {every}, counts updates)"
        )
    env = make_env(task, learner.replicas * settings.num_envs)

    def keep(done: int) -> None:
        state = learner.policy().state_dict()
        save_arrays(run / f"{done:06d}.npz", {k: v.numpy()[0] for k, v in state.items()}, {})

    def keep_some(done: int) -> None:
        if done % every == 0:
            keep(done)

    def show(done: int, total: int, points: list[CurvePoint]) -> None:
        for point in points:
            if point.mean_return is not None:
                inform(
                    f"{task}: update {done}/{total}, {point.steps:,} steps, return {point.mean_return:.1f} "
                    f"± {point.std_return:.1f}, length {point.mean_length:.0f}, {point.seconds:.0f} s"
                )

    try:
        with repeatable():
            curve = train_online(
                learner,
                env,
                steps=steps,
                until=options.until,
                checkpoint=run / "training.npz",
                on_update=keep_some,
                on_progress=show,
            )
        keep(learner.updates)
        return curve
    finally:
        env.close()


def measure_policies(
    learner: Algorithm, task: str, policies: list[Arrays], done: list[int], episodes: int
) -> list[Snapshot]:
    """Play episodes with each policy, acting with exploration."""
    settings = online_settings(learner)
    policy = learner.policy()
    env = make_env(task, episodes)
    snapshots = []
    with closing(env), ProgressBar(f"measuring {task}", 0, len(done), "snapshots") as bar:
        for arrays, updates in zip(policies, done, strict=True):
            policy.load_state_dict({k: torch.from_numpy(array).unsqueeze(0) for k, array in arrays.items()})
            found = play(policy, env, derive(learner.seeds[0], "measure", updates))
            returns = np.array([episode.total for episode in found])
            snapshot = Snapshot(
                updates=updates,
                steps=updates * settings.num_envs * settings.rollout,
                episodes=episodes,
                mean_return=float(returns.mean()),
                std_return=float(returns.std()),
                mean_length=float(np.mean([episode.length for episode in found])),
                win_rate=float(np.mean([episode.won for episode in found])) if env.can_win else None,
            )
            snapshots.append(snapshot)
            bar(len(snapshots))
    return snapshots


def _chosen(tried: list[Snapshot], options: Options) -> tuple[list[int], dict[str, tuple[int, ...]]]:
    """Which snapshots are kept, and places among them of those that make each quality."""
    o = options
    medium = _nearest(tried, 1, len(tried) - 1, o.medium_return)
    final = len(tried) - 1
    if o.poor_return is not None:
        poor = _nearest(tried, 0, medium, o.poor_return)
        return [poor, medium, final], {"poor": (0,), "medium": (1,), "good": (2,)}
    replay = _ladder(_replay_end(tried, medium, o.stages, o.replay_return), o.stages)
    _tell_replay(mixed_return([tried[k] for k in replay])[0], replay[-1] in (medium, final), o)
    kept = sorted({*replay, medium, final})
    place = {snapshot: k for k, snapshot in enumerate(kept)}
    return kept, {
        "random": (0,),
        "medium": (place[medium],),
        "medium-replay": tuple(place[snapshot] for snapshot in replay),
        "medium-expert": (place[medium], place[final]),
        "expert": (place[final],),
    }


def _tell_replay(reached: float, at_an_end: bool, options: Options) -> None:
    """Say where no end of medium-replay has its wanted return; in between the nearest one is near."""
    wanted = options.replay_return
    if wanted is not None and at_an_end:
        inform(
            f"data teach: medium-replay has a mean return of {reached:.1f}, {wanted:.1f} were wanted: it ends "
            "between the medium and the last snapshot; --stages gives the first ones a smaller share"
        )


def _nearest(tried: list[Snapshot], low: int, high: int, wanted: float | None) -> int:
    """The snapshot of low..high - 1 whose mean return is nearest to the wanted one (None: halfway to the end)."""
    returns = np.array([snapshot.mean_return for snapshot in tried])
    goal = float(returns[0] + returns[-1]) / 2 if wanted is None else wanted
    return low + int(np.abs(returns[low:high] - goal).argmin())


def _replay_end(tried: list[Snapshot], medium: int, stages: int, wanted: float | None) -> int:
    """The snapshot up to which medium-replay goes: its data's mean return is nearest to the wanted one.

    At least the medium one, which it is where no return is wanted.
    """
    if wanted is None:
        return medium
    mixed = [mixed_return([tried[k] for k in _ladder(end, stages)])[0] for end in range(medium, len(tried))]
    return medium + int(np.abs(np.array(mixed) - wanted).argmin())


def _ladder(end: int, stages: int) -> list[int]:
    """Up to ``stages`` different snapshot numbers, evenly spread over 0..end, both included."""
    return sorted({int(k) for k in np.linspace(0, end, stages).round()})


def _versions(task: str) -> dict[str, str]:
    env = make_env(task, 1)
    engine = {k: str(v) for k, v in env.metadata.items() if k.startswith("engine") or k == "gymnasium"}
    env.close()
    packages = {"marlzoo": __version__, "torch": str(torch.__version__), "numpy": np.__version__}
    return {"python": sys.version.split()[0], **packages, **engine}


if __name__ == "__main__":  # the command that older behavior policies name
    sys.exit(subprocess.call([sys.executable, "-m", "marlzoo", "data", "teach", *sys.argv[1:], "--no-plan"]))
