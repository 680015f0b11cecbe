"""A task's shape: how many agents, what they see, what they do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from marlzoo.errors import SpecError

ActionKind = Literal["continuous", "discrete"]


class ArrayLayout(NamedTuple):
    """One array of a task's data.

    Args:
        shape: of one row.
        dtype: type of the numbers.
        blank: what stands where nothing is recorded.
    """

    shape: tuple[int, ...]
    dtype: type[np.generic]
    blank: int = 0

    def new(self, *rows: int) -> NDArray[Any]:
        """A blank array ``[*rows, *shape]``."""
        return np.full((*rows, *self.shape), self.blank, self.dtype)


@dataclass(frozen=True)
class Spec:
    """Shape of a task, shared by datasets, environments and methods.

    Agents may differ in size: ``obs_size`` and ``action_size`` are the largest agent's (arrays are padded
    with zeros to it), ``obs_sizes`` and ``action_sizes`` the true ones.

    Args:
        n_agents: number of agents N.
        obs_size: entries O of one agent's (padded) observation.
        state_size: entries S of the global state that centralized parts see in training.
        action_kind: ``continuous`` (box [-1, 1]^A) or ``discrete`` (A actions, with legal-action masks).
        action_size: dimensions (continuous) or number of actions (discrete) A of the largest agent.
        horizon: time limit of an episode, in steps.
        obs_sizes: true observation size per agent; default: all ``obs_size``.
        action_sizes: true action size per agent; default: all ``action_size``.
        reward_per_agent: whether rewards are ``[.., N]`` rather than one team reward.
        task: full name of the task, by which methods find their preset; empty when unknown. It is no part of the
            shape: specs that differ only here are equal.
    """

    n_agents: int
    obs_size: int
    state_size: int
    action_kind: ActionKind
    action_size: int
    horizon: int
    obs_sizes: tuple[int, ...] = ()
    action_sizes: tuple[int, ...] = ()
    reward_per_agent: bool = False
    task: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        for name in ("n_agents", "obs_size", "state_size", "action_size", "horizon"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise SpecError(f"spec: {name} must be a positive integer, got {value!r}")
        if self.action_kind not in ("continuous", "discrete"):
            raise SpecError(f"spec: action_kind must be continuous or discrete, got {self.action_kind!r}")
        for name, largest in (("obs_sizes", self.obs_size), ("action_sizes", self.action_size)):
            sizes = tuple(int(size) for size in getattr(self, name)) or (largest,) * self.n_agents
            object.__setattr__(self, name, sizes)
            if len(sizes) != self.n_agents or max(sizes) != largest or min(sizes) < 1:
                raise SpecError(
                    f"spec: {name} {sizes} must list {self.n_agents} positive sizes, the largest {largest}"
                )

    @property
    def discrete(self) -> bool:
        """Whether actions are indices."""
        return self.action_kind == "discrete"

    @property
    def own_actions(self) -> NDArray[np.bool_]:
        """Which entries or actions each agent has of its own, ``[N, A]``; the others only fill the arrays up."""
        return np.arange(self.action_size) < np.asarray(self.action_sizes)[:, None]

    def layout(self) -> dict[str, ArrayLayout]:
        """The arrays of the task's data, by name; ``action_mask`` where actions are discrete."""
        actions = () if self.discrete else (self.action_size,)
        arrays = {
            "obs": ArrayLayout((self.n_agents, self.obs_size), np.float32),
            "state": ArrayLayout((self.state_size,), np.float32),
            "action": ArrayLayout((self.n_agents, *actions), np.int64 if self.discrete else np.float32),
            "reward": ArrayLayout((self.n_agents,) if self.reward_per_agent else (), np.float32),
            "terminal": ArrayLayout((), np.bool_),
            "truncated": ArrayLayout((), np.bool_),
        }
        if self.discrete:
            arrays["action_mask"] = ArrayLayout((self.n_agents, self.action_size), np.bool_, blank=1)
        return arrays

    def to_dict(self) -> dict[str, Any]:
        """Plain values of the shape, for JSON."""
        return {name: value for name, value in asdict(self).items() if name != "task"}

    @classmethod
    def from_env(cls, env: Any, horizon: int | None = None) -> Spec:
        """The shape of an environment.

        Args:
            env: one of marlzoo's batched environments, or an object with PettingZoo's parallel API.
            horizon: time limit in steps, which the parallel API does not state; needed for its objects only.

        Raises:
            SpecError: a space that is not covered, or no time limit.
        """
        known = getattr(env, "spec", None)
        if isinstance(known, cls):
            return known
        if horizon is None:
            raise SpecError(f"{type(env).__name__} states no time limit; give horizon, in steps")
        if not READERS:
            raise SpecError(
                f"{type(env).__name__}: nothing that is loaded reads such environments; call marlzoo.Spec.from_env, "
                "or import marlzoo.envs.pettingzoo first"
            )
        return READERS[0](env, horizon)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Spec:
        """Inverse of :meth:`to_dict`."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def differences(self, other: Spec) -> list[str]:
        """Fields in which two specs differ, as ``name: mine != theirs`` (empty when they fit)."""
        mine = self.to_dict()
        theirs = other.to_dict()
        return [f"{k}: {mine[k]} != {theirs[k]}" for k in mine if mine[k] != theirs[k]]


# Specs of environments that are not marlzoo's own, given a time limit. Environments stand above specs, so the module
# that knows foreign ones registers here what reads them; marlzoo.Spec loads it.
READERS: list[Callable[[Any, int], Spec]] = []
