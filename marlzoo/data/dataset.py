"""The canonical dataset: flat arrays of episodes, one float32 copy, numpy only."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from marlzoo.console import counted
from marlzoo.data import validation
from marlzoo.data.arrays import feed, mapping, same_numbers
from marlzoo.data.assemble import Rows, rows_of_episodes, rows_of_steps, spec_of
from marlzoo.data.card import Card
from marlzoo.data.episodes import Bools, Episode, Episodes, Floats, Ints
from marlzoo.errors import DataError
from marlzoo.spec import Spec


@dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Recorded episodes of one task, one after another in time-major arrays of T rows.

    An episode of L steps has L + 1 rows and its last row carries only the final observation (action and
    reward there are zeros), so the next observation is always the row below. ``terminal[t]`` and
    ``truncated[t]`` belong to the step taken from row t: they are set on an episode's last step (the row
    before its final one), or on none where the recording was cut, which still bootstraps.

    Build one with :meth:`create`, which shares memory between state and observations, fills in the card and
    checks everything.

    Args:
        spec: the task's shape.
        obs: observations ``[T, N, O]`` float32.
        state: global states ``[T, S]`` float32; a view of ``obs`` where both hold the same numbers.
        action: ``[T, N, A]`` float32 in [-1, 1], or ``[T, N]`` int64.
        reward: ``[T]`` float32, or ``[T, N]`` where the spec says one per agent.
        terminal: ``[T]``, the task ended with this step.
        truncated: ``[T]``, the time limit ended the episode with this step.
        starts: first row of each episode ``[E]``, the first of them 0.
        action_mask: legal actions ``[T, N, A]`` of discrete tasks, or None.
        card: origin and statistics.
    """

    spec: Spec
    obs: Floats
    state: Floats
    action: NDArray[Any]
    reward: Floats
    terminal: Bools
    truncated: Bools
    starts: Ints
    action_mask: Bools | None = None
    card: Card = field(default_factory=Card)

    @classmethod
    def create(
        cls,
        spec: Spec,
        *,
        obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        terminal: NDArray[Any],
        truncated: NDArray[Any],
        starts: NDArray[Any] | Sequence[int],
        state: NDArray[Any] | None = None,
        action_mask: NDArray[Any] | None = None,
        card: Card | None = None,
        action_clip: bool = True,
        verify: bool = False,
    ) -> Dataset:
        """Bring arrays into canonical form, check them, and complete the card's statistics.

        Arrays of the right type are used without a copy, others are converted. ``state`` may be left out
        where it equals the observations, ``[T, N * O]``. Action and reward of final rows become zeros.
        ``action_clip`` is that of :meth:`validate`; ``verify`` first compares the content with the hash that
        the card states, if it states one.

        Raises:
            DataError: see :meth:`validate`; or the content is not what the card says.
        """
        obs = np.ascontiguousarray(obs, dtype=np.float32)
        if state is None or same_numbers(state, obs):
            state = obs.reshape(len(obs), int(np.prod(obs.shape[1:])))
        if spec.discrete and np.asarray(action).dtype.kind not in "iu":
            raise DataError(f"discrete actions must be integers, not {np.asarray(action).dtype}")
        if card is not None and card.task and not spec.task:
            spec = replace(spec, task=card.task)
        if action_mask is not None and not spec.discrete:
            raise DataError("action_mask is given, but the task's actions are continuous; leave it out")
        given = {
            "obs": obs,
            "state": state,
            "action": action,
            "reward": reward,
            "terminal": terminal,
            "truncated": truncated,
            "action_mask": action_mask,
        }
        canonical: dict[str, Any] = {
            name: np.ascontiguousarray(given[name], dtype=layout.dtype)
            for name, layout in spec.layout().items()
            if given[name] is not None
        }
        dataset = cls(spec=spec, **canonical, starts=np.asarray(starts, dtype=np.int64), card=card or Card())
        validation.check_structure(spec, dataset.arrays, dataset.spans)
        dataset = dataset._clear_final_rows()
        if verify and dataset.card.content_hash:
            dataset._compare_with_card()
        dataset = dataset.validate(action_clip=action_clip)
        return dataset.with_card(dataset.card)

    @classmethod
    def from_steps(
        cls,
        obs: ArrayLike,
        action: ArrayLike,
        reward: ArrayLike,
        terminal: ArrayLike,
        timeout: ArrayLike | None = None,
        next_obs: ArrayLike | None = None,
        *,
        state: ArrayLike | None = None,
        next_state: ArrayLike | None = None,
        action_mask: ArrayLike | None = None,
        next_action_mask: ArrayLike | None = None,
        spec: Spec | None = None,
        task: str = "",
        n_actions: int | None = None,
        horizon: int | None = None,
        source: str = "own",
        quality: str = "",
    ) -> Dataset:
        """A dataset from M flat steps in the order in which they were made, one episode after another.

        Without ``next_obs`` the last step of an episode that did not end in a terminal state is left out, since what
        it led to is not known; the card says how many.

        Args:
            obs: ``[M, N, O]``, of N agents; agents that see less are padded with zeros.
            action: ``[M, N, A]`` floats in [-1, 1], or ``[M, N]`` integers (discrete).
            reward: ``[M]`` or ``[M, 1]`` of the team, or ``[M, N]`` per agent.
            terminal: ``[M]``, the task ended with this step.
            timeout: ``[M]``, the time limit ended the episode with this step (where ``terminal`` is set too, that
                counts); default: it never did.
            next_obs: ``[M, N, O]``, what each step led to.
            state: ``[M, S]``; default: all observations end to end.
            next_state: ``[M, S]``; needed where both ``state`` and ``next_obs`` are given.
            action_mask: ``[M, N, A]``, legal actions; default: all are legal.
            next_action_mask: ``[M, N, A]``; default: all are legal in final observations.
            spec: the task's shape, where the arrays do not show it (agents of different sizes, a longer time limit).
                Default: that of ``task`` where it is known here and the arrays have its shapes, else what they show.
            task: full task name; default: the spec's.
            n_actions: number of discrete actions, where the largest is never taken.
            horizon: time limit in steps; default: the longest episode.
            source: who recorded the data.
            quality: for instance ``expert``.

        Raises:
            DataError: arrays that do not belong together (named, with the first wrong step).
        """
        rows = rows_of_steps(
            obs, action, reward, terminal, timeout, next_obs, state=state, next_state=next_state,
            action_mask=action_mask, next_action_mask=next_action_mask,
        )  # fmt: skip
        spec = spec_of(rows.arrays, spec, task=task, n_actions=n_actions, horizon=horizon)
        return cls._of_rows(rows, spec, Card(task=task or spec.task, source=source, quality=quality))

    @classmethod
    def from_episodes(
        cls,
        episodes: Iterable[Mapping[str, Any]],
        *,
        spec: Spec | None = None,
        task: str = "",
        n_actions: int | None = None,
        horizon: int | None = None,
        source: str = "own",
        quality: str = "",
    ) -> Dataset:
        """A dataset from a list of episodes.

        Args:
            episodes: of L steps each: ``obs [L + 1, N, O]`` (the last one after the last action),
                ``action [L, N, A]`` or ``[L, N]`` integers, ``reward [L]`` or ``[L, N]``; optional ``terminal`` and
                ``truncated`` (one flag each; neither: the recording was cut; both: terminal counts),
                ``state [L + 1, S]``, ``action_mask [L + 1, N, A]``.
            spec: see :meth:`from_steps`, as for the other arguments.
            task: full task name; default: the spec's.
            n_actions: number of discrete actions, where the largest is never taken.
            horizon: time limit in steps; default: the longest episode.
            source: who recorded the data.
            quality: for instance ``expert``.

        Raises:
            DataError: an episode that is not of this form (named by its number).
        """
        rows = rows_of_episodes(episodes)
        spec = spec_of(rows.arrays, spec, task=task, n_actions=n_actions, horizon=horizon)
        return cls._of_rows(rows, spec, Card(task=task or spec.task, source=source, quality=quality))

    @classmethod
    def _of_rows(cls, rows: Rows, spec: Spec, card: Card) -> Dataset:
        arrays: dict[str, Any] = dict(rows.arrays)
        mask = arrays.get("action_mask")
        own = spec.own_actions
        if spec.discrete and mask is None:
            arrays["action_mask"] = np.broadcast_to(own, (len(arrays["obs"]), *own.shape)).copy()
        elif rows.last_masks_filled and mask is not None and mask.shape[1:] == own.shape:
            mask[Episodes(arrays["starts"], len(mask)).ends] = own
        if spec.reward_per_agent and spec.n_agents == 1 and arrays["reward"].ndim == 1:
            arrays["reward"] = arrays["reward"][:, None]
        with validation.places(rows.place):
            notes = *card.notes, *rows.notes
            return cls.create(spec, **arrays, card=replace(card, notes=notes, bounds_known=rows.bounds_known))

    def __len__(self) -> int:
        """Number of episodes, over which iteration goes."""
        return self.episodes

    def __iter__(self) -> Iterator[Episode]:
        """The episodes in order, as views of the arrays."""
        for start, end in zip(self.starts, self.ends, strict=True):
            rows = slice(start, end + 1)
            yield Episode(
                obs=self.obs[rows],
                state=self.state[rows],
                action=self.action[start:end],
                reward=self.reward[start:end],
                terminal=bool(self.terminal[end - 1]),
                truncated=bool(self.truncated[end - 1]),
                action_mask=None if self.action_mask is None else self.action_mask[rows],
            )

    def __repr__(self) -> str:
        returns = f"return {self.card.mean_return:.1f} ± {self.card.std_return:.1f}"
        shape = f"{counted(self.spec.n_agents, 'agent')}, {self.spec.action_kind} actions"
        size = f"{counted(self.episodes, 'episode')}, {counted(self.transitions, 'transition')}"
        name = f"{self.card.title}: " if self.card.task else ""
        return f"Dataset({name}{size}, {shape}, {returns})"

    def _compare_with_card(self) -> None:
        """Raise DataError if hash or statistics differ from those of the card."""
        if self.card.content_hash != self.content_hash:
            validation.check_finite(self.own_arrays)  # a number that is not finite is named with its row
            raise DataError(
                "its content is not what its card says (the file was changed or damaged after it was "
                "written); make or fetch it again"
            )
        wrong = self.card.differences(self.with_card(self.card).card)
        if wrong:
            raise DataError(
                f"its card states other statistics than its content has ({'; '.join(wrong)}): it was changed or "
                "damaged after it was written; make or fetch it again"
            )

    def _clear_final_rows(self) -> Dataset:
        """Zeros in place of the action and reward of rows without a step: what a source put there is void."""
        action = self.action
        reward = self.reward
        if not action[self.ends].any() and not reward[self.ends].any():
            return self
        action = action.copy()
        reward = reward.copy()
        action[self.ends] = 0
        reward[self.ends] = 0
        return replace(self, action=action, reward=reward)

    # ---- size and structure ------------------------------------------------------------------------------

    @property
    def rows(self) -> int:
        """Number of rows T, final observations included."""
        return len(self.obs)

    @property
    def episodes(self) -> int:
        """Number of episodes E."""
        return len(self.starts)

    @property
    def transitions(self) -> int:
        """Number of transitions M = T - E."""
        return self.rows - self.episodes

    @cached_property
    def spans(self) -> Episodes:
        """First and last rows of the episodes."""
        return Episodes(self.starts, self.rows)

    @property
    def ends(self) -> Ints:
        """Each episode's final row ``[E]``, the one without a step."""
        return self.spans.ends

    @property
    def lengths(self) -> Ints:
        """Steps of each episode ``[E]``."""
        return self.spans.lengths

    @cached_property
    def returns(self) -> NDArray[np.float64]:
        """Undiscounted return of each episode ``[E]``; per-agent rewards are averaged over agents."""
        team = self.reward.astype(np.float64)
        team = team.mean(axis=1) if team.ndim == 2 else team
        team[self.ends] = 0.0
        return np.add.reduceat(team, self.starts)

    @property
    def sources(self) -> Ints:
        """Rows that are transitions ``[M]``: all but each episode's final row."""
        return self.spans.step_rows

    @property
    def state_is_obs(self) -> bool:
        """Whether the state is a view of the observations."""
        return self.state.size == self.obs.size and bool(
            self.state.__array_interface__["data"][0] == self.obs.__array_interface__["data"][0]
        )

    @property
    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays ``[T, ...]`` that are there, by name, as :meth:`marlzoo.spec.Spec.layout` lists them."""
        found = {name: getattr(self, name) for name in self.spec.layout()}
        return {name: array for name, array in found.items() if array is not None}

    @property
    def own_arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays that own their memory: all, except a state that is a view of the observations."""
        return {k: v for k, v in self.arrays.items() if not (k == "state" and self.state_is_obs)}

    @property
    def mapped(self) -> bool:
        """Whether the observations are a file's pages, brought into memory when they are used."""
        return mapping(self.obs) is not None

    # ---- identity ----------------------------------------------------------------------------------------

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the spec and the canonical arrays; the same for every file layout and compression."""
        digest = hashlib.sha256(json.dumps(self.spec.to_dict(), sort_keys=True).encode())
        shared = self.state_is_obs or same_numbers(self.state, self.obs)
        arrays: dict[str, NDArray[Any] | None] = {
            "obs": self.obs,
            "state": None if shared else self.state,
            "action": self.action,
            "legal": self.action_mask,  # the name in the hash stays, so that hashes of older files stay valid
            "reward": self.reward,
            "terminal": self.terminal,
            "truncated": self.truncated,
            "starts": self.starts,
        }
        for name, array in arrays.items():
            feed(digest, name, array)
        return digest.hexdigest()

    def with_card(self, card: Card) -> Dataset:
        """This dataset with another card, whose statistics are brought up to date."""
        returns = self.returns
        complete = replace(
            card,
            transitions=self.transitions,
            episodes=self.episodes,
            mean_return=float(returns.mean()),
            std_return=float(returns.std()),
            min_return=float(returns.min()),
            max_return=float(returns.max()),
            mean_length=float(self.lengths.mean()),
        )
        return self._replace(card=complete)

    def with_notes(self, *notes: str) -> Dataset:
        """This dataset with further notes in its card."""
        return self.with_card(replace(self.card, notes=(*self.card.notes, *notes)))

    def with_hash(self, content_hash: str) -> Dataset:
        """This dataset with its content hash known from an earlier reading."""
        other = replace(self)
        other.__dict__["content_hash"] = content_hash  # where cached_property keeps its value
        return other

    def _replace(self, **changes: Any) -> Dataset:
        """A copy with some fields changed; keeps the hash where no number changes."""
        other = replace(self, **changes)
        if "content_hash" in self.__dict__ and set(changes) <= {"card"}:
            return other.with_hash(self.content_hash)
        return other

    def episodes_subset(self, episodes: Sequence[int] | NDArray[np.integer[Any]]) -> Dataset:
        """A new dataset (copied rows) of the episodes with these numbers, in this order.

        Raises:
            DataError: no episode, or a number outside 0..E-1.
        """
        chosen = np.asarray(episodes, dtype=np.int64)
        if chosen.ndim != 1 or not len(chosen) or chosen.min() < 0 or chosen.max() >= self.episodes:
            raise DataError(
                f"{self.card.title}: episodes must be a non-empty list of numbers in 0..{self.episodes - 1}"
            )
        rows = np.concatenate([np.arange(self.starts[e], self.ends[e] + 1) for e in chosen])
        arrays: dict[str, Any] = {name: array[rows] for name, array in self.own_arrays.items()}
        if self.state_is_obs:
            arrays["state"] = arrays["obs"].reshape(len(rows), -1)
        subset = replace(self, **arrays, starts=Episodes.from_lengths(self.lengths[chosen]).starts)
        note = f"{len(chosen)} of {self.episodes} episodes of the source"
        return subset.with_card(
            replace(self.card, content_hash="", recipe=None, notes=(*self.card.notes, note))
        )

    def timeouts_as_terminals(self) -> Dataset:
        """This dataset with every time-limit end counted as a terminal one, as OMIGA's authors read it."""
        note = f"{int(self.truncated.sum())} time-limit ends are counted as terminal (timeout_is_terminal)"
        return replace(
            self,
            terminal=self.terminal | self.truncated,
            truncated=np.zeros_like(self.truncated),
            card=replace(self.card, content_hash="", notes=(*self.card.notes, note)),
        )

    @cached_property
    def terminal_at_limit(self) -> Bools:
        """Which episodes ``[E]`` end terminal after exactly as many steps as the time limit allows."""
        found: Bools = (self.lengths == self.spec.horizon) & self.terminal[self.ends - 1]
        return found

    def limits_as_truncations(self) -> Dataset:
        """This dataset with terminal ends at exactly the time limit counted as time limits.

        Recorders that do not tell the two apart flag both (PyMARL's, where an environment gives no
        ``episode_limit``).
        """
        rows = (self.ends - 1)[self.terminal_at_limit]
        terminal = self.terminal.copy()
        truncated = self.truncated.copy()
        terminal[rows] = False
        truncated[rows] = True
        note = (
            f"{len(rows)} terminal ends after exactly {self.spec.horizon} steps are read as time limits "
            "(limit_is_terminal=false)"
        )
        card = replace(self.card, content_hash="", notes=(*self.card.notes, note))
        return replace(self, terminal=terminal, truncated=truncated, card=card)

    # ---- checks ------------------------------------------------------------------------------------------

    def validate(self, *, action_clip: bool = False) -> Dataset:
        """Check everything that can be checked without the environment.

        Continuous actions outside [-1, 1] give a warning with their count and share; with ``action_clip`` the
        returned dataset has them clipped (a copy of the actions), otherwise it is this one.

        Raises:
            DataError: wrong type or shape, lengths that differ, no rows or transitions, episodes out of order
                or longer than the horizon, flags on a wrong row, NaN or infinity (with the first row), numbers in
                action dimensions that an agent does not have, a discrete action out of range or not legal, a mask
                without a legal action.
        """
        validation.check_structure(self.spec, self.arrays, self.spans)
        validation.check_numbers(self.spec, self.own_arrays, self.spans)
        outside = 0 if self.spec.discrete else validation.count_outside_box(self.action)
        if not outside:
            return self
        if action_clip:
            return self._clip(outside, stacklevel=3)
        self._warn_outside(outside, "they are kept as they are", stacklevel=3)
        return self

    def clipped(self) -> Dataset:
        """This dataset with its continuous actions clipped to [-1, 1]; a warning tells how many lay outside."""
        return self._clip(validation.count_outside_box(self.action), stacklevel=3)

    def _clip(self, outside: int, stacklevel: int) -> Dataset:
        self._warn_outside(outside, "they were clipped", stacklevel + 1)
        card = replace(self.card, content_hash="", clipped=self.card.clipped + outside)
        return replace(self, action=np.clip(self.action, -1, 1), card=card)

    def _warn_outside(self, outside: int, done: str, stacklevel: int) -> None:
        share = outside / (self.transitions * self.action[0].size)
        warnings.warn(
            f"{self.card.title}: {outside} action entries ({share:.2%}) lie outside [-1, 1]; {done}",
            stacklevel=stacklevel,
        )
