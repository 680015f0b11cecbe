"""Recording whole episodes of policies that act with exploration."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from marlzoo.data.card import Card
from marlzoo.data.dataset import Dataset
from marlzoo.data.episodes import Episodes
from marlzoo.envs.base import BatchedEnv
from marlzoo.envs.episodes import Play, Recording
from marlzoo.modules.layers import reproducible_matmul
from marlzoo.modules.policies import Policy
from marlzoo.replicas import ReplicaRandom, derive
from marlzoo.spec import Spec

NUM_ENVS = 64  # episodes played side by side at most; fixed, because the data depend on it


@dataclass(frozen=True)
class RecordedEpisode:
    """L steps of one copy: a dataset's arrays with L + 1 rows, the last of which carries only the final observation.

    ``won`` says whether it ended by a win; like both flags it is False where the recording was cut.
    """

    arrays: dict[str, NDArray[Any]]
    won: bool = False

    @property
    def terminal(self) -> bool:
        """Whether the task ended it."""
        return bool(self.arrays["terminal"].any())

    @property
    def truncated(self) -> bool:
        """Whether the time limit ended it."""
        return bool(self.arrays["truncated"].any())

    @property
    def length(self) -> int:
        """Steps L."""
        return len(self.arrays["reward"]) - 1

    @property
    def total(self) -> float:
        """Undiscounted return (mean over agents where each has its reward)."""
        reward = self.arrays["reward"].astype(np.float64)
        return float(reward.mean(-1).sum() if reward.ndim == 2 else reward.sum())

    def cut(self, length: int) -> RecordedEpisode:
        """The first ``length`` steps; what comes after is left out, so the end is neither kind of end."""
        if length >= self.length:
            return self
        arrays = {name: array[: length + 1].copy() for name, array in self.arrays.items()}
        for name in ("action", "reward", "terminal", "truncated"):
            arrays[name][-1] = 0
        return RecordedEpisode(arrays)


def record(
    policy: Policy,
    env: BatchedEnv,
    transitions: int,
    seed: int,
    progress: Callable[[int], None] | None = None,
) -> list[RecordedEpisode]:
    """Record exactly ``transitions`` steps of one policy acting with exploration.

    The copies play one episode each, wave after wave, so that short episodes are not preferred to long ones;
    episodes are kept in the order of wave and copy until there are enough steps, and the last one is cut. A wave
    plays no more copies than are likely to be needed, judged by the episodes so far. Every copy has a random
    stream of its own, and every wave its own stream of exploration noise.

    Args:
        policy: one replica, float32 on the CPU.
        env: its copies.
        transitions: number of steps.
        seed: of all streams.
        progress: called with the number of steps kept so far, as they are recorded.
    """
    env.seed([derive(seed, "start", copy) for copy in range(env.num_envs)])
    kept: list[RecordedEpisode] = []
    missing = transitions
    wave = 0
    length = float(env.spec.horizon)

    def report(steps: int) -> None:
        if progress is not None:
            progress(min(transitions - missing + steps, transitions))

    with repeatable():
        while missing > 0:
            num_envs = min(env.num_envs, math.ceil(missing / length) + (wave > 0))
            random = ReplicaRandom([derive(seed, "wave", wave)], "explore")
            for episode in _wave(policy, env, random, num_envs, missing, report):
                if missing > 0:
                    kept.append(episode.cut(missing))
                    missing -= kept[-1].length
            wave += 1
            length = (transitions - missing) / len(kept)
    return kept


def play(policy: Policy, env: BatchedEnv, seed: int) -> list[RecordedEpisode]:
    """One whole episode of every copy, for measuring a policy the way it records."""
    env.seed([derive(seed, "start", copy) for copy in range(env.num_envs)])
    with repeatable():
        return _wave(
            policy, env, ReplicaRandom([derive(seed, "wave", 0)], "explore"), env.num_envs, sys.maxsize
        )


def dataset_of(spec: Spec, episodes: Sequence[RecordedEpisode], card: Card) -> Dataset:
    """Episodes, one after another, as a dataset."""
    arrays: dict[str, Any] = {
        name: np.concatenate([e.arrays[name] for e in episodes]) for name in episodes[0].arrays
    }
    starts = Episodes.from_lengths(np.array([episode.length for episode in episodes])).starts
    return Dataset.create(spec, **arrays, starts=starts, card=card)


@torch.no_grad()
def _wave(
    policy: Policy,
    env: BatchedEnv,
    random: ReplicaRandom,
    num_envs: int,
    needed: int,
    report: Callable[[int], None] = lambda _: None,
) -> list[RecordedEpisode]:
    """One episode of each of the first ``num_envs`` copies; stops early where ``needed`` steps are there.

    They are there when, in the order of the copies, finished episodes and the first unfinished one suffice.
    """
    play = Play(env, num_envs)
    recording = Recording(play)
    action = env.spec.layout()["action"].new(env.num_envs)
    policy.reset(num_envs)
    lengths = play.lengths[:num_envs]
    while play.live.size and lengths[: play.live[0] + 1].sum() < needed:
        seen = play.seen
        action_mask = (
            None if seen.action_mask is None else torch.from_numpy(seen.action_mask[:num_envs]).unsqueeze(0)
        )
        obs = torch.from_numpy(seen.obs[:num_envs]).unsqueeze(0)
        action[:num_envs] = policy.act(obs, action_mask, random)[0].numpy()
        recording.add(action, play.step(action))
        if play.time % 50 == 0 or not play.live.size:
            report(int(lengths.sum()))
    return [
        RecordedEpisode(
            {name: array[e, : lengths[e] + 1] for name, array in recording.arrays.items()}, bool(play.won[e])
        )
        for e in range(num_envs)
    ]


@contextlib.contextmanager
def repeatable() -> Iterator[None]:
    """One thread and the plain products: products that are split or made otherwise may round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with reproducible_matmul():
            yield
    finally:
        torch.set_num_threads(before)
