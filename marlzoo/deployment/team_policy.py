"""A trained team with numpy inputs and outputs, for one environment or many."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from marlzoo.errors import SpecError
from marlzoo.modules.policies import Execution, Policy
from marlzoo.replicas import ReplicaRandom
from marlzoo.spec import Spec


class TeamPolicy:
    """One trained team that acts on numpy arrays.

    Args:
        policy: of one replica.
        spec: shape of the task.
        seed: of the noise of policies that act by sampling.
        method: that trained the team.
        task: that it was trained for; empty where that is not known.
        updates: gradient updates of the training.
        env_options: of the environment that it was trained for.
        device: of the policy.
        dtype: of the policy.
    """

    def __init__(
        self,
        policy: Policy,
        spec: Spec,
        *,
        seed: int = 0,
        method: str = "",
        task: str = "",
        updates: int = 0,
        env_options: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.policy = policy
        self.spec = spec
        self.seed = seed
        self.method = method
        self.task = task
        self.updates = updates
        self.env_options = dict(env_options or {})
        self._device = torch.device(device)
        self._dtype = dtype
        self._noise_seed = seed
        self._team = _Actor(policy, self._random())
        self._agents: dict[int, _Actor] = {}

    @property
    def execution(self) -> Execution:
        """Execution class: decentralized, sequential or centralized; see :class:`marlzoo.Policy`."""
        return self.policy.execution

    @property
    def stochastic(self) -> bool:
        """Whether the team acts by sampling."""
        return self.policy.stochastic

    def __repr__(self) -> str:
        """Method, task and training of the team."""
        about = f"{self.method} on {self.task or 'an unnamed task'}, seed {self.seed}, {self.updates} updates"
        return f"TeamPolicy({about}, {self.execution})"

    def reset(self, ids: ArrayLike | None = None, seed: int | None = None) -> None:
        """Start new episodes.

        Args:
            ids: indices of the environments that are reset, as in the last call of :meth:`act`, or a mask of all
                of them; None: all, whose number may then change.
            seed: restart the noise of a sampled policy from it, so that a run can be repeated; needs ``ids=None``.

        Raises:
            SpecError: an index beyond the environments of the last call, a mask of another number of them, or a seed
                for some of them only.
        """
        if ids is None:
            self._noise_seed = self._noise_seed if seed is None else seed
            if seed is not None:
                self._team.random = self._random()
                self._agents.clear()
            for actor in (self._team, *self._agents.values()):
                actor.reset(None)
            return
        if seed is not None:
            raise SpecError("reset: a seed restarts the noise of all environments; leave out ids")
        chosen = np.asarray(ids).reshape(-1)
        if chosen.size and chosen.dtype.kind not in "iub":
            raise SpecError("reset: ids are neither integers nor a mask of booleans")
        for actor in (self._team, *self._agents.values()):
            actor.reset(chosen)

    def act(
        self, obs: ArrayLike, action_mask: ArrayLike | None = None, agent: int | None = None
    ) -> NDArray[Any]:
        """Choose actions: for the team, or for one agent from its own observation.

        Args:
            obs: ``[N, O]`` or, for E environments, ``[E, N, O]``; with ``agent`` ``[O]`` or ``[E, O]``, where O is
                the agent's own size (or the padded one).
            action_mask: True for legal actions (discrete tasks), ``[N, A]``, ``[E, N, A]``, ``[A]`` or ``[E, A]``;
                None: all are.
            agent: index of the agent that acts alone. Its history is kept apart from the team's.

        Returns:
            Discrete tasks: int64, shaped like ``obs`` without its last axis. Continuous: float32 in [-1, 1] with A in
            the place of O.

        Raises:
            SpecError: wrong shapes, observations that are not finite, no legal action, another number of
                environments without a reset between, or one agent of a policy that is not decentralized.
        """
        values = _numbers("obs", obs)
        if action_mask is not None and not self.spec.discrete:
            raise SpecError(
                "action_mask: the task has continuous actions, all of which are legal; leave it out"
            )
        if agent is None:
            return self._act_team(values, action_mask)
        return self._act_alone(values, action_mask, agent)

    def receive(self, reward: ArrayLike) -> None:
        """Pass the reward of the last step, a number or ``[E]``; only return-conditioned policies use it.

        Raises:
            SpecError: as many rewards as the environments of the last step are expected, all of them finite.
        """
        values = _numbers("reward", reward).reshape(-1)
        if not np.isfinite(values).all():
            raise SpecError("reward: has values that are not finite; the environment is broken")
        for actor in (self._team, *self._agents.values()):
            actor.receive(torch.from_numpy(values).to(self._device, self._dtype))

    def _act_team(self, obs: NDArray[np.float32], action_mask: ArrayLike | None) -> NDArray[Any]:
        spec = self.spec
        single = obs.ndim == 2
        _require_shape("obs", obs, (spec.n_agents, spec.obs_size), (2, 3))
        mask = self._mask(action_mask, (*obs.shape[:-1], spec.action_size))
        action = self._team.act(*self._tensors(obs[None] if single else obs, mask, single))
        return action[0] if single else action

    def _act_alone(self, obs: NDArray[np.float32], action_mask: ArrayLike | None, agent: int) -> NDArray[Any]:
        spec = self.spec
        if self.execution != "decentralized":
            raise SpecError(f"{self.method}: its execution is {self.execution}, so no agent can act alone")
        require_agent(spec, agent)
        own_obs = spec.obs_sizes[agent]
        own_actions = spec.action_sizes[agent]
        size = spec.obs_size if obs.shape[-1:] == (spec.obs_size,) else own_obs
        _require_shape("obs", obs, (size,), (1, 2))
        rows = obs.reshape(-1, size)
        team = np.zeros((len(rows), spec.n_agents, spec.obs_size), np.float32)
        team[:, agent, :size] = rows
        mask = None
        if spec.discrete:
            mask = np.ones((len(rows), spec.n_agents, spec.action_size), np.bool_)
            mask[:, agent] = self._agent_mask(action_mask, obs.shape[:-1], agent).reshape(len(rows), -1)
        if agent not in self._agents:
            self._agents[agent] = _Actor(copy.deepcopy(self.policy), self._random())
        action = self._agents[agent].act(*self._tensors(team, mask, False))[:, agent]
        action = action if spec.discrete else action[:, :own_actions]
        return action[0] if obs.ndim == 1 else action

    def _agent_mask(
        self, action_mask: ArrayLike | None, lead: tuple[int, ...], agent: int
    ) -> NDArray[np.bool_]:
        """One agent's mask padded to ``[*lead, A]``."""
        spec = self.spec
        mask = np.zeros((*lead, spec.action_size), np.bool_)
        own = spec.action_sizes[agent]
        if action_mask is None:
            mask[..., :own] = True
            return mask
        given = _legal_actions(action_mask)
        size = spec.action_size if given.shape[-1:] == (spec.action_size,) else own
        _require_shape("action_mask", given, (*lead, size), (len(lead) + 1,))
        mask[..., :size] = given
        _require_legal(mask)
        return mask

    def _mask(self, action_mask: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
        """The team's mask; where none is given, all actions that an agent has."""
        if not self.spec.discrete:
            return None
        if action_mask is None:
            return np.broadcast_to(self.spec.own_actions, shape).copy()
        mask = _legal_actions(action_mask)
        _require_shape("action_mask", mask, shape, (len(shape),))
        _require_legal(mask)
        return mask

    def _tensors(
        self, obs: NDArray[np.float32], mask: NDArray[np.bool_] | None, single: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Inputs of the policy, ``[1, E, N, ...]``."""
        if not np.isfinite(obs).all():
            raise SpecError("obs: has values that are not finite; the environment is broken")
        mask = mask[None] if mask is not None and single else mask
        return (
            torch.from_numpy(obs).to(self._device, self._dtype).unsqueeze(0),
            None if mask is None else torch.from_numpy(mask).to(self._device).unsqueeze(0),
        )

    def _random(self) -> ReplicaRandom | None:
        if not self.policy.stochastic:
            return None
        return ReplicaRandom([self._noise_seed], "deployment", self._device, self._dtype)


class _Actor:
    """A policy, its noise, and the number of environments whose past it has seen."""

    def __init__(self, policy: Policy, random: ReplicaRandom | None) -> None:
        self._policy = policy
        self.random = random
        self._num_envs: int | None = None

    def reset(self, ids: NDArray[Any] | None) -> None:
        if ids is None:
            self._num_envs = None
            self._policy.reset(1)
        elif self._num_envs is not None:
            if ids.dtype == np.bool_:
                if len(ids) != self._num_envs:
                    raise SpecError(f"reset: the mask is of {len(ids)} environments, not of {self._num_envs}")
                ids = np.flatnonzero(ids)
            ids = ids.astype(np.int64)
            if len(ids) and not (ids.min() >= 0 and ids.max() < self._num_envs):
                raise SpecError(
                    f"reset: ids {ids.tolist()} are not all among the {self._num_envs} environments"
                )
            self._policy.reset(self._num_envs, torch.from_numpy(ids))

    def receive(self, reward: torch.Tensor) -> None:
        if self._num_envs is None:
            return  # it has not acted yet
        if len(reward) != self._num_envs:
            raise SpecError(f"receive: {len(reward)} rewards for {self._num_envs} environments")
        self._policy.receive(reward.unsqueeze(0))

    @torch.no_grad()
    def act(self, obs: torch.Tensor, action_mask: torch.Tensor | None) -> NDArray[Any]:
        num_envs = obs.shape[1]
        if self._num_envs is None:
            self._policy.reset(num_envs)
        elif num_envs != self._num_envs:
            raise SpecError(
                f"obs: {num_envs} environments, but {self._num_envs} in the call before; call reset() between"
            )
        self._num_envs = num_envs
        found: NDArray[Any] = self._policy.act(obs, action_mask, self.random)[0].cpu().numpy()
        return found if found.dtype == np.int64 else found.astype(np.float32)


def require_agent(spec: Spec, agent: Any) -> None:
    """Refuse what is no agent's index.

    Raises:
        SpecError: with those that there are.
    """
    whole = isinstance(agent, int | np.integer) and not isinstance(agent, bool)
    if not whole or not 0 <= agent < spec.n_agents:
        raise SpecError(f"agent {agent!r}: the team has agents 0 to {spec.n_agents - 1}")


def _numbers(name: str, given: ArrayLike) -> NDArray[np.float32]:
    """A copy: PyTorch takes no reversed views, and warns of those that cannot be written to."""
    try:
        return np.array(given, dtype=np.float32, order="C")
    except (TypeError, ValueError) as error:
        raise SpecError(f"{name}: not an array of numbers ({error})") from error


def _legal_actions(given: ArrayLike) -> NDArray[np.bool_]:
    """A mask; copied as :func:`_numbers` does."""
    try:
        return np.array(given, dtype=np.bool_, order="C")
    except (TypeError, ValueError) as error:
        raise SpecError(f"action_mask: not an array of booleans ({error})") from error


def _require_shape(name: str, array: NDArray[Any], tail: tuple[int, ...], ndims: tuple[int, ...]) -> None:
    """Refuse an array whose last axes are not ``tail`` or whose number of axes is none of ``ndims``."""
    if array.ndim in ndims and array.shape[-len(tail) :] == tail and array.size:
        return
    forms = [f"[{', '.join(['E'] * (n - len(tail)) + [str(size) for size in tail])}]" for n in ndims]
    raise SpecError(f"{name}: has shape {list(array.shape)}, expected {' or '.join(forms)}")


def _require_legal(mask: NDArray[np.bool_]) -> None:
    if not mask.any(-1).all():
        place = np.argwhere(~mask.any(-1))[0].tolist()
        raise SpecError(f"action_mask: no action is legal at index {place}; every agent needs one")
