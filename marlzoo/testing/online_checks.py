"""Checks that every online method passes; see :func:`marlzoo.testing.battery.battery`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import torch

from marlzoo.algorithm import Algorithm
from marlzoo.testing.cases import UPDATES, Case
from marlzoo.testing.states import assert_equal_state, assert_same_replica, assert_same_rows
from marlzoo.training import checkpoint
from marlzoo.training.online import online_settings, train_online


def online_lockstep_equals_single_runs(case: Case, folder: Path) -> None:
    """R = 2 equals two runs with R = 1, in experience and parameters, after 3 rounds."""
    seeds = (7, 1)
    rates = [1e-3, 5e-4]
    together = case.learner(seeds, lr=rates)
    case.updated(together, UPDATES)
    for row, seed in enumerate(seeds):
        alone = case.learner((seed,), lr=rates[row])
        case.updated(alone, UPDATES)
        assert_same_replica(together, row, alone, rtol=1e-6)


def online_nan_stays_in_its_replica(case: Case, folder: Path) -> None:
    """A replica whose parameters are NaN is marked as diverged and leaves its neighbors untouched."""
    mixed = case.learner((0, 1, 2))
    whole = case.learner((0, 1, 2))
    with torch.no_grad():
        for parameter in mixed.policy().parameters():
            parameter[1] = torch.nan
    steps = 2 * _per_round(mixed)
    curve = train_online(mixed, case.env(mixed), steps=steps, log_every=2)
    train_online(whole, case.env(whole), steps=steps, log_every=2)
    assert [point.diverged for point in curve] == [False, True, False]
    assert_same_rows(mixed, whole, [0, 2])


def online_resumes_exactly(case: Case, folder: Path) -> None:
    """Stopped after 5 of 6 rounds, the checkpoint being of round 4: bit for bit what a whole run gives."""
    whole = case.learner((0, 1), dtype=torch.float32)
    file = folder / "run.npz"
    steps = 6 * _per_round(whole)
    curve = train_online(whole, case.env(whole), steps=steps)

    def stop(done: int, total: int, points: object) -> None:
        if done == 5:
            raise InterruptedError

    first = case.learner((0, 1), dtype=torch.float32)
    with suppress(InterruptedError):
        train_online(first, case.env(first), steps=steps, checkpoint=file, on_progress=stop)
    resumed = case.learner((0, 1), dtype=torch.float32)
    rounds = list[int]()
    again = train_online(resumed, case.env(resumed), steps=steps, checkpoint=file, on_update=rounds.append)
    assert rounds == [5, 6]
    loaded = checkpoint.load_learner(file)
    assert_equal_state(whole, resumed)
    assert_equal_state(whole, loaded)
    assert [(p.updates, p.episodes, p.mean_return) for p in curve] == [
        (p.updates, p.episodes, p.mean_return) for p in again
    ]


def _per_round(algorithm: Algorithm) -> int:
    """Team steps per replica between two rounds of learning."""
    settings = online_settings(algorithm)
    return settings.num_envs * settings.rollout
