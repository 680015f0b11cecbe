"""The loop over vectorized environments: which episodes still run, their returns, and what is recorded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from marlzoo.envs.base import BatchedEnv, Ids, Observation, Step
from marlzoo.envs.guard import Guard


class Play:
    """Episodes of the copies of an environment, stepped together.

    Every copy plays one episode; one that has ended waits until :meth:`restart` begins its next. The arrays have
    an entry for each of the E copies of the environment.

    Args:
        env: seeded by the caller.
        copies: play in the first so many; default: in all.

    Attributes:
        seen: what the copies show.
        live: copies whose episode still runs, ascending.
        stepped: copies that took part in the last step.
        time: number of steps made.
        reward: ``[E]`` the last step's team rewards (mean over agents where each has its own).
        returns: ``[E]`` undiscounted team returns.
        lengths: ``[E]`` steps.
        terminal: ``[E]`` the task ended the episode.
        truncated: ``[E]`` the time limit ended it.
        won: ``[E]`` the episode was won.

    Raises:
        SpecError: from all methods: the environment is broken, see :class:`marlzoo.envs.guard.Guard`.
    """

    def __init__(self, env: BatchedEnv, copies: int | None = None) -> None:
        self.env = env
        self._guard = Guard(env)
        self.live = self.stepped = np.arange(env.num_envs if copies is None else copies)
        self.time = 0
        self.reward: NDArray[Any] = np.zeros(env.num_envs, np.float32)
        self.returns = np.zeros(env.num_envs)
        self.lengths = np.zeros(env.num_envs, np.int64)
        self.terminal, self.truncated, self.won = np.zeros((3, env.num_envs), np.bool_)
        self.seen: Observation = self._guard.reset(self.live if copies else None)

    def step(self, action: NDArray[Any]) -> Step:
        """Advance the live copies by one step.

        Args:
            action: ``[E, N, A]`` or ``[E, N]``, for all copies.
        """
        ids = self.stepped = self.live
        step = self.seen = self._guard.step(action, ids)
        self.time += 1
        self.reward = step.reward.mean(-1) if step.reward.ndim > 1 else step.reward
        self.returns[ids] += self.reward[ids]
        self.lengths[ids] += 1
        self.terminal[ids] = step.terminal[ids]
        self.truncated[ids] = step.truncated[ids]
        if self.env.can_win:
            self.won[ids] |= step.info["win"][ids]
        self.live = ids[~(step.terminal | step.truncated)[ids]]
        return step

    def restart(self, ids: Ids) -> None:
        """Begin new episodes in the copies ``ids``; all of an episode that went on there is void."""
        for account in (self.returns, self.lengths, self.terminal, self.truncated, self.won):
            account[ids] = 0
        self.seen = self._guard.reset(ids)
        self.live = np.union1d(self.live, ids)

    def give_up(self, ids: Ids) -> None:
        """Stop the copies ``ids``; returns of unfinished episodes become NaN."""
        if len(ids):
            self.returns[np.intersect1d(self.live, ids)] = np.nan
            self.live = np.setdiff1d(self.live, ids)


class Recording:
    """The arrays ``[E, T + 1, ...]`` of episodes while they are played, as :meth:`marlzoo.spec.Spec.layout` says.

    A copy's rows beyond its final observation are blank.

    Args:
        play: at its beginning; its E live copies are recorded, the first ones of the environment.
    """

    def __init__(self, play: Play) -> None:
        spec = play.env.spec
        rows = (len(play.live), play.env.spec.horizon + 1)
        self.play = play
        self.arrays = {name: array.new(*rows) for name, array in spec.layout().items()}
        self._padding = ~spec.own_actions  # [N, A]
        self._padded = not spec.discrete and bool(self._padding.any())
        self._see(play.live)

    def add(self, action: NDArray[Any], step: Step) -> None:
        """The step that was played last, and what it led to."""
        ids = self.play.stepped
        t = self.play.time - 1
        made = {
            "action": action,
            "reward": step.reward,
            "terminal": step.terminal,
            "truncated": step.truncated,
        }
        for name, values in made.items():
            self.arrays[name][ids, t] = values[ids]
        if self._padded:  # the environment does not read what a policy leaves there
            self.arrays["action"][:, t, self._padding] = 0
        self._see(ids)

    def _see(self, ids: Ids) -> None:
        seen = self.play.seen
        t = self.play.time
        self.arrays["obs"][ids, t] = seen.obs[ids]
        self.arrays["state"][ids, t] = seen.state[ids]
        if seen.action_mask is not None:
            self.arrays["action_mask"][ids, t] = seen.action_mask[ids]
